"""`quorix ai`: ask the network through the gateway."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from ledger.errors import Error, NotFound, Timeout, Unreachable
from tools.cli.main import Noun, Settings
from tools.cli.output import Output
from tools.cli.session import configured, running_ports
from tools.devnet.layout import DEFAULT_BASE

group = Noun("ai", help="Ask the network.")


def gateway_url(settings: Settings, given: str | None) -> str:
    """`--gateway`, else QUORIX_GATEWAY, else `gateway` of config.toml, else a running devnet's, else the default port."""
    ports = running_ports(settings)
    default = f"http://127.0.0.1:{DEFAULT_BASE + 41}" if ports is None else ports.url(ports.gateway)
    return (configured(settings, "gateway", given) or default).rstrip("/").removesuffix("/v1")


@group.command("query")
@click.argument("text")
@click.option("--subnet", "netuid", type=int, help="Only experts of this subnet.")
@click.option("--model", help="A model id, for example net/code; see --models.")
@click.option("--max", "max_bytes", type=click.IntRange(1, 512), default=64, help="Bytes to write.")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, help="0 takes the likeliest byte.")
@click.option("--seed", type=int, default=None, help="Of the drawing, where temperature is not 0.")
@click.option("--explain", is_flag=True, help="Which experts were chosen, and why.")
@click.option("--gateway", metavar="URL", default=None, help="Address of the gateway.")
@click.pass_context
def query_command(
    ctx: click.Context, text: str, netuid: int | None, model: str | None, max_bytes: int, temperature: float,
    seed: int | None, explain: bool, gateway: str | None,
) -> None:
    """Let the network continue TEXT. The models are small and trained in seconds: expect style, not sense."""
    out = Output(ctx.obj)
    name = model or (f"net/{netuid}/moe" if netuid is not None else "net/moe")
    body: dict[str, Any] = {"model": name, "prompt": text, "max_tokens": max_bytes, "temperature": temperature}
    if seed is not None:
        body["seed"] = seed
    url = gateway_url(ctx.obj, gateway) + "/v1/completions"
    if out.json:
        out.data(_post(url, body, ctx.obj.timeout_s))
        return
    last = _stream(url, body, ctx.obj.timeout_s)
    sys.stdout.write("\n")
    made = last.get("quorix", {})
    out.remark(f"answered by {', '.join(made.get('experts', []))}; receipts: {', '.join(made.get('receipts', []))}")
    if explain:
        rows = [(r["expert"], r["gate"], r["trust"], r["score"], r["chosen"]) for r in made.get("route", [])]
        out.table("route", ("expert", "gate", "trust", "score", "chosen"), rows, right=("gate", "trust", "score"))


def _post(url: str, body: dict[str, Any], timeout_s: float) -> Any:
    import httpx

    try:
        reply = httpx.post(url, json=body, timeout=timeout_s, trust_env=False)
    except httpx.TimeoutException:
        raise Timeout(f"{url} did not answer within {timeout_s:g} s") from None
    except httpx.HTTPError as error:
        raise Unreachable(f"{url} does not answer ({type(error).__name__})") from None
    return _checked(reply.status_code, reply.content)


def _checked(status: int, content: bytes) -> Any:
    try:
        value = json.loads(content)
    except ValueError:
        raise Unreachable(f"HTTP {status}, not JSON", hint="is this a gateway?") from None
    if status == 404:
        raise NotFound(value["error"]["message"])
    if status != 200:
        raise Error(value.get("error", {}).get("message", f"HTTP {status}"))
    return value


def _stream(url: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Print text as it comes; returns the chunk that says how the reply was made."""
    import httpx

    last: dict[str, Any] = {}
    try:
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=timeout_s, trust_env=False) as reply:
            if reply.status_code != 200:
                _checked(reply.status_code, reply.read())
            sys.stdout.write(body["prompt"])
            for line in reply.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = json.loads(line[6:])
                last = event if "quorix" in event else last
                for choice in event.get("choices", []):
                    sys.stdout.write(choice.get("text", ""))
                    sys.stdout.flush()
    except httpx.TimeoutException:
        raise Timeout(f"{url} did not answer within {timeout_s:g} s") from None
    except httpx.HTTPError as error:
        raise Unreachable(f"{url} does not answer ({type(error).__name__})") from None
    return last
