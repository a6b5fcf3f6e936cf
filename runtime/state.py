"""The working state of a block: a read-only view below, changed keys above, and undo for a failed call.

Every write goes through `put` or `put_value`, which journal what was there. A call that is refused is undone by
`revert(mark)`; the changes that remain at the block's end are the block's result.

Tables whose values cannot be changed in place keep them here as objects (`value`, `put_value`): a row is decoded once a
block, and encoded once, at the block's end, however often it changes in between. Everything else is byte strings. Nothing
that is stored here may be changed in place.

Rules: BLK-10 the overlay of a block
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from ledger.machine import View

_ABSENT: Any = object()


class Codec(Protocol):
    """How a value becomes bytes and back; a table."""

    def encode(self, value: Any) -> bytes: ...

    def decode_own(self, data: bytes) -> Any: ...


class State:
    """Overlay over a `View`. Reads see own writes; iteration merges both in ascending key order."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._before: dict[bytes, bytes | None] = {}  # what was read of the view: each key is asked once a block
        self._changes: dict[bytes, Any] = {}  # a codec: the value is in _values, not encoded yet
        self._values: dict[bytes, Any] = {}  # decoded values as of now, None where there is none
        self._values_before: dict[bytes, Any] = {}  # decoded values at the start of the block, of keys written since
        self._journal: list[tuple[bytes, Any, Any]] = []  # key, its entries in _changes and _values before a write

    # --- byte strings -----------------------------------------------------------------------------------------------

    def get(self, key: bytes) -> bytes | None:
        found = self._changes.get(key, _ABSENT)
        if found is _ABSENT:
            return self.before(key)
        if type(found) is bytes or found is None:
            return found
        data: bytes = found.encode(self._values[key])
        self._changes[key] = data
        return data

    def put(self, key: bytes, value: bytes | None) -> None:
        """Set a value; None deletes."""
        self._journal.append((key, self._changes.get(key, _ABSENT), self._values.pop(key, _ABSENT)))
        self._changes[key] = value

    def before(self, key: bytes) -> bytes | None:
        """Value of `key` at the start of the block."""
        value: bytes | None = self._before.get(key, _ABSENT)
        if value is _ABSENT:
            value = self._before[key] = self._view.get(key)
        return value

    # --- values as objects ------------------------------------------------------------------------------------------

    def value(self, key: bytes, codec: Codec) -> Any:
        """The decoded value, None if there is none."""
        value = self._values.get(key, _ABSENT)
        if value is _ABSENT:
            data = self.get(key) if key in self._changes else self.before(key)
            value = self._values[key] = None if data is None else codec.decode_own(data)
        return value

    def put_value(self, key: bytes, codec: Codec, value: Any) -> None:
        """Set a value, not None, that will be encoded when its bytes are asked for."""
        changes, values = self._changes, self._values
        change, old = changes.get(key, _ABSENT), values.get(key, _ABSENT)
        if change is _ABSENT and old is not _ABSENT:
            self._values_before[key] = old
        self._journal.append((key, change, old))
        changes[key] = codec
        values[key] = value

    def value_before(self, key: bytes, codec: Codec) -> Any:
        """The decoded value at the start of the block."""
        found = self._values_before.get(key, _ABSENT)
        if found is _ABSENT:
            data = self.before(key)
            found = self._values_before[key] = None if data is None else codec.decode_own(data)
        return found

    # --- iteration --------------------------------------------------------------------------------------------------

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """Pairs under `prefix`, ascending. Writes made while iterating are not seen."""
        changed = sorted(key for key in self._changes if key.startswith(prefix) and key > after)
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
            key, change, value = self._journal.pop()
            for rows, previous in ((self._changes, change), (self._values, value)):
                if previous is _ABSENT:
                    rows.pop(key, None)
                else:
                    rows[key] = previous

    def settle(self) -> None:
        """Nothing written so far will be undone any more: no mark is used again."""
        self._journal.clear()

    def changes(self) -> dict[bytes, bytes | None]:
        """Keys whose value differs from the view's, with the new value; None deletes."""
        out: dict[bytes, bytes | None] = {}
        before, values = self._before, self._values
        for key, change in self._changes.items():
            data = change if type(change) is bytes or change is None else change.encode(values[key])
            if data != (before[key] if key in before else self.before(key)):
                out[key] = data
        return out
