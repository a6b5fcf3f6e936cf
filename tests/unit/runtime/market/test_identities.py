"""Identities and commitments: deposits, limits, space per epoch, bonds that are dropped, and refusals."""

import pytest

from runtime.modules import accounts, identities, neurons, weights
from runtime.modules.identities import IDENTITY_DEPOSIT_RAO, SPACE_PER_EPOCH_BYTES

WHO = ["Ada", "https://example.org", "writes programs", b"\x05" * 32]
SUBNET = ["prose", "", "bytes of text", "bytes", b""]


# rule: IDN-1
def test_an_identity_stands_while_its_deposit_does(market):
    cold = market.key("miner 0")
    market.call("identities.set", cold, WHO)
    assert identities.identity_of(market.state, cold) == identities.Identity(*WHO[:3], "", WHO[3])
    market.call("identities.set", cold, [*WHO[:3], b""])  # a change costs no second deposit
    assert market.reserved(cold) == IDENTITY_DEPOSIT_RAO
    market.next_block()
    market.call("identities.clear", cold)
    assert identities.identity_of(market.state, cold) is None and market.reserved(cold) == 0
    assert market.refused("identities.clear", cold) == "NoIdentity"
    market.next_block()


# rule: IDN-2
def test_a_subnet_says_what_it_is_for(market):
    market.call("subnets.set_identity", market.key("owner"), 1, SUBNET)
    assert identities.subnet_identity_of(market.state, 1).task == "bytes"
    assert market.refused("subnets.set_identity", market.key("miner 0"), 1, SUBNET) == "NotSubnetOwner"
    assert market.refused("subnets.set_identity", market.key("owner"), 9, SUBNET) == "SubnetNotExists"
    assert market.refused("subnets.set_identity", market.key("owner"), 1, SUBNET[:4]) == "BadArguments"


# rule: IDN-1
@pytest.mark.parametrize(("identity", "error"), [
    (["x" * 65, "", "", b""], "BadArguments"), (["x", "", "y" * 512, b""], "InvalidIdentity"),
    (["x", "", "", b"\x01" * 31], "InvalidIdentity"), (["x", "", "", b"\x01" * 33], "BadArguments"),
    (["é" * 32, "", "", b""], ""), (["x", "", ""], "BadArguments"),
])
def test_bad_identities(market, identity, error):
    assert market.refused("identities.set", market.key("miner 0"), identity) == error


def test_an_identity_is_for_owners_of_hotkeys_with_money(market):
    market.fund(market.key("stranger"), market.Q)
    assert market.refused("identities.set", market.key("stranger"), WHO) == "HotKeyAccountNotExists"
    accounts.debit(market.context, market.key("miner 0"), market.free(market.key("miner 0")), "recycle")
    accounts.recycle(market.context, 1000 * market.Q, "recycle", "test")
    assert market.refused("identities.set", market.key("miner 0"), WHO) == "NotEnoughBalance"


# rule: IDN-3
def test_a_neuron_commits_within_its_space(market):
    hot = market.key("miner 0 hot")
    market.call("serving.set_commitment", hot, 1, [b"\x07" * 32], False)
    assert identities.commitment_of(market.state, 1, hot).fields == [b"\x07" * 32]
    used, part = 100, [b"x" * 1024]
    for _ in range(2):
        market.call("serving.set_commitment", hot, 1, part, False)
        used += 1024
    assert identities.commitment_of(market.state, 1, hot).used_bytes == used
    assert used + 1024 > SPACE_PER_EPOCH_BYTES
    assert market.refused("serving.set_commitment", hot, 1, part, False) == "SpaceLimitExceeded"
    assert market.precheck("serving.set_commitment", hot, 1, part, False) == "SpaceLimitExceeded"
    market.to_next_epoch(1)
    market.call("serving.set_commitment", hot, 1, part * 3, False)


def test_commitments_of_others_and_bad_ones(market):
    hot = market.key("miner 0 hot")
    assert market.refused("serving.set_commitment", market.key("stranger"), 1, [b"x"], False) == "HotKeyNotRegisteredInSubNet"
    assert market.refused("serving.set_commitment", hot, 9, [b"x"], False) == "HotKeyNotRegisteredInSubNet"
    assert market.refused("serving.set_commitment", hot, 1, [], False) == "BadArguments"
    assert market.refused("serving.set_commitment", hot, 1, [b"x"] * 4, False) == "BadArguments"
    assert market.refused("serving.set_commitment", hot, 1, [b"x" * 1025], False) == "BadArguments"
    assert market.is_free("serving.set_commitment", hot, 1, [b"x"], False)
    assert not market.is_free("serving.set_commitment", market.key("stranger"), 1, [b"x"], False)


# rule: IDN-4
def test_something_new_drops_the_bonds_on_it_where_the_subnet_allows(market):
    hot = market.key("miner 0 hot")
    uid = market.uid(1, hot)
    for validator in (0, 1):
        weights.write_row(weights.BONDS, market.state, 1, validator, [(uid, 500), (uid + 1, 600)])
    market.call("serving.set_commitment", hot, 1, [b"x"], True)
    assert len(weights.read_row(weights.BONDS, market.state, 1, 0)) == 2 and not market.named("BondsReset")
    market.set("bonds_reset_on", True, 1)
    market.call("serving.set_commitment", hot, 1, [b"x"], True)
    assert market.named("BondsReset") == [[1, uid]]
    assert [weights.read_row(weights.BONDS, market.state, 1, v) for v in (0, 1)] == [[(uid + 1, 600)]] * 2


def test_a_commitment_goes_with_its_neuron(market):
    hot = market.key("miner 0 hot")
    market.call("serving.set_commitment", hot, 1, [b"x"], False)
    neurons.remove(market.context, 1, market.uid(1, hot))
    assert identities.commitment_of(market.state, 1, hot) is None
    market.next_block()
