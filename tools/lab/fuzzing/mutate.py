"""Making hostile inputs out of valid ones.

Half of them are changed as values: a field is swapped, doubled, dropped, given a boundary number, another type, another
length, another nesting; byte strings that hold an encoding are opened and changed inside. The other half are changed as
bytes. Inputs that are refused for a reason not seen before join the samples, so that later ones start closer to the
decoder's last checks. One `Random` decides everything: a seed repeats its inputs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import cbor2

MAX_INPUT_BYTES: Final = 1 << 20
MAX_KEPT: Final = 256  # inputs that joined the samples
MAX_STACKED: Final = 3
MAX_GROWTH_BYTES: Final = 1 << 16
OPEN_DEPTH: Final = 6

INTEGERS: Final = (
    0, 1, 2, 23, 24, 31, 32, 63, 64, 99, 100, 127, 128, 255, 256, 4095, 4096, 4097, 65535, 65536, (1 << 31) - 1, 1 << 31,
    (1 << 31) + 1, (1 << 32) - 1, 1 << 32, (1 << 53) - 1, 1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 128,
    -1, -2, -24, -25, -(1 << 31), -(1 << 63), -(1 << 64), -(1 << 64) - 1,
)
LENGTHS: Final = (
    0, 1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 48, 63, 64, 65, 120, 127, 128, 255, 256, 1023, 1024, 1025, 4096, 8192, 16385,
)
TEXTS: Final = (
    "", "a", "\0", "\u202e", "é" * 40, "a" * 300, "\ud7ff", "\ud800", "quorix", "0x", "-1", "1e400", "--5", "\u0663",
    "NaN", "../..",
)
ATOMS: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, b"", b"\0" * 32, "", "x", [], [[]], [[[]]], 1.5, float("nan"), {}, {1: 2},
)
JSON_ATOMS: Final[tuple[Any, ...]] = (
    None, True, False, 0, -1, 1, 1.5, -0.0, 1e308, "", "x", "0x", "0x00", "0xzz", "--5", "\u0663", [], {}, [[]], {"a": []},
    1 << 64, -(1 << 70), 10**400, "9" * 90,
)
TOKENS: Final = (
    b"[", b"]", b"{", b"}", b'"', b",", b":", b"1e999", b"-", b"null", b"NaN", b"Infinity", b"\\ud800", b"\\u0000", b"\xff",
    b"\xc0\x80", b"\xed\xa0\x80", b"9" * 40, b"0x", b"=", b"\n", b"#", b"[[", b"]]", b"'''", b'"""', b"1979-05-27", b"inf",
    b"true", b"_", b" " * 100,
)
BYTES: Final = bytes.fromhex("00011718191a1b1c1f20405b5f809b9fa0bfc2d8f4f6f7f9fbff")


class Mutator:
    """Endless inputs for one target. `lead`: bytes before the encoding (a signature, a version) in form "cbor"."""

    def __init__(self, rng: Random, form: str, samples: Sequence[bytes], lead: int = 0) -> None:
        self._rng, self._lead = rng, lead
        self._pool = list(samples)
        self._own = len(self._pool)
        self._values: dict[bytes, Any] = {}
        self._as_value: Callable[[bytes], bytes] = {
            "cbor": self._cbor, "json": self._json, "toml": self._tokens, "bytes": self._bytes,
        }[form]

    def next(self) -> bytes:
        """One input, at most MAX_INPUT_BYTES."""
        rng = self._rng
        data = self._pool[rng.randrange(len(self._pool))]
        if rng.random() < 0.5:
            data = self._as_value(data)
            if rng.random() < 0.85:
                return data[:MAX_INPUT_BYTES]
        for _ in range(rng.randint(1, MAX_STACKED)):
            data = self._bytes(data)
        return data[:MAX_INPUT_BYTES]

    def keep(self, data: bytes) -> None:
        """This input went somewhere new: start from it, too."""
        if len(self._pool) - self._own < MAX_KEPT and len(data) <= MAX_GROWTH_BYTES:
            self._pool.append(data)

    # --- values ------------------------------------------------------------------------------------------------------

    def _cbor(self, data: bytes) -> bytes:
        value = self._opened(data[self._lead :])
        if value is _CLOSED:
            return self._bytes(data)
        for _ in range(1 if self._rng.random() < 0.7 else self._rng.randint(2, 4)):
            value = self._altered(value, 0)
        lead = data[: self._lead]
        if lead and self._rng.random() < 0.05:
            lead = self._bytes(lead)
        return lead + (odd_cbor(value, self._rng) if self._rng.random() < 0.1 else _dumps(value))

    def _opened(self, data: bytes) -> Any:
        if data not in self._values:
            if len(self._values) > 4 * MAX_KEPT:
                self._values.clear()
            try:
                self._values[data] = cbor2.loads(data)
            except Exception:  # a kept input that is no encoding at all
                self._values[data] = _CLOSED
        return self._values[data]

    def _altered(self, value: Any, depth: int) -> Any:
        """The value with one change somewhere inside; the original stays as it is."""
        rng = self._rng
        if rng.random() < 0.06:
            return rng.choice(ATOMS)
        if isinstance(value, (list, tuple)):
            return self._altered_list(list(value), depth)
        if isinstance(value, bytes):
            return self._altered_bytes(value, depth)
        if isinstance(value, bool) or value is None:
            return rng.choice(ATOMS)
        if isinstance(value, int):
            change = rng.random()
            if change < 0.5:
                return rng.choice(INTEGERS)
            return value + rng.choice((-1, 1)) if change < 0.8 else value ^ 1 << rng.randrange(64)
        if isinstance(value, str):
            return rng.choice(TEXTS) if rng.random() < 0.6 else value + rng.choice(TEXTS)
        return rng.choice(ATOMS)

    def _altered_list(self, items: list[Any], depth: int) -> list[Any]:
        rng = self._rng
        if not items:
            return [rng.choice(ATOMS) for _ in range(rng.choice((1, 1, 2, 5)))]
        at, change = rng.randrange(len(items)), rng.random()
        if change < 0.72:
            items[at] = self._altered(items[at], depth + 1)
        elif change < 0.78:
            del items[at]
        elif change < 0.84:
            items.insert(at, items[at])
        elif change < 0.88:
            other = rng.randrange(len(items))
            items[at], items[other] = items[other], items[at]
        elif change < 0.91:
            items.insert(at, rng.choice(ATOMS))
        elif change < 0.94:
            items[at] = [items[at]]
        elif change < 0.96:
            for _ in range(rng.choice((1, 11, 12, 13, 30))):
                items = [items]
        elif change < 0.98:
            items = items[: rng.randrange(len(items) + 1)]
        else:
            items += [items[at]] * rng.choice((1, 16, 63, 64, 100, 257))
        return items

    def _altered_bytes(self, data: bytes, depth: int) -> bytes:
        rng = self._rng
        if depth < OPEN_DEPTH and len(data) > 1 and 0x80 <= data[0] < 0xA0 and rng.random() < 0.6:
            inner = self._opened(data)
            if inner is not _CLOSED:
                return _dumps(self._altered(inner, depth + 1))
        change = rng.random()
        if change < 0.35:
            length = rng.choice(LENGTHS)
            return (data + bytes(length))[:length]
        if change < 0.5:
            return data[:-1]
        if change < 0.65:
            return data + bytes([rng.randrange(256)])
        if change < 0.75:
            return bytes([rng.choice((0, 255))]) * len(data)
        return self._bytes(data)

    def _json(self, data: bytes) -> bytes:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return self._tokens(data)
        if self._rng.random() < 0.15:
            return self._tokens(data)
        for _ in range(self._rng.randint(1, 2)):
            value = self._altered_json(value)
        try:
            return json.dumps(value).encode()
        except (ValueError, RecursionError):
            return data

    def _altered_json(self, value: Any) -> Any:
        rng = self._rng
        if rng.random() < 0.1:
            return rng.choice(JSON_ATOMS)
        if isinstance(value, list) and value:
            return self._altered_json_list(list(value))
        if isinstance(value, dict) and value:
            value, key, change = dict(value), rng.choice(list(value)), rng.random()
            if change < 0.75:
                value[key] = self._altered_json(value[key])
            elif change < 0.85:
                del value[key]
            else:
                value[rng.choice((key + "_", key.upper(), "", "__class__", "é"))] = value[key]
            return value
        if isinstance(value, str) and rng.random() < 0.6:
            at = rng.randrange(len(value) + 1)
            return value[:at] + rng.choice(TEXTS) + value[at + rng.randrange(3) :]
        if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.7:
            return rng.choice(INTEGERS)
        return rng.choice(JSON_ATOMS)

    def _altered_json_list(self, items: list[Any]) -> list[Any]:
        rng = self._rng
        at, change = rng.randrange(len(items)), rng.random()
        if change < 0.7:
            items[at] = self._altered_json(items[at])
        elif change < 0.8:
            del items[at]
        elif change < 0.9:
            items.insert(at, items[at])
        else:
            items += [items[at]] * rng.choice((1, 20, 99, 100))
        return items

    # --- bytes -------------------------------------------------------------------------------------------------------

    def _tokens(self, data: bytes) -> bytes:
        rng = self._rng
        at, change = rng.randrange(len(data) + 1), rng.random()
        if change < 0.5:
            return data[:at] + rng.choice(TOKENS) * rng.choice((1, 1, 1, 2, 20)) + data[at + rng.choice((0, 1, 4)) :]
        if change < 0.7:  # a line more, less, or elsewhere
            lines = data.split(b"\n")
            line = rng.randrange(len(lines))
            lines.insert(rng.randrange(len(lines)), lines[line])
            if change < 0.6:
                del lines[line]
            return b"\n".join(lines)
        return self._bytes(data)

    def _bytes(self, data: bytes) -> bytes:
        rng = self._rng
        size, change = len(data), rng.random()
        if not size:
            return rng.randbytes(rng.choice(LENGTHS[:12]))
        at = rng.randrange(size)
        if change < 0.25:
            return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
        if change < 0.4:
            return data[:at] + bytes([rng.choice(BYTES)]) + data[at + 1 :]
        if change < 0.5:
            return data[:at]
        if change < 0.6:
            return data[:at] + data[at + rng.choice((1, 1, 2, 4, 8, 32)) :]
        if change < 0.75:
            return data[:at] + rng.randbytes(rng.choice((1, 1, 2, 4, 9))) + data[at:]
        if change < 0.85:
            end = min(size, at + rng.choice((1, 8, 32, 64)))
            return data[:end] + data[at:end] * rng.choice((1, 1, 4, 64)) + data[end:]
        if change < 0.95:
            other = self._pool[rng.randrange(len(self._pool))]
            return data[:at] + other[rng.randrange(len(other) + 1) :]
        return rng.randbytes(rng.choice(LENGTHS[:20]))


_CLOSED: Final = object()


def _dumps(value: Any) -> bytes:
    try:
        return cbor2.dumps(value)
    except Exception:  # nested deeper than the encoder likes
        return b"\x81" * 40 + b"\x00"


def odd_cbor(value: Any, rng: Random) -> bytes:
    """An encoding of the value that is not the one: long heads, indefinite lengths, tags, in some places."""
    out = bytearray()

    def head(major: int, argument: int) -> None:
        widths = [width for width in (0, 1, 2, 4, 8) if (argument < 24 if width == 0 else argument < 1 << 8 * width)] or [8]
        width = widths[0] if rng.random() < 0.7 else rng.choice(widths)
        if width == 0:
            out.append(major << 5 | argument)
        else:
            out.append(major << 5 | 23 + width.bit_length())
            out.extend((argument & (1 << 8 * width) - 1).to_bytes(width, "big"))

    def put(item: Any, depth: int) -> None:
        if rng.random() < 0.03:
            head(6, rng.choice((0, 1, 2, 24, 28, 29, 30, 35, 258, 55799)))
        if isinstance(item, bool) or item is None or isinstance(item, float):
            out.extend(cbor2.dumps(item))
        elif isinstance(item, int):
            head(int(item < 0), item if item >= 0 else -1 - item)
        elif isinstance(item, (bytes, str)):
            raw = item if isinstance(item, bytes) else item.encode(errors="surrogatepass")
            head(2 if isinstance(item, bytes) else 3, len(raw))
            out.extend(raw)
        elif isinstance(item, (list, tuple)) and depth < 40:
            endless = rng.random() < 0.1
            if endless:
                out.append(0x9F)
            else:
                head(4, len(item))
            for each in item:
                put(each, depth + 1)
            if endless:
                out.append(0xFF)
        else:
            out.append(0xA0)

    put(value, 0)
    return bytes(out)
