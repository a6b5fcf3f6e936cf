"""Proposals of root seats: weights and their cap, majorities, turnout, delays, cancellation, deposits, refusals."""

import pytest

from runtime import params
from runtime.dispatch import call_number
from runtime.modules import neurons, proposals, stake
from runtime.modules.proposals import AYE, CANCEL, NAY

PERIOD, DELAY = 8, 3


def seat(index):
    return f"validator {index}", f"validator {index} hot"


@pytest.fixture
def council(market):
    """Five root seats with 60, 40, 50, 50 and 300 Q: the cap is 50 Q, all together may vote with 240 Q."""
    for index, amount in ((2, 50), (3, 50), (4, 300)):
        cold, hot = (market.key(name) for name in seat(index))
        neurons.genesis_register(market.context, 0, hot, cold)
        stake.genesis_stake(market.context, hot, 0, cold, amount * market.Q)
        market.fund(cold, 100 * market.Q)
    for name, value in (("voting_period", PERIOD), ("enactment_delay", DELAY), ("root_kappa", 43690)):
        market.set(name, value)
    return market


def keys(world, index):
    return tuple(world.key(name) for name in seat(index))


def inner(name="governance.set_global_param", *args):
    return [call_number(name), list(args) or ["fee_base_rao", 5]]


def propose(world, index=0, call=None):
    cold, hot = keys(world, index)
    number = proposals.PROPOSAL_COUNT.get(world.state) or 0
    world.call("governance.propose", cold, hot, call or inner())
    return number


def cast(world, index, number, aye=True):
    cold, hot = keys(world, index)
    world.call("governance.vote", cold, hot, number, aye)


# rule: GOV-2
def test_one_seat_counts_for_a_tenth_at_most(council):
    weights = proposals.seat_weights(council.state)
    assert [weights[keys(council, index)[1]] // council.Q for index in range(5)] == [50, 40, 50, 50, 50]
    assert proposals.count(council.state, 0).eligible_rao == 240 * council.Q


# rule: GOV-3
def test_a_majority_approves_at_once_and_the_delay_enacts(council):
    number = propose(council)
    deposit = params.get(council.state, "proposal_deposit_rao")
    assert council.reserved(keys(council, 0)[0]) == deposit > 0
    cast(council, 0, number)
    cast(council, 2, number)
    assert not council.named("ProposalApproved")  # 100 of 240
    cast(council, 1, number)
    assert council.named("ProposalApproved") == [[number, 140 * council.Q, 0, 240 * council.Q, council.height + DELAY]]
    assert council.reserved(keys(council, 0)[0]) == 0
    assert council.refused("governance.vote", *keys(council, 3), number, True) == "VoteClosed"
    council.next_block(DELAY - 1)
    proposals.decide(council.context)
    assert params.get(council.state, "fee_base_rao") != 5
    council.next_block()
    proposals.decide(council.context)
    assert params.get(council.state, "fee_base_rao") == 5
    assert council.named("ProposalExecuted") == [[number, call_number("governance.set_global_param"), ""]]
    assert not list(proposals.proposals(council.state)) and not list(proposals.VOTES.items(council.state))
    council.next_block()


# rule: GOV-3
@pytest.mark.parametrize(("ayes", "nays", "carried"), [
    ([0, 2], [], True), ([1], [], False), ([0], [3], False), ([0, 1], [2], True), ([], [], False), ([], [0, 1, 2, 3, 4], False),
])
def test_at_the_end_more_ayes_than_nays_and_a_third_of_the_weight_decide(council, ayes, nays, carried):
    number, cold = propose(council), keys(council, 0)[0]
    for index in ayes:
        cast(council, index, number)
    for index in nays:
        cast(council, index, number, aye=False)
    issued = council.context.recycled_rao
    council.next_block(PERIOD)
    proposals.decide(council.context)
    assert bool(council.named("ProposalApproved")) == carried
    assert bool(council.named("ProposalRejected")) != carried
    assert council.reserved(cold) == 0
    assert (council.context.recycled_rao > issued) != carried  # a rejected proposal costs its deposit
    council.next_block()


def test_a_vote_can_be_changed_but_not_repeated(council):
    number = propose(council)
    cast(council, 0, number)
    assert council.refused("governance.vote", *keys(council, 0), number, True) == "DuplicateVote"
    cast(council, 0, number, aye=False)
    counted = proposals.count(council.state, number)
    assert (counted.ayes_rao, counted.nays_rao) == (0, 50 * council.Q)
    assert [row[2] for row in council.named("Voted")] == [AYE, NAY]


# rule: GOV-2
def test_stake_that_came_today_has_no_vote(council):
    cold, hot = keys(council, 1)
    council.call("stake.add", cold, hot, 0, 100 * council.Q)
    assert proposals.seat_weights(council.state)[hot] == 40 * council.Q


# rule: GOV-4
def test_two_thirds_cancel_even_what_is_approved(council):
    number = propose(council)
    for index in (0, 1, 2):
        cast(council, index, number)
    for index in (1, 2, 3):
        council.call("governance.cancel", *keys(council, index), number)
    assert not council.named("ProposalCancelled")  # 140 of 240
    council.call("governance.cancel", *keys(council, 4), number)
    assert council.named("ProposalCancelled") == [[number, 190 * council.Q, 240 * council.Q]]
    council.next_block(DELAY)
    proposals.decide(council.context)
    assert params.get(council.state, "fee_base_rao") != 5
    assert council.refused("governance.cancel", *keys(council, 0), number) == "UnknownProposal"
    assert CANCEL not in dict(proposals.VOTES.items(council.state)).values()


# rule: GOV-5
def test_an_open_vote_that_is_cancelled_returns_the_deposit(council):
    number = propose(council)
    for index in (1, 2, 3, 4):
        council.call("governance.cancel", *keys(council, index), number)
    assert council.named("ProposalCancelled") and council.reserved(keys(council, 0)[0]) == 0
    council.next_block()


# rule: GOV-5
def test_a_call_that_fails_when_it_is_enacted_leaves_its_event(council):
    number = propose(council, call=inner("governance.set_global_param", "fee_base_rao", -1))
    for index in (0, 1, 2):
        cast(council, index, number)
    council.next_block(DELAY)
    proposals.decide(council.context)
    assert council.named("ProposalExecuted")[0][2] == "InvalidValue"
    council.next_block()


def test_a_batch_of_root_calls_can_be_proposed(council):
    calls = [inner(), inner("governance.set_subnet_param", 1, "kappa", 40000)]
    number = propose(council, call=[call_number("keyring.batch"), [calls]])
    for index in (0, 1, 2):
        cast(council, index, number)
    council.next_block(DELAY)
    proposals.decide(council.context)
    assert params.get(council.state, "fee_base_rao") == 5 and params.get(council.state, "kappa", 1) == 40000


def test_refusals(council):
    cold, hot = keys(council, 0)
    transfer = [call_number("accounts.transfer"), [hot, 1, True]]
    assert council.refused("governance.propose", cold, hot, transfer) == "NotProposable"
    batch = [call_number("keyring.batch"), [[inner(), transfer]]]
    assert council.refused("governance.propose", cold, hot, batch) == "NotProposable"
    assert council.refused("governance.propose", cold, hot, [call_number("governance.sudo"), [inner()]]) == "NotProposable"
    assert council.refused("governance.propose", cold, hot, [9999, []]) == "UnknownCall"
    assert council.refused("governance.propose", keys(council, 1)[0], hot, inner()) == "NotMember"
    assert council.refused("governance.propose", cold, council.key("miner 0 hot"), inner()) == "NotMember"
    assert council.refused("governance.vote", cold, hot, 7, True) == "UnknownProposal"
    number = propose(council)
    assert council.refused("governance.vote", council.key("miner 0"), council.key("miner 0 hot"), number, True) == "NotMember"
    assert council.refused("governance.cancel", council.key("miner 0"), hot, number) == "NotMember"
    council.set("proposal_deposit_rao", 10**4 * council.Q)
    assert council.refused("governance.propose", cold, hot, inner()) == "NotEnoughBalance"
    council.set("proposal_deposit_rao", 0)
    for _ in range(proposals.MAX_OPEN - 1):
        propose(council)
    assert council.refused("governance.propose", cold, hot, inner()) == "TooManyProposals"
    council.next_block()


def test_a_seat_that_is_lost_loses_its_vote(council):
    number = propose(council)
    cast(council, 4, number)
    uid = council.uid(0, keys(council, 4)[1])
    neurons.remove(council.context, 0, uid)
    assert proposals.count(council.state, number).ayes_rao == 0
    cold, hot = keys(council, 0)
    assert params.get(council.state, "voting_period") == PERIOD
    council.call("governance.vote", cold, hot, number, True)
