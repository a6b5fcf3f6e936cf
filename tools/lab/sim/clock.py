"""Virtual time: a list of things to do, in the order of their time, and of their making where times are equal."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush

EPOCH_MS = 1_700_000_000_000  # wall time at the start of every world


class Timeline:
    """`now_ms` moves from one action to the next and in no other way."""

    def __init__(self) -> None:
        self.now_ms = 0
        self.actions = 0
        self._heap: list[tuple[int, int, Callable[[], None]]] = []

    def after(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do it in `delay_ms`, or at once after what is going on if that is not above 0."""
        self.actions += 1
        heappush(self._heap, (self.now_ms + max(0, delay_ms), self.actions, action))

    def step(self) -> bool:
        """Do the next thing. False if there is nothing left to do."""
        if not self._heap:
            return False
        self.now_ms, _, action = heappop(self._heap)
        action()
        return True
