"""Lock-step probing of real neuron servers: honest ones are scored, and whoever misbehaves harms only itself."""

import asyncio
import random
import time

import numpy as np
import pytest

from ai.judge.mixture import NULL_PROBABILITY
from ai.judge.probes import MAX_WINDOWS, MIN_CONTEXT, WINDOW_BYTES, ask_batch, plan_batch
from ai.receipts import ReceiptStore
from ai.serve.client import NeuronClient
from ai.serve.clock import wall_ms
from ai.serve.frames import BODY_MAX_BYTES
from ai.serve.methods import encode_prefixes
from ai.serve.server import NeuronServer
from ledger.crypto import KeyPair
from ledger.errors import UsageError

TEXT = b"".join(b"%d+%d=%d;" % (a, b, a + b) for a in range(7, 40) for b in range(3, 30))
OTHER = b"".join(b"the %d %s sat on the mat, " % (n, b"cat" if n % 3 else b"dog") for n in range(300))
KEY = KeyPair.from_seed(b"v" * 32)


def neuron_key(number):
    return KeyPair.from_seed(bytes([number]) * 32)


def plan(windows=8, cuts=3, seed=1, texts=None):
    return plan_batch(texts or {"sums": TEXT, "cats": OTHER}, windows, cuts, random.Random(seed))


@pytest.fixture
async def client(devnet, tmp_path):
    receipts = ReceiptStore(tmp_path / "receipts", clock=wall_ms)
    made = NeuronClient(KEY, devnet.genesis.genesis_hash, receipts=receipts, allow_private=True, allow_clear=True)
    yield made
    await made.close()
    receipts.close()


# --- planning ----------------------------------------------------------------------------------------------------


def test_a_plan_is_stratified_reproducible_and_within_its_texts():
    windows = plan(windows=9, cuts=4)
    assert windows == plan(windows=9, cuts=4) and windows != plan(windows=9, cuts=4, seed=2)
    assert sorted(w.domain for w in windows) == ["cats"] * 5 + ["sums"] * 4
    for window in windows:
        assert len(window.text) == WINDOW_BYTES and window.text in (TEXT if window.domain == "sums" else OTHER)
        assert list(window.cuts) == sorted(set(window.cuts)) and len(window.cuts) == 4
        assert window.cuts[0] >= MIN_CONTEXT and window.cuts[-1] < WINDOW_BYTES


def test_the_largest_plan_fits_a_session_and_a_larger_one_is_refused():
    latest = plan_batch({"a": TEXT}, MAX_WINDOWS, 1, random.Random(3))
    body = encode_prefixes([w.text[: WINDOW_BYTES - 1] for w in latest])
    assert len(body) <= BODY_MAX_BYTES
    for windows, cuts in ((MAX_WINDOWS + 1, 1), (0, 1), (1, 0), (1, WINDOW_BYTES)):
        with pytest.raises(UsageError, match="windows"):
            plan_batch({"a": TEXT}, windows, cuts, random.Random(1))
    with pytest.raises(UsageError, match="short"):
        plan_batch({"short": b"x" * 127}, 1, 1, random.Random(1))
    with pytest.raises(UsageError):
        plan_batch({}, 1, 1, random.Random(1))


# --- honest neurons ----------------------------------------------------------------------------------------------


async def test_honest_neurons_are_scored_on_what_they_know(serve, client, models):
    sums = await serve(models["parrot"](TEXT, "sums"), neuron_key(1))
    cats = await serve(models["parrot"](OTHER, "cats"), neuron_key(2))
    windows = plan()
    result = await ask_batch(client, [sums, cats], 1, windows)
    assert result.answered == [3, 3] and result.hits.shape == (2, 8, 3)
    own = np.array([w.domain == "sums" for w in windows])
    assert result.hits[0, own].mean() > 0.4 > result.hits[0, ~own].mean()
    assert result.hits[1, ~own].mean() > 0.4 > result.hits[1, own].mean()
    leaves = client.receipts.leaves(1, 0)
    assert len(leaves) == 2


async def test_nobody_to_ask_and_nothing_to_ask(client):
    assert (await ask_batch(client, [], 1, plan())).hits.shape == (0, 8, 3)
    assert (await ask_batch(client, [], 1, [])).answered == []


# --- peeking -----------------------------------------------------------------------------------------------------


def peeker(models, seen):
    """A miner that remembers every text that it or its friends were shown, and looks the next byte up there."""

    class Peeker(models["parrot"]):
        def next_bytes(self, windows):
            rows = []
            for window in windows:
                known = next((text for text in seen if len(text) > len(window) and text.startswith(window)), None)
                row = [1.0] * 256
                if known is not None:
                    row[known[len(window)]] = 1e6
                rows.append(row)
            seen.update(windows)
            return rows

    return Peeker(b"", "peeker")


async def test_a_peeker_gains_nothing_in_lock_step(serve, client, models):
    seen = set()
    slow = models["parrot"](TEXT, "slow", delay_s=0.05)
    addresses = [await serve(peeker(models, seen), neuron_key(number)) for number in (1, 2)]
    addresses.append(await serve(slow, neuron_key(3)))
    windows = plan(windows=6, cuts=4)
    result = await ask_batch(client, addresses, 1, windows)
    assert result.answered == [4, 4, 4]
    assert np.allclose(result.hits[:2], NULL_PROBABILITY, atol=1e-4)
    again = plan(windows=6, cuts=4, seed=9)  # what was shown to one before the other, by contrast, is lost
    await ask_batch(client, addresses[:1], 1, again)
    cheated = await ask_batch(client, addresses[1:2], 1, again)
    assert cheated.hits[0, :, :3].mean() > 0.9


# --- neurons that misbehave --------------------------------------------------------------------------------------


async def test_a_liar_and_a_dead_address_count_as_null_and_delay_nobody(serve, client, models):
    honest = await serve(models["parrot"](TEXT + OTHER, "honest"), neuron_key(1))
    liar = await serve(models["liar"](TEXT, "liar"), neuron_key(2))
    gone = await serve(models["parrot"](TEXT, "gone"), neuron_key(3))
    await serve.servers[gone.hotkey].stop()
    started = time.monotonic()
    result = await ask_batch(client, [liar, honest, gone], 1, plan())
    assert time.monotonic() - started < 2.0
    assert result.answered == [0, 3, 0]
    assert (result.hits[[0, 2]] == NULL_PROBABILITY).all() and result.hits[1].mean() > 0.4


class Garbage(NeuronServer):
    """Sends answers that are no distributions over the wire, well signed."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)

        async def garbage(windows, priority, deadline_ms):
            return b"\xff" * (98 * len(windows))

        self.batcher.distributions = garbage


class Dropping(NeuronServer):
    """Drops the connection when the second cut is asked."""

    def handle(self, connection, frame):
        super().handle(connection, frame)
        if type(frame).__name__ == "Ask":
            connection.close()


class Unsigned(NeuronServer):
    """Answers every cut but never signs a closing."""

    def _open(self, connection, frame):
        super()._open(connection, frame)
        self.sessions[connection, frame.sid]._close = lambda status: None


class Stalling(NeuronServer):
    """Takes its time for the second cut."""

    async def _stall(self, windows, priority, deadline_ms):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps == 2:
            await asyncio.sleep(2.0)
        return await self._honest(windows, priority, deadline_ms)

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self._honest, self.batcher.distributions = self.batcher.distributions, self._stall


async def test_malformed_answers_count_as_null(serve, client, models):
    bad = await serve(models["parrot"](TEXT), neuron_key(1), server=Garbage)
    good = await serve(models["parrot"](TEXT), neuron_key(2))
    result = await ask_batch(client, [bad, good], 1, plan())
    assert result.answered == [0, 3] and (result.hits[0] == NULL_PROBABILITY).all()


async def test_a_session_that_is_not_closed_counts_as_null_altogether(serve, client, models):
    dropping = await serve(models["parrot"](TEXT), neuron_key(1), server=Dropping)
    unsigned = await serve(models["parrot"](TEXT), neuron_key(2), server=Unsigned)
    good = await serve(models["parrot"](TEXT), neuron_key(3))
    result = await ask_batch(client, [dropping, unsigned, good], 1, plan())
    assert result.answered == [0, 0, 3]
    assert (result.hits[:2] == NULL_PROBABILITY).all() and result.hits[2].mean() > 0.2


async def test_who_is_late_for_a_cut_keeps_the_cuts_before_and_holds_nobody_up(serve, client, models):
    late = await serve(models["parrot"](TEXT + OTHER), neuron_key(1), server=Stalling)
    good = await serve(models["parrot"](TEXT + OTHER), neuron_key(2))
    started = time.monotonic()
    result = await ask_batch(client, [late, good], 1, plan(), step_timeout_s=0.4)
    assert time.monotonic() - started < 1.8
    assert result.answered == [1, 3]
    assert result.hits[0, :, 0].mean() > 0.4 and (result.hits[0, :, 1:] == NULL_PROBABILITY).all()
    assert result.hits[1].min(axis=0).mean() > 0 and result.hits[1].mean() > 0.4


async def test_a_host_that_never_greets_costs_the_others_one_step_at_most(serve, client, models):
    """Who has answered waits less than a session may idle: a silent neuron cannot time its rivals out."""
    silent = await asyncio.start_server(lambda reader, writer: asyncio.sleep(5), "127.0.0.1", 0)
    good = await serve(models["parrot"](TEXT + OTHER), neuron_key(2))
    dead = type(good)(neuron_key(1).public, "127.0.0.1", silent.sockets[0].getsockname()[1], b"x" * 32)
    started = time.monotonic()
    result = await ask_batch(client, [dead, good], 1, plan(), step_timeout_s=0.5)
    assert time.monotonic() - started < 1.5 and result.answered == [0, 3]
    silent.close()


async def test_probing_leaves_no_session_behind(serve, client, models):
    addresses = [
        await serve(models["parrot"](TEXT), neuron_key(1)),
        await serve(models["parrot"](TEXT), neuron_key(2), server=Stalling),
        await serve(models["liar"](TEXT), neuron_key(3)),
    ]
    batch = asyncio.create_task(ask_batch(client, addresses, 1, plan(), step_timeout_s=3.0))
    await asyncio.sleep(0.2)
    batch.cancel()
    with pytest.raises(asyncio.CancelledError):
        await batch
    for _ in range(100):
        if not any(server.sessions for server in serve.servers.values()):
            break
        await asyncio.sleep(0.02)
    assert not any(server.sessions for server in serve.servers.values())
