"""What a validator keeps on disk: it survives restarts, damage of a row, and damage of the whole file."""

import json
import sqlite3

import pytest

from ai import database
from ai.judge.memory import MAX_PENDING, Memory, Pending
from ai.judge.shapley import ScoreBook
from ledger.errors import Locked

ROW = Pending(1, 7, [3, 4], [65535, 12], 0, "ab" * 32)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "validators" / "0" / "scores.db"


def reopened(memory, path):
    memory.close()
    return Memory(path)


def test_everything_is_still_there_after_a_restart(path):
    memory = Memory(path)
    book = ScoreBook()
    book.add({b"a" * 32: 1.5, b"b" * 32: 0.25})
    memory.store_book(1, book)
    memory.remember(ROW)
    memory.note("probed/1", 7)
    memory = reopened(memory, path)
    assert memory.pending(1) == [ROW] and memory.pending(2) == []
    assert memory.last("probed/1") == 7 and memory.last("probed/2") == -1
    assert memory.book(1).to_value() == book.to_value() and memory.book(2).mean == {}
    memory.remember(Pending(1, 7, [9], [1], 0, "cd" * 32))
    assert [row.uids for row in memory.pending(1)] == [[9]]
    memory.drop(1, 7)
    assert memory.pending(1) == [] and memory.damaged is None


def test_two_validators_do_not_share_a_file(path, monkeypatch):
    monkeypatch.setattr(database, "LOCK_PATIENCE_S", 0.1)
    memory = Memory(path)
    with pytest.raises(Locked):
        Memory(path)
    memory.close()
    Memory(path).close()


def test_pending_rows_are_bounded_and_the_oldest_go(path):
    memory = Memory(path)
    for epoch in range(MAX_PENDING + 5):
        memory.remember(Pending(1, epoch, [1], [1], 0, "00" * 32))
    assert [row.epoch for row in memory.pending(1)] == list(range(5, MAX_PENDING + 5))
    assert [row.epoch for row in memory.pending(1)] == list(range(5, MAX_PENDING + 5))


@pytest.mark.parametrize(
    "value",
    [
        "not json", "[]", "{}", "null",
        json.dumps({**vars(ROW), "uids": [70_000]}), json.dumps({**vars(ROW), "values": [1]}),
        json.dumps({**vars(ROW), "uids": ["3", 4]}), json.dumps({**vars(ROW), "salt": "ab"}),
        json.dumps({**vars(ROW), "salt": "zz" * 32}), json.dumps({**vars(ROW), "more": 1}),
        json.dumps({**vars(ROW), "epoch": -1}), json.dumps({**vars(ROW), "uids": None}),
    ],
)  # fmt: skip
def test_a_damaged_row_is_dropped_alone(path, value):
    memory = Memory(path)
    memory.remember(ROW)
    memory.close()
    with sqlite3.connect(path) as db:
        db.execute("insert into pending values (1, 8, ?)", (value,))
        db.execute("insert into book values (1, ?)", (value,))
    db.close()
    memory = Memory(path)
    assert memory.pending(1) == [ROW]
    assert memory.book(1).mean == {}
    assert memory.damaged is None


@pytest.mark.parametrize(
    "value",
    [
        [[["aa", float("nan"), 1]], 0.0, 0], [[["aa", 1.0, 0]], 0.0, 0], [[["aa", -1.0, 1]], 0.0, 0],
        [[["zz", 1.0, 1]], 0.0, 0], [[["aa", 1.0]], 0.0, 0], [[], float("inf"), 0], [[], 0.0], [[["aa", None, 1]], 0.0, 0],
    ],
)  # fmt: skip
def test_a_stored_book_with_impossible_numbers_is_not_believed(path, value):
    memory = Memory(path)
    memory.close()
    with sqlite3.connect(path) as db:
        db.execute("insert into book values (1, ?)", (json.dumps(value),))
    db.close()
    assert Memory(path).book(1).mean == {}


@pytest.mark.parametrize("start, garbage", [(0, b"this is no database"), (100, b"\xff" * 3000)])
def test_a_damaged_file_is_moved_aside_and_begun_anew(path, start, garbage):
    memory = Memory(path)
    memory.remember(ROW)
    memory.close()
    data = bytearray(path.read_bytes())
    data[start : start + len(garbage)] = garbage
    path.write_bytes(bytes(data))
    memory = Memory(path)
    assert memory.damaged == path.with_name("scores.db.damaged-1") and memory.damaged.read_bytes() == bytes(data)
    assert memory.pending(1) == [] and memory.last("probed/1") == -1
    memory.remember(ROW)
    memory = reopened(memory, path)
    assert memory.pending(1) == [ROW] and memory.damaged is None
    memory.close()
    path.write_bytes(b"damaged again" * 100)
    assert Memory(path).damaged == path.with_name("scores.db.damaged-2")


def test_an_empty_file_is_a_new_one(path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    assert Memory(path).damaged is None
