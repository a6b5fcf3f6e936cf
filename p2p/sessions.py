"""Sessions: one for each connected peer, from the connection over the accepted hello to its end.

A session is *up* once both hellos were accepted; before that the peer is served nothing. A second connection of the same
peer belongs to the same session. Slots are kept free for authorities, who prove themselves in the hello.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import trio
from libp2p.peer.id import ID

from ledger.errors import DecodeError, Error, Rejected, Unreachable

from .channel import Channel
from .hello import HELLO_SECONDS, greet, hello_stream, welcome
from .host import Connection, Host
from .network import Hello, PeerInfo
from .pace import TokenBucket
from .requests import REQUEST_BURST, REQUESTS_PER_S, RequestClient

RESERVED: Final = 32  # slots that only authorities may take (at most half of all)
UP_SECONDS: Final = 5.0  # how long an early stream waits for its session
IDENTIFY_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.05

log = logging.getLogger("quorix.p2p")


class Session:
    """One peer. All fields belong to trio. `hello` is None until it was accepted."""

    def __init__(self, connection: Connection) -> None:
        self.id, self.peer = connection.peer, str(connection.peer)
        self.outbound, self.address, self.since_ms = connection.outbound, connection.address, connection.since_ms
        self.hello: Hello | None = None
        self.height = 0
        self.decided = trio.Event()  # the hellos were accepted, or one was refused
        self.up = trio.Event()
        self.settled = trio.Event()  # up, or over
        self.error: Error = Unreachable("the connection ended before the hello")
        self.scope = trio.CancelScope()
        self.requests: RequestClient | None = None
        self.channel_scope: trio.CancelScope | None = None
        self._bucket = TokenBucket(REQUESTS_PER_S, REQUEST_BURST)

    async def pace(self) -> None:
        """Wait until the peer may make another request."""
        while not self._bucket.take():
            await trio.sleep(1 / REQUESTS_PER_S)

    def info(self, faults: int) -> PeerInfo:
        hello = self.hello
        role, key = (hello.role, hello.session_key) if hello else ("full", b"")
        direction = "out" if self.outbound else "in"
        return PeerInfo(self.peer, self.address, direction, role, key, self.height, self.since_ms, faults)


class Sessions:
    """All sessions of a host, their hellos, slots and channels.

    `my_hello(peer)` asks the owner; `banned(peer)`, `on_up(session)`, `on_down(session)` and `fault(id, error)` are
    called in trio. `on_up` is called again when a peer says another hello.
    """

    def __init__(
        self, host: Host, nursery: trio.Nursery, prefix: str, max_peers: int, *,
        my_hello: Callable[[str], Awaitable[Hello]], banned: Callable[[str], bool],
        on_up: Callable[[Session], None], on_down: Callable[[Session], None], fault: Callable[[ID, BaseException], None],
    ) -> None:
        self._host, self._nursery, self._prefix, self._max_peers = host, nursery, prefix, max_peers
        self._my_hello, self._banned, self._on_up, self._on_down = my_hello, banned, on_up, on_down
        self._fault = fault
        self._by_id: dict[ID, Session] = {}
        self.channels: dict[str, Channel] = {}  # to authorities; the sending side only looks things up in it
        self._authorities: frozenset[bytes] | None = None  # session keys, if the owner has told them
        self._mine: Hello | None = None  # the last own hello
        host.serve(f"{prefix}/hello/1", self._on_hello)

    # --- who is there

    def get(self, peer: ID) -> Session | None:
        """The session of a connected peer, up or not."""
        return self._by_id.get(peer)

    def all_up(self) -> list[Session]:
        return [session for session in self._by_id.values() if session.up.is_set()]

    def connected(self) -> set[str]:
        """Peers that need no dial."""
        return {session.peer for session in self._by_id.values()}

    async def wait_up(self, peer: ID) -> Session:
        """The peer's session once it is up. Raises Unreachable if that takes too long."""
        with trio.move_on_after(UP_SECONDS):
            while (session := self._by_id.get(peer)) is None:  # the stream came before the event of its connection
                await trio.sleep(POLL_SECONDS)
            await session.settled.wait()
            if session.up.is_set():
                return session
        raise Unreachable("no accepted hello")

    def is_authority(self, session: Session) -> bool:
        """True if the peer proved a session key, one of the present set if that is known."""
        hello = session.hello
        return hello is not None and self._trusted(hello)

    def _trusted(self, hello: Hello) -> bool:
        return hello.role == "authority" and (self._authorities is None or hello.session_key in self._authorities)

    # --- life of a session

    async def on_connected(self, connection: Connection) -> None:
        """Event of the host: a session begins with the first connection of a peer, whoever dials says hello first.

        Two that dial each other at the same time have two connections, and both say hello; either hello will do.
        """
        session = self._by_id.get(connection.peer)
        if session is None:
            session = self._by_id[connection.peer] = Session(connection)
            self._nursery.start_soon(self._live, session)
        if connection.outbound and not session.decided.is_set():
            self._nursery.start_soon(self.greet, session)

    async def on_disconnected(self, peer: ID, last: bool) -> None:
        """Event of the host: a session ends with the last connection of its peer."""
        session = self._by_id.get(peer)
        if session is not None and last:
            session.scope.cancel()

    async def _live(self, session: Session) -> None:
        try:
            with session.scope:
                await self._establish(session)
                await self._serve(session)
        except Error as error:
            session.error = error
            level = logging.WARNING if isinstance(error, Rejected) else logging.DEBUG
            log.log(level, "%s (%s): %s", session.peer, session.address, error)
        finally:
            del self._by_id[session.id]
            session.settled.set()
            if session.up.is_set():
                self._on_down(session)
        await self._host.disconnect(session.id)

    async def _establish(self, session: Session) -> None:
        """Returns when both hellos were accepted. Raises Rejected, DecodeError or Unreachable."""
        with trio.move_on_after(HELLO_SECONDS):
            await session.decided.wait()
        if session.hello is None:
            raise session.error if session.decided.is_set() else await self._no_hello(session)

    async def greet(self, session: Session) -> None:
        """Say hello first. What goes wrong ends the session, unless the peer's own hello was accepted meanwhile."""
        with trio.move_on_after(HELLO_SECONDS):
            try:
                self._accept(session, await self._exchange(session))
            except Error as error:
                if session.hello is None or isinstance(error, Rejected):
                    session.error = error
                    session.decided.set()
                if session.up.is_set() and isinstance(error, Rejected):
                    session.scope.cancel()

    async def _exchange(self, session: Session) -> Hello:
        mine = await self._hello_for(session.peer)
        try:
            raw = await self._host.open_stream(session.id, f"{self._prefix}/hello/1")
        except Unreachable:
            raise await self._no_hello(session) from None
        stream = hello_stream(raw)
        try:
            return await greet(stream, mine, session.peer, self._veto(session))
        except DecodeError as error:
            self._fault(session.id, error)
            raise
        finally:
            await stream.close()

    async def _on_hello(self, peer: ID, raw: Any) -> None:
        """An inbound hello; on a session that is up it replaces the earlier one (the peer has started again)."""
        with trio.move_on_after(UP_SECONDS):
            while peer not in self._by_id:
                await trio.sleep(POLL_SECONDS)
        session = self._by_id.get(peer)
        if session is None:
            return
        with trio.move_on_after(HELLO_SECONDS):
            await session.pace()
            mine = await self._hello_for(session.peer)
            try:
                hello = await welcome(hello_stream(raw), mine, session.peer, self._veto(session))
            except (Rejected, DecodeError) as error:
                session.error = error
                session.decided.set()
                if session.up.is_set():
                    session.scope.cancel()
                if isinstance(error, DecodeError):
                    raise
                return
            self._accept(session, hello)

    async def _hello_for(self, peer: str) -> Hello:
        mine = await self._my_hello(peer)
        self._mine = mine
        return mine

    def _veto(self, session: Session) -> Callable[[Hello], str]:
        def veto(theirs: Hello) -> str:
            if self._banned(session.peer):
                return "Banned"
            others = [other for other in self.all_up() if other is not session]
            strangers = sum(not self.is_authority(other) for other in others)
            reserved = min(RESERVED, self._max_peers // 2)
            full = len(others) >= self._max_peers
            if full or (not self._trusted(theirs) and strangers >= self._max_peers - reserved):
                return "TooManyPeers"
            return ""

        return veto

    def _accept(self, session: Session, hello: Hello) -> None:
        changed = session.hello != hello
        session.hello, session.height = hello, hello.height
        session.decided.set()
        if changed and session.up.is_set():
            self._on_up(session)

    async def _no_hello(self, session: Session) -> Error:
        """Why a peer that is connected says no hello of ours, as far as its own list of protocols tells."""
        with trio.move_on_after(IDENTIFY_SECONDS):
            while not self._host.protocols_of(session.id):
                await trio.sleep(POLL_SECONDS)
        spoken = [name for name in self._host.protocols_of(session.id) if name.startswith("/qx/") and "/hello/" in name]
        if spoken and f"{self._prefix}/hello/1" not in spoken:
            return Rejected("WrongGenesis", f"peer speaks {spoken[0]}, this node {self._prefix}/hello/1")
        return Unreachable("the peer said no hello")

    async def _serve(self, session: Session) -> None:
        """The time in which the session is up: its request client and its channel live here."""
        async with trio.open_nursery() as nursery:
            session.requests = RequestClient(
                nursery, lambda: self._host.open_stream(session.id, f"{self._prefix}/sync/1"),
                session.scope.cancel, lambda error: self._fault(session.id, error),
            )
            session.up.set()
            session.settled.set()
            self._on_up(session)
            while True:
                with trio.CancelScope() as session.channel_scope:
                    if self._wants_channel(session):
                        await self._run_channel(session)
                    await trio.sleep_forever()

    def _wants_channel(self, session: Session) -> bool:
        return self._mine is not None and self._trusted(self._mine) and self.is_authority(session)

    async def _run_channel(self, session: Session) -> None:
        protocol = f"{self._prefix}/authority/1"
        channel = Channel(session.peer, lambda: self._host.open_stream(session.id, protocol))
        self.channels[session.peer] = channel
        try:
            await channel.run()
        finally:
            del self.channels[session.peer]

    def set_authorities(self, keys: Collection[bytes]) -> None:
        """The present set: only its members get channels and reserved slots."""
        self._authorities = frozenset(keys)
        for session in self.all_up():
            if self._wants_channel(session) != (session.peer in self.channels) and session.channel_scope is not None:
                session.channel_scope.cancel()
