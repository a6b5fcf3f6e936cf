"""Does it help a neuron to ask others? The generalist with a mixing head over its own and its peers' answers.

The head learns on held-out text that no expert has seen and is measured on other held-out text: `pure` windows of one
domain and `switch` windows whose domain changes half-way, bytes 32 to 127. Loss is compared with the generalist alone and
with the fixed-share Bayes mixture, which learns nothing. All answers travel as they do on the wire.

Then real neurons that all ask each other are put on loopback: however they are connected, a request ends, and no more
sessions are opened below it than its budget allows.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import click

from tools.lab.frame import Run, experiment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Rows = NDArray[np.float64]

TRAINING_WINDOWS = 96  # of each kind
WINDOWS = 64
FIRST = 32
PEERS = (0, 4, 8)
STEPS = 300
PURE_GAIN, SWITCH_GAIN = 0.10, 0.15
KINDS = ("pure", "switch")
NEURONS, NETUID = 5, 1
ALLOWED = ((1, 12), (1, 2), (1, 0), (0, 12))  # hops and budget of a request


@experiment("collaborate", about="does it help a neuron to ask others: a mixing head, loops and budgets", seconds=90)
@click.option("--recipe", type=click.Choice(["quick", "full"]), default="full", show_default=True,
              help="Training budget of the experts; full is the devnet's.")
@click.option("--steps", type=click.IntRange(1, 10_000), default=STEPS, show_default=True, help="Of training of the head.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of training, windows and order of peers.")
def collaborate(run: Run, recipe: str, steps: int, seed: int) -> None:
    """Loss by number of peers; sessions opened in a market of neurons that ask each other."""
    from ai.models.train import GENERALIST
    from tools.lab.shapley import halves_of_the_text, obtain_experts

    experts = obtain_experts(run, recipe, seed)
    order = [name for name in experts if name != GENERALIST]
    Random(f"peers {seed}").shuffle(order)
    learning, asking = halves_of_the_text()
    lessons = [draw(kind, TRAINING_WINDOWS, learning, Random(f"lesson {kind} {seed}")) for kind in KINDS]
    exams = {kind: draw(kind, WINDOWS, asking, Random(f"exam {kind} {seed}")) for kind in KINDS}
    sources = [GENERALIST, *order]
    taught = heard(experts, sources, [text for part in lessons for text in part])
    asked = {kind: heard(experts, sources, texts) for kind, texts in exams.items()}
    rows: list[dict[str, Any]] = []
    by_peers = {}
    for count in run.track(PEERS, "heads"):
        losses = head_losses(taught, asked, count, steps, seed)
        by_peers[count] = losses
        rows.append({"peers": count, **{kind: round(loss, 3) for kind, loss in losses.items()}})
    alone = {kind: alone_loss(asked[kind]) for kind in KINDS}
    bayes = {kind: bayes_loss(asked[kind]) for kind in KINDS}
    for kind, least in (("pure", PURE_GAIN), ("switch", SWITCH_GAIN)):
        gain = 1 - by_peers[PEERS[-1]][kind] / alone[kind]
        run.at_least(f"{kind}: {PEERS[-1]} peers lower the loss by", round(gain, 4), least, "of its bits")
    rows.append({"peers": "alone, no head", **{kind: round(loss, 3) for kind, loss in alone.items()}})
    rows.append({"peers": "8, Bayes mixture", **{kind: round(loss, 3) for kind, loss in bayes.items()}})
    run.figure("bits_per_byte", rows)
    run.figure("peers_in_order", order)
    run.figure("head_parameters", head_parameters())
    asyncio.run(connected(run, {name: experts[name] for name in sources[:NEURONS]}))


def draw(kind: str, count: int, texts: dict[str, bytes], random: Random) -> list[bytes]:
    """Windows of the given texts, of one domain each or of two."""
    from tools.lab.moe import SWITCH_AT, WINDOW

    def piece(domain: str, length: int) -> bytes:
        start = random.randrange(len(texts[domain]) - length)
        return texts[domain][start : start + length]

    domains = sorted(texts)
    out = []
    for index in range(count):
        domain = domains[index % len(domains)]
        other = random.choice([name for name in domains if name != domain])
        switched = piece(domain, SWITCH_AT) + piece(other, WINDOW - SWITCH_AT)
        out.append(switched if kind == "switch" else piece(domain, WINDOW))
    return out


@dataclass(frozen=True)
class Heard:
    """What was said about texts, null expert last: `certainty` (windows, positions, sources, 2), and `hits` without 2."""

    certainty: Rows
    hits: Rows


def heard(experts: dict[str, Any], sources: Sequence[str], texts: list[bytes]) -> Heard:
    """The answers to all bytes from the second on."""
    import numpy as np

    from ai.judge.mixture import NULL_PROBABILITY, floored
    from ai.models.mixing import certainty_of
    from tools.lab.moe import distributions

    truth = np.array([list(text[1:]) for text in texts])[:, :, None]
    certainty, hits = [], []
    for name in sources:
        answers = floored(distributions(experts[name], texts)[:, 1:])
        certainty.append(certainty_of(answers))
        hits.append(np.take_along_axis(answers, truth, 2)[:, :, 0])
    certainty.append(np.full_like(certainty[0], 8.0))
    hits.append(np.full_like(hits[0], NULL_PROBABILITY))
    return Heard(np.stack(certainty, axis=2), np.stack(hits, axis=2))


def head_losses(taught: Heard, asked: dict[str, Heard], peers: int, steps: int, seed: int) -> dict[str, float]:
    """Bits per byte of a head that was trained with so many peers, by kind of text."""
    import numpy as np

    from ai.models.mixing import features_of, histories, train_head

    chosen = [*range(1 + peers), -1]
    head = train_head(taught.certainty[:, :, chosen], taught.hits[:, :, chosen], steps=steps, seed=seed)
    out = {}
    for kind, exam in asked.items():
        hits = exam.hits[:, :, chosen]
        weights = head.weights(features_of(exam.certainty[:, :, chosen], histories(hits)))
        out[kind] = float(-np.log2((weights * hits).sum(axis=-1)[:, FIRST - 1 :]).mean())
    return out


def alone_loss(asked: Heard) -> float:
    """Bits per byte of the neuron's own answers."""
    import numpy as np

    return float(-np.log2(asked.hits[:, FIRST - 1 :, 0]).mean())


def bayes_loss(asked: Heard) -> float:
    """The fixed-share mixture of all sources, which knows the bytes from the first on."""
    import numpy as np

    from ai.judge.mixture import SHARE

    hits = asked.hits
    sources = hits.shape[2]
    weights, bits = np.full((len(hits), sources), 1.0 / sources), []
    for position in range(hits.shape[1]):
        joint = weights * hits[:, position]
        bits.append(-np.log2(joint.sum(axis=1)))
        weights = (1 - SHARE) * joint / joint.sum(axis=1, keepdims=True) + SHARE / sources
    return float(np.mean(bits[FIRST - 1 :]))


def head_parameters() -> int:
    """Numbers in a head."""
    from ai.models.mixing import FEATURES, HIDDEN

    return FEATURES * HIDDEN + 2 * HIDDEN


# --- on the wire -------------------------------------------------------------------------------------------------


async def connected(run: Run, models: dict[str, Any]) -> None:
    """Neurons that all ask each other: sessions opened below one request, and a request that has passed its callee."""
    from ai.serve.client import NeuronAddress, NeuronClient
    from ai.serve.collaborate import Collaborator, Peer
    from ai.serve.hooks import FixedStandings, Standing
    from ai.serve.methods import METHODS, Method, encode_prefixes
    from ai.serve.refusals import Refused
    from ai.serve.server import NeuronServer
    from ledger.crypto import KeyPair

    genesis, me = os.urandom(32), KeyPair.from_seed(os.urandom(32))
    servers: list[NeuronServer] = []
    peers: list[Peer] = []
    async with AsyncExitStack() as stack:
        for model in models.values():
            key = KeyPair.from_seed(os.urandom(32))
            client = NeuronClient(key, genesis, allow_private=True, allow_clear=True)
            stack.push_async_callback(client.close)
            helped = Collaborator(client, lambda netuid: peers)
            methods = {**METHODS, "distribution": Method(helped.distribution, takes_asks=True)}
            standings = FixedStandings(Standing(True, True, 1.0))
            server = NeuronServer(model, key, genesis, (NETUID,), standings=standings, methods=methods)
            peers.append(Peer(NeuronAddress(key.public, *await server.start()), 1.0 / len(models)))
            stack.push_async_callback(server.stop)
            servers.append(server)
        caller = NeuronClient(me, genesis, allow_private=True, allow_clear=True)
        stack.push_async_callback(caller.close)
        root, body, rows = peers[0].address, encode_prefixes([b"the market"]), []
        for hops, budget in ALLOWED:
            before = sum(server.counters.sessions for server in servers)
            async with caller.session(root, "distribution", body, netuid=NETUID, hops=hops, budget=budget) as session:
                await session.answer()
                await session.finish()
            below = sum(server.counters.sessions for server in servers) - before - 1
            rows.append({"hops": hops, "budget": budget, "sessions_below": below})
            run.at_most(f"sessions below a request with {hops} hops and a budget of {budget}", below, hops * budget, "sessions")
        run.at_least("they do ask each other", rows[0]["sessions_below"], 1, "sessions")
        refused = ""
        try:
            trace = ((root.hotkey, bytes(32)),)
            async with caller.session(root, "distribution", body, netuid=NETUID, hops=1, budget=12, trace=trace) as session:
                await session.answer()
        except Refused as error:
            refused = error.error_name
        run.equals("a request that comes back to a neuron is refused as a loop", int(refused == "loop"), 1, "yes")
    run.figure("connected", rows)
