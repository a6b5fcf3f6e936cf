"""The judge's game: mixture, Shapley values, clusters, smoothed scores."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.judge.clusters import clusters, similar_pairs
from ai.judge.mixture import ALPHABET, Mixture, coalition_values, floored
from ai.judge.shapley import ScoreBook, score_batch, shapley_values, to_weights


def pool(n: int, windows: int = 16, positions: int = 8, seed: int = 0) -> np.ndarray:
    """Each expert is good on its own share of the windows and poor elsewhere."""
    rng = np.random.default_rng(seed)
    own = rng.integers(n, size=windows)
    hits = rng.uniform(0.001, 0.01, (n, windows, positions))
    for i in range(n):
        hits[i, own == i] = rng.uniform(0.3, 0.9, (int((own == i).sum()), positions))
    return floored(hits)


def shapley_by_orders(values: np.ndarray, n: int) -> np.ndarray:
    """The definition: average marginal contribution over all orders."""
    phi = np.zeros(n)
    for order in itertools.permutations(range(n)):
        coalition = 0
        for player in order:
            phi[player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    return phi / math.factorial(n)


@given(st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_shapley_equals_its_definition_and_is_efficient(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(size=1 << n)
    values[0] = 0.0
    phi = shapley_values(values, n)
    assert np.allclose(phi, shapley_by_orders(values, n))
    assert abs(phi.sum() - values[-1]) < 1e-9


def test_empty_coalition_is_worth_nothing_and_more_experts_help_here() -> None:
    values = coalition_values(pool(5))
    assert values[0] == 0.0
    assert values[-1] > max(values[1 << i] for i in range(5))


def test_a_uniform_expert_earns_almost_nothing() -> None:
    hits = np.concatenate([pool(4), np.full((1, 16, 8), 1.0 / ALPHABET)])
    phi = score_batch(hits)
    assert phi[4] <= 0.01 < phi[:4].min()


def test_coalition_values_agree_with_the_running_mixture() -> None:
    hits = pool(3, windows=1, positions=6, seed=3)
    raw = (hits - 0.01 / ALPHABET) / 0.99
    mixture, bits = Mixture.start({"0": 1, "1": 1, "2": 1}), 0.0
    for position in range(6):
        answers = {}
        for i in range(3):
            answer = np.full(ALPHABET, (1 - raw[i, 0, position]) / (ALPHABET - 1))
            answer[7] = raw[i, 0, position]
            answers[str(i)] = answer
        bits += math.log2(mixture.predict(answers)[7])
        mixture.observe(7, answers)
    assert coalition_values(hits)[-1] == pytest.approx(8 + bits / 6)


def test_copies_share_one_value_as_a_cluster() -> None:
    alone = pool(3, windows=32, positions=8)
    doubled = np.concatenate([alone, alone[:1]])
    pairs = similar_pairs(doubled)
    assert pairs == frozenset({(0, 3)})
    groups = clusters(4, pairs)
    assert groups == [[0, 3], [1], [2]]
    phi, before = score_batch(doubled, groups), score_batch(alone)
    assert phi[0] == phi[3]
    assert phi[0] + phi[3] == pytest.approx(before[0])


def test_similarity_has_hysteresis() -> None:
    rng = np.random.default_rng(1)
    base = rng.uniform(0.02, 0.9, 4000)
    noise = np.exp(rng.normal(0, 0.42, 4000))
    hits = np.stack([base, np.clip(base * noise, 0.001, 1)]).reshape(2, 500, 8)
    assert similar_pairs(hits) == frozenset()
    assert similar_pairs(hits, frozenset({(0, 1)})) == frozenset({(0, 1)})


def test_weights_survive_bad_numbers() -> None:
    assert to_weights(np.array([0.0, np.nan, -1.0, np.inf])).tolist() == [0, 0, 0, 0]
    assert to_weights(np.array([1.0, 0.5, 0.0])).tolist() == [65535, 32768, 0]


def test_mixture_moves_to_the_expert_that_is_right_and_back() -> None:
    mixture = Mixture.start({"a": 1.0, "b": 1.0})
    right, wrong = np.full(ALPHABET, 1e-4), np.full(ALPHABET, 1.0 / ALPHABET)
    right[65] = 0.9
    for _ in range(10):
        mixture.observe(65, {"a": right, "b": wrong})
    assert mixture.weights["a"] > 0.9
    for _ in range(10):
        mixture.observe(65, {"a": wrong, "b": right})
    assert mixture.weights["b"] > 0.9
    assert sum(mixture.weights.values()) + mixture.null == pytest.approx(1.0)
    mixture.rejoin({"b": 1.0, "c": 1.0})
    assert set(mixture.weights) == {"b", "c"} and sum(mixture.weights.values()) + mixture.null == pytest.approx(1.0)


def test_score_book_trusts_newcomers_slowly_and_survives_storage() -> None:
    book = ScoreBook()
    for _ in range(20):
        book.add({b"a" * 32: 1.0, b"b" * 32: 0.5})
    book.add({b"a" * 32: 1.0, b"b" * 32: 0.5, b"c" * 32: 1.0})
    old, _, new = book.scores([b"a" * 32, b"b" * 32, b"c" * 32])
    assert 0 < new < old
    again = ScoreBook.from_value(book.to_value())
    assert again.scores([b"a" * 32]).tolist() == book.scores([b"a" * 32]).tolist()
    book.forget({b"a" * 32})
    assert book.scores([b"b" * 32]).tolist() == [0.0]
    with pytest.raises(ValueError, match="score book"):
        ScoreBook.from_value({"no": 1})


def test_many_experts_play_in_groups_that_agree_with_the_whole_game() -> None:
    hits = pool(12, windows=64, positions=4, seed=5)
    whole = shapley_values(coalition_values(hits), 12)
    grouped = score_batch(hits, random=random.Random(1))
    assert grouped.tolist() == score_batch(hits, random=random.Random(1)).tolist()
    assert grouped.tolist() != score_batch(hits, random=random.Random(2)).tolist()
    assert np.corrcoef(whole, grouped)[0, 1] > 0.9
    assert (grouped > 0).all()


def test_groups_keep_clusters_whole_and_give_nothing_for_nothing() -> None:
    alone = pool(20, windows=32, positions=4, seed=6)
    null = np.full((1, 32, 4), 1.0 / ALPHABET)
    hits = np.concatenate([alone, alone[:1], null])
    groups = clusters(22, similar_pairs(hits))
    assert [0, 20] in groups
    phi = score_batch(hits, groups, random.Random(3))
    assert phi[0] == phi[20] and phi[21] <= 0.01
    before = score_batch(np.concatenate([alone, null]), random=random.Random(3))
    assert phi[0] + phi[20] < 1.3 * before[0], "two are paid about what one was"


def test_an_empty_market_and_a_wrong_clustering() -> None:
    assert score_batch(np.zeros((0, 4, 2))).tolist() == []
    with pytest.raises(ValueError, match="once"):
        score_batch(pool(3), [[0], [0, 1]])
    with pytest.raises(ValueError, match="once"):
        score_batch(pool(3), [[0], [3]])
    assert score_batch(pool(3), [[0], [1]])[2] == 0, "who is in no cluster does not play"
