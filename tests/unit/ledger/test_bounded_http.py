"""Connections of servers: slow, silent, crowding and unread ones end, and others are served meanwhile."""

import asyncio
import contextlib
import socket

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from ledger.client import bounded_http, connections
from ledger.client.bounded_http import http_options

GET = b"GET /ok HTTP/1.1\r\nhost: localhost\r\n\r\n"


@pytest.fixture
async def connect(monkeypatch):
    """`await connect()`: (reader, writer) on a server with all bounds and short times."""
    monkeypatch.setattr(bounded_http, "HEAD_SECONDS", 0.25)
    monkeypatch.setattr(connections, "UNREAD_SECONDS", 0.25)

    async def slow(request):
        await asyncio.sleep(0.5)
        return PlainTextResponse("slow")

    async def large(request):
        return Response(bytes(16 << 20))

    routes = [Route("/ok", lambda request: PlainTextResponse("ok")), Route("/slow", slow), Route("/large", large)]
    server = uvicorn.Server(http_options(Starlette(routes=routes), connections=4, drain_s=1))
    server.capture_signals = contextlib.nullcontext
    listener = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    writers = []

    async def dial():
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writers.append(writer)
        return reader, writer

    while not server.started:
        await asyncio.sleep(0.005)
    dial.server = server
    yield dial
    for writer in writers:
        writer.close()
    server.should_exit = server.force_exit = True
    await serving


async def ended(reader, seconds=2.0):
    """What still came before the server hung up."""
    async with asyncio.timeout(seconds):
        with contextlib.suppress(ConnectionResetError):
            return await reader.read()
        return b""


async def ask(reader, writer, request=GET):
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0])
    return head.partition(b"\r\n")[0], await reader.readexactly(length)


async def drip(writer, data=b"x"):
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(data)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("begin", [
    b"", b"GET /ok HTTP/1.1\r\nhost: localhost\r\nx-slow: ", GET + b"GET /ok HTTP/1.1\r\nx: ",
    b"POST /ok HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\n\r\n",
], ids=["nothing", "head", "second head", "body that nobody reads"])
async def test_bytes_that_drip_win_no_time(connect, begin):
    reader, writer = await connect()
    writer.write(begin)
    dripping = asyncio.create_task(drip(writer))
    await ended(reader)
    dripping.cancel()
    while connect.server.server_state.connections:
        await asyncio.sleep(0.01)


async def test_a_silent_connection_ends_and_a_working_one_does_not(connect):
    silent, _ = await connect()
    reader, writer = await connect()
    for _ in range(3):  # longer, all together, than a head may take
        assert await ask(reader, writer, GET.replace(b"/ok", b"/slow")) == (b"HTTP/1.1 200 OK", b"slow")
    assert await ended(silent) == b""


async def test_when_all_are_taken_the_longest_waiting_gives_way(connect):
    first, _ = await connect()
    others = [await connect() for _ in range(2)]
    newest = await connect()
    assert await ask(*newest) == (b"HTTP/1.1 200 OK", b"ok")
    assert await ended(first, 0.2) == b""
    assert await ask(*others[0]) == (b"HTTP/1.1 200 OK", b"ok")


async def test_one_address_elsewhere_cannot_take_all(connect, monkeypatch):
    monkeypatch.setattr(connections, "MAX_CONNECTIONS_PER_ADDRESS", 1)
    first, (local, _) = await connect(), await connect()
    monkeypatch.setattr(connections, "is_local", lambda address: False)
    crowding, _ = await connect()
    assert await ended(crowding, 0.2) == b""
    assert await ask(*first) == (b"HTTP/1.1 200 OK", b"ok") and not local.at_eof()


async def test_a_reply_that_nobody_takes_is_dropped(connect):
    reader, writer = await connect()
    reader._transport.pause_reading()
    writer.write(GET.replace(b"/ok", b"/large"))
    async with asyncio.timeout(2):
        while not connect.server.server_state.connections:
            await asyncio.sleep(0.01)
        while connect.server.server_state.connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("address", "local"), [
    ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("::ffff:127.0.0.1", True), ("10.0.0.1", False),
    ("::ffff:10.0.0.1", False), ("fe80::1%eth0", False), ("", True), ("nobody", False),
])
def test_addresses_of_this_machine(address, local):
    assert connections.is_local(address) is local
