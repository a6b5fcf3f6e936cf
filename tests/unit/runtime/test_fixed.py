"""Fixed point: floors, exponentials against exact series, and splits that lose nothing."""

from decimal import Decimal, getcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.fixed import (
    ONE,
    U16_MAX,
    clamp,
    fdiv,
    fexp,
    fmul,
    fnorm,
    fpow,
    from_ppm,
    from_u16,
    fsigmoid,
    fu16,
    largest_remainder,
)

getcontext().prec = 60
u64 = st.integers(0, (1 << 64) - 1)
q32 = st.integers(0, ONE)


# rule: FIX-1
@given(u64, u64)
def test_products_and_quotients_are_floors(a: int, b: int) -> None:
    assert fmul(a, b) == a * b // ONE
    if b:
        assert fdiv(a, b) * b <= a * ONE < (fdiv(a, b) + 1) * b


# rule: FIX-1
def test_quotient_by_zero_is_zero() -> None:
    assert fdiv(5, 0) == 0 and fnorm([0, 0]) == [0, 0] and fnorm([]) == []


@given(st.integers(0, U16_MAX))
def test_u16_loses_at_most_one_step_on_the_way_through_q32(x: int) -> None:
    assert fu16(from_u16(x) + 1) == x
    assert fu16(from_u16(x)) in (x, x - 1)


# rule: FIX-2
def test_u16_is_bounded() -> None:
    assert fu16(ONE) == fu16(3 * ONE) == 65535 and fu16(ONE - 1) == 65534 and fu16(0) == 0
    assert from_ppm(900_000) == 3_865_470_566 and from_ppm(1_000_000) == ONE


# rule: FIX-2
@given(st.lists(u64, min_size=1, max_size=20))
def test_shares_sum_to_one_less_at_most_one_unit_each(values: list[int]) -> None:
    shares = fnorm(values)
    if any(values):
        assert ONE - len(values) < sum(shares) <= ONE


def test_clamp_prefers_the_lower_bound_when_bounds_cross() -> None:
    assert (clamp(5, 0, 3), clamp(-1, 0, 3), clamp(2, 0, 3), clamp(5, 4, 3)) == (3, 0, 2, 4)


# rule: FIX-3
@pytest.mark.parametrize(
    ("x", "expected"), [(0, "1"), (-5, "0.0067379469983"), (5, "148.41315909848"), (-10, "0.00004539988")]
)
def test_exponential_of_known_arguments(x: int, expected: str) -> None:
    value = Decimal(fexp(x * ONE)) / ONE
    assert abs(value - Decimal(expected)) < Decimal("1e-9")


@given(st.integers(-20 * ONE, 20 * ONE))
def test_exponential_is_close_to_the_true_one(x: int) -> None:
    true = (Decimal(x) / ONE).exp()
    assert abs(Decimal(fexp(x)) / ONE - true) <= max(Decimal("1e-9"), true * Decimal("1e-7"))


def test_exponential_is_clamped() -> None:
    assert fexp(21 * ONE) == fexp(20 * ONE) and fexp(-(10**20)) == fexp(-20 * ONE)
    assert fsigmoid(0) == ONE // 2 and fsigmoid(10**30) >= ONE - 10 and fsigmoid(-(10**30)) == fdiv(ONE, ONE + fexp(20 * ONE))


# rule: FIX-3
@given(st.integers(0, ONE), st.integers(0, 60))
def test_power_never_exceeds_the_true_one(base: int, exponent: int) -> None:
    value = fpow(base, exponent)
    assert value * ONE**exponent <= base**exponent * ONE
    assert fpow(base, 0) == ONE and fpow(base, 1) == base


# rule: FIX-4
@given(st.lists(st.integers(0, 1 << 60), min_size=1, max_size=30), st.integers(0, 1 << 60))
def test_largest_remainder_gives_out_the_pot_exactly(weights: list[int], pot: int) -> None:
    if not any(weights):
        return
    parts, total = largest_remainder(weights, pot), sum(weights)
    assert sum(parts) == pot
    for weight, part in zip(weights, parts, strict=True):
        assert weight * pot // total <= part <= weight * pot // total + (1 if weight else 0)


# rule: FIX-4
def test_largest_remainder_breaks_ties_by_the_lower_index() -> None:
    assert largest_remainder([1, 1, 1], 2) == [1, 1, 0]
    assert largest_remainder([1, 2, 1], 3) == [1, 1, 1]  # remainders 3/4, 1/2, 3/4
    assert largest_remainder([0, 0], 0) == [0, 0] and largest_remainder([], 0) == []


def test_nobody_cannot_receive_a_pot() -> None:
    with pytest.raises(ValueError, match="nobody"):
        largest_remainder([0, 0], 1)
