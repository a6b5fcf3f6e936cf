"""The trio side of one network: host, gossip, sessions, channels, requests, dialling and the peer exchange together.

Order of a start: the host's network, pubsub and its router, subscriptions, and only then listening and dialling; a peer
that came before pubsub ran would end the host. What arrives from peers crosses to the owner as bytes.
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import trio
from libp2p.peer.id import ID

from ledger.client.dial import refusal
from ledger.crypto import KeyPair
from ledger.errors import DecodeError, Error, Rejected, Unreachable

from .addresses import Address, peer_id_of
from .channel import receive
from .dialer import ENOUGH_PEERS, ENOUGH_PEERS_PRIVATE, MAX_DIALS, DialPlan
from .faults import MALFORMED, FaultLedger
from .gossip import Gossip
from .hello import default_hello
from .host import MAX_PER_SUBNET, Connection, Host
from .messages import GetHead, Head, PeerRecord, decode_records, decode_reply, decode_request, encode_records
from .network import Handlers, Hello, PeerInfo
from .peers import RECORD_LIFE_MS, AddressBook, read_book, write_book
from .requests import RequestServer
from .sessions import Session, Sessions
from .thread import Bridge, monotonic_ms, wall_ms

EXCHANGE_S: Final = 120  # own record is published that often; equal bytes would vanish within two minutes
FIRST_EXCHANGE_S: Final = 1.0  # after a peer came up: its subscriptions must have arrived
AGAIN_S: Final = (4.0, 15.0)  # and later, in case they had not
SAVE_S: Final = 30
PEERS_TOPIC: Final = "peers"
HEAD_REQUEST_BYTES: Final = 12  # no other request is as short

log = logging.getLogger("quorix.p2p")


@dataclass(frozen=True)
class Setting:
    """What the owner of a network has chosen; `listen` is an IP address and a port, 0 for any."""

    seed: bytes
    listen: tuple[str, int]
    genesis_hash: bytes
    static_peers: Sequence[Address]
    allow_private: bool
    book_path: Path | None
    max_connections: int


@dataclass
class Report:
    """What the trio side lets the asyncio side see: replaced as a whole, never changed."""

    peers: tuple[PeerInfo, ...] = ()
    addresses: tuple[str, ...] = ()


class Switch:
    """One network's host with everything on it. Made anew for each start; plan, book and faults outlive it."""

    def __init__(
        self, setting: Setting, handlers: Handlers, bridge: Bridge, lasting: Lasting,
        on_ready: Callable[[Switch], None], on_peer: Callable[[str, bool, Hello | None], None],
    ) -> None:
        self._setting, self._handlers, self._bridge, self._lasting = setting, handlers, bridge, lasting
        self._on_ready, self._on_peer = on_ready, on_peer
        self._prefix = f"/qx/{setting.genesis_hash.hex()[:8]}"
        self._key = KeyPair.from_seed(setting.seed)
        self._changed = trio.Event()
        self._exchange_now = trio.Event()
        self.report = Report()
        self.host = Host(
            setting.seed, (setting.listen[0], lasting.port or setting.listen[1]),
            max_connections=setting.max_connections, max_per_subnet=0 if setting.allow_private else MAX_PER_SUBNET,
            connected=self._on_connected, disconnected=self._on_disconnected, fault=self._fault_of,
        )
        names = [*handlers.topics, PEERS_TOPIC]
        self.gossip = Gossip(self.host, self._prefix, names, self._validate, self._fault_of)
        self._server = RequestServer(self._answer, lambda peer, error: self.fault(peer, str(error), MALFORMED))
        self.sessions: Sessions
        self.nursery: trio.Nursery

    async def run(self) -> None:
        """Serve until cancelled. Raises UsageError if the address cannot be listened on."""
        async with self.host.running(), self.gossip, trio.open_nursery() as nursery:
            self.nursery = nursery
            self.sessions = Sessions(
                self.host, nursery, self._prefix, self._setting.max_connections, my_hello=self._my_hello,
                banned=lambda peer: self._lasting.faults.banned(peer, monotonic_ms()), on_up=self._on_up,
                on_down=self._on_down, fault=self._fault_of,
            )
            self.host.serve(f"{self._prefix}/sync/1", self._serve_requests)
            self.host.serve(f"{self._prefix}/authority/1", self._serve_channel)
            await self.gossip.join(nursery)
            address = await self.host.listen()
            self._lasting.port = self.host.listen_port
            self.report = Report((), (address,))
            self._bridge.open(nursery)
            self._bridge.tell(self._on_ready, self)
            nursery.start_soon(self._dial_for_ever)
            nursery.start_soon(self._exchange_for_ever)
            nursery.start_soon(self._save_for_ever)
            await trio.sleep_forever()

    # --- what the owner asks (through the bridge)

    async def publish(self, topic: str, data: bytes) -> None:
        await self.gossip.publish(topic, data)

    async def request(self, peer: str, data: bytes, timeout_ms: int) -> bytes:
        """Raises Timeout or Unreachable."""
        session = self.sessions.get(ID.from_base58(peer))
        if session is None or session.requests is None:
            raise Unreachable(f"not connected to {peer}", hint="")
        reply = await session.requests.request(data, timeout_ms)
        self._note_height(session, data, reply)
        return reply

    async def connect(self, address: Address) -> str:
        """Dial now and keep redialling. Raises Unreachable, or Rejected with the name of the rule that refused."""
        self._lasting.plan.add(address, monotonic_ms(), static=True)
        peer = ID.from_base58(address.peer)
        if self.sessions.get(peer) is None:
            await self._dial(address)
        session = self.sessions.get(peer)
        if session is None:
            raise Unreachable(f"{address} ended the connection", hint="")
        await session.settled.wait()
        if not session.up.is_set():
            raise session.error
        return session.peer

    def fault(self, peer: str, reason: str, points: int) -> None:
        """Count against a peer; who reaches the limit is disconnected and refused for an hour."""
        session = self.sessions.get(ID.from_base58(peer))
        authority = session is not None and self.sessions.is_authority(session)
        banned = self._lasting.faults.add(peer, points, monotonic_ms(), authority=authority)
        log.info("fault of %s: %s (%d)", peer, reason[:200], points)
        if banned:
            log.warning("%s is banned for an hour; last fault: %s", peer, reason[:200])
            if session is not None:
                session.error = Rejected("Banned")
                session.scope.cancel()
        self._publish_report()

    # --- events of the host and the sessions

    async def _on_connected(self, connection: Connection) -> None:
        await self.sessions.on_connected(connection)

    async def _on_disconnected(self, peer: ID, last: bool) -> None:
        await self.sessions.on_disconnected(peer, last)

    def _fault_of(self, peer: ID, error: BaseException) -> None:
        self.fault(str(peer), f"{type(error).__name__}: {error}", MALFORMED)

    def _on_up(self, session: Session) -> None:
        now_ms = monotonic_ms()
        self._lasting.plan.succeeded(session.peer, now_ms)
        if session.outbound:
            self._lasting.book.answered(session.peer, wall_ms())
        self._on_peer(session.peer, True, session.hello)
        self._exchange_now.set()
        self._wake()

    def _on_down(self, session: Session) -> None:
        self._lasting.plan.lost(session.peer, monotonic_ms())
        self._on_peer(session.peer, False, None)
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._publish_report()

    def _publish_report(self) -> None:
        now_ms = monotonic_ms()
        faults = self._lasting.faults
        peers = tuple(s.info(faults.points(s.peer, now_ms)) for s in self.sessions.all_up())
        self.report = Report(peers, self.report.addresses)

    async def _my_hello(self, peer: str) -> Hello:
        if self._handlers.hello is None:
            return default_hello(self._setting.genesis_hash)
        try:
            hello: Hello = await self._bridge.ask(self._handlers.hello, peer)
        except Error as error:
            raise Unreachable(f"this node cannot say hello now: {error.cause}", hint="") from None
        except Exception:
            log.exception("own hello")
            raise Unreachable("this node cannot say hello now") from None
        return hello

    # --- gossip

    async def _validate(self, forwarder: ID, topic: str, data: bytes) -> bool | None:
        session = await self.sessions.wait_up(forwarder)
        if topic == PEERS_TOPIC:
            return self._learn(session, data)
        try:
            return bool(await self._bridge.ask(self._handlers.topics[topic], session.peer, data))
        except Error as error:
            log.debug("no verdict on a message of topic %s: %s", topic, error)
        except Exception:
            log.exception("handler of topic %s", topic)
        return None

    def _learn(self, session: Session, data: bytes) -> bool:
        try:
            records = decode_records(data)
            fresh = [self._lasting.book.add(record, wall_ms()) for record in records]
        except DecodeError as error:
            log.debug("peer exchange of %s: %s", session.peer, error)
            return False
        if any(fresh):
            self._changed.set()
        return True

    # --- streams

    async def _serve_requests(self, peer: ID, stream: Any) -> None:
        session = await self.sessions.wait_up(peer)
        await self._server.serve(session.peer, stream, session.pace)

    async def _answer(self, peer: str, data: bytes) -> bytes:
        if self._handlers.request is None:
            raise Unreachable("this node serves no chain")
        session = self.sessions.get(ID.from_base58(peer))
        if session is not None:
            self._note_height(session, data)
        reply: bytes = await self._bridge.ask(self._handlers.request, peer, data)
        return reply

    def _note_height(self, session: Session, data: bytes, reply: bytes = b"") -> None:
        """Heights in the list of peers come from head exchanges. What is wrong with them is for their reader to say."""
        if len(data) > HEAD_REQUEST_BYTES:
            return
        try:
            request = decode_request(data)
            said = decode_reply(reply, request) if reply else request
        except DecodeError:
            return
        if isinstance(said, GetHead | Head) and said.height > session.height:
            session.height = said.height
            self._publish_report()

    async def _serve_channel(self, peer: ID, stream: Any) -> None:
        session = await self.sessions.wait_up(peer)
        handler = self._handlers.channel
        if handler is None or not self.sessions.is_authority(session):
            return

        async def deliver(frames: list[bytes]) -> None:
            await self._bridge.ask(_one_by_one, handler, session.peer, frames)

        await receive(stream, deliver)

    # --- dialling and the peer exchange

    async def _dial_for_ever(self) -> None:
        plan, book = self._lasting.plan, self._lasting.book
        for address in self._setting.static_peers:
            plan.add(address, monotonic_ms(), static=True)
        while True:
            self._changed = trio.Event()
            connected = self.sessions.connected()
            if plan.wants_more(connected):
                for peer, ip, port in book.candidates({*connected, *plan.targets}, MAX_DIALS):
                    kind = "ip6" if ":" in ip else "ip4"
                    plan.add(Address(kind, ip, port, peer), monotonic_ms(), static=False)
            for address in plan.due(monotonic_ms(), connected):
                self.nursery.start_soon(self._dial_once, address)
            wait_ms = plan.wait_ms(monotonic_ms(), connected)
            with trio.move_on_after(float("inf") if wait_ms is None else max(wait_ms, 10) / 1000):
                await self._changed.wait()

    async def _dial_once(self, address: Address) -> None:
        plan, refused = self._lasting.plan, False
        try:
            if self._lasting.faults.banned(address.peer, monotonic_ms()):
                raise Rejected("Banned")
            await self._dial(address)
            session = self.sessions.get(ID.from_base58(address.peer))
            if session is not None:
                await session.settled.wait()
                if session.up.is_set():
                    return
                refused = isinstance(session.error, Rejected)
        except Error as error:
            log.debug("dialling %s: %s", address, error)
            refused = isinstance(error, Rejected)
        if plan.failed(address.peer, monotonic_ms(), refused=refused):
            self._lasting.book.silent(address.peer)
        self._changed.set()

    async def _dial(self, address: Address) -> None:
        """Raises Unreachable, or Rejected if the address may not be dialled."""
        for ip in await _addresses_of(address):
            static = self._lasting.plan.targets.get(address.peer)
            if not (static and static.static):
                why = refusal(ip, address.port, allow_private=self._setting.allow_private)
                if why:
                    raise Rejected("NotDialable", why)
            await self.host.dial(ID.from_base58(address.peer), ip, address.port)
            return
        raise Unreachable(f"{address.host} has no address", hint="")

    async def _exchange_for_ever(self) -> None:
        """Publish the own record, with others of the book, at times and soon after a new peer came up."""
        again: Iterator[float] = iter(())
        while True:
            self._exchange_now = trio.Event()
            with trio.move_on_after(next(again, EXCHANGE_S)) as timer:
                await self._exchange_now.wait()
            if not timer.cancelled_caught:
                again = iter(AGAIN_S)
                await trio.sleep(FIRST_EXCHANGE_S)
            records = self._lasting.book.fresh(wall_ms())
            own = self._own_record()
            if own is not None:
                records = [own, *records]
            if records and self.sessions.all_up():
                await self.gossip.publish(PEERS_TOPIC, encode_records(records))

    def _own_record(self) -> PeerRecord | None:
        """None if this node listens on an address that nobody else could dial."""
        ip = ipaddress.ip_address(self.host.listen_ip)
        if refusal(str(ip), self.host.listen_port, allow_private=self._setting.allow_private):
            return None
        now_ms = wall_ms()
        return PeerRecord.sign(
            self._key, self._setting.genesis_hash, ip.packed, self.host.listen_port, now_ms, now_ms + RECORD_LIFE_MS
        )

    async def _save_for_ever(self) -> None:
        while True:
            await trio.sleep(SAVE_S)
            data = self._lasting.dump(self._setting.book_path)
            if data:
                await trio.to_thread.run_sync(self._lasting.write, self._setting.book_path, data)


class Lasting:
    """What survives a new start of the host: the plan of dials, the address book, the faults, the port."""

    def __init__(self, setting: Setting) -> None:
        own = peer_id_of(setting.seed)
        self.port = 0
        self.faults = FaultLedger()
        self.plan = DialPlan(own, enough=ENOUGH_PEERS_PRIVATE if setting.allow_private else ENOUGH_PEERS)
        self.book = AddressBook(setting.genesis_hash, own, allow_private=setting.allow_private)

    def load(self, path: Path | None) -> None:
        """A book that cannot be read is only a slower start."""
        try:
            data = read_book(path) if path else b""
            if data:
                self.book.load(data)
        except (DecodeError, OSError) as error:
            log.warning("address book %s is not used: %s", path, error)

    def dump(self, path: Path | None) -> bytes:
        """What the book's file should hold now, or b"" if it need not be written."""
        return self.book.dump() if path is not None and self.book.changed else b""

    def write(self, path: Path, data: bytes) -> None:
        try:
            write_book(path, data)
        except OSError as error:
            log.warning("address book %s is not written: %s", path, error)

    def save(self, path: Path | None) -> None:
        """Write the book if it changed; when the host has ended."""
        data = self.dump(path)
        if path is not None and data:
            self.write(path, data)


async def _one_by_one(handler: Callable[[str, bytes], Any], peer: str, frames: list[bytes]) -> None:
    """A frame whose handler fails takes none of the others with it."""
    for frame in frames:
        try:
            await handler(peer, frame)
        except Error as error:
            log.debug("frame of %s: %s", peer, error)
        except Exception:
            log.exception("handler of the authority channel")


async def _addresses_of(address: Address) -> list[str]:
    if not address.kind.startswith("dns"):
        return [address.host]
    family = {"dns4": trio.socket.AF_INET, "dns6": trio.socket.AF_INET6}.get(address.kind, trio.socket.AF_UNSPEC)
    try:
        found = await trio.socket.getaddrinfo(address.host, address.port, family, trio.socket.SOCK_STREAM)
    except OSError as error:
        raise Unreachable(f"{address.host}: {error}", hint="") from None
    return [str(row[4][0]) for row in found]
