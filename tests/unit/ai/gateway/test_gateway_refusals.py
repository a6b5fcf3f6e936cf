"""What the gateway refuses: bodies, paths, hosts, keys, quotas, a full house."""

import asyncio
import json

import httpx
import openai
import pytest

from ai.gateway import gateway as gateway_module
from ai.gateway.app import MAX_BODY_BYTES
from ai.gateway.gateway import MAX_IN_FLIGHT, MAX_WAITING
from tests.gateways import RECORDS, ask, client_of, error_of, idle, post, until


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
        for path in ("/v1/models", "/metrics"):
            assert (await http.get(url + path)).status_code == 401, path
        reply = await http.get(f"{url}/metrics", headers={"authorization": "Bearer secret"})
        assert reply.status_code == 200 and "quorix_ai_queries_total" in reply.text
        assert (await http.get(f"{url}/healthz")).status_code == 200
    async with client_of(url, "secret") as client:
        await ask(client, model="net/json", max_tokens=4)
        monkeypatch.setattr(gateway_module, "FREE_UNITS_A_DAY", 10)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask(client, max_tokens=4)
        assert caught.value.body["type"] == "insufficient_quota" and caught.value.response.headers["retry-after"] == "3600"
    async with httpx.AsyncClient() as http:  # who may ask no more today still sees why
        reply = await http.get(f"{url}/v1/usage", headers={"authorization": "Bearer secret"})
        assert reply.status_code == 200 and reply.json()["quota_a_day"] == 10 and reply.json()["left"] == 0
        assert (await http.get(f"{url}/v1/usage", headers={"authorization": "Bearer wrong"})).status_code == 401
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
