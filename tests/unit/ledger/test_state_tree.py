"""The paged state tree: content decides the root, proofs of presence and absence, hostile proofs, rebuilding."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.client.proofs import verify_state
from ledger.codec import decode, encode
from ledger.crypto import ZERO_HASH, digest
from ledger.errors import Corruption
from ledger.state_tree import PAGE_ENTRIES, StateTree, leaf_hash, page_key, state_root


def key(index):
    return b"key %d" % index


def state(count, tag=b"value"):
    return {key(index): tag + b"%d" % index for index in range(count)}


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
        for page, entries in pages.items():
            if entries is None:
                stored.pop(page, None)
            else:
                stored[page] = entries
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


@pytest.mark.parametrize("count", [0, 1, 8, 9, 3000])
def test_presence_and_absence_are_provable(count):
    tree, _ = StateTree().updated(state(count))
    for index in range(min(count, 50)):
        proof = tree.prove(key(index))
        assert verify_state(tree.root, key(index), b"value%d" % index, proof)
        assert not verify_state(tree.root, key(index), b"other", proof)
        assert not verify_state(tree.root, key(index), None, proof)
        assert len(proof) <= 1200
    for index in range(count, count + 50):
        proof = tree.prove(key(index))
        assert verify_state(tree.root, key(index), None, proof)
        assert not verify_state(tree.root, key(index), b"", proof)


def test_every_tampered_byte_is_noticed():
    tree, _ = StateTree().updated(state(300))
    proof = tree.prove(key(5))
    for position in range(len(proof)):
        bad = bytearray(proof)
        bad[position] ^= 1
        assert not verify_state(tree.root, key(5), b"value5", bytes(bad))
    assert not verify_state(bytes(32), key(5), b"value5", proof)


def test_a_proof_of_another_key_shows_nothing():
    tree, _ = StateTree().updated(state(300))
    assert not verify_state(tree.root, key(9999), None, tree.prove(key(5)))
    assert not verify_state(tree.root, key(6), b"value6", tree.prove(key(5)))


@pytest.mark.parametrize(
    "proof",
    [
        b"", b"\x80", encode([b"", b""]), encode(["", "", ""]), encode([1, 2, 3]), encode([b"", b"", b"x" * 63]),
        encode([b"\x0f", b"", b""]), encode([b"\x0e" * 200, b"", b""]), encode([b"\x10", b"", b""]),
        encode([b"", bytes(32), b""]), encode([b"", b"", bytes(64 * 9)]), bytes(20_000), encode([None, b"", b""]),
    ],
)
def test_misshapen_proofs_are_refused(proof):
    assert verify_state(ZERO_HASH, b"k", None, proof) is False


def test_a_proof_has_one_form():
    """A mask that names the path itself, or a child that does not exist, is refused even if the hashes would fit."""
    tree, _ = StateTree().updated(state(300))
    masks, siblings, page = decode(tree.prove(key(5)))
    own = leaf_hash(key(5))[0] >> 6
    named = bytes([masks[0] | 1 << own]) + masks[1:]
    filled = siblings[: 32 * own] + bytes(32) + siblings[32 * own :]
    assert not verify_state(tree.root, key(5), b"value5", encode([named, filled, page]))
    beyond = bytes([masks[0] | 0x10]) + masks[1:]
    assert not verify_state(tree.root, key(5), b"value5", encode([beyond, siblings, page]))


def test_page_order_and_duplicates_are_refused():
    tree, _ = StateTree().updated(state(2))
    masks, siblings, page = decode(tree.prove(key(0)))
    swapped = page[64:] + page[:64]
    forged = digest("page", swapped)
    assert not verify_state(forged, key(0), b"value0", encode([masks, siblings, swapped]))
    doubled = page[:64] * 2
    assert not verify_state(digest("page", doubled), key(0), b"value0", encode([masks, siblings, doubled]))


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
