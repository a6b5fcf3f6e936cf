"""The history of an account against a search of all blocks: random chains with reaped accounts, rewinds, gaps, damage."""

import random

import pytest

from ledger import indexes, layout
from ledger.deep_check import deep_check
from ledger.errors import Corruption
from ledger.layout import NOTHING_OLDER, UNLINKED, at, state_place, state_row, state_value
from ledger.reindexing import reindex

NAME, REAP, REAP_SILENTLY, CREATE_SILENTLY = range(4)
STRANGERS = [bytes([3, number]) * 16 for number in range(3)]  # without rows at genesis


def act(machine, plain):
    """Call 3 with a mode and an account: what rules may do to an account's row, with or without an event that names it."""

    def call(extrinsic, state, changes, events):
        if extrinsic.call_number != 3:
            return plain(extrinsic, state, changes, events)
        mode, account = extrinsic.args
        if mode in (REAP, REAP_SILENTLY):
            changes[b"a" + account] = None
        elif mode == CREATE_SILENTLY and state.get(b"a" + account) is None:
            changes[b"a" + account] = machine.row(0, 5_000)
        events += [[5, account]] if mode in (NAME, REAP) else []
        return ""

    return call


def of_blocks(chain, account):
    """Newest first."""
    found = []
    for height in range(1, chain.head.height + 1):
        events, outcomes = chain.results(height)
        for index, (extrinsic, outcome) in enumerate(zip(chain.body(height).extrinsics, outcomes)):
            named = [field for event in events[outcome.first_event : outcome.first_event + outcome.events] for field in event]
            if account in (indexes.Extrinsic.decode(extrinsic).signer, *named):
                found.append((height, index))
    return found[::-1]


def paged(chain, account, limit, before=None):
    found = []
    while True:
        page, before = chain.account_extrinsics(account, limit=limit, before_height=before)
        assert len({height for height, _ in page[limit - 1 :]}) <= 1, "a page goes on after the block that fills it"
        found += page
        if before is None:
            return found


def check(ledger, chance):
    chain = ledger.chain
    for account in [*(key.public for key in ledger.accounts), *STRANGERS]:
        expected = of_blocks(chain, account)
        for limit in (1, 2, 50):
            assert paged(chain, account, limit) == expected
        before = chance.randint(0, chain.head.height + 2)
        assert paged(chain, account, 2, before) == [place for place in expected if place[0] < before]
    assert [section.problems for section in deep_check(chain, chain.picture(), chain.domain_at, lambda *_: None)] == [[]] * 5


def rows_of(ledger):
    return {key: row for key, row in ledger.store.items(b"") if key[:1] != layout.AUTHORITIES}


def block_of(ledger, chance):
    accounts = [key.public for key in ledger.accounts]
    extrinsics, nonces = [], {}
    for _ in range(chance.choice((0, 1, 1, 3, 6))):
        signer = chance.randrange(3)  # the fourth does nothing itself
        nonces[signer] = nonces.get(signer, ledger.nonce(signer) - 1) + 1
        if chance.random() < 0.5:
            call, args = 1, [chance.choice([*accounts, *STRANGERS]), chance.randint(1, 50)]
        else:
            call, args = 3, [chance.randrange(4), chance.choice([accounts[3], *STRANGERS])]
        extrinsics.append(ledger.extrinsic(signer, nonces[signer], call, args))
    return extrinsics


@pytest.mark.parametrize("seed", range(5))
def test_the_list_is_what_a_search_of_all_blocks_finds(new_ledger, monkeypatch, seed):
    chance = random.Random(seed)
    monkeypatch.setattr(indexes, "ACCOUNT_SCAN_ROWS", chance.choice((2, 5, 2_000)))
    ledger = new_ledger()
    ledger.machine.call = act(ledger.machine, ledger.machine.call)
    ledger.create(retain_blocks=chance.choice((None, 256)))
    rows, states = {0: rows_of(ledger)}, {0: dict(ledger.chain.view().items(b""))}
    for _ in range(4):
        for _ in range(chance.randint(3, 9)):
            ledger.grow(extrinsics=block_of(ledger, chance))
            height = ledger.chain.head.height
            rows[height], states[height] = rows_of(ledger), dict(ledger.chain.view().items(b""))
        check(ledger, chance)
        for height in chance.sample(range(ledger.chain.head.height + 1), 3):
            assert dict(ledger.chain.view(height).items(b"")) == states[height]
            assert {key: ledger.chain.view(height).get(key) for key in states[height]} == states[height]
        back = chance.randint(max(0, ledger.chain.head.height - 6), ledger.chain.head.height)
        ledger.chain.rewind(back)
        assert rows_of(ledger) == rows[back]
        check(ledger, chance)
    ledger.open(retain_blocks=None)
    check(ledger, chance)


def test_making_the_lists_again_closes_their_gaps(new_ledger):
    chance = random.Random(9)
    ledger = new_ledger()
    ledger.machine.call = act(ledger.machine, ledger.machine.call)
    ledger.create()
    while ledger.chain.head.height < 25:
        ledger.grow(extrinsics=block_of(ledger, chance))

    def gaps():
        entries = b"".join(row for _, row in ledger.store.items(layout.ACCOUNTS))
        return [start for start in range(0, len(entries), 20) if entries[start + 10 : start + 20] == UNLINKED]

    assert gaps()
    for key, row in list(ledger.store.items(layout.STATE))[:3]:
        ledger.store.write({key: state_row(state_value(row), layout.encode_place(1, 77))}, sync=True)
    reindex(ledger.store, ledger.machine.account_key, lambda *_: None)
    assert not gaps()
    ledger.open()
    check(ledger, chance)
    ledger.chain.audit_state()
    ledger.chain.rewind(12)
    check(ledger, chance)
    ledger.grow(3, extrinsics=block_of(ledger, chance))
    check(ledger, chance)


def test_a_rarely_used_account_needs_no_search(ledger, monkeypatch):
    monkeypatch.setattr(indexes, "ACCOUNT_SCAN_ROWS", 0)
    chain, rare, never = ledger.chain, ledger.accounts[2].public, ledger.accounts[3].public
    ledger.grow(extrinsics=[ledger.extrinsic(2, call=3)])
    for _ in range(10):
        ledger.grow(extrinsics=[ledger.extrinsic(0)])
    assert chain.account_extrinsics(rare) == ([(1, 0)], None)
    assert chain.account_extrinsics(never) == ([], None)
    executed = ledger.build([ledger.extrinsic(2, call=3)])
    batch = chain.prepare_commit(executed, ledger.certificate(executed.block))
    assert chain.account_extrinsics(rare, limit=1) == ([(12, 0)], 2), "as soon as it is the head, durable or not"
    chain.apply(batch)
    assert chain.account_extrinsics(rare) == ([(12, 0), (1, 0)], None)


def test_a_row_that_changes_without_an_extrinsic_of_its_account_keeps_its_place(ledger, monkeypatch):
    """Dividends, interest and the like: what a block does to accounts that nobody names in it."""
    monkeypatch.setattr(indexes, "ACCOUNT_SCAN_ROWS", 0)
    machine, chain, plain = ledger.machine, ledger.chain, ledger.machine.call
    rich, poor = ledger.accounts[2].public, ledger.accounts[3].public

    def call(extrinsic, state, changes, events):
        for account in (rich, poor):
            nonce, balance = machine.account(state, account)
            changes[b"a" + account] = machine.row(nonce, balance + 1)
        return plain(extrinsic, state, changes, events)

    ledger.grow(extrinsics=[ledger.extrinsic(2, call=3)])
    machine.call = call
    for _ in range(3):
        ledger.grow(extrinsics=[ledger.extrinsic(0, call=3)])
    assert chain.account_extrinsics(rich) == ([(1, 0)], None)
    assert chain.account_extrinsics(poor) == ([], None)
    monkeypatch.undo()
    check(ledger, random.Random(1))


def test_several_extrinsics_of_one_block_are_on_one_page(ledger):
    key = ledger.accounts[0].public
    ledger.grow(extrinsics=[ledger.extrinsic(0, nonce) for nonce in range(5)])
    ledger.grow(extrinsics=[ledger.extrinsic(0)])
    first, further = ledger.chain.account_extrinsics(key, limit=2)
    assert (first, further) == ([(2, 0), *((1, index) for index in (4, 3, 2, 1, 0))], None)
    assert ledger.chain.account_extrinsics(key, limit=1) == ([(2, 0)], 2)


@pytest.mark.parametrize("entry", [layout.encode_place(2, 9), layout.encode_place(9, 0), layout.encode_place(3, 0)])
def test_a_list_that_leads_nowhere_is_named_and_ends(ledger, entry):
    for _ in range(3):
        ledger.grow(extrinsics=[ledger.extrinsic(0)])
    key = at(layout.ACCOUNTS, 3)
    row = ledger.store.get(key)
    ledger.store.write({key: row[:10] + entry + row[20:]}, sync=True)
    with pytest.raises(Corruption, match="leads nowhere"):
        ledger.open().account_extrinsics(ledger.accounts[0].public)
    found = deep_check(ledger.chain, ledger.chain.picture(), ledger.chain.domain_at, lambda *_: None)
    assert [section.name for section in found if section.found] == ["indexes"]


def test_a_state_row_is_its_value_and_a_place():
    for place in (NOTHING_OLDER, UNLINKED, layout.encode_place(7, 3)):
        for value in (b"", b"\1", b"value"):
            row = state_row(value, place)
            assert (state_value(row), state_place(row)) == (value, place)
    assert [state_row(b"v")[0], state_row(b"v", UNLINKED)[0], state_row(b"v", bytes(9) + b"\1")[0]] == [0, 2, 1]
    assert state_place(None) == UNLINKED
    for damaged in (b"", b"\3value", b"x"):
        with pytest.raises(Corruption):
            state_value(damaged)
    for damaged in (b"", b"\3value", b"\1" + bytes(9)):
        with pytest.raises(Corruption):
            state_place(damaged)
