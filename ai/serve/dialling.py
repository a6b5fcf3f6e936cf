"""A caller's connection to one neuron: the dial, the greeting, and frames handed to their sessions.

The address is checked before each dial and exactly that address is connected to. Outside devnets the connection is TLS,
pinned to the key on chain. The greeting must come within 2 s and name this chain, the wanted hotkey and its
capabilities hash; until then nothing is sent, so another service at that address learns nothing.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol, cast

from ledger.client.dial import refusal as dial_refusal
from ledger.errors import DecodeError, Error, Unreachable

from .frames import VERSIONS, Answer, Cancel, Close, Frame, FrameBuffer, Greet, Refuse, encode_frame
from .refusals import Refused, refusal
from .tls import client_context, spki_hash

GREET_SECONDS: Final = 2.0
CONNECT_SECONDS: Final = 3.0
FRAME_SECONDS: Final = 5.0
MAX_SID: Final = (1 << 32) - 1
UNSENT_MAX_BYTES: Final = 4 << 20


class Address(Protocol):
    """What a dial needs of a neuron; see `client.NeuronAddress`."""

    @property
    def hotkey(self) -> bytes: ...
    @property
    def ip(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def capabilities_hash(self) -> bytes: ...
    @property
    def tls_spki_hash(self) -> bytes: ...


class Sink(Protocol):
    """A session as its connection sees it."""

    def deliver(self, frame: Answer | Close) -> None:
        """A frame of this session. Raises Refused where it breaks the protocol."""
        ...

    def fail(self, error: Error) -> None:
        """The session is over without a closing."""
        ...


async def dial(
    address: Address, genesis_hash: bytes, *, allow_private: bool, allow_clear: bool
) -> CallerConnection:
    """A greeted connection. Raises Unreachable, or Refused wrong_chain, wrong_callee, bad_version, malformed."""
    reason = dial_refusal(address.ip, address.port, allow_private=allow_private)
    if not reason and not address.tls_spki_hash and not allow_clear:
        reason = "its record names no TLS key, and this chain is not a devnet"
    if reason:
        raise Unreachable(f"{address.ip}:{address.port} is not dialled: {reason}", hint="")
    loop = asyncio.get_running_loop()
    context = client_context() if address.tls_spki_hash else None
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, connection = await loop.create_connection(
                CallerConnection, address.ip, address.port, ssl=context, server_hostname="" if context else None
            )
    except (OSError, TimeoutError, ssl.SSLError) as error:
        raise Unreachable(f"{address.ip}:{address.port}: {error or type(error).__name__}", hint="") from None
    try:
        if context is not None:
            _check_key(transport, address.tls_spki_hash)
        async with asyncio.timeout(GREET_SECONDS):
            greet = await connection.greeted
        connection.version = _check_greeting(greet, address, genesis_hash)
    except TimeoutError:
        connection.close()
        raise Unreachable(f"{address.ip}:{address.port} does not greet", hint="") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _check_key(transport: asyncio.BaseTransport, expected: bytes) -> None:
    der = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    try:
        found = spki_hash(der or b"")
    except DecodeError:
        found = b""
    if found != expected:
        raise Refused("wrong_callee", "the TLS key is not the one on chain")


def _check_greeting(greet: Greet, address: Address, genesis_hash: bytes) -> int:
    """The highest version both speak."""
    if greet.genesis_hash != genesis_hash:
        raise Refused("wrong_chain")
    if greet.hotkey != address.hotkey:
        raise Refused("wrong_callee", "another hotkey greets")
    if address.capabilities_hash and greet.capabilities_hash != address.capabilities_hash:
        raise Refused("wrong_callee", "the capabilities are not the ones on chain")
    common = set(VERSIONS).intersection(greet.versions)
    if not common:
        raise Refused("bad_version", f"the neuron speaks {list(greet.versions)}")
    return max(common)


class CallerConnection(asyncio.Protocol):
    """One open connection; sessions register under their `sid`."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._buffer = FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._frames = 0
        self._sinks: dict[int, Sink] = {}
        self._last_sid = 0
        self.version = VERSIONS[-1]
        self.greeted: asyncio.Future[Greet] = loop.create_future()
        self.on_idle: Callable[[], None] = lambda: None

    @property
    def usable(self) -> bool:
        """False once it is closed or its session numbers are used up."""
        return self._transport is not None and self._last_sid < MAX_SID

    @property
    def sessions(self) -> int:
        """Sessions that are not over."""
        return len(self._sinks)

    def next_sid(self) -> int:
        """A fresh session number."""
        self._last_sid += 1
        return self._last_sid

    def attach(self, sid: int, sink: Sink) -> None:
        """Frames of `sid` go to this sink from now on."""
        self._sinks[sid] = sink

    def detach(self, sid: int) -> None:
        """The session is over; what still comes for it is dropped."""
        if self._sinks.pop(sid, None) is not None:
            self.on_idle()

    def send(self, frame: Frame) -> None:
        """Queue a frame. Raises Unreachable on a closed connection."""
        if self._transport is None:
            raise Unreachable("the connection is closed", hint="")
        self._transport.write(encode_frame(frame))

    def close(self, error: Error | None = None) -> None:
        """Close, and fail every open session with `error`."""
        transport, self._transport = self._transport, None
        if self._frame_timer is not None:
            self._frame_timer.cancel()
        if transport is not None:
            transport.close()
        reason = error or Unreachable("the connection was closed", hint="")
        if not self.greeted.done():
            self.greeted.set_exception(reason)
            self.greeted.exception()  # whoever waits still sees it; nobody waiting is no mistake
        for sid, sink in list(self._sinks.items()):
            sink.fail(reason)
            self.detach(sid)

    # --- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's
        self._transport = stream
        stream.set_write_buffer_limits(high=UNSENT_MAX_BYTES)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(Unreachable("the neuron closed the connection", hint=""))

    def pause_writing(self) -> None:
        self.close(Unreachable("the neuron does not read", hint=""))

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._buffer.feed(data):
                self._frames += 1
                self._dispatch(frame)
                if self._transport is None:
                    return
        except Refused as refused:  # the stream itself cannot be read any further
            self.close(refused)
            return
        self._watch_frame()

    def _dispatch(self, frame: Frame) -> None:
        if isinstance(frame, Greet):
            if self.greeted.done():
                raise Refused("out_of_order", "a second GREET")
            self.greeted.set_result(frame)
        elif isinstance(frame, Refuse):
            self._refused(frame)
        elif isinstance(frame, Answer | Close):
            sink = self._sinks.get(frame.sid)
            if sink is not None:
                try:
                    sink.deliver(frame)
                except Error as error:  # the neuron broke the protocol, or the receipt could not be kept
                    sink.fail(error)
                    self.detach(frame.sid)
                    self.send(Cancel(frame.sid))
            elif not 0 < frame.sid <= self._last_sid:
                raise Refused("out_of_order", f"a frame for session {frame.sid}")
        else:
            raise Refused("malformed", f"{type(frame).__name__} comes from the caller")

    def _refused(self, frame: Refuse) -> None:
        error = refusal(frame.code, frame.detail, frame.retry_after_ms)
        if frame.sid == 0:
            self.close(error)
            return
        sink = self._sinks.get(frame.sid)
        if sink is not None:
            sink.fail(error)
            self.detach(frame.sid)

    def _watch_frame(self) -> None:
        if self._buffer.begun and self._frame_timer is None:
            self._frame_timer = self._loop.call_later(FRAME_SECONDS, self._frame_too_slow, self._frames)
        elif not self._buffer.begun and self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None

    def _frame_too_slow(self, frames_then: int) -> None:
        self._frame_timer = None
        if self._frames == frames_then:
            self.close(Refused("too_slow", "the neuron began a frame and did not end it"))
        else:
            self._watch_frame()
