"""Serving the application: uvicorn inside the node's own event loop, with the bounds that uvicorn leaves open.

uvicorn neither bounds the size and duration of a request's head nor cuts off a client that takes no data; the two
protocol classes here do, with what `ledger.client.connections` has for all servers. Signals and shutdown belong to the
node.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from asyncio import TimerHandle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from ledger.client.connections import Crowd, CutOff
from ledger.errors import UsageError

from .limits import Limits

BACKLOG = 256
STOP_GRACE_S = 3
MAX_UNIX_PATH_BYTES = 107


class _WebSocket(CutOff, WebSocketsSansIOProtocol):
    pass


class _Http(CutOff, Crowd, HttpToolsProtocol):
    """HTTP/1.1 with a bounded head: at most `header_bytes`, complete within `header_s` of its first byte."""

    header_bytes = Limits.header_bytes
    header_s = Limits.header_s
    _in_head = True
    _head_bytes = 0
    _slow: TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self.waiting_since = self.loop.time()
        if self.is_admitted():
            self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unwatch()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._head_bytes = False, 0
        self.waiting_since = None
        self._unwatch()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        super().on_message_complete()
        self._in_head = True

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline:
            self.waiting_since = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._in_head:
            # A chunk may hold the end of a body too; a whole request of one chunk is bounded by the chunk.
            head = data.find(b"\r\n\r\n")
            self._head_bytes += len(data) if head < 0 else head
            if self._head_bytes > self.header_bytes:
                return self.send_400_response("The request's head is too large.")
            if head < 0:
                self._watch()
        super().data_received(data)

    def _watch(self) -> None:
        if self._slow is None:
            self._slow = self.loop.call_later(self.header_s, self._too_slow)

    def _unwatch(self) -> None:
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _too_slow(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class RpcServer:
    """One listening socket and its server. `address` is the bound (host, port), or the path of a unix socket."""

    def __init__(self, app: Any, listener: socket.socket, limits: Limits) -> None:
        self.listener = listener
        config = uvicorn.Config(
            app, http=_Http, ws=_WebSocket, loop="none", lifespan="off", interface="asgi3", log_config=None,
            access_log=False, proxy_headers=False, server_header=False, limit_concurrency=limits.connections,
            timeout_keep_alive=limits.idle_s, timeout_graceful_shutdown=STOP_GRACE_S, ws_max_size=limits.body_bytes,
            ws_per_message_deflate=False, backlog=BACKLOG,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> Any:
        return self.listener.getsockname()

    async def start(self) -> None:
        """Return when requests are answered."""
        self._task = asyncio.ensure_future(self._server.serve(sockets=[self.listener]))
        while not self._server.started:
            if self._task.done():
                return self._task.result()
            await asyncio.sleep(0)

    async def stop(self) -> None:
        """Stop listening, let running requests end (a few seconds at most), close what is open."""
        if self._task is None:
            return
        path = self.address if self.listener.family == socket.AF_UNIX else None
        self._server.should_exit = True
        await self._task
        if path is not None:
            Path(path).unlink(missing_ok=True)


def listen_tcp(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises UsageError that names who has the port."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise UsageError(
            f"cannot listen on {host}:{port}: {error}", hint=f"{_owner(port)}give another --rpc-port, or 0 for a free one"
        ) from None
    listener.setblocking(False)
    return listener


def listen_unix(path: Path) -> socket.socket:
    """A listening unix socket that only this user can open (0600); a dead one at the path is replaced."""
    if len(os.fsencode(path)) > MAX_UNIX_PATH_BYTES:
        raise UsageError(f"the path of the admin socket is longer than {MAX_UNIX_PATH_BYTES} bytes: {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot make a folder for the admin socket {path}: {error.strerror}") from None
    if path.is_socket():
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            if probe.connect_ex(os.fsencode(path)) == 0:
                raise UsageError(f"another process serves {path}", hint="stop that node first")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    old = os.umask(0o177)
    try:
        listener.bind(os.fsencode(path))
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot make the admin socket {path}: {error}") from None
    finally:
        os.umask(old)
    listener.listen(BACKLOG)
    listener.setblocking(False)
    return listener


def _owner(port: int) -> str:
    """ "process 123 (name) has it; " if that can be found out."""
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()}) has it; "
    except (psutil.Error, OSError):
        pass
    return ""

