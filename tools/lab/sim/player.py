"""A node of a stage: real engine, signer, chain and a disk that forgets, and the least shell that performs their effects.

Free effects happen at once, gated effects go through one lane in which nothing passes a Persist or a commit before it is
durable. `crash` may come before any effect and around any write; what was not synced may be lost with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, Any, Final

from ledger import effects as fx
from ledger.blocks import Block
from ledger.chain import Chain
from ledger.engine import Engine
from ledger.errors import NotFound, Pruned, Rejected
from ledger.messages import Bundle, FinalBlock, encode_bundle
from ledger.recovery import Recoveries, recovered_domains
from ledger.signer import Domains, Signer, domain_at

from .clock import EPOCH_MS
from .disk import FaultStore

if TYPE_CHECKING:
    from .stage import Stage

RESTART_MS: Final = 20


class Player:
    """`key` None makes a follower."""

    def __init__(self, stage: Stage, index: int, key: Any) -> None:
        self.stage, self.index, self.name, self.key = stage, index, f"p{index}", key
        self.skew_ms = 0
        self.alive = False
        self.generation = 0
        self.options: dict[str, Any] = {}  # of the engine
        self.recoveries: Recoveries = {}  # files given to it
        self.domains: Domains = ((stage.params.initial_height, stage.params.genesis_hash),)
        self.chain_store, self.sign_store = FaultStore(Random(index)), FaultStore(Random(index))
        Chain.create(self.chain_store, stage.params, stage.machine, stage.genesis_state)
        if key is not None:
            Signer.create(self.sign_store, stage.params.genesis_hash, key.public, stage.params.initial_height)

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Open both stores, start an engine, meet the others."""
        params = self.stage.params
        self.alive, self.generation = True, self.generation + 1
        self.signer = None if self.key is None else Signer.open(self.sign_store, params.genesis_hash, self.key.public)
        before = self.signer.domains if self.signer else self.domains
        self.domains = recovered_domains(before, self.recoveries)
        self.chain = Chain.open(
            self.chain_store, params, self.stage.machine, domain_at=self.domain, recoveries=self.recoveries
        )
        if self.signer is not None and self.signer.domains != self.domains:
            self.signer.rewind(self.domains)
        self._lane: deque[fx.Effect] = deque()
        self._lane_busy = False
        self._timers: dict[str, int] = {}
        self._gossip: dict[bytes, int] = {}  # what was heard -> ticket
        self._sync_peer: Player | None = None
        signing = (None, None) if self.key is None else (self.key.public, self.key.sign)
        self.engine = Engine(params, self.domains, *signing, trace=self._trace, **self.options)
        saved, bodies = self.signer.load(self.chain.head.height + 1) if self.signer else (None, ())
        self.stage.note(self.index, f"boot at {self.chain.head.height}")
        self.feed(fx.Boot(self.tip(), saved, bodies))
        for other in self.stage.players:
            if self.stage.is_linked(self, other):
                self.feed(fx.PeerUp(other.name, other.key.public if other.key else b"", 0))

    def kill(self) -> None:
        """It is gone until somebody boots it."""
        self.alive, self.generation = False, self.generation + 1
        self.chain_store.crash()
        self.sign_store.crash()
        self.stage.note(self.index, "crash")

    def crash(self) -> None:
        """It is gone, and starts again a little later."""
        self.kill()
        self.stage.crashes += 1
        self.stage.timeline.after(RESTART_MS, self.boot)

    def restart(self) -> None:
        """It starts again at once."""
        self.kill()
        self.boot()

    def domain(self, height: int) -> bytes:
        """Signing domain of a height."""
        return domain_at(self.domains, height)

    def now(self) -> fx.Now:
        now_ms = self.stage.now_ms
        return fx.Now(now_ms, EPOCH_MS + now_ms + self.skew_ms)

    def tip(self) -> fx.Tip:
        """The head as the engine wants it."""
        head, authorities = self.chain.head, self.chain.authorities()
        if head.height == self.stage.params.genesis_height:
            return fx.Tip(head.height, head.hash, head.timestamp_ms, authorities)
        header, certificate = self.chain.header(head.height), self.chain.certificate(head.height)
        return fx.Tip(head.height, head.hash, head.timestamp_ms, authorities, header, certificate)

    def later(self, delay_ms: int, action: Callable[[], None]) -> None:
        """Do it then, unless this life of the node is over."""
        generation = self.generation
        self.stage.timeline.after(delay_ms, lambda: action() if self.generation == generation else None)

    def _trace(self, rule: str, height: int, round_: int, what: str) -> None:
        self.stage.rule_fired(self.index, rule, height, round_, what)

    # --- effects -----------------------------------------------------------------------------------------------------

    def feed(self, event: fx.Event) -> None:
        """Give an event to the engine and perform what it answers."""
        if not self.alive:
            return
        for effect in self.engine.handle(event, self.now()):
            if self.stage.crashes_before(self, effect):
                return self.crash()
            if fx.is_gated(effect):
                self._lane.append(effect)
            else:
                _FREE[type(effect)](self, effect)
        self._work_lane()

    def _work_lane(self) -> None:
        while self._lane and not self._lane_busy and self.alive:
            if self.stage.crashes_before(self, self._lane[0]):
                return self.crash()
            effect = self._lane.popleft()
            if isinstance(effect, fx.Persist | fx.CommitBlock):
                self._lane_busy = True
                write = self._persist if isinstance(effect, fx.Persist) else self._commit
                self.later(self.stage.disk_ms(self), lambda write=write, effect=effect: write(effect))  # type: ignore[misc]
            else:
                _SENDS[type(effect)](self, effect)

    def _persist(self, effect: fx.Persist) -> None:
        persists = [effect]
        while self._lane and isinstance(self._lane[0], fx.Persist):
            persists.append(self._lane.popleft())  # type: ignore[arg-type]
        last = fx.coalesce(persists)
        assert self.signer is not None
        self.signer.persist(last.record, last.bodies, sync=last.sync)
        self._lane_busy = False
        self._work_lane()

    def _commit(self, effect: fx.CommitBlock) -> None:
        self.chain.commit(self.chain.check(effect.block), effect.certificate)
        self._lane_busy = False
        self.stage.committed(self, effect.block, effect.certificate)
        committed = fx.Committed(self.tip())
        if self.stage.crashes_before(self, committed):
            return self.crash()
        self.feed(committed)
        if self.alive:
            self._sync_next()
            self._work_lane()

    def _send_final(self, effect: fx.SendFinal) -> None:
        final = FinalBlock(self.chain.header(effect.height), self.chain.certificate(effect.height))
        self.stage.send(self, fx.Send((effect.peer,), encode_bundle(Bundle(final=final)), False))

    def _publish(self, effect: fx.Publish) -> None:
        self._gossip.setdefault(effect.data, -1)
        self.stage.gossip(self, effect.data)

    def hear_gossip(self, sender: str, data: bytes) -> None:
        """The first copy goes to the engine; if it finds it good, it is passed on."""
        if self.alive and data not in self._gossip:
            self._gossip[data] = len(self._gossip)
            self.feed(fx.Gossip(sender, data, self._gossip[data]))

    def _verdict(self, effect: fx.Verdict) -> None:
        if effect.accept:
            self.stage.gossip(self, next(data for data, ticket in self._gossip.items() if ticket == effect.ticket))

    def _set_timer(self, effect: fx.SetTimer) -> None:
        number = self._timers[effect.kind] = self._timers.get(effect.kind, 0) + 1

        def fire() -> None:
            if self._timers[effect.kind] == number:
                self.feed(fx.Timer(effect.kind, effect.height, effect.round))

        self.later(effect.delay_ms, fire)

    def _verify(self, effect: fx.Verify) -> None:
        self.later(0, lambda: self.feed(effect.run()))

    def _build(self, effect: fx.Build) -> None:
        self.stage.allowances[effect.height, effect.round] = effect.max_bytes

        def build() -> None:
            if effect.height == self.chain.head.height + 1:
                block = self.chain.build(timestamp_ms=effect.timestamp_ms, round_=effect.round).block
                self.feed(fx.Built(effect.height, effect.round, block))

        self.later(self.stage.work_ms, build)

    def _check(self, effect: fx.Check) -> None:
        self.later(self.stage.work_ms + self.stage.pull_ms(effect.block), lambda: self.judge(effect.block))

    def judge(self, block: Block) -> None:
        """Execute a block on the head and feed the verdict. Only a broken rule is one; any other failure ends the node."""
        if block.height != self.chain.head.height + 1:
            return
        try:
            self.chain.check(block)
        except Rejected as error:
            self.feed(fx.Checked(block, False, str(error)))
        else:
            self.feed(fx.Checked(block, True))

    def _fetch(self, effect: fx.Fetch) -> None:
        for name in effect.peers:
            peer = self.stage.named(name)
            block = self.stage.served(self, peer, effect.hash)
            if block is not None and effect.accepts(block):
                delay_ms = self.stage.round_trip_ms + self.stage.pull_ms(block)
                self.later(delay_ms, lambda block=block: self.judge(block))  # type: ignore[misc]
                return

    def serve(self, block_hash: bytes) -> Block | None:
        """A peer asks for a block."""
        try:
            return self.engine.block(block_hash) or self.chain.block(block_hash)
        except (NotFound, Pruned):
            return None

    def _sync(self, effect: fx.Sync) -> None:
        self._sync_peer = self.stage.named(effect.peer)
        self._sync_next()

    def _sync_next(self) -> None:
        """Ask for the next block; the engine checks it like any other."""
        peer, height = self._sync_peer, self.chain.head.height + 1
        if peer is None or not self.stage.reaches(self, peer) or peer.chain.head.height < height:
            self._sync_peer = None
            return
        event = fx.Synced(peer.chain.block(height), peer.chain.certificate(height))
        self.later(self.stage.round_trip_ms, lambda: self.feed(event))

    def _report(self, effect: fx.ReportEvidence) -> None:
        self.stage.evidence.append(effect.evidence)

    def _stop(self, effect: fx.Stop) -> None:
        self.stage.stopped(self, effect)

    def _penalise(self, effect: fx.Penalise) -> None:
        self.stage.penalised(self, effect)

    def _refused(self, effect: fx.SyncRefused) -> None:
        self.stage.refusals.append((self.index, effect.height))

    def _ignore(self, effect: fx.Effect) -> None:
        """Logs."""


_FREE: dict[type, Callable[[Player, Any], None]] = {
    fx.SetTimer: Player._set_timer, fx.Verify: Player._verify, fx.Build: Player._build, fx.Check: Player._check,
    fx.Fetch: Player._fetch, fx.Sync: Player._sync, fx.Stop: Player._stop, fx.Log: Player._ignore,
    fx.Verdict: Player._verdict, fx.ReportEvidence: Player._report, fx.SyncRefused: Player._refused,
    fx.Penalise: Player._penalise,
}
_SENDS: dict[type, Callable[[Player, Any], None]] = {
    fx.Send: lambda player, effect: player.stage.send(player, effect), fx.SendFinal: Player._send_final,
    fx.Publish: Player._publish,
}
