"""The working state of a block: a read-only view below, changed keys above, and undo for a failed call.

Every write goes through `put`, which journals the previous value. A call that is refused is undone by `revert(mark)`;
the changes that remain at the block's end are the block's result. Values are immutable byte strings: no buffer is shared.
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.machine import View

_ABSENT = object()


class State:
    """Overlay over a `View`. Reads see own writes; iteration merges both in ascending key order."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._before: dict[bytes, bytes | None] = {}  # what was read of the view: each key is asked once a block
        self._changes: dict[bytes, bytes | None] = {}
        self._journal: list[tuple[bytes, object]] = []

    def get(self, key: bytes) -> bytes | None:
        if key in self._changes:
            return self._changes[key]
        return self.before(key)

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set a value; None deletes."""
        self._journal.append((key, self._changes.get(key, _ABSENT)))
        self._changes[key] = value

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs under `prefix`, ascending. Writes made while iterating are not seen."""
        changed = sorted(key for key in self._changes if key.startswith(prefix) and key > after)
        at = 0
        for key, value in self._view.items(prefix, after):
            while at < len(changed) and changed[at] < key:
                fresh = self._changes[changed[at]]
                if fresh is not None:
                    yield changed[at], fresh
                at += 1
            if at < len(changed) and changed[at] == key:
                continue
            yield key, value
        for key in changed[at:]:
            fresh = self._changes[key]
            if fresh is not None:
                yield key, fresh

    def mark(self) -> int:
        """A point to which `revert` can return."""
        return len(self._journal)

    def revert(self, mark: int) -> None:
        """Undo every write since `mark`."""
        while len(self._journal) > mark:
            key, previous = self._journal.pop()
            if previous is _ABSENT:
                del self._changes[key]
            else:
                assert previous is None or isinstance(previous, bytes)
                self._changes[key] = previous

    def changes(self) -> dict[bytes, bytes | None]:
        """Keys whose value differs from the view's, with the new value; None deletes."""
        return {key: value for key, value in self._changes.items() if self.before(key) != value}

    def before(self, key: bytes) -> bytes | None:
        """Value of `key` at the start of the block."""
        if key in self._before:
            return self._before[key]
        value = self._before[key] = self._view.get(key)
        return value
