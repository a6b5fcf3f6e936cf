"""The network: gossip, the authorities' channels and requests between hosts of one process, over loopback sockets.

The hosts are `Libp2pNetwork` with a node's configuration, fully connected. A delivery is one message at one subscriber;
its CPU includes what the copies on the other links of the mesh cost. Times are wall-clock, so they show the load of the
machine; CPU is of the whole process.
"""

from __future__ import annotations

import asyncio
import os
import resource
import sys
import time
from collections.abc import Sequence

import click

from ledger.crypto import KeyPair, digest
from p2p.messages import PROTOCOL_VERSION, sign_proof
from p2p.network import Handlers, Hello
from p2p.service import Libp2pNetwork
from tools.lab.frame import Run, benchmark
from tools.node.threads import settle_interpreter

MESSAGE_BYTES = 1000
FRAME_BYTES = 300
BULK_BYTES = 2_000_000
BULK_REQUESTS = 10
IDLE_SECONDS = 10


class Member:
    """One host that notes when something arrives."""

    def __init__(self, number: int, genesis_hash: bytes) -> None:
        self.genesis_hash = genesis_hash
        self.key = KeyPair.from_seed(digest("seed", b"session", bytes([number])))
        self.gossip: asyncio.Queue[float] = asyncio.Queue()
        self.frames: asyncio.Queue[float] = asyncio.Queue()
        handlers = Handlers({"block": self._block}, self._serve, self._frame, None, self._hello)
        self.network = Libp2pNetwork(
            digest("seed", b"node", bytes([number])), ("127.0.0.1", 0), genesis_hash, handlers,
            static_peers=(), allow_private=True, book_path=None,
        )

    async def _block(self, peer: str, data: bytes) -> bool:
        self.gossip.put_nowait(time.perf_counter())
        return True

    async def _frame(self, peer: str, frame: bytes) -> None:
        self.frames.put_nowait(time.perf_counter())

    async def _serve(self, peer: str, data: bytes) -> bytes:
        return bytes(int.from_bytes(data, "big"))

    async def _hello(self, peer: str) -> Hello:
        genesis = self.genesis_hash
        signature = sign_proof(self.key, genesis, genesis, self.network.id, 1)
        return Hello(
            PROTOCOL_VERSION, genesis, ((0, genesis),), 0, b"", "authority", self.key.public, 1, signature
        )


@benchmark("gossip", about="libp2p: start, hello, gossip, authority channels, requests, idle CPU", seconds=30)
@click.option("--hosts", type=click.IntRange(2, 20), default=4, show_default=True, help="Hosts in the process.")
@click.option("--messages", type=click.IntRange(10), default=100, show_default=True, help="Messages, frames, requests.")
async def gossip(run: Run, hosts: int, messages: int) -> None:
    """Measure the network between the hosts of one process."""
    interval = sys.getswitchinterval()
    settle_interpreter()
    genesis_hash = os.urandom(32)
    members = [Member(number, genesis_hash) for number in range(hosts)]
    try:
        await measure_start(run, members)
        await measure_idle(run, members)
        await measure_gossip(run, members, messages)
        await measure_channel(run, members, messages)
        await measure_requests(run, members, messages)
        run.figure("rss_mib", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)
    finally:
        await asyncio.gather(*(member.network.stop() for member in members))
        sys.setswitchinterval(interval)


async def measure_start(run: Run, members: Sequence[Member]) -> None:
    """The first start imports libp2p."""
    run.note("starting")
    start = time.perf_counter()
    await members[0].network.start()
    run.figure("first_start_s", round(time.perf_counter() - start, 2))
    start = time.perf_counter()
    for member in members[1:]:
        await member.network.start()
    run.figure("further_start_ms", _ms((time.perf_counter() - start) / (len(members) - 1)))
    links = []
    for index, member in enumerate(members):
        for other in members[:index]:
            start = time.perf_counter()
            await member.network.connect(other.network.addresses()[0])
            links.append(time.perf_counter() - start)
    run.figure("links", len(links))
    run.figure("connect_and_hello_ms", _ms(_at(links, 0.5)))


async def measure_idle(run: Run, members: Sequence[Member]) -> None:
    """CPU of hosts that only keep their connections."""
    run.note("idle")
    await asyncio.sleep(2)
    start, cpu = time.perf_counter(), time.process_time()
    await asyncio.sleep(IDLE_SECONDS)
    percent = 100 * (time.process_time() - cpu) / (time.perf_counter() - start)
    run.at_most(f"idle CPU of {len(members)} hosts", percent, 0.5 * len(members), "% of a core")


async def measure_gossip(run: Run, members: Sequence[Member], messages: int) -> None:
    publisher, others = members[0], members[1:]
    waits = []
    cpu = time.process_time()
    for _ in run.track(range(messages), "messages"):
        start = time.perf_counter()
        await publisher.network.publish("block", os.urandom(MESSAGE_BYTES))
        waits += [await asyncio.wait_for(other.gossip.get(), 10) - start for other in others]
    run.figure("gossip_cpu_ms_per_delivery", _ms((time.process_time() - cpu) / len(waits)))
    run.figure("gossip_ms_p99", _ms(_at(waits, 0.99)))
    run.at_most("gossip of 1 kB, p50", _ms(_at(waits, 0.5)), 100, "ms")


async def measure_channel(run: Run, members: Sequence[Member], messages: int) -> None:
    one, two = members[0], members[1]
    waits = []
    cpu = time.process_time()
    for _ in run.track(range(messages), "frames"):
        start = time.perf_counter()
        for sender, receiver in ((one, two), (two, one)):
            sender.network.send(receiver.network.id, bytes(FRAME_BYTES), votes=True)
            await asyncio.wait_for(receiver.frames.get(), 10)
        waits.append(time.perf_counter() - start)
    run.figure("channel_cpu_ms_per_frame", _ms((time.process_time() - cpu) / (2 * messages)))
    run.figure("channel_round_trip_ms_p99", _ms(_at(waits, 0.99)))
    run.at_most("channel round trip, p50", _ms(_at(waits, 0.5)), 20, "ms")


async def measure_requests(run: Run, members: Sequence[Member], messages: int) -> None:
    asker, server = members[0].network, members[1].network.id
    waits = []
    for _ in run.track(range(messages), "requests"):
        start = time.perf_counter()
        await asker.request(server, b"\1")
        waits.append(time.perf_counter() - start)
    run.figure("request_ms_p50", _ms(_at(waits, 0.5)))
    run.figure("request_ms_p99", _ms(_at(waits, 0.99)))
    start, cpu = time.perf_counter(), time.process_time()
    for _ in range(BULK_REQUESTS):
        await asker.request(server, BULK_BYTES.to_bytes(3, "big"))
    megabytes = BULK_BYTES * BULK_REQUESTS / 1e6
    run.figure("bulk_cpu_ms_per_mb", _ms((time.process_time() - cpu) / megabytes))
    run.at_least("bulk transfer", round(megabytes / (time.perf_counter() - start), 1), 5, "MB/s")


def _at(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
