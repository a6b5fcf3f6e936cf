"""Making all index rows again from the stored blocks and results, with the places in state rows: `quorix db reindex`.

The lists of accounts have no gaps afterwards, but for blocks that are lost (see `lost`): the indexes do not know them.

The mark `m/work` is written before the first old row is deleted and goes with the last new one. While it is there nothing
opens the chain: a search would silently find too little. A second run begins anew, so a kill does no harm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from . import layout
from .blocks import Body
from .deep_check import INDEX_KINDS, indexed
from .errors import Corruption
from .indexes import Rows
from .layout import WORK_KEY, at
from .linking import AccountKey, Links, mended_row
from .lost import lost_blocks
from .store import Snapshot, Store

BATCH_ROWS: Final = 5_000
_REINDEX: Final = b"reindex"

Progress = Callable[[str, int, int], None]  # what, done, of


def check_finished(rows: Snapshot) -> None:
    """Raises Corruption if the indexes are being made again and are not complete."""
    if rows.get(WORK_KEY) is not None:
        raise Corruption("the indexes are incomplete: making them again was interrupted", hint="quorix db reindex")


def reindex(store: Store, account_key: AccountKey, progress: Progress) -> int:
    """Delete every index row and make them again; returns how many there are now. Raises Corruption or DecodeError."""
    store.write({WORK_KEY: _REINDEX}, sync=True)
    _delete(store, progress)
    made, rows, links = 0, Rows(), Links(account_key)
    head, lost = layout.Head.decode(store.get(layout.HEAD_KEY)), lost_blocks(store)
    for key, data in store.items(layout.BODY):
        height = int.from_bytes(key[1:], "big")
        if height in lost:
            continue
        result = store.get(at(layout.RESULT, height))
        if result is None:
            raise Corruption(f"the results of block {height} are missing")
        rows |= indexed(height, Body.decode(data), *layout.decode_result(result), links)
        if len(rows) >= BATCH_ROWS:
            store.write(rows, sync=False)
            made, rows = made + len(rows), Rows()
        progress("making index rows", height, head.height)
    made += len(rows)
    store.write(rows | _mended(store, links, progress) | {WORK_KEY: None}, sync=True)
    return made


def _mended(store: Store, heads: dict[bytes, bytes], progress: Progress) -> Rows:
    """Put the places into the state rows, where others are. Returns the last rows, which are not written yet."""
    rows = Rows()
    for seen, (key, row) in enumerate(store.items(layout.STATE), 1):
        mended = mended_row(row, heads.get(key[1:]))
        if mended != row:
            rows[key] = mended
        if len(rows) >= BATCH_ROWS:
            store.write(rows, sync=False)
            rows = Rows()
        if seen % BATCH_ROWS == 0:
            progress("linking accounts", seen, 0)
    return rows


def _delete(store: Store, progress: Progress) -> None:
    deleted = 0
    for kind in INDEX_KINDS:
        rows = Rows()
        for key, _ in store.items(kind):
            rows[key] = None
            if len(rows) >= BATCH_ROWS:
                store.write(rows, sync=False)
                deleted, rows = deleted + len(rows), Rows()
                progress("deleting index rows", deleted, 0)
        store.write(rows, sync=False)
        deleted += len(rows)
