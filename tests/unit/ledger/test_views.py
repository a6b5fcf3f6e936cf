"""The cache of the head's rows and objects: always what the rows below say, never more than its limits."""

import random

import pytest

from ledger import views
from ledger.layout import STATE, encode_place, state_row, state_value
from ledger.store import MemoryStore
from ledger.views import LayeredRows, RowCache

CODEC, OTHER = "codec", "codec of other rows"


class Head:
    """Stored rows with a cache over them, moved on as the chain does it."""

    def __init__(self, rows):
        self.store, self.cache = MemoryStore(), RowCache()
        self.store.write({STATE + key: row for key, row in rows.items()}, sync=False)
        self.cache.fill(self.below, lambda values: {CODEC: {key: [value] for key, value in values}, OTHER: {}})

    @property
    def below(self):
        return LayeredRows((), self.store.snapshot())

    @property
    def view(self):
        return self.cache.over(self.below)

    @property
    def rows(self):
        return {key: each.row for key, each in self.cache.kept.items()}

    @property
    def objects(self):
        return {key: each.value for key, each in self.cache.kept.items() if each.codec == CODEC}

    def advance(self, changes, objects, view=None):
        view = view or self.view
        self.store.write({STATE + key: row for key, row in changes.items()}, sync=False)
        assert view.is_of(self.cache)
        self.cache.advance(view, changes, objects)
        assert not view.is_of(self.cache) and not view.is_of(RowCache())

    def check(self, keys):
        for key in keys:
            row = self.store.get(STATE + key)
            assert self.view.row(key) == row == self.view.rows([key])[key]
            assert self.view.get(key) == (None if row is None else state_value(row))
        for key, known in self.objects.items():
            assert known == [state_value(self.store.get(STATE + key))]


def test_what_is_known_of_a_changed_row_is_what_the_block_made_of_it_or_nothing():
    head = Head({key: state_row(b"old " + key) for key in (b"a", b"b", b"c", b"d")})
    changes = {b"a": state_row(b"new"), b"b": None, b"c": state_row(b"as bytes", encode_place(1, 2)), b"e": state_row(b"made")}
    head.advance(changes, {CODEC: {b"a": [b"new"]}, OTHER: {}})
    assert head.objects == {b"a": [b"new"], b"d": [b"old d"]}
    head.check([b"a", b"b", b"c", b"d", b"e", b"absent"])
    head.cache.clear()
    assert head.cache.kept == {}
    head.check([b"a", b"b", b"c", b"d", b"e", b"absent"])


def test_large_rows_are_read_below_every_time():
    big = bytes(views.MAX_CACHED_ROW_BYTES)
    head = Head({b"a": state_row(b"small"), b"big": state_row(big)})
    assert set(head.rows) == {b"a"}
    head.check([b"a", b"big"])
    assert b"big" not in head.rows
    head.advance({b"a": state_row(big), b"big": state_row(big + b"x"), b"c": None}, {})
    assert head.rows == {b"c": None}
    head.check([b"a", b"big", b"c"])
    head.advance({b"a": state_row(b"small again"), b"big": None}, {})
    head.check([b"a", b"big", b"c"])


@pytest.mark.parametrize("seed", range(3))
def test_random_blocks_with_a_small_cache(monkeypatch, seed):
    monkeypatch.setattr(views, "MAX_CACHED_ROWS", 12)
    monkeypatch.setattr(views, "MAX_CACHED_ROW_BYTES", 20)
    chance = random.Random(seed)
    keys = [b"%d" % number for number in range(40)]
    head = Head({key: state_row(key) for key in keys[::2]})
    for _ in range(40):
        view = head.view
        for key in chance.sample(keys, 5):
            assert view.row(key) == head.store.get(STATE + key)
        changes, fresh = {}, {}
        for key in chance.sample(keys, chance.choice((0, 1, 9, 30))):
            value = chance.randbytes(chance.choice((0, 3, 25)))
            place = encode_place(chance.randrange(3), chance.randrange(3))
            changes[key] = None if chance.random() < 0.3 else state_row(value, place)
            if changes[key] is not None and chance.random() < 0.6:
                fresh[key] = [value]
        head.advance(changes, {CODEC: fresh} if chance.random() < 0.8 else {}, view if chance.random() < 0.5 else None)
        assert len(head.rows) <= 12
        head.check(keys)
