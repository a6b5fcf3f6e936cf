"""`quorix governance`: what the root seats propose, how they vote, and the parameters of the whole chain."""

from __future__ import annotations

from typing import Any, Final

import click

from ledger.client.calls import Wait
from ledger.client.governance_records import InnerCall, ProposalRecord
from ledger.client.records import EventRecord
from ledger.crypto import KeyPair
from ledger.errors import NotFound
from tools.cli.arguments import prepare
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount
from tools.cli.parameters import check_parameters
from tools.cli.session import account, address, run, short_names, signing_key
from tools.cli.submission import SIGNER, WAIT, field_text, submit
from tools.cli.tx import ARGUMENTS, CALL

group = Noun("governance", help="Proposals of the root seats, and the chain's parameters.")

ROOT: Final = 0
CLOSED: Final = ("ProposalExecuted", "ProposalRejected", "ProposalCancelled")
SUMS: Final = ("ayes_rao", "nays_rao", "cancels_rao")
SHOWN_CLOSED: Final = 10
SEARCHED_CLOSED: Final = 200  # of each kind, newest first
SEAT = click.option("--hotkey", "seat", metavar="HOTKEY", help="The seat; default: the only one of the signing key.")


@group.command("propose")
@CALL
@ARGUMENTS
@SEAT
@SIGNER
@WAIT
@click.pass_context
def propose_command(
    ctx: click.Context, name: str, words: tuple[str, ...], seat: str | None, signer: str, wait: Wait
) -> None:
    """Propose a CALL of root for one's seat; its arguments as NAME=VALUE, or all in order.

    \b
    quorix governance propose governance.set_global_param name=fee_base_rao value=2000 --key //validator//0
    """
    inner, key = prepare(ctx.obj, name, words), signing_key(ctx.obj, signer)
    check_parameters(inner.number, list(inner.args.values()))
    hotkey = seat_of(ctx, key, seat)
    plan = f"propose {inner}\nfor the seat {address(hotkey)}; the deposit comes back unless the proposal is rejected"
    submit(ctx, key, "governance.propose", {"hotkey": hotkey, "call": inner.inner}, wait=wait, plan=plan)


@group.command("vote")
@click.argument("number", type=click.IntRange(0, (1 << 32) - 1))
@click.argument("choice", type=click.Choice(["aye", "nay"]))
@SEAT
@SIGNER
@WAIT
@click.pass_context
def vote_command(ctx: click.Context, number: int, choice: str, seat: str | None, signer: str, wait: Wait) -> None:
    """Vote aye or nay on a proposal; a later vote replaces an earlier one."""
    key = signing_key(ctx.obj, signer)
    hotkey, record = seat_of(ctx, key, seat), run(ctx.obj, lambda api: _proposal(api, number)).value
    plan = f"vote {choice} on proposal {number}, {_call_text(record.proposed)}, for the seat {address(hotkey)}"
    args = {"hotkey": hotkey, "number": number, "aye": choice == "aye"}
    submit(ctx, key, "governance.vote", args, wait=wait, plan=plan)


@group.command("cancel")
@click.argument("number", type=click.IntRange(0, (1 << 32) - 1))
@SEAT
@SIGNER
@WAIT
@click.pass_context
def cancel_command(ctx: click.Context, number: int, seat: str | None, signer: str, wait: Wait) -> None:
    """Ask to cancel a proposal, before or after its approval; two thirds of the weight do it."""
    key = signing_key(ctx.obj, signer)
    hotkey, record = seat_of(ctx, key, seat), run(ctx.obj, lambda api: _proposal(api, number)).value
    plan = f"ask to cancel proposal {number}, {_call_text(record.proposed)}, for the seat {address(hotkey)}"
    submit(ctx, key, "governance.cancel", {"hotkey": hotkey, "number": number}, wait=wait, plan=plan)


@group.command("sudo")
@CALL
@ARGUMENTS
@SIGNER
@WAIT
@click.pass_context
def sudo_command(ctx: click.Context, name: str, words: tuple[str, ...], signer: str, wait: Wait) -> None:
    """Run a CALL of root at once, with the sudo key of a devnet."""
    inner, key = prepare(ctx.obj, name, words), signing_key(ctx.obj, signer)
    check_parameters(inner.number, list(inner.args.values()))
    submit(ctx, key, "governance.sudo", {"call": inner.inner}, wait=wait, plan=f"run as root: {inner}")


@group.command("list")
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """Open proposals, and the last ones that were closed."""
    out = Output(ctx.obj)

    async def ask(api: Any) -> dict[str, Any]:
        closed = [event for kind in CLOSED for event in (await api.events_query(kind, limit=SHOWN_CLOSED)).items]
        newest = sorted(closed, key=lambda event: (-event.height, -event.index))[:SHOWN_CLOSED]
        numbers = {entry.number: entry.name for entry in (await api.state_get_metadata()).calls}
        return {"open": await api.gov_list(), "closed": newest, "names": numbers}

    answer = run(ctx.obj, ask)
    names = answer.pop("names")

    def show() -> None:
        height = answer["open"].at.height
        rows = [(p.number, _call_text(p.proposed), *_progress(p)) for p in answer["open"].value]
        if rows:
            out.table(f"open proposals at block {height}", ("#", "call", "state", "ayes", "nays", "turnout", "left"), rows)
        else:
            out.remark(f"no proposal is open at block {height}; quorix governance propose makes one")
        if answer["closed"]:
            fates = [(e.fields["number"], _fate(e, names), e.height) for e in answer["closed"]]
            out.table("closed", ("#", "outcome", "block"), fates)

    out.data(answer, show)


async def _proposal(api: Any, number: int) -> Any:
    """An open proposal. Raises NotFound, which says what became of a closed one."""
    try:
        return await api.gov_get(number)
    except NotFound as missing:
        for kind in CLOSED:
            for event in (await api.events_query(kind, limit=SEARCHED_CLOSED)).items:
                if event.fields["number"] == number:
                    names = {entry.number: entry.name for entry in (await api.state_get_metadata()).calls}
                    cause = f"proposal {number} is closed: {_fate(event, names)}, in block {event.height}"
                    raise NotFound(cause, hint="quorix governance list") from missing
        raise


def _progress(p: ProposalRecord) -> tuple[str, str, str, str, str]:
    """State, ayes, nays and turnout of the eligible weight, time left."""
    t = p.tally
    left = f"{p.blocks_left} blocks"
    return p.state, _part(t.ayes_rao, t.eligible_rao), _part(t.nays_rao, t.eligible_rao), _part(
        t.ayes_rao + t.nays_rao, t.eligible_rao
    ), left if p.state == "voting" else f"runs in {left}"


def _part(part_rao: int, whole_rao: int) -> str:
    return f"{100 * part_rao / whole_rao if whole_rao else 0:.1f} %"


def _fate(event: EventRecord, names: dict[int, str]) -> str:
    fate = event.name.removeprefix("Proposal").lower()
    if event.name == "ProposalExecuted":
        call = event.fields["call"]
        return f"{fate}: {names.get(call, call)} {event.fields['error'] or 'ok'}"
    whole_rao = int(event.fields["eligible_rao"])
    votes = [(name.removesuffix("_rao"), int(event.fields[name])) for name in SUMS if name in event.fields]
    return f"{fate}: {', '.join(f'{_part(rao, whole_rao)} {kind}' for kind, rao in votes)}"


@group.command("show")
@click.argument("number", type=click.IntRange(0, (1 << 32) - 1))
@click.pass_context
def show_command(ctx: click.Context, number: int) -> None:
    """A proposal: its call, every seat's vote, what is needed, the time that is left."""
    out = Output(ctx.obj)

    async def ask(api: Any) -> tuple[Any, dict[bytes, str]]:
        return await _proposal(api, number), await short_names(api, ROOT)

    reading, names = run(ctx.obj, ask)

    def show() -> None:
        p, t = reading.value, reading.value.tally
        state, ayes, nays, turnout, left = _progress(p)
        half = format_amount(t.eligible_rao // 2, digits=4)
        rows = [
            ("call", p.proposed.call), *((f"  {name}", field_text(name, value)) for name, value in p.proposed.args.items()),
            ("proposed", f"in block {p.proposed_at} by {names.get(p.hotkey) or address(p.hotkey)}"),
            ("state", f"{state}; {'the vote ends' if p.state == 'voting' else 'it runs'} in block {p.decides_at}, {left}"),
            ("ayes", f"{format_amount(t.ayes_rao, digits=4)}, {ayes}; more than {half} approve at once"),
            ("nays", f"{format_amount(t.nays_rao, digits=4)}, {nays}"),
            ("turnout", f"{turnout}; the end of the vote needs {_part(t.needed_turnout_rao, t.eligible_rao)}"),
            ("cancels", f"{_part(t.cancels_rao, t.eligible_rao)} of {_part(t.needed_cancels_rao, t.eligible_rao)}"),
            ("deposit", format_amount(p.deposit_rao)),
        ]
        out.table(f"proposal {p.number} at block {reading.at.height}", ("field", "value"), rows)
        votes = [
            (names.get(v.hotkey) or address(v.hotkey), format_amount(v.weight_rao, digits=4), v.choice or "-") for v in p.votes
        ]
        out.table("root seats", ("seat", "weight", "vote"), votes, right=("weight",))

    out.data(reading, show)


@group.command("params")
@click.pass_context
def params_command(ctx: click.Context) -> None:
    """Parameters of the whole chain, which proposals change by governance.set_global_param."""
    out = Output(ctx.obj)
    reading = run(ctx.obj, lambda api: api.gov_get_params())

    def show() -> None:
        rows = [(p.name, p.value, p.default, p.unit, p.who, p.about) for p in reading.value]
        columns = ("name", "value", "default", "unit", "who", "meaning")
        out.table(f"parameters at block {reading.at.height}", columns, rows, right=("value", "default"))

    out.data(reading, show)


def _call_text(call: InnerCall) -> str:
    return field_text("call", {"call": call.call, "args": call.args})


def seat_of(ctx: click.Context, key: KeyPair, given: str | None) -> bytes:
    """The named seat, or the only root seat of the signing key. Raises NotFound."""
    if given is not None:
        return account(ctx.obj, given)

    async def ask(api: Any) -> list[bytes]:
        own = (await api.account_get(key.public)).value.hotkeys
        seats = (await api.subnet_get_metagraph(ROOT)).value.neurons
        return [seat.hotkey for seat in seats if seat.hotkey in own]

    mine = run(ctx.obj, ask)
    if len(mine) != 1:
        found = ", ".join(map(address, mine)) or "none"
        raise NotFound(f"{address(key.public)} has not one seat on root: {found}", hint="name the seat with --hotkey")
    return mine[0]
