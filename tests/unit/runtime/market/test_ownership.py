"""Hotkeys that agree to their coldkey, and subnets that change hands."""

from hashlib import blake2b

from ledger.crypto import KeyPair
from runtime.modules import hotkeys, subnets


def pair(name):
    return KeyPair.from_seed(blake2b(name.encode(), digest_size=32).digest())


# rule: KEY-2
def test_a_hotkey_agrees_to_its_coldkey_by_a_signature(empty):
    cold, hot = empty.key("cold"), pair("hot")
    proof = hot.sign("hotkey", empty.genesis_hash, cold + hot.public)
    other = hot.sign("hotkey", empty.genesis_hash, empty.key("thief") + hot.public)
    elsewhere = hot.sign("hotkey", bytes(32), cold + hot.public)
    for wrong in (other, elsewhere, bytes(64)):
        assert empty.refused("hotkeys.associate", cold, hot.public, wrong) == "InvalidHotkeyProof"
    assert empty.refused("hotkeys.associate", empty.key("thief"), hot.public, proof) == "InvalidHotkeyProof"
    empty.call("hotkeys.associate", cold, hot.public, proof)
    assert hotkeys.owner_of(empty.state, hot.public) == cold
    empty.call("hotkeys.associate", cold, hot.public, proof)  # nothing new
    assert empty.refused("hotkeys.associate", empty.key("thief"), hot.public, other) == "NonAssociatedColdKey"
    empty.next_block()


# rule: NET-9
def test_a_subnet_changes_hands_at_most_so_often(market):
    owner, new = market.key("owner"), market.key("miner 0")
    market.set("owner_change_rate_limit", 5)
    assert market.refused("subnets.transfer_ownership", new, 1, new, market.key("miner 0 hot")) == "NotSubnetOwner"
    assert market.refused("subnets.transfer_ownership", owner, 1, new, market.key("miner 1 hot")) == "NonAssociatedColdKey"
    assert market.refused("subnets.transfer_ownership", owner, 9, new, market.key("miner 0 hot")) == "SubnetNotExists"
    assert market.refused("subnets.transfer_ownership", bytes(32), 0, new, market.key("miner 0 hot")) == "NotSubnetOwner"
    market.call("subnets.transfer_ownership", owner, 1, new, market.key("miner 0 hot"))
    assert market.named("SubnetOwnerChanged") == [[1, owner, new, market.key("miner 0 hot")]]
    row = subnets.subnet(market.state, 1)
    assert (row.owner_coldkey, row.owner_hotkey) == (new, market.key("miner 0 hot"))
    assert market.refused("subnets.set_owner_hotkey", new, 1, market.key("miner 0 hot")) == "TxRateLimitExceeded"
    market.next_block(5)
    assert market.refused("subnets.set_owner_hotkey", new, 1, market.key("miner 1 hot")) == "NonAssociatedColdKey"
    market.call("subnets.set_owner_hotkey", new, 1, market.key("miner 0 hot"))
    market.next_block()
