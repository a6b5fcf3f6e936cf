"""What a commit costs an authority: from the executed block to the moment when it is durable and the next may be signed.

Blocks of two sizes, as a quiet and as a busy chain makes them: the real rules, the certificate of four authorities, LevelDB
with one synced batch a block. The disk's own floor, appending 4 KiB to a file in the same folder and syncing it, is measured
between the blocks. Times are wall time, but for `cpu`: the work of making rows and handing them to LevelDB.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click

from genesis.build import Genesis, build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.blocks import Block, Extrinsic
from ledger.chain import Chain
from ledger.crypto import KeyPair, digest
from ledger.store import LevelStore
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.dispatch import call_number
from runtime.executor import Runtime
from tools.lab.frame import Run, benchmark

AUTHORITIES = 4
ACCOUNTS = 50
BALANCE_RAO = 10**12
BUSY_SHARE = 20  # one busy block for so many small ones
OPEN_LIMIT_S = 2.0
SYNC_LIMIT = 4.0  # times the disk's floor


@benchmark("commit", about="commits of small and busy blocks, against the disk's own sync; opening a database", seconds=20)
@click.option("--blocks", type=click.IntRange(10), default=600, show_default=True, help="Small blocks.")
@click.option("--transfers", type=click.IntRange(0, 40), default=5, show_default=True, help="Transfers in a small block.")
@click.option("--busy", type=click.IntRange(1, 2_000), default=1_000, show_default=True, help="Transfers in a busy block.")
def commit(run: Run, blocks: int, transfers: int, busy: int) -> None:
    """Make and commit a chain of blocks, then open its database as a node does."""
    authorities = [KeyPair.from_seed(digest("seed", b"authority", bytes((index,)))) for index in range(AUTHORITIES)]
    accounts = [KeyPair.from_seed(digest("seed", b"account", bytes((index,)))) for index in range(ACCOUNTS)]
    genesis = build_genesis(ChainSpec(
        "commit", tuple(AuthoritySpec(key.public, key.public) for key in authorities),
        tuple(AccountSpec(key.public, BALANCE_RAO) for key in accounts), max_block_bytes=1 << 20,
    ))
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder:
        probe, database = Path(folder) / "probe", Path(folder) / "database"
        chain, sent = new_chain(genesis, database), 0
        for name, count, size in (("small", blocks, transfers), ("busy", max(3, blocks // BUSY_SHARE), busy)):
            times, floor = Times(), []
            for _ in run.track(range(count), f"{name} blocks", count):
                extrinsics = [transfer(chain, genesis, accounts, sent + each) for each in range(size)]
                sent += size
                times.measure(chain, genesis, extrinsics, authorities)
                floor.append(disk_sync_ms(probe))
            times.report(run, name)
            run.figure(f"{name}_disk_sync_p50_ms", round(percentile(floor, 50), 3))
            if name == "small":
                ratio = percentile(times.synced_ms, 50) / percentile(floor, 50)
                run.at_most("synced write of a small block, p50", ratio, SYNC_LIMIT, "x disk sync")
        head = chain.head
        chain.close()
        reopen(run, genesis, database, head.height)


class Times:
    """What the commits of one size of block took."""

    def __init__(self) -> None:
        self.built_ms: list[float] = []
        self.prepared_ms: list[float] = []
        self.synced_ms: list[float] = []
        self.cpu_ms: list[float] = []
        self.rows = self.bytes = 0

    def measure(
        self, chain: Chain, genesis: Genesis, extrinsics: Sequence[Extrinsic], authorities: Sequence[KeyPair]
    ) -> None:
        """Build and commit one block."""
        start = time.perf_counter()
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0, extrinsics=extrinsics)
        self.built_ms.append((time.perf_counter() - start) * 1e3)
        assert len(executed.extrinsics) == len(extrinsics), "a transfer was refused"
        certificate = certify(executed.block, genesis.genesis_hash, authorities)
        start, cpu = time.perf_counter(), time.thread_time()
        batch = chain.prepare_commit(executed, certificate)
        self.prepared_ms.append((time.perf_counter() - start) * 1e3)
        start = time.perf_counter()
        chain.apply(batch)
        self.synced_ms.append((time.perf_counter() - start) * 1e3)
        self.cpu_ms.append((time.thread_time() - cpu) * 1e3)
        self.rows += len(batch.rows)
        self.bytes += sum(len(key) + len(row or b"") for key, row in batch.rows.items())

    def report(self, run: Run, name: str) -> None:
        """State p50 and p99 of each part, and what a block writes."""
        count = len(self.built_ms)
        for part, times in (
            ("build", self.built_ms), ("prepare", self.prepared_ms), ("synced_write", self.synced_ms), ("cpu", self.cpu_ms),
        ):
            run.figure(f"{name}_{part}_p50_ms", round(percentile(times, 50), 3))
            run.figure(f"{name}_{part}_p99_ms", round(percentile(times, 99), 3))
        run.figure(f"{name}_rows_per_block", round(self.rows / count, 1))
        run.figure(f"{name}_bytes_per_block", self.bytes // count)
        run.figure(f"{name}_blocks", count)


def percentile(times: Sequence[float], percent: int) -> float:
    return sorted(times)[min(len(times) - 1, len(times) * percent // 100)]


def disk_sync_ms(path: Path) -> float:
    """Milliseconds of appending 4 KiB to a file and syncing it."""
    with open(path, "ab", buffering=0) as file:
        start = time.perf_counter()
        file.write(bytes(4096))
        os.fdatasync(file.fileno())
        return (time.perf_counter() - start) * 1e3


def reopen(run: Run, genesis: Genesis, database: Path, height: int) -> None:
    """Open the database with the checks of a node's start, then recompute the whole state root."""
    start = time.perf_counter()
    chain = Chain.open(
        LevelStore.open(database), genesis.params, Runtime(genesis.genesis_hash),
        domain_at=lambda height: genesis.genesis_hash,
    )
    run.at_most("opening with all checks", time.perf_counter() - start, OPEN_LIMIT_S, "s")
    run.equals("blocks committed", chain.head.height, height, "blocks")
    chain.audit_state()
    chain.close()


def transfer(chain: Chain, genesis: Genesis, accounts: Sequence[KeyPair], number: int) -> Extrinsic:
    """The `number`-th transfer of the run; accounts take turns."""
    birth, turn = chain.head.height, number % len(accounts)
    return Extrinsic.sign(
        accounts[turn], genesis.genesis_hash, chain.hash_at(birth), nonce=number // len(accounts), birth_height=birth,
        call_number=call_number("accounts.transfer"), args=[accounts[turn - 1].public, 1_000_000, True],
    )


def certify(block: Block, domain: bytes, authorities: Sequence[KeyPair]) -> Certificate:
    """Precommits of all authorities."""
    body = vote_body(block.height, 0, block.hash)
    votes = (
        Vote(PRECOMMIT, block.height, 0, block.hash, index, key.sign("precommit", domain, body))
        for index, key in enumerate(authorities)
    )
    return Certificate.build({vote.index: vote for vote in votes}, len(authorities))


def new_chain(genesis: Genesis, folder: Path) -> Chain:
    return Chain.create(LevelStore.create(folder), genesis.params, Runtime(genesis.genesis_hash), genesis.state)
