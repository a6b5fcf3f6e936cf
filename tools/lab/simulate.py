"""`quorix lab simulate`: many small worlds full of trouble, one from each seed, in which consensus must hold.

A violation prints the seed; `--seed N --trace` repeats that world and shows every transition with its rule.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import click

from tools.lab.frame import Run, experiment
from tools.lab.sim.world import HEAL_LIMIT_MS, Plan, Violation, World

RERUN_EVERY = 20
MAX_FAILURES = 10


@dataclass
class Tally:
    """What many worlds have in common."""

    worlds: int = 0
    failures: list[str] = field(default_factory=list)
    differing: list[int] = field(default_factory=list)
    recovered_ms: list[int] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    max_round: int = 0

    def add(self, seed: int, max_n: int) -> None:
        """Run one world; every twentieth twice, which must give the same digest."""
        world = World(seed, Plan.random(seed, max_n))
        self.worlds += 1
        try:
            world.run()
        except Violation as violation:
            self.failures.append(f"{violation} ({world.plan.n} authorities, actors {dict(world.plan.actors or {})})")
            return
        self.recovered_ms.append(world.recovered_ms)
        self.max_round = max(self.max_round, *world.rounds.values())
        self.counts.update(
            blocks=len(world.decided), events=world.timeline.actions, crashes=world.crashes,
            evidence=len(world.evidence), real_signatures=world.plan.real_signatures,
        )
        if seed % RERUN_EVERY == 0 and World(seed, Plan.random(seed, max_n)).run().digest() != world.digest():
            self.differing.append(seed)


@experiment("simulate", about="consensus in random worlds: faults, crashes, liars; one seed is one run", seconds=20)
@click.option("--seeds", default=100, show_default=True, help="Number of worlds.")
@click.option("--seed", "first", default=0, show_default=True, help="Seed of the first world.")
@click.option("--max-n", default=5, show_default=True, help="Authorities of the largest worlds (up to 7).")
@click.option("--trace", is_flag=True, help="Only the first world, with every transition and its rule.")
def simulate(run: Run, seeds: int, first: int, max_n: int, trace: bool) -> None:
    """Four seconds of trouble, then everything heals: nothing may fork, and all must go on within 20 s."""
    if trace:
        _trace(run, first, max_n)
        return
    tally = Tally()
    for seed in run.track(range(first, first + seeds), "worlds"):
        tally.add(seed, max_n)
        if len(tally.failures) >= MAX_FAILURES:
            break
    times = sorted(tally.recovered_ms)
    run.equals("violations", len(tally.failures), 0, "worlds")
    run.equals("reruns that differ", len(tally.differing), 0, "worlds")
    run.at_most("recovery, worst", times[-1] if times else None, HEAL_LIMIT_MS, "ms")
    run.figure("worlds", tally.worlds)
    run.figure("failures", tally.failures)
    run.figure("recovery_ms", {"median": times[len(times) // 2], "worst": times[-1]} if times else {})
    run.figure("highest_round_decided", tally.max_round)
    for name, count in sorted(tally.counts.items()):
        run.figure(name, count)


def _trace(run: Run, seed: int, max_n: int) -> None:
    lines: list[str] = []
    world = World(seed, Plan.random(seed, max_n), trace=lines)
    violations = []
    try:
        world.run()
    except Violation as violation:
        violations.append(str(violation))
    run.equals("violations", len(violations), 0, "worlds")
    run.figure("plan", str(world.plan))
    run.figure("failures", violations)
    run.figure("trace", lines)
    for line in lines:
        run.note(line)
