"""One libp2p host that no peer can end: TCP, noise and yamux only, identify and ping, nothing that dials by itself.

py-libp2p 0.8.1 lets an exception of any stream handler climb to the whole host, dials whatever peers suggest, counts
closed inbound connections as open and does not enforce the muxer's receive window. Each of that is corrected here, at
one place each, and has a test over real sockets. The order of a start matters: network, then pubsub, then listening.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Any, Final

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key_pair
from libp2p.io.exceptions import IOException
from libp2p.network import swarm
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection import swarm_connection
from libp2p.network.connection.exceptions import RawConnError
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamError, StreamReset
from libp2p.peer.id import ID
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer import muxer_multistream
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamError
from libp2p.stream_muxer.yamux import yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from ledger.errors import Unreachable, UsageError

from .addresses import address_of
from .frames import StreamEnded
from .pace import TokenBuckets
from .thread import wall_ms

DIAL_SECONDS: Final = 10.0
NEGOTIATE_SECONDS: Final = 10.0
CLOSE_SECONDS: Final = 2.0
STREAMS_PER_PEER: Final = 16  # inbound: gossip, identify, hello, sync, authority and some to spare
RECEIVE_WINDOW_BYTES: Final = 1 << 20
STREAMS_PER_S: Final = 20  # new inbound streams of one peer
STREAM_BURST: Final = 60
MAX_PER_SUBNET: Final = 8  # inbound, of one /24 or /48, where private addresses are not allowed
HANDSHAKES_PER_S: Final = 2  # of one /24 or /48, likewise
HANDSHAKE_BURST: Final = 20
MAX_BUCKETS: Final = 1024

log = logging.getLogger("quorix.p2p")

# Ways in which a stream or connection ends that are nobody's fault.
_ENDINGS: Final = (
    StreamEOF, StreamReset, StreamClosed, StreamError, MuxedConnUnavailable, MuxedStreamError, RawConnError, IOException,
    SwarmException, StreamEnded, trio.ClosedResourceError, trio.BrokenResourceError, trio.EndOfChannel,
)


class _Forward(logging.Handler):
    """The library's log, first lines only, at debug level: what matters about peers is counted and logged by us."""

    def emit(self, record: logging.LogRecord) -> None:
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s: %s", record.name, record.getMessage().partition("\n")[0])


def _tame_library() -> None:
    """Settings of the library that have no parameter; idempotent."""
    library = logging.getLogger("libp2p")
    if not any(isinstance(handler, _Forward) for handler in library.handlers):
        library.addHandler(_Forward())
    library.setLevel(logging.ERROR)
    library.propagate = False
    # This module logs through the root logger, which would install a handler on stderr for the whole process.
    swarm_connection.logging = logging.getLogger("libp2p.network.connection")
    yamux.MAX_WINDOW_SIZE = RECEIVE_WINDOW_BYTES
    yamux.YamuxStream = ThriftyStream
    muxer_multistream.Yamux = BoundedYamux  # the class given as muxer is used for other protocols only
    swarm._HAPPY_EYEBALLS_DELAY = 0  # a wait for a second address; every dial here has one


class _Buffer(bytearray):
    """What a stream has received and nobody has read; the library extends it whatever its window says."""

    def extend(self, data: Any) -> None:
        if len(self) + len(data) > 2 * RECEIVE_WINDOW_BYTES:
            raise MuxedStreamError("peer ignores the receive window")
        super().extend(data)


class _Buffers(dict[int, bytearray]):
    def __setitem__(self, stream: int, buffer: bytearray) -> None:
        super().__setitem__(stream, _Buffer(buffer))


class ThriftyStream(yamux.YamuxStream):  # type: ignore[misc]
    """A stream that renews its window when half of it is used; the library sends an update for every read."""

    target_recv_window: int

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        async with self.window_lock:
            left = self.recv_window + len(self.conn.stream_buffers.get(self.stream_id, b""))
            if left > self.target_recv_window // 2:
                return
            self.target_recv_window = RECEIVE_WINDOW_BYTES
            self.recv_window += RECEIVE_WINDOW_BYTES - left
        await self.send_window_update(RECEIVE_WINDOW_BYTES - left)


class BoundedYamux(yamux.Yamux):  # type: ignore[misc]
    """Yamux whose receive window holds: the excess ends the stream instead of filling the memory."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.stream_buffers = _Buffers()


def check_port_free(ip: str, port: int) -> None:
    """Raises UsageError if somebody listens there: the library shares ports, so that two nodes would split the dials."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ip, port))
        except OSError as error:
            raise UsageError(f"cannot listen on {ip} port {port}: {error.strerror}", hint="choose another port") from None


class Connection:
    """One open connection, as sessions see it."""

    __slots__ = ("address", "since_ms", "outbound", "peer")

    def __init__(self, peer: ID, outbound: bool, address: str, since_ms: int) -> None:
        self.peer, self.outbound, self.address, self.since_ms = peer, outbound, address, since_ms


class Host:
    """A libp2p host and its guards. Everything runs in trio.

    `connected` and `disconnected` are called once per connection, the latter with True if it was the peer's last one;
    `fault(peer, error)` when a peer sent what made a handler fail.
    """

    def __init__(
        self, seed: bytes, listen: tuple[str, int], *, max_connections: int, max_per_subnet: int,
        connected: Callable[[Connection], Awaitable[None]], disconnected: Callable[[ID, bool], Awaitable[None]],
        fault: Callable[[ID, BaseException], None],
    ) -> None:
        _tame_library()
        self.listen_ip, self.listen_port = listen
        self._connected, self._disconnected, self._fault = connected, disconnected, fault
        self._max_per_subnet = max_per_subnet
        self._dialling: set[ID] = set()
        self._streams: Counter[ID] = Counter()
        self._stream_pace = TokenBuckets(STREAMS_PER_S, STREAM_BURST, MAX_BUCKETS)
        self._handshake_pace = TokenBuckets(HANDSHAKES_PER_S, HANDSHAKE_BURST, MAX_BUCKETS)
        keys = create_new_key_pair(seed)
        room = 2 * max_connections  # the library counts a connection twice while it is being upgraded
        self.library: Any = new_host(
            key_pair=keys,
            sec_opt={NOISE: Noise(keys, noise_privkey=create_noise_key_pair().private_key)},
            muxer_opt={yamux.PROTOCOL_ID: BoundedYamux},
            disable_identify_address_discovery=True,
            connection_config=ConnectionConfig(
                max_connections=room, min_connections=0, low_watermark=0, high_watermark=room,
                max_connections_per_peer=2, dial_timeout=DIAL_SECONDS, auto_connect_interval=1e9,
            ),
            resource_manager=ResourceManager(
                limits=ResourceLimits(max_connections=2 * room, max_streams=2 * max_connections * STREAMS_PER_PEER),
                connection_limits=ConnectionLimits(), enable_metrics=False, enable_circuit_breaker=False,
                enable_graceful_degradation=False, enable_memory_limits=False,
            ),
        )
        self.network: Any = self.library.get_network()
        self.network.retry_config = RetryConfig(max_retries=0)  # the dialler has its own waits
        self.network.auto_connector.maybe_connect = _nothing
        self.id: ID = self.library.get_id()
        self._guard_streams()
        self._guard_dials()
        self._guard_inbound()
        self.network.register_notifee(_Notifee(self))

    # --- life

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The network runs inside, but does not listen before `listen`. Sockets are closed on every way out."""
        async with background_trio_service(self.network):
            try:
                yield
            finally:
                await self._close()

    async def listen(self) -> str:
        """Begin to accept connections, once everything that serves them runs. Returns the own address."""
        check_port_free(self.listen_ip, self.listen_port)
        if not await self.network.listen(Multiaddr(address_of(self.listen_ip, self.listen_port))):
            raise UsageError(f"cannot listen on {self.listen_ip} port {self.listen_port}", hint="choose another port")
        bound = next(iter(self.network.listeners.values())).listeners[0].socket.getsockname()
        self.listen_port = bound[1]  # a host that is started again keeps the port it was given
        return address_of(self.listen_ip, self.listen_port, str(self.id))

    async def _close(self) -> None:
        """Listeners run outside the host's tasks: they and all connections are closed here, whatever happened."""
        scope = trio.move_on_after(CLOSE_SECONDS)
        scope.shield = True
        with scope:
            self.network._closing = True
            async with trio.open_nursery() as nursery:
                for listener in list(self.network.listeners.values()):
                    nursery.start_soon(_quietly, listener.close)
                for connection in self.network.get_connections():
                    nursery.start_soon(_quietly, connection.muxed_conn.secured_conn.close)
            self.network.listeners.clear()

    # --- connections

    async def dial(self, peer: ID, ip: str, port: int) -> None:
        """Connect, or do nothing if connected. Raises Unreachable."""
        store = self.library.get_peerstore()
        store.clear_addrs(peer)
        store.add_addrs(peer, [Multiaddr(address_of(ip, port))], 120)
        self.network.unblock_peer(peer)  # else one failed dial would refuse all others for a minute
        self._dialling.add(peer)
        try:
            with trio.fail_after(DIAL_SECONDS):
                await self.network.dial_peer(peer)
        except (SwarmException, trio.TooSlowError) as error:
            raise Unreachable(f"cannot connect to {address_of(ip, port, str(peer))} ({type(error).__name__})") from None
        finally:
            self._dialling.discard(peer)

    async def disconnect(self, peer: ID) -> None:
        """Close all connections of a peer; never raises."""
        for connection in self.network.get_connections(peer):
            await _quietly(connection.close)

    def is_connected(self, peer: ID) -> bool:
        return any(not connection.is_closed for connection in self.network.get_connections(peer))

    async def open_stream(self, peer: ID, protocol: str) -> Any:
        """A raw stream to a connected peer. Raises Unreachable, also if the peer does not speak the protocol."""
        try:
            with trio.fail_after(NEGOTIATE_SECONDS):
                return await self.library.new_stream(peer, [protocol])
        except Exception as error:
            raise Unreachable(f"no stream of {protocol} to {peer} ({type(error).__name__})") from None

    def protocols_of(self, peer: ID) -> list[str]:
        """What the peer said in identify that it speaks; empty if not known yet."""
        try:
            return list(self.library.get_peerstore().get_protocols(peer))
        except Exception:
            return []

    def forget(self, peer: ID) -> None:
        """Drop what the library keeps of a peer that has left; it would keep it for ever."""
        store = self.library.get_peerstore()
        if peer != self.id and peer in store.peer_ids():
            store.clear_peerdata(peer)

    def serve(self, protocol: str, handler: Callable[[ID, Any], Awaitable[None]]) -> None:
        """Handle inbound streams of a protocol with `handler(peer, stream)`; the stream is closed afterwards."""

        async def on_stream(stream: Any) -> None:
            try:
                await handler(stream.muxed_conn.peer_id, stream)
            finally:
                scope = trio.move_on_after(1)
                scope.shield = True
                with scope:
                    await _quietly(stream.reset)

        self.library.set_stream_handler(protocol, on_stream)

    # --- guards

    def _guard_streams(self) -> None:
        """No exception of a stream handler leaves it; no peer holds more than its share of streams."""
        inner = self.network.common_stream_handler

        async def guarded(stream: Any) -> None:
            peer = stream.muxed_conn.peer_id
            if self._streams[peer] >= STREAMS_PER_PEER or not self._stream_pace.take(peer):
                await _quietly(stream.reset)
                return
            self._streams[peer] += 1
            try:
                await inner(stream)
            except Exception as error:
                if not is_ending(error):
                    self._fault(peer, error)
                await _quietly(stream.reset)
            finally:
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]

        self.network.set_stream_handler(guarded)

    def _guard_dials(self) -> None:
        """Only `dial` dials: not a stream to a peer that has left, not a peer suggested by gossip."""
        inner = self.network.dial_peer

        async def dial_peer(peer: ID) -> Any:
            if peer not in self._dialling:
                raise SwarmException(f"not connected to {peer}")
            return await inner(peer)

        self.network.dial_peer = dial_peer

    def _guard_inbound(self) -> None:
        """End the accepting task with its connection: the library keeps it, and its slot, until the host stops."""
        inner = self.network.upgrade_inbound_raw_conn

        async def upgrade(raw: Any, address: Any) -> Any:
            if self._crowded(raw.get_remote_address()):
                raise SwarmException("too many connections of one network")
            muxed = await inner(raw, address)
            await muxed.event_closed.wait()
            raise SwarmException("connection ended")

        self.network.upgrade_inbound_raw_conn = upgrade

    def _crowded(self, remote: tuple[str, int] | None) -> bool:
        if remote is None or not self._max_per_subnet:
            return False
        group = _subnet(remote[0])
        if not self._handshake_pace.take(group):
            return True
        same = 0
        for connection in self.network.get_connections():
            other = connection.muxed_conn.get_remote_address()
            same += other is not None and _subnet(other[0]) == group
        return same >= self._max_per_subnet


class _Notifee:
    """Connection events of the library, for the host's owner."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def connected(self, _: Any, connection: Any) -> None:
        muxed = connection.muxed_conn
        remote = muxed.get_remote_address() or ("0.0.0.0", 0)
        address = address_of(remote[0], remote[1], str(muxed.peer_id))
        await self._host._connected(Connection(muxed.peer_id, muxed.is_initiator, address, wall_ms()))

    async def disconnected(self, _: Any, connection: Any) -> None:
        peer = connection.muxed_conn.peer_id
        last = not self._host.is_connected(peer)
        if last:
            self._host.forget(peer)
        await self._host._disconnected(peer, last)

    async def opened_stream(self, *_: Any) -> None: ...

    async def closed_stream(self, *_: Any) -> None: ...

    async def listen(self, *_: Any) -> None: ...

    async def listen_close(self, *_: Any) -> None: ...


def is_ending(error: BaseException) -> bool:
    """True if the error only says that a stream or connection has ended."""
    if isinstance(error, BaseExceptionGroup):
        return all(map(is_ending, error.exceptions))
    return isinstance(error, _ENDINGS)


def _subnet(ip: str) -> Hashable:
    return ipaddress.ip_network((ip, 48 if ":" in ip else 24), strict=False)


async def _nothing() -> None:
    """Stands in for what the library would do by itself."""


async def _quietly(function: Callable[[], Awaitable[Any]]) -> None:
    try:
        await function()
    except Exception as error:
        log.debug("while closing: %r", error)
