"""Each audit of the market finds the damage that it is for, and names the place; a healthy market has none."""

import pytest

from ledger.codec import pack_u16
from runtime import invariants
from runtime.modules import accounts, children, hotkeys, neurons, pools, stake, subnets, weights


@pytest.fixture
def healthy(market):
    hot = market.key("validator 0 hot")
    market.set("unbond_blocks", 50, 1)
    market.next_block()
    market.call("weights.commit", hot, 1, bytes(32))
    market.call("stake.remove", market.key("validator 0"), hot, 1, market.Q)
    market.call("stake.add", market.key("miner 0"), hot, 1, market.Q)
    weights.write_row(weights.WEIGHTS, market.state, 1, 0, [(2, 65535), (3, 5)])
    weights.write_row(weights.BONDS, market.state, 1, 0, [(2, 9)])
    assert invariants.audit(market.state) == []
    return market


def put_row(table, values):
    return lambda w: table.put(w.state, 1, 0, value=pack_u16(values))


def put_commits(*epochs):
    return lambda w: weights.COMMITS.put(w.state, 1, w.key("validator 0 hot"), value=[[e, 1, bytes(32)] for e in epochs])


ROWS, COMMITS = "rows of weights and bonds", "commits"
DAMAGE = {
    "a row of weights that is not scaled": (ROWS, "largest value of 7", put_row(weights.WEIGHTS, [2, 7])),
    "a row out of order": (ROWS, "out of order", put_row(weights.WEIGHTS, [3, 65535, 2, 5])),
    "a uid twice": (ROWS, "out of order", put_row(weights.BONDS, [3, 5, 3, 5])),
    "a zero in a row": (ROWS, "has a zero", put_row(weights.BONDS, [3, 0])),
    "half a pair": (ROWS, "is empty, out of order", put_row(weights.BONDS, [3, 5, 4])),
    "a uid that does not exist": (ROWS, "names uid 9 of 5", put_row(weights.WEIGHTS, [9, 65535])),
    "a row without neuron": (ROWS, "has no neuron", lambda w: weights.BONDS.put(w.state, 1, 77, value=pack_u16([1, 1]))),
    "a commit for an epoch that is to come": (COMMITS, "has not begun", put_commits(5)),
    "commits out of order": (COMMITS, "out of order", put_commits(0, 0)),
    "too many commits": (COMMITS, "order or number", put_commits(*range(11))),
    "a commit of nobody": (
        COMMITS, "without a uid", lambda w: weights.COMMITS.put(w.state, 1, w.key("x"), value=[[0, 1, bytes(32)]]),
    ),
    "a tempo without subnet": (
        "records of subnets", "tempo has [0, 1, 9]", lambda w: subnets.TEMPOS.put(w.state, 9, value=subnets.tempo(w.state, 1)),
    ),
    "an owner's hotkey of another": (
        "records of subnets", "somebody else", lambda w: hotkeys.OWNERS.put(w.state, w.key("owner hot"), value=w.key("x")),
    ),
    "a netuid that was not counted": (
        "records of subnets", "not counted", lambda w: subnets.NETUID_COUNT.put(w.state, value=1),
    ),
    "a position that the index lacks": (
        "stake positions", "does not list",
        lambda w: pools.POSITIONS.delete(w.state, w.key("miner 0"), 1, w.key("validator 0 hot")),
    ),
    "stake on nobody": (
        "stake positions", "nobody owns", lambda w: pools.POOLS.put(w.state, 1, w.key("x"), value=pools.Pool(0, 0, 0, 5)),
    ),
    "an empty entry of removed stake": (
        "removed stake", "in 1 entries", lambda w: stake.UNBONDING.put(w.state, w.key("x"), value=[[9, 0]]),
    ),
    "a take of nobody": ("removed stake", "no owner", lambda w: stake.TAKES.put(w.state, w.key("x"), value=stake.Take(5))),
    "a neuron that nobody owns": (
        "I3 uids are dense", "nobody owns", lambda w: hotkeys.OWNERS.delete(w.state, w.key("miner 0 hot")),
    ),
    "a hotkey with two owners": (
        "hotkeys have one owner", "differ", lambda w: hotkeys.OWNED.put(w.state, w.key("x"), w.key("miner 0 hot"), value=1),
    ),
    "a child that nobody owns": (
        "I6 children and parents mirror each other", "nobody owns",
        lambda w: children._apply(w.context, 1, w.key("validator 0 hot"), [[5, w.key("x")]]),
    ),
}


# rule: INV-4, REG-6
@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_found_and_named(healthy, what):
    rule, text, damage = DAMAGE[what]
    damage(healthy)
    assert any(found.rule == rule and text in found.what for found in invariants.audit(healthy.state)), what


# rule: INV-3
def test_a_nonce_never_goes_back(healthy):
    who = healthy.key("miner 0")
    accounts.ACCOUNT.put(healthy.state, who, value=accounts.Account(healthy.free(who), 0, 5))
    healthy.next_block()
    accounts.ACCOUNT.put(healthy.state, who, value=accounts.Account(healthy.free(who), 0, 4))
    found = invariants.check_conservation(healthy.context, healthy.state.changes())
    assert [violation.rule for violation in found] == ["nonces"]
    assert neurons.uid_of(healthy.state, 1, healthy.key("miner 0 hot")) == 2
