"""The gateway's process: connect, serve, drain, stop."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

DRAIN_S: Final = 8
START_PATIENCE_S: Final = 60.0


def serve(
    rpc: str, *, key_path: Path, home: Path, host: str, port: int, cache: Path | None, api_keys: frozenset[str] = frozenset(),
    follow_stdin: bool = False, seed: int | None = None, report: Callable[[dict[str, Any]], None] | None = None,
) -> None:
    """Run until a signal comes, or standard input closes if `follow_stdin`. One JSON line for each event on stdout."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvloop

    uvloop.run(_main(rpc, key_path, home, host, port, cache, api_keys, follow_stdin, seed, report or _json_line))


def _json_line(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def _main(
    rpc: str, key_path: Path, home: Path, host: str, port: int, cache: Path | None, api_keys: frozenset[str],
    follow_stdin: bool, seed: int | None, report: Callable[[dict[str, Any]], None],
) -> None:
    import uvicorn

    from ai.models.corpus import DOMAINS, load
    from ledger.client.keys import read_key_file
    from ledger.client.remote import RemoteChain
    from ledger.errors import Error

    from .app import Gateway, GatewayConfig, build_app

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if follow_stdin and number == signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)  # a terminal's Ctrl-C reaches the supervisor, which tells us
        else:
            loop.add_signal_handler(number, stop.set)
    if follow_stdin:
        _watch_stdin(loop, stop)
    texts = {domain: load(domain, cache).train for domain in DOMAINS}
    async with RemoteChain(rpc) as api:
        config = GatewayConfig(read_key_file(key_path), home, api_keys, seed, frozenset({"127.0.0.1", "localhost", "[::1]", host}))
        gateway = Gateway(config, api, texts, report)
        deadline = loop.time() + START_PATIENCE_S
        while True:
            try:
                await gateway.start()
                break
            except Error:
                if loop.time() > deadline or stop.is_set():
                    raise
                await asyncio.sleep(0.5)
        options = uvicorn.Config(
            build_app(gateway), host=host, port=port, log_config=None, access_log=False, lifespan="off", server_header=False,
            timeout_graceful_shutdown=DRAIN_S, limit_concurrency=256, h11_max_incomplete_event_size=16 * 1024,
        )
        server = uvicorn.Server(options)
        server.capture_signals = _no_signals  # type: ignore[method-assign]
        serving = asyncio.create_task(server.serve())
        stopping = asyncio.create_task(stop.wait())
        report({"event": "ready", "url": f"http://{host}:{port}/v1"})
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        stopping.cancel()
        await gateway.close()


def _no_signals() -> Any:
    """uvicorn would take over the process's signals; here the process owns them."""
    import contextlib

    return contextlib.nullcontext()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when standard input reaches its end."""
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    os.set_blocking(descriptor, False)
    loop.add_reader(descriptor, readable)
