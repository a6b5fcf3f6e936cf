"""`quorix ai`: ask the network through the gateway, see how it routes, prove what it answered, start programs of your own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import click

from ledger.errors import Error, NotFound, NotReady, RateLimited, Timeout, Unreachable, UsageError
from tools.cli.authors import new_group
from tools.cli.authors import serve_command as serve_neuron
from tools.cli.judges import card_command
from tools.cli.judges import group as validator_group
from tools.cli.main import Noun, Settings
from tools.cli.output import Output
from tools.cli.receipts import group as receipts_group
from tools.cli.target import configured, running_ports
from tools.devnet.layout import DEFAULT_BASE

group = Noun("ai", help="Ask the network.")
group.add_command(receipts_group)
group.add_command(new_group)
group.add_command(validator_group)
group.command("serve")(serve_neuron)
group.command("card")(card_command)

OK: Final = 200
NOT_FOUND: Final = 404
TOO_MANY: Final = 429
UNAVAILABLE: Final = 503
SERVER_ERRORS: Final = 500


def gateway_url(settings: Settings, given: str | None) -> str:
    """`--gateway`, else that of `--devnet`, else QUORIX_GATEWAY, else `gateway` of config.toml, else the running devnet's."""
    url = configured(settings, "gateway", given)
    if not url or (settings.devnet and not given):
        ports = running_ports(settings)
        url = f"http://127.0.0.1:{DEFAULT_BASE + 41}" if ports is None else ports.url(ports.gateway)
    return url.rstrip("/").removesuffix("/v1")


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
    last = _stream(out, url, body, ctx.obj.timeout_s)
    out.piece("\n")
    made = last.get("quorix", {})
    out.remark(f"answered by {', '.join(made.get('experts', []))}; receipts: {', '.join(made.get('receipts', []))}")
    if made.get("truncated"):
        out.remark(f"cut short: {made['truncated']}")
    if explain:
        columns = ("expert", "gate", "trust", "score", "chosen")
        rows = [tuple(_aligned(routed[column]) for column in columns) for routed in made.get("route", [])]
        out.table("route", columns, rows, right=columns[1:4])


route_group = Noun("route", help="Which experts are asked, and why.")
group.add_command(route_group)

COLUMNS: Final = ("expert", "gate", "trust", "prior", "reward", "count", "draw", "cost", "score", "chosen", "weight")


@route_group.command("explain")
@click.argument("text", required=False)
@click.option("--request", "request_id", metavar="ID", help="A request that was served, instead of a text.")
@click.option("--model", default="net/moe", show_default=True, help="A model id.")
@click.option("--subnet", type=int, help="Only experts of this subnet.")
@click.option("--without", multiple=True, metavar="EXPERT", help="Leave this expert out, by name or hotkey.")
@click.option("--gateway", metavar="URL", default=None, help="Address of the gateway.")
@click.pass_context
def explain_command(
    ctx: click.Context, text: str | None, request_id: str | None, model: str, subnet: int | None, without: tuple[str, ...],
    gateway: str | None,
) -> None:
    """Whom the router would choose for TEXT now, or did choose in a request, with all parts of each score.

    score = (4 x prior + count x reward) / (4 + count) + draw - cost; prior = gate x trust, made to sum to 1.
    """
    out, timeout_s = Output(ctx.obj), ctx.obj.timeout_s
    if (text is None) == (request_id is None):
        raise UsageError("give either a text or --request")
    url = gateway_url(ctx.obj, gateway) + "/v1/routes"
    if text is None:
        record = _get(f"{url}/{request_id}", timeout_s)
    else:
        headers = {"x-quorix-without": ",".join(without)} | ({} if subnet is None else {"x-quorix-subnet": str(subnet)})
        record = {"routings": [_post(url, {"model": model, "prompt": text}, timeout_s, headers)]}
    out.data(record if text is None else record["routings"][0], lambda: _show_routes(out, record))


def _show_routes(out: Output, record: dict[str, Any]) -> None:
    for number, routing in enumerate(record["routings"], 1):
        rows = [tuple(_aligned(row[column]) for column in COLUMNS) for row in routing["candidates"]]
        out.table(f"routing {number}: a text of the kind of {routing['kind']}", COLUMNS, rows, right=COLUMNS[1:9] + ("weight",))
    for hedge in record.get("hedges", []):
        ending = "answered first" if hedge["won"] else "was not needed"
        out.text(f"{hedge['late']} was late after {hedge['after_ms']} ms; {hedge['stand_in']}, asked in its stead, {ending}")
    for expert, why in record.get("lost", {}).items():
        out.text(f"{expert} was lost: {why}")
    if "receipts" in record:
        out.text(f"answered by {', '.join(record['experts'])}; receipts: {', '.join(record['receipts'])}")


def _aligned(value: Any) -> Any:
    """Numbers with as many decimals in each row, so that their points stand below each other."""
    return f"{value:.4f}" if isinstance(value, float) else value


def _post(url: str, body: dict[str, Any], timeout_s: float, headers: dict[str, str] | None = None) -> Any:
    import httpx

    with _reaching(url, timeout_s):
        reply = httpx.post(url, json=body, timeout=timeout_s, headers=headers, trust_env=False)
    return _checked(reply.status_code, reply.content)


def _get(url: str, timeout_s: float) -> Any:
    import httpx

    with _reaching(url, timeout_s):
        reply = httpx.get(url, timeout=timeout_s, trust_env=False)
    return _checked(reply.status_code, reply.content)


def _stream(out: Output, url: str, body: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    """Print text as it comes; returns the chunk that says how the reply was made."""
    import httpx

    last: dict[str, Any] = {}
    with _reaching(url, timeout_s):
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=timeout_s, trust_env=False) as reply:
            if reply.status_code != OK:
                _checked(reply.status_code, reply.read())
            out.piece(body["prompt"])
            for line in reply.iter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                event = _parsed(line[6:])
                last = event if "quorix" in event else last
                for choice in event.get("choices", []):
                    out.piece(choice.get("text", ""))
    return last


@contextmanager
def _reaching(url: str, timeout_s: float) -> Iterator[None]:
    """What goes wrong on the way becomes an error of ours."""
    import httpx

    try:
        yield
    except httpx.TimeoutException:
        raise Timeout(f"{url} did not answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise Unreachable(f"{url} does not answer ({type(error).__name__})") from None


def _checked(status: int, content: bytes) -> Any:
    """The JSON of a good reply. Raises what the status says, with the gateway's own words."""
    value = _parsed(content)
    if status == OK:
        return value
    error = value.get("error")
    words = error.get("message") if isinstance(error, dict) else None
    cause = str(words or f"the gateway answered HTTP {status}")
    if status == NOT_FOUND:
        raise NotFound(cause, hint="the models are listed at /v1/models")
    if status == TOO_MANY:
        raise RateLimited(cause, hint="ask again in a moment")
    if status == UNAVAILABLE:
        raise NotReady(cause, hint="quorix subnet metagraph 1 shows who serves")
    raise UsageError(cause) if status < SERVER_ERRORS else Error(cause)


def _parsed(text: str | bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise Unreachable("what answers there does not speak JSON", hint="is this a gateway?")
    return value
