"""Importing full blocks: signed transfers among many accounts, through `Chain.import_block` and LevelDB with fsync.

The floor is what the signature library alone needs. Everything else is the node's own code and configuration: strict
decoding, the real rules with their invariants, state root, indexes, reverse diff, one synced batch a block.

    one core       verify, execute, commit, one after the other
    two threads    signatures on two threads first, then execute; the previous block is committed meanwhile
    from the pool  signatures were verified when the extrinsics came in; the previous block is committed meanwhile

Ratios are against the floor measured beside each block; the first block of each run (cold caches, keys seen for the first
time) is stated but not counted.
"""

from __future__ import annotations

import gc
import random
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import click

from genesis.build import Genesis, build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.blocks import MAX_BODY_ITEMS, Block, Extrinsic
from ledger.chain import Chain
from ledger.crypto import KeyPair, digest, verify_raw
from ledger.store import LevelStore
from ledger.verdict import SignatureTask, VerifyBatch, signature_task, verify_one_by_one
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.dispatch import call_number
from runtime.executor import Runtime
from tools.lab.frame import Run, benchmark

SEED = 1
SIGNERS = 2_000
BALANCE_RAO = 10**10
MAX_TRANSFERS = MAX_BODY_ITEMS - 2
VERIFY_CHUNK = 100
TARGETS = {"one core": 0.60, "two threads": 0.85, "from the pool": 1.5}


@dataclass(frozen=True)
class Sealed:
    """A block as it arrives, its certificate, and its extrinsics as the pool would know them."""

    raw: bytes
    certificate: Certificate
    known: dict[bytes, Extrinsic]
    tasks: list[SignatureTask]


@benchmark("import", about="importing full blocks against the floor of signature verification", seconds=60)
@click.option("--accounts", type=click.IntRange(SIGNERS), default=100_000, show_default=True, help="Accounts at genesis.")
@click.option("--transfers", type=click.IntRange(1, MAX_TRANSFERS), default=4_000, show_default=True, help="A block.")
@click.option("--blocks", type=click.IntRange(2), default=4, show_default=True, help="Blocks of each run.")
def import_blocks(run: Run, accounts: int, transfers: int, blocks: int) -> None:
    """Import the same blocks in three ways (wall time)."""
    run.note(f"genesis with {accounts:,} accounts")
    authority = KeyPair.from_seed(digest("seed", b"authority"))
    signers = [KeyPair.from_seed(digest("seed", index.to_bytes(4, "big"))) for index in range(SIGNERS)]
    others = [digest("seed", b"other", index.to_bytes(4, "big")) for index in range(accounts - SIGNERS)]
    keys = [signer.public for signer in signers] + others
    genesis = build_genesis(ChainSpec(
        "import", (AuthoritySpec(authority.public, keys[0]),), tuple(AccountSpec(key, BALANCE_RAO) for key in keys),
        max_block_bytes=1 << 20, max_block_weight=1_000_000,
    ))
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder, ThreadPoolExecutor(2) as threads:
        sealed = make_blocks(run, genesis, Path(folder) / "maker", authority, signers, keys, transfers, blocks)
        run.figure("transfer_bytes", round(mean(len(raw) for raw in sealed[0].known), 1))
        modes: dict[str, tuple[VerifyBatch, bool, bool]] = {
            "one core": (verify_one_by_one, False, False),
            "two threads": (in_chunks(threads), False, True),
            "from the pool": (verify_one_by_one, True, True),
        }
        gc.collect()
        gc.freeze()
        gc.disable()
        try:
            for name, (verify, known, background) in modes.items():
                measure(run, name, genesis, Path(folder) / name.replace(" ", "-"), sealed, verify, known, background)
        finally:
            gc.enable()
            gc.unfreeze()


def make_blocks(
    run: Run, genesis: Genesis, folder: Path, authority: KeyPair, signers: Sequence[KeyPair], keys: Sequence[bytes],
    transfers: int, blocks: int,
) -> list[Sealed]:
    """A chain of full blocks, as its authority made them."""
    chance = random.Random(SEED)
    chain = new_chain(genesis, folder)
    nonces = [0] * len(signers)
    sealed = []
    for _ in run.track(range(blocks), "making blocks", blocks):
        birth, extrinsics = chain.head.height, []
        for _ in range(transfers):
            index = chance.randrange(len(signers))
            args = [chance.choice(keys), 1_000_000 + chance.randrange(1000), True]
            extrinsics.append(Extrinsic.sign(
                signers[index], genesis.genesis_hash, chain.hash_at(birth), nonce=nonces[index], birth_height=birth,
                call_number=call_number("accounts.transfer"), args=args,
            ))
            nonces[index] += 1
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0, extrinsics=extrinsics)
        assert len(executed.extrinsics) == transfers and not any(o.error for o in executed.result.outcomes)
        block = executed.block
        body = vote_body(block.height, 0, block.hash)
        signature = authority.sign("precommit", genesis.genesis_hash, body)
        certificate = Certificate.build({0: Vote(PRECOMMIT, block.height, 0, block.hash, 0, signature)}, 1)
        tasks = [signature_task(each, block.height, genesis.genesis_hash, chain.hash_at) for each in extrinsics]
        sealed.append(Sealed(block.encode(), certificate, {each.encode(): each for each in extrinsics}, tasks))
        chain.commit(executed, certificate)
    chain.close()
    return sealed


def measure(
    run: Run, name: str, genesis: Genesis, folder: Path, sealed: Sequence[Sealed], verify: VerifyBatch, known: bool,
    background: bool,
) -> None:
    """Import all blocks into a new chain; reports transfers a second, and the ratio to the floor."""
    chain = new_chain(genesis, folder)
    ratios, microseconds = [], []
    with ThreadPoolExecutor(1) as disk:
        waiting: Future[None] | None = None
        for one in run.track(sealed, name):
            floor_s = floor(one.tasks)
            start = time.perf_counter()
            batch = chain.import_block(
                Block.decode(one.raw), one.certificate, known=one.known if known else None, verify_batch=verify
            )
            if waiting is not None:
                waiting.result()
            if background:
                waiting = disk.submit(chain.apply, batch)
            else:
                chain.apply(batch)
            seconds = time.perf_counter() - start
            ratios.append(min(floor_s, floor(one.tasks)) * len(one.tasks) / seconds)
            microseconds.append(seconds / len(one.tasks) * 1e6)
        if waiting is not None:
            waiting.result()
    chain.close()
    run.at_least(f"import, {name}", mean(ratios[1:]), TARGETS[name], "x floor")
    run.figure(f"{name}: us a transfer", [round(each, 1) for each in microseconds])
    run.figure(f"{name}: transfers/s", round(1e6 / mean(microseconds[1:])))
    run.figure(f"{name}: best block x floor", round(max(ratios), 3))


def floor(tasks: Sequence[SignatureTask]) -> float:
    """Seconds that the library needs for one signature: the least of several runs over some of the block's."""
    best = float("inf")
    for part in range(0, min(len(tasks), 500), 100):
        chosen = tasks[part : part + 100]
        start = time.perf_counter()
        for key, message, signature in chosen:
            verify_raw(key, message, signature)
        best = min(best, (time.perf_counter() - start) / len(chosen))
    return best


def in_chunks(threads: ThreadPoolExecutor) -> VerifyBatch:
    """Verify on the threads, as a node does."""

    def verify(tasks: Sequence[SignatureTask]) -> list[bool]:
        chunks = [tasks[start : start + VERIFY_CHUNK] for start in range(0, len(tasks), VERIFY_CHUNK)]
        return [valid for part in threads.map(verify_one_by_one, chunks) for valid in part]

    return verify


def new_chain(genesis: Genesis, folder: Path) -> Chain:
    return Chain.create(LevelStore.create(folder), genesis.params, Runtime(genesis.genesis_hash), genesis.state)
