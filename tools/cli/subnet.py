"""`quorix subnet`: what subnets there are, and who is registered in them."""

from __future__ import annotations

import csv
import sys
from dataclasses import asdict
from typing import Any

import click

from ledger.client.records import NeuronRecord, to_json
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount, share
from tools.cli.session import address, at, run

group = Noun("subnet", help="Subnets and their metagraph.")


@group.command("list")
@click.option("--at", "where", default="head", help="Height, hash or head.")
@click.pass_context
def list_command(ctx: click.Context, where: str) -> None:
    """All subnets."""
    out = Output(ctx.obj)
    reading = run(ctx.obj, lambda api: api.subnet_list(at(where)))

    def show() -> None:
        rows = [
            (
                s.netuid, s.name, f"{s.neurons}/{s.max_uids}", format_amount(s.stake_rao, digits=2), s.epoch,
                s.blocks_left, format_amount(s.registration_cost_rao, digits=3),
                f"{s.emission_share_q32 / 2**32:.3f}", s.label,
            )
            for s in reading.value
        ]
        columns = ("netuid", "name", "neurons", "stake", "epoch", "blocks left", "registration", "share", "label")
        out.table(f"subnets at block {reading.at.height}", columns, rows, right=("netuid", "stake", "registration"))

    out.data(reading, show)


@group.command("show")
@click.argument("netuid", type=int)
@click.pass_context
def show_command(ctx: click.Context, netuid: int) -> None:
    """One subnet with its parameters."""
    out = Output(ctx.obj)

    async def read(api: Any) -> dict[str, Any]:
        subnet, parameters = await api.subnet_get(netuid), await api.subnet_get_hyperparams(netuid)
        return {"at": subnet.at, "subnet": subnet.value, "parameters": parameters.value}

    value = run(ctx.obj, read)

    def show() -> None:
        out.table(f"subnet {netuid}", ("field", "value"), asdict(value["subnet"]).items())
        rows = [(p.name, p.value, p.default, p.unit, p.who, p.about) for p in value["parameters"]]
        out.table("parameters", ("name", "value", "default", "unit", "who", "meaning"), rows, right=("value", "default"))

    out.data(value, show)


@group.command("metagraph")
@click.argument("netuid", type=int)
@click.option("--sort", default="uid", help="Column to sort by.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values.")
@click.option("--at", "where", default="head", help="Height, hash or head.")
@click.pass_context
def metagraph_command(ctx: click.Context, netuid: int, sort: str, as_csv: bool, where: str) -> None:
    """All neurons of a subnet with the scores of its last epoch."""
    out = Output(ctx.obj)
    reading = run(ctx.obj, lambda api: api.subnet_get_metagraph(netuid, at(where)))
    neurons = reading.value.neurons
    if sort not in NeuronRecord.__dataclass_fields__:
        raise click.BadParameter(f"{sort!r} is no column: {', '.join(NeuronRecord.__dataclass_fields__)}")
    ordered = sorted(neurons, key=lambda n: getattr(n, sort), reverse=sort not in ("uid", "name", "hotkey"))
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(NeuronRecord.__dataclass_fields__)
        writer.writerows(to_json(n).values() for n in ordered)
        return

    def show() -> None:
        rows = [
            (
                n.uid, n.name or address(n.hotkey)[:10], ("validator" if n.permit else "miner") + ("" if n.active else " idle"),
                format_amount(n.stake_rao, digits=2), share(n.incentive), share(n.consensus), share(n.trust),
                share(n.dividends), share(n.validator_trust), format_amount(n.emission_rao, digits=4), n.weights_height,
                f"{n.serving.ip}:{n.serving.port}" if n.serving else "-",
            )
            for n in ordered
        ]
        columns = (
            "uid", "name", "role", "stake", "incentive", "consensus", "trust", "dividends", "v.trust", "last pay",
            "weights at", "serves at",
        )
        title = f"subnet {netuid} at block {reading.at.height}, after epoch {reading.value.epoch}"
        out.table(title, columns, rows, right=columns[3:11])

    out.data(reading, show)
