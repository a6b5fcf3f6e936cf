"""`chain`: the real runtime behind the chain API, sealing a block for every extrinsic. `serve`: real neuron servers."""

import asyncio
import time
from collections import deque

import pytest

from ai.models.model import Card, write_bytes
from ai.serve.client import NeuronAddress
from ai.serve.hooks import FixedStandings, Standing
from ai.serve.server import NeuronServer
from genesis.cast import neuron_names
from ledger.blocks import Extrinsic
from ledger.client.metadata_records import CallRecord, ErrorRecord, Metadata
from ledger.client.records import (
    At,
    EventRecord,
    ExtrinsicRecord,
    HeaderRecord,
    NewHead,
    Properties,
    Reading,
    to_json,
)
from ledger.errors import NotFound, Unreachable
from runtime import reads
from runtime.registry import CALLS, ERRORS, EVENTS
from runtime.timelock_reads import timelock_of


class RuntimeChain:
    """ChainApi over the runtime of a devnet in memory. `log`: (height, call, error) of everything that was included.

    `hold`: what is submitted waits until `seal` or `skip`; `refuse`: what a submission raises; `lost`: nothing is read.
    """

    def __init__(self, devnet):
        self.devnet, self.names = devnet, neuron_names(devnet.spec)
        self.pool, self.final, self.log = [], {}, []
        self.hold = self.lost = False
        self.refuse = None  # raised at every submission
        self.heads, self.results = [], []
        devnet.block()

    # --- blocks

    def seal(self):
        """A block of all that waits."""
        taken, self.pool = self.pool, []
        result = self.devnet.block(*taken)
        self.results.append(result)
        height = self.devnet.height
        events = [
            EventRecord(height, i, None, EVENTS[row[0]].name, to_json(dict(zip(EVENTS[row[0]].fields, row[1:], strict=True))))
            for i, row in enumerate(result.events)
        ]
        for index, (extrinsic, outcome) in enumerate(zip(taken, result.outcomes, strict=True)):
            name = CALLS[extrinsic.call_number].name
            self.log.append((height, name, outcome.error))
            of_call = events[outcome.first_event : outcome.first_event + outcome.events]
            self.final[extrinsic.id] = ExtrinsicRecord(
                extrinsic.id, height, index, extrinsic.signer, extrinsic.nonce, name, {}, 0, outcome.fee_rao, outcome.error,
                of_call, extrinsic.encode(),
            )
        for head in self.heads:
            head.put_nowait(NewHead(self.header(), len(taken), 0, events))
        return result

    def skip(self, blocks):
        for _ in range(blocks):
            self.seal()

    def next_epoch(self, netuid):
        """Blocks until the subnet's next epoch has begun."""
        epoch = reads.subnet(self.devnet.view, netuid, self.devnet.height).epoch
        while reads.subnet(self.devnet.view, netuid, self.devnet.height).epoch == epoch:
            self.seal()

    def calls(self, name):
        return [error for _, call, error in self.log if call == name]

    # --- ChainApi

    def _reading(self, value):
        return Reading(At(self.devnet.height, self.devnet.hashes[self.devnet.height]), value)

    def header(self):
        height = self.devnet.height
        none = bytes(32)
        return HeaderRecord(
            self.devnet.hashes[height], 1, 1, height, 0, 1000 * height, none, none, 0, 0, none, none, none, none, none, none,
            0, 1,
        )

    async def system_properties(self):
        if self.lost:
            raise Unreachable("the node is gone")
        return Properties(
            "quorix-dev-1", self.devnet.genesis.genesis_hash, "Q", 9, 10940, 1000, 100, 1, "0", True, True, "instant"
        )

    async def state_get_metadata(self):
        calls = [
            CallRecord(c.number, c.name, [[name, "value"] for name in c.schema.fields], "signed", c.work, "")
            for c in CALLS.values()
        ]
        return Metadata(1, calls, {}, [ErrorRecord(e.number, e.name, e.cause, e.hint) for e in ERRORS.values()], {})

    async def chain_get_header(self, at="head"):
        if self.lost:
            raise Unreachable("the node is gone")
        return self.header()

    async def author_next_nonce(self, account):
        return self.devnet.nonce(account) + sum(1 for waiting in self.pool if waiting.signer == account)

    async def author_submit_extrinsic(self, extrinsic):
        if self.refuse is not None:
            raise self.refuse
        decoded = Extrinsic.decode(extrinsic)
        self.devnet.runtime.admit(self.devnet.view, decoded, self.devnet.height + 1)
        self.pool.append(decoded)
        if not self.hold:
            self.seal()
        return decoded.id

    async def chain_get_extrinsic(self, id):
        if id not in self.final:
            if any(waiting.id == id for waiting in self.pool):
                return ExtrinsicRecord(id, None, None, bytes(32), 0, "", {}, 0, 0, "", [], b"")
            raise NotFound("no such extrinsic")
        return self.final[id]

    async def chain_subscribe_new_heads(self, start=None):
        queue = asyncio.Queue()
        self.heads.append(queue)
        while True:
            yield await queue.get()

    async def subnet_list(self, at="head"):
        return self._reading(reads.subnet_list(self.devnet.view, self.devnet.height))

    async def subnet_get(self, netuid, at="head"):
        if self.lost:
            raise Unreachable("the node is gone")
        return self._reading(reads.subnet(self.devnet.view, netuid, self.devnet.height))

    async def subnet_get_metagraph(self, netuid, at="head"):
        return self._reading(reads.metagraph(self.devnet.view, netuid, self.devnet.height, self.names))

    async def subnet_get_commits(self, netuid, at="head"):
        return self._reading(reads.commits(self.devnet.view, netuid))

    async def subnet_get_timelock(self, netuid, at="head"):
        return self._reading(timelock_of(self.devnet.view, netuid))

    async def subnet_get_weights(self, netuid, at="head"):
        return self._reading(reads.weight_rows(self.devnet.view, netuid))

    async def subnet_get_hyperparams(self, netuid, at="head"):
        return self._reading(reads.hyperparams(self.devnet.view, netuid))

    async def subnet_get_receipt_roots(self, netuid, epoch=None, at="head"):
        return self._reading(reads.receipt_roots(self.devnet.view, netuid, epoch))


@pytest.fixture
def chain(devnet):
    return RuntimeChain(devnet)


# --- models of users ---------------------------------------------------------------------------------------------


class Parrot:
    """Knows one text by heart: after what occurs in it comes what comes there, with probability `sure`."""

    def __init__(self, text, name="parrot", sure=0.9, domains=(), delay_s=0.0):
        self.text, self.sure, self.delay_s = text, sure, delay_s
        self._card = Card(name, model_hash=name.encode().ljust(32, b"\0")[:32], context_bytes=128, domains=domains)
        self.windows = deque(maxlen=100_000)

    def card(self):
        return self._card

    def next_bytes(self, windows):
        if self.delay_s:
            time.sleep(self.delay_s)
        self.windows.extend(windows)
        return [self._row(window) for window in windows]

    def _row(self, window):
        row = [(1.0 - self.sure) / 256] * 256
        for length in (12, 6, 4, 3, 2):
            at = self.text.find(window[-length:]) if len(window) >= length else -1
            if at >= 0 and at + length < len(self.text):
                row[self.text[at + length]] += self.sure
                return row
        return [1.0] * 256

    def write(self, prompt, sampling):
        return write_bytes(self, prompt, sampling)


class Liar(Parrot):
    """Answers with what is no distribution."""

    def next_bytes(self, windows):
        return [[float("nan")] * 256 for _ in windows]


@pytest.fixture
def models():
    return {"parrot": Parrot, "liar": Liar}


@pytest.fixture
async def serve(devnet):
    """`await serve(model, key, netuids)`: the address of a neuron that serves it. `serve.servers` by hotkey."""
    servers = {}

    async def start(model, key, netuids=(1, 2), server=NeuronServer):
        listed = {key.public: Standing(True)}
        standings = FixedStandings(Standing(True, True, 1.0), listed)
        made = server(model, key, devnet.genesis.genesis_hash, netuids, standings=standings)
        ip, port = await made.start()
        servers[key.public] = made
        return NeuronAddress(key.public, ip, port, model.card().capabilities_hash)

    start.servers = servers
    yield start
    for made in servers.values():
        await made.stop()
