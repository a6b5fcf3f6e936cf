"""The queue of work: the best class first, in a class the nearest deadline, then the oldest.

At most 64 steps wait when a new session asks to be let in, those of worse classes not counted: it would pass them anyway,
so no crowd of strangers can make the neuron busy for validators. A session that is already in may always queue its next
step, because sessions themselves are limited. Work whose session has ended or whose deadline has passed is dropped unseen.
"""

from __future__ import annotations

import heapq
from asyncio import Future
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .refusals import Refused

QUEUE_LIMIT: Final = 64
BUSY_RETRY_MS: Final = 200


@dataclass(slots=True, eq=False)
class Job:
    """One step of a session: either `windows` to predict, or a `call` that the model runs alone."""

    priority: int
    deadline_ms: int
    future: Future[Any]
    windows: Sequence[bytes] = ()
    call: Callable[[], Any] | None = None
    taken: int = 0  # windows already handed to a batch
    results: list[bytes] = field(default_factory=list)
    order: int = 0

    def __lt__(self, other: Job) -> bool:
        return (self.priority, self.deadline_ms, self.order) < (other.priority, other.deadline_ms, other.order)

    @property
    def left(self) -> int:
        """Windows that no batch has taken yet."""
        return len(self.windows) - self.taken


class WorkQueue:
    """Jobs by priority. The clock comes in as an argument (unix milliseconds)."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self._limit = limit
        self._heap: list[Job] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._heap)

    def check_room(self, priority: int = 0, coming: int = 0) -> None:
        """Raises Refused busy where a new session of that class would have to wait behind a full queue.

        `coming`: steps of sessions that have just been let in and are not in the queue yet.
        """
        if len(self._heap) + coming < self._limit:
            return
        self._heap = [job for job in self._heap if not job.future.done()]
        heapq.heapify(self._heap)
        before = coming + sum(job.priority <= priority for job in self._heap)
        if before >= self._limit:
            raise Refused("busy", f"{before} steps wait", retry_after_ms=BUSY_RETRY_MS)

    def push(self, job: Job) -> None:
        """Add a step, or put back the rest of one (which keeps its place)."""
        if not job.order:
            self._order += 1
            job.order = self._order
        heapq.heappush(self._heap, job)

    def pop(self, now_ms: int) -> Job | None:
        """The next step to work on, or None."""
        while self._heap:
            job = heapq.heappop(self._heap)
            if not job.future.done() and now_ms < job.deadline_ms:
                return job
        return None

    def clear(self) -> None:
        """Drop everything."""
        self._heap.clear()
