"""Giving inputs to a target and judging what happened: only the named errors, the same bytes back, bounded time and memory."""

from __future__ import annotations

import gc
import resource
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Final

from .mutate import Mutator
from .target import Target
from .targets import targets

CHUNK: Final = 2_000  # inputs of one Random; the unit of work of a process
MAX_INPUT_BYTES_OF_MEMORY: Final = 8 << 20
BATCH: Final = 200  # inputs after which the memory of the process is looked at
REPEATS: Final = 12  # of an input that seemed slow: the machine may have been
MAX_FAILURES: Final = 5  # of one chunk
SHRINK_TRIES: Final = 1_500
LOOPS: Final = 20_000
USUAL_LOOP_MS: Final = 0.6  # of such a loop on a core without neighbours


@dataclass
class Failure:
    """An input that breaks the contract. `what` says how."""

    target: str
    data: bytes
    what: str

    @property
    def line(self) -> str:
        """The command that repeats it."""
        return f"quorix lab fuzz --target '{self.target}' --input {self.data.hex()}"


@dataclass
class Outcome:
    """What became of some inputs of a target. Times are CPU milliseconds."""

    target: str
    inputs: int = 0
    accepted: int = 0
    slowest_ms: float = 0.0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    def add(self, other: Outcome) -> None:
        self.inputs += other.inputs
        self.accepted += other.accepted
        self.slowest_ms = max(self.slowest_ms, other.slowest_ms)
        self.seconds += other.seconds
        self.failures += other.failures


def chunk(name: str, seed: int, number: int, inputs: int) -> Outcome:
    """Make and judge the inputs of one chunk. The same arguments make the same inputs."""
    target = targets()[name]
    mutator = Mutator(Random(f"{name} {seed} {number}"), target.form, target.samples(), target.lead)
    outcome, seen = Outcome(name), set[str]()
    started = time.process_time()
    while outcome.inputs < inputs:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        batch = [mutator.next() for _ in range(min(BATCH, inputs - outcome.inputs))]
        for data in batch:
            found, refusal, milliseconds = judge(target, data)
            outcome.accepted += refusal == ""
            outcome.slowest_ms = max(outcome.slowest_ms, milliseconds)
            if found:
                outcome.failures.append(shrunk(target, Failure(name, data, found)))
            elif refusal not in seen and len(seen) < 512:
                seen.add(refusal)
                mutator.keep(data)
        outcome.inputs += len(batch)
        if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) << 10 > MAX_INPUT_BYTES_OF_MEMORY:
            outcome.failures += [Failure(name, data, what) for data in batch if (what := memory(target, data))]
        if len(outcome.failures) >= MAX_FAILURES:
            break
    outcome.seconds = time.process_time() - started
    return outcome


def judge(target: Target, data: bytes) -> tuple[str, str, float]:
    """(what is wrong or "", the refusal or "" if accepted, CPU milliseconds)."""
    started = time.thread_time()
    wrong, refusal = _judged(target, data)
    milliseconds = (time.thread_time() - started) * 1000
    if not wrong and milliseconds > target.max_ms:
        milliseconds = min(_again(target, data) for _ in range(REPEATS)) / slowness()
        if milliseconds > target.max_ms:
            wrong = f"slow: {milliseconds:.1f} ms of CPU, at most {target.max_ms:g} allowed"
    return wrong, refusal, milliseconds


def _judged(target: Target, data: bytes) -> tuple[str, str]:
    try:
        value = target.read(data)
    except target.refuses as error:
        return "", _kind(error)
    except Exception as error:  # anything else is what is looked for
        return f"{type(error).__name__}: {str(error)[:200]}", "?"
    if target.write is not None:
        try:
            again = target.write(value)
        except Exception as error:
            return f"accepted, but does not encode: {type(error).__name__}: {str(error)[:200]}", "?"
        if again != data:
            return "accepted, but encodes differently", "?"
    return "", ""


def _kind(error: Exception) -> str:
    """What a refusal is about, without its numbers."""
    text = str(error)[:160]
    return type(error).__name__ + "".join("#" if letter.isdigit() else letter for letter in text)


def slowness() -> float:
    """How many times as long as usual this machine takes now: neighbours slow a shared core by a half and more."""
    return max(1.0, min(_loop_ms() for _ in range(REPEATS)) / USUAL_LOOP_MS)


def _loop_ms() -> float:
    started = time.thread_time()
    total = 0
    for number in range(LOOPS):
        total += number
    return (time.thread_time() - started) * 1000


def _again(target: Target, data: bytes) -> float:
    gc.collect()
    gc.disable()
    try:
        started = time.thread_time()
        _judged(target, data)
        return (time.thread_time() - started) * 1000
    finally:
        gc.enable()


def memory(target: Target, data: bytes) -> str:
    """What is wrong with the memory that one input takes at its peak, or ""."""
    tracemalloc.start()
    try:
        _judged(target, data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    return f"memory: {peak >> 10} KiB for one input" if peak > MAX_INPUT_BYTES_OF_MEMORY + 2 * len(data) else ""


# --- shrinking ---------------------------------------------------------------------------------------------------


def shrunk(target: Target, failure: Failure) -> Failure:
    """A smaller input that fails in the same way."""
    kind = failure.what.partition(":")[0]
    tries = 0

    def fails(data: bytes) -> bool:
        nonlocal tries
        tries += 1
        return tries <= SHRINK_TRIES and judge(target, data)[0].partition(":")[0] == kind

    data = failure.data
    size = max(1, len(data) // 2)
    while size:
        data = _without_parts(data, size, fails)
        size //= 2
    for at in range(len(data)):
        if data[at] not in (0, 0x30) and fails(simpler := data[:at] + b"\0" + data[at + 1 :]):
            data = simpler
    return Failure(failure.target, data, judge(target, data)[0] or failure.what)


def _without_parts(data: bytes, size: int, fails: Callable[[bytes], bool]) -> bytes:
    at = 0
    while at < len(data):
        shorter = data[:at] + data[at + size :]
        if fails(shorter):
            data = shorter
        else:
            at += size
    return data
