"""Damaged homes: a named error or no harm. Here on a home that was made in this process; the experiment runs a real node."""

from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from random import Random

import pytest

from genesis.cast import cast
from ledger.level_files import records
from ledger.pool import DIGEST_BYTES, DUMP_MAGIC
from ledger.signer import STEP_PRECOMMIT, SignRecord
from ledger.votes import PRECOMMIT, Certificate, Vote, vote_body
from tools.lab import bitflips, crash
from tools.lab.bitflips import Damage, Found, Tally
from tools.lab.frame import Run
from tools.node.config import load_config
from tools.node.home import Specification, open_databases

BLOCKS = 6


def grow(home: Path, blocks: int) -> None:
    """Commit some blocks, as the node's shell does with one authority: the block, then the guard."""
    config = load_config(home, environment={})
    databases = open_databases(config, Specification.load(config.spec))
    chain, signer = databases.chain, databases.signer
    session = next(member.session for member in cast(crash.SEED, 1) if member.session is not None)
    assert signer is not None
    for _ in range(blocks):
        executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0)
        height, block_hash = executed.block.height, executed.block.hash
        signature = session.sign("precommit", chain.params.genesis_hash, vote_body(height, 0, block_hash))
        chain.commit(executed, Certificate.build({0: Vote(PRECOMMIT, height, 0, block_hash, 0, signature)}, 1))
        signer.persist(SignRecord(height, 0, STEP_PRECOMMIT, (0, STEP_PRECOMMIT, block_hash)), (), sync=False)
    databases.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with tables and logs, and beside it an older copy."""
    place = tmp_path_factory.mktemp("flips")
    crash.prepare(place / "node")
    (place / "node" / "config.toml").write_bytes(bitflips.SETTINGS)
    (place / "node" / "pool.cbor").write_bytes(empty_pool())
    grow(place / "node", BLOCKS)
    bitflips._copy(place / "node", place / "older")
    grow(place / "node", BLOCKS)
    return place / "node"


def empty_pool() -> bytes:
    return DUMP_MAGIC + blake2b(b"", digest_size=DIGEST_BYTES).digest()


@pytest.fixture(scope="module")
def whole(home: Path) -> Found:
    found = bitflips.look(bitflips._copy(home, home.with_name("copy")))
    assert found.height == 2 * BLOCKS == found.guard and len(found.keys) == 2
    return found


def judged(home: Path, whole: Found, damage: Damage) -> tuple[str, str, int]:
    return bitflips.verdict(home, home.with_name("copy"), damage, whole)


def test_flipped_bits_are_noticed_or_do_no_harm(home: Path, whole: Found) -> None:
    tally = Tally()
    for damage in bitflips.flipped(home, Random(1), 14):
        tally.add(damage, judged(home, whole, damage))
    assert not tally.silent and not tally.unnamed
    assert tally.flips[bitflips.DETECTED] > 6
    assert {"chain/*.log", "chain/*.ldb"} <= set(tally.by_file)


@pytest.mark.parametrize("kind", ["chain/*.log", "chain/*.ldb", "sign/*.ldb", "session.key", "spec.toml", "chain", "pool.cbor"])
def test_lost_and_old_files_are_noticed_or_do_no_harm(home: Path, whole: Found, kind: str) -> None:
    damages = [each for each in bitflips.spoiled(home, home.with_name("older")) if each.kind == kind]
    assert damages
    for damage in damages[:3]:
        verdict, what, code = judged(home, whole, damage)
        assert verdict == bitflips.DETECTED and what and (code > 0 or "Noticed" in what), (damage, verdict, what)


def test_a_length_that_hides_the_newest_guard_is_noticed(home: Path, whole: Found) -> None:
    """LevelDB takes it for the end of the log; an authority among others would sign again what it has signed."""
    (log,) = (home / "sign").glob("*.log")
    data = bytearray(log.read_bytes())
    start, _ = list(records(bytes(data)))[-1]
    data[start + 5] ^= 0x40
    verdict, what, code = judged(home, whole, Damage(f"sign/{log.name}", "a longer record", bytes(data)))
    assert (verdict, code) == (bitflips.DETECTED, 23) and "length" in what


def test_a_silent_change_would_be_reported(home: Path, whole: Found) -> None:
    verdict, what, _ = judged(home, replace(whole, guard=whole.guard + 1), Damage("config.toml", "missing"))
    assert (verdict, what) == ("silent", "differs in guard")
    tally = Tally()
    tally.add(Damage("config.toml", "missing"), (verdict, what, 0))
    run = Run()
    bitflips._report(run, tally, 0, whole)
    assert not run.targets[0].ok and run.figures["trouble"] == ["config.toml, missing: differs in guard"]


def test_a_run_that_ends_otherwise_is_reported() -> None:
    tally, damage = Tally(), Damage("chain/CURRENT", "missing")
    tally.add(damage, (bitflips.DETECTED, "Corruption: x", 23))
    assert tally.chosen(Random(1), 3) == [damage]
    tally.check_run(damage, (23, "Corruption"))
    assert not tally.misled
    tally.check_run(damage, (None, ""))
    tally.check_run(damage, (23, "Traceback"))
    assert len(tally.misled) == 2
