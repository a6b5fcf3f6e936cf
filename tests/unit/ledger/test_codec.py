"""The codec: one encoding for each value, everything else refused under DecodeError, bombs refused early."""

import random
import time

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import (
    ARRAY,
    BOOL,
    HASH,
    INNER_ARRAY,
    MAX_DEPTH,
    MAX_ITEMS,
    U8,
    U64,
    Bytes,
    Int,
    ListOf,
    OneOf,
    Optional,
    Record,
    Text,
    decode,
    decode_each,
    encode,
    encode_each,
    pack_u16,
    pack_u64,
    prescan,
    unpack_u16,
    unpack_u64,
)
from ledger.errors import DecodeError

atoms = st.one_of(
    st.integers(-(1 << 64), (1 << 64) - 1), st.binary(max_size=40), st.text(max_size=20), st.booleans(), st.none()
)
values = st.recursive(atoms, lambda inner: st.lists(inner, max_size=6), max_leaves=40)


@given(values)
def test_round_trip(value):
    data = encode(value)
    assert decode(data) == value
    prescan(data)


@given(st.lists(st.integers(0, 65535), max_size=50))
def test_packed_vectors(numbers):
    assert unpack_u16(pack_u16(numbers)) == numbers
    assert unpack_u64(pack_u64(numbers)) == numbers
    assert pack_u16([1, 256]) == b"\x01\x00\x00\x01"


@pytest.mark.parametrize("unpack", [unpack_u16, unpack_u64])
def test_packed_vectors_of_odd_length(unpack):
    with pytest.raises(DecodeError):
        unpack(b"123")


PAD = bytes(1100)  # pushes the same mistakes through the prescan

MISTAKES = {
    "empty": b"",
    "ends early": b"\x82\x01",
    "bytes after the value": b"\x01\x01",
    "integer not shortest": b"\x18\x17",
    "length not shortest": b"\x58\x01a",
    "array length not shortest": b"\x98\x01\x01",
    "integer in 8 bytes not shortest": b"\x1b" + bytes(7) + b"\x01",
    "indefinite bytes": b"\x5f\x41a\xff",
    "indefinite array": b"\x9f\x01\xff",
    "map": b"\xa1\x01\x02",
    "empty map": b"\xa0",
    "duplicate map keys": b"\xa2\x01\x02\x01\x03",
    "float 16": b"\xf9\x3c\x00",
    "float 32": b"\xfa\x3f\x80\x00\x00",
    "float 64": cbor2.dumps(1.1),
    "not a number": b"\xf9\x7e\x00",
    "undefined": b"\xf7",
    "simple value": b"\xf8\xff",
    "simple value 0": b"\xe0",
    "big number": cbor2.dumps(1 << 64),
    "negative big number": cbor2.dumps(-(1 << 64) - 1),
    "date": b"\xc0\x74" + b"2013-03-21T20:04:00Z",
    "decimal": b"\xc4\x82\x1a\x3b\x9a\xca\x00\x01",
    "regular expression": b"\xd8\x23\x61a",
    "shared cycle": b"\xd8\x1c\x81\xd8\x1d\x00",
    "unknown tag": b"\xd9\xff\xff\x01",
    "self-described": b"\xd9\xd9\xf7\x01",
    "set": cbor2.dumps({1, 2}),
    "reserved length": b"\x1c",
    "break alone": b"\xff",
    "bad utf-8": b"\x61\xff",
    "claimed length": b"\x5b" + b"\x7f" * 8,
    "claimed array": b"\x9b" + b"\x7f" * 8,
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_refused_alone_nested_and_in_long_inputs(name):
    mistake = MISTAKES[name]
    for data in (mistake, b"\x81" + mistake, b"\x82" + encode(PAD) + mistake, b"\x82" + mistake + encode(PAD)):
        with pytest.raises(DecodeError):
            decode(data)


@pytest.mark.parametrize("name", [name for name in MISTAKES if name != "bad utf-8"])
def test_the_prescan_alone_refuses_them_too(name):
    with pytest.raises(DecodeError):
        prescan(MISTAKES[name])


def nested(levels):
    return b"\x81" * levels + b"\x01"


def test_depth_is_bounded():
    assert decode(nested(MAX_DEPTH))
    for levels in (MAX_DEPTH + 1, 1000, 100_000):
        with pytest.raises(DecodeError):
            decode(nested(levels))
    padded = b"\x82" + encode(PAD) + nested(MAX_DEPTH - 1)
    assert decode(padded)
    with pytest.raises(DecodeError):
        decode(b"\x82" + encode(PAD) + nested(MAX_DEPTH))


def test_items_of_long_inputs_are_bounded():
    assert len(decode(encode([0] * (MAX_ITEMS - 1)))) == MAX_ITEMS - 1
    with pytest.raises(DecodeError, match="items"):
        decode(encode([0] * MAX_ITEMS))


@pytest.mark.parametrize(
    "bomb",
    [
        b"\x9a\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
        b"\x81" * 1_000_000,
        b"\xb9\x3e\x80" + b"".join(cbor2.dumps(i * ((1 << 61) - 1)) + b"\0" for i in range(1, 16_001)),
        b"\x9b\x00\x00\x00\x00\x00\x0f\x00\x00" + b"\x40" * 900_000,
    ],
    ids=["empty arrays", "depth", "colliding keys", "empty strings"],
)
def test_bombs_cost_little(bomb):
    start = time.process_time()
    with pytest.raises(DecodeError):
        decode(bomb)
    assert time.process_time() - start < 0.05


def test_size_is_bounded_and_the_place_is_named():
    with pytest.raises(DecodeError, match="vote: 11 bytes, at most 10"):
        decode(bytes(11), max_bytes=10, where="vote")


def test_mutated_inputs_decode_to_themselves_or_raise_decode_error():
    rnd = random.Random(11)
    seeds = [encode([1, b"g" * 32, [3, [b"d" * 32, 10**12], "text", None, True], -5]), encode([PAD, [1, 2, [b"x"]]])]
    accepted = 0
    for _ in range(4_000):
        data = bytearray(rnd.choice(seeds))
        for _ in range(rnd.randint(1, 4)):
            data[rnd.randrange(min(len(data), 120))] = rnd.randrange(256)
        data = bytes(data[: rnd.randint(1, len(data))] if rnd.random() < 0.2 else data)
        try:
            value = decode(data)
        except DecodeError:
            continue
        accepted += 1
        assert encode(value) == data
    assert accepted > 100


# --- shapes ------------------------------------------------------------------------------------------------------

PAIR = Record("pair", number=U8, name=Text(5))


@pytest.mark.parametrize(
    "shape, good, bad",
    [
        (U8, [0, 255], [-1, 256, True, "1", None, b"\0", 1.0]),
        (Int(-2, 2, "small"), [-2, 2], [3, False]),
        (U64, [(1 << 64) - 1], [1 << 64]),
        (BOOL, [True, False], [0, 1, None]),
        (HASH, [bytes(32)], [bytes(31), bytes(33), bytearray(32), "x" * 32]),
        (Bytes(low=1, high=3), [b"a", b"abc"], [b"", b"abcd"]),
        (Text(5), ["", "abcde", "äb"], ["abcdef", "äääb", "\ud800", b"a"]),
        (ListOf(U8, 2, low=1), [[1], [1, 2]], [[], [1, 2, 3], [256], (1,), None]),
        (PAIR, [[1, "a"]], [[1], [1, "a", 2], ["a", 1], (1, "a"), None]),
        (Optional(U8), [None, 3], [300, "x"]),
        (OneOf(U8, Text(3)), [3, "abc"], [300, "abcd", None]),
    ],
)
def test_shapes(shape, good, bad):
    around = Record("around", field=shape)
    for value in good:
        shape.check(value, "field")
        assert shape.fits(value) and around.fits([value])
    for value in bad:
        assert not shape.fits(value) and not around.fits([value])
        with pytest.raises(DecodeError):
            shape.check(value, "field")


@given(st.recursive(atoms, lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_a_compiled_record_fits_what_passes_its_check(value):
    shape = Record("all", a=U8, b=BOOL, c=Optional(Bytes(high=3)), d=PAIR, e=ListOf(U8, 2), f=OneOf(U8, Text(3)))
    for place in range(6):
        values = [1, True, None, [1, "a"], [2], "abc"]
        assert shape.fits(values)
        values[place] = value
        try:
            shape.check(values)
        except DecodeError:
            assert not shape.fits(values)
        else:
            assert shape.fits(values)


def test_a_shape_made_of_another_is_not_taken_for_it():
    class Even(Bytes):
        def check(self, value, where=""):
            super().check(value, where)
            if len(value) % 2:
                raise DecodeError("odd", where=where)

    for shape in (Even(high=4), ListOf(Even(high=4), 2), Record("even", a=Even(high=4))):
        wrap = (lambda value: value) if isinstance(shape, Even) else lambda value: [value]
        assert shape.fits(wrap(b"ab")) and not shape.fits(wrap(b"a"))
        with pytest.raises(DecodeError):
            shape.check(wrap(b"a"))


@pytest.mark.parametrize("name", MISTAKES)
def test_many_values_are_as_strict_as_one(name):
    good, bad = encode([1, "a"]), MISTAKES[name]
    assert decode_each([good, good], PAIR) == [[1, "a"], [1, "a"]] and decode_each([], PAIR) == []
    for place in range(3):
        parts = [good, good]
        parts.insert(place, bad)
        with pytest.raises(DecodeError) as caught:
            decode_each(parts, PAIR, where="pairs")
        assert caught.value.where.startswith(f"pairs[{place}]")


MARKS = st.sampled_from([ARRAY[2], INNER_ARRAY[1], b"\x50" + ARRAY[3], ARRAY[0][:8], INNER_ARRAY[1][:-1], ARRAY[0] * 2])


@settings(max_examples=60)
@given(st.lists(st.one_of(st.lists(st.one_of(atoms, MARKS), max_size=5), values.map(lambda value: [value])), max_size=5))
def test_arrays_encoded_together_come_out_as_each_alone(arrays):
    assert encode_each(arrays) == [encode(array) for array in arrays]
    assert encode_each([[1] * 23, [1] * 24]) == [encode([1] * 23), encode([1] * 24)]


def test_what_one_value_has_too_much_another_cannot_make_good():
    whole = encode([1, "a"]) + encode([2, "b"])
    for cut in range(len(whole)):
        if cut != len(whole) // 2:
            with pytest.raises(DecodeError):
                decode_each([whole[:cut], whole[cut:]], PAIR)
    with pytest.raises(DecodeError):
        decode_each([encode([1, "a"])], PAIR, max_bytes=3)
    with pytest.raises(DecodeError):
        decode_each([encode([1, "abcdef"])], PAIR)


def test_shapes_name_the_place_of_the_mistake():
    with pytest.raises(DecodeError) as caught:
        ListOf(PAIR, 9).check([[1, "a"], [1, 2]], "pairs")
    assert caught.value.where == "pairs[1].name"


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_decode_to_themselves_or_raise_decode_error(data):
    try:
        assert encode(decode(data)) == data
    except DecodeError:
        pass
