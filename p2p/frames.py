"""Length-prefixed frames on kept-open streams: unsigned varint, then that many bytes.

The length is checked against the protocol's cap before anything is buffered for it, in the one shortest form, and a
frame that has begun must end within its deadline. One read takes whatever has arrived, since each read of the muxer
costs a window update on the wire.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

import trio

from ledger.errors import DecodeError, Unreachable

READ_BYTES: Final = 64 * 1024
FRAME_SECONDS: Final = 10.0  # from a frame's first byte to its last
WRITE_SECONDS: Final = 30.0
_LENGTH_BYTES: Final = 4  # a varint of 4 bytes reaches 256 MiB, far above every cap


class StreamEnded(Unreachable):
    """The peer closed or reset the stream, or the connection is gone: normal, nobody's fault."""

    name = "StreamEnded"


def encode_frame(payload: bytes) -> bytes:
    """Prefix the payload with its length."""
    length, prefix = len(payload), bytearray()
    while length >= 0x80:
        prefix.append(length & 0x7F | 0x80)
        length >>= 7
    prefix.append(length)
    return bytes(prefix) + payload


class FrameDecoder:
    """Cuts a byte stream into frames of at most `max_bytes`; pure, so that it can be tested without a stream."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def partial(self) -> bool:
        """True if a frame has begun and not ended."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Add bytes, return the frames they complete. Raises DecodeError on a bad or excessive length."""
        self._buffer += data
        frames, at = [], 0
        while True:
            length, size = self._length(at)
            if size == 0 or len(self._buffer) - at - size < length:
                break
            frames.append(bytes(self._buffer[at + size : at + size + length]))
            at += size + length
        del self._buffer[:at]
        return frames

    def _length(self, at: int) -> tuple[int, int]:
        """(length, bytes of its prefix) at a position; size 0 if the prefix is not complete."""
        value = 0
        for size, byte in enumerate(self._buffer[at : at + _LENGTH_BYTES], 1):
            value |= (byte & 0x7F) << 7 * (size - 1)
            if byte < 0x80:
                if size > 1 and byte == 0:
                    raise DecodeError("length not in the shortest form", where="frame")
                if value > self.max_bytes:
                    raise DecodeError(f"{value} bytes, at most {self.max_bytes} allowed", where="frame")
                return value, size
        if len(self._buffer) - at >= _LENGTH_BYTES:
            raise DecodeError("length of more than 4 bytes", where="frame")
        return 0, 0


class FrameStream:
    """Frames on a raw stream that has `read(n)`, `write`, `close` and `reset` (trio side)."""

    def __init__(self, stream: Any, max_bytes: int) -> None:
        self._stream = stream
        self._decoder = FrameDecoder(max_bytes)
        self._ready: deque[bytes] = deque()
        self._began = 0.0  # when the incomplete frame's first byte arrived
        self._writing = trio.Lock()
        self._torn = False  # a write was given up half-way: nothing after it would be understood

    async def read(self) -> bytes:
        """The next frame; waits for its first byte without limit. Raises StreamEnded or DecodeError."""
        while not self._ready:
            await self._receive()
        return self._ready.popleft()

    async def read_many(self, limit: int) -> list[bytes]:
        """At least one frame and at most `limit`, as many as have arrived."""
        frames = [await self.read()]
        while self._ready and len(frames) < limit:
            frames.append(self._ready.popleft())
        return frames

    async def _receive(self) -> None:
        deadline = self._began + FRAME_SECONDS if self._decoder.partial else float("inf")
        with trio.move_on_at(deadline) as scope:
            try:
                data = await self._stream.read(READ_BYTES)
            except Exception as error:  # the library raises many kinds for an ended stream
                raise StreamEnded(f"stream ended ({type(error).__name__})") from None
            if not data:
                raise StreamEnded("stream ended")
            frames = self._decoder.feed(data)
            self._ready.extend(frames)
            if frames or deadline == float("inf"):
                self._began = trio.current_time()
        if scope.cancelled_caught:
            raise DecodeError(f"frame not complete after {FRAME_SECONDS:.0f} s", where="frame")

    async def write(self, *payloads: bytes) -> None:
        """Send frames in one piece, in order with other writers. Raises StreamEnded."""
        data = b"".join(map(encode_frame, payloads))
        async with self._writing:
            if self._torn:
                raise StreamEnded("an earlier frame was not completed")
            self._torn = True
            with trio.move_on_after(WRITE_SECONDS) as scope:
                try:
                    await self._stream.write(data)
                except Exception as error:
                    raise StreamEnded(f"stream ended ({type(error).__name__})") from None
                self._torn = False
        if scope.cancelled_caught:
            raise StreamEnded(f"peer did not take {len(data)} bytes in {WRITE_SECONDS:.0f} s")

    @property
    def torn(self) -> bool:
        """True once a write was given up half-way (by its deadline or a cancelled caller): open another stream."""
        return self._torn and not self._writing.locked()

    async def close(self) -> None:
        """End the stream in an orderly way; never raises."""
        await self._finish(self._stream.close)

    async def reset(self) -> None:
        """End the stream at once; never raises."""
        await self._finish(self._stream.reset)

    async def _finish(self, end: Any) -> None:
        scope = trio.move_on_after(1)
        scope.shield = True
        with scope:
            try:
                await end()
            except Exception:
                return
