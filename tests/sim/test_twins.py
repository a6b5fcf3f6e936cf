"""Faulty authorities that run twice with one key: nothing forks, and all go on."""

from __future__ import annotations

import pytest

from tools.lab.sim.twins import twins_plan
from tools.lab.sim.world import World


@pytest.mark.parametrize("first", [0, 15])
def test_twins_fork_nothing(first: int) -> None:
    for seed in range(first, first + 15):
        World(seed, twins_plan(seed, 4 if seed % 5 else 7)).run()


def test_both_copies_take_part_and_are_convicted_by_what_they_sign() -> None:
    world = World(3, twins_plan(3)).run()
    (bad,) = {node.key.public for node in world.nodes if not node.honest and node.key is not None}
    assert [node.key.public for node in world.nodes].count(bad) == 2
    assert {evidence.key for evidence in world.evidence} <= {bad}
