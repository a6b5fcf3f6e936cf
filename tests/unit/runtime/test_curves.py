"""Prices, halvings, averages, schedules, pruning and splits: literal numbers and properties."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.curves import (
    DEFAULT_SUPPLY_CAP_RAO,
    block_emission_rao,
    bumped_price_rao,
    decay_factor_q32,
    decayed_price_rao,
    halvings,
    pruning_score,
    step_average,
    subnet_lock_rao,
)
from runtime.fixed import HALF, ONE, fpow
from runtime.pruning import Candidate, is_immune, prune_limit, uid_to_prune
from runtime.schedule import Window, blocks_until_epoch, commit_epoch, epoch_due, first_epoch_anchor, reveal_window
from runtime.splits import part_u16, root_share_q32, split_emission, split_mint

Q = 10**9
MOST = (1 << 64) - 1
rao = st.integers(0, 21 * 10**15)

# --- prices


# rule: REG-1
@pytest.mark.parametrize(
    ("half_life", "factor"),
    [(1, 2147483648), (10, 4007346185), (100, 4265299790), (360, 4286705684), (7200, 4294553838), (36100, 4294884830)],
)
def test_decay_factor_is_the_greatest_that_halves(half_life: int, factor: int) -> None:
    assert decay_factor_q32(half_life) == factor
    assert fpow(factor, half_life) <= HALF < fpow(factor + 1, half_life)


# rule: REG-1
def test_price_halves_in_a_half_life_in_one_step_or_in_many() -> None:
    factor, price = decay_factor_q32(360), Q
    for _ in range(360):
        price = decayed_price_rao(price, factor, 1, 0, MOST)
    assert price == 499_999_865
    at_once = decayed_price_rao(Q, factor, 360, 0, MOST)
    assert price <= at_once <= Q // 2 and at_once - price < 360


@given(rao, st.integers(0, 5000), st.integers(0, 5000))
def test_decay_never_rises_and_stays_in_bounds(price: int, blocks: int, more: int) -> None:
    factor = decay_factor_q32(360)
    first, later = (decayed_price_rao(price, factor, count, 500_000, 100 * Q) for count in (blocks, blocks + more))
    assert 500_000 <= later <= first <= 100 * Q


# rule: REG-2
def test_registrations_bump_the_price_and_are_clamped() -> None:
    assert bumped_price_rao(Q, 1_260_000, 1, 0, MOST) == 1_260_000_000
    assert bumped_price_rao(Q, 1_260_000, 3, 0, MOST) == 2_000_376_000
    assert bumped_price_rao(Q, 900_000, 2, 0, MOST) == Q  # a factor below one counts as one
    assert bumped_price_rao(Q, 3_000_000, 9, 0, 5 * Q) == 5 * Q
    assert bumped_price_rao(7, 1_260_000, 0, 10, MOST) == 7


# rule: NET-1
def test_subnet_lock_doubles_and_falls_linearly() -> None:
    args = {"floor_rao": Q, "interval_blocks": 1000, "emission_rao": Q}
    assert subnet_lock_rao(5 * Q, None, 77, **args) == 5 * Q
    assert subnet_lock_rao(5 * Q, 100, 100, **args) == 10 * Q
    assert subnet_lock_rao(5 * Q, 100, 1100, **args) == 5 * Q
    assert subnet_lock_rao(5 * Q, 100, 99_999, **args) == Q
    halved = subnet_lock_rao(5 * Q, 100, 600, floor_rao=Q, interval_blocks=1000, emission_rao=Q // 2)
    assert halved == 5 * Q  # the interval shrinks with the emission


# --- emission


# rule: EMI-1
@pytest.mark.parametrize(
    ("issuance", "emission"),
    [(0, Q), (10_500_000 * Q, Q // 2), (15_750_000 * Q, Q // 4), (18_375_000 * Q, Q // 8), (10_500_000 * Q - 1, Q)],
)
def test_emission_halves_at_its_thresholds(issuance: int, emission: int) -> None:
    assert block_emission_rao(issuance) == emission


@given(rao)
def test_emission_never_exceeds_the_cap(issuance: int) -> None:
    assert issuance + block_emission_rao(issuance) <= DEFAULT_SUPPLY_CAP_RAO
    if issuance < DEFAULT_SUPPLY_CAP_RAO:
        k = halvings(issuance)
        left = DEFAULT_SUPPLY_CAP_RAO - issuance
        assert left << k <= DEFAULT_SUPPLY_CAP_RAO < left << (k + 1)


def test_emission_ends_at_the_cap() -> None:
    assert block_emission_rao(DEFAULT_SUPPLY_CAP_RAO) == block_emission_rao(DEFAULT_SUPPLY_CAP_RAO + 1) == 0
    assert block_emission_rao(DEFAULT_SUPPLY_CAP_RAO - 1) == 0
    assert block_emission_rao(90, cap_rao=100, initial_rao=1000) == 10  # never more than what is left


# --- averages


def test_average_moves_by_the_elapsed_part_of_its_window() -> None:
    assert step_average(0, 1000, 5, 10) == 500
    assert step_average(1000, 0, 10, 10) == step_average(1000, 0, 99, 10) == 0
    assert step_average(7, 100, 3, 0) == 100
    value = 1
    for _ in range(40):
        value = step_average(value, 0, 1, 10)
    assert value == 0


@given(rao, rao, st.integers(0, 100), st.integers(0, 100))
def test_average_stays_between_value_and_target(value: int, target: int, blocks: int, window: int) -> None:
    assert min(value, target) <= step_average(value, target, blocks, window) <= max(value, target)


# rule: REG-9
def test_pruning_score_follows_pay_in_basis_points() -> None:
    full = 10_000 << 16
    assert pruning_score(0, 5, 5) == full // 10
    assert pruning_score(full, 0, 0) == full
    score = 0
    for _ in range(300):
        score = pruning_score(score, Q, 4 * Q)
    assert full // 4 - 10 <= score <= full // 4
    assert pruning_score(full, 0, Q) == full - full // 10


# --- schedule


def due(block: int, **given_: int | None) -> bool:
    settings = {"tempo": 15, "last_epoch_block": 100, "pending_at": None, "blocks_since_last_step": 0, **given_}
    return epoch_due(block, **settings)  # type: ignore[arg-type]


# rule: SCH-1
def test_epoch_is_due_after_a_tempo_when_deferred_or_when_overdue() -> None:
    assert not due(114) and due(115) and due(200)
    assert due(103, pending_at=103) and not due(102, pending_at=103)
    assert due(101, blocks_since_last_step=50_401) and not due(101, blocks_since_last_step=50_400)
    assert not due(999, tempo=0, pending_at=5)


# rule: SCH-2
def test_blocks_left_and_stagger() -> None:
    assert blocks_until_epoch(100, tempo=15, last_epoch_block=100) == 15
    assert blocks_until_epoch(130, tempo=15, last_epoch_block=100) == 0
    assert blocks_until_epoch(130, tempo=0, last_epoch_block=100) is None
    assert first_epoch_anchor(50, 17, 15) == 48 and first_epoch_anchor(50, 3, 0) == 50
    assert commit_epoch(7, due=False) == 7 and commit_epoch(7, due=True) == 8


# rule: WGT-5
def test_reveal_is_open_in_exactly_one_epoch() -> None:
    assert [reveal_window(4, epoch, 2) for epoch in (4, 5, 6, 7)] == [
        Window.EARLY, Window.EARLY, Window.OPEN, Window.EXPIRED,
    ]


# --- pruning


def prune(*rows: tuple[int, int, int], **given_: object) -> int | None:
    settings = {"immunity_period": 100, "min_non_immune": 0, **given_}
    return uid_to_prune([Candidate(*row) for row in rows], 1000, **settings)  # type: ignore[arg-type]


# rule: REG-7
def test_lowest_score_goes_then_the_oldest_then_the_lowest_uid() -> None:
    assert prune((5, 1, 0), (4, 9, 1), (4, 8, 2), (4, 8, 3)) == 2


# rule: REG-7
def test_immune_neurons_go_only_when_too_few_others_remain() -> None:
    assert prune((9, 1, 0), (0, 950, 1)) == 0
    assert prune((9, 1, 0), (0, 950, 1), min_non_immune=1) == 1
    assert prune((9, 950, 0), (8, 960, 1)) == 1
    assert is_immune(901, 1000, 100) and not is_immune(900, 1000, 100)


def test_protected_neurons_never_go() -> None:
    assert prune((0, 1, 0), (9, 1, 1), protected=(0,)) == 1
    assert prune((0, 1, 0), protected=(0,)) is None and prune() is None
    assert prune((9, 1, 0), min_non_immune=1) is None


# rule: REG-8
def test_few_may_be_replaced_in_one_period() -> None:
    assert [prune_limit(count) for count in (0, 1, 16, 31, 32, 256)] == [1, 1, 1, 1, 2, 16]


# --- splits


# rule: EMI-3
@given(rao, st.integers(0, 11796), st.integers(16384, 49151), st.integers(0, ONE))
def test_pots_sum_to_the_emission(emission: int, cut: int, miners: int, root: int) -> None:
    pots = split_emission(emission, owner_cut=cut, miner_share=miners, root_share_q32=root)
    assert sum(pots) == emission and min(pots) >= 0


def test_pots_of_a_whole_emission() -> None:
    pots = split_emission(Q, owner_cut=11796, miner_share=32768, root_share_q32=ONE // 4)
    assert pots == (179_995_422, 410_008_545, 307_497_025, 102_499_008) and sum(pots) == Q
    assert part_u16(Q, 6553) == 99_992_370


# rule: EMI-2
@given(rao, st.lists(st.tuples(st.integers(0, ONE), st.integers(0, ONE)), max_size=8))
def test_mint_is_split_without_loss_or_not_minted(mint: int, rows: list[tuple[int, int]]) -> None:
    shares, withheld = [row[0] for row in rows], [row[1] for row in rows]
    parts = split_mint(mint, shares, withheld)
    assert sum(parts) in (0, mint) and len(parts) == len(rows)
    if any(share and part < ONE for share, part in rows):
        assert sum(parts) == mint


# rule: EMI-4
def test_root_share_weighs_root_stake() -> None:
    half = 1 << 63
    assert root_share_q32(half, 100, 50) == ONE // 2
    assert root_share_q32(half, 0, 0) == 0 and root_share_q32(half, 5, 0) == ONE
