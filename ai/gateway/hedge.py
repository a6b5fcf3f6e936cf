"""Patience with experts: how many answers a request waits for, how long, and when another is asked in somebody's stead.

    k_min    once so many have answered, the others have a grace, which grows with what those needed
    hedge    who is later than its own rolling p95 gets a stand-in; of the two the first answer counts, the other session
             is cancelled (its receipt is still filed when its closing comes)
    budget   one hedge a request, and one for ten requests over all

Works on any coroutines, by key; what a stand-in does is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from ledger.errors import Error

K_MIN: Final = 2
STEP_TIMEOUT_S: Final = 2.5
GRACE_S: Final = 0.35
GRACE_FACTOR: Final = 3.0  # or so many times as long as the first ones took, so that a busy machine loses nobody
HEDGE_SHARE: Final = 0.1  # hedges for each request
HEDGES_SAVED: Final = 4.0  # quiet times do not add up to a storm
HEDGE_FLOOR_S: Final = 0.02  # nobody is that late

FAILURES = (Error, TimeoutError, OSError)
K = TypeVar("K", bound=Hashable)


@dataclass
class HedgeBudget:
    """How many hedges may still be made."""

    left: float = 1.0

    def earn(self) -> None:
        """A request begins."""
        self.left = min(HEDGES_SAVED, self.left + HEDGE_SHARE)

    def take(self) -> bool:
        """One hedge, if one is left."""
        if self.left < 1.0:
            return False
        self.left -= 1.0
        return True


@dataclass(frozen=True)
class Hedged(Generic[K]):
    """A hedge that was made. `won`: the stand-in answered first, or the late one failed."""

    late: K
    stand_in: K
    after_s: float
    won: bool


@dataclass
class Hedge(Generic[K]):
    """`after_s`: how long each key may take before a stand-in is wanted; keys that are absent never are.

    `stand_in(late)` gives (key, coroutine) of who is asked instead, or None where there is nobody or no budget.
    """

    after_s: dict[K, float]
    stand_in: Callable[[K], tuple[K, Coroutine[Any, Any, None]] | None]


@dataclass
class Answers(Generic[K]):
    """`lost`: why each key has no answer. `hedged`: the hedge that was made, if one was; its loser is not among `lost`."""

    lost: dict[K, BaseException]
    hedged: Hedged[K] | None = None


async def gather(work: dict[K, Coroutine[Any, Any, None]], hedge: Hedge[K] | None = None) -> Answers[K]:
    """Wait for all, patiently as the module says; whoever is late is cancelled. A bug in a coroutine is raised."""
    race = _Race(work, hedge)
    try:
        await race.run()
    finally:
        for task in race.tasks:
            task.cancel()
        await asyncio.gather(*race.tasks, return_exceptions=True)
    return Answers(race.lost, race.outcome())


class _Race(Generic[K]):
    """One wait. Of a late one and its stand-in, `rival` maps each task to the other."""

    def __init__(self, work: dict[K, Coroutine[Any, Any, None]], hedge: Hedge[K] | None) -> None:
        self.tasks = {asyncio.ensure_future(part): key for key, part in work.items()}
        self.lost: dict[K, BaseException] = {}
        self._hedge = hedge
        self._k_min = min(K_MIN, len(work))
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deadline = self._began + STEP_TIMEOUT_S
        self._waiting = set(self.tasks)
        self._answered = 0
        self._rival: dict[asyncio.Task[None], asyncio.Task[None]] = {}
        self._hedged: tuple[K, K, float] | None = None
        self._winner: K | None = None

    async def run(self) -> None:
        while self._waiting and self._loop.time() < self._deadline:
            until = min(self._deadline, self._hedge_at())
            done, _ = await asyncio.wait(
                self._waiting, timeout=max(0.0, until - self._loop.time()), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done & self._waiting:
                self._waiting.discard(task)
                self._note(task)
            if not done and self._loop.time() >= self._hedge_at():
                self._stand_in()
        for task in self._waiting:
            if not self._is_stand_in(task):
                self.lost[self.tasks[task]] = TimeoutError("late")

    def outcome(self) -> Hedged[K] | None:
        """The hedge, once it is decided."""
        if self._hedged is None:
            return None
        late, stand_in, after_s = self._hedged
        return Hedged(late, stand_in, after_s, self._winner == stand_in)

    def _note(self, task: asyncio.Task[None]) -> None:
        """An end: an answer ends the rival's chances, a failure is lost unless it was the stand-in's."""
        error, rival = task.exception(), self._rival.pop(task, None)
        if error is None:
            if rival is not None:
                self._waiting.discard(rival)
                rival.cancel()
            if self._hedged is not None and self.tasks[task] in self._hedged[:2]:
                self._winner = self.tasks[task]
            self._answered += 1
            if self._answered == self._k_min:
                now = self._loop.time()
                self._deadline = min(self._deadline, now + max(GRACE_S, GRACE_FACTOR * (now - self._began)))
        elif not isinstance(error, FAILURES):
            raise error
        elif not self._is_stand_in(task):
            self.lost[self.tasks[task]] = error

    def _is_stand_in(self, task: asyncio.Task[None]) -> bool:
        return self._hedged is not None and self.tasks[task] == self._hedged[1]

    def _hedge_at(self) -> float:
        """When the first of those that are waited for will be later than is usual for it."""
        if self._hedge is None or self._hedged is not None:
            return float("inf")
        after = [self._hedge.after_s[key] for task in self._waiting if (key := self.tasks[task]) in self._hedge.after_s]
        return self._began + max(HEDGE_FLOOR_S, min(after)) if after else float("inf")

    def _stand_in(self) -> None:
        """Ask another beside the one that is late."""
        assert self._hedge is not None
        late = min(
            (task for task in self._waiting if self.tasks[task] in self._hedge.after_s),
            key=lambda task: self._hedge.after_s[self.tasks[task]],  # type: ignore[union-attr]
        )
        made = self._hedge.stand_in(self.tasks[late])
        if made is None:
            self._hedge = None
            return
        key, work = made
        task = asyncio.ensure_future(work)
        self.tasks[task] = key
        self._waiting.add(task)
        self._rival = {late: task, task: late}
        self._hedged = (self.tasks[late], key, self._loop.time() - self._began)


__all__ = ["Answers", "Hedge", "HedgeBudget", "Hedged", "gather"]
