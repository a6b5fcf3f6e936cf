"""The pool under load: what a full block costs it, and whether honest transactions get past any amount of junk.

    a block    5,000 entries wait; a block of 4,000 transfers is committed, first one made of the pool, then one of others'
               transactions whose signers have entries in the pool. Counted: time of `Pool.on_block` and how often the
               rules were asked
    junk       forged signatures, malformed bytes, nonce gaps, accounts that can pay one fee but send many, replacements
               by a tenth more, tips that only promise; a few honest transfers come in between, at the usual fee. A block
               is made after every few thousand

The rules, signatures and database are the node's own; time is CPU time of one thread.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from genesis.build import build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.blocks import Extrinsic
from ledger.chain import Chain, ExecutedBlock
from ledger.crypto import KeyPair, digest
from ledger.errors import DecodeError, Rejected
from ledger.machine import Admission, View
from ledger.pool import REVALIDATED_PER_BLOCK, Pool
from ledger.store import LevelStore
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.dispatch import call_number
from runtime.executor import Runtime
from tools.lab.frame import Run, benchmark

SIGNERS: Final = 1_000
RICH_RAO: Final = 10**12
POOR_RAO: Final = 6_000  # a few fees
FORGERS, GAPPERS, POOR, REPLACERS, SNIPERS = range(5)  # who sends which junk: a tenth of the signers each
HONEST_PER_BLOCK: Final = 8
MAX_BLOCKS_WAITED: Final = 3
MAX_US_PER_JUNK: Final = 400
MAX_MS_PER_BLOCK: Final = 60


class World:
    """A chain of one authority, with signers who know their nonces."""

    def __init__(self, folder: Path) -> None:
        self.authority = KeyPair.from_seed(digest("seed", b"authority"))
        self.signers = [KeyPair.from_seed(digest("seed", index.to_bytes(4, "big"))) for index in range(SIGNERS)]
        tenth = SIGNERS // 10
        balances = [POOR_RAO if index // tenth == POOR else RICH_RAO for index in range(SIGNERS)]
        accounts = tuple(AccountSpec(key.public, rao) for key, rao in zip(self.signers, balances, strict=True))
        genesis = build_genesis(ChainSpec(
            "pool", (AuthoritySpec(self.authority.public, self.signers[-1].public),), accounts,
            max_block_bytes=1 << 20, max_block_weight=1_000_000,
        ))
        self.machine = Runtime(genesis.genesis_hash)
        self.chain = Chain.create(LevelStore.create(folder), genesis.params, self.machine, genesis.state)
        self.pool = Pool(self.chain)
        self.transfer = call_number("accounts.transfer")

    def sign(self, index: int, nonce: int, *, tip: int = 0, birth: int | None = None, amount_rao: int = 1000) -> Extrinsic:
        """A transfer to the next signer; `birth`: the height it is born at, the head's if None."""
        birth = self.chain.head.height if birth is None else birth
        to = self.signers[(index + 1) % SIGNERS].public
        return Extrinsic.sign(
            self.signers[index], self.chain.params.genesis_hash, self.chain.hash_at(birth), nonce=nonce,
            birth_height=birth, call_number=self.transfer, args=[to, amount_rao, True], tip=tip,
        )

    def next_nonce(self, index: int) -> int:
        key = self.signers[index].public
        return self.pool.next_nonce(key, self.machine.standing(self.chain.view(), key).next_nonce)

    def block(self, extrinsics: Sequence[Extrinsic]) -> ExecutedBlock:
        """Make a block of them and commit it; the pool does not know yet."""
        executed = self.chain.build(
            timestamp_ms=self.chain.head.timestamp_ms + 1000, round_=0, extrinsics=extrinsics
        )
        block, domain = executed.block, self.chain.params.genesis_hash
        signature = self.authority.sign("precommit", domain, vote_body(block.height, 0, block.hash))
        vote = Vote(PRECOMMIT, block.height, 0, block.hash, 0, signature)
        self.chain.commit(executed, Certificate.build({0: vote}, 1))
        return executed


@benchmark("pool", about="the pool after full blocks, and honest transactions among junk", seconds=120)
@click.option("--entries", type=click.IntRange(100, 5_000), default=5_000, show_default=True, help="That wait.")
@click.option("--transfers", type=click.IntRange(10, 4_000), default=4_000, show_default=True, help="In a block.")
@click.option("--junk", type=click.IntRange(100), default=100_000, show_default=True, help="Junk transactions.")
@click.option("--per-block", type=click.IntRange(10), default=5_000, show_default=True, help="Junk between two blocks.")
def pool(run: Run, entries: int, transfers: int, junk: int, per_block: int) -> None:
    """Fill the pool, commit full blocks; then flood it (CPU time)."""
    with tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder:
        full_blocks(run, World(Path(folder) / "blocks"), entries, transfers)
        campaign(run, World(Path(folder) / "junk"), junk, per_block)


def full_blocks(run: Run, world: World, entries: int, transfers: int) -> None:
    """What a block costs the pool."""
    rich = [index for index in range(SIGNERS) if index // (SIGNERS // 10) != POOR]
    run.note(f"{entries} transactions")
    fill(world, rich, entries, run)
    start = time.process_time()
    chosen = world.pool.select(1 << 30, 1 << 60)[:transfers]
    run.figure("select: ms", round((time.process_time() - start) * 1000, 1))
    settle(run, "own block", world, world.block(chosen))
    fill(world, rich, entries, None)
    waiting: Counter[bytes] = Counter()
    rivals = []
    for number in range(transfers):  # the same nonces, signed again with a tip: everything that waits there is void
        index = rich[number % len(rich)]
        key = world.signers[index].public
        nonce = world.machine.standing(world.chain.view(), key).next_nonce + waiting[key]
        waiting[key] += 1
        rivals.append(world.sign(index, nonce, tip=1))
    settle(run, "others' block", world, world.block(rivals))


def fill(world: World, indexes: Sequence[int], entries: int, run: Run | None) -> None:
    """Up to `entries` transfers of these signers, evenly."""
    missing = entries - len(world.pool)
    raws = [
        world.sign(index, world.next_nonce(index) + turn).encode()
        for turn in range(-(-missing // len(indexes))) for index in indexes
    ][:missing]
    start = time.process_time()
    for candidate in [world.pool.admit(raw) for raw in raws]:
        world.pool.insert(candidate)
    if run is not None:
        run.figure("admit and insert: us", round((time.process_time() - start) / max(1, len(raws)) * 1e6, 1))


def settle(run: Run, name: str, world: World, executed: ExecutedBlock) -> None:
    """`Pool.on_block`: its time, and how often it asked the rules for a verdict."""
    asked, admit = [0], world.machine.admit

    def counted(view: View, extrinsic: Extrinsic, height: int) -> Admission:
        asked[0] += 1
        return admit(view, extrinsic, height)

    world.machine.admit = counted  # type: ignore[method-assign]
    start = time.process_time()
    dropped = world.pool.on_block(executed)
    milliseconds = (time.process_time() - start) * 1000
    world.machine.admit = admit  # type: ignore[method-assign]
    run.at_most(f"{name} of {len(executed.extrinsics)}: on_block", round(milliseconds, 1), MAX_MS_PER_BLOCK, "ms")
    run.at_most(f"{name}: verdicts asked", asked[0], REVALIDATED_PER_BLOCK, "calls")
    run.figure(f"{name}: dropped, left", [len(dropped), len(world.pool)])


# --- junk --------------------------------------------------------------------------------------------------------


def campaign(run: Run, world: World, junk: int, per_block: int) -> None:
    """Flood the pool; honest transfers come in between."""
    chance = random.Random(1)
    outcomes: Counter[str] = Counter()
    waiting: dict[bytes, int] = {}
    waited: list[int] = []
    refused, most_bytes, most_entries, spent_s, number = 0, 0, 0, 0.0, 0
    floods = flood(world, chance)
    honest = list(range(SIGNERS // 2, SIGNERS - 1))
    for _ in run.track(range(-(-junk // per_block) + MAX_BLOCKS_WAITED), "blocks"):
        count = min(per_block, junk - number)
        due = set(chance.sample(range(max(count, 1)), min(HONEST_PER_BLOCK, count)))
        for place in range(count):
            raw = next(floods)
            start = time.process_time()
            outcomes[offer(world.pool, raw)] += 1
            spent_s += time.process_time() - start
            if place in due:
                index = honest.pop(0)
                extrinsic = world.sign(index, world.next_nonce(index))
                if offer(world.pool, extrinsic.encode()) == "":
                    waiting[extrinsic.id] = world.chain.head.height
                else:
                    refused += 1
            most_bytes, most_entries = max(most_bytes, world.pool.size_bytes), max(most_entries, len(world.pool))
        number += count
        params = world.chain.params
        executed = world.block(world.pool.select(params.max_block_bytes, params.max_block_weight))
        world.pool.on_block(executed)
        for each in executed.extrinsics:
            if (since := waiting.pop(each.id, None)) is not None:
                waited.append(executed.block.height - since)
    limits = world.pool.limits
    run.at_most("pool: bytes", most_bytes, limits.bytes, "bytes")
    run.at_most("pool: entries", most_entries, limits.extrinsics, "entries")
    run.equals("honest ones refused", refused, 0, "transactions")
    run.equals("honest ones lost", len(waiting), 0, "transactions")
    run.at_most("honest ones waited", max(waited, default=None), MAX_BLOCKS_WAITED, "blocks")
    run.at_most("CPU of a junk transaction", round(spent_s / junk * 1e6, 1), MAX_US_PER_JUNK, "us")
    run.figure("honest ones included", len(waited))
    run.figure("junk by outcome", dict(outcomes.most_common()))


def offer(pool: Pool, raw: bytes) -> str:
    """Submit; the name of the refusal, "" for none."""
    try:
        pool.submit(raw)
    except Rejected as refusal:
        return refusal.error_name
    except DecodeError:
        return "malformed"
    return ""


def flood(world: World, chance: random.Random) -> Iterator[bytes]:
    """Junk without end, of all kinds by turns."""
    kinds: list[Callable[[int], bytes]] = [
        lambda index: bytes(chance.randbytes(64)) + world.sign(index, world.next_nonce(index)).body,
        lambda index: chance.randbytes(chance.randrange(400)),
        lambda index: world.sign(GAPPERS * tenth + index, 2 + chance.randrange(60), tip=chance.randrange(10**9)).encode(),
        lambda index: world.sign(POOR * tenth + index, chance.randrange(70)).encode(),
        lambda index: replacement(REPLACERS * tenth + index),
        lambda index: world.sign(SNIPERS * tenth + index, 1 + chance.randrange(16), tip=RICH_RAO // 2).encode(),
        lambda index: Extrinsic.sign(
            KeyPair.from_seed(chance.randbytes(32)), world.chain.params.genesis_hash, world.chain.head.hash, nonce=0,
            birth_height=world.chain.head.height, call_number=world.transfer, args=[bytes(32), 1, True],
        ).encode(),
    ]
    tenth = SIGNERS // 10
    tips: Counter[int] = Counter()

    def replacement(index: int) -> bytes:
        """The account's next one again, with a tip that grows by an eighth."""
        tips[index] = (tips[index] or 1_000) * 9 // 8 if tips[index] < RICH_RAO // 8 else 1_000
        nonce = world.machine.standing(world.chain.view(), world.signers[index].public).next_nonce
        return world.sign(index, nonce, tip=tips[index]).encode()

    while True:
        for kind in kinds:
            yield kind(chance.randrange(tenth))
