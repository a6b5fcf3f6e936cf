"""The gateway's OpenAI-compatible HTTP API.

    GET  /v1/models, /v1/models/{id}          net/moe, net/NETUID/moe, net/NAME, net/HOTKEY
    POST /v1/completions, /v1/chat/completions, streamed or whole; one token is one byte
    GET  /v1/receipts/{id}                    a receipt with its Merkle proof
    POST /v1/routes                           {"model", "prompt"}: whom the router would choose, and why
    GET  /v1/routes/{id}                      what it did choose in the request of that id
    GET  /v1/usage                            the caller's requests and bytes by day, and what is left of its quota
    GET  /healthz, /readyz                    open to everybody
    GET  /metrics                             for whoever has a key, where keys are configured

Requests may carry x-quorix-subnet, x-quorix-top and x-quorix-without (`Gateway.wish`). A reply names itself in
`x-quorix-request` and the receipts it rests on: whole in the header `x-quorix-receipts` and the field `quorix`, streamed
in the last chunk. An error has the form of OpenAI's. What could not be finished is given as far as it came, with finish reason
`length` and the cause in `quorix.truncated`; where nothing came it is 503, before a streamed reply begins too.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ledger.errors import Error, NotFound, Unreachable

from .gateway import Gateway, Running
from .generate import Trail
from .openai import ApiError, Request, chunk, completion, model_record, parse_request, usage
from .text import TextCutter

MAX_BODY_BYTES: Final = 64 * 1024
BODY_TIMEOUT_S: Final = 10.0
MAX_IDS_IN_HEADER: Final = 32
CLIENT_CLOSED: Final = 499

T = TypeVar("T")
Handler = Callable[[HttpRequest], Awaitable[Response]]


def build_app(gateway: Gateway) -> Starlette:
    """The ASGI application; the caller starts and closes the gateway."""
    api = _Api(gateway)
    routes = [
        Route("/v1/models", api.guarded(api.models)),
        Route("/v1/models/{name:path}", api.guarded(api.one_model)),
        Route("/v1/completions", api.guarded(api.completions), methods=["POST"]),
        Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
        Route("/v1/receipts/{id}", api.guarded(api.receipt)),
        Route("/v1/routes", api.guarded(api.preview), methods=["POST"]),
        Route("/v1/routes/{id}", api.guarded(api.decisions)),
        Route("/v1/usage", api.guarded(api.usage)),
        Route("/healthz", api.guarded(api.health)),
        Route("/readyz", api.guarded(api.ready)),
        Route("/metrics", api.guarded(api.metrics)),
    ]
    return Starlette(routes=routes, exception_handlers={HTTPException: _no_route})


class _Api:
    """The endpoints."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    def guarded(self, handler: Handler) -> Handler:
        """Checks the Host header (against DNS rebinding) and turns every failure into an error body."""

        async def endpoint(http: HttpRequest) -> Response:
            try:
                self._check_host(http.headers.get("host", ""))
                return await handler(http)
            except ApiError as error:
                return _error(error)
            except NotFound as error:
                return _error(ApiError(404, error.cause, code="not_found"))
            except Unreachable as error:
                return _error(ApiError(503, error.cause, kind="server_error", code="unavailable", retry_after_s=2))
            except Error as error:
                return _error(ApiError(502, error.cause, kind="server_error", code=error.name))
            except ClientDisconnect:
                return Response(status_code=CLIENT_CLOSED)
            except Exception as error:
                self.gateway.tell_bug(error)
                return _error(ApiError(500, "the gateway made a mistake", kind="server_error", code="internal"))

        return endpoint

    def _check_host(self, host: str) -> None:
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name.lower() not in self.gateway.config.hosts:
            raise ApiError(403, f"this gateway is not called {name[:64]!r}", kind="permission_error", code="unknown_host")

    def _admit(self, http: HttpRequest) -> str:
        return self.gateway.admit(http.headers.get("authorization", ""))

    async def models(self, http: HttpRequest) -> Response:
        self._admit(http)
        data = [model_record(name, self.gateway.created) for name in self.gateway.models()]
        return JSONResponse({"object": "list", "data": data})

    async def one_model(self, http: HttpRequest) -> Response:
        self._admit(http)
        name = http.path_params["name"]
        self.gateway.resolve(name)
        return JSONResponse(model_record(name, self.gateway.created))

    async def completions(self, http: HttpRequest) -> Response:
        return await self._complete(http, chat=False)

    async def chat(self, http: HttpRequest) -> Response:
        return await self._complete(http, chat=True)

    async def _complete(self, http: HttpRequest, *, chat: bool) -> Response:
        caller = self._admit(http)
        request = parse_request(await read_json(http), chat=chat, default_seed=secrets.randbits(32))
        reply = _Reply(request, self.gateway.run(caller, request, self.gateway.wish(request.model, http.headers)))
        try:
            first = await unless_disconnected(http, reply.running.first())
            if request.stream:
                return EventStream(reply.events(first), reply.running)
            return await unless_disconnected(http, reply.whole(first))
        except BaseException:
            reply.running.cancel()
            raise

    async def receipt(self, http: HttpRequest) -> Response:
        self._admit(http)
        try:
            open_id = bytes.fromhex(http.path_params["id"].removeprefix("0x"))
        except ValueError:
            open_id = b""
        if len(open_id) != 32:
            raise ApiError(400, "a receipt's id is 64 hex digits", param="id")
        proof, on_chain = await self.gateway.prove(open_id)
        return JSONResponse({
            "id": open_id.hex(), "hotkey": self.gateway.config.key.public.hex(), "netuid": proof.netuid, "epoch": proof.epoch,
            "index": proof.index, "count": proof.count, "root": proof.root.hex(), "receipt": proof.receipt.hex(),
            "path": [step.hex() for step in proof.path], "holds": proof.holds(), "on_chain": on_chain,
            "contradictions": [flag.hex() for flag in self.gateway.receipts.flags(open_id)],
        })

    async def preview(self, http: HttpRequest) -> Response:
        self._admit(http)
        body = await read_json(http)
        request = parse_request({**body, "stream": None} if isinstance(body, dict) else body, chat=False, default_seed=0)
        return JSONResponse(self.gateway.preview(request.prompt, self.gateway.wish(request.model, http.headers)))

    async def decisions(self, http: HttpRequest) -> Response:
        self._admit(http)
        return JSONResponse(self.gateway.decisions.get(http.path_params["id"]))

    async def usage(self, http: HttpRequest) -> Response:
        return JSONResponse(self.gateway.usage_of(self.gateway.known(http.headers.get("authorization", ""))))

    async def health(self, _: HttpRequest) -> Response:
        return JSONResponse({"ok": True, "served": self.gateway.served})

    async def ready(self, _: HttpRequest) -> Response:
        market = self.gateway.market
        experts = len(market.available())
        answer = {"ready": experts > 0, "experts": experts, "measurements": market.measurements}
        return JSONResponse(answer, 200 if experts else 503)

    async def metrics(self, http: HttpRequest) -> Response:
        self.gateway.known(http.headers.get("authorization", ""))  # a scraper has a key too; a used-up quota is no matter
        return PlainTextResponse(metrics_text(self.gateway), media_type="text/plain; version=0.0.4")


# --- requests ----------------------------------------------------------------------------------------------------


async def read_json(http: HttpRequest) -> Any:
    """The body, bounded in size and time. Raises ApiError 400, 408, 413, 415."""
    kind = http.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json" or http.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "send application/json without content-encoding", code="unsupported_media_type")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for part in http.stream():
                body += part
                if len(body) > MAX_BODY_BYTES:
                    raise ApiError(413, f"the body has more than {MAX_BODY_BYTES} bytes", code="too_large")
    except TimeoutError:
        raise ApiError(408, "the body did not arrive in time", code="timeout") from None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(400, "the body is not JSON") from None


async def unless_disconnected(http: HttpRequest, work: Awaitable[T]) -> T:
    """What `work` yields. Raises ClientDisconnect, with `work` cancelled, where the caller goes away before."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def _disconnected(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


# --- replies -----------------------------------------------------------------------------------------------------


class _Reply:
    """What is made of the bytes of a running request."""

    def __init__(self, request: Request, running: Running) -> None:
        self.request, self.running = request, running
        self.name = running.name
        self.created = int(time.time())
        self._cutter = TextCutter(request.sampling.stops)

    async def whole(self, first: int) -> Response:
        text = self._cutter.feed(first)
        async for byte in self.running.rest():
            text += self._cutter.feed(byte)
        text += self._cutter.finish()
        trail = self.running.trail
        body = completion(self.request, self.name, self.created, text, trail.finish, self._usage())
        body["quorix"] = made_of(trail)
        return JSONResponse(body, headers={
            "x-quorix-request": self.name, "x-quorix-experts": ",".join(sorted(trail.experts)),
            "x-quorix-receipts": ",".join(trail.receipts[:MAX_IDS_IN_HEADER]),
        })

    async def events(self, first: int) -> AsyncIterator[bytes]:
        """Server-sent events."""
        if self.request.chat:
            yield self._event("", first=True)
        text = self._cutter.feed(first)
        if text:
            yield self._event(text)
        async for byte in self.running.rest():
            text = self._cutter.feed(byte)
            if text:
                yield self._event(text)
        text, trail = self._cutter.finish(), self.running.trail
        if text:
            yield self._event(text)
        yield self._event(None, finish=trail.finish, quorix=made_of(trail))
        if self.request.include_usage:
            yield self._event(None, usage=self._usage())
        yield b"data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        return usage(len(self.request.prompt), self._cutter.units)

    def _event(self, text: str | None, **extra: Any) -> bytes:
        value = chunk(self.request, self.name, self.created, text, **extra)
        return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


class EventStream(StreamingResponse):
    """A streamed reply; whatever ends it ends the request."""

    def __init__(self, events: AsyncIterator[bytes], running: Running) -> None:
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no", "x-quorix-request": running.name}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running.cancel()


def made_of(trail: Trail) -> dict[str, Any]:
    """What a reply says about its making: receipts, experts, the first routing, and why it was cut short if it was."""
    route = [
        {"expert": r.name, "gate": round(r.gate, 4), "trust": round(r.trust, 4), "score": round(r.score, 4), "chosen": r.chosen}
        for decision in trail.decisions[:1] for r in decision.reasons
    ]  # fmt: skip
    made = {"receipts": trail.receipts, "experts": sorted(trail.experts), "route": route}
    return made | {"truncated": trail.truncated} if trail.truncated else made


def _error(error: ApiError) -> JSONResponse:
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(error.body(), error.status, headers)


async def _no_route(_: HttpRequest, error: Exception) -> Response:
    """What Starlette refuses itself: an unknown path, a method that is not allowed there."""
    assert isinstance(error, HTTPException)
    reply = _error(ApiError(error.status_code, str(error.detail), code="not_found" if error.status_code == 404 else None))
    reply.headers.update(error.headers or {})
    return reply


def metrics_text(gateway: Gateway) -> str:
    """Prometheus text of the gateway's counters."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

    registry = CollectorRegistry()
    Counter("quorix_ai_queries", "Queries answered", registry=registry).inc(gateway.served)
    Counter("quorix_ai_query_failures", "Queries that got no answer", registry=registry).inc(gateway.failed)
    Gauge("quorix_ai_queries_running", "Queries at work or waiting", registry=registry).set(len(gateway.running))
    Gauge("quorix_ai_experts", "Neurons that answer", registry=registry).set(len(gateway.market.available()))
    latency = Gauge("quorix_ai_latency_seconds", "Smoothed time of an answer", ["expert"], registry=registry)
    for expert in gateway.market.serving():
        latency.labels(expert.name).set(expert.latency_s)
    return generate_latest(registry).decode()
