"""A caller's connection and the door in front of it: sockets, idle limits, and the limits per address.

The callee speaks first (GREET). A frame that has begun must be complete within 5 s, a connection without a step lives
120 s, and a caller that does not read what it asked for is cut off. At most 16 connections come from one address; ten
refusals that end a connection within a minute shut the address out for a minute. On the machine itself everybody has the
same address, so neither is asked of loopback: one broken program there would shut out the validators beside it. When all
connections are taken, a new one takes the place of the quietest that has no session open.
"""

from __future__ import annotations

import asyncio
import socket
from collections import OrderedDict, deque
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Final, cast

from ledger.errors import Fault

from .frames import Frame, FrameBuffer, Refuse, encode_frame
from .refusals import Refused

if TYPE_CHECKING:
    from .server import NeuronServer

FRAME_SECONDS: Final = 5.0
IDLE_SECONDS: Final = 120.0
UNREAD_MAX_BYTES: Final = 1 << 20
MAX_CONNECTIONS: Final = 256
MAX_CONNECTIONS_PER_ADDRESS: Final = 16
MAX_CALLERS_PER_CONNECTION: Final = 64
BUSY_RETRY_MS: Final = 1_000
FAULTS_TO_SHUT_OUT: Final = 10
FAULT_WINDOW_SECONDS: Final = 60.0
SHUT_OUT_SECONDS: Final = 60.0
MAX_ADDRESSES_REMEMBERED: Final = 1_024
LOOPBACK_IPV6: Final = "0000:0000:0000:0000"  # its /64, of which nothing else is in use


class Doorkeeper:
    """Counts connections and faults by address, and connections by caller. The clock comes in as seconds."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self._faults: OrderedDict[str, deque[float]] = OrderedDict()
        self._shut_until: OrderedDict[str, float] = OrderedDict()

    def enter(self, connection: Connection, now: float) -> None:
        """Let a connection in. Raises Refused rate_limited or busy."""
        until = self._shut_until.get(connection.address, 0.0)
        if now < until:
            raise Refused("rate_limited", "too many faults", retry_after_ms=int((until - now) * 1000) + 1)
        same = sum(1 for other in self.connections if other.address == connection.address)
        crowded = same >= MAX_CONNECTIONS_PER_ADDRESS and not is_shared(connection.address)
        if crowded or (len(self.connections) >= MAX_CONNECTIONS and not self._close_quietest()):
            raise Refused("busy", "too many connections", retry_after_ms=BUSY_RETRY_MS)
        self.connections.add(connection)

    def _close_quietest(self) -> bool:
        """Close the connection without a session whose last frame is oldest; False if all have one."""
        idle = [other for other in self.connections if not other.open_sessions]
        if not idle:
            return False
        min(idle, key=lambda other: other.last_frame_s).close()
        return True

    def leave(self, connection: Connection) -> None:
        """Forget a connection."""
        self.connections.discard(connection)

    def connections_of(self, caller: bytes, connection: Connection) -> int:
        """How many connections this caller uses, this one included, which is remembered as one of its."""
        if len(connection.callers) < MAX_CALLERS_PER_CONNECTION:
            connection.callers.add(caller)
        return sum(1 for other in self.connections if caller in other.callers)

    def fault(self, address: str, now: float) -> None:
        """Note a refusal that ended a connection."""
        if is_shared(address):
            return
        times = self._faults.setdefault(address, deque(maxlen=FAULTS_TO_SHUT_OUT))
        self._faults.move_to_end(address)
        times.append(now)
        if len(times) == FAULTS_TO_SHUT_OUT and now - times[0] <= FAULT_WINDOW_SECONDS:
            self._shut_until[address] = now + SHUT_OUT_SECONDS
            self._shut_until.move_to_end(address)
            times.clear()
        for table in (self._faults, self._shut_until):
            while len(table) > MAX_ADDRESSES_REMEMBERED:
                table.popitem(last=False)


class Connection(asyncio.Protocol):
    """One accepted connection."""

    def __init__(self, server: NeuronServer) -> None:
        self._server = server
        self._buffer = FrameBuffer()
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self.last_frame_s = self._loop.time()
        self.address = ""
        self.callers: set[bytes] = set()
        self.last_sid = 0
        self.open_sessions = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)  # uvloop's transports do not inherit from asyncio's
        self._transport = stream
        stream.set_write_buffer_limits(high=UNREAD_MAX_BYTES)
        raw = transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address = _address_of(transport.get_extra_info("peername"))
        try:
            self._server.doorkeeper.enter(self, self._loop.time())
        except Refused as refused:
            self._send_refusal(0, refused)
            self.close()
            return
        self.send(self._server.greeting())
        self._idle_timer = self._loop.call_later(IDLE_SECONDS, self._check_idle)

    def data_received(self, data: bytes) -> None:
        if self._transport is None:
            return
        try:
            for frame in self._buffer.feed(data):
                self.last_frame_s = self._loop.time()
                self._handle(frame)
                if self._transport is None:
                    return
        except Refused as refused:
            self.refuse(0, refused)
        self._watch_frame()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        for (owner, _), session in list(self._server.sessions.items()):
            if owner is self:
                session.abandon()

    def pause_writing(self) -> None:
        """More than a megabyte waits for a caller that does not read."""
        if self._transport is not None:
            self._server.doorkeeper.fault(self.address, self._loop.time())
            self._transport.abort()

    def send(self, frame: Frame) -> None:
        """Queue a frame; nothing happens on a closed connection."""
        if self._transport is not None:
            self._transport.write(encode_frame(frame))

    def refuse(self, sid: int, refused: Refused) -> None:
        """Send a REFUSE; the codes that say so end the connection and count against its address."""
        self._send_refusal(sid, refused)
        if refused.ends_connection:
            self._server.doorkeeper.fault(self.address, self._loop.time())
            self.close()

    def close(self) -> None:
        """Send what is queued, then close."""
        transport = self._transport
        self._forget()
        if transport is not None:
            transport.close()

    def _handle(self, frame: Frame) -> None:
        try:
            self._server.handle(self, frame)
        except Refused as refused:
            self.refuse(getattr(frame, "sid", 0), refused)
        except Fault as fault:
            self._server.fault(fault)
            self.close()

    def _send_refusal(self, sid: int, refused: Refused) -> None:
        self._server.counters.refuse(refused.error_name)
        self.send(Refuse(sid, refused.code, refused.retry_after_ms, refused.detail))

    def _forget(self) -> None:
        self._transport = None
        self._server.doorkeeper.leave(self)
        for timer in (self._frame_timer, self._idle_timer):
            if timer is not None:
                timer.cancel()

    def _watch_frame(self) -> None:
        if self._transport is None:
            return
        if self._buffer.begun and self._frame_timer is None:
            self._frame_timer = self._loop.call_later(FRAME_SECONDS, self._frame_too_slow, self.last_frame_s)
        elif not self._buffer.begun and self._frame_timer is not None:
            self._frame_timer.cancel()
            self._frame_timer = None

    def _frame_too_slow(self, last_frame: float) -> None:
        self._frame_timer = None
        if self.last_frame_s == last_frame:
            self.refuse(0, Refused("too_slow", f"a frame took over {FRAME_SECONDS:g} s"))
        else:  # that frame was completed and another has begun since
            self._watch_frame()

    def _check_idle(self) -> None:
        quiet = self._loop.time() - self.last_frame_s
        if quiet >= IDLE_SECONDS and not self.open_sessions:
            self.close()
        else:
            self._idle_timer = self._loop.call_later(max(1.0, IDLE_SECONDS - quiet), self._check_idle)


def is_shared(address: str) -> bool:
    """True for a loopback address: it says nothing about who calls."""
    return address == LOOPBACK_IPV6 or address.startswith("127.")


def _address_of(peer: object) -> str:
    """What limits per address go by: an IPv4 address, or the /64 of an IPv6 one."""
    host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
    try:
        address = ip_address(host.split("%")[0])
    except ValueError:
        return host
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped) if mapped is not None else address.exploded[:19]
    return str(address)
