"""The codec: strict CBOR, positional arrays only, one encoding for each value.

Rules (safety): no maps, floats, tags or indefinite lengths; integers and lengths in shortest form; nothing after the
value; at most 12 levels and 4,096 items in an input over 1 KiB. An input that decodes re-encodes to the same bytes.
Vectors of numbers travel as packed little-endian byte strings, never as arrays.

A `Shape` checks exact types and bounds of a decoded value and names the place of the first mistake. The same shapes
describe wire messages, stored values and the arguments of calls.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import chain, repeat
from typing import Any

import cbor2

from .errors import DecodeError

__all__ = [
    "ARRAY", "BOOL", "HASH", "INNER_ARRAY", "KEY", "SIGNATURE", "U8", "U16", "U32", "U64", "U128",
    "Bytes", "DecodeError", "Int", "ListOf", "OneOf", "Optional", "Record", "Shape", "Text", "Uint",
    "are_plain", "array_head_bytes", "decode", "decode_each", "decode_trusted", "encode", "encode_each", "encode_marked",
    "is_plain", "items_bytes", "pack_u16", "pack_u64", "prescan", "unpack_u16", "unpack_u64",
]

MAX_DEPTH = 12
MAX_ITEMS = 4096
PRESCAN_ABOVE_BYTES = 1024
DEFAULT_MAX_BYTES = 1 << 20

_SHORTEST = (24, 1 << 8, 1 << 16, 1 << 32)
_SIMPLE = frozenset((0xF4, 0xF5, 0xF6))  # false, true, null


encode: Callable[[Any], bytes] = cbor2.dumps
"""Encode integers, byte strings, text, booleans, None and (nested) lists or tuples of them."""


def decode(
    data: bytes, *, max_bytes: int = DEFAULT_MAX_BYTES, max_items: int = MAX_ITEMS, where: str = ""
) -> Any:
    """Decode one strict value; arrays come back as lists.

    Raises DecodeError for anything that is not the one encoding of its value, or larger than `max_bytes`; above
    PRESCAN_ABOVE_BYTES also for more than `max_items` items, itself and all within it.
    """
    if len(data) > max_bytes:
        raise DecodeError(f"{len(data)} bytes, at most {max_bytes} allowed", where=where)
    if len(data) > PRESCAN_ABOVE_BYTES:
        prescan(data, max_items=max_items, where=where)
    try:
        value = cbor2.loads(
            data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False, tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED_TAGS,
        )
    except DecodeError as error:
        raise DecodeError(error.cause, where=where) from None
    except Exception as error:  # cbor2 raises many kinds; none may escape to a peer's handler
        raise DecodeError(f"not CBOR ({type(error).__name__})", where=where) from None
    if not is_plain(value, 0):
        raise DecodeError("holds a map, float, tag or undefined value", where=where)
    if cbor2.dumps(value) != data:
        raise DecodeError("not in the shortest form, or bytes after the value", where=where)
    return value


def encode_each(arrays: Sequence[Sequence[Any]]) -> list[bytes]:
    """`encode` of each of many short arrays, at half the cost where they hold no arrays themselves."""
    if max(map(len, arrays), default=0) >= len(ARRAY):
        return list(map(encode, arrays))
    flat: list[Any] = []
    add = flat.append
    for array in arrays:
        add(ARRAY[len(array)])
        flat += array
    return encode_marked(flat, len(arrays)) or list(map(encode, arrays))


# Marks for `encode_marked`: byte strings that end with the head of an array of so many items. No end of the part that is
# looked for is also its beginning, so two occurrences never overlap.
_MARK = b"\x50" + bytes(range(0xE0, 0xEF))
_INNER_MARK = b"\x50" + bytes(range(0xF0, 0xFF))
ARRAY = [_MARK[1:] + bytes((0x80 + items,)) for items in range(24)]
INNER_ARRAY = [_INNER_MARK[1:] + bytes((0x80 + items,)) for items in range(24)]


def encode_marked(flat: list[Any], arrays: int, inner: int = 0) -> list[bytes]:
    """The encodings of `arrays` arrays whose items stand one after the other in `flat`, behind a mark ARRAY[items] each.

    Arrays within them, `inner` in all, have their items there too, behind a mark INNER_ARRAY[items]. All is encoded as one
    array, which takes a fraction of the time, and cut at the marks. Empty if that cannot be told from what the items hold.
    """
    if not set(map(type, flat)) <= _ATOMS:
        return []
    joined = encode(flat)
    if inner:
        if joined.count(_INNER_MARK) != inner:
            return []
        joined = joined.replace(_INNER_MARK, b"")
    parts = joined.split(_MARK)
    return parts[1:] if len(parts) == arrays + 1 else []


def decode_trusted(data: bytes, *, where: str = "") -> Any:
    """What `encode` made here, read back: at a fifth of the cost, and without the strictness. Raises DecodeError."""
    try:
        return cbor2.loads(data)
    except Exception as error:
        raise DecodeError(f"not CBOR ({type(error).__name__})", where=where) from None


def decode_each(parts: Sequence[bytes], shape: Shape, *, max_bytes: int = DEFAULT_MAX_BYTES, where: str = "") -> list[Any]:
    """Decode many values of one shape, each strict: `decode` and `check` of each, at less than half the cost.

    The shape must say what each part of a value is (`is_plain` where anything may stand).
    Instead of encoding each again, the length of all encodings is found. A value has one encoding of the shortest length, and
    it was read from no fewer bytes: if all together are as long as they came in, each of them came in its one encoding, with
    nothing after it. Raises DecodeError that names the first bad one.
    """
    values = []
    try:
        for data in parts:
            if len(data) > PRESCAN_ABOVE_BYTES:
                prescan(data)
            values.append(cbor2.loads(
                data, max_depth=MAX_DEPTH, allow_indefinite=False, allow_duplicate_keys=False, tag_hook=_refuse_tag,
                semantic_decoders=_REFUSED_TAGS,
            ))
        good = max(map(len, parts), default=0) <= max_bytes and shape.fitting_bytes(values) == sum(map(len, parts))
    except Exception:  # whatever it was, it is found again below, and named
        good = False
    if not good:
        values = [decode(data, max_bytes=max_bytes, where=f"{where}[{index}]") for index, data in enumerate(parts)]
        for index, value in enumerate(values):
            shape.check(value, f"{where}[{index}]")
    return values


def items_bytes(values: Sequence[Any]) -> int:
    """How many bytes the encodings of these values have together."""
    return len(encode(values)) - array_head_bytes(len(values))


def array_head_bytes(items: int) -> int:
    """Length of what stands before the items of an encoded array."""
    return 1 if items < 24 else 2 if items < 1 << 8 else 3 if items < 1 << 16 else 5


def _refuse_tag(*_: Any) -> Any:
    raise DecodeError("tag")


# cbor2 interprets these tags itself (dates, big numbers, regular expressions, shared references); all are refused.
_REFUSED_TAGS = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799), _refuse_tag
)


# What a strict value is made of, beside arrays. Integers beyond 64 bits are tags on the wire and never get here.
_ATOMS = frozenset((int, bytes, str, bool, type(None)))


def is_plain(value: Any, depth: int = 0) -> bool:
    """True for what `encode` takes, lists within MAX_DEPTH; `depth` is that of the value itself."""
    if type(value) is not list:
        return type(value) in _ATOMS
    for item in value:
        if type(item) not in _ATOMS and (type(item) is not list or depth >= MAX_DEPTH or not is_plain(item, depth + 1)):
            return False
    return True


def are_plain(lists: Sequence[list[Any]]) -> bool:
    """`is_plain` of each of many lists at once, of which few hold other lists."""
    return set(map(type, chain.from_iterable(lists))) <= _ATOMS or all(map(is_plain, lists, repeat(1)))


def prescan(data: bytes, *, max_items: int = MAX_ITEMS, where: str = "") -> None:
    """Walk the bytes once without building values: refuses bombs before they cost memory or time."""
    size, at, items, left = len(data), 0, 0, 1
    stack: list[int] = []
    while True:
        while left == 0:
            if not stack:
                if at != size:
                    raise DecodeError("bytes after the value", where=where)
                return
            left = stack.pop()
        if at >= size:
            raise DecodeError("ends early", where=where)
        head = data[at]
        at += 1
        left -= 1
        items += 1
        if items > max_items:
            raise DecodeError(f"more than {max_items} items", where=where)
        if head == 0x58 and at < size and (length := data[at]) >= 24:  # most of what there is: 24 to 255 bytes
            at += 1 + length
            if at > size:
                raise DecodeError("ends early", where=where)
            continue
        major, argument = head >> 5, head & 31
        if 24 <= argument < 28:
            width = 1 << (argument - 24)
            if at + width > size:
                raise DecodeError("ends early", where=where)
            value = int.from_bytes(data[at : at + width], "big")
            at += width
            if value < _SHORTEST[argument - 24]:
                raise DecodeError("not in the shortest form", where=where)
        elif argument < 24:
            value = argument
        else:
            raise DecodeError("indefinite length", where=where)
        if major in (2, 3):
            at += value
            if at > size:
                raise DecodeError("ends early", where=where)
        elif major == 4 and value:
            if value > size - at:
                raise DecodeError("ends early", where=where)
            if len(stack) >= MAX_DEPTH:
                raise DecodeError(f"more than {MAX_DEPTH} levels", where=where)
            stack.append(left)
            left = value
        elif major in (5, 6):
            raise DecodeError("map" if major == 5 else "tag", where=where)
        elif major == 7 and head not in _SIMPLE:
            raise DecodeError("float or simple value", where=where)


# --- packed vectors ----------------------------------------------------------------------------------------------


def pack_u16(values: Sequence[int]) -> bytes:
    """Pack numbers 0..65535 as little-endian u16."""
    return struct.pack(f"<{len(values)}H", *values)


def unpack_u16(data: bytes, *, where: str = "") -> list[int]:
    """Reverse of `pack_u16`."""
    if len(data) % 2:
        raise DecodeError("length is not a multiple of 2", where=where)
    return list(struct.unpack(f"<{len(data) // 2}H", data))


def pack_u64(values: Sequence[int]) -> bytes:
    """Pack numbers below 2^64 as little-endian u64."""
    return struct.pack(f"<{len(values)}Q", *values)


def unpack_u64(data: bytes, *, where: str = "") -> list[int]:
    """Reverse of `pack_u64`."""
    if len(data) % 8:
        raise DecodeError("length is not a multiple of 8", where=where)
    return list(struct.unpack(f"<{len(data) // 8}Q", data))


# --- shapes ------------------------------------------------------------------------------------------------------


class Shape(ABC):
    """A type with bounds. `check` raises DecodeError naming the place; `name` is what metadata and docs show."""

    name = "any"

    @abstractmethod
    def check(self, value: Any, where: str = "") -> None: ...

    def __init_subclass__(cls) -> None:
        """Whoever says anew what passes must say it in all ways: else the tests call `check`."""
        if "check" in vars(cls):
            for name in ("test", "all_fit"):
                if name not in vars(cls):
                    setattr(cls, name, vars(Shape)[name])

    def test(self) -> Callable[[Any], bool]:
        """value -> True iff `check` finds no mistake, made without an exception."""
        return self._passes

    @cached_property
    def fits(self) -> Callable[[Any], bool]:
        """`test`, made once: what passes is found three times as fast as by `check`."""
        return self.test()

    def all_fit(self, values: Sequence[Any]) -> bool:
        """Whether each of many values fits. Shapes of which blocks hold thousands find it for all at once."""
        return all(map(self.fits, values))

    def encoded_bytes(self, values: Sequence[Any]) -> int:
        """How many bytes the encodings of values that fit have together."""
        return items_bytes(values)

    def fitting_bytes(self, values: Sequence[Any]) -> int:
        """`encoded_bytes`, or -1 if one of the values does not fit."""
        return self.encoded_bytes(values) if self.all_fit(values) else -1

    def _passes(self, value: Any) -> bool:
        try:
            self.check(value)
        except DecodeError:
            return False
        return True


class Int(Shape):
    """Integer in [low, high]."""

    def __init__(self, low: int, high: int, name: str) -> None:
        self.low, self.high, self.name = low, high, name

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not int:
            raise DecodeError(f"expected {self.name}, got {type(value).__name__}", where=where)
        if not self.low <= value <= self.high:
            raise DecodeError(f"{value} is outside {self.name} [{self.low}, {self.high}]", where=where)

    def test(self) -> Callable[[Any], bool]:
        low, high = self.low, self.high
        return lambda value: type(value) is int and low <= value <= high

    def all_fit(self, values: Sequence[Any]) -> bool:
        return not values or (_are(int, values) and self.low <= min(values) and max(values) <= self.high)

    def encoded_bytes(self, values: Sequence[Any]) -> int:
        if values and values.count(values[0]) == len(values):  # as most fields of a block's extrinsics are
            return len(values) * len(encode(values[0]))
        return items_bytes(values)


def Uint(bits: int) -> Int:
    """Unsigned integer of `bits` bits."""
    return Int(0, (1 << bits) - 1, f"u{bits}")


class _Bool(Shape):
    name = "bool"

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not bool:
            raise DecodeError(f"expected bool, got {type(value).__name__}", where=where)

    def test(self) -> Callable[[Any], bool]:
        return lambda value: type(value) is bool


class Bytes(Shape):
    """Byte string of exactly `size`, or of `low`..`high` bytes."""

    def __init__(self, size: int | None = None, *, low: int = 0, high: int | None = None, name: str = "") -> None:
        if size is not None:
            low = high = size
        assert high is not None, "a byte string needs a bound"
        self.low, self.high = low, high
        self.name = name or (f"bytes{low}" if low == high else f"bytes<={high}")

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not bytes:
            raise DecodeError(f"expected {self.name}, got {type(value).__name__}", where=where)
        if not self.low <= len(value) <= self.high:
            raise DecodeError(f"{len(value)} bytes, expected {self.name}", where=where)

    def test(self) -> Callable[[Any], bool]:
        low, high = self.low, self.high
        return lambda value: type(value) is bytes and low <= len(value) <= high

    def all_fit(self, values: Sequence[Any]) -> bool:
        return not values or (_are(bytes, values) and _lengths_within(self.low, self.high, values))

    def encoded_bytes(self, values: Sequence[Any]) -> int:
        return len(values) * len(encode(bytes(self.low))) if self.low == self.high else items_bytes(values)


class Text(Shape):
    """UTF-8 text of at most `high` bytes."""

    def __init__(self, high: int) -> None:
        self.high, self.name = high, f"text<={high}"

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not str:
            raise DecodeError(f"expected text, got {type(value).__name__}", where=where)
        try:
            size = len(value.encode())
        except UnicodeEncodeError:  # JSON can name half a character
            raise DecodeError("text that has no UTF-8 form", where=where) from None
        if size > self.high:
            raise DecodeError(f"text longer than {self.high} bytes", where=where)


class ListOf(Shape):
    """Array of `low`..`high` items of one shape."""

    def __init__(self, item: Shape, high: int, low: int = 0) -> None:
        self.item, self.low, self.high, self.name = item, low, high, f"[{item.name}]<={high}"

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not list:
            raise DecodeError(f"expected an array, got {type(value).__name__}", where=where)
        if not self.low <= len(value) <= self.high:
            raise DecodeError(f"{len(value)} items, expected {self.low}..{self.high}", where=where)
        if not self.item.all_fit(value):
            for index, item in enumerate(value):
                self.item.check(item, f"{where}[{index}]")

    def test(self) -> Callable[[Any], bool]:
        low, high, fits = self.low, self.high, self.item.fits
        return lambda value: type(value) is list and low <= len(value) <= high and all(map(fits, value))


class Record(Shape):
    """Array with exactly the given named fields, in order."""

    def __init__(self, name: str, /, **fields: Shape) -> None:
        self.name, self.fields = name, fields
        self._places = tuple((f"{name}.{field}", shape) for field, shape in fields.items())

    def check(self, value: Any, where: str = "") -> None:
        where = where or self.name
        if type(value) is not list:
            raise DecodeError(f"expected an array, got {type(value).__name__}", where=where)
        if len(value) != len(self.fields):
            raise DecodeError(f"{len(value)} fields, expected {len(self.fields)}", where=where)
        places = self._places
        if where != self.name:
            places = tuple((f"{where}.{field}", shape) for field, shape in self.fields.items())
        for (place, shape), item in zip(places, value, strict=True):
            shape.check(item, place)

    def test(self) -> Callable[[Any], bool]:
        tests = tuple(shape.fits for shape in self.fields.values())

        def fits(value: Any) -> bool:
            if type(value) is not list or len(value) != len(tests):
                return False
            for passes, item in zip(tests, value):  # noqa: SIM110 - all() over a generator takes twice the time
                if not passes(item):
                    return False
            return True

        return fits

    def all_fit(self, values: Sequence[Any]) -> bool:
        return self.fitting_bytes(values) >= 0

    def fitting_bytes(self, values: Sequence[Any]) -> int:
        width = len(self.fields)
        if not values:
            return 0
        if not (_are(list, values) and _lengths_within(width, width, values)):
            return -1
        total = array_head_bytes(width) * len(values)
        for shape, column in zip(self.fields.values(), zip(*values)):
            if (found := shape.fitting_bytes(column)) < 0:
                return -1
            total += found
        return total


class Optional(Shape):
    """None or the given shape."""

    def __init__(self, item: Shape) -> None:
        self.item, self.name = item, f"{item.name}?"

    def check(self, value: Any, where: str = "") -> None:
        if value is not None:
            self.item.check(value, where)

    def test(self) -> Callable[[Any], bool]:
        fits = self.item.fits
        return lambda value: value is None or fits(value)


class OneOf(Shape):
    """The first of several shapes that fits."""

    def __init__(self, *items: Shape) -> None:
        self.items, self.name = items, " | ".join(item.name for item in items)

    def check(self, value: Any, where: str = "") -> None:
        for item in self.items:
            try:
                return item.check(value, where)
            except DecodeError:
                continue
        raise DecodeError(f"expected {self.name}", where=where)


def _are(kind: type, values: Sequence[Any]) -> bool:
    return set(map(type, values)) == {kind}


def _lengths_within(low: int, high: int, values: Sequence[Any]) -> bool:
    return low <= min(map(len, values)) and max(map(len, values)) <= high


U8, U16, U32, U64, U128 = Uint(8), Uint(16), Uint(32), Uint(64), Uint(128)
BOOL = _Bool()
HASH = Bytes(32, name="hash")
KEY = Bytes(32, name="key")
SIGNATURE = Bytes(64, name="signature")
