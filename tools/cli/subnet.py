"""`quorix subnet`: what subnets there are, and who is registered in them."""

from __future__ import annotations

import csv
import sys
from typing import Any

import click

from ledger.client.records import NeuronRecord, SubnetRecord, to_json
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
        out.table(f"subnet {netuid} at block {value['at'].height}", ("field", "value"), _fields(value["subnet"]))
        rows = [(p.name, p.value, p.default, p.unit, p.who, p.about) for p in value["parameters"]]
        out.table("parameters", ("name", "value", "default", "unit", "who", "meaning"), rows, right=("value", "default"))

    out.data(value, show)


def _fields(s: SubnetRecord) -> list[tuple[str, object]]:
    pots = zip(("owner", "miners", "validators", "root"), s.pots_rao, strict=True)
    return [
        ("name", s.name), ("rules", s.label), *([("task", s.task)] if s.task else []),
        ("owner", f"{address(s.owner_coldkey)}, hotkey {address(s.owner_hotkey)}"),
        ("started", "yes" if s.started else "no"), ("neurons", f"{s.neurons} of at most {s.max_uids}"),
        ("running epoch", f"{s.epoch}, computed in block {s.next_epoch_height}, in {s.blocks_left} blocks"),
        ("tempo", f"{s.tempo} blocks"), ("last epoch computed in", f"block {s.last_epoch_height}"),
        ("registration costs", format_amount(s.registration_cost_rao)), ("stake", format_amount(s.stake_rao)),
        ("share of emission", f"{s.emission_share_q32 / 2**32:.4f}"),
        ("waiting to be paid", ", ".join(f"{who} {format_amount(rao, digits=4)}" for who, rao in pots)),
        ("weights", f"committed, revealed {s.reveal_period} epochs later" if s.commit_reveal else "in the open"),
    ]


def _role(neuron: NeuronRecord) -> str:
    """A miner whose pay has grown into a permit is no validator before it gives weights; a gateway is neither."""
    serves = neuron.serving is not None
    judges = neuron.permit and (neuron.weights_height > 0 or not serves)
    said = " ".join(word for word, does in (("validator", judges), ("miner", serves)) if does) or "-"
    return said + (" idle" if judges and not neuron.active else "")


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
                n.uid, n.name or address(n.hotkey)[:10], _role(n),
                format_amount(n.stake_rao, digits=2), share(n.incentive), share(n.consensus), share(n.trust),
                share(n.dividends), share(n.validator_trust), format_amount(n.emission_rao, digits=4), n.weights_height or "-",
                f"{n.serving.ip}:{n.serving.port}" if n.serving else "-",
            )
            for n in ordered
        ]
        columns = (
            "uid", "name", "role", "stake", "incentive", "consensus", "trust", "dividends", "v.trust", "last pay",
            "weights at", "serves at",
        )
        epoch = reading.value.epoch  # the running one: the scores are those of the one before
        title = f"subnet {netuid} at block {reading.at.height}" + (f", after epoch {epoch - 1}" if epoch else "")
        out.table(title, columns, rows, right=columns[3:11])

    out.data(reading, show)
