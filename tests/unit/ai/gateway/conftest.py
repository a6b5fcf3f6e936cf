"""A gateway over real sockets: its HTTP app, real neuron servers, the real runtime, and the official client."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn

from ai.gateway.app import build_app
from ai.gateway.gateway import Gateway, GatewayConfig
from ai.gateway.serve import DRAIN_S, MAX_CONNECTIONS
from ai.serve.server import NeuronServer
from ledger.client.bounded_http import http_options
from ledger.client.calls import Wallet
from tests.gateways import RECORDS, SUMS, WORDS, client_of, idle, neurons, until


@pytest.fixture
def report():
    return []


@pytest.fixture
async def market(chain, serve, models):
    """Experts of both subnets with their records on chain; `await market(name, text, ...)` adds one."""

    async def add(name, text, netuids=(2,), server=NeuronServer, **options):
        key = chain.devnet.hot(f"neuron {name}")
        model = models["parrot"](text.encode(), name, **options)
        address = await serve(model, key, server=server)
        record = [bytes([127, 0, 0, 1]), address.port, b"", address.capabilities_hash]
        for netuid in netuids:
            await Wallet(chain, key).submit("serving.serve", netuid=netuid, record=record)
        return model

    return add


@pytest.fixture
async def start(chain, tmp_path, report):
    """`await start()`: (gateway, base url), served on a free port in this loop."""
    stack = contextlib.AsyncExitStack()

    async def begin(*, cards=None, **options):
        key = chain.devnet.hot("gateway 0")
        config = GatewayConfig(key, tmp_path / "gateway", **{"seed": 1, "measure": False, **options})
        texts = {"json": RECORDS.encode(), "arith": SUMS.encode(), "english": WORDS.encode()}
        gateway = Gateway(config, chain, texts, report.append)
        stack.push_async_callback(gateway.close)
        await gateway.start()
        listener = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(http_options(build_app(gateway), connections=MAX_CONNECTIONS, drain_s=DRAIN_S))
        server.capture_signals = contextlib.nullcontext
        serving = asyncio.create_task(server.serve(sockets=[listener]))

        async def stop():
            server.should_exit = server.force_exit = True
            await serving

        stack.push_async_callback(stop)
        expected = cards if cards is not None else len({n.hotkey for s in (1, 2) for n in neurons(chain, s) if n.serving})
        await until(lambda: server.started and len(gateway.market.serving()) >= expected)
        return gateway, f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield begin
    await stack.aclose()


@pytest.fixture
async def service(market, start):
    """Three experts behind a gateway: (gateway, url, client)."""
    await market("json", RECORDS, domains=("json",))
    await market("arith", SUMS, domains=("arith",))
    await market("generalist", WORDS + RECORDS + SUMS, (1, 2), domains=("english", "json", "arith"))
    gateway, url = await start()
    async with client_of(url) as client:
        yield gateway, url, client


@pytest.fixture
async def gateway_is_idle_after(service, serve):
    yield
    await until(lambda: idle(service[0], serve))
