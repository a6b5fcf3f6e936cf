"""One node of a world: the shell that performs the engine's effects in virtual time, on virtual disks.

It does what `ledger.engine` asks of a shell: free effects at once, gated effects through one lane in which nothing passes
a Persist or a commit before it is durable. It may crash before any effect and around any write; then it starts again from
its two stores. Engine, chain, pool, signer and sync planner are the real ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ledger import effects as fx
from ledger.blocks import Block
from ledger.chain import Chain, ExecutedBlock
from ledger.engine import Engine
from ledger.errors import Rejected
from ledger.inherents import EVIDENCE, HEARTBEAT, Heartbeat
from ledger.layout import HEAD_KEY, Head
from ledger.messages import Bundle, FinalBlock, encode_bundle
from ledger.pool import Pool
from ledger.signer import Domains, Signer, SignRecord, domain_at
from ledger.votes import Certificate

from .clock import EPOCH_MS
from .disk import FaultStore
from .peering import Peering

if TYPE_CHECKING:
    from .actors import Actor
    from .world import World


class Node:
    """`key` None makes a follower. `honest` nodes are checked and may crash; what others do goes through their actor."""

    def __init__(self, world: World, index: int, key: Any, honest: bool = True) -> None:
        self.world, self.index, self.name, self.key, self.honest = world, index, f"p{index}", key, honest
        self.actor: Actor | None = None
        self.skew_ms = 0
        self.alive = False
        self.generation = 0
        self.boundaries = 0  # effects and ends of writes so far, over all lives: where a crash may come
        self.stop_code: int | None = None
        self.durable: SignRecord | None = None  # the newest record on the disk
        self.domains: Domains = ((world.params.initial_height, world.params.genesis_hash),)
        self.chain_store, self.sign_store = FaultStore(world.rng), FaultStore(world.rng)
        Chain.create(self.chain_store, world.params, world.machine, world.genesis_state)
        if key is not None:
            Signer.create(self.sign_store, world.params.genesis_hash, key.public, world.params.initial_height)

    # --- life --------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Open both stores, start an engine, meet the others."""
        if self.alive:
            return
        self.open()
        saved, bodies = self.signer.load(self.chain.head.height + 1) if self.signer else (None, ())
        self.durable = saved
        self.world.note(self.index, f"boot at {self.chain.head.height}")
        self.feed(fx.Boot(self.tip(), saved, bodies))
        self.peering.begin()

    def open(self) -> None:
        """Open both stores and make everything that lives in memory."""
        params = self.world.params
        self.alive, self.generation = True, self.generation + 1
        self.signer = None if self.key is None else Signer.open(self.sign_store, params.genesis_hash, self.key.public)
        if self.signer is not None:
            self.domains = self.signer.domains
        self.chain = Chain.open(self.chain_store, params, self.world.machine, domain_at=self.domain)
        self.pool = Pool(self.chain)
        self._lane: deque[fx.Effect] = deque()
        self._lane_busy = False
        self._timers: dict[str, int] = {}
        signing = (None, None) if self.key is None else (self.key.public, self.key.sign)
        self.engine = Engine(params, self.domains, *signing, trace=self._trace)
        if self.actor is not None:
            self.actor.booted(self)
        self.peering = Peering(self)

    def domain(self, height: int) -> bytes:
        """Signing domain of a height."""
        return domain_at(self.domains, height)

    def crash(self) -> None:
        """Everything in memory is gone, and what the disk had not synced may be."""
        if not self.alive:
            return
        self.halt()
        lost = self.chain_store.crash() + self.sign_store.crash()
        self.world.note(self.index, f"crash, {lost} unsynced writes lost")
        self.world.crashes += 1
        self.world.timeline.after(self.world.rng.randint(10, 1500), self.boot)

    def halt(self) -> None:
        """The process ends; the disk keeps what it has."""
        self.alive, self.generation = False, self.generation + 1
        self.peering.end()

    def rewind(self, height: int, domains: Domains) -> None:
        """While it is stopped: cut the chain, take over the new list of signing domains."""
        self.open()
        if self.chain.head.height > height:
            self.chain.rewind(height)
        if self.signer is not None:
            self.signer.rewind(domains)
        self.domains = domains
        self.halt()

    def stored_height(self) -> int:
        """Of the head on the disk."""
        return Head.decode(self.chain_store.get(HEAD_KEY)).height

    def where(self) -> str:
        """For a report: what it works on."""
        if not self.alive:
            return "down"
        core = self.engine.core
        return f"{core.height}/{core.round}/{core.stage}" + ("" if self.stop_code is None else f" stopped {self.stop_code}")

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
        effects = self.engine.handle(event, self.now())
        if self.honest:
            self.world.checks.bounded(self)
        for effect in effects:
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
            if isinstance(effect, fx.Persist):
                self._occupy(lambda effect=effect: self._persist(effect))  # type: ignore[misc]
            elif isinstance(effect, fx.CommitBlock):
                executed = self.chain.check(effect.block, known=self.pool.verified)
                batch = self.chain.prepare_commit(executed, effect.certificate)
                self._occupy(lambda: self._commit(executed, effect.certificate, batch))  # noqa: B023
            else:
                _SENDS[type(effect)](self, effect)

    def _occupy(self, write: Callable[[], None]) -> None:
        """The rest of the lane waits for the disk. A crash may come before the write or between it and what follows."""
        self._lane_busy = True

        def act() -> None:
            if self.world.crashes_now(self):
                return self.crash()
            self._lane_busy = False
            write()
            self._work_lane()

        self.later(self.world.disk_delay_ms(), act)

    def _persist(self, effect: fx.Persist) -> None:
        persists = [effect]
        while self._lane and isinstance(self._lane[0], fx.Persist):
            persists.append(self._lane.popleft())  # type: ignore[arg-type]
        last = fx.coalesce(persists)
        assert self.signer is not None
        self.signer.persist(last.record, last.bodies, sync=last.sync)
        self.durable = last.record

    def _commit(self, executed: ExecutedBlock, certificate: Certificate, batch: Any) -> None:
        self.chain.apply(batch)
        self.world.committed(self, executed.block, certificate)
        if self.world.crashes_now(self):
            return self.crash()
        self.pool.on_block(executed)
        self.feed(fx.Committed(self.tip()))
        if self.alive:
            self.peering.committed(executed.block)
            self._heartbeat()

    def _send(self, effect: fx.Send) -> None:
        self.world.send(self, effect)

    def _send_final(self, effect: fx.SendFinal) -> None:
        final = FinalBlock(self.chain.header(effect.height), self.chain.certificate(effect.height))
        self.world.send(self, fx.Send((effect.peer,), encode_bundle(Bundle(final=final)), False))

    def _publish(self, effect: fx.Publish) -> None:
        self.peering.publish(effect.topic, effect.data)

    def _set_timer(self, effect: fx.SetTimer) -> None:
        number = self._timers[effect.kind] = self._timers.get(effect.kind, 0) + 1
        delay_ms = effect.delay_ms if self.actor is None else self.actor.delay_ms(effect)

        def fire() -> None:
            if self._timers[effect.kind] == number:
                self.feed(fx.Timer(effect.kind, effect.height, effect.round))

        self.later(delay_ms, fire)

    def _verify(self, effect: fx.Verify) -> None:
        self.later(0, lambda: self.feed(effect.run()))

    def _build(self, effect: fx.Build) -> None:
        def build() -> None:
            if effect.height != self.chain.head.height + 1:
                return
            extrinsics = self.pool.select(effect.max_bytes, effect.max_weight) if effect.max_weight else []
            executed = self.chain.build(
                timestamp_ms=effect.timestamp_ms, round_=effect.round, extrinsics=extrinsics,
                inherents=self.pool.inherents(),
                parent_certificate=None if self.actor is None else self.actor.parent_certificate(self),
            )
            if self.actor is not None:
                self.actor.built(self, executed.block, effect.round)
            self.feed(fx.Built(effect.height, effect.round, executed.block))

        self.later(self.world.work_delay_ms(), build)

    def _check(self, effect: fx.Check) -> None:
        self.later(self.world.work_delay_ms(), lambda: self.judge(effect.block))

    def judge(self, block: Block) -> None:
        """Execute a block on the head and feed the verdict; late ones, after the head has moved, are dropped."""
        if block.height != self.chain.head.height + 1:
            return
        try:
            self.chain.check(block, known=self.pool.verified)
        except Rejected as error:
            self.feed(fx.Checked(block, False, str(error)))
        else:
            self.feed(fx.Checked(block, True))

    def _fetch(self, effect: fx.Fetch) -> None:
        self.peering.fetch(effect)

    def _sync(self, effect: fx.Sync) -> None:
        self.peering.hint(effect)

    def _sync_refused(self, effect: fx.SyncRefused) -> None:
        self.peering.refused(effect.height)

    def _verdict(self, effect: fx.Verdict) -> None:
        self.peering.judged(effect)

    def _report(self, effect: fx.ReportEvidence) -> None:
        self.world.evidence.append(effect.evidence)
        self.peering.offer_inherent(EVIDENCE, effect.evidence.encode(), effect.evidence.key)

    def _penalise(self, effect: fx.Penalise) -> None:
        self.world.penalised(self, effect)

    def _heartbeat(self) -> None:
        """Say that we are alive if we were skipped, or if the chain does not know which rules we can execute."""
        due: Any = getattr(self.world.machine, "heartbeat_is_due", None)
        height = self.chain.head.height + 1
        if due is None or self.key is None or not due(self.chain.view(), self.key.public, height):
            return
        known, session = self.world.machine.known, self.chain.params.session(height)  # type: ignore[attr-defined]
        beat = Heartbeat.sign(self.key, self.domain(height), session, self.chain.head.hash, "sim", known)
        self.peering.offer_inherent(HEARTBEAT, beat.encode(), self.key.public)

    def _stop(self, effect: fx.Stop) -> None:
        self.stop_code = effect.code
        self.world.stopped(self, effect)

    def _ignore(self, effect: fx.Effect) -> None:
        """Logs."""


_FREE: dict[type, Callable[[Node, Any], None]] = {
    fx.SetTimer: Node._set_timer, fx.Verify: Node._verify, fx.Build: Node._build, fx.Check: Node._check,
    fx.Fetch: Node._fetch, fx.Sync: Node._sync, fx.Stop: Node._stop, fx.Log: Node._ignore, fx.Verdict: Node._verdict,
    fx.ReportEvidence: Node._report, fx.SyncRefused: Node._sync_refused, fx.Penalise: Node._penalise,
}
_SENDS: dict[type, Callable[[Node, Any], None]] = {
    fx.Send: Node._send, fx.SendFinal: Node._send_final, fx.Publish: Node._publish,
}
