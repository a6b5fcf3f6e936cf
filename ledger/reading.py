"""Reading the chain: blocks, results, indexes, states at retained heights, proofs.

A reader works on one immutable picture of the head at a time, so any thread may call it while blocks are committed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from . import history as past
from . import indexes, layout
from .blocks import MAX_PERIOD, Block, Body, Event, Header, Outcome
from .errors import Corruption, NotFound, Pruned
from .layout import Head, ReverseDiff, at
from .linking import AccountKey
from .lost import lost_blocks
from .machine import AuthoritySet, View
from .spec import ChainSpecParams
from .state_tree import StateTree
from .views import Layer, LayeredRows, StateView
from .votes import Certificate

MAX_PROVEN_BLOCKS: Final = 4_096  # an old state's tree is made from the head's by undoing the blocks between
MAX_REMEMBERED_PASTS: Final = 8  # earlier heights whose merged reverse diffs are kept in memory
MAX_REMEMBERED_KEYS: Final = 100_000  # of one such height


@dataclass(frozen=True)
class StateProof:
    """Proof that `key` has `value` (None: is absent) in the state with root `state_root` of block `height`."""

    height: int
    state_root: bytes
    key: bytes
    value: bytes | None
    proof: bytes


@dataclass(frozen=True)
class StateProofs:
    """One proof of what several keys hold (None: nothing) in the state with root `state_root` of block `height`."""

    height: int
    state_root: bytes
    values: dict[bytes, bytes | None]
    proof: bytes


@dataclass(frozen=True)
class Picture:
    """Everything about the head, replaced as one: readers on other threads see one height."""

    head: Head
    rows: LayeredRows
    trees: tuple[tuple[int, StateTree], ...]  # (height, version), oldest first; the last is the head's
    authorities: AuthoritySet  # certifies head + 1
    durable_height: int

    @property
    def tree(self) -> StateTree:
        """The head's."""
        return self.trees[-1][1]


class ChainReader:
    """The read-only half of `Chain`. Raises NotFound for what never existed and Pruned for what is no longer kept."""

    def __init__(self, params: ChainSpecParams, picture: Picture, account_key: AccountKey) -> None:
        self.params = params
        self._account_key = account_key
        self._now = picture
        self._hashes: dict[int, bytes] = {}
        self._replaced: OrderedDict[int, tuple[int, ReverseDiff]] = OrderedDict()

    @property
    def head(self) -> Head:
        """The newest prepared block."""
        return self._now.head

    def picture(self) -> Picture:
        """Everything about the head as of now, for checks that look at rows."""
        return self._now

    @property
    def durable_height(self) -> int:
        """The newest height whose batch is on disk. No message of a height above it + 1 may be signed."""
        return self._now.durable_height

    def authorities(self) -> AuthoritySet:
        """The set that certifies head + 1, with those who may lead."""
        return self._now.authorities

    # --- blocks -------------------------------------------------------------------------------------------------

    def height_of(self, block_hash: bytes) -> int:
        """Height of a block of this chain (or of genesis), else NotFound."""
        if block_hash == self.params.genesis_hash:
            return self.params.genesis_height
        row = self._now.rows.get(layout.BY_HASH + block_hash)
        if row is None:
            raise NotFound(f"there is no block {block_hash.hex()}")
        return int.from_bytes(row, "big")

    def hash_at(self, height: int) -> bytes:
        """Hash of the block at a height (the genesis hash for the genesis height), else NotFound."""
        if height == self.params.genesis_height:
            return self.params.genesis_hash
        found = self._hashes.get(height)
        if found is None:
            found = self._stored_hash(height)
            if len(self._hashes) > 2 * MAX_PERIOD:
                self._hashes.clear()
            self._hashes[height] = found
        return found

    def _stored_hash(self, height: int) -> bytes:
        """The header's, or where that is lost what the certificate says."""
        certificate = self._now.rows.get(at(layout.CERTIFICATE, height)) if height >= 0 else None
        if certificate is not None and self._now.rows.get(at(layout.HEADER, height)) is None:
            return Certificate.decode(certificate).block_hash
        return self.header(height).hash

    def header(self, where: int | bytes) -> Header:
        """Header by height or hash. The genesis state has none."""
        return Header.decode(self._row(layout.HEADER, where))

    def body(self, where: int | bytes) -> Body:
        """Body by height or hash."""
        return Body.decode(self._row(layout.BODY, where))

    def block(self, where: int | bytes) -> Block:
        """Header and body by height or hash."""
        return Block(self.header(where), self.body(where))

    def certificate(self, where: int | bytes) -> Certificate:
        """The precommit certificate with which this node committed the block."""
        return Certificate.decode(self._row(layout.CERTIFICATE, where))

    def results(self, where: int | bytes) -> tuple[list[Event], list[Outcome]]:
        """All events of the block, in order, and one outcome for each of its extrinsics."""
        return layout.decode_result(self._row(layout.RESULT, where))

    def events(self, where: int | bytes) -> list[Event]:
        """All events of the block, in order."""
        return self.results(where)[0]

    def outcomes(self, where: int | bytes) -> list[Outcome]:
        """One outcome for each extrinsic of the block."""
        return self.results(where)[1]

    def extra_row(self, key: bytes) -> bytes | None:
        """A row that was given to `prepare_commit` as `extra`."""
        return self._now.rows.get(layout.EXTRA + key)

    def authority_keys(self, height: int) -> tuple[bytes, ...]:
        """The ordered session keys that certify the block at `height` (at most head + 1)."""
        now = self._now
        if height == now.head.height + 1:
            return now.authorities.keys
        joined = now.rows.get(layout.AUTHORITIES + self.header(height).authorities_hash)
        if joined is None:
            raise Corruption(f"the authority set of block {height} is missing")
        return tuple(joined[start : start + 32] for start in range(0, len(joined), 32))

    def set_changes(self) -> Iterator[Header]:
        """Headers of the blocks, ascending, that handed over to another authority set. Looks at every header.

        Raises NotFound if one of them was lost.
        """
        expected, lost = b"", lost_blocks(self._now.rows)
        for _, row in self._now.rows.items(layout.HEADER):
            header = Header.decode(row)
            if header.height - 1 in lost and header.authorities_hash != expected:
                raise NotFound(f"the block before {header.height} handed over to another authority set, and was lost here")
            expected = header.next_authorities_hash
            if header.next_authorities_hash != header.authorities_hash:
                yield header

    # --- indexes ------------------------------------------------------------------------------------------------

    def find_extrinsic(self, extrinsic_id: bytes) -> tuple[int, int] | None:
        """(height, index in the block) of a committed extrinsic."""
        return indexes.find_extrinsic(self._now.rows, extrinsic_id)

    def account_extrinsics(
        self, account: bytes, *, before_height: int | None = None, limit: int = 50
    ) -> tuple[list[tuple[int, int]], int | None]:
        """Newest first (height, index) of extrinsics that `account` signed or that an event of names.

        Returns also where to go on (`before_height` of the next call), None at the end. A call takes no more than it
        gives, except in the gaps of a list (see `linking`), where it looks at a bounded number of blocks: so a page may
        be short or empty although more follow. It may exceed `limit` by matches of one block.
        """
        rows = self._now.rows
        newest = layout.state_place(rows.get(layout.STATE + self._account_key(account)))
        return indexes.account_extrinsics(rows, account, newest, before_height, limit)

    def epoch_height(self, netuid: int, epoch: int) -> int | None:
        """Height of the block in which that epoch of the subnet ran, None if it did not run yet."""
        return indexes.epoch_height(self._now.rows, netuid, epoch)

    def event_heights(self, kind: int, *, before_height: int | None = None, limit: int = 50) -> list[int]:
        """Heights, newest first, of blocks with at least one event of that number."""
        return indexes.event_heights(self._now.rows, kind, before_height, limit)

    def history(
        self, prefix: bytes, after: bytes = b"", *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows that the runtime keeps outside the state root (`BlockResult.history`), ascending or descending."""
        after = layout.HISTORY + after if after else b""
        for key, value in self._now.rows.items(layout.HISTORY + prefix, after, reverse=reverse):
            yield key[1:], value

    def history_row(self, key: bytes) -> bytes | None:
        """One such row."""
        return self._now.rows.get(layout.HISTORY + key)

    # --- states -------------------------------------------------------------------------------------------------

    def state_diff(self, height: int) -> list[tuple[bytes, bytes | None, bytes | None]]:
        """(key, before, after) of every key that the block changed, ascending; raises Pruned."""
        self._row(layout.HEADER, height)
        after = self.view(height)
        before = past.reverse_diff(self._now.rows, height).values()
        pairs = [(key, before[key], after.get(key)) for key in sorted(before)]
        return [pair for pair in pairs if pair[1] != pair[2]]

    def view(self, height: int | None = None) -> View:
        """Immutable state after the block at `height` (default: head); raises Pruned or NotFound."""
        now = self._now
        if height is None or height == now.head.height:
            return StateView(now.rows)
        self._check_height(now, height)
        archive = past.archive_from(now.rows)
        if archive is not None and height >= archive:
            return past.ArchiveView(now.rows, height)
        old = self._replaced_since(now, height).state
        layer = Layer({layout.STATE + key: row for key, row in old.items()})
        return StateView(LayeredRows((layer, *now.rows.layers), now.rows.base))

    def first_readable_height(self) -> int:
        """The lowest height whose state this node keeps."""
        return past.first_readable(self._now.rows, self._now.head.height)

    def prove(self, key: bytes, height: int | None = None) -> StateProof:
        """Inclusion or absence proof, verified by `ledger.client.proofs.verify_state`; raises Pruned or NotFound."""
        found = self.prove_keys((key,), height)
        return StateProof(found.height, found.state_root, key, found.values[key], found.proof)

    def prove_keys(self, keys: Sequence[bytes], height: int | None = None) -> StateProofs:
        """One proof for up to `MAX_PROVEN_KEYS` keys, verified by `verify_states`. Raises as `prove`, and UsageError."""
        now = self._now
        height = now.head.height if height is None else height
        tree = dict(now.trees).get(height)
        if tree is None:
            self._check_height(now, height)
            if now.head.height - height > MAX_PROVEN_BLOCKS:
                raise Pruned(
                    f"proofs reach {MAX_PROVEN_BLOCKS} blocks back, block {height} is older",
                    hint="read the value without a proof, or prove it in a newer state",
                )
            tree = now.tree.updated(self._replaced_since(now, height).values())[0]
        proof, view = tree.prove(*keys), self.view(height)
        return StateProofs(height, tree.root, {key: view.get(key) for key in keys}, proof)

    def _check_height(self, now: Picture, height: int) -> None:
        if not self.params.genesis_height <= height <= now.head.height:
            raise NotFound(f"there is no block {height}")

    def _replaced_since(self, now: Picture, height: int) -> ReverseDiff:
        """Everything replaced since `height`; what was merged for an earlier head is continued, not merged again."""
        self._check_height(now, height)
        if height < now.head.height and now.rows.get(at(layout.DIFF, height + 1)) is None:
            raise past.pruned(now.rows, height)
        known = self._replaced.get(height)
        if known is None or known[0] > now.head.height:
            merged = past.replaced_since(now.rows, height, now.head.height)
        elif known[0] == now.head.height:
            return known[1]
        else:
            newer = past.replaced_since(now.rows, known[0], now.head.height)
            merged = ReverseDiff(newer.state | known[1].state, newer.history | known[1].history)
        if len(merged.state) <= MAX_REMEMBERED_KEYS:
            self._replaced[height] = now.head.height, merged
            if len(self._replaced) > MAX_REMEMBERED_PASTS:
                self._replaced.popitem(last=False)
        return merged

    def _row(self, prefix: bytes, where: int | bytes) -> bytes:
        height = where if isinstance(where, int) else self.height_of(where)
        row = self._now.rows.get(at(prefix, height)) if height >= 0 else None
        if row is None and self.params.genesis_height < height <= self._now.head.height:
            lost = height in lost_blocks(self._now.rows)
            raise NotFound(
                f"block {height} was lost here with a damaged database" if lost else f"block {height} is not kept here",
                hint="the node's operator gets it back with `quorix db import`; until then ask another node" if lost else
                "this node began from a snapshot; ask one that has all blocks",
            )
        if row is None:
            raise NotFound(f"there is no block {height}")
        return row
