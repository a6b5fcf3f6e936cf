import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from ledger.errors import DecodeError
from p2p.frames import FRAME_SECONDS, WRITE_SECONDS, FrameDecoder, FrameStream, StreamEnded, encode_frame


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 50))
def test_frames_survive_any_cutting(payloads, step):
    data = b"".join(map(encode_frame, payloads))
    decoder, got = FrameDecoder(300), []
    for at in range(0, len(data), step):
        got += decoder.feed(data[at : at + step])
    assert got == payloads and not decoder.partial


@given(st.binary(max_size=200))
def test_any_bytes_give_frames_or_a_decode_error(data):
    decoder = FrameDecoder(64)
    try:
        frames = decoder.feed(data)
    except DecodeError:
        return
    assert all(len(frame) <= 64 for frame in frames)
    assert data.startswith(b"".join(map(encode_frame, frames)))


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"\x41", "at most 64"), (b"\xff\xff\xff\x7f", "at most 64"), (b"\xff\xff\xff\xff\x01", "more than 4"),
        (b"\x80\x00", "shortest"), (b"\x81\x00", "shortest"),
    ],
)
def test_bad_lengths_are_refused_before_the_payload(data, cause):
    with pytest.raises(DecodeError, match=cause):
        FrameDecoder(64).feed(data)


def test_a_length_at_the_cap_is_accepted():
    assert FrameDecoder(64).feed(encode_frame(bytes(64))) == [bytes(64)]


class Pipe:
    """A stream fed by hand. `None` blocks for ever, an exception is raised."""

    def __init__(self, *chunks):
        self.chunks, self.sent, self.ended, self.stuck = list(chunks), b"", False, False

    async def read(self, n):
        if not self.chunks:
            await trio.sleep_forever()
        chunk = self.chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        if isinstance(chunk, float):
            await trio.sleep(chunk)
            return await self.read(n)
        return chunk

    async def write(self, data):
        if self.stuck:
            await trio.sleep_forever()
        self.sent += data

    async def close(self):
        raise OSError("already gone")

    reset = close


def run(function):
    return trio.run(function, clock=MockClock(autojump_threshold=0))


def test_frames_are_read_one_by_one_and_in_batches():
    async def main():
        stream = FrameStream(Pipe(b"\x01a\x01b\x02c", b"c\x00"), 10)
        assert await stream.read() == b"a"
        assert await stream.read_many(5) == [b"b"]
        assert await stream.read_many(5) == [b"cc", b""]

    run(main)


def test_waiting_for_a_frame_has_no_limit_but_a_begun_frame_must_end():
    async def main():
        assert await FrameStream(Pipe(3600.0, b"\x01a"), 10).read() == b"a"
        slow = FrameStream(Pipe(3600.0, b"\x05a", 4.0, b"b", 4.0, b"c", 4.0, b"d", 4.0, b"e"), 10)
        began = trio.current_time()
        with pytest.raises(DecodeError, match="not complete"):
            await slow.read()
        assert trio.current_time() - began == pytest.approx(3600 + FRAME_SECONDS)

    run(main)


@pytest.mark.parametrize("end", [b"", OSError("x"), ValueError("x")])
def test_an_ended_stream_is_named(end):
    async def main():
        with pytest.raises(StreamEnded):
            await FrameStream(Pipe(b"\x02a", end), 10).read()

    run(main)


def test_a_write_that_is_not_taken_ends_the_stream():
    async def main():
        pipe = Pipe()
        stream = FrameStream(pipe, 10)
        await stream.write(b"a", b"bb")
        assert pipe.sent == b"\x01a\x02bb"
        pipe.stuck = True
        began = trio.current_time()
        with pytest.raises(StreamEnded):
            await stream.write(b"c")
        assert trio.current_time() - began == pytest.approx(WRITE_SECONDS)

    run(main)


def test_nothing_follows_a_frame_that_was_given_up_half_way():
    async def main():
        pipe = Pipe()
        stream = FrameStream(pipe, 10)
        pipe.stuck = True
        with trio.move_on_after(1):
            await stream.write(b"a")
        pipe.stuck = False
        assert stream.torn
        with pytest.raises(StreamEnded):
            await stream.write(b"b")
        await stream.close()  # never raises
        await stream.reset()

    run(main)
