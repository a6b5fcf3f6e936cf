"""`quorix lab model`: all orders of delivery among three real cores and a liar, as far as the bound allows.

The liar leads round 0, round 1 or neither; a fourth search has a third round, which the liar leads. See `tools.lab.sim.model`.
"""

from __future__ import annotations

from dataclasses import asdict

import click

from tools.lab.frame import Run, experiment
from tools.lab.sim.model import Figures, Model, Violation

SEARCHES = ((1, 2), (2, 2), (3, 2), (3, 3))  # (index of the liar, rounds)


@experiment("model", about="agreement over all orders of delivery, in a small model of real cores", seconds=60)
@click.option("--states", type=click.IntRange(1), default=1_000_000, show_default=True,
              help="Global states to visit, in all searches together.")
@click.option("--seed", default=0, show_default=True, help="Of the order in which moves are tried.")
def model(run: Run, states: int, seed: int) -> None:
    """Four authorities, one of them Byzantine, two values: no two decisions may differ in any state."""
    violations: list[str] = []
    found: list[Figures] = []
    for place, (byzantine, rounds) in enumerate(run.track(SEARCHES, "searches")):
        left = states - sum(figures.states for figures in found)
        search = Model(byzantine, rounds)
        try:
            search.search(-(-left // (len(SEARCHES) - place)), seed)
        except Violation as violation:
            violations.append(str(violation))
        found.append(search.figures)
    exhausted = all(figures.exhausted for figures in found)
    total = sum(figures.states for figures in found)
    run.equals("violations", len(violations), 0, "states")
    if not exhausted and not violations:
        run.at_least("states", total, states, "states")
    run.figure("states", total)
    run.figure("transitions", sum(figures.transitions for figures in found))
    run.figure("deepest", max(figures.deepest for figures in found))
    run.figure("states_with_a_decision", sum(figures.decided for figures in found))
    run.figure("core_steps", sum(figures.core_steps for figures in found))
    run.figure("cpu_seconds", round(sum(figures.seconds for figures in found), 1))
    run.figure("violations", violations)
    run.figure("searches", [asdict(figures) for figures in found])
