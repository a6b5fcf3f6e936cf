"""Faulty authorities that run twice with one key: nothing forks, all go on, and the worlds can fail."""

from __future__ import annotations

import pytest

from ledger import votes
from tools.lab.sim.network import Weather
from tools.lab.sim.twins import twins_plan
from tools.lab.sim.world import Plan, Violation, World


@pytest.mark.parametrize("first", [0, 15])
def test_twins_fork_nothing(first: int) -> None:
    for seed in range(first, first + 15):
        World(seed, twins_plan(seed, 4 if seed % 5 else 7)).run()


def test_both_copies_take_part_and_are_convicted_by_what_they_sign() -> None:
    world = World(3, twins_plan(3)).run()
    (bad,) = {node.key.public for node in world.nodes if not node.honest and node.key is not None}
    assert [node.key.public for node in world.nodes].count(bad) == 2
    assert {evidence.key for evidence in world.evidence} <= {bad}


def test_a_smaller_quorum_forks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each half of seven holds one copy of both faulty ones: with n // 2 + 1 votes both would decide."""
    halves = Weather(0.0, 0.0, 5, ((0, 3_000, frozenset({0, 1, 2, 3, 4})),), 3_000)
    plan = Plan(n=7, actors={0: "twins", 1: "twins"}, weather=halves, trouble_ms=3_000)
    World(1, plan).run()
    monkeypatch.setattr(votes, "quorum", lambda n: n // 2 + 1)
    with pytest.raises(Violation, match="two blocks were decided"):
        World(1, plan).run()
