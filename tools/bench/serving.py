"""Signed query sessions with one neuron: requests per second and CPU per request, at 1, 16 and 64 concurrent.

The neuron runs in a process of its own with what a neuron on the devnet has: hooks, replay file, receipts on disk, dynamic
batching. The caller checks and files every receipt. A request is a session of one window: OPEN and CLOSE signed and
verified. Each load is measured twice, with an expert of full size (untrained: its numbers do not matter to the clock) and
with a model that costs nothing; the targets are about the second, since the first measures torch. A text is not made of
such requests but of steps inside one session, so the CPU of a step is measured, too: its share of the session's opening,
end and receipt included, beside what a peer, which has no sessions, takes for a request at the same load.

Peers, on the same kind of request (signed, verified, loopback, two processes): bittensor 10's Axon and Dendrite, and
bittensor 11's signed headers with aiohttp. Their scripts (`peers`) run in the same minute where an interpreter that has
them is named; else the targets go by what they took earlier on a machine like this. Neither signs its reply, orders work
or records anything: a request of ours has two signatures and two verifications more.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click

from ai.models.model import Card, Sampling
from ledger.crypto import KeyPair, digest
from tools.lab.frame import Run, benchmark

GENESIS = digest("genesis", b"bench serving")
NEURON, CALLER = (KeyPair.from_seed(digest("seed", name)) for name in (b"neuron", b"caller"))
NETUID = 1
CONCURRENT = (1, 16, 64)
MODELS = ("none", "expert")
WARM_UP = 50
WINDOW = b"the quick brown fox jumps over the lazy dog. " * 3

STEPS = (16, 64)  # answers of sessions that are measured by their steps
SIDE_BY_SIDE = (1, 16)  # such sessions at once

BITTENSOR_MS = 26.4  # CPU of both sides, the best of its measurements at 1 to 64 concurrent
SIGNED_HEADERS_MS = 1.04
PEER_SECONDS = 120.0
PEER_REQUESTS = {"axon_dendrite": 128, "signed_headers": 1920}  # a load; the first costs some fifty times as much
NOT_INSTALLED = "not installed"


@benchmark("serving", about="signed query sessions with one neuron at 1, 16 and 64 concurrent", seconds=25)
@click.option("--requests", type=click.IntRange(64), default=1920, show_default=True, help="Sessions per load.")
@click.option("--bittensor-10", "axon_dendrite", metavar="PYTHON", envvar="QUORIX_BENCH_BITTENSOR_10",
              help="An interpreter with bittensor 10, to be measured beside.")
@click.option("--bittensor-11", "signed_headers", metavar="PYTHON", envvar="QUORIX_BENCH_BITTENSOR_11",
              help="An interpreter with bittensor 11 and aiohttp, to be measured beside.")
def serving(run: Run, requests: int, axon_dendrite: str | None = None, signed_headers: str | None = None) -> None:
    """Requests per second, latency and CPU of both sides."""
    import uvloop  # the loop of the gateway and of neurons

    peers = {name: measure_peer(name, python) for name, python in
             (("axon_dendrite", axon_dendrite), ("signed_headers", signed_headers))}
    run.figure("peers", {name: peer or NOT_INSTALLED for name, peer in peers.items()})
    uvloop.run(_serving(run, requests, peers))


async def _serving(run: Run, requests: int, peers: dict[str, dict[str, Any] | None]) -> None:
    rows: list[dict[str, Any]] = []
    for model in run.track(MODELS, "models"):
        async with _Neuron(model) as neuron:
            for concurrent in CONCURRENT:
                row = await _measure(neuron, concurrent, requests)
                rows.append({"model": model, "concurrent": concurrent, **row})
            if model == "none":
                steps: list[dict[str, Any]] = [
                    {"steps": count, "sessions": sessions, **await _measure_steps(neuron, count, sessions, requests)}
                    for count in STEPS for sessions in SIDE_BY_SIDE
                ]  # fmt: skip
    free = {row["concurrent"]: row for row in rows if row["model"] == "none"}
    headers_ms = _peer_ms(peers["signed_headers"], SIGNED_HEADERS_MS)
    for concurrent, row in free.items():
        cpu_ms = row["client_cpu_ms"] + row["neuron_cpu_ms"]
        theirs_ms = _peer_ms(peers["axon_dendrite"], BITTENSOR_MS, concurrent)
        run.at_most(f"CPU at {concurrent}, 1/20 of bittensor 10.5.0", cpu_ms, theirs_ms / 20, "ms")
    best_ms = min(row["client_cpu_ms"] + row["neuron_cpu_ms"] for row in free.values())
    run.at_most("CPU at best, 1/2 of signed headers and aiohttp", best_ms, headers_ms / 2, "ms")
    run.at_most("p50 at 1 without model time", free[1]["p50_ms"], 1.0, "ms")
    run.figure("loads", rows)
    for load in steps:
        cpu_ms = load["client_cpu_ms"] + load["neuron_cpu_ms"]
        for name, earlier_ms in (("axon_dendrite", BITTENSOR_MS), ("signed_headers", SIGNED_HEADERS_MS)):
            load[f"of_a_request_with_{name}"] = round(cpu_ms / _peer_ms(peers[name], earlier_ms, load["sessions"]), 3)
    run.figure("steps_in_sessions", steps)
    run.figure("signature_us", _signature_us())


def measure_peer(name: str, python: str | None) -> dict[str, Any] | None:
    """What a peer's script measured in its own interpreter; None where there is none, or it has not what it takes."""
    if not python:
        return None
    script = Path(__file__).parent / "peers" / f"{name}.py"
    try:
        done = subprocess.run(
            [python, str(script), str(PEER_REQUESTS[name])], capture_output=True, timeout=PEER_SECONDS, check=True
        )
        measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return measured
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _peer_ms(peer: dict[str, Any] | None, earlier_ms: float, concurrent: int | None = None) -> float:
    """CPU of both sides of a peer, at that load or at its best one, in this run or earlier."""
    if peer is None:
        return earlier_ms
    rows = [row for row in peer["loads"] if concurrent in (None, row["concurrent"])]
    return min(float(row["client_cpu_ms"] + row["server_cpu_ms"]) for row in rows)


async def _measure_steps(neuron: _Neuron, steps: int, sessions: int, about: int) -> dict[str, float]:
    """CPU and time of a step: an ask and its answer in a lock-step session, its opening and closing shared by all.

    `sessions` go on side by side, one after the other, until there were `about` steps, at least one session of each.
    """
    each = max(1, about // (steps * sessions))
    theirs, ours, began = neuron.cpu_seconds(), time.process_time(), time.perf_counter()
    await asyncio.gather(*(_step_through(neuron, steps, each) for _ in range(sessions)))
    count = steps * sessions * each
    seconds, ours, theirs = time.perf_counter() - began, time.process_time() - ours, neuron.cpu_seconds() - theirs
    return {
        "per_second": round(count / seconds, 1), "ms": round(1000 * seconds / count, 3),
        "client_cpu_ms": round(1000 * ours / count, 3), "neuron_cpu_ms": round(1000 * theirs / count, 3),
    }


async def _step_through(neuron: _Neuron, steps: int, sessions: int) -> None:
    """Some sessions one after the other, each of `steps` answers in lock-step."""
    from ai.distribution import decode_distribution
    from ai.serve.methods import encode_appended, encode_prefixes

    for _ in range(sessions):
        async with neuron.client.session(
            neuron.address, "distribution", encode_prefixes([WINDOW]), netuid=NETUID, max_asks=steps - 1
        ) as session:
            decode_distribution(await session.answer())
            for _ in range(steps - 1):
                decode_distribution(await session.ask(encode_appended([b"x"])))
            await session.finish()


class _Neuron:
    """A neuron's process and a client connected to it."""

    def __init__(self, model: str) -> None:
        self._model = model

    async def __aenter__(self) -> _Neuron:
        from ai.receipts import ReceiptStore
        from ai.serve.client import NeuronAddress, NeuronClient
        from ai.serve.clock import wall_ms

        self._folder = tempfile.TemporaryDirectory()
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._pipe = here
        self._process = context.Process(target=_serve, args=(there, self._model, self._folder.name), daemon=True)
        self._process.start()
        ip, port = await asyncio.to_thread(here.recv)
        self.address = NeuronAddress(NEURON.public, ip, port)
        store = ReceiptStore(Path(self._folder.name) / "caller", clock=wall_ms)
        self.client = NeuronClient(CALLER, GENESIS, receipts=store, allow_private=True, allow_clear=True)
        for _ in range(WARM_UP):
            await self.request()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()
        assert self.client.receipts is not None
        self.client.receipts.close()
        self._process.kill()
        await asyncio.to_thread(self._process.join)
        self._folder.cleanup()

    async def request(self) -> None:
        """One session."""
        await self.client.distribution(self.address, [WINDOW], netuid=NETUID)

    def cpu_seconds(self) -> float:
        """CPU time of the neuron's process so far."""
        self._pipe.send(None)
        seconds: float = self._pipe.recv()
        return seconds


async def _measure(neuron: _Neuron, concurrent: int, requests: int) -> dict[str, float]:
    """One load: `concurrent` callers, each with its next request as soon as the last one is answered."""
    took: list[float] = []

    async def caller(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await neuron.request()
            took.append(time.perf_counter() - began)

    theirs, ours, began = neuron.cpu_seconds(), time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller(requests // concurrent) for _ in range(concurrent)))
    seconds, ours, theirs = time.perf_counter() - began, time.process_time() - ours, neuron.cpu_seconds() - theirs
    took.sort()
    count = len(took)
    return {
        "per_second": round(count / seconds, 1),
        "p50_ms": round(1000 * took[count // 2], 3),
        "p99_ms": round(1000 * took[count * 99 // 100], 3),
        "client_cpu_ms": round(1000 * ours / count, 3),
        "neuron_cpu_ms": round(1000 * theirs / count, 3),
    }


# --- the neuron's process ----------------------------------------------------------------------------------------


class _Free:
    """A model that costs nothing: the same answer to everything."""

    def __init__(self) -> None:
        import numpy

        self._rows = numpy.ones((64, 256))

    def card(self) -> Card:
        return Card("free", bytes(32), 128)

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        return self._rows[: len(windows)]

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        return iter(())


def _serve(pipe: Connection, model: str, folder: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    import uvloop

    uvloop.run(_serve_until_killed(pipe, model, Path(folder)))


async def _serve_until_killed(pipe: Connection, model: str, folder: Path) -> None:
    from ai.receipts import ReceiptStore
    from ai.serve.clock import wall_ms
    from ai.serve.hooks import FixedStandings, Standing
    from ai.serve.replay import ReplayGuard
    from ai.serve.server import NeuronServer

    server = NeuronServer(
        _expert() if model == "expert" else _Free(), NEURON, GENESIS, [NETUID],
        standings=FixedStandings(default=Standing(registered=True, permit=True, stake_share=1.0)),
        receipts=ReceiptStore(folder / "neuron", clock=wall_ms), seen=ReplayGuard(folder / "replay.db", wall_ms()),
    )  # fmt: skip
    pipe.send(await server.start())
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def answer() -> None:
        try:
            pipe.recv()
            pipe.send(time.process_time())
        except EOFError:
            ended.set()

    loop.add_reader(pipe.fileno(), answer)
    await ended.wait()


def _expert() -> Any:
    import torch

    from ai.models.expert import ByteExpert, ExpertNetwork, parameter_count

    torch.set_num_threads(1)
    network = ExpertNetwork()
    card = Card("expert", bytes(32), network.shape.context, parameters=parameter_count(network))
    return ByteExpert(network, card)


def _signature_us() -> dict[str, float]:
    """What the four signatures of a request cost by themselves on this machine."""
    from ledger.crypto import verify
    from tools.lab.frame import timed

    body = bytes(300)
    signature = CALLER.sign("open", GENESIS, body)
    many = range(500)
    sign = timed(lambda: [CALLER.sign("open", GENESIS, body) for _ in many], 3)
    check = timed(lambda: [verify(CALLER.public, "open", GENESIS, body, signature) for _ in many], 3)
    return {"sign": round(sign / len(many) * 1e6, 1), "verify": round(check / len(many) * 1e6, 1)}
