"""Reads of proposals, proxies, children, identities, swaps, bonds and notices: every field from state, and through JSON."""

import json

import pytest

from ledger.client.json_form import from_json, to_json
from ledger.errors import NotFound
from runtime import account_reads, proposal_reads
from runtime.dispatch import call_number
from runtime.modules import coldkeys, proxies

HALF = 1 << 63


def round_trip(kind, value):
    assert from_json(kind, json.loads(json.dumps(to_json(value)))) == value


def seat(world, index):
    return world.key(f"validator {index}"), world.key(f"validator {index} hot")


def test_a_proposal_shows_its_call_by_names_and_how_the_seats_stand(market):
    cold, hot = seat(market, 0)
    param = [call_number("governance.set_global_param"), ["fee_base_rao", 5]]
    market.call("governance.propose", cold, hot, [call_number("keyring.batch"), [[param, param]]])
    market.set("voting_period", 50)
    found = proposal_reads.proposal(market.state, 0, market.height)
    assert found.proposed.call == "keyring.batch" and found.state == "voting" and found.approved_at is None
    set_fee = {"call": "governance.set_global_param", "args": {"name": "fee_base_rao", "value": 5}}
    assert found.proposed.args == {"calls": [set_fee, set_fee]}
    assert (found.proposer, found.hotkey, found.deposit_rao) == (cold, hot, 10 * market.Q)
    assert found.decides_at == market.height + 50 and found.blocks_left == 50
    assert [vote.choice for vote in found.votes] == [None, None]
    market.call("governance.vote", cold, hot, 0, False)
    found = proposal_reads.proposal(market.state, 0, market.height)
    tally, by_hotkey = found.tally, {vote.hotkey: vote for vote in found.votes}
    assert by_hotkey[hot].choice == "nay" and tally.nays_rao == by_hotkey[hot].weight_rao > 0 == tally.ayes_rao
    assert tally.eligible_rao == sum(vote.weight_rao for vote in found.votes)
    assert 3 * tally.needed_turnout_rao >= tally.eligible_rao > 3 * (tally.needed_turnout_rao - 1)
    assert 3 * tally.needed_cancels_rao >= 2 * tally.eligible_rao > 3 * (tally.needed_cancels_rao - 1)
    for index in range(2):
        if proposal_reads.proposal(market.state, 0, market.height).state == "voting":
            market.call("governance.vote", *seat(market, index), 0, True)
    approved = proposal_reads.proposal(market.state, 0, market.height)
    assert approved.state == "approved" and approved.approved_at == market.height and approved.deposit_rao == 0
    assert approved.blocks_left == 86_400 and approved.decides_at == market.height + 86_400
    assert proposal_reads.open_proposals(market.state, market.height) == [approved]
    round_trip(type(approved), approved)
    with pytest.raises(NotFound):
        proposal_reads.proposal(market.state, 1, market.height)


def test_calls_that_fit_nothing_are_shown_by_position(market):
    assert proposal_reads.named(60_000, [1, b"\1"]) == proposal_reads.InnerCall("unknown.60000", {"0": 1, "1": "0x01"})
    for args in ([], [1, 2, 3], [5], [[5]], [[["x", []]]]):
        shown = proposal_reads.named(call_number("keyring.batch"), args)
        assert shown.call == "keyring.batch" and list(shown.args) == [str(place) for place in range(len(args))]


def test_proxies_and_what_they_announced(market):
    real, delegate = market.key("validator 0"), market.key("miner 0")
    assert account_reads.appointed(market.state, real) == account_reads.Proxies([], [], 0)
    market.call("proxies.add", real, delegate, proxies.STAKING, 7)
    market.call("proxies.add", real, delegate, proxies.ANY, 3)
    market.call("proxies.announce", delegate, real, b"\5" * 32)
    found = account_reads.appointed(market.state, real)
    assert [(row.kind, row.delay_blocks) for row in found.proxies] == [("any", 3), ("staking", 7)]
    assert found.proxies[0].calls == [] and "stake.add" in found.proxies[1].calls and found.deposit_rao == market.reserved(real)
    [announced] = found.announcements
    assert (announced.delegate, announced.height, announced.ready_at) == (delegate, market.height, market.height + 3)
    round_trip(type(found), found)


def test_children_wait_then_count_on_both_sides(market):
    cold, hot = seat(market, 0)
    child = market.key("miner 0 hot")
    market.set("childkey_cooldown_tempos", 1)
    market.call("children.set", cold, hot, 1, [[HALF, child]])
    market.call("children.set_take", market.key("miner 0"), child, 1, 500)
    found = account_reads.relations(market.state, hot)
    assert found.children == [] and found.pending[0].ripe_at == market.height + 10
    assert [(row.hotkey, row.share) for row in found.pending[0].children] == [(child, HALF)]
    market.to_next_epoch(1)
    market.to_next_epoch(1)
    found, other = account_reads.relations(market.state, hot), account_reads.relations(market.state, child)
    assert [(r.netuid, r.hotkey, r.share) for r in found.children] == [(1, child, HALF)] and not found.pending
    assert [(r.netuid, r.hotkey, r.share) for r in other.parents] == [(1, hot, HALF)]
    assert [take.netuid for take in other.takes] == [1]
    assert account_reads.subnet_relations(market.state, 1) == [account_reads.Lending(hot, child, HALF)]
    round_trip(type(found), found)
    round_trip(type(other), other)
    with pytest.raises(NotFound):
        account_reads.subnet_relations(market.state, 9)


def test_identities_of_accounts_and_subnets(market):
    cold = market.key("validator 0")
    assert account_reads.identity(market.state, cold) is None and account_reads.subnet_identity(market.state, 1) is None
    market.call("identities.set", cold, ["Ada", "https://a", "counts", b"\1" * 32])
    found = account_reads.identity(market.state, cold)
    assert (found.name, found.url, found.about, found.task) == ("Ada", "https://a", "counts", "")
    assert found.content_hash == b"\1" * 32
    round_trip(type(found), found)
    market.fund(market.key("owner"), market.Q)
    market.call("subnets.set_identity", market.key("owner"), 1, ["Prose", "", "texts", "next-byte", b""])
    assert account_reads.subnet_identity(market.state, 1).task == "next-byte"
    with pytest.raises(NotFound):
        account_reads.subnet_identity(market.state, 70)


def test_swaps_say_when_something_can_be_done(market):
    who = market.key("miner 1")
    assert account_reads.swap(market.state, who, market.height) == account_reads.SwapRecord(None, None, None, None, None)
    market.call("keyring.swap_hotkey", who, market.key("miner 1 hot"), market.key("fresh"), None)
    market.call("keyring.announce_coldkey_swap", who, coldkeys.swap_hash(market.key("new")))
    found = account_reads.swap(market.state, who, market.height)
    assert found.announced_hash == coldkeys.swap_hash(market.key("new")) and found.ready_at == market.height + 36_000
    assert found.changeable_at > found.ready_at and found.hotkey_swapped_at == market.height
    assert found.hotkey_swap_free_at == market.height + 1000
    assert account_reads.swap(market.state, who, market.height + 1000).hotkey_swap_free_at is None
    round_trip(type(found), found)


def test_bonds_with_what_is_on_its_way_back(market):
    who = market.key("miner 2")
    assert account_reads.bond(market.state, who).bonded_rao == 0 and account_reads.bond(market.state, who).seats == []
    market.call("authorities.bond", who, 9)
    market.call("authorities.unbond", who, 4)
    found = account_reads.bond(market.state, who)
    assert (found.bonded_rao, [part.amount_rao for part in found.unbonding], found.suspect_since) == (5, [4], None)
    round_trip(type(found), found)
    assert account_reads.bond(market.state, market.key("authority")).seats == [market.key("session")]


def test_notice_to_a_subnet(market):
    assert account_reads.challenge(market.state, 1) is None
    for name, value in (("subnet_limit", 1), ("network_immunity_period", 0), ("network_min_lock_rao", market.Q)):
        market.set(name, value)
    cold, hot = seat(market, 0)
    market.call("subnets.challenge", cold, hot, 900 * market.Q, "better")
    found = account_reads.challenge(market.state, 1)
    assert (found.coldkey, found.hotkey, found.name) == (cold, hot, "better")
    assert found.price_rao > 0 and found.ends_at == market.height + 86_400
    round_trip(type(found), found)
    with pytest.raises(NotFound):
        account_reads.challenge(market.state, 9)
