"""Text from several experts: route, open sessions, mix their next-byte distributions, draw, repeat.

    choose    the router picks the two best and the generalist; again every 16 bytes
    open      one lock-step session with each; its first answers cover the last bytes of the prompt, whose true
              continuation is known: they set the first weights of the mixture by Bayes' rule
    step      the drawn byte is sent to all, the next distributions come back; who is late is dropped
    close     each session ends with a receipt, signed by both sides; a reply names the receipts it rests on
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from ai.distribution import decode_distribution, decode_distributions
from ai.judge.mixture import Floats, Mixture
from ai.models.model import Sampling, draw
from ai.serve.methods import encode_appended, encode_prefixes
from ledger.errors import Error, Unreachable

from .market import Expert, Market
from .router import Decision

REGATE_BYTES: Final = 16
SCORED_BYTES: Final = 12  # last bytes of the prompt that set the first weights
CONTEXT_BYTES: Final = 128
STEP_TIMEOUT_S: Final = 2.5
GRACE_S: Final = 0.35  # how long the others are waited for once enough have answered
ENOUGH_ANSWERS: Final = 2
SESSION_TIMEOUT_MS: Final = 55_000


@dataclass
class Trail:
    """What a reply rests on."""

    receipts: list[str] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    experts: set[str] = field(default_factory=set)
    units: int = 0
    finish: str = "length"


@dataclass
class _Voice:
    """An expert with its open session."""

    expert: Expert
    session: Any
    stack: AsyncExitStack
    prompt_rows: Floats  # distributions at the scored bytes of the prompt, oldest first
    answer: Floats


class Generation:
    """One request. `text` starts as the prompt and grows."""

    def __init__(self, market: Market, prompt: bytes, sampling: Sampling, netuid: int | None, only: Expert | None) -> None:
        self.market, self.sampling, self.netuid, self.only = market, sampling, netuid, only
        self.text = bytearray(prompt or b"\n")
        self.random = Random(sampling.seed)
        self.mixture: Mixture | None = None
        self.voices: dict[bytes, _Voice] = {}
        self.trail = Trail()

    async def run(self) -> AsyncIterator[int]:
        """Bytes one by one. Raises Unreachable when no expert answers."""
        written = bytearray()
        try:
            for index in range(self.sampling.max_units):
                if index % REGATE_BYTES == 0:
                    await self._route(self.sampling.max_units - index)
                named = {key.hex(): v.answer for key, v in self.voices.items()}
                if not named or self.mixture is None:
                    raise Unreachable("no expert answers", hint="see the metagraph: which neurons serve?")
                byte = draw(self.mixture.predict(named), self.sampling, self.random)
                self.mixture.observe(byte, named)
                self.text.append(byte)
                written.append(byte)
                self.trail.units += 1
                yield byte
                if any(stop and written.endswith(stop) for stop in self.sampling.stops):
                    self.trail.finish = "stop"
                    return
                if index + 1 < self.sampling.max_units:
                    await self._step(byte)
        finally:
            await self.close()

    # --- routing

    async def _route(self, remaining: int) -> None:
        experts = {e.hotkey: e for e in ([self.only] if self.only else self.market.serving(self.netuid))}
        candidates = [e.candidate(self.netuid) for e in experts.values()]
        noise = [self.random.gauss(0.0, 1.0) for _ in candidates]
        decision = self.market.router.choose(bytes(self.text), candidates, noise)
        self.trail.decisions.append(decision)
        for key in [k for k in self.voices if k not in decision.weights]:
            await self._end(self.voices.pop(key))
        fresh = [experts[key] for key in decision.weights if key not in self.voices]
        opened = await asyncio.gather(*(self._open(e, remaining) for e in fresh))
        self.voices.update({v.expert.hotkey: v for v in opened if v is not None})
        prior = {key.hex(): weight for key, weight in decision.weights.items() if key in self.voices}
        if self.mixture is None:
            self.mixture = Mixture.start(prior)
            self._learn_from_prompt()
        elif set(prior) != set(self.mixture.weights):
            self.mixture.rejoin(prior)

    async def _open(self, expert: Expert, remaining: int) -> _Voice | None:
        """A session whose last window is the text so far; on the first routing also windows that end earlier."""
        text = bytes(self.text)
        scored = min(SCORED_BYTES, len(text) - 1) if self.mixture is None else 0
        prefixes = [text[max(0, end - CONTEXT_BYTES) : end] for end in range(len(text) - scored, len(text) + 1)]
        stack, started = AsyncExitStack(), time.monotonic()
        expert.in_flight += 1
        try:
            session = await stack.enter_async_context(self.market.client.session(
                expert.address, "distribution", encode_prefixes(prefixes),
                netuid=self.market.netuid_for(expert, self.netuid), max_asks=remaining, timeout_ms=SESSION_TIMEOUT_MS,
                hops=self.random.randrange(2),
            ))
            payload = await asyncio.wait_for(session.answer(), STEP_TIMEOUT_S)
            rows = decode_distributions(payload, len(prefixes))
        except (Error, TimeoutError, OSError) as error:
            expert.failures += 1
            expert.in_flight -= 1
            await stack.__aexit__(type(error), error, error.__traceback__)
            return None
        expert.measured(time.monotonic() - started)
        self.trail.experts.add(expert.name)
        return _Voice(expert, session, stack, rows[:-1], rows[-1])

    def _learn_from_prompt(self) -> None:
        """Bayes' rule over the scored bytes of the prompt."""
        assert self.mixture is not None
        rows = {v.expert.hotkey.hex(): v.prompt_rows for v in self.voices.values()}
        scored = min((len(r) for r in rows.values()), default=0)
        for back in range(scored, 0, -1):
            self.mixture.observe(self.text[-back], {key: r[len(r) - back] for key, r in rows.items()})

    # --- stepping

    async def _step(self, byte: int) -> None:
        """Send the byte to all; take the answers that come in time."""
        tasks = {asyncio.create_task(self._ask(v, byte)): key for key, v in self.voices.items()}
        if not tasks:
            return
        done, late = await asyncio.wait(tasks, timeout=STEP_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        enough = min(ENOUGH_ANSWERS, len(tasks))
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while late and len(done) < enough and time.monotonic() < deadline:
            more, late = await asyncio.wait(late, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
            done |= more
        if late:
            more, late = await asyncio.wait(late, timeout=GRACE_S)
            done |= more
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for task, key in tasks.items():
            if task in late or task.cancelled() or task.exception() is not None:
                voice = self.voices.pop(key)
                voice.expert.failures += 1
                await self._end(voice, broken=True)

    async def _ask(self, voice: _Voice, byte: int) -> None:
        # The windows over the prompt are done after the first answer; only the last one goes on.
        appended = [b""] * len(voice.prompt_rows) + [bytes([byte])]
        started = time.monotonic()
        payload = await voice.session.ask(encode_appended(appended))
        voice.answer = decode_distribution(payload)
        voice.expert.measured(time.monotonic() - started)

    # --- ending

    async def _end(self, voice: _Voice, *, broken: bool = False) -> None:
        voice.expert.in_flight -= 1
        try:
            if not broken:
                settled = await asyncio.wait_for(voice.session.finish(), STEP_TIMEOUT_S)
                self.trail.receipts.append(settled.open_id.hex())
        except (Error, TimeoutError, OSError):
            voice.expert.failures += 1
        finally:
            try:
                await voice.stack.aclose()
            except (Error, TimeoutError, OSError):
                pass

    async def close(self) -> None:
        """Finish all sessions; their receipts are in `trail` afterwards."""
        voices, self.voices = list(self.voices.values()), {}
        await asyncio.gather(*(self._end(v) for v in voices))
