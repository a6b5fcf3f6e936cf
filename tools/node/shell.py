"""The shell around the engine: the only code of a node that performs effects, and the only owner of time.

The engine decides, the shell does. Events are fed one at a time, in order, on the event loop. Free effects start work on
threads or the network at once and their answers come back as events. Gated effects go into one lane, worked off strictly
in order: nothing behind a Persist or a CommitBlock starts before it is durable, so no message ever leaves the node before
the record that contains it. What fails in the lane is never tried again: the node stops with the lane unsent.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ledger.chain import Chain, ExecutedBlock
from ledger.effects import (
    Boot,
    Build,
    Built,
    Check,
    Checked,
    CommitBlock,
    Committed,
    Effect,
    Event,
    Fetch,
    Log,
    Now,
    Penalise,
    Persist,
    Publish,
    ReportEvidence,
    Send,
    SendFinal,
    SetTimer,
    Stop,
    Sync,
    SyncRefused,
    Timer,
    Tip,
    Verdict,
    Verified,
    Verify,
    Work,
    coalesce,
    is_gated,
)
from ledger.engine import Engine
from ledger.errors import DecodeError, Error, Fault, InvariantBroken, NotReady, Rejected, Timeout, Unreachable
from ledger.inherents import EVIDENCE
from ledger.machine import Clock
from ledger.messages import Bundle, FinalBlock, encode_bundle
from ledger.pool import Pool
from ledger.signer import NOTE_ROW, Signer
from ledger.votes import Vote
from p2p.messages import GetBlock, encode_request
from p2p.network import Network
from p2p.sync import decode_block

from .counters import Counters
from .threads import Lane, Threads, Workers

MAX_EVENTS: Final = 8192  # waiting to be fed; only frames are dropped above it
MAX_ACCEPTED: Final = 64  # undecided blocks whose arrival is remembered
FETCH_TIMEOUT_MS: Final = 3_000
FETCHES_AT_ONCE: Final = 16
LANE_DRAIN_S: Final = 10.0
FINALITY_ROW: Final = b"finality/"  # + height: milliseconds from the proposal's acceptance to the commit


class SystemClock:
    """The machine's clocks. Devnets may set the wall clock ahead by `offset_ms`."""

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    def monotonic_ms(self) -> int:
        return time.monotonic_ns() // 1_000_000


class Listener(Protocol):
    """What the rest of the node wants to know. Called on the event loop; must not block."""

    def committed(self, executed: ExecutedBlock, tip: Tip, finality_ms: int) -> None: ...

    def sync_hint(self, hint: Sync) -> None: ...

    def sync_refused(self, height: int) -> None: ...

    def log(self, level: str, event: str, fields: dict[str, Any]) -> None: ...

    def failed(self, error: BaseException, incident: dict[str, Any]) -> None:
        """The node must stop. Called once."""
        ...


@dataclass(frozen=True, slots=True)
class _Commit:
    """A block that is durable now."""

    executed: ExecutedBlock
    tip: Tip
    finality_ms: int


@dataclass
class Shell:
    """One node's engine and everything its effects need. `network` is set when p2p is up; until then nothing is sent."""

    engine: Engine
    chain: Chain
    pool: Pool
    threads: Threads
    disk: Workers
    clock: Clock
    listener: Listener
    signer: Signer | None = None
    network: Network | None = None
    may_build: Callable[[], bool] = lambda: True

    def __post_init__(self) -> None:
        self.counters = Counters()
        self.last_check_s = 0.0
        self.stopping = False
        self._booted = False
        self._events: deque[Event] = deque()
        self._feeding = False
        self._lane: deque[Effect] = deque()
        self._lane_busy = False
        self._lane_idle = asyncio.Event()
        self._lane_idle.set()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._tickets: dict[int, asyncio.Future[bool | None]] = {}
        self._last_ticket = 0
        self._fetching: dict[bytes, None] = {}
        self._accepted_ms: dict[bytes, int] = {}
        self._built: dict[bytes, None] = {}  # undecided blocks made here
        self._finality: tuple[int, int] | None = None  # (height, ms) of the last block, written with the next
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed = False

    # --- events ------------------------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start consensus on the height after the tip."""
        tip = self.tip()
        saved, bodies = self.signer.load(tip.height + 1) if self.signer else (None, ())
        self._booted = True
        self.feed(Boot(tip, saved, bodies))

    @property
    def booted(self) -> bool:
        return self._booted

    def tip(self) -> Tip:
        """The last durable block as the engine wants it."""
        head, chain = self.chain.head, self.chain
        if head.height == chain.params.genesis_height:
            return Tip(head.height, head.hash, head.timestamp_ms, chain.authorities())
        header, certificate = chain.header(head.height), chain.certificate(head.height)
        return Tip(head.height, head.hash, head.timestamp_ms, chain.authorities(), header, certificate)

    def feed(self, event: Event) -> None:
        """Give an event to the engine and perform what it answers. Events fed meanwhile wait their turn."""
        if self.stopping or not self._booted:
            return
        self._events.append(event)
        if self._feeding:
            return
        self._feeding = True
        try:
            while self._events and not self.stopping:
                now = Now(self.clock.monotonic_ms(), self.clock.wall_ms())
                for effect in self.engine.handle(self._events.popleft(), now):
                    if is_gated(effect):
                        self._lane.append(effect)
                    else:
                        _FREE[type(effect)](self, effect)
                self._work_lane()
        except Exception as error:
            self.fail(error)
        finally:
            self._feeding = False

    def feed_frame(self, event: Event) -> None:
        """Like `feed`, for what a peer can send at will: dropped when too much waits."""
        if len(self._events) >= MAX_EVENTS:
            self.counters.frames_dropped += 1
            return
        self.feed(event)

    def ticket(self) -> tuple[int, asyncio.Future[bool | None]]:
        """A number for a Gossip event and the future of its verdict."""
        self._last_ticket += 1
        number = self._last_ticket
        future = self._tickets[number] = asyncio.get_running_loop().create_future()
        future.add_done_callback(lambda _: self._tickets.pop(number, None))
        return number, future

    def work(self) -> None:
        """Tell the engine that the pool has something (sealing mode `instant`)."""
        if self.chain.params.seal == "instant" and self.pool.ready():
            self.feed(Work())

    # --- the gated lane ----------------------------------------------------------------------------------------------

    def _work_lane(self) -> None:
        """Perform gated effects until one has to wait for the disk."""
        while self._lane and not self._lane_busy and not self._failed:
            effect = self._lane.popleft()
            if isinstance(effect, Persist):
                persists = [effect]
                while self._lane and isinstance(self._lane[0], Persist):
                    persists.append(self._lane.popleft())  # type: ignore[arg-type]
                self._occupy(self._persist(coalesce(persists)))
            elif isinstance(effect, CommitBlock):
                self._occupy(self._commit(effect))
            elif isinstance(effect, Send):
                self._send(effect)
            elif isinstance(effect, SendFinal):
                self._send_final(effect)
            elif isinstance(effect, Publish) and self.network is not None:
                self.spawn(self.network.publish(effect.topic, effect.data))

    def _occupy(self, step: Coroutine[Any, Any, _Commit | None]) -> None:
        """Run a step that the rest of the lane waits for."""
        self._lane_busy = True
        self._lane_idle.clear()

        async def run() -> None:
            done = await step
            self._lane_busy = False
            self._work_lane()
            if done is not None:
                self.feed(Committed(done.tip))  # the engine first: what the listener feeds is for the next height
                self.listener.committed(done.executed, done.tip, done.finality_ms)
                self.work()
            if not self._lane_busy:
                self._lane_idle.set()

        self.spawn(run())

    async def _persist(self, effect: Persist) -> None:
        assert self.signer is not None, "a record to sign without a key"
        self.counters.records += 1
        signer = self.signer
        await self.disk.call(lambda: signer.persist(effect.record, effect.bodies, sync=effect.sync), lane=Lane.VOTES)

    async def _commit(self, effect: CommitBlock) -> _Commit:
        """Execute (usually done already), make durable, and only then tell anybody."""
        started_ms = self.clock.monotonic_ms()
        block, certificate = effect.block, effect.certificate
        extra: dict[bytes, bytes | None] = {}
        if self._finality is not None:
            height, milliseconds = self._finality
            extra[FINALITY_ROW + height.to_bytes(8, "big")] = milliseconds.to_bytes(4, "big")
        if self.signer is not None and (note := self.signer.note()) is not None:
            extra[NOTE_ROW] = note

        def prepare() -> tuple[ExecutedBlock, Any]:
            executed = self.chain.check(block, known=self.pool.verified, verify_batch=self.threads.verify_batch)
            return executed, self.chain.prepare_commit(executed, certificate, extra)

        try:
            executed, batch = await self.threads.chain.call(prepare, lane=Lane.VOTES)
        except Rejected as error:
            broken = InvariantBroken(f"a certified block breaks a rule: {error}")
            broken.dump = self.chain.dump(block, error)
            raise broken from error
        await self.disk.call(self.chain.apply, batch, lane=Lane.VOTES)
        now_ms = self.clock.monotonic_ms()
        accepted_ms = self._accepted_ms.get(block.hash)
        finality_ms = 0 if accepted_ms is None else max(1, now_ms - accepted_ms)
        self._accepted_ms.clear()
        self._built.clear()
        self._finality = (block.height, finality_ms) if finality_ms else None
        self.counters.commit.observe((now_ms - started_ms) / 1000)
        self.counters.transactions += len(executed.extrinsics)
        self.pool.on_block(executed)
        tip = Tip(
            block.height, block.hash, block.header.timestamp_ms, self.chain.authorities(), block.header, certificate
        )
        return _Commit(executed, tip, finality_ms)

    def _send(self, effect: Send) -> None:
        if self.network is not None:
            for peer in effect.peers:
                self.network.send(peer, effect.frame, votes=effect.votes)

    def _send_final(self, effect: SendFinal) -> None:
        if self.network is not None:
            final = FinalBlock(self.chain.header(effect.height), self.chain.certificate(effect.height))
            self.network.send(effect.peer, encode_bundle(Bundle(final=final)), votes=False)

    # --- free effects ------------------------------------------------------------------------------------------------

    def _set_timer(self, effect: SetTimer) -> None:
        old = self._timers.get(effect.kind)
        if old is not None:
            old.cancel()
        event = Timer(effect.kind, effect.height, effect.round)
        loop = asyncio.get_running_loop()
        self._timers[effect.kind] = loop.call_later(effect.delay_ms / 1000, self.feed, event)

    def _verify(self, effect: Verify) -> None:
        lane = Lane.VOTES if any(isinstance(value, Vote) for value in effect.values) else Lane.PROPOSALS

        async def run() -> None:
            answer: Verified = await self.threads.verify.call(effect.run, lane=lane)
            self.feed(answer)

        self.spawn(run())

    def _build(self, effect: Build) -> None:
        if not self.may_build() or effect.height != self.chain.head.height + 1:
            return
        extrinsics = self.pool.select(effect.max_bytes, effect.max_weight) if effect.max_weight else []
        inherents = self.pool.inherents()

        async def run() -> None:
            started_ms = self.clock.monotonic_ms()
            try:
                executed = await self.threads.chain.call(lambda: self.chain.build(
                    timestamp_ms=effect.timestamp_ms, round_=effect.round, extrinsics=extrinsics, inherents=inherents,
                ))
            except Rejected as error:
                self.listener.log("warning", "no block could be built", {"height": effect.height, "reason": str(error)})
                return
            self.last_check_s = (self.clock.monotonic_ms() - started_ms) / 1000
            self.counters.build.observe(self.last_check_s)
            self._arrived(executed.block.hash)
            self._built[executed.block.hash] = None
            self.feed(Built(effect.height, effect.round, executed.block))

        self.spawn(run())

    def _check(self, effect: Check) -> None:
        self._arrived(effect.block.hash)
        self.spawn(self._judge(effect.block))

    async def _judge(self, block: Any) -> None:
        """Execute a block on the head and feed the verdict; late ones, after the head has moved, are dropped."""
        started_ms = self.clock.monotonic_ms()

        def check() -> bool:
            if block.height != self.chain.head.height + 1:
                return False
            self.chain.check(block, known=self.pool.verified, verify_batch=self.threads.verify_batch)
            return True

        try:
            in_time, reason = await self.threads.chain.call(check), ""
        except Rejected as error:
            in_time, reason = True, str(error) or error.error_name
            self.counters.bad_blocks += 1
        if block.hash not in self._built:
            self.last_check_s = (self.clock.monotonic_ms() - started_ms) / 1000
            self.counters.check.observe(self.last_check_s)
        if in_time:
            self.feed(Checked(block, not reason, reason))

    def _fetch(self, effect: Fetch) -> None:
        self._arrived(effect.hash)
        if effect.hash in self._fetching or len(self._fetching) >= FETCHES_AT_ONCE or self.network is None:
            return
        self._fetching[effect.hash] = None
        self.spawn(self._fetch_and_judge(effect, self.network))

    async def _fetch_and_judge(self, effect: Fetch, network: Network) -> None:
        try:
            request = GetBlock(effect.hash)
            for peer in effect.peers:
                try:
                    data = await network.request(peer, encode_request(request), timeout_ms=FETCH_TIMEOUT_MS)
                    block = decode_block(data, request)
                except (Timeout, Unreachable):
                    continue
                except DecodeError as error:
                    network.fault(peer, f"served another block: {error.cause}", 20)
                    continue
                if block is None:
                    continue
                if not effect.accepts(block):
                    network.fault(peer, "served a body that is not the header's", 50)
                    continue
                return await self._judge(block)
        finally:
            self._fetching.pop(effect.hash, None)

    def _arrived(self, block_hash: bytes) -> None:
        """Remember when this node first had to do with an undecided block."""
        if block_hash not in self._accepted_ms and len(self._accepted_ms) < MAX_ACCEPTED:
            self._accepted_ms[block_hash] = self.clock.monotonic_ms()

    def _report_evidence(self, effect: ReportEvidence) -> None:
        self.counters.equivocations += 1
        self.pool.add_inherent(EVIDENCE, effect.evidence.encode(), effect.evidence.key)

    def _penalise(self, effect: Penalise) -> None:
        if self.network is not None and effect.peer:
            self.network.fault(effect.peer, effect.reason, effect.points)

    def _verdict(self, effect: Verdict) -> None:
        future = self._tickets.get(effect.ticket)
        if future is not None and not future.done():
            future.set_result(effect.accept)

    def _sync(self, effect: Sync) -> None:
        self.listener.sync_hint(effect)

    def _sync_refused(self, effect: SyncRefused) -> None:
        self.listener.sync_refused(effect.height)

    def _stop(self, effect: Stop) -> None:
        self.fail(StopFault(effect.code, effect.reason), dict(effect.incident))

    def _log(self, effect: Log) -> None:
        self.listener.log(effect.level, effect.event, effect.fields)

    # --- life --------------------------------------------------------------------------------------------------------

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run on the loop. Whatever escapes is a failure of this node and stops it."""
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except NotReady as error:
            if not self.stopping:
                self.listener.log("warning", "busy", {"reason": error.cause})
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException, incident: dict[str, Any] | None = None) -> None:
        """Stop consensus at once; nothing more is signed or sent."""
        self._halt()
        if not self._failed:
            self._failed = True
            self._lane.clear()
            self.listener.failed(error, incident or {})

    def _halt(self) -> None:
        self.stopping = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._events.clear()

    async def stop(self) -> None:
        """Take in nothing more and let the lane end what it has begun."""
        self._halt()
        try:
            async with asyncio.timeout(LANE_DRAIN_S):
                if not self._failed:
                    await self._lane_idle.wait()
        except TimeoutError:
            self.listener.log("error", "the disk did not finish in time", {})
        await asyncio.sleep(0)  # what was spawned a moment ago begins, so that it can be cancelled inside
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class StopFault(Fault):
    """The engine asked to stop, with its exit code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def exit_code_of(error: BaseException) -> int:
    """Exit code of a node that ended with this error."""
    if isinstance(error, StopFault):
        return error.code
    return error.exit_code if isinstance(error, Error) else Fault.exit_code


_FREE: Final[dict[type, Callable[[Shell, Any], None]]] = {
    SetTimer: Shell._set_timer, Verify: Shell._verify, Build: Shell._build, Check: Shell._check, Fetch: Shell._fetch,
    ReportEvidence: Shell._report_evidence, Penalise: Shell._penalise, Verdict: Shell._verdict, Sync: Shell._sync,
    SyncRefused: Shell._sync_refused, Stop: Shell._stop, Log: Shell._log,
}
