"""The experiments on cabals and copiers, small: they agree with what is known, and would notice if it were otherwise."""

from __future__ import annotations

import numpy as np
import pytest

from tools.lab import cabal, copier, whitepaper, yuma_tables
from tools.lab.frame import execute, find
from tools.lab.votes import sent


def test_the_published_decay_is_met_to_its_digits() -> None:
    result = execute(find("experiment", "whitepaper"), {"blocks": 100})
    assert result.ok and len(result.targets) == 5
    assert whitepaper.decay(0.51, 400)[-1] > 0.999 > 0.5 == whitepaper.decay(0.5, 400)[-1]


def test_a_useful_honest_team_keeps_its_stake_and_a_useless_one_does_not() -> None:
    seeds = range(1)
    assert yuma_tables.keeps(0.6, 0.7, 0.2, 1.0, 0.5, seeds)
    assert not yuma_tables.keeps(0.6, 0.6, 0.2, 1.0, 0.5, seeds)


@pytest.mark.parametrize(("rule", "low", "high"), [("Yuma 3", 0.9, 1.0), ("classic", 1.05, 5.0)])
def test_copying_stale_weights_pays_under_classic_bonds_only(rule: str, low: float, high: float) -> None:
    assert low < copier.advantage(rule, delay=3, drift=0.1, epochs=60, seed=1) < high


def test_all_in_loses_below_half_and_takes_all_above() -> None:
    paid = {
        (part, name): cabal.share(part, name, cabal.strategies()[name], 40, 20, 0)
        for part in (0.4, 0.6) for name in ("honest", "inflate 1.0", "reset")
    }
    assert paid[0.4, "reset"] < paid[0.4, "inflate 1.0"] < paid[0.4, "honest"] / 2
    assert paid[0.6, "inflate 1.0"] > 0.95 > paid[0.6, "reset"] > paid[0.6, "honest"]


def test_stake_on_the_move_is_with_nobody_and_with_one_set_else() -> None:
    world = cabal.arranged(0.4, np.random.default_rng(0), twins=True)
    held = [round(float(cabal.moved(world, epoch).sum()), 9) for epoch in range(2 * cabal.RESET_EPOCHS)]
    assert held == [0.6, 1, 1, 1] * 2


def test_rows_are_sent_as_pairs_of_uid_and_weight() -> None:
    assert sent(np.array([0.0, 0.5, 0.25]), 10) == bytes([11, 0, 0xFF, 0xFF, 12, 0, 0, 0x80])
    assert sent(np.zeros(3), 10) == b""
