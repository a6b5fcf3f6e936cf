"""The gateway's picture of the market: who serves what on which subnet, how well, how fast.

It follows the chain through `ChainApi`, fetches each neuron's card once for each capabilities hash, and measures: now and
then all experts of a subnet are asked about text whose continuation is known, from which the gate and the router learn.
Nothing a neuron says about itself is believed but its card, which the chain's record commits to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import numpy as np

from ai.client import address_of
from ai.judge.probes import ask_batch, plan_batch
from ai.models.model import Card
from ai.serve.client import NeuronAddress, NeuronClient
from ledger.client.api import ChainApi
from ledger.client.records import NeuronRecord
from ledger.errors import Error

from .gate import GateTrainer
from .router import Candidate, Router

CALIBRATION_WINDOWS: Final = 16
CALIBRATION_CUTS: Final = 2
CALIBRATION_TIMEOUT_S: Final = 3.0
GENERALIST_DOMAINS: Final = 3  # a card that claims at least so many domains
LATENCY_SMOOTHING: Final = 0.2


@dataclass
class Expert:
    """A serving neuron. `netuids`: where it is registered; `trust`: incentive share by subnet."""

    hotkey: bytes
    name: str
    address: NeuronAddress
    trust: dict[int, float]
    card: Card | None = None
    latency_s: float = 0.0
    in_flight: int = 0
    failures: int = 0

    @property
    def generalist(self) -> bool:
        return self.card is not None and len(self.card.domains) >= GENERALIST_DOMAINS

    def measured(self, seconds: float) -> None:
        self.latency_s += LATENCY_SMOOTHING * (seconds - self.latency_s)

    def candidate(self, netuid: int | None) -> Candidate:
        trust = self.trust.get(netuid, 0.0) if netuid is not None else max(self.trust.values(), default=0.0)
        return Candidate(self.hotkey, self.name, trust, self.generalist, self.latency_s, self.in_flight)


class Market:
    """Experts by hotkey and what was learned about them."""

    def __init__(
        self, api: ChainApi, client: NeuronClient, texts: dict[str, bytes], random: Random, epochs: dict[int, int]
    ) -> None:
        """`epochs`: running epoch by subnet, kept up to date here and read by the client that files receipts."""
        self.api, self.client, self.texts, self.random, self.epochs = api, client, texts, random, epochs
        self.experts: dict[bytes, Expert] = {}
        self.router = Router()
        self.trainer = GateTrainer()
        self.measurements = 0

    # --- following the chain

    async def refresh(self) -> None:
        """Read subnets and metagraphs; new or changed experts get their card fetched."""
        seen: dict[bytes, Expert] = {}
        for subnet in (await self.api.subnet_list()).value:
            self.epochs[subnet.netuid] = subnet.epoch
            graph = (await self.api.subnet_get_metagraph(subnet.netuid)).value
            total = sum(n.incentive for n in graph.neurons) or 1
            for neuron in graph.neurons:
                if neuron.serving is not None:
                    self._note(seen, neuron, subnet.netuid, neuron.incentive / total)
        self.experts = seen
        await asyncio.gather(*(self._fetch_card(e) for e in seen.values() if e.card is None))

    def _note(self, seen: dict[bytes, Expert], neuron: NeuronRecord, netuid: int, trust: float) -> None:
        address = address_of(neuron)
        expert = seen.get(neuron.hotkey) or self.experts.get(neuron.hotkey)
        if expert is None or expert.address != address:
            expert = Expert(neuron.hotkey, neuron.name or neuron.hotkey.hex()[:8], address, {})
        elif neuron.hotkey not in seen:
            expert.trust = {}
        expert.trust[netuid] = trust
        seen[neuron.hotkey] = expert

    async def _fetch_card(self, expert: Expert) -> None:
        try:
            expert.card, _ = await self.client.card(expert.address, netuid=next(iter(expert.trust)))
        except Error:
            expert.failures += 1

    # --- choosing

    def serving(self, netuid: int | None = None) -> list[Expert]:
        """Experts that showed a card, on one subnet or on all."""
        ready = [e for e in self.experts.values() if e.card is not None]
        return [e for e in ready if netuid is None or netuid in e.trust]

    def netuid_for(self, expert: Expert, netuid: int | None) -> int:
        """The subnet a session with the expert is opened on."""
        return netuid if netuid is not None else max(expert.trust, key=lambda n: (expert.trust[n], -n))

    # --- measuring

    async def calibrate(self, netuid: int, report: Callable[[dict[str, Any]], None]) -> None:
        """Ask all experts of a subnet about known text; train the gate, reward the router."""
        experts = sorted(self.serving(netuid), key=lambda e: e.hotkey)
        if len(experts) < 2:
            return
        claimed = {domain for e in experts if e.card is not None for domain in e.card.domains} & set(self.texts)
        texts = {domain: self.texts[domain] for domain in (claimed or self.texts)}
        windows = plan_batch(texts, CALIBRATION_WINDOWS, CALIBRATION_CUTS, self.random)
        result = await ask_batch(
            self.client, [e.address for e in experts], netuid, windows, step_timeout_s=CALIBRATION_TIMEOUT_S,
            hops=self.random.randrange(2),
        )
        loss = -np.log2(result.hits)
        kinds = [e.hotkey for e in experts]
        for i, window in enumerate(windows):
            for step, cut in enumerate(window.cuts):
                context = window.text[:cut]
                self.trainer.add(context, {k: float(loss[j, i, step]) for j, k in enumerate(kinds)})
        self.router.gate = await asyncio.to_thread(self.trainer.train)
        for i, window in enumerate(windows):
            candidates = [e.candidate(netuid) for e in experts]
            kind = self.router.choose(window.text[: window.cuts[0]], candidates, [0.0] * len(experts)).kind
            for j, expert in enumerate(experts):
                self.router.reward(kind, expert.hotkey, float(1.0 - loss[j, i].mean() / 8.0))
        self.measurements += 1
        report({"event": "calibrated", "netuid": netuid, "answered": sum(result.answered), "rows": len(self.trainer)})
