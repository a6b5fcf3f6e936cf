"""Transactions and inherents on their way into the pool and out to the peers.

    in   from RPC one by one, from gossip in batches: cheap checks, signatures on the verify threads, then the pool
    out  what came by RPC here is gossiped in batches, every FLUSH_MS; what was not included is offered again later

A gossiped batch travels on only if something in it was new and valid here. If it holds more that was refused than that,
only what is good travels on, in a batch of ours: so junk costs its sender's neighbours, and nobody behind them. A batch
that can never be valid (malformed, or signed wrongly) counts against its sender. A full verify queue drops transactions,
never votes.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from ledger.blocks import INHERENT_SHAPE, MAX_EXTRINSIC_BYTES
from ledger.codec import Bytes, ListOf, Record, decode, encode
from ledger.crypto import ZERO_HASH, KeyPair
from ledger.errors import DecodeError, NotReady, Rejected
from ledger.inherents import EVIDENCE, HEARTBEAT, Heartbeat
from ledger.machine import BlockContext
from ledger.pool import Candidate, read_dump
from ledger.verdict import verify_one_by_one
from ledger.votes import Evidence
from p2p.network import Network
from runtime.versions import rules_of

from . import timelock
from .shell import Shell
from .threads import Lane

TOPIC: Final = "tx"
FLUSH_MS: Final = 100
MAX_BATCH_BYTES: Final = 200 * 1024
MAX_BATCH_ITEMS: Final = 256
MAX_BATCH_INHERENTS: Final = 16
MAX_OUTGOING: Final = 4096
OFFER_AGAIN_BLOCKS: Final = 8
MAX_OWN: Final = 1024  # submitted here and not included yet

_BATCH = Record(
    "transactions", extrinsics=ListOf(Bytes(high=MAX_EXTRINSIC_BYTES), MAX_BATCH_ITEMS),
    inherents=ListOf(INHERENT_SHAPE, MAX_BATCH_INHERENTS),
)


def encode_batch(extrinsics: list[bytes], inherents: list[tuple[int, bytes]]) -> bytes:
    return encode([extrinsics, [[kind, payload] for kind, payload in inherents]])


def decode_batch(data: bytes) -> tuple[list[bytes], list[tuple[int, bytes]]]:
    """Raises DecodeError."""
    value = decode(data, max_bytes=256 * 1024, where="transactions")
    _BATCH.check(value)
    return value[0], [(kind, payload) for kind, payload in value[1]]


class Relay:
    """One node's way in and out for transactions. All methods run on the event loop."""

    def __init__(self, shell: Shell, session_key: KeyPair | None) -> None:
        self._shell, self._pool, self._chain = shell, shell.pool, shell.chain
        self._key = session_key
        self._network: Network | None = None
        self._outgoing: list[bytes] = []
        self._inherents: list[tuple[int, bytes]] = []
        self._own: dict[bytes, bytes] = {}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._blocks = 0
        self.counters = shell.counters

    def start(self, network: Network) -> None:
        self._network = network
        self._arm()

    def stop(self) -> None:
        if self._flush_timer is not None:
            self._flush_timer.cancel()

    # --- in ----------------------------------------------------------------------------------------------------------

    async def submit(self, raw: bytes) -> bytes:
        """Take in an extrinsic from RPC; returns its id. Raises DecodeError, Rejected or NotReady."""
        if self._shell.stopping:
            raise NotReady("the node is stopping")
        try:
            candidate = self._pool.admit(raw)
            (valid,) = await self._verify([candidate])
            if not valid:
                raise Rejected("BadSignature", "the extrinsic is not signed by its signer for this chain")
            extrinsic_id = self._pool.insert(candidate)
        except Rejected as error:
            self.counters.reject(error.error_name)
            raise
        self.counters.submitted += 1
        self._remember(extrinsic_id, raw)
        self._offer([raw])
        self._shell.work()
        return extrinsic_id

    async def gossiped(self, peer: str, data: bytes) -> bool:
        """A batch from a peer. True: forward it; False: it can never be valid. Raises NotReady for "neither"."""
        try:
            raws, inherents = decode_batch(data)
        except DecodeError:
            return False
        candidates, refusals = self._admit(raws)
        if any(refusal.error_name == "Malformed" for refusal in refusals):
            return False
        if not all(await self._verify(candidates)):
            return False
        good = [candidate.raw for candidate in candidates if self._insert(candidate)]
        new = len(good)
        for kind, payload in inherents:
            try:
                new += await self._take_inherent(kind, payload)
            except DecodeError:
                return False
        if not new:
            raise NotReady("nothing in it was new")
        self.counters.gossiped += new
        self._shell.work()
        if sum(refusal.error_name != "AlreadyKnown" for refusal in refusals) > new:
            self._offer(good)
            raise NotReady("most of it was refused")
        return True

    async def restore(self, data: bytes) -> int:
        """Take in again what a pool's dump holds, through every check; returns how many entered.

        They count as submitted here: others may have forgotten them. A damaged dump is reported and does no harm.
        """
        raws, problem = read_dump(data) if data else ([], "")
        if problem:
            self._shell.listener.log("warning", "kept transactions damaged", {"problem": problem, "readable": len(raws)})
        entered = 0
        for start in range(0, len(raws), MAX_BATCH_ITEMS):
            candidates, _ = self._admit(raws[start : start + MAX_BATCH_ITEMS])
            for candidate, valid in zip(candidates, await self._verify(candidates), strict=True):
                if valid and self._insert(candidate):
                    entered += 1
                    self._remember(candidate.extrinsic.id, candidate.raw)
        return entered

    def _remember(self, extrinsic_id: bytes, raw: bytes) -> None:
        if len(self._own) < MAX_OWN:
            self._own[extrinsic_id] = raw

    def _admit(self, raws: list[bytes]) -> tuple[list[Candidate], list[Rejected]]:
        """Those worth a signature check, and the refusals of the others."""
        candidates, refusals = self._pool.admit_all(raws)
        for refusal in refusals:
            self.counters.reject(refusal.error_name)
        return candidates, refusals

    async def _verify(self, candidates: list[Candidate]) -> list[bool]:
        if not candidates:
            return []
        tasks = [candidate.signature for candidate in candidates]
        return await self._shell.threads.verify.call(verify_one_by_one, tasks, lane=Lane.TRANSACTIONS)

    def _insert(self, candidate: Candidate) -> bool:
        try:
            self._pool.insert(candidate)
        except Rejected as error:
            self.counters.reject(error.error_name)
            return False
        return True

    async def _take_inherent(self, kind: int, payload: bytes) -> bool:
        """Remember an inherent candidate whose signatures hold and that the next block could carry.

        Anybody can sign two things with a key of its own: without the rules' word such evidence would fill the pool.
        """
        valid: bool
        if kind in timelock.KINDS:
            author = timelock.judge(self._chain.view(), self._chain.params.genesis_hash, kind, payload)
            room = len(self._pool.inherents()) < timelock.MAX_REMEMBERED
            return author is not None and room and self._pool.add_inherent(kind, payload, author)
        if kind == HEARTBEAT:
            beat = Heartbeat.decode(payload)
            key = beat.key
            view = self._chain.view()
            if not rules_of(view).module("modules.heartbeats").may_beat(view, key):
                return False
            valid = await self._check(beat.verify, self._chain.domain_at(self._chain.head.height + 1))
        elif kind == EVIDENCE:
            evidence = Evidence.decode(payload)
            key = evidence.key
            valid = await self._check(evidence.verify, self._chain.domain_at(evidence.height))
        else:
            raise DecodeError(f"unknown kind {kind}", where="inherent")
        return valid and self._may_carry(kind, payload) and self._pool.add_inherent(kind, payload, key)

    def _may_carry(self, kind: int, payload: bytes) -> bool:
        """True iff the rules would let the next block carry it."""
        chain, height = self._chain, self._chain.head.height + 1
        context = BlockContext(
            height, chain.params.session(height), 0, chain.head.hash, ZERO_HASH, 0, (), (), ZERO_HASH
        )
        return bool(chain.machine.block_inherents(chain.view(), context, [(kind, payload)]))

    async def _check(self, verify: Any, domain: bytes) -> bool:
        return bool(await self._shell.threads.verify.call(verify, domain, lane=Lane.TRANSACTIONS))

    # --- out ---------------------------------------------------------------------------------------------------------

    def committed(self, included: list[bytes], height: int) -> None:
        """After a block: forget what it holds; now and then offer again what waits, and say that we are alive."""
        for extrinsic_id in included:
            self._own.pop(extrinsic_id, None)
        self._blocks += 1
        if self._blocks % OFFER_AGAIN_BLOCKS == 0:
            self._own = {key: raw for key, raw in self._own.items() if key in self._pool}
            self._offer(list(self._own.values()))

    def offer_inherent(self, kind: int, payload: bytes, author: bytes = b"") -> None:
        """Put an inherent of our own into the pool and send it to the others. `author`: see `Pool.add_inherent`."""
        author = author or (b"" if self._key is None else self._key.public)
        if self._pool.add_inherent(kind, payload, author) and len(self._inherents) < MAX_BATCH_INHERENTS:
            self._inherents.append((kind, payload))
            self._arm()

    def _offer(self, raws: list[bytes]) -> None:
        self._outgoing.extend(raws[: MAX_OUTGOING - len(self._outgoing)])
        self._arm()

    def _arm(self) -> None:
        if self._network is not None and self._flush_timer is None and (self._outgoing or self._inherents):
            self._flush_timer = asyncio.get_running_loop().call_later(FLUSH_MS / 1000, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        if self._network is None or self._shell.stopping:
            return
        batch: list[bytes] = []
        size = 0
        for raw in self._outgoing[:MAX_BATCH_ITEMS]:
            if batch and size + len(raw) > MAX_BATCH_BYTES:
                break
            batch.append(raw)
            size += len(raw) + 5
        del self._outgoing[: len(batch)]
        inherents, self._inherents = self._inherents, []
        if batch or inherents:
            self._shell.spawn(self._network.publish(TOPIC, encode_batch(batch, inherents)))
        self._arm()
