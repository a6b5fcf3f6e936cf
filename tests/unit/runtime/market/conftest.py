"""A small chain without consensus: blocks are contexts over a dict, calls are made directly, every block is audited."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any

import pytest

from ledger.crypto import KeyPair
from ledger.errors import Rejected
from ledger.machine import BlockContext
from runtime import chain, dispatch, emission, epochs, hooks, invariants, params
from runtime.modules import accounts, authorities, neurons, registration, stake, subnets, timelock
from runtime.registry import CALL_NUMBERS, CALLS, EVENTS, Context, Origin
from runtime.state import State

Q = 10**9
GENESIS = b"\x07" * 32
NOBODY = bytes(32)


def key(name: str) -> bytes:
    """A valid public key that belongs to a name."""
    return KeyPair.from_seed(blake2b(name.encode(), digest_size=32).digest()).public


class DictView:
    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for row in sorted(row for row in self.rows if row.startswith(prefix) and row > after):
            yield row, self.rows[row]


class World:
    """One chain. `context` is the open block; `next_block` audits it, commits it and opens the next one."""

    Q, genesis_hash, key = Q, GENESIS, staticmethod(key)

    def __init__(self, *, audit: bool = True) -> None:
        self.view, self.audit = DictView(), audit
        self.history: dict[bytes, bytes] = {}
        self.events: list[list[Any]] = []  # of the last committed block
        self.context = self._open(0)
        chain.INFO.put(self.state, value=chain.ChainInfo("test", 1, 1000, 100, 10**6, 10**6, "interval", True, True))
        authorities.genesis_authorities(self.context, [(key("session"), key("authority"))])

    @property
    def state(self) -> State:
        return self.context.state

    @property
    def height(self) -> int:
        return self.context.height

    def _open(self, height: int) -> Context:
        beacon = blake2b(height.to_bytes(8, "big"), digest_size=32).digest()
        block = BlockContext(height, 0, height * 1000, NOBODY, NOBODY, 0, (), (), beacon)
        return Context(State(self.view), block, GENESIS)

    def next_block(self, count: int = 1, inherents: Iterable[tuple[int, bytes]] = ()) -> None:
        """`inherents` go into the first of these blocks; raises Rejected where one is invalid."""
        for number in range(count):
            self.commit()
            self.context = self._open(self.height + 1)
            for kind, payload in () if number else inherents:
                hooks.INHERENTS[kind].function(self.context, payload)
            registration.settle_registrations(self.context)
            emission.mint_emission(self.context)
            timelock.open_due(self.context)
            emission.run_due_epochs(self.context)

    def commit(self) -> None:
        """Check and write what the open block changed."""
        changes = self.state.changes()
        invariants.require(invariants.check_conservation(self.context, changes), self.height)
        if self.audit:
            invariants.require(invariants.audit(self.state), self.height)
        for row, value in changes.items():
            if value is None:
                del self.view.rows[row]
            else:
                self.view.rows[row] = value
        self.history.update(self.context.history)
        self.events = self.context.events

    def call(self, name: str, signer: bytes, *args: Any) -> None:
        """Run a call as the dispatcher would; raises Rejected after undoing it."""
        entry, values = dispatch.find(CALL_NUMBERS[name], list(args))
        self.context.signer, self.context.origin = signer, Origin.SIGNED
        refusal = dispatch.attempt(self.context, entry, values)
        if refusal is not None:
            raise refusal

    def refused(self, name: str, signer: bytes, *args: Any) -> str:
        """The error with which a call is refused; "" if it is not."""
        try:
            self.call(name, signer, *args)
        except Rejected as refusal:
            return refusal.error_name
        return ""

    def is_free(self, name: str, signer: bytes, *args: Any) -> bool:
        entry = CALLS[CALL_NUMBERS[name]]
        assert entry.free is not None
        self.context.signer = signer
        return entry.free(self.context, *args)

    def precheck(self, name: str, signer: bytes, *args: Any) -> str:
        """What the pool's check says about a call in the coming block."""
        entry = CALLS[CALL_NUMBERS[name]]
        assert entry.precheck is not None
        block = self.context.block
        coming = BlockContext(block.height + 1, 0, 0, NOBODY, NOBODY, 0, (), (), NOBODY)
        context = Context(self.state, coming, GENESIS, signer)
        try:
            entry.precheck(context, *args)
        except Rejected as refusal:
            return refusal.error_name
        return ""

    def named(self, name: str) -> list[list[Any]]:
        """Fields of the open block's events of a kind."""
        return [event[1:] for event in self.context.events if EVENTS[event[0]].name == name]

    # --- set-up, in the open block

    def fund(self, who: bytes, amount_rao: int) -> None:
        accounts.mint(self.context, amount_rao, "genesis")
        accounts.credit(self.context, who, amount_rao, "genesis")

    def set(self, name: str, value: int | bool, netuid: int | None = None) -> None:
        params.put(self.context, name, value, netuid)

    def free(self, who: bytes) -> int:
        return accounts.balance(self.state, who)

    def reserved(self, who: bytes) -> int:
        return accounts.account(self.state, who).reserved_rao

    def uid(self, netuid: int, hotkey: bytes) -> int:
        return neurons.require_uid(self.state, netuid, hotkey)

    def epoch(self, netuid: int) -> int:
        return subnets.tempo(self.state, netuid).epoch_index

    def to_next_epoch(self, netuid: int) -> None:
        """Blocks until the subnet's running epoch has been closed."""
        index = self.epoch(netuid)
        while self.epoch(netuid) == index:
            self.next_block()

    def row(self, netuid: int, index: int) -> epochs.EpochRow:
        """The history row of an epoch that has been committed or is in the open block."""
        where = epochs.history_key(netuid, index)
        return epochs.decode_row({**self.history, **self.context.history}[where])


SUBNET = {
    "tempo": 10, "immunity_period": 30, "weights_set_rate_limit": 1, "max_regs_per_block": 2, "unbond_blocks": 0,
    "stake_ema_blocks": 20, "min_burn_rao": Q // 100,
}


def build_empty() -> World:
    """Root and one started subnet without neurons; emission is off."""
    world = World()
    world.set("initial_block_emission", 0)
    world.set("root_share_blocks", 20)
    subnets.genesis_create(world.context, 0, "root", NOBODY, NOBODY, {**SUBNET, "max_regs_per_block": 8})
    subnets.genesis_create(world.context, 1, "prose", key("owner"), key("owner hot"), SUBNET, price_rao=Q)
    return world


def build_market() -> World:
    """Two validators (uids 0, 1) with a root seat and stake 600 : 400 Q, and three miners (2, 3, 4); 1 Q a block."""
    world = build_empty()
    world.set("initial_block_emission", Q)
    for index, amount in enumerate((600 * Q, 400 * Q)):
        hot, cold = key(f"validator {index} hot"), key(f"validator {index}")
        neurons.genesis_register(world.context, 1, hot, cold, permit=True)
        neurons.genesis_register(world.context, 0, hot, cold)
        stake.genesis_stake(world.context, hot, 1, cold, amount)
        stake.genesis_stake(world.context, hot, 0, cold, amount // 10)
        world.fund(cold, 1000 * Q)
    for index in range(3):
        neurons.genesis_register(world.context, 1, key(f"miner {index} hot"), key(f"miner {index}"))
        world.fund(key(f"miner {index}"), 1000 * Q)
    return world


@pytest.fixture
def empty() -> World:
    return build_empty()


@pytest.fixture
def market() -> World:
    return build_market()


@pytest.fixture(scope="session")
def make_empty() -> Callable[[], World]:
    """For properties: a fresh world for each example."""
    return build_empty


@pytest.fixture(scope="session")
def make_market() -> Callable[[], World]:
    return build_market
