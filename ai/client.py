"""Ask the neurons of a running market, by name, uid or hotkey.

    async with await Client.connect("http://127.0.0.1:9900") as client:
        text, settled = await client.text(2, "arith", b"12+30=")
        rows, settled = await client.distribution(1, "code", [b"import "])

Addresses come from the chain, answers over signed sessions; `settled.receipt` is signed by both sides. Without a key a
fresh one is made: a stranger is served last, and not by neurons that serve members only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from ai.metagraph import neuron_named
from ai.models.model import Card, Sampling
from ai.receipts import ReceiptStore
from ai.serve.client import DEFAULT_TIMEOUT_MS, NeuronAddress, NeuronClient, Settled
from ai.serve.clock import wall_ms
from ledger.client.keys import short_address
from ledger.client.records import NeuronRecord, Properties
from ledger.client.remote import RemoteChain
from ledger.crypto import KeyPair
from ledger.errors import NotFound

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

METAGRAPH_SECONDS: Final = 10.0  # how long addresses are believed before the chain is asked again


class Client:
    """See the module. One event loop; close it, or use it as a context."""

    def __init__(self, api: Any, properties: Properties, key: KeyPair, receipts: Path | None = None) -> None:
        """`api` implements ChainApi. `receipts`: a directory to keep receipts in."""
        self.api, self.key = api, key
        self._store = ReceiptStore(receipts, clock=wall_ms) if receipts is not None else None
        self.sessions = NeuronClient(
            key, properties.genesis_hash, receipts=self._store, allow_private=properties.allow_private,
            allow_clear=properties.devnet,
        )  # fmt: skip
        self._graphs: dict[int, tuple[int, list[NeuronRecord]]] = {}

    @classmethod
    async def connect(
        cls, rpc: str = "http://127.0.0.1:9900", key: KeyPair | None = None, receipts: Path | None = None
    ) -> Client:
        """A client of the market behind that node. Raises Unreachable."""
        api: Any = RemoteChain(rpc)
        try:
            return cls(api, await api.system_properties(), key or KeyPair.from_seed(os.urandom(32)), receipts)
        except BaseException:
            await api.close()
            raise

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self.sessions.close()
        if self._store is not None:
            self._store.close()
        if isinstance(self.api, RemoteChain):
            await self.api.close()

    async def neurons(self, netuid: int) -> list[NeuronRecord]:
        """The neurons of a subnet that say where they answer, by uid."""
        now_ms = wall_ms()
        found = self._graphs.get(netuid)
        if found is None or now_ms - found[0] > METAGRAPH_SECONDS * 1000:
            graph = (await self.api.subnet_get_metagraph(netuid)).value
            found = self._graphs[netuid] = (now_ms, [n for n in graph.neurons if n.serving is not None])
        return found[1]

    async def find(self, netuid: int, who: str | int | bytes) -> NeuronAddress:
        """The address of a neuron by uid, name or hotkey (bytes, address, hex or a beginning of these). Raises NotFound."""
        neurons = await self.neurons(netuid)
        found = neuron_named(who, neurons)
        if found is not None:
            return address_of(found)
        known = [n.name or short_address(n.hotkey) for n in neurons]
        hint = f"serving there: {', '.join(known)}" if known else "nobody serves there yet"
        shown = who.hex() if isinstance(who, bytes) else who
        raise NotFound(f"no neuron {shown} answers on subnet {netuid}", hint=hint)

    async def distribution(
        self, netuid: int, who: str | int | bytes, prefixes: Iterable[bytes], *, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> tuple[NDArray[float64], Settled]:
        """Next-byte probabilities (windows, 256) after each prefix, and the settled session."""
        neuron = await self.find(netuid, who)
        return await self.sessions.distribution(neuron, prefixes, netuid=netuid, timeout_ms=timeout_ms)

    async def text(
        self, netuid: int, who: str | int | bytes, prompt: bytes, sampling: Sampling | None = None, *,
        timeout_ms: int = DEFAULT_TIMEOUT_MS,
    ) -> tuple[bytes, Settled]:  # fmt: skip
        """Text after a prompt, and the settled session."""
        neuron = await self.find(netuid, who)
        return await self.sessions.text(neuron, prompt, sampling, netuid=netuid, timeout_ms=timeout_ms)

    async def card(
        self, netuid: int, who: str | int | bytes, *, timeout_ms: int = DEFAULT_TIMEOUT_MS
    ) -> tuple[Card, Settled]:
        """What a neuron says of itself, checked against the chain, and the settled session."""
        return await self.sessions.card(await self.find(netuid, who), netuid=netuid, timeout_ms=timeout_ms)


def address_of(neuron: NeuronRecord) -> NeuronAddress:
    """Where a neuron answers, as its record on chain says. Raises NotFound where it has none."""
    return NeuronAddress.of(neuron)
