"""The searched model at a small bound: what it must visit, and that it would notice."""

from __future__ import annotations

import pytest

from ledger import votes
from tools.lab.sim.model import Model, Violation


def test_every_state_of_one_round_is_visited_and_holds() -> None:
    figures = Model(3, rounds=1).search(10_000)
    assert figures.exhausted and 100 < figures.states < 10_000
    assert figures.first_decided == figures.decided > 0 and figures.all_decided > 0


def test_two_rounds_at_a_small_bound_decide_both_values_and_agree() -> None:
    figures = Model(2).search(1_500)
    assert figures.states >= 1_500 and figures.deepest >= 20
    assert figures.decided > 100 and figures.all_decided > 0


def test_the_same_seed_is_the_same_search() -> None:
    one, two, other = (Model(3, 1).search(100, seed) for seed in (1, 1, 2))
    one.seconds = two.seconds = other.seconds = 0
    assert one == two != other


def test_a_quorum_of_two_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(votes, "quorum", lambda n: 2)
    with pytest.raises(Violation, match="two values are decided"):
        Model(2).search(60_000)
