"""The RPC server over real sockets, with the one client: HTTP rules, WebSocket, subscriptions, the admin socket."""

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from ledger.client.records import At, HeaderRecord, Health, NewHead, Reading
from ledger.client.remote import RemoteChain
from ledger.errors import (
    DecodeError,
    NotFound,
    NotReady,
    Pruned,
    RateLimited,
    Rejected,
    Timeout,
    Unreachable,
    Unsafe,
    UsageError,
)
from tools.rpc.app import RpcApp
from tools.rpc.jsonrpc import Dispatcher
from tools.rpc.limits import Limits
from tools.rpc.server import RpcServer, listen_tcp, listen_unix
from tools.rpc.subscriptions import Follower, HeadSignal

HASH = bytes(range(32))
JSON = {"content-type": "application/json"}


def header(height):
    return HeaderRecord(HASH, 1, 1, height, 0, 1000 * height, HASH, HASH, 0, 0, HASH, HASH, HASH, HASH, HASH, HASH, 0, 5)


class Api:
    def __init__(self, height=10):
        self.signal = HeadSignal(height)
        self.sealed = 0

    async def system_health(self):
        return Health(self.signal.height, 5, 3, False, self.signal.height, "full", True, [])

    async def chain_get_header(self, at="head"):
        return header(self.signal.height if at == "head" else at)

    async def chain_get_block_hash(self, height):
        raise {1: NotFound("no block"), 2: Pruned("gone"), 3: RateLimited("slow down"), 4: NotReady("syncing"),
               5: Rejected("NonceTooLow", "stale", hint="again", expected=3), 6: DecodeError("bad", where="x")}[height]

    async def state_get(self, key, at="head"):
        return Reading(At(1, HASH), key)

    async def author_next_nonce(self, account):
        await asyncio.sleep(10)
        return 1

    async def dev_seal(self, count=1):
        self.sealed += count
        return self.sealed

    def chain_subscribe_new_heads(self, start=None):
        async def read(height):
            return NewHead(header(height), 0, 5)

        return Follower(self.signal, read, start)


async def alive():
    return 200, "text/plain", b"alive\n"


@asynccontextmanager
async def serving(api=None, *, limits=None, listener=None, unsafe=False, **app):
    limits = limits or Limits(call_s=2.0)
    listener = listener or listen_tcp("127.0.0.1", 0)
    local = listener.family == socket.AF_UNIX
    dispatcher = Dispatcher(api or Api(), limits, unsafe=unsafe)
    server = RpcServer(RpcApp(dispatcher, {"/healthz": alive}, local=local, **app), listener, limits)
    url = f"unix:{listener.getsockname()}" if local else f"http://127.0.0.1:{listener.getsockname()[1]}"
    await server.start()
    try:
        yield url
    finally:
        await server.stop()


async def raw(url, content, **headers):
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(url, content=content, headers={**JSON, **headers})


PING = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "chain_getHeader"})


async def test_the_client_calls_methods_as_the_api_declares_them():
    async with serving() as url, RemoteChain(url) as api:
        assert (await api.chain_get_header()) == header(10)
        assert (await api.chain_get_header(4)).height == 4
        assert (await api.state_get(key=b"\x01\x02")).value == b"\x01\x02"
        with pytest.raises(TypeError):
            await api.chain_get_header(1, 2)
        with pytest.raises(TypeError):
            await api.state_get(kye=b"")
        with pytest.raises(AttributeError):
            _ = api.chain_get_nothing


@pytest.mark.parametrize(("number", "kind"), [(1, NotFound), (2, Pruned), (3, RateLimited), (4, NotReady), (6, DecodeError)])
async def test_errors_arrive_as_the_class_they_were(number, kind):
    async with serving() as url, RemoteChain(url) as api:
        with pytest.raises(kind):
            await api.chain_get_block_hash(number)


async def test_refusals_keep_their_name_and_details():
    async with serving() as url, RemoteChain(url) as api:
        with pytest.raises(Rejected) as caught:
            await api.chain_get_block_hash(5)
    assert (caught.value.error_name, caught.value.hint, caught.value.data) == ("NonceTooLow", "again", {"expected": 3})


async def test_a_batch_returns_results_and_errors_in_place():
    async with serving() as url, RemoteChain(url) as api:
        first, second = await api.batch([("chain_getBlockHash", {"height": 1}), ("chain_getHeader", [])])
    assert isinstance(first, NotFound) and second["height"] == 10


async def test_each_call_has_a_deadline():
    async with serving(limits=Limits(call_s=0.2)) as url, RemoteChain(url) as api:
        with pytest.raises(Timeout):
            await api.within(0.05).author_next_nonce(HASH)


async def test_nobody_there_is_unreachable_and_a_bad_address_is_a_usage_error():
    with listen_tcp("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    async with RemoteChain(f"http://127.0.0.1:{port}") as api:
        with pytest.raises(Unreachable):
            await api.chain_get_header()
    for address in ("", "localhost:99", "ftp://x", "unix:"):
        with pytest.raises(UsageError):
            RemoteChain(address)


async def test_a_call_survives_a_restart_of_the_server_between_calls():
    listener = listen_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    async with RemoteChain(f"http://127.0.0.1:{port}") as api:
        async with serving(listener=listener):
            assert (await api.chain_get_header()).height == 10
        async with serving(listener=listen_tcp("127.0.0.1", port)):
            assert (await api.chain_get_header()).height == 10


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::2]"])
async def test_foreign_host_headers_are_refused_unread(host):
    async with serving() as url:
        assert (await raw(url, PING, host=host)).status_code == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:9900", "node.example:1"])
async def test_known_host_headers_are_served(host):
    async with serving(hosts=["node.example"]) as url:
        assert (await raw(url, PING, host=host)).status_code == 200


async def test_browsers_of_foreign_origins_are_refused_and_configured_ones_get_cors():
    async with serving(origins=["https://good.example"]) as url:
        assert (await raw(url, PING, origin="https://evil.example")).status_code == 403
        answer = await raw(url, PING, origin="https://good.example")
        assert answer.headers["access-control-allow-origin"] == "https://good.example"
        assert "access-control-allow-origin" not in (await raw(url, PING)).headers
        async with httpx.AsyncClient(trust_env=False) as client:
            preflight = await client.options(url, headers={"origin": "https://good.example"})
            assert preflight.status_code == 204 and preflight.headers["access-control-allow-methods"] == "POST"
        with pytest.raises(InvalidStatus):
            async with connect(url.replace("http", "ws"), origin="https://evil.example", proxy=None):
                pass


async def test_http_rules():
    async with serving(limits=Limits(body_bytes=2000)) as url, httpx.AsyncClient(trust_env=False) as client:
        assert (await client.post(url, content=PING, headers={"content-type": "text/plain"})).status_code == 415
        assert (await client.post(url, content=b"x" * 2001, headers=JSON)).status_code == 413
        assert (await client.get(url)).status_code == 405
        assert (await client.get(url + "/nothing")).status_code == 404
        assert (await client.post(url + "/healthz", content=b"", headers=JSON)).status_code == 405
        assert (await client.get(url + "/healthz")).text == "alive\n"
        note = json.dumps({"jsonrpc": "2.0", "method": "chain_getHeader"})
        assert (await client.post(url, content=note, headers=JSON)).status_code == 204

        async def chunks():
            for _ in range(5):
                yield b"y" * 500

        assert (await client.post(url, content=chunks(), headers=JSON)).status_code == 413


async def exchange(url, *parts, wait=0.0):
    """What the server sends before it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
        async with asyncio.timeout(3):
            return await reader.read(-1)
    except ConnectionError:
        return b"reset"
    finally:
        writer.close()


async def test_an_endless_or_slow_request_head_is_cut_off(monkeypatch):
    monkeypatch.setattr("tools.rpc.server._Http.header_s", 0.1)
    async with serving() as url:
        endless = await exchange(url, b"POST / HTTP/1.1\r\nx-a: ", *[b"a" * 1000] * 12)
        assert endless.startswith(b"HTTP/1.1 400") or endless == b"reset"
        many = b"".join(b"x-%d: %s\r\n" % (i, b"b" * 500) for i in range(40))
        assert (await exchange(url, b"POST / HTTP/1.1\r\n", many)) [:12] in (b"HTTP/1.1 400", b"reset")
        assert await exchange(url, b"POST / HTTP/1.1\r\nhost: ") == b""
        assert await exchange(url) == b""
        assert (await exchange(url, b"\x00\x01garbage\r\n\r\n")).startswith(b"HTTP/1.1 400")


async def test_a_body_that_does_not_end_costs_the_connection():
    head = b"POST / HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    async with serving(limits=Limits(body_s=0.1, body_bytes=500)) as url:
        assert (await exchange(url, head % 100 + b"{")).startswith(b"HTTP/1.1 408")
        assert (await exchange(url, head % 600 + b"{")).startswith(b"HTTP/1.1 413")


async def test_one_address_outside_this_machine_cannot_take_all_connections(monkeypatch):
    monkeypatch.setattr("ledger.client.connections.MAX_CONNECTIONS_PER_ADDRESS", 2)
    monkeypatch.setattr("ledger.client.connections.is_local", lambda address: False)
    async with serving() as url:
        port = int(url.rpartition(":")[2])
        held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        assert await exchange(url) == b""
        for _, writer in held:
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0.05)
        assert (await raw(url, PING)).status_code == 200


async def test_whoever_waits_longest_gives_way_when_all_connections_are_taken():
    async with serving(limits=Limits(connections=12)) as url:
        port = int(url.rpartition(":")[2])
        held = []
        for _ in range(40):
            held.append(await asyncio.open_connection("127.0.0.1", port))
            await asyncio.sleep(0.002)
        for _ in range(3):
            assert (await raw(url, PING)).status_code == 200
        first, last = held[0][0], held[-1][0]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(first.readexactly(1), 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(last.readexactly(1), 0.05)
        for _, writer in held:
            writer.close()


async def test_a_request_in_work_keeps_its_connection():
    class Slow(Api):
        async def chain_get_header(self, at="head"):
            await asyncio.sleep(0.3)
            return header(1)

    async with serving(Slow(), limits=Limits(connections=6)) as url:
        asked = asyncio.ensure_future(RemoteChain(url).chain_get_header())
        await asyncio.sleep(0.05)
        held = [await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2])) for _ in range(20)]
        assert (await asked).height == 1
        for _, writer in held:
            writer.close()


async def test_websockets_of_this_machine_leave_room():
    async with serving(limits=Limits(websockets_local=2)) as url:
        held = [await connect(url.replace("http", "ws")) for _ in range(2)]
        with pytest.raises((ConnectionClosed, InvalidStatus)):
            await (await connect(url.replace("http", "ws"))).recv()
        assert (await raw(url, PING)).status_code == 200
        for one in held:
            await one.close()


async def test_websocket_answers_and_sends_every_head_once():
    api = Api()
    async with serving(api) as url, RemoteChain(url) as chain:
        heads = chain.chain_subscribe_new_heads(start=8)
        seen = [(await anext(heads)).header.height for _ in range(3)]
        waiting = asyncio.ensure_future(anext(heads))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        api.signal.set(12)
        seen += [(await waiting).header.height, (await anext(heads)).header.height]
        await heads.aclose()
    assert seen == [8, 9, 10, 11, 12]


async def test_a_subscription_is_resumed_over_a_restart_without_gap_or_repeat(monkeypatch):
    api, listener = Api(), listen_tcp("127.0.0.1", 0)
    port = listener.getsockname()[1]
    heads = RemoteChain(f"http://127.0.0.1:{port}").chain_subscribe_new_heads(10)
    async with serving(api, listener=listener):
        first = (await anext(heads)).header.height
    api.signal.set(13)
    async with serving(api, listener=listen_tcp("127.0.0.1", port)):
        rest = [(await anext(heads)).header.height for _ in range(3)]
        await heads.aclose()
    assert [first, *rest] == [10, 11, 12, 13]


async def test_a_subscription_gives_up_when_the_node_stays_away(monkeypatch):
    monkeypatch.setattr("ledger.client.remote.SUBSCRIPTION_PATIENCE_S", 0.1)
    with listen_tcp("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unreachable):
        await anext(RemoteChain(f"http://127.0.0.1:{port}").chain_subscribe_new_heads())


async def test_a_start_too_far_back_is_refused():
    async with serving(Api(5000)) as url, RemoteChain(url) as chain:
        with pytest.raises(Pruned):
            await anext(chain.chain_subscribe_new_heads(start=1))


async def test_a_subscriber_that_falls_behind_is_told_how_many_it_lost():
    api = Api(10)
    heads = api.chain_subscribe_new_heads(10)
    assert (await anext(heads)).header.height == 10
    api.signal.set(3000)
    head = await anext(heads)
    assert (head.header.height, heads.lagged) == (2001, 1990)
    assert ((await anext(heads)).header.height, heads.lagged) == (2002, 0)


async def test_wire_form_of_subscriptions():
    api = Api()
    async with serving(api) as url, connect(url.replace("http", "ws"), proxy=None) as socket_:

        async def call(method, params, number):
            await socket_.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params}))

        await call("x_subscribe", {"kind": "newHeads", "from": 10}, 1)
        name = json.loads(await socket_.recv())["result"]
        event = json.loads(await socket_.recv())
        assert event["method"] == "x_event" and "id" not in event
        assert (event["params"]["subscription"], event["params"]["seq"]) == (name, 1)
        assert event["params"]["result"]["header"]["height"] == 10
        await call("x_unsubscribe", [name], 2)
        assert json.loads(await socket_.recv())["result"] is True
        api.signal.set(11)
        await call("x_unsubscribe", [name], 3)
        assert json.loads(await socket_.recv())["error"]["code"] == -32001
        await call("chain_subscribeFinalizedHeads", {"start": 11}, 4)
        assert json.loads(await socket_.recv())["id"] == 4
        assert json.loads(await socket_.recv())["params"]["seq"] == 1


async def test_subscriptions_of_a_connection_are_bounded():
    async with serving(limits=Limits(subscriptions=2)) as url, connect(url.replace("http", "ws"), proxy=None) as socket_:
        for number in range(3):
            await socket_.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "x_subscribe", "params": ["newHeads"]}))
        answers = [json.loads(await socket_.recv()) for _ in range(3)]
    assert ["error" in answer for answer in answers] == [False, False, True]


async def test_a_websocket_survives_an_id_that_no_answer_can_repeat():
    async with serving() as url, connect(url.replace("http", "ws"), proxy=None) as socket:
        await socket.send('{"jsonrpc":"2.0","id":1e999,"method":"chain_getHeader"}')
        assert json.loads(await socket.recv())["error"]["code"] == -32600
        await socket.send(PING)
        assert json.loads(await socket.recv())["result"]


async def test_websocket_messages_are_bounded():
    async with serving(limits=Limits(body_bytes=2000)) as url:
        async with connect(url.replace("http", "ws"), proxy=None) as socket_:
            await socket_.send("z" * 3000)
            with pytest.raises(ConnectionClosed):
                await socket_.recv()


async def test_the_admin_socket_is_private_and_serves_unsafe_methods(tmp_path):
    path = tmp_path / "run" / "admin.sock"
    async with serving(listener=listen_unix(path), unsafe=True) as url, RemoteChain(url) as api:
        assert path.stat().st_mode & 0o777 == 0o600
        assert await api.dev_seal(2) == 2
        heads = api.chain_subscribe_new_heads(10)
        assert (await anext(heads)).header.height == 10
        await heads.aclose()
        with pytest.raises(UsageError):
            listen_unix(path)
    assert not path.exists()
    path.touch()
    with pytest.raises(UsageError):
        listen_unix(path)
    async with serving() as url, RemoteChain(url) as api:
        with pytest.raises(Unsafe):
            await api.dev_seal()


async def test_a_dead_admin_socket_is_replaced(tmp_path):
    path = tmp_path / "admin.sock"
    listen_unix(path).close()
    assert path.is_socket()
    async with serving(listener=listen_unix(path), unsafe=True) as url, RemoteChain(url) as api:
        assert await api.dev_seal() == 1


def test_a_taken_port_is_an_error_that_says_who_has_it():
    with listen_tcp("127.0.0.1", 0) as listener:
        with pytest.raises(UsageError) as caught:
            listen_tcp("127.0.0.1", listener.getsockname()[1])
    assert "process" in caught.value.hint
