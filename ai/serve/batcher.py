"""Dynamic batching: windows of many sessions go through the model together.

A batch is sent when it holds 16 windows, when 4 ms have passed since its first, or at once when no other open session
could still join it. The model runs in one thread of its own, so the loop goes on reading while torch computes; a model
that has been quicker than 2 ms is computed in place, because handing it over would cost more than it takes. If a batch
fails, its sessions are computed one by one and only the guilty ones fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ai.distribution import DISTRIBUTION_BYTES, encode_distributions
from ai.models.model import Model
from ledger.errors import Error

from .queue import Job, WorkQueue

MAX_BATCH_WINDOWS: Final = 16
MAX_WAIT_SECONDS: Final = 0.004
IN_PLACE_SECONDS: Final = 0.002


class ModelFailed(Error):
    """The model raised, or returned something that is not a distribution. The cause never leaves the neuron."""

    name = "ModelFailed"


class Batcher:
    """Runs the jobs of a queue on a model. `sessions` tells how many sessions are open; `clock` gives unix ms."""

    def __init__(self, model: Model, queue: WorkQueue, sessions: Callable[[], int], clock: Callable[[], int]) -> None:
        self._model, self._queue, self._sessions, self._clock = model, queue, sessions, clock
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._usual_seconds = 1.0  # a model is slow until it has shown otherwise
        self.batches = 0
        self.windows = 0

    def start(self) -> None:
        """Begin to work. Needs a running loop."""
        self._task = asyncio.get_running_loop().create_task(self._work(), name="batcher")

    async def stop(self) -> None:
        """End at once; what is in the thread is waited for by nobody."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._queue.clear()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def distributions(self, windows: Sequence[bytes], priority: int, deadline_ms: int) -> bytes:
        """98 bytes a window. Raises ModelFailed."""
        if not windows:
            return b""
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._submit(Job(priority, deadline_ms, future, windows=windows))
        return await future

    async def call(self, function: Callable[[], Any], priority: int, deadline_ms: int) -> Any:
        """Run a function in the model's thread, in its turn. Raises ModelFailed where it raises."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._submit(Job(priority, deadline_ms, future, call=function))
        return await future

    def _submit(self, job: Job) -> None:
        self._queue.push(job)
        self._wake.set()

    async def _work(self) -> None:
        while True:
            job = self._queue.pop(self._clock())
            if job is None:
                self._wake.clear()
                await self._wake.wait()
            elif job.call is not None:
                await self._run_call(job)
            else:
                await self._run_batch(await self._gather(job))

    async def _gather(self, first: Job) -> list[tuple[Job, Sequence[bytes]]]:
        """Fill a batch, best jobs first, waiting at most 4 ms for sessions that may still join."""
        batch: list[tuple[Job, Sequence[bytes]]] = []
        room = self._take(first, MAX_BATCH_WINDOWS, batch)
        loop = asyncio.get_running_loop()
        until = loop.time() + MAX_WAIT_SECONDS
        while room:
            job = self._queue.pop(self._clock())
            if job is not None and job.call is None:
                room = self._take(job, room, batch)
                continue
            if job is not None:
                self._queue.push(job)
                break
            if self._sessions() <= len(batch):
                break
            self._wake.clear()
            try:
                async with asyncio.timeout_at(until):
                    await self._wake.wait()
            except TimeoutError:
                break
        return batch

    def _take(self, job: Job, room: int, batch: list[tuple[Job, Sequence[bytes]]]) -> int:
        part = job.windows[job.taken : job.taken + room]
        job.taken += len(part)
        batch.append((job, part))
        if job.left:
            self._queue.push(job)
        return room - len(part)

    async def _run_batch(self, batch: list[tuple[Job, Sequence[bytes]]]) -> None:
        self.batches += 1
        self.windows += sum(len(part) for _, part in batch)
        try:
            self._deliver(batch, await self._compute([window for _, part in batch for window in part]))
        except ModelFailed as error:
            if len(batch) == 1:
                _fail(batch[0][0], error)
                return
            for entry in batch:
                await self._run_batch([entry])

    async def _compute(self, windows: Sequence[bytes]) -> bytes:
        if self._usual_seconds < IN_PLACE_SECONDS:
            answers, seconds = _predict(self._model, windows)
        else:
            loop = asyncio.get_running_loop()
            answers, seconds = await loop.run_in_executor(self._thread, _predict, self._model, windows)
        # One slow batch counts at once, quick ones slowly.
        self._usual_seconds = max(seconds, 0.5 * self._usual_seconds + 0.5 * seconds)
        return answers

    def _deliver(self, batch: list[tuple[Job, Sequence[bytes]]], answers: bytes) -> None:
        at = 0
        for job, part in batch:
            end = at + len(part) * DISTRIBUTION_BYTES
            job.results.append(answers[at:end])
            at = end
            if not job.left and not job.future.done():
                job.future.set_result(b"".join(job.results))

    async def _run_call(self, job: Job) -> None:
        assert job.call is not None
        try:
            result = await asyncio.get_running_loop().run_in_executor(self._thread, _guarded, job.call)
        except ModelFailed as error:
            _fail(job, error)
        else:
            if not job.future.done():
                job.future.set_result(result)


def _fail(job: Job, error: ModelFailed) -> None:
    if not job.future.done():
        job.future.set_exception(error)


def _predict(model: Model, windows: Sequence[bytes]) -> tuple[bytes, float]:
    """The answers, and how many seconds they took."""
    began = time.perf_counter()
    answers = _guarded(lambda: encode_distributions(model.next_bytes(windows)))
    if len(answers) != len(windows) * DISTRIBUTION_BYTES:
        raise ModelFailed("the model returned another number of rows than it was given windows")
    return bytes(answers), time.perf_counter() - began


def _guarded(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except Exception as error:  # a model is the author's code: whatever it raises fails the session, not the neuron
        raise ModelFailed(f"{type(error).__name__}: {error}") from error
