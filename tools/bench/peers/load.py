"""The load of a peer's script: a server's process and a client, measured as `bench serving` measures its own.

Run by another interpreter, so the standard library only. A script gives `serve(pipe)`, which sends its address and then
the CPU time of its process for each message it gets (`answer_with_cpu_time` does that in a thread), and a `connect`
that makes one request a call.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

CONCURRENT = (1, 16, 64)
WARM_UP = 20
READY_SECONDS = 60.0

Request = Callable[[], Awaitable[None]]
Connect = Callable[[Any], AbstractAsyncContextManager[Request]]


def answer_with_cpu_time(pipe: Any) -> None:
    """Until the pipe closes: the CPU time of this process for each message."""

    def answer() -> None:
        try:
            while True:
                pipe.recv()
                pipe.send(time.process_time())
        except EOFError:
            return

    threading.Thread(target=answer, daemon=True).start()


def main(serve: Callable[[Any], None], connect: Connect, version: str) -> None:
    """Measure and print one JSON document. The argument is the number of requests a load."""
    here, there = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(there,), daemon=True)
    server.start()
    try:
        if not here.poll(READY_SECONDS):
            raise TimeoutError("the server does not start")
        rows = asyncio.run(_loads(here, here.recv(), connect, int(sys.argv[1])))
    finally:
        server.kill()
        server.join()
    sys.stdout.write(json.dumps({"version": version, "loads": rows}) + "\n")


async def _loads(pipe: Any, address: Any, connect: Connect, requests: int) -> list[dict[str, float]]:
    async with connect(address) as request:
        for _ in range(WARM_UP):
            await request()
        return [await _measure(pipe, request, concurrent, requests) for concurrent in CONCURRENT]


async def _measure(pipe: Any, request: Request, concurrent: int, requests: int) -> dict[str, float]:
    took: list[float] = []

    async def caller(count: int) -> None:
        for _ in range(count):
            began = time.perf_counter()
            await request()
            took.append(time.perf_counter() - began)

    def server_seconds() -> float:
        pipe.send(None)
        seconds: float = pipe.recv()
        return seconds

    theirs, ours, began = server_seconds(), time.process_time(), time.perf_counter()
    await asyncio.gather(*(caller(max(1, requests // concurrent)) for _ in range(concurrent)))
    seconds, ours, theirs = time.perf_counter() - began, time.process_time() - ours, server_seconds() - theirs
    took.sort()
    count = len(took)
    return {
        "concurrent": concurrent, "per_second": round(count / seconds, 1), "p50_ms": round(1000 * took[count // 2], 3),
        "client_cpu_ms": round(1000 * ours / count, 3), "server_cpu_ms": round(1000 * theirs / count, 3),
    }
