"""Fixed point on whole numbers: the only arithmetic the rules use.

A Q32 number is an integer that stands for itself divided by 2^32. Products and quotients are floored; conversions to
u16 and to rao are floored; the one place that rounds is the scaling of weights (`weightcheck.max_upscale`). All values
are non-negative unless a function says otherwise. Stakes are whole rao and are never turned into Q32 before they are
compared, ranked or summed: very unequal stakes and exact ties come out right only on the raw numbers.

Rules: FIX-1 products and quotients · FIX-2 shares · FIX-3 powers and the exponential · FIX-4 largest remainder
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

FRACTION_BITS: Final = 32
ONE: Final = 1 << FRACTION_BITS
HALF: Final = ONE >> 1
U16_MAX: Final = 65535
U64_MAX: Final = (1 << 64) - 1
PPM: Final = 1_000_000

EXP_LIMIT: Final = 20  # exp is computed for |x| <= 20; beyond it the result is that of 20
EXP_TERMS: Final = 96  # more than enough at |x| = 20: the last terms are below one unit of Q32


def fmul(a: int, b: int) -> int:
    """Product of two Q32 numbers, floored."""
    return (a * b) >> FRACTION_BITS


def fdiv(a: int, b: int) -> int:
    """Q32 quotient of two numbers of one unit, floored; 0 if `b` is 0."""
    return 0 if b == 0 else (a << FRACTION_BITS) // b


def fu16(x: int) -> int:
    """Q32 share as a u16 proportion: floor(x * 65535), at most 65535."""
    return min(U16_MAX, (x * U16_MAX) >> FRACTION_BITS)


def from_u16(x: int) -> int:
    """u16 proportion as a Q32 share: x / 65535."""
    return fdiv(x, U16_MAX)


def from_ppm(x: int) -> int:
    """Parts per million as a Q32 share."""
    return fdiv(x, PPM)


def clamp(x: int, low: int, high: int) -> int:
    """`x` moved into [low, high]; `low` wins if the bounds cross."""
    return max(low, min(high, x))


def fnorm(values: Sequence[int]) -> list[int]:
    """Q32 share of each value in the sum; all zeros stay zeros."""
    total = sum(values)
    return [fdiv(value, total) for value in values]


def fpow(base: int, exponent: int) -> int:
    """Q32 power by square-and-multiply from the low bit, every product floored."""
    result = ONE
    while exponent:
        if exponent & 1:
            result = fmul(result, base)
        exponent >>= 1
        if exponent:
            base = fmul(base, base)
    return result


def fexp(x: int) -> int:
    """e^x of a signed Q32 number, clamped to |x| <= 20: Taylor sum on |x|, reciprocal for negative x."""
    x = clamp(x, -EXP_LIMIT * ONE, EXP_LIMIT * ONE)
    size = abs(x)
    total, term = ONE + size, size
    for i in range(2, EXP_TERMS):
        term = fmul(term, size) // i
        total += term
    return total if x >= 0 else fdiv(ONE, total)


def fsigmoid(x: int) -> int:
    """1 / (1 + e^-x) of a signed Q32 number."""
    return fdiv(ONE, ONE + fexp(-x))


def largest_remainder(weights: Sequence[int], pot: int) -> list[int]:
    """Split `pot` units in proportion to integer weights; the parts sum to the pot exactly.

    Every part is floored first; the units that are left (fewer than there are weights) go one each to the largest
    remainders, ties to the lower index. With no positive weight only an empty pot can be split.
    """
    total = sum(weights)
    if total == 0:
        if pot:
            raise ValueError(f"nobody to receive {pot} units")
        return [0] * len(weights)
    parts = [weight * pot // total for weight in weights]
    left = pot - sum(parts)
    if left:
        order = sorted(range(len(weights)), key=lambda i: (-(weights[i] * pot % total), i))
        for i in order[:left]:
            parts[i] += 1
    return parts
