"""Rows of weights, commits and reveals: each check, their order, and what is stored."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.codec import pack_u16
from runtime import weightcheck as wc
from runtime.weightcheck import RowRules

RULES = RowRules(uid=0, uid_count=6, permit=True)
u16 = st.integers(0, 65535)


def test_a_good_row_has_no_fault() -> None:
    assert wc.row_fault([1, 2], [10, 20], 0, RULES) is None
    assert wc.row_fault([], [], 0, RULES._replace(min_allowed=0)) == "InvalidValue"


# rule: WGT-1
@pytest.mark.parametrize(
    ("uids", "values", "version", "changes", "fault"),
    [
        ([1, 2], [1], 0, {}, "WeightVecNotEqualSize"),
        ([1] * 7, [1] * 7, 0, {}, "UidsLengthExceedUidsInSubNet"),
        ([1, 2], [1, 1], 0, {"stake": 9, "stake_threshold": 10}, "NotEnoughStakeToSetWeights"),
        ([1, 2], [1, 1], 4, {"version_required": 5}, "IncorrectWeightVersionKey"),
        ([1, 2], [1, 1], 0, {"permit": False}, "NeuronNoValidatorPermit"),
        ([1, 1], [1, 1], 0, {}, "DuplicateUids"),
        ([1, 6], [1, 1], 0, {}, "UidVecContainInvalidOne"),
        ([1, -1], [1, 1], 0, {}, "UidVecContainInvalidOne"),
        ([1, 2], [1, 1], 0, {"min_allowed": 3}, "WeightVecLengthIsLow"),
        ([1, 2], [0, 0], 0, {}, "InvalidValue"),
        ([1, 2, 3], [1, 1, 3], 0, {"weight_limit": 32767}, "MaxWeightExceeded"),
    ],
)
def test_every_fault_has_its_name(uids: list[int], values: list[int], version: int, changes: dict, fault: str) -> None:
    assert wc.row_fault(uids, values, version, RULES._replace(**changes)) == fault


# rule: WGT-1
def test_the_first_fault_counts() -> None:
    """A row with every fault loses them one by one, in the order of the rules."""
    rules = RULES._replace(permit=False, stake_threshold=1, version_required=1, min_allowed=6, weight_limit=1)
    seen = []
    uids, values, version = [1] * 7, [0] * 6, 0
    for fix in (
        lambda: values.append(0), lambda: (uids.clear(), uids.extend([1, 1, 9]), values.clear(), values.extend([0] * 3)),
    ):
        seen.append(wc.row_fault(uids, values, version, rules))
        fix()
    for changes in ({"stake": 1}, {"version_required": 0}, {"permit": True}):
        seen.append(wc.row_fault(uids, values, version, rules))
        rules = rules._replace(**changes)
    for better in ([1, 2, 9], [1, 2, 3]):
        seen.append(wc.row_fault(uids, values, version, rules))
        uids = better
    seen.append(wc.row_fault(uids, values, version, rules))
    rules = rules._replace(min_allowed=3)
    seen.append(wc.row_fault(uids, values, version, rules))
    seen.append(wc.row_fault(uids, [1, 1, 1], version, rules))
    assert seen == [
        "WeightVecNotEqualSize", "UidsLengthExceedUidsInSubNet", "NotEnoughStakeToSetWeights",
        "IncorrectWeightVersionKey", "NeuronNoValidatorPermit", "DuplicateUids", "UidVecContainInvalidOne",
        "WeightVecLengthIsLow", "InvalidValue", "MaxWeightExceeded",
    ]


def test_the_single_weight_on_oneself_needs_neither_permit_nor_length_nor_limit() -> None:
    rules = RULES._replace(permit=False, min_allowed=5, weight_limit=100)
    assert wc.row_fault([0], [7], 0, rules) is None
    assert wc.row_fault([0, 1], [7, 7], 0, rules) == "NeuronNoValidatorPermit"
    assert wc.row_fault([1], [7], 0, rules) == "NeuronNoValidatorPermit"


def test_minimum_length_follows_a_small_subnet() -> None:
    assert wc.minimum_fault([1, 2], 0, 2, 1024) is None
    assert wc.minimum_fault([1], 0, 2, 1024) == "WeightVecLengthIsLow"


# rule: WGT-2
def test_the_stored_row_is_scaled_sorted_and_without_zeros() -> None:
    assert wc.prepared_row([5, 1, 3], [10, 20, 0]) == [(1, 65535), (5, 32768)]


# rule: WGT-2
@given(st.lists(u16, max_size=40))
def test_scaling_rounds_half_up_and_keeps_the_order(values: list[int]) -> None:
    scaled, top = wc.max_upscale(values), max(values, default=0)
    if not top:
        assert scaled == values
        return
    assert max(scaled) == 65535
    for value, result in zip(values, scaled, strict=True):
        assert abs(2 * result * top - 2 * value * 65535) <= top
        assert 2 * result * top - 2 * value * 65535 > -top  # a half is rounded up
    assert wc.max_upscale(scaled) == scaled


@given(st.lists(u16, max_size=20), u16)
def test_share_limit_is_exact(values: list[int], limit: int) -> None:
    assert wc.share_within(values, limit) == all(value * 65535 <= limit * sum(values) for value in values)


# rule: WGT-3
def test_rate_limit_passes_at_the_limit_and_the_first_time() -> None:
    assert wc.rate_fault(150, 50, 100) is None and wc.rate_fault(5, None, 100) is None
    assert wc.rate_fault(149, 50, 100) == "SettingWeightsTooFast"
    assert wc.rate_fault(0, 0, 1, "CommittingWeightsTooFast") == "CommittingWeightsTooFast"


def test_reveals_have_one_epoch_and_commits_a_limit() -> None:
    assert [wc.reveal_fault(3, epoch, 2) for epoch in (4, 5, 6)] == ["RevealTooEarly", None, "ExpiredWeightCommit"]
    assert wc.pending_fault(9) is None and wc.pending_fault(10) == "TooManyUnrevealedCommits"


def test_shares_are_floored() -> None:
    assert wc.share_u16([1, 2, 3, 4]) == [6553, 13107, 19660, 26214] and wc.share_u16([0, 0]) == [0, 0]


@given(st.lists(st.tuples(st.integers(0, 300), u16), min_size=1, unique_by=lambda pair: pair[0]), st.booleans())
def test_packed_rows_hold_the_pairs_of_prepared_ones(row: list[tuple[int, int]], in_order: bool) -> None:
    row = sorted(row) if in_order else row
    uids, values = [uid for uid, _ in row], [value for _, value in row]
    assert wc.packed_row(uids, values) == pack_u16([number for pair in wc.prepared_row(uids, values) for number in pair])
