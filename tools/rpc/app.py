"""The RPC server's ASGI application, without a framework: JSON-RPC over HTTP and WebSocket, and the node's pages.

    POST /            JSON-RPC            GET /healthz  alive          GET /metrics       Prometheus
    WS   /            the same + events   GET /readyz   fit to serve   GET /openrpc.json, /version

Before anything is parsed: the Host header must name this server (DNS rebinding), a browser's Origin must be configured,
the body is JSON by its content type (so that a foreign page cannot send it without asking first) and within its bound.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final

from ledger.client.connections import is_local

from .jsonrpc import Caller, Dispatcher
from .limits import allowed_hosts, host_of
from .subscriptions import Session

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Page = Callable[[], Awaitable[tuple[int, str, bytes]]]  # -> status, content type, body

JSON_TYPE: Final = b"application/json"
# A body that was not read to its end would go on coming: the connection would stay taken for as long as the client likes.
_CLOSE: Final = ((b"connection", b"close"),)
CLOSE_POLICY: Final = 1008
CLOSE_TOO_BUSY: Final = 1013
CLOSE_TOO_LARGE: Final = 1009


class RpcApp:
    """See the module. `hosts`: further names of this server; `origins`: web origins that may call it from a browser.

    `local`: the listening socket is a unix socket, which has neither host nor address.
    """

    def __init__(
        self, dispatcher: Dispatcher, pages: Mapping[str, Page], *, hosts: Iterable[str] = (),
        origins: Iterable[str] = (), local: bool = False,
    ) -> None:
        self._dispatcher, self._pages, self._limits = dispatcher, pages, dispatcher.limits
        self._hosts, self._origins, self._local = allowed_hosts(hosts), frozenset(origins), local
        self._websockets: Counter[str] = Counter()
        self._sessions: set[Session] = set()

    @property
    def websockets(self) -> int:
        """Open WebSocket connections."""
        return self._websockets.total()

    @property
    def subscriptions(self) -> int:
        """Subscriptions of all connections."""
        return sum(len(session) for session in self._sessions)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if scope["type"] == "http":
            await self._http(scope, headers, receive, send)
        elif scope["type"] == "websocket":
            await self._websocket(scope, headers, receive, send)

    # --- HTTP ----------------------------------------------------------------------------------------------------

    async def _http(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        refusal = self._refuse(headers)
        if refusal is not None:
            return await _reply(send, 403, b"text/plain", refusal)
        cors = self._cors(headers)
        method, path = scope["method"], scope["path"]
        if method == "POST" and path == "/":
            return await self._post(scope, headers, receive, send, cors)
        if method == "OPTIONS" and path == "/" and cors:
            preflight = [(b"access-control-allow-methods", b"POST"), (b"access-control-allow-headers", b"content-type")]
            return await _reply(send, 204, None, b"", [*cors, *preflight])
        page = self._pages.get(path)
        if page is None:
            status, text = (405, b"POST JSON-RPC here\n") if path == "/" else (404, b"not found\n")
            return await _reply(send, status, b"text/plain", text)
        if method not in ("GET", "HEAD"):
            return await _reply(send, 405, b"text/plain", b"GET only\n")
        status, kind, body = await page()
        await _reply(send, status, kind.encode(), b"" if method == "HEAD" else body, cors)

    async def _post(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send, cors: list[tuple[bytes, bytes]]
    ) -> None:
        if headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != JSON_TYPE:
            return await _reply(send, 415, b"text/plain", b"content-type must be application/json\n")
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limits.body_bytes:
            return await _reply(send, 413, b"text/plain", b"the body is too large\n", _CLOSE)
        try:
            body = await self._read_body(receive)
        except TimeoutError:
            return await _reply(send, 408, b"text/plain", b"the body came too slowly\n", _CLOSE)
        if body is None:
            return await _reply(send, 413, b"text/plain", b"the body is too large\n", _CLOSE)
        text = await self._dispatcher.answer(body, Caller(self._address(scope)))
        if text is None:
            return await _reply(send, 204, None, b"", cors)
        await _reply(send, 200, JSON_TYPE, text.encode(), cors)

    async def _read_body(self, receive: Receive) -> bytes | None:
        """The whole body, or None if it is larger than the bound: the rest is read and dropped, else a client that is
        still writing would not see the answer. Raises TimeoutError."""
        async with asyncio.timeout(self._limits.body_s):
            message = await receive()
            body: bytes = message.get("body", b"")
            if not message.get("more_body", False):
                return body if len(body) <= self._limits.body_bytes else None
            parts, size = [body], len(body)
            while message.get("more_body", False):
                message = await receive()
                size += len(message.get("body", b""))
                if size <= self._limits.body_bytes:
                    parts.append(message.get("body", b""))
            return b"".join(parts) if size <= self._limits.body_bytes else None

    # --- WebSocket -------------------------------------------------------------------------------------------------

    async def _websocket(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        address = self._address(scope)
        limits = self._limits
        crowded = self._websockets[address] >= (
            limits.websockets_local if is_local(address) else limits.websockets_per_remote
        )
        if crowded or scope["path"] != "/" or self._refuse(headers) is not None:
            await send({"type": "websocket.close", "code": CLOSE_TOO_BUSY if crowded else CLOSE_POLICY})
            return
        await send({"type": "websocket.accept"})
        self._websockets[address] += 1
        conversation = _Conversation(self._dispatcher, address, receive, send)
        self._sessions.add(conversation.session)
        try:
            await conversation.run()
        except OSError:
            pass  # the other side went away
        finally:
            self._sessions.discard(conversation.session)
            self._websockets[address] -= 1
            if not self._websockets[address]:
                del self._websockets[address]

    # --- who asks ----------------------------------------------------------------------------------------------------

    def _refuse(self, headers: dict[bytes, bytes]) -> bytes | None:
        """Why a request is refused unread, or None."""
        if not self._local and host_of(headers.get(b"host", b"").decode("latin-1")) not in self._hosts:
            return b"unknown Host header; start the node with this name in its rpc hosts\n"
        origin = headers.get(b"origin")
        if origin is not None and origin.decode("latin-1") not in self._origins:
            return b"this web origin is not allowed\n"
        return None

    def _cors(self, headers: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
        origin = headers.get(b"origin")
        return [] if origin is None else [(b"access-control-allow-origin", origin), (b"vary", b"origin")]

    def _address(self, scope: Scope) -> str:
        client = scope.get("client")
        return "" if self._local or not client else str(client[0])


class _Conversation:
    """One WebSocket: requests are answered concurrently up to a bound, beyond which reading stops."""

    def __init__(self, dispatcher: Dispatcher, address: str, receive: Receive, send: Send) -> None:
        self._dispatcher, self._receive, self._send_message = dispatcher, receive, send
        self._limits = dispatcher.limits
        self.session = Session(dispatcher.api, self._send, self._limits.subscriptions)
        self._caller = Caller(address, self.session)
        self._slots = asyncio.Semaphore(self._limits.concurrency)

    async def run(self) -> None:
        """Until the connection is gone. A client that takes nothing is cut off by the server below."""
        async with asyncio.TaskGroup() as answers:
            try:
                while True:
                    await self._slots.acquire()
                    message = await self._receive()
                    if message["type"] != "websocket.receive":
                        break
                    text = message.get("text") or message.get("bytes") or ""
                    if len(text) > self._limits.body_bytes:
                        await self._send_message({"type": "websocket.close", "code": CLOSE_TOO_LARGE})
                        break
                    answers.create_task(self._answer(text))
            finally:
                await self.session.close()

    async def _answer(self, text: bytes | str) -> None:
        try:
            answer = await self._dispatcher.answer(text, self._caller)
            if answer is not None:
                await self._send(answer)
            self.session.release()
        except OSError:
            pass  # the connection is gone; `run` learns it from its next receive
        finally:
            self._slots.release()

    async def _send(self, text: str) -> None:
        """Returns when the transport has taken it; raises OSError when the connection is gone."""
        await self._send_message({"type": "websocket.send", "text": text})


async def _reply(
    send: Send, status: int, kind: bytes | None, body: bytes, headers: Iterable[tuple[bytes, bytes]] = ()
) -> None:
    fields = [(b"content-length", str(len(body)).encode()), *headers]
    if kind is not None:
        fields.append((b"content-type", kind))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})
