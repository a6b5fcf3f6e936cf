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
from .machine import Kept, Objects
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
    """State rows of the head that were read or written lately, with what the machine made of their values.

    Belongs to the chain thread.
    """

    def __init__(self) -> None:
        self.kept: dict[bytes, Kept] = {}
        self.heads = 0  # counts the heads that it was moved to

    def fill(self, below: LayeredRows, remembered: Callable[[Iterable[tuple[bytes, bytes]]], Objects]) -> None:
        """Begin with the head's first rows, as many as have room: one by one they would cost ten times as much.

        `remembered`: see `StateMachine.remembered`.
        """
        first = islice(below.items(STATE), MAX_CACHED_ROWS - len(self.kept))
        self.kept.update((key[1:], Kept(row)) for key, row in first if len(row) <= MAX_CACHED_ROW_BYTES)
        values = ((key, state_value(each.row)) for key, each in self.kept.items() if each.row is not None)
        _note(self.kept, remembered(values))

    def over(self, below: LayeredRows) -> CachedView:
        """The head's view, reading through this cache."""
        return CachedView(below, self)

    def again(self, view: CachedView | None, below: LayeredRows) -> CachedView:
        """That view, if it shows the head still, or another one."""
        return view if view is not None and view.is_of(self) else self.over(below)

    def advance(
        self, view: CachedView, changes: Mapping[bytes, bytes | None], objects: Mapping[Any, Mapping[bytes, Any]]
    ) -> None:
        """A block that wrote these state rows became the head. `view`: the head's until now; `objects`: see `BlockResult`."""
        kept, met = self.kept, view.met
        for key, row in changes.items():
            each = met[key] if key in met else view.entry(key)
            each.row, each.codec = row, None
            if row is not None and len(row) > MAX_CACHED_ROW_BYTES:
                kept.pop(key, None)
            elif key not in met:  # it was too long to be kept
                kept[key] = met[key] = each
        _note(met, objects)
        self.heads += 1
        if len(kept) > MAX_CACHED_ROWS:  # forget what was known longest
            for key in list(islice(kept, len(kept) - MAX_CACHED_ROWS // 2)):
                del kept[key]

    def clear(self) -> None:
        self.kept.clear()
        self.heads += 1


def _note(kept: Mapping[bytes, Kept], objects: Mapping[Any, Mapping[bytes, Any]]) -> None:
    """Put objects beside the rows that they were made of, where those are kept."""
    for codec, values in objects.items():
        for key, value in values.items():
            if (each := kept.get(key)) is not None:
                each.codec, each.value = codec, value


class CachedView:
    """The head's state, read through a cache; implements `machine.RememberingView`. Of no use when the head has moved on."""

    def __init__(self, below: LayeredRows, cache: RowCache) -> None:
        self._below, self._cache, self._head = below, cache, cache.heads
        self.kept, self.met = cache.kept, dict[bytes, Kept]()

    def is_of(self, cache: RowCache) -> bool:
        """Whether it still shows the head of this cache."""
        return self._cache is cache and self._head == cache.heads

    def entry(self, key: bytes) -> Kept:
        """See `RememberingView`. Those that are met are found faster again than among all."""
        found = self.met.get(key) or self.kept.get(key)
        if found is None:
            row = self._below.get(STATE + key)
            found = Kept(row)
            if row is not None and len(row) > MAX_CACHED_ROW_BYTES:
                return found
            self.kept[key] = found
        self.met[key] = found
        return found

    def get(self, key: bytes) -> bytes | None:
        row = self.entry(key).row
        if row is None:
            return None
        return row[1 + PLACE_BYTES :] if row[:1] == LINKED_MARK else state_value(row)  # the first is what is asked most

    def row(self, key: bytes) -> bytes | None:
        """The whole state row."""
        return self.entry(key).row

    def rows(self, keys: Iterable[bytes]) -> dict[bytes, bytes | None]:
        """The whole state rows of these keys."""
        met, entry = self.met, self.entry
        return {key: (met[key] if key in met else entry(key)).row for key in keys}

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return StateView(self._below).items(prefix, after)
