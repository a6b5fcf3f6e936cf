"""Networks over real sockets on loopback, for the tests of this room."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from ledger.crypto import KeyPair
from p2p.messages import PROTOCOL_VERSION, sign_proof
from p2p.network import Handlers, Hello
from p2p.service import Libp2pNetwork

GENESIS = bytes(range(32))


@dataclass
class Peer:
    """A network with handlers that record what arrives. `hello` may be replaced before `start`."""

    number: int
    role: str = "full"
    genesis: bytes = GENESIS
    verdict: bool = True
    gossip: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)
    frames: asyncio.Queue[tuple[str, bytes]] = field(default_factory=asyncio.Queue)
    events: list[tuple[str, bool]] = field(default_factory=list)
    hellos: list[Hello] = field(default_factory=list)
    changes: dict[str, Any] = field(default_factory=dict)  # of the hello
    answer: Callable[[str, bytes], Awaitable[bytes]] | None = None
    on_frame: Callable[[str, bytes], Awaitable[None]] | None = None
    on_gossip: Callable[[str, bytes], Awaitable[bool]] | None = None
    net: Libp2pNetwork = field(init=False)

    @property
    def key(self) -> KeyPair:
        return KeyPair.from_seed(bytes([self.number, 1]) * 16)

    def build(self, *, static: tuple[str, ...] = (), port: int = 0, **options: Any) -> Peer:
        handlers = Handlers(
            topics={"block": self._gossip, "tx": self._gossip}, request=self.answer, channel=self._frame,
            peer=self._peer, hello=self._hello,
        )
        options = {"allow_private": True, "book_path": None, **options}
        self.net = Libp2pNetwork(
            bytes([self.number]) * 32, ("127.0.0.1", port), self.genesis, handlers, static_peers=static, **options
        )
        return self

    @property
    def address(self) -> str:
        return self.net.addresses()[0]

    async def _gossip(self, peer: str, data: bytes) -> bool:
        if self.on_gossip is not None:
            return await self.on_gossip(peer, data)
        await self.gossip.put((peer, data))
        return self.verdict

    async def _frame(self, peer: str, frame: bytes) -> None:
        if self.on_frame is not None:
            await self.on_frame(peer, frame)
        await self.frames.put((peer, frame))

    async def _peer(self, peer: str, up: bool, hello: Hello | None) -> None:
        self.events.append((peer, up))
        if hello is not None:
            self.hellos.append(hello)

    async def _hello(self, peer: str) -> Hello:
        fields: dict[str, Any] = {
            "version": PROTOCOL_VERSION, "genesis_hash": self.genesis, "domains": ((0, self.genesis),), "height": 7,
            "head_certificate": b"", "role": self.role,
        }
        if self.role == "authority":
            signature = sign_proof(self.key, self.genesis, self.genesis, self.net.id, 1000)
            fields |= {"session_key": self.key.public, "expiry_height": 1000, "signature": signature}
        return Hello(**(fields | self.changes))

    async def in_trio(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Run an async function in the p2p thread, as a task of this network's host."""
        assert self.net._bridge is not None
        return await self.net._bridge.call(function, *args)

    @property
    def switch(self) -> Any:
        return self.net._switch


MakePeer = Callable[..., Awaitable[Peer]]


async def eventually(condition: Callable[[], bool], seconds: float = 8.0) -> None:
    """Wait until a condition holds, else fail."""
    end = asyncio.get_running_loop().time() + seconds
    while not condition():
        assert asyncio.get_running_loop().time() < end, "did not happen in time"
        await asyncio.sleep(0.01)


@pytest.fixture
async def peer() -> AsyncIterator[MakePeer]:
    """`await peer(1, role=..., static=(...))` starts a network; all are stopped at the end."""
    started: list[Peer] = []

    async def make(number: int, *, start: bool = True, static: tuple[str, ...] = (), **options: Any) -> Peer:
        fields = {name: options.pop(name) for name in list(options) if name in Peer.__dataclass_fields__}
        made = Peer(number, **fields).build(static=static, **options)
        started.append(made)
        if start:
            await made.net.start()
        return made

    yield make
    for made in started:
        await made.net.stop()


@pytest.fixture
def wait_until() -> Callable[..., Awaitable[None]]:
    return eventually
