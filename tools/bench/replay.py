"""Replaying a file of blocks, as `quorix db import` does it: every signature, certificate and root, on a real disk.

The chain is made first: four authorities, a few transfers a block, the real rules with the full audit in each block (the
state is small). Then its blocks are exported to a file and imported into a new node, every block durable before it counts:
the disk thread writes the blocks that wait for it in one synced batch.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from statistics import median

import click

from genesis.build import Genesis, build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.crypto import KeyPair, digest
from tools.bench.commit import certify, new_chain, transfer
from tools.lab.frame import Run, benchmark
from tools.ops.block_file import BlockReader, import_blocks, write_blocks

AUTHORITIES = 4
ACCOUNTS = 50
BALANCE_RAO = 10**12
LEAST_BLOCKS_PER_S = 50
SYNCS_MEASURED = 20


@benchmark("replay", about="syncing from a file of blocks: blocks and transactions a second", seconds=60)
@click.option("--blocks", type=click.IntRange(10), default=2_000, show_default=True, help="Blocks in the file.")
@click.option("--transfers", type=click.IntRange(0, 1_000), default=20, show_default=True, help="Transfers in each block.")
def replay(run: Run, blocks: int, transfers: int) -> None:
    """Export a chain to a file and import it (wall time)."""
    authorities = [KeyPair.from_seed(digest("seed", b"authority", bytes((index,)))) for index in range(AUTHORITIES)]
    accounts = [KeyPair.from_seed(digest("seed", b"account", bytes((index,)))) for index in range(ACCOUNTS)]
    genesis = build_genesis(ChainSpec(
        "replay", tuple(AuthoritySpec(key.public, key.public) for key in authorities),
        tuple(AccountSpec(key.public, BALANCE_RAO) for key in accounts), max_block_bytes=1 << 20,
    ))
    run.figure("transactions_per_block", transfers)
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder:
        file = Path(folder) / "blocks"
        make(run, genesis, Path(folder) / "maker", file, authorities, accounts, blocks, transfers)
        measure(run, genesis, Path(folder) / "replayed", file, blocks)


def make(
    run: Run, genesis: Genesis, folder: Path, file: Path, authorities: list[KeyPair], accounts: list[KeyPair], blocks: int,
    transfers: int,
) -> None:
    """Make the chain and export it."""
    chain = new_chain(genesis, folder)
    for number in run.track(range(blocks), "making blocks", blocks):
        extrinsics = [transfer(chain, genesis, accounts, number * transfers + each) for each in range(transfers)]
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0, extrinsics=extrinsics)
        assert len(executed.extrinsics) == transfers, "a transfer was refused"
        batch = chain.prepare_commit(executed, certify(executed.block, genesis.genesis_hash, authorities))
        chain.apply(batch)
    with open(file, "wb") as out:
        size = write_blocks(chain, 1, blocks, out, lambda *_: None)
    chain.close()
    run.figure("file_bytes_per_block", size // blocks)


def measure(run: Run, genesis: Genesis, folder: Path, file: Path, blocks: int) -> None:
    """Import the file into a new node."""
    chain = new_chain(genesis, folder)
    with open(file, "rb") as source:
        start = time.perf_counter()
        done = import_blocks(BlockReader(source, genesis.genesis_hash), chain, lambda *_: None)
        seconds = time.perf_counter() - start
    run.equals("blocks replayed", chain.head.height, blocks, "blocks")
    run.at_least("blocks a second", round(done.blocks / seconds, 1), LEAST_BLOCKS_PER_S, "blocks/s")
    run.figure("transactions_per_s", round(done.transactions / seconds))
    run.figure("fsync_ms", round(fsync_ms(folder / "probe"), 3))
    run.figure("database_bytes_per_block", sum(each.stat().st_size for each in folder.iterdir()) // blocks)
    chain.audit_state()
    chain.close()


def fsync_ms(path: Path) -> float:
    """What this disk needs for a small synced write (median)."""
    times = []
    with open(path, "wb") as file:
        for _ in range(SYNCS_MEASURED):
            file.write(bytes(4096))
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - start)
    return median(times) * 1e3
