"""`quorix lab scenarios`: the hard cases of consensus, arranged message by message; what each node does is checked.

`--trace` shows every transition with the number of its rule; `NAME` (a name, a part of one, or a number) chooses.
"""

from __future__ import annotations

import click

from ledger.errors import NotFound
from tools.lab.frame import Run, experiment
from tools.lab.sim.scenarios import Scenario, run_scenario, scenarios


@experiment("scenarios", about="the hard cases of consensus, each arranged message by message", seconds=5)
@click.argument("name", default="")
@click.option("--trace", is_flag=True, help="Show every transition with its rule.")
def play(run: Run, name: str, trace: bool) -> None:
    """Real engines, signers, certificates and disks on a virtual clock, without chance."""
    results, failures, lines = [], [], list[str]()
    for chosen in run.track(_chosen(name), "scenarios"):
        outcome = run_scenario(chosen)
        if outcome.failure:
            failures.append(chosen.name)
        verdict = outcome.failure or "holds"
        results.append({"number": chosen.number, "name": chosen.name, "about": chosen.about, "outcome": verdict})
        run.note(f"{chosen.number:3}  {chosen.name:36}  {verdict}")
        if trace:
            lines += [f"{chosen.name}: {line}" for line in outcome.lines]
            for line in outcome.lines:
                run.note(f"     {line}")
    run.equals("scenarios that fail", len(failures), 0, "scenarios")
    run.figure("scenarios", len(results))
    run.figure("failures", failures)
    run.figure("results", results)
    if trace:
        run.figure("trace", lines)


def _chosen(name: str) -> list[Scenario]:
    known = scenarios()
    found = [each for each in known.values() if name in ("", each.name, str(each.number))]
    found = found or [each for each in known.values() if name in each.name]
    if not found:
        raise NotFound(f"there is no scenario {name!r}", hint=f"known: {', '.join(known)}")
    return found
