"""Keeping a damaged database in which the head and the state are sound, and only old blocks are damaged.

Everything that can be read is copied, row by row, into a new database. Which blocks are not whole any more is written into it
(`ledger/lost.py`), what follows from the rest is made again (certificates that a later block repeats, places by hash, pages of
the tree, versions, indexes), and the deep check has to find nothing wrong. So no block above the damage is given up, and the
node goes on at its head. `quorix db import` brings lost blocks back (`db_refill.py`).

The history rows of the runtime are under no root, so they are only kept if all of them read with their checksums: LevelDB
then gave the newest version of each. What can be given up are headers, bodies, certificates and results; of the newest headers
and of those that a transaction may still name nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from ledger import layout, lost
from ledger.blocks import MAX_PERIOD
from ledger.deep_check import first_block
from ledger.errors import Corruption
from ledger.history import archive_from, reverse_diff, version_rows
from ledger.integrity import CHECKED_LINKS
from ledger.layout import Head, at
from ledger.lost import StoredBlock, stored_block
from ledger.state_tree import StateTree
from ledger.store import LevelStore, Snapshot

BATCH_ROWS: Final = 5_000
WHOLE_KINDS: Final = (
    b"m", layout.STATE, layout.DIFF, layout.AUTHORITIES, layout.HISTORY, layout.EXTRA,
)  # copied as they are; the remaining kinds are made again

Progress = Callable[[str, int, int], None]  # what, done, of
Rows = dict[bytes, bytes | None]


def first_unwhole(rows: Snapshot, initial_height: int, top: int) -> StoredBlock | None:
    """The lowest block up to `top` that cannot be executed again; None if there is none."""
    for height in range(initial_height, top + 1):
        if (found := stored_block(rows, height)).needs_block:
            return found
    return None


def salvage(damaged: LevelStore, fresh: LevelStore, progress: Progress) -> frozenset[int]:
    """Fill a new database with all that is sound; returns the heights of the blocks that are not whole.

    The caller makes the indexes again (the mark for that is set) and checks all of it. Raises what UNREADABLE names where
    something else is damaged than old blocks.
    """
    head = Head.decode(damaged.get(layout.HEAD_KEY))
    writer = _Writer(fresh)
    for kind in WHOLE_KINDS:
        for key, row in damaged.items(kind):
            writer.put(key, row)
    first, gone = first_block(damaged, head.height), set(lost.lost_blocks(damaged))
    for height in range(_lowest_trace(damaged, first), head.height + 1):
        block = stored_block(damaged, height)
        for key, row in _block_rows(block):
            writer.put(key, row)
        if height >= first and block.missing:
            gone.add(height)
            _refuse_needed(block, head.height)
        progress("reading blocks", height, head.height)
    for key, made in chain(_pages(damaged), _versions(damaged)):
        writer.put(key, made)
    writer.put(layout.LOST_KEY, lost.lost_row(gone))
    writer.put(layout.WORK_KEY, b"salvage")  # until the indexes are there
    writer.flush(sync=True)
    return frozenset(gone)


def _lowest_trace(rows: Snapshot, first: int) -> int:
    """Where headers begin: a node that began from a snapshot has some of blocks that it does not have."""
    try:
        for key, _ in rows.items(layout.HEADER):
            return min(first, int.from_bytes(key[1:], "big"))
    except Corruption:
        pass
    return first


def _refuse_needed(block: StoredBlock, head_height: int) -> None:
    """Raises Corruption if the node could not go on without what is missing of this block."""
    if block.header is None and block.height > head_height - CHECKED_LINKS:
        raise Corruption(f"the header of block {block.height} is needed")
    if block.header is None and block.certificate is None and block.height > head_height - MAX_PERIOD:
        raise Corruption(f"what block {block.height} is called is needed: transactions may name it")


def _block_rows(block: StoredBlock) -> Iterator[tuple[bytes, bytes]]:
    height = block.height
    if block.header is not None:
        yield at(layout.HEADER, height), block.header.encode()
        yield layout.BY_HASH + block.header.hash, height.to_bytes(8, "big")
    elif block.certificate is not None:
        yield layout.BY_HASH + block.certificate.block_hash, height.to_bytes(8, "big")
    if block.body is not None:
        yield at(layout.BODY, height), block.body.encode()
    if block.certificate is not None:
        yield at(layout.CERTIFICATE, height), block.certificate.encode()
    if block.result is not None:
        yield at(layout.RESULT, height), block.result


def _pages(rows: Snapshot) -> Iterator[tuple[bytes, bytes | None]]:
    values = {key[1:]: layout.state_value(row) for key, row in rows.items(layout.STATE)}
    for key, page in StateTree().updated(values)[1].items():
        yield layout.PAGE + key, page


def _versions(rows: Snapshot) -> Iterator[tuple[bytes, bytes | None]]:
    archive = archive_from(rows)
    for key, _ in () if archive is None else rows.items(layout.DIFF, at(layout.DIFF, archive)):
        height = int.from_bytes(key[1:], "big")
        yield from version_rows(reverse_diff(rows, height), height).items()


class _Writer:
    """Rows for a database, some thousand in one unsynced write."""

    def __init__(self, store: LevelStore) -> None:
        self._store, self._rows = store, Rows()

    def put(self, key: bytes, row: bytes | None) -> None:
        self._rows[key] = row
        if len(self._rows) >= BATCH_ROWS:
            self.flush(sync=False)

    def flush(self, *, sync: bool) -> None:
        self._store.write(self._rows, sync=sync)
        self._rows = Rows()
