"""Small blocks, as a devnet makes them: what a commit costs, how fast a file of blocks is replayed, how fast a node opens.

Four authorities, a few transfers a block, the real rules (with the full audit each block, since the state is small), a
certificate of all four verified for each block, LevelDB with one synced batch a block.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
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
OPEN_LIMIT_S = 2.0


@benchmark("commit", about="commits of small blocks, replay of a file of blocks, opening a node's database", seconds=40)
@click.option("--blocks", type=click.IntRange(10), default=2_000, show_default=True, help="Blocks in the file.")
@click.option("--transfers", type=click.IntRange(0, 40), default=5, show_default=True, help="Transfers in each block.")
def commit(run: Run, blocks: int, transfers: int) -> None:
    """Make, replay and reopen a chain of small blocks (wall time)."""
    authorities = [KeyPair.from_seed(digest("seed", b"authority", bytes((index,)))) for index in range(AUTHORITIES)]
    accounts = [KeyPair.from_seed(digest("seed", b"account", bytes((index,)))) for index in range(ACCOUNTS)]
    genesis = build_genesis(ChainSpec(
        "commit", tuple(AuthoritySpec(key.public, key.public) for key in authorities),
        tuple(AccountSpec(key.public, BALANCE_RAO) for key in accounts),
    ))
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder:
        file = Path(folder) / "blocks"
        make(run, genesis, Path(folder) / "maker", file, authorities, accounts, blocks, transfers)
        replay(run, genesis, Path(folder) / "replayed", file, blocks)


def make(
    run: Run, genesis: Genesis, folder: Path, file: Path, authorities: Sequence[KeyPair], accounts: Sequence[KeyPair],
    blocks: int, transfers: int,
) -> None:
    """Build and commit the blocks, timing each part, and write them to the file."""
    chain = new_chain(genesis, folder)
    built: list[float] = []
    prepared: list[float] = []
    synced: list[float] = []
    with open(file, "wb") as out:
        for number in run.track(range(blocks), "making blocks", blocks):
            extrinsics = [transfer(chain, genesis, accounts, number * transfers + each) for each in range(transfers)]
            start = time.perf_counter()
            executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0, extrinsics=extrinsics)
            built.append(time.perf_counter() - start)
            certificate = certify(executed.block, genesis.genesis_hash, authorities)
            start = time.perf_counter()
            batch = chain.prepare_commit(executed, certificate)
            prepared.append(time.perf_counter() - start)
            start = time.perf_counter()
            chain.apply(batch)
            synced.append(time.perf_counter() - start)
            for part in (executed.block.encode(), certificate.encode()):
                out.write(len(part).to_bytes(4, "big") + part)
    chain.close()
    for name, times in (("build", built), ("prepare", prepared), ("synced write", synced)):
        times.sort()
        run.figure(f"{name}: p50 ms", round(times[len(times) // 2] * 1e3, 3))
        run.figure(f"{name}: p99 ms", round(times[len(times) * 99 // 100] * 1e3, 3))
    run.figure("file_bytes_per_block", file.stat().st_size // blocks)


def replay(run: Run, genesis: Genesis, folder: Path, file: Path, blocks: int) -> None:
    """Import the file into a new chain, verifying everything; then open what was written."""
    chain = new_chain(genesis, folder)
    start = time.perf_counter()
    for block, certificate in run.track(read(file), "replaying", blocks):
        chain.apply(chain.import_block(block, certificate))
    seconds = time.perf_counter() - start
    head = chain.head
    chain.close()
    run.equals("blocks replayed", head.height, blocks, "blocks")
    run.figure("replayed_blocks_per_s", round(blocks / seconds, 1))
    run.figure("database_bytes_per_block", sum(each.stat().st_size for each in folder.iterdir()) // blocks)
    start = time.perf_counter()
    reopened = Chain.open(
        LevelStore.open(folder), genesis.params, Runtime(genesis.genesis_hash),
        domain_at=lambda height: genesis.genesis_hash,
    )
    run.at_most("opening with all checks", time.perf_counter() - start, OPEN_LIMIT_S, "s")
    assert reopened.head == head, "another head after opening"
    reopened.audit_state()
    reopened.close()


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


def read(file: Path) -> Iterator[tuple[Block, Certificate]]:
    """Blocks and certificates of a file, in order."""
    with open(file, "rb") as source:
        while head := source.read(4):
            block = Block.decode(source.read(int.from_bytes(head, "big")))
            yield block, Certificate.decode(source.read(int.from_bytes(source.read(4), "big")))


def new_chain(genesis: Genesis, folder: Path) -> Chain:
    return Chain.create(LevelStore.create(folder), genesis.params, Runtime(genesis.genesis_hash), genesis.state)
