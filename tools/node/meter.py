"""Counting the bytes that a network carries, by direction and topic, without its knowing; and cutting it for drills.

Peers in `cut` are neither heard nor spoken to, though they stay connected: what a partition looks like from here. The
admin socket sets it (`admin_cutPeers`), so that a campaign can part real processes without rights on the machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Set
from dataclasses import replace

from ledger.errors import NotReady, Unreachable
from p2p.network import GossipHandler, Handlers, Network, PeerId, PeerInfo

IN, OUT = "in", "out"


class MeteredNetwork:
    """A network whose traffic is counted in `bytes_`; everything else is passed on, but to those who are cut off."""

    def __init__(self, network: Network, bytes_: Counter[tuple[str, str]], cut: Set[PeerId] = frozenset()) -> None:
        self._network, self._bytes, self._cut = network, bytes_, cut
        self.id: PeerId = network.id

    async def start(self) -> None:
        await self._network.start()

    async def stop(self) -> None:
        await self._network.stop()

    async def publish(self, topic: str, data: bytes) -> None:
        self._bytes[OUT, topic] += len(data)
        await self._network.publish(topic, data)

    async def request(self, peer: PeerId, data: bytes, *, timeout_ms: int = 10_000) -> bytes:
        if peer in self._cut:
            raise Unreachable(f"{peer} is cut off")
        self._bytes[OUT, "sync"] += len(data)
        reply = await self._network.request(peer, data, timeout_ms=timeout_ms)
        self._bytes[IN, "sync"] += len(reply)
        return reply

    def send(self, peer: PeerId, frame: bytes, *, votes: bool) -> bool:
        sent = peer not in self._cut and self._network.send(peer, frame, votes=votes)
        if sent:
            self._bytes[OUT, "channel"] += len(frame)
        return sent

    async def connect(self, address: str) -> PeerId:
        return await self._network.connect(address)

    def fault(self, peer: PeerId, reason: str, points: int) -> None:
        self._network.fault(peer, reason, points)

    def set_authorities(self, keys: tuple[bytes, ...]) -> None:
        """Passed on to networks that keep room for authorities."""
        tell = getattr(self._network, "set_authorities", None)
        if tell is not None:
            tell(keys)

    def open_channels(self) -> int | None:
        """Direct channels that carry frames now; None where the network does not tell."""
        channels = getattr(self._network, "channels", None)
        return None if channels is None else len(channels())

    def peers(self) -> list[PeerInfo]:
        return self._network.peers()

    def addresses(self) -> list[str]:
        return self._network.addresses()


def metered_handlers(
    handlers: Handlers, bytes_: Counter[tuple[str, str]], cut: Set[PeerId] = frozenset()
) -> Handlers:
    """The same handlers, with what they are given and what they answer counted; those who are cut off are not heard."""

    def hear(peer: PeerId) -> None:
        if peer in cut:
            raise NotReady("the peer is cut off")

    def gossip(topic: str, handler: GossipHandler) -> GossipHandler:
        async def take(peer: PeerId, data: bytes) -> bool:
            hear(peer)
            bytes_[IN, topic] += len(data)
            return await handler(peer, data)

        return take

    request, channel = handlers.request, handlers.channel
    assert request is not None and channel is not None

    async def serve(peer: PeerId, data: bytes) -> bytes:
        hear(peer)
        bytes_[IN, "sync"] += len(data)
        reply = await request(peer, data)
        bytes_[OUT, "sync"] += len(reply)
        return reply

    async def receive(peer: PeerId, frame: bytes) -> None:
        if peer in cut:
            return
        bytes_[IN, "channel"] += len(frame)
        await channel(peer, frame)

    topics = {topic: gossip(topic, handler) for topic, handler in handlers.topics.items()}
    return replace(handlers, topics=topics, request=serve, channel=receive)


