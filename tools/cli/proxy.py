"""`quorix proxy`: accounts that may run some calls for another, at once or announced some blocks before."""

from __future__ import annotations

from typing import Any

import click

from ledger.client.calls import Wait
from ledger.errors import NotFound, UsageError
from tools.cli.arguments import Prepared, prepare
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount
from tools.cli.session import account, address, run, signing_key
from tools.cli.submission import SIGNER, WAIT, submit
from tools.cli.tx import ARGUMENTS, CALL

group = Noun("proxy", help="Accounts that may act for another.")

KIND = click.option("--kind", required=True, metavar="KIND", help="any, staking, registration, weights, subnet-owner, "
                    "transfer or small-transfer.")
DELAY = click.option("--delay", type=click.IntRange(0, (1 << 32) - 1), default=0, show_default=True,
                     help="Blocks from an announcement to the call.")


@group.command("add")
@click.argument("delegate")
@KIND
@DELAY
@SIGNER
@WAIT
@click.pass_context
def add_command(ctx: click.Context, delegate: str, kind: str, delay: int, signer: str, wait: Wait) -> None:
    """Let DELEGATE run calls of a kind for the signing account; a deposit is reserved while it may."""
    _appoint(ctx, "proxies.add", "let {who} run calls of kind {kind!r} for {real}", delegate, kind, delay, signer, wait)


@group.command("remove")
@click.argument("delegate")
@click.option("--kind", metavar="KIND", help="Needed where DELEGATE is a proxy of several kinds.")
@click.option("--delay", type=click.IntRange(0, (1 << 32) - 1), help="Needed where it is one with several delays.")
@SIGNER
@WAIT
@click.pass_context
def remove_command(
    ctx: click.Context, delegate: str, kind: str | None, delay: int | None, signer: str, wait: Wait
) -> None:
    """Take the right of DELEGATE back at once, with the deposit."""
    real, who = signing_key(ctx.obj, signer).public, account(ctx.obj, delegate)
    held = [
        right for right in run(ctx.obj, lambda api: api.account_proxies(real)).value.proxies
        if right.delegate == who and kind in (None, right.kind.replace(" ", "-")) and delay in (None, right.delay_blocks)
    ]
    if len(held) != 1:
        such = " of that kind or delay" if kind or delay is not None else ""
        cause = f"is no proxy{such}" if not held else f"is {len(held)} proxies"
        raise NotFound(f"{address(who)} {cause} of {address(real)}", hint=f"see quorix proxy list {address(real)}; then "
                       "--kind KIND --delay BLOCKS" if held else f"quorix proxy list {address(real)}")
    plan = "{who} no longer runs calls of kind {kind!r} for {real}"
    right = held[0]
    _appoint(ctx, "proxies.remove", plan, delegate, right.kind.replace(" ", "-"), right.delay_blocks, signer, wait)


def _appoint(
    ctx: click.Context, call: str, plan: str, delegate: str, kind: str, delay: int, signer: str, wait: Wait
) -> None:
    key = signing_key(ctx.obj, signer)
    prepared = prepare(ctx.obj, call, (f"delegate={delegate}", f"kind={kind}", f"delay_blocks={delay}"))
    text = plan.format(who=address(prepared.args["delegate"]), kind=kind, real=address(key.public))
    text += f", {delay} blocks after announcing them" if delay else ""
    submit(ctx, key, call, prepared.args, wait=wait, plan=text)


@group.command("list")
@click.argument("who")
@click.pass_context
def list_command(ctx: click.Context, who: str) -> None:
    """Proxies that WHO has appointed, and what they have announced."""
    out, public = Output(ctx.obj), account(ctx.obj, who)
    reading = run(ctx.obj, lambda api: api.account_proxies(public))

    def show() -> None:
        held = reading.value
        rows = [(address(p.delegate), p.kind, p.delay_blocks, ", ".join(p.calls) or "everything") for p in held.proxies]
        if not rows:
            out.remark(f"{address(public)} has no proxies; quorix proxy add DELEGATE --kind KIND appoints one")
            return
        title = f"proxies of {address(public)} at block {reading.at.height}; deposit {format_amount(held.deposit_rao)}"
        out.table(title, ("delegate", "kind", "delay", "calls"), rows, right=("delay",))
        if held.announcements:
            waiting = [(address(a.delegate), "0x" + a.call_hash.hex(), a.height, a.ready_at) for a in held.announcements]
            out.table("announced", ("delegate", "call hash", "in block", "can run in block"), waiting)

    out.data(reading, show)


@group.command("announce")
@click.argument("real")
@CALL
@ARGUMENTS
@SIGNER
@WAIT
@click.pass_context
def announce_command(ctx: click.Context, real: str, name: str, words: tuple[str, ...], signer: str, wait: Wait) -> None:
    """Announce, as a proxy with a delay, a CALL that is to run for REAL: only its hash goes on chain."""
    target, inner, key = account(ctx.obj, real), prepare(ctx.obj, name, words), signing_key(ctx.obj, signer)
    hashed = _hash(inner)
    plan = f"announce for {address(target)}: {inner}\nhash 0x{hashed.hex()}"
    submit(ctx, key, "proxies.announce", {"real": target, "call_hash": hashed}, wait=wait, plan=plan)


@group.command("withdraw")
@click.argument("real")
@click.argument("call_hash", metavar="HASH")
@click.option("--delegate", metavar="WHO", help="Whose announcement REAL rejects; default: the signing key's.")
@SIGNER
@WAIT
@click.pass_context
def withdraw_command(
    ctx: click.Context, real: str, call_hash: str, delegate: str | None, signer: str, wait: Wait
) -> None:
    """Withdraw an announcement: the delegate its own, or REAL that of a delegate."""
    key, target = signing_key(ctx.obj, signer), account(ctx.obj, real)
    who = key.public if delegate is None else account(ctx.obj, delegate)
    args = prepare(ctx.obj, "proxies.withdraw", ("0x" + target.hex(), "0x" + who.hex(), call_hash)).args
    submit(ctx, key, "proxies.withdraw", args, wait=wait, plan=f"withdraw what {address(who)} announced for {address(target)}")


@group.command("run")
@click.argument("real")
@CALL
@ARGUMENTS
@SIGNER
@WAIT
@click.pass_context
def run_command(ctx: click.Context, real: str, name: str, words: tuple[str, ...], signer: str, wait: Wait) -> None:
    """Run a CALL as REAL, by a key that is its proxy; with a delay, the same call has to be announced first.

    \b
    quorix proxy run //owner stake.add //validator//0//hot 1 5Q --key //validator//0
    """
    target, inner, key = account(ctx.obj, real), prepare(ctx.obj, name, words), signing_key(ctx.obj, signer)
    plan = f"run as {address(target)}: {inner}"
    _check_right(ctx, target, key.public, inner)
    submit(ctx, key, "proxies.run", {"real": target, "call": inner.inner}, wait=wait, plan=plan)


def _check_right(ctx: click.Context, real: bytes, delegate: bytes, inner: Prepared) -> None:
    """Say before the chain does what is missing: no right at all, or time. Raises NotFound, UsageError."""

    async def ask(api: Any) -> Any:
        return await api.account_proxies(real)

    reading = run(ctx.obj, ask)
    mine = [right for right in reading.value.proxies if right.delegate == delegate]
    if not mine:
        raise NotFound(f"{address(delegate)} is no proxy of {address(real)}", hint=f"quorix proxy list {address(real)}")
    hashed = _hash(inner)
    waits = [a for a in reading.value.announcements if a.delegate == delegate and a.call_hash == hashed]
    if all(right.delay_blocks for right in mine) and waits and min(a.ready_at for a in waits) > reading.at.height + 1:
        first = min(a.ready_at for a in waits)
        raise UsageError(f"the announced call can run in block {first}", hint=f"wait {first - reading.at.height - 1} blocks")


def _hash(inner: Prepared) -> bytes:
    from runtime.modules.proxies import call_hash

    return call_hash(*inner.inner)
