"""What a field of an event, or an argument of a call, is: its name says so.

    ..._rao                       an amount; in hex, one u64 for each uid of a subnet
    hash, ..._hash, beacon, root  a digest; a salt reads like one
    else, if it has 32 bytes      a key
"""

from __future__ import annotations

from typing import Any, Final

DIGESTS: Final = ("hash", "beacon", "root", "salt")
KEY_CHARACTERS: Final = 66  # 0x and 32 bytes
U64_DIGITS: Final = 16


def amount_of(name: str, value: Any) -> int | None:
    """Amount in rao, None if the field is none. Integers above 2^53 come as strings."""
    if not name.endswith("_rao") or isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else None


def amounts_of(name: str, value: Any) -> list[int] | None:
    """Amounts in rao by uid, None if the field is no packed row of them."""
    if not (name.endswith("_rao") and isinstance(value, str) and value.startswith("0x")):
        return None
    digits = value[2:]
    if len(digits) % U64_DIGITS:
        return None
    try:
        packed = bytes.fromhex(digits)
    except ValueError:
        return None
    return [int.from_bytes(packed[i : i + 8], "little") for i in range(0, len(packed), 8)]


def key_of(name: str, value: Any) -> bytes | None:
    """The key that a 0x string of 32 bytes is, None for digests and everything else."""
    if name in DIGESTS or name.endswith("_hash") or not isinstance(value, str):
        return None
    if len(value) != KEY_CHARACTERS or not value.startswith("0x"):
        return None
    try:
        return bytes.fromhex(value[2:])
    except ValueError:
        return None
