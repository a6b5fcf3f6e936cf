"""Importing full blocks: signed transfers among many accounts, through `Chain.import_block` and LevelDB with fsync.

The floor is what the signature library alone needs: PyNaCl's `crypto_sign_open`. Everything else is a node: its home,
databases, configuration, threads and interpreter settings are made and opened by the functions that `quorix node run`
calls. The work is a node's too: strict decoding, the rules with their invariants, state root, indexes, reverse diff, one
synced batch a block.

    one core       verify, execute, commit, one after the other
    two threads    signatures on the verify threads first, then execute; the previous block is committed meanwhile
    from the pool  signatures were verified when the extrinsics came in; the previous block is committed meanwhile

A ratio is against the floor measured before and after the block, in CPU time. One core is judged by the CPU time of the one
thread that does it all, which other programs hardly disturb; what LevelDB compacts beside it is in the ratio of all threads.
The other two are judged by wall time, so beside other work they look slower than they are, never faster. The first blocks
of each run (cold caches, keys seen for the first time) are stated but not counted; of the others the median block counts.
The stages are in CPU time of the thread that does them.
"""

from __future__ import annotations

import gc
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any, TypeVar, cast

import click
from nacl.bindings import crypto_sign_open

from genesis.build import build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.blocks import MAX_BLOCK_BYTES, Block, Extrinsic
from ledger.crypto import KeyPair, digest
from ledger.verdict import SignatureTask, VerifyBatch, signature_task, verify_one_by_one
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.dispatch import call_number
from runtime.executor import Runtime
from tools.lab.frame import Run, benchmark
from tools.node.config import load_config
from tools.node.home import Databases, Specification, make_home, open_databases
from tools.node.threads import Threads, settle_interpreter

T = TypeVar("T")

SEED = 1
SIGNERS = 2_000
BALANCE_RAO = 10**10
MAX_TRANSFERS = MAX_BLOCK_BYTES // 155  # that fit into a block
WARM_UP_BLOCKS = 3  # not counted, where there are more
FLOOR_SIGNATURES = 400
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
@click.option("--transfers", type=click.IntRange(1, MAX_TRANSFERS), default=5_000, show_default=True, help="A block.")
@click.option("--blocks", type=click.IntRange(2), default=12, show_default=True, help="Blocks of each run.")
def import_blocks(run: Run, accounts: int, transfers: int, blocks: int) -> None:
    """Import the same blocks in three ways."""
    run.note(f"genesis with {accounts:,} accounts")
    authority = KeyPair.from_seed(digest("seed", b"authority"))
    signers = [KeyPair.from_seed(digest("seed", index.to_bytes(4, "big"))) for index in range(SIGNERS)]
    others = [digest("seed", b"other", index.to_bytes(4, "big")) for index in range(accounts - SIGNERS)]
    keys = [signer.public for signer in signers] + others
    spec = ChainSpec(
        "import", (AuthoritySpec(authority.public, keys[0]),), tuple(AccountSpec(key, BALANCE_RAO) for key in keys),
        max_block_bytes=MAX_BLOCK_BYTES, max_block_weight=1_000_000,
    )
    specification = Specification(spec, build_genesis(spec))
    run.figure("accounts", accounts)
    run.figure("transfers a block", transfers)
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder, node_process() as threads:
        sealed = make_blocks(run, specification, Path(folder) / "maker", authority, signers, keys, transfers, blocks)
        run.figure("transfer_bytes", round(mean(len(raw) for raw in sealed[0].known), 1))
        modes: dict[str, tuple[VerifyBatch, bool, bool]] = {
            "one core": (verify_one_by_one, False, False),
            "two threads": (threads.verify_batch, False, True),
            "from the pool": (threads.verify_batch, True, True),
        }
        for name, (verify, known, background) in modes.items():
            home = Path(folder) / name.replace(" ", "-")
            measure(run, name, new_node(specification, home), sealed, verify, known, background)


@contextmanager
def node_process() -> Iterator[Threads]:
    """This process as that of a node: its threads, and the interpreter's settings."""
    interval, thresholds, threads = sys.getswitchinterval(), gc.get_threshold(), Threads()
    settle_interpreter()
    try:
        yield threads
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        threads.close()


def new_node(specification: Specification, home: Path) -> Databases:
    """The databases of a new node with nothing configured. As in a node, what is alive then is frozen."""
    make_home(home, specification)
    databases = open_databases(load_config(home, {}, {}), specification)
    gc.collect()
    gc.freeze()
    return databases


def make_blocks(
    run: Run, specification: Specification, home: Path, authority: KeyPair, signers: Sequence[KeyPair],
    keys: Sequence[bytes], transfers: int, blocks: int,
) -> list[Sealed]:
    """A chain of full blocks, as its authority made them."""
    chance = random.Random(SEED)
    databases, genesis = new_node(specification, home), specification.genesis
    chain = databases.chain
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
    databases.close()
    return sealed


def measure(
    run: Run, name: str, databases: Databases, sealed: Sequence[Sealed], verify: VerifyBatch, known: bool, background: bool
) -> None:
    """Import all blocks into a new chain; reports transfers a second, and the ratio to the floor."""
    chain, stages = databases.chain, Stages()
    chain.machine = cast(Runtime, _Timed(chain.machine, stages))
    verify, decode = stages.timed("verify", verify), stages.timed("decode the block", Block.decode)
    take, write = stages.timed("import", chain.import_block), stages.timed("write and sync", chain.apply)
    ratios, microseconds, cpu, own, floors = [], [], [], [], []
    warm = min(WARM_UP_BLOCKS, len(sealed) - 1)
    with ThreadPoolExecutor(1) as disk:
        waiting: Future[None] | None = None
        for number, one in enumerate(run.track(sealed, name)):
            if number == warm:
                stages.seconds.clear()
            floor_s = floor(one.tasks)
            start, cpu_start, own_start = time.perf_counter(), time.process_time(), time.thread_time()
            batch = take(decode(one.raw), one.certificate, known=one.known if known else None, verify_batch=verify)
            if waiting is not None:
                waiting.result()
            if background:
                waiting = disk.submit(write, batch)
            else:
                write(batch)
            seconds = time.perf_counter() - start
            cpu.append((time.process_time() - cpu_start) / len(one.tasks) * 1e6)
            own.append((time.thread_time() - own_start) / len(one.tasks) * 1e6)
            floors.append((floor_s + floor(one.tasks)) / 2 * 1e6)
            microseconds.append(seconds / len(one.tasks) * 1e6)
            ratios.append(floors[-1] / (microseconds if background else own)[-1])
        if waiting is not None:
            waiting.result()
    databases.close()
    run.at_least(f"import, {name}", median(ratios[warm:]), TARGETS[name], "x floor")
    run.figure(f"{name}: us a transfer", [round(each, 1) for each in microseconds])
    run.figure(f"{name}: CPU us a transfer, importing thread", [round(each, 1) for each in own])
    run.figure(f"{name}: CPU us a transfer, all threads", [round(each, 1) for each in cpu])
    run.figure(f"{name}: all threads x floor", round(mean(floors[warm:]) / mean(cpu[warm:]), 3))
    run.figure(f"{name}: floor, us", [round(each, 1) for each in floors])
    run.figure(f"{name}: transfers/s", round(1e6 / mean(microseconds[warm:])))
    run.figure(f"{name}: transfers a CPU second", round(1e6 / mean(cpu[warm:])))
    run.figure(f"{name}: mean block x floor", round(mean(ratios[warm:]), 3))
    run.figure(f"{name}: best block x floor", round(max(ratios), 3))
    transfers = sum(len(one.tasks) for one in sealed[warm:])
    run.figure(f"{name}: CPU us a transfer by stage", stages.table(transfers))


class _Timed:
    """The rules of a chain, with the execution of blocks timed."""

    def __init__(self, machine: Any, stages: Stages) -> None:
        self._machine = machine
        self.apply_block = stages.timed("execute", machine.apply_block)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)


class Stages:
    """CPU time of the importing thread by stage, in seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, stage: str, function: Callable[..., T]) -> Callable[..., T]:
        """The same function; what it takes is added to the stage."""

        def run(*args: Any, **named: Any) -> T:
            start = time.thread_time()
            try:
                return function(*args, **named)
            finally:
                self.seconds[stage] = self.seconds.get(stage, 0.0) + time.thread_time() - start

        return run

    def table(self, transfers: int) -> dict[str, float]:
        """Microseconds a transfer; what the import does beside verifying and executing stands for itself."""
        found = dict(self.seconds)
        found["import beside those"] = found.pop("import") - found.get("verify", 0.0) - found["execute"]
        return {stage: round(seconds / transfers * 1e6, 2) for stage, seconds in found.items()}


def floor(tasks: Sequence[SignatureTask]) -> float:
    """CPU seconds of PyNaCl's `crypto_sign_open` for one of these signatures."""
    chosen = [(signature + message, key) for key, message, signature in tasks[:FLOOR_SIGNATURES]]
    start = time.thread_time()
    for signed, key in chosen:
        crypto_sign_open(signed, key)
    return (time.thread_time() - start) / len(chosen)
