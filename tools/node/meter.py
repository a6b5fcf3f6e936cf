"""Counting the bytes that a network carries, by direction and topic, without its knowing."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from p2p.network import GossipHandler, Handlers, Network, PeerId, PeerInfo

IN, OUT = "in", "out"


class MeteredNetwork:
    """A network whose traffic is counted in `bytes_`; everything else is passed on."""

    def __init__(self, network: Network, bytes_: Counter[tuple[str, str]]) -> None:
        self._network, self._bytes = network, bytes_
        self.id: PeerId = network.id

    async def start(self) -> None:
        await self._network.start()

    async def stop(self) -> None:
        await self._network.stop()

    async def publish(self, topic: str, data: bytes) -> None:
        self._bytes[OUT, topic] += len(data)
        await self._network.publish(topic, data)

    async def request(self, peer: PeerId, data: bytes, *, timeout_ms: int = 10_000) -> bytes:
        self._bytes[OUT, "sync"] += len(data)
        reply = await self._network.request(peer, data, timeout_ms=timeout_ms)
        self._bytes[IN, "sync"] += len(reply)
        return reply

    def send(self, peer: PeerId, frame: bytes, *, votes: bool) -> bool:
        sent = self._network.send(peer, frame, votes=votes)
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


def metered_handlers(handlers: Handlers, bytes_: Counter[tuple[str, str]]) -> Handlers:
    """The same handlers, with what they are given and what they answer counted."""

    def gossip(topic: str, handler: GossipHandler) -> GossipHandler:
        async def take(peer: PeerId, data: bytes) -> bool:
            bytes_[IN, topic] += len(data)
            return await handler(peer, data)

        return take

    request, channel = handlers.request, handlers.channel
    assert request is not None and channel is not None

    async def serve(peer: PeerId, data: bytes) -> bytes:
        bytes_[IN, "sync"] += len(data)
        reply = await request(peer, data)
        bytes_[OUT, "sync"] += len(reply)
        return reply

    async def receive(peer: PeerId, frame: bytes) -> None:
        bytes_[IN, "channel"] += len(frame)
        await channel(peer, frame)

    topics = {topic: gossip(topic, handler) for topic, handler in handlers.topics.items()}
    return replace(handlers, topics=topics, request=serve, channel=receive)


