"""The working state of a block: a read-only view below, changed keys above, and undo for a failed call.

Every write goes through `put` or `put_value`, which journal what was there. A call that is refused is undone by
`revert(mark)`; the changes that remain at the block's end are the block's result.

Tables whose values cannot be changed in place keep them here as objects (`value`, `put_value`): a row is decoded once a
block, and encoded once, at the block's end, however often it changes in between. Everything else is byte strings. Nothing
that is stored here may be changed in place.

Rules: BLK-10 the overlay of a block
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from operator import is_
from typing import Any, Protocol, cast

from ledger.machine import RememberingView, View

_ABSENT: Any = object()


class Codec(Protocol):
    """How a value becomes bytes and back; a table."""

    remembered: bool  # what was made of the view's values is kept for later blocks

    def encode(self, value: Any) -> bytes: ...

    def encode_each(self, values: Sequence[Any]) -> list[bytes]: ...

    def differ_each(self, values: Sequence[Any], others: Sequence[Any]) -> list[bool]: ...

    def decode_own(self, data: bytes) -> Any: ...


class _Row:
    """What is known of one key. All of it in one place: a block asks for thousands of keys, each of them many times."""

    __slots__ = ("before", "change", "start", "value")

    def __init__(self) -> None:
        self.before: Any = _ABSENT  # bytes of the view, None where it has none
        self.change: Any = _ABSENT  # what was written: bytes, None, or a codec: then it is in `value`, not encoded yet
        self.value: Any = _ABSENT  # decoded, as of now; None where there is nothing
        self.start: Any = _ABSENT  # decoded, as of the start of the block; of rows written since


class State:
    """Overlay over a `View`. Reads see own writes; iteration merges both in ascending key order."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._rows: dict[bytes, _Row] = {}  # the view is asked once a block for each key
        self._changed: dict[bytes, _Row] = {}  # those of them that were written
        self._memory = cast(RememberingView, view) if hasattr(view, "kept") else None
        self._fresh: dict[Codec, dict[bytes, Any]] = {}
        self._journal: list[tuple[bytes, _Row, Any, Any]] = []  # key, its row, `change` and `value` before a write

    # --- byte strings -----------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        return self._data(key, self._rows.get(key) or self._row(key))

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set a value; None deletes."""
        row = self._rows.get(key) or self._row(key)
        self._journal.append((key, row, row.change, row.value))
        row.change, row.value = value, _ABSENT
        self._changed[key] = row

    def before(self, key: bytes) -> bytes | None:
        """Value of `key` at the start of the block."""
        return self._data_before(key, self._rows.get(key) or self._row(key))

    def _row(self, key: bytes) -> _Row:
        row = self._rows[key] = _Row()
        return row

    def _data(self, key: bytes, row: _Row) -> bytes | None:
        found: Any = row.change
        if found is _ABSENT:
            return self._data_before(key, row)
        if found is not None and type(found) is not bytes:
            found = row.change = found.encode(row.value)
        data: bytes | None = found
        return data

    def _data_before(self, key: bytes, row: _Row) -> bytes | None:
        data: bytes | None = row.before
        if data is _ABSENT:
            data = row.before = self._view.get(key)
        return data

    # --- values as objects ------------------------------------------------------------------------------------------

    def value(self, key: bytes, codec: Codec) -> Any:
        """The decoded value, None if there is none."""
        row = self._rows.get(key)
        if row is None:  # most reads of a block are of a key that it has not asked for
            row = self._rows[key] = _Row()
            memory = self._memory if codec.remembered else None
            if memory is not None and (kept := memory.kept.get(key)) is not None and kept.codec is codec:
                memory.met[key] = kept
                row.value = value = kept.value
                return value
            data = row.before = self._view.get(key)
            row.value = value = None if data is None else codec.decode_own(data)
            if memory is not None and value is not None:
                kept = memory.entry(key)
                kept.codec, kept.value = codec, value
            return value
        value = row.value
        if value is _ABSENT:
            data = self._data(key, row)
            value = row.value = None if data is None else codec.decode_own(data)
        return value

    def put_value(self, key: bytes, codec: Codec, value: Any) -> None:
        """Set a value, not None, that will be encoded when its bytes are asked for."""
        row = self._rows.get(key) or self._row(key)
        change, old = row.change, row.value
        if change is _ABSENT:
            row.start = old
            self._changed[key] = row
        self._journal.append((key, row, change, old))
        row.change, row.value = codec, value

    def put_settled(self, values: Mapping[bytes, Any], codec: Codec) -> None:
        """`put_value` of many at once that will not be undone, after `settle`."""
        rows, changed = self._rows, self._changed
        for key, value in values.items():
            row = rows.get(key) or self._row(key)
            if row.change is _ABSENT:
                row.start = row.value
                changed[key] = row
            row.change, row.value = codec, value

    def value_before(self, key: bytes, codec: Codec) -> Any:
        """The decoded value at the start of the block."""
        row = self._rows.get(key) or self._row(key)
        if row.start is _ABSENT:
            data = self._data_before(key, row)
            row.start = None if data is None else codec.decode_own(data)
        return row.start

    def values_of(self, keys: Sequence[bytes], codec: Codec) -> tuple[list[Any], list[Any]]:
        """The decoded values of many keys, now and at the start of the block; None where there is none."""
        rows = [self._rows.get(key) or self._row(key) for key in keys]
        now, then = [row.value for row in rows], [row.start for row in rows]
        if any(map(is_, now, repeat(_ABSENT))):
            now = [self.value(key, codec) for key in keys]
        if any(map(is_, then, repeat(_ABSENT))):
            then = [self.value_before(key, codec) for key in keys]
        return now, then

    # --- iteration --------------------------------------------------------------------------------------------------

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs under `prefix`, ascending. Writes made while iterating are not seen."""
        changed = sorted(key for key in self._changed if key.startswith(prefix) and key > after)
        at = 0
        for key, value in self._view.items(prefix, after):
            while at < len(changed) and changed[at] < key:
                fresh = self.get(changed[at])
                if fresh is not None:
                    yield changed[at], fresh
                at += 1
            if at < len(changed) and changed[at] == key:
                continue
            yield key, value
        for key in changed[at:]:
            fresh = self.get(key)
            if fresh is not None:
                yield key, fresh

    # --- undo and result --------------------------------------------------------------------------------------------

    def mark(self) -> int:
        """A point to which `revert` can return."""
        return len(self._journal)

    def revert(self, mark: int) -> None:
        """Undo every write since `mark`."""
        while len(self._journal) > mark:
            key, row, change, value = self._journal.pop()
            row.change, row.value = change, value
            if change is _ABSENT:
                del self._changed[key]

    def settle(self) -> None:
        """Nothing written so far will be undone any more: no mark is used again."""
        self._journal.clear()

    def changes(self) -> dict[bytes, bytes | None]:
        """Keys whose value differs from the view's, with the new value; None deletes."""
        self._fresh = {}
        differs = self._encode_values()
        out: dict[bytes, bytes | None] = {}
        for key, row in self._changed.items():
            if row.before is _ABSENT and key in differs:
                if differs[key]:
                    out[key] = row.change
            elif row.change != (row.before if row.before is not _ABSENT else self._data_before(key, row)):
                out[key] = row.change
        return out

    def absent_before(self, keys: Iterable[bytes]) -> int:
        """How many of these keys had no value at the start of the block."""
        absent, rows = 0, self._rows
        for key in keys:
            if key in rows and (start := rows[key].start) is not _ABSENT:
                absent += start is None
            else:
                absent += self.before(key) is None
        return absent

    def objects(self) -> dict[Codec, dict[bytes, Any]]:
        """Of remembered codecs, the values that the last `changes` made bytes of."""
        return self._fresh

    def _encode_values(self) -> dict[bytes, bool]:
        """Make bytes of all values that were written as objects, those of one table at once; says which are new."""
        waiting: dict[Codec, list[bytes]] = {}
        for key, row in self._changed.items():
            codec = row.change
            if codec is not None and type(codec) is not bytes:
                if codec in waiting:
                    waiting[codec].append(key)
                else:
                    waiting[codec] = [key]
        differs: dict[bytes, bool] = {}
        for codec, keys in waiting.items():
            rows = [self._changed[key] for key in keys]
            values, starts = [row.value for row in rows], [row.start for row in rows]
            for row, data in zip(rows, codec.encode_each(values), strict=True):
                row.change = data
            if codec.remembered:
                self._fresh.setdefault(codec, {}).update(zip(keys, values, strict=True))
            if not any(map(is_, starts, repeat(_ABSENT))) and not any(map(is_, starts, repeat(None))):
                differs.update(zip(keys, codec.differ_each(values, starts), strict=True))
        return differs
