"""The validator: probes neurons, scores them by what they add, and votes with commit and reveal.

For each subnet, at each block, in epoch e:

    duties   reveal what is due, put the receipts' root of epoch e - 1 on chain, commit new weights (`ballot`)
    probe    once an epoch, beside the duties: one batch of the subnet's kind of task (`tasks`), smoothed scores, and a table
             of it all in the home (`live`)

A batch may take longer than an epoch; its scores are then committed in the next one. A validator that has nothing new, or
no permit, commits nothing and keeps its weights. It holds its hotkey and no coldkey. What it waits for it tells in one line:
for a block, for its registration, for a permit; and again whenever that changes (`standing`).
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

import numpy as np

from ai.client import address_of
from ai.models.corpus import DOMAINS, load
from ai.receipts import ReceiptStore
from ai.serve.client import NeuronClient
from ai.serve.clock import wall_ms
from ledger.client.api import ChainApi
from ledger.client.keys import encode_address, read_key_file
from ledger.client.records import Metagraph, NeuronRecord, Properties, SubnetRecord
from ledger.commitments import SALT_BYTES
from ledger.crypto import KeyPair
from ledger.errors import Error, Rejected

from .ballot import COMMIT_MARGIN_BLOCKS, Ballot, Report, commit_root
from .live import LiveTables, Row
from .memory import Memory
from .probes import STEP_TIMEOUT_S
from .shapley import ScoreBook, to_weights
from .tasks import DEFAULT_KIND, Asked, Outcome, Task, TaskSetup, make_task

GROUPS_PERSON: Final = b"qx/groups/1"
FAVOURITE_SHARE: Final = 0.9
NODE_RETRY_S: Final = 1.0
MAX_ASKED: Final = 128  # neurons in one batch; of more, as many are drawn


@dataclass(frozen=True)
class ValidatorConfig:
    """What a validator needs to know. `favourites`: by subnet, a hotkey that gets nine tenths of the vote, whatever it
    answers (for showing what such a vote is worth)."""

    name: str
    key: KeyPair
    netuids: tuple[int, ...]
    home: Path
    cache: Path | None = None
    probe_windows: int = 32
    probe_cuts: int = 4
    step_timeout_s: float = STEP_TIMEOUT_S
    favourites: dict[int, bytes] = field(default_factory=dict)
    seed: int | None = None  # of the probes; None: from the system's randomness
    tasks: dict[str, str] = field(default_factory=dict)  # task kinds beside the built-in ones: name -> module:function
    task_options: dict[str, dict[str, Any]] = field(default_factory=dict)  # by kind


class Validator:
    """One validator on all its subnets."""

    def __init__(
        self, config: ValidatorConfig, api: ChainApi, properties: Properties, report: Report,
        texts: dict[str, bytes] | None = None,
    ) -> None:  # fmt: skip
        """`texts`: what to probe with, by domain; the default is the held-out part of the corpus. Raises Locked."""
        self.config, self.api = config, api
        self._report = report
        self.memory = Memory(config.home / "scores.db")
        self.ballot = Ballot(api, config.key, properties.genesis_hash, self.memory, self._tell)
        self.receipts = ReceiptStore(config.home / "receipts", clock=wall_ms)
        self.epochs: dict[int, int] = {}
        self.client = NeuronClient(
            config.key, properties.genesis_hash, receipts=self.receipts, epoch_of=lambda netuid: self.epochs.get(netuid, 0),
            allow_private=properties.allow_private, allow_clear=properties.devnet,
        )
        self.books = {netuid: self.memory.book(netuid) for netuid in config.netuids}
        self.conducts = {netuid: self.memory.conduct(netuid) for netuid in config.netuids}
        self.live = LiveTables(config.home / "live.json", config.name)
        self._kinds: dict[int, tuple[str, Task]] = {}
        self._secrets: dict[int, str] = {}
        self.texts = texts or {domain: load(domain, config.cache).held_out for domain in DOMAINS}
        self.random: Random = SystemRandom() if config.seed is None else Random(config.seed)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._last_trouble: dict[str, str] = {}
        self._standings: dict[int, tuple[int, str]] = {}  # by subnet: epoch in which it was looked at, what was told
        self._closed = False
        if self.memory.damaged is not None:
            self._tell({"event": "trouble", "error": "Corruption", "cause": f"scores were lost: see {self.memory.damaged}"})

    async def run(self) -> None:
        """Follow the chain until cancelled. Raises Unreachable when the node is gone for good."""
        self._tell({
            "event": "waits", "address": encode_address(self.config.key.public), "netuids": list(self.config.netuids),
            "next": "the next block",
        })
        try:
            async for _ in self.api.chain_subscribe_new_heads():
                for netuid in self.config.netuids:
                    self._keep_going(f"duties of {netuid}", lambda n=netuid: self.duties(n))  # type: ignore[misc]
                    self._keep_going(f"probe of {netuid}", lambda n=netuid: self.probe(n))  # type: ignore[misc]
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop what runs, store what is known. Again changes nothing."""
        if self._closed:
            return
        self._closed = True
        tasks, self._tasks = list(self._tasks.values()), {}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for netuid, book in self.books.items():
            self.memory.store_book(netuid, book)
            self.memory.store_conduct(netuid, self.conducts[netuid])
        await self.client.close()
        self.receipts.close()
        self.memory.close()

    def _keep_going(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a piece of work unless it is still at it since an earlier block. A bug in it is raised here."""
        task = self._tasks.get(name)
        if task is not None:
            if not task.done():
                return
            task.result()
        self._tasks[name] = asyncio.create_task(self._guarded(name, work), name=name)

    async def _guarded(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """A refused call or a lost node must not end the validator; the same trouble is told once."""
        try:
            await work()
            self._last_trouble.pop(name, None)
        except Error as error:
            rule = error.error_name if isinstance(error, Rejected) else error.name
            if self._last_trouble.get(name) != rule:
                self._last_trouble[name] = rule
                self._tell({"event": "trouble", "doing": name, "error": rule, "cause": error.cause})

    def _tell(self, line: dict[str, Any]) -> None:
        self._report({**line, "validator": self.config.name})

    # --- duties

    async def duties(self, netuid: int) -> None:
        """Whatever is due on chain at this block. What one duty fails with keeps none of the others from being done."""
        subnet = (await self.api.subnet_get(netuid)).value
        self.epochs[netuid] = subnet.epoch
        problem: Error | None = None
        for duty in (self._watch_standing, self.ballot.reveal, self._commit_root, self._vote):
            try:
                await duty(subnet)
            except Error as error:
                problem = problem or error
        if problem is not None:
            raise problem

    async def _watch_standing(self, subnet: SubnetRecord) -> None:
        """Tell whether it is registered and has a permit, at first and whenever that changed. Permits change with epochs."""
        epoch, told = self._standings.get(subnet.netuid, (-1, ""))
        if epoch == subnet.epoch and told != "unregistered":
            return
        graph = (await self.api.subnet_get_metagraph(subnet.netuid)).value
        me = self._me(graph)
        found = "unregistered" if me is None else "permit" if me.permit else "no permit"
        self._standings[subnet.netuid] = subnet.epoch, found
        if found != told:
            line = {"event": found, "netuid": subnet.netuid, "epoch": subnet.epoch, "before": told or None}
            self._tell({**line, "next": self._next(subnet, found)})

    def _next(self, subnet: SubnetRecord, standing: str) -> str:
        """What a validator of that standing does or needs."""
        address = encode_address(self.config.key.public)
        if standing == "unregistered":
            return f"quorix subnet register {subnet.netuid} --hotkey {address} --max-price AMOUNT"
        if not subnet.started:
            return "it probes once the subnet's owner has started it"
        if standing == "permit":
            return "it probes once an epoch and commits weights"
        ends = f"epoch {subnet.epoch} ends in {subnet.blocks_left} blocks"
        return f"it probes but votes only with a permit; {ends}: quorix stake add {address} {subnet.netuid} AMOUNT"

    async def _vote(self, subnet: SubnetRecord) -> None:
        """Commit new scores, if there are any."""
        scored, what = self.memory.last(f"scored/{subnet.netuid}"), f"voted/{subnet.netuid}"
        if scored > self.memory.last(what) and await self._commit(subnet):
            self.memory.note(what, scored)

    async def _commit(self, subnet: SubnetRecord) -> bool:
        if subnet.blocks_left <= COMMIT_MARGIN_BLOCKS:
            return False
        graph = (await self.api.subnet_get_metagraph(subnet.netuid)).value
        me = self._me(graph)
        if me is None or not me.permit:
            return False
        uids, values = self.weights(graph, me)
        if not uids:
            return False
        subnet = (await self.api.subnet_get(subnet.netuid)).value  # revealing may have taken some blocks
        done = await self.ballot.commit(subnet, uids, values, salt=self._secrets.pop(subnet.netuid, ""))
        if done and not subnet.commit_reveal:  # of commitments the ballot tells itself
            self._tell({"event": "set", "netuid": subnet.netuid, "epoch": subnet.epoch})
        return done

    async def _commit_root(self, subnet: SubnetRecord) -> None:
        """The root of the previous epoch's receipts, once."""
        epoch, what = subnet.epoch - 1, f"receipts/{subnet.netuid}"
        if epoch >= 0 and self.memory.last(what) < epoch:
            await commit_root(self.ballot.wallet, self.receipts, subnet.netuid, epoch)
            self.memory.note(what, epoch)

    def _me(self, graph: Metagraph) -> NeuronRecord | None:
        return next((n for n in graph.neurons if n.hotkey == self.config.key.public), None)

    def weights(self, graph: Metagraph, me: NeuronRecord) -> tuple[list[int], list[int]]:
        """(uids, u16 values) of the vote: smoothed scores, or what a favourite leaves of them; zeros are left out."""
        neurons = [n for n in graph.neurons if n.uid != me.uid]
        scores = self.books[graph.netuid].scores([n.hotkey for n in neurons])
        favourite = self.config.favourites.get(graph.netuid)
        if any(n.hotkey == favourite for n in neurons):
            others = np.array([n.hotkey != favourite for n in neurons])
            rest = float(scores[others].sum()) or 1.0
            scores = np.where(others, (1.0 - FAVOURITE_SHARE) * scores / rest, FAVOURITE_SHARE)
        rows = [(n.uid, int(v)) for n, v in zip(neurons, to_weights(scores), strict=True) if v > 0]
        return [uid for uid, _ in rows], [value for _, value in rows]

    # --- probe

    async def probe(self, netuid: int) -> None:
        """One batch, if this epoch has had none yet."""
        subnet = (await self.api.subnet_get(netuid)).value
        self.epochs[netuid] = subnet.epoch
        if not subnet.started or self.memory.last(f"probed/{netuid}") >= subnet.epoch:
            return
        graph = (await self.api.subnet_get_metagraph(netuid)).value
        serving = [n for n in graph.neurons if n.serving is not None and n.hotkey != self.config.key.public]
        if not serving or self._me(graph) is None:
            return
        if len(serving) > MAX_ASKED:
            serving = self.random.sample(serving, MAX_ASKED)
        serving.sort(key=lambda n: n.uid)
        kind, task = self._task(subnet)
        asked = Asked(
            self.client, [address_of(n) for n in serving], [n.name for n in serving], netuid, await self._randomness(subnet)
        )
        outcome = await task.probe(asked)
        if not any(outcome.answered):
            return  # nobody at all: more likely this side's fault; tried again at the next block
        self.memory.note(f"probed/{netuid}", subnet.epoch)
        self._score(subnet, graph, kind, serving, outcome)

    async def _randomness(self, subnet: SubnetRecord) -> Random:
        """Of one batch: a secret that the reveal of the weights gives away, and the chain's head, which nobody knew before.

        Whoever recomputes a batch can then see that its groups were drawn and not chosen.
        """
        if self.config.seed is not None:
            return Random(self.random.getrandbits(64))
        secret = self._secrets[subnet.netuid] = secrets.token_hex(SALT_BYTES)
        head = (await self.api.chain_get_header("head")).hash
        seed = blake2b(bytes.fromhex(secret) + head + subnet.netuid.to_bytes(2, "big"), digest_size=32, person=GROUPS_PERSON)
        return Random(seed.digest())

    def _task(self, subnet: SubnetRecord) -> tuple[str, Task]:
        """The kind that the subnet names, made when it is first asked for or has changed. Raises UsageError."""
        known = self._kinds.get(subnet.netuid)
        if known is None or known[0] != (subnet.task or DEFAULT_KIND):
            kind = subnet.task or DEFAULT_KIND
            config = self.config
            setup = TaskSetup(
                self.texts, config.probe_windows, config.probe_cuts, config.step_timeout_s, self.conducts[subnet.netuid],
                config.task_options.get(kind, {}),
            )
            known = self._kinds[subnet.netuid] = (kind, make_task(kind, setup, config.tasks))
        return known

    def _score(
        self, subnet: SubnetRecord, graph: Metagraph, kind: str, serving: list[NeuronRecord], outcome: Outcome
    ) -> None:
        """Scores of a batch into the book. Who is known but serves no more gets 0, as if it had not answered."""
        netuid, book, registered = subnet.netuid, self.books[subnet.netuid], {n.hotkey for n in graph.neurons}
        scores = np.where(np.isfinite(outcome.scores) & (outcome.scores > 0), outcome.scores, 0.0)
        silent = {n.hotkey for n in graph.neurons if n.serving is None and n.hotkey in book.mean}
        book.forget(registered)
        self.conducts[netuid].forget(registered)
        book.add({n.hotkey: float(value) for n, value in zip(serving, scores, strict=True)} | dict.fromkeys(silent, 0.0))
        self.memory.store_book(netuid, book)
        self.memory.store_conduct(netuid, self.conducts[netuid])
        self.memory.note(f"scored/{netuid}", self.memory.last(f"scored/{netuid}") + 1)
        self._show(subnet, graph, kind, serving, outcome)
        self._tell({
            "event": "probed", "netuid": netuid, "epoch": subnet.epoch, "answered": sum(outcome.answered),
            "asked": len(serving) * outcome.asked,
            "phi": {n.name or str(n.uid): round(float(v), 4) for n, v in zip(serving, scores, strict=True)},
        })

    def _show(
        self, subnet: SubnetRecord, graph: Metagraph, kind: str, serving: list[NeuronRecord], outcome: Outcome
    ) -> None:
        """The table of a batch: responses, scores, values and the weights that follow."""
        me, book = self._me(graph), self.books[subnet.netuid]
        weights = dict(zip(*self.weights(graph, me), strict=True)) if me is not None else {}
        smoothed = book.scores([n.hotkey for n in serving])
        rows = [
            Row(
                n.uid, n.name, n.hotkey.hex(), outcome.answered[i], outcome.asked, float(outcome.scores[i]),
                float(smoothed[i]), book.uncertainty(n.hotkey), book.count.get(n.hotkey, 0), weights.get(n.uid, 0),
                {name: column[i] for name, column in outcome.details.items()},
            )
            for i, n in enumerate(serving)
        ]  # fmt: skip
        try:
            self.live.show(subnet.netuid, subnet.epoch, kind, wall_ms(), rows)
        except OSError as error:
            self._tell({"event": "trouble", "error": "LiveTable", "cause": str(error)[:200]})


# --- the process -------------------------------------------------------------------------------------------------


def run(config: dict[str, Any], report: Report, stop: Callable[[], Awaitable[None]]) -> None:
    """Entry point of a validator process: `config` is plain JSON; runs until `stop()` returns."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    asyncio.run(_main(config, report, stop))


async def _main(config: dict[str, Any], report: Report, stop: Callable[[], Awaitable[None]]) -> None:
    from ledger.client.remote import RemoteChain

    node: Any = RemoteChain(config["rpc"])  # it has ChainApi's methods, attached at import
    ended = asyncio.ensure_future(stop())
    async with node as api:
        properties = await _properties(api, ended)
        if properties is None:
            return
        settings = ValidatorConfig(
            name=config["name"], key=read_key_file(Path(config["key"])), netuids=tuple(config["netuids"]),
            home=Path(config["home"]), cache=Path(config["cache"]) if config.get("cache") else None,
            probe_windows=config.get("probe_windows", 32), probe_cuts=config.get("probe_cuts", 4),
            favourites={int(k): bytes.fromhex(v) for k, v in config.get("favourites", {}).items()},
            seed=config.get("probe_seed"), tasks=dict(config.get("tasks", {})),
            task_options=dict(config.get("task_options", {})),
        )
        work = asyncio.create_task(Validator(settings, api, properties, report).run())
        report({"event": "ready", "validator": settings.name})
        await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, ended):
            task.cancel()
        outcome, _ = await asyncio.gather(work, ended, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome


async def _properties(api: ChainApi, ended: asyncio.Future[None]) -> Properties | None:
    """What the chain says of itself, as soon as the node answers; None where the process shall end before."""
    while not ended.done():
        try:
            return await api.system_properties()
        except Error:
            await asyncio.wait({ended}, timeout=NODE_RETRY_S)
    return None


__all__ = ["ScoreBook", "Validator", "ValidatorConfig", "run"]
