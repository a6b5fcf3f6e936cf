"""Shamir's sharing of a 32-byte key over GF(2^8): any `threshold` shares give it back, fewer say nothing about it.

    field   GF(2^8) modulo x^8 + x^4 + x^3 + x + 1; each byte of the key is shared by itself
    share   number i (from 0) is the value of a polynomial of degree threshold - 1 at the point i + 1; its value at 0 is the key

Multiplying 32 bytes by a constant is one `bytes.translate` through the constant's table: the same work for every content.
There is no redundancy: a wrong share gives a wrong key, which whoever opens something with it must notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

KEY_BYTES: Final = 32
MAX_SHARES: Final = 255
_POLYNOMIAL: Final = 0x11B
_GENERATOR: Final = 3


def split(key: bytes, shares: int, coefficients: Sequence[bytes]) -> list[bytes]:
    """Shares 0..shares-1 of a 32-byte key. `coefficients`: threshold - 1 random strings of 32 bytes. Raises ValueError."""
    if not len(coefficients) < shares <= MAX_SHARES or any(len(part) != KEY_BYTES for part in (key, *coefficients)):
        raise ValueError("a 32-byte key, at most 255 shares, and a coefficient less than the shares needed")
    out = []
    for point in range(1, shares + 1):
        value = 0
        for part in (*coefficients, key):
            scaled = value.to_bytes(KEY_BYTES, "big").translate(_times(point))
            value = int.from_bytes(scaled, "big") ^ int.from_bytes(part, "big")
        out.append(value.to_bytes(KEY_BYTES, "big"))
    return out


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The key from exactly as many shares, by number, as were needed when it was split. Raises ValueError."""
    if not shares or any(not 0 <= index < MAX_SHARES or len(share) != KEY_BYTES for index, share in shares.items()):
        raise ValueError("shares have 32 bytes and numbers below 255")
    value = 0
    for index, share in shares.items():
        value ^= int.from_bytes(share.translate(_times(_weight_at_zero(index + 1, tuple(shares)))), "big")
    return value.to_bytes(KEY_BYTES, "big")


# --- the field ---------------------------------------------------------------------------------------------------


def _tables() -> tuple[list[int], list[int]]:
    """Powers of the generator, twice over, and logarithms (of 0: none)."""
    powers, logs, value = [0] * 510, [0] * 256, 1
    for exponent in range(255):
        powers[exponent] = powers[exponent + 255] = value
        logs[value] = exponent
        value ^= value << 1  # times 3
        if value & 0x100:
            value ^= _POLYNOMIAL
    return powers, logs


_POWERS, _LOGS = _tables()
assert _POWERS[1] == _GENERATOR and len(set(_POWERS)) == 255, "3 generates the field"


def multiply(a: int, b: int) -> int:
    """Product of two field elements."""
    return _POWERS[_LOGS[a] + _LOGS[b]] if a and b else 0


def inverse(a: int) -> int:
    """1 / a for a nonzero element."""
    assert a, "zero has no inverse"
    return _POWERS[255 - _LOGS[a]]


@cache
def _times(constant: int) -> bytes:
    """Products of a constant with all 256 elements."""
    return bytes(multiply(constant, value) for value in range(256))


def _weight_at_zero(point: int, indices: tuple[int, ...]) -> int:
    """Lagrange's weight of `point` for the value at 0, among the points of these share numbers."""
    weight = 1
    for other in indices:
        if other + 1 != point:
            weight = multiply(weight, multiply(other + 1, inverse(other + 1 ^ point)))
    return weight
