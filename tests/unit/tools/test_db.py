"""`quorix db` on real homes: what each command does, what it refuses, and that an interrupted one does no harm."""

import contextlib
import json
import os
import shutil
import signal
import threading
import time

import pytest
from click.testing import CliRunner

from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger import layout
from ledger.errors import (
    Aborted,
    Corruption,
    DecodeError,
    DiskFailure,
    Error,
    Locked,
    NotFound,
    Pruned,
    Rejected,
    UsageError,
    WrongGenesis,
)
from ledger.layout import at
from ledger.store import LevelStore
from tests.homes import change, grow, invoke, new_home, quiet, rows_of
from tools.cli import db
from tools.cli.main import Settings, cli
from tools.cli.output import Output
from tools.node.config import load_config
from tools.node.folders import size_of
from tools.node.home import Specification, make_home, open_databases
from tools.ops import db_backup, db_repair, db_rewind, db_transfer, db_upkeep
from tools.ops.block_file import BlockReader, import_blocks
from tools.ops.db_home import stopped_node

BLOCKS = 12


@pytest.fixture(scope="module")
def spec_text():
    return format_spec(devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000 - 10_000_000))


@pytest.fixture(scope="module")
def grown(tmp_path_factory, spec_text):
    """A home with blocks; tests work on copies."""
    home = new_home(tmp_path_factory.mktemp("db") / "node", spec_text)
    grow(home, BLOCKS)
    return home


@pytest.fixture
def home(grown, tmp_path):
    return shutil.copytree(grown, tmp_path / "node")


# --- looking -----------------------------------------------------------------------------------------------------


def test_info_and_check(home):
    found = json.loads(invoke("info", "--home", home, "--json").stdout)
    assert (found["height"], found["history"], found["states_from"], found["signed_height"]) == (BLOCKS, "full", 0, BLOCKS)
    assert f"{BLOCKS}," in invoke("info", "--home", home).stdout
    assert "a sample of the state fit" in invoke("check", "--home", home).stdout
    deep = json.loads(invoke("check", "--deep", "--home", home, "--json").stdout)
    assert deep["ok"] and [section["name"] for section in deep["sections"]] == [
        "state", "blocks", "indexes", "past states", "rows", "invariants",
    ]


def test_a_wrong_row_is_found_and_the_command_that_repairs_it_named(home):
    change(home, {at(layout.RESULT, 5): None})
    result = invoke("check", "--deep", "--home", home)
    assert isinstance(result.exception, Corruption) and result.exception.exit_code == 23
    assert result.exception.hint == f"quorix db repair --home {home}"
    assert "blocks: the results of block 5" in result.stdout
    assert invoke("check", "--deep", "--home", home, "--json").exit_code == 23


def test_every_command_refuses_a_running_node_another_chain_and_an_empty_folder(home, tmp_path, spec_text):
    (tmp_path / "empty").mkdir()
    shutil.copy(home / "spec.toml", tmp_path / "empty")
    other = new_home(tmp_path / "other", spec_text.replace("genesis_time_ms = 1", "genesis_time_ms = 2", 1))
    store = LevelStore.open(home / "chain")
    commands = (
        ["info"], ["check"], ["repair"], ["rewind", "3", "--yes"], ["compact"], ["prune"], ["reindex"],
        ["export", tmp_path / "file"], ["backup", tmp_path / "copy"],
    )
    for command in commands:
        locked = invoke(*command, "--home", home).exception
        assert isinstance(locked, Locked) and "stop the node" in locked.hint, command
        assert isinstance(invoke(*command, "--home", tmp_path / "empty").exception, NotFound), command
        assert isinstance(invoke(*command, "--home", tmp_path / "none").exception, NotFound), command
        if command != ["compact"]:
            wrong = invoke(*command, "--home", home, "--spec", other / "spec.toml").exception
            assert isinstance(wrong, Locked | WrongGenesis), command
    store.close()
    for command in commands:
        if command != ["compact"]:
            assert isinstance(invoke(*command, "--home", home, "--spec", other / "spec.toml").exception, WrongGenesis), command
    assert isinstance(invoke("info").exception, UsageError)
    assert not (tmp_path / "file").exists() and not (tmp_path / "copy").exists()


# --- export and import -------------------------------------------------------------------------------------------


def test_blocks_go_through_a_file(home, tmp_path, spec_text):
    path = tmp_path / "blocks"
    db_transfer.export_blocks(home, None, path, None, None, quiet)
    follower = new_home(tmp_path / "follower", spec_text, authority=False)
    found = db_transfer.import_file(follower, None, path, None, quiet)
    assert (found["blocks"], found["height"]) == (BLOCKS, BLOCKS)
    mine, theirs = rows_of(home), rows_of(follower)
    assert {key: value for key, value in mine.items() if key[:1] != layout.EXTRA} == theirs
    again = db_transfer.import_file(follower, None, path, None, quiet)
    assert (again["blocks"], again["known"]) == (0, BLOCKS)
    grow(home, 3)
    more = tmp_path / "more"
    db_transfer.export_blocks(home, None, more, 10, None, quiet)
    assert db_transfer.import_file(follower, None, more, None, quiet)["height"] == BLOCKS + 3
    with pytest.raises(UsageError):
        db_transfer.export_blocks(home, None, more, None, None, quiet)  # the file exists
    with pytest.raises(UsageError, match="no blocks 5 to 99"):
        db_transfer.export_blocks(home, None, tmp_path / "x", 5, 99, quiet)
    assert "nothing new: 6 blocks of the file were here already" in invoke("import", more, "--home", follower).stdout
    with pytest.raises(NotFound, match="no folder"):
        db_transfer.export_blocks(home, None, tmp_path / "nowhere" / "x", None, None, quiet)
    late = new_home(tmp_path / "late", spec_text, authority=False)
    with pytest.raises(UsageError, match="no block yet"):
        db_transfer.export_blocks(late, None, tmp_path / "x", None, None, quiet)
    with pytest.raises(Rejected, match="goes on at block 10.*; no block was imported") as gap:
        db_transfer.import_file(late, None, more, None, quiet)
    assert "holds block 1 first" in gap.value.hint


def test_damaged_files_give_the_blocks_before_the_damage(home, tmp_path, spec_text):
    path = tmp_path / "blocks"
    db_transfer.export_blocks(home, None, path, None, None, quiet)
    data = path.read_bytes()
    follower = new_home(tmp_path / "follower", spec_text, authority=False)
    for name, damaged in {
        "cut": data[: len(data) // 2], "flipped": data[:-900] + bytes((data[-900] ^ 1,)) + data[-899:], "longer": data + b"x",
    }.items():
        (tmp_path / name).write_bytes(damaged)
        with stopped_node(follower) as node:
            before = node.chain.head.height
        with pytest.raises(DecodeError) as fault:
            db_transfer.import_file(follower, None, tmp_path / name, None, quiet)
        with stopped_node(follower) as node:
            height = node.chain.head.height
        assert height > 0 and fault.value.where == str(tmp_path / name) and "goes on where this one ended" in fault.value.hint
        kept = f"blocks {before + 1} to {height} were imported and stay" if height > before else "no block was imported"
        assert fault.value.cause.endswith(kept)
    assert db_transfer.import_file(follower, None, path, None, quiet)["height"] == BLOCKS
    (tmp_path / "nonsense").write_bytes(b"hello")
    with pytest.raises(UsageError, match="neither"):
        db_transfer.import_file(follower, None, tmp_path / "nonsense", None, quiet)


def test_an_interrupted_import_keeps_what_it_has(home, tmp_path, spec_text):
    path = tmp_path / "blocks"
    db_transfer.export_blocks(home, None, path, None, None, quiet)
    follower = new_home(tmp_path / "follower", spec_text, authority=False)

    def stop(what, done, of):
        if done == 7:
            raise KeyboardInterrupt

    with stopped_node(follower) as node, open(path, "rb") as file, pytest.raises(KeyboardInterrupt):
        import_blocks(BlockReader(file, node.params.genesis_hash), node.chain, stop)
    with stopped_node(follower) as node:
        assert node.chain.head.height == 7


def test_a_snapshot_starts_an_empty_node(home, tmp_path, spec_text):
    path = tmp_path / "snapshot"
    made = db_transfer.export_snapshot(home, None, path, 8, quiet)
    follower = new_home(tmp_path / "follower", spec_text, authority=False, history="archive")
    found = db_transfer.import_file(follower, None, path, (8, made["hash"]), quiet)
    assert (found["height"], found["state_root"]) == (8, made["state_root"])
    assert sorted(each.name for each in follower.iterdir()) == ["chain", "node.key", "spec.toml"]
    blocks = tmp_path / "blocks"
    db_transfer.export_blocks(home, None, blocks, 9, None, quiet)
    assert db_transfer.import_file(follower, None, blocks, None, quiet)["height"] == BLOCKS
    with stopped_node(follower) as node, stopped_node(home) as source:
        assert node.archive and node.chain.head == source.chain.head
        assert dict(node.chain.view(9).items(b"")) == dict(source.chain.view(9).items(b""))
        with pytest.raises(Pruned):
            node.chain.view(7)
    assert db_upkeep.check(follower, None, deep=True, progress=quiet)["problems"] == 0
    with pytest.raises(UsageError, match="no blocks before 9") as late:
        db_transfer.export_blocks(follower, None, tmp_path / "all", None, None, quiet)
    assert "--from 9" in late.value.hint
    with pytest.raises(UsageError, match="has blocks up to"):
        db_transfer.import_file(follower, None, path, None, quiet)
    fresh = new_home(tmp_path / "fresh", spec_text, authority=False)
    (tmp_path / "cut").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DecodeError, match="nothing was changed"):
        db_transfer.import_file(fresh, None, tmp_path / "cut", None, quiet)
    with pytest.raises(Rejected, match="the checkpoint says"):
        db_transfer.import_file(fresh, None, path, (8, bytes(32)), quiet)
    assert sorted(each.name for each in fresh.iterdir()) == ["chain", "node.key", "spec.toml"]
    change(follower, {at(layout.HEADER, 8): None})
    with pytest.raises(Corruption, match="began from a snapshot"):
        db_repair.repair(follower, None, quiet)


# --- upkeep ------------------------------------------------------------------------------------------------------


def test_pruning_and_compacting(home, tmp_path, spec_text):
    found = db_upkeep.prune(home, None, 3, quiet)
    assert (found["states_from_before"], found["states_from"]) == (0, BLOCKS - 3)
    assert db_upkeep.prune(home, None, 3, quiet)["rows"] == 0
    first = db_upkeep.compact(home, quiet, quiet)
    change(home, {b"z" + bytes([index]): bytes(4096) for index in range(64)})
    db_upkeep.compact(home, quiet, quiet)
    change(home, {b"z" + bytes([index]): None for index in range(64)})
    again = db_upkeep.compact(home, quiet, quiet)
    assert again["bytes_before"] > 64 * 4096 > again["bytes_after"] and abs(again["bytes_after"] - first["bytes_after"]) < 4096
    assert again["bytes_after"] - size_of(home / "chain") in range(-2048, 2048)
    assert db_upkeep.check(home, None, deep=True, progress=quiet)["ok"]
    archive = new_home(tmp_path / "archive", spec_text, history="archive")
    grow(archive, BLOCKS, history="archive")
    assert db_upkeep.prune(archive, None, 5, quiet)["states_from"] == BLOCKS - 5
    assert db_upkeep.check(archive, None, deep=True, progress=quiet)["ok"]
    with stopped_node(archive) as node:
        assert node.archive
        node.chain.view(BLOCKS - 5)
        with pytest.raises(Pruned):
            node.chain.view(BLOCKS - 6)


class Killed(BaseException):
    """As if the process had ended."""


def dying(monkeypatch, writes):
    """After so many writes to any database every further one kills."""
    left = [writes]

    def write(self, batch, *, sync, real=LevelStore.write):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        return real(self, batch, sync=sync)

    monkeypatch.setattr(LevelStore, "write", write)


@pytest.mark.parametrize("writes", [2, *(pytest.param(each, marks=pytest.mark.long) for each in (0, 1, 3, 5))])
def test_a_kill_while_reindexing(home, monkeypatch, writes):
    before = rows_of(home)
    monkeypatch.setattr("ledger.reindexing.BATCH_ROWS", 4)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, writes)
        db_upkeep.reindex(home, None, quiet)
    if writes:
        with pytest.raises(Corruption, match="interrupted"), stopped_node(home):
            pass
        with pytest.raises(Corruption):
            open_databases(load_config(home, {}, {}), Specification.load(home / "spec.toml"))
    if writes % 2:
        assert db_upkeep.reindex(home, None, quiet)["rows"] > 0
    else:
        db_repair.repair(home, None, quiet)
    assert rows_of(home) == before


@pytest.mark.parametrize("writes", [1, *(pytest.param(each, marks=pytest.mark.long) for each in (0, 2, 3))])
def test_a_kill_while_pruning(tmp_path, spec_text, monkeypatch, writes):
    home = new_home(tmp_path / "archive", spec_text, history="archive")
    grow(home, 8, history="archive")
    monkeypatch.setattr(db_upkeep, "PRUNE_ROWS", 20)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dying(patch, writes)
        db_upkeep.prune(home, None, 2, quiet)
    assert db_upkeep.check(home, None, deep=True, progress=quiet)["ok"]
    assert db_upkeep.prune(home, None, 2, quiet)["states_from"] == 6
    assert db_upkeep.check(home, None, deep=True, progress=quiet)["ok"]


# --- rewind ------------------------------------------------------------------------------------------------------


def test_a_rewound_node_signs_again(home, tmp_path):
    result = invoke("rewind", 5, "--home", home)
    assert isinstance(result.exception, Aborted)  # nobody to ask
    assert "7 blocks removed" in invoke("rewind", 5, "--home", home, "--yes").stdout
    with stopped_node(home) as node:
        assert node.chain.head.height == 5 and node.rewound and node.guard.domains[-1][0] == 6
    assert grow(home, 4).height == 9
    assert db_upkeep.check(home, None, deep=True, progress=quiet)["ok"]
    with pytest.raises(UsageError, match="was rewound"):
        db_transfer.export_snapshot(home, None, tmp_path / "x", None, quiet)
    with pytest.raises(NotFound):
        db_rewind.rewind([home], None, 99)
    db_rewind.rewind([home], None, 0)  # before all domains that there were
    assert db_upkeep.info(home, None)["rewinds"] == 1
    with pytest.raises(UsageError, match="was rewound"):
        db_transfer.export_snapshot(home, None, tmp_path / "x", None, quiet)


@pytest.mark.long
def test_all_homes_of_a_devnet_get_one_domain_also_after_a_kill(home, tmp_path, monkeypatch):
    second = shutil.copytree(home, tmp_path / "second")
    grow(home, 1)
    for writes in range(5):
        with monkeypatch.context() as patch:
            dying(patch, writes)
            try:
                db_rewind.rewind([home, second], None, 6)
            except Killed:
                continue
    found = db_rewind.rewind([home, second], None, 6)
    guards = []
    for each in (home, second):
        with stopped_node(each) as node:
            assert node.chain.head.height == 6
            guards.append(node.guard.domains)
    assert guards[0] == guards[1] and guards[0][-1][1] == found["new_domain"]


def test_a_rewind_is_remembered_where_there_is_no_key(home, tmp_path):
    db_rewind.rewind([home], None, 5)
    assert grow(home, 3).height == 8
    follower = shutil.copytree(home, tmp_path / "follower")
    for gone in ("session.key", "sign"):
        shutil.rmtree(follower / gone) if gone == "sign" else (follower / gone).unlink()
    with stopped_node(follower) as node:
        assert node.chain.head.height == 8 and node.rewinds == 1
    assert db_upkeep.check(follower, None, deep=True, progress=quiet)["ok"]
    spoil(follower, "value")
    repaired = db_repair.repair(follower, None, quiet)
    assert repaired["done"] == "replay" and repaired["lost_blocks"] == [] and repaired["height"] == 8
    (follower / "rewinds.json").unlink()
    with pytest.raises(Corruption):
        db_upkeep.info(follower, None)


def test_authorities_that_are_left_out_are_named(tmp_path):
    two = format_spec(devnet_spec(1, authorities=2, genesis_time_ms=time.time_ns() // 1_000_000 - 10_000_000))
    homes = [tmp_path / name for name in "ab"]
    for home, member in zip(homes, cast(1, 2), strict=False):
        home.mkdir()
        (home / "spec.toml").write_text(two)
        make_home(home, Specification.load(home / "spec.toml"), session_key=member.session)
    with pytest.raises(UsageError, match="1 of 2 authorities") as refused:
        db_rewind.rewind(homes[:1], None, 0)
    assert str(homes[1]) in refused.value.hint
    db_rewind.rewind(homes, None, 0)


def test_only_devnets_are_rewound(tmp_path):
    recent = format_spec(devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000))
    text = "\n".join(line for line in recent.splitlines() if not line.startswith(("devnet =", "seed =")))
    home = new_home(tmp_path / "real", text)
    grow(home, 2)
    with pytest.raises(UsageError, match="only a devnet"):
        db_rewind.rewind([home], None, 1)


# --- repair ------------------------------------------------------------------------------------------------------


def test_nothing_to_repair_and_indexes_in_place(home):
    before = rows_of(home)
    assert db_repair.repair(home, None, quiet)["done"] == "nothing"
    kind = next(key for key in before if key[:1] == layout.EVENT_KIND)
    change(home, {kind: None, layout.extrinsic_key(bytes(32)): bytes(10)})
    assert "made again" in invoke("repair", "--home", home).stdout
    assert rows_of(home) == before


def spoil(home, how):
    folder = home / "chain"
    if how == "value":
        change(home, {next(iter(key for key in rows_of(home) if key[:1] == layout.STATE)): b"spoilt"})
    elif how == "CURRENT":
        (folder / "CURRENT").unlink()
    elif how == "manifest":
        next(folder.glob("MANIFEST-*")).unlink()
    elif how == "bit":
        file = max((*folder.glob("*.log"), *folder.glob("*.ldb")), key=lambda path: path.stat().st_size)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif how == "blocks and state":
        spoil(home, "value")
        change(home, {at(layout.BODY, 9): None, at(layout.BODY, 11): None})
    elif how == "certificate":
        change(home, {at(layout.CERTIFICATE, 9): None})


def test_a_repair_that_cannot_know_what_was_lost_does_not_say_nothing_was(home):
    for file in (home / "chain").glob("*.l*"):
        file.unlink()
    result = invoke("repair", "--home", home)
    assert result.exit_code == 0, result.exception
    assert "begins again at its genesis" in result.stdout and "no block is known to be lost" in result.stdout


@pytest.mark.parametrize(("how", "height"), [
    ("bit", None), ("blocks and state", 8),
    *(pytest.param(how, BLOCKS, marks=pytest.mark.long) for how in ("value", "CURRENT", "manifest", "certificate")),
])
def test_what_is_whole_is_verified_again_and_the_rest_is_named(home, how, height):
    signed, before = rows_of(home, "sign"), rows_of(home)
    spoil(home, how)
    with pytest.raises(Error):
        found = db_upkeep.check(home, None, deep=True, progress=quiet)
        raise Corruption(str(found["problems"])) if found["problems"] else AssertionError("the damage was not found")
    result = invoke("repair", "--home", home, "--json")
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)
    assert found["done"] == "replay" and height in (None, found["height"])
    assert found["lost_blocks"] == ([] if found["height"] == BLOCKS else [[found["height"] + 1, BLOCKS]])
    assert bool(found["warning"]) == (found["height"] < BLOCKS - 1)
    assert db_upkeep.check(home, None, deep=True, progress=quiet)["ok"]
    if found["height"] == BLOCKS:
        assert rows_of(home) == before
    kept = [path.name for path in home.iterdir() if path.name.startswith("chain")]
    assert len(kept) == 2 and any("damaged" in name for name in kept)
    assert rows_of(home, "sign") == signed


# --- backup ------------------------------------------------------------------------------------------------------


def test_backup_and_restore(home, tmp_path):
    copy = tmp_path / "copies" / "monday"
    made = db_backup.backup(home, None, copy, quiet)
    assert made["height"] == BLOCKS and sorted(each.name for each in copy.iterdir()) == ["chain", "manifest.json", "spec.toml"]
    grow(home, 4)
    text = invoke("restore", copy, "--home", home).stdout
    assert f"the head is block {BLOCKS}" in text and "chain.replaced-" in text and f"signed up to {BLOCKS + 4}" in text
    with stopped_node(home) as node:
        assert (node.chain.head.height, node.guard.signed_height) == (BLOCKS, BLOCKS + 4)
    with pytest.raises(UsageError, match="exists"):
        db_backup.backup(home, None, copy, quiet)
    shutil.rmtree(home / "chain")
    assert db_backup.restore(home, None, copy, quiet)["put_aside"] is None


def test_a_kill_while_restoring(home, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    db_backup.backup(home, None, copy, quiet)
    before = rows_of(home)

    def killed(*arguments):
        raise Killed

    for step in ("_copy", "sync_folder", "put_aside"):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(db_backup, step, killed)
            db_backup.restore(home, None, copy, quiet)
        assert rows_of(home) == before and not (home / ".chain.new").exists()
    with monkeypatch.context() as patch, pytest.raises(Killed):  # between the two renames: both chains are there
        patch.setattr(db_backup, "name_folder", killed)
        db_backup.restore(home, None, copy, quiet)
    assert not (home / "chain").exists() and len(list(home.glob("chain.replaced-*"))) == 1
    assert db_backup.restore(home, None, copy, quiet)["height"] == BLOCKS
    assert rows_of(home) == before


def test_a_backup_from_before_a_rewind_is_refused_and_changes_nothing(home, tmp_path):
    copy = tmp_path / "copy"
    db_backup.backup(home, None, copy, quiet)
    db_rewind.rewind([home], None, 5)
    before = rows_of(home)
    with pytest.raises(Corruption, match="cannot take the backup") as caught:
        db_backup.restore(home, None, copy, quiet)
    assert "nothing was changed" in caught.value.hint
    assert rows_of(home) == before and not list(home.glob("*chain.*"))
    shutil.rmtree(home / "chain")
    with pytest.raises(Corruption):
        db_backup.restore(home, None, copy, quiet)
    assert not list(home.glob("*chain*"))


def test_no_backup_inside_a_database(home):
    before = rows_of(home)
    (home / "link").symlink_to(home / "chain")
    for folder in ("chain/copy", "chain/a/b", "sign/copy", "link/copy"):
        with pytest.raises(UsageError, match="inside a database"):
            db_backup.backup(home, None, home / folder, quiet)
    assert rows_of(home) == before


def test_a_damaged_backup_is_refused_and_changes_nothing(home, tmp_path, spec_text):
    copy = tmp_path / "copy"
    db_backup.backup(home, None, copy, quiet)
    before = rows_of(home)
    file = max((copy / "chain").iterdir(), key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes((data[-1] ^ 1,)))
    with pytest.raises(Corruption, match="not the file of the backup"):
        db_backup.restore(home, None, copy, quiet)
    file.write_bytes(data)
    (copy / "chain" / "000999.ldb").write_bytes(b"more")
    with pytest.raises(Corruption):
        db_backup.restore(home, None, copy, quiet)
    (copy / "chain" / "000999.ldb").unlink()
    other = new_home(tmp_path / "other", spec_text.replace("genesis_time_ms = 1", "genesis_time_ms = 2", 1))
    with pytest.raises(WrongGenesis):
        db_backup.restore(other, None, copy, quiet)
    nameless = json.dumps({"format": 1, "files": {}, "genesis_hash": "00" * 32})
    for text in ("{", "[]", "[" * 100_000, nameless, '{"format": 2}',
                 '{"format": 1, "files": {"../x": {"bytes": 1}}, "genesis_hash": ""}'):
        (copy / "manifest.json").write_text(text)
        with pytest.raises(Error):
            db_backup.restore(home, None, copy, quiet)
    assert rows_of(home) == before and not list(home.glob("chain.*"))


def test_commands_look_for_space_first(home, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1 << 40, 1 << 40, 1 << 20))
    for run in (
        lambda: db_backup.backup(home, None, tmp_path / "copy", quiet), lambda: db_upkeep.compact(home, quiet, quiet),
    ):
        with pytest.raises(DiskFailure, match="nothing was changed|are needed"):
            run()
    assert not (tmp_path / "copy").exists()


def test_damage_is_neither_compacted_nor_copied(home, tmp_path):
    change(home, {b"z" + number.to_bytes(2, "big"): bytes(1024) for number in range(64)})
    db_upkeep.compact(home, quiet, quiet)
    table = max((home / "chain").glob("*.ldb"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) - 40_000] ^= 1
    table.write_bytes(data)
    change(home, {b"z": b"something to merge"})
    for command in (["compact"], ["backup", tmp_path / "copy"]):
        found = invoke(*command, "--home", home)
        assert isinstance(found.exception, Corruption) and "quorix db repair" in found.exception.hint, command
    assert not (tmp_path / "copy").exists()


def test_a_home_that_may_not_be_changed_is_no_damage(home, tmp_path, monkeypatch):
    db_backup.backup(home, None, tmp_path / "copy", quiet)
    before = rows_of(home)
    monkeypatch.setattr(os, "access", lambda path, mode: path != home)
    for run in (lambda: db_repair.repair(home, None, quiet), lambda: db_backup.restore(home, None, tmp_path / "copy", quiet)):
        with pytest.raises(DiskFailure, match="this user may not write there"):
            run()
    monkeypatch.undo()

    def refuse(*arguments):
        raise PermissionError(13, "Permission denied", str(home / "chain"))

    monkeypatch.setattr(db_backup, "put_aside", refuse)
    with pytest.raises(DiskFailure, match="chain: Permission denied") as refused:
        db_backup.restore(home, None, tmp_path / "copy", quiet)
    assert "as it was" in refused.value.hint and rows_of(home) == before and not list(home.glob("chain.*"))


@pytest.mark.parametrize("command", [["rewind", "3", "--yes"], ["prune", "--keep", "0"], ["repair"], ["compact"], ["reindex"]])
def test_nothing_is_done_for_a_dry_run(home, command):
    before = rows_of(home)
    found = CliRunner().invoke(cli, ["--dry-run", "db", *command, "--home", str(home)], standalone_mode=False)
    assert isinstance(found.exception, UsageError) and "nothing was done" in found.exception.cause
    assert rows_of(home) == before


def test_a_log_gets_a_line_of_progress_now_and_then(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(db.time, "monotonic", lambda: now[0])
    with db._progress(Output(Settings())) as step:
        for done in range(1, 26):
            now[0] += 1
            step("importing blocks", done * 1000, 25_000)
    assert capsys.readouterr().err.splitlines() == ["importing blocks 10,000 of 25,000", "importing blocks 20,000 of 25,000"]


def test_a_write_that_fails_leaves_no_file(home, tmp_path, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(db_transfer, "write_blocks", fail)
    with pytest.raises(DiskFailure, match="No space left"):
        db_transfer.export_blocks(home, None, tmp_path / "file", None, None, quiet)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["node"]


def test_a_lost_interrupt_ends_the_work_at_its_next_step():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), db._progress(Output(Settings(quiet=True))) as step:
        step("working", 1, 3)
        with contextlib.suppress(KeyboardInterrupt):  # as a library's callback does
            signal.raise_signal(signal.SIGINT)
        step("working", 2, 3)
        pytest.fail("it went on")
    assert signal.getsignal(signal.SIGINT) is before


def interrupting(monkeypatch, signal_number, module, name):
    """The signal arrives when this function has been called."""
    real = getattr(module, name)

    def call(*arguments, **options):
        found = real(*arguments, **options)
        signal.raise_signal(signal_number)
        return found

    monkeypatch.setattr(module, name, call)


@pytest.mark.parametrize(("command", "module", "name", "said"), [
    (["backup", "copy"], db_backup, "_copy", "no copy was made"),
    (["restore", "made"], db_backup, "_copy", "nothing was changed"),
    (["restore", "made"], db_backup, "put_aside", "nothing was changed"),
    (["restore", "made"], db_backup, "name_folder", "nothing was changed"),
    (["export", "file"], db_transfer, "write_blocks", "no file was written"),
    (["check", "--deep"], db_upkeep, "deep_check", "nothing was changed"),
])
def test_a_signal_leaves_nothing_half_made_and_is_answered(home, tmp_path, monkeypatch, command, module, name, said):
    db_backup.backup(home, None, tmp_path / "made", quiet)
    before, beside = rows_of(home), sorted(path.name for path in tmp_path.iterdir())
    arguments = [command[0], *(each if each[0] == "-" else tmp_path / each for each in command[1:]), "--home", home]
    for number in (signal.SIGINT, signal.SIGTERM):
        with monkeypatch.context() as patch:
            interrupting(patch, number, module, name)
            ended = invoke(*arguments)
        assert ended.exit_code != 0 and said in ended.stderr
        assert sorted(path.name for path in tmp_path.iterdir()) == beside
        assert rows_of(home) == before and [path.name for path in home.iterdir() if "chain" in path.name] == ["chain"]


def test_a_signal_ends_compacting_at_once(home, monkeypatch):
    going, ended = threading.Event(), []
    monkeypatch.setattr(LevelStore, "compact", lambda self: going.wait(10))
    monkeypatch.setattr(os, "_exit", lambda code: (ended.append(code), going.set()))
    threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGTERM)).start()
    assert "interrupted: nothing is lost; the same command begins again" in invoke("compact", "--home", home).stderr
    assert ended == [130]
