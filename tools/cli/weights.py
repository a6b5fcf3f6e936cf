"""`quorix weights`: what validators say of miners."""

from __future__ import annotations

from typing import Any, Final

import click

from ledger.client.timelock_records import TimelockRecord
from tools.cli.main import Noun
from tools.cli.output import Output, counted
from tools.cli.session import address, run, short_names

group = Noun("weights", help="Weights of validators.")

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
