"""Evictions: who is challenged, what notice and keeping cost, and that money and slots always have an owner."""

import pytest

from runtime.modules import creation, evictions, subnets

NOTICE = 6


@pytest.fixture
def full(market):
    """Subnets 1, 2 and 3, of which 2 and 3 belong to validators and have not started; there is room for no other."""
    for name, value in (
        ("network_min_lock_rao", market.Q), ("network_rate_limit", 0), ("network_immunity_period", 10),
        ("eviction_notice_blocks", NOTICE), ("network_lock_reduction_interval", 1),
    ):
        market.set(name, value)
    market.next_block()
    for index in range(2):
        who = market.key(f"validator {index}")
        market.call("subnets.register_network", who, market.key(f"sub {index}"), 100 * market.Q, f"sub {index}")
        market.next_block()
    market.set("subnet_limit", 3)
    return market


def challenge(world, who="miner 0", most=100):
    world.call("subnets.challenge", world.key(who), world.key(f"{who} sub"), most * world.Q, "newcomer")


# rule: NET-4
def test_the_weakest_oldest_subnet_past_its_immunity_is_challenged(full):
    assert full.refused("subnets.register_network", full.key("miner 0"), full.key("x"), 10 * full.Q, "") == "SubnetLimitReached"
    assert evictions.weakest(full.state, full.height) is None, "subnets 2 and 3 are immune; so is 1"
    full.next_block(10)
    assert evictions.weakest(full.state, full.height) == 2, "3 has no share either, but is younger"
    challenge(full)
    assert evictions.weakest(full.state, full.height) == 3
    challenge(full, "miner 1")
    assert evictions.weakest(full.state, full.height) == 1
    challenge(full, "miner 2")
    assert full.refused("subnets.challenge", full.key("validator 0"), full.key("y"), 900 * full.Q, "") == "SubnetLimitReached"
    full.next_block()


# rule: NET-6
def test_after_the_notice_the_slot_is_the_challenger_s(full):
    full.next_block(10)
    price, rich = creation.lock_cost_rao(full.state, full.height), full.free(full.key("miner 0"))
    challenge(full)
    row = evictions.challenge_of(full.state, 2)
    assert row.price_rao == price == rich - full.free(full.key("miner 0"))
    full.next_block(NOTICE - 1)
    evictions.end_notices(full.context)
    assert not subnets.is_dissolving(full.state, 2)
    full.next_block()
    evictions.end_notices(full.context)
    assert full.named("SubnetEvicted") == [[2, full.key("miner 0"), 4]] and subnets.is_dissolving(full.state, 2)
    fresh = subnets.subnet(full.state, 4)
    assert (fresh.owner_coldkey, fresh.lock_rao, fresh.name) == (full.key("miner 0"), price, "newcomer")
    assert full.uid(4, full.key("miner 0 sub")) == 0 and evictions.challenge_of(full.state, 2) is None
    full.call("subnets.start_call", full.key("miner 0"), 4)
    full.next_block()


# rule: NET-5
def test_the_owner_keeps_the_slot_by_paying_the_same_into_its_lock(full):
    full.next_block(10)
    before = {who: full.free(full.key(who)) for who in ("miner 0", "validator 0")}
    lock = subnets.subnet(full.state, 2).lock_rao
    assert full.refused("subnets.keep", full.key("validator 0"), 2) == "NotChallenged"
    challenge(full)
    price = evictions.challenge_of(full.state, 2).price_rao
    assert full.refused("subnets.keep", full.key("validator 1"), 2) == "NotSubnetOwner"
    full.call("subnets.keep", full.key("validator 0"), 2)
    assert full.free(full.key("miner 0")) == before["miner 0"]
    assert full.free(full.key("validator 0")) == before["validator 0"] - price
    assert subnets.subnet(full.state, 2).lock_rao == lock + price
    full.next_block(9)
    assert evictions.weakest(full.state, full.height) == 3, "2 is immune as if it were new"
    full.next_block()
    assert evictions.weakest(full.state, full.height) == 2


# rule: NET-6
def test_a_challenged_subnet_that_ends_otherwise_leaves_its_slot_too(full):
    full.next_block(10)
    challenge(full)
    full.call("subnets.dissolve", full.key("validator 0"), 2)
    assert full.named("SubnetEvicted") == [[2, full.key("miner 0"), 4]]
    full.next_block()


def test_without_a_netuid_left_the_money_comes_back(full, monkeypatch):
    full.next_block(10)
    rich = full.free(full.key("miner 0"))
    challenge(full)
    monkeypatch.setattr(creation, "MAX_NETUID", 3)
    full.next_block(NOTICE)
    evictions.end_notices(full.context)
    assert full.free(full.key("miner 0")) == rich and not subnets.exists(full.state, 4)
    full.next_block()


def test_refusals(full):
    full.next_block(10)
    who, hot = full.key("miner 0"), full.key("x")
    assert full.refused("subnets.challenge", who, full.key("miner 1 hot"), 9 * full.Q, "") == "NonAssociatedColdKey"
    assert full.refused("subnets.challenge", who, hot, full.Q - 1, "") == "CannotAffordLockCost"
    assert full.refused("subnets.challenge", full.key("poor"), hot, 9 * full.Q, "") == "CannotAffordLockCost"
    full.set("network_rate_limit", 50)
    assert full.refused("subnets.challenge", who, hot, 9 * full.Q, "") == "NetworkTxRateLimitExceeded"
    full.set("network_rate_limit", 0)
    challenge(full)
    assert full.refused("subnets.keep", full.key("validator 0"), 0) == "NotSubnetOwner"
    full.set("subnet_limit", 4)
    assert full.refused("subnets.challenge", who, hot, 9 * full.Q, "") == "SubnetSlotsFree"


# rule: NET-4
def test_each_challenge_makes_the_next_one_dearer(full):
    full.set("network_lock_reduction_interval", 100_800)
    full.next_block(10)
    price = creation.lock_cost_rao(full.state, full.height)
    challenge(full)
    assert creation.lock_cost_rao(full.state, full.height) == 2 * price


def test_a_challenge_moves_with_its_coldkey(full):
    full.next_block(10)
    challenge(full)
    assert evictions.move_challenges(full.context, full.key("miner 0"), full.key("new")) == 0
    assert evictions.challenge_of(full.state, 2).coldkey == full.key("new")
    assert "belongs to another coldkey" in next(iter(evictions.audit(full.state)))
    subnets.stop(full.context, 2)
    assert "does not last" in next(iter(evictions.audit(full.state)))
