"""One neuron: a key, a model, a server, and its place on the chain.

`run` is what the AI host starts in a process of its own, from plain JSON. `Neuron` is the same for a model of your own:

    Neuron(MyModel(), key_from_secret("//miner"), netuids=[1], rpc=["http://127.0.0.1:9900"], port=9101).run()
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ai.models.model import Card, Model
from ai.receipts import KEEP_HOURS, ReceiptStore
from ledger.client.keys import encode_address
from ledger.client.records import Properties
from ledger.crypto import KeyPair
from ledger.errors import UsageError

from . import tls
from .announce import Presence, Report, ServingRecord
from .client import NeuronClient
from .clock import wall_ms
from .collaborate import Collaborator, Mixer
from .config import POLL_SECONDS, NeuronConfig
from .hooks import Hooks
from .improving import Improving, keep_improving
from .methods import METHODS, Method
from .replay import ReplayGuard
from .server import NeuronServer

STATUS_SECONDS: Final = 5.0

Stop = Callable[[], Awaitable[None]]


def run(config: dict[str, Any], report: Report, stop: Stop) -> None:
    """Entry point of a neuron's process: serves until `stop()` returns."""
    import uvloop

    settings = NeuronConfig.from_json(config)
    if settings.is_expert:
        import torch

        torch.set_num_threads(1)
    if settings.memory_limit_mib and settings.device == "cpu":
        import resource

        limit = settings.memory_limit_mib << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    uvloop.run(Neuron.from_config(settings, report).serve(stop))


class Neuron:
    """A model on the market."""

    def __init__(
        self, model: Model, key: KeyPair, netuids: Sequence[int], rpc: Sequence[str], *, name: str = "neuron",
        host: str = "127.0.0.1", port: int = 0, public_ip: str = "", home: Path | None = None, certificate: bool = False,
        hooks: Hooks | None = None, report: Report = lambda line: None, poll_seconds: float = POLL_SECONDS,
        receipts_keep_hours: int = KEEP_HOURS, collaborate: int = 0, mixer: Callable[[], Mixer] | None = None,
    ) -> None:  # fmt: skip
        """`home`: where replay protection and receipts are kept; without it both end with the process.

        `certificate`: serve over TLS with a certificate made once in the home; needed outside devnets. `collaborate`:
        ask up to so many peers (3 at most) where a caller allows it, and put answers together by `mixer`.
        """
        self.model, self.key, self.name = model, key, name
        self._netuids, self._host, self._port = tuple(netuids), host, port
        self._public_ip = public_ip or host
        self._home, self._certificate, self._hooks = home, certificate, hooks
        self._report: Report = lambda line: report({**line, "name": name})
        self._poll_seconds, self._keep_hours = poll_seconds, receipts_keep_hours
        self._collaborate, self._mixer = collaborate, mixer
        self._client: NeuronClient | None = None
        self._seen: ReplayGuard | None = None
        self._presence = Presence(rpc, key, netuids, self._report)
        if certificate and home is None:
            raise UsageError("a certificate needs a home to be kept in")

    @classmethod
    def from_config(cls, config: NeuronConfig, report: Report) -> Neuron:
        """A neuron as its configuration says; loads the model."""
        return cls(
            config.load(), config.key(), config.netuids, config.rpc, name=config.name, host=config.host,
            port=config.port, public_ip=config.public_ip, home=Path(config.home), certificate=config.tls, report=report,
            poll_seconds=config.poll_seconds, receipts_keep_hours=config.receipts_keep_hours, collaborate=config.collaborate,
        )  # fmt: skip

    def run(self) -> None:
        """Serve until interrupted."""
        asyncio.run(self.serve(interrupted))

    async def serve(self, stop: Stop) -> None:
        """Listen and be on chain as soon as a node answers, and end when `stop()` returns."""
        address = encode_address(self.key.public)
        self._report({"event": "waits", "address": address, "netuids": list(self._netuids), "next": "a node that answers"})
        ended = asyncio.ensure_future(stop())
        chain = asyncio.ensure_future(self._presence.properties())
        await asyncio.wait({ended, chain}, return_when=asyncio.FIRST_COMPLETED)
        if not chain.done():
            chain.cancel()
            return
        server = self._server(chain.result())
        ip, port = await server.start(self._host, self._port)
        self._report({"event": "serving", "ip": ip, "port": port, "hotkey": self.key.public.hex()})
        pin = tls.pem_spki_hash(self._pem) if self._certificate else b""
        follow = asyncio.create_task(
            self._presence.follow(
                lambda: _record(self._public_ip, port, pin, self.model.card()), self._poll_seconds
            )
        )
        work = [follow, asyncio.create_task(self._tell(server))]
        if isinstance(self.model, Improving):
            work.append(asyncio.create_task(keep_improving(self.model, lambda: len(server.sessions), self._report)))
        assert server.broken is not None
        try:
            await asyncio.wait({ended, *work, server.broken}, return_when=asyncio.FIRST_COMPLETED)
            for task in (*work, server.broken):
                if task.done():
                    task.result()  # they only end by a fault or a bug, which must not be lost
        finally:
            for task in (ended, *work):
                task.cancel()
            await server.stop()
            if self._client is not None:
                await self._client.close()
            if self._seen is not None:
                self._seen.close()

    @property
    def _pem(self) -> Path:
        assert self._home is not None
        return self._home / "tls.pem"

    def _server(self, chain: Properties) -> NeuronServer:
        receipts = None
        if self._home is not None:
            receipts = ReceiptStore(self._home / "receipts", clock=wall_ms, keep_hours=self._keep_hours)
            self._seen = ReplayGuard(self._home / "replay.db", wall_ms())
        context = tls.server_context(tls.ensure_certificate(self._pem)) if self._certificate else None
        return NeuronServer(
            self.model, self.key, chain.genesis_hash, self._netuids, standings=self._presence, hooks=self._hooks,
            receipts=receipts, seen=self._seen, tls=context, methods=self._methods(chain),
        )  # fmt: skip

    def _methods(self, chain: Properties) -> dict[str, Method]:
        """Those that the model's card names, and `card` itself."""
        offered = {*self.model.card().methods, "card"}
        served = {name: method for name, method in METHODS.items() if name in offered}
        if not self._collaborate or "distribution" not in served:
            return served
        asked = None if self._home is None else ReceiptStore(self._home / "asked", clock=wall_ms, keep_hours=self._keep_hours)
        self._client = NeuronClient(
            self.key, chain.genesis_hash, receipts=asked, allow_private=chain.allow_private, allow_clear=chain.devnet
        )
        helped = Collaborator(self._client, self._presence.peers, fan_out=self._collaborate, mixer=self._mixer)
        return {**served, "distribution": Method(helped.distribution, takes_asks=True)}

    async def _tell(self, server: NeuronServer) -> None:
        """Report the counters whenever they changed."""
        told, served = 0, False
        while True:
            await asyncio.sleep(STATUS_SECONDS)
            counters = server.counters
            if counters.sessions and not served:
                served = True
                self._report({"event": "first session", "next": "a status line whenever the counters change"})
            if counters.sessions + sum(counters.refused.values()) != told:
                told = counters.sessions + sum(counters.refused.values())
                self._report({
                    "event": "status", "sessions": counters.sessions, "answers": counters.answers,
                    "units": counters.units, "receipts": counters.receipts, "refused": dict(counters.refused),
                    "failed": dict(counters.failed),
                })  # fmt: skip


def _record(ip: str, port: int, pin: bytes, card: Card) -> ServingRecord:
    return ServingRecord(ip, port, pin, card.capabilities_hash, card.model_hash)


async def interrupted() -> None:
    """Returns at SIGINT or SIGTERM."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    if sys.platform == "win32":
        await event.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, event.set)
    await event.wait()
