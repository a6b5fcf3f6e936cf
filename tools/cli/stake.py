"""`quorix stake`: put stake on hotkeys and take it back."""

from __future__ import annotations

import click

from ledger.client.calls import Wait
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount
from tools.cli.session import account, address, run, signing_key
from tools.cli.wallet import SIGNER, WAIT, positive, submit

group = Noun("stake", help="Stake on hotkeys.")


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
