"""Balances: double entry, existential deposit, tombstones, faucet."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.crypto import KeyPair
from ledger.errors import Rejected
from runtime import hooks, invariants, params
from runtime.modules import accounts, fees
from runtime.modules.accounts import Account

Q = 10**9


def key(n):
    return KeyPair.from_seed(bytes([n]) * 32)


# rule: ACC-3, FEE-1
def test_transfer_moves_money_and_recycles_the_fee(devnet):
    alice, bob = devnet.cold("neuron code"), devnet.cold("neuron json")
    before, issued = devnet.free(alice.public), accounts.issuance(devnet.view)
    result = devnet.block(devnet.sign(alice, "accounts.transfer", bob.public, 5 * Q, True))
    fee = result.outcomes[0].fee_rao
    assert result.outcomes[0].error == "" and fee > 1000
    assert devnet.free(alice.public) == before - 5 * Q - fee
    assert devnet.free(bob.public) == before + 5 * Q
    minted = sum(row[2] for row in result.events if row[0] == accounts.MINTED.number)
    assert accounts.issuance(devnet.view) == issued + minted - fee
    assert devnet.audit() == []


@pytest.mark.parametrize("keep_alive", [True, False])
def test_transfer_of_all(devnet, keep_alive):
    alice, new = devnet.cold("neuron code"), key(9)
    assert devnet.call(alice, "accounts.transfer", new.public, None, keep_alive) == ""
    rest = accounts.account(devnet.view, alice.public)
    assert rest == Account(500 if keep_alive else 0, 0, 1)
    assert devnet.free(new.public) > 999 * Q


# rule: ACC-2
def test_reaped_account_keeps_its_nonce_until_its_extrinsics_are_dead(devnet):
    alice, new = devnet.cold("neuron code"), key(9)
    devnet.call(alice, "accounts.transfer", new.public, None, False)
    tombstone = accounts.TOMBSTONE.key(devnet.height + 4097, alice.public)
    assert tombstone in devnet.rows
    stale = devnet.sign(alice, "accounts.transfer", new.public, Q, True, nonce=0)
    devnet.call(new, "accounts.transfer", alice.public, 5 * Q, True)
    with pytest.raises(Rejected, match="NonceTooLow"):
        devnet.block(stale)
    context = devnet.context(height=devnet.height + 4096)
    accounts.forget_tombstones(context)
    assert accounts.account(context.state, alice.public).nonce == 1  # in use again: the nonce stays


# rule: ACC-2
def test_unused_tombstone_is_forgotten(devnet):
    alice, new = devnet.cold("neuron code"), key(9)
    devnet.call(alice, "accounts.transfer", new.public, None, False)
    context = devnet.context(height=devnet.height + 4097)
    accounts.forget_tombstones(context)
    assert accounts.ACCOUNT.get(context.state, alice.public) is None
    assert list(accounts.TOMBSTONE.items(context.state)) == []


def test_a_removed_hotkey_s_nonce_is_forgotten_unless_it_goes_on(devnet):
    hot = devnet.hot("neuron code")
    devnet.call(hot, "serving.unserve", 1)  # refused, but counted
    context = devnet.context()
    hooks.run_neuron_removed(context, 1, 0, hot.public)
    context.block = devnet.block_context(height=context.height + 4097)
    accounts.forget_tombstones(context)
    assert accounts.ACCOUNT.get(context.state, hot.public) is None
    assert fees.FREE_FAILURES.get(context.state, hot.public) is None


# rule: ACC-3
@pytest.mark.parametrize(
    ("to", "amount", "keep_alive", "error"),
    [
        ("new", 499, True, "ExistentialDeposit"),
        ("new", 0, True, "AmountTooLow"),
        ("bob", 10**6 * Q, True, "InsufficientBalance"),
        ("bob", "nearly", True, "ExistentialDeposit"),
        ("bob", "nearly", False, ""),
        ("alice", Q, True, ""),
    ],
)
def test_what_a_transfer_refuses(devnet, to, amount, keep_alive, error):
    alice = devnet.cold("neuron code")
    target = {"new": key(9).public, "bob": devnet.cold("neuron json").public, "alice": alice.public}[to]
    if amount == "nearly":
        probe = devnet.execute(devnet.sign(alice, "accounts.transfer", target, devnet.free(alice.public) - Q, keep_alive))
        amount = devnet.free(alice.public) - probe.outcomes[0].fee_rao - 100
    assert devnet.call(alice, "accounts.transfer", target, amount, keep_alive) == error
    assert devnet.audit() == []


@pytest.mark.parametrize("amount", [-1, 1 << 64, "all", "", True, b"all", [1]])
def test_malformed_amounts_never_reach_the_call(devnet, amount):
    alice = devnet.cold("neuron code")
    with pytest.raises(Rejected, match="BadArguments") as caught:
        devnet.block(devnet.sign(alice, "accounts.transfer", alice.public, amount, True))
    assert caught.value.data["index"] == 0


# rule: ACC-4
def test_faucet_has_a_limit_per_session(devnet):
    new = key(9)
    assert devnet.call(new, "accounts.faucet", 600 * Q) == ""
    assert devnet.free(new.public) == 600 * Q
    assert devnet.call(new, "accounts.faucet", 600 * Q) == "FaucetLimit"
    assert devnet.call(new, "accounts.faucet", 1) == "AmountTooLow"
    next_session = devnet.context(height=101, signer=new.public)
    accounts.faucet(next_session, 600 * Q)
    assert accounts.balance(next_session.state, new.public) > 1199 * Q


@pytest.mark.parametrize(("amount", "name"), [(0, "AmountTooLow"), (10**9 * Q, "FaucetLimit")])
def test_a_faucet_call_that_gives_nothing_leaves_no_row_of_an_unknown_key(devnet, amount, name):
    new, rows = key(9), len(devnet.rows)
    extrinsic = devnet.sign(new, "accounts.faucet", amount)
    with pytest.raises(Rejected, match=name):
        devnet.runtime.admit(devnet.view, extrinsic, devnet.next_height)
    with pytest.raises(Rejected, match=name):
        devnet.execute(extrinsic)
    left_out = {}
    result = devnet.runtime.apply_block(devnet.view, devnet.block_context(), [], [extrinsic], left_out)
    assert left_out == {0: name} and not result.outcomes
    assert all(new.public not in row for row in result.changes) and len(devnet.rows) == rows


# --- entries under random use ------------------------------------------------------------------------------------

OPS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2000)), max_size=40)


# rule: ACC-1
@given(OPS)
def test_no_sequence_of_entries_creates_or_loses_money(ops):
    from genesis.build import empty_context

    context, names = empty_context(1), [bytes([n]) * 32 for n in range(4)]
    accounts.mint(context, 4000, "test")
    for name in names:
        accounts.credit(context, name, 1000, "test")
    for kind, a, b, amount in ops:
        mark, reserved = context.mark(), accounts.account(context.state, names[a]).reserved_rao
        try:
            if kind == 0:
                accounts.transfer(context, names[a], names[b], amount)
            elif kind == 1:
                accounts.reserve(context, names[a], amount)
            elif kind == 2:
                accounts.unreserve(context, names[a], min(amount, reserved))
            elif kind == 3:
                accounts.burn(context, names[a], amount, "test")
            elif kind == 4:
                accounts.burn_reserved(context, names[a], min(amount, reserved), "test")
            elif kind == 5:
                accounts.mint(context, amount, "test")
                accounts.credit(context, names[a], amount, "test")
            elif kind == 6:
                row = accounts.account(context.state, names[a])
                fee = min(amount, row.free_rao)
                accounts.charge(context, names[a], row, fee)
                accounts.recycle(context, fee, "fees", "fees")
            else:
                accounts.mint(context, amount, "test")
                refuse_now()
        except Rejected:
            context.revert(mark)
    total = sum(row.total_rao for _, row in accounts.ACCOUNT.items(context.state))
    assert total == accounts.issuance(context.state) == context.minted_rao - context.recycled_rao
    assert invariants.check_conservation(context, context.state.changes()) == []
    minimum = params.get(context.state, "existential_deposit")
    rows = [row for _, row in accounts.ACCOUNT.items(context.state)]
    assert all(row.total_rao == 0 or row.reserved_rao or row.free_rao >= minimum for row in rows)


def refuse_now():
    raise Rejected("InsufficientBalance")


# rule: ACC-1
def test_more_than_u64_is_refused(devnet):
    context = devnet.context()
    accounts.ACCOUNT.put(context.state, bytes(32), value=Account((1 << 64) - 1, 0, 0))
    with pytest.raises(Rejected, match="Overflow"):
        accounts.credit(context, bytes(32), 1, "test")


def test_returning_more_than_was_reserved_is_a_bug(devnet):
    context = devnet.context()
    with pytest.raises(AssertionError):
        accounts.unreserve(context, devnet.cold("owner").public, 1)
    with pytest.raises(AssertionError):
        accounts.mint(context, 21 * 10**15, "test")
