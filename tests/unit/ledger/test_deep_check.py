"""The deep check: silent on a sound chain, and every kind of row that is changed, lost or invented is named."""

import pytest

from ledger import layout
from ledger.deep_check import deep_check, first_block
from ledger.layout import at


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
    grown.store.write({key: value}, sync=True)
    grown.chain._now = type(grown.chain._now)(**{**vars(grown.chain._now), "rows": _rows(grown)})
    found = sections(grown.chain)
    assert found[section].found, {name: each.problems for name, each in found.items()}


def _rows(ledger):
    from ledger.views import LayeredRows

    return LayeredRows((), ledger.store.snapshot())


def test_a_damaged_authority_set_and_a_lost_place_are_named(grown):
    (name,) = [key for key, _ in grown.store.items(layout.AUTHORITIES)]
    for key, value in ((name, b"x" * 32), (layout.BY_HASH + grown.chain.hash_at(2), None)):
        before = grown.store.get(key)
        grown.store.write({key: value}, sync=True)
        grown.chain._now = type(grown.chain._now)(**{**vars(grown.chain._now), "rows": _rows(grown)})
        assert sections(grown.chain)["blocks"].found
        grown.store.write({key: before}, sync=True)
