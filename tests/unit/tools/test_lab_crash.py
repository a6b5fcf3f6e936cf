"""Killing a real node: what it announced as final is there again, and the experiment notices when it is not."""

import asyncio
from pathlib import Path

import pytest

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from ledger.errors import Corruption
from ledger.store import MemoryStore
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from runtime.executor import Runtime
from tools.lab import crash
from tools.lab.deep import deep_check
from tools.lab.frame import Run


def killed(kills: int) -> Run:
    run = Run()
    asyncio.run(crash.crash(run, kills, 0, max(1, kills // 2)))
    return run


def check(run: Run) -> None:
    lost, mismatches = run.targets[:2]
    assert lost.ok and mismatches.ok, run.figures["trouble"]
    assert run.figures["acknowledged_blocks"] > 3 and run.figures["transfers_included"] > 0
    assert run.figures["deep_checks"] >= 2


def test_three_kills_lose_nothing() -> None:
    check(killed(3))


@pytest.mark.long
def test_ten_kills_lose_nothing_and_restarts_are_fast() -> None:
    run = killed(10)
    check(run)
    assert all(target.ok for target in run.targets)


def test_a_lost_block_would_be_noticed(tmp_path: Path) -> None:
    crash.prepare(tmp_path / "node")
    tally = crash.Tally(final={1: (b"\1" * 32, b"\2" * 32)})
    crash._check_copy(tally, tmp_path / "node", tmp_path / "copy")
    assert tally.mismatches == ["NotFound: there is no block 1"] and not (tmp_path / "copy").exists()


# --- the deep check ------------------------------------------------------------------------------------------------


def chain_of(blocks: int):
    """A chain of the small devnet in memory, and its store."""
    from ledger.chain import Chain

    genesis, store = build_genesis(devnet_spec(1, authorities=1)), MemoryStore()
    session = next(member.session for member in cast(1, 1) if member.session is not None)
    chain = Chain.create(store, genesis.params, Runtime(genesis.genesis_hash), genesis.state)
    for height in range(1, blocks + 1):
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0)
        body = vote_body(height, 0, executed.block.hash)
        vote = Vote(PRECOMMIT, height, 0, executed.block.hash, 0, session.sign("precommit", genesis.genesis_hash, body))
        chain.commit(executed, Certificate.build({0: vote}, 1))
    return chain, store


def test_the_deep_check_is_repeatable_and_tells_chains_apart() -> None:
    (chain, store), (longer, other) = chain_of(4), chain_of(5)
    assert deep_check(chain, store) == deep_check(chain, store)
    assert deep_check(longer, other).digest != deep_check(chain, store).digest


@pytest.mark.parametrize("prefix", ["s", "p", "h", "b", "c", "r", "d", "H", "m"])
def test_the_deep_check_notices_any_changed_row(prefix: str) -> None:
    """Either nothing fits any more, or the digest is another one."""
    chain, store = chain_of(3)
    before = deep_check(chain, store)
    for key, value in list(store.items(prefix.encode()))[:2]:
        store.write({key: value[:-1] + bytes([value[-1] ^ 1])}, sync=True)
        try:
            assert deep_check(chain, store).digest != before.digest, key
        except Corruption:
            pass
        store.write({key: value}, sync=True)
    assert deep_check(chain, store) == before
