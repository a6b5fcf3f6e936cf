"""One node of a world: the shell that performs the engine's effects in virtual time, on virtual disks.

It does what `ledger.engine` asks of a shell: free effects at once, gated effects through one lane in which nothing passes
a Persist or a commit before it is durable. It may crash before any effect; then it starts again from its two stores.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger import effects as fx
from ledger.blocks import Block
from ledger.chain import Chain
from ledger.engine import Engine
from ledger.errors import NotFound, Pruned, Rejected
from ledger.inherents import EVIDENCE
from ledger.messages import Bundle, FinalBlock, encode_bundle
from ledger.signer import Signer
from ledger.votes import Certificate

from .clock import EPOCH_MS
from .disk import FaultStore

if TYPE_CHECKING:
    from .world import World


class Node:
    """`key` None makes a follower. `honest` nodes are checked and may crash; others go through their actor."""

    def __init__(self, world: World, index: int, key: Any, honest: bool = True) -> None:
        self.world, self.index, self.name, self.key, self.honest = world, index, f"p{index}", key, honest
        self.skew_ms = 0
        self.alive = False
        self.generation = 0
        self.stop_code: int | None = None
        self.chain_store, self.sign_store = FaultStore(world.rng), FaultStore(world.rng)
        Chain.create(self.chain_store, world.params, world.machine, world.genesis_state)
        if key is not None:
            Signer.create(self.sign_store, world.params.genesis_hash, key.public, world.params.initial_height)

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Open both stores, start an engine, meet the others."""
        params = self.world.params
        self.alive, self.generation = True, self.generation + 1
        self.chain = Chain.open(self.chain_store, params, self.world.machine)
        self.signer = None if self.key is None else Signer.open(self.sign_store, params.genesis_hash, self.key.public)
        self._lane: deque[fx.Effect] = deque()
        self._lane_busy = False
        self._timers: dict[str, int] = {}
        self._gossip: dict[bytes, int] = {}  # what was heard -> ticket
        self._inherents: dict[tuple[int, bytes], None] = {}  # candidates; the machine chooses
        self._sync_peer: Node | None = None
        domains = self.signer.domains if self.signer else ((params.initial_height, params.genesis_hash),)
        signing = (None, None) if self.key is None else (self.key.public, self.key.sign)
        self.engine = Engine(params, domains, *signing, trace=self._trace)
        saved, bodies = self.signer.load(self.chain.head.height + 1) if self.signer else (None, ())
        self.world.note(self.index, f"boot at {self.chain.head.height}")
        self.feed(fx.Boot(self.tip(), saved, bodies))
        for other in self.world.nodes:
            if self.world.is_linked(self, other):
                self.feed(fx.PeerUp(other.name, other.key.public if other.key else b"", 0))

    def crash(self) -> None:
        """Everything in memory is gone, and what the disk had not synced may be."""
        if not self.alive:
            return
        self.alive, self.generation = False, self.generation + 1
        lost = self.chain_store.crash() + self.sign_store.crash()
        self.world.note(self.index, f"crash, {lost} unsynced writes lost")
        self.world.crashes += 1
        self.world.timeline.after(self.world.rng.randint(10, 1500), self.boot)

    def where(self) -> str:
        """For a report: what it works on."""
        core = self.engine.core
        return f"{core.height}/{core.round}/{core.stage}" if self.alive else "down"

    def now(self) -> fx.Now:
        now_ms = self.world.timeline.now_ms
        return fx.Now(now_ms, EPOCH_MS + now_ms + self.skew_ms)

    def tip(self) -> fx.Tip:
        """The head as the engine wants it."""
        head, authorities = self.chain.head, self.chain.authorities()
        if head.height == self.world.params.genesis_height:
            return fx.Tip(head.height, head.hash, head.timestamp_ms, authorities)
        header, certificate = self.chain.header(head.height), self.chain.certificate(head.height)
        return fx.Tip(head.height, head.hash, head.timestamp_ms, authorities, header, certificate)

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do it then, unless this life of the node is over."""
        generation = self.generation

        def act() -> None:
            if self.generation == generation:
                action()

        self.world.timeline.after(delay_ms, act)

    def _trace(self, rule: str, height: int, round_: int, what: str) -> None:
        self.world.note(self.index, f"{rule} {height}/{round_} {what}")

    # --- effects -----------------------------------------------------------------------------------------------------

    def feed(self, event: fx.Event) -> None:
        """Give an event to the engine and perform what it answers."""
        if not self.alive or self.stop_code is not None:
            return
        for effect in self.engine.handle(event, self.now()):
            if self.world.crashes_now(self):
                return self.crash()
            self._effect(effect)
        self._work_lane()

    def _effect(self, effect: fx.Effect) -> None:
        if fx.is_gated(effect):
            self._lane.append(effect)
        else:
            _FREE[type(effect)](self, effect)

    def _work_lane(self) -> None:
        """In order; a Persist or a commit takes its time, and what stands behind it waits."""
        while self._lane and not self._lane_busy and self.alive:
            if self.world.crashes_now(self):
                return self.crash()
            effect = self._lane.popleft()
            if isinstance(effect, fx.Persist | fx.CommitBlock):
                self._lane_busy = True
                self.later(self.world.disk_delay_ms(), lambda effect=effect: self._write(effect))  # type: ignore[misc]
            else:
                _SENDS[type(effect)](self, effect)

    def _write(self, effect: fx.Persist | fx.CommitBlock) -> None:
        if isinstance(effect, fx.Persist):
            persists = [effect]
            while self._lane and isinstance(self._lane[0], fx.Persist):
                persists.append(self._lane.popleft())  # type: ignore[arg-type]
            last = fx.coalesce(persists)
            assert self.signer is not None
            self.signer.persist(last.record, last.bodies, sync=last.sync)
            self._lane_busy = False
        else:
            self._commit(effect.block, effect.certificate)
        self._work_lane()

    def _commit(self, block: Block, certificate: Certificate) -> None:
        self.chain.commit(self.chain.check(block), certificate)
        self._lane_busy = False
        self.world.committed(self, block, certificate)
        self.feed(fx.Committed(self.tip()))
        self._sync_next()

    def _send(self, effect: fx.Send) -> None:
        self.world.send(self, effect)

    def _send_final(self, effect: fx.SendFinal) -> None:
        final = FinalBlock(self.chain.header(effect.height), self.chain.certificate(effect.height))
        self.world.send(self, fx.Send((effect.peer,), encode_bundle(Bundle(final=final)), False))

    def _publish(self, effect: fx.Publish) -> None:
        self._gossip.setdefault(effect.data, -1)
        self.world.gossip(self, effect.data)

    def hear_gossip(self, sender: str, data: bytes) -> None:
        """The first copy goes to the engine; if it finds it good, it is passed on."""
        if self.alive and data not in self._gossip:
            self._gossip[data] = len(self._gossip)
            self.feed(fx.Gossip(sender, data, self._gossip[data]))

    def _verdict(self, effect: fx.Verdict) -> None:
        if effect.accept:
            self.world.gossip(self, next(data for data, ticket in self._gossip.items() if ticket == effect.ticket))

    def _set_timer(self, effect: fx.SetTimer) -> None:
        number = self._timers[effect.kind] = self._timers.get(effect.kind, 0) + 1

        def fire() -> None:
            if self._timers[effect.kind] == number:
                self.feed(fx.Timer(effect.kind, effect.height, effect.round))

        self.later(effect.delay_ms, fire)

    def _verify(self, effect: fx.Verify) -> None:
        self.later(0, lambda: self.feed(effect.run()))

    def _build(self, effect: fx.Build) -> None:
        def build() -> None:
            executed = self.chain.build(
                timestamp_ms=effect.timestamp_ms, round_=effect.round, inherents=list(self._inherents)
            )
            self.feed(fx.Built(effect.height, effect.round, executed.block))

        self.later(self.world.work_delay_ms(), build)

    def _check(self, effect: fx.Check) -> None:
        self.later(self.world.work_delay_ms(), lambda: self._judge(effect.block))

    def _judge(self, block: Block) -> None:
        try:
            self.chain.check(block)
        except Rejected as error:
            self.feed(fx.Checked(block, False, str(error)))
        else:
            self.feed(fx.Checked(block, True))

    def _fetch(self, effect: fx.Fetch) -> None:
        for name in effect.peers:
            peer = self.world.named(name)
            delay_ms = self.world.round_trip_ms(self, peer)
            block = peer.serve(effect.hash) if delay_ms is not None else None
            if delay_ms is not None and block is not None and effect.accepts(block):
                self.later(delay_ms, lambda block=block: self._judge(block))  # type: ignore[misc]
                return

    def serve(self, block_hash: bytes) -> Block | None:
        """A peer asks for a block."""
        if not self.alive or not self.world.serves_bodies(self):
            return None
        try:
            return self.engine.block(block_hash) or self.chain.block(block_hash)
        except (NotFound, Pruned):
            return None

    def _sync(self, effect: fx.Sync) -> None:
        self._sync_peer = self.world.named(effect.peer)
        self._sync_next()

    def _sync_next(self) -> None:
        """Ask for the next block; the engine checks it like any other."""
        peer, height = self._sync_peer, self.chain.head.height + 1
        delay_ms = self.world.round_trip_ms(self, peer) if peer is not None else None
        if peer is None or delay_ms is None or not peer.alive or peer.chain.head.height < height:
            self._sync_peer = None
            return
        event = fx.Synced(peer.chain.block(height), peer.chain.certificate(height))
        self.later(delay_ms, lambda: self.feed(event))

    def _report(self, effect: fx.ReportEvidence) -> None:
        self.world.evidence.append(effect.evidence)
        self._inherents[EVIDENCE, effect.evidence.encode()] = None

    def _stop(self, effect: fx.Stop) -> None:
        self.stop_code = effect.code
        self.world.stopped(self, effect)

    def _ignore(self, effect: fx.Effect) -> None:
        """Logs, and what only a real network has."""


_FREE: dict[type, Callable[[Node, Any], None]] = {
    fx.SetTimer: Node._set_timer, fx.Verify: Node._verify, fx.Build: Node._build, fx.Check: Node._check,
    fx.Fetch: Node._fetch, fx.Sync: Node._sync, fx.Stop: Node._stop, fx.Log: Node._ignore, fx.Verdict: Node._verdict,
    fx.ReportEvidence: Node._report, fx.SyncRefused: Node._ignore,
    fx.Penalise: lambda node, effect: node.world.penalised(node, effect),
}
_SENDS: dict[type, Callable[[Node, Any], None]] = {
    fx.Send: Node._send, fx.SendFinal: Node._send_final, fx.Publish: Node._publish,
}
