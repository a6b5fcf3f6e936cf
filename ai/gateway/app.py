"""The gateway: an OpenAI-compatible HTTP API in front of the market.

    GET  /v1/models, /v1/models/{id}          net/moe, net/NETUID/moe, net/NAME
    POST /v1/completions, /v1/chat/completions, streamed or whole; one token is one byte
    GET  /v1/receipts/{id}                    a receipt with its Merkle proof
    GET  /healthz, /readyz, /metrics

A reply names the receipts it rests on: whole in the header `x-quorix-receipts` and the field `quorix`, streamed in the
last chunk. The gateway signs with a hotkey of its own, registered on each subnet; once an epoch the root of its receipts
goes on chain.
"""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from ai.receipts import ReceiptStore
from ai.serve.client import NeuronClient
from ai.serve.clock import wall_ms
from ledger.client.api import ChainApi
from ledger.client.calls import Wallet
from ledger.client.keys import decode_address
from ledger.crypto import KeyPair
from ledger.errors import Error, NotFound, Rejected, Unreachable

from .generate import Generation, Trail
from .market import Expert, Market
from .openai import ApiError, Request, chunk, completion, model_record, parse_request, usage
from .usage import FREE_UNITS_A_DAY, Usage

MAX_BODY_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
MAX_IN_FLIGHT: Final = 8
MAX_WAITING: Final = 32
REQUEST_TIMEOUT_S: Final = 60.0
CALIBRATE_EVERY_S: Final = 12.0
CALIBRATE_FAST: Final = 8  # the first measurements come quickly: a gate needs some hundred rows
REFRESH_EVERY_S: Final = 2.0


@dataclass
class GatewayConfig:
    """`api_keys`: if not empty, a Bearer key among them is required."""

    key: KeyPair
    home: Path
    api_keys: frozenset[str] = frozenset()
    seed: int | None = None
    hosts: frozenset[str] = frozenset({"127.0.0.1", "localhost", "[::1]"})


class Gateway:
    """State of the process: the market, the receipts, the counters."""

    def __init__(self, config: GatewayConfig, api: ChainApi, texts: dict[str, bytes], report: Callable[[dict[str, Any]], None]):
        self.config, self.api, self.texts, self.report = config, api, texts, report
        self.random: Random = SystemRandom() if config.seed is None else Random(config.seed)
        self.receipts = ReceiptStore(config.home / "receipts", clock=wall_ms)
        self.usage = Usage(config.home / "usage.db")
        self.wallet = Wallet(api, config.key)
        self.places = asyncio.Semaphore(MAX_IN_FLIGHT)
        self.waiting = 0
        self.served = self.usage.total_requests()
        self.failed = 0
        self.created = int(time.time())
        self.rooted: dict[int, int] = {}
        self.market: Market | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect to the chain and begin to follow it; raises Unreachable if the node does not answer."""
        properties = await self.api.system_properties()
        epochs: dict[int, int] = {}
        client = NeuronClient(
            self.config.key, properties.genesis_hash, receipts=self.receipts, epoch_of=lambda netuid: epochs.get(netuid, 0),
            allow_private=properties.allow_private, allow_clear=properties.devnet,
        )
        self.market = Market(self.api, client, self.texts, self.random, epochs)
        self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._measure())]

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self.market is not None:
            await self.market.client.close()
        self.receipts.close()
        self.usage.close()

    async def _follow(self) -> None:
        """Keep the market's picture fresh and put receipt roots on chain."""
        assert self.market is not None
        while True:
            with contextlib.suppress(Error):
                await self.market.refresh()
                for netuid, epoch in self.market.epochs.items():
                    await self._commit_root(netuid, epoch - 1)
            await asyncio.sleep(REFRESH_EVERY_S)

    async def _measure(self) -> None:
        assert self.market is not None
        while True:
            for netuid in list(self.market.epochs):
                with contextlib.suppress(Error):
                    await self.market.calibrate(netuid, self.report)
            fast = self.market.measurements < CALIBRATE_FAST
            await asyncio.sleep(1.0 if fast else CALIBRATE_EVERY_S)

    async def _commit_root(self, netuid: int, epoch: int) -> None:
        if epoch < 0 or self.rooted.get(netuid, -1) >= epoch:
            return
        root, count = self.receipts.root(netuid, epoch)
        if count:
            with contextlib.suppress(Rejected):  # committed before a restart, or not registered here
                await self.wallet.submit("serving.commit_receipts", netuid=netuid, epoch=epoch, root=root, count=count)
        self.rooted[netuid] = epoch

    # --- models

    def models(self) -> list[str]:
        assert self.market is not None
        experts = self.market.serving()
        netuids = sorted({netuid for e in experts for netuid in e.trust})
        return ["net/moe", *(f"net/{n}/moe" for n in netuids), *(f"net/{e.name}" for e in experts)]

    def resolve(self, model: str) -> tuple[int | None, Expert | None]:
        """(subnet or None for all, the one expert or None). Raises ApiError 404."""
        assert self.market is not None
        parts = model.split("/")
        if parts[0] == "net":
            if parts[1:] == ["moe"]:
                return None, None
            if len(parts) == 3 and parts[2] == "moe" and parts[1].isdecimal() and int(parts[1]) in self.market.epochs:
                return int(parts[1]), None
            if len(parts) == 2:
                for expert in self.market.serving():
                    if parts[1] in (expert.name, expert.hotkey.hex()) or _is_address(parts[1], expert.hotkey):
                        return None, expert
        message = f"the model {model!r} does not exist; see /v1/models"
        raise ApiError(404, message, param="model", code="model_not_found")

    # --- requests

    def admit(self, http: HttpRequest) -> str:
        """The caller's name. Raises ApiError 401 or 429."""
        header = http.headers.get("authorization", "")
        key = header[7:] if header.startswith("Bearer ") else None
        if self.config.api_keys and key not in self.config.api_keys:
            raise ApiError(401, "a valid API key is required", kind="authentication_error", code="invalid_api_key")
        caller = self.usage.caller(key if self.config.api_keys else None)
        if self.config.api_keys and self.usage.units_today(caller, wall_ms()) > FREE_UNITS_A_DAY:
            raise ApiError(429, "the day's quota is used up", kind="insufficient_quota", retry_after_s=3600)
        return caller

    @contextlib.asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of the places for running requests; a bounded number waits. Raises ApiError 429."""
        if self.waiting >= MAX_WAITING:
            raise ApiError(429, "the gateway is busy", kind="rate_limit_error", code="busy", retry_after_s=1)
        self.waiting += 1
        try:
            await self.places.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self.places.release()

    def settle(self, caller: str, request: Request, trail: Trail) -> None:
        self.served += 1
        self.usage.add(caller, len(request.prompt) + trail.units, wall_ms())
        self.report({
            "event": "query", "served": self.served, "model": request.model, "experts": sorted(trail.experts),
            "receipts": len(trail.receipts), "units": trail.units,
        })

    def extra(self, trail: Trail) -> dict[str, Any]:
        """What a reply says about its making."""
        routes = [
            [{"expert": r.name, "gate": round(r.gate, 4), "trust": round(r.trust, 4), "score": round(r.score, 4),
              "chosen": r.chosen} for r in decision.reasons]
            for decision in trail.decisions[:1]
        ]
        return {"receipts": trail.receipts, "experts": sorted(trail.experts), "route": routes[0] if routes else []}


def _is_address(text: str, hotkey: bytes) -> bool:
    try:
        return decode_address(text) == hotkey
    except Error:
        return False


# --- HTTP --------------------------------------------------------------------------------------------------------


async def _read_json(http: HttpRequest) -> Any:
    """The body, bounded in size and time. Raises ApiError."""
    if not http.headers.get("content-type", "").startswith("application/json"):
        raise ApiError(415, "send application/json")
    if http.headers.get("content-encoding", "identity") != "identity":
        raise ApiError(415, "send the body without content-encoding")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in http.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None


def _error(error: ApiError) -> JSONResponse:
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return JSONResponse(error.body(), error.status, headers)


def build_app(gateway: Gateway) -> Starlette:
    """The ASGI application; the caller starts and closes the gateway."""

    def guarded(handler: Callable[[HttpRequest], Any]) -> Callable[[HttpRequest], Any]:
        async def endpoint(http: HttpRequest) -> Response:
            try:
                host = http.headers.get("host", "")
                name = host if host.endswith("]") else host.rsplit(":", 1)[0]
                if name not in gateway.config.hosts:  # against DNS rebinding
                    raise ApiError(403, f"this gateway does not serve the host {name[:64]!r}")
                response: Response = await handler(http)
                return response
            except ApiError as error:
                gateway.failed += error.status >= 500
                return _error(error)
            except (Unreachable, NotFound) as error:
                gateway.failed += 1
                status = 404 if isinstance(error, NotFound) else 503
                return _error(ApiError(status, error.cause, kind="server_error", retry_after_s=2))
            except ClientDisconnect:
                return Response(status_code=499)

        return endpoint

    async def models(http: HttpRequest) -> Response:
        gateway.admit(http)
        data = [model_record(name, gateway.created) for name in gateway.models()]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(http: HttpRequest) -> Response:
        gateway.admit(http)
        name = http.path_params["name"]
        gateway.resolve(name)
        return JSONResponse(model_record(name, gateway.created))

    async def completions(http: HttpRequest) -> Response:
        return await _complete(gateway, http, chat=False)

    async def chat(http: HttpRequest) -> Response:
        return await _complete(gateway, http, chat=True)

    async def receipt(http: HttpRequest) -> Response:
        text = http.path_params["id"]
        try:
            open_id = bytes.fromhex(text.removeprefix("0x"))
        except ValueError:
            raise ApiError(400, "a receipt id is hex", param="id") from None
        proof = gateway.receipts.prove(open_id)
        return JSONResponse({
            "id": open_id.hex(), "hotkey": gateway.config.key.public.hex(), "netuid": proof.netuid, "epoch": proof.epoch,
            "index": proof.index, "count": proof.count, "root": proof.root.hex(), "receipt": proof.receipt.hex(),
            "path": [step.hex() for step in proof.path], "holds": proof.holds(),
        })

    async def health(_: HttpRequest) -> Response:
        return JSONResponse({"ok": True, "served": gateway.served})

    async def ready(_: HttpRequest) -> Response:
        market = gateway.market
        serving = 0 if market is None else len(market.serving())
        answer = {"ready": serving > 0, "experts": serving, "measurements": 0 if market is None else market.measurements}
        return JSONResponse(answer, 200 if serving else 503)

    async def metrics(_: HttpRequest) -> Response:
        return PlainTextResponse(_metrics(gateway), media_type="text/plain; version=0.0.4")

    return Starlette(routes=[
        Route("/v1/models", guarded(models)),
        Route("/v1/models/{name:path}", guarded(one_model)),
        Route("/v1/completions", guarded(completions), methods=["POST"]),
        Route("/v1/chat/completions", guarded(chat), methods=["POST"]),
        Route("/v1/receipts/{id}", guarded(receipt)),
        Route("/healthz", guarded(health)),
        Route("/readyz", guarded(ready)),
        Route("/metrics", guarded(metrics)),
    ])


async def _complete(gateway: Gateway, http: HttpRequest, *, chat: bool) -> Response:
    caller = gateway.admit(http)
    request = parse_request(await _read_json(http), chat=chat, default_seed=secrets.randbits(32))
    netuid, only = gateway.resolve(request.model)
    assert gateway.market is not None
    generation = Generation(gateway.market, request.prompt, request.sampling, netuid, only)
    name, created = ("chatcmpl-" if chat else "cmpl-") + secrets.token_hex(12), int(time.time())
    if request.stream:
        first = await _first_byte(gateway, generation)
        events = _stream(gateway, request, generation, first, caller, name, created)
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        return StreamingResponse(events, media_type="text/event-stream", headers=headers)
    async with gateway.place():
        written = bytearray()
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            async for byte in generation.run():
                written.append(byte)
    text = _without_stop(written, request).decode("utf-8", "replace")
    gateway.settle(caller, request, generation.trail)
    body = completion(request, name, created, text, generation.trail.finish, usage(len(request.prompt), len(written)))
    body["quorix"] = gateway.extra(generation.trail)
    return JSONResponse(body, headers={"x-quorix-receipts": ",".join(generation.trail.receipts)})


def _without_stop(written: bytearray, request: Request) -> bytes:
    for stop in request.sampling.stops:
        if written.endswith(stop):
            return bytes(written[: -len(stop)])
    return bytes(written)


@dataclass
class _Started:
    """A stream whose first byte is there; until then an error can still be an HTTP status."""

    run: AsyncIterator[int]
    first: int | None
    exit: contextlib.AsyncExitStack


async def _first_byte(gateway: Gateway, generation: Generation) -> _Started:
    stack = contextlib.AsyncExitStack()
    await stack.enter_async_context(gateway.place())
    run = generation.run()
    try:
        return _Started(run, await anext(run), stack)
    except StopAsyncIteration:
        return _Started(run, None, stack)
    except BaseException:
        await stack.aclose()
        raise


async def _stream(
    gateway: Gateway, request: Request, generation: Generation, started: _Started, caller: str, name: str, created: int
) -> AsyncIterator[bytes]:
    """Server-sent events. Text is held back as long as it could still become a stop sequence or a UTF-8 character."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    hold = max((len(stop) - 1 for stop in request.sampling.stops), default=0)
    written, sent = bytearray(), 0
    finish: str = "length"
    try:
        if request.chat:
            yield _event(chunk(request, name, created, "", first=True))
        if started.first is not None:
            written.append(started.first)
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT_S):
                async for byte in started.run:
                    text = decoder.decode(bytes(written[sent : max(sent, len(written) - hold)]))
                    sent = max(sent, len(written) - hold)
                    if text:
                        yield _event(chunk(request, name, created, text))
                    written.append(byte)
            finish = generation.trail.finish
        except (Unreachable, TimeoutError):
            finish = "length"  # what was streamed is all there is
        kept = _without_stop(written, request)
        text = decoder.decode(kept[sent:], final=True)
        if text:
            yield _event(chunk(request, name, created, text))
        yield _event(chunk(request, name, created, None, finish=finish, quorix=gateway.extra(generation.trail)))
        if request.include_usage:
            yield _event(chunk(request, name, created, None, usage=usage(len(request.prompt), len(written))))
        yield b"data: [DONE]\n\n"
        gateway.settle(caller, request, generation.trail)
    finally:
        await generation.close()
        await started.exit.aclose()


def _event(value: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _metrics(gateway: Gateway) -> str:
    """Prometheus text of the gateway's counters."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

    registry = CollectorRegistry()
    Counter("quorix_ai_queries", "Queries answered", registry=registry).inc(gateway.served)
    Counter("quorix_ai_query_failures", "Queries that failed", registry=registry).inc(gateway.failed)
    experts = Gauge("quorix_ai_experts", "Neurons that serve", registry=registry)
    experts.set(0 if gateway.market is None else len(gateway.market.serving()))
    latency = Gauge("quorix_ai_latency_seconds", "Smoothed time of an answer", ["expert"], registry=registry)
    for expert in gateway.market.serving() if gateway.market is not None else []:
        latency.labels(expert.name).set(expert.latency_s)
    return generate_latest(registry).decode()
