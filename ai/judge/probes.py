"""Probes: questions whose answers can be scored, asked so that nobody can peek.

A batch is a number of windows of text, stratified by domain, each with secret cut positions. All neurons of a subnet are
asked about all windows at once, in lock-step: the bytes after a cut are sent only when every answer for that cut is in or
late. A window is used once. A missing, late or malformed answer counts as the null distribution (every byte equal).

`plan_batch` is pure (randomness comes in as an argument); `ask_batch` drives sessions that look like any user's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from ai.distribution import decode_distributions
from ai.serve.client import NeuronAddress, NeuronClient
from ai.serve.methods import encode_appended, encode_prefixes
from ledger.errors import Error

from .mixture import NULL_PROBABILITY, Floats, floored

MIN_CONTEXT: Final = 24
WINDOW_BYTES: Final = 128
MAX_WINDOWS: Final = 64


@dataclass(frozen=True)
class Window:
    """A piece of text with its cuts, ascending: the byte at each cut is to be predicted from those before it."""

    domain: str
    text: bytes
    cuts: tuple[int, ...]


def plan_batch(texts: Mapping[str, bytes], windows: int, cuts: int, random: Random) -> list[Window]:
    """`windows` windows drawn evenly over the domains in `texts`, with `cuts` secret cuts each."""
    domains = sorted(texts)
    out = []
    for index in range(min(windows, MAX_WINDOWS)):
        domain = domains[index % len(domains)]
        source = texts[domain]
        start = random.randrange(max(1, len(source) - WINDOW_BYTES - 1))
        text = source[start : start + WINDOW_BYTES]
        places = sorted(random.sample(range(MIN_CONTEXT, len(text)), min(cuts, len(text) - MIN_CONTEXT)))
        out.append(Window(domain, text, tuple(places)))
    random.shuffle(out)
    return out


@dataclass(frozen=True)
class BatchResult:
    """`hits` (neurons, windows, cuts): floored probability of the true byte; `answered`: cuts answered, by neuron."""

    hits: Floats
    answered: list[int]


async def ask_batch(
    client: NeuronClient, neurons: Sequence[NeuronAddress], netuid: int, windows: Sequence[Window], *, step_timeout_s: float,
    hops: int = 0,
) -> BatchResult:
    """Ask all neurons about all windows in lock-step. Never raises for what a neuron does or fails to do."""
    steps = len(windows[0].cuts) if windows else 0
    hits = np.full((len(neurons), len(windows), steps), NULL_PROBABILITY)
    answered = [0] * len(neurons)
    if not steps:
        return BatchResult(hits, answered)
    gate = _LockStep(len(neurons))

    async def ask_one(index: int) -> None:
        done = 0
        try:
            prefixes = encode_prefixes([w.text[: w.cuts[0]] for w in windows])
            timeout_ms = int(1000 * step_timeout_s * (steps + 1))
            async with client.session(
                neurons[index], "distribution", prefixes, netuid=netuid, max_asks=steps - 1, timeout_ms=timeout_ms, hops=hops
            ) as session:
                for step in range(steps):
                    payload = await asyncio.wait_for(
                        session.answer() if step == 0 else session.ask(_appended(windows, step)), step_timeout_s
                    )
                    hits[index, :, step] = _hits(payload, windows, step)
                    done = step + 1
                    answered[index] = done
                    if step + 1 < steps:
                        await gate.pass_step(step)
                await session.finish()
        except (Error, TimeoutError, OSError, ValueError):
            pass
        finally:
            gate.leave(done)

    await asyncio.gather(*(ask_one(i) for i in range(len(neurons))))
    return BatchResult(hits, answered)


def _appended(windows: Sequence[Window], step: int) -> bytes:
    return encode_appended([w.text[w.cuts[step - 1] : w.cuts[step]] for w in windows])


def _hits(payload: bytes, windows: Sequence[Window], step: int) -> Floats:
    probabilities = floored(decode_distributions(payload, len(windows)))
    truth = np.array([w.text[w.cuts[step]] for w in windows])
    picked: Floats = probabilities[np.arange(len(windows)), truth]
    return picked


class _LockStep:
    """Everybody passes step k only when all who still take part have answered it."""

    def __init__(self, members: int) -> None:
        self._members = members
        self._arrived = 0
        self._step = 0
        self._open = asyncio.Event()

    async def pass_step(self, step: int) -> None:
        assert step == self._step
        self._arrived += 1
        gate = self._open
        self._release()
        await gate.wait()

    def leave(self, _done: int) -> None:
        self._members -= 1
        self._release()

    def _release(self) -> None:
        if self._arrived and self._arrived >= self._members:
            self._arrived = 0
            self._step += 1
            gate, self._open = self._open, asyncio.Event()
            gate.set()
