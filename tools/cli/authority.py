"""`quorix authority`: who makes blocks, how they are doing, their bonds and keys, and changes of the set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from ledger.client.calls import Wait
from ledger.client.records import AuthorityRecord, Reading
from ledger.crypto import KeyPair, verify
from ledger.errors import NotFound, UsageError
from tools.cli.governance import SEAT, seat_of
from tools.cli.main import Noun
from tools.cli.output import Output, counted, format_amount
from tools.cli.session import account, address, run, signing_key
from tools.cli.submission import SIGNER, WAIT, send, submit

group = Noun("authority", help="Authorities: who makes blocks, bonds, keys, changes of the set.")


@group.command("list")
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """The authority set with uptime and bonds, and who waits for a seat."""
    out = Output(ctx.obj)

    async def ask(api: Any) -> dict[str, Any]:
        return {
            "authorities": await api.chain_get_authorities(), "candidates": await api.chain_get_authority_candidates(),
        }

    answer = run(ctx.obj, ask)
    reading, waiting = answer["authorities"], answer["candidates"].value

    def show() -> None:
        n = len(reading.value)
        rows = [
            (a.index, address(a.session_key), _state(a), _uptime(a), a.led, a.missed, format_amount(a.bonded_rao))
            for a in reading.value
        ]
        needed = f"{2 * n // 3 + 1} {'is' if n == 1 else 'are'} needed, {(n - 1) // 3} may fail"
        title = f"{counted(n, 'authority', 'authorities')} at block {reading.at.height}; {needed}"
        columns = ("", "session key", "state", "signed", "led", "missed", "bond")
        out.table(title, columns, rows, right=("signed", "led", "missed", "bond"))
        if waiting:
            out.table(
                "candidates", ("session key", "bond", "needed", "heartbeat", ""),
                [
                    (address(c.session_key), format_amount(c.bonded_rao), format_amount(c.needed_rao),
                     "-" if c.heartbeat_session is None else f"session {c.heartbeat_session}", "ready" if c.ready else "waits")
                    for c in waiting
                ],
            )

    out.data(answer, show)


def _state(a: AuthorityRecord) -> str:
    return "disabled" if a.disabled else "skipped" if a.skipped else "active"


def _uptime(a: AuthorityRecord) -> str:
    """Share of this session's certificates that it signed."""
    return f"{100 * a.signed / a.certificates:.1f} %" if a.certificates else "-"


@group.command("bond")
@click.argument("amount")
@SIGNER
@WAIT
@click.pass_context
def bond_command(ctx: click.Context, amount: str, signer: str, wait: Wait) -> None:
    """Put AMOUNT down as the bond of an authority."""
    send(ctx, signer, "authorities.bond", {"amount_rao": amount}, wait=wait, plan=f"bond {amount} of {{signer}}")


@group.command("unbond")
@click.argument("amount")
@SIGNER
@WAIT
@click.pass_context
def unbond_command(ctx: click.Context, amount: str, signer: str, wait: Wait) -> None:
    """Begin to take AMOUNT of a bond back; until its time is over it can be slashed."""
    plan = f"begin to take back {amount} of the bond of {{signer}}"
    send(ctx, signer, "authorities.unbond", {"amount_rao": amount}, wait=wait, plan=plan)


@group.command("withdraw")
@SIGNER
@WAIT
@click.pass_context
def withdraw_command(ctx: click.Context, signer: str, wait: Wait) -> None:
    """Have everything paid out whose unbonding time is over."""
    send(ctx, signer, "authorities.withdraw_bond", {}, wait=wait, plan="withdraw the free bond of {signer}")


@group.command("rotate-key")
@click.argument("old")
@click.argument("new")
@SIGNER
@WAIT
@click.pass_context
def rotate_command(ctx: click.Context, old: str, new: str, signer: str, wait: Wait) -> None:
    """Replace session key OLD (an address) by NEW (a key that this machine has), from the next session on."""
    key, fresh, before = signing_key(ctx.obj, signer), signing_key(ctx.obj, new), account(ctx.obj, old)
    args = {"old_key": before, "new_key": fresh.public, "proof": run(ctx.obj, lambda api: _proof(api, fresh, key.public))}
    plan = f"from the next session on {address(fresh.public)} signs blocks in the place of {address(before)}"
    submit(ctx, key, "authorities.set_session_key", args, wait=wait, plan=plan)


@group.command("proof")
@click.argument("session_key")
@click.argument("who")
@click.pass_context
def proof_command(ctx: click.Context, session_key: str, who: str) -> None:
    """Prove that SESSION_KEY is at hand and is to belong to the account WHO: what a proposal of a set needs."""
    key, owner = signing_key(ctx.obj, session_key), account(ctx.obj, who)
    proof = run(ctx.obj, lambda api: _proof(api, key, owner))
    member = f"{address(key.public)},{address(owner)},{proof.hex()}"
    Output(ctx.obj).data({"session_key": key.public, "account": owner, "proof": proof, "member": member}, member)


def _changes(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say how a proposed set differs from the present one."""
    for option in (
        click.option("--as-is", is_flag=True, help="The present set: takes back what was proposed before."),
        click.option("--remove", "removed", multiple=True, metavar="SESSION_KEY", help="Address of a session key; repeatable."),
        click.option("--add", "added", multiple=True, metavar="MEMBER", help="Line of `quorix authority proof`; repeatable."),
    ):  # fmt: skip
        command = option(command)
    return command


@group.command("propose")
@_changes
@SIGNER
@WAIT
@click.pass_context
def propose_command(
    ctx: click.Context, added: tuple[str, ...], removed: tuple[str, ...], as_is: bool, signer: str, wait: Wait
) -> None:
    """Propose another authority set, with the chain's sudo key: the present one with these changes."""
    call, plan = _changed_set(ctx, added, removed, as_is)
    submit(ctx, signing_key(ctx.obj, signer), "governance.sudo", {"call": call}, wait=wait, plan=plan)


@group.command("propose-set")
@_changes
@SEAT
@SIGNER
@WAIT
@click.pass_context
def propose_set_command(
    ctx: click.Context, added: tuple[str, ...], removed: tuple[str, ...], as_is: bool, seat: str | None, signer: str, wait: Wait
) -> None:
    """Propose another authority set to the root seats, who vote: the present one with these changes."""
    call, plan = _changed_set(ctx, added, removed, as_is)
    key = signing_key(ctx.obj, signer)
    hotkey = seat_of(ctx, key, seat)
    plan += f"\nfor the seat {address(hotkey)}, if it is approved; the deposit comes back unless it is rejected"
    submit(ctx, key, "governance.propose", {"hotkey": hotkey, "call": call}, wait=wait, plan=plan)


def _changed_set(
    ctx: click.Context, added: tuple[str, ...], removed: tuple[str, ...], as_is: bool
) -> tuple[list[Any], str]:
    """The inner call `authorities.propose_set`, and what it changes. Raises UsageError and NotFound."""
    if as_is == bool(added or removed):
        raise UsageError("say what is to change, or --as-is", hint="--add MEMBER, --remove SESSION_KEY: quorix authority list")
    gone, new = [account(ctx.obj, each) for each in removed], [_member(ctx, text) for text in added]

    async def work(api: Any) -> tuple[list[AuthorityRecord], int]:
        kept = (await set_without(api, gone)).value
        domain = (await api.system_properties()).signing_domain
        _check_newcomers(new, {a.session_key for a in kept} | set(gone), domain)
        numbers = {entry.name: entry.number for entry in (await api.state_get_metadata()).calls}
        return kept, numbers["authorities.propose_set"]

    kept, number = run(ctx.obj, work)
    members = [[a.session_key, a.account, None] for a in kept] + new
    if not members:
        raise UsageError("nobody would be left in the authority set", hint="--add MEMBER beside --remove")
    lines = [f"propose an authority set of {len(members)}; each session brings the set closer to it", f"  {len(kept)} stay"]
    lines += [f"  joins  {address(key)} of {address(owner)}" for key, owner, _ in new]
    lines += [f"  leaves {address(key)}" for key in gone]
    return [number, [members]], "\n".join(lines)


def _check_newcomers(new: list[list[Any]], known: set[bytes], domain: bytes) -> None:
    """What would be refused when the call runs, which for a proposal is after the vote. Raises UsageError."""
    for key, owner, proof in new:
        if key in known:
            raise UsageError(f"{address(key)} is in the set already, or named twice", hint="a newcomer has a fresh session key")
        if not verify(key, "pop", domain, owner + key, proof):
            cause = f"the proof does not show possession of {address(key)} for {address(owner)} on this chain"
            raise UsageError(cause, hint="quorix authority proof SESSION_KEY ACCOUNT, against a node of this chain")
        known.add(key)


async def set_without(api: Any, gone: list[bytes]) -> Reading[list[AuthorityRecord]]:
    """The present authorities but those with these session keys. Raises NotFound for a key that is none of theirs."""
    reading: Reading[list[AuthorityRecord]] = await api.chain_get_authorities()
    unknown = [key for key in gone if key not in [a.session_key for a in reading.value]]
    if unknown:
        raise NotFound(f"{address(unknown[0])} is not in the authority set", hint="quorix authority list")
    return Reading(reading.at, [a for a in reading.value if a.session_key not in gone])


def _member(ctx: click.Context, text: str) -> list[Any]:
    parts = text.split(",")
    try:
        proof = bytes.fromhex(parts[2])
    except (IndexError, ValueError):
        proof = b""
    if len(parts) != 3 or len(proof) != 64:
        raise UsageError(f"{text[:80]!r} is no member", hint="quorix authority proof SESSION_KEY ACCOUNT prints one")
    return [account(ctx.obj, parts[0]), account(ctx.obj, parts[1]), proof]


async def _proof(api: Any, key: KeyPair, owner: bytes) -> bytes:
    """Signature of the session key over itself and its account, under the chain's present signing domain."""
    properties = await api.system_properties()
    return key.sign("pop", properties.signing_domain, owner + key.public)
