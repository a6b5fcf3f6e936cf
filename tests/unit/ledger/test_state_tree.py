"""The paged state tree: content decides the root and what is stored, in memory and over a database; rebuilding it."""

import hashlib
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.client.proofs import verify_state
from ledger.crypto import ZERO_HASH, digest
from ledger.errors import Corruption
from ledger.layout import PAGE
from ledger.state_tree import PAGE_ENTRIES, StateTree, _find, leaf_hash, page_key, state_root
from ledger.store import MemoryStore
from ledger.tree_pages import UNIT_DEPTH, StoredPages, is_indexed


def key(index):
    return b"key %d" % index


def state(count, tag=b"value"):
    return {key(index): tag + b"%d" % index for index in range(count)}


def write(stored, changes):
    """Apply changed rows to a dict of stored rows."""
    for name, row in changes.items():
        if row is None:
            stored.pop(name, None)
        else:
            stored[name] = row


def reference_root(items):
    """The rule of the module's docstring, read literally and slowly."""
    entries = sorted((digest("leaf", k), digest("leaf", v)) for k, v in items.items())

    def subtree(part, depth):
        if not part:
            return ZERO_HASH
        if len(part) <= PAGE_ENTRIES:
            return digest("page", *(k + v for k, v in part))
        children = [[], [], [], []]
        for k, v in part:
            children[int.from_bytes(k, "big") >> (254 - 2 * depth) & 3].append((k, v))
        return digest("node", *(subtree(child, depth + 1) for child in children))

    return subtree(entries, 0)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 33, 500])
def test_root_is_the_rule(count):
    assert state_root(state(count)) == reference_root(state(count))


changes = st.dictionaries(st.integers(0, 60), st.one_of(st.none(), st.binary(max_size=3)), max_size=40)


@settings(max_examples=150, deadline=None)
@given(st.lists(changes, max_size=8))
def test_any_history_leads_to_the_root_of_its_content(batches):
    tree, content, stored = StateTree(), {}, {}
    for batch in batches:
        tree, pages = tree.updated({key(index): value for index, value in batch.items()})
        write(stored, pages)
        for index, value in batch.items():
            if value is None:
                content.pop(key(index), None)
            else:
                content[key(index)] = value
        assert tree.root == reference_root(content)
        assert stored == dict(tree.pages())
        assert StateTree.from_pages(sorted(stored.items())).root == tree.root
    assert len(tree) == len(content)


def test_deleting_folds_back_through_several_levels():
    full, _ = StateTree().updated(state(400))
    for left in (9, 8, 1, 0):
        tree, _ = full.updated({key(index): None for index in range(left, 400)})
        assert tree.root == state_root(state(left))
        assert len(list(tree.pages())) == (1 if 0 < left <= PAGE_ENTRIES else len(list(tree.pages())))
    assert tree.root == ZERO_HASH


def test_deleting_what_is_absent_changes_nothing():
    tree, _ = StateTree().updated(state(100))
    same, pages = tree.updated({b"absent": None})
    assert same.root == tree.root
    assert all(dict(tree.pages())[page] == entries for page, entries in pages.items())


def test_older_versions_stay_as_they_were():
    first, _ = StateTree().updated(state(200))
    second, _ = first.updated({key(3): b"new", key(7): None})
    assert first.root == state_root(state(200))
    assert verify_state(first.root, key(3), b"value3", first.prove(key(3)))
    assert verify_state(second.root, key(3), b"new", second.prove(key(3)))
    assert verify_state(second.root, key(7), None, second.prove(key(7)))


def test_rebuilding_refuses_pages_that_are_not_one_tree():
    tree, _ = StateTree().updated(state(100))
    rows = list(tree.pages())
    assert rows == sorted(rows)
    assert StateTree.from_pages(rows).root == tree.root
    name, page = rows[3]
    for bad in (
        [*rows[:3], (name[:-1] + b"\x40", page), *rows[4:]],  # a depth that does not fit its name
        [*rows[:3], (name, page[:-1]), *rows[4:]],  # half an entry
        [(b"\0", rows[0][1]), *rows],  # a page above others
        [*rows, rows[0]],  # out of order
        [*rows[:3], (name, b""), *rows[4:]],
    ):
        with pytest.raises(Corruption):
            StateTree.from_pages(bad)
    assert StateTree.from_pages([*rows[:3], *rows[4:]]).root != tree.root


def test_page_keys_ascend_like_the_tree():
    tree, _ = StateTree().updated(state(2000))
    names = [name for name, _ in tree.pages()]
    assert names == sorted(names)
    path = leaf_hash(b"x")
    assert page_key(path, 0) == b"\0"
    assert page_key(b"\xff" * 32, 3) == b"\xfc\x03"
    assert page_key(b"\xff" * 32, 4) == b"\xff\x04"


def test_tags_separate_the_three_kinds():
    tree, _ = StateTree().updated({b"k": b"v"})
    entry = leaf_hash(b"k") + leaf_hash(b"v")
    person = b"qx/page/1".ljust(16, b"\0")
    assert tree.root == hashlib.blake2b(entry, digest_size=32, person=person).digest()


def test_value_hashes_that_hold_key_hashes_are_not_taken_for_keys():
    """Whoever writes a value cannot choose its hash; the tree does not rely on it."""
    chance = random.Random(2)
    names = [chance.randbytes(32) for _ in range(30)]
    values = [*names[:8], *(names[at][7:] + names[at + 1][:7] for at in range(8)), bytes(32)]
    tree, content, stored = StateTree(), {}, {}
    for _ in range(60):
        batch = {name: chance.choice([*values, None]) for name in chance.sample(names, chance.choice((1, 2, 9)))}
        tree, rows = tree.updated_hashes(batch)
        write(stored, rows)
        write(content, batch)
        assert stored == stored_rows_of(content)
        assert tree.root == state_root_of(content)
        for name in batch:
            for page in stored.values():
                held = [page[at : at + 32] for at in range(0, len(page), 64)]
                assert _find(page, name) == (64 * held.index(name) if name in held else -1)


# --- over a database ---------------------------------------------------------------------------------------------


class Stored:
    """A tree over a store, as the chain uses it: each version is bound to a snapshot taken after its rows were written."""

    def __init__(self, limit):
        self.store, self.limit = MemoryStore(), limit
        self.tree = StateTree()

    def write(self, changes):
        self.tree, rows = self.tree.updated_hashes(changes)
        self.store.write({PAGE + name: row for name, row in rows.items()}, sync=True)
        self.tree = self.tree.over(StoredPages(self.store.snapshot()), self.limit)

    def rows(self):
        return {name[1:]: row for name, row in self.store.items(PAGE)}

    def reopened(self):
        return StateTree.open(StoredPages(self.store.snapshot()), self.tree.root)


def hashes(numbers, tag=b"v"):
    """Key hash -> value hash, as `updated_hashes` takes them."""
    return {leaf_hash(key(number)): leaf_hash(tag + key(number)) for number in numbers}


LARGE = hashes(range(40_000))


@pytest.fixture(scope="module")
def large():
    stored = Stored(limit=1000)
    stored.write(LARGE)
    assert is_indexed(stored.tree._top)
    return stored.store, stored.tree


def copy_of(large, limit=1000):
    stored = Stored(limit)
    stored.store.write(dict(large[0].items(b"")), sync=True)
    stored.tree = StateTree.open(StoredPages(stored.store.snapshot()), large[1].root)
    return stored


def deep(index):
    """Key hashes that share long paths, so that few keys make a tree with units."""
    return bytes((index % 3,)) * 2 + leaf_hash(key(index))[2:]


@settings(max_examples=60, deadline=None)
@given(st.lists(changes, max_size=6), st.integers(0, 3))
def test_a_bounded_cache_changes_nothing(batches, limit):
    """Trees that hold nearly no page: the same roots, rows and pages as all in memory."""
    bounded, whole, rows = Stored(limit), StateTree(), {}
    for batch in batches:
        batch = {deep(index): None if value is None else leaf_hash(value) for index, value in batch.items()}
        bounded.write(batch)
        whole, changed = whole.updated_hashes(batch)
        write(rows, changed)
        assert bounded.tree.root == whole.root
        assert bounded.rows() == rows == dict(bounded.tree.pages())
        assert bounded.tree.resident_pages == len(resident(bounded.tree._top))
        assert bounded.tree.prove(key(1), key(2)) == whole.prove(key(1), key(2))


def resident(subtree):
    if type(subtree) is tuple:
        return [page for child in subtree[1:] for page in resident(child)]
    return [subtree] if subtree else []


def test_a_large_tree_opens_by_its_index_and_holds_few_pages(large):
    stored = copy_of(large)
    assert stored.tree.root == state_root_of(LARGE)
    assert stored.tree.resident_pages == 0 and resident(stored.tree._top) == []
    chance = random.Random(5)
    content = dict(LARGE)
    for turn in range(6):
        batch = dict.fromkeys(chance.sample(sorted(content), 150)) | hashes(range(10**6 * turn, 10**6 * turn + 150))
        batch |= hashes(chance.sample(range(40_000), 100), b"%d" % turn)
        stored.write(batch)
        write(content, batch)
        assert stored.tree.resident_pages <= 1000
        assert stored.tree.resident_pages == len(resident(stored.tree._top))
    root = state_root_of(content)
    assert stored.tree.root == root == stored.reopened().root
    assert stored.rows() == stored_rows_of(content)
    assert dict(stored.tree.pages()) == {name: row for name, row in stored.rows().items() if not is_index_key(name)}
    assert StateTree.from_pages(sorted(stored.rows().items())).root == root


def state_root_of(content):
    return StateTree().updated_hashes(content)[0].root


def stored_rows_of(content):
    return StateTree().updated_hashes(content)[1]


def is_index_key(name):
    return len(name) == 2 and name[1] == 0


def test_older_versions_are_read_from_their_own_snapshots(large):
    stored = copy_of(large, limit=0)
    versions = [(stored.tree, b"v")]
    for turn in range(3):
        stored.write(hashes(range(50), b"%d" % turn))
        versions.append((stored.tree, b"%d" % turn))
    for tree, tag in versions:
        assert tree.value_hash(key(7)) == leaf_hash(tag + key(7))
        assert verify_state(tree.root, key(7), tag + key(7), tree.prove(key(7)))
        assert verify_state(tree.root, key(10**9), None, tree.prove(key(10**9)))


def test_a_tree_that_shrinks_loses_its_index_and_one_that_grows_again_gets_it_back(large):
    stored = copy_of(large)
    stored.write(dict.fromkeys(hashes(range(3000, 40_000))))
    assert stored.rows() == stored_rows_of(hashes(range(3000)))
    assert not any(map(is_index_key, stored.rows()))
    assert stored.reopened().root == stored.tree.root
    stored.write(hashes(range(3000, 40_000)))
    assert stored.rows() == dict(StoredPages(large[0]).items(b"", b""))
    assert stored.tree.root == large[1].root


def test_a_stale_or_missing_index_is_not_believed(large):
    for change in (None, bytes(512), b"short"):
        stored = copy_of(large)
        stored.store.write({PAGE + b"\x07\x00": change}, sync=True)
        tree = stored.reopened()
        assert tree.root == large[1].root and tree.resident_pages > 1000
        bound, rows = tree.updated_hashes(hashes([1], b"new"))
        assert sum(map(is_index_key, rows)) == 256  # written anew


def test_a_damaged_page_is_noticed_where_it_is_read(large):
    name = next(name for name, _ in large[0].items(PAGE) if len(name) > 3)
    page = large[0].get(name)
    where = next(number for number in LARGE if number == page[:32])
    for bad in (page[:-1] + bytes((page[-1] ^ 1,)), page[64:] or None, None):
        stored = copy_of(large)
        stored.store.write({name: bad}, sync=True)
        tree = stored.reopened()
        with pytest.raises(Corruption):
            tree.updated_hashes({where: leaf_hash(b"x")})
        assert tree.updated_hashes({bytes(31) + b"\1" if where[0] else b"\xff" * 32: leaf_hash(b"x")})
    warm = copy_of(large, limit=0)
    warm.write({where: leaf_hash(b"x")})  # nodes of the unit are in memory, its pages are not
    written = warm.store.get(name)
    warm.store.write({name: written[:-1] + bytes((written[-1] ^ 1,))}, sync=True)
    with pytest.raises(Corruption, match="differs"):
        warm.tree.over(StoredPages(warm.store)).updated_hashes({where: leaf_hash(b"y")})


def test_a_tree_without_a_database_says_so(large):
    loose = StateTree(copy_of(large).tree._top)
    with pytest.raises(Corruption, match="no database"):
        loose.value_hash(key(1))


def test_unit_depth_is_below_the_index():
    assert UNIT_DEPTH == 6 and page_key(b"\xff" * 32, 6) == b"\xff\xf0\x06"
