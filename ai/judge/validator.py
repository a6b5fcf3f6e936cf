"""The validator: probes neurons, scores them by what they add, and votes with commit and reveal.

For each subnet, in each epoch e (rules 4.1 to 4.3 of the protocol):

    reveal   weights committed in epoch e - reveal_period, in the first blocks of e
    probe    one batch of lock-step probes; exact Shapley values; smoothed scores
    commit   a hash of the new weights, while enough blocks of e are left; the weights are stored first
    root     the Merkle root of the receipts of epoch e - 1

A validator that has nothing new commits nothing and keeps its weights. It holds its hotkey and no coldkey.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

import numpy as np

from ai.models.corpus import DOMAINS, load
from ai.receipts import ReceiptStore
from ai.serve.client import NeuronAddress, NeuronClient
from ai.serve.clock import wall_ms
from ledger.client.api import ChainApi
from ledger.client.calls import Wallet
from ledger.client.keys import read_key_file
from ledger.client.records import Metagraph, NeuronRecord, Properties, SubnetRecord
from ledger.codec import pack_u16
from ledger.commitments import weights_commitment
from ledger.crypto import KeyPair
from ledger.errors import Error, Rejected

from .clusters import clusters, similar_pairs
from .memory import Memory, Pending
from .probes import ask_batch, plan_batch
from .shapley import ScoreBook, score_batch, to_weights

COMMIT_MARGIN_BLOCKS: Final = 3  # a commitment must be final in the epoch it names
STEP_TIMEOUT_S: Final = 3.0
MAX_EXPERTS: Final = 10  # exact Shapley values of all at once


@dataclass(frozen=True)
class ValidatorConfig:
    """What a validator needs to know. `favourite`: a hotkey that gets nine tenths of the vote, whatever it answers."""

    name: str
    key: KeyPair
    netuids: tuple[int, ...]
    home: Path
    cache: Path | None = None
    probe_windows: int = 32
    probe_cuts: int = 4
    favourites: dict[int, bytes] = field(default_factory=dict)
    seed: int | None = None  # of the probes; None: from the system's randomness


Report = Callable[[dict[str, Any]], None]


class Validator:
    """One validator on all its subnets."""

    def __init__(self, config: ValidatorConfig, api: ChainApi, properties: Properties, report: Report) -> None:
        self.config, self.api, self.genesis_hash, self.report = config, api, properties.genesis_hash, report
        self.memory = Memory(config.home / "scores.db")
        self.wallet = Wallet(api, config.key)
        self.receipts = ReceiptStore(config.home / "receipts", clock=wall_ms)
        self.epochs: dict[int, int] = {}
        self.client = NeuronClient(
            config.key, properties.genesis_hash, receipts=self.receipts, epoch_of=lambda netuid: self.epochs.get(netuid, 0),
            allow_private=properties.allow_private, allow_clear=properties.devnet,
        )
        self.books = {netuid: self.memory.book(netuid) for netuid in config.netuids}
        self.similar: dict[int, frozenset[tuple[bytes, bytes]]] = {}
        self.texts = {domain: load(domain, config.cache).held_out for domain in DOMAINS}
        self.random: Random = SystemRandom() if config.seed is None else Random(config.seed)
        self._busy: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follow the chain until cancelled."""
        try:
            async for _ in self.api.chain_subscribe_new_heads():
                for netuid in self.config.netuids:
                    if netuid not in self._busy or self._busy[netuid].done():
                        self._busy[netuid] = asyncio.create_task(self._guarded(netuid))
        finally:
            await self.close()

    async def close(self) -> None:
        """Stop what runs, store what is known."""
        for task in self._busy.values():
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
        for netuid, book in self.books.items():
            self.memory.store_book(netuid, book)
        await self.client.close()
        self.receipts.close()
        self.memory.close()

    async def _guarded(self, netuid: int) -> None:
        try:
            await self.turn(netuid)
        except Error as error:  # a refused call or a lost node must not end the validator
            name = getattr(error, "error_name", error.name)
            self._trouble(netuid, name, error.cause)

    def _trouble(self, netuid: int, name: str, cause: str) -> None:
        self.report({"event": "trouble", "validator": self.config.name, "netuid": netuid, "error": name, "cause": cause})

    async def turn(self, netuid: int) -> None:
        """Whatever is due on a subnet at this block."""
        subnet = (await self.api.subnet_get(netuid)).value
        self.epochs[netuid] = subnet.epoch
        await self._reveal(subnet)
        await self._commit_receipts(subnet)
        if self.memory.last(f"probe/{netuid}") < subnet.epoch and self._time_to_probe(subnet):
            graph = (await self.api.subnet_get_metagraph(netuid)).value
            me = next((n for n in graph.neurons if n.hotkey == self.config.key.public), None)
            if me is not None and await self._probe(subnet, graph):
                await self._commit(netuid, graph, subnet.epoch, me)

    def _time_to_probe(self, subnet: SubnetRecord) -> bool:
        return subnet.started and subnet.blocks_left > COMMIT_MARGIN_BLOCKS

    # --- probe

    async def _probe(self, subnet: SubnetRecord, graph: Metagraph) -> bool:
        """One batch. False if there was nobody to ask."""
        serving = [n for n in graph.neurons if n.serving is not None and n.hotkey != self.config.key.public]
        serving = sorted(serving, key=lambda n: n.uid)
        if not serving:
            return False
        if len(serving) > MAX_EXPERTS:  # groups that nobody can arrange: drawn afresh each time
            serving = sorted(self.random.sample(serving, MAX_EXPERTS), key=lambda n: n.uid)
        windows = plan_batch(self._domains(serving), self.config.probe_windows, self.config.probe_cuts, self.random)
        hops = self.random.randrange(2)
        addresses = [address_of(n) for n in serving]
        result = await ask_batch(
            self.client, addresses, subnet.netuid, windows, step_timeout_s=STEP_TIMEOUT_S, hops=hops
        )
        if not any(result.answered):
            return False
        groups = self._clusters(subnet.netuid, [n.hotkey for n in serving], result.hits)
        phi = score_batch(result.hits, groups)
        book = self.books[subnet.netuid]
        book.forget({n.hotkey for n in graph.neurons})
        book.add({n.hotkey: float(value) for n, value in zip(serving, phi, strict=True)})
        self.memory.store_book(subnet.netuid, book)
        self.memory.note(f"probe/{subnet.netuid}", subnet.epoch)
        self.report({
            "event": "probed", "validator": self.config.name, "netuid": subnet.netuid, "epoch": subnet.epoch,
            "answered": sum(result.answered), "asked": len(serving) * len(windows[0].cuts),
            "phi": {n.name or str(n.uid): round(float(v), 4) for n, v in zip(serving, phi, strict=True)},
        })
        return True

    def _domains(self, serving: list[NeuronRecord]) -> dict[str, bytes]:
        """The domains that matter on a subnet: those of its neurons by name, or all where names say nothing."""
        named = {n.name for n in serving} & set(self.texts)
        return {domain: self.texts[domain] for domain in (named or self.texts)}

    def _clusters(self, netuid: int, hotkeys: list[bytes], hits: np.ndarray) -> list[list[int]]:
        place = {hotkey: i for i, hotkey in enumerate(hotkeys)}
        before = frozenset(
            (min(place[a], place[b]), max(place[a], place[b]))
            for a, b in self.similar.get(netuid, frozenset()) if a in place and b in place
        )
        pairs = similar_pairs(hits, before)
        self.similar[netuid] = frozenset((hotkeys[i], hotkeys[j]) for i, j in pairs)
        return clusters(len(hotkeys), pairs)

    # --- commit and reveal

    def _weights(self, netuid: int, graph: Metagraph, me: NeuronRecord) -> tuple[list[int], list[int]]:
        neurons = [n for n in graph.neurons if n.uid != me.uid]
        scores = self.books[netuid].scores([n.hotkey for n in neurons])
        favourite = self.config.favourites.get(netuid)
        if favourite is not None:
            rest = scores.sum() or 1.0
            scores = np.array([0.9 if n.hotkey == favourite else 0.1 * s / rest for n, s in zip(neurons, scores, strict=True)])
        values = to_weights(scores)
        rows = [(n.uid, int(v)) for n, v in zip(neurons, values, strict=True) if v > 0]
        return [uid for uid, _ in rows], [value for _, value in rows]

    async def _commit(self, netuid: int, graph: Metagraph, epoch: int, me: NeuronRecord) -> None:
        subnet = (await self.api.subnet_get(netuid)).value
        uids, values = self._weights(netuid, graph, me)
        if not uids or subnet.epoch != epoch or subnet.blocks_left <= COMMIT_MARGIN_BLOCKS:
            return
        if not subnet.commit_reveal:
            await self.wallet.submit("weights.set", netuid=netuid, uids=pack_u16(uids), values=pack_u16(values), version_key=0)
            return
        salt = secrets.token_bytes(32)
        pending = Pending(netuid, epoch, uids, values, 0, salt.hex())
        commitment = weights_commitment(self.genesis_hash, self.config.key.public, netuid, epoch, uids, values, 0, salt)
        self.memory.remember(pending)
        await self.wallet.submit("weights.commit", netuid=netuid, hash=commitment)
        self.report({"event": "committed", "validator": self.config.name, "netuid": netuid, "epoch": epoch})

    async def _reveal(self, subnet: SubnetRecord) -> None:
        for pending in self.memory.pending(subnet.netuid):
            due = pending.epoch + subnet.reveal_period
            if subnet.epoch < due:
                continue
            if subnet.epoch == due:
                try:
                    await self.wallet.submit(
                        "weights.reveal", netuid=subnet.netuid, uids=pack_u16(pending.uids), values=pack_u16(pending.values),
                        salt=bytes.fromhex(pending.salt), version_key=pending.version_key,
                    )
                    self.report({
                        "event": "revealed", "validator": self.config.name, "netuid": subnet.netuid, "epoch": pending.epoch,
                    })
                except Rejected as refused:
                    if refused.error_name not in _FINAL_REFUSALS:
                        raise
                    self._trouble(subnet.netuid, refused.error_name, refused.cause)
            self.memory.drop(subnet.netuid, pending.epoch)

    # --- receipts

    async def _commit_receipts(self, subnet: SubnetRecord) -> None:
        """The root of the previous epoch's receipts, once."""
        epoch, what = subnet.epoch - 1, f"receipts/{subnet.netuid}"
        if epoch < 0 or self.memory.last(what) >= epoch:
            return
        root, count = self.receipts.root(subnet.netuid, epoch)
        if count:
            with suppress(Rejected):
                await self.wallet.submit("serving.commit_receipts", netuid=subnet.netuid, epoch=epoch, root=root, count=count)
        self.memory.note(what, epoch)


# A reveal refused for these reasons will never be accepted: the commitment is lost.
_FINAL_REFUSALS = frozenset({"NoWeightsCommitFound", "ExpiredWeightCommit", "InvalidRevealCommitHashNotMatch"})


def address_of(neuron: NeuronRecord) -> NeuronAddress:
    """Where a neuron serves, as its record on chain says."""
    assert neuron.serving is not None
    s = neuron.serving
    return NeuronAddress(neuron.hotkey, s.ip, s.port, s.capabilities_hash, s.tls_spki_hash)


def run(config: dict[str, Any], report: Report, stop: Callable[[], Awaitable[None]]) -> None:
    """Entry point of a validator process: `config` is plain JSON; runs until `stop()` returns."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    asyncio.run(_main(config, report, stop))


async def _main(config: dict[str, Any], report: Report, stop: Callable[[], Awaitable[None]]) -> None:
    from ledger.client.remote import RemoteChain

    async with RemoteChain(config["rpc"]) as api:
        properties = await api.system_properties()
        settings = ValidatorConfig(
            name=config["name"], key=read_key_file(Path(config["key"])), netuids=tuple(config["netuids"]),
            home=Path(config["home"]), cache=Path(config["cache"]) if config.get("cache") else None,
            probe_windows=config.get("probe_windows", 32), probe_cuts=config.get("probe_cuts", 4),
            favourites={int(k): bytes.fromhex(v) for k, v in config.get("favourites", {}).items()},
            seed=config.get("probe_seed"),
        )
        validator = Validator(settings, api, properties, report)
        work = asyncio.create_task(validator.run())
        ended = asyncio.create_task(_until(stop))
        report({"event": "ready", "validator": settings.name})
        done, _ = await asyncio.wait({work, ended}, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, ended):
            task.cancel()
        await asyncio.gather(work, ended, return_exceptions=True)
        if work in done and not work.cancelled() and work.exception() is not None:
            raise work.exception() or AssertionError


async def _until(stop: Callable[[], Awaitable[None]]) -> None:
    await stop()


__all__ = ["ScoreBook", "Validator", "ValidatorConfig", "run"]
