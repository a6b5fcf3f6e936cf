"""`quorix stake`: put stake on hotkeys, move it, take it back; takes of hotkeys, and children that vote with their stake."""

from __future__ import annotations

from typing import Any

import click

from ledger.client.calls import Wait
from ledger.errors import UsageError
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount, parse_percent, share
from tools.cli.session import account, address, run, signing_key
from tools.cli.submission import SIGNER, WAIT, positive, send, submit

group = Noun("stake", help="Stake on hotkeys, and hotkeys that lend it to others.")

ALL_U16 = (1 << 16) - 1
ALL_U64 = (1 << 64) - 1


@group.command("add")
@click.argument("hotkey")
@click.argument("netuid", type=int)
@click.argument("amount")
@SIGNER
@WAIT
@click.pass_context
def add_command(ctx: click.Context, hotkey: str, netuid: int, amount: str, signer: str, wait: Wait) -> None:
    """Stake AMOUNT (or all) on HOTKEY in a subnet; it counts from the subnet's next payout on."""
    target, rao, key = account(ctx.obj, hotkey), positive(amount), signing_key(ctx.obj, signer)
    plan = f"stake {amount} on {address(target)} in subnet {netuid}"
    submit(ctx, key, "stake.add", {"hotkey": target, "netuid": netuid, "amount_rao": rao}, wait=wait, plan=plan)


@group.command("remove")
@click.argument("hotkey")
@click.argument("netuid", type=int)
@click.argument("amount")
@SIGNER
@WAIT
@click.pass_context
def remove_command(ctx: click.Context, hotkey: str, netuid: int, amount: str, signer: str, wait: Wait) -> None:
    """Take AMOUNT (or all) of your stake from HOTKEY; pending stake goes first."""
    target, rao, key = account(ctx.obj, hotkey), positive(amount), signing_key(ctx.obj, signer)
    plan = f"take {amount} of stake from {address(target)} in subnet {netuid}"
    submit(ctx, key, "stake.remove", {"hotkey": target, "netuid": netuid, "amount_rao": rao}, wait=wait, plan=plan)


@group.command("move")
@click.argument("from_hotkey")
@click.argument("from_netuid", type=int)
@click.argument("to_hotkey")
@click.argument("to_netuid", type=int)
@click.argument("amount")
@SIGNER
@WAIT
@click.pass_context
def move_command(
    ctx: click.Context, from_hotkey: str, from_netuid: int, to_hotkey: str, to_netuid: int, amount: str, signer: str,
    wait: Wait,
) -> None:
    """Move AMOUNT (or all) of your stake to another hotkey or subnet, without the unbonding time."""
    given = {
        "from_hotkey": from_hotkey, "to_hotkey": to_hotkey, "from_netuid": str(from_netuid), "to_netuid": str(to_netuid),
        "amount_rao": amount,
    }
    plan = f"move {amount} of stake from {from_hotkey} in subnet {from_netuid} to {to_hotkey} in subnet {to_netuid}"
    send(ctx, signer, "stake.move", given, wait=wait, plan=plan)


@group.command("transfer")
@click.argument("to")
@click.argument("hotkey")
@click.argument("from_netuid", type=int)
@click.argument("to_netuid", type=int)
@click.argument("amount")
@SIGNER
@WAIT
@click.pass_context
def transfer_command(
    ctx: click.Context, to: str, hotkey: str, from_netuid: int, to_netuid: int, amount: str, signer: str, wait: Wait
) -> None:
    """Give AMOUNT (or all) of your stake on HOTKEY to the coldkey TO."""
    given = {
        "to": to, "hotkey": hotkey, "from_netuid": str(from_netuid), "to_netuid": str(to_netuid), "amount_rao": amount,
    }
    plan = f"give {amount} of the stake of {{signer}} on {hotkey} in subnet {from_netuid} to {to}, in subnet {to_netuid}"
    send(ctx, signer, "stake.transfer", given, wait=wait, plan=plan)


@group.command("withdraw")
@SIGNER
@WAIT
@click.pass_context
def withdraw_command(ctx: click.Context, signer: str, wait: Wait) -> None:
    """Have all removed stake paid out whose unbonding time is over."""
    send(ctx, signer, "stake.withdraw_unbonded", {}, wait=wait, plan="pay out the removed stake of {signer}")


@group.command("take")
@click.argument("hotkey")
@click.argument("percent", metavar="PERCENT")
@SIGNER
@WAIT
@click.pass_context
def take_command(ctx: click.Context, hotkey: str, percent: str, signer: str, wait: Wait) -> None:
    """Set what the owner of HOTKEY keeps of its stakers' dividends, such as 9%; a raise acts after the next epoch."""
    target, wanted = account(ctx.obj, hotkey), parse_percent(percent, ALL_U16)
    lower = wanted <= run(ctx.obj, lambda api: _announced_take(api, target))
    call = "stake.decrease_take" if lower else "stake.increase_take"
    plan = f"set the take of {address(target)} to {percent}"
    send(ctx, signer, call, {"hotkey": hotkey, "take": str(wanted)}, wait=wait, plan=plan)


async def _announced_take(api: Any, hotkey: bytes) -> int:
    """The take of a hotkey (fraction of 65535), or the one that is announced."""
    from runtime.modules import stake

    row = (await api.state_get(stake.TAKES.key(hotkey))).value
    if row is None:
        most = next(int(p.value) for p in (await api.gov_get_params()).value if p.name == "max_delegate_take")
        return min(stake.DEFAULT_TAKE, most)
    held = stake.TAKES.decode(row)
    return int(held.take if held.next_take is None else held.next_take)


@group.command("list")
@click.argument("who")
@click.pass_context
def list_command(ctx: click.Context, who: str) -> None:
    """Stakes of a coldkey."""
    out, public = Output(ctx.obj), account(ctx.obj, who)
    reading = run(ctx.obj, lambda api: api.account_stakes(public))

    def show() -> None:
        rows = [(s.netuid, address(s.hotkey), format_amount(s.stake_rao), format_amount(s.pending_rao)) for s in reading.value]
        out.table(f"stakes of {address(public)}", ("netuid", "hotkey", "stake", "pending"), rows, right=("stake", "pending"))

    out.data(reading, show)


children_group = Noun("children", help="Hotkeys that vote with a part of another one's stake.")
group.add_command(children_group)


@children_group.command("set")
@click.argument("hotkey")
@click.argument("netuid", type=int)
@click.argument("children", nargs=-1, metavar="[CHILD=PERCENT]...")
@SIGNER
@WAIT
@click.pass_context
def set_children_command(
    ctx: click.Context, hotkey: str, netuid: int, children: tuple[str, ...], signer: str, wait: Wait
) -> None:
    """Lend parts of HOTKEY's voting stake in a subnet to its children, such as ADDRESS=25%; none ends it."""
    key, parent, rows = signing_key(ctx.obj, signer), account(ctx.obj, hotkey), []
    for word in children:
        child, equals, part = word.rpartition("=")
        if not equals:
            raise UsageError(f"{word[:80]!r} is no child with its share", hint="write ADDRESS=25%")
        rows.append([parse_percent(part, ALL_U64), account(ctx.obj, child)])
    plan = f"lend of {address(parent)} in subnet {netuid}: {', '.join(children) or 'nothing any more'}"
    args = {"hotkey": parent, "netuid": netuid, "children": rows}
    submit(ctx, key, "children.set", args, wait=wait, plan=plan)


@children_group.command("take")
@click.argument("hotkey")
@click.argument("netuid", type=int)
@click.argument("percent", metavar="PERCENT")
@SIGNER
@WAIT
@click.pass_context
def child_take_command(ctx: click.Context, hotkey: str, netuid: int, percent: str, signer: str, wait: Wait) -> None:
    """Set what HOTKEY, as a child, keeps of its parents' dividends in a subnet."""
    given = {"hotkey": hotkey, "netuid": str(netuid), "take": str(parse_percent(percent, ALL_U16))}
    send(ctx, signer, "children.set_take", given, wait=wait, plan=f"set the child take of {hotkey} to {percent}")


@children_group.command("show")
@click.argument("hotkey")
@click.pass_context
def show_children_command(ctx: click.Context, hotkey: str) -> None:
    """Children and parents of HOTKEY, subnet by subnet."""
    out, public = Output(ctx.obj), account(ctx.obj, hotkey)
    reading = run(ctx.obj, lambda api: api.account_relations(public))

    def show() -> None:
        found = reading.value
        rows = [(r.netuid, "lends to", address(r.hotkey), percent_of(r.share), "") for r in found.children]
        rows += [(r.netuid, "votes with", address(r.hotkey), percent_of(r.share), "") for r in found.parents]
        for waiting in found.pending:
            when = f"from the first epoch after block {waiting.ripe_at}"
            rows += [(r.netuid, "will lend to", address(r.hotkey), percent_of(r.share), when) for r in waiting.children]
            if not waiting.children:
                rows.append((waiting.netuid, "will lend to", "nobody", "", when))
        rows += [(t.netuid, "keeps of its parents'", "dividends", share(t.take), "") for t in found.takes]
        if not rows:
            out.remark(f"{address(public)} has neither children nor parents")
            return
        title = f"relations of {address(public)} at block {reading.at.height}"
        out.table(title, ("netuid", "", "hotkey", "share", "when"), rows, right=("netuid",))

    out.data(reading, show)


def percent_of(share_u64: int) -> str:
    """A share of 2^64 as a percentage."""
    return f"{(share_u64 * 10_000 + (1 << 63)) // (1 << 64) / 100:.2f} %"
