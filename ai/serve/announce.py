"""A neuron and the chain: it publishes where it answers, and learns who its callers are.

Every few seconds the metagraph of each of its subnets is read through the chain API. From it come the standing of
callers (permit, share of the stake) and the running epoch; and where the record on chain is not the one wanted (first
start, another address, a model that went on training), the neuron signs `serving.serve` with its hotkey. A chain that
does not answer is asked again: the neuron goes on serving by what it knew last.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final, cast

from ledger.client.api import ChainApi
from ledger.client.calls import Wallet
from ledger.client.keys import encode_address
from ledger.client.records import Metagraph, NeuronRecord, Properties, Serving
from ledger.client.remote import RemoteChain
from ledger.crypto import KeyPair
from ledger.errors import Error, UsageError

from .client import NeuronAddress
from .collaborate import Peer
from .config import POLL_SECONDS
from .hooks import Standing

RETRY_SECONDS: Final = 1.0
REFUSED_RETRY_SECONDS: Final = 15.0  # e.g. the record was changed too recently
CALL_TIMEOUT_S: Final = 60.0
MODEL_COMMITMENT: Final = b"quorix/model/1:"  # before the 32 bytes of a model's hash
SHORTEST_POLL_S: Final = 0.2

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class ServingRecord:
    """What the chain shall say about this neuron. `model_hash`: committed beside the record, where there is one."""

    ip: str
    port: int
    tls_spki_hash: bytes
    capabilities_hash: bytes
    model_hash: bytes = b""

    def matches(self, serving: Serving | None) -> bool:
        """True iff the chain says so already."""
        return serving is not None and (
            ip_address(serving.ip), serving.port, serving.tls_spki_hash, serving.capabilities_hash
        ) == (ip_address(self.ip), self.port, self.tls_spki_hash, self.capabilities_hash)  # fmt: skip

    def argument(self) -> list[Any]:
        """The argument of `serving.serve`."""
        return [ip_address(self.ip).packed, self.port, self.tls_spki_hash, self.capabilities_hash]


class Presence:
    """Implements `hooks.Standings` from the chain, and keeps the records there true."""

    def __init__(self, urls: Sequence[str], keypair: KeyPair, netuids: Sequence[int], report: Report) -> None:
        if not urls:
            raise UsageError("a neuron needs the address of a node", hint="rpc: [http://127.0.0.1:9900]")
        self._urls, self._keypair, self._netuids, self._report = tuple(urls), keypair, tuple(netuids), report
        self._standings: dict[int, dict[bytes, Standing]] = {}
        self._epochs: dict[int, int] = dict.fromkeys(netuids, 0)
        self._peers: dict[int, list[Peer]] = {}
        self._announced: set[int] = set()
        self._unregistered: set[int] = set()  # told already
        self._committed: dict[int, bytes] = {}
        self._not_before: dict[int, float] = {}
        self._turn = 0

    def standing(self, netuid: int, caller: bytes) -> Standing:
        return self._standings.get(netuid, {}).get(caller, Standing())

    def epoch(self, netuid: int) -> int:
        return self._epochs[netuid]

    def peers(self, netuid: int) -> list[Peer]:
        """The other neurons that serve on a subnet, by the last metagraph seen."""
        return self._peers.get(netuid, [])

    async def properties(self) -> Properties:
        """What the chain says of itself, as soon as a node answers; that none does is told once."""
        told = False
        while True:
            try:
                async with self._connect() as api:
                    return await api.system_properties()
            except Error as error:
                if not told:
                    told = True
                    self._report({"event": "trouble", "error": error.name, "cause": error.cause, "next": "it is asked again"})
                await asyncio.sleep(RETRY_SECONDS)

    async def follow(self, wanted: Callable[[], ServingRecord], poll_seconds: float = POLL_SECONDS) -> None:
        """Read and announce until cancelled. `wanted` gives the record the chain shall hold now."""
        poll_seconds = max(SHORTEST_POLL_S, poll_seconds)
        while True:
            pause = poll_seconds
            try:
                async with self._connect() as api:
                    wallet = Wallet(api, self._keypair)
                    while True:
                        await self._look(api, wallet, wanted())
                        await asyncio.sleep(poll_seconds if self._everywhere else RETRY_SECONDS)
            except Error as error:  # a lost node is no reason to stop serving
                self._report({"event": "trouble", "error": error.name, "cause": error.cause})
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    @property
    def _everywhere(self) -> bool:
        return len(self._announced) == len(self._netuids)

    async def _look(self, api: ChainApi, wallet: Wallet, wanted: ServingRecord) -> None:
        before = self._everywhere
        for netuid in self._netuids:
            graph = (await api.subnet_get_metagraph(netuid)).value
            self._learn(netuid, graph)
            me = next((neuron for neuron in graph.neurons if neuron.hotkey == self._keypair.public), None)
            self._tell_standing(netuid, me)
            if me is None:
                self._announced.discard(netuid)
            elif wanted.matches(me.serving):
                self._announced.add(netuid)
            else:
                self._announced.discard(netuid)
                await self._announce(wallet, netuid, wanted)
            if netuid in self._announced and wanted.model_hash and self._committed.get(netuid) != wanted.model_hash:
                await self._commit(wallet, netuid, wanted.model_hash)
        if self._everywhere and not before:
            self._report({"event": "ready", "ip": wanted.ip, "port": wanted.port, "netuids": list(self._netuids)})

    def _tell_standing(self, netuid: int, me: NeuronRecord | None) -> None:
        """Say that it waits for its registration, or has lost it; "ready" says the rest."""
        if me is not None:
            self._unregistered.discard(netuid)
        elif netuid not in self._unregistered:
            self._unregistered.add(netuid)
            address = encode_address(self._keypair.public)
            command = f"quorix subnet register {netuid} --hotkey {address} --max-price AMOUNT"
            self._report({"event": "unregistered", "netuid": netuid, "next": command})

    def _learn(self, netuid: int, graph: Metagraph) -> None:
        total = sum(neuron.stake_rao for neuron in graph.neurons) or 1
        self._epochs[netuid] = graph.epoch
        self._standings[netuid] = {
            neuron.hotkey: Standing(True, neuron.permit, neuron.stake_rao / total) for neuron in graph.neurons
        }
        incentives = sum(neuron.incentive for neuron in graph.neurons) or 1
        self._peers[netuid] = [
            Peer(NeuronAddress.of(neuron), neuron.incentive / incentives) for neuron in graph.neurons
            if neuron.serving is not None and neuron.hotkey != self._keypair.public
        ]  # fmt: skip

    async def _announce(self, wallet: Wallet, netuid: int, wanted: ServingRecord) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._not_before.get(netuid, 0.0):
            return
        try:
            await wallet.submit("serving.serve", netuid=netuid, record=wanted.argument(), timeout_s=CALL_TIMEOUT_S)
            self._announced.add(netuid)
        except Error as error:
            self._not_before[netuid] = now + REFUSED_RETRY_SECONDS
            name = getattr(error, "error_name", error.name)
            self._report({"event": "trouble", "netuid": netuid, "error": name, "cause": error.cause})

    async def _commit(self, wallet: Wallet, netuid: int, model_hash: bytes) -> None:
        """Publish which model answers. What the chain says of a neuron counts nowhere: a refusal is told and left."""
        self._committed[netuid] = model_hash
        try:
            await wallet.submit(
                "serving.set_commitment", netuid=netuid, fields=[MODEL_COMMITMENT + model_hash], reset_bonds=False,
                timeout_s=CALL_TIMEOUT_S,
            )
        except Error as error:
            name = getattr(error, "error_name", error.name)
            self._report({"event": "trouble", "netuid": netuid, "error": name, "cause": error.cause})

    def _connect(self) -> AbstractAsyncContextManager[ChainApi]:
        """The next of the nodes."""
        url = self._urls[self._turn % len(self._urls)]
        self._turn += 1
        node: Any = RemoteChain(url)  # it has ChainApi's methods, attached at import
        return cast(AbstractAsyncContextManager[ChainApi], node)
