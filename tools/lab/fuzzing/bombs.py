"""Inputs made to cost much more than they weigh. Every decoder must refuse them within milliseconds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

BOMB_LIMIT_MS: Final = 30

_MODULUS: Final = (1 << 61) - 1  # Python's hash of an integer is its remainder by this number


def cbor_bombs() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of CBOR inputs, at most 1 MiB each."""
    million = (1 << 20) - 8
    yield "a million empty arrays", b"\x9a" + million.to_bytes(4, "big") + b"\x80" * million
    yield "a million levels", b"\x81" * million + b"\x00"
    yield "a million endless levels", b"\x9f" * million
    yield "4,096 levels of one tag", b"\xc1" * 4096 + b"\x00"
    for major in (2, 3, 4, 5):
        yield f"length 2^63 of major type {major}", bytes([major << 5 | 27]) + (1 << 63).to_bytes(8, "big")
        yield f"length 2^32 - 1 of major type {major}", bytes([major << 5 | 26]) + b"\xff" * 4 + b"\x00" * 1000
        yield f"an endless value of major type {major}", bytes([major << 5 | 31]) + b"\x40" * 1000
    keys = b"".join(b"\xc2\x4a" + (_MODULUS * (index + 8)).to_bytes(10, "big") for index in range(16_000))
    yield "a map of 16,000 colliding keys", b"\xb9" + (8_000).to_bytes(2, "big") + keys
    yield "a short map of colliding keys", b"\xb8\x28" + keys[: 12 * 80]
    for tag in (0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799):
        head = bytes([0xC0 | tag]) if tag < 24 else b"\xd8" + bytes([tag]) if tag < 256 else b"\xd9" + tag.to_bytes(2, "big")
        yield f"tag {tag} on text", head + b"\x69(a+)+b{99" + b"\x00"
        yield f"tag {tag} on an array", head + b"\x82\x01\x1b" + b"\xff" * 8
        yield f"tag {tag} on bytes", head + b"\x58\xff" + b"\xff" * 255
    yield "a shared cycle", bytes.fromhex("d81c81d81d00")
    yield "decimal 1e1000000000", bytes.fromhex("c4821a3b9aca0001")
    yield "text that is not UTF-8", b"\x62\xc0\x80"
    yield "half a surrogate", b"\x63\xed\xa0\x80"
    yield "a number with a long head", b"\x1b" + bytes(8)
    yield "a length with a long head", b"\x5b" + bytes(7) + b"\x01\x00"
    yield "an array with a long head", b"\x9b" + bytes(7) + b"\x01\x00"
    yield "bytes after the value", b"\x80\x00"
    yield "half precision NaN", b"\xf9\x7e\x00"
    yield "double precision NaN", b"\xfb\x7f\xf8" + bytes(6)
    yield "the same key twice", b"\xa2\x01\x00\x01\x00"
    yield "an undefined value", b"\xf7"
    yield "a simple value", b"\xf8\xff"
    yield "a reserved head", b"\x1c"
    yield "the break alone", b"\xff"
    yield "nothing", b""


def json_bombs() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of JSON inputs, at most 1 MiB each."""
    deep = 100_000
    yield "100,000 arrays deep", b"[" * deep + b"]" * deep
    yield "100,000 arrays begun", b"[" * deep
    yield "100,000 objects deep", b'{"a":' * deep + b"1" + b"}" * deep
    yield "deep parameters", b'{"jsonrpc":"2.0","id":1,"method":"chain_getBlock","params":' + b"[" * 900 + b"]" * 900 + b"}"
    yield "an integer of 100,000 digits", b"9" * 100_000
    yield "an integer of 4,000 digits as the id", b'{"jsonrpc":"2.0","id":' + b"9" * 4000 + b',"method":"system_health"}'
    yield "1e400", b'{"jsonrpc":"2.0","id":1e400,"method":"system_health"}'
    yield "a fraction of 100,000 digits", b"0." + b"1" * 100_000
    yield "the same key 10,000 times", b'{"a":1,' * 1 + b",".join([b'"a":1'] * 10_000) + b"}"
    yield "lone surrogates", b'{"jsonrpc":"2.0","id":"\\ud800","method":"\\udfff","params":["\\ud800"]}'
    yield "a method of 100,000 letters", b'{"jsonrpc":"2.0","id":1,"method":"' + b"a" * 100_000 + b'"}'
    health = b'{"jsonrpc":"2.0","id":1,"method":"system_health","params":{"'
    yield "a parameter of 100,000 letters", health + b"a" * 100_000 + b'":1}}'
    yield "NaN", b'{"jsonrpc":"2.0","id":NaN,"method":"system_health"}'
    yield "not UTF-8", b'{"jsonrpc":"2.0","id":"\xff\xfe","method":"x"}'
    yield "half a megabyte of escapes", b'"' + b"\\u0000" * 87_000 + b'"'
    yield "a hex value that is none", b'{"jsonrpc":"2.0","id":1,"method":"state_get","params":["0x' + b"z" * 100_000 + b'"]}'
    yield "nothing", b""
