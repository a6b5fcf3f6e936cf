"""`quorix subnet`: what subnets there are, who is registered in them, and what their owners do with them."""

from __future__ import annotations

import asyncio
import csv
import json
import sys
from typing import Any, Final

import click

from ledger.client.account_records import ChallengeRecord
from ledger.client.calls import Wait
from ledger.client.keys import ELLIPSIS, short_address
from ledger.client.records import NeuronRecord, Reading, SubnetRecord, to_json
from tools.cli.arguments import prepare
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount, share
from tools.cli.parameters import check_parameters
from tools.cli.session import address, at, run
from tools.cli.submission import SIGNER, WAIT, send
from tools.cli.wallet import texts

group = Noun("subnet", help="Subnets, their metagraph, and owning one.")

ASKED_AT_ONCE: Final = 16  # a node works at 32 calls of one connection

@group.command("list")
@click.option("--at", "where", default="head", help="Height, hash or head.")
@click.pass_context
def list_command(ctx: click.Context, where: str) -> None:
    """All subnets, and to which of them notice is given."""
    out = Output(ctx.obj)

    async def read(api: Any) -> dict[str, Any]:
        reading = await api.subnet_list(at(where))
        return {"at": reading.at, "value": reading.value, "notices": await _notices(api, reading)}

    answer = run(ctx.obj, read)

    def show() -> None:
        rows = [
            (
                s.netuid, s.name, f"{s.neurons}/{s.max_uids}", format_amount(s.stake_rao, digits=2), s.epoch,
                s.blocks_left, format_amount(s.registration_cost_rao, digits=3),
                f"{s.emission_share_q32 / 2**32:.3f}", s.label,
            )
            for s in answer["value"]
        ]
        columns = ("netuid", "name", "neurons", "stake", "epoch", "blocks left", "registration", "share", "label")
        out.table(f"subnets at block {answer['at'].height}", columns, rows, right=("netuid", "stake", "registration"))
        for notice in answer["notices"]:
            out.remark(f"subnet {notice['netuid']}: {_notice_text(notice['challenge'])}")

    out.data(answer, show)


async def _notices(api: Any, reading: Reading[list[SubnetRecord]]) -> list[dict[str, Any]]:
    """Of each subnet that is challenged: netuid and challenge, by netuid, at the same block as the reading."""
    netuids, found = [s.netuid for s in reading.value], []
    for start in range(0, len(netuids), ASKED_AT_ONCE):
        some = netuids[start : start + ASKED_AT_ONCE]
        answers = await asyncio.gather(*(api.subnet_get_challenge(netuid, reading.at.height) for netuid in some))
        found += [{"netuid": n, "challenge": a.value} for n, a in zip(some, answers, strict=True) if a.value is not None]
    return found


def _notice_text(notice: ChallengeRecord) -> str:
    price = format_amount(notice.price_rao)
    return f"{address(notice.coldkey)} gives notice: dissolved in block {notice.ends_at} unless kept for {price}"


@group.command("show")
@click.argument("netuid", type=int)
@click.pass_context
def show_command(ctx: click.Context, netuid: int) -> None:
    """One subnet with its parameters."""
    out = Output(ctx.obj)

    async def read(api: Any) -> dict[str, Any]:
        subnet, parameters = await api.subnet_get(netuid), await api.subnet_get_hyperparams(netuid)
        identity, challenge = await api.subnet_get_identity(netuid), await api.subnet_get_challenge(netuid)
        return {
            "at": subnet.at, "subnet": subnet.value, "parameters": parameters.value, "identity": identity.value,
            "challenge": challenge.value,
        }

    value = run(ctx.obj, read)

    def show() -> None:
        out.table(f"subnet {netuid} at block {value['at'].height}", ("field", "value"), _fields(value["subnet"]))
        said, notice = value["identity"], value["challenge"]
        if said is not None:
            told = [("name", said.name), ("url", said.url), ("about", said.about), ("task", said.task)]
            out.table("the owner says", ("", "said"), [row for row in told if row[1]])
        if notice is not None:
            out.remark(_notice_text(notice))
        rows = [(p.name, p.value, p.default, p.unit, p.who, p.about) for p in value["parameters"]]
        out.table("parameters", ("name", "value", "default", "unit", "who", "meaning"), rows, right=("value", "default"))

    out.data(value, show)


def _fields(s: SubnetRecord) -> list[tuple[str, object]]:
    pots = zip(("owner", "miners", "validators", "root"), s.pots_rao, strict=True)
    later = "1 epoch" if s.reveal_period == 1 else f"{s.reveal_period} epochs"
    return [
        ("name", s.name), ("rules", s.label), *([("task", s.task)] if s.task else []),
        ("owner", f"{address(s.owner_coldkey)}, hotkey {address(s.owner_hotkey)}"),
        ("started", "yes" if s.started else "no"), ("neurons", f"{s.neurons} of at most {s.max_uids}"),
        ("running epoch", f"{s.epoch}, computed in block {s.next_epoch_height}, in {s.blocks_left} blocks"),
        ("tempo", f"{s.tempo} blocks"), ("last epoch", f"computed in block {s.last_epoch_height}" if s.epoch else "none yet"),
        ("registration costs", format_amount(s.registration_cost_rao)), ("stake", format_amount(s.stake_rao)),
        ("share of emission", f"{s.emission_share_q32 / 2**32:.4f}"),
        ("waiting to be paid", ", ".join(f"{who} {format_amount(rao, digits=4)}" for who, rao in pots)),
        ("weights", f"committed, revealed {later} later" if s.commit_reveal else "in the open"),
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
                n.uid, n.name or short_address(n.hotkey) + ELLIPSIS, _role(n),
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


# --- what people do with subnets ---------------------------------------------------------------------------------

NETUID = click.argument("netuid", type=click.IntRange(0, 65_535))
OWN_HOTKEY = click.option("--hotkey", required=True, metavar="HOTKEY", help="A hotkey of the signing coldkey.")


@group.command("create")
@click.argument("name")
@OWN_HOTKEY
@click.option("--max-lock", required=True, metavar="AMOUNT", help="The most that may be locked; a refusal names the price.")
@SIGNER
@WAIT
@click.pass_context
def create_command(ctx: click.Context, name: str, hotkey: str, max_lock: str, signer: str, wait: Wait) -> None:
    """Create a subnet; its lock comes back, but for a tenth, when it is dissolved."""
    given = {"hotkey": hotkey, "max_lock_rao": max_lock, "name": name}
    plan = f"create a subnet {name!r} owned by {{signer}}, for a lock of at most {max_lock}"
    send(ctx, signer, "subnets.register_network", given, wait=wait, plan=plan)


@group.command("start")
@NETUID
@SIGNER
@WAIT
@click.pass_context
def start_command(ctx: click.Context, netuid: int, signer: str, wait: Wait) -> None:
    """Start your subnet: it takes stake, and emission from the next block on."""
    send(ctx, signer, "subnets.start_call", {"netuid": str(netuid)}, wait=wait, plan=f"start subnet {netuid}")


@group.command("register")
@NETUID
@OWN_HOTKEY
@click.option("--max-price", metavar="AMOUNT", help="The most that you pay; needed but on root (0).")
@SIGNER
@WAIT
@click.pass_context
def register_command(
    ctx: click.Context, netuid: int, hotkey: str, max_price: str | None, signer: str, wait: Wait
) -> None:
    """Bid for a uid; bids are settled together in the next block. On root: take a seat."""
    if netuid == 0:
        send(ctx, signer, "neurons.root_register", {"hotkey": hotkey}, wait=wait, plan=f"a root seat for {hotkey}")
        return
    if max_price is None:
        raise click.UsageError("Missing option '--max-price'.")
    given = {"netuid": str(netuid), "hotkey": hotkey, "max_price_rao": max_price}
    plan = f"bid at most {max_price} for a uid of {hotkey} in subnet {netuid}"
    send(ctx, signer, "neurons.register", given, wait=wait, plan=plan)


@group.command("unregister")
@NETUID
@OWN_HOTKEY
@SIGNER
@WAIT
@click.pass_context
def unregister_command(ctx: click.Context, netuid: int, hotkey: str, signer: str, wait: Wait) -> None:
    """Give up a uid; what is left of its bond is recycled."""
    given = {"netuid": str(netuid), "hotkey": hotkey}
    plan = f"give up the uid of {hotkey} in subnet {netuid}"
    send(ctx, signer, "neurons.unregister", given, wait=wait, plan=plan, typed="unregister")


@group.command("params")
@NETUID
@click.pass_context
def params_command(ctx: click.Context, netuid: int) -> None:
    """Parameters of a subnet: value, default, who sets them, meaning."""
    out = Output(ctx.obj)
    reading = run(ctx.obj, lambda api: api.subnet_get_hyperparams(netuid))

    def show() -> None:
        rows = [(p.name, p.value, p.default, p.unit, p.who, p.about) for p in reading.value]
        columns = ("name", "value", "default", "unit", "who", "meaning")
        out.table(f"parameters of subnet {netuid} at block {reading.at.height}", columns, rows, right=("value", "default"))

    out.data(reading, show)


@group.command("set-param")
@NETUID
@click.argument("name")
@click.argument("value")
@SIGNER
@WAIT
@click.pass_context
def set_param_command(ctx: click.Context, netuid: int, name: str, value: str, signer: str, wait: Wait) -> None:
    """Set a parameter of your subnet; what only root sets goes through `quorix governance propose`."""
    given = {"netuid": str(netuid), "name": name, "value": value}
    prepared = prepare(ctx.obj, "governance.set_subnet_param", list(given.values()))
    check_parameters(prepared.number, list(prepared.args.values()))
    send(ctx, signer, "governance.set_subnet_param", given, wait=wait, plan=f"set {name} of subnet {netuid} to {value}")


@group.command("set-identity")
@NETUID
@texts
@click.option("--task", default="", help="Kind of task, at most 32 bytes: by it validators choose how to judge.")
@SIGNER
@WAIT
@click.pass_context
def set_identity_command(
    ctx: click.Context, netuid: int, name: str, url: str, about: str, content_hash: str, task: str, signer: str, wait: Wait
) -> None:
    """Say what your subnet is for; it replaces what was said before."""
    said = {"name": name, "url": url, "about": about, "task": task, "content_hash": content_hash}
    plan = f"say of subnet {netuid}: {', '.join(f'{field} {text!r}' for field, text in said.items() if text) or 'nothing'}"
    given = {"netuid": str(netuid), "identity": json.dumps(said)}
    send(ctx, signer, "subnets.set_identity", given, wait=wait, plan=plan)


@group.command("set-owner-hotkey")
@NETUID
@click.argument("hotkey")
@SIGNER
@WAIT
@click.pass_context
def owner_hotkey_command(ctx: click.Context, netuid: int, hotkey: str, signer: str, wait: Wait) -> None:
    """Name another hotkey of yours: it gets the owner's cut and is not pruned."""
    plan = f"{hotkey} gets the owner's cut of subnet {netuid} from now on"
    send(ctx, signer, "subnets.set_owner_hotkey", {"netuid": str(netuid), "hotkey": hotkey}, wait=wait, plan=plan)


@group.command("transfer")
@NETUID
@click.argument("to")
@click.argument("hotkey")
@SIGNER
@WAIT
@click.pass_context
def transfer_command(ctx: click.Context, netuid: int, to: str, hotkey: str, signer: str, wait: Wait) -> None:
    """Give your subnet to the coldkey TO, with a HOTKEY that it owns."""
    given = {"netuid": str(netuid), "to": to, "hotkey": hotkey}
    plan = f"give subnet {netuid}, with its lock and its parameters, to {to}"
    send(ctx, signer, "subnets.transfer_ownership", given, wait=wait, plan=plan, typed="transfer")


@group.command("dissolve")
@NETUID
@SIGNER
@WAIT
@click.pass_context
def dissolve_command(ctx: click.Context, netuid: int, signer: str, wait: Wait) -> None:
    """End your subnet: stake and bonds are given back, and the lock but for a tenth."""
    plan = f"dissolve subnet {netuid}: no emission, no epochs; everything in it is given back over the next blocks"
    send(ctx, signer, "subnets.dissolve", {"netuid": str(netuid)}, wait=wait, plan=plan, typed="dissolve")


@group.command("challenge")
@click.argument("name")
@OWN_HOTKEY
@click.option("--max-lock", required=True, metavar="AMOUNT", help="The most that you pay; a refusal names the price.")
@SIGNER
@WAIT
@click.pass_context
def challenge_command(ctx: click.Context, name: str, hotkey: str, max_lock: str, signer: str, wait: Wait) -> None:
    """Where there is no room for another subnet: give the weakest one notice, and pay for its slot."""
    given = {"hotkey": hotkey, "max_lock_rao": max_lock, "name": name}
    plan = f"give the weakest subnet notice, for a subnet {name!r} of {{signer}}, for at most {max_lock}"
    send(ctx, signer, "subnets.challenge", given, wait=wait, plan=plan)


@group.command("keep")
@NETUID
@SIGNER
@WAIT
@click.pass_context
def keep_command(ctx: click.Context, netuid: int, signer: str, wait: Wait) -> None:
    """Keep your subnet, to which notice was given: the same price goes into its lock."""
    plan = f"keep subnet {netuid}: the challenger's price goes into its lock"
    send(ctx, signer, "subnets.keep", {"netuid": str(netuid)}, wait=wait, plan=plan)
