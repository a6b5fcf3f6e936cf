"""What commands that change the chain share: the key, the rehearsal with its fee and effects, the question, the outcome."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

import click

from ledger.client.calls import Submitted, Wait, Wallet
from ledger.client.fields import amount_of, amounts_of, key_of
from ledger.client.records import DryRun, EventRecord
from ledger.crypto import KeyPair
from ledger.errors import Rejected, UsageError
from tools.cli.output import Output, format_amount, parse_amount
from tools.cli.session import address, run, signing_key

WAIT = click.option("--wait", type=click.Choice(["none", "pool", "final"]), default="final", help="Until when to wait.")
SIGNER = click.option("--key", "signer", required=True, metavar="NAME", help="Key file, or //role//name on a devnet.")

SHOWN_EFFECTS: Final = 8


def positive(amount: str) -> int | None:
    """As `parse_amount`; nothing is no amount either."""
    rao = parse_amount(amount)
    if rao == 0:
        raise UsageError("the amount is zero")
    return rao


def submit(
    ctx: click.Context, key: KeyPair, call: str, args: dict[str, Any], *, wait: Wait, plan: str, typed: str = ""
) -> None:
    """Rehearse, show the plan and confirm, then sign, submit, wait, and print the outcome. Raises Rejected.

    What cannot be taken back is confirmed by typing the word `typed`.
    """
    out = Output(ctx.obj)
    rehearsed, free_rao = run(ctx.obj, lambda api: _rehearse(api, key, call, args))
    fee = f"fee {format_amount(rehearsed.fee_rao)}; {address(key.public)} has {format_amount(free_rao)} free"
    shown = "\n".join([plan, *_effects(rehearsed.events), fee])
    if ctx.obj.dry_run:
        out.data(rehearsed, f"{shown}\nnothing was sent (--dry-run)")
        return
    out.confirm(shown, typed)

    async def work(api: Any) -> Submitted:
        return await Wallet(api, key).submit(call, wait=wait, timeout_s=ctx.obj.timeout_s, **args)

    done = run(ctx.obj, work, deadline=False)
    out.data(done, "\n".join([*_outcome(call, done, wait), f"id 0x{done.id.hex()}"]))


def _outcome(call: str, done: Submitted, wait: Wait) -> list[str]:
    """What became of the call, with what it left; or how far it came where nobody waited for more."""
    if done.height is not None:
        return [f"{call}: ok, final in block {done.height}", *_effects(done.events)]
    reached = "in the pool" if wait == "pool" else "sent"
    return [f"{call}: {reached}, in no block yet; quorix query extrinsic says what became of it"]


def send(
    ctx: click.Context, signer: str, call: str, given: dict[str, str], *, wait: Wait, plan: str, typed: str = ""
) -> None:
    """As `submit`, with the arguments as a person wrote them. `{signer}` in the plan is the signing account."""
    from tools.cli.arguments import prepare

    prepared = prepare(ctx.obj, call, [f"{name}={text}" for name, text in given.items()])
    key = signing_key(ctx.obj, signer)
    submit(ctx, key, call, prepared.args, wait=wait, plan=plan.replace("{signer}", address(key.public)), typed=typed)


async def _rehearse(api: Any, key: KeyPair, call: str, args: dict[str, Any]) -> tuple[DryRun, int]:
    """What would become of the call on the head's state, and the signer's free balance. Raises Rejected if it fails."""
    nonce = await api.author_next_nonce(key.public)
    extrinsic = await Wallet(api, key).sign(call, args, nonce=nonce)
    rehearsed = await api.author_dry_run(extrinsic.encode())
    if not rehearsed.ok:
        rules = (await api.state_get_metadata()).errors
        cause = next((rule.cause for rule in rules if rule.name == rehearsed.error), "")
        raise Rejected(rehearsed.error, _cause(rehearsed, cause), hint=rehearsed.hint, **rehearsed.data)
    return rehearsed, (await api.account_get(key.public)).value.free_rao


def _cause(rehearsed: DryRun, general: str) -> str:
    """Why it is refused, with the figures that the rule names."""
    cause = rehearsed.cause or general
    return f"{cause} ({event_fields(rehearsed.data)})" if rehearsed.data and cause == general else cause


def _effects(told: Sequence[EventRecord]) -> list[str]:
    """The events that the call leaves, one a line."""
    lines = [f"  {event.name} {event_fields(event.fields)}".rstrip() for event in told[:SHOWN_EFFECTS]]
    return lines + ([f"  and {len(told) - SHOWN_EFFECTS} events more"] if len(told) > SHOWN_EFFECTS else [])


def event_fields(fields: dict[str, Any]) -> str:
    """Fields of an event for a person: keys as addresses, rao as amounts."""
    return " ".join(f"{name}={field_text(name, value)}" for name, value in fields.items())


def field_text(name: str, value: Any) -> str:
    """A field of an event, or an argument of a call, as the node tells it, for a person."""
    if isinstance(value, dict) and set(value) == {"call", "args"}:
        return f"{value['call']}({', '.join(f'{each}={field_text(each, arg)}' for each, arg in value['args'].items())})"
    if isinstance(value, list):
        return f"[{', '.join(field_text(name, item) for item in value)}]"
    if (rao := amount_of(name, value)) is not None:
        return _amount(rao)
    if (each := amounts_of(name, value)) is not None:
        return f"{_amount(sum(each))} for {sum(map(bool, each))} of {len(each)} uids"
    if (key := key_of(name, value)) is not None:
        return address(key)
    return value if isinstance(value, str) else json.dumps(value)


def _amount(rao: int) -> str:
    return format_amount(rao).replace(" ", "")
