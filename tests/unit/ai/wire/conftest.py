"""A neuron with a model that needs no torch, served on loopback, and ways to talk to it: with the client, or by hand."""

import asyncio
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from ai.models.model import Card, write_bytes
from ai.receipts import ReceiptStore
from ai.serve import frames
from ai.serve.client import NeuronAddress, NeuronClient
from ai.serve.clock import wall_ms
from ai.serve.frames import FrameBuffer, Open, OpenBody, encode_frame, payload_hash
from ai.serve.hooks import FixedStandings, Standing
from ai.serve.methods import encode_prefixes
from ai.serve.refusals import REFUSALS
from ai.serve.replay import ReplayGuard
from ai.serve.server import NeuronServer
from ledger.crypto import KeyPair

GENESIS = b"g" * 32
NEURON_KEY, CALLER_KEY, STRANGER_KEY = (KeyPair.from_seed(name * 32) for name in (b"n", b"c", b"s"))


class Echo:
    """Predicts that the last byte comes again; fails, stalls or misbehaves on windows that say so."""

    def __init__(self):
        self.name = "echo"
        self.started = asyncio.Event()

    def card(self):
        return Card(self.name, payload_hash(self.name.encode()), context_bytes=32)

    def next_bytes(self, windows):
        if b"raise" in windows:
            raise RuntimeError("user text must not leave the neuron")
        if b"stall" in windows:
            import time

            time.sleep(0.3)
        rows = np.full((len(windows), 256), 1e-6)
        for row, window in enumerate(windows):
            rows[row, window[-1] if window else 0] = np.nan if window == b"nan" else 1.0
        return rows

    def write(self, prompt, sampling):
        if prompt == b"raise late":
            return self._raise_late()
        return write_bytes(self, prompt, sampling)

    def _raise_late(self):
        yield b"begun"
        raise RuntimeError("no")


@dataclass
class Market:
    """One neuron, its client, and a hand-made caller."""

    server: NeuronServer
    neuron: NeuronAddress
    client: NeuronClient
    path: Any
    standings: FixedStandings

    async def dial(self):
        """A raw connection after its GREET."""
        raw = Raw(*await asyncio.open_connection(self.neuron.ip, self.neuron.port))
        raw.greet = await raw.receive()
        return raw

    def open_body(self, body=b"", **changes):
        now = wall_ms()
        base = OpenBody(
            1, 1, 1, CALLER_KEY.public, NEURON_KEY.public, "distribution", os.urandom(16), now, now + 5_000, 0, 0, 0, (),
            payload_hash(body),
        )
        return replace(base, **changes)

    def open_frame(self, body=None, *, sid=1, key=CALLER_KEY, genesis=GENESIS, **changes):
        """An OPEN that is right but for `changes`, which are signed too."""
        body = encode_prefixes([b"abc"]) if body is None else body
        encoded = self.open_body(body, **changes).encode()
        return Open(sid, encoded, key.sign("open", genesis, encoded), body)


class Raw:
    """Frames by hand."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self._buffer, self._frames, self.greet = FrameBuffer(), [], None

    def send(self, *items):
        self.writer.write(b"".join(item if isinstance(item, bytes) else encode_frame(item) for item in items))

    async def receive(self, seconds=3.0):
        """The next frame, or None at the end of the stream."""
        async with asyncio.timeout(seconds):
            while not self._frames:
                data = await self.reader.read(65536)
                if not data:
                    return None
                self._frames += self._buffer.feed(data)
        return self._frames.pop(0)

    async def refusal(self):
        """(sid, name) of the next frame, which must be a REFUSE."""
        frame = await self.receive()
        assert isinstance(frame, frames.Refuse), frame
        return frame.sid, REFUSALS[frame.code][0]

    async def ended(self):
        """True iff the other side closes now."""
        return await self.receive() is None

    def close(self):
        self.writer.close()


@asynccontextmanager
async def open_market(path, *, model=None, client_key=CALLER_KEY, **options):
    standings = options.pop("standings", FixedStandings(default=Standing(True, True, 1.0), running_epoch=7))
    if "seen" not in options:
        options["seen"] = ReplayGuard(path / "replay.db", wall_ms() - 60_000)
    model = model or Echo()
    server = NeuronServer(
        model, NEURON_KEY, GENESIS, [1, 2], standings=standings,
        receipts=ReceiptStore(path / "neuron", clock=wall_ms), **options,
    )
    ip, port = await server.start()
    neuron = NeuronAddress(NEURON_KEY.public, ip, port, model.card().capabilities_hash)
    client = NeuronClient(
        client_key, GENESIS, receipts=ReceiptStore(path / "caller", clock=wall_ms), allow_private=True, allow_clear=True
    )
    try:
        yield Market(server, neuron, client, path, standings)
    finally:
        await client.close()
        await server.stop()


@pytest.fixture
async def market(tmp_path):
    async with open_market(tmp_path) as opened:
        yield opened


@pytest.fixture
def markets(tmp_path):
    """`async with markets(...)`: a market with options of its own."""
    return lambda **options: open_market(tmp_path, **options)
