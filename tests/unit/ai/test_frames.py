"""Frames: one encoding each, every field bounded, and a stream cut into frames however it arrives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai.serve import frames
from ai.serve.frames import (
    Answer,
    Ask,
    Cancel,
    Close,
    CloseBody,
    Finish,
    FrameBuffer,
    Greet,
    Open,
    OpenBody,
    Refuse,
    decode_frame,
    encode_frame,
)
from ai.serve.refusals import CODES, ENDS_CONNECTION, REFUSALS, Refused, refusal
from ledger import codec

KEY, OTHER, HASH = b"k" * 32, b"o" * 32, b"h" * 32
OPEN_BODY = OpenBody(1, 1, 2, KEY, OTHER, "distribution", b"n" * 16, 1000, 2000, 3, 1, 12, ((KEY, HASH),), HASH)
CLOSE_BODY = CloseBody(1, HASH, HASH, 1, 2, 0, HASH, 7, 10, 20, 3000, HASH * 2)
EXAMPLES = [
    Greet((1,), HASH, KEY, HASH, 5),
    Open(1, OPEN_BODY.encode(), b"s" * 64, b"body"),
    Ask(1, 1, b"payload"),
    Answer(1, 0, b""),
    Finish(1, 2, HASH, b"s" * 64),
    Close(1, CLOSE_BODY.encode(), b"s" * 64, (b"receipt",)),
    Cancel(9),
    Refuse(1, 13, 200, "busy"),
]


def names(items):
    return [type(item).__name__ for item in items]


@pytest.mark.parametrize("frame", EXAMPLES, ids=names(EXAMPLES))
def test_frames_survive_the_wire(frame):
    assert decode_frame(encode_frame(frame)[4:]) == frame


@pytest.mark.parametrize("body", [OPEN_BODY, CLOSE_BODY], ids=["open", "close"])
def test_bodies_survive_the_wire(body):
    assert type(body).decode(body.encode()) == body


def refused(decode, data):
    with pytest.raises(Refused) as caught:
        decode(data)
    return caught.value.error_name


def mutations(value):
    """Every field dropped, of another type, too long; and one field too many."""
    yield [*value, 0]
    for index in range(len(value)):
        yield value[:index] + value[index + 1 :]
        for other in (None, -1, 1 << 70, "x" * 4000, b"x" * 70_000, [[]], True):
            if other != value[index] or type(other) is not type(value[index]):
                yield [*value[:index], other, *value[index + 1 :]]


@pytest.mark.parametrize("frame", EXAMPLES, ids=names(EXAMPLES))
def test_every_field_of_a_frame_is_checked(frame):
    value = codec.decode(encode_frame(frame)[4:])
    for changed in mutations(value):
        try:
            data = codec.encode(changed)
        except Exception:
            continue
        assert refused(decode_frame, data) == "malformed", changed


@pytest.mark.parametrize("body", [OPEN_BODY, CLOSE_BODY], ids=["open", "close"])
def test_every_field_of_a_body_is_checked(body):
    value = codec.decode(body.encode())
    for changed in mutations(value):
        data = codec.encode(changed)
        assert refused(type(body).decode, data) in ("malformed", "bad_version"), changed


@pytest.mark.parametrize("body", [OPEN_BODY, CLOSE_BODY], ids=["open", "close"])
def test_another_version_is_named_before_its_fields_are_looked_at(body):
    value = codec.decode(body.encode())
    assert refused(type(body).decode, codec.encode([2, *value[1:], "new field"])) == "bad_version"
    assert refused(type(body).decode, codec.encode([0, *value[1:]])) == "bad_version"


NO_FRAMES = [b"", b"\xff", b"\x80", b"\x81\x08", b"\x81\x20", b"\xa0", b"\x82\x06\x01\x00", b"\x82\x06\x18\x01"]


@pytest.mark.parametrize("data", NO_FRAMES)
def test_what_is_no_frame_is_malformed(data):
    assert refused(decode_frame, data) == "malformed"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_noise_never_escapes_as_another_error(noise):
    for decode in (decode_frame, OpenBody.decode, CloseBody.decode):
        try:
            decode(noise)
        except Refused as error:
            assert error.error_name in ("malformed", "bad_version")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=60), st.integers(0, 3))
def test_a_stream_is_cut_the_same_wherever_it_is_split(cuts, repeats):
    stream = b"".join(encode_frame(frame) for frame in EXAMPLES * repeats)
    buffer, found, at = FrameBuffer(), [], 0
    for cut in [*cuts, len(stream)]:
        found += buffer.feed(stream[at : at + cut])
        at += cut
    assert found == EXAMPLES * repeats and not buffer.begun


def test_a_length_over_the_cap_is_refused_before_the_frame_arrives():
    buffer = FrameBuffer()
    with pytest.raises(Refused, match="too_large"):
        list(buffer.feed((frames.FRAME_MAX_BYTES + 1).to_bytes(4, "big")))
    with pytest.raises(Refused, match="too_large"):
        encode_frame(Answer(1, 0, bytes(frames.FRAME_MAX_BYTES)))


def test_a_begun_frame_is_known_as_such():
    buffer = FrameBuffer()
    assert not buffer.begun
    list(buffer.feed(b"\0\0"))
    assert buffer.begun


def test_the_chain_tells_order_kind_and_payload_apart():
    heads = {
        frames.step(HASH, frames.ASK, 1, b"x"),
        frames.step(HASH, frames.ANSWER, 1, b"x"),
        frames.step(HASH, frames.ASK, 2, b"x"),
        frames.step(HASH, frames.ASK, 1, b"y"),
        frames.step(KEY, frames.ASK, 1, b"x"),
    }
    assert len(heads) == 5


def test_the_chain_is_what_the_page_says():
    from hashlib import blake2b

    inner = blake2b(b"payload", digest_size=32).digest()
    expected = blake2b(
        HASH + b"\x02" + b"\x00\x00\x00\x05" + inner, digest_size=32, person=b"qx/step/1".ljust(16, b"\0")
    )
    assert frames.step(HASH, frames.ASK, 5, b"payload") == expected.digest()


def test_the_error_table_is_whole():
    assert sorted(REFUSALS) == list(range(1, 22)) and len(CODES) == 21
    assert {REFUSALS[code][0] for code in ENDS_CONNECTION} == {
        "malformed", "too_large", "bad_signature", "out_of_order", "too_slow",
    }
    for code, (name, _) in REFUSALS.items():
        error = refusal(code, "why", 7)
        assert (error.error_name, error.detail, error.retry_after_ms, error.code) == (name, "why", 7, code)
    assert refusal(999, "", 0).error_name == "malformed"


def test_details_are_cut_to_their_bound():
    assert len(Refused("busy", "ä" * 200).detail.encode()) <= 120
