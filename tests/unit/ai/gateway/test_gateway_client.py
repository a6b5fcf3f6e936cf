"""The official client against the gateway: models, completions, chat, streaming, usage, errors."""

import asyncio
import json

import httpx
import openai
import pytest
from click.testing import CliRunner

from ai.receipts import Receipt
from ledger.client.keys import encode_address
from ledger.errors import Error
from ledger.trees import verify_list_proof
from tests.gateways import PROMPT, ask, idle, learn, until
from tools.cli.main import cli


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
