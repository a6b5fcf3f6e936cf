"""How long something usually takes: the newest measurements and their 95th percentile."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from typing import Final

SAMPLES: Final = 64
SAMPLES_NEEDED: Final = 16


@dataclass
class Latencies:
    """The newest measurements of one thing, in seconds."""

    newest: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    _ordered: list[float] = field(default_factory=list)

    def note(self, seconds: float) -> None:
        """Remember one."""
        if len(self.newest) == SAMPLES:
            del self._ordered[bisect_left(self._ordered, self.newest[0])]
        self.newest.append(seconds)
        insort(self._ordered, seconds)

    def p95(self) -> float | None:
        """The 95th percentile, or None while there are too few."""
        if len(self.newest) < SAMPLES_NEEDED:
            return None
        return self._ordered[len(self._ordered) * 95 // 100]
