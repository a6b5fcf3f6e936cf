"""`quorix wallet`: balances, transfers, an account's identity, and handing all of it over to another key."""

from __future__ import annotations

import json
from typing import Any

import click

from ledger.client.calls import Wait
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount
from tools.cli.session import account, address, run, signing_key
from tools.cli.submission import SIGNER, WAIT, positive, send, submit

group = Noun("wallet", help="Balances, transfers, identity, handing an account over.")


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


identity_group = Noun("identity", help="What an account says of itself.")
group.add_command(identity_group)
TEXTS = (
    click.option("--name", default="", help="At most 64 bytes."), click.option("--url", default="", help="At most 256 bytes."),
    click.option("--about", default="", help="At most 512 bytes with the other texts."),
    click.option("--content-hash", default="", metavar="HEX", help="Hash of a longer document, 32 bytes."),
)


def texts(command: Any) -> Any:
    """The options of an identity."""
    for option in reversed(TEXTS):
        command = option(command)
    return command


@identity_group.command("set")
@texts
@SIGNER
@WAIT
@click.pass_context
def set_identity_command(
    ctx: click.Context, name: str, url: str, about: str, content_hash: str, signer: str, wait: Wait
) -> None:
    """Say who the signing account is; it replaces what was said before. A deposit is reserved meanwhile."""
    said = {"name": name, "url": url, "about": about, "content_hash": content_hash}
    plan = f"say of {{signer}}: {', '.join(f'{field} {text!r}' for field, text in said.items() if text) or 'nothing'}"
    send(ctx, signer, "identities.set", {"identity": json.dumps(said)}, wait=wait, plan=plan)


@identity_group.command("clear")
@SIGNER
@WAIT
@click.pass_context
def clear_identity_command(ctx: click.Context, signer: str, wait: Wait) -> None:
    """Take the identity back, with its deposit."""
    send(ctx, signer, "identities.clear", {}, wait=wait, plan="clear the identity of {signer}")


@identity_group.command("show")
@click.argument("who")
@click.pass_context
def show_identity_command(ctx: click.Context, who: str) -> None:
    """What WHO says of itself."""
    public = account(ctx.obj, who)
    show_identity(ctx, run(ctx.obj, lambda api: api.account_identity(public)), address(public))


def show_identity(ctx: click.Context, reading: Any, who: str) -> None:
    """An identity, or that there is none."""
    out, value = Output(ctx.obj), reading.value

    def show() -> None:
        if value is None:
            out.remark(f"{who} says nothing of itself")
            return
        rows = [("name", value.name), ("url", value.url), ("about", value.about), ("task", value.task)]
        rows += [("content hash", "0x" + value.content_hash.hex())] if value.content_hash else []
        out.table(f"{who} says at block {reading.at.height}", ("", "said"), [row for row in rows if row[1]])

    out.data(reading, show)


swap_group = Noun("swap", help="Hand all that an account has over to another key, announced before.")
group.add_command(swap_group)


@swap_group.command("announce")
@click.argument("new")
@SIGNER
@WAIT
@click.pass_context
def announce_swap_command(ctx: click.Context, new: str, signer: str, wait: Wait) -> None:
    """Announce that the key NEW is to take over; only its hash goes on chain. Nothing else is allowed from then on."""
    from runtime.modules.coldkeys import swap_hash

    fresh, key = account(ctx.obj, new), signing_key(ctx.obj, signer)
    plan = f"announce that {address(fresh)} takes over all of {address(key.public)}, which can do nothing else until then"
    args = {"new_hash": swap_hash(fresh)}
    submit(ctx, key, "keyring.announce_coldkey_swap", args, wait=wait, plan=plan, typed="announce")


@swap_group.command("run")
@click.argument("new")
@SIGNER
@WAIT
@click.pass_context
def run_swap_command(ctx: click.Context, new: str, signer: str, wait: Wait) -> None:
    """Hand everything over to the announced key NEW, when its delay is over."""
    fresh, key = account(ctx.obj, new), signing_key(ctx.obj, signer)
    plan = f"hand all that {address(key.public)} has over to {address(fresh)}"
    submit(ctx, key, "keyring.swap_coldkey", {"new_coldkey": fresh}, wait=wait, plan=plan, typed="swap")


@swap_group.command("clear")
@SIGNER
@WAIT
@click.pass_context
def clear_swap_command(ctx: click.Context, signer: str, wait: Wait) -> None:
    """Take the announcement back, some time after its delay."""
    send(ctx, signer, "keyring.clear_coldkey_swap", {}, wait=wait, plan="{signer} announces no swap any more")


@swap_group.command("show")
@click.argument("who")
@click.pass_context
def show_swap_command(ctx: click.Context, who: str) -> None:
    """Announced and past swaps of WHO's keys, and when the next can be made."""
    out, public = Output(ctx.obj), account(ctx.obj, who)
    reading = run(ctx.obj, lambda api: api.account_swaps(public))

    def show() -> None:
        value, rows = reading.value, []
        if value.announced_hash is not None:
            rows = [
                ("coldkey swap", f"announced: hash 0x{value.announced_hash.hex()}"), ("can be made", f"block {value.ready_at}"),
                ("can be cleared", f"block {value.changeable_at}"),
            ]
        if value.hotkey_swapped_at is not None:
            again = "now" if value.hotkey_swap_free_at is None else f"in block {value.hotkey_swap_free_at}"
            rows.append(("hotkey swap", f"in block {value.hotkey_swapped_at}; the next is possible {again}"))
        if not rows:
            out.remark(f"{address(public)} has neither announced nor made a swap")
            return
        out.table(f"swaps of {address(public)} at block {reading.at.height}", ("", "state"), rows)

    out.data(reading, show)
