"""Does it pay to peek? Neurons that remember all they are sent, and tell each other, under three ways to ask.

Real neurons on loopback answer the same windows. Two of them belong to one operator: whatever either is sent goes on one
board, and where a context is the beginning of something on the board, the byte that follows is answered with certainty.

    lock-step     the validators' way: the bytes after a cut are sent when everybody's answer for that cut is in
    all at once   every beginning of a window in one session: the longer ones give the shorter ones away
    in turn       lock-step with one neuron after the other: the second is told by the first

What the two are paid when they peek is compared with what the same experts are paid when they do not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from random import Random
from typing import TYPE_CHECKING, Any

import click

from tools.lab.frame import Run, experiment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ai.judge.probes import Window
    from ai.serve.client import NeuronAddress, NeuronClient

    Hits = NDArray[np.float64]

WINDOWS, CUTS = 32, 4
PEEKERS = ("json", "generalist")
LEAST_BITE = 1.2  # where peeking is possible it must show, or the experiment shows nothing
NOTHING = 1.0 + 1e-6
NETUID = 1
SURE = 0.999


class Peeker:
    """An expert that looks at a board before it answers."""

    def __init__(self, expert: Any, board: list[bytes]) -> None:
        self.expert, self.board = expert, board

    def card(self) -> Any:
        return self.expert.card()

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        rows = self.expert.next_bytes(windows)
        self.board.extend(windows)
        for row, window in zip(rows, windows, strict=True):
            longer = next((seen for seen in self.board if len(seen) > len(window) and seen.startswith(window)), None)
            if longer is not None:
                row[:] = (1.0 - SURE) / 256
                row[longer[len(window)]] += SURE
        return rows

    def write(self, prompt: bytes, sampling: Any) -> Any:
        return self.expert.write(prompt, sampling)


@experiment("peek", about="does it pay a neuron to peek: lock-step against two other ways to ask", seconds=40)
@click.option("--recipe", type=click.Choice(["quick", "full"]), default="full", show_default=True,
              help="Training budget of the experts; full is the devnet's.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of training, windows and cuts.")
async def peek(run: Run, recipe: str, seed: int) -> None:
    """Pay of two peekers over what they are paid without peeking, by the way they are asked."""
    from ai.judge.probes import plan_batch
    from tools.lab.shapley import halves_of_the_text, obtain_experts

    experts = obtain_experts(run, recipe, seed)
    windows = plan_batch(halves_of_the_text()[0], WINDOWS, CUTS, Random(f"peek {seed}"))
    rows, gains = [], {}
    for way in run.track(("lock-step", "all at once", "in turn"), "ways to ask"):
        honest, peeking = [await shares(experts, windows, way, peeks) for peeks in (False, True)]
        gains[way] = peeking / honest
        rows.append({"asked": way, "share": round(honest, 4), "share_peeking": round(peeking, 4), "gain": round(gains[way], 4)})
    run.at_most("peeking under lock-step gains", gains["lock-step"], NOTHING, "x")
    for way in ("all at once", "in turn"):
        run.at_least(f"it would gain, asked {way}", round(gains[way], 4), LEAST_BITE, "x")
    run.figure("peekers", list(PEEKERS))
    run.figure("ways", rows)


async def shares(experts: dict[str, Any], windows: list[Window], way: str, peeks: bool) -> float:
    """What the two are paid, of the whole."""
    from ai.judge.shapley import score_batch
    from ai.serve.client import NeuronClient
    from ai.serve.hooks import FixedStandings, Standing
    from ai.serve.server import NeuronServer
    from ledger.crypto import KeyPair

    genesis = os.urandom(32)
    board: list[bytes] = []
    me = KeyPair.from_seed(os.urandom(32))
    async with AsyncExitStack() as stack:
        client = NeuronClient(me, genesis, allow_private=True, allow_clear=True)
        stack.push_async_callback(client.close)
        addresses = []
        for name, expert in experts.items():
            model = Peeker(expert, board) if peeks and name in PEEKERS else expert
            standings = FixedStandings(Standing(True, True, 1.0))
            server = NeuronServer(model, KeyPair.from_seed(os.urandom(32)), genesis, (NETUID,), standings=standings)
            ip, port = await server.start()
            stack.push_async_callback(server.stop)
            addresses.append(_address(server, ip, port))
        hits = await _ask(client, addresses, windows, way)
    phi = score_batch(hits)
    return float(sum(phi[list(experts).index(name)] for name in PEEKERS) / phi.sum())


def _address(server: Any, ip: str, port: int) -> NeuronAddress:
    from ai.serve.client import NeuronAddress

    return NeuronAddress(server.keypair.public, ip, port)


async def _ask(client: NeuronClient, addresses: list[NeuronAddress], windows: list[Window], way: str) -> Hits:
    """(neurons, windows, cuts) floored probabilities of the true bytes."""
    import numpy as np

    from ai.judge.probes import ask_batch

    if way == "lock-step":
        return (await ask_batch(client, addresses, NETUID, windows)).hits
    if way == "in turn":
        return np.concatenate([(await ask_batch(client, [address], NETUID, windows)).hits for address in addresses])
    return np.stack([await _all_at_once(client, address, windows) for address in addresses])


async def _all_at_once(client: NeuronClient, address: NeuronAddress, windows: list[Window]) -> Hits:
    """(windows, cuts): each window's beginnings in one session."""
    import numpy as np

    from ai.judge.mixture import floored

    out = np.empty((len(windows), CUTS))
    for index, window in enumerate(windows):
        beginnings = [window.text[:cut] for cut in reversed(window.cuts)]  # the longest first
        rows, _ = await client.distribution(address, beginnings, netuid=NETUID)
        truth = [window.text[cut] for cut in reversed(window.cuts)]
        out[index] = floored(rows)[np.arange(CUTS), truth][::-1]
    return out
