"""Probes: questions whose answers can be scored, asked so that nobody can peek.

A batch is a number of windows of text, stratified by domain, each with secret cut positions. All neurons of a subnet are
asked about all windows at once, in lock-step: the bytes after a cut are sent only when every answer for that cut is in or
late. A window is used once. A missing, late or malformed answer counts as the null distribution (every byte equal), and
so do all answers of a session that the neuron did not close with its signature.

`plan_batch` is pure (randomness comes in as an argument); `ask_batch` drives sessions that look like any user's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from ai.distribution import ALPHABET, DISTRIBUTION_BYTES, decode_distributions
from ai.serve.client import ANNOUNCED_ASKS, OWN_IDLE_SECONDS, ROOT_BUDGET, ClientSession, NeuronAddress, NeuronClient
from ai.serve.methods import encode_appended, encode_prefixes
from ledger.errors import Error, UsageError

from .mixture import NULL_PROBABILITY, Floats, floored

MIN_CONTEXT: Final = 24
WINDOW_BYTES: Final = 128
MAX_WINDOWS: Final = 62  # of 127 bytes and their lengths: what fits the 8 KiB of a session's body
MAX_CUTS: Final = 96
STEP_TIMEOUT_S: Final = 3.0
CLOSING_PATIENCE_S: Final = 2.0  # for the closing of a session that ended early
CLOSING_POLL_S: Final = 0.02
SESSION_TIMEOUT_MS: Final = 55_000  # also of users' sessions: a deadline shall not tell a probe from traffic

assert STEP_TIMEOUT_S < OWN_IDLE_SECONDS, "who answered must be able to wait for those who have not"


@dataclass(frozen=True)
class Window:
    """A piece of text with its cuts, ascending: the byte at each cut is to be predicted from those before it."""

    domain: str
    text: bytes
    cuts: tuple[int, ...]


def plan_batch(texts: Mapping[str, bytes], windows: int, cuts: int, random: Random) -> list[Window]:
    """`windows` windows drawn evenly over the domains in `texts`, with `cuts` secret cuts each.

    Raises UsageError for numbers out of bounds and texts shorter than a window.
    """
    if not 1 <= windows <= MAX_WINDOWS or not 1 <= cuts <= MAX_CUTS:
        raise UsageError(f"a batch has 1 to {MAX_WINDOWS} windows with 1 to {MAX_CUTS} cuts each")
    domains = sorted(texts)
    short = [domain for domain in domains if len(texts[domain]) < WINDOW_BYTES]
    if short or not domains:
        raise UsageError(f"no text of {WINDOW_BYTES} bytes to probe with ({', '.join(short) or 'no domain'})")
    out = []
    for index in range(windows):
        domain = domains[index % len(domains)]
        start = random.randrange(len(texts[domain]) - WINDOW_BYTES + 1)
        places = sorted(random.sample(range(MIN_CONTEXT, WINDOW_BYTES), cuts))
        out.append(Window(domain, texts[domain][start : start + WINDOW_BYTES], tuple(places)))
    random.shuffle(out)
    return out


@dataclass(frozen=True)
class BatchResult:
    """`hits` (neurons, windows, cuts): floored probability of the true byte; `answered`: cuts that count, by neuron.

    `payloads[neuron][cut]`: the answers that count, 98 bytes a window, in the order of the windows.
    """

    hits: Floats
    answered: list[int]
    payloads: list[list[bytes]]

    def said(self, neuron: int, window: int) -> list[bytes]:
        """What a neuron answered for a window, 98 bytes a cut; shorter where it left early."""
        at = window * DISTRIBUTION_BYTES
        return [payload[at : at + DISTRIBUTION_BYTES] for payload in self.payloads[neuron]]

    def distributions(self, places: Sequence[tuple[int, int]]) -> Floats:
        """(neurons, places, 256): floored answers at pairs of window and cut; the null distribution where there is none."""
        out = np.full((len(self.payloads), len(places), ALPHABET), NULL_PROBABILITY)
        for neuron, answers in enumerate(self.payloads):
            there = [i for i, (_, cut) in enumerate(places) if cut < len(answers)]
            if there:
                joined = b"".join(self.said(neuron, places[i][0])[places[i][1]] for i in there)
                out[neuron, there] = floored(decode_distributions(joined, len(there)))
        return out


async def ask_batch(
    client: NeuronClient, neurons: Sequence[NeuronAddress], netuid: int, windows: Sequence[Window], *,
    step_timeout_s: float = STEP_TIMEOUT_S, hops: int = 0,
) -> BatchResult:
    """Ask all neurons about all windows in lock-step. Never raises for what a neuron does or fails to do.

    `step_timeout_s`: how long a neuron may take for a cut, dialling included; below the 4 s that a session may idle.
    """
    steps = len(windows[0].cuts) if windows else 0
    hits = np.full((len(neurons), len(windows), steps), NULL_PROBABILITY)
    answered = [0] * len(neurons)
    payloads: list[list[bytes]] = [[] for _ in neurons]
    if steps and neurons:
        gate = _LockStep(len(neurons), step_timeout_s)
        examinations = [_Examination(client, neuron, netuid, windows, gate, hops) for neuron in neurons]
        async with asyncio.TaskGroup() as group:
            for examination in examinations:
                group.create_task(examination.run())
        for index, examination in enumerate(examinations):
            if examination.signed:
                answered[index] = examination.answered
                hits[index, :, : examination.answered] = examination.hits[:, : examination.answered]
                payloads[index] = examination.payloads
    return BatchResult(hits, answered, payloads)


class _Examination:
    """One neuron's session of a batch. `hits` (windows, cuts) hold for the first `answered` cuts, if `signed`."""

    def __init__(
        self, client: NeuronClient, neuron: NeuronAddress, netuid: int, windows: Sequence[Window], gate: _LockStep, hops: int
    ) -> None:
        self._client, self._neuron, self._netuid, self._windows = client, neuron, netuid, windows
        self._gate, self._hops = gate, hops
        self.hits = np.full((len(windows), len(windows[0].cuts)), NULL_PROBABILITY)
        self.answered = 0
        self.payloads: list[bytes] = []
        self.signed = False
        self._left = False
        self._patience_over = 0.0

    async def run(self) -> None:
        session: ClientSession | None = None
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout_at(self._gate.deadline):
                    session = await stack.enter_async_context(self._open())
                    self._note(await session.answer())
                await self._follow(session)
                await self._finish(session)
        except (Error, TimeoutError, OSError):
            pass
        finally:
            self._leave()
        if session is not None:
            self.signed = await _closed(session, self._patience_over)

    def _open(self) -> AbstractAsyncContextManager[ClientSession]:
        prefixes = encode_prefixes([window.text[: window.cuts[0]] for window in self._windows])
        return self._client.session(
            self._neuron, "distribution", prefixes, netuid=self._netuid, max_asks=ANNOUNCED_ASKS,
            timeout_ms=SESSION_TIMEOUT_MS, hops=self._hops, budget=ROOT_BUDGET,
        )

    async def _follow(self, session: ClientSession) -> None:
        """The cuts after the first: each is asked when nobody is still to answer the one before."""
        for step in range(1, len(self._windows[0].cuts)):
            await self._gate.pass_step()
            appended = [window.text[window.cuts[step - 1] : window.cuts[step]] for window in self._windows]
            async with asyncio.timeout_at(self._gate.deadline):
                self._note(await session.ask(encode_appended(appended)))

    async def _finish(self, session: ClientSession) -> None:
        self._leave()
        async with asyncio.timeout_at(self._patience_over):
            await session.finish()

    def _leave(self) -> None:
        """Nobody waits for this neuron any more; its closing may still come for a while."""
        if not self._left:
            self._left = True
            self._patience_over = asyncio.get_running_loop().time() + CLOSING_PATIENCE_S
            self._gate.leave()

    def _note(self, payload: bytes) -> None:
        """Score the answer for the next cut. Raises DecodeError."""
        probabilities = floored(decode_distributions(payload, len(self._windows)))
        truth = [window.text[window.cuts[self.answered]] for window in self._windows]
        self.hits[:, self.answered] = probabilities[np.arange(len(truth)), truth]
        self.payloads.append(payload)
        self.answered += 1


async def _closed(session: ClientSession, patience_over: float) -> bool:
    """True once a session that is over has a valid closing. After a cancel it comes a little later."""
    while not session.over and asyncio.get_running_loop().time() < patience_over:
        await asyncio.sleep(CLOSING_POLL_S)
    return session.settled is not None


class _LockStep:
    """Everybody passes to the next cut only when all who still take part have answered the last one.

    `deadline`: loop time until which the running cut is to be answered. Whoever is late leaves, so the wait is bounded.
    """

    def __init__(self, members: int, step_timeout_s: float) -> None:
        self._members, self._step_timeout_s = members, step_timeout_s
        self._waiting: list[asyncio.Future[None]] = []
        self._loop = asyncio.get_running_loop()
        self.deadline = self._loop.time() + step_timeout_s

    async def pass_step(self) -> None:
        """Return when the next cut may be asked."""
        passed = self._loop.create_future()
        self._waiting.append(passed)
        self._release()
        await passed

    def leave(self) -> None:
        """One member less to wait for."""
        self._members -= 1
        self._release()

    def _release(self) -> None:
        if self._waiting and len(self._waiting) >= self._members:
            self.deadline = self._loop.time() + self._step_timeout_s
            waiting, self._waiting = self._waiting, []
            for passed in waiting:
                if not passed.done():
                    passed.set_result(None)
