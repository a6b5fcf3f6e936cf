"""`quorix weights`: what validators say of miners."""

from __future__ import annotations

from typing import Any

import click

from tools.cli.main import Noun
from tools.cli.output import Output
from tools.cli.session import address, run, short_names

group = Noun("weights", help="Weights of validators.")


@group.command("show")
@click.argument("netuid", type=int)
@click.option("--from", "from_uid", type=int, help="Only the row of this validator.")
@click.pass_context
def show_command(ctx: click.Context, netuid: int, from_uid: int | None) -> None:
    """Applied weights, and commitments that wait for their reveal."""
    out = Output(ctx.obj)

    async def read(api: Any) -> dict[str, Any]:
        weights, commits = await api.subnet_get_weights(netuid), await api.subnet_get_commits(netuid)
        graph = await api.subnet_get_metagraph(netuid)
        rows = [row for row in weights.value if from_uid is None or row.uid == from_uid]
        names = {n.uid: n.name or str(n.uid) for n in graph.value.neurons}
        return {"at": weights.at, "rows": rows, "commits": commits.value, "names": names,
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
        out.table(f"weights on subnet {netuid} at block {value['at'].height}", titles, rows, right=titles[1:])
        for commit in value["commits"]:
            who = hotkeys.get(commit.hotkey) or address(commit.hotkey)
            out.remark(f"committed by {who} for epoch {commit.epoch} at block {commit.height}: {commit.hash.hex()[:16]}")

    out.data(value, show)
