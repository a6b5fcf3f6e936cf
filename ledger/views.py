"""Reading layered state: rows of batches that are not written yet, over a snapshot of the store.

Layers and snapshots never change, so a view stays what it was and any thread may read it. The state of an earlier
height is the state of the head below one more layer, the reverse diffs since then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Any, Final

from .layout import LINKED_MARK, PLACE_BYTES, STATE, state_value
from .machine import Objects
from .store import Snapshot, prefix_end

MAX_CACHED_ROWS: Final = 1 << 17
MAX_CACHED_ROW_BYTES: Final = 1024


class Layer:
    """Changed rows (None: deleted). The mapping must not change any more."""

    def __init__(self, rows: Mapping[bytes, bytes | None]) -> None:
        self.rows = rows

    @cached_property
    def keys(self) -> list[bytes]:
        return sorted(self.rows)

    def under(self, prefix: bytes, after: bytes, reverse: bool) -> Iterator[tuple[bytes, bytes | None]]:
        """Changed rows with this prefix, beyond `after` if it is given, in no particular order."""
        keys, end = self.keys, prefix_end(prefix)
        low = bisect_left(keys, prefix)
        high = len(keys) if end is None else bisect_left(keys, end)
        if after and reverse:
            high = min(high, bisect_left(keys, after))
        elif after:
            low = max(low, bisect_right(keys, after))
        for index in range(low, high):
            yield keys[index], self.rows[keys[index]]


class LayeredRows:
    """A snapshot below layers, the newest layer first. Is itself a `Snapshot`."""

    def __init__(self, layers: tuple[Layer, ...], base: Snapshot) -> None:
        self.layers, self.base = layers, base

    def get(self, key: bytes) -> bytes | None:
        for layer in self.layers:
            if key in layer.rows:
                return layer.rows[key]
        return self.base.get(key)

    def items(self, prefix: bytes, after: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        below = self.base.items(prefix, after, reverse=reverse)
        if not self.layers:
            return below
        above: dict[bytes, bytes | None] = {}
        for layer in reversed(self.layers):
            above.update(layer.under(prefix, after, reverse))
        return _merged(below, above, reverse) if above else below


def _merged(
    below: Iterator[tuple[bytes, bytes]], above: dict[bytes, bytes | None], reverse: bool
) -> Iterator[tuple[bytes, bytes]]:
    """Two ordered runs as one; on equal keys the upper one counts."""
    waiting = sorted(above, reverse=not reverse)  # the next one is the last
    for key, value in below:
        while waiting and (waiting[-1] > key if reverse else waiting[-1] < key):
            changed = waiting.pop()
            if (new := above[changed]) is not None:
                yield changed, new
        if key not in above:
            yield key, value
    while waiting:
        changed = waiting.pop()
        if (new := above[changed]) is not None:
            yield changed, new


class StateView:
    """The state within the rows of a database; implements `machine.View`."""

    def __init__(self, rows: LayeredRows) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        row = self._rows.get(STATE + key)
        return None if row is None else state_value(row)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key, row in self._rows.items(STATE + prefix, STATE + after if after else b""):
            yield key[1:], state_value(row)


class MemoryView:
    """A state held in a mapping; implements `machine.View`."""

    def __init__(self, state: Mapping[bytes, bytes]) -> None:
        self._layer = Layer(state)

    def get(self, key: bytes) -> bytes | None:
        return self._layer.rows.get(key)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._layer.under(prefix, after, False):
            if value is not None:
                yield key, value


class RowCache:
    """State rows of the head that were read or written lately, and objects that the machine made of their values.

    Belongs to the chain thread.
    """

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes | None] = {}
        self.objects: Objects = {}

    def fill(self, below: LayeredRows, remembered: Callable[[Iterable[tuple[bytes, bytes]]], Objects]) -> None:
        """Begin with the head's first rows, as many as have room: one by one they would cost ten times as much.

        `remembered`: see `StateMachine.remembered`.
        """
        first = islice(below.items(STATE), MAX_CACHED_ROWS - len(self.rows))
        self.rows.update((key[1:], row) for key, row in first if len(row) <= MAX_CACHED_ROW_BYTES)
        self.objects = remembered((key, state_value(row)) for key, row in self.rows.items() if row is not None)

    def over(self, below: LayeredRows) -> CachedView:
        """The head's view, reading through this cache."""
        return CachedView(below, self.rows, self.objects)

    def advance(self, changes: Mapping[bytes, bytes | None], objects: Mapping[Any, Mapping[bytes, Any]]) -> None:
        """A block that wrote these state rows became the head. `objects`: see `BlockResult`."""
        rows = self.rows
        for codec, known in self.objects.items():
            fresh = objects.get(codec, {})
            for key in [key for key in changes if key not in fresh]:
                known.pop(key, None)
            known.update(fresh)
            _shorten(known)
        rows.update(changes)
        for key in [key for key, row in changes.items() if row and len(row) > MAX_CACHED_ROW_BYTES]:
            del rows[key]
        _shorten(rows)

    def clear(self) -> None:
        self.rows.clear()
        self.objects.clear()


def _shorten(cached: dict[bytes, Any]) -> None:
    """Forget what was known longest, if it is too much."""
    if len(cached) > MAX_CACHED_ROWS:
        for key in list(islice(cached, len(cached) - MAX_CACHED_ROWS // 2)):
            del cached[key]


class CachedView:
    """The head's state, read through a cache; implements `machine.RememberingView`."""

    def __init__(self, below: LayeredRows, cached: dict[bytes, bytes | None], objects: Objects) -> None:
        self._below, self._cached, self.objects = below, cached, objects

    def get(self, key: bytes) -> bytes | None:
        try:
            row = self._cached[key]
        except KeyError:
            row = self.row(key)
        if row is None:
            return None
        return row[1 + PLACE_BYTES :] if row[:1] == LINKED_MARK else state_value(row)  # the first is what is asked most

    def row(self, key: bytes) -> bytes | None:
        """The whole state row."""
        try:
            return self._cached[key]
        except KeyError:
            row = self._below.get(STATE + key)
            if row is None or len(row) <= MAX_CACHED_ROW_BYTES:
                self._cached[key] = row
            return row

    def rows(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The whole state rows of these keys."""
        cached, row = self._cached, self.row
        return {key: cached[key] if key in cached else row(key) for key in keys}

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return StateView(self._below).items(prefix, after)
