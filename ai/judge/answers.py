"""Texts from all neurons of a subnet: the same prompt to each, at the same time, with the same limits.

What the text tasks share: sessions that look like any user's, a bounded number at once, and an empty text for whoever is
missing, late, malformed, over its length or did not sign.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from ai.models.model import Sampling
from ai.serve.client import NeuronAddress
from ledger.errors import Error

from .tasks import Asked

AT_ONCE: Final = 64  # sessions
TEXT_TIMEOUT_MS: Final = 20_000


async def ask_texts(asked: Asked, prompts: Sequence[bytes], sampling: Sampling) -> list[list[bytes]]:
    """[neuron][prompt]: what each wrote, empty where nothing counts. Never raises for what a neuron does."""
    places = asyncio.Semaphore(AT_ONCE)
    jobs = [[_ask(asked, neuron, prompt, sampling, places) for prompt in prompts] for neuron in asked.neurons]
    flat = await asyncio.gather(*(job for row in jobs for job in row))
    return [list(flat[at : at + len(prompts)]) for at in range(0, len(flat), len(prompts))] if prompts else [[] for _ in jobs]


async def _ask(
    asked: Asked, neuron: NeuronAddress, prompt: bytes, sampling: Sampling, places: asyncio.Semaphore
) -> bytes:
    async with places:
        try:
            async with asyncio.timeout(TEXT_TIMEOUT_MS / 1000 + 1):
                text, settled = await asked.client.text(
                    neuron, prompt, sampling, netuid=asked.netuid, timeout_ms=TEXT_TIMEOUT_MS
                )
        except (Error, TimeoutError, OSError):
            return b""
    return text if settled.status == 0 and len(text) <= sampling.max_units else b""
