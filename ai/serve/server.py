"""The neuron's server: frames over kept TCP connections, sessions side by side, hooks in order.

    verify (`admission`) -> blacklist -> priority -> rate limit -> queue -> method -> signed CLOSE -> receipt

One task runs each session's method; the connection feeds it asks. A deadline, a CANCEL or a limit stops the task at
once and closes over what was sent. A refusal before the first answer is a REFUSE; after it, what happened is the status
of the CLOSE. `connection.py` owns sockets, idle limits and the limits per address.
"""

from __future__ import annotations

import asyncio
import collections
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ai.models.model import Card, Model, Sampling
from ai.receipts import ReceiptStore
from ledger.crypto import KeyPair
from ledger.errors import Fault

from . import frames
from .admission import Admission, Seen
from .batcher import Batcher, ModelFailed
from .clock import wall_ms
from .connection import Connection, Doorkeeper
from .frames import Ask, Cancel, Finish, Frame, Greet, Open, OpenBody
from .hooks import FixedStandings, Hooks, Standing, Standings
from .latency import Latencies
from .methods import METHODS, Method
from .queue import WorkQueue
from .refusals import Refused
from .replay import SeenSet
from .sessions import CalleeSession

MAX_SESSIONS: Final = 512  # open at once, all connections together; strangers only while half of them are free
MAX_SESSIONS_PER_CONNECTION: Final = 64
STEP_IDLE_SECONDS: Final = 5.0
HANDSHAKE_SECONDS: Final = 5.0  # of TLS, during which a connection is in no table yet
DRAIN_SECONDS: Final = 3.0
CLOSING_RETRY_MS: Final = 2_000
ANSWER_MAX_BYTES: Final = frames.FRAME_MAX_BYTES - 24  # what stands before it takes at most 17
MAX_FAILURE_NAMES: Final = 32
ABANDONED: Final = -1  # ended without a closing
MAX_CONNECTIONS_PER_CALLER: Final = 2


@dataclass(slots=True)
class Counters:
    """What the neuron has done since it started; for metrics and status lines."""

    sessions: int = 0
    answers: int = 0
    units: int = 0
    receipts: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)  # by the type of the model's error; its text may be a user's

    def refuse(self, name: str) -> None:
        """Count a refusal by its name."""
        self.refused[name] = self.refused.get(name, 0) + 1

    def fail(self, error: BaseException) -> None:
        """Count a failure of the model or of a method."""
        name = type(error.__cause__ or error).__name__
        if name in self.failed or len(self.failed) < MAX_FAILURE_NAMES:
            self.failed[name] = self.failed.get(name, 0) + 1


class NeuronServer:
    """Serves one model under one hotkey on one or more subnets."""

    def __init__(
        self, model: Model, keypair: KeyPair, genesis_hash: bytes, netuids: Sequence[int], *,
        standings: Standings | None = None, hooks: Hooks | None = None, receipts: ReceiptStore | None = None,
        seen: Seen | None = None, methods: dict[str, Method] | None = None, tls: Any = None,
        clock: Callable[[], int] = wall_ms, versions: Sequence[int] = frames.VERSIONS,
    ) -> None:  # fmt: skip
        """`tls`: an ssl.SSLContext, needed outside devnets. `seen`: a ReplayGuard; the default forgets at restart."""
        self.model, self.keypair, self.genesis_hash = model, keypair, genesis_hash
        self.standings = standings if standings is not None else FixedStandings()
        self.hooks = hooks if hooks is not None else Hooks()
        self.receipts, self.clock, self.counters = receipts, clock, Counters()
        self._methods = methods or METHODS
        self._netuids, self._versions, self._tls = tuple(netuids), tuple(versions), tls
        self._seen = seen if seen is not None else SeenSet()  # an empty guard is falsy
        self.admission = Admission(
            keypair.public, genesis_hash, self._serves, self._seen, self._versions, self._is_stranger
        )
        self.queue = WorkQueue()
        self.batcher = Batcher(model, self.queue, lambda: len(self.sessions), clock)
        self.sessions: dict[tuple[Connection, int], ServedSession] = {}
        self.broken: asyncio.Future[None] | None = None  # set by `start`; fails when the neuron must not go on
        self.starting: collections.Counter[int] = collections.Counter()  # sessions let in whose method has not begun, by class
        self.doorkeeper = Doorkeeper()
        self.first_answers = Latencies()
        self._server: asyncio.Server | None = None
        self._closing = False

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> tuple[str, int]:
        """Begin to listen; returns the real address. Raises OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self.broken = loop.create_future()
        self._server = await loop.create_server(
            lambda: Connection(self), host, port, ssl=self._tls, backlog=128,
            ssl_handshake_timeout=HANDSHAKE_SECONDS if self._tls is not None else None,
        )
        self.batcher.start()
        address = self._server.sockets[0].getsockname()
        return address[0], address[1]

    async def stop(self) -> None:
        """Refuse new sessions, let the open ones end within three seconds, then close every connection."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        tasks = [session.task for session in self.sessions.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        for session in list(self.sessions.values()):
            session.stop(frames.LIMIT)
        await asyncio.gather(*(session.task for session in self.sessions.values()), return_exceptions=True)
        for connection in list(self.doorkeeper.connections):
            connection.close()
        await self.batcher.stop()
        if self.receipts is not None:
            self.receipts.close()

    def fault(self, fault: Fault) -> None:
        """The disk failed: without replay protection and receipts the neuron must not serve. `broken` says so."""
        if self.broken is not None and not self.broken.done():
            self.broken.set_exception(fault)
            self.broken.exception()  # whoever waits still sees it; nobody waiting is no mistake
        self._closing = True

    def greeting(self) -> Greet:
        """The first frame on a connection."""
        capabilities_hash = self.model.card().capabilities_hash
        return Greet(self._versions, self.genesis_hash, self.keypair.public, capabilities_hash, self.clock())

    def handle(self, connection: Connection, frame: Frame) -> None:
        """One frame of a caller. Raises Refused, whose session is the frame's."""
        if isinstance(frame, Open):
            self._open(connection, frame)
            return
        if not isinstance(frame, Ask | Finish | Cancel):
            raise Refused("malformed", f"{type(frame).__name__} comes from the callee")
        session = self.sessions.get((connection, frame.sid))
        if session is not None:
            session.receive(frame)
        elif not 0 < frame.sid <= connection.last_sid:  # one that has just ended may still be on its way
            raise Refused("out_of_order", f"no session {frame.sid}")

    def _serves(self, netuid: int, method: str) -> bool:
        return netuid in self._netuids and method in self._methods

    def _is_stranger(self, netuid: int, caller: bytes) -> bool:
        return self.standings.standing(netuid, caller).stranger

    def _open(self, connection: Connection, frame: Open) -> None:
        if frame.sid <= connection.last_sid:
            raise Refused("out_of_order", f"OPEN {frame.sid} after {connection.last_sid}")
        connection.last_sid = frame.sid
        if self._closing:
            raise Refused("closing", retry_after_ms=CLOSING_RETRY_MS)
        opened, open_id = self.admission.admit(frame, self.clock())
        standing = self.standings.standing(opened.netuid, opened.caller)
        priority = self._run_hooks(opened, standing)
        self._check_limits(connection, opened, standing, priority)
        method = self._methods[opened.method]
        if opened.max_asks and not method.takes_asks:
            raise Refused("over_budget", f"{opened.method} takes no asks")
        protocol = CalleeSession(frame, opened, open_id, self.keypair, self.genesis_hash)
        session = ServedSession(self, connection, protocol, standing, priority)
        self.sessions[connection, frame.sid] = session
        connection.open_sessions += 1
        self.starting[priority] += 1
        self.counters.sessions += 1
        session.begin(method)

    def _run_hooks(self, opened: OpenBody, standing: Standing) -> int:
        """Blacklist, priority, rate limit; returns the priority class."""
        reason = self.hooks.blacklist(opened, standing)
        if reason:
            raise Refused("blacklisted", reason)
        priority = self.hooks.priority(opened, standing)
        wait_ms = self.hooks.rate.retry_after_ms(opened.caller, standing, self.clock())
        if wait_ms:
            raise Refused("rate_limited", retry_after_ms=wait_ms)
        return priority

    def _check_limits(self, connection: Connection, opened: OpenBody, standing: Standing, priority: int) -> None:
        if self.doorkeeper.connections_of(opened.caller, connection) > MAX_CONNECTIONS_PER_CALLER:
            raise Refused("over_budget", f"over {MAX_CONNECTIONS_PER_CALLER} connections")
        if connection.open_sessions >= MAX_SESSIONS_PER_CONNECTION:
            raise Refused("over_budget", f"over {MAX_SESSIONS_PER_CONNECTION} sessions on a connection")
        if len(self.sessions) >= (MAX_SESSIONS // 2 if standing.stranger else MAX_SESSIONS):
            raise Refused("busy", f"{len(self.sessions)} sessions are open", retry_after_ms=1_000)
        p95 = self.first_answers.p95()
        if p95 is not None and opened.deadline_ms - self.clock() < 1000 * p95:
            raise Refused("expired", "the deadline is sooner than this neuron usually answers")
        self.queue.check_room(priority, sum(n for other, n in self.starting.items() if other <= priority))


class ServedSession:
    """One session at work: the protocol's state, the task that runs the method, and the `Call` the method sees."""

    def __init__(
        self, server: NeuronServer, connection: Connection, protocol: CalleeSession, standing: Standing, priority: int
    ) -> None:
        self._server, self._connection, self._protocol = server, connection, protocol
        self._standing, self._priority = standing, priority
        self.body, self.units_in, self.units_out = protocol.body, 0, 0
        self.upstream: list[tuple[bytes, bytes]] = []
        self._card = server.model.card()
        self._epoch = server.standings.epoch(protocol.open.netuid)
        self._coming: list[bytes | None] = []  # at most one ask, or None for FINISH: the protocol lets no second one in
        self._waiter: asyncio.Future[bool] | None = None
        self._begun = False
        self._stopped: int | None = None  # the status to close with, or ABANDONED
        self.task: asyncio.Task[None]

    def begin(self, method: Method) -> None:
        """Start the method's task and the deadline."""
        loop = asyncio.get_running_loop()
        self._began = loop.time()
        left_ms = self._protocol.open.deadline_ms - self._server.clock()
        self._deadline = loop.call_later(max(0, left_ms) / 1000, self.stop, frames.EXPIRED)
        self.task = loop.create_task(self._run(method))

    def receive(self, frame: Ask | Finish | Cancel) -> None:
        """A frame of the caller for this session. Raises Refused."""
        try:
            if isinstance(frame, Ask):
                self._hand_over(self._protocol.on_ask(frame))
            elif isinstance(frame, Finish):
                self._protocol.on_finish(frame)
                self._hand_over(None)
            else:
                self.stop(frames.CANCELLED)
        except Refused:
            self.abandon()
            raise

    def _hand_over(self, ask: bytes | None) -> None:
        self._coming.append(ask)
        _settle(self._waiter, True)

    def stop(self, status: int) -> None:
        """End now and close with `status` over what was sent."""
        if self._stopped is None:
            self._stopped = status
            if self._begun:  # a task cancelled before its first step would never reach its closing
                self.task.cancel()

    def abandon(self) -> None:
        """End now without a closing: the caller broke the protocol or is gone."""
        already = self._stopped is not None
        self._stopped = ABANDONED
        if self._begun and not already:
            self.task.cancel()

    async def _run(self, method: Method) -> None:
        try:
            self._begun = True
            self._server.starting[self._priority] -= 1
            if self._stopped is not None:
                raise asyncio.CancelledError
            await method.run(self)
            if self._protocol.lock_step and self._coming:
                raise Refused("out_of_order", "asked for more than the method takes")
            self._close(frames.OK)
        except asyncio.CancelledError:
            if self._stopped is not None and self._stopped != ABANDONED:
                self._close(self._stopped)
        except ModelFailed as error:
            self._server.counters.fail(error)
            self._end_badly(Refused("model_failed"), frames.MODEL_FAILED)
        except Refused as refused:
            self._end_badly(refused, frames.LIMIT)
        except Exception as error:  # a method is the author's code too; its bug ends this session alone
            self._server.counters.fail(error)
            self._end_badly(Refused("model_failed"), frames.MODEL_FAILED)
        finally:
            self._end()

    def _end(self) -> None:
        """Whatever the end was: what was computed is charged, and the session's place is free."""
        server, caller = self._server, self._protocol.open.caller
        server.hooks.rate.charge(caller, self._standing, max(1, self.units_out), server.clock())
        server.counters.units += self.units_out
        server.sessions.pop((self._connection, self._protocol.sid), None)
        self._connection.open_sessions -= 1
        self._deadline.cancel()

    def _end_badly(self, refused: Refused, status: int) -> None:
        """REFUSE where nothing was answered or the caller broke the protocol, else a CLOSE over what was sent."""
        if self._protocol.answers == 0 or refused.ends_connection:
            self._connection.refuse(self._protocol.sid, refused)
        else:
            self._close(status)

    def _close(self, status: int) -> None:
        frame, receipt, transcript = self._protocol.close(
            status, model_hash=self._card.model_hash, epoch=self._epoch, units_in=self.units_in,
            units_out=self.units_out, now_ms=self._server.clock(), upstream=tuple(self.upstream),
        )  # fmt: skip
        server, opened = self._server, self._protocol.open
        if server.receipts is not None:
            try:
                server.receipts.append(self._protocol.open_id, receipt, opened.netuid, self._epoch, transcript)
            except Fault as fault:
                server.fault(fault)
                return
            server.counters.receipts += 1
        self._connection.send(frame)

    # --- what a method sees (`methods.Call`)

    @property
    def opened(self) -> OpenBody:
        return self._protocol.open

    @property
    def open_id(self) -> bytes:
        return self._protocol.open_id

    def card(self) -> Card:
        return self._card

    def answer(self, payload: bytes) -> None:
        if len(payload) > ANSWER_MAX_BYTES:
            raise ModelFailed("an answer that fits no frame")  # the author's mistake, for which no caller is blamed
        if self._protocol.answers == 0:
            self._server.first_answers.note(asyncio.get_running_loop().time() - self._began)
        self._connection.send(self._protocol.answer(payload))
        self._server.counters.answers += 1

    async def next_ask(self) -> bytes | None:
        if not self._protocol.lock_step:
            return None
        if not self._coming:
            loop = asyncio.get_running_loop()
            self._waiter = loop.create_future()
            timer = loop.call_later(STEP_IDLE_SECONDS, _settle, self._waiter, False)
            try:
                in_time = await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
            if not in_time:
                raise Refused("too_slow", f"no step within {STEP_IDLE_SECONDS:g} s")
        return self._coming.pop()

    async def predict(self, windows: Sequence[bytes]) -> bytes:
        return await self._server.batcher.distributions(windows, self._priority, self._protocol.open.deadline_ms)

    async def next_piece(self, pieces: Iterator[bytes]) -> bytes | None:
        deadline_ms = self._protocol.open.deadline_ms
        piece: bytes | None = await self._server.batcher.call(lambda: next(pieces, None), self._priority, deadline_ms)
        return piece

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        return self._server.model.write(prompt, sampling)


def _settle(waiter: asyncio.Future[bool] | None, result: bool) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(result)
