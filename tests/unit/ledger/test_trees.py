"""List trees: roots, proofs, and what a proof must not show."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.crypto import ZERO_HASH, digest
from ledger.trees import list_proof, list_root, verify_list_proof


def leaves(count):
    return [b"leaf %d" % index for index in range(count)]


def test_root_follows_the_rule():
    a, b, c = (digest("list", b"\0", leaf) for leaf in leaves(3))
    assert list_root([]) == ZERO_HASH
    assert list_root(leaves(1)) == a
    assert list_root(leaves(2)) == digest("list", b"\1", a, b)
    assert list_root(leaves(3)) == digest("list", b"\1", digest("list", b"\1", a, b), c)
    assert list_root(leaves(3), "events") != list_root(leaves(3))


@given(st.integers(1, 70), st.data())
def test_every_leaf_has_a_proof_and_no_other_leaf_passes(count, data):
    items = leaves(count)
    index = data.draw(st.integers(0, count - 1))
    root, proof = list_root(items), list_proof(items, index)
    assert verify_list_proof(root, items[index], index, count, proof)
    assert not verify_list_proof(root, b"other", index, count, proof)
    assert not verify_list_proof(root, items[index], index, count, [*proof, bytes(32)])
    if proof:
        assert not verify_list_proof(root, items[index], index, count, proof[:-1])
        assert not verify_list_proof(root, items[index], index, count, [bytes(32), *proof[1:]])
        assert not verify_list_proof(root, items[index], index ^ 1, count, proof)


def test_index_and_shape_are_checked():
    items = leaves(5)
    root, proof = list_root(items), list_proof(items, 4)
    assert not verify_list_proof(root, items[4], 5, 5, proof)
    assert not verify_list_proof(root, items[4], -1, 5, proof)
    assert not verify_list_proof(root, items[4], 4, 5, ["x"])
    assert not verify_list_proof(root, items[4], 4, 5, [bytes(32)] * 65)
    with pytest.raises(IndexError):
        list_proof(items, 5)


def test_a_node_does_not_pass_as_a_leaf():
    items = leaves(4)
    left = digest("list", b"\0", items[0]) + digest("list", b"\0", items[1])
    right = digest("list", b"\1", digest("list", b"\0", items[2]), digest("list", b"\0", items[3]))
    assert not verify_list_proof(list_root(items), left, 0, 2, [right])
