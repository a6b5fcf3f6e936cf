"""The caller's side: one kept connection per neuron, many sessions on it, a checked receipt for each.

    client = NeuronClient(keypair, genesis_hash, receipts=store)
    async with client.session(neuron, "distribution", body, netuid=2, max_asks=3) as session:
        first = await session.answer()
        second = await session.ask(encode_appended([b"4"]))
        settled = await session.finish()

Leaving the block without `finish` cancels the session; the neuron then stops working and its closing is still filed.
An answer that breaks the protocol ends the session with the error that says how; a session without a valid closing has
no receipt, whatever was answered.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ai.models.model import Card, Sampling
from ai.receipts import Checked, Receipt, ReceiptStore
from ledger.crypto import KeyPair
from ledger.errors import Error, NotFound, Timeout, Unreachable

from . import frames
from .clock import wall_ms
from .dialling import CallerConnection, dial
from .frames import Answer, Cancel, Close, OpenBody
from .methods import TextRequest, encode_prefixes
from .refusals import Refused
from .sessions import CallerSession

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    from ledger.client.records import NeuronRecord

DEFAULT_TIMEOUT_MS: Final = 10_000
GRACE_SECONDS: Final = 2.0  # how long after the deadline or a cancel the neuron's closing is waited for
OWN_IDLE_SECONDS: Final = 4.0  # below the neuron's 5 s, so that a slow caller cancels instead of being cut off
MAX_CONNECTIONS: Final = 256
ALL_USED_RETRY_MS: Final = 1_000
SESSIONS_PER_CONNECTION: Final = 64
MAX_WAITING: Final = 256  # sessions that wait for a place on a full connection
REDIAL_AFTER_SECONDS: Final = 0.5
# What users' sessions and probes have in common, so that a neuron cannot tell them apart by what they announce.
ANNOUNCED_ASKS: Final = 512
ROOT_BUDGET: Final = 4  # sessions below one of a request's three


@dataclass(frozen=True, slots=True)
class NeuronAddress:
    """A neuron as the chain's serving record gives it. `capabilities_hash` empty: not compared (a neuron off chain)."""

    hotkey: bytes
    ip: str
    port: int
    capabilities_hash: bytes = b""
    tls_spki_hash: bytes = b""

    @classmethod
    def of(cls, neuron: NeuronRecord) -> NeuronAddress:
        """Where a neuron answers, as its record on chain says. Raises NotFound where it has none."""
        serving = neuron.serving
        if serving is None:
            raise NotFound(f"neuron {neuron.name or neuron.uid} has no serving record")
        return cls(neuron.hotkey, serving.ip, serving.port, serving.capabilities_hash, serving.tls_spki_hash)


@dataclass(frozen=True, slots=True)
class Settled:
    """What a closed session leaves: its receipt and what it says, already checked."""

    open_id: bytes
    receipt: Receipt
    checked: Checked

    @property
    def status(self) -> int:
        """0 ok, 1 cancelled, 2 expired, 3 model failed, 4 stopped at a limit."""
        return self.checked.close.status


class NeuronClient:
    """Calls neurons under one key. Use it in one event loop; `close` it at the end."""

    def __init__(
        self, keypair: KeyPair, genesis_hash: bytes, *, receipts: ReceiptStore | None = None,
        epoch_of: Callable[[int], int] | None = None, allow_private: bool = False, allow_clear: bool = False,
        clock: Callable[[], int] = wall_ms,
    ) -> None:  # fmt: skip
        """`epoch_of(netuid)`: under which epoch receipts are filed; without it, the one the neuron's closing names.

        `allow_private`: addresses of private networks may be dialled; `allow_clear`: neurons without a TLS key may be
        called. Both are the chain's properties (`allow_private`, `devnet`), never the caller's choice.
        """
        self.keypair, self.genesis_hash, self.receipts = keypair, genesis_hash, receipts
        self._epoch_of, self._clock = epoch_of, clock
        self._allow_private, self._allow_clear = allow_private, allow_clear
        self._lines: dict[NeuronAddress, _Line] = {}

    def session(
        self, neuron: NeuronAddress, method: str, body: bytes = b"", *, netuid: int, max_asks: int = 0,
        timeout_ms: int = DEFAULT_TIMEOUT_MS, hops: int = 0, budget: int = 0,
        trace: Sequence[tuple[bytes, bytes]] = (),
    ) -> contextlib.AbstractAsyncContextManager[ClientSession]:  # fmt: skip
        """Open a session for the time of an `async with`. Raises Unreachable, Refused, Timeout, here or at the first answer.

        `timeout_ms`: from now to the signed deadline, at most 60,000, waiting for a connection included.
        """
        return _Opening(
            lambda: self._open(neuron, method, body, netuid, max_asks, timeout_ms, hops, budget, tuple(trace))
        )

    async def _open(
        self, neuron: NeuronAddress, method: str, body: bytes, netuid: int, max_asks: int, timeout_ms: int, hops: int,
        budget: int, trace: tuple[tuple[bytes, bytes], ...],
    ) -> ClientSession:  # fmt: skip
        deadline_ms = self._clock() + timeout_ms
        line = self._line(neuron)
        connection = line.free()
        if connection is None:
            try:
                async with asyncio.timeout(timeout_ms / 1000):
                    connection = await line.place()
            except TimeoutError:
                raise Timeout(f"no connection to {neuron.ip}:{neuron.port} in time") from None
        issued_at_ms = min(self._clock(), deadline_ms - 1)
        opened = OpenBody(
            connection.version, frames.VERSION, netuid, self.keypair.public, neuron.hotkey, method, os.urandom(16),
            issued_at_ms, deadline_ms, max_asks, hops, budget, trace, frames.payload_hash(body),
        )  # fmt: skip
        protocol = CallerSession(connection.next_sid(), opened, body, self.keypair, self.genesis_hash)
        return ClientSession(connection, protocol, self._settle, (deadline_ms - issued_at_ms) / 1000)

    async def distribution(
        self, neuron: NeuronAddress, prefixes: Iterable[bytes], *, netuid: int, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> tuple[NDArray[float64], Settled]:
        """Next-byte probabilities (windows, 256) after each prefix, and the receipt."""
        from ai.distribution import decode_distributions

        windows = list(prefixes)
        body = encode_prefixes(windows)
        async with self.session(neuron, "distribution", body, netuid=netuid, timeout_ms=timeout_ms) as session:
            answer = decode_distributions(await session.answer(), len(windows))
            return answer, await session.finish()

    async def text(
        self, neuron: NeuronAddress, prompt: bytes, sampling: Sampling | None = None, *, netuid: int,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
    ) -> tuple[bytes, Settled]:  # fmt: skip
        """Text after a prompt, whole, and the receipt."""
        body = TextRequest((("prompt", prompt),), sampling or Sampling()).encode()
        async with self.session(neuron, "text", body, netuid=netuid, timeout_ms=timeout_ms) as session:
            pieces = [piece async for piece in session.stream()]
            return b"".join(pieces), await session.finish()

    async def card(
        self, neuron: NeuronAddress, *, netuid: int, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> tuple[Card, Settled]:
        """The expert descriptor, checked against the capabilities hash on chain, and the receipt."""
        async with self.session(neuron, "card", netuid=netuid, timeout_ms=timeout_ms) as session:
            card = Card.decode(await session.answer())
            settled = await session.finish()
        if neuron.capabilities_hash and card.capabilities_hash != neuron.capabilities_hash:
            raise Refused("wrong_callee", "the card is not the one on chain")
        return card, settled

    async def close(self) -> None:
        """Close all connections; open sessions fail."""
        for line in self._lines.values():
            line.close()
        self._lines.clear()

    def _line(self, neuron: NeuronAddress) -> _Line:
        """The line to exactly this address; another address or model of the same neuron is another line."""
        line = self._lines.pop(neuron, None)
        if line is None:
            if len(self._lines) >= MAX_CONNECTIONS:
                self._drop_idle_line()
            line = _Line(self._dial, neuron)
        self._lines[neuron] = line  # the one used last is the last to be dropped
        return line

    def _drop_idle_line(self) -> None:
        """Close the idle line that was used longest ago: a session at work is broken off for nobody."""
        idle = next((neuron for neuron, line in self._lines.items() if line.idle), None)
        if idle is None:
            raise Refused("busy", f"all {MAX_CONNECTIONS} connections are in use", retry_after_ms=ALL_USED_RETRY_MS)
        self._lines.pop(idle).close()

    async def _dial(self, neuron: NeuronAddress) -> CallerConnection:
        return await dial(
            neuron, self.genesis_hash, allow_private=self._allow_private, allow_clear=self._allow_clear
        )  # fmt: skip

    def _settle(self, protocol: CallerSession, frame: Close) -> Settled:
        receipt, checked, transcript = protocol.on_close(frame)
        if self.receipts is not None:
            netuid = checked.open.netuid
            epoch = self._epoch_of(netuid) if self._epoch_of is not None else checked.close.epoch
            self.receipts.append(checked.open_id, receipt, netuid, epoch, transcript)
        return Settled(checked.open_id, receipt, checked)


class _Opening(contextlib.AbstractAsyncContextManager["ClientSession"]):
    """A session that is opened on entering and left on leaving."""

    __slots__ = ("_open", "_session")

    def __init__(self, open_session: Callable[[], Awaitable[ClientSession]]) -> None:
        self._open = open_session

    async def __aenter__(self) -> ClientSession:
        self._session = await self._open()
        return self._session

    async def __aexit__(self, *_: object) -> None:
        self._session.leave()


class _Line:
    """The one connection to a neuron: dialled when needed, by one at a time, with a place for 64 sessions."""

    def __init__(self, dialler: Callable[[NeuronAddress], Any], neuron: NeuronAddress) -> None:
        self.neuron = neuron
        self._dialler = dialler
        self._dialling = asyncio.Lock()
        self._connection: CallerConnection | None = None
        self._failed: tuple[float, Error] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self._users = 0  # who waits for a place, a dial included

    @property
    def idle(self) -> bool:
        """True while nobody uses it, waits for it or dials it."""
        used = self._connection is not None and self._connection.sessions > 0
        return not (used or self._users)

    def free(self) -> CallerConnection | None:
        """The connection if it is there and one more session fits on it."""
        connection = self._connection
        if connection is not None and connection.usable and connection.sessions < SESSIONS_PER_CONNECTION:
            return connection
        return None

    async def place(self) -> CallerConnection:
        """The connection, as soon as one more session fits on it. Raises Unreachable where the line is closed meanwhile."""
        self._users += 1
        try:
            return await self._place()
        finally:
            self._users -= 1

    async def _place(self) -> CallerConnection:
        while True:
            await self._connected()
            if (connection := self.free()) is not None:
                return connection
            if len(self._waiting) >= MAX_WAITING:
                raise Refused("busy", f"{MAX_WAITING} sessions wait for this neuron already")
            place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(place)
            await place

    async def _connected(self) -> CallerConnection:
        if self._connection is not None and self._connection.usable:
            return self._connection
        async with self._dialling:
            if self._closed:
                raise Unreachable("the connection was closed", hint="")
            if self._connection is not None and self._connection.usable:
                return self._connection
            now = asyncio.get_running_loop().time()
            if self._failed is not None and now < self._failed[0]:
                raise self._failed[1]
            try:
                self._connection = await self._dialler(self.neuron)
            except Error as error:
                self._failed = (now + REDIAL_AFTER_SECONDS, error)
                raise
            if self._closed:  # while it was dialled
                self._connection.close()
                raise Unreachable("the connection was closed", hint="")
            self._connection.on_idle = self._free_place
            return self._connection

    def _free_place(self) -> None:
        while self._waiting:
            place = self._waiting.popleft()
            if not place.done():
                place.set_result(None)
                return

    def close(self) -> None:
        self._closed = True
        if self._connection is not None:
            self._connection.close()
        while self._waiting:
            self._free_place()  # for nothing: whoever waits finds the line closed


class ClientSession:
    """One session as its caller sees it. Answers wait here until they are taken; the closing settles it."""

    def __init__(
        self, connection: CallerConnection, protocol: CallerSession, settle: Callable[[CallerSession, Close], Settled],
        seconds: float,
    ) -> None:  # fmt: skip
        self._connection, self._protocol, self._settle = connection, protocol, settle
        self._loop = asyncio.get_running_loop()
        self._answers: deque[bytes] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Error | None = None
        self._left = False
        self._idle: asyncio.TimerHandle | None = None
        self.settled: Settled | None = None
        connection.attach(protocol.sid, self)
        self._deadline = self._loop.call_later(seconds + GRACE_SECONDS, self._expire)
        connection.send(protocol.frame)

    @property
    def open_id(self) -> bytes:
        """The session's name, and its receipt's."""
        return self._protocol.open_id

    @property
    def over(self) -> bool:
        """True once nothing more will come: the neuron has closed the session, or it has failed."""
        return self.settled is not None or self._error is not None

    async def answer(self) -> bytes:
        """The next answer. Raises Refused, Timeout or Unreachable as the session ended, and at its regular end too."""
        while not self._answers:
            self._raise_if_over()
            await self._wait()
        return self._answers.popleft()

    async def ask(self, payload: bytes) -> bytes:
        """Send the next ask and wait for its answer."""
        self._raise_if_over()
        self._stop_idling()
        self._connection.send(self._protocol.ask(payload))
        return await self.answer()

    async def finish(self) -> Settled:
        """End the session and wait for the neuron's closing. Answers that were not taken are dropped."""
        if self._protocol.open.max_asks and self.settled is None:
            self._raise_if_over()
            self._stop_idling()
            self._connection.send(self._protocol.finish())
        while self.settled is None:
            if self._error is not None:
                raise self._error
            await self._wait()
        return self.settled

    async def stream(self) -> AsyncIterator[bytes]:
        """Answers as they come, until the neuron closes. Raises Timeout where it closed at the deadline."""
        while True:
            if self._answers:
                yield self._answers.popleft()
            elif self.settled is not None and self.settled.status == frames.OK:
                return
            else:
                self._raise_if_over()
                await self._wait()

    def leave(self) -> None:
        """Cancel unless the session is over. The closing is filed when it comes; nobody waits for it."""
        self._left = True
        self._stop_idling()
        if self.settled is None and self._error is None:
            self._cancel()

    # --- the connection's side (`dialling.Sink`)

    def deliver(self, frame: Answer | Close) -> None:
        if isinstance(frame, Close):
            self.settled = self._settle(self._protocol, frame)
            self._end()
        elif not self._left:
            self._answers.append(self._protocol.on_answer(frame))
            if self._protocol.open.max_asks:
                self._idle = self._loop.call_later(OWN_IDLE_SECONDS, self._idled)
        else:  # still chained, because the closing is over everything that was sent
            self._protocol.on_answer(frame)
        self._notify()

    def fail(self, error: Error) -> None:
        if self._error is None and self.settled is None:
            self._error = error
        self._end(detach=False)
        self._notify()

    async def _wait(self) -> None:
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _notify(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _raise_if_over(self) -> None:
        if self._error is not None:
            raise self._error
        if self.settled is not None:
            raise _ended_early(self.settled.status)

    def _cancel(self) -> None:
        with contextlib.suppress(Unreachable):
            self._connection.send(Cancel(self._protocol.sid))
        self._deadline.cancel()
        self._deadline = self._loop.call_later(GRACE_SECONDS, self._expire)

    def _idled(self) -> None:
        self._error = Refused("too_slow", f"no ask within {OWN_IDLE_SECONDS:g} s")
        self._cancel()

    def _stop_idling(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _expire(self) -> None:
        self.fail(Timeout("the neuron did not close the session in time"))
        self._connection.detach(self._protocol.sid)

    def _end(self, *, detach: bool = True) -> None:
        self._deadline.cancel()
        self._stop_idling()
        if detach:
            self._connection.detach(self._protocol.sid)


def _ended_early(status: int) -> Error:
    """The error of a caller that wanted more from a session that the neuron has closed."""
    if status == frames.EXPIRED:
        return Timeout("the neuron closed the session at its deadline")
    if status == frames.MODEL_FAILED:
        return Refused("model_failed", "after its first answer")
    if status == frames.LIMIT:
        return Refused("over_budget", "the neuron stopped at a limit")
    return Refused("out_of_order", f"the session is over ({frames.STATUS_NAMES[status]})")
