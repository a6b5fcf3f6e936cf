"""Stores: order, atomic batches, snapshots; and LevelDB's failures, each under its own name."""

import os
import random
import subprocess
import sys

import plyvel
import pytest

from ledger.errors import Corruption, DiskFailure, Error, Locked, NewerSchema, NotFound, WrongGenesis
from ledger.store import GENESIS_KEY, SCHEMA_KEY, LevelStore, MemoryStore, check_stamp, prefix_end, stamp

GENESIS = bytes(range(32))


@pytest.fixture(params=["memory", "level"])
def store(request, tmp_path):
    made = MemoryStore() if request.param == "memory" else LevelStore.create(tmp_path / "db")
    yield made
    made.close()


def test_get_write_delete(store):
    store.write({b"a": b"1", b"b": b"2"}, sync=True)
    assert (store.get(b"a"), store.get(b"b"), store.get(b"c")) == (b"1", b"2", None)
    store.write({b"a": None, b"b": b"3", b"missing": None}, sync=False)
    assert (store.get(b"a"), store.get(b"b")) == (None, b"3")


def test_items_are_ordered_and_bounded_by_prefix(store):
    keys = [b"a", b"p", b"p\x00", b"pa", b"pb", b"p\xff", b"p\xff\xff", b"q", b"\xff", b"\xff\xff"]
    store.write({key: b"v" + key for key in random.Random(1).sample(keys, len(keys))}, sync=True)

    def listed(*args, **kwargs):
        return [key for key, _ in store.items(*args, **kwargs)]

    assert listed(b"") == sorted(keys)
    assert listed(b"p") == [b"p", b"p\x00", b"pa", b"pb", b"p\xff", b"p\xff\xff"]
    assert listed(b"p", reverse=True) == listed(b"p")[::-1]
    assert listed(b"p", b"pa") == [b"pb", b"p\xff", b"p\xff\xff"]
    assert listed(b"p", b"pa", reverse=True) == [b"p\x00", b"p"]
    assert listed(b"p", b"a") == listed(b"p")
    assert listed(b"p", b"q") == []
    assert listed(b"p", b"q", reverse=True) == listed(b"p", reverse=True)
    assert listed(b"p", b"a", reverse=True) == []
    assert listed(b"\xff") == [b"\xff", b"\xff\xff"]
    assert listed(b"\xff", b"\xff\xff", reverse=True) == [b"\xff"]
    assert dict(store.items(b"pa")) == {b"pa": b"vpa"}


def test_snapshot_does_not_see_later_writes(store):
    store.write({b"k1": b"1", b"k2": b"2", b"k3": b"3"}, sync=True)
    snapshot = store.snapshot()
    store.write({b"k1": b"new", b"k2": None, b"k0": b"0"}, sync=True)
    later = store.snapshot()
    store.write({b"k1": b"newer", b"k9": b"9"}, sync=True)
    assert (snapshot.get(b"k1"), snapshot.get(b"k2"), snapshot.get(b"k0")) == (b"1", b"2", None)
    assert list(snapshot.items(b"k")) == [(b"k1", b"1"), (b"k2", b"2"), (b"k3", b"3")]
    assert list(snapshot.items(b"k", b"k2", reverse=True)) == [(b"k1", b"1")]
    assert list(later.items(b"k")) == [(b"k0", b"0"), (b"k1", b"new"), (b"k3", b"3")]
    assert [key for key, _ in store.items(b"k")] == [b"k0", b"k1", b"k3", b"k9"]


def test_both_stores_agree_on_random_batches(tmp_path):
    rnd = random.Random(7)
    memory, level = MemoryStore(), LevelStore.create(tmp_path / "db")
    for _ in range(60):
        batch = {bytes(rnd.choices(b"ab\xff", k=rnd.randint(1, 4))): rnd.choice((None, b"x", b"y")) for _ in range(8)}
        snapshots = memory.snapshot(), level.snapshot()
        memory.write(batch, sync=False)
        level.write(batch, sync=False)
        prefix, after = bytes(rnd.choices(b"ab\xff", k=rnd.randint(0, 2))), rnd.choice((b"", b"ab", b"b\xff"))
        reverse = rnd.random() < 0.5
        for first, second in ((memory, level), snapshots):
            assert list(first.items(prefix, after, reverse=reverse)) == list(second.items(prefix, after, reverse=reverse))
    level.close()


def test_prefix_end():
    assert prefix_end(b"a") == b"b"
    assert prefix_end(b"a\xff\xff") == b"b"
    assert prefix_end(b"") is None
    assert prefix_end(b"\xff") is None


def test_what_was_synced_is_there_after_reopening(tmp_path):
    store = LevelStore.create(tmp_path / "db")
    store.write({b"%d" % index: b"v" for index in range(100)}, sync=True)
    store.close()
    store = LevelStore.open(tmp_path / "db")
    assert len(list(store.items(b""))) == 100
    store.close()


def test_opening_never_creates(tmp_path):
    with pytest.raises(NotFound):
        LevelStore.open(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFound):
        LevelStore.open(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())


def test_creating_never_overwrites(tmp_path):
    store = LevelStore.create(tmp_path / "db")
    store.close()
    store = LevelStore.create(tmp_path / "db")  # made, but nothing was ever written: an interrupted creation
    store.write({b"k": b"v"}, sync=True)
    store.close()
    with pytest.raises(Error, match="already holds"):
        LevelStore.create(tmp_path / "db")


def test_second_opener_is_refused(tmp_path):
    store = LevelStore.create(tmp_path / "db")
    with pytest.raises(Locked) as caught:
        LevelStore.open(tmp_path / "db")
    assert caught.value.exit_code == 27
    store.close()


def test_lost_current_file_is_corruption_not_a_new_database(tmp_path):
    filled(tmp_path / "db")
    (tmp_path / "db" / "CURRENT").unlink()
    for action in (LevelStore.open, LevelStore.create):
        with pytest.raises(Corruption):
            action(tmp_path / "db")


def test_lost_table_is_corruption(tmp_path):
    filled(tmp_path / "db")
    LevelStore.open(tmp_path / "db").close()  # turns the log into a table
    tables = list((tmp_path / "db").glob("*.ldb"))
    assert tables
    tables[0].unlink()
    with pytest.raises(Corruption):
        LevelStore.open(tmp_path / "db")


@pytest.mark.parametrize("seed", range(12))
def test_a_flipped_bit_in_the_log_is_noticed(tmp_path, seed):
    rows = filled(tmp_path / "db")
    flip(tmp_path / "db", "*.log", seed)
    assert noticed(tmp_path / "db", rows, seed)


@pytest.mark.parametrize("seed", range(24))
def test_a_flipped_bit_in_a_table_is_noticed_or_harmless(tmp_path, seed):
    rows = filled(tmp_path / "db")
    LevelStore.open(tmp_path / "db").close()
    flip(tmp_path / "db", "*.ldb", seed)
    noticed(tmp_path / "db", rows, seed)


@pytest.mark.parametrize("cut", [1, 5, 40, 700])
def test_a_torn_log_loses_whole_batches_from_the_end_only(tmp_path, cut):
    store = LevelStore.create(tmp_path / "db")
    for index in range(50):
        store.write({b"a%02d" % index: b"x" * 10, b"b%02d" % index: b"y" * 10}, sync=True)
    store.close()
    (log,) = (tmp_path / "db").glob("*.log")
    os.truncate(log, log.stat().st_size - cut)
    store = LevelStore.open(tmp_path / "db")
    count = len(list(store.items(b"a")))
    assert [key for key, _ in store.items(b"a")] == [b"a%02d" % index for index in range(count)]
    assert [key for key, _ in store.items(b"b")] == [b"b%02d" % index for index in range(count)]
    assert 50 > count >= 49 - cut // 40
    store.close()


def test_a_failing_disk_has_its_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DiskFailure) as caught:
        LevelStore.create(tmp_path / "file" / "db")
    assert caught.value.exit_code == 24


def test_stamp(store):
    with pytest.raises(Corruption):
        check_stamp(store, 1, GENESIS)
    store.write(stamp(1, GENESIS), sync=True)
    check_stamp(store, 1, GENESIS)
    check_stamp(store, 1, GENESIS)
    with pytest.raises(WrongGenesis):
        check_stamp(store, 1, bytes(32))
    store.write({SCHEMA_KEY: (2).to_bytes(4, "big")}, sync=True)
    with pytest.raises(NewerSchema):
        check_stamp(store, 1, GENESIS)
    store.write({SCHEMA_KEY: b"junk!"}, sync=True)
    with pytest.raises(Corruption):
        check_stamp(store, 1, GENESIS)
    store.write({GENESIS_KEY: None}, sync=True)
    with pytest.raises(Corruption):
        check_stamp(store, 1, GENESIS)


def filled(path):
    """A closed database whose rows are all in the log."""
    store = LevelStore.create(path)
    rows = {b"key%03d" % index: random.Random(index).randbytes(50) for index in range(200)}  # does not compress
    for key, value in rows.items():
        store.write({key: value}, sync=False)
    store.write({b"last": b"row"}, sync=True)
    store.close()
    return rows | {b"last": b"row"}


def flip(folder, pattern, seed):
    rnd = random.Random(seed)
    file = sorted(folder.glob(pattern), key=lambda each: each.stat().st_size)[-1]
    data = bytearray(file.read_bytes())
    data[rnd.randrange(len(data) * 9 // 10)] ^= 1 << rnd.randrange(8)
    file.write_bytes(data)


def noticed(path, rows, seed):
    """True if opening or reading (one by one, or all) reports corruption; never may it yield other rows silently."""
    try:
        store = LevelStore.open(path)
    except Corruption:
        return True
    try:
        if seed % 2:
            assert dict(store.items(b"")) == rows
        else:
            assert all(store.get(key) == value for key, value in rows.items())
        return False
    except Corruption:
        return True
    finally:
        store.close()


LIMITED = """
import resource, signal, sys
from ledger.errors import Error
from ledger.store import LevelStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = LevelStore.create(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
acknowledged = 0
try:
    for number in range(1_000):
        store.write({number.to_bytes(4, "big"): bytes(1_000)}, sync=True)
        acknowledged = number + 1
except Error as error:
    print(acknowledged, error.exit_code, error.cause, error.hint, sep="|")
    try:
        store.write({b"more": b""}, sync=True)
    except Error as again:
        print(again.exit_code)
"""


def test_a_write_that_the_disk_refuses_is_named_and_loses_nothing_acknowledged(tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "db")], capture_output=True, text=True, check=True, timeout=60
    )
    first, *again = run.stdout.splitlines()
    acknowledged, code, cause, hint = first.split("|")
    assert (code, again) == ("24", ["24"]) and "may not grow further" in cause and "ulimit" in hint
    store = LevelStore.open(tmp_path / "db")
    assert len(list(store.items(b""))) >= int(acknowledged) > 50
    store.close()


@pytest.mark.parametrize(("words", "error", "said"), [
    (b"IO error: lock /x/LOCK: already held by process", Locked, "another process"),
    (b"IO error: /x/LOCK: Permission denied", DiskFailure, "this user may not write there"),
    (b"IO error: /x/000017.ldb: No space left on device", DiskFailure, "the disk is full"),
    (b"IO error: /x/000017.log: Input/output error", DiskFailure, "the disk fails"),
    (b"IO error: /x/000017.log: Read-only file system", DiskFailure, "read-only"),
    (b"IO error: something else", DiskFailure, "something else"),
])
def test_obstacles_have_names(monkeypatch, tmp_path, words, error, said):
    LevelStore.create(tmp_path / "db").close()

    def refuse(*arguments, **options):
        raise plyvel.IOError(words)

    monkeypatch.setattr(plyvel, "DB", refuse)
    with pytest.raises(error) as caught:
        LevelStore.open(tmp_path / "db")
    assert said in caught.value.cause and caught.value.hint and "b'" not in caught.value.cause


def test_closing_closes_the_snapshots_that_are_held_first(tmp_path):
    store, closed = LevelStore.create(tmp_path / "db"), []
    store.write({b"a": b"1"}, sync=False)
    held = store.snapshot()

    class Noted:
        def __init__(self, name, thing):
            self.close = lambda: (closed.append(name), thing.close())

    held._source, store._db = Noted("snapshot", held._source), Noted("database", store._db)
    store.close()
    assert closed == ["snapshot", "database"]
