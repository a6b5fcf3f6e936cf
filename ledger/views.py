"""Reading layered state: rows of batches that are not written yet, over a snapshot of the store.

Layers and snapshots never change, so a view stays what it was and any thread may read it. The state of an earlier
height is the state of the head below one more layer, the reverse diffs since then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from itertools import islice
from typing import Final

from .layout import STATE
from .machine import View
from .store import Snapshot, prefix_end

MAX_CACHED_VALUES: Final = 1 << 17
MAX_CACHED_VALUE_BYTES: Final = 1024


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
        return self._rows.get(STATE + key)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._rows.items(STATE + prefix, STATE + after if after else b""):
            yield key[1:], value


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


class ValueCache:
    """Values of the head's state that were read or written lately. Belongs to the chain thread."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes | None] = {}

    def fill(self, values: Iterable[tuple[bytes, bytes]]) -> None:
        """Begin with these values of the head's state, as many as have room: one by one they would cost ten times as much."""
        room = MAX_CACHED_VALUES - len(self.values)
        self.values.update(
            (key, value) for key, value in islice(values, room) if len(value) <= MAX_CACHED_VALUE_BYTES
        )

    def over(self, view: View) -> View:
        """The head's view, reading through this cache."""
        return _CachedView(view, self.values)

    def advance(self, changes: Mapping[bytes, bytes | None]) -> None:
        """A block with these changes became the head."""
        values = self.values
        values.update(changes)
        for key, value in changes.items():
            if value is not None and len(value) > MAX_CACHED_VALUE_BYTES:
                del values[key]
        if len(values) > MAX_CACHED_VALUES:
            for key in list(islice(values, len(values) - MAX_CACHED_VALUES // 2)):  # the longest known ones
                del values[key]

    def clear(self) -> None:
        self.values.clear()


class _CachedView:
    def __init__(self, view: View, values: dict[bytes, bytes | None]) -> None:
        self._view, self._values = view, values

    def get(self, key: bytes) -> bytes | None:
        try:
            return self._values[key]
        except KeyError:
            value = self._view.get(key)
            if value is None or len(value) <= MAX_CACHED_VALUE_BYTES:
                self._values[key] = value
            return value

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return self._view.items(prefix, after)
