"""Creating and starting subnets by call."""

import pytest

from runtime import emission, reads
from runtime.modules import creation, neurons, subnets


@pytest.fixture
def rich(empty):
    empty.set("network_min_lock_rao", 10 * empty.Q)
    empty.set("network_rate_limit", 5)
    empty.set("initial_block_emission", empty.Q)
    empty.fund(empty.key("a"), 1000 * empty.Q)
    empty.next_block()
    return empty


def create(world, who="a", hot="a hot", most=10**12, name="images"):
    return world.refused("subnets.register_network", world.key(who), world.key(hot), most, name)


# rule: NET-2
def test_a_created_subnet_waits_for_its_start(rich):
    assert create(rich) == ""
    row = subnets.subnet(rich.state, 2)
    assert (row.name, row.owner_coldkey, row.started_at, row.n) == ("images", rich.key("a"), None, 1)
    assert row.lock_rao == 10 * rich.Q == 1000 * rich.Q - rich.free(rich.key("a"))
    assert neurons.uid_of(rich.state, 2, rich.key("a hot")) == 0
    assert rich.refused("stake.add", rich.key("a"), rich.key("a hot"), 2, rich.Q) == "SubtokenDisabled"
    rich.next_block()
    assert list(emission.emission_shares(rich.state)) == [1] and reads.supply(rich.state).locks_rao == 10 * rich.Q
    assert rich.refused("subnets.start_call", rich.key("owner"), 2) == "NotSubnetOwner"
    rich.set("start_call_delay", 3)
    assert rich.refused("subnets.start_call", rich.key("a"), 2) == "NeedWaitingMoreBlocksToStartCall"
    rich.next_block(2)
    rich.call("subnets.start_call", rich.key("a"), 2)
    assert rich.named("NetworkStarted") == [[2, rich.height + 1]]
    assert rich.refused("subnets.start_call", rich.key("a"), 2) == "FirstEmissionBlockNumberAlreadySet"
    assert rich.refused("stake.add", rich.key("a"), rich.key("a hot"), 2, rich.Q) == ""
    rich.next_block()
    assert sum(emission.pots(rich.state, 2).amounts_rao) == rich.Q // 2


# rule: NET-2
def test_price_limits_and_refusals(rich):
    assert create(rich, hot="owner hot") == "NonAssociatedColdKey"
    assert create(rich, most=10 * rich.Q - 1) == "CannotAffordLockCost"
    assert create(rich, who="poor") == "CannotAffordLockCost"
    assert create(rich) == ""
    assert create(rich, hot="b hot") == "NetworkTxRateLimitExceeded"
    rich.next_block(5)
    after = creation.lock_cost_rao(rich.state, rich.height)
    assert 19 * rich.Q < after < 20 * rich.Q  # twice the last, falling
    rich.set("subnet_limit", 2)
    assert create(rich, hot="b hot") == "SubnetLimitReached"
    rich.set("subnet_limit", 3)
    assert create(rich, hot="b hot") == ""
    assert subnets.subnet(rich.state, 3).lock_rao == after


# rule: NET-3
def test_a_subnet_created_by_call_runs_epochs_with_the_default_parameters(rich):
    assert create(rich) == ""
    assert subnets.next_epoch(rich.state, 2, rich.height).blocks_left <= 360
    row = subnets.tempo(rich.state, 2)
    subnets.TEMPOS.put(rich.state, 2, value=subnets.Tempo(0, rich.height + 1, 0, None))
    assert row.epoch_index == 0
    rich.next_block()
    assert rich.epoch(2) == 1 and rich.row(2, 0).trace.size == 1
