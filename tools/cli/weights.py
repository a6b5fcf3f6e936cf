"""`quorix weights`: what validators say of miners, to look at, and to say by hand."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.client.records import SubnetRecord
from ledger.client.timelock_records import TimelockRecord
from ledger.crypto import KeyPair
from ledger.errors import Error, Rejected, UsageError
from tools.cli.main import Noun
from tools.cli.output import Output, counted
from tools.cli.session import address, run, short_names, signing_key
from tools.devnet.layout import home_directory

if TYPE_CHECKING:
    from ai.judge.ballot import Ballot

group = Noun("weights", help="Weights of validators.")

LARGEST: Final = 65_535  # of a row on chain
WEIGHT: Final = r"([0-9]{1,5})=([0-9]{1,12}(?:\.[0-9]{1,12})?)"
HOTKEY: Final = click.option(
    "--key", "signer", required=True, metavar="HOTKEY", help="Key file, or //role//name//hot on a devnet."
)

COMMIT_STATES: Final = {
    "hidden": "", "sealed": ", sealed: the authorities open it", "malformed": ", did not open to the committed row: forfeited",
}


@group.command("show")
@click.argument("netuid", type=int)
@click.option("--from", "from_uid", type=int, help="Only the row of this validator.")
@click.pass_context
def show_command(ctx: click.Context, netuid: int, from_uid: int | None) -> None:
    """Applied weights, commitments that wait for their reveal, and what the authorities have opened."""
    out = Output(ctx.obj)

    async def read(api: Any) -> dict[str, Any]:
        weights, commits = await api.subnet_get_weights(netuid), await api.subnet_get_commits(netuid)
        graph, lock = await api.subnet_get_metagraph(netuid), await api.subnet_get_timelock(netuid)
        rows = [row for row in weights.value if from_uid is None or row.uid == from_uid]
        names = {n.uid: n.name or str(n.uid) for n in graph.value.neurons}
        return {"at": weights.at, "rows": rows, "commits": commits.value, "timelock": lock.value, "names": names,
                "hotkeys": await short_names(api, netuid)}

    value = run(ctx.obj, read)
    names, hotkeys = value.pop("names"), value.pop("hotkeys")

    def show() -> None:
        columns = sorted({uid for row in value["rows"] for uid in row.uids})
        rows = []
        for row in value["rows"]:
            given, total = dict(zip(row.uids, row.values, strict=True)), sum(row.values) or 1
            cells = [f"{given[uid] / total:.3f}" if uid in given else "·" for uid in columns]
            rows.append((f"{row.uid} {names.get(row.uid, '')}", *cells))
        titles = ["validator", *(names.get(uid, str(uid)) for uid in columns)]
        if rows:
            out.table(f"weights on subnet {netuid} at block {value['at'].height}", titles, rows, right=titles[1:])
        else:
            none = "no validator has weights" if from_uid is None else f"uid {from_uid} has no weights"
            out.piece(f"{none} on subnet {netuid} at block {value['at'].height}\n")
        for commit in value["commits"]:
            who = hotkeys.get(commit.hotkey) or address(commit.hotkey)
            out.remark(
                f"committed by {who} for epoch {commit.epoch} at block {commit.height}: 0x{commit.hash.hex()[:16]}"
                f"{COMMIT_STATES[commit.state]}"
            )
        for line in _timelock_lines(value["timelock"]):
            out.remark(line)

    out.data(value, show)


def _timelock_lines(lock: TimelockRecord) -> list[str]:
    """What the authorities do with sealed weights, one fact a line."""
    if not lock.on:
        return []
    lines = []
    if (keys := lock.keys) is not None:
        lines.append(
            f"epoch {keys.epoch}: {lock.sealed} sealed; {keys.threshold} of {len(keys.publics)} authorities will open them"
        )
    else:
        lines.append("running epoch: too few authorities announced a key, what is committed is revealed by hand")
    if (opening := lock.opening) is not None:
        what = {
            "waiting": f"waits for secrets until block {opening.until_height}", "opening": "is being opened",
            "opened": "is open",
            "failed": "got too few secrets: what was sealed is revealed by hand",
        }[opening.stage]
        lines.append(
            f"epoch {opening.epoch} {what}: {opening.released} of {opening.keys} secrets released, {opening.threshold} needed; "
            f"{opening.opened} opened, {opening.waiting} waiting, {opening.malformed} forfeited"
        )
    if lock.beacon is not None:
        source = counted(lock.beacon.released, "secret") if lock.beacon.released else "the hash of a certificate"
        lines.append(f"beacon of epoch {lock.beacon.epoch}, from {source}: 0x{lock.beacon.value.hex()}")
    return lines


# --- to vote by hand ---------------------------------------------------------------------------------------------


@group.command("commit")
@click.argument("netuid", type=click.IntRange(1, LARGEST))
@click.argument("words", nargs=-1, required=True, metavar="UID=WEIGHT...")
@click.option("--by-hand", is_flag=True, help="Do not let the authorities open it, but reveal it yourself.")
@HOTKEY
@click.pass_context
def commit_command(ctx: click.Context, netuid: int, words: tuple[str, ...], by_hand: bool, signer: str) -> None:
    """Vote with a validator's HOTKEY in the running epoch; weights count relative to each other.

    The row is sealed where the subnet takes that, and the authorities open it; else `quorix weights reveal` has to follow.
    What was committed is kept in this home until then.

    \b
    quorix weights commit 1 3=1 4=0.5 --key //validator//0//hot
    """
    uids, values = parse_row(words)
    out, key, told = Output(ctx.obj), signing_key(ctx.obj, signer), list[dict[str, Any]]()
    plan = f"commit as {address(key.public)} on subnet {netuid}: {' '.join(words)}"
    if ctx.obj.dry_run:
        out.data({"netuid": netuid, "uids": uids, "values": values}, f"{plan}\nnothing was sent (--dry-run)")
        return
    out.confirm(plan)

    async def vote(ballot: Ballot, subnet: SubnetRecord) -> None:
        if not await ballot.commit(subnet, uids, values, sealed=not by_hand) and not told:
            held = any(row.epoch == subnet.epoch and row.confirmed for row in ballot.memory.pending(netuid))
            cause = "is committed to already" if held else f"ends in {counted(subnet.blocks_left, 'block')}"
            hint = f"commit in the next one; quorix subnet show {netuid} says when it begins"
            raise UsageError(f"epoch {subnet.epoch} {cause}", hint=hint)
        due = f"reveal it in epoch {subnet.epoch + subnet.reveal_period}: quorix weights reveal {netuid} --key {signer}"
        if not told:
            told.append({"event": "set", "next": "it counts from the end of this epoch on"})
        elif told[-1]["event"] == "committed":
            told[-1]["next"] = "the authorities open it" if told[-1]["sealed"] else due
        else:
            told[-1]["next"] = "it came into the next epoch and does not count: commit again"

    _with_ballot(ctx, key, netuid, told, vote)
    out.data(told, "\n".join(map(_line, told)))


@group.command("reveal")
@click.argument("netuid", type=click.IntRange(1, LARGEST))
@HOTKEY
@click.pass_context
def reveal_command(ctx: click.Context, netuid: int, signer: str) -> None:
    """Reveal what `quorix weights commit` has committed to, if it is due."""
    out, key, told = Output(ctx.obj), signing_key(ctx.obj, signer), list[dict[str, Any]]()
    if ctx.obj.dry_run:
        out.data([], f"reveal what {address(key.public)} has committed to on subnet {netuid}\nnothing was sent (--dry-run)")
        return

    async def show(ballot: Ballot, subnet: SubnetRecord) -> None:
        await ballot.reveal(subnet)
        for row in ballot.memory.pending(netuid):
            due = row.epoch + subnet.reveal_period
            left = f", in {counted(subnet.blocks_left, 'block')}" if due == subnet.epoch + 1 else ""
            when = "the authorities may still open it" if due == subnet.epoch else f"due in epoch {due}{left}"
            told.append({"event": "waits", "netuid": netuid, "epoch": row.epoch, "next": when})

    _with_ballot(ctx, key, netuid, told, show)
    nothing = f"this home has nothing to reveal for {address(key.public)} on subnet {netuid}"
    out.data(told, "\n".join(map(_line, told)) or nothing)
    failed = next((each for each in told if each["event"] == "trouble"), None)
    if failed is not None:
        raise Rejected(failed["error"], failed["cause"])


def parse_row(words: tuple[str, ...]) -> tuple[list[int], list[int]]:
    """Uids in ascending order with their u16 weights, the largest of which is 65535. Raises UsageError."""
    given: dict[int, Fraction] = {}
    for word in words:
        found = re.fullmatch(WEIGHT, word, re.ASCII)
        if found is None or int(found[1]) > LARGEST:
            raise UsageError(f"{word[:40]!r} is no weight of a uid", hint="write UID=WEIGHT, such as 3=0.5")
        if int(found[1]) in given:
            raise UsageError(f"uid {found[1]} is named twice")
        given[int(found[1])] = Fraction(found[2])
    largest = max(given.values())
    if not largest:
        raise UsageError("all weights are zero", hint="name those uids that are to be paid")
    uids = sorted(given)
    return uids, [int(given[uid] * LARGEST / largest) for uid in uids]


def _with_ballot(
    ctx: click.Context, key: KeyPair, netuid: int, told: list[dict[str, Any]],
    work: Callable[[Ballot, SubnetRecord], Awaitable[None]],
) -> None:
    """The ballot that a validator uses, with what this home has committed to for the key."""
    from ai.judge.ballot import Ballot
    from ai.judge.memory import Memory

    async def ask(api: Any) -> None:
        genesis_hash, subnet = (await api.system_properties()).genesis_hash, (await api.subnet_get(netuid)).value
        folder = home_directory(ctx.obj.home) / "weights"
        folder.mkdir(parents=True, exist_ok=True)
        memory = Memory(folder / f"{genesis_hash.hex()[:16]}-{address(key.public)}.db")
        try:
            await work(Ballot(api, key, genesis_hash, memory, told.append), subnet)
        finally:
            memory.close()

    try:
        run(ctx.obj, ask, deadline=False)
    except Rejected as refused:
        if refused.error_name in ("RevealTooEarly", "WeightsAreSealed"):
            raise Error(refused.cause, hint="try again in the next block") from refused
        raise


def _line(told: dict[str, Any]) -> str:
    words = [f"epoch {told['epoch']}:" if "epoch" in told else "", told["event"], told.get("cause", "")]
    return " ".join(filter(None, words)) + (f"; {told['next']}" if "next" in told else "")
