"""Child hotkeys: whose stake votes, who is paid for it, when relations begin, and everything that is refused."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import params
from runtime.modules import accounts, children, hotkeys, neurons, pools, stake, subnets, weights

WHOLE = (1 << 64) - 1
HALF = 1 << 63


@pytest.fixture
def family(market):
    """Validator 1 (400 Q, root 40 Q) may become the parent of validator 0 (600 Q, root 60 Q)."""
    market.set("childkey_cooldown_tempos", 1)
    market.set("min_stake", 1)
    return market


def hot(world, index):
    return world.key(f"validator {index} hot")


def cold(world, index):
    return world.key(f"validator {index}")


def lend(world, parent=1, child=0, share=HALF):
    world.call("children.set", cold(world, parent), hot(world, parent), 1, [[share, hot(world, child)]])
    while children.children_of(world.state, 1, hot(world, parent)) != [[share, hot(world, child)]]:
        world.next_block()


def votes(world, index):
    return children.voting_stake_parts(world.state, 1, hot(world, index))


# rule: CHD-2
def test_children_count_after_their_waiting_time_at_the_end_of_an_epoch(family):
    before = votes(family, 0), votes(family, 1)
    family.call("children.set", cold(family, 1), hot(family, 1), 1, [[HALF, hot(family, 0)]])
    scheduled = family.named("SetChildrenScheduled")[0]
    assert scheduled[3] == family.height + params.get(family.state, "tempo", 1)
    while family.height < scheduled[3]:
        assert (votes(family, 0)[1], votes(family, 1)[1]) == (before[0][1], before[1][1])
        family.next_block()
    family.to_next_epoch(1)
    assert children.children_of(family.state, 1, hot(family, 1)) == [[HALF, hot(family, 0)]]
    assert children.parents_of(family.state, 1, hot(family, 0)) == [[HALF, hot(family, 1)]]
    family.next_block()


# rule: CHD-3
def test_lent_stake_votes_once(family):
    lend(family)
    parent = pools.pool(family.state, 1, hot(family, 1)).consensus_rao
    child = pools.pool(family.state, 1, hot(family, 0)).consensus_rao
    own = votes(family, 0)[0], votes(family, 1)[0]
    assert own == (child + parent // 2, parent - parent // 2)
    weight = params.get(family.state, "root_weight")
    lent = pools.pool(family.state, 0, hot(family, 1)).consensus_rao // 2
    parts = children.contributions(family.state, 1, hot(family, 0))
    assert [part.hotkey for part in parts] == [hot(family, 0), hot(family, 1)]
    assert parts[1].root_rao == (lent * weight) >> 64


def test_what_is_lent_everywhere_leaves_nothing(family):
    lend(family, share=WHOLE)
    own, root = votes(family, 1)
    assert own <= 1 and root <= 1  # a share of 2^64 - 1 is one part in 2^64 short


def run_epoch(world):
    """An epoch in which both validators score miner 0; returns its row."""
    for index in (0, 1):
        weights.write_row(weights.WEIGHTS, world.state, 1, index, [(2, 65535)])
        row = neurons.neuron(world.state, 1, index)
        neurons.NEURONS.put(world.state, 1, index, value=type(row)(row.hotkey, 0, world.height, world.height, world.height))
    index = world.epoch(1)
    world.to_next_epoch(1)
    return world.row(1, index)


def value(world, index, netuid=1):
    return pools.pool(world.state, netuid, hot(world, index)).value_rao


# rule: CHD-4
def test_a_child_s_dividend_is_its_parents_by_their_stake(family):
    lend(family)
    stage = children.contributions(family.state, 1, hot(family, 0))
    before = value(family, 0), value(family, 1)
    root_before = value(family, 0, 0), value(family, 1, 0)
    row = run_epoch(family)
    gained = value(family, 0) - before[0], value(family, 1) - before[1]
    paid = row.paid.validator_rao
    assert sum(gained) == sum(paid) and paid[0] > 0
    own = [part.own_rao for part in stage]
    expected = paid[0] * own[1] // sum(own) + paid[1]
    assert abs(gained[1] - expected) <= expected // 100  # the stakes moved a little with the average meanwhile
    root, paid = [part.root_rao for part in stage], row.paid.root_rao  # root's epoch ran in the same block
    root_gained = value(family, 0, 0) - root_before[0], value(family, 1, 0) - root_before[1]
    expected = paid[0] * root[1] // sum(root) + paid[1]
    assert sum(root_gained) == sum(paid) > 0 and abs(root_gained[1] - expected) <= expected // 100
    family.next_block()


# rule: CHD-4
def test_a_child_keeps_its_take_of_what_is_not_its_owner_s(family):
    lend(family, share=WHOLE)
    family.set("delegate_take_rate_limit", 0)
    stake.TAKES.put(family.state, hot(family, 1), value=stake.Take(0))
    family.call("children.set_take", cold(family, 0), hot(family, 0), 1, 6553)
    family.to_next_epoch(1)  # a raise acts one epoch later
    run_epoch(family)
    before = value(family, 0), value(family, 1)
    row = run_epoch(family)
    paid = row.paid.validator_rao[0]
    own = [part.own_rao for part in children.contributions(family.state, 1, hot(family, 0))]
    share = (value(family, 1) - before[1]) / (paid * own[1] / sum(own))
    assert 0.88 < share < 0.92


# rule: CHD-4
def test_one_owner_pays_itself_no_take(family):
    hotkeys.OWNERS.put(family.state, hot(family, 0), value=cold(family, 1))
    hotkeys.OWNED.delete(family.state, cold(family, 0), hot(family, 0))
    hotkeys.OWNED.put(family.state, cold(family, 1), hot(family, 0), value=0)
    lend(family, share=WHOLE)
    children.TAKES.put(family.state, 1, hot(family, 0), value=stake.Take(11796))
    before = value(family, 1)
    row = run_epoch(family)
    assert value(family, 1) - before > row.paid.validator_rao[0] * 38 // 100


# rule: CHD-5
def test_a_raise_of_a_child_s_take_is_announced_and_limited(family):
    family.call("children.set_take", cold(family, 0), hot(family, 0), 1, 5000)
    take = children.child_take(family.state, 1, hot(family, 0))
    assert (take.take, take.next_take) == (0, 5000)
    assert family.refused("children.set_take", cold(family, 0), hot(family, 0), 1, 6000) == "TxChildkeyTakeRateLimitExceeded"
    family.call("children.set_take", cold(family, 0), hot(family, 0), 1, 0)
    assert children.child_take(family.state, 1, hot(family, 0)).take == 0
    assert family.refused("children.set_take", cold(family, 0), hot(family, 0), 1, 11797) == "InvalidChildkeyTake"
    assert family.refused("children.set_take", cold(family, 1), hot(family, 0), 1, 5) == "NonAssociatedColdKey"
    assert family.refused("children.set_take", cold(family, 0), hot(family, 0), 0, 5) == "InvalidChildkeyTake"


# rule: CHD-1
def test_refusals(family):
    signer, parent, child = cold(family, 1), hot(family, 1), hot(family, 0)

    def refused(rows, hotkey=parent, netuid=1, who=signer):
        return family.refused("children.set", who, hotkey, netuid, rows)

    assert refused([[1, parent]]) == "InvalidChild"
    assert refused([[1, child]], netuid=0) == "InvalidChild"
    assert refused([[1, child]], netuid=7) == "SubnetNotExists"
    assert refused([[1, child], [2, child]]) == "DuplicateChild"
    assert refused([[WHOLE, child], [1, family.key("miner 0 hot")]]) == "ProportionOverflow"
    assert refused([[1, family.key("nobody")]]) == "HotKeyAccountNotExists"
    assert refused([[1, family.key(f"x{i}")] for i in range(6)]) == "BadArguments"
    assert refused([[1, child]], who=cold(family, 0)) == "NonAssociatedColdKey"
    family.set("stake_threshold", 10**15)
    assert refused([[1, child]]) == "NotEnoughStakeToSetChildkeys"
    family.set("stake_threshold", 0)
    assert refused([[1, child]]) == ""
    assert refused([]) == "ChildrenRateLimitExceeded"


# rule: CHD-1
def test_parent_and_child_cannot_be_each_other_s(family):
    lend(family)
    error = family.refused("children.set", cold(family, 0), hot(family, 0), 1, [[1, hot(family, 1)]])
    assert error == "ChildParentInconsistency"


def test_two_that_name_each_other_while_both_wait_get_one_relation(family):
    for index in (0, 1):
        family.call("children.set", cold(family, index), hot(family, index), 1, [[HALF, hot(family, 1 - index)]])
    while list(children.PENDING.items(family.state)):
        family.next_block()
    both = [children.children_of(family.state, 1, hot(family, index)) for index in (0, 1)]
    assert sorted(len(rows) for rows in both) == [0, 1]


def test_no_children_end_the_relation(family):
    lend(family)
    before = votes(family, 0)[0]
    family.next_block(children.SET_RATE_BLOCKS)
    family.call("children.set", cold(family, 1), hot(family, 1), 1, [])
    while children.children_of(family.state, 1, hot(family, 1)):
        family.next_block()
    assert children.parents_of(family.state, 1, hot(family, 0)) == [] and votes(family, 0)[0] < before
    family.next_block()


def test_before_its_start_a_subnet_takes_children_at_once(family):
    family.fund(cold(family, 1), 10_000 * family.Q)
    family.set("network_min_lock_rao", family.Q)
    family.call("subnets.register_network", cold(family, 1), hot(family, 1), 10**15, "new")
    netuid = subnets.netuids(family.state)[-1]
    family.call("children.set", cold(family, 1), hot(family, 1), netuid, [[HALF, hot(family, 0)]])
    assert children.children_of(family.state, netuid, hot(family, 1)) == [[HALF, hot(family, 0)]]


def test_a_full_child_keeps_those_who_lend_most(family, monkeypatch):
    monkeypatch.setattr(children, "MAX_PARENTS", 2)
    child = hot(family, 0)
    for index, amount in enumerate((5, 50, 20)):
        hotkey = family.key(f"parent {index}")
        hotkeys.associate(family.context, hotkey, family.key("bank"))
        stake.genesis_stake(family.context, hotkey, 1, family.key("bank"), amount * family.Q)
        children._apply(family.context, 1, hotkey, [[HALF, child]])
    assert sorted(row[1] for row in children.parents_of(family.state, 1, child)) == sorted(
        family.key(f"parent {index}") for index in (1, 2)
    )
    assert children.children_of(family.state, 1, family.key("parent 0")) == []
    small = family.key("small")
    hotkeys.associate(family.context, small, family.key("bank"))
    children._apply(family.context, 1, small, [[HALF, child]])
    assert children.children_of(family.state, 1, small) == []
    family.next_block()


# rule: CHD-3
@settings(max_examples=25, deadline=None)
@given(st.lists(
    st.tuples(st.integers(0, 3), st.lists(st.tuples(st.integers(1, 1 << 62), st.integers(0, 3)), max_size=3)), max_size=8
))
def test_stake_is_never_counted_twice(make_market, changes):
    """Whatever the relations, all votes together are at most all stake, and fall short by roundings only."""
    world = make_market()
    hotkey = [hot(world, 0), hot(world, 1), world.key("miner 0 hot"), world.key("miner 1 hot")]
    for index, rows in changes:
        wanted = {child: share for share, child in rows if child != index}
        children._apply(world.context, 1, hotkey[index], [[share, hotkey[child]] for child, share in sorted(wanted.items())])
    total = sum(pools.pool(world.state, 1, each).consensus_rao for each in hotkey)
    counted = sum(children.voting_stake_parts(world.state, 1, each)[0] for each in hotkey)
    assert counted == total
    assert all(min(children.voting_stake_parts(world.state, 1, each)) >= 0 for each in hotkey)
    assert accounts.issuance(world.state) > 0
    world.next_block()


# rule: CHD-2
def test_a_crowd_of_parents_waits_behind_those_with_more_stake(family, monkeypatch):
    monkeypatch.setattr(children, "MAX_APPLIED", 1)
    monkeypatch.setattr(children, "SET_RATE_BLOCKS", 0)
    lend(family, parent=0, child=1)
    miner = family.key("miner 0 hot")
    for name, amount_rao in (("second hot", 9), ("third hot", 5)):
        hotkeys.associate(family.context, family.key(name), cold(family, 1))
        stake.genesis_stake(family.context, family.key(name), 0, cold(family, 1), amount_rao)
    family.call("children.set", cold(family, 1), family.key("third hot"), 1, [[HALF, miner]])
    family.call("children.set", cold(family, 1), hot(family, 1), 1, [[HALF, miner]])
    family.call("children.set", cold(family, 1), family.key("second hot"), 1, [[HALF, miner]])
    family.call("children.set", cold(family, 0), hot(family, 0), 1, [])
    in_force = []
    while len(in_force) < 4:
        family.next_block()
        in_force += [parent for parent, *_ in family.named("SetChildren")]
        assert len(family.named("SetChildren")) <= 1
    assert in_force == [hot(family, 0), hot(family, 1), family.key("second hot"), family.key("third hot")]


# rule: CHD-1
def test_stake_that_is_not_there_names_no_children(family):
    family.set("min_stake", family.Q)
    third, miner = family.key("third hot"), family.key("miner 0 hot")
    hotkeys.associate(family.context, third, cold(family, 1))
    family.call("stake.add", cold(family, 1), third, 0, 2 * family.Q)
    named = ["children.set", cold(family, 1), third, 1, [[HALF, miner]]]
    assert family.refused(*named) == "NotEnoughStakeToSetChildkeys"  # pending
    family.call("children.set", cold(family, 1), third, 1, [])
    assert children.PENDING.get(family.state, 1, third) is None  # there is nothing to end
    family.to_next_epoch(0)
    family.next_block(children.SET_RATE_BLOCKS)
    assert family.refused(*named) == ""
    family.call("stake.remove", cold(family, 1), third, 0, None)
    while children.PENDING.get(family.state, 1, third):
        family.next_block()
    assert family.named("SetChildren") == [[third, 1, []]] and not children.parents_of(family.state, 1, miner)


# rule: CHD-5
def test_an_owner_s_higher_minimum_raises_no_take(family):
    family.set("min_childkey_take", 9000, 1)
    assert children.child_take(family.state, 1, hot(family, 0)).take == 0
    assert family.refused("children.set_take", cold(family, 0), hot(family, 0), 1, 8999) == "InvalidChildkeyTake"
    family.call("children.set_take", cold(family, 0), hot(family, 0), 1, 9000)
    row = children.child_take(family.state, 1, hot(family, 0))
    assert stake.in_force(row, family.height - 1) == 0 and stake.in_force(row, family.height) == 9000
