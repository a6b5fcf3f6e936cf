"""Flat records: the quick reader accepts what the strict decoder accepts, and nothing else."""

from __future__ import annotations

import random

import pytest

from ai.serve import flat, frames
from ai.serve.frames import Answer, Ask, Close, CloseBody, Finish, Open, OpenBody, encode_frame
from ai.serve.refusals import Refused
from ledger import codec
from ledger.codec import U8, U16, U32, U64, Bytes, ListOf, Optional, Record, Text
from ledger.errors import DecodeError

EVERYTHING = Record(
    "everything", a=U8, b=U16, c=U32, d=U64, key=Bytes(32), blob=Bytes(high=70_000), name=Text(40),
    items=ListOf(U8, 4), last=Bytes(low=1, high=300),
)  # fmt: skip
FIELDS = flat.fields_of(EVERYTHING)
NUMBERS = (0, 1, 23, 24, 255, 256, 65_535, 65_536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1)


def strict(data: bytes) -> list | None:
    """What the codec and the shape make of it; None where it is refused or holds a full list."""
    try:
        value = codec.decode(data, max_bytes=100_000)
        EVERYTHING.check(value)
    except DecodeError:
        return None
    return None if value[7] else value


def example(rng: random.Random) -> list:
    size = rng.choice((0, 1, 23, 24, 255, 256, 1000, 66_000))
    return [
        rng.choice(NUMBERS[:5]), rng.choice(NUMBERS[:7]), rng.choice(NUMBERS[:9]), rng.choice(NUMBERS), rng.randbytes(32),
        rng.randbytes(size), "né" * rng.randrange(12), [], rng.randbytes(rng.choice((1, 23, 24, 300))),
    ]  # fmt: skip


def test_what_is_written_is_read():
    rng = random.Random(1)
    for _ in range(200):
        value = example(rng)
        assert flat.read(codec.encode(value), FIELDS) == value


def test_never_more_generous_than_the_strict_decoder():
    rng = random.Random(2)
    accepted = 0
    for _ in range(4000):
        value = example(rng)
        value[5] = value[5][:300]
        value[rng.randrange(9)] = rng.choice((value[0], -1, None, True, 1.5, [1], [], "x", b"", b"y" * 301, *NUMBERS))
        data = bytearray(codec.encode(value))
        for _ in range(rng.randrange(3)):
            at = rng.randrange(min(24, len(data))) if rng.random() < 0.7 else rng.randrange(len(data))
            data[at] = rng.choice((data[at] ^ (1 << rng.randrange(8)), rng.randrange(256), 0x18, 0x58, 0x5F, 0xFF))
        data = bytes(data[: rng.choice((len(data), len(data), rng.randrange(len(data)))) or 1]) + bytes(rng.random() < 0.05)
        found = flat.read(data, FIELDS)
        assert found == strict(data), data.hex()
        accepted += found is not None
    assert 100 < accepted < 3500


@pytest.mark.parametrize("number", NUMBERS)
def test_longer_forms_of_a_number_are_not_read(number):
    one = (("number", U64),)
    fields = flat.fields_of(Record("one", **dict(one)))
    for head, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * width):
            data = b"\x81" + bytes([head]) + number.to_bytes(width, "big")
            assert (flat.read(data, fields) is not None) == (codec.encode([number]) == data)
    assert b"\x81" + flat.number(number) == codec.encode([number])


def test_heads_are_the_codecs():
    for size in (0, 1, 23, 24, 255, 256, 65_535, 65_536):
        assert flat.head_of(bytes(size)) + bytes(size) == codec.encode(bytes(size))
    for items in (0, 23, 24, 255, 256, 1025):
        assert codec.encode([0] * items).startswith(flat.array_head(items))
        assert flat.array_head(items) + bytes(items) == codec.encode([0] * items)
    for number in (-1, 1 << 64):
        with pytest.raises(ValueError, match="a number"):
            flat.number(number)


def test_a_shape_that_is_not_flat_is_no_record_of_this_kind():
    with pytest.raises(TypeError, match="Optional"):
        flat.fields_of(Record("odd", maybe=Optional(U8)))


def test_frames_of_sessions_and_signed_bodies_take_the_quick_way(monkeypatch):
    key, nonce = bytes(32), bytes(16)
    opened = OpenBody(1, 1, 2, key, key, "distribution", nonce, 1_700_000_000_000, 1_700_000_010_000, 3, 1, 4, (), key)
    closed = CloseBody(1, key, key, 3, 4, 0, key, 77, 1000, 4, 1_700_000_001_000, b"")
    many = [
        Open(1, opened.encode(), bytes(64), b"body" * 100), Ask(300, 2, b"x"), Answer(70_000, 3, bytes(98)),
        Finish(5, 2, key, bytes(64)), Close(5, closed.encode(), bytes(64)),
    ]  # fmt: skip
    wire = [encode_frame(frame)[4:] for frame in many]
    for data in wire:
        assert codec.encode(codec.decode(data)) == data
    monkeypatch.setattr(frames.codec, "decode", lambda *_, **__: pytest.fail("the slow way"))
    assert [frames.decode_frame(data) for data in wire] == many
    assert OpenBody.decode(opened.encode()) == opened
    assert CloseBody.decode(closed.encode()) == closed


def decoded(decode, data):
    """What comes of it, or the name of the refusal."""
    try:
        return decode(data)
    except Refused as refused:
        return refused.error_name


def test_whatever_is_done_to_the_bytes_both_ways_say_the_same(monkeypatch):
    rng, quick = random.Random(6), flat.read

    def number(bits):
        return rng.choice(NUMBERS) & ((1 << bits) - 1)

    def examples():
        path = tuple((rng.randbytes(32), rng.randbytes(32)) for _ in range(rng.choice((0, 0, 1, 12))))
        opened = OpenBody(
            1, number(16), number(16), bytes(32), bytes(32), rng.choice(("", "text", "é" * 16)), bytes(16), number(64),
            number(64), number(32), number(8), number(8), path, bytes(32),
        ).encode()
        closed = CloseBody(
            1, bytes(32), bytes(32), number(32), number(32), rng.randrange(5), bytes(32), number(32), number(32),
            number(32), number(64), bytes(rng.choice((0, 32, 384))),
        ).encode()
        yield OpenBody.decode, opened
        yield CloseBody.decode, closed
        for frame in (
            Open(number(32), opened, bytes(rng.choice((0, 63, 64))), bytes(rng.choice((0, 23, 24, 300)))),
            Ask(number(32), number(32), b"x"), Answer(number(32), number(32), bytes(98)),
            Finish(number(32), number(32), bytes(32), bytes(64)), frames.Cancel(number(32)),
            Close(number(32), closed, bytes(64), rng.choice(((), (b"receipt",)))),
            frames.Refuse(number(32), number(16), number(32), "é" * rng.choice((0, 60))),
        ):
            yield frames.decode_frame, encode_frame(frame)[4:]

    def changed(data):
        data, at = bytearray(data), rng.randrange(rng.choice((6, 40, 4000))) % len(data)
        way = rng.randrange(5)
        if way == 0:
            data[at] ^= 1 << rng.randrange(8)
        elif way == 1:
            data[at] = rng.choice((0x18, 0x19, 0x1B, 0x58, 0x5F, 0x7F, 0x80, 0x9F, 0xF6, 0xC2, 0xA0))
        elif way == 2:
            del data[at : at + rng.choice((1, 2, 8))]
        elif way == 3:
            data[at:at] = rng.randbytes(rng.choice((1, 2)))
        return bytes(data)

    accepted = total = 0
    for _ in range(40):
        for decode, data in examples():
            for _ in range(5):
                wire = changed(data)
                found = decoded(decode, wire)
                monkeypatch.setattr(flat, "read", lambda *_: None)
                assert found == decoded(decode, wire), wire.hex()
                monkeypatch.setattr(flat, "read", quick)
                total, accepted = total + 1, accepted + (not isinstance(found, str))
    assert 0.2 < accepted / total < 0.8
