"""The protocols that join consensus to the rules: the state machine, its read-only view, and the clock.

`ledger` knows nothing of accounts, subnets or pay. It hands a `View` of the parent state and a block's content to a
`StateMachine` and gets back a `BlockResult`: changed keys, events, outcomes and the next authority set. The machine is
pure: same view and block, same result, on every machine for ever.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from .blocks import Event, Extrinsic, Outcome


class View(Protocol):
    """Read-only state at one height. Keys and values are byte strings; iteration is in ascending key order."""

    def get(self, key: bytes) -> bytes | None:
        """Value of `key`, or None."""
        ...

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """All pairs whose key starts with `prefix`, ascending; only keys > `after` if it is given."""
        ...


# What a machine made of state values, by whatever it makes them with and then by key. Nobody changes such an object.
Objects = dict[Any, dict[bytes, Any]]


class Kept:
    """A state row, None where there is none, and what was last made of its value, with what: None at first."""

    __slots__ = ("codec", "row", "value")

    def __init__(self, row: bytes | None) -> None:
        self.row = row
        self.codec: Any = None
        self.value: Any = None


class RememberingView(View, Protocol):
    """A view of a state that is read again and again: the machine leaves in `kept` what it made of its values.

    `met` is to have the entries in `kept` that were used; `entry` finds one or makes it. Whoever gives the view keeps the
    entries true to the state: see `BlockResult.objects`.
    """

    kept: dict[bytes, Kept]
    met: dict[bytes, Kept]

    def entry(self, key: bytes) -> Kept: ...


@dataclass(frozen=True)
class AuthoritySet:
    """The authorities that certify the next height.

    `keys`: ordered 32-byte session keys. `active`: positions, in order, of those that may lead in the first rounds
    (the full list minus disabled and skipped ones; consensus rule "Leader").
    """

    keys: tuple[bytes, ...]
    active: tuple[int, ...]


@dataclass(frozen=True)
class BlockContext:
    """What a block is executed with, beside the parent state. All of it is in the header or the body."""

    height: int
    session: int
    timestamp_ms: int
    parent_hash: bytes
    proposer: bytes  # session key of the block's author (32 bytes)
    proposal_round: int
    leaders_missed: tuple[bytes, ...]  # session keys of the leaders of rounds below proposal_round
    parent_signers: tuple[bytes, ...]  # session keys in the canonical certificate of the parent
    beacon: bytes  # hash of the parent certificate carried by this block (32 zero bytes in the first block)


@dataclass(frozen=True)
class BlockResult:
    """What execution yields. `changes[key] = None` deletes. `history` rows live outside the state root.

    `objects`: some of the values in `changes` as the machine works with them, to be found in later views (`RememberingView`).
    """

    changes: Mapping[bytes, bytes | None]
    events: Sequence[Event]
    outcomes: Sequence[Outcome]
    authorities: AuthoritySet  # of the next height
    history: Mapping[bytes, bytes] = field(default_factory=dict)
    weight: int = 0
    objects: Mapping[Any, Mapping[bytes, Any]] = field(default_factory=dict, compare=False, repr=False)


OPERATIONAL_PRIORITY: Final = 3  # from here on an extrinsic is operational: a quarter of each block is kept for those


@dataclass(frozen=True)
class Admission:
    """Verdict of the cheap check that pool and dispatcher share. Raises Rejected instead when refused.

    `ready_nonce`: the account's next nonce; the extrinsic is ready when its nonce equals it and a gap otherwise.
    `priority`: higher first; inside one priority the order is by extrinsic id. `fee_rao`: what inclusion would charge,
    with the tip.
    """

    signer: bytes
    nonce: int
    ready_nonce: int
    priority: int
    fee_rao: int
    weight: int


@dataclass(frozen=True, slots=True)
class Standing:
    """What an account can do next: its next nonce, and the rao it has for fees and tips."""

    next_nonce: int
    payable_rao: int


class StateMachine(Protocol):
    """The rules. `runtime.executor.Runtime` implements it."""

    def version_at(self, view: View) -> int:
        """Number of the rules that execute the block after the state of `view`, as its header names them."""
        ...

    def authorities(self, view: View) -> AuthoritySet:
        """The set that certifies the block after the state of `view`."""
        ...

    def admit(self, view: View, extrinsic: Extrinsic, height: int) -> Admission:
        """Cheap validity against `view` for inclusion in block `height`; raises `Rejected` with a stable name.

        The signature is not checked here; the pool and the block import do that once.
        """
        ...

    def standing(self, view: View, account: bytes) -> Standing:
        """What an account (32-byte key) can do next; one that has no row has nonce 0 and nothing to pay with."""
        ...

    def account_key(self, account: bytes) -> bytes:
        """State key of an account's row: there the chain keeps, outside the state, where its newest extrinsic is."""
        ...

    def remembered(self, values: Iterable[tuple[bytes, bytes]]) -> Objects:
        """What the machine would keep of these state values, each with its key, if it read them in a `RememberingView`."""
        ...

    def apply_block(
        self, view: View, context: BlockContext, inherents: Sequence[tuple[int, bytes]], extrinsics: Sequence[Extrinsic],
        left_out: dict[int, str] | None = None,
    ) -> BlockResult:
        """Execute a whole block on the parent state. Raises `Rejected` if the block as a whole is invalid.

        Where one extrinsic is the reason, the error's data holds its position: `Rejected(name, cause, index=i)`. A
        builder gives `left_out`: extrinsics that cannot be admitted are noted there, by position, with the error's name,
        and the result is that of the block without them.
        """
        ...

    def block_inherents(
        self, view: View, context: BlockContext, candidates: Sequence[tuple[int, bytes]]
    ) -> list[tuple[int, bytes]]:
        """Of the candidates known to the proposer, those valid now, in the order in which a block must carry them."""
        ...


class Clock(Protocol):
    """Only shells own time. Both are integer milliseconds; `monotonic_ms` never goes back."""

    def wall_ms(self) -> int: ...

    def monotonic_ms(self) -> int: ...
