"""The audit finds what it must find, and nothing in a healthy state."""

import pytest

from ledger.errors import InvariantBroken
from runtime import chain, hooks, invariants
from runtime.modules import accounts, authorities, serving
from runtime.modules.accounts import ACCOUNT, Account


def audit(devnet, **options):
    return [str(violation) for violation in invariants.audit(devnet.view, **options)]


def test_a_devnet_is_healthy_through_its_first_epochs(devnet):
    for _ in range(33):
        devnet.block()
        assert audit(devnet) == []
    assert audit(devnet, deep=True) == []


# rule: INV-1
def test_every_unit_of_the_issuance_has_a_place(devnet):
    devnet.skip(20)
    held = invariants.holdings_rao(devnet.view)
    assert sum(held.values()) == accounts.issuance(devnet.view)
    assert held["account"] == (18 * 1_000 + 4 * 100) * 10**9


# rule: INV-1
@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda d, who: {ACCOUNT.key(who): ACCOUNT.encode(Account(1, 0, 0))}, "I1"),
        (lambda d, who: {ACCOUNT.key(who): ACCOUNT.encode(Account(1_000 * 10**9 - 5, 5, 0))}, "I1r"),
        (lambda d, who: {accounts.ISSUANCE.key(): accounts.ISSUANCE.encode(1)}, "I1"),
        (lambda d, who: {authorities.AUTHORITY_SET.key(): authorities.AUTHORITY_SET.encode([])}, "authorities"),
        (lambda d, who: {authorities.AUTHORITIES.key(who): authorities.AUTHORITIES.encode(
            authorities.Authority(who))}, "authorities"),
        (lambda d, who: {serving.SERVING.key(1, who): serving.SERVING.encode(
            serving.ServingRecord(bytes(4), 1, b"", bytes(32), 1))}, "serving"),
        (lambda d, who: {b"\x7f\xff": b"\x00"}, "keys"),
        (lambda d, who: {ACCOUNT.key(who)[:-1]: b"\x00"}, "keys"),
        (lambda d, who: {chain.KEY_COUNT.key(): chain.KEY_COUNT.encode(1)}, "keys"),
        (lambda d, who: {chain.KEY_COUNT.key(): b"\xff"}, "keys"),
    ],
)
def test_damage_is_found_and_named(devnet, damage, rule):
    who = devnet.cold("neuron code").public
    devnet.rows.update(damage(devnet, who))
    found = invariants.audit(devnet.view, deep=rule == "keys")
    assert rule in {violation.rule for violation in found}


# rule: INV-5
def test_the_next_block_halts_on_damage(devnet):
    who = devnet.cold("neuron code").public
    devnet.rows[ACCOUNT.key(who)] = ACCOUNT.encode(Account(1, 0, 0))
    with pytest.raises(InvariantBroken) as caught:
        devnet.block()
    assert caught.value.exit_code == 22 and "I1" in caught.value.data["violations"][0]


# rule: INV-2
def test_conservation_counts_only_what_the_block_touched(devnet):
    context = devnet.context()
    accounts.mint(context, 700, "test")
    state = context.state
    assert [v.rule for v in invariants.check_conservation(context, state.changes())] == ["I1"]
    accounts.credit(context, devnet.cold("owner").public, 700, "test")
    assert invariants.check_conservation(context, state.changes()) == []
    context.minted_rao += 1
    assert {v.rule for v in invariants.check_conservation(context, state.changes())} == {"I1", "I5"}


def test_a_negative_holding_is_a_bug(devnet, monkeypatch):
    monkeypatch.setitem(hooks.HOLDINGS, 1, hooks.Holding("account", ACCOUNT, lambda row: -1))
    with pytest.raises(AssertionError):
        devnet.block(devnet.sign(devnet.cold("owner"), "accounts.transfer", bytes(32), 10**9, True))
