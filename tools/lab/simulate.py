"""`quorix lab simulate`: many small worlds full of trouble, one from each seed, in which consensus must hold.

Every world runs whole nodes: the real engine, signer, rules, pool and sync under a virtual clock, network and disk. A seed
that fails is shrunk and printed as one line that repeats it; with `--trace` every transition is shown with its rule.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import click

from tools.lab.frame import Run, experiment

MAX_N = 10
SHRUNK = 3  # failures that are shrunk


@experiment("simulate", about="consensus in random worlds: faults, crashes, liars; one seed is one run", seconds=60)
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="Number of worlds.")
@click.option("--first-seed", default=0, show_default=True, help="Seed of the first world; to go on where a run ended.")
@click.option("--seed", type=int, default=None, help="Only the world of this seed.")
@click.option("--max-n", default=MAX_N, show_default=True, help="Authorities of the largest worlds (1, 2, 3, 4, 5, 7, 10).")
@click.option("--workers", default=2, show_default=True, help="Processes.")
@click.option("--without", multiple=True, help="With --seed: switch off this kind of trouble (may be repeated).")
@click.option("--trouble-ms", type=int, default=None, help="With --seed: a shorter time of trouble.")
@click.option("--trace", is_flag=True, help="With --seed: every transition with its rule.")
def simulate(run: Run, **options: Any) -> None:
    """Four seconds of trouble, then everything heals: nothing may fork, and all must go on within 20 s."""
    from tools.lab.sim.plan import Plan

    if options["max_n"] < 1:
        raise click.BadParameter("at least 1", param_hint="--max-n")
    if options["seed"] is None:
        campaign(run, "simulate", Plan.random, **{name: options[name] for name in CAMPAIGN_OPTIONS})
    else:
        one_world(run, Plan.random, **{name: options[name] for name in WORLD_OPTIONS})


CAMPAIGN_OPTIONS = ("seeds", "first_seed", "max_n", "workers")
WORLD_OPTIONS = ("seed", "max_n", "without", "trouble_ms", "trace")


def campaign(run: Run, name: str, plan_of: Any, *, seeds: int, first_seed: int, max_n: int, workers: int) -> None:
    """Many worlds; Ctrl-C ends it early and reports what was done."""
    from tools.lab.sim.campaign import MAX_FAILURES, Tally, run_worlds, summary
    from tools.lab.sim.world import HEAL_LIMIT_MS

    tally, wanted = Tally(next_seed=first_seed), range(first_seed, first_seed + seeds)
    with interruptions() as interrupted, closing(run_worlds(plan_of, wanted, max_n, workers)) as outcomes:
        for outcome in run.track(outcomes, "worlds", total=seeds):
            tally.add(outcome)
            if outcome.violation:
                run.note(outcome.violation)
            if interrupted or len(tally.failures) >= MAX_FAILURES:
                break
    if interrupted:
        run.note(f"ended early; go on with --first-seed {tally.next_seed}")
        run.figure("ended_early_before_seed", tally.next_seed)
    run.equals("violations", len(tally.failures), 0, "worlds")
    run.at_most("recovery, worst", tally.worst_ms, HEAL_LIMIT_MS, "ms")
    run.figure("worlds", tally.outcomes)
    run.figure("seeds", [first_seed, tally.next_seed - 1])
    run.figure("trace_hash", tally.trace_hash)
    run.figure("failures", _failures(run, name, plan_of, tally.failures, max_n))
    run.figure("recovery_ms", tally.recovery())
    run.figure("highest_round_decided", tally.highest_round)
    run.figure("events_per_cpu_second", round(tally.counts["events"] / tally.seconds) if tally.seconds else 0)
    run.figure("cpu_seconds", round(tally.seconds, 1))
    for count, number in sorted(tally.counts.items()):
        run.figure(count, number)
    signatures = f"keyed hashes; ed25519 in {tally.counts['real_signatures']} of {tally.outcomes} worlds"
    run.figure("signatures", signatures)
    run.figure("by_n", {str(n): summary(rows) for n, rows in sorted(tally.by_n.items())})
    run.figure("by_fault", {fault: summary(rows) for fault, rows in sorted(tally.by_fault.items())})


@contextmanager
def interruptions() -> Iterator[list[int]]:
    """Ctrl-C while this is open fills the list, so that the world in work ends first; a second one ends everything."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, before)


def _failures(run: Run, name: str, plan_of: Any, failures: list[Any], max_n: int) -> list[dict[str, Any]]:
    """Each with the line that repeats it; the first ones with what they do not need switched off."""
    from tools.lab.sim.campaign import reproduce, shrink

    out = []
    for position, outcome in enumerate(failures):
        without, trouble_ms = shrink(plan_of, outcome.seed, max_n) if position < SHRUNK else ((), None)
        line = reproduce(name, outcome.seed, None if max_n == MAX_N else max_n, without, trouble_ms)
        run.note(line)
        out.append({"seed": outcome.seed, "n": outcome.n, "violation": outcome.violation, "reproduce": line})
    return out


def one_world(
    run: Run, plan_of: Any, *, seed: int, max_n: int, without: tuple[str, ...], trouble_ms: int | None, trace: bool
) -> None:
    """One world, with its plan, its digest and (if asked for) its trace."""
    from tools.lab.sim.campaign import live
    from tools.lab.sim.plan import FAULTS
    from tools.lab.sim.world import World

    for fault in without:
        if fault not in FAULTS:
            raise click.BadParameter(f"{fault} is not one of {', '.join(FAULTS)}", param_hint="--without")
    lines: list[str] = []
    plan = plan_of(seed, max_n).without(without, trouble_ms)
    world = World(seed, plan, trace=lines)
    violations = [violation] if (violation := live(world)) else []
    run.equals("violations", len(violations), 0, "worlds")
    run.figure("plan", str(plan))
    run.figure("switched_on", list(plan.faults))
    run.figure("violations", violations)
    run.figure("trace_hash", world.digest())
    run.figure("recovery_ms", world.recovered_ms)
    run.figure("blocks", len(world.decided))
    if trace:
        run.figure("trace", lines)
