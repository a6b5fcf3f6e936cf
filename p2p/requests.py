"""The sync protocol's transport: requests and replies with ids, pipelined on one kept stream a peer and direction.

Both sides bound everything: sizes before reading, requests under way a peer, replies being served in the whole host,
time. A peer that leaves three requests in a row unanswered is disconnected: its connection may be dead without an end.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from ledger.errors import DecodeError, Error, Timeout, Unreachable

from .frames import FrameStream, StreamEnded
from .messages import (
    ENVELOPE_BYTES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    decode_reply_envelope,
    decode_request_envelope,
    encode_reply_envelope,
    encode_request_envelope,
)

PIPELINE: Final = 4  # requests under way to, or served for, one peer
SERVED_AT_ONCE: Final = 8  # replies of at most 8 MiB in memory, in the whole host
SERVE_SECONDS: Final = 10.0
REQUESTS_PER_S: Final = 50
REQUEST_BURST: Final = 100
MAX_SILENCES: Final = 3
MAX_ERROR_CHARS: Final = 64

log = logging.getLogger("quorix.p2p")


class RequestClient:
    """Requests to one peer. `lost` is called after `MAX_SILENCES` timeouts in a row."""

    def __init__(
        self, nursery: trio.Nursery, open_stream: Callable[[], Awaitable[Any]], lost: Callable[[], None],
        fault: Callable[[BaseException], None],
    ) -> None:
        self._nursery, self._open_stream, self._lost, self._fault = nursery, open_stream, lost, fault
        self._stream: FrameStream | None = None
        self._opening = trio.Lock()
        self._room = trio.Semaphore(PIPELINE)
        self._number = 0
        self._waiting: dict[int, trio.MemorySendChannel[tuple[bool, bytes]]] = {}
        self._silences = 0

    async def request(self, data: bytes, timeout_ms: int) -> bytes:
        """Raises Timeout, or Unreachable if the stream ends or the peer cannot serve it."""
        if len(data) > MAX_REQUEST_BYTES:
            raise ValueError(f"a request of {len(data)} bytes, at most {MAX_REQUEST_BYTES} allowed")
        with trio.move_on_after(timeout_ms / 1000):
            async with self._room:
                ok, payload = await self._exchange(data)
            self._silences = 0
            if not ok:
                raise Unreachable(f"the peer could not answer: {payload[:MAX_ERROR_CHARS].decode('ascii', 'replace')}")
            return payload
        self._silences += 1
        if self._silences >= MAX_SILENCES:
            self._silences = 0
            self._lost()
        raise Timeout(f"no answer in {timeout_ms} ms")

    async def _exchange(self, data: bytes) -> tuple[bool, bytes]:
        """A kept stream may have been closed since: one that fails before any answer is replaced once."""
        fresh = self._stream is None
        try:
            return await self._once(data)
        except StreamEnded:
            if fresh:
                raise
        return await self._once(data)

    async def _once(self, data: bytes) -> tuple[bool, bytes]:
        stream = await self._kept_stream()
        self._number = self._number + 1 & 0xFFFFFFFF
        number = self._number
        send, receive = trio.open_memory_channel[tuple[bool, bytes]](1)
        self._waiting[number] = send
        try:
            await stream.write(encode_request_envelope(number, data))
            return await receive.receive()
        except trio.EndOfChannel:
            raise StreamEnded("stream ended before the answer") from None
        finally:
            self._waiting.pop(number, None)
            if stream.torn:
                self._drop(stream)

    async def _kept_stream(self) -> FrameStream:
        async with self._opening:
            if self._stream is None:
                self._stream = FrameStream(await self._open_stream(), MAX_REPLY_BYTES + ENVELOPE_BYTES)
                self._nursery.start_soon(self._read, self._stream)
            return self._stream

    async def _read(self, stream: FrameStream) -> None:
        try:
            while True:
                number, ok, payload = decode_reply_envelope(await stream.read())
                waiting = self._waiting.pop(number, None)
                if waiting is not None:
                    waiting.send_nowait((ok, payload))
                elif number > self._number:
                    raise DecodeError("answer to a request that was not made", where="envelope.id")
        except StreamEnded:
            pass
        except DecodeError as error:
            self._fault(error)
        finally:
            self._drop(stream)
            await stream.reset()

    def _drop(self, stream: FrameStream) -> None:
        """Give up a stream: whoever waits for an answer on it learns so."""
        if self._stream is stream:
            self._stream = None
            for waiting in self._waiting.values():
                waiting.close()
            self._waiting.clear()


class RequestServer:
    """Serves the requests of all peers. `answer(peer, data)` may raise; DecodeError counts against the peer."""

    def __init__(
        self, answer: Callable[[str, bytes], Awaitable[bytes]], fault: Callable[[str, BaseException], None]
    ) -> None:
        self._answer, self._fault = answer, fault
        self._room = trio.Semaphore(SERVED_AT_ONCE)

    async def serve(self, peer: str, raw: Any, pace: Callable[[], Awaitable[None]]) -> None:
        """Serve one inbound stream until it ends; `pace` waits when the peer asks too often."""
        stream = FrameStream(raw, MAX_REQUEST_BYTES + ENVELOPE_BYTES)
        pipeline = trio.Semaphore(PIPELINE)
        failure: Error | None = None
        async with trio.open_nursery() as nursery:
            try:
                while True:
                    number, payload = decode_request_envelope(await stream.read())
                    await pace()
                    await pipeline.acquire()
                    nursery.start_soon(self._serve_one, peer, stream, number, payload, pipeline)
            except (DecodeError, StreamEnded) as error:
                failure = error
                nursery.cancel_scope.cancel()
        if isinstance(failure, DecodeError):
            raise failure

    async def _serve_one(
        self, peer: str, stream: FrameStream, number: int, payload: bytes, pipeline: trio.Semaphore
    ) -> None:
        try:
            async with self._room:
                ok, reply = await self._guarded(peer, payload)
                await stream.write(encode_reply_envelope(number, ok, reply))
        except StreamEnded:
            pass
        finally:
            pipeline.release()

    async def _guarded(self, peer: str, payload: bytes) -> tuple[bool, bytes]:
        with trio.move_on_after(SERVE_SECONDS):
            try:
                reply = await self._answer(peer, payload)
                if len(reply) <= MAX_REPLY_BYTES:
                    return True, reply
                log.error("a reply of %d bytes was not sent", len(reply))
                return False, b"TooLarge"
            except DecodeError as error:
                self._fault(peer, error)
                return False, b"DecodeError"
            except Error as error:
                return False, error.name.encode()[:MAX_ERROR_CHARS]
            except Exception:
                log.exception("serving a request of %s", peer)
                return False, b"InternalError"
        return False, b"Timeout"
