"""The scorers that are kept for comparison do what is said of them."""

import numpy as np

from ai.judge.mixture import coalition_values
from tools.lab.former_scorers import base_plus_synergy, leave_one_out


def hits(seed=0):
    rng = np.random.default_rng(seed)
    own = rng.integers(3, size=24)
    out = rng.uniform(0.001, 0.01, (3, 24, 8))
    for i in range(3):
        out[i, own == i] = rng.uniform(0.4, 0.9, (int((own == i).sum()), 8))
    return out


def test_leave_one_out_gives_nothing_to_two_that_know_the_same():
    pool = hits()
    doubled = np.concatenate([pool, pool[:1]])
    alone, both = leave_one_out(coalition_values(pool)), leave_one_out(coalition_values(doubled))
    assert len(alone) == 3 and len(both) == 4
    assert both[0] < 0.1 * alone[0] and both[1] > 0.8 * alone[1]


def test_base_plus_synergy_pays_those_who_do_nothing_and_copies():
    pool = hits()
    shares = base_plus_synergy(np.concatenate([pool, np.full((1, 24, 8), 1 / 256)]))
    assert abs(shares.sum() - 1) < 1e-12 and shares[3] > 0.0005
    copied = base_plus_synergy(np.concatenate([pool, pool[:1], pool[:1]]))
    assert copied[[0, 3, 4]].sum() > 1.2 * base_plus_synergy(pool)[0]
