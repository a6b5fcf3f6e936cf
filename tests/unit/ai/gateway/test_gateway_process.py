"""The gateway as a process of the market: roots on chain, a lost node, new records, measuring, its end."""

import asyncio

import httpx
import openai
import pytest

from ai import database
from ai.gateway import gateway as gateway_module
from ai.gateway import serve as serve_module
from ai.gateway.gateway import Gateway, GatewayConfig
from ledger.client.calls import Wallet
from ledger.errors import Locked, Unreachable, UsageError
from runtime import reads
from tests.gateways import PROMPT, RECORDS, SUMS, ask, client_of, error_of, until


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
