"""The block explorer: server-rendered pages over the chain API, in a process of its own.

It talks to one node through `ChainApi` and imports nothing else of Quorix; it keeps no database. Pages work without
JavaScript; with it, the live ones follow server-sent events. Every page is also JSON under the same path with `.json`,
and tables are CSV with `.csv`. Nothing is loaded from outside: the content security policy says `'self'`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from ledger.client.api import ChainApi
from ledger.client.ending import on_the_end
from ledger.client.records import to_json
from ledger.errors import DecodeError, Error, NotFound, Pruned, RateLimited, Timeout, Unreachable, UsageError

from .live import Live
from .page import Page
from .pages import PAGES
from .render import Renderer
from .search import find

if TYPE_CHECKING:
    import uvicorn

CSP: Final = (
    "default-src 'self'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Final = {
    "content-security-policy": CSP, "x-content-type-options": "nosniff", "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
ASK_TIMEOUT_S: Final = 40.0
MAX_QUESTION_CHARS: Final = 2000
MAX_CONNECTIONS: Final = 512
DRAIN_S: Final = 1
HERE: Final = Path(__file__).parent


def build_app(api: ChainApi, *, gateway: str | None = None, hosts: frozenset[str] | None = None) -> Starlette:
    """The ASGI application. `hosts`: names that may be asked for (against DNS rebinding); None allows all."""
    site = _Site(api, gateway, hosts)
    routes: list[BaseRoute] = []
    for entry in PAGES:
        stem = entry.path.rstrip("/") or "/index"
        routes += [
            Route(f"{stem}.json", site.endpoint(entry, "json")), Route(f"{stem}.csv", site.endpoint(entry, "csv")),
            Route(entry.path, site.endpoint(entry, "html")),
        ]
    routes += [
        Route("/search", site.search), Route("/ask", site.ask), Route("/live", site.events), Route("/healthz", _health),
        Mount("/static", StaticFiles(directory=HERE / "static")),
    ]
    return Starlette(routes=routes, exception_handlers={404: site.missing, 500: site.broken})


class _Site:
    """The pages and what they need."""

    def __init__(self, api: ChainApi, gateway: str | None, hosts: frozenset[str] | None) -> None:
        self._api, self._gateway, self._hosts = api, gateway, hosts
        self._renderer = Renderer(gateway is not None)
        self._live = Live(api, lambda: self._renderer.live(api))

    def endpoint(self, entry: Page, form: str) -> Callable[[Request], Awaitable[Response]]:
        """A page as html, json or csv."""

        async def serve_page(request: Request) -> Response:
            return await self._guarded(request, form, lambda: self._page(request, entry, form))

        return serve_page

    async def _page(self, request: Request, entry: Page, form: str) -> Response:
        arguments = {name: str(value) for name, value in request.path_params.items()}
        values = await entry.load(self._api, arguments, dict(request.query_params))
        if form == "json":
            return JSONResponse(to_json(values.data), headers=HEADERS)
        if form == "csv":
            if values.table is None:
                raise NotFound("this page has no table")
            return PlainTextResponse(self._renderer.csv(values.table), media_type="text/csv", headers=HEADERS)
        text = self._renderer.page(entry, values, request.url.path, arguments)
        return Response(text, media_type="text/html", headers=HEADERS)

    async def search(self, request: Request) -> Response:
        async def go() -> Response:
            return RedirectResponse(await find(self._api, request.query_params.get("q", "")), 303, HEADERS)

        return await self._guarded(request, "html", go)

    async def ask(self, request: Request) -> Response:
        async def go() -> Response:
            text = request.query_params.get("q", "")[:MAX_QUESTION_CHARS]
            answer = await _ask(self._gateway, text) if text and self._gateway else {}
            return Response(self._renderer.ask(text, answer), media_type="text/html", headers=HEADERS)

        return await self._guarded(request, "html", go)

    async def events(self, request: Request) -> Response:
        async def go() -> Response:
            headers = {**HEADERS, "x-accel-buffering": "no"}
            return StreamingResponse(self._live.stream(), media_type="text/event-stream", headers=headers)

        return await self._guarded(request, "json", go)

    async def missing(self, request: Request, _: Exception) -> Response:
        error = NotFound(f"there is no page {request.url.path[:100]}")
        return Response(self._renderer.error(404, error), 404, HEADERS, "text/html")

    async def broken(self, _: Request, failure: Exception) -> Response:  # the server logs the failure itself
        error = Error(f"this page could not be made ({type(failure).__name__})", hint="the explorer's log says why")
        return Response(self._renderer.error(500, error), 500, HEADERS, "text/html")

    async def _guarded(self, request: Request, form: str, work: Callable[[], Awaitable[Response]]) -> Response:
        """Run a page; a failure becomes a page (or JSON) that says what happened and what to do."""
        host = request.headers.get("host", "")
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if self._hosts is not None and name not in self._hosts:
            return PlainTextResponse("this explorer does not serve that host", 403, HEADERS)
        try:
            return await work()
        except Error as error:
            status = _status(error)
            if form != "html":
                body = {"error": {"name": error.name, "cause": error.cause, "hint": error.hint}}
                return JSONResponse(body, status, HEADERS)
            return Response(self._renderer.error(status, error), status, HEADERS, "text/html")


async def _health(_: Request) -> Response:
    return JSONResponse({"ok": True}, headers=HEADERS)


def _status(error: Error) -> int:
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, UsageError | DecodeError):
        return 400
    if isinstance(error, Pruned):
        return 410
    if isinstance(error, RateLimited):
        return 429
    return 504 if isinstance(error, Timeout) else 503


async def _ask(gateway: str | None, text: str) -> dict[str, Any]:
    """One request passed on to the gateway."""
    import httpx

    body = {"model": "net/moe", "prompt": text, "max_tokens": 96, "temperature": 0}
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=ASK_TIMEOUT_S) as client:
            reply = await client.post(f"{gateway}/v1/completions", json=body)
            value = reply.json()
    except (httpx.HTTPError, ValueError) as error:
        cause = f"the gateway does not answer ({type(error).__name__})"
        raise Unreachable(cause, hint="neurons may still be starting") from None
    if reply.status_code != 200:
        message = value.get("error", {}).get("message", f"HTTP {reply.status_code}") if isinstance(value, dict) else ""
        raise Unreachable(f"the gateway refuses: {message}", hint="neurons may still be starting")
    return dict(value)


# --- the process -------------------------------------------------------------------------------------------------


def serve(rpc: str, *, host: str, port: int, gateway: str | None, follow_stdin: bool) -> None:
    """Serve until a signal comes, or standard input closes if `follow_stdin`."""
    import uvloop

    uvloop.run(_serve(rpc, host, port, gateway, follow_stdin))


async def _serve(rpc: str, host: str, port: int, gateway: str | None, follow_stdin: bool) -> None:
    from ledger.client.remote import RemoteChain

    stop = asyncio.Event()
    on_the_end(stop.set, follow_stdin=follow_stdin)
    async with RemoteChain(rpc) as api:
        server = bounded_server(api, host, port, gateway)
        serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        stopping.cancel()


def bounded_server(api: ChainApi, host: str, port: int, gateway: str | None = None) -> uvicorn.Server:
    """The explorer with the bounds of all servers; port 0 takes a free one. Signals are the process's own."""
    import uvicorn

    from ledger.client.bounded_http import http_options

    names = frozenset({"127.0.0.1", "localhost", "[::1]", host})
    app = build_app(api, gateway=gateway, hosts=None if host in ("0.0.0.0", "::") else names)
    config = http_options(app, connections=MAX_CONNECTIONS, drain_s=DRAIN_S)
    config.host, config.port = host, port
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment, method-assign]
    return server
