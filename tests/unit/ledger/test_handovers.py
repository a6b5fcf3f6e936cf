"""The way from one authority set to a later one: complete, short, cheap, also on a node that keeps few headers."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.blocks import Header
from ledger.crypto import digest
from ledger.errors import NotFound, UsageError
from ledger.handovers import MAX_HANDOVERS, handovers
from ledger.layout import HEADER, at
from ledger.store import MemoryStore


def hash_of(name):
    return digest("authset", str(name).encode())


def stored(sets, keep=lambda header: True):
    """A store with headers of heights 1, 2, ... that were certified by these sets, and the last of which keeps its set."""
    store, following = MemoryStore(), [*sets[1:], sets[-1]]
    blank = Header(1, 1, 0, 0, 0, bytes(32), bytes(32), 0, 0, bytes(32), bytes(32), bytes(32), bytes(32), bytes(32))
    rows = {}
    for height, (now, then) in enumerate(zip(sets, following, strict=True), 1):
        header = replace(blank, height=height, authorities_hash=hash_of(now), next_authorities_hash=hash_of(then))
        if keep(header) or now != then:
            rows[at(HEADER, height)] = header.encode()
    store.write(rows, sync=True)
    return store


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=60), st.data())
def test_the_way_leads_from_set_to_set(sets, data):
    first = data.draw(st.integers(1, len(sets)))
    last = data.draw(st.integers(first, len(sets)))
    trusted, height = hash_of(sets[first - 1]), first
    for header in handovers(stored(sets), first, last):
        assert height <= header.height <= last and header.authorities_hash == trusted
        trusted, height = header.next_authorities_hash, header.height + 1
    assert trusted == hash_of(sets[last - 1])


@given(st.lists(st.sampled_from("ABC"), min_size=2, max_size=60))
def test_headers_between_may_be_missing(sets):
    few = stored(sets, keep=lambda header: header.height in (1, len(sets)))
    trusted = hash_of(sets[0])
    for header in handovers(few, 1, len(sets)):
        assert header.authorities_hash == trusted
        trusted = header.next_authorities_hash
    assert trusted == hash_of(sets[-1])


def test_a_set_that_comes_back_needs_no_blocks():
    assert handovers(stored("AABBBA"), 1, 6) == []
    assert [header.height for header in handovers(stored("AABBBA"), 1, 4)] == [2]
    assert [header.height for header in handovers(stored("AABBBC"), 2, 6)] == [2, 5]


def test_few_headers_are_read():
    store, read = stored("A" * 1500 + "B" * 1500), []
    plain = store.items
    store.items = lambda *where: read.append(where) or plain(*where)
    assert [header.height for header in handovers(store, 1, 3000)] == [1500]
    assert len(read) < 30


def test_the_number_is_bounded_and_missing_blocks_are_named():
    store = stored([f"set {height}" for height in range(MAX_HANDOVERS + 2)])
    with pytest.raises(UsageError, match="more than") as caught:
        handovers(store, 1, MAX_HANDOVERS + 2)
    assert "checkpoint" in caught.value.hint
    assert len(handovers(store, 2, MAX_HANDOVERS + 2)) == MAX_HANDOVERS
    with pytest.raises(NotFound):
        handovers(stored("A"), 1, 2)


def test_the_block_after_which_a_set_was_replaced_without_its_consent_is_on_the_way():
    store = stored("AAAA")
    header = Header.decode(store.get(at(HEADER, 3)))
    store.write({at(HEADER, 3): replace(header, authorities_hash=hash_of("R"), next_authorities_hash=hash_of("R")).encode(),
                 at(HEADER, 4): replace(header, height=4, authorities_hash=hash_of("R")).encode()}, sync=True)
    assert [found.height for found in handovers(store, 1, 4)] == [2]


def test_a_lost_header_is_missed_only_where_it_handed_over():
    store = stored("AABBBC")
    store.write({at(HEADER, 4): None}, sync=True)
    assert [header.height for header in handovers(store, 1, 6)] == [2, 5]
    store.write({at(HEADER, 2): None}, sync=True)
    with pytest.raises(NotFound, match="between 1 and 3 handed over"):
        handovers(store, 1, 6)
