"""Comparison of what was computed with what a vector states, exactly or within its tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from tools.lab.replay.cases import Mismatch

Number = int | Fraction
SHOWN_DIGITS = 12


def agree(actual: Any, expected: Any, tolerance: Number, where: str = "") -> int:
    """Compare numbers, booleans, text, None, and lists or dictionaries of them; returns how many values were compared.

    Raises Mismatch naming the first place that differs by more than `tolerance`.
    """
    if isinstance(expected, dict):
        if not isinstance(actual, dict):
            raise Mismatch(f"{where}: got {shown(actual)}, expected an object")
        return sum(agree(actual.get(key), value, tolerance, f"{where}[{key}]") for key, value in expected.items())
    if isinstance(expected, list):
        if not isinstance(actual, Sequence) or len(actual) != len(expected):
            raise Mismatch(f"{where}: got {shown(actual)}, expected {len(expected)} values")
        pairs = zip(actual, expected, strict=True)
        return sum(agree(one, other, tolerance, f"{where}[{index}]") for index, (one, other) in enumerate(pairs))
    if is_number(expected) and is_number(actual):
        if abs(actual - expected) > tolerance:
            raise Mismatch(f"{where}: got {shown(actual)}, expected {shown(expected)} (tolerance {shown(tolerance)})")
        return 1
    if type(actual) is not type(expected) or actual != expected:
        raise Mismatch(f"{where}: got {shown(actual)}, expected {shown(expected)}")
    return 1


def is_number(value: Any) -> bool:
    return isinstance(value, (int, Fraction)) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A value for a message: fractions as short decimals, long texts cut."""
    if isinstance(value, Fraction):
        return f"{float(value):.{SHOWN_DIGITS}g}"
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def exact(value: Any) -> Number:
    """A number as an int or a fraction; accepts decimal text."""
    number = Fraction(value)
    return int(number) if number.denominator == 1 else number


def scaled(value: Any, scale: int) -> int:
    """floor(value * scale): a real number as an integer in units of 1/scale."""
    return int(Fraction(value) * scale // 1)
