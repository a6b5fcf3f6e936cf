"""What the gateway explains and accounts: routes, headers, usage, places."""

import asyncio
import json

import httpx
import openai
import pytest

from ai.gateway import gateway as gateway_module
from ai.gateway.openai import ApiError, parse_request
from ledger.client.keys import encode_address
from ledger.errors import UsageError
from tests.gateways import PROMPT, RECORDS, ask, client_of, explained, learn, post
from tools.cli.gateway import read_api_keys


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


async def test_a_neuron_without_a_name_is_called_by_the_beginning_of_its_address(service, chain, monkeypatch):
    gateway, _, client = service
    hotkey = chain.devnet.hot("neuron json").public
    whole, short = encode_address(hotkey), encode_address(hotkey)[:9]
    gateway.market.experts[hotkey].name = short
    assert f"net/{short}" in gateway.models() and f"net/{whole}" not in gateway.models()
    for written in (short, short + "\u2026", whole, whole[:20], hotkey.hex(), "0x" + hotkey.hex(), hotkey.hex()[:8].upper()):
        assert gateway.resolve(f"net/{written}")[1].hotkey == hotkey
        assert gateway.wish("net/moe", {"x-quorix-without": f" {written} ,arith"}).without == {
            hotkey, chain.devnet.hot("neuron arith").public
        }
    reply = await ask(client, model=f"net/{short}", max_tokens=2)
    assert reply.quorix["experts"] == [short]
    for expert in gateway.market.experts.values():
        expert.name = "same"
    assert f"net/{whole}" in gateway.models() and "net/same" not in gateway.models()
    with pytest.raises(ApiError) as caught:
        gateway.resolve("net/same")
    assert caught.value.status == 404 and whole in str(caught.value)
    with pytest.raises(ApiError) as caught:
        gateway.wish("net/moe", {"x-quorix-without": "same"})
    assert caught.value.status == 400 and whole in str(caught.value)
    for written in ("qx", short[:5], hotkey.hex()[:7], "", "..", "net", "qx" + "1" * 200):
        with pytest.raises(ApiError):
            gateway.resolve(f"net/{written}")


async def test_who_is_left_out_must_be_somebody(service, monkeypatch):
    gateway, _, _ = service
    with pytest.raises(ApiError) as caught:
        gateway.wish("net/moe", {"x-quorix-without": "json,jsn"})
    assert caught.value.status == 400 and "'jsn' is no expert; there are arith, generalist, json" in str(caught.value)
    away = encode_address(b"a" * 32)
    assert gateway.wish("net/moe", {"x-quorix-without": away}).without == {b"a" * 32}
    monkeypatch.setattr(gateway_module, "MAX_LISTED", 1)
    with pytest.raises(ApiError) as caught:
        gateway.wish("net/moe", {"x-quorix-without": "x" * 9000})
    assert str(caught.value).endswith("there are arith and 2 more") and len(str(caught.value)) < 200


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
