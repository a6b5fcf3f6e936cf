"""A disk that forgets: what was written without sync may be lost in a crash, the newest writes first."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from ledger.store import MemoryStore


class FaultStore(MemoryStore):
    """A store in memory. `crash` undoes a random number of the newest writes since the last synced one."""

    def __init__(self, rng: Random) -> None:
        super().__init__()
        self._rng = rng
        self._undo: list[dict[bytes, bytes | None]] = []

    def write(self, batch: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        if sync:
            self._undo.clear()
        else:
            self._undo.append({key: self.get(key) for key in batch})
        super().write(batch, sync=sync)

    def crash(self) -> int:
        """Lose what the operating system had not written; returns how many batches that were."""
        lost = self._rng.randint(0, len(self._undo))
        for _ in range(lost):
            super().write(self._undo.pop(), sync=True)
        self._undo.clear()
        return lost
