"""`quorix lab mutants`: wrong changes to core, signer and certificates, each of which the scenarios must notice.

Every mutant is made in memory in a process of its own. `--deep N` also tells which of the first N random worlds, and of
the first N with twins, notices.
"""

from __future__ import annotations

import click

from tools.lab.frame import Run, experiment
from tools.lab.sim.mutants import MUTANTS
from tools.lab.sim.mutation import fates

LEAST_MUTANTS = 25


@experiment("mutants", about="wrong changes to the consensus code, each of which a scenario must notice", seconds=15)
@click.argument("names", nargs=-1)
@click.option("--deep", default=0, show_default=True, help="Try so many random worlds, and so many with twins, too.")
def mutants(run: Run, names: tuple[str, ...], deep: int) -> None:
    """A survivor is a fault of the tests, not of the code."""
    results, total = [], len(names) or len(MUTANTS)
    for fate in run.track(fates(names, deep), "mutants", total):
        row = {"name": fate.name, "killer": fate.killer or "none", "failure": fate.error or fate.failure}
        results.append(row | {"random": fate.random or "none", "twins": fate.twins or "none"} if deep else row)
        run.note(f"{fate.name:36}  {fate.killer or 'SURVIVES ' + fate.error}")
    killed = sum(row["killer"] != "none" for row in results)
    run.equals("killed", killed, total, "mutants")
    if not names:
        run.at_least("mutants", total, LEAST_MUTANTS, "mutants")
    run.figure("total", total)
    run.figure("killed", killed)
    run.figure("survivors", [row["name"] for row in results if row["killer"] == "none"])
    if deep:
        run.figure("killed_by_random_worlds", sum(row["random"] != "none" for row in results))
        run.figure("killed_by_twins", sum(row["twins"] != "none" for row in results))
    run.figure("results", results)
