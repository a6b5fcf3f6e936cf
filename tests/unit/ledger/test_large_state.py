"""A chain whose state is large enough for an index: it opens without reading its pages, and proves old and new heights."""

from ledger import layout
from ledger.chain import TREES_KEPT
from ledger.client.proofs import verify_state
from ledger.state_tree import state_root

ENTRIES = 40_000


def test_a_large_chain_opens_by_its_index_and_goes_on(new_ledger, monkeypatch):
    ledger = new_ledger()
    ledger.genesis |= {b"v%d" % number: b"%d" % number for number in range(ENTRIES)}
    ledger.create()
    tree = ledger.chain._now.tree
    assert tree.resident_pages == 0 and tree.root == state_root(ledger.genesis)
    monkeypatch.setattr("ledger.state_tree.StateTree.over", bound_with_limit(60))
    for height in range(1, TREES_KEPT + 5):
        put = ledger.extrinsic(0, call=2, args=[b"7", b"at %d" % height])
        delete = ledger.extrinsic(1, call=2, args=[b"%d" % (100 + height), b""])
        ledger.grow(extrinsics=[put, delete])
        assert ledger.chain._now.tree.resident_pages <= 60
    head = ledger.chain.head
    for height in (head.height, head.height - 2, 2):
        proof = ledger.chain.prove(b"v7", height)
        assert proof.state_root == ledger.chain.header(height).state_root
        assert verify_state(proof.state_root, b"v7", b"at %d" % height, proof.proof)
        gone = ledger.chain.prove(b"v101", height)
        assert gone.value is None and verify_state(proof.state_root, b"v101", None, gone.proof)
    ledger.chain.audit_state()
    reopened = ledger.open()
    assert reopened.head == head
    assert dict(reopened._now.tree.pages()) == {
        key[1:]: page for key, page in ledger.store.items(layout.PAGE) if not (len(key) == 3 and key[2] == 0)
    }
    reopened.rewind(head.height - 3)
    assert ledger.chain.header(head.height - 3).state_root == reopened.head.state_root
    ledger.grow(2)
    ledger.chain.audit_state()
    assert ledger.open().head.height == head.height - 1


def bound_with_limit(limit):
    from ledger.state_tree import StateTree

    plain = StateTree.over
    return lambda tree, pages: plain(tree, pages, limit)
