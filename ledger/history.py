"""Past states: what a node keeps beside the blocks to read the state at earlier heights.

    full      reverse diffs of the newest blocks (256 by default): what each block replaced. A state some blocks back is
              the head's below the merged diffs since then. Older diffs are deleted as blocks come.
    archive   all reverse diffs, and the same values once more as versions, ordered by key and then height. The value at
              a height is the first version above it, else the head's: one seek, however old the height.

`m/archive` names the first height that versions give. It is written after the versions and deleted before them, so a
kill in the middle of a change of mode leaves rows that nobody reads. Reverse diffs also let a devnet rewind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import Final

from .blocks import Header
from .errors import Corruption, Pruned
from .indexes import Rows, cut_index_rows
from .layout import (
    ARCHIVE_KEY,
    BODY,
    BY_HASH,
    CERTIFICATE,
    DIFF,
    HEADER,
    RESULT,
    STATE,
    VERSION,
    ReverseDiff,
    at,
    state_value,
)
from .store import Snapshot, Store

RETAINED_BLOCKS: Final = 256
PRUNED_ROWS: Final = 2_000  # leftovers of another mode that one block's batch deletes
SKIPPED_VERSIONS: Final = 16  # read one by one before seeking over the rest of a key's
ROWS_A_DIFF: Final = 32  # a reverse diff weighs as many rows when work is shared out

_HEIGHT_BYTES: Final = 8
_LAST_HEIGHT: Final = b"\xff" * _HEIGHT_BYTES


# --- reverse diffs -----------------------------------------------------------------------------------------------


def kept_rows(before: ReverseDiff, height: int, retain: int | None, initial_height: int) -> Rows:
    """What a block's batch says about the past: its reverse diff; versions in an archive, else the diff too old now."""
    rows: Rows = {at(DIFF, height): before.encode()}
    if retain is None:
        rows |= version_rows(before, height)
    elif height - retain >= initial_height:
        rows[at(DIFF, height - retain)] = None
    return rows


def reverse_diff(rows: Snapshot, height: int) -> ReverseDiff:
    """What the block at `height` replaced. Raises Pruned."""
    row = rows.get(at(DIFF, height))
    if row is None:
        raise pruned(rows, height - 1)
    return ReverseDiff.decode(row)


def replaced_since(rows: Snapshot, height: int, head_height: int) -> ReverseDiff:
    """Everything that the blocks after `height` wrote, as it was at `height`. Raises Pruned."""
    merged = ReverseDiff({}, {})
    for later in range(head_height, height, -1):
        diff = reverse_diff(rows, later)
        merged.state.update(diff.state)
        merged.history.update(diff.history)
    return merged


def first_diff(rows: Snapshot) -> int | None:
    """The lowest height with a reverse diff; the state below it is the first that diffs give."""
    for key, _ in rows.items(DIFF):
        return int.from_bytes(key[1:], "big")
    return None


def first_readable(rows: Snapshot, head_height: int) -> int:
    """The lowest height whose state can be read."""
    archive = archive_from(rows)
    if archive is not None:
        return archive
    lowest = first_diff(rows)
    return head_height if lowest is None else lowest - 1


def pruned(rows: Snapshot, height: int) -> Pruned:
    """The error for a state that is no longer kept; names the heights that are."""
    lowest = first_diff(rows)
    archive = archive_from(rows)
    if archive is not None and (lowest is None or archive < lowest - 1):
        lowest = archive + 1
    if lowest is None:
        return Pruned(f"the state of block {height} is not kept here: only the newest one is")
    return Pruned(
        f"the state of block {height} is not kept here: states are kept from block {lowest - 1} on", first_kept=lowest - 1
    )


def cut_rows(rows: Snapshot, height: int) -> Rows:
    """Deletes all that was written under a block's height and hash; its state is undone by its reverse diff.

    Raises Corruption or DecodeError.
    """
    header = rows.get(at(HEADER, height))
    if header is None:
        raise Corruption(f"block {height} is incomplete")
    removed: Rows = {at(prefix, height): None for prefix in (HEADER, BODY, CERTIFICATE, RESULT, DIFF)}
    removed[BY_HASH + Header.decode(header).hash] = None
    removed.update((_version_key(key, height), None) for key in reverse_diff(rows, height).state)
    return removed | cut_index_rows(rows, height)


# --- versions ----------------------------------------------------------------------------------------------------


def version_rows(before: ReverseDiff, height: int) -> Rows:
    """What the block at `height` replaced, ordered by key."""
    return {_version_key(key, height): row or b"" for key, row in before.state.items()}


def archive_from(rows: Snapshot) -> int | None:
    """The first height that versions give, None where there is no archive."""
    row = rows.get(ARCHIVE_KEY)
    return None if row is None else int.from_bytes(row, "big")


def archive_mark(height: int) -> bytes:
    """Value of `m/archive`."""
    return height.to_bytes(_HEIGHT_BYTES, "big")


class ArchiveView:
    """The state after the block at `height`, by versions; implements `machine.View`."""

    def __init__(self, rows: Snapshot, height: int) -> None:
        self._rows, self._height = rows, height

    def get(self, key: bytes) -> bytes | None:
        prefix = _versions_of(key)
        for _, row in self._rows.items(prefix, prefix + self._height.to_bytes(_HEIGHT_BYTES, "big")):
            return state_value(row) if row else None
        now = self._rows.get(STATE + key)
        return None if now is None else state_value(now)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        below = self._rows.items(STATE + prefix, STATE + after if after else b"")
        return _overlaid(((key[1:], state_value(row)) for key, row in below), self._replaced(prefix, after))

    def _replaced(self, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, bytes | None]]:
        """(key, value at the height) of every key that a later block changed, ascending."""
        under = VERSION + _escaped(prefix)
        passed = _versions_of(after) + _LAST_HEIGHT if after else b""
        own_height = self._height.to_bytes(_HEIGHT_BYTES, "big")
        while True:
            decided, skipped = b"", 0
            for row, value in self._rows.items(under, passed):
                versions, height = row[:-_HEIGHT_BYTES], row[-_HEIGHT_BYTES:]
                if versions != decided and height > own_height:
                    decided, skipped = versions, 0
                    yield _unescaped(versions[1:-2]), state_value(value) if value else None
                elif (skipped := skipped + 1) > SKIPPED_VERSIONS:
                    passed = versions + (_LAST_HEIGHT if versions == decided else own_height)
                    break
            else:
                return


def _overlaid(
    below: Iterable[tuple[bytes, bytes]], above: Iterable[tuple[bytes, bytes | None]]
) -> Iterator[tuple[bytes, bytes]]:
    """Two ascending runs as one; on equal keys the upper one counts, and its None hides."""
    upper = iter(above)
    waiting = next(upper, None)
    for key, value in below:
        while waiting is not None and waiting[0] < key:
            if waiting[1] is not None:
                yield waiting[0], waiting[1]
            waiting = next(upper, None)
        if waiting is not None and waiting[0] == key:
            continue  # comes with the next key, or at the end
        yield key, value
    while waiting is not None:
        if waiting[1] is not None:
            yield waiting[0], waiting[1]
        waiting = next(upper, None)


def _version_key(key: bytes, height: int) -> bytes:
    return _versions_of(key) + height.to_bytes(_HEIGHT_BYTES, "big")


def _versions_of(key: bytes) -> bytes:
    """Prefix of a key's versions. The end mark keeps versions of one key together, in the order of keys."""
    return VERSION + _escaped(key) + b"\0\1"


def _escaped(key: bytes) -> bytes:
    return key.replace(b"\0", b"\0\xff")


def _unescaped(data: bytes) -> bytes:
    return data.replace(b"\0\xff", b"\0")


# --- change of mode, pruning -------------------------------------------------------------------------------------


def begin_archive(store: Store, head_height: int) -> int:
    """Make a database an archive from the first state on that it still has; returns that height."""
    known = archive_from(store)
    if known is not None:
        return known
    first = first_readable(store, head_height)
    for height in range(first + 1, head_height + 1):
        store.write(version_rows(reverse_diff(store, height), height), sync=False)
    store.write({ARCHIVE_KEY: archive_mark(first)}, sync=True)
    return first


def end_archive(store: Store) -> None:
    """From now on only reverse diffs are read. The rows that are of no use any more are deleted by a Pruner."""
    if archive_from(store) is not None:
        store.write({ARCHIVE_KEY: None}, sync=True)


class Pruner:
    """Deletes, some rows at a time, versions of a former archive and reverse diffs older than those kept.

    Nobody reads these rows; what a kill leaves, the next Pruner finds.
    """

    def __init__(self, keep_versions_above: int | None = None) -> None:
        """`keep_versions_above`: versions of later blocks stay (an archive that is shortened)."""
        self._floor = keep_versions_above
        self._after = {VERSION: b"", DIFF: b""}
        self.done = False

    def rows(self, stored: Snapshot, oldest_diff: int, limit: int = PRUNED_ROWS) -> Rows:
        """The next rows to delete; looks at `limit` rows of each kind."""
        found: Rows = {}
        ended = 0
        for key, _ in (looked := list(islice(stored.items(VERSION, self._after[VERSION]), limit))):
            if self._floor is None or int.from_bytes(key[-_HEIGHT_BYTES:], "big") <= self._floor:
                found[key] = None
        if looked:
            self._after[VERSION] = looked[-1][0]
        ended += len(looked) < limit
        diffs = max(1, limit // ROWS_A_DIFF)
        keys = (key for key, _ in islice(stored.items(DIFF, self._after[DIFF]), diffs))
        old = list(takewhile(lambda key: int.from_bytes(key[1:], "big") < oldest_diff, keys))
        found.update((key, None) for key in old)
        if old:
            self._after[DIFF] = old[-1]
        ended += len(old) < diffs
        self.done = ended == 2
        return found
