"""`Libp2pNetwork`: the asyncio face of one node's libp2p network.

Importing this module imports neither trio nor libp2p; `start` loads them in a thread, so that a node answers RPC
meanwhile. Several networks may live in one process: their hosts share the one p2p thread, each supervised on its own. If
a host dies it is started again with the same key and port; until then `send` says False, `publish` drops, `request`
raises Unreachable, and the owner is told that its peers are gone.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ledger.errors import Error, Unreachable, UsageError

from .addresses import parse_address, peer_id_of
from .messages import MAX_CHANNEL_FRAME_BYTES, MAX_GOSSIP_BYTES, MAX_REQUEST_BYTES
from .network import Handlers, Hello, PeerId, PeerInfo

if TYPE_CHECKING:
    from .network import Network
    from .switch import Switch
    from .thread import Bridge, Resident

log = logging.getLogger("quorix.p2p")

MAX_CONNECTIONS: Final = 64
STOP_SECONDS: Final = 5.0


class Libp2pNetwork:
    """Implements `p2p.network.Network`.

    `seed`: 32 bytes of the node key. `listen`: IP address and TCP port, port 0 for any. `static_peers`: multiaddresses
    with /p2p/, dialled for ever. `allow_private`: whether addresses learned from others may be private ones (devnets).
    `book_path`: file of the address book, None for none. Raises UsageError for a bad address.
    """

    def __init__(
        self, seed: bytes, listen: tuple[str, int], genesis_hash: bytes, handlers: Handlers, *,
        static_peers: Sequence[str], allow_private: bool, book_path: Path | None, max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        if len(seed) != 32 or len(genesis_hash) != 32:
            raise UsageError("a node key's seed and a genesis hash have 32 bytes")
        self.id: PeerId = peer_id_of(seed)
        self._handlers = handlers
        self._arguments: dict[str, Any] = {
            "seed": seed, "listen": listen, "genesis_hash": genesis_hash, "allow_private": allow_private,
            "static_peers": [parse_address(text) for text in static_peers], "book_path": book_path,
            "max_connections": max_connections,
        }
        self._resident: Resident | None = None
        self._bridge: Bridge | None = None
        self._switch: Switch | None = None
        self._lasting: Any = None
        self._authorities: frozenset[bytes] | None = None
        self._up: dict[PeerId, Hello] = {}  # as told to the owner or about to be
        self._news: dict[PeerId, tuple[bool, Hello | None]] = {}  # latest state of each peer, not yet told
        self._news_event = asyncio.Event()
        self._teller: asyncio.Task[None] | None = None
        self.restarts = 0

    # --- life

    async def start(self) -> None:
        """Returns when the host listens. Raises UsageError if it cannot."""
        if self._resident is not None:
            raise UsageError("the network is already started")
        switch, thread = await asyncio.to_thread(_load)
        loop = asyncio.get_running_loop()
        setting = switch.Setting(**self._arguments)
        self._lasting = switch.Lasting(setting)
        await asyncio.to_thread(self._lasting.load, setting.book_path)
        bridge = self._bridge = thread.Bridge(loop)
        ready: asyncio.Future[None] = loop.create_future()
        self._closed = asyncio.Event()

        def on_ready(made: Switch) -> None:
            self._switch = made
            if not ready.done():
                ready.set_result(None)
            if self._authorities is not None:
                self.set_authorities(self._authorities)

        async def main() -> None:
            made = switch.Switch(setting, self._handlers, bridge, self._lasting, on_ready, self._peer_changed)
            try:
                await made.run()
            finally:
                bridge.close()

        def died(error: BaseException | None) -> None:  # in the p2p thread
            if error is not None and not ready.done():
                resident.leaving = True
            bridge.close()
            bridge.tell(self._host_died, ready, error)

        resident = self._resident = thread.Resident(f"p2p {self.id[-8:]}", main, died)
        self._teller = loop.create_task(self._tell_owner())
        thread.THREAD.enter(resident)
        try:
            await ready
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Close all connections and the port; idempotent."""
        if self._resident is None:
            return
        resident, self._resident = self._resident, None
        _, thread = _load()
        thread.THREAD.leave(resident)
        try:
            await asyncio.wait_for(self._closed.wait(), STOP_SECONDS)
        except TimeoutError:
            log.error("the p2p host did not end in %.0f s", STOP_SECONDS)
        if self._teller is not None:
            self._teller.cancel()
            await asyncio.gather(self._teller, return_exceptions=True)
        await asyncio.to_thread(self._lasting.save, self._arguments["book_path"])

    def _host_died(self, ready: asyncio.Future[None], error: BaseException | None) -> None:
        self._switch = None
        for peer in list(self._up):
            self._note(peer, False, None)
        if error is None:
            self._closed.set()
            error = Unreachable("the network was stopped")
        elif ready.done():
            self.restarts += 1
            log.error("p2p host of %s died and is started again: %r", self.id, error)
        if not ready.done():
            ready.set_exception(_plain(error))

    # --- messages

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip on one of the owner's topics. Delivery is never guaranteed, and none is made while the host is down."""
        if topic not in self._handlers.topics:
            raise UsageError(f"no topic {topic!r}")
        if len(data) > MAX_GOSSIP_BYTES:
            raise UsageError(f"a gossip message of {len(data)} bytes, at most {MAX_GOSSIP_BYTES} allowed")
        bridge, switch = self._bridge, self._switch
        if bridge is None or switch is None:
            return
        try:
            await bridge.call(switch.publish, topic, data)
        except Unreachable as error:
            log.debug("not published on %s: %s", topic, error)

    async def request(self, peer: PeerId, data: bytes, *, timeout_ms: int = 10_000) -> bytes:
        """One request of the sync protocol; encode and decode with `p2p.messages`. Raises Timeout or Unreachable."""
        if len(data) > MAX_REQUEST_BYTES:
            raise UsageError(f"a request of {len(data)} bytes, at most {MAX_REQUEST_BYTES} allowed")
        bridge, switch = self._running()
        return bytes(await bridge.call(switch.request, peer, data, timeout_ms))

    def send(self, peer: PeerId, frame: bytes, *, votes: bool) -> bool:
        """Queue a frame on the direct channel to an authority. False: no channel, or no room for a frame without votes."""
        if len(frame) > MAX_CHANNEL_FRAME_BYTES:
            raise UsageError(f"a channel frame of {len(frame)} bytes, at most {MAX_CHANNEL_FRAME_BYTES} allowed")
        switch = self._switch
        channel = switch.sessions.channels.get(peer) if switch else None
        if channel is None or not channel.push(frame, votes=votes) or self._bridge is None:
            return False
        return self._bridge.post(channel.wake)

    async def connect(self, address: str) -> PeerId:
        """Dial and exchange hellos; the peer is redialled from then on. Raises Unreachable or Rejected."""
        parsed = parse_address(address)
        bridge, switch = self._running()
        return str(await bridge.call(switch.connect, parsed))

    # --- peers

    def fault(self, peer: PeerId, reason: str, points: int) -> None:
        """Count against a peer, see `p2p.faults`."""
        if self._bridge is not None and self._switch is not None:
            self._bridge.post(self._switch.fault, peer, reason, points)

    def set_authorities(self, keys: Collection[bytes]) -> None:
        """Session keys of the present set. Until told, every peer that proves a session key counts as an authority."""
        self._authorities = frozenset(keys)
        if self._bridge is not None and self._switch is not None:
            self._bridge.post(self._switch.sessions.set_authorities, self._authorities)

    def peers(self) -> list[PeerInfo]:
        return list(self._switch.report.peers) if self._switch else []

    def addresses(self) -> list[str]:
        return list(self._switch.report.addresses) if self._switch else []

    def channels(self) -> list[PeerId]:
        """Peers to which a direct channel is open."""
        channels = dict(self._switch.sessions.channels) if self._switch else {}
        return [peer for peer, channel in channels.items() if channel.open]

    def _running(self) -> tuple[Bridge, Switch]:
        bridge, switch = self._bridge, self._switch
        if bridge is None or switch is None:
            raise Unreachable("p2p host is down", hint="it is being started again")
        return bridge, switch

    # --- news for the owner

    def _peer_changed(self, peer: PeerId, up: bool, hello: Hello | None) -> None:  # in the p2p thread
        assert self._bridge is not None
        self._bridge.tell(self._note, peer, up, hello)

    def _note(self, peer: PeerId, up: bool, hello: Hello | None) -> None:
        if up and hello is not None:
            self._up[peer] = hello
        else:
            self._up.pop(peer, None)
        self._news[peer] = (up, hello)
        self._news_event.set()

    async def _tell_owner(self) -> None:
        """One event after the other; of a peer whose state changed again meanwhile, only the latest."""
        while True:
            await self._news_event.wait()
            self._news_event.clear()
            while self._news:
                peer = next(iter(self._news))
                up, hello = self._news.pop(peer)
                if self._handlers.peer is None:
                    continue
                try:
                    await self._handlers.peer(peer, up, hello)
                except Exception:
                    log.exception("handler of peers")


def _load() -> tuple[Any, Any]:
    """The trio side; libp2p takes a second or two to import."""
    return importlib.import_module("p2p.switch"), importlib.import_module("p2p.thread")


def _plain(error: BaseException) -> BaseException:
    """The one error inside nested groups, if there is just one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, Error) else Unreachable(f"p2p host did not start: {error!r}", hint="")


if TYPE_CHECKING:

    def _is_a_network(network: Libp2pNetwork) -> Network:
        return network
