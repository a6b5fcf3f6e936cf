"""Disks that remember the order of everything, so that the power can fail after any operation.

All `FaultStore`s of a world share a `Journal`. It can tell what each disk holds if the power fails after the first `count`
operations: what was synced, and of the writes since then a beginning, as a log on a real disk would have it. A write is
whole or not there at all: LevelDB guarantees that for batches, and `quorix lab powerloss` checks it on real logs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random

from ledger.store import MemoryStore

Batch = Mapping[bytes, bytes | None]


@dataclass(frozen=True)
class Operation:
    """A write to one disk, at a moment of the world's time."""

    disk: str
    batch: Batch = field(repr=False)
    sync: bool
    at_ms: int


class Journal:
    """Every write of every disk, in order. `now_ms`: the world's clock. `watch` sees each write before it happens."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self.operations: list[Operation] = []
        self.watch: Callable[[Operation], None] = lambda operation: None

    def append(self, disk: str, batch: Batch, sync: bool) -> None:
        operation = Operation(disk, dict(batch), sync, self._now_ms())
        self.watch(operation)
        self.operations.append(operation)


class FaultStore(MemoryStore):
    """One disk. Reads see every write, as the page cache does."""

    def __init__(self, journal: Journal, name: str) -> None:
        super().__init__()
        self._journal, self.name = journal, name
        self._unsynced: dict[bytes, bytes | None] = {}  # rows of the disk where it differs from what is read

    def write(self, batch: Batch, *, sync: bool) -> None:
        self._journal.append(self.name, batch, sync)
        if sync:
            self._unsynced.clear()
        else:
            for key in batch:
                self._unsynced.setdefault(key, self.get(key))
        super().write(batch, sync=sync)

    def durable(self, key: bytes) -> bytes | None:
        """What would be read if the power failed now and everything that was not synced were lost."""
        return self._unsynced[key] if key in self._unsynced else self.get(key)

    def crash(self) -> int:
        """The process dies, the machine does not: nothing is lost."""
        return 0


class Disks:
    """What all disks hold as operations are replayed one after the other."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._synced: dict[str, dict[bytes, bytes]] = {}
        self._waiting: dict[str, list[Batch]] = {}
        self.count = 0

    def advance(self) -> Operation:
        """One operation more. On each disk a sync makes everything before it durable, too."""
        operation = self._journal.operations[self.count]
        self.count += 1
        waiting = self._waiting.setdefault(operation.disk, [])
        waiting.append(operation.batch)
        if operation.sync:
            rows = self._synced.setdefault(operation.disk, {})
            for batch in waiting:
                _put(rows, batch)
            waiting.clear()
        return operation

    def after_power_loss(self, disk: str, lost: Random | None) -> dict[bytes, bytes]:
        """Rows of a disk: all that was not synced is gone, or (with a `lost`) a random beginning of it is there."""
        rows = dict(self._synced.get(disk, {}))
        waiting = self._waiting.get(disk, [])
        for batch in waiting[: lost.randint(0, len(waiting)) if lost is not None else 0]:
            _put(rows, batch)
        return rows


def _put(rows: dict[bytes, bytes], batch: Batch) -> None:
    for key, value in batch.items():
        if value is None:
            rows.pop(key, None)
        else:
            rows[key] = value
