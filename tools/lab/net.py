"""Random networks of real node processes: killed, paused, parted and restarted under load, then checked over RPC.

A net's plan comes from its seed alone: how many authorities and followers, the block time, the load, and at which second
what happens to whom. While trouble lasts at most f authorities are down or paused at a time, or the net is parted; at the
end everything heals. Then:

    same hashes    every node has the same block at every height, and still has whatever it announced
    no double sign no guard refused, nobody has evidence, no node ended by itself
    supply         the parts of the issuance sum to it
    progress       after the heal every node announces new blocks in time

`--seed N --nets 1` repeats a net. What went wrong keeps its folder, with the logs of all nodes.
Where the machine allows it every node has a network namespace and nets are parted by pulling cables (`switch`): packets
vanish, connections hang. Else they are parted inside the nodes (`admin_cutPeers`): messages are dropped, connections stay.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import click

from ledger.errors import Error, UsageError
from ledger.votes import max_faulty
from tools.lab.cluster import Cluster, Process
from tools.lab.frame import Run, experiment
from tools.lab.switch import Switch

SIZES: Final = (1, 2, 3, 4, 4, 4, 5)
BLOCK_TIMES_MS: Final = (200, 250, 400, 600)
KINDS: Final = ("kill", "stop", "pause", "part")
SETTLE_BLOCKS: Final = 3
START_PATIENCE_S: Final = 60.0
HEAL_S: Final = 40.0  # within which every node has to announce new blocks after everything healed
HEAL_BLOCKS: Final = 4
QUIET_S: Final = (0.5, 3.0)  # between two troubles
TROUBLE_S: Final = (0.5, 6.0)


@dataclass(frozen=True)
class Trouble:
    """From `at_s` on for `for_s` seconds. `nodes`: who is killed, stopped or paused, or the smaller side of a partition."""

    kind: str
    at_s: float
    for_s: float
    nodes: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    seed: int
    authorities: int
    followers: int
    block_time_ms: int
    load_per_s: float
    troubles: tuple[Trouble, ...]

    @classmethod
    def random(cls, seed: int, seconds: float, max_nodes: int) -> Plan:
        """The same seed, duration and limit give the same plan."""
        chance = random.Random(f"net {seed}")
        authorities = min(chance.choice(SIZES), max_nodes)
        followers = chance.randint(0, min(2, max_nodes - authorities))
        at_s, troubles = chance.uniform(*QUIET_S), list[Trouble]()
        while at_s < seconds:
            for_s = round(chance.uniform(*TROUBLE_S), 1)
            troubles.append(Trouble(*_draw(chance, authorities, followers, round(at_s, 1), for_s)))
            at_s += for_s + chance.uniform(*QUIET_S)
        return cls(
            seed, authorities, followers, chance.choice(BLOCK_TIMES_MS), round(chance.uniform(1, 8), 1), tuple(troubles)
        )


def _draw(chance: random.Random, authorities: int, followers: int, at_s: float, for_s: float) -> tuple[Any, ...]:
    """Usually as many as the net tolerates and sometimes more: then it has to wait for them, and go on afterwards."""
    everybody = range(authorities + followers)
    kind = chance.choice(KINDS if len(everybody) > 1 else KINDS[:3])
    most = max(1, max_faulty(authorities) + (chance.random() < 0.25))
    if kind == "part":
        most = max(1, len(everybody) // 2)
    return kind, at_s, for_s, tuple(sorted(chance.sample(everybody, chance.randint(1, min(most, len(everybody))))))


@dataclass
class Outcome:
    plan: Plan
    blocks: int = 0
    transfers: int = 0
    recovered_s: float | None = None
    problems: list[str] = field(default_factory=list)


@experiment("net", about="random networks of real processes: kills, pauses, partitions, restarts under load", seconds=120)
@click.option("--nets", type=click.IntRange(1, 10_000), default=2, show_default=True, help="Networks, one after the other.")
@click.option("--minutes", type=click.FloatRange(0.05, 600), default=0.5, show_default=True, help="Of trouble in each.")
@click.option("--seed", default=1, show_default=True, help="Seed of the first network.")
@click.option("--max-nodes", type=click.IntRange(1, 20), default=5, show_default=True, help="Processes of the largest.")
@click.option("--parted-by", type=click.Choice(["auto", "namespaces", "policy"]), default="auto", show_default=True,
              help="Cables of network namespaces, or what nodes let through.")
def net(run: Run, nets: int, minutes: float, seed: int, max_nodes: int, parted_by: str) -> None:
    """Run the networks and check each."""
    namespaces = parted_by != "policy" and Switch.available()
    if parted_by == "namespaces" and not namespaces:
        raise UsageError("this user cannot make network namespaces here", hint="run as root on Linux, or --parted-by policy")
    run.figure("parted_by", "network namespaces" if namespaces else "policy of the nodes")
    outcomes = []
    for number in run.track(range(seed, seed + nets), "networks", nets):
        plan = Plan.random(number, 60 * minutes, max_nodes)
        folder = Path(tempfile.mkdtemp(prefix=f"quorix-net-{number}-"))
        outcome = asyncio.run(live(plan, folder / "net", namespaces))
        if outcome.problems:
            run.note(f"network {number}: {outcome.problems[0]}; kept at {folder}")
            outcome.problems.append(f"logs: {folder}; again: quorix lab net --nets 1 --seed {number} --minutes {minutes:g}")
        else:
            shutil.rmtree(folder)
        outcomes.append(outcome)
    troubles = [trouble.kind for outcome in outcomes for trouble in outcome.plan.troubles]
    run.figure("networks", [
        {"seed": o.plan.seed, "authorities": o.plan.authorities, "followers": o.plan.followers, "blocks": o.blocks,
         "block_time_ms": o.plan.block_time_ms, "transfers": o.transfers, "recovered_s": o.recovered_s,
         "troubles": len(o.plan.troubles)} for o in outcomes
    ])
    run.figure("troubles", {kind: troubles.count(kind) for kind in KINDS})
    failed = [{"plan": asdict(o.plan), "problems": o.problems} for o in outcomes if o.problems]
    run.figure("failed", failed)
    run.equals("networks with forks, double signs, wrong supply, lost blocks or no progress", len(failed), 0, "networks")
    slowest = max((o.recovered_s for o in outcomes if o.recovered_s is not None), default=None)
    run.at_most("slowest return to new blocks at every node", slowest, HEAL_S, "s")


async def live(plan: Plan, folder: Path, namespaces: bool) -> Outcome:
    """One network's life."""
    cluster, outcome = None, Outcome(plan)
    switch = Switch(plan.authorities + plan.followers) if namespaces else None
    try:
        if switch is not None:
            switch.open()
        cluster = Cluster(
            folder, authorities=plan.authorities, followers=plan.followers, block_time_ms=plan.block_time_ms, seed=plan.seed,
            words=("--p2p", "on"), switch=switch,
        )
        await cluster.start()
        async with cluster.load(plan.load_per_s) as load:
            if not await cluster.reach(SETTLE_BLOCKS, within_s=START_PATIENCE_S):
                outcome.problems.append("it did not begin")
            began_s = time.monotonic()
            for trouble in plan.troubles:
                await asyncio.sleep(max(0.0, began_s + trouble.at_s - time.monotonic()))
                await _make(cluster, trouble)
            outcome.recovered_s = await _recovered(cluster)
        outcome.transfers, outcome.blocks = load.sent, cluster.height
        if outcome.recovered_s is None:
            heights = [node.height for node in cluster.nodes]
            outcome.problems.append(f"no progress within {HEAL_S:g} s of the heal: heights {heights}")
        outcome.problems += await cluster.violations()
    except Error as error:
        outcome.problems.append(str(error))
    finally:
        if cluster is not None:
            await cluster.stop()
        if switch is not None:
            switch.close()
    return outcome


async def _make(cluster: Cluster, trouble: Trouble) -> None:
    """Begin one trouble, let it last, end it."""
    victims = [cluster.nodes[index] for index in trouble.nodes]
    if trouble.kind == "part":
        rest = [node.index for node in cluster.nodes if node.index not in trouble.nodes]
        await cluster.part([trouble.nodes, rest])
        await asyncio.sleep(trouble.for_s)
        await cluster.heal()
    elif trouble.kind == "pause":
        for node in victims:
            node.pause(True)
        await asyncio.sleep(trouble.for_s)
        for node in victims:
            node.pause(False)
    else:
        number = signal.SIGKILL if trouble.kind == "kill" else signal.SIGTERM
        await asyncio.gather(*(node.kill(number) for node in victims))
        await asyncio.sleep(trouble.for_s)
        await asyncio.gather(*(_again(node) for node in victims))


async def _again(node: Process) -> None:
    await node.start()
    await node.up()


async def _recovered(cluster: Cluster) -> float | None:
    """Seconds until every node announces blocks that are newer than all that there were."""
    began_s, height = time.monotonic(), cluster.height
    if await cluster.reach(height + HEAL_BLOCKS, cluster.nodes, within_s=HEAL_S):
        return round(time.monotonic() - began_s, 2)
    return None
