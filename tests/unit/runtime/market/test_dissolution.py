"""Dissolving a subnet: everybody gets back what is theirs, bit by bit, nothing remains, and who may do it."""

import pytest

from runtime import emission, params
from runtime.modules import accounts, children, dissolution, identities, neurons, pools, registration, stake, subnets
from runtime.tables import Table


@pytest.fixture
def ending(market, monkeypatch):
    """Small steps, so that a dissolution takes several blocks."""
    monkeypatch.setattr(dissolution, "ROWS_PER_BLOCK", 2)
    market.set("network_immunity_period", 5)
    market.next_block(6)
    return market


def step(world, count=1):
    for _ in range(count):
        world.next_block()
        dissolution.proceed(world.context)


def finish(world):
    blocks = 0
    while subnets.exists(world.state, 1):
        step(world)
        blocks += 1
    return blocks


def rows_of(world, netuid):
    """Names of tables that still have rows of a subnet."""
    prefix = netuid.to_bytes(2, "big")
    return {
        table.name for number, table in Table.registry.items() if table.fields and table.fields[0].name == "netuid"
        for key, _ in world.state.items(number.to_bytes(2, "big") + prefix)
    }


# rule: NET-7
def test_all_stake_and_bonds_come_back_and_nothing_remains(ending):
    miner, owner = ending.key("miner 0"), ending.key("owner")
    ending.call("stake.add", miner, ending.key("validator 0 hot"), 1, 7 * ending.Q)
    ending.set("min_burn_rao", ending.Q, 1)
    ending.call("neurons.register", miner, 1, ending.key("second"), 50 * ending.Q)
    ending.next_block()
    bond = registration.BONDS.get(ending.state, 1, ending.uid(1, ending.key("second")))
    assert bond.left_rao > 0
    children._apply(ending.context, 1, ending.key("validator 0 hot"), [[1 << 62, ending.key("miner 0 hot")]])
    ending.call("subnets.set_identity", owner, 1, ["x", "", "", "bytes", b""])
    ending.call("serving.set_commitment", ending.key("miner 0 hot"), 1, [b"x"], False)
    staked = {name: sum(pools.position(ending.state, 1, ending.key(f"{name} hot"), ending.key(name))) for name in (
        "validator 0", "validator 1",
    )}
    free = {name: ending.free(ending.key(name)) for name in staked}
    ending.call("subnets.dissolve", owner, 1)
    assert subnets.is_dissolving(ending.state, 1) and not subnets.started(ending.state)
    assert finish(ending) > 5
    assert rows_of(ending, 1) == set()
    for name, amount in staked.items():
        assert ending.free(ending.key(name)) - free[name] >= amount > 0
    assert ending.reserved(miner) == 0
    assert ending.named("NetworkRemoved") == [[1, 0]]
    assert identities.subnet_identity_of(ending.state, 1) is None
    ending.next_block(25)  # root goes on alone; every block is audited


def test_stake_waits_as_removed_stake_does(ending):
    ending.set("unbond_blocks", 30, 1)
    cold = ending.key("validator 0")
    held = sum(pools.position(ending.state, 1, ending.key("validator 0 hot"), cold))
    ending.call("subnets.dissolve", ending.key("owner"), 1)
    finish(ending)
    assert stake.unbonding_rao(ending.state, cold) == held


def test_a_full_list_of_unbondings_is_paid_at_once(ending, monkeypatch):
    monkeypatch.setattr(stake, "MAX_UNBONDINGS", 0)
    ending.set("unbond_blocks", 30, 1)
    cold, before = ending.key("validator 0"), ending.free(ending.key("validator 0"))
    ending.call("subnets.dissolve", ending.key("owner"), 1)
    finish(ending)
    assert stake.unbonding_rao(ending.state, cold) == 0 and ending.free(cold) > before


# rule: NET-8
def test_the_lock_comes_back_but_for_a_tenth_and_the_netuid_never(ending):
    cold, hot = ending.key("miner 0"), ending.key("miner 0 hot")
    ending.set("network_min_lock_rao", 100 * ending.Q)
    ending.call("subnets.register_network", cold, hot, 10**15, "second")
    lock = subnets.subnet(ending.state, 2).lock_rao
    ending.next_block(5)
    before = ending.free(cold)
    ending.call("subnets.dissolve", cold, 2)
    step(ending, 12)
    assert not subnets.exists(ending.state, 2)
    assert ending.free(cold) == before + lock - lock // 10
    ending.set("network_rate_limit", 0)
    ending.call("subnets.register_network", ending.key("miner 1"), ending.key("miner 1 hot"), 10**15, "third")
    assert subnets.exists(ending.state, 3) and not subnets.exists(ending.state, 2)


def test_emission_goes_to_the_others_from_that_block_on(ending):
    cold = ending.key("miner 0")
    ending.call("subnets.register_network", cold, ending.key("miner 0 hot"), 10**15, "second")
    ending.call("subnets.start_call", cold, 2)
    emission.SHARES.put(ending.state, 1, value=3 << 30)
    emission.SHARES.put(ending.state, 2, value=1 << 30)
    ending.next_block()
    pots = sum(emission.pots(ending.state, 1).amounts_rao)
    recycled = ending.context.recycled_rao
    assert pots > 0
    ending.call("subnets.dissolve", ending.key("owner"), 1)
    assert emission.emission_shares(ending.state) == {2: 1 << 32}
    assert ending.context.recycled_rao - recycled == pots
    before = sum(emission.pots(ending.state, 2).amounts_rao)
    ending.next_block()
    assert sum(emission.pots(ending.state, 2).amounts_rao) - before == ending.Q


# rule: NET-7
def test_while_it_ends_nothing_new_begins(ending):
    owner, miner = ending.key("owner"), ending.key("miner 0")
    ending.call("neurons.register", miner, 1, ending.key("late"), 50 * ending.Q)  # settled in the next block
    ending.call("subnets.dissolve", owner, 1)
    epoch = ending.epoch(1)
    ending.next_block()
    assert neurons.uid_of(ending.state, 1, ending.key("late")) is None and ending.reserved(miner) == 0
    assert ending.refused("neurons.register", miner, 1, ending.key("later"), 50 * ending.Q) == "SubnetDissolving"
    assert ending.refused("stake.add", miner, ending.key("miner 0 hot"), 1, ending.Q) == "SubtokenDisabled"
    assert ending.refused("subnets.start_call", owner, 1) == "SubnetDissolving"
    assert ending.refused("subnets.dissolve", owner, 1) == "SubnetDissolving"
    ending.next_block(30)
    assert ending.epoch(1) == epoch  # no epoch runs


# rule: NET-7
def test_who_may(market):
    owner = market.key("owner")
    assert params.get(market.state, "network_immunity_period") > 0
    assert market.refused("subnets.dissolve", owner, 1) == "SubnetImmune"
    market.set("network_immunity_period", 0)
    assert market.refused("subnets.dissolve", market.key("miner 0"), 1) == "NotSubnetOwner"
    assert market.refused("subnets.dissolve", owner, 0) == "NotSubnetOwner"
    assert market.refused("subnets.dissolve", owner, 7) == "SubnetNotExists"
    market.call("subnets.dissolve", owner, 1)
    assert accounts.issuance(market.state) > 0
