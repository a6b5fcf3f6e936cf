"""Text from several experts: route, open sessions, mix their next-byte distributions, draw, repeat.

    choose    the router picks the generalist and the two best beside it; again every 16 bytes, and when one was lost
    open      one lock-step session with each; its first answers cover the last bytes of the prompt, whose true
              continuation is known: they set the first weights of the mixture by Bayes' rule
    step      the drawn byte is sent to all, the next distributions come back; who is late is dropped (`hedge`)
    close     each session ends with a receipt, signed by both sides; a reply names the receipts it rests on

A session lasts as long as its expert stays chosen. However a request ends, all its sessions end with it: finished where
it came to its end, cancelled where it was broken off.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any, Final

from ai.distribution import decode_distribution, decode_distributions
from ai.judge.mixture import Floats, Mixture
from ai.judge.probes import SESSION_TIMEOUT_MS
from ai.models.model import Sampling, draw
from ai.serve.client import ANNOUNCED_ASKS, ROOT_BUDGET, ClientSession
from ai.serve.methods import encode_appended, encode_prefixes
from ledger.errors import Error, Unreachable

from .hedge import FAILURES, Answers, Hedge, Hedged, gather
from .market import Expert, Market
from .router import TOP, Decision
from .text import stop_length

REGATE_BYTES: Final = 16
SCORED_BYTES: Final = 12  # last bytes of the prompt that set the first weights
CONTEXT_BYTES: Final = 128
MORE_ROUTES: Final = 3
CLOSING_TIMEOUT_S: Final = 1.0
REWARD_OF_FAILURE: Final = 0.0


@dataclass(frozen=True)
class Wish:
    """What a caller may say about routing: a subnet, one expert, fewer places, hotkeys of experts to leave out."""

    netuid: int | None = None
    only: Expert | None = None
    top: int = TOP
    without: frozenset[bytes] = frozenset()

    def takes(self, expert: Expert) -> bool:
        """False for an expert that is left out."""
        return expert.hotkey not in self.without


@dataclass
class Trail:
    """What a reply rests on. `finish`: "stop", or "length" where `max_units` was reached or `truncated` says why not."""

    receipts: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    hedges: list[Hedged[bytes]] = field(default_factory=list)
    lost: dict[bytes, str] = field(default_factory=dict)  # experts that failed, and how
    experts: set[str] = field(default_factory=set)
    units: int = 0
    finish: str = "length"
    truncated: str = ""


class Generation:
    """One request. `text` starts as the prompt and grows."""

    def __init__(self, market: Market, prompt: bytes, sampling: Sampling, wish: Wish) -> None:
        self.market, self.sampling, self.wish = market, sampling, wish
        self.text = bytearray(prompt or b"\n")
        self.trail = Trail()
        self._random = Random(sampling.seed)  # draws only: who is asked does not change what a seed draws
        self._noise = Random(f"route {sampling.seed}")
        self._noise_of: dict[bytes, float] = {}  # one exploring for the whole request
        self._explore = self._noise.random()
        self._mixture: Mixture | None = None
        self._voices: dict[bytes, _Voice] = {}
        self._left: set[bytes] = set()  # experts that failed during this request or gave way to a stand-in
        self._last_problem: BaseException | None = None

    async def run(self) -> AsyncGenerator[int, None]:
        """Bytes one by one. Raises Unreachable when no expert answers. Close it (`aclosing`) if it is not exhausted."""
        try:
            self.market.hedges.earn()
            written = 0
            while written < self.sampling.max_units:
                if written % REGATE_BYTES == 0 or self._someone_is_missing:
                    await self._route()
                    for _ in range(MORE_ROUTES):
                        if not self._voices:  # all that were chosen failed: others may not
                            await self._route()
                byte = self._next_byte()
                written += 1
                yield byte
                if stop_length(self.text[-written:], self.sampling.stops):
                    self.trail.finish = "stop"
                    break
                if written < self.sampling.max_units:
                    await self._step(byte)
            await self._end(list(self._voices))
        finally:
            for voice in self._voices.values():
                await voice.cancel()
            self._voices.clear()

    def _next_byte(self) -> int:
        answers = {key.hex(): voice.answer for key, voice in self._voices.items()}
        if not answers or self._mixture is None:
            why = f" ({self._last_problem})" if self._last_problem is not None else ""
            raise Unreachable(f"no expert answers{why}", hint="see the metagraph: which neurons serve?")
        byte = draw(self._mixture.predict(answers), self.sampling, self._random)
        self._mixture.observe(byte, answers)
        self.text.append(byte)
        self.trail.units += 1
        return byte

    # --- routing

    @property
    def _someone_is_missing(self) -> bool:
        """True after a loss, until the router has chosen again."""
        return self._mixture is None or set(self._mixture.weights) != {key.hex() for key in self._voices}

    async def _route(self) -> None:
        experts = {e.hotkey: e for e in self._askable()}
        candidates = [e.candidate(self.wish.netuid, own_sessions=e.hotkey in self._voices) for e in experts.values()]
        noise = [self._noise_of.setdefault(key, self._noise.gauss(0.0, 1.0)) for key in experts]
        decision = self.market.router.choose(
            bytes(self.text), candidates, noise, explore=self._explore, top=self.wish.top
        )  # fmt: skip
        self.trail.decisions.append(decision)
        await self._end([key for key in self._voices if key not in decision.weights])
        await self._open([experts[key] for key in decision.weights if key not in self._voices])
        instead = {h.stand_in: decision.weights[h.late] for h in self.trail.hedges if h.won and h.late in decision.weights}
        shares = instead | decision.weights
        prior = {key.hex(): weight for key, weight in shares.items() if key in self._voices}
        if self._mixture is None:
            self._mixture = Mixture.start(prior)
            self._learn_from_prompt()
        elif set(prior) != set(self._mixture.weights):
            self._mixture.rejoin(prior)

    def _askable(self) -> list[Expert]:
        """Who may be chosen: not those that failed in this request, nor those that rest unless all others failed."""
        only, netuid = self.wish.only, self.wish.netuid
        if only is not None:
            return [] if only.hotkey in self._left else [only]
        known = [e for e in self.market.serving(netuid) if e.hotkey not in self._left and self.wish.takes(e)]
        fit = {e.hotkey for e in self.market.available(netuid)} | set(self._voices)
        return [e for e in known if e.hotkey in fit] or known

    async def _open(self, experts: list[Expert]) -> None:
        """Sessions whose last window is the text so far; on the first routing also windows that end earlier."""
        text = bytes(self.text)
        scored = min(SCORED_BYTES, len(text) - 1) if self._mixture is None else 0
        prefixes = [text[max(0, end - CONTEXT_BYTES) : end] for end in range(len(text) - scored, len(text) + 1)]
        voices = {e.hotkey: self._voice(e) for e in experts}
        self._voices |= voices  # from now on they are ended with everything else
        hops = self.market.random.randrange(2)

        def work(voice: _Voice) -> Coroutine[Any, Any, None]:
            return voice.open(prefixes, hops)

        times = {key: voice.expert.first_times.p95() for key, voice in voices.items()}
        await self._take(await gather({key: work(voice) for key, voice in voices.items()}, self._hedge(times, work)))
        self.trail.experts |= {voice.expert.name for voice in self._voices.values()}

    def _voice(self, expert: Expert) -> _Voice:
        return _Voice(self.market, expert, self.market.netuid_for(expert, self.wish.netuid))

    def _hedge(
        self, p95: dict[bytes, float | None], work: Callable[[_Voice], Coroutine[Any, Any, None]]
    ) -> Hedge[bytes] | None:
        """Whose lateness is noticed, and who is asked then: the best of those that the router did not choose."""
        if self.trail.hedges or self.wish.only is not None:
            return None

        def stand_in(late: bytes) -> tuple[bytes, Coroutine[Any, Any, None]] | None:
            free = {e.hotkey: e for e in self._askable() if e.hotkey not in self._voices}
            best = next((row.hotkey for row in self.trail.decisions[-1].reasons if row.hotkey in free), None)
            if best is None or not self.market.hedges.take():
                return None
            self._voices[best] = self._voice(free[best])
            return best, work(self._voices[best])

        return Hedge({key: seconds for key, seconds in p95.items() if seconds is not None}, stand_in)

    def _learn_from_prompt(self) -> None:
        """Bayes' rule over the scored bytes of the prompt."""
        assert self._mixture is not None
        rows = {key.hex(): voice.prompt_rows for key, voice in self._voices.items()}
        for back in range(min((len(r) for r in rows.values()), default=0), 0, -1):
            self._mixture.observe(self.text[-back], {key: r[len(r) - back] for key, r in rows.items()})

    # --- stepping and ending

    async def _step(self, byte: int) -> None:
        """Send the byte to all; take the answers that come in time."""
        text, hops = bytes(self.text[-CONTEXT_BYTES:]), self.market.random.randrange(2)
        times = {key: voice.expert.step_times.p95() for key, voice in self._voices.items()}
        hedge = self._hedge(times, lambda voice: voice.open([text], hops))
        await self._take(await gather({key: voice.ask(byte) for key, voice in self._voices.items()}, hedge))

    async def _take(self, answers: Answers[bytes]) -> None:
        """Drop experts that failed or were late, and the loser of a hedge; the rest of the request goes on without."""
        for key, error in answers.lost.items():
            voice = self._voices.pop(key)
            self._left.add(key)
            self._last_problem = error
            self.trail.lost[key] = error.cause if isinstance(error, Error) else str(error) or type(error).__name__
            failures = voice.expert.failures
            voice.expert.failed(error)
            if voice.expert.failures > failures:
                self.market.router.reward(self.trail.decisions[-1].kind, key, REWARD_OF_FAILURE)
            await voice.cancel()
        if (hedged := answers.hedged) is not None:
            self.trail.hedges.append(hedged)
            loser = self._voices.pop(hedged.late if hedged.won else hedged.stand_in, None)
            self._left.add(hedged.late if hedged.won else hedged.stand_in)
            if loser is not None:  # what it was late by is known only as a bound
                loser.expert.step_times.note(hedged.after_s)
                await loser.cancel()

    async def _end(self, keys: list[bytes]) -> None:
        """Finish sessions; their receipts are in the trail afterwards."""
        ids = await asyncio.gather(*(self._voices[key].finish() for key in keys))
        self.trail.receipts += [open_id for open_id in ids if open_id]
        for key in keys:
            del self._voices[key]


class _Voice:
    """An expert and its session. `answer`: its distribution (256,) for the next byte."""

    def __init__(self, market: Market, expert: Expert, netuid: int) -> None:
        self.expert, self._market, self._netuid = expert, market, netuid
        self._stack = AsyncExitStack()
        self._session: ClientSession | None = None
        self.prompt_rows: Floats  # distributions at the scored bytes of the prompt, oldest first
        self.answer: Floats
        expert.in_flight += 1
        self._stack.callback(self._gone)

    def _gone(self) -> None:
        self.expert.in_flight -= 1

    async def open(self, prefixes: list[bytes], hops: int) -> None:
        """Open the session and take its first answer. Raises what the neuron or the way to it failed with."""
        began = monotonic()
        session = await self._stack.enter_async_context(self._market.client.session(
            self.expert.address, "distribution", encode_prefixes(prefixes), netuid=self._netuid, max_asks=ANNOUNCED_ASKS,
            timeout_ms=SESSION_TIMEOUT_MS, hops=hops, budget=ROOT_BUDGET,
        ))
        self._session = session
        rows = decode_distributions(await session.answer(), len(prefixes))
        self.prompt_rows, self.answer = rows[:-1], rows[-1]
        self.expert.first_times.note(monotonic() - began)
        self.expert.answered(monotonic() - began)

    async def ask(self, byte: int) -> None:
        """Tell the byte and take the next answer. The windows over the prompt are done since the first one."""
        assert self._session is not None
        began = monotonic()
        appended = [b""] * len(self.prompt_rows) + [bytes([byte])]
        self.answer = decode_distribution(await self._session.ask(encode_appended(appended)))
        self.expert.step_times.note(monotonic() - began)
        self.expert.answered(monotonic() - began)

    async def finish(self) -> str:
        """End the session in order; its receipt's id, or "" where the neuron gave none."""
        try:
            assert self._session is not None
            async with asyncio.timeout(CLOSING_TIMEOUT_S):
                return (await self._session.finish()).open_id.hex()
        except FAILURES as error:
            self.expert.failed(error)
            return ""
        finally:
            await self._stack.aclose()

    async def cancel(self) -> None:
        """Break the session off; nothing is waited for."""
        await self._stack.aclose()


__all__ = ["Generation", "Trail", "Wish"]
