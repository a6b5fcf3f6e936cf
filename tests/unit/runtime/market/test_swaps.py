"""Hotkey swaps: everything moves, nothing is renewed, and what is refused."""

import pytest

from runtime.modules import accounts, children, hotkeys, identities, neurons, pools, serving, stake, subnets, swaps, weights
from runtime.tables import Table

RECORD = [b"\x7f\0\0\1", 9000, b"", b"\x05" * 32]


@pytest.fixture
def ready(market):
    market.set("tx_rate_limit", 5)
    market.next_block()
    return market


def names(world, index=0):
    return world.key(f"validator {index}"), world.key(f"validator {index} hot"), world.key(f"fresh {index}")


def rows_naming(world, hotkey):
    """Tables that have a key or value with this hotkey."""
    found = set()
    for number, table in Table.registry.items():
        for key, value in world.state.items(number.to_bytes(2, "big")):
            if hotkey in key or hotkey in value:
                found.add(table.name)
    return found


# rule: KEY-3
def test_everything_under_a_hotkey_moves(ready):
    cold, old, new = names(ready)
    ready.call("stake.add", names(ready, 1)[0], old, 1, 5 * ready.Q)
    ready.call("stake.decrease_take", cold, old, 500)
    ready.call("serving.serve", old, 1, RECORD)
    ready.call("serving.set_commitment", old, 1, [b"x"], False)
    ready.call("serving.commit_receipts", old, 1, 0, b"\x01" * 32, 3)
    ready.call("weights.commit", old, 1, b"\x02" * 32)
    children._apply(ready.context, 1, old, [[1 << 62, names(ready, 1)[1]]])
    ready.call("children.set", cold, old, 1, [[1 << 61, ready.key("miner 0 hot")]])
    before = {
        "uid": ready.uid(1, old), "pool": pools.pool(ready.state, 1, old), "root": pools.pool(ready.state, 0, old),
        "take": stake.take_of(ready.state, old), "neuron": neurons.neuron(ready.state, 1, 0).registered_at,
        "position": pools.position(ready.state, 1, old, names(ready, 1)[0]), "issued": accounts.issuance(ready.state),
    }
    ready.call("keyring.swap_hotkey", cold, old, new, None)
    assert ready.named("HotkeySwapped") == [[cold, old, new, None]]
    assert ready.uid(1, new) == before["uid"] and neurons.neuron(ready.state, 1, 0).registered_at == before["neuron"]
    assert pools.pool(ready.state, 1, new) == before["pool"] and pools.pool(ready.state, 0, new) == before["root"]
    assert pools.position(ready.state, 1, new, names(ready, 1)[0]) == before["position"]
    assert stake.take_of(ready.state, new) == before["take"]
    assert serving.record_of(ready.state, 1, new) and identities.commitment_of(ready.state, 1, new)
    assert serving.receipts_of(ready.state, 1, 0, new) and weights.commits_of(ready.state, 1, new)
    assert children.parents_of(ready.state, 1, names(ready, 1)[1]) == [[1 << 62, new]]
    assert children.PENDING.get(ready.state, 1, new).children == [[1 << 61, ready.key("miner 0 hot")]]
    assert rows_naming(ready, old) == {"hotkey_owner", "owned_hotkey", "take"}
    assert accounts.issuance(ready.state) == before["issued"] - swaps.COST_EVERYWHERE_RAO
    ready.to_next_epoch(1)
    ready.to_next_epoch(0)


# rule: KEY-3
def test_in_one_subnet_only_that_one_changes(ready):
    cold, old, new = names(ready)
    ready.call("keyring.swap_hotkey", cold, old, new, 1)
    assert ready.uid(1, new) == 0 and neurons.uid_of(ready.state, 1, old) is None
    assert ready.uid(0, old) == 0 and pools.pool(ready.state, 0, old).value_rao > 0
    assert pools.POOLS.get(ready.state, 1, old) is None
    ready.to_next_epoch(1)


def test_an_owner_s_declared_hotkey_follows(ready):
    owner, old, new = ready.key("owner"), ready.key("owner hot"), ready.key("fresh")
    ready.fund(owner, 10 * ready.Q)
    stake.genesis_stake(ready.context, old, 1, owner, ready.Q)
    ready.call("keyring.swap_hotkey", owner, old, new, None)
    assert subnets.subnet(ready.state, 1).owner_hotkey == new
    ready.next_block()


def test_a_child_that_is_swapped_keeps_its_parents(ready):
    cold, old, new = names(ready)
    children._apply(ready.context, 1, names(ready, 1)[1], [[1 << 62, old]])
    ready.call("keyring.swap_hotkey", cold, old, new, 1)
    assert children.children_of(ready.state, 1, names(ready, 1)[1]) == [[1 << 62, new]]
    ready.next_block()


def test_root_dividends_that_wait_are_paid(ready):
    cold, old, new = names(ready)
    ready.set("tempo", 30, 0)
    for index in (0, 1):
        weights.write_row(weights.WEIGHTS, ready.state, 1, index, [(2, 65535)])
        row = neurons.neuron(ready.state, 1, index)
        neurons.NEURONS.put(ready.state, 1, index, value=type(row)(row.hotkey, 0, ready.height, ready.height, ready.height))
    ready.to_next_epoch(1)
    ready.call("keyring.swap_hotkey", cold, old, new, None)
    before = pools.pool(ready.state, 0, new).value_rao
    ready.to_next_epoch(0)
    assert pools.pool(ready.state, 0, new).value_rao > before


# rule: KEY-4
def test_limits(ready):
    cold, old, new = names(ready)
    ready.call("keyring.swap_hotkey", cold, old, new, 1)
    assert ready.refused("keyring.swap_hotkey", cold, new, ready.key("other"), 1) == "HotKeySetTxRateLimitExceeded"
    ready.next_block(5)
    assert ready.refused("keyring.swap_hotkey", cold, new, ready.key("other"), 1) == "HotKeySwapOnSubnetIntervalNotPassed"
    ready.call("keyring.swap_hotkey", cold, old, ready.key("other"), 0)
    ready.next_block()


# rule: KEY-4
def test_refusals(ready, monkeypatch):
    cold, old, new = names(ready)
    other_cold, other = names(ready, 1)[:2]
    for signer, args, error in (
        (cold, (old, old, 1), "NewHotKeyIsSameWithOld"), (other_cold, (old, new, 1), "NonAssociatedColdKey"),
        (cold, (old, other, 1), "NonAssociatedColdKey"), (cold, (old, new, 9), "SubnetNotExists"),
        (cold, (ready.key("nobody"), new, 1), "HotKeyAccountNotExists"), (cold, (old, bytes(32), 1), "InvalidKey"),
    ):
        assert ready.refused("keyring.swap_hotkey", signer, *args) == error
    ready.call("keyring.swap_hotkey", cold, old, new, 1)
    ready.next_block(5)
    assert ready.refused("keyring.swap_hotkey", cold, old, ready.key("other"), 1) == "NothingToSwap"
    assert ready.refused("keyring.swap_hotkey", cold, old, new, None) == ""  # what is left of the old one, on root
    ready.next_block(5)
    miner, miner_hot = ready.key("miner 0"), ready.key("miner 0 hot")
    ready.call("stake.add", miner, miner_hot, 1, ready.Q)
    monkeypatch.setattr(swaps, "MAX_POSITIONS", 0)
    assert ready.refused("keyring.swap_hotkey", miner, miner_hot, ready.key("m"), 1) == "TooManyPositions"
    monkeypatch.undo()
    accounts.debit(ready.context, miner, ready.free(miner), "recycle")
    assert ready.refused("keyring.swap_hotkey", miner, miner_hot, ready.key("m"), 1) == "NotEnoughBalanceToPaySwap"


def own(world, cold, hotkey):
    hotkeys.associate(world.context, hotkey, cold)
    return hotkey


def name_child(world, new, child):
    stake.genesis_stake(world.context, new, 0, names(world)[0], world.Q)
    world.call("children.set", names(world)[0], new, 1, [[1 << 62, child]])


# rule: KEY-3
@pytest.mark.parametrize("relate", [
    lambda world, old, new, others: children._apply(world.context, 1, others[0], [[1 << 62, new]]),
    lambda world, old, new, others: children._apply(world.context, 1, old, [[1 << 62, new]]),
    lambda world, old, new, others: children._apply(world.context, 1, new, [[1 << 62, others[0]]]),
    lambda world, old, new, others: name_child(world, new, others[0]),
])
def test_a_hotkey_with_children_or_parents_takes_over_nothing(ready, relate):
    cold, old, new = names(ready)
    others = [ready.key("miner 0 hot"), ready.key("miner 1 hot")]
    children._apply(ready.context, 1, others[1], [[1 << 62, old]])
    relate(ready, old, own(ready, cold, new), others)
    assert ready.refused("keyring.swap_hotkey", cold, old, new, 1) == "NewHotKeyInUse"
    ready.next_block()


# rule: KEY-3
def test_a_child_that_takes_the_parent_s_place_does_not_become_its_own(ready):
    cold, old, new = names(ready)
    ready.call("children.set", cold, old, 1, [[1 << 62, own(ready, cold, new)]])
    ready.call("keyring.swap_hotkey", cold, old, new, 1)
    ripe_at = children.PENDING.get(ready.state, 1, new).ripe_at
    while children.PENDING.get(ready.state, 1, new):
        ready.next_block()
    assert ready.height >= ripe_at and not children.children_of(ready.state, 1, new)
    assert [new, 1, new, "InvalidChild"] in ready.named("ChildRelationEnded")


# rule: KEY-4
def test_a_swap_to_a_hotkey_with_nominators_raises_no_take(ready):
    cold, old, new = names(ready)
    ready.call("stake.add", names(ready, 1)[0], own(ready, cold, new), 0, 5 * ready.Q)
    ready.call("stake.decrease_take", cold, new, 0)
    ready.call("stake.decrease_take", cold, old, 11000)
    ready.call("keyring.swap_hotkey", cold, old, new, 1)
    assert stake.take_at_payout(ready.state, new, ready.height) == 0
    assert stake.take_of(ready.state, new).changed_at == ready.height


def test_the_lower_of_two_takes_keeps_the_later_announcement():
    low, raised, high = stake.Take(0), stake.Take(5, 900, 40, 40), stake.Take(700, 800, 90, 95)
    assert stake.lower_of(low, high) == stake.Take(0, changed_at=95)
    assert stake.lower_of(raised, high) == stake.lower_of(high, raised) == stake.Take(5, 800, 90, 95)
    assert stake.lower_of(raised, stake.Take(300)) == stake.Take(5, 300, 40, 40)
