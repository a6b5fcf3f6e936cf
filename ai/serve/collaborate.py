"""A neuron that asks other neurons: their distributions and its own are mixed into its answer.

An OPEN says how far this may go: `hops` is 0 or 1 and falls by one a level, `budget` is how many sessions may still be
opened below and is divided among the children, `trace` is the path so far. Each child's trace is the parent's and
(own hotkey, the parent's open_id), so every hop signs the whole path; who finds itself in it refuses with `loop`. A child
gets 0.6 of the time that is left. With no hop, no budget or nobody to ask the neuron answers alone.

Children run in lock-step with the session they serve. A child that is late or fails is left out from then on. At the end
the receipts of those that were used travel with CLOSE, so that whoever scores the answer knows what it rests on.

`Mixer` is how answers are put together; the default is the fixed-share Bayes mixture that scores neurons, too.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random, SystemRandom
from typing import TYPE_CHECKING, Any, Final, Protocol

from ledger.errors import DecodeError, Error

from . import frames
from .client import ClientSession, NeuronAddress, NeuronClient, Settled
from .clock import wall_ms
from .frames import OpenBody
from .methods import Call, Windows, read_appended

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

    Floats = NDArray[float64]

MAX_FAN_OUT: Final = 3
CHILD_SHARE: Final = 0.6  # of the time that is left
SHORTEST_CHILD_MS: Final = 50
GRACE_S: Final = 0.1  # how long children are waited for once the own answer is there
GRACE_FACTOR: Final = 3.0  # or so many times as long as that one took
CLOSING_TIMEOUT_S: Final = 1.0
OWN_SHARE: Final = 0.5  # first weight of the own answer; the children share the rest
EXPLORATION_SHARE: Final = 0.1  # of sessions whose last child is drawn from all peers
UNKNOWN_MERIT: Final = 0.25
SMOOTHING: Final = 0.1
REST_SECONDS: Final = 5.0
MAX_PEERS_REMEMBERED: Final = 512

FAILURES = (Error, TimeoutError, OSError)


@dataclass(frozen=True, slots=True)
class Peer:
    """A neuron that may be asked. `trust`: its share of the subnet's incentive."""

    address: NeuronAddress
    trust: float


class Mixer(Protocol):
    """Puts answers together, for one session. Rows are windows that are not done."""

    def mix(self, own: Floats, others: dict[bytes, Floats]) -> Floats:
        """Probabilities (windows, 256) of the own (windows, 256) and of those of others, by hotkey, that answered."""
        ...

    def observe(self, parts: Sequence[bytes]) -> None:
        """What came after each window of the session; empty: it is done now or was before."""
        ...

    def merit(self) -> dict[bytes, float]:
        """What each other one was worth, 0 to 1, by hotkey."""
        ...


@dataclass(frozen=True, slots=True)
class Plan:
    """How the children of a session are opened."""

    deadline_ms: int
    hops: int
    budgets: tuple[int, ...]  # one a child
    trace: tuple[tuple[bytes, bytes], ...]


def plan(opened: OpenBody, open_id: bytes, now_ms: int, fan_out: int, peers: int) -> Plan | None:
    """How many children a session may have and with what; None: answer alone."""
    count = min(fan_out, MAX_FAN_OUT, opened.budget, peers)
    left_ms = int(CHILD_SHARE * (opened.deadline_ms - now_ms))
    if opened.hops == 0 or count == 0 or left_ms < SHORTEST_CHILD_MS or len(opened.trace) >= frames.MAX_TRACE:
        return None
    each, more = divmod(opened.budget - count, count)
    budgets = tuple(each + (index < more) for index in range(count))
    return Plan(now_ms + left_ms, opened.hops - 1, budgets, (*opened.trace, (opened.callee, open_id)))


class Collaborator:
    """The method `distribution` with the help of peers. `peers(netuid)` gives who serves there now."""

    def __init__(
        self, client: NeuronClient, peers: Callable[[int], Sequence[Peer]], *, fan_out: int = MAX_FAN_OUT,
        mixer: Callable[[], Mixer] | None = None, clock: Callable[[], int] = wall_ms, random: Random | None = None,
    ) -> None:  # fmt: skip
        self._client, self._peers, self._fan_out, self._clock = client, peers, fan_out, clock
        self._mixer = mixer if mixer is not None else BayesMixer
        self._random: Random = random if random is not None else SystemRandom()
        self._merit: OrderedDict[bytes, float] = OrderedDict()
        self._rests_until_ms: dict[bytes, int] = {}

    async def distribution(self, call: Call) -> None:
        """As `methods.distribution`, with the answers of peers mixed in."""
        from ai.distribution import decode_distributions, encode_distributions

        windows = Windows(call.body, call.card().context_bytes)
        call.units_in += sum(map(len, windows.running))
        async with AsyncExitStack() as stack:
            children = self._open(call, stack)
            mixer, payload = self._mixer(), b""
            while True:
                running = windows.running
                rows = await self._step(call, running, children, payload)
                if not children or not running:
                    call.answer(rows)
                else:
                    others = {key: child.rows for key, child in children.items() if len(child.rows) == len(running)}
                    call.answer(encode_distributions(mixer.mix(decode_distributions(rows, len(running)), others)))
                call.units_out += len(running)
                ask = await call.next_ask()
                if ask is None:
                    break
                payload = ask
                call.units_in += windows.append(ask)
                mixer.observe(read_appended(ask))
            await self._finish(call, children)
            self._learn(mixer.merit())

    def _open(self, call: Call, stack: AsyncExitStack) -> dict[bytes, _Child]:
        opened, now_ms = call.opened, self._clock()
        peers = self._choose(opened, now_ms)
        made = plan(opened, call.open_id, now_ms, self._fan_out, len(peers))
        if made is None:
            return {}
        children = {}
        for peer, budget in zip(peers, made.budgets, strict=False):
            child = _Child(self._client, peer, opened, call.body, made, budget, now_ms)
            stack.push_async_callback(child.close)
            children[peer.address.hotkey] = child
        return children

    def _choose(self, opened: OpenBody, now_ms: int) -> list[Peer]:
        """Peers by trust and by what they were worth here, best first; never one that the request has passed."""
        passed = {opened.caller, opened.callee, *(hotkey for hotkey, _ in opened.trace)}
        peers = [
            peer for peer in self._peers(opened.netuid)
            if peer.address.hotkey not in passed and now_ms >= self._rests_until_ms.get(peer.address.hotkey, 0)
        ]  # fmt: skip

        def value(peer: Peer) -> float:
            return peer.trust + self._merit.get(peer.address.hotkey, UNKNOWN_MERIT)

        peers.sort(key=lambda peer: (-value(peer), peer.address.hotkey))
        last = min(self._fan_out, MAX_FAN_OUT) - 1
        if 0 <= last < len(peers) - 1 and self._random.random() < EXPLORATION_SHARE:
            drawn = self._random.randrange(last, len(peers))
            peers[last], peers[drawn] = peers[drawn], peers[last]
        return peers

    async def _step(self, call: Call, running: Sequence[bytes], children: dict[bytes, _Child], payload: bytes) -> bytes:
        """The own answer; those of children that come in time are in their `rows`, the others are dropped."""
        loop = asyncio.get_running_loop()
        tasks = {asyncio.ensure_future(child.next(len(running), payload)): key for key, child in children.items()}
        began = loop.time()
        try:
            rows = await call.predict(running)
            if tasks:
                took = loop.time() - began
                await asyncio.wait(tasks, timeout=max(GRACE_S, GRACE_FACTOR * took))
        finally:
            for task in tasks:
                if not task.done():
                    task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for key, result in zip(tasks.values(), results, strict=True):
            if isinstance(result, BaseException):
                if not isinstance(result, (*FAILURES, asyncio.CancelledError)):
                    raise result
                await self._drop(children, key)
        return rows

    async def _drop(self, children: dict[bytes, _Child], key: bytes) -> None:
        self._rests_until_ms[key] = self._clock() + int(REST_SECONDS * 1000)
        while len(self._rests_until_ms) > MAX_PEERS_REMEMBERED:
            self._rests_until_ms.pop(next(iter(self._rests_until_ms)))
        await children.pop(key).close()

    async def _finish(self, call: Call, children: dict[bytes, _Child]) -> None:
        """End the children in order; the receipts of those that ended so go with the closing."""
        settled = await asyncio.gather(*(child.finish() for child in children.values()))
        used = [each for each in settled if each is not None][: frames.MAX_UPSTREAM]
        call.upstream.extend((each.open_id, each.receipt.encode()) for each in used)

    def _learn(self, merit: dict[bytes, float]) -> None:
        for hotkey, value in merit.items():
            before = self._merit.pop(hotkey, UNKNOWN_MERIT)
            self._merit[hotkey] = before + SMOOTHING * (value - before)
        while len(self._merit) > MAX_PEERS_REMEMBERED:
            self._merit.popitem(last=False)


class _Child:
    """One session below the one that is served. `rows` (windows, 256): its newest answer."""

    def __init__(
        self, client: NeuronClient, peer: Peer, opened: OpenBody, body: bytes, made: Plan, budget: int, now_ms: int
    ) -> None:
        self._opening = client.session(
            peer.address, "distribution", body, netuid=opened.netuid, max_asks=opened.max_asks,
            timeout_ms=made.deadline_ms - now_ms, hops=made.hops, budget=budget, trace=made.trace,
        )
        self._stack = AsyncExitStack()
        self._session: ClientSession | None = None
        self.rows: Any = ()

    async def next(self, windows: int, payload: bytes) -> None:
        """Open and take the first answer, or ask on. Raises what the peer or the way to it failed with."""
        from ai.distribution import decode_distributions

        self.rows = ()
        if self._session is None:
            self._session = await self._stack.enter_async_context(self._opening)
            answer = await self._session.answer()
        else:
            answer = await self._session.ask(payload)
        self.rows = decode_distributions(answer, windows)

    async def finish(self) -> Settled | None:
        """End in order; None where the peer gave no valid closing."""
        try:
            async with asyncio.timeout(CLOSING_TIMEOUT_S):
                return await self._session.finish() if self._session is not None else None
        except (*FAILURES, DecodeError):
            return None

    async def close(self) -> None:
        """Cancel unless it is over."""
        await self._stack.aclose()


class BayesMixer:
    """A fixed-share Bayes mixture for each window: who predicted what came gains weight."""

    def __init__(self) -> None:
        from ai.judge.mixture import Mixture

        self._kind = Mixture
        self._mixtures: list[Mixture | None] = []  # by window of the session; None: done
        self._answers: list[dict[str, Floats]] = []

    def mix(self, own: Floats, others: dict[bytes, Floats]) -> Floats:
        import numpy as np

        if not self._mixtures:
            share = (1.0 - OWN_SHARE) / len(others) if others else 0.0
            prior = {"": OWN_SHARE, **{hotkey.hex(): share for hotkey in others}}
            self._mixtures = [self._kind.start(prior) for _ in own]
        named = {"": own, **{hotkey.hex(): rows for hotkey, rows in others.items()}}
        running = [mixture for mixture in self._mixtures if mixture is not None]
        self._answers = [{name: rows[at] for name, rows in named.items()} for at in range(len(own))]
        return np.stack([
            mixture.predict({name: row for name, row in answers.items() if name in mixture.weights})
            for mixture, answers in zip(running, self._answers, strict=True)
        ])

    def observe(self, parts: Sequence[bytes]) -> None:
        if not self._answers:  # nobody is left to mix with
            return
        answers = iter(self._answers)
        for index, mixture in enumerate(self._mixtures):
            if mixture is None:
                continue
            known = next(answers)
            if parts[index]:
                mixture.observe(parts[index][0], known)
            else:
                self._mixtures[index] = None
        self._answers = []

    def merit(self) -> dict[bytes, float]:
        live = [mixture for mixture in self._mixtures if mixture is not None]
        names = {name for mixture in live for name in mixture.weights if name}
        return {bytes.fromhex(name): sum(m.weights.get(name, 0.0) for m in live) / len(live) for name in names}
