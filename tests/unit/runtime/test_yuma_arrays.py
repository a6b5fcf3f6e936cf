"""The engine on arrays gives what the law gives, bit by bit, in every value of the trace."""

import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from runtime import yuma, yuma_arrays
from runtime.fixed import ONE, fdiv, fexp, fmul, fsigmoid
from runtime.rows import PackedRows, Row, entry_count
from runtime.trace import EpochInputs, EpochParams

STAKES = (0, 1, 2, 10**9, 3 * 10**9, 10**14, 5 * 10**14)


def subnet(chance: random.Random) -> EpochInputs:
    """Any shape: empty, one uid, ties, stakes from 1 rao to a third of the supply, dense and sparse rows."""
    n = chance.choice((0, 1, 2, 3, 8, 17, 40))
    density = chance.choice((0.05, 0.3, 1.0))
    weights = (1, 1, 3, 65535) if chance.random() < 0.5 else range(65536)

    def rows() -> list[Row]:
        return [[(j, chance.choice(weights)) for j in range(n) if chance.random() < density] for _ in range(n)]

    def blocks() -> list[int]:
        return [chance.choice((0, 50, 90, 120, 150)) for _ in range(n)]

    extra = None
    if n and chance.random() < 0.3:
        shares = yuma.row_normalised([[(j, chance.randint(0, 9)) for j in range(n) if chance.random() < density]])[0]
        extra = (shares, chance.choice(STAKES))
    return EpochInputs(
        block=200, bonds_from=chance.choice((0, 90, 130)), emission_rao=chance.choice((0, 1, 10**12 + 7)),
        stake=[chance.choice(STAKES) for _ in range(n)] if chance.random() < 0.6 else [10**9] * n,
        permit=[chance.random() < 0.8 for _ in range(n)], registered_at=blocks(), active_at=blocks(), weights_at=blocks(),
        weights=rows(), bonds=rows(), forfeit=[chance.random() < 0.15 for _ in range(n)] if chance.random() < 0.5 else (),
        open_commit=[chance.choice((None, 60, 140)) for _ in range(n)] if chance.random() < 0.3 else (), extra=extra,
    )


def params(chance: random.Random, n: int) -> EpochParams:
    return EpochParams(
        kappa=chance.choice((0, 19661, 32767, 65535)), bonds_moving_average=chance.choice((0, 900_000, 1_000_000)),
        bonds_penalty=chance.choice((0, 1, 32768, 65535)), yuma3=chance.random() < 0.7, liquid_alpha=chance.random() < 0.3,
        alpha_low=chance.choice((1638, 45875)), alpha_high=chance.choice((45875, 58982, 65535)),
        alpha_steepness=chance.choice((-1000, 0, 100, 1000, 32767)), max_validators=chance.choice((1, 3, 64)),
        stake_threshold=chance.choice((0, 2, 10**9)), activity_cutoff=chance.choice((60, 5000)),
        owner=chance.choice((None, n - 1)) if n else None, permit_twice=chance.random() < 0.7,
        exact_payout=chance.random() < 0.7,
    )


# rule: EPO-16
@pytest.mark.parametrize("seed", range(6))
def test_every_value_of_random_epochs_agrees_with_the_law(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(40):
        inputs = subnet(chance)
        chosen = params(chance, len(inputs.stake))
        law, fast = yuma.epoch(inputs, chosen), yuma_arrays.epoch(inputs, chosen)
        assert fast == law, (inputs, chosen)
        assert fast.to_bytes() == law.to_bytes()


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 160))
def test_many_more_random_epochs_agree(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(200):
        inputs = subnet(chance)
        chosen = params(chance, len(inputs.stake))
        assert yuma_arrays.epoch(inputs, chosen) == yuma.epoch(inputs, chosen), (inputs, chosen)


def test_both_ways_of_finding_the_consensus_agree() -> None:
    chance = random.Random(3)
    n = 150
    rows = [[(j, chance.randint(1, ONE)) for j in range(n)] for _ in range(n)]
    stakes = [chance.randint(1, 10**13) for _ in range(n)]
    need = yuma.support_needed(32767, sum(stakes))
    whole = yuma_arrays.entries_of(rows)
    assert yuma_arrays.DENSE_SHARE * len(whole.row) >= n * n
    dense = yuma_arrays.consensus(whole, stakes, need)
    sparse_rows = [row if uid < 20 else [] for uid, row in enumerate(rows)]
    sparse_stakes = [stake if uid < 20 else 1 for uid, stake in enumerate(stakes)]
    sparse_need = yuma.support_needed(32767, sum(sparse_stakes))
    sparse = yuma_arrays.entries_of(sparse_rows)
    assert yuma_arrays.DENSE_SHARE * len(sparse.row) < n * n
    assert dense == yuma.consensus(list(zip(rows, stakes)), need, n)
    assert yuma_arrays.consensus(sparse, sparse_stakes, sparse_need) == yuma.consensus(
        list(zip(sparse_rows, sparse_stakes)), sparse_need, n
    )


def test_rows_of_a_single_weight_beside_dense_ones_agree() -> None:
    """A row's only weight is ONE, which has 33 bits."""
    n, stakes = 12, [10**9 + uid for uid in range(12)]
    rows = [[(j, 7 * j + i + 1) for j in range(n)] for i in range(n - 1)] + [[(3, ONE)]]
    for need in (1, 10**9 + 11, 10**9 + 12, sum(stakes) // 2, sum(stakes)):
        found = yuma_arrays.consensus(yuma_arrays.entries_of(rows), stakes, need)
        assert found == yuma.consensus(list(zip(rows, stakes)), need, n)


def test_support_sums_beyond_64_bits_are_exact_within_a_column() -> None:
    """Stakes of all columns together pass 2^64; exact ties still count."""
    n, stakes = 2000, [7 * 10**15] * 3
    rows = [[(j, 5 + i) for j in range(n)] for i in range(3)] + [[]] * (n - 3)
    stakes += [1] * (n - 3)
    assert sum(stakes) * n > 1 << 64
    for need in (7 * 10**15, 7 * 10**15 + 1, 14 * 10**15, 21 * 10**15, 21 * 10**15 + 1):
        found = yuma_arrays.consensus(yuma_arrays.entries_of(rows), stakes, need)
        assert found == yuma.consensus(list(zip(rows, stakes)), need, n)


def edges() -> Iterator[int]:
    for power in range(33):
        yield from (max(0, (1 << power) - 1), 1 << power, min(ONE, (1 << power) + 1))


# rule: EPO-16
def test_products_and_quotients_at_their_edges() -> None:
    values = sorted(dict.fromkeys(edges()))
    a, b = (np.array(part, dtype=np.int64) for part in zip(*[(x, y) for x in values for y in values]))
    assert yuma_arrays.multiplied(a, b).tolist() == [fmul(int(x), int(y)) for x, y in zip(a, b)]
    smaller, larger = np.minimum(a, b), np.maximum(a, b) << 12
    assert yuma_arrays.divided(np.minimum(a, b), np.maximum(a, b)).tolist() == [
        fdiv(int(x), int(y)) for x, y in zip(smaller, np.maximum(a, b))
    ]
    assert yuma_arrays.divided(smaller, larger).tolist() == [fdiv(int(x), int(y)) for x, y in zip(smaller, larger)]


def test_the_series_of_e_at_its_edges() -> None:
    chance = random.Random(5)
    points = [0, 1, -1, ONE, -ONE, 20 * ONE, -20 * ONE, 25 * ONE, -25 * ONE]
    points += [chance.randint(-21 * ONE, 21 * ONE) for _ in range(200)]
    x = np.array(points, dtype=np.int64)
    assert yuma_arrays._exp(x).tolist() == [fexp(each) for each in points]
    assert yuma_arrays._sigmoid(x).tolist() == [fsigmoid(each) for each in points]
    powers = [1 << bits for bits in range(2, 62)] + [(1 << bits) - 1 for bits in range(2, 62)]
    assert yuma_arrays._reciprocal(np.array(powers, dtype=np.int64)).tolist() == [(1 << 64) // each for each in powers]


def test_packed_rows_are_rows() -> None:
    rows: list[Row] = [[(0, 7), (3, 65535)], [], [(1, 1)], [(2, 9)]]
    stored = [b"".join(a.to_bytes(2, "little") + b.to_bytes(2, "little") for a, b in row) for row in rows]
    packed = PackedRows.from_pairs(stored)
    assert packed == rows and rows == packed and packed[1:3] == rows[1:3] and packed[-1] == rows[-1]
    assert [packed.pairs(uid) for uid in range(4)] == stored
    assert len(packed) == 4 and entry_count(packed) == entry_count(rows) == 4
    assert packed != rows[:3] and packed != [*rows[:3], [(2, 8)]]
    with pytest.raises(IndexError):
        packed[4]
    assert PackedRows.from_pairs([]) == [] and PackedRows.from_pairs([b""]) == [[]]
    chance = random.Random(2)
    inputs = replace(subnet(chance), weights=packed, bonds=packed, stake=[5] * 4, permit=[True] * 4, registered_at=[0] * 4,
                     active_at=[199] * 4, weights_at=[199] * 4, forfeit=(), open_commit=(), extra=None)
    assert yuma_arrays.epoch(inputs, EpochParams()) == yuma.epoch(replace(inputs, weights=rows, bonds=rows), EpochParams())
