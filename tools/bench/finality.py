"""Finality: from the first sight of a proposal to the durable final block, as each node measures it itself.

Real processes on loopback, one for each authority, with blocks every 250 ms and a few transfers a second. With four
authorities one is killed afterwards: the chain has to keep its pace, since a leader that misses its turns is skipped.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, Final

import click

from ledger.errors import UsageError
from tools.lab.cluster import Cluster, Process, gaps_s, percentile
from tools.lab.frame import Run, benchmark

LIMIT_MS: Final = {4: 300}  # p50, by number of authorities
SETTLE_BLOCKS: Final = 8  # after the start, not counted
SKIP_BLOCKS: Final = 16  # after a kill: so many blocks until its turns were missed often enough
PACE_PERCENT: Final = 125  # of the block time, with one authority dead
LOAD_PER_S: Final = 5.0
MAX_NODES: Final = 20
PATIENCE: Final = 20  # times the block time until a block counts as missing


@benchmark("finality", about="time from proposal to final in real processes; the pace with one authority dead", seconds=70)
@click.option("--nodes", default="1,4,7", show_default=True, help="Numbers of authorities, separated by commas.")
@click.option("--blocks", type=click.IntRange(10, 10_000), default=60, show_default=True, help="Blocks measured of each.")
@click.option("--block-time", "block_time_ms", type=click.IntRange(50, 60_000), default=250, show_default=True, help="In ms.")
def finality(run: Run, nodes: str, blocks: int, block_time_ms: int) -> None:
    """One cluster after the other."""
    for count in _counts(nodes):
        run.note(f"{count} authorities")
        with tempfile.TemporaryDirectory(prefix="quorix-finality-") as folder:
            asyncio.run(_measure(run, Path(folder), count, blocks, block_time_ms))


def _counts(text: str) -> list[int]:
    try:
        counts = [int(part) for part in text.split(",")]
    except ValueError:
        counts = [0]
    if not all(1 <= count <= MAX_NODES for count in counts):
        raise UsageError(f"--nodes {text!r}: whole numbers from 1 to {MAX_NODES}, separated by commas")
    return counts


async def _measure(run: Run, folder: Path, count: int, blocks: int, block_time_ms: int) -> None:
    cluster = Cluster(folder, authorities=count, block_time_ms=block_time_ms)
    patience_s = PATIENCE * block_time_ms / 1000 + blocks * block_time_ms / 250
    try:
        await cluster.start()
        async with cluster.load(LOAD_PER_S) as load:
            await cluster.reach(SETTLE_BLOCKS, within_s=patience_s)
            first = cluster.height + 1
            complete = await cluster.reach(first + blocks, within_s=patience_s)
            figures = _figures(cluster.nodes, first, first + blocks) | {"transfers": load.sent}
            run.figure(f"{count} authorities", figures)
            name = f"{count} authorities, {block_time_ms} ms blocks: p50 from proposal to final"
            if count in LIMIT_MS and block_time_ms <= LIMIT_MS[count]:
                run.at_most(name, figures["p50_ms"] if complete else None, LIMIT_MS[count], "ms")
            if count == 4:
                await _one_dead(run, cluster, blocks, patience_s)
    finally:
        await cluster.stop()
    faults = sum(len(each.faults) for each in cluster.nodes)
    run.equals(f"{count} authorities: nodes that ended by themselves", faults, 0, "nodes")


async def _one_dead(run: Run, cluster: Cluster, blocks: int, patience_s: float) -> None:
    """Kill one of four and measure once its turns are skipped."""
    dead, others = cluster.nodes[-1], cluster.nodes[:-1]
    await dead.kill()
    killed_at = cluster.height
    await cluster.reach(killed_at + SKIP_BLOCKS, others, within_s=patience_s)
    first = cluster.height + 1
    complete = await cluster.reach(first + blocks, others, within_s=patience_s)
    figures = _figures(others, first, first + blocks)
    learning = [gap for node in others for gap in gaps_s([s for s in node.seen if killed_at <= s.height <= first])]
    figures["longest_gap_until_skipped_ms"] = round(1000 * max(learning, default=0.0))
    run.figure("4 authorities, one dead", figures)
    pace_ms = figures["interval_mean_ms"] if complete else None
    run.at_most("one of four dead: mean time between blocks", pace_ms, cluster.block_time_ms * PACE_PERCENT // 100, "ms")


def _figures(nodes: list[Process], first: int, last: int) -> dict[str, Any]:
    """Over all blocks of that range and all nodes that saw them being proposed."""
    seen = [each for node in nodes for each in node.seen if first <= each.height <= last]
    times = [float(each.finality_ms) for each in seen if each.finality_ms]
    gaps = [1000 * gap for node in nodes for gap in gaps_s([each for each in node.seen if first <= each.height <= last])]
    return {
        "p50_ms": percentile(times, 50), "p99_ms": percentile(times, 99), "samples": len(times),
        "interval_mean_ms": round(sum(gaps) / len(gaps), 1) if gaps else 0.0, "interval_p99_ms": round(percentile(gaps, 99), 1),
        "rounds_above_0": len({each.height for each in seen if each.round > 0}), "blocks": last - first + 1,
    }
