"""How long something usually takes: the newest measurements and their 95th percentile."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

SAMPLES: Final = 64
SAMPLES_NEEDED: Final = 16


@dataclass
class Latencies:
    """The newest measurements of one thing, in seconds."""

    newest: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES))

    def note(self, seconds: float) -> None:
        """Remember one."""
        self.newest.append(seconds)

    def p95(self) -> float | None:
        """The 95th percentile, or None while there are too few."""
        if len(self.newest) < SAMPLES_NEEDED:
            return None
        return sorted(self.newest)[len(self.newest) * 95 // 100]
