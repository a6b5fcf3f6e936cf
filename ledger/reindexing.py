"""Making all index rows again from the stored blocks and results: `quorix db reindex`.

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
from .store import Snapshot, Store

BATCH_ROWS: Final = 5_000
_REINDEX: Final = b"reindex"

Progress = Callable[[str, int, int], None]  # what, done, of


def check_finished(rows: Snapshot) -> None:
    """Raises Corruption if the indexes are being made again and are not complete."""
    if rows.get(WORK_KEY) is not None:
        raise Corruption("the indexes are incomplete: making them again was interrupted", hint="quorix db reindex")


def reindex(store: Store, progress: Progress) -> int:
    """Delete every index row and make them again; returns how many there are now. Raises Corruption or DecodeError."""
    store.write({WORK_KEY: _REINDEX}, sync=True)
    _delete(store, progress)
    made, rows = 0, Rows()
    head = layout.Head.decode(store.get(layout.HEAD_KEY))
    for key, data in store.items(layout.BODY):
        height = int.from_bytes(key[1:], "big")
        result = store.get(at(layout.RESULT, height))
        if result is None:
            raise Corruption(f"the results of block {height} are missing")
        rows |= indexed(height, Body.decode(data), *layout.decode_result(result))
        if len(rows) >= BATCH_ROWS:
            store.write(rows, sync=False)
            made, rows = made + len(rows), Rows()
        progress("making index rows", height, head.height)
    store.write(rows | {WORK_KEY: None}, sync=True)
    return made + len(rows)


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
