"""The chain: one linear list of final blocks and the state after each of them.

    open or create -> build or check (execute on the head's state) -> prepare_commit -> apply (one synced batch)

There is no fork choice: a block is executed on the head, certified, committed. `build`, `check`, `prepare_commit` and
`rewind` run on one thread (the chain thread); `apply` on the disk thread; everything that only reads may run anywhere and
sees the state of the newest prepared block, durable or not. Rows and keys of the database: `ledger/layout.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from .blocks import Block, Body, Event, Extrinsic, Header, Outcome
from .machine import AuthoritySet, BlockResult, StateMachine, View
from .spec import ChainSpecParams
from .store import Store
from .votes import Certificate

# (public key, signed message, signature) of several signatures -> which of them are valid. The shell gives one that
# spreads the work over its verify threads.
VerifyBatch = Callable[[Sequence[tuple[bytes, bytes, bytes]]], Sequence[bool]]


@dataclass(frozen=True)
class Head:
    """The newest committed block (or the genesis state)."""

    height: int
    hash: bytes
    timestamp_ms: int
    state_root: bytes
    next_authorities_hash: bytes


@dataclass(frozen=True)
class ExecutedBlock:
    """A block with the effect of executing it on its parent's state. Immutable; several may exist for one parent."""

    block: Block
    extrinsics: tuple[Extrinsic, ...]
    result: BlockResult
    refused: tuple[bytes, ...] = ()  # ids of extrinsics that `build` had to leave out because they are invalid now


@dataclass(frozen=True)
class CommitBatch:
    """All rows of one committed block; `Chain.apply` makes them durable at once or not at all."""

    height: int
    rows: Mapping[bytes, bytes | None] = field(repr=False)


@dataclass(frozen=True)
class StateProof:
    """Proof that `key` has `value` (None: is absent) in the state with root `state_root` of block `height`."""

    height: int
    state_root: bytes
    key: bytes
    value: bytes | None
    proof: bytes


class Chain:
    """See the module. Public reads raise NotFound for what never existed and Pruned for what is no longer kept."""

    params: ChainSpecParams
    machine: StateMachine
    domain_at: Callable[[int], bytes]  # signing domain of a height; the genesis hash until the chain is rewound

    # --- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, store: Store, params: ChainSpecParams, machine: StateMachine, genesis_state: Mapping[bytes, bytes]
    ) -> Chain:
        """Write the genesis state into an empty store (one synced batch) and open it."""

    @classmethod
    def open(cls, store: Store, params: ChainSpecParams, machine: StateMachine, *, retain_blocks: int = 256) -> Chain:
        """Open and check (schema, genesis, links, state root). Raises WrongGenesis, NewerSchema, Corruption."""

    def close(self) -> None:
        """Close the store."""

    # --- head ---------------------------------------------------------------------------------------------------

    @property
    def head(self) -> Head:
        """The newest prepared block."""

    @property
    def durable_height(self) -> int:
        """The newest height whose batch is on disk. No message of a height above it + 1 may be signed."""

    def authorities(self) -> AuthoritySet:
        """The set that certifies head + 1, with those who may lead."""

    # --- blocks: making, judging, writing -----------------------------------------------------------------------

    def build(
        self, *, timestamp_ms: int, round_: int, extrinsics: Sequence[Extrinsic] = (),
        inherents: Sequence[tuple[int, bytes]] = (), parent_certificate: Certificate | None = None,
    ) -> ExecutedBlock:
        """Make the block of head + 1 for the leader of `round_`, and execute it.

        `extrinsics`: a selection of the pool (`Pool.select`, which obeys the limits), signatures verified.
        `inherents`: candidates (`Pool.inherents`); the machine chooses and orders. `parent_certificate`: any valid one
        of the head; the stored one if None. Extrinsics that turn out invalid are left out and named in `refused`.
        """

    def check(
        self, block: Block, *, known: Mapping[bytes, Extrinsic] | None = None, verify_batch: VerifyBatch | None = None
    ) -> ExecutedBlock:
        """The verdict on a block for head + 1: header, parent certificate, signatures, execution, roots, limits.

        `known`: extrinsics whose signature was verified already, by their bytes (`Pool.verified`). Raises Rejected for
        a broken rule; anything else that escapes is a failure of this node and no verdict.
        """

    def prepare_commit(
        self, executed: ExecutedBlock, certificate: Certificate, extra: Mapping[bytes, bytes | None] | None = None
    ) -> CommitBatch:
        """Make an executed block the head (in memory) and return its rows.

        `certificate`: a precommit certificate of the block that the caller has verified. `extra`: further rows for the
        same batch (keys from `layout.EXTRA`). Raises InvariantBroken if the block is not a child of the head.
        """

    def apply(self, batch: CommitBatch) -> None:
        """Write a prepared batch, synced; batches are applied in the order in which they were prepared."""

    def commit(self, executed: ExecutedBlock, certificate: Certificate) -> None:
        """prepare_commit and apply in one call (sync, tests, tools)."""

    def rewind(self, height: int) -> None:
        """Devnets: make `height` the head again and delete everything above it. Raises Pruned beyond the kept history."""

    # --- reading ------------------------------------------------------------------------------------------------

    def height_of(self, block_hash: bytes) -> int:
        """Height of a block of this chain (or of genesis), else NotFound."""

    def hash_at(self, height: int) -> bytes:
        """Hash of the block at a height (the genesis hash for the genesis height), else NotFound."""

    def header(self, at: int | bytes) -> Header:
        """Header by height or hash."""

    def body(self, at: int | bytes) -> Body: ...

    def block(self, at: int | bytes) -> Block: ...

    def certificate(self, at: int | bytes) -> Certificate:
        """The precommit certificate with which this node committed the block."""

    def events(self, at: int | bytes) -> list[Event]:
        """All events of the block, in order."""

    def outcomes(self, at: int | bytes) -> list[Outcome]:
        """One outcome for each extrinsic of the block."""

    def authority_keys(self, height: int) -> tuple[bytes, ...]:
        """The ordered session keys that certify the block at `height` (at most head + 1)."""

    def find_extrinsic(self, extrinsic_id: bytes) -> tuple[int, int] | None:
        """(height, index in the block) of a committed extrinsic."""

    def account_extrinsics(
        self, account: bytes, *, before_height: int | None = None, limit: int = 50
    ) -> tuple[list[tuple[int, int]], int | None]:
        """Newest first (height, index) of extrinsics that `account` signed or that an event of names.

        Returns also where to go on (`before_height` of the next call), None at the end. A call looks at a bounded number
        of blocks, so a page may be short or empty although more follow.
        """

    def event_heights(self, kind: int, *, before_height: int | None = None, limit: int = 50) -> list[int]:
        """Heights, newest first, of blocks with at least one event of that number."""

    def history(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Rows that the runtime keeps outside the state root (`BlockResult.history`), ascending."""

    def history_row(self, key: bytes) -> bytes | None: ...

    def state_diff(self, height: int) -> list[tuple[bytes, bytes | None, bytes | None]]:
        """(key, before, after) of every key that the block changed, ascending; raises Pruned."""

    def view(self, height: int | None = None) -> View:
        """Immutable state after the block at `height` (default: head); raises Pruned or NotFound."""

    def prove(self, key: bytes, height: int | None = None) -> StateProof:
        """Inclusion or absence proof; verified by `ledger.client.proofs.verify_state`."""
