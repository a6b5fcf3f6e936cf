"""The directed scenarios hold, one by one; and the catalogue is complete."""

from __future__ import annotations

import pytest

from tools.lab.sim.scenarios import Scenario, run_scenario, scenarios

SCENARIOS = scenarios()


@pytest.mark.parametrize("chosen", SCENARIOS.values(), ids=list(SCENARIOS))
def test_scenario(chosen: Scenario) -> None:
    outcome = run_scenario(chosen)
    assert not outcome.failure, "\n".join([outcome.failure, *outcome.lines[-40:]])


def test_every_scenario_says_what_happens_and_shows_its_rules() -> None:
    assert len(SCENARIOS) >= 45 and len({each.number for each in SCENARIOS.values()}) == len(SCENARIOS)
    assert all(each.about.endswith((".", ":")) for each in SCENARIOS.values())
    lines = run_scenario(SCENARIOS["hidden lock"]).lines
    assert any("R4b" in line for line in lines) and any("R7" in line for line in lines)
