"""The gateway over real sockets: its HTTP app, real neuron servers, the real runtime, and the official client."""

import asyncio
import contextlib
import json
import socket
import time

import httpx
import openai
import pytest
import uvicorn
from click.testing import CliRunner

from ai import database
from ai.gateway import gateway as gateway_module
from ai.gateway import router
from ai.gateway import serve as serve_module
from ai.gateway.app import MAX_BODY_BYTES, build_app
from ai.gateway.gateway import MAX_IN_FLIGHT, MAX_WAITING, Gateway, GatewayConfig
from ai.gateway.openai import ApiError, parse_request
from ai.receipts import Receipt
from ai.serve.server import NeuronServer
from ledger.client.calls import Wallet
from ledger.client.keys import encode_address
from ledger.errors import Error, Locked, Unreachable, UsageError
from ledger.trees import verify_list_proof
from runtime import reads
from tools.cli.gateway import read_api_keys
from tools.cli.main import cli

RECORDS = "".join(f'{{"id": {n}, "user": "ann{n % 7}", "city": "oslo", "ok": true}}\n' for n in range(10, 90))
SUMS = "".join(f"{a}+{b}={a + b};" for a in range(10, 40) for b in range(3, 12))
WORDS = "".join(f"h\u00e9llo w\u00f6rld \u2713 num\u00e9ro {n} \U0001f600 fin. " for n in range(40))
PROMPT = '{"id": 42, "user": "ann0", "ci'


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
        server = uvicorn.Server(serve_module.http_options(build_app(gateway)))
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


def client_of(url, key="none", **options):
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0, timeout=20, **options)


def neurons(chain, netuid):
    return reads.metagraph(chain.devnet.view, netuid, chain.devnet.height, chain.names).neurons


async def until(condition, seconds=8.0):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def idle(gateway, serve):
    """Nothing is at work or held anywhere."""
    return (
        not gateway.running and gateway.places._value == MAX_IN_FLIGHT
        and not any(server.sessions for server in serve.servers.values())
        and all(expert.in_flight == 0 for expert in gateway.market.serving())
    )  # fmt: skip


async def ask(client, prompt=PROMPT, **options):
    defaults = {"model": "net/moe", "prompt": prompt, "temperature": 0, "max_tokens": 24}
    return await client.completions.create(**{**defaults, **options})


async def learn(gateway, monkeypatch):
    """Measure the experts, and let nobody be chosen for a try."""
    monkeypatch.setattr(router, "NOISE", 0.0)
    for _ in range(2):
        await gateway.market.calibrate(2)


# --- the official client -----------------------------------------------------------------------------------------


async def test_models(service, chain):
    _, _, client = service
    ids = [model.id async for model in client.models.list()]
    assert ids == ["net/moe", "net/1/moe", "net/2/moe", *ids[3:]]
    assert sorted(ids[3:]) == ["net/arith", "net/generalist", "net/json"]
    hotkey = chain.devnet.hot("neuron json").public
    for name in ("net/moe", "net/2/moe", "net/json", f"net/{hotkey.hex()}", f"net/{encode_address(hotkey)}"):
        assert (await client.models.retrieve(name)).id == name
    for name in ("net/9/moe", "net/nobody", "moe", "net", "net/\u00b2/moe", "gpt-4"):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.models.retrieve(name)
        assert caught.value.body["code"] == "model_not_found"


async def test_completion_usage_route_and_receipts(service, chain, serve, monkeypatch):
    gateway, url, client = service
    await learn(gateway, monkeypatch)
    raw = await client.completions.with_raw_response.create(model="net/moe", prompt=PROMPT, temperature=0, max_tokens=24)
    reply = raw.parse()
    assert reply.choices[0].text == 'ty": "oslo", "ok": true}' and reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (30, 24, 54)
    made = reply.quorix
    assert "json" in made["experts"] and raw.headers["x-quorix-receipts"] == ",".join(made["receipts"])
    assert {row["expert"] for row in made["route"]} == {"json", "arith", "generalist"} and len(made["receipts"]) >= 2
    async with httpx.AsyncClient() as http:
        for open_id in made["receipts"]:
            proof = (await http.get(f"{url}/v1/receipts/{open_id}")).json()
            receipt = bytes.fromhex(proof["receipt"])
            checked = Receipt.decode(receipt).verify(chain.devnet.genesis.genesis_hash)
            assert checked.open_id.hex() == open_id and checked.both_sides
            path = [bytes.fromhex(step) for step in proof["path"]]
            root = bytes.fromhex(proof["root"])
            assert verify_list_proof(root, receipt, proof["index"], proof["count"], path, "receipt") and proof["holds"]
            assert checked.open.caller.hex() == proof["hotkey"] and not proof["on_chain"]
    await until(lambda: idle(gateway, serve))


async def test_a_streamed_completion_is_the_same_text(service, gateway_is_idle_after):
    _, _, client = service
    for temperature in (0, 0.8):
        whole = await ask(client, temperature=temperature, seed=5, max_tokens=40)
        stream = await ask(client, temperature=temperature, seed=5, max_tokens=40, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(c.choices[0].text for c in chunks) == whole.choices[0].text
        assert [c.choices[0].finish_reason for c in chunks][-1] == "length"
        assert chunks[-1].quorix["receipts"] and len(chunks) > 10
    usage = [c async for c in await ask(client, stream=True, stream_options={"include_usage": True})][-1]
    assert usage.choices == [] and usage.usage.completion_tokens == 24


async def test_chat_whole_and_streamed(service, gateway_is_idle_after):
    _, _, client = service
    messages = [{"role": "system", "content": "go on"}, {"role": "user", "content": PROMPT}]
    options = {"model": "net/2/moe", "messages": messages, "temperature": 0, "max_completion_tokens": 24}
    whole = await client.chat.completions.create(**options)
    assert whole.object == "chat.completion" and whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content == 'ty": "oslo", "ok": true}'
    chunks = [c async for c in await client.chat.completions.create(**options, stream=True)]
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].object == "chat.completion.chunk"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content


async def test_the_synchronous_client_works_too(service):
    _, url, _ = service

    def talk():
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            stream = client.completions.create(model="net/json", prompt=PROMPT, temperature=0, max_tokens=10, stream=True)
            return client.models.retrieve("net/moe").id, "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(talk) == ("net/moe", 'ty": "oslo')


async def test_one_expert_alone_and_a_subnet_without_the_fitting_one(service):
    _, _, client = service
    alone = await ask(client, model="net/arith", prompt="12+5=", max_tokens=3)
    assert alone.choices[0].text == "17;" and alone.quorix["experts"] == ["arith"]
    prose = await ask(client, model="net/1/moe")
    assert prose.quorix["experts"] == ["generalist"]


async def test_stops_also_where_they_straddle_pieces(service, gateway_is_idle_after):
    _, _, client = service
    for stop, expected in (('", "', 'ty": "oslo'), (["true}", "oslo"], 'ty": "'), (["nowhere"], 'ty": "oslo", "ok": true}')):
        whole = await ask(client, stop=stop)
        chunks = [c async for c in await ask(client, stop=stop, stream=True)]
        assert whole.choices[0].text == expected == "".join(c.choices[0].text for c in chunks)
        reason = "length" if stop == ["nowhere"] else "stop"
        assert whole.choices[0].finish_reason == reason == chunks[-1].choices[0].finish_reason
    assert whole.usage.completion_tokens == 24


async def test_a_seed_repeats_itself_and_another_differs(service):
    _, _, client = service
    options = {"temperature": 1.5, "max_tokens": 48}
    texts = [(await ask(client, seed=seed, **options)).choices[0].text for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert (await ask(client, **options)).choices[0].text != (await ask(client, **options)).choices[0].text


async def test_how_much_is_written(service):
    _, _, client = service
    one = await ask(client, max_tokens=1)
    assert one.choices[0].text == "t" and one.usage.completion_tokens == 1 and one.quorix["receipts"]
    assert (await ask(client, max_tokens=None)).usage.completion_tokens == 64
    assert (await ask(client, prompt="", max_tokens=4)).usage.prompt_tokens == 0
    for many in (0, 513):
        with pytest.raises(openai.BadRequestError) as caught:
            await ask(client, max_tokens=many)
        assert caught.value.body["param"] == "max_tokens"


async def test_characters_arrive_whole(service):
    _, _, client = service
    prompt = "num\u00e9ro 7 \U0001f600 fin. h"
    stream = await ask(client, model="net/generalist", prompt=prompt, max_tokens=40, stream=True)
    text = "".join([chunk.choices[0].text async for chunk in stream])
    assert text == "\u00e9llo w\u00f6rld \u2713 num\u00e9ro 0 \U0001f600 fin. h\u00e9"
    cut = await ask(client, model="net/generalist", prompt=prompt, max_tokens=1)
    assert cut.choices[0].text == "\ufffd"


async def test_the_command_line_asks_and_tells(service, tmp_path):
    gateway, url, _ = service

    def run(*words, code=None):
        words = ["--home", str(tmp_path), "ai", "query", *words]
        done = CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)
        if code is None:
            assert done.exception is None, done.exception
            return done
        assert isinstance(done.exception, Error) and done.exception.exit_code == code, done.exception
        return done.exception

    def talk():
        common = ("--gateway", url, "--max", "24", "--model", "net/json")
        shown = run(PROMPT, *common, "--explain")
        assert shown.stdout.startswith(PROMPT + 'ty": "oslo", "ok": true}\n') and "route" in shown.stdout
        assert "answered by json; receipts: " in shown.stderr
        reply = json.loads(run(PROMPT, *common, "--json").stdout)
        assert reply["choices"][0]["text"] == 'ty": "oslo", "ok": true}' and reply["quorix"]["receipts"]
        subnet = json.loads(run("12+5=", "--gateway", url + "/v1", "--subnet", "2", "--max", "3", "--json").stdout)
        assert subnet["model"] == "net/2/moe"
        for extra in ((), ("--json",)):
            assert "does not exist" in run("x", "--gateway", url, "--model", "net/nobody", *extra, code=3).cause
            run("x", "--gateway", "http://127.0.0.1:1", *extra, code=4)
            run("x" * 9000, "--gateway", url, *extra, code=2)

    await asyncio.to_thread(talk)


# --- refusals ----------------------------------------------------------------------------------------------------


async def post(url, content, path="/v1/completions", **headers):
    headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with httpx.AsyncClient() as http:
        return await http.post(url + path, content=content, headers=headers)


def error_of(reply):
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


async def test_bodies_that_are_refused(service, gateway_is_idle_after):
    _, url, _ = service
    good = json.dumps({"model": "net/moe", "prompt": "x", "max_tokens": 1}).encode()
    for bad in (b"", b"{", b"[" * 50_000, b"\xff\xfe\xfa", b"[]", b'"x"', b'{"model": 1' + b"0" * 6000 + b"}", b'{"a": NaN}',
                good[:-1] + b', "tools": "\\ud800"}', good[:-1] + b', "n": ' + b"[" * 900 + b"]" * 900 + b"}"):  # fmt: skip
        reply = await post(url, bad)
        assert reply.status_code == 400 and error_of(reply)["type"] == "invalid_request_error", bad[:20]
    assert (await post(url, good.replace(b"}", b" " * MAX_BODY_BYTES + b"}"))).status_code == 413
    assert (await post(url, good, content_type="text/plain")).status_code == 415
    assert (await post(url, good, content_type="application/jsonx")).status_code == 415
    assert (await post(url, good, content_encoding="gzip")).status_code == 415
    assert (await post(url, good, content_type="application/json; charset=utf-8")).status_code == 200
    reply = await post(url, b'{"model": "net/nobody", "prompt": "x", "stream": true}')
    assert reply.status_code == 404 and error_of(reply)["param"] == "model"


async def test_paths_methods_and_hosts_that_are_refused(service):
    _, url, _ = service
    async with httpx.AsyncClient(base_url=url) as http:
        for path in ("/", "/v1", "/v2/models", "/v1/completions/x"):
            reply = await http.get(path)
            assert reply.status_code == 404 and error_of(reply)
        reply = await http.get("/v1/completions")
        assert reply.status_code == 405 and error_of(reply) and reply.headers["allow"] == "POST"
        for host, status in (("evil.example", 403), ("evil.example:80", 403), ("localhost:1", 200), ("LOCALHOST", 200)):
            assert (await http.get("/v1/models", headers={"host": host})).status_code == status, host
        for receipt, status in (("zz", 400), ("ab", 400), ("ab" * 32, 404)):
            reply = await http.get(f"/v1/receipts/{receipt}")
            assert reply.status_code == status and error_of(reply)


async def test_api_keys_and_quota(market, start, monkeypatch):
    await market("json", RECORDS, domains=("json",))
    gateway, url = await start(api_keys=frozenset({"secret", "other"}))
    async with client_of(url, "wrong") as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            await ask(client)
        assert caught.value.body["code"] == "invalid_api_key" and caught.value.response.headers["www-authenticate"] == "Bearer"
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/v1/models")).status_code == 401
        assert (await http.get(f"{url}/healthz")).status_code == 200
    async with client_of(url, "secret") as client:
        await ask(client, model="net/json", max_tokens=4)
        monkeypatch.setattr(gateway_module, "FREE_UNITS_A_DAY", 10)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client, max_tokens=4)
        assert caught.value.body["type"] == "insufficient_quota" and caught.value.response.headers["retry-after"] == "3600"
    async with client_of(url, "other") as client:
        await ask(client, model="net/json", max_tokens=4)
    assert b"secret" not in b"".join(f.read_bytes() for f in (gateway.config.home).glob("usage.db*"))


async def test_nobody_serves(start, report):
    gateway, url = await start()
    async with client_of(url) as client:
        assert [m.id async for m in client.models.list()] == ["net/moe"]
        for stream in (False, True):
            with pytest.raises(openai.InternalServerError) as caught:
                await ask(client, stream=stream)
            assert caught.value.status_code == 503 and caught.value.response.headers["retry-after"]
            assert caught.value.body["code"] == "unavailable"
    async with httpx.AsyncClient(base_url=url) as http:
        assert (await http.get("/readyz")).status_code == 503 and (await http.get("/healthz")).json()["ok"]
        assert "quorix_ai_query_failures_total 2.0" in (await http.get("/metrics")).text
    assert not gateway.running


async def test_a_full_house_refuses_and_recovers(service, serve, market, monkeypatch):
    gateway, _, client = service
    monkeypatch.setattr(gateway_module, "MAX_WAITING", 2)
    held = asyncio.Event()
    original = gateway_module.Generation.run

    async def slow(self):
        await held.wait()
        async for byte in original(self):
            yield byte

    monkeypatch.setattr(gateway_module.Generation, "run", slow)
    waiting = [asyncio.create_task(ask(client, max_tokens=2)) for _ in range(MAX_IN_FLIGHT + 2)]
    await until(lambda: len(gateway.running) == MAX_IN_FLIGHT + 2)
    with pytest.raises(openai.RateLimitError) as caught:
        await ask(client)
    assert caught.value.response.headers["retry-after"] == "1"
    held.set()
    assert [reply.choices[0].text for reply in await asyncio.gather(*waiting)] == ["ty"] * (MAX_IN_FLIGHT + 2)
    await until(lambda: idle(gateway, serve))
    assert MAX_WAITING == 32


# --- ends --------------------------------------------------------------------------------------------------------


@pytest.fixture
async def gateway_is_idle_after(service, serve):
    yield
    await until(lambda: idle(service[0], serve))


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_frees_everything(service, serve, models, gateway_is_idle_after, stream):
    gateway, _, client = service
    for server in serve.servers.values():
        server.model.delay_s = 0.03
    if stream:
        reply = await ask(client, max_tokens=512, stream=True)
        await anext(aiter(reply))
        assert gateway.running and any(server.sessions for server in serve.servers.values())
        await reply.close()
    else:
        asking = asyncio.create_task(ask(client, max_tokens=512))
        await until(lambda: any(running.trail.units for running in gateway.running))
        asking.cancel()
    await until(lambda: idle(gateway, serve), seconds=3)
    assert gateway.usage.total_requests() == 1, "what was written is counted"


async def test_a_client_that_gives_up_while_it_waits_for_a_place(service, serve, monkeypatch):
    gateway, _, client = service
    for _ in range(MAX_IN_FLIGHT):
        await gateway.places.acquire()
    asking = asyncio.create_task(ask(client))
    await until(lambda: gateway.running)
    asking.cancel()
    await until(lambda: not gateway.running)
    for _ in range(MAX_IN_FLIGHT):
        gateway.places.release()
    assert idle(gateway, serve)


async def test_a_request_that_takes_too_long_gives_what_there_is(service, serve, monkeypatch, gateway_is_idle_after):
    _, _, client = service
    monkeypatch.setattr(gateway_module, "REQUEST_TIMEOUT_S", 0.6)
    for server in serve.servers.values():
        server.model.delay_s = 0.02
    whole = await ask(client, max_tokens=512)
    assert 0 < whole.usage.completion_tokens < 200 and whole.choices[0].finish_reason == "length"
    assert whole.quorix["truncated"] == "out of time"
    chunks = [c async for c in await ask(client, max_tokens=512, stream=True)]
    assert chunks[-1].quorix["truncated"] == "out of time"
    monkeypatch.setattr(gateway_module, "REQUEST_TIMEOUT_S", 0.001)
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(client, stream=True)
    assert caught.value.status_code == 503


async def test_an_expert_that_dies_is_routed_around(service, serve, chain, gateway_is_idle_after, monkeypatch):
    gateway, _, client = service
    await learn(gateway, monkeypatch)
    stream = aiter(await ask(client, max_tokens=40, stream=True))
    text = (await anext(stream)).choices[0].text
    dying = serve.servers[chain.devnet.hot("neuron json").public]
    dying._server.close()
    for connection in list(dying.doorkeeper.connections):
        connection.close()
    chunks = [c async for c in stream]
    text += "".join(c.choices[0].text for c in chunks)
    assert text == 'ty": "oslo", "ok": true}\n{"id": 11, "use' and "truncated" not in chunks[-1].quorix
    expert = next(e for e in gateway.market.serving() if e.name == "json")
    assert expert.failures >= 1 and expert not in gateway.market.available()
    again = await ask(client)
    assert "json" not in again.quorix["experts"]


async def test_an_expert_that_asks_for_a_pause_gets_it(service, serve, chain, monkeypatch, gateway_is_idle_after):
    gateway, _, client = service
    await learn(gateway, monkeypatch)
    busy = serve.servers[chain.devnet.hot("neuron json").public]
    monkeypatch.setattr(busy.hooks.rate, "retry_after_ms", lambda caller, standing, now_ms: 4_000)
    reply = await ask(client)
    assert "json" not in reply.quorix["experts"] and reply.choices[0].text == 'ty": "oslo", "ok": true}'
    expert = gateway.market.experts[busy.keypair.public]
    assert expert.failures == 0 and 2 < expert.rests_until - time.monotonic() <= 4
    for server in serve.servers.values():
        monkeypatch.setattr(server.hooks.rate, "retry_after_ms", lambda caller, standing, now_ms: 4_000)
    with pytest.raises(openai.InternalServerError) as caught:
        await ask(client)
    assert caught.value.status_code == 503 and "rate_limited" in caught.value.message


async def test_when_all_die_what_there_is_is_given_and_then_503(service, serve, gateway_is_idle_after):
    gateway, _, client = service
    stream = aiter(await ask(client, max_tokens=200, stream=True))
    await anext(stream)
    for server in serve.servers.values():
        server._server.close()
        for connection in list(server.doorkeeper.connections):
            connection.close()
    chunks = [c async for c in stream]
    assert chunks[-1].choices[0].finish_reason == "length" and chunks[-1].quorix["truncated"]
    for streamed in (True, False):
        with pytest.raises(openai.InternalServerError) as caught:
            await ask(client, stream=streamed)
        assert caught.value.status_code == 503
    assert not gateway.market.available()


async def test_a_slow_expert_is_left_behind(market, start, serve, monkeypatch):
    await market("json", RECORDS, domains=("json",))
    await market("arith", SUMS, domains=("arith",))
    slow = await market("generalist", RECORDS + SUMS + WORDS, (1, 2), domains=("english", "json", "arith"))
    gateway, url = await start()
    await learn(gateway, monkeypatch)
    slow.delay_s = 1.0
    async with client_of(url) as client:
        began = asyncio.get_running_loop().time()
        reply = await ask(client)
        assert reply.choices[0].text == 'ty": "oslo", "ok": true}' and "generalist" not in reply.quorix["experts"]
        assert asyncio.get_running_loop().time() - began < 1.5
    slow.delay_s = 0
    await until(lambda: idle(gateway, serve))


async def test_a_stand_in_is_asked_for_who_is_late_and_the_record_tells(market, start, serve, monkeypatch, tmp_path):
    await market("json", RECORDS, domains=("json",))
    await market("arith", SUMS, domains=("arith",))
    await market("csv", WORDS, domains=("english",))
    slow = await market("generalist", RECORDS + SUMS + WORDS, (1, 2), domains=("english", "json", "arith"))
    gateway, url = await start()
    await learn(gateway, monkeypatch)
    late = next(e for e in gateway.market.serving() if e.name == "generalist")
    for _ in range(20):
        late.first_times.note(0.01)
        late.step_times.note(0.01)
    slow.delay_s = 0.3
    async with client_of(url) as client:
        reply = await ask(client, max_tokens=12)
        assert reply.choices[0].text == 'ty": "oslo",' and "generalist" not in reply.quorix["experts"]
        record = await asyncio.to_thread(explained, url, tmp_path, "--request", reply.id)
        (hedge,) = record["hedges"]
        assert hedge["late"] == "generalist" and hedge["won"] and hedge["after_ms"] >= 20 and not record["lost"]
        assert hedge["stand_in"] in reply.quorix["experts"] and record["receipts"] == reply.quorix["receipts"]
        assert late.failures == 0
        again = await asyncio.to_thread(explained, url, tmp_path, "--request", (await ask(client, max_tokens=12)).id)
        assert again["hedges"] == []  # one for ten requests
    slow.delay_s = 0
    await until(lambda: idle(gateway, serve))


def explained(url, tmp_path, *words):
    words = ["--home", str(tmp_path), "ai", "route", "explain", "--gateway", url, "--json", *words]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


async def test_a_routing_is_explained_before_and_after(service, tmp_path, monkeypatch, gateway_is_idle_after):
    gateway, url, client = service
    await learn(gateway, monkeypatch)
    before = await asyncio.to_thread(explained, url, tmp_path, PROMPT)
    assert before["kind"] == "json" and before["of"] == 3
    best = next(row for row in before["candidates"] if row["expert"] == "json")
    assert best["chosen"] == "top" and best["gate"] == max(row["gate"] for row in before["candidates"])
    mean = (4 * best["prior"] + best["count"] * best["reward"]) / (4 + best["count"])
    assert abs(best["score"] - (mean + best["draw"] - best["cost"])) < 2e-3
    without = await asyncio.to_thread(explained, url, tmp_path, PROMPT, "--without", "json", "--subnet", "2")
    assert "json" not in {row["expert"] for row in without["candidates"]}
    reply = await client.completions.with_raw_response.create(
        model="net/moe", prompt=PROMPT, temperature=0, max_tokens=20, extra_headers={"x-quorix-without": "json"}
    )
    name = reply.headers["x-quorix-request"]
    assert "json" not in reply.headers["x-quorix-experts"].split(",") and reply.parse().id == name
    after = await asyncio.to_thread(explained, url, tmp_path, "--request", name)
    assert len(after["routings"]) == 2 and after["units"] == 20 and after["prompt_bytes"] == len(PROMPT)
    assert PROMPT not in json.dumps(after)
    assert gateway.served and (gateway.config.home / "routes.db").exists()


async def test_routing_headers(service):
    _, url, client = service
    reply = await ask(client, extra_headers={"x-quorix-subnet": "1"}, max_tokens=4)
    assert reply.quorix["experts"] == ["generalist"]
    reply = await ask(client, extra_headers={"x-quorix-top": "1"}, max_tokens=4)
    assert len(reply.quorix["experts"]) == 2
    for status, model, headers in (
        (404, "net/moe", {"x-quorix-subnet": "9"}), (404, "net/json", {"x-quorix-subnet": "1"}),
        (400, "net/2/moe", {"x-quorix-subnet": "1"}), (400, "net/moe", {"x-quorix-top": "3"}),
        (400, "net/moe", {"x-quorix-without": ",".join("abcdefghijklmnopq")}),
    ):
        with pytest.raises(openai.APIStatusError) as caught:
            await ask(client, model=model, extra_headers=headers)
        assert caught.value.status_code == status and caught.value.param in headers
    with pytest.raises(openai.InternalServerError):
        await ask(client, extra_headers={"x-quorix-without": "json,arith,generalist"})
    assert (await post(url, b"{}", "/v1/routes")).status_code == 400
    async with httpx.AsyncClient() as http:
        assert (await http.get(f"{url}/v1/routes/cmpl-0")).status_code == 404


async def test_usage_is_accounted_and_keys_have_their_own_quota(market, start, tmp_path):
    await market("json", RECORDS, domains=("json",))
    file = tmp_path / "keys"
    file.write_text("secret\n\nsmall 20\n")
    keys, quotas = read_api_keys(file)
    _, url = await start(api_keys=keys, quotas=quotas)
    async with client_of(url, "secret") as client:
        await ask(client, model="net/json", prompt="12345678", max_tokens=4)
    async with client_of(url, "small") as client:
        await ask(client, model="net/json", prompt="x" * 30, max_tokens=4)
        with pytest.raises(openai.RateLimitError):
            await ask(client, model="net/json", max_tokens=4)
    async with httpx.AsyncClient(headers={"authorization": "Bearer secret"}) as http:
        used = (await http.get(f"{url}/v1/usage")).json()
    assert used["units_today"] == 12 and used["left"] == used["quota_a_day"] - 12
    assert [(day["requests"], day["units"]) for day in used["days"]] == [(1, 12)]
    for text in ("", "key 1 2", "key -1", "key \u0661", "key " + "9" * 16):
        file.write_text(text)
        with pytest.raises(UsageError):
            read_api_keys(file)


async def test_what_is_at_work_counts_and_no_key_takes_all_places(market, start):
    await market("json", RECORDS, domains=("json",))
    gateway, url = await start(api_keys=frozenset({"small", "large", "other"}), quotas={"small": 100})
    request = parse_request({"model": "net/json", "prompt": "x" * 30, "max_tokens": 4}, chat=False, default_seed=1)
    wish = gateway.wish("net/json", {})
    small, large, other = (gateway.admit(f"Bearer {key}") for key in ("small", "large", "other"))
    running = [gateway.run(small, request, wish) for _ in range(3)]
    for again in (lambda: gateway.run(small, request, wish), lambda: gateway.admit("Bearer small")):
        with pytest.raises(ApiError) as caught:
            again()
        assert (caught.value.status, caught.value.code) == (429, "quota")
    running += [gateway.run(large, request, wish) for _ in range(gateway_module.MAX_OF_ONE_KEY)]
    with pytest.raises(ApiError) as caught:
        gateway.run(large, request, wish)
    assert (caught.value.status, caught.value.code) == (429, "busy")
    running.append(gateway.run(other, request, wish))
    await asyncio.gather(*(each.cancel() for each in running), return_exceptions=True)
    assert not gateway.running and gateway.admit("Bearer small") == small


async def test_closing_the_gateway_ends_what_runs(service, serve):
    gateway, _, client = service
    for server in serve.servers.values():
        server.model.delay_s = 0.03
    asking = asyncio.create_task(ask(client, max_tokens=512))
    await until(lambda: any(server.sessions for server in serve.servers.values()))
    await gateway.close()
    with pytest.raises((openai.APIError, asyncio.CancelledError)):
        await asking
    await until(lambda: not any(server.sessions for server in serve.servers.values()), seconds=3)


async def test_a_bug_is_told_and_shows_nothing(service, monkeypatch, report):
    gateway, url, client = service
    monkeypatch.setattr(gateway, "models", lambda: 1 / 0)
    async with httpx.AsyncClient(base_url=url) as http:
        reply = await http.get("/v1/models")
    assert reply.status_code == 500 and "division" not in reply.text and error_of(reply)["code"] == "internal"

    async def broken(self):
        raise KeyError("oops")
        yield 0

    monkeypatch.setattr(gateway_module.Generation, "run", broken)
    with pytest.raises(openai.InternalServerError):
        await ask(client)
    assert sum(line.get("error") == "Bug" for line in report) >= 2


# --- the chain ---------------------------------------------------------------------------------------------------


async def test_the_root_of_an_epoch_goes_on_chain(service, chain, monkeypatch):
    gateway, url, client = service
    chain.next_epoch(2)
    await gateway.market.refresh()
    epoch = gateway.market.epochs[2]
    receipts = (await ask(client, model="net/2/moe", max_tokens=4)).quorix["receipts"]
    chain.next_epoch(2)
    await gateway.market.refresh()
    await gateway._commit_roots()
    (root,) = [r for r in reads.receipt_roots(chain.devnet.view, 2, epoch) if r.hotkey == gateway.config.key.public]
    async with httpx.AsyncClient(base_url=url) as http:
        for open_id in receipts:
            proof = (await http.get(f"/v1/receipts/{open_id}")).json()
            assert proof["root"] == root.root.hex() and proof["on_chain"] and proof["epoch"] == epoch
    calls = chain.calls("serving.commit_receipts")
    gateway.rooted.clear()  # as after a restart
    await gateway._commit_roots()
    assert chain.calls("serving.commit_receipts") == calls and set(calls) == {""}


async def test_a_lost_node_is_told_once_and_the_market_goes_on(market, start, chain, report, monkeypatch):
    monkeypatch.setattr(gateway_module, "REFRESH_EVERY_S", 0.02)
    await market("json", RECORDS, domains=("json",))
    _, url = await start()

    async def gone(at="head"):
        raise Unreachable("the node is gone")

    monkeypatch.setattr(chain, "subnet_list", gone)
    await asyncio.sleep(0.2)
    assert [line["doing"] for line in report if line["event"] == "trouble"] == ["refresh"]
    async with client_of(url) as client:
        assert (await ask(client, max_tokens=2)).choices[0].text == "ty"


# --- the market and the process ----------------------------------------------------------------------------------


async def test_a_neuron_that_does_not_answer_delays_nobody_and_is_asked_again_later(market, start, chain, serve):
    await market("json", RECORDS, domains=("json",))
    await market("arith", SUMS, domains=("arith",))
    dead = serve.servers[chain.devnet.hot("neuron arith").public]
    await dead.stop()
    gateway, url = await start(cards=1)
    assert [e.name for e in gateway.market.serving()] == ["json"]
    expert = gateway.market.experts[dead.keypair.public]
    await until(lambda: expert.failures == 1)
    await gateway.market.refresh()
    await asyncio.sleep(0.05)
    assert expert.failures == 1, "it rests"
    expert.rests_until = 0
    await gateway.market.refresh()
    await until(lambda: expert.failures == 2)
    async with client_of(url) as client:
        assert (await ask(client, max_tokens=2)).choices[0].text == "ty"


async def test_a_new_record_is_a_new_expert_and_no_record_none(service, market, chain):
    gateway, _, _ = service
    before = next(e for e in gateway.market.serving() if e.name == "json")
    assert before.trust == {2: 0.0} and not before.generalist
    await market("json", RECORDS + SUMS, domains=("json", "arith", "dna"))
    await gateway.market.refresh()
    await until(lambda: len(gateway.market.serving()) == 3)
    after = next(e for e in gateway.market.serving() if e.name == "json")
    assert after is not before and after.generalist and after.address != before.address
    await Wallet(chain, chain.devnet.hot("neuron json")).submit("serving.unserve", netuid=2)
    await gateway.market.refresh()
    assert sorted(e.name for e in gateway.market.serving()) == ["arith", "generalist"]


async def test_measuring_teaches_gate_and_router(service, report):
    gateway, _, _ = service
    for _ in range(3):
        await gateway.market.calibrate(2)
    hotkeys = {e.name: e.hotkey for e in gateway.market.serving()}
    odds = gateway.market.router.gate.predict(PROMPT.encode(), list(hotkeys.values()))
    assert odds[hotkeys["arith"]] < 0.1 < odds[hotkeys["json"]]
    arms = {name: gateway.market.router.arms[hotkeys["json"], key].mean for name, key in hotkeys.items()}
    assert arms["json"] > 0.35 > 0.1 > arms["arith"]
    assert report[-1]["event"] == "calibrated" and gateway.market.measurements == 3
    for expert in gateway.market.serving()[:2]:
        expert.failed()
    await gateway.market.calibrate(2)
    assert gateway.market.measurements == 3, "one alone compares nothing"


async def test_the_process_drains_what_runs(chain, market, tmp_path, monkeypatch, report):
    await market("json", RECORDS, domains=("json",))
    config = GatewayConfig(chain.devnet.hot("gateway 0"), tmp_path / "gateway", seed=1, measure=False)
    gateway, stop = Gateway(config, chain, {"json": RECORDS.encode()}, report.append), asyncio.Event()
    assert await serve_module._started(gateway, stop)
    listener = serve_module.bind("127.0.0.1", 0)
    with pytest.raises(UsageError, match="bound"):
        serve_module.bind("127.0.0.1", listener.getsockname()[1])
    serving = asyncio.create_task(serve_module._serve(gateway, listener, stop, report.append))
    await until(lambda: any(line["event"] == "ready" for line in report) and gateway.market.serving())
    url = next(line["url"] for line in report if line["event"] == "ready").removesuffix("/v1")
    async with client_of(url) as client:
        asking = asyncio.create_task(ask(client, max_tokens=200))
        await until(lambda: gateway.running)
        stop.set()
        assert (await asking).usage.completion_tokens == 200
    await serving
    await gateway.close()
    monkeypatch.setattr(database, "LOCK_PATIENCE_S", 0.1)
    with pytest.raises(Locked):
        holder = Gateway(config, chain, {}, report.append)
        Gateway(config, chain, {}, report.append)
    await holder.close()


async def test_the_process_ends_while_it_waits_for_its_node(chain, tmp_path, report):
    config = GatewayConfig(chain.devnet.hot("gateway 0"), tmp_path / "gateway")
    gateway, stop = Gateway(config, chain, {}, report.append), asyncio.Event()
    chain.lost = True
    asyncio.get_running_loop().call_later(0.1, stop.set)
    assert not await serve_module._started(gateway, stop)
    with pytest.raises(Unreachable):
        gateway.models()
    await gateway.close()


async def test_a_damaged_usage_file_is_begun_anew(chain, tmp_path, report):
    home = tmp_path / "gateway"
    home.mkdir()
    (home / "usage.db").write_bytes(b"nonsense" * 100)
    gateway = Gateway(GatewayConfig(chain.devnet.hot("gateway 0"), home), chain, {}, report.append)
    assert gateway.served == 0 and (home / "usage.db.damaged-1").exists()
    await gateway.close()
