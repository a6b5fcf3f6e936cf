"""The JSON-RPC client of `ChainApi`: every method of that class, called over one kept HTTP connection.

    async with RemoteChain("http://127.0.0.1:9900") as api:
        head = await api.chain_get_header()
        async for new in api.chain_subscribe_new_heads(): ...

Addresses: `http://host:port`, `https://host`, or `unix:/path/admin.sock` for the admin socket. Methods are made from
the registry: there is no second description of the API here. Each call has a deadline. What the node reports as an
error is raised as the class of `ledger.errors` that it was there. Subscriptions run over a WebSocket of their own; when
it breaks or lags they are resumed at the height that was missed, so a consumer sees every head once and in order.

Importing this module costs nothing: httpx and websockets are imported at the first call.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self
from urllib.parse import urlsplit

from ..errors import DecodeError, Error, NotReady, Timeout, Unreachable, UsageError
from .faults import error_from_json
from .records import NewHead, from_json
from .registry import Method, find, methods

if TYPE_CHECKING:
    import httpx
    from websockets.asyncio.client import ClientConnection

DEFAULT_TIMEOUT_S: Final = 10.0
SUBSCRIPTION_PATIENCE_S: Final = 30.0  # how long a broken subscription is dialled again before it is given up
MAX_CONNECTIONS: Final = 16
MAX_REPLY_BYTES: Final = 32 << 20
MAX_EVENT_BYTES: Final = 16 << 20
REDIAL_FIRST_S: Final = 0.1
REDIAL_CAP_S: Final = 2.0
NOT_REPEATED: Final = ("author_submitExtrinsic",)  # and everything unsafe: repeated by the caller only

# Where a subscription goes on after a message: parameter name and the value that follows the message.
_RESUME: Final[dict[str, tuple[str, Callable[[Any], int]]]] = {
    "chain_subscribeNewHeads": ("start", lambda message: _next_height(message)),
}


def _next_height(head: NewHead) -> int:
    return head.header.height + 1


class RemoteChain:
    """See the module. One instance belongs to one event loop."""

    def __init__(self, url: str, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Raises UsageError for an address that is neither http, https nor unix."""
        self.url = url
        self.timeout_s = timeout_s
        self._endpoint, self._websocket, self._socket_path = _endpoints(url)
        self._shared: list[httpx.AsyncClient] = []  # one client, shared with the views made by `within`
        self._next_id = 0

    if TYPE_CHECKING:  # the methods of ChainApi are attached below

        def __getattr__(self, name: str) -> Any: ...

    def within(self, seconds: float) -> RemoteChain:
        """The same connection with another deadline for each call."""
        view = RemoteChain(self.url, timeout_s=seconds)
        view._shared = self._shared
        return view

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the kept connections. The next call opens new ones."""
        while self._shared:
            await self._shared.pop().aclose()

    # --- calls ---------------------------------------------------------------------------------------------------

    async def call(self, wire: str, params: Mapping[str, Any] | Sequence[Any] | None = None) -> Any:
        """One call by wire name with JSON-ready parameters; returns the JSON result as it came."""
        self._next_id += 1
        number = self._next_id  # other calls may begin while this one waits
        reply = await self._post(_request(number, wire, params), repeat=_may_repeat(wire))
        return _result(reply, number)

    async def batch(self, calls: Sequence[tuple[str, Mapping[str, Any] | Sequence[Any]]]) -> list[Any]:
        """Several calls in one request (at most 100). An entry that failed is the error object itself, not raised."""
        first = self._next_id + 1
        self._next_id += len(calls)
        requests = [_request(first + i, wire, params) for i, (wire, params) in enumerate(calls)]
        reply = await self._post(requests, repeat=all(_may_repeat(wire) for wire, _ in calls))
        if not isinstance(reply, list):
            return [_result(reply, None)]
        by_id = {entry["id"]: entry for entry in reply if isinstance(entry, dict) and isinstance(entry.get("id"), int)}
        out: list[Any] = []
        for number in range(first, first + len(calls)):
            try:
                out.append(_result(by_id.get(number), number))
            except Error as error:
                out.append(error)
        return out

    async def _post(self, body: Any, *, repeat: bool) -> Any:
        import httpx

        for attempt in (1, 2):
            try:
                async with asyncio.timeout(self.timeout_s):
                    return await self._exchange(json.dumps(body, separators=(",", ":")).encode())
            except (TimeoutError, httpx.TimeoutException):
                raise Timeout(f"{self.url} did not answer within {self.timeout_s:g} s") from None
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError) as broken:
                # A kept connection that the server closed meanwhile shows up only now.
                if attempt == 2 or not repeat:
                    raise Unreachable(f"{self.url} closed the connection ({type(broken).__name__})") from None
            except httpx.HTTPError as failed:
                raise Unreachable(f"{self.url} does not answer ({type(failed).__name__})") from None
        raise AssertionError("unreachable")

    async def _exchange(self, content: bytes) -> Any:
        request = self._client().build_request(
            "POST", self._endpoint, content=content, headers={"content-type": "application/json"}
        )
        response = await self._client().send(request, stream=True)
        try:
            body = bytearray()
            async for chunk in response.aiter_bytes():
                body += chunk
                if len(body) > MAX_REPLY_BYTES:
                    raise DecodeError(f"more than {MAX_REPLY_BYTES} bytes", where="reply")
        finally:
            await response.aclose()
        if response.status_code == 503:
            raise NotReady(f"{self.url} is busy or stopping")
        if response.status_code != 200:
            raise Unreachable(f"{self.url} answered HTTP {response.status_code}", hint="is this a node's RPC address?")
        return _parse(bytes(body))

    def _client(self) -> httpx.AsyncClient:
        if not self._shared:
            import httpx

            limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
            transport = httpx.AsyncHTTPTransport(uds=self._socket_path or None, limits=limits)
            self._shared.append(httpx.AsyncClient(transport=transport, timeout=None, trust_env=False))
        return self._shared[0]

    # --- subscriptions -------------------------------------------------------------------------------------------

    async def _subscribe(self, method: Method, params: dict[str, Any]) -> AsyncIterator[Any]:
        """Messages of a subscription, resumed where it broke off. Raises Unreachable after the patience is over."""
        from websockets.exceptions import WebSocketException

        resume = _RESUME.get(method.wire)
        delay, loop = REDIAL_FIRST_S, asyncio.get_running_loop()
        broken_since: float | None = loop.time()
        while True:
            cause = "closed by the node"
            try:
                async with asyncio.timeout(self.timeout_s):
                    socket = await self._dial()
                delay, broken_since = REDIAL_FIRST_S, None
                try:
                    async for message in _messages(socket, method, params, self.timeout_s):
                        if resume is not None:
                            params = {**params, resume[0]: resume[1](message)}
                        yield message
                finally:
                    await socket.close()
            except _Lagged:
                continue
            except (OSError, TimeoutError, WebSocketException, NotReady) as failed:
                cause = type(failed).__name__
            broken_since = loop.time() if broken_since is None else broken_since
            if loop.time() - broken_since > SUBSCRIPTION_PATIENCE_S:
                raise Unreachable(f"{self.url} does not answer ({cause})")
            await asyncio.sleep(delay)
            delay = min(2 * delay, REDIAL_CAP_S)

    async def _dial(self) -> ClientConnection:
        from websockets.asyncio.client import connect, unix_connect

        if self._socket_path:
            return await unix_connect(self._socket_path, self._websocket, max_size=MAX_EVENT_BYTES, compression=None)
        return await connect(self._websocket, max_size=MAX_EVENT_BYTES, compression=None, proxy=None)


class _Lagged(Exception):
    """The node dropped messages; the gap is read again by resuming."""


async def _messages(
    socket: ClientConnection, method: Method, params: dict[str, Any], timeout_s: float
) -> AsyncIterator[Any]:
    """Subscribe on a fresh connection and yield decoded messages until it closes."""
    await socket.send(json.dumps(_request(1, method.wire, params)))
    async with asyncio.timeout(timeout_s):
        subscription = _result(_parse(await socket.recv()), 1)
    resumable = method.wire in _RESUME
    async for text in socket:
        message = _parse(text)
        body = message.get("params") if isinstance(message, dict) else None
        if not isinstance(body, dict) or body.get("subscription") != subscription:
            continue
        if body.get("lagged") and resumable:
            raise _Lagged
        if "error" in body:
            raise error_from_json(body["error"])
        if "result" in body:
            yield from_json(method.returns, body["result"], method.wire)


# --- JSON ----------------------------------------------------------------------------------------------------------


def _request(number: int, wire: str, params: Mapping[str, Any] | Sequence[Any] | None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": number, "method": wire, "params": params or {}}


def _parse(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise DecodeError("not JSON", where="reply") from None


def _result(reply: Any, number: int | None) -> Any:
    if not isinstance(reply, dict) or reply.get("jsonrpc") != "2.0":
        raise DecodeError("not a JSON-RPC 2.0 response", where="reply")
    if "error" in reply:
        raise error_from_json(reply["error"])
    if reply.get("id") != number or "result" not in reply:
        raise DecodeError("answers another request", where="reply")
    return reply["result"]


def _may_repeat(wire: str) -> bool:
    found = methods().get(wire)
    return wire not in NOT_REPEATED and found is not None and not found.unsafe


def _endpoints(url: str) -> tuple[str, str, str]:
    """(HTTP address, WebSocket address, path of the unix socket or "")."""
    wrong = UsageError(f"not an RPC address: {url[:200]!r}", hint="http://HOST:PORT or unix:/PATH/admin.sock")
    try:
        parts = urlsplit(url)
        known = parts.port is None or parts.port > 0
    except ValueError:  # brackets or a port that are none
        raise wrong from None
    if parts.scheme == "unix" and parts.path:
        return "http://localhost/", "ws://localhost/", parts.path
    if known and parts.scheme in ("http", "https", "ws", "wss") and parts.hostname:
        secure = parts.scheme in ("https", "wss")
        place = parts.netloc + (parts.path or "/")
        return f"{'https' if secure else 'http'}://{place}", f"{'wss' if secure else 'ws'}://{place}", ""
    raise wrong


# --- the methods -----------------------------------------------------------------------------------------------------


def _attach(method: Method) -> None:
    """Give RemoteChain the method under its Python name, with the declared documentation."""
    if method.subscription:

        def subscribe(self: RemoteChain, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            return self._subscribe(method, method.encode_params(args, kwargs))

        function: Callable[..., Any] = subscribe
    else:

        async def call(self: RemoteChain, *args: Any, **kwargs: Any) -> Any:
            result = await self.call(method.wire, method.encode_params(args, kwargs))
            return from_json(method.returns, result, method.wire)

        function = call
    function.__name__, function.__doc__ = method.name, method.about
    function.__qualname__ = f"RemoteChain.{method.name}"
    setattr(RemoteChain, method.name, function)


for _method in methods().values():
    _attach(_method)
del _method

__all__ = ["RemoteChain", "find"]
