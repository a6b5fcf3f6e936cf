"""Malicious answers under a validator's probe: each scores zero, and the honest neuron beside it is scored as if alone."""

import asyncio
import pickle
from random import Random

import pytest

from ai.distribution import DISTRIBUTION_BYTES, encode_distributions
from ai.judge.byte_task import BytePrediction
from ai.judge.conduct import Conduct
from ai.judge.tasks import Asked, TaskSetup
from ai.serve.client import NeuronAddress, NeuronClient
from ai.serve.frames import FRAME_MAX_BYTES
from ai.serve.hooks import FixedStandings, Standing
from ai.serve.methods import METHODS, Method
from ai.serve.server import NeuronServer

NETUID, WINDOWS, CUTS = 2, 6, 2
SUMS = b"".join(b"%d+%d=%d\n" % (a, b, a + b) for a in range(7, 40) for b in range(3, 30))
EVEN = encode_distributions([[1.0] * 256])
BOMB = pickle.dumps({"weights": object})


def evil(payload, late_s=0.0, good_first=False):
    """The method `distribution` of a neuron that answers with whatever it likes."""

    async def run(call):
        step = 0
        while True:
            if late_s:
                await asyncio.sleep(late_s)
            call.answer(EVEN * WINDOWS if good_first and step == 0 else payload)
            step += 1
            if await call.next_ask() is None:
                return

    return {**METHODS, "distribution": Method(run, takes_asks=True)}


def changed(at, value):
    row = bytearray(EVEN)
    row[at] = value
    return bytes(row) * WINDOWS


@pytest.fixture
async def probe(devnet, serve, models):
    """`await probe(methods)`: the outcome of a batch put to an honest neuron and, if given, to one with those methods."""
    servers, client = [], NeuronClient(
        devnet.hot("validator 0"), devnet.genesis.genesis_hash, allow_private=True, allow_clear=True
    )
    honest = await serve(models["parrot"](SUMS, "arith"), devnet.hot("neuron arith"))

    async def run(methods=None, model=None):
        neurons = [honest]
        if methods is not None:
            key = devnet.hot("neuron json")
            standings = FixedStandings(Standing(True, True, 1.0))
            server = NeuronServer(
                model or models["parrot"](SUMS, "evil"), key, devnet.genesis.genesis_hash, (NETUID,), standings=standings,
                methods=methods,
            )
            neurons.append(NeuronAddress(key.public, *await server.start()))
            servers.append(server)
        task = BytePrediction(TaskSetup({"arith": SUMS}, WINDOWS, CUTS, 0.3, Conduct()))
        return await task.probe(Asked(client, neurons, [""] * len(neurons), NETUID, Random(7)))

    yield run
    await client.close()
    for server in servers:
        await server.stop()


@pytest.mark.parametrize(
    "methods",
    [
        evil(b""),
        evil(EVEN * (WINDOWS - 1)),
        evil(EVEN * WINDOWS + b"\0"),
        evil(changed(1, 255)),
        evil(changed(0, 200)),
        evil(bytes(DISTRIBUTION_BYTES * WINDOWS)),
        evil(b"\xff" * DISTRIBUTION_BYTES * WINDOWS),
        evil(b"\x7f\xc0\0\0" * 1024),
        evil(b"x" * (FRAME_MAX_BYTES - 100)),
        evil(BOMB),
        evil(EVEN * WINDOWS, late_s=1.0),
    ],
    ids=[
        "empty", "one window missing", "a byte more", "not normalised", "out of order", "all zero", "all ones", "NaN",
        "huge", "pickle", "late",
    ],
)  # fmt: skip
async def test_it_scores_zero_and_harms_nobody(probe, methods):
    alone = await probe()
    outcome = await probe(methods)
    assert outcome.scores[1] == 0 and outcome.answered[1] == 0
    assert outcome.scores[0] == alone.scores[0] > 1 and outcome.answered[0] == CUTS


async def test_what_is_over_a_frame_never_leaves_and_scores_zero(probe):
    outcome = await probe(evil(b"x" * (FRAME_MAX_BYTES + 1)))
    assert outcome.scores[1] == 0 and outcome.scores[0] > 1


async def test_a_good_answer_before_a_bad_one_is_worth_what_the_rules_say(probe):
    outcome = await probe(evil(b"bad", good_first=True))
    assert outcome.answered[1] <= 1 and outcome.scores[1] <= 0.01 and outcome.scores[0] > 1


async def test_a_model_that_returns_no_distribution_scores_zero(probe, models):
    outcome = await probe(METHODS, models["liar"](SUMS, "liar"))
    assert outcome.scores[1] == 0 and outcome.scores[0] > 1
