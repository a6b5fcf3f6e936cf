"""The chain: one linear list of final blocks and the state after each of them.

    open or create -> build or check (execute on the head's state) -> prepare_commit -> apply (one synced batch)

There is no fork choice: a block is executed on the head, certified, committed. `build`, `check`, `prepare_commit` and
`rewind` run on one thread (the chain thread); `apply` on the disk thread; everything that only reads may run anywhere and
sees the state of the newest prepared block, durable or not. Rows and keys of the database: `ledger/layout.py`; what makes
a block valid: `ledger/verdict.py`; what a block writes: `ledger/batches.py`; older states: `ledger/history.py`.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

from . import dumps, layout
from . import history as past
from .batches import CommitBatch, ExecutedBlock, block_rows
from .blocks import (
    HEADER_VERSION,
    NO_CERTIFICATE,
    NO_INHERENTS,
    Block,
    Body,
    Extrinsic,
    Header,
    encode_inherents,
    result_leaves,
)
from .crypto import ZERO_HASH
from .errors import BUGS, DecodeError, Error, InvariantBroken, NotFound, NotReady, Rejected, UsageError
from .integrity import audit_state, check_newest, read_authorities
from .layout import Head, at
from .linking import StateRows
from .machine import AuthoritySet, BlockContext, StateMachine
from .reading import ChainReader, Picture, StateProof
from .recovery import Recoveries, members_of
from .reindexing import check_finished
from .rewinding import rewound
from .spec import ChainSpecParams
from .state_tree import StateTree
from .store import Store, check_stamp, stamp
from .tree_pages import StoredPages
from .trees import list_root
from .verdict import (
    VerifyBatch,
    block_context,
    check_birth,
    check_body,
    check_header,
    check_parent_certificate,
    check_size,
    check_yield,
    read_extrinsics,
    verify_one_by_one,
)
from .views import CachedView, Layer, LayeredRows, RowCache, StateView
from .votes import PRECOMMIT, Certificate, authorities_hash, leader

__all__ = ["Chain", "CommitBatch", "ExecutedBlock", "Head", "StateProof", "VerifyBatch"]

MAX_PENDING_COMMITS: Final = 4  # prepared batches that wait for the disk
MAX_EXECUTED_KEPT: Final = 4  # executed children of the head
TREES_KEPT: Final = 8  # newest versions of the state tree, for proofs
TOO_MUCH: Final = ("BlockTooHeavy", "BlockTooLarge")  # names of refusals after which less may still fit


class Chain(ChainReader):
    """See the module."""

    def __init__(
        self, store: Store, params: ChainSpecParams, machine: StateMachine, picture: Picture, retain_blocks: int | None
    ) -> None:
        """Use `create` or `open`."""
        super().__init__(params, picture, machine.account_key)
        self.machine = machine
        # Signing domain of a height: the genesis hash until the chain is rewound.
        self.domain_at: Callable[[int], bytes] = lambda height: params.genesis_hash
        self.recoveries: Recoveries = {}  # authority sets that take the place of lost ones
        self._store = store
        self._retain = retain_blocks
        self._pruner = None if retain_blocks is None else past.Pruner()
        self._lock = threading.Lock()  # guards the pair (_now, _pending)
        self._pending: tuple[CommitBatch, ...] = ()
        self._cache = RowCache()
        self._cache.fill(picture.rows, machine.remembered)
        self._executed: dict[bytes, ExecutedBlock] = {}

    # --- life ---------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls, store: Store, params: ChainSpecParams, machine: StateMachine, genesis_state: Mapping[bytes, bytes],
        *, retain_blocks: int | None = past.RETAINED_BLOCKS,
    ) -> Chain:
        """Write the genesis state into an empty store (one synced batch) and open it."""
        if next(store.items(b""), None) is not None:
            raise UsageError("the store is not empty")
        tree, pages = StateTree().updated(genesis_state)
        rows: dict[bytes, bytes | None] = {
            layout.STATE + key: layout.state_row(value) for key, value in genesis_state.items()
        }
        authorities = machine.authorities(StateView(LayeredRows((Layer(dict(rows)),), store)))
        keys_hash = authorities_hash(authorities.keys)
        rows |= {layout.PAGE + key: page for key, page in pages.items()}
        rows[layout.AUTHORITIES + keys_hash] = b"".join(authorities.keys)
        head = Head(params.genesis_height, params.genesis_hash, params.genesis_time_ms, tree.root, keys_hash)
        rows[layout.HEAD_KEY] = head.encode()
        if retain_blocks is None:
            rows[layout.ARCHIVE_KEY] = past.archive_mark(head.height)
        rows |= stamp(layout.SCHEMA, params.genesis_hash)
        store.write(rows, sync=True)
        return cls.open(store, params, machine, retain_blocks=retain_blocks)

    @classmethod
    def open(
        cls, store: Store, params: ChainSpecParams, machine: StateMachine,
        *, retain_blocks: int | None = past.RETAINED_BLOCKS, domain_at: Callable[[int], bytes] | None = None,
        recoveries: Recoveries | None = None,
    ) -> Chain:
        """Open and check: stamp, links of the newest headers, head certificate, state tree against the head's root.

        `retain_blocks`: how many past states are kept (None: all from now on, an archive; see `ledger/history.py`).
        `domain_at`: see `Chain.domain_at`; where it is given, the head certificate's signatures are verified too.
        `recoveries`: see `ledger/recovery.py`. Raises WrongGenesis, NewerSchema, Corruption, or UsageError where a recovery
        file does not fit.
        """
        check_stamp(store, layout.SCHEMA, params.genesis_hash)
        check_finished(store)
        head = Head.decode(store.get(layout.HEAD_KEY))
        past.begin_archive(store, head.height) if retain_blocks is None else past.end_archive(store)
        rows = LayeredRows((), store.snapshot())
        tree = StateTree.open(StoredPages(rows), head.state_root)
        authorities = read_authorities(machine, rows)
        chain = cls(
            store, params, machine, Picture(head, rows, ((head.height, tree),), authorities, head.height), retain_blocks
        )
        if domain_at is not None:
            chain.domain_at = domain_at
        chain._take_recoveries(recoveries or {})  # before the certificate is judged by their domains
        check_newest(chain, chain._now, domain_at)
        head, authorities = chain._with_recovery(head, authorities)
        chain._now = replace(chain._now, head=head, authorities=authorities)
        return chain

    def _take_recoveries(self, recoveries: Recoveries) -> None:
        """Take recovery files into account. Raises UsageError for one that is not of this chain's past."""
        now, self.recoveries = self._now, recoveries
        for height, each in recoveries.items():
            if not self.params.genesis_height <= height <= now.head.height:
                continue
            if self.hash_at(height) != each.head_hash:
                raise UsageError(
                    f"block {height} of this node is not the one that the recovery file names",
                    hint="all nodes need one file, made from a node that has their common last block",
                )
            if height < now.head.height and self.header(height + 1).authorities_hash != authorities_hash(each.keys):
                raise UsageError(
                    f"this node has a block {height + 1} that the old authorities decided",
                    hint="then the chain did not end where the recovery file says: make another one from this node",
                )

    def _with_recovery(self, head: Head, authorities: AuthoritySet) -> tuple[Head, AuthoritySet]:
        """The head and the set of the next height, after a recovery at this height if there is one."""
        each = self.recoveries.get(head.height)
        if each is None:
            return head, authorities
        if each.head_hash != head.hash:
            raise InvariantBroken(f"block {head.height} is final, and the recovery file names another one")
        return replace(head, next_authorities_hash=authorities_hash(each.keys)), each.authorities

    def audit_state(self) -> None:
        """Recompute the state root from every stored value; raises Corruption. Seconds for a large state."""
        audit_state(self._now)

    def close(self) -> None:
        """Close the store. Batches that were prepared but not applied are lost."""
        self._store.close()

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
        draft, certificate = self._draft(timestamp_ms, round_, parent_certificate)
        parent_cert = NO_CERTIFICATE if certificate is None else certificate.encode()
        context = self._context(draft, Body(parent_cert, NO_INHERENTS, ()), certificate)
        chosen = encode_inherents(self.machine.block_inherents(self._cache.over(self._now.rows), context, inherents))
        left, refused = self._born(extrinsics, draft.height)
        while True:
            body = Body(parent_cert, chosen, tuple(each.encode() for each in left))
            try:
                check_size(self.params, body)
                executed = self._assemble(draft, body, tuple(left), certificate)
                return self._keep(replace(executed, refused=(*refused, *executed.refused)))
            except Rejected as error:
                if not left:
                    raise
                left = left[: len(left) // 2] if error.error_name in TOO_MUCH else []

    def check(
        self, block: Block, *, known: Mapping[bytes, Extrinsic] | None = None, verify_batch: VerifyBatch | None = None
    ) -> ExecutedBlock:
        """The verdict on a block for head + 1: header, parent certificate, signatures, execution, roots, limits.

        `known`: extrinsics whose signature was verified already, by their bytes (`Pool.verified`). A block that was
        built or checked here a moment ago is not executed again. Raises Rejected for a broken rule; anything else that
        escapes is a failure of this node and no verdict.
        """
        now = self._now
        check_header(self.params, self._version(), now.head, now.authorities, block.header)
        check_body(self.params, block.header, block.body)
        if (executed := self._executed.get(block.hash)) is not None:
            return executed
        certificate = check_parent_certificate(
            self.params, now.head, self._parent_keys(), self.domain_at(now.head.height), block.body.parent_cert,
            now.rows.get(at(layout.CERTIFICATE, now.head.height)) or b"",
        )
        with collector_paused():
            extrinsics = read_extrinsics(
                block, self.params.genesis_hash, self.hash_at, known or {}, verify_batch or verify_one_by_one
            )
            executed = self._execute(block, extrinsics, certificate)
        check_yield(
            block.header, executed.tree.root, list_root(executed.leaves, "events"), executed.result.authorities
        )
        return self._keep(executed)

    def prepare_commit(
        self, executed: ExecutedBlock, certificate: Certificate, extra: Mapping[bytes, bytes | None] | None = None
    ) -> CommitBatch:
        """Make an executed block the head (in memory) and return its rows.

        `certificate`: a precommit certificate of the block that the caller has verified. `extra`: further rows for the
        same batch, by their own keys, read with `extra_row`. Raises InvariantBroken if the block is not a child of the
        head, NotReady if too many batches wait for the disk.
        """
        now, block = self._now, executed.block
        if block.header.parent_hash != now.head.hash or block.height != now.head.height + 1:
            raise InvariantBroken(f"block {block.height} is not a child of the head {now.head.height}")
        if (certificate.kind, certificate.height, certificate.block_hash) != (PRECOMMIT, block.height, block.hash):
            raise InvariantBroken(f"the certificate is not for block {block.height}")
        if len(self._pending) >= MAX_PENDING_COMMITS:
            raise NotReady("the disk does not keep up with the commits")
        head = Head(
            block.height, block.hash, block.header.timestamp_ms, executed.tree.root, block.header.next_authorities_hash
        )
        with collector_paused():
            view = self._cache.again(executed.view, now.rows)
            all_rows, state = self._rows_of(executed, certificate, head, view, extra or {})
            batch = CommitBatch(block.height, all_rows)
        head, authorities = self._with_recovery(head, executed.result.authorities)
        with self._lock:
            rows = LayeredRows((Layer(batch.rows), *self._now.rows.layers), self._now.rows.base)
            self._pending += (batch,)
            self._now = Picture(
                head, rows, (*self._now.trees[1 - TREES_KEPT :], (head.height, executed.tree.over(StoredPages(rows)))),
                authorities, self._now.durable_height,
            )
        self._cache.advance(view, state, executed.result.objects)
        self._executed.clear()
        self._hashes[head.height] = head.hash
        return batch

    def apply(self, *batches: CommitBatch) -> None:
        """Write prepared batches, in the order in which they were prepared: all of them in one synced write."""
        if self._pending[: len(batches)] != batches:
            raise InvariantBroken(f"the batch of block {batches[0].height} is not the next one")
        joined = {key: row for batch in batches for key, row in batch.rows.items()} if len(batches) > 1 else batches[0].rows
        self._store.write(joined, sync=True)
        newest = batches[-1].height
        with self._lock:
            self._pending = self._pending[len(batches) :]
            now, base = self._now, self._store.snapshot()
            rows, written = LayeredRows(now.rows.layers[: -len(batches)], base), StoredPages(LayeredRows((), base))
            trees = tuple((height, tree.over(written) if height == newest else tree) for height, tree in now.trees)
            self._now = Picture(now.head, rows, trees, now.authorities, newest)

    def commit(self, executed: ExecutedBlock, certificate: Certificate) -> None:
        """prepare_commit and apply in one call (tests, tools)."""
        self.apply(self.prepare_commit(executed, certificate))

    def import_block(
        self, block: Block, certificate: Certificate, *, known: Mapping[bytes, Extrinsic] | None = None,
        verify_batch: VerifyBatch | None = None,
    ) -> CommitBatch:
        """check, verify the certificate, prepare_commit: all but `apply` of a block from a peer or a file."""
        with collector_paused():  # until what the execution made is gone, not only until it is done
            return self._import(block, certificate, known, verify_batch)

    def _import(
        self, block: Block, certificate: Certificate, known: Mapping[bytes, Extrinsic] | None,
        verify_batch: VerifyBatch | None,
    ) -> CommitBatch:
        executed = self.check(block, known=known, verify_batch=verify_batch)
        if certificate.kind != PRECOMMIT or certificate.height != block.height or certificate.block_hash != block.hash:
            raise Rejected("WrongCertificate", "it is not for this block")
        if not certificate.verify(self._now.authorities.keys, self.domain_at(block.height)):
            raise Rejected("WrongCertificate", "signatures, bitmap or quorum are wrong")
        return self.prepare_commit(executed, certificate)

    def rewind(self, height: int) -> None:
        """Devnets: make `height` the head again and delete everything above it. Raises Pruned beyond the kept history.

        No batch may be pending. The caller gives the new signing domains to `domain_at` and forgets the pool.
        """
        now = self._now
        if not self.params.devnet:
            raise UsageError("only a devnet can be rewound: elsewhere blocks are final")
        if self._pending:
            raise InvariantBroken("rewind while commits are pending")
        if not self.params.genesis_height <= height <= now.head.height:
            raise NotFound(f"there is no block {height}")
        if height == now.head.height:
            return
        head, tree, rows = rewound(self, now, height)
        self._store.write(rows, sync=True)
        snapshot = LayeredRows((), self._store.snapshot())
        with self._lock:
            authorities = read_authorities(self.machine, snapshot)
            self._now = Picture(head, snapshot, ((height, tree.over(StoredPages(snapshot))),), authorities, height)
        self._cache.clear()
        self._executed.clear()
        self._hashes.clear()
        self._replaced.clear()

    # --- inside -------------------------------------------------------------------------------------------------

    def _draft(
        self, timestamp_ms: int, round_: int, certificate: Certificate | None
    ) -> tuple[Header, Certificate | None]:
        """The header of head + 1 without what depends on the body, and the parent certificate to use."""
        now, params = self._now, self.params
        height = now.head.height + 1
        if now.head.height == params.genesis_height:
            certificate = None
        elif certificate is None:
            certificate = self.certificate(now.head.height)
        keys, active = now.authorities.keys, now.authorities.active
        return Header(
            HEADER_VERSION, self._version(), height, params.session(height), timestamp_ms, now.head.hash,
            ZERO_HASH, leader(keys, active, height, round_), round_, ZERO_HASH, ZERO_HASH, ZERO_HASH,
            now.head.next_authorities_hash, ZERO_HASH,
        ), certificate

    def _assemble(
        self, draft: Header, body: Body, extrinsics: tuple[Extrinsic, ...], certificate: Certificate | None
    ) -> ExecutedBlock:
        """Execute a body that this node made, leave out of it what cannot be admitted, and complete its header."""
        left_out: dict[int, str] = {}
        executed = self._execute(Block(draft, body), extrinsics, certificate, left_out)
        if left_out:
            kept = [index for index in range(len(extrinsics)) if index not in left_out]
            body = replace(body, extrinsics=tuple(body.extrinsics[index] for index in kept))
        header = replace(
            draft, parent_cert_hash=body.cert_hash, extrinsics_root=body.extrinsics_root,
            state_root=executed.tree.root, events_root=list_root(executed.leaves, "events"),
            next_authorities_hash=authorities_hash(executed.result.authorities.keys),
        )
        return replace(
            executed, block=Block(header, body), refused=_hopeless(extrinsics, left_out),
            extrinsics=tuple(each for index, each in enumerate(extrinsics) if index not in left_out),
        )

    def _execute(
        self, block: Block, extrinsics: tuple[Extrinsic, ...], certificate: Certificate | None,
        left_out: dict[int, str] | None = None,
    ) -> ExecutedBlock:
        """Run the machine on the head's state. Raises Rejected, and InvariantBroken with a dump if the rules fail.

        `left_out`: see `StateMachine.apply_block`.
        """
        view = self._cache.over(self._now.rows)
        context = self._context(block.header, block.body, certificate)
        try:
            result = self.machine.apply_block(view, context, block.body.inherent_list(), extrinsics, left_out)
        except DecodeError as error:
            raise Rejected("MalformedBlock", error.cause) from None
        except InvariantBroken as broken:
            broken.dump = self._dump(block, extrinsics, certificate, broken, building=left_out is not None)
            raise
        except BUGS as bug:  # in the rules: as bad as a broken invariant, and reported like one
            failure = InvariantBroken(f"block {block.height}: the rules failed with {bug!r}", height=block.height)
            failure.dump = self._dump(block, extrinsics, certificate, failure, building=left_out is not None)
            raise failure from bug
        if result.weight > self.params.max_block_weight:
            raise Rejected("BlockTooHeavy", f"weight {result.weight}, at most {self.params.max_block_weight} allowed")
        tree, pages = self._now.tree.updated(result.changes)
        return ExecutedBlock(
            block, extrinsics, result, tree=tree, pages=pages, leaves=result_leaves(result.events, result.outcomes),
            view=view,
        )

    def dump(self, block: Block, error: Error) -> bytes:
        """What reproduces how a child of the head fails, for one that should not; empty if it cannot be made."""
        now = self._now
        try:
            certificate = check_parent_certificate(
                self.params, now.head, self._parent_keys(), self.domain_at(now.head.height), block.body.parent_cert,
                now.rows.get(at(layout.CERTIFICATE, now.head.height)) or b"",
            )
            return self._dump(block, Extrinsic.decode_each(block.body.extrinsics), certificate, error, building=False)
        except Rejected:
            return b""

    def _dump(
        self, block: Block, extrinsics: Sequence[Extrinsic], certificate: Certificate | None, error: Error, *, building: bool
    ) -> bytes:
        params, parent = self.params, block.height - 1
        try:
            context = self._context(block.header, block.body, certificate)
            return dumps.dump(
                self.machine, self._cache.over(self._now.rows), context, block.body.inherent_list(), extrinsics, str(error),
                building=building, genesis_hash=params.genesis_hash,
                domains=dumps.domains_until(block.height, params.genesis_height, self.domain_at),
                members=members_of(self.recoveries).get(parent, ()),
            ).encode()
        except Exception:  # the node stops anyway, with what it knows
            return b""

    def _context(self, header: Header, body: Body, certificate: Certificate | None) -> BlockContext:
        return block_context(header, body, self._now.authorities, certificate, self._parent_keys())

    def _version(self) -> int:
        """Of the rules that execute the block after the head."""
        return self.machine.version_at(self._cache.over(self._now.rows))

    def _parent_keys(self) -> tuple[bytes, ...]:
        """The set that certified the head; empty at genesis."""
        height = self._now.head.height
        return () if height == self.params.genesis_height else self.authority_keys(height)

    def _keep(self, executed: ExecutedBlock) -> ExecutedBlock:
        """Remember an executed child of the head, so that checking or committing it costs no second execution."""
        while len(self._executed) >= MAX_EXECUTED_KEPT:
            del self._executed[next(iter(self._executed))]
        self._executed[executed.block.hash] = executed
        return executed

    def _born(self, extrinsics: Sequence[Extrinsic], height: int) -> tuple[list[Extrinsic], list[bytes]]:
        """Those whose birth block allows inclusion at `height`, and the ids of the others."""
        left: list[Extrinsic] = []
        refused: list[bytes] = []
        for extrinsic in extrinsics:
            try:
                check_birth(extrinsic, height, self.hash_at)
                left.append(extrinsic)
            except Rejected:
                refused.append(extrinsic.id)
        return left, refused

    def _rows_of(
        self, executed: ExecutedBlock, certificate: Certificate, head: Head, view: CachedView,
        extra: Mapping[bytes, bytes | None],
    ) -> tuple[dict[bytes, bytes | None], StateRows]:
        """Everything that the commit of a block writes, and the state rows among it once more, by state key."""
        now, height = self._now, head.height
        rows, state, before = block_rows(executed, certificate, head, now, view, self.machine.account_key)
        rows.update((layout.EXTRA + key, row) for key, row in extra.items())
        if now.head.height in self.recoveries:
            rows[layout.AUTHORITIES + now.head.next_authorities_hash] = b"".join(now.authorities.keys)
        rows |= past.kept_rows(before, height, self._retain, self.params.initial_height)
        if self._pruner is not None and self._retain is not None:
            rows |= self._pruner.rows(now.rows.base, height - self._retain)
            self._pruner = None if self._pruner.done else self._pruner
        return rows, state


@contextmanager
def collector_paused() -> Iterator[None]:
    """A block makes tens of thousands of objects that live until it is committed: no garbage is to be found meanwhile."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _hopeless(extrinsics: Sequence[Extrinsic], left_out: Mapping[int, str]) -> tuple[bytes, ...]:
    """Ids of those left out for a reason of their own: neither for want of room nor after another one of the account."""
    first: dict[bytes, int] = {}
    for index in left_out:
        first.setdefault(extrinsics[index].signer, index)
    return tuple(extrinsics[index].id for index in first.values() if left_out[index] not in TOO_MUCH)
