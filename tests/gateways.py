"""What tests of the gateway share: its contexts, the official client, and waiting until nothing is at work."""

import asyncio
import json

import httpx
import openai
from click.testing import CliRunner

from ai.gateway import router
from ai.gateway.gateway import MAX_IN_FLIGHT
from runtime import reads
from tools.cli.main import cli

RECORDS = "".join(f'{{"id": {n}, "user": "ann{n % 7}", "city": "oslo", "ok": true}}\n' for n in range(10, 90))
SUMS = "".join(f"{a}+{b}={a + b};" for a in range(10, 40) for b in range(3, 12))
WORDS = "".join(f"h\u00e9llo w\u00f6rld \u2713 num\u00e9ro {n} \U0001f600 fin. " for n in range(40))
PROMPT = '{"id": 42, "user": "ann0", "ci'


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


async def post(url, content, path="/v1/completions", **headers):
    headers = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with httpx.AsyncClient() as http:
        return await http.post(url + path, content=content, headers=headers)


def error_of(reply):
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


def explained(url, tmp_path, *words):
    words = ["--home", str(tmp_path), "ai", "route", "explain", "--gateway", url, "--json", *words]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None, done.exception
    return json.loads(done.stdout)
