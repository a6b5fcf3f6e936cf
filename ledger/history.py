"""What a node keeps of past states: reverse diffs of the newest blocks (256 by default).

They give the state at those heights and let a devnet rewind. The indexes over blocks are in `ledger/indexes.py`.
"""

from __future__ import annotations

from typing import Final

from .blocks import Header
from .errors import Pruned
from .indexes import Rows, cut_index_rows
from .layout import BODY, BY_HASH, CERTIFICATE, DIFF, HEADER, RESULT, ReverseDiff, at
from .store import Snapshot

RETAINED_BLOCKS: Final = 256


def reverse_diff(rows: Snapshot, height: int) -> ReverseDiff:
    """What the block at `height` replaced. Raises Pruned."""
    row = rows.get(at(DIFF, height))
    if row is None:
        raise Pruned(f"the state before block {height} is no longer kept")
    return ReverseDiff.decode(row)


def replaced_since(rows: Snapshot, height: int, head_height: int) -> ReverseDiff:
    """Everything that the blocks after `height` replaced, as it was at `height`. Raises Pruned."""
    merged = ReverseDiff({}, {})
    for later in range(head_height, height, -1):
        diff = reverse_diff(rows, later)
        merged.state.update(diff.state)
        merged.history.update(diff.history)
    return merged


def cut_rows(rows: Snapshot, height: int) -> Rows:
    """Deletes all that was written under a block's height and hash; its state is undone by its reverse diff."""
    header = rows.get(at(HEADER, height))
    assert header is not None, f"block {height} is incomplete"
    removed: Rows = {at(prefix, height): None for prefix in (HEADER, BODY, CERTIFICATE, RESULT, DIFF)}
    removed[BY_HASH + Header.decode(header).hash] = None
    return removed | cut_index_rows(rows, height)
