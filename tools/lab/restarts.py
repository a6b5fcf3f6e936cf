"""Kill and restart of each authority in turn, under load: nothing signed twice, nothing final lost, the others go on.

Four real processes with a block every 250 ms. One is killed with SIGKILL at a moment drawn from the seed, left dead for a
moment, and started again; recovery is the time from the start of its process until it announces a final block that is the
newest of all. Then it is the next one's turn.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Final

import click

from tools.lab.cluster import Cluster, Process, gaps_s, percentile
from tools.lab.frame import Run, experiment

AUTHORITIES: Final = 4
BLOCK_TIME_MS: Final = 250
LOAD_PER_S: Final = 5.0
SETTLE_BLOCKS: Final = 8
DEAD_S: Final = (0.2, 1.5)
LEAD_S: Final = (0.3, 1.2)  # from a recovery to the next kill
PATIENCE_S: Final = 30.0
RECOVERY_P50_S: Final = 4.0
RECOVERY_P99_S: Final = 6.0
LONGEST_GAP_S: Final = 2.0  # of the three others: two lost turns in a row on a loaded machine


@experiment("restarts", about="kill -9 and restart of each of four real authorities in turn, under load", seconds=150)
@click.option("--rounds", type=click.IntRange(1, 1000), default=20, show_default=True, help="Kills, one after the other.")
@click.option("--seed", default=1, show_default=True, help="Of the moments.")
@click.option("--block-time", "block_time_ms", type=click.IntRange(50), default=BLOCK_TIME_MS, show_default=True, help="In ms.")
def restarts(run: Run, rounds: int, seed: int, block_time_ms: int) -> None:
    """Recovery times, gaps of the others, and every check of a net."""
    with tempfile.TemporaryDirectory(prefix="quorix-restarts-") as folder:
        asyncio.run(_drill(run, Path(folder), rounds, seed, block_time_ms))


async def _drill(run: Run, folder: Path, rounds: int, seed: int, block_time_ms: int) -> None:
    cluster = Cluster(folder, authorities=AUTHORITIES, block_time_ms=block_time_ms, seed=seed)
    chance, recovered, longest, lost = random.Random(seed), list[float](), list[float](), 0
    try:
        await cluster.start()
        async with cluster.load(LOAD_PER_S) as load:
            await cluster.reach(SETTLE_BLOCKS, within_s=PATIENCE_S)
            for number in run.track(range(rounds), "kills", rounds):
                victim = cluster.nodes[number % AUTHORITIES]
                await asyncio.sleep(chance.uniform(*LEAD_S))
                recovery_s, gap_s = await _one(cluster, victim, chance)
                longest.append(gap_s)
                if recovery_s is None:
                    lost += 1
                else:
                    recovered.append(recovery_s)
        run.figure("transfers", {"sent": load.sent, "refused": load.refused})
        found = await cluster.violations()
        run.figure("blocks", cluster.height)
    finally:
        await cluster.stop()
    gaps = sorted(longest)
    run.figure("recovery_s", [round(each, 2) for each in recovered])
    run.figure("longest gap of the others, each kill, ms", {
        "p50": round(1000 * percentile(gaps, 50)), "p99": round(1000 * percentile(gaps, 99)), "most": round(1000 * gaps[-1]),
    })
    run.figure("violations", found[:20])
    run.equals("violations: forks, double signs, lost blocks, supply, nodes that ended", len(found), 0, "")
    run.equals("kills after which the node did not come back", lost, 0, "")
    run.at_most("recovery p50", round(percentile(recovered, 50), 3), RECOVERY_P50_S, "s")
    run.at_most("recovery p99", round(percentile(recovered, 99), 3), RECOVERY_P99_S, "s")
    run.at_most("longest gap between two blocks of the three others", round(gaps[-1], 3), LONGEST_GAP_S, "s")


async def _one(cluster: Cluster, victim: Process, chance: random.Random) -> tuple[float | None, float]:
    """Kill, wait, start. Returns (seconds from the process's start to its first newest block, longest gap of the others)."""
    others = [node for node in cluster.nodes if node is not victim]
    began_s = time.monotonic()
    await victim.kill()
    await asyncio.sleep(chance.uniform(*DEAD_S))
    known = len(victim.seen)
    await victim.start()
    started_s = time.monotonic()
    recovery_s = None
    while time.monotonic() - started_s < PATIENCE_S and not victim.faults:
        if len(victim.seen) > known and victim.height >= cluster.height:
            recovery_s = victim.seen[-1].at_s - victim.started_s
            break
        await asyncio.sleep(0.01)
    since = [gaps_s([each for each in node.seen if each.at_s >= began_s]) for node in others]
    return recovery_s, max((gap for gaps in since for gap in gaps), default=PATIENCE_S)
