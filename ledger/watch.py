"""The doppelgänger wait: a key whose sign database is missing listens before it signs anything.

It watches 30 s and 2 heights, or 120 s if the chain makes no progress; any message signed by the own key ends the node
(exit code 20). Then it signs only heights above the highest one seen. If the chain needs this very vote to go on, nothing
above is ever seen: only the operator can say from which height on no other copy of the key has signed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

WATCH_MS: Final = 30_000
WATCH_HEIGHTS: Final = 2
STALLED_MS: Final = 120_000
WATCH_TICK_MS: Final = 1_000


@dataclass
class Watch:
    """Begun at `started_ms` (mono) with the chain at `first_height`."""

    started_ms: int
    first_height: int
    highest_seen: int
    progress_ms: int

    @classmethod
    def begin(cls, height: int, mono_ms: int) -> Watch:
        return cls(mono_ms, height, height, mono_ms)

    def saw(self, height: int, mono_ms: int) -> None:
        """A final block, or a verified message, of this height."""
        if height > self.highest_seen:
            self.highest_seen, self.progress_ms = height, mono_ms

    def is_over(self, mono_ms: int) -> bool:
        """Long enough and two heights, or long enough without any progress."""
        passed_ms = mono_ms - self.started_ms
        if passed_ms >= WATCH_MS and self.highest_seen >= self.first_height + WATCH_HEIGHTS:
            return True
        return mono_ms - self.progress_ms >= STALLED_MS
