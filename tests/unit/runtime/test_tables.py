"""Typed keys: numeric order, one encoding, declared once."""

import ast
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

from ledger.errors import DecodeError
from runtime.modules import accounts
from runtime.state import State
from runtime.tables import Table, key_field, u16_field, u32_field


@dataclass(frozen=True)
class Row:
    number: int
    name: bytes
    list: list


class Empty:
    def get(self, key):
        return None

    def items(self, prefix, after=b""):
        return iter(())


class Holds(Empty):
    def __init__(self, rows):
        self.rows = rows

    def get(self, key):
        return self.rows.get(key)


@pytest.fixture
def table(monkeypatch):
    monkeypatch.setattr(Table, "registry", {})
    return Table(999, "test", Row, u16_field("netuid"), key_field("key"))


# rule: BLK-9
def test_rows_round_trip_in_numeric_order(table):
    state = State(Empty())
    for netuid in (256, 1, 300, 2):
        table.put(state, netuid, bytes(32), value=Row(netuid, b"x", [1, [2]]))
    assert [parts[0] for parts, _ in table.items(state)] == [1, 2, 256, 300]
    assert table.get(state, 300, bytes(32)) == Row(300, b"x", [1, [2]])
    assert [parts for parts, _ in table.items(state, 2)] == [(2, bytes(32))]
    table.delete(state, 2, bytes(32))
    assert table.get(state, 2, bytes(32)) is None


def test_deleting_what_is_not_there_writes_nothing(table):
    state = State(Empty())
    table.delete(state, 1, bytes(32))
    assert state.changes() == {} and state.mark() == 0


# rule: BLK-9
def test_keys_and_values_are_checked(table):
    with pytest.raises(AssertionError):
        table.key(1, b"short")
    with pytest.raises(AssertionError):
        table.get(State(Empty()), 1)
    with pytest.raises(OverflowError):
        table.key(1 << 16)
    with pytest.raises(DecodeError):
        table.decode(b"\xff")


def test_a_number_is_declared_once(table):
    with pytest.raises(AssertionError):
        Table(999, "other", int, u32_field("x"))


def test_all_tables_have_names_of_their_own():
    import runtime.executor  # noqa: F401 - registers them

    names = [table.name for table in Table.registry.values()]
    assert len(set(names)) == len(names)
    ranges = [(1, 19), (20, 39), (40, 59), (60, 79), (80, 89), (90, 109), (110, 149)]
    assert all(any(low <= number <= high for low, high in ranges) for number in Table.registry)


def test_values_are_kept_as_objects_until_their_bytes_are_asked_for():
    key = accounts.ACCOUNT.key(bytes(32))
    old = accounts.Account(5, 0, 1)
    state = State(Holds({key: accounts.ACCOUNT.encode(old)}))
    assert accounts.ACCOUNT.get(state, bytes(32)) is accounts.ACCOUNT.get(state, bytes(32))
    accounts.ACCOUNT.put(state, bytes(32), value=accounts.Account(6, 0, 1))
    mark = state.mark()
    accounts.ACCOUNT.put(state, bytes(32), value=accounts.Account(7, 0, 2))
    assert state.value_before(key, accounts.ACCOUNT) == old
    assert state.get(key) == accounts.ACCOUNT.encode(accounts.Account(7, 0, 2))
    accounts.ACCOUNT.delete(state, bytes(32))
    assert accounts.ACCOUNT.get(state, bytes(32)) is None and dict(state.items(b"")) == {}
    state.revert(mark)
    assert accounts.ACCOUNT.get(state, bytes(32)) == accounts.Account(6, 0, 1)
    assert state.changes() == {key: accounts.ACCOUNT.encode(accounts.Account(6, 0, 1))}
    state.revert(0)
    assert accounts.ACCOUNT.get(state, bytes(32)) == old and state.changes() == {}


def test_no_rule_changes_an_account_in_place():
    names = {field.name for field in fields(accounts.Account)}
    root = Path(accounts.__file__).parents[1]
    for path in (path for path in root.rglob("*.py") if not path.is_relative_to(root / "frozen")):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            assert not any(isinstance(each, ast.Attribute) and each.attr in names for each in targets), path
