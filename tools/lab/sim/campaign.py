"""Many worlds, one from each seed, on several processes: outcomes, their summary, and the shrinking of what fails.

A world is a function of its seed alone, so the order in which processes finish does not matter: outcomes are taken in the
order of the seeds, and `Tally.trace_hash` over their digests is the same for every number of workers. Some worlds are run
twice; a second digest that differs counts as a failure.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from statistics import median
from typing import Any, Final

from .plan import Plan
from .world import Violation, World

RERUN_EVERY: Final = 20
MAX_FAILURES: Final = 10
MAX_SHRINKS: Final = 30
LEAST_TROUBLE_MS: Final = 500

PlanOf = Callable[[int, int], Plan]  # (seed, largest n); a function of a module, so that processes can find it


@dataclass(frozen=True)
class Outcome:
    """What became of one world. `violation` is empty if all held."""

    seed: int
    n: int
    faults: tuple[str, ...]
    violation: str
    digest: str
    recovered_ms: int
    seconds: float
    counts: dict[str, int]


def run_world(plan_of: PlanOf, seed: int, max_n: int, *, rerun: bool = False) -> Outcome:
    """One world; a failure of any kind is in the outcome."""
    start = time.process_time()
    plan = plan_of(seed, max_n)
    world, violation = attempt(seed, plan)
    events = 0 if world is None else world.timeline.actions
    if rerun and world is not None and not violation:
        again, _ = attempt(seed, plan)
        violation = "" if again is not None and again.digest() == world.digest() else f"seed {seed}: a second run differs"
    seconds = time.process_time() - start
    if world is None:
        return Outcome(seed, plan.n, plan.faults, violation, "", 0, seconds, {})
    counts = {
        "blocks": len(world.decided), "events": events, "crashes": world.crashes, "rewinds": world.rewinds,
        "evidence": len(world.evidence), "transactions": world.traffic.submitted, "reruns": int(rerun),
        "real_signatures": int(plan.real_signatures), "highest_round": max(world.rounds.values(), default=0),
    }
    return Outcome(seed, plan.n, plan.faults, violation, world.digest(), world.recovered_ms, seconds, counts)


def attempt(seed: int, plan: Plan) -> tuple[World | None, str]:
    """The world after its run, and what was violated."""
    try:
        world = World(seed, plan)
    except Exception:
        return None, f"seed {seed}: {traceback.format_exc(limit=-3)}"
    return world, live(world)


def live(world: World) -> str:
    """Run it; what was violated, or "". An error of any kind is a violation."""
    try:
        world.run()
    except Violation as violation:
        return str(violation)
    except Exception:
        return f"seed {world.seed}, {world.timeline.now_ms} ms: {traceback.format_exc(limit=-3)}"
    return ""


# --- many ----------------------------------------------------------------------------------------------------------------


def run_worlds(plan_of: PlanOf, seeds: range, max_n: int, workers: int) -> Generator[Outcome, None, None]:
    """Outcomes in the order of the seeds. Close it to end the processes early."""
    tasks = [(plan_of, seed, max_n) for seed in seeds]
    if workers <= 1:
        yield from map(_task, tasks)
        return
    with _processes(workers) as pool:
        yield from pool.imap(_task, tasks, chunksize=4)


def _task(task: tuple[PlanOf, int, int]) -> Outcome:
    plan_of, seed, max_n = task
    return run_world(plan_of, seed, max_n, rerun=seed % RERUN_EVERY == 0)


@contextmanager
def _processes(workers: int) -> Iterator[Any]:
    """Ctrl-C is for the parent alone."""
    pool = multiprocessing.get_context("forkserver").Pool(workers, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


@dataclass
class Tally:
    """What many worlds have in common."""

    outcomes: int = 0
    failures: list[Outcome] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    highest_round: int = 0
    seconds: float = 0.0
    recovered_ms: list[int] = field(default_factory=list)
    next_seed: int = 0
    by_n: dict[int, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    by_fault: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    _hash: Any = field(default_factory=lambda: blake2b(digest_size=16))

    def add(self, outcome: Outcome) -> None:
        self.outcomes += 1
        self.next_seed = outcome.seed + 1
        self.seconds += outcome.seconds
        self._hash.update(outcome.digest.encode())
        self.counts.update({name: count for name, count in outcome.counts.items() if name != "highest_round"})
        self.highest_round = max(self.highest_round, outcome.counts.get("highest_round", 0))
        if outcome.violation:
            self.failures.append(outcome)
        else:
            self.recovered_ms.append(outcome.recovered_ms)
        self.by_n[outcome.n].append(outcome)
        for fault in outcome.faults or ("none",):
            self.by_fault[fault].append(outcome)

    @property
    def trace_hash(self) -> str:
        """Over the digests of all worlds, in the order of their seeds."""
        return str(self._hash.hexdigest())

    @property
    def worst_ms(self) -> int | None:
        return max(self.recovered_ms, default=None)

    def recovery(self) -> dict[str, float]:
        """From the end of the trouble until everybody has gone on by four blocks, in ms."""
        times = sorted(self.recovered_ms)
        return {"median": median(times), "p99": times[len(times) * 99 // 100], "worst": times[-1]} if times else {}


def summary(outcomes: Iterable[Outcome]) -> dict[str, Any]:
    """One row of the tables."""
    rows = list(outcomes)
    times = [row.recovered_ms for row in rows if not row.violation]
    return {
        "worlds": len(rows), "violations": sum(bool(row.violation) for row in rows),
        "blocks": sum(row.counts.get("blocks", 0) for row in rows),
        "crashes": sum(row.counts.get("crashes", 0) for row in rows),
        "recovery_median_ms": median(times) if times else None, "recovery_worst_ms": max(times, default=None),
    }


# --- failures ------------------------------------------------------------------------------------------------------------


def shrink(plan_of: PlanOf, seed: int, max_n: int) -> tuple[tuple[str, ...], int | None]:
    """Kinds of trouble that a failing world does not need, and the shorter time of trouble that is enough (or None).

    The horizon is halved, then one kind after the other is switched off, as long as the world still fails.
    """
    plan, left = plan_of(seed, max_n), MAX_SHRINKS
    without: list[str] = []
    trouble_ms: int | None = None
    while left and (shorter := (trouble_ms or plan.trouble_ms) // 2) >= LEAST_TROUBLE_MS:
        left -= 1
        if not attempt(seed, plan.without((), shorter))[1]:
            break
        trouble_ms = shorter
    for fault in plan.faults[:left]:
        if attempt(seed, plan.without([*without, fault], trouble_ms))[1]:
            without.append(fault)
    return tuple(without), trouble_ms


def reproduce(name: str, seed: int, max_n: int | None, without: Iterable[str] = (), trouble_ms: int | None = None) -> str:
    """The command line of one world. `max_n` None: the default."""
    parts = [f"quorix lab {name} --seed {seed}"]
    parts += [f"--max-n {max_n}"] if max_n is not None else []
    parts += [f"--without {fault}" for fault in without]
    parts += [f"--trouble-ms {trouble_ms}"] if trouble_ms is not None else []
    return " ".join([*parts, "--trace"])
