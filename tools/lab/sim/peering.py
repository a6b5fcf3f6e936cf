"""What one node has to do with its peers beside the direct channel: connections, gossip, requests, sync, transactions.

The sync planner and the answers are the real ones; only the wire is virtual. A request that is lost comes back as a
time-out, one to a dead peer as unreachable.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger import effects as fx
from ledger.blocks import Block
from ledger.crypto import ZERO_HASH
from ledger.errors import DecodeError, Rejected
from ledger.inherents import HEARTBEAT, Heartbeat
from ledger.machine import BlockContext
from ledger.votes import Certificate, Evidence
from p2p.answers import answer
from p2p.faults import TIMEOUT
from p2p.messages import GetBlock, encode_request
from p2p.sync import Ask, Penalty, SyncPlanner, decode_block
from tools.node.follow import ASK_TIMEOUT_MS, Source
from tools.node.relay import decode_batch, encode_batch
from tools.node.shell import FETCH_TIMEOUT_MS, FETCHES_AT_ONCE

if TYPE_CHECKING:
    from .node import Node

TICK_MS = 1_000
DIAL_EVERY_MS = 200
REFUSED_MS = 20  # until a peer is known to be unreachable
BLOCK_TOPIC, TX_TOPIC = "block", "tx"

Answer = Callable[[bytes | None, bool], None]  # (reply, whether it timed out)


class Peering:
    """Lives as long as the process of the node."""

    def __init__(self, node: Node) -> None:
        self._node, self._world = node, node.world
        self.connected: dict[str, int] = {}  # peer -> which life of it
        self._heard: dict[bytes, int] = {}  # gossip -> ticket
        self._tickets: dict[int, tuple[str, bytes]] = {}
        self._fetching: dict[bytes, None] = {}
        self._source = Source(node.chain, node.engine)
        self.planner = SyncPlanner(node.chain.head.height, node.chain.head.hash)

    # --- connections -------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Dial everybody there is; look after sync once a second."""
        for other in self._world.nodes:
            if self._world.is_linked(self._node, other):
                self._dial(other)
        self._node.later(TICK_MS, self._tick)

    def end(self) -> None:
        """The others see the connection break."""
        for name in self.connected:
            other = self._world.named(name)
            if other.alive:
                other.later(self._world.latency_ms(), lambda other=other: other.peering.lost(self._node.name))  # type: ignore[misc]
        self.connected = {}

    def _dial(self, other: Node) -> None:
        """Until connected; whoever boots later dials those who are there."""
        world, node = self._world, self._node
        if other.name in self.connected or not other.alive:
            return
        if world.weather.is_cut(node.index, other.index, world.timeline.now_ms):
            node.later(DIAL_EVERY_MS, lambda: self._dial(other))
            return
        node.later(world.latency_ms(), lambda: self._meet(other))

    def _meet(self, other: Node) -> None:
        if other.alive and other.name not in self.connected:
            self._greet(other)
            other.peering._greet(self._node)

    def _greet(self, other: Node) -> None:
        """Hello: what the peer says of itself."""
        height = other.chain.durable_height if other.actor is None else other.actor.announced(other)
        self.connected[other.name] = other.generation
        self.planner.peer_up(other.name, height)
        self._node.feed(fx.PeerUp(other.name, other.key.public if other.key else b"", height))
        self.pump()

    def lost(self, name: str) -> None:
        """A connection broke."""
        other = self._world.named(name)
        if name not in self.connected or (other.alive and self.connected[name] == other.generation):
            return
        self.drop(name)

    def drop(self, name: str) -> None:
        """Close our end and dial again."""
        if self.connected.pop(name, None) is None:
            return
        self.planner.peer_down(name)
        self._node.feed(fx.PeerDown(name))
        if self._node.alive:
            self._dial(self._world.named(name))

    def is_connected(self, other: Node) -> bool:
        return self.connected.get(other.name) == other.generation

    # --- requests ----------------------------------------------------------------------------------------------------

    def request(self, peer: str, data: bytes, timeout_ms: int, done: Answer) -> None:
        """Ask, and get the reply, a time-out or the news that nobody is there."""
        node, world, other = self._node, self._world, self._world.named(peer)
        if not other.alive or not self.is_connected(other):
            return node.later(REFUSED_MS, lambda: done(None, False))
        there, back = world.trip(node, other), world.trip(other, node)
        reply = other.peering.answer(node, data) if there is not None else None
        if there is None or back is None:
            return node.later(timeout_ms, lambda: done(None, True))
        node.later(there + back, lambda: done(reply, False))

    def answer(self, asker: Node, data: bytes) -> bytes | None:
        """What this node serves."""
        node = self._node
        try:
            reply = answer(data, self._source)
        except DecodeError:
            return None
        return reply if node.actor is None else node.actor.answer(node, asker, data, reply)

    def fetch(self, effect: fx.Fetch) -> None:
        """Like the node's shell: peer after peer until one serves the block, then have it judged."""
        if effect.hash in self._fetching or len(self._fetching) >= FETCHES_AT_ONCE:
            return
        self._fetching[effect.hash] = None
        self._fetch_from(effect, 0)

    def _fetch_from(self, effect: fx.Fetch, position: int) -> None:
        if position >= len(effect.peers):
            del self._fetching[effect.hash]
            return
        peer, request = effect.peers[position], GetBlock(effect.hash)

        def done(reply: bytes | None, timed_out: bool) -> None:
            try:
                block = None if reply is None else decode_block(reply, request)
            except DecodeError as error:
                block = None
                self._fault(peer, f"served another block: {error.cause}")
            if block is not None and not effect.accepts(block):
                block = None
                self._fault(peer, "served a body that is not the header's")
            if block is None:
                return self._fetch_from(effect, position + 1)
            del self._fetching[effect.hash]
            self._node.judge(block)

        self.request(peer, encode_request(request), FETCH_TIMEOUT_MS, done)

    def _fault(self, peer: str, reason: str) -> None:
        self._world.penalised(self._node, fx.Penalise(peer, reason, 20))

    # --- sync --------------------------------------------------------------------------------------------------------

    def hint(self, hint: fx.Sync) -> None:
        """The engine heard of a final block above the one in work."""
        self.planner.announced(hint.peer, hint.height)
        if hint.certificate is not None:
            self.planner.certificate(hint.block_hash, hint.certificate.encode(), hint.peer)
        self.pump()

    def committed(self, block: Block) -> None:
        self.planner.committed(block.height, block.hash)
        self.pump()

    def refused(self, height: int) -> None:
        self._punish(self.planner.refused(height, self._world.timeline.now_ms))
        self.pump()

    def pump(self) -> None:
        """Send what the planner asks for and hand over the next block."""
        now_ms = self._world.timeline.now_ms
        for ask in self.planner.next(now_ms):
            self._ask(ask)
        ready = self.planner.ready()
        if ready is None:
            return
        try:
            certificate = Certificate.decode(ready.certificate)
        except DecodeError:
            return self.refused(ready.block.height)
        self._node.feed(fx.Synced(ready.block, certificate))

    def _ask(self, ask: Ask) -> None:
        def done(reply: bytes | None, timed_out: bool) -> None:
            now_ms = self._world.timeline.now_ms
            if reply is None:
                self._punish(self.planner.failed(ask.number, now_ms, timeout=timed_out))
            else:
                self._punish(self.planner.reply(ask.number, reply, now_ms))
            self.pump()

        self.request(ask.peer, ask.data, ASK_TIMEOUT_MS, done)

    def _punish(self, penalties: list[Penalty]) -> None:
        for penalty in penalties:
            if penalty.points > TIMEOUT:  # silence is the network's fault as often as the peer's
                self._fault(penalty.peer, penalty.reason)

    def _tick(self) -> None:
        self.pump()
        self._node.later(TICK_MS, self._tick)

    # --- gossip ------------------------------------------------------------------------------------------------------

    def publish(self, topic: str, data: bytes) -> None:
        """To all that are connected."""
        self._heard.setdefault(data, 0)
        self._world.gossip(self._node, topic, data)

    def hear(self, sender: str, topic: str, data: bytes) -> None:
        """The first copy is looked at; if it is good, it is passed on."""
        if data in self._heard:
            return
        ticket = self._heard[data] = len(self._heard) + 1
        if topic == BLOCK_TOPIC:
            self._tickets[ticket] = (topic, data)
            self._node.feed(fx.Gossip(sender, data, ticket))
        elif self._take_batch(data):
            self._world.gossip(self._node, topic, data)

    def judged(self, verdict: fx.Verdict) -> None:
        topic, data = self._tickets.pop(verdict.ticket)
        if verdict.accept:
            self._world.gossip(self._node, topic, data)

    # --- transactions ------------------------------------------------------------------------------------------------

    def submit(self, raw: bytes) -> None:
        """A user's transaction; raises Rejected."""
        self._node.pool.submit(raw)
        self.publish(TX_TOPIC, encode_batch([raw], []))

    def offer_inherent(self, kind: int, payload: bytes, author: bytes) -> None:
        if self._node.pool.add_inherent(kind, payload, author):
            self.publish(TX_TOPIC, encode_batch([], [(kind, payload)]))

    def _take_batch(self, data: bytes) -> bool:
        """True if something in it was new and good."""
        try:
            raws, inherents = decode_batch(data)
            new = sum(self._take(raw) for raw in raws)
            return new + sum(self._take_inherent(*inherent) for inherent in inherents) > 0
        except DecodeError:
            return False

    def _take(self, raw: bytes) -> bool:
        try:
            self._node.pool.submit(raw)
        except Rejected:
            return False
        return True

    def _take_inherent(self, kind: int, payload: bytes) -> bool:
        part: Any = Heartbeat.decode(payload) if kind == HEARTBEAT else Evidence.decode(payload)
        node = self._node
        domain = node.domain(part.height if isinstance(part, Evidence) else node.chain.head.height + 1)
        return bool(part.verify(domain)) and self._may_carry(kind, payload) and node.pool.add_inherent(kind, payload, part.key)

    def _may_carry(self, kind: int, payload: bytes) -> bool:
        """True iff the rules would let the next block carry it."""
        chain, height = self._node.chain, self._node.chain.head.height + 1
        context = BlockContext(height, chain.params.session(height), 0, chain.head.hash, ZERO_HASH, 0, (), (), ZERO_HASH)
        return bool(chain.machine.block_inherents(chain.view(), context, [(kind, payload)]))
