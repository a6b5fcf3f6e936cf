"""Clients that go away and experts that die, pause or are late: nothing stays held, and others stand in."""

import asyncio
import time

import openai
import pytest

from ai.gateway import gateway as gateway_module
from ai.gateway.gateway import MAX_IN_FLIGHT
from tests.gateways import RECORDS, SUMS, WORDS, ask, client_of, explained, idle, learn, until


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
