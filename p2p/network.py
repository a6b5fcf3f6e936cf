"""The network as the rest of Quorix sees it: bytes in, bytes out, on the asyncio side.

`Network` is a protocol with two implementations: `Libp2pNetwork` (this package: real sockets, a trio thread of its own)
and an in-memory one for tests and the simulator. Nothing above knows which of the two it talks to. This module imports
no libp2p, so that a node can serve RPC before that import is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

PeerId = str  # base58 text of a libp2p peer id

# Verdict of a gossip handler: True = forward, False = permanently invalid (never for "not yet known"). One that raises
# gives no verdict: the message is not forwarded, counts against nobody and may come again.
GossipHandler = Callable[[PeerId, bytes], Awaitable[bool]]
# Serves one request of a peer: (peer, request bytes) -> reply bytes.
RequestHandler = Callable[[PeerId, bytes], Awaitable[bytes]]
# A frame from an authority's direct channel: (peer, frame bytes).
ChannelHandler = Callable[[PeerId, bytes], Awaitable[None]]
# (peer, connected?, its hello or None)
PeerHandler = Callable[[PeerId, bool, "Hello | None"], Awaitable[None]]


@dataclass(frozen=True)
class Hello:
    """What peers tell each other first, on every connection, both ways."""

    version: int
    genesis_hash: bytes
    domains: tuple[tuple[int, bytes], ...]  # (from_height, signing domain)
    height: int
    head_certificate: bytes  # encoded, or empty at genesis
    role: str  # "authority" or "full"
    session_key: bytes = b""  # with the next two: proof that this peer id belongs to an authority
    expiry_height: int = 0
    signature: bytes = b""


@dataclass
class Handlers:
    """What the owner of a network gives it. All are coroutines on the owner's event loop."""

    topics: dict[str, GossipHandler] = field(default_factory=dict)  # short names: "block", "tx"
    request: RequestHandler | None = None  # the sync protocol
    channel: ChannelHandler | None = None  # direct streams between authorities
    peer: PeerHandler | None = None
    hello: Callable[[PeerId], Awaitable[Hello]] | None = None  # our own hello for that peer, asked at each connection


@dataclass(frozen=True)
class PeerInfo:
    id: PeerId
    address: str  # multiaddr with /p2p/
    direction: str  # "in" or "out"
    role: str
    session_key: bytes
    height: int
    connected_ms: int
    faults: int


class Network(Protocol):
    """One node's connections. All methods may be called only between `start` and `stop`."""

    id: PeerId

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def publish(self, topic: str, data: bytes) -> None:
        """Gossip at most 256 KiB; returns when handed to the router. Delivery is never guaranteed."""
        ...

    async def request(self, peer: PeerId, data: bytes, *, timeout_ms: int = 10_000) -> bytes:
        """One request on the kept sync stream. Raises Timeout, Unreachable or DecodeError."""
        ...

    def send(self, peer: PeerId, frame: bytes, *, votes: bool) -> bool:
        """Queue a frame on the peer's direct channel; votes overtake everything. False if there is no channel."""
        ...

    async def connect(self, address: str) -> PeerId:
        """Dial once; the redial loop does it again when the connection is lost."""
        ...

    def fault(self, peer: PeerId, reason: str, points: int) -> None:
        """Count against a peer: malformed 20, invalid signature or block 50, timeout 2; at 100 it is banned for 1 h."""
        ...

    def peers(self) -> list[PeerInfo]: ...

    def addresses(self) -> list[str]:
        """Own listening multiaddrs with /p2p/."""
        ...
