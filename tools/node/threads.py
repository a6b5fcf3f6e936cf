"""The threads of a node process and the bounded, named queues before them.

    chain    one, whatever the number of nodes: build, check, execute, import; everything that changes a chain in memory
    disk     one a node: sign records and block batches, in order; a sync is awaited here and never on the event loop
    verify   two: signatures. Lanes: votes before proposals before sync before transactions
    read     two: RPC reads that are more than a lookup

Values cross between threads, mutable state does not. What a thread raises is raised where its result is awaited. Votes and
sign records are always taken; the other queues refuse when they are full, which tells the caller to slow down.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, TypeVar

from ledger.errors import NotReady
from ledger.verdict import SignatureTask, verify_one_by_one

T = TypeVar("T")

CHAIN_QUEUE: Final = 1024
DISK_QUEUE: Final = 256
VERIFY_QUEUE: Final = 4096
READ_QUEUE: Final = 1024
VERIFY_THREADS: Final = 2
READ_THREADS: Final = 2
SWITCH_INTERVAL_S: Final = 0.001
COLLECT_AFTER: Final = 200_000  # containers made and not yet freed; a full block leaves some 10,000 that stay
JOIN_S: Final = 10.0
SPREAD_ABOVE: Final = 16  # fewer signatures than this are checked where they are
TAKEN_AT_ONCE: Final = 64  # signatures that a thread takes from a batch, about 4 ms


def settle_interpreter() -> None:
    """Settings of a node's process: threads take turns often, and the garbage collector looks seldom.

    Nearly everything is freed without it; what stays it would look at again after each block.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(COLLECT_AFTER, 10, 10)


class Lane(IntEnum):
    """Order of service in one queue; lower first."""

    VOTES = 0
    PROPOSALS = 1
    SYNC = 2
    TRANSACTIONS = 3


NEVER_REFUSED: Final = Lane.PROPOSALS  # this lane and those before it


@dataclass(slots=True)
class _Job:
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    done: Callable[[Any, BaseException | None], None]


class Workers:
    """Threads that take jobs from one bounded queue with lanes, first come first served within a lane."""

    def __init__(self, name: str, threads: int, limit: int) -> None:
        self.name, self.threads, self.limit = name, threads, limit
        self._lanes: tuple[deque[_Job], ...] = tuple(deque() for _ in Lane)
        self._ready = threading.Condition()
        self._waiting = 0
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{i}" if threads > 1 else name, daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def __len__(self) -> int:
        """Jobs that wait."""
        return self._waiting

    def call(self, function: Callable[..., T], *arguments: Any, lane: Lane = Lane.PROPOSALS) -> asyncio.Future[T]:
        """Run on a thread; the future belongs to the running event loop. Raises NotReady if the queue is full."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def done(result: Any, error: BaseException | None) -> None:
            try:
                loop.call_soon_threadsafe(_settle, future, result, error)
            except RuntimeError:
                pass  # the loop is closed: nobody waits any more

        self.post(function, arguments, done, lane)
        return future

    def post(
        self, function: Callable[..., Any], arguments: tuple[Any, ...],
        done: Callable[[Any, BaseException | None], None], lane: Lane,
    ) -> None:
        """Run on a thread; `done(result, error)` is called there."""
        with self._ready:
            if self._closed:
                raise NotReady(f"the {self.name} thread has stopped")
            if lane > NEVER_REFUSED and self._waiting >= self.limit:
                raise NotReady(f"{self._waiting} jobs wait for the {self.name} thread")
            self._lanes[lane].append(_Job(function, arguments, done))
            self._waiting += 1
            self._ready.notify()

    def close(self) -> None:
        """Finish what waits, then end the threads. Blocks for a few seconds at most."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(JOIN_S)

    def _run(self) -> None:
        while True:
            with self._ready:
                while not self._waiting:
                    if self._closed:
                        return
                    self._ready.wait()
                job = next(lane for lane in self._lanes if lane).popleft()
                self._waiting -= 1
            try:
                result, error = job.function(*job.arguments), None
            except BaseException as failed:
                result, error = None, failed
            job.done(result, error)
            del job, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.cancelled():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class Threads:
    """What all nodes of a process share. Each node makes its own disk thread with `disk`."""

    def __init__(self) -> None:
        self.chain = Workers("chain", 1, CHAIN_QUEUE)
        self.verify = Workers("verify", VERIFY_THREADS, VERIFY_QUEUE)
        self.read = Workers("read", READ_THREADS, READ_QUEUE)

    def disk(self, name: str) -> Workers:
        """A disk thread; its owner closes it."""
        return Workers(f"disk-{name}", 1, DISK_QUEUE)

    def verify_batch(self, tasks: Sequence[SignatureTask]) -> Sequence[bool]:
        """Check signatures on the verify threads and on the calling one; blocks. A `ledger.verdict.VerifyBatch`."""
        return verify_on(self.verify, tasks)

    def close(self) -> None:
        for workers in (self.read, self.chain, self.verify):
            workers.close()


def verify_on(workers: Workers, tasks: Sequence[SignatureTask]) -> Sequence[bool]:
    """Check signatures on all threads of `workers` and on the calling one; blocks."""
    if len(tasks) < SPREAD_ABOVE:
        return verify_one_by_one(tasks)
    shared = _SharedBatch(tasks)
    for _ in range(workers.threads):
        workers.post(shared.work, (), _nobody_waits, Lane.PROPOSALS)
    return shared.finish()


class _SharedBatch:
    """Signatures that several threads check, each taking the next few when it is free: a slow core delays nobody."""

    def __init__(self, tasks: Sequence[SignatureTask]) -> None:
        self._tasks, self._valid = tasks, [False] * len(tasks)
        self._starts = deque(range(0, len(tasks), TAKEN_AT_ONCE))
        self._left = len(self._starts)
        self._error: BaseException | None = None
        self._lock, self._done = threading.Lock(), threading.Event()

    def work(self) -> None:
        """Check until nothing is left to take."""
        while True:
            try:
                start = self._starts.popleft()
            except IndexError:
                return
            end = start + TAKEN_AT_ONCE
            try:
                self._valid[start:end] = verify_one_by_one(self._tasks[start:end])
            except BaseException as error:
                self._error = error
            with self._lock:
                self._left -= 1
                if not self._left:
                    self._done.set()

    def finish(self) -> list[bool]:
        """Work too, then wait for what others have taken."""
        self.work()
        self._done.wait()
        if self._error is not None:
            raise self._error
        return self._valid


def _nobody_waits(_result: None, _error: BaseException | None) -> None:
    """The batch itself says when it is done."""
