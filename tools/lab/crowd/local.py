"""A chain of one process: the executor's own blocks over a state in memory, with an account of the money kept beside it.

No consensus, no network, no signatures of extrinsics: blocks come from `Runtime.apply_block`, as on a node, and their changes
are written here. After each block three things that the executor does not share with this file have to agree:

    issuance   the sum of all `Minted` events less all `Recycled` ones is what the issuance row moved by
    holdings   the sum over all money rows, followed byte by byte through the changes, is the issuance
    pots       what was in the pots and what came in was paid, recycled or is still there: no remainder is lost
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from genesis.build import Genesis
from ledger.blocks import Extrinsic
from ledger.codec import unpack_u64
from ledger.crypto import KeyPair
from ledger.inherents import HEARTBEAT, TIMELOCK_KEY, TIMELOCK_SECRET, Heartbeat
from ledger.machine import BlockContext, BlockResult
from ledger.store import MemoryStore
from ledger.timelock import Announcement, Release, public_of, secret_of
from runtime import chain, emission, hooks
from runtime.executor import Runtime
from runtime.modules import accounts, timelock
from runtime.registry import EVENTS
from runtime.state import State

# Why money left the pots without being paid.
POT_REASONS = (
    "owner's miners", "unpaid fraction", "pots of a dissolved subnet",
    *(f"{role} pot without receiver" for role in emission.ROLES),
)


class Wrong(Exception):
    """The books do not agree."""


class LocalChain:
    """The head of a chain. `state` reads it; `add_block` extends it. Nothing is kept of older blocks."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis, self.store = genesis, MemoryStore()
        self.store.write(genesis.state, sync=False)
        self.runtime = Runtime(genesis.genesis_hash)
        self.height = genesis.params.initial_height - 1
        self.head_hash = genesis.genesis_hash
        self.info = chain.info(State(self.store))
        self.state = State(self.store)
        self.minted_rao = self.recycled_rao = self.paid_rao = self.carried_rao = self.payouts = 0
        self._held = {held.table.prefix: held for held in hooks.HOLDINGS.values()}
        self._money = {key: self._rao(key, value) for key, value in genesis.state.items() if key[:2] in self._held}
        self.holdings_rao = sum(self._money.values())
        self.issued_rao, self.pots_rao = accounts.issuance(self.state), _in_pots(self.state)
        self._require(self.holdings_rao == self.issued_rao, "the genesis holds another sum than it issued")

    def block_context(self, proposer: bytes, missed: Sequence[bytes], signers: Sequence[bytes]) -> BlockContext:
        """What the next block is executed with."""
        height = self.height + 1
        beacon = blake2b(height.to_bytes(8, "big") + self.head_hash, digest_size=32).digest()
        return BlockContext(
            height, self.info.session(height), height * self.info.block_time_ms, self.head_hash, proposer, len(missed),
            tuple(missed), tuple(signers), beacon,
        )

    def add_block(
        self, block: BlockContext, candidates: Sequence[tuple[int, bytes]], extrinsics: Sequence[Extrinsic]
    ) -> tuple[BlockResult, dict[int, str]]:
        """Execute and write a block; returns its result and why extrinsics were left out, by index. Raises Wrong."""
        inherents = self.runtime.block_inherents(self.store, block, candidates) if candidates else []
        left_out: dict[int, str] = {}
        result = self.runtime.apply_block(self.store, block, inherents, extrinsics, left_out)
        self.store.write(result.changes, sync=False)
        self.height, self.state = block.height, State(self.store)
        changed = b"".join(key + (value or b"") for key, value in result.changes.items())
        self.head_hash = blake2b(block.parent_hash + changed, digest_size=32).digest()
        self._follow_money(result.changes)
        self._check_issuance(result)
        self._check_payouts(result)
        return result, left_out

    def said(self, pair: KeyPair, versions: tuple[int, ...]) -> list[tuple[int, bytes]]:
        """What an authority, or a candidate, has to say in the next block: a sign of life, keys and secrets of timelocks."""
        height, domain, out = self.height + 1, self.genesis.genesis_hash, []
        if self.runtime.heartbeat_is_due(self.store, pair.public, height, versions):
            beat = Heartbeat.sign(pair, domain, self.info.session(height), self.head_hash, "1", versions)
            out.append((HEARTBEAT, beat.encode()))
        for netuid, epoch in timelock.keys_to_announce(self.state, pair.public):
            out.append((TIMELOCK_KEY, Announcement.sign(pair, domain, netuid, epoch).encode()))
        for netuid, epoch, position, public in timelock.secrets_to_release(self.state, height):
            secret = secret_of(pair.seed, domain, netuid, epoch)
            if public_of(secret) == public:
                out.append((TIMELOCK_SECRET, Release(netuid, epoch, position, secret).encode()))
        return out

    # --- the books ----------------------------------------------------------------------------------------------------

    def _rao(self, key: bytes, value: bytes) -> int:
        held = self._held[key[:2]]
        return held.amount_rao(held.table.decode(value))

    def _follow_money(self, changes: Mapping[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if key[:2] in self._held:
                self.holdings_rao -= self._money.pop(key, 0)
                if value is not None:
                    amount = self._money[key] = self._rao(key, value)
                    self.holdings_rao += amount
        issued = accounts.issuance(self.state)
        self._require(self.holdings_rao == issued, f"the rows hold {self.holdings_rao} rao, issued are {issued}")

    def _check_issuance(self, result: BlockResult) -> None:
        minted = sum(amount for _, amount in named(result, "Minted"))
        recycled = sum(amount for _, amount in named(result, "Recycled"))
        issued = accounts.issuance(self.state)
        moved, self.issued_rao = issued - self.issued_rao, issued
        self._require(moved == minted - recycled, f"the issuance moved by {moved}, minted {minted}, recycled {recycled}")
        self.minted_rao += minted
        self.recycled_rao += recycled

    def _check_payouts(self, result: BlockResult) -> None:
        """What was in the pots and came in was paid, recycled or is still there, to the last unit."""
        minted = sum(amount for sink, amount in named(result, "Minted") if sink == "pot")
        recycled = sum(amount for reason, amount in named(result, "Recycled") if reason in POT_REASONS)
        paid = 0
        for _, owner, servers, validators, root in named(result, "EmissionPaid"):
            paid += owner + sum(unpack_u64(servers)) + sum(unpack_u64(validators)) + sum(unpack_u64(root))
            self.payouts += 1
        was, left = self.pots_rao, _in_pots(self.state)
        self.pots_rao = left
        self._require(
            was + minted == left + paid + recycled,
            f"the pots held {was} rao, {minted} came in, {paid} were paid, {recycled} recycled, {left} are left",
        )
        self.paid_rao += paid
        self.carried_rao += sum(amount for _, _, amount in named(result, "PotCarried"))

    def _require(self, holds: bool, what: str) -> None:
        if not holds:
            raise Wrong(f"block {self.height}: {what}")


def named(result: BlockResult, name: str) -> Iterator[list[Any]]:
    """Fields of the block's events of a kind."""
    return (event[1:] for event in result.events if EVENTS[event[0]].name == name)


def _in_pots(state: State) -> int:
    return sum(sum(row.amounts_rao) for _, row in emission.POTS.items(state))
