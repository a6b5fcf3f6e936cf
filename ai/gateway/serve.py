"""The gateway's process: connect, serve, drain, stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ledger.client.ending import on_the_end
from ledger.crypto import KeyPair
from ledger.errors import Error, UsageError

DRAIN_S: Final = 8
NODE_RETRY_S: Final = 0.5
START_PATIENCE_S: Final = 60.0
BACKLOG: Final = 128
MAX_CONNECTIONS: Final = 256

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Service:
    """Where the gateway runs. `names`: host names under which it may be called, beside localhost and `host`."""

    rpc: str
    key: KeyPair
    home: Path
    host: str = "127.0.0.1"
    port: int = 9941
    cache: Path | None = None
    api_keys: frozenset[str] = frozenset()
    quotas: Mapping[str, int] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    follow_stdin: bool = False
    seed: int | None = None


def serve(service: Service, report: Report | None = None) -> None:
    """Run until a signal comes, or standard input closes if `follow_stdin`. One JSON line for each event on stdout.

    Raises UsageError where the port is taken, Unreachable where the node does not answer for a minute.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import uvloop

    uvloop.run(_main(service, report or _json_line))


def _json_line(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


async def _main(service: Service, report: Report) -> None:
    from ai.models.corpus import DOMAINS, load
    from ledger.client.remote import RemoteChain

    from .gateway import LOCAL_NAMES, Gateway, GatewayConfig

    stop = asyncio.Event()
    on_the_end(stop.set, follow_stdin=service.follow_stdin)
    listener = bind(service.host, service.port)
    texts = {domain: load(domain, service.cache).train for domain in DOMAINS}
    hosts = LOCAL_NAMES | service.names | {f"[{service.host}]" if ":" in service.host else service.host}
    config = GatewayConfig(service.key, service.home, service.api_keys, service.seed, hosts, quotas=service.quotas)
    node: Any = RemoteChain(service.rpc)  # it has ChainApi's methods, attached at import
    async with node as api:
        gateway = Gateway(config, api, texts, report)
        try:
            if await _started(gateway, stop):
                await _serve(gateway, listener, stop, report)
        finally:
            await gateway.close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises UsageError where that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise UsageError(f"{host} port {port} cannot be bound: {error.strerror}", hint="choose another --port") from None


async def _started(gateway: Any, stop: asyncio.Event) -> bool:
    """Wait for the node; False where the process shall end before."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_PATIENCE_S
    while not stop.is_set():
        try:
            await gateway.start()
            return True
        except Error:
            if loop.time() > deadline:
                raise
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), NODE_RETRY_S)
    return False


async def _serve(gateway: Any, listener: socket.socket, stop: asyncio.Event, report: Report) -> None:
    """Answer requests until `stop`, then let those that run end within the drain time."""
    import uvicorn

    from ledger.client.bounded_http import http_options

    from .app import build_app

    server = uvicorn.Server(http_options(build_app(gateway), connections=MAX_CONNECTIONS, drain_s=DRAIN_S))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]  # the process owns them
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    host, port = listener.getsockname()[:2]
    report({"event": "ready", "url": f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"})
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    server.should_exit = True
    await serving
