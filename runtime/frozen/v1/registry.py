"""Calls, events, errors and origins: each declared once, where its rule is written.

The `@call` registry feeds the dispatcher, the pool's checks, the RPC metadata, the docs and the fuzzers. Numbers are never
reused. A call function takes the `Context` and its decoded positional arguments; it raises `Rejected` (through `refuse`)
to fail, in which case all its writes are undone and only the fee is kept.

Rules: BLK-12 one registry
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NoReturn

from ledger.blocks import Event
from ledger.codec import Record, Shape
from ledger.errors import Rejected
from ledger.machine import BlockContext

from .state import State


class Priority(IntEnum):
    """Order of classes in the pool and in a block; higher first."""

    NORMAL = 1
    WEIGHTS = 2
    OPERATIONAL = 3


class Origin(IntEnum):
    """Who calls. ROOT comes from sudo or from an enacted proposal."""

    SIGNED = 1
    ROOT = 2


@dataclass
class Context:
    """What a call or a block hook works with."""

    state: State
    block: BlockContext
    genesis_hash: bytes
    signer: bytes = bytes(32)
    origin: Origin = Origin.SIGNED
    events: list[Event] = field(default_factory=list)
    history: dict[bytes, bytes] = field(default_factory=dict)  # packed rows outside the state root
    minted_rao: int = 0
    recycled_rao: int = 0
    flows: list[tuple[str, int]] = field(default_factory=list)  # (holding, rao in or out) as declared to `accounts`
    domain_at: Callable[[int], bytes] | None = None  # signing domain of a height; the genesis hash if None
    lives: dict[tuple[int, int], None] = field(default_factory=dict)  # (birth height, period) good for this block

    @property
    def height(self) -> int:
        return self.block.height

    def domain(self, height: int) -> bytes:
        """Signing domain of authorities' messages of that height."""
        return self.genesis_hash if self.domain_at is None else self.domain_at(height)

    def mark(self) -> tuple[int, int, int, int, int]:
        """A point to which `revert` can return. History rows are written by hooks only, never by calls."""
        return self.state.mark(), len(self.events), len(self.flows), self.minted_rao, self.recycled_rao

    def revert(self, mark: tuple[int, int, int, int, int]) -> None:
        """Undo everything since `mark`: writes, events, and the sums of minted and recycled money."""
        writes, events, flows, self.minted_rao, self.recycled_rao = mark
        self.state.revert(writes)
        del self.events[events:]
        del self.flows[flows:]

    def require_root(self) -> None:
        if self.origin is not Origin.ROOT:
            refuse("RequireSudo")


CallFunction = Callable[..., None]
Precheck = Callable[..., None]


@dataclass(frozen=True)
class Call:
    """One entry of the registry. `work` is in work units (about 10 us each in this interpreter).

    `free(context, *args) -> bool` says whether this use costs no fee (within its rate limit). `precheck` is the cheap
    part of the call's own checks; the pool runs it on the head state, the dispatcher runs the whole call.
    """

    number: int
    name: str  # "module.function"
    schema: Record
    function: CallFunction
    work: int
    priority: Priority
    origin: str  # "signed" or "root": what the docs and metadata say
    free: Callable[..., bool] | None
    precheck: Precheck | None
    about: str


CALLS: dict[int, Call] = {}
CALL_NUMBERS: dict[str, int] = {}


def call(
    number: int, name: str, args: Mapping[str, Shape], *, work: int = 10, priority: Priority = Priority.NORMAL,
    origin: str = "signed", free: Callable[..., bool] | None = None, precheck: Precheck | None = None,
) -> Callable[[CallFunction], CallFunction]:
    """Declare a call. `args` names the positional arguments and their shapes, in order."""

    def declare(function: CallFunction) -> CallFunction:
        assert number not in CALLS and name not in CALL_NUMBERS, f"call {number} {name} declared twice"
        about = (function.__doc__ or "").strip().splitlines()[0]
        CALLS[number] = Call(number, name, Record(name, **args), function, work, priority, origin, free, precheck, about)
        CALL_NUMBERS[name] = number
        return function

    return declare


# --- events ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EventKind:
    """A kind of event; calling it makes the event's array `[number, fields...]`."""

    number: int
    name: str
    fields: tuple[str, ...]

    def __call__(self, *values: Any) -> Event:
        assert len(values) == len(self.fields), self.name
        return [self.number, *values]


EVENTS: dict[int, EventKind] = {}


def event(number: int, name: str, *fields_: str) -> EventKind:
    """Declare an event kind. Field names carry units; ranges of numbers follow those of the tables."""
    assert number not in EVENTS, f"event {number} declared twice"
    EVENTS[number] = EventKind(number, name, fields_)
    return EVENTS[number]


# --- errors ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RuleError:
    number: int
    name: str
    cause: str
    hint: str


ERRORS: dict[str, RuleError] = {}


def error(number: int, name: str, cause: str, hint: str = "") -> str:
    """Declare a rule's error: a stable number and name, what happened, what to do. Returns the name."""
    assert name not in ERRORS and all(e.number != number for e in ERRORS.values()), f"error {number} {name} declared twice"
    ERRORS[name] = RuleError(number, name, cause, hint)
    return name


def refuse(name: str, cause: str = "", **data: Any) -> NoReturn:
    """Fail with a declared error."""
    rule = ERRORS[name]
    raise Rejected(name, cause or rule.cause, hint=rule.hint, **data)


def decode_args(entry: Call, args: Sequence[Any]) -> list[Any]:
    """Check positional arguments against the call's schema; raises DecodeError naming the argument."""
    values = list(args)
    if not entry.schema.fits(values):
        entry.schema.check(values)
    return values
