"""The deep check: silent on a sound chain, and every kind of row that is changed, lost or invented is named."""

import time
from random import Random

import cbor2
import pytest

from ledger import layout
from ledger.blocks import result_leaves
from ledger.deep_check import deep_check, first_block
from ledger.errors import Corruption
from ledger.layout import ReverseDiff, at, decode_result
from ledger.reindexing import reindex
from tools.lab.fuzzing.bombs import cbor_bombs
from tools.lab.fuzzing.mutate import Mutator


def sections(chain):
    return {section.name: section for section in deep_check(chain, chain._now, chain.domain_at, lambda *_: None)}


@pytest.fixture
def grown(new_ledger):
    ledger = new_ledger().create(retain_blocks=None)
    for height in range(1, 7):
        ledger.grow(extrinsics=[ledger.extrinsic(0, call=2, args=[b"k%d" % (height % 2), b"%d" % height]), ledger.extrinsic(1)])
    return ledger


def test_a_sound_chain_has_no_problems(grown, new_ledger):
    found = sections(grown.open(retain_blocks=None))
    assert [section.problems for section in found.values()] == [[]] * 5
    assert {name: section.checked for name, section in found.items() if name != "rows"} == {
        "state": 7, "blocks": 6, "indexes": 6 * (2 + 1 + 3), "past states": 6,
    }
    assert found["rows"].checked == len(list(grown.store.items(b"")))
    assert first_block(grown.store, 6) == 1
    full = new_ledger().create(retain_blocks=3)
    full.grow(8)
    assert [section.found for section in sections(full.chain).values()] == [0] * 5
    assert not any(section.found for section in sections(new_ledger().create().chain).values())


def cases():
    yield "state", layout.STATE + b"vk0", b"other"
    yield "state", layout.STATE + b"vk0", None
    yield "state", layout.STATE + b"vk0", b"\3" + b"other"
    yield "state", layout.STATE + b"vnew", b"x"
    yield "state", layout.STATE + b"vnew", layout.state_row(b"x")
    yield "indexes", layout.STATE + b"vk0", layout.state_row(b"6", layout.encode_place(6, 0))
    yield "state", layout.PAGE + b"\x05", b"x" * 64
    for prefix in (layout.HEADER, layout.BODY, layout.CERTIFICATE, layout.RESULT):
        yield "blocks", at(prefix, 3), None
        yield "blocks", at(prefix, 3), b"\x80"
    yield "indexes", at(layout.ACCOUNTS, 3), None
    yield "indexes", at(layout.ACCOUNTS, 3), bytes(10)
    yield "indexes", layout.extrinsic_key(bytes(32)), bytes(10)
    yield "indexes", layout.event_kind_key(2, 99), b""
    yield "past states", at(layout.DIFF, 3), None
    yield "past states", at(layout.DIFF, 3), layout.ReverseDiff({b"vk0": layout.state_row(b"z")}, {}).encode()
    yield "past states", layout.VERSION + b"vk0\0\1" + bytes(7) + b"\x09", b"\1z"
    yield "rows", b"!", b"x"


@pytest.mark.parametrize(("section", "key", "value"), cases())
def test_every_wrong_row_is_named(grown, section, key, value):
    assert grown.store.get(key) != value
    put(grown, key, value)
    found = sections(grown.chain)
    assert found[section].found, {name: each.problems for name, each in found.items()}


def put(ledger, key, value):
    """Under the open chain, past its checks at the start."""
    ledger.store.write({key: value}, sync=True)
    ledger.chain._now = type(ledger.chain._now)(**{**vars(ledger.chain._now), "rows": _rows(ledger)})


def old_values(row):
    return ReverseDiff.decode(row).values()


@pytest.mark.parametrize(("prefix", "read"), [(layout.RESULT, decode_result), (layout.DIFF, old_values)])
def test_a_row_that_decodes_to_something_else_is_refused_by_name_or_found(grown, prefix, read):
    good = grown.store.get(at(prefix, 3))
    mutator, named = Mutator(Random(3), "cbor", [good]), 0
    for _ in range(150):
        row = mutator.next()
        try:
            same = read(row) == read(good)
        except Corruption:
            same, named = False, named + 1
        put(grown, at(prefix, 3), row)
        found = sections(grown.chain)
        assert same or any(section.found for section in found.values()), row.hex()
    assert named > 50


MISSHAPEN_RESULTS = [
    [], {}, 7, [[[0, []]]], [[[0, 7]]], [[[0, ["x"]]]], [[[0, [-1]]]], [[[0, [1 << 32]]]], [[[0, [65, 1]]]],
    [[[0, [65, -1, 0]]]], [[[0, [65, 1, 1 << 32]]]], [[[1, [1]]]], [["", 0, 0], []], [["", 0, 0, 7], []],
    [["", 0, 0.5, [[1]]], []], [["", 0, 0, [[1]]], [1]], [["", 0, 9, [[1]]], []], [[b"", 0, 0, [[1]]], []],
    [["", "", 0, [[1]]], []], [["", 0, 0, [[1]]], [[0, [1]], 5]], [0], None,
]


@pytest.mark.parametrize("value", MISSHAPEN_RESULTS)
def test_a_misshapen_result_row_is_corruption_to_all_who_read_it(grown, value):
    row = layout.encode_result([cbor2.dumps(leaf) for leaf in value]) if type(value) is list else cbor2.dumps(value)
    put(grown, at(layout.RESULT, 4), row)
    assert sections(grown.chain)["blocks"].found
    with pytest.raises(Corruption):
        grown.chain.results(4)
    with pytest.raises(Corruption):
        grown.chain.rewind(3)
    with pytest.raises(Corruption):
        reindex(grown.store, grown.machine.account_key, lambda *_: None)


MISSHAPEN_DIFFS = [
    None, [], [[], [], []], [[b"k"], [], [], []], [[7], [None], [], []], [[b"k"], ["v"], [], []], [[], [], [[]], [None]],
    [[], [], [b"h"], [5]], {1: 1, 2: 2, 3: 3, 4: 4},
]


@pytest.mark.parametrize("value", MISSHAPEN_DIFFS)
def test_a_misshapen_reverse_diff_is_corruption_to_all_who_read_it(grown, value):
    put(grown, at(layout.DIFF, 5), cbor2.dumps(value))
    assert sections(grown.chain)["past states"].found
    for read in (lambda: grown.chain.rewind(4), lambda: grown.chain.state_diff(5)):
        with pytest.raises(Corruption):
            read()


BOMBS = [bomb for name, bomb in cbor_bombs() if not name.startswith(("a million empty", "nothing")) and len(bomb) < 1 << 18]


def test_bombs_inside_a_stored_row_cost_nothing():
    """Maps, tags and endless or too many levels are refused while they are read, not after they were built."""
    started = time.process_time()
    for bomb in BOMBS:
        with pytest.raises(Corruption):
            decode_result(layout.encode_result([b"\x84\x60\x00\x00" + bomb, b"\x80"]))
        with pytest.raises(Corruption):
            ReverseDiff.decode(b"\x84" + bomb + b"\x80\x80\x80")
    million = b"\x9a" + (1_000_000).to_bytes(4, "big") + b"\x80" * 1_000_000
    for read in (ReverseDiff.decode, decode_result):
        with pytest.raises(Corruption):
            read(million)
    assert time.process_time() - started < 0.25


@pytest.mark.parametrize("prefix", [layout.HEADER, layout.BODY, layout.RESULT])
def test_a_lost_row_is_corruption_when_its_block_is_taken_back(grown, prefix):
    put(grown, at(prefix, 6), None)
    with pytest.raises(Corruption, match="incomplete"):
        grown.chain.rewind(5)


def test_results_of_another_block_are_not_indexed(grown):
    results = decode_result(grown.store.get(at(layout.RESULT, 2)))
    put(grown, at(layout.RESULT, 2), layout.encode_result(result_leaves(results[0], results[1][:1])))
    with pytest.raises(Corruption, match="outcomes"):
        reindex(grown.store, grown.machine.account_key, lambda *_: None)
    assert sections(grown.chain)["blocks"].found


def _rows(ledger):
    from ledger.views import LayeredRows

    return LayeredRows((), ledger.store.snapshot())


def test_a_damaged_authority_set_and_a_lost_place_are_named(grown):
    (name,) = [key for key, _ in grown.store.items(layout.AUTHORITIES)]
    for key, value in ((name, b"x" * 32), (layout.BY_HASH + grown.chain.hash_at(2), None)):
        before = grown.store.get(key)
        put(grown, key, value)
        assert sections(grown.chain)["blocks"].found
        grown.store.write({key: before}, sync=True)
