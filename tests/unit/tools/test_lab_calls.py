"""`quorix lab calls` and `quorix lab traffic`: what they report of a good run, and of one that breaks a rule."""

import pytest

from runtime import chain, hooks
from tools.lab.frame import Result, execute, find


def run(name: str, **options: int) -> Result:
    return execute(find("experiment", name), {"seed": 5, **options})


def test_calls_reports_what_was_done_of_every_kind() -> None:
    result = run("calls", steps=60, per_block=12)
    found = {target.name: target for target in result.targets}
    assert all(target.ok for name, target in found.items() if name != "calls that never succeeded")
    figures = result.figures
    assert figures["calls_executed"] >= 60 and figures["audits"] == figures["blocks"]
    done = [name for name, counts in figures["by_call"].items() if counts["done"]]
    assert sorted([*done, *figures["never_done"]]) == sorted(figures["by_call"])
    assert found["calls that never succeeded"].measured == len(figures["never_done"])


def test_traffic_counts_every_block() -> None:
    result = run("traffic", blocks=45, per_block=2)
    assert all(target.ok for target in result.targets), result.targets
    money = result.figures["money_rao"]
    assert money["issued"] == money["held"] and money["paid_by_epochs"] > 0


@pytest.mark.parametrize(("name", "options"), [("calls", {"steps": 60}), ("traffic", {"blocks": 120})])
def test_a_broken_rule_ends_the_run_with_a_line_that_repeats_it(name, options, monkeypatch) -> None:
    broken = {"a rule": lambda state: ["it does not hold"] if chain.birth_hash(state, 1) else []}
    monkeypatch.setattr(hooks, "INVARIANTS", broken)
    result = run(name, per_block=3, **options)
    assert not result.ok and "it does not hold" in result.figures["failure"]
    assert result.figures["repeat"].startswith(f"quorix lab {name} --seed 5 --per-block 3")
