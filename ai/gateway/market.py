"""The gateway's picture of the market: who serves what on which subnet, how well, how fast.

It follows the chain through `ChainApi`, fetches each neuron's card once for each capabilities hash, and measures: now and
then all experts of a subnet are asked about text whose continuation is known, from which the gate and the router learn.
Nothing a neuron says about itself is believed but its card, which the chain's record commits to. An expert that fails
rests for a while, longer each time; one that answers is back at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from time import monotonic
from typing import Any, Final

import numpy as np

from ai.client import address_of
from ai.judge.probes import BatchResult, Window, ask_batch, plan_batch
from ai.models.model import Card
from ai.serve.client import NeuronAddress, NeuronClient
from ai.serve.latency import Latencies
from ai.serve.refusals import Refused
from ledger.client.api import ChainApi
from ledger.client.keys import keys_named, short_address
from ledger.client.records import NeuronRecord
from ledger.errors import Error

from .gate import CONTEXT_BYTES, GateTrainer
from .hedge import HedgeBudget
from .router import Candidate, Router

CALIBRATION_WINDOWS: Final = 16
CALIBRATION_CUTS: Final = 2
SHORTEST_CONTEXT: Final = 6  # that the gate is taught
GENERALIST_DOMAINS: Final = 3  # a card that claims at least so many domains
LATENCY_SMOOTHING: Final = 0.2
REST_FIRST_S: Final = 0.5
REST_CAP_S: Final = 30.0
MAX_EXPERTS: Final = 512  # known at once; of more, those with the most trust
MAX_CARDS_AT_ONCE: Final = 16
CARD_TIMEOUT_MS: Final = 5_000

Report = Callable[[dict[str, Any]], None]


@dataclass
class Expert:
    """A serving neuron. `trust`: incentive share by subnet where it is registered."""

    hotkey: bytes
    name: str
    address: NeuronAddress
    trust: dict[int, float] = field(default_factory=dict)
    card: Card | None = None
    latency_s: float = 0.0
    in_flight: int = 0
    failures: int = 0  # in a row
    rests_until: float = 0.0  # on the monotonic clock
    first_times: Latencies = field(default_factory=Latencies)  # of opening a session and its first answer
    step_times: Latencies = field(default_factory=Latencies)

    @property
    def generalist(self) -> bool:
        return self.card is not None and len(self.card.domains) >= GENERALIST_DOMAINS

    def answered(self, seconds: float) -> None:
        """Note an answer and how long it took."""
        self.latency_s += LATENCY_SMOOTHING * (seconds - self.latency_s)
        self.failures, self.rests_until = 0, 0.0

    def failed(self, error: BaseException | None = None) -> None:
        """Note a failure: it is left alone for a while. Who asks for a pause gets it, and has not failed."""
        if isinstance(error, Refused) and error.retry_after_ms:
            self.rests_until = monotonic() + min(REST_CAP_S, error.retry_after_ms / 1000)
            return
        self.rests_until = monotonic() + min(REST_CAP_S, REST_FIRST_S * 2.0 ** min(self.failures, 16))
        self.failures += 1

    def candidate(self, netuid: int | None, own_sessions: int = 0) -> Candidate:
        """As the router sees it; `own_sessions` of the request itself are no load."""
        trust = self.trust.get(netuid, 0.0) if netuid is not None else max(self.trust.values(), default=0.0)
        load = self.in_flight - own_sessions
        return Candidate(self.hotkey, self.name, trust, self.generalist, self.latency_s, load)


class Market:
    """Experts by hotkey and what was learned about them."""

    def __init__(
        self, api: ChainApi, client: NeuronClient, texts: dict[str, bytes], random: Random, epochs: dict[int, int],
        report: Report = lambda line: None,
    ) -> None:  # fmt: skip
        """`texts`: what to measure with, by domain. `epochs`: running epoch by subnet, kept up to date here and read by
        the client that files receipts."""
        self.api, self.client, self.texts, self.random, self.epochs = api, client, texts, random, epochs
        self.experts: dict[bytes, Expert] = {}
        self.router = Router()
        self.trainer = GateTrainer()
        self.hedges = HedgeBudget()
        self.measurements = 0
        self._report = report
        self._fetches: dict[bytes, asyncio.Task[None]] = {}
        self._cards_at_once = asyncio.Semaphore(MAX_CARDS_AT_ONCE)

    async def close(self) -> None:
        """Stop fetching cards."""
        fetches, self._fetches = list(self._fetches.values()), {}
        for task in fetches:
            task.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)

    # --- following the chain

    async def refresh(self) -> None:
        """Read subnets and metagraphs; cards of new or changed experts are fetched beside. Raises what the node does."""
        seen: dict[bytes, Expert] = {}
        for subnet in (await self.api.subnet_list()).value:
            self.epochs[subnet.netuid] = subnet.epoch
            graph = (await self.api.subnet_get_metagraph(subnet.netuid)).value
            total = sum(n.incentive for n in graph.neurons) or 1
            for neuron in graph.neurons:
                if neuron.serving is not None:
                    self._note(seen, neuron, subnet.netuid, neuron.incentive / total)
        best = sorted(seen.values(), key=lambda e: (-max(e.trust.values()), e.hotkey))[:MAX_EXPERTS]
        self.experts = {expert.hotkey: expert for expert in best}
        self._fetches = {hotkey: task for hotkey, task in self._fetches.items() if not task.done()}
        for expert in best:
            if expert.card is None and monotonic() >= expert.rests_until and expert.hotkey not in self._fetches:
                self._fetches[expert.hotkey] = asyncio.create_task(self._fetch_card(expert))

    def _note(self, seen: dict[bytes, Expert], neuron: NeuronRecord, netuid: int, trust: float) -> None:
        address = address_of(neuron)
        expert = seen.get(neuron.hotkey) or self.experts.get(neuron.hotkey)
        if expert is None or expert.address != address:
            expert = Expert(neuron.hotkey, neuron.name or short_address(neuron.hotkey), address)
        elif neuron.hotkey not in seen:
            expert.trust = {}
        expert.trust[netuid] = trust
        seen[neuron.hotkey] = expert

    async def _fetch_card(self, expert: Expert) -> None:
        async with self._cards_at_once:
            began = monotonic()
            try:
                netuid = min(expert.trust)
                expert.card, _ = await self.client.card(expert.address, netuid=netuid, timeout_ms=CARD_TIMEOUT_MS)
                expert.answered(monotonic() - began)
            except Error as error:
                expert.failed(error)

    # --- choosing

    def serving(self, netuid: int | None = None) -> list[Expert]:
        """Experts that showed a card, on one subnet or on all."""
        ready = [e for e in self.experts.values() if e.card is not None]
        return [e for e in ready if netuid is None or netuid in e.trust]

    def named(self, text: str) -> list[Expert]:
        """Whom a name, or a hotkey as people write it, may mean; several where the beginning of a key is too short."""
        same = [expert for expert in self.experts.values() if expert.name == text]
        return same or [self.experts[key] for key in keys_named(text, self.experts)]

    def available(self, netuid: int | None = None) -> list[Expert]:
        """Those of them that do not rest."""
        now = monotonic()
        return [e for e in self.serving(netuid) if now >= e.rests_until]

    def netuid_for(self, expert: Expert, netuid: int | None) -> int:
        """The subnet a session with the expert is opened on."""
        return netuid if netuid is not None else max(expert.trust, key=lambda n: (expert.trust[n], -n))

    # --- measuring

    async def calibrate(self, netuid: int) -> None:
        """Ask all experts of a subnet about known text; train the gate, reward the router."""
        experts = sorted(self.available(netuid), key=lambda e: e.hotkey)
        if len(experts) < 2:
            return
        claimed = {domain for e in experts if e.card is not None for domain in e.card.domains} & set(self.texts)
        texts = {domain: self.texts[domain] for domain in (claimed or self.texts)}
        windows = plan_batch(texts, CALIBRATION_WINDOWS, CALIBRATION_CUTS, self.random)
        addresses = [e.address for e in experts]
        result = await ask_batch(self.client, addresses, netuid, windows, hops=self.random.randrange(2))
        for expert, answered in zip(experts, result.answered, strict=True):
            if not answered:
                expert.failed()
        await self._learn(experts, netuid, windows, result)
        self.measurements += 1
        self._report({
            "event": "calibrated", "netuid": netuid, "answered": sum(result.answered), "rows": len(self.trainer),
        })

    async def _learn(self, experts: list[Expert], netuid: int, windows: list[Window], result: BatchResult) -> None:
        """Rows for the gate, rewards for the router, of the cuts that were answered."""
        loss_bits = -np.log2(result.hits)
        for i, window in enumerate(windows):
            for step, cut in enumerate(window.cuts):
                heard = [j for j, answered in enumerate(result.answered) if answered > step]
                losses = {experts[j].hotkey: float(loss_bits[j, i, step]) for j in heard}
                seen = self.random.randrange(SHORTEST_CONTEXT, CONTEXT_BYTES + 1)  # prompts may be short
                self.trainer.add(window.text[max(0, cut - seen) : cut], losses)
        self.router.gate = await asyncio.to_thread(self.trainer.train, self.router.gate)
        candidates = [e.candidate(netuid) for e in experts]
        for i, window in enumerate(windows):
            kind = self.router.choose(window.text[: window.cuts[0]], candidates, [0.0] * len(experts)).kind
            for j, expert in enumerate(experts):
                if answered := result.answered[j]:
                    self.router.reward(kind, expert.hotkey, float(1.0 - loss_bits[j, i, :answered].mean() / 8.0))
