"""`quorix wallet`: balances and transfers."""

from __future__ import annotations

from typing import Any

import click

from ledger.client.calls import Submitted, Wait, Wallet
from ledger.client.records import DryRun
from ledger.crypto import KeyPair
from ledger.errors import Rejected, UsageError
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount, parse_amount
from tools.cli.session import account, address, run, signing_key

group = Noun("wallet", help="Balances and transfers.")

WAIT = click.option("--wait", type=click.Choice(["none", "pool", "final"]), default="final", help="Until when to wait.")
SIGNER = click.option("--key", "signer", required=True, metavar="NAME", help="Key file, or //role//name on a devnet.")


@group.command("balance")
@click.argument("who")
@click.pass_context
def balance_command(ctx: click.Context, who: str) -> None:
    """Balance of an address, a key's name, or a //role//name dev key."""
    out, public = Output(ctx.obj), account(ctx.obj, who)
    reading = run(ctx.obj, lambda api: api.account_get(public))
    value = reading.value

    def show() -> None:
        rows = [
            ("free", format_amount(value.free_rao)), ("reserved", format_amount(value.reserved_rao)),
            ("staked", format_amount(value.staked_rao)), ("unbonding", format_amount(value.unbonding_rao)),
            ("nonce", value.nonce),
        ]
        if value.owner is not None:
            rows.append(("hotkey of", address(value.owner)))
        rows += [("owns hotkey", address(hotkey)) for hotkey in value.hotkeys]
        out.table(f"{address(public)} at block {reading.at.height}", ("", "amount"), rows)

    out.data(reading, show)


@group.command("send")
@click.argument("to")
@click.argument("amount")
@SIGNER
@WAIT
@click.option("--allow-death", is_flag=True, help="Let the account fall below the existential deposit.")
@click.pass_context
def send_command(ctx: click.Context, to: str, amount: str, signer: str, wait: Wait, allow_death: bool) -> None:
    """Send AMOUNT (1.5Q, 1_000r or all) to an address."""
    target, rao = account(ctx.obj, to), positive(amount)
    key = signing_key(ctx.obj, signer)
    plan = f"send {amount} from {address(key.public)} to {address(target)}"
    args = {"to": target, "amount_rao": rao, "keep_alive": not allow_death}
    submit(ctx, key, "accounts.transfer", args, wait=wait, plan=plan)


def positive(amount: str) -> int | None:
    """As `parse_amount`; nothing is no amount either."""
    rao = parse_amount(amount)
    if rao == 0:
        raise UsageError("the amount is zero")
    return rao


def submit(ctx: click.Context, key: KeyPair, call: str, args: dict[str, Any], *, wait: Wait, plan: str) -> None:
    """Rehearse, show the plan and confirm, then sign, submit, wait, and print the outcome. Raises Rejected."""
    out = Output(ctx.obj)
    rehearsed, free_rao = run(ctx.obj, lambda api: _rehearse(api, key, call, args))
    out.confirm(f"{plan}\nfee {format_amount(rehearsed.fee_rao)}; {address(key.public)} has {format_amount(free_rao)} free")

    async def work(api: Any) -> Submitted:
        return await Wallet(api, key).submit(call, wait=wait, timeout_s=ctx.obj.timeout_s, **args)

    done = run(ctx.obj, work, deadline=False)
    place = "" if done.height is None else f", final in block {done.height}"
    out.data(done, f"{call}: ok{place}\nid 0x{done.id.hex()}")


async def _rehearse(api: Any, key: KeyPair, call: str, args: dict[str, Any]) -> tuple[DryRun, int]:
    """What would become of the call on the head's state, and the signer's free balance. Raises Rejected if it fails."""
    nonce = await api.author_next_nonce(key.public)
    extrinsic = await Wallet(api, key).sign(call, args, nonce=nonce)
    rehearsed = await api.author_dry_run(extrinsic.encode())
    if not rehearsed.ok:
        rules = (await api.state_get_metadata()).errors
        cause = next((rule.cause for rule in rules if rule.name == rehearsed.error), "")
        raise Rejected(rehearsed.error, cause, hint=rehearsed.hint)
    return rehearsed, (await api.account_get(key.public)).value.free_rao
