"""Who came to whom: hulls, elders, repeats, and what rivals can and cannot do to each other."""

import random

import numpy as np
import pytest

from ai.distribution import encode_distributions
from ai.judge.conduct import TIE, Conduct
from ai.judge.hull import FEW, MANY, residual
from ai.judge.mixture import floored
from ai.judge.probes import BatchResult, Window
from ai.judge.repeats import KEPT, Repeats

POSITIONS = 48


def answers(n, seed=0, positions=POSITIONS):
    """Experts (n, positions, 256), each sure of other bytes."""
    rng = np.random.default_rng(seed)
    return floored(rng.dirichlet([0.02] * 256, (n, positions)))


def judged(conduct, rows, names, seed=1):
    """One batch with the true bytes drawn from the experts' own answers, in turn."""
    rng = np.random.default_rng(seed)
    positions = rows.shape[1]
    drawn = rows[np.arange(positions) % 3, np.arange(positions)]
    truth = np.array([rng.choice(256, p=p / p.sum()) for p in drawn])
    hits = rows[:, np.arange(positions), truth].reshape(len(rows), -1, 4)
    hotkeys = [name.encode() for name in names]
    conduct.moved({hotkey: 0.0 if hotkey in conduct.motion else None for hotkey in hotkeys})
    return conduct.judge(hotkeys, hits, rows)


def settled(names="abc", rows=None, batches=3):
    conduct = Conduct()
    for batch in range(batches):
        judged(conduct, answers(len(names)) if rows is None else rows, list(names), batch)
    return conduct


# --- hull --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weights", [(1.0, 0, 0, 0), (0.5, 0.5, 0, 0), (0.2, 0.3, 0.5, 0), (0.4, 0.3, 0, 0)])
def test_a_blend_of_up_to_three_and_the_null_expert_has_no_residual(weights):
    others = answers(4)
    rest = 1.0 - sum(weights)
    own = np.tensordot(weights, others, 1) + rest / 256
    bits, named = residual(own, others)
    assert bits < 0.003 and set(named) == {i for i, w in enumerate(weights) if w}
    assert FEW.factor(bits) == 0.0


def test_experts_of_their_own_and_better_routers_are_far():
    others = answers(9)
    assert residual(others[0], others[1:])[0] > 1.0
    router = others[np.arange(POSITIONS) % 9, np.arange(POSITIONS)]
    assert residual(router, others)[0] > 1.0, "to know who is right at each byte is skill"
    assert residual(others[0], others[:0]) == (float("inf"), []) and FEW.factor(float("inf")) == 1.0


def test_an_even_blend_of_many_is_found_among_more():
    others = answers(24, seed=3)
    own = others[:12].mean(axis=0)
    assert residual(own, others)[0] > FEW.full_bits
    bits, named = residual(own, others, MANY.mixed)
    assert bits < MANY.none_bits and set(named) == set(range(12))


def test_the_residual_is_the_least_divergence():
    others, own = answers(3, positions=8), answers(1, seed=9, positions=8)[0]
    bits, _ = residual(own, others)
    rng = np.random.default_rng(0)
    for weights in rng.dirichlet([1.0] * 4, 300):
        mixed = np.tensordot(weights[:3], others, 1) + weights[3] / 256
        assert bits <= (own * np.log2(own / mixed)).sum(axis=1).mean() + 1e-3


# --- order -------------------------------------------------------------------------------------------------------


def test_a_clone_that_comes_later_is_paid_nothing_and_its_model_what_it_was():
    rows = answers(3)
    conduct = settled(rows=rows)
    standing = judged(conduct, np.concatenate([rows, rows[:1]]), "abcx")
    assert standing.groups == [[0], [1], [2]]
    assert conduct.order[b"a", b"x"] == b"x"


def test_clones_from_the_first_batch_on_share_evenly():
    rows = answers(3)
    conduct = Conduct()
    standing = judged(conduct, np.concatenate([rows, rows[:1]]), "abcx")
    assert standing.groups == [[0, 3], [1], [2]] and conduct.order[b"a", b"x"] == TIE


def test_a_relay_is_paid_nothing_but_its_elders_are():
    rows = answers(3)
    conduct = settled(rows=rows)
    blend = rows[:2].mean(axis=0, keepdims=True)
    for batch in range(3):
        standing = judged(conduct, np.concatenate([rows, blend]), "abcx", batch)
        assert standing.factors.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_squatter_that_changes_into_a_relay_is_still_the_younger():
    rows, idle = answers(3), answers(1, seed=7)
    conduct = Conduct()
    for batch in range(30):
        judged(conduct, np.concatenate([idle, rows]), "xabc", batch)
    blend = rows[:2].mean(axis=0, keepdims=True)
    conduct.moved({b"x": 0.8, b"a": 0.0, b"b": 0.0, b"c": 0.0})
    assert judged(conduct, np.concatenate([blend, rows]), "xabc").factors.tolist() == [0.0, 1.0, 1.0, 1.0]


def test_a_relay_stays_the_younger_when_its_elder_goes_on_training():
    rows = answers(3)
    conduct = settled(rows=rows)
    judged(conduct, np.concatenate([rows, rows[:2].mean(axis=0, keepdims=True)]), "abcx")
    trained = answers(3, seed=5)
    conduct.moved({b"a": 0.9, b"b": 0.9, b"c": 0.9, b"x": 0.9})
    standing = judged(conduct, np.concatenate([trained, trained[:2].mean(axis=0, keepdims=True)]), "abcx")
    assert standing.factors.tolist() == [1.0, 1.0, 1.0, 0.0]


def test_a_surrounded_victim_is_paid_in_full_even_when_it_trains_on_later():
    rows = answers(3)
    conduct = settled(rows=rows)
    tilt = 0.5 * np.sign(np.random.default_rng(2).standard_normal(rows[0].shape))
    around = np.stack([rows[0] * (1 + tilt), rows[0] * (1 - tilt)])
    around /= around.sum(axis=2, keepdims=True)
    both = np.concatenate([rows, around])
    assert residual(rows[0], around)[0] < FEW.none_bits, "it lies between the two"
    for batch in range(12):
        assert judged(conduct, both, "abcxy", batch).factors[0] == 1.0
    conduct.moved({b"a": 0.5})
    assert judged(conduct, both, "abcxy").factors[0] == 1.0


def test_who_is_silent_is_in_nobodys_way():
    rows = answers(3)
    silent = np.full((1, POSITIONS, 256), 1 / 256)
    standing = judged(settled(rows=rows), np.concatenate([rows, silent]), "abcx")
    assert standing.factors.tolist() == [1.0] * 4


# --- storage and repeats -----------------------------------------------------------------------------------------


def test_conduct_survives_storage_and_damaged_rows_are_refused():
    rows = answers(3)
    conduct = settled(rows=rows)
    judged(conduct, np.concatenate([rows, rows[:1]]), "abcx")
    again = Conduct.from_value(conduct.to_value())
    assert (again.motion, again.similar, again.order) == (conduct.motion, conduct.similar, conduct.order)
    again.forget({b"a", b"b"})
    assert set(again.motion) == {b"a", b"b"} and again.order == {} and again.similar == frozenset()
    for bad in ({}, [], [[], []], [[["61", 2.0]], [], []], [[["61", "nan"]], [], []], [[], [], [["62", "61", "61"]]],
                [[], [], [["61", "62", "63"]]], [[1], [], []], [[["zz", 0]], [], []]):  # fmt: skip
        with pytest.raises((ValueError, TypeError)):
            Conduct.from_value(bad)


def test_after_a_restart_nobody_is_held_to_have_moved():
    conduct = settled()
    before = dict(conduct.motion)
    conduct.moved({b"a": None, b"b": None, b"new": None})
    assert conduct.motion == {**before, b"new": 1.0}
    conduct.moved({b"a": 0.0, b"b": None})
    assert conduct.motion[b"b"] == 1.0, "it answered, but nothing that could be compared"


def batch_of(windows, said):
    """`said[hotkey](window)` gives a distribution; None: no answer."""
    payloads = [[encode_distributions(np.stack([tell(w) for w in windows])) for _ in range(2)] if tell else []
                for tell in said]  # fmt: skip
    return BatchResult(np.ones((len(said), len(windows), 2)), [2] * len(said), payloads)


def test_repeats_measure_how_far_answers_move():
    repeats, rng = Repeats(), random.Random(1)
    flat, peak = np.ones(256), np.eye(256)[65]
    hotkeys = [b"steady", b"moving", b"silent"]
    number = 0
    for batch in range(6):
        new = [Window("d", bytes([number + i]) * 128, (30, 40)) for i in range(6)]
        number += 6
        windows = new + repeats.windows
        assert len(repeats.windows) == (0 if batch == 0 else KEPT)
        rng.shuffle(windows)
        moving = flat if batch < 4 else peak
        changes = repeats.note(hotkeys, windows, batch_of(windows, [lambda w: peak, lambda w, m=moving: m, None]))
        assert b"silent" not in changes
        if batch == 0:
            assert changes == {b"steady": None, b"moving": None}
        else:
            assert changes[b"steady"] == 0.0
            assert changes[b"moving"] == pytest.approx(0.0 if batch != 4 else 1.0, abs=0.01)
