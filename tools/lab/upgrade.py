"""A runtime upgrade of a running chain by governance: four real authorities go from version 1 to version 2.

    schedule   a root seat proposes the upgrade, the seats vote, the chain enacts it. The third node is held back at version
               1 by its operator; the fourth is an old release: a program whose only rules are the frozen ones of version 1
    postpone   two of four are ready at the height: the upgrade waits for another session
    activate   the third operator lets his node run version 2; at the next height the chain goes over to it
    stop       the old release ends before that block with exit code 8 and says what to install; its home opens again with
               this release, and it catches up
    replay     a fresh follower executes everything from the genesis, across the boundary, to the same state roots
    rules      what only version 2 can do is refused before and possible after

Blocks never stop: the largest gap between two of them, as the others announce them, is measured over the whole run and
around the first block of version 2.

With `--home` it is a rehearsal on the state of a stopped node instead (`rehearsal.py`), for before a proposal.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click

from genesis.build import build_genesis
from genesis.cast import Member, cast
from genesis.spec import format_spec, load_spec
from ledger.blocks import Extrinsic
from ledger.client.records import UpgradeRecord
from ledger.client.remote import RemoteChain
from ledger.crypto import KeyPair
from ledger.errors import Error
from runtime import versions
from runtime.dispatch import call_number
from tools.lab.cluster import Cluster, Process, gaps_s
from tools.lab.frame import Run, experiment

AUTHORITIES: Final = 4
OLD: Final = 1
NEW: Final = 2
SESSION_BLOCKS: Final = 20
ENACTMENT_DELAY: Final = 5
NOTICE_BLOCKS: Final = 2 * SESSION_BLOCKS + ENACTMENT_DELAY  # from the proposal to the height that it names
OTHER_ROOMS: Final = ("ledger", "genesis", "p2p", "ai", "tools")
HELD_BACK: Final = ("--max-runtime-version", str(OLD))
LOAD_PER_S: Final = 4.0
AFTER_BLOCKS: Final = 12  # that are made by the new rules before the checks
AROUND_BLOCKS: Final = 8  # around the first block of the new rules
PATIENCE_S: Final = 90.0
POLL_S: Final = 0.1
LONGEST_GAP_S: Final = 3.0  # a lost turn of the node that stops, on a machine with other work
UNKNOWN_VERSION: Final = 8


@experiment("upgrade", about="four real authorities go from version 1 of the rules to version 2 by governance", seconds=100)
@click.option("--seed", default=1, show_default=True, help="Of the keys.")
@click.option("--block-time", "block_time_ms", type=click.IntRange(50), default=250, show_default=True, help="In ms.")
@click.option("--home", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None,
              help="Instead rehearse an upgrade on a copy of the state of this stopped node.")
@click.option("--version", type=click.IntRange(1), default=versions.NEWEST, show_default=True, help="To rehearse.")
@click.option("--blocks", type=click.IntRange(1, 10_000), default=100, show_default=True, help="To rehearse.")
def upgrade(run: Run, seed: int, block_time_ms: int, home: Path | None, version: int, blocks: int) -> None:
    """The story of an upgrade, with the gaps between blocks, the replay, and the node that stops."""
    if home is not None:
        return _rehearsed(run, home, version, blocks)
    with tempfile.TemporaryDirectory(prefix="quorix-upgrade-") as folder:
        asyncio.run(_story(run, Path(folder), seed, block_time_ms))


def _rehearsed(run: Run, home: Path, version: int, blocks: int) -> None:
    from tools.lab.rehearsal import rehearse
    from tools.ops.db_home import stopped_node

    with stopped_node(home) as node:
        done = rehearse(node.chain, version, blocks)
    run.figure("rehearsal", vars(done))
    run.equals("violations of the invariants after the migration", len(done.violations), 0, "")


async def _story(run: Run, folder: Path, seed: int, block_time_ms: int) -> None:
    net = _net(folder, seed, block_time_ms)
    *_, third, fourth = net.nodes[:AUTHORITIES]
    follower = net.nodes[AUTHORITIES]
    third.words = [*third.words, *HELD_BACK]
    fourth.prefix = ("env", "-C", str(_old_release(folder / "old-release")))  # modules are found there first
    try:
        await asyncio.gather(*(node.start() for node in net.nodes[:AUTHORITIES]))
        await asyncio.gather(*(node.up() for node in net.nodes[:AUTHORITIES]))
        async with net.load(LOAD_PER_S):
            await net.reach(SESSION_BLOCKS // 2, within_s=PATIENCE_S)
            named = await _schedule(run, net)
            await _postponed(run, net, named)
            await third.kill(signal.SIGTERM)
            third.words = third.words[: -len(HELD_BACK)]
            await third.start()
            first = await _activated(run, net)
            await _stopped(run, fourth, first)
            await net.reach(first + AFTER_BLOCKS, net.nodes[:3], within_s=PATIENCE_S)
            await _back(run, net, fourth)
        await _replayed(run, net, follower, first)
        await _new_rules(run, net, after=True)
        _gaps(run, net, first)
        found = await net.violations()
        run.figure("violations", found[:20])
        run.equals("violations: forks, double signs, supply, nodes that ended", len(found), 0, "")
    finally:
        await net.stop()


def _net(folder: Path, seed: int, block_time_ms: int) -> Cluster:
    """The devnet's market, begun by the old rules, with short sessions and votes; the last node is to follow later."""
    net = Cluster(folder, authorities=AUTHORITIES, followers=1, block_time_ms=block_time_ms, seed=seed)
    spec = load_spec(net.spec)
    quick = {**spec.globals, "enactment_delay": ENACTMENT_DELAY}
    spec = replace(spec, runtime_version=OLD, session_blocks=SESSION_BLOCKS, globals=quick)
    net.spec.write_text(format_spec(spec))
    net.genesis, net.session_blocks = build_genesis(spec), SESSION_BLOCKS
    return net


def _old_release(folder: Path) -> Path:
    """A program that has version 1 only: this one, with the frozen rules in the place of the newest."""
    root = Path(versions.__file__).parents[1]
    shutil.copytree(root / "runtime" / "frozen" / f"v{OLD}", folder / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    source = (root / "runtime" / "versions.py").read_text()
    declared = re.compile(r"^RULES: .*$", re.MULTILINE)
    assert len(declared.findall(source)) == 1
    (folder / "runtime" / "versions.py").write_text(declared.sub(f'RULES: Final[Mapping[int, str]] = {{{OLD}: ""}}', source))
    for room in OTHER_ROOMS:
        (folder / room).symlink_to(root / room)
    return folder


# --- the story ---------------------------------------------------------------------------------------------------


async def _schedule(run: Run, net: Cluster) -> int:
    """Propose, vote, wait for the enactment. Returns the height that the proposal names."""
    await _new_rules(run, net, after=False)
    seats = [member for member in cast(net.seed, AUTHORITIES) if member.role == "validator"][1:]  # the first one sends the load
    async with RemoteChain(net.nodes[0].url) as api:
        height = int((await api.chain_get_header()).height) + NOTICE_BLOCKS
        inner = [call_number("governance.schedule_upgrade"), [NEW, height]]
        await _call(api, net, seats[0].coldkey, "governance.propose", [_hot(seats[0]), inner])
        await asyncio.gather(*(_call(api, net, seat.coldkey, "governance.vote", [_hot(seat), 0, True]) for seat in seats))
        found = await _until(api, lambda each: each.version == NEW)
    run.figure("scheduled", {
        "version": NEW, "height": height, "by": "2 of 3 root seats", "in force then": found.runtime_version,
    })
    run.equals("height that the chain keeps, minus the proposed one", (found.height or 0) - height, 0, "blocks")
    return height


async def _postponed(run: Run, net: Cluster, named: int) -> None:
    """Two of four cannot run it: at the height the upgrade is postponed. A node that lacks it has warned before."""
    async with RemoteChain(net.nodes[3].url) as api:
        warning = (await api.chain_get_upgrades()).value.warning
    async with RemoteChain(net.nodes[0].url) as api:
        found = await _until(api, lambda each: each.postponed > 0)
    run.figure("postponed", {"ready": len(found.ready), "needed": found.needed, "from": named, "to": found.height})
    run.figure("warning of the old release before the height", warning)
    run.equals("blocks by which it was postponed: a session", (found.height or 0) - named, SESSION_BLOCKS, "blocks")
    run.equals("nodes without the version that warned", int(f"runtime version {NEW}" in warning), 1, "")


async def _activated(run: Run, net: Cluster) -> int:
    """Returns the height of the first block by the new rules."""
    async with RemoteChain(net.nodes[0].url) as api:
        ready = await _until(api, lambda each: len(each.ready) >= each.needed or each.runtime_version == NEW)
        await _until(api, lambda each: each.runtime_version == NEW and each.version is None)
        heights = [int(record.height) for record in (await api.events_query("UpgradeActivated")).items]
        versions = [(await api.chain_get_header(heights[0] + step)).runtime_version for step in (-1, 0)]
    run.figure("activated", {"height": heights[0], "ready": len(ready.ready), "versions of the blocks there": versions})
    run.equals("activations", len(heights), 1, "")
    run.equals("first block with the new version in its header", int(versions == [OLD, NEW]), 1, "")
    return heights[0]


async def _stopped(run: Run, node: Process, first: int) -> None:
    """The old release has ended by itself, before the first block that it could not execute."""
    deadline = time.monotonic() + PATIENCE_S
    while node.running and time.monotonic() < deadline:
        await asyncio.sleep(POLL_S)
    await asyncio.sleep(POLL_S)
    said = next((line for line in node.faults if line.get("event") == "fault"), {})
    code = None if node.child is None else node.child.returncode
    run.figure("the node without version 2", {"exit code": code, "last block": node.height, "cause": said.get("cause"),
                                              "next step": said.get("hint")})
    run.equals("exit code of the node without the version", code, UNKNOWN_VERSION, "")
    run.equals("blocks between its last one and the first of the new version", first - node.height, 1, "")
    told = f"version {NEW}" in str(said.get("cause")) and "install" in str(said.get("hint"))
    run.equals("its message names the version and says what to install", int(told), 1, "")


async def _back(run: Run, net: Cluster, node: Process) -> None:
    """The same home with this release: it opens, catches up, and makes blocks again."""
    node.faults.clear()
    node.prefix = ()
    await node.start()
    await node.up()
    caught_up = await net.reach(net.height, [node], within_s=PATIENCE_S)
    run.equals("its home opens with the version, and it catches up", int(caught_up), 1, "")


async def _replayed(run: Run, net: Cluster, follower: Process, first: int) -> None:
    """A fresh node executes all blocks, those before by the frozen rules; its roots are the ones of the others."""
    await follower.start()
    await follower.up()
    top = net.height
    done = await net.reach(top, [follower], within_s=PATIENCE_S)
    async with RemoteChain(follower.url) as own, RemoteChain(net.nodes[0].url) as other:
        pairs = [
            ((await own.chain_get_header(height)).state_root, (await other.chain_get_header(height)).state_root)
            for height in range(1, top + 1)
        ] if done else []
    same = sum(mine == theirs for mine, theirs in pairs)
    run.figure("replayed from the genesis", {"blocks": len(pairs), "by version 1": min(first - 1, len(pairs)),
                                             "by version 2": max(0, len(pairs) - first + 1)})
    run.equals("blocks that a fresh node did not execute to the same state root", top - same, 0, "")


async def _new_rules(run: Run, net: Cluster, *, after: bool) -> None:
    """Version 2 lets root move a scheduled upgrade: the old rules do not know the call, the new ones say that none waits."""
    owner = next(member.coldkey for member in cast(net.seed, AUTHORITIES) if member.role == "owner")
    async with RemoteChain(net.nodes[0].url) as api:
        inner = [call_number("governance.move_upgrade"), [net.height + 10 * SESSION_BLOCKS]]
        told = await api.author_dry_run((await _signed(api, net, owner, "governance.sudo", [inner])).encode())
    expected = "NoUpgrade" if after else "UnknownCall"
    when = "after" if after else "before"
    run.figure(f"a call of version 2, {when}", told.error)
    run.equals(f"calls of version 2 that are treated wrongly {when} the upgrade", int(told.error != expected), 0, "")


def _gaps(run: Run, net: Cluster, first: int) -> None:
    """Between successive blocks as the first two nodes announced them; those never stopped."""
    whole = [gap for node in net.nodes[:2] for gap in gaps_s(node.seen)]
    near = [
        gap for node in net.nodes[:2]
        for gap in gaps_s([each for each in node.seen if abs(each.height - first) <= AROUND_BLOCKS])
    ]
    run.figure("blocks", net.height)
    run.figure("gaps between blocks, ms", {
        "most": round(1000 * max(whole)), "most around the upgrade": round(1000 * max(near)),
        "mean": round(1000 * sum(whole) / len(whole)),
    })
    run.at_most("longest gap between two blocks", round(max(whole), 3), LONGEST_GAP_S, "s")


# --- asking and telling ------------------------------------------------------------------------------------------


async def _until(api: Any, is_so: Any) -> UpgradeRecord:
    """Ask for the upgrade until something holds. Raises Error if that takes too long."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found: UpgradeRecord = (await api.chain_get_upgrades()).value
        if is_so(found):
            return found
        await asyncio.sleep(POLL_S)
    raise Error(f"the upgrade did not come so far: {found}")


async def _call(api: Any, net: Cluster, key: KeyPair, name: str, args: list[Any]) -> None:
    """Submit a call and wait until it is in a block. Raises Error if it is refused there."""
    extrinsic = await _signed(api, net, key, name, args)
    await api.author_submit_extrinsic(extrinsic.encode())
    deadline = time.monotonic() + PATIENCE_S
    while (record := await api.chain_get_extrinsic(extrinsic.id)).height is None:
        if time.monotonic() > deadline:
            raise Error(f"{name} did not get into a block")
        await asyncio.sleep(POLL_S)
    if record.error:
        raise Error(f"{name} was refused: {record.error}")


async def _signed(api: Any, net: Cluster, key: KeyPair, name: str, args: list[Any]) -> Extrinsic:
    head = await api.chain_get_header()
    return Extrinsic.sign(
        key, net.genesis.genesis_hash, head.hash, nonce=await api.author_next_nonce(key.public), birth_height=head.height,
        call_number=call_number(name), args=args,
    )


def _hot(member: Member) -> bytes:
    assert member.hotkey is not None
    return member.hotkey.public
