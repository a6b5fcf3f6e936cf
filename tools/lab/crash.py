"""`quorix lab crash`: kill -9 of a real writing node, again and again; nothing that it said was final may be lost.

One authority runs by the command that an operator runs, with fast blocks, under a load of signed transfers over RPC. Each
block that its WebSocket announced counts as acknowledged, with its hash and state root. At a random moment the process is
killed. The next one must have every acknowledged block, the same state, and answer soon. Every few kills the database is
copied and all of it recomputed (`tools/lab/deep.py`).
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO, Any

import click

from ledger.errors import Error, Rejected, Timeout
from tools.lab.frame import Run, experiment

RESTART_LIMIT_S = 2.0
PATIENCE_S = 60.0
BLOCK_TIME_MS = 50
LONGEST_LIFE_S = 0.8  # after the first block of a life
SUBMITTED_AT_ONCE = 8
LOAD_PAUSE_S = 0.02
SEED = 1


@experiment("crash", about="kill -9 of a writing node at random moments: no final block lost, same roots", seconds=60)
@click.option("--kills", type=click.IntRange(1), default=30, show_default=True, help="Number of kills.")
@click.option("--seed", default=0, show_default=True, help="Other moments.")
@click.option("--deep-every", default=10, show_default=True, help="Recompute the whole database after every so many kills.")
def crash(run: Run, kills: int, seed: int, deep_every: int) -> Any:
    """A real node with one authority, a real disk, real signals."""
    return _crash(run, kills, seed, deep_every)


@dataclass
class Tally:
    """What was acknowledged, and what became of it. Blocks are (hash, state root) by height."""

    final: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)
    sent: int = 0
    included: int = 0
    lost: list[str] = field(default_factory=list)
    mismatches: list[str] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    block_s: list[float] = field(default_factory=list)
    deep_checks: int = 0


async def _crash(run: Run, kills: int, seed: int, deep_every: int) -> None:
    rng, tally = Random(f"crash {seed}"), Tally()
    with tempfile.TemporaryDirectory(prefix="quorix-crash-") as folder:
        home = Path(folder) / "node"
        prepare(home)
        for number in run.track(range(kills + 1), "lives", kills + 1):
            async with alive(home) as node:
                tally.answer_s.append(node.answered_s)
                await _compare(tally, node)
                await _live(tally, node, rng, last=number == kills)
            if number % deep_every == deep_every - 1 or number == kills:
                _check_copy(tally, home, Path(folder) / "copy")
    _report(run, tally, kills)


def _report(run: Run, tally: Tally, kills: int) -> None:
    first, later = tally.answer_s[0], sorted(tally.answer_s[1:]) or [tally.answer_s[0]]
    blocks = sorted(tally.block_s[1:]) or [0.0]
    run.equals("acknowledged final blocks lost", len(tally.lost), 0, "blocks")
    run.equals("state root mismatches", len(tally.mismatches), 0, "roots")
    run.at_most("restart to the first RPC answer, p50", round(_part(later, 0.5), 3), RESTART_LIMIT_S, "s")
    run.at_most("restart to the first new block, p50", round(_part(blocks, 0.5), 3), RESTART_LIMIT_S, "s")
    run.figure("kills", kills)
    run.figure("acknowledged_blocks", len(tally.final))
    run.figure("transfers_included", tally.included)
    run.figure("transfers_sent", tally.sent)
    run.figure("deep_checks", tally.deep_checks)
    run.figure("first_start_s", round(first, 3))
    run.figure("restart_s", {"answer_p99": round(_part(later, 0.99), 3), "block_p99": round(_part(blocks, 0.99), 3),
                             "block_worst": round(blocks[-1], 3)})  # fmt: skip
    run.figure("trouble", [*tally.lost, *tally.mismatches])


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


# --- the node ----------------------------------------------------------------------------------------------------


@dataclass
class Alive:
    """A running node process."""

    process: subprocess.Popen[bytes]
    url: str
    started: float
    answered_s: float


def prepare(home: Path) -> None:
    """A home with one authority of the small devnet, as `quorix node init` leaves it."""
    from genesis.cast import cast, devnet_spec
    from genesis.spec import format_spec
    from tools.node.home import Specification, make_home, write_file

    spec = devnet_spec(SEED, authorities=1, block_time_ms=BLOCK_TIME_MS, name="crash")
    write_file(home / "spec.toml", format_spec(spec).encode())
    session = next(member.session for member in cast(SEED, 1) if member.session is not None)
    make_home(home, Specification.load(home / "spec.toml"), session_key=session)


@asynccontextmanager
async def alive(home: Path) -> AsyncIterator[Alive]:
    """`quorix node run` until it answers RPC; killed, not stopped, on leaving."""
    from ledger.client.remote import RemoteChain

    errors = home.with_name("stderr")
    with errors.open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.cli.main", "node", "run", "--home", str(home), "--rpc-port", "0", "--p2p", "off",
             "--log", "error", "--follow-stdin"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )
    try:
        assert process.stdout is not None
        url = await asyncio.wait_for(asyncio.to_thread(_url, process.stdout), PATIENCE_S)
        if not url:
            raise Error("the node ended: " + errors.read_text(errors="replace")[-400:])
        async with RemoteChain(url, timeout_s=PATIENCE_S) as api:
            await api.chain_get_finalized_head()
        yield Alive(process, url, started, time.monotonic() - started)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _url(lines: IO[bytes]) -> str:
    """RPC address that a node announces; "" if it ends before."""
    for line in lines:
        try:
            said = json.loads(line)
        except ValueError:
            continue
        if said.get("event") == "rpc":
            return str(said["urls"][0])
    return ""


# --- one life ----------------------------------------------------------------------------------------------------


async def _live(tally: Tally, node: Alive, rng: Random, *, last: bool) -> None:
    """Follow and load the node; kill it some time after its first block (the last life waits for a few)."""
    from ledger.client.remote import RemoteChain

    known = max(tally.final, default=0)
    fresh = asyncio.Event()
    async with RemoteChain(node.url, timeout_s=PATIENCE_S) as api:
        paying = asyncio.ensure_future(load(tally, api, rng))
        follow = asyncio.ensure_future(_follow(tally, api, known, fresh))
        try:
            await asyncio.wait_for(fresh.wait(), PATIENCE_S)
            tally.block_s.append(time.monotonic() - node.started)
            await asyncio.sleep(LONGEST_LIFE_S if last else rng.random() * LONGEST_LIFE_S)
            os.kill(node.process.pid, signal.SIGKILL)
        finally:
            for task in (paying, follow):
                task.cancel()
            await asyncio.gather(paying, follow, return_exceptions=True)


async def _follow(tally: Tally, api: Any, known: int, fresh: asyncio.Event) -> None:
    """Note every block that the node announces as final."""
    async for head in api.chain_subscribe_new_heads(known + 1 if known else None):
        header = head.header
        tally.final[header.height] = (header.hash, header.state_root)
        tally.included += head.extrinsics
        if header.height > known:
            fresh.set()


async def load(tally: Tally, api: Any, rng: Random) -> None:
    """Signed transfers, in small bursts, until it is cancelled or the node is gone."""
    from genesis.cast import cast
    from ledger.client.calls import Wallet

    members = [member.coldkey for member in cast(SEED, 1)]
    wallets = [Wallet(api, key) for key in members[:SUBMITTED_AT_ONCE]]

    async def pay(wallet: Wallet) -> None:
        await wallet.submit("accounts.transfer", wait="pool", to=rng.choice(members).public, amount_rao=rng.randint(1, 10**6),
                            keep_alive=True)
        tally.sent += 1

    while True:
        for outcome in await asyncio.gather(*(pay(wallet) for wallet in wallets), return_exceptions=True):
            if isinstance(outcome, Exception) and not isinstance(outcome, (Rejected, Timeout)):
                if isinstance(outcome, Error):
                    return
                raise outcome
        await asyncio.sleep(LOAD_PAUSE_S)


async def _compare(tally: Tally, node: Alive) -> None:
    """The newest acknowledged blocks, and some older ones, as the restarted node tells them."""
    from ledger.client.remote import RemoteChain

    heights = sorted(tally.final)
    chosen = {*heights[-40:], *heights[:: max(1, len(heights) // 20)]}
    async with RemoteChain(node.url, timeout_s=PATIENCE_S) as api:
        for height in sorted(chosen):
            block_hash, root = tally.final[height]
            try:
                header = await api.chain_get_header(height)
            except Error as error:
                tally.lost.append(f"block {height}: {error}")
                continue
            if header.hash != block_hash:
                tally.lost.append(f"block {height} is another one")
            if header.state_root != root:
                tally.mismatches.append(f"block {height} has another state root")


def _check_copy(tally: Tally, home: Path, copy: Path) -> None:
    """All of the database, on a copy: opening it changes files, and the next start must find what the kill left."""
    tally.deep_checks += 1
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns("*.sock"))
    try:
        inspect(copy, lambda chain: _missing(tally, chain))
    except Error as error:
        tally.mismatches.append(str(error))
    finally:
        shutil.rmtree(copy)


def _missing(tally: Tally, chain: Any) -> None:
    for height, (block_hash, root) in tally.final.items():
        header = chain.header(height)
        if header.hash != block_hash or header.state_root != root:
            tally.lost.append(f"block {height} is another one on disk")


def inspect(home: Path, more: Callable[[Any], None] = lambda chain: None) -> Any:
    """Open a home as the node does, recompute everything; returns what the database holds. Raises the node's errors."""
    from tools.lab.deep import deep_check
    from tools.node.config import load_config
    from tools.node.home import Specification, open_databases

    config = load_config(home, environment={})
    databases = open_databases(config, Specification.load(config.spec))
    try:
        found = deep_check(databases.chain, databases.chain_store)
        more(databases.chain)
        return found
    finally:
        databases.close()
