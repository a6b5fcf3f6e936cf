"""State proofs: what one or several keys hold, their size, their one form, and hostile ones."""

import random
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.client.proofs import MAX_PROOF_BYTES, verify_state, verify_states
from ledger.codec import decode, encode
from ledger.crypto import ZERO_HASH, digest
from ledger.errors import UsageError
from ledger.state_tree import MAX_PROVEN_KEYS, StateTree, _Proof, leaf_hash


def key(index):
    return b"key %d" % index


def state(count):
    return {key(index): b"value%d" % index for index in range(count)}


TREES = {count: StateTree().updated(state(count))[0] for count in (0, 1, 2, 8, 9, 300, 3000)}
TREE = TREES[300]
PROOF = TREE.prove(key(5))
MANY = (key(5), key(6), key(77), key(299), b"absent", b"not there")
VALUES = {name: state(300).get(name) for name in MANY}
SHARED = TREE.prove(*MANY)


@pytest.mark.parametrize("count", [0, 1, 8, 9, 3000])
def test_presence_and_absence_are_provable(count):
    tree = TREES[count]
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


@given(st.sets(st.integers(0, 20), min_size=1, max_size=12), st.sampled_from([0, 1, 2, 8, 9, 300]))
def test_several_keys_have_one_proof(numbers, count):
    tree, content = TREES[count], state(count)
    names = [key(number * 31) for number in numbers]
    values = {name: content.get(name) for name in names}
    proof = tree.prove(*names)
    assert proof == tree.prove(*reversed(names)) == tree.prove(*names, names[0])
    assert verify_states(tree.root, values, proof)
    for name in names:
        assert not verify_states(tree.root, values | {name: b"other"}, proof)
    missing = dict(list(values.items())[1:])
    assert not verify_states(tree.root, missing, proof) or tree.prove(*missing or [b""]) == proof


def test_a_shared_proof_is_smaller_and_bounded():
    tree, names = TREES[3000], [key(number) for number in range(MAX_PROVEN_KEYS)]
    shared, alone = len(tree.prove(*names)), sum(len(tree.prove(name)) for name in names)
    assert shared < 0.7 * alone and shared < MAX_PROOF_BYTES / 4
    for wrong in ([], [key(number) for number in range(MAX_PROVEN_KEYS + 1)]):
        with pytest.raises(UsageError):
            tree.prove(*wrong)
    assert verify_states(tree.root, {}, tree.prove(key(1))) is False
    for odd in ({"text": b""}, {5: None}, {key(1): "text"}, {None: None}):
        assert verify_states(tree.root, odd, tree.prove(key(1))) is False
    assert verify_states(tree.root, {}, encode([b"\x0f", tree._top[0], b""])) is False
    assert tree.prove(*[key(1)] * (MAX_PROVEN_KEYS + 1)) == tree.prove(key(1))


def test_every_bit_flip_and_truncation_is_refused():
    for values, proof in (({key(5): b"value5"}, PROOF), (VALUES, SHARED)):
        assert verify_states(TREE.root, values, proof)
        for bit in range(8 * len(proof)):
            bad = bytearray(proof)
            bad[bit >> 3] ^= 1 << (bit & 7)
            assert not verify_states(TREE.root, values, bytes(bad))
        for size in range(len(proof)):
            assert not verify_states(TREE.root, values, proof[:size])
        assert not verify_states(TREE.root, values, proof + b"\0")
    assert not verify_state(bytes(32), key(5), b"value5", PROOF)


def test_truncated_parts_inside_a_well_formed_proof_are_refused():
    parts = decode(SHARED)
    for part in range(3):
        for size in range(len(parts[part])):
            cut = [*parts[:part], parts[part][:size], *parts[part + 1 :]]
            assert not verify_states(TREE.root, VALUES, encode(cut))
        longer = [*parts[:part], parts[part] + b"\x01" * 64, *parts[part + 1 :]]
        assert not verify_states(TREE.root, VALUES, encode(longer))


def test_a_proof_of_another_key_shows_nothing():
    assert not verify_state(TREE.root, key(9999), None, PROOF)
    assert not verify_state(TREE.root, key(6), b"value6", PROOF)
    assert not verify_states(TREE.root, {key(5): b"value5", key(6): b"value6"}, PROOF)


@pytest.mark.parametrize(
    "proof",
    [
        b"", b"\x80", encode([b"", b""]), encode(["", "", ""]), encode([1, 2, 3]), encode([b"", b"", b"x" * 63]),
        encode([b"\x0f", b"", b""]), encode([b"\x00" * 200, b"", b""]), encode([b"\x10", bytes(32), b""]),
        encode([b"\x10", b"", bytes(64)]), encode([b"\x19", b"", bytes(64 * 9)]), encode([b"\xff", b"", bytes(64 * 239)]),
        encode([b"\x10\x10", b"", b""]), bytes(20_000), encode([None, b"", b""]), encode([b"\x10", [], b""]),
        encode([b"\x10", b"", [1]]), encode([[16], b"", b""]), encode(["\x10", "", ""]), encode(b""), encode(7),
    ],
)
def test_misshapen_proofs_are_refused(proof):
    assert verify_state(ZERO_HASH, b"k", None, proof) is False


def test_the_empty_state_has_a_proof():
    assert verify_state(ZERO_HASH, b"k", None, encode([b"\x10", b"", b""]))
    assert not verify_state(ZERO_HASH, b"k", b"", encode([b"\x10", b"", b""]))


def test_random_proofs_are_refused():
    chance = random.Random(3)
    for _ in range(2000):
        shape = bytes(chance.choice((chance.randrange(256), chance.randrange(16), 16)) for _ in range(chance.randrange(40)))
        proof = encode([shape, chance.randbytes(32 * chance.randrange(20)), chance.randbytes(64 * chance.randrange(9))])
        assert not verify_states(TREE.root, VALUES, proof)


def test_a_proof_has_one_form():
    """A mask that names the path itself, a child that does not exist or an empty one is refused even if hashes would fit."""
    shape, siblings, pages = decode(PROOF)
    own = leaf_hash(key(5))[0] >> 6
    named = bytes([shape[0] | 1 << own]) + shape[1:]
    filled = siblings[: 32 * own] + bytes(32) + siblings[32 * own :]
    assert not verify_state(TREE.root, key(5), b"value5", encode([named, filled, pages]))
    two, _ = StateTree().updated_hashes({bytes([number]) * 32: bytes(32) for number in range(9)})  # all under child 0
    shape, siblings, pages = decode(two.prove(b""))
    assert shape[0] & 0b1110 == 0 or shape[0] == 0b0001
    empty = next(child for child in range(4) if not shape[0] >> child & 1 and child != leaf_hash(b"")[0] >> 6)
    assert verify_state(two.root, b"", None, encode([shape, siblings, pages]))
    spelled = bytes([shape[0] | 1 << empty]) + shape[1:]
    at = 32 * (shape[0] & ((1 << empty) - 1)).bit_count()
    assert not verify_state(two.root, b"", None, encode([spelled, siblings[:at] + bytes(32) + siblings[at:], pages]))


def test_page_order_and_duplicates_are_refused():
    """Even where the hash of what is given would be the root."""
    tree, _ = StateTree().updated(state(3))
    shape, siblings, page = decode(tree.prove(b"absent"))
    held = {page[at : at + 32]: page[at : at + 64] for at in range(0, 192, 64)}
    absent = encode([shape, siblings, page])
    assert verify_state(tree.root, b"absent", None, absent)
    swapped = page[64:128] + page[:64] + page[128:]
    assert not verify_state(tree.root, b"absent", None, encode([shape, siblings, swapped]))
    assert not verify_state(digest("page", swapped), b"absent", None, encode([shape, siblings, swapped]))
    doubled = page[:64] * 2
    assert not verify_state(digest("page", doubled), b"absent", None, encode([b"\x12", siblings, doubled]))
    for number in range(3):  # what is claimed is not to be given as well
        assert not verify_state(tree.root, key(number), b"value%d" % number, absent)
        own = held[leaf_hash(key(number))]
        others = page.replace(own, b"")
        assert verify_state(tree.root, key(number), b"value%d" % number, encode([b"\x12", siblings, others]))
        assert tree.prove(key(number)) == encode([b"\x12", siblings, others])
        assert not verify_state(tree.root, key(number), b"other", encode([b"\x12", siblings, others]))
        assert not verify_state(tree.root, key(number), None, encode([b"\x12", siblings, others]))


def test_a_page_of_nine_is_refused():
    entries = sorted((bytes([number]) * 32, bytes(32)) for number in range(8))
    claimed = leaf_hash(b"ninth"), leaf_hash(b"value")
    joined = b"".join(path + value for path, value in sorted([*entries, claimed]))
    others = b"".join(path + value for path, value in entries)
    assert not verify_state(digest("page", joined), b"ninth", b"value", encode([b"\x18", b"", others]))


def test_an_entry_given_twice_or_cut_short_is_refused():
    tree, _ = StateTree().updated(state(3))
    _, siblings, page = decode(tree.prove(b"absent"))
    assert not verify_state(tree.root, b"absent", None, encode([b"\x14", siblings, page[:64] + page]))
    assert not verify_state(tree.root, b"absent", None, encode([b"\x14", siblings, page + page[-64:]]))
    for size in (128 + 33, 128 + 63):
        assert not verify_state(digest("page", page[:size]), b"absent", None, encode([b"\x13", siblings, page[:size]]))
    first = leaf_hash(b"absent")[0] >> 6
    given = bytes([0b1111 & ~(1 << first)])
    for size in (95, 64):
        short = TREE._top[0][:size]
        joined = short[: 32 * first] + bytes(32) + short[32 * first :]
        assert not verify_state(digest("node", joined), b"absent", None, encode([given + b"\x10", short, b""]))


def test_a_proof_above_the_limit_is_refused():
    tree = StateTree().updated(state(6000))[0]
    for count, holds in ((300, True), (3000, False)):
        absent = dict.fromkeys(b"absent %d" % number for number in range(count))
        proof = _Proof(tree)
        proof.add(tree._top, 0, sorted(map(leaf_hash, absent)))
        encoded = encode([bytes(proof.shape), bytes(proof.siblings), bytes(proof.pages)])
        assert (len(encoded) <= MAX_PROOF_BYTES) is holds
        assert verify_states(tree.root, absent, encoded) is holds


def neighbours(chance, ordered, path, count):
    """Keys whose paths lie beside one: they share its page, or the page would be there."""
    at = bisect_left(ordered, (path, b""))
    return [name for _, name in ordered[max(0, at - chance.randrange(count)) : at + chance.randrange(count)]]


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40, 300])
def test_random_claims_of_shared_pages_hold_only_as_they_are_and_in_one_form(count):
    """Present and absent keys of one page, sets larger and smaller than what was proven, values swapped, proofs changed."""
    chance, tree, content = random.Random(count), StateTree().updated(state(count))[0], state(count)
    names = [*content, *(b"absent %d" % number for number in range(40))]
    ordered = sorted((leaf_hash(name), name) for name in names)
    accepted = 0
    for _ in range(25):
        start = chance.choice(names)
        chosen = list(dict.fromkeys([start, *neighbours(chance, ordered, leaf_hash(start), 9), chance.choice(names)]))
        proof, true = tree.prove(*chosen), {name: content.get(name) for name in chosen}
        assert verify_states(tree.root, true, proof)
        for _ in range(12):
            claims = dict(true)
            for _ in range(chance.choice((1, 1, 2))):
                name, other = chance.choice(chosen), chance.choice(names)
                how = chance.randrange(4)
                if how == 0:
                    claims.pop(name, None)
                elif how == 1:
                    claims[name] = chance.choice((None, b"new", content.get(name)))
                elif how == 2:
                    claims[other] = chance.choice((None, b"new", content.get(other)))
                else:
                    claims[name], claims[other] = claims.get(other), claims.get(name)
            parts = decode(proof)
            if chance.random() < 0.5:
                part = chance.randrange(3)
                at, width = chance.randrange(len(parts[part]) + 1), chance.choice((1, 32, 64, 63))
                change = chance.choice((b"", b"\x10", bytes(32), parts[part][at : at + width] * 2))
                parts[part] = parts[part][:at] + change + parts[part][at + width :]
            changed = encode(parts)
            if verify_states(tree.root, claims, changed):
                accepted += 1
                assert all(content.get(name) == value for name, value in claims.items())
                assert changed == tree.prove(*claims)
    assert accepted
