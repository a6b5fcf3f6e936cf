"""`quorix ai validator`: what a validator on this machine sees, as a table: responses, values, scores and weights.

`quorix ai card`: what a neuron says of its model, checked against the chain.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import click

from ledger.client.keys import short_address
from ledger.errors import NotFound
from tools.cli.main import Noun, Settings
from tools.cli.output import Output, format_time
from tools.cli.target import rpc_url, running_devnet

group = Noun("validator", help="What a validator sees: responses, values, scores, weights.")

REFRESH_SECONDS: Final = 2.0
SHOWN_DETAILS: Final = ("shapley", "factor", "residual", "motion", "right", "won")  # where the kind of task has them


def table_paths(settings: Settings, name: str | None, folder: Path | None) -> list[Path]:
    """The tables of the validator of that name, of all on the devnet, or of the one in a directory. Raises NotFound."""
    if folder is not None:
        return [folder / "live.json"]
    layout = running_devnet(settings)
    if layout is None:
        raise NotFound("no devnet runs here", hint="name the validator's home: --dir DIR")
    homes = sorted(path for path in (layout.root / "validators").glob("*") if path.is_dir())
    plain = (name or "").removeprefix("validator-")  # as the metagraph calls it
    chosen = [home for home in homes if name is None or home.name == plain]
    if not chosen:
        known = ", ".join(home.name for home in homes)
        raise NotFound(f"no validator {name or ''} here".replace("  ", " "), hint=f"known: {known}" if known else "--ai off?")
    return [home / "live.json" for home in chosen]


@group.command("table")
@click.argument("name", required=False)
@click.option("--dir", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None,
              help="The validator's home, instead of a devnet's.")
@click.option("--subnet", "netuid", type=int, help="Only this subnet.")
@click.option("--follow", is_flag=True, help="Show each new batch until interrupted.")
@click.pass_context
def table_command(ctx: click.Context, name: str | None, folder: Path | None, netuid: int | None, follow: bool) -> None:
    """The newest batch of NAME (default: of all validators of the devnet), with the weights that follow from it."""
    out, paths = Output(ctx.obj), table_paths(ctx.obj, name, folder)
    shown: dict[str, int] = {}
    while True:
        tables = [table for table in read_all(paths, netuid) if shown.get(_key(table)) != table["at_ms"]]
        if not tables and not follow:
            raise NotFound("nothing has been scored yet", hint="a validator probes once an epoch; --follow waits for it")
        if out.json and not follow:
            out.data(tables)
        for table in tables if follow or not out.json else ():
            out.line(table) if out.json else show(out, table)
        shown |= {_key(table): table["at_ms"] for table in tables}
        if not follow:
            return
        time.sleep(REFRESH_SECONDS)


def read_all(paths: list[Path], netuid: int | None) -> list[dict[str, Any]]:
    """The tables in these files, by validator and subnet."""
    from ai.judge.live import read_tables

    found = []
    for path in paths:
        value = read_tables(path)
        for table in value.get("subnets", {}).values():
            if netuid is None or table["netuid"] == netuid:
                found.append({"validator": _as_in_the_metagraph(value["validator"]), **table})
    return found


def _as_in_the_metagraph(name: str) -> str:
    """A devnet numbers its validators; on chain they are validator-0, validator-1..."""
    return f"validator-{name}" if name.isdecimal() else name


def _key(table: dict[str, Any]) -> str:
    return f"{table['validator']}/{table['netuid']}"


def show(out: Output, table: dict[str, Any]) -> None:
    """One subnet as one validator sees it."""
    rows = sorted(table["rows"], key=lambda row: -row["weight"])
    details = [name for name in SHOWN_DETAILS if any(name in row["details"] for row in rows)]
    columns = ("uid", "name", "answered", *details, "score", "smoothed", "±", "batches", "weight")
    cells = [
        (
            row["uid"], row["name"] or short_address(bytes.fromhex(row["hotkey"])), f"{row['answered']}/{row['asked']}",
            *(_short(row["details"].get(name)) for name in details), _short(row["score"]), _short(row["smoothed"]),
            _short(row["uncertainty"]), row["batches"], row["weight"],
        )
        for row in rows
    ]  # fmt: skip
    subnet = f"subnet {table['netuid']} ({table['task']})"
    title = f"{table['validator']}, {subnet}, epoch {table['epoch']}, {format_time(table['at_ms'])}"
    out.table(title, columns, cells, right=columns[2:])


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


@click.argument("netuid", type=int)
@click.argument("who")
@click.pass_context
def card_command(ctx: click.Context, netuid: int, who: str) -> None:
    """What the neuron WHO (name, uid or hotkey) of subnet NETUID says of its model. Its hash is the one on chain."""
    import asyncio

    from ai.client import Client

    async def ask() -> Any:
        async with await Client.connect(rpc_url(ctx.obj)) as client:
            card, _ = await client.card(netuid, int(who) if who.isdigit() else who)
            return card

    card = asyncio.run(ask())
    value = {
        "name": card.name, "summary": card.summary, "domains": list(card.domains), "methods": list(card.methods),
        "parameters": card.parameters, "context_bytes": card.context_bytes, "model_hash": "0x" + card.model_hash.hex(),
        "capabilities_hash": "0x" + card.capabilities_hash.hex(),
    }  # fmt: skip
    rows = [(name, ", ".join(part) if isinstance(part, list) else part) for name, part in value.items()]
    out = Output(ctx.obj)
    out.data(value, lambda: out.table(f"card of {who}", ("field", "value"), rows))
