"""Flat records read and written in one pass: what nearly every frame and signed body is.

A flat record is an array of numbers, byte strings and short texts, each within its bounds. `read` accepts exactly what
the strict decoder and the record's shape accept, minus records that hold a non-empty list; for everything else it gives
None, and the strict decoder is asked, which names what is wrong. So it can only be quicker, never more generous.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any, Final

from ledger.codec import Bytes, Int, ListOf, Record, Text

_NUMBER, _BYTES, _TEXT, _LIST = 0x00, 0x40, 0x60, 0x80  # CBOR's major types, as they stand in a head
MAX_FIELDS: Final = 23  # the array's head is one byte

Field = tuple[int, int, int]  # major type, least and greatest value or length

_SMALL: Final = tuple(bytes([value]) for value in range(24))
_SHORT: Final = tuple(bytes([0x40 | size]) if size < 24 else bytes([0x58, size]) for size in range(256))
_TWO, _FOUR, _EIGHT = Struct(">BH"), Struct(">BI"), Struct(">BQ")


def fields_of(shape: Record) -> tuple[Field, ...]:
    """The fields of a record of numbers, byte strings, texts and lists (of which `read` takes empty ones)."""
    found: list[Field] = []
    for field in shape.fields.values():
        if isinstance(field, Int):
            found.append((_NUMBER, field.low, field.high))
        elif isinstance(field, Bytes):
            found.append((_BYTES, field.low, field.high))
        elif isinstance(field, Text):
            found.append((_TEXT, 0, field.high))
        elif isinstance(field, ListOf):
            found.append((_LIST, field.low, field.high))
        else:
            raise TypeError(f"{shape.name} holds {type(field).__name__}, which is not flat")
    assert len(found) <= MAX_FIELDS, f"{shape.name} has too many fields"
    return tuple(found)


def read(data: bytes, fields: Sequence[Field]) -> list[Any] | None:
    """The fields' values, or None where the bytes are not such a record in its one encoding, or hold a full list."""
    if not data or data[0] != 0x80 | len(fields):
        return None
    values: list[Any] = []
    at, size = 1, len(data)
    for major, low, high in fields:
        if at >= size:
            return None
        value = data[at] - major
        at += 1
        if value == 24 and at < size:  # most of what there is: 24 to 255
            value = data[at]
            at += 1
            if value < 24:
                return None
        elif not 0 <= value < 24:
            if not 25 <= value <= 27:
                return None
            width = 1 << (value - 24)
            value = int.from_bytes(data[at : at + width], "big")
            at += width
            if at > size or value >> (4 * width) == 0:
                return None
        if not low <= value <= high:
            return None
        if major == _BYTES:
            end = at + value
            values.append(data[at:end])
            at = end  # beyond the end of `data` where it is cut short, which is seen below
        elif major == _NUMBER:
            values.append(value)
        elif major == _TEXT:
            end = at + value
            try:
                values.append(data[at:end].decode())
            except UnicodeDecodeError:
                return None
            at = end
        elif value:
            return None
        else:
            values.append([])
    return values if at == size else None


def number(value: int) -> bytes:
    """The encoding of a number below 2^64."""
    return _SMALL[value] if 0 <= value < 24 else _head(0x00, value)


def head_of(data: bytes) -> bytes:
    """What stands before a byte string in its encoding."""
    size = len(data)
    return _SHORT[size] if size < 256 else _head(0x40, size)


def array_head(items: int) -> bytes:
    """What stands before the items of an array in its encoding."""
    return _head(0x80, items)


def _head(major: int, value: int) -> bytes:
    if value < 0:
        raise ValueError("a number below zero")
    if value < 24:
        return bytes((major | value,))
    if value < 1 << 8:
        return bytes((major | 24, value))
    if value < 1 << 16:
        return _TWO.pack(major | 25, value)
    if value < 1 << 32:
        return _FOUR.pack(major | 26, value)
    if value < 1 << 64:
        return _EIGHT.pack(major | 27, value)
    raise ValueError("a number over 64 bits")
