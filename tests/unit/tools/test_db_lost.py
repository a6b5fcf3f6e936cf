"""`quorix db repair` where old blocks are damaged: what is kept, what is written down as lost, and how it comes back."""

import shutil
import time
from itertools import pairwise

import pytest

from genesis.cast import devnet_spec
from genesis.spec import format_spec
from ledger import layout
from ledger.errors import Corruption, NotFound, Rejected
from ledger.layout import at
from ledger.lost import described, lost_blocks, lost_row, spans
from ledger.store import LevelStore, MemoryStore
from tests.homes import change, grow, invoke, new_home, quiet, rows_of
from tools.ops import db_repair, db_transfer, db_upkeep
from tools.ops.db_home import stopped_node

BLOCKS = 70
OF_A_BLOCK = (layout.HEADER, layout.BODY, layout.CERTIFICATE, layout.RESULT)


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    """A home whose blocks are all in tables, where every row is found as it is."""
    spec = format_spec(devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000 - 10_000_000))
    home = new_home(tmp_path_factory.mktemp("lost") / "node", spec)
    grow(home, BLOCKS)
    db_upkeep.compact(home, quiet, quiet)
    return home


@pytest.fixture
def home(grown, tmp_path):
    return shutil.copytree(grown, tmp_path / "node")


def flip(home, row):
    """Flip a bit where a table holds this row; LevelDB then refuses the row and those near it."""
    for table in (home / "chain").glob("*.ldb"):
        data = bytearray(table.read_bytes())
        if (place := data.find(row)) >= 0:
            data[place + len(row) // 2] ^= 1
            table.write_bytes(data)
            return
    pytest.fail("the row is in no table")


def sound(home):
    return db_upkeep.check(home, None, deep=True, progress=quiet)


def test_a_flipped_bit_in_an_old_block_costs_that_block_and_its_neighbours(home, grown, tmp_path):
    before = rows_of(home)
    flip(home, before[at(layout.BODY, 20)])
    with pytest.raises(Corruption):
        rows_of(home)
    said = invoke("repair", "--home", home)
    assert said.exit_code == 0, said.exception
    with stopped_node(home) as node:
        gone = sorted(lost_blocks(node.store))
        assert node.chain.head.height == BLOCKS and 20 in gone and len(gone) < 60
        with pytest.raises(NotFound, match="block 20 was lost here") as lost:
            node.chain.body(20)
        assert "quorix db import" in lost.value.hint
    assert f"lost: blocks {described(gone)};" in said.stdout and f"--from {gone[0]} --to {gone[-1]}" in said.stdout
    after = rows_of(home)
    assert {key for key in before if key[:1] in OF_A_BLOCK and key not in after} == {at(layout.BODY, each) for each in gone}
    assert [path for path in home.iterdir() if "damaged" in path.name]
    assert f"lost: {described(gone)}" in invoke("info", "--home", home).stdout
    assert f"lost earlier: blocks {described(gone)}" in invoke("check", "--deep", "--home", home).stdout
    assert db_repair.repair(home, None, quiet)["done"] == "nothing"
    with pytest.raises(NotFound, match="was lost here"):
        db_transfer.export_blocks(home, None, tmp_path / "holes", None, None, quiet)
    assert list(tmp_path.glob(".*")) == []

    grow(home, 2)
    assert db_upkeep.reindex(home, None, quiet)["rows"] > 0
    assert sound(home)["ok"]
    back = tmp_path / "back"
    db_transfer.export_blocks(grown, None, back, gone[0], gone[-1], quiet)
    said = invoke("import", back, "--home", home)
    assert f"{len(gone)} lost blocks came back; no block is lost any more; the head is {BLOCKS + 2}" in said.stdout
    assert sound(home)["ok"] and sound(home)["lost"] == ""
    now = rows_of(home)
    assert {key: row for key, row in now.items() if key[:1] in OF_A_BLOCK and key in before} == {
        key: row for key, row in before.items() if key[:1] in OF_A_BLOCK
    }
    assert layout.LOST_KEY not in now and all(now[key] == row for key, row in before.items() if key[:1] in b"HAxke")


def test_what_a_later_block_repeats_or_a_replay_can_give_is_not_lost(home):
    before = rows_of(home)
    change(home, {at(layout.CERTIFICATE, 7): None, at(layout.HEADER, 4): None, next(
        key for key in before if key[:1] == layout.PAGE): b"spoilt", at(layout.BODY, 11): None})
    found = db_repair.repair(home, None, quiet)
    assert (found["done"], found["lost_blocks"], found["height"]) == ("kept", [[4, 4], [11, 11]], BLOCKS)
    after = rows_of(home)
    assert after[at(layout.CERTIFICATE, 7)] == before[at(layout.CERTIFICATE, 7)]
    assert {key: row for key, row in after.items() if key[:1] == layout.PAGE} == {
        key: row for key, row in before.items() if key[:1] == layout.PAGE
    }
    with stopped_node(home) as node:
        assert node.chain.height_of(node.chain.hash_at(4)) == 4
    assert sound(home)["ok"]


def test_lost_results_come_back_by_executing_every_block_again(home, grown, tmp_path):
    before = rows_of(home)
    change(home, {at(layout.BODY, 30): None, at(layout.RESULT, 30): None})
    assert db_repair.repair(home, None, quiet)["done"] == "kept"
    back = tmp_path / "back"
    db_transfer.export_blocks(grown, None, back, 30, 30, quiet)
    said = invoke("import", back, "--home", home)
    assert f"next: quorix db repair --home {home}" in said.stdout and "blocks 30 are not whole yet" in said.stdout
    found = db_repair.repair(home, None, quiet)
    assert (found["done"], found["lost_blocks"], found["height"]) == ("replay", [], BLOCKS)
    assert rows_of(home) == before


def test_a_block_of_another_chain_does_not_come_in_for_a_lost_one(home, tmp_path):
    change(home, {at(layout.BODY, 30): None})
    db_repair.repair(home, None, quiet)
    lost = rows_of(home)
    other = new_home(tmp_path / "other", (home / "spec.toml").read_text())
    grow(other, 40, step_ms=1001)
    file = tmp_path / "theirs"
    db_transfer.export_blocks(other, None, file, 30, 40, quiet)
    with pytest.raises(Rejected, match="another one than this chain's"):
        db_transfer.import_file(home, None, file, None, quiet)
    assert rows_of(home) == lost


@pytest.mark.long
def test_blocks_above_a_hole_wait_in_a_file_where_the_state_is_gone(home, grown, tmp_path):
    before = rows_of(home)
    state = next(key for key in before if key[:1] == layout.STATE)
    change(home, {at(layout.BODY, 50): None, at(layout.HEADER, 60): None, state: b"spoilt"})
    said = invoke("repair", "--home", home).stdout
    files = [home / "salvaged-51-59.blocks", home / f"salvaged-61-{BLOCKS}.blocks"]
    for line in ("stopped at block 50: body cannot be read; 20 blocks above it could not be executed", "lost: blocks 50 to 70;",
                 *(f"quorix db import {file}" for file in files)):
        assert line in said
    for height, file in zip((50, 60), files, strict=True):
        between = tmp_path / f"{height}"
        db_transfer.export_blocks(grown, None, between, height, height, quiet)
        db_transfer.import_file(home, None, between, None, quiet)
        db_transfer.import_file(home, None, file, None, quiet)
    assert rows_of(home) == before


def test_a_node_goes_on_from_a_snapshot_with_a_damaged_block(home, tmp_path):
    db_transfer.export_snapshot(home, None, tmp_path / "snapshot", 10, quiet)
    db_transfer.export_blocks(home, None, tmp_path / "rest", 11, None, quiet)
    short = new_home(tmp_path / "short", (home / "spec.toml").read_text(), authority=False, history="archive")
    for file in ("snapshot", "rest"):
        db_transfer.import_file(short, None, tmp_path / file, None, quiet)
    before = rows_of(short)
    change(short, {at(layout.BODY, 11): None})
    found = db_repair.repair(short, None, quiet)
    assert (found["done"], found["lost_blocks"], found["height"]) == ("kept", [[11, 11]], BLOCKS)
    assert db_upkeep.info(short, None)["blocks_from"] == 11
    db_transfer.import_file(short, None, tmp_path / "rest", None, quiet)
    assert rows_of(short) == before


def test_the_row_of_lost_blocks():
    heights = [1, 2, 3, 9, 700]
    store = MemoryStore()
    assert lost_blocks(store) == frozenset() and lost_row([]) is None
    store.write({layout.LOST_KEY: lost_row(reversed(heights))}, sync=True)
    assert sorted(lost_blocks(store)) == heights and described(heights) == "1 to 3, 9, 700"
    assert all(low[1] + 1 < high[0] for low, high in pairwise(spans(heights)))
    with pytest.raises(Corruption):
        lost_row(range(0, 10_000, 2))
    for row in (b"", b"\x80\x00", b"\x81\x82\x02\x01", b"\x81\x82\x00\x1b" + b"\xff" * 8, b"\x81\x81\x00"):
        store.write({layout.LOST_KEY: row}, sync=True)
        with pytest.raises(Corruption):
            lost_blocks(store)


@pytest.mark.long
def test_damage_that_a_node_could_not_go_on_with_is_not_kept(home):
    before = rows_of(home)
    newest = next(key for key in before if key[:1] == layout.HISTORY)
    change(home, {at(layout.BODY, 60): None})
    db_upkeep.compact(home, quiet, quiet)
    flip(home, before[newest] if len(before[newest]) > 8 else newest)
    store = LevelStore.open(home / "chain")
    with pytest.raises(Corruption):
        list(store.items(layout.HISTORY))
    store.close()
    assert db_repair.repair(home, None, quiet)["done"] == "replay"
