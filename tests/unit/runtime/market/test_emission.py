"""Emission: halving, shares, pots, schedule of epochs, payouts, root dividends, root votes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import pack_u16
from runtime import emission, invariants
from runtime.emission import ROLES, PotRow
from runtime.fixed import ONE
from runtime.modules import accounts, hotkeys, neurons, pools, stake, subnets, weights
from runtime.rootvotes import equal_shares, voted_shares
from runtime.weightcheck import prepared_row


def vote(world, row, *, netuid=1, names=("validator 0 hot", "validator 1 hot")):
    """Applied weights of validators, as after a reveal."""
    for name in names:
        uid = world.uid(netuid, world.key(name))
        weights.write_row(weights.WEIGHTS, world.state, netuid, uid, prepared_row(*zip(*row)) if row else [])
        held = neurons.neuron(world.state, netuid, uid)
        applied = neurons.Neuron(held.hotkey, held.registered_at, world.height, world.height, world.height)
        neurons.NEURONS.put(world.state, netuid, uid, value=applied)


def pots(world, netuid=1):
    return emission.pots(world.state, netuid)


# --- minting -----------------------------------------------------------------------------------------------------


# rule: EMI-3
def test_each_block_fills_the_four_pots(market):
    market.next_block()
    owner, server, validator, root = pots(market).amounts_rao
    assert owner == market.Q * 11796 // 65535
    assert server == (market.Q - owner) * 32768 // 65535
    assert validator + root == market.Q - owner - server
    part = (validator + root) * 18 * 100 // (18 * 100 + 100 * 1000)  # .18 * 100 Q of root stake, 1000 Q in the subnet
    assert abs(root - part) <= 1
    assert market.context.minted_rao == market.Q
    assert invariants.holdings_rao(market.state)["pot"] == market.Q


def test_parameters_of_the_split(market):
    market.set("owner_cut_enabled", False, 1)
    market.set("miner_share", 16384, 1)
    market.next_block()
    owner, server, *_ = pots(market).amounts_rao
    assert (owner, server) == (0, market.Q * 16384 // 65535)


# rule: EMI-1
def test_emission_halves_with_the_issuance_and_never_exceeds_the_cap(market):
    market.set("supply_cap", 4000 * market.Q)
    issued = accounts.issuance(market.state)
    assert emission.block_emission(market.state) == (0 if issued >= 4000 * market.Q else market.Q)
    market.set("supply_cap", issued * 2)
    assert emission.block_emission(market.state) == market.Q // 2
    market.set("supply_cap", issued)
    market.next_block()
    assert market.context.minted_rao == 0 and accounts.issuance(market.state) == issued


# rule: EMI-2
def test_nothing_is_minted_without_a_started_subnet(make_empty):
    world = make_empty()
    world.set("initial_block_emission", world.Q)
    row = subnets.subnet(world.state, 1)
    subnets.SUBNETS.put(world.state, 1, value=subnets.Subnet(**{**vars(row), "started_at": None}))
    world.next_block()
    assert world.context.minted_rao == 0 and emission.emission_shares(world.state) == {}


# --- schedule ----------------------------------------------------------------------------------------------------


def many(world, count, tempo=10):
    for netuid in range(2, count + 2):
        subnets.genesis_create(
            world.context, netuid, f"s{netuid}", world.key("owner"), world.key("owner hot"),
            {"tempo": tempo, "immunity_period": 30},
        )


# rule: SCH-3
def test_epochs_beyond_the_limit_wait_for_the_next_block(market):
    many(market, 4)
    market.set("max_epochs_per_block", 2)
    for netuid in range(1, 6):
        row = subnets.tempo(market.state, netuid)
        subnets.TEMPOS.put(market.state, netuid, value=subnets.Tempo(**{**vars(row), "last_epoch_block": 0}))
    market.next_block(10)
    ran = [[row[0] for row in market.named("EpochRan")]]
    assert market.named("EpochDeferred") == [[netuid, 11] for netuid in (3, 4, 5)]
    assert subnets.tempo(market.state, 3).pending_at == 11
    for _ in range(2):
        market.next_block()
        ran.append([row[0] for row in market.named("EpochRan")])
    assert ran == [[1, 2], [3, 4], [5]]
    assert [subnets.tempo(market.state, netuid).last_epoch_block for netuid in range(1, 6)] == [10, 10, 11, 11, 12]
    assert all(subnets.tempo(market.state, netuid).pending_at is None for netuid in range(1, 6))


# rule: NET-10
def test_epoch_state_after_an_epoch(market):
    market.next_block(10)
    assert vars(subnets.tempo(market.state, 1)) == {
        "last_epoch_block": 10, "pending_at": None, "epoch_index": 1, "last_step_block": 10,
    }
    assert subnets.next_epoch(market.state, 1, market.height) == subnets.NextEpoch(1, 10, 10)
    market.next_block(9)
    assert subnets.next_epoch(market.state, 1, market.height).blocks_left == 1
    market.next_block()
    assert market.epoch(1) == 2


# --- payouts -----------------------------------------------------------------------------------------------------


# rule: EMI-5
def test_a_payout_empties_the_pots_and_everybody_gets_the_part_of_the_trace(market):
    market.next_block()
    vote(market, [(2, 3), (3, 1)])
    market.to_next_epoch(1)
    row = market.row(1, 0)
    incentive, dividends = row.trace.incentive, row.trace.dividends
    pot = pots(market).amounts_rao
    assert pot == [0, 0, 0, 0] and not any(pots(market).carried)
    minted = 10 * market.Q
    assert row.paid.total_rao() == minted
    assert sum(row.paid.server_rao) == row.trace.emission_rao - sum(row.paid.validator_rao) - sum(row.paid.root_rao)
    assert row.paid.server_rao[2] == pytest.approx(sum(row.paid.server_rao) * incentive[2] / ONE, abs=2)
    assert row.paid.validator_rao[0] == pytest.approx(sum(row.paid.validator_rao) * dividends[0] / ONE, abs=2)
    assert incentive[0] == incentive[4] == 0 and row.paid.server_rao[4] == 0
    assert pools.position(market.state, 1, market.key("miner 0 hot"), market.key("miner 0"))[0] in (
        row.paid.server_rao[2], row.paid.server_rao[2] - 1,
    )
    assert pools.pool(market.state, 1, market.key("owner hot")).value_rao == row.paid.owner_rao > 0


# rule: EMI-5
def test_dividends_pay_the_take_to_the_owner_and_the_rest_to_all(market):
    stake.genesis_stake(market.context, market.key("validator 0 hot"), 1, market.key("nominator"), 600 * market.Q)
    market.next_block()
    before = {
        name: pools.position(market.state, 1, market.key("validator 0 hot"), market.key(name))[0]
        for name in ("validator 0", "nominator")
    }
    market.to_next_epoch(1)
    dividend = market.row(1, 0).paid.validator_rao[0]
    cut = dividend * 11796 // 65535
    got = {
        name: pools.position(market.state, 1, market.key("validator 0 hot"), market.key(name))[0] - amount
        for name, amount in before.items()
    }
    assert got["nominator"] == pytest.approx((dividend - cut) / 2, abs=3)
    assert got["validator 0"] == pytest.approx((dividend - cut) / 2 + cut, abs=3)


# rule: EMI-7
def test_unpaid_server_pot_is_carried_once_then_recycled(market):
    market.to_next_epoch(1)
    server = pots(market).amounts_rao[1]
    assert pots(market).carried == [False, True, False, False]
    assert market.named("PotCarried") == [[1, "server", server]]
    market.to_next_epoch(1)
    assert ["server pot without receiver", 2 * server] in market.named("Recycled")
    assert pots(market).amounts_rao[1] == 0 and not any(pots(market).carried)
    market.to_next_epoch(1)
    assert market.named("PotCarried") == [[1, "server", server]]
    vote(market, [(2, 1)])
    market.to_next_epoch(1)
    assert sum(market.row(1, 3).paid.server_rao) == 2 * server  # the carried part is paid with the new one


# rule: EMI-6
def test_what_the_owners_miners_earn_is_recycled_and_lowers_the_emission(market):
    many(market, 1)
    neurons.genesis_register(market.context, 1, market.key("owner hot"), market.key("owner"))
    market.next_block()
    vote(market, [(2, 3), (5, 1)])
    market.to_next_epoch(1)
    row = market.row(1, 0)
    held = row.paid.withheld_rao[5]
    assert held > 0 and row.paid.server_rao[5] == 0 and ["owner's miners", held] in market.named("Recycled")
    assert pots(market).withheld_q32 == pytest.approx(ONE / 4, rel=1e-6)
    scores = neurons.scores(market.state, 1)
    assert int.from_bytes(scores.score[40:48], "little") > 0  # withheld pay counts as pay in the pruning score
    assert int.from_bytes(scores.emission_rao[40:48], "little") == 0
    market.next_block()
    assert sum(pots(market).amounts_rao) == pytest.approx(market.Q * .75 / 1.75, rel=1e-6)


# rule: EMI-7
def test_a_subnet_without_validators_carries_then_recycles_everything_but_the_owners_cut(empty):
    empty.set("initial_block_emission", empty.Q)
    empty.to_next_epoch(1)
    assert pots(empty).carried == [False, True, True, False]  # no stake at all: root has no part
    assert pools.pool(empty.state, 1, empty.key("owner hot")).value_rao > 0
    empty.to_next_epoch(1)
    assert pots(empty).amounts_rao == [0, 0, 0, 0]


# rule: REG-9
def test_pruning_score_follows_the_part_of_the_pot(market):
    market.next_block()
    vote(market, [(2, 1)])
    market.to_next_epoch(1)
    row, scores = market.row(1, 0), neurons.scores(market.state, 1)
    pot = sum(row.paid.server_rao) + sum(row.paid.validator_rao) + sum(row.paid.root_rao)
    score = int.from_bytes(scores.score[16:24], "little")
    assert score == ((row.paid.server_rao[2] * 10_000 << 16) // pot) // 10
    market.set("initial_block_emission", 0)
    market.to_next_epoch(1)  # pays nobody
    assert int.from_bytes(neurons.scores(market.state, 1).score[16:24], "little") == score


# --- root --------------------------------------------------------------------------------------------------------


# rule: EMI-8
def test_root_dividends_are_paid_at_roots_epoch_to_root_stake(market):
    market.set("tempo", 14, 0)
    market.to_next_epoch(1)
    due = {hotkey: amount for (hotkey,), amount in emission.ROOT_DUE.items(market.state)}
    assert due[market.key("validator 0 hot")] == market.row(1, 0).paid.root_rao[0] > 0
    value = pools.pool(market.state, 0, market.key("validator 0 hot")).value_rao
    market.to_next_epoch(0)
    assert not list(emission.ROOT_DUE.items(market.state))
    paid = pools.pool(market.state, 0, market.key("validator 0 hot")).value_rao - value
    assert paid == due[market.key("validator 0 hot")]
    assert [market.key("validator 0 hot"), paid] in market.named("RootDividendPaid")


def test_root_dividends_of_a_hotkey_whose_stake_left_are_recycled(market):
    market.set("tempo", 14, 0)
    market.to_next_epoch(1)
    due = emission.ROOT_DUE.get(market.state, market.key("validator 0 hot"))
    market.call("stake.remove", market.key("validator 0"), market.key("validator 0 hot"), 0, None)
    market.to_next_epoch(0)
    assert ["root dividend without stake", due] in market.named("Recycled")


def test_classic_bonds_that_outlive_their_stake_pay_the_take_only(market):
    market.set("yuma3_on", False, 1)
    market.next_block()
    vote(market, [(2, 1), (3, 1)])
    market.to_next_epoch(1)
    assert market.row(1, market.epoch(1) - 1).paid.validator_rao[1] > 0
    for netuid in (0, 1):
        market.call("stake.remove", market.key("validator 1"), market.key("validator 1 hot"), netuid, None)
    market.to_next_epoch(1)  # the stake it had rests in the averages until here
    due = market.row(1, market.epoch(1) - 1).paid.validator_rao[1]
    cut = due * 11796 // 65535
    assert due > 0 and ["dividend without stake", due - cut] in market.named("Recycled")
    assert pools.pool(market.state, 1, market.key("validator 1 hot")).value_rao == cut


def root_vote(world, index, votes):
    packed = [pack_u16([n for n, _ in votes]), pack_u16([v for _, v in votes])]
    world.call("weights.set_root", world.key(f"validator {index} hot"), *packed)


def shares(world):
    return emission.emission_shares(world.state)


def test_shares_are_equal_without_votes_and_follow_them_slowly(market):
    many(market, 1)
    market.next_block()
    assert shares(market) == {1: ONE // 2, 2: ONE // 2}
    for index in (0, 1):
        root_vote(market, index, [(1, 3), (2, 1)])
    market.to_next_epoch(0)
    # 10 blocks since genesis of a window of 20: half of the way from 1/2 to 3/4
    assert shares(market)[1] == pytest.approx(ONE * 5 / 8, rel=1e-5) and sum(shares(market).values()) == ONE
    market.to_next_epoch(0)
    assert shares(market)[1] == pytest.approx(ONE * 11 / 16, rel=1e-5)
    market.next_block()
    assert sum(pots(market, 1).amounts_rao) == pytest.approx(market.Q * 11 / 16, rel=1e-5)


def test_a_subnet_that_starts_later_has_no_share_until_it_is_voted_for(market):
    market.next_block()
    root_vote(market, 0, [(1, 1)])
    market.to_next_epoch(0)
    many(market, 1)
    assert shares(market) == {1: ONE, 2: 0}
    for index in (0, 1):
        root_vote(market, index, [(2, 1)])
    market.to_next_epoch(0)
    assert shares(market)[2] == pytest.approx(ONE / 2, rel=1e-5)


class TestVotedShares:
    """3.6 as a function."""

    KAPPA = 43690

    def step(self, old, votes, blocks=1, window=1, netuids=(1, 2, 3, 4)):
        return voted_shares(old, netuids, votes, kappa=self.KAPPA, blocks=blocks, window_blocks=window)

    # rule: EMI-10
    def test_no_votes_split_equally(self):
        assert self.step({1: ONE}, [([], 5), ([(9, 1)], 5)]) == equal_shares([1, 2, 3, 4])
        assert self.step({}, [], netuids=()) == {}

    # rule: EMI-9
    def test_a_minority_cannot_move_emission_to_its_own_subnet(self):
        old = equal_shares([1, 2, 3, 4])
        honest = [(n, 1) for n in (1, 2, 3)]
        after = self.step(old, [([(4, 1)], 60), (honest, 40)])
        assert after[4] == pytest.approx(ONE / 4, rel=1e-5)  # all was clipped: the old shares stay
        for _ in range(50):
            after = self.step(after, [([(4, 1)], 60), (honest, 40)])
        assert after[4] == pytest.approx(ONE / 4, rel=1e-5)

    # rule: EMI-9
    def test_two_thirds_are_a_consensus(self):
        old = equal_shares([1, 2, 3, 4])
        after = self.step(old, [([(4, 1)], 2), ([(1, 1)], 1)])
        assert after[4] == pytest.approx(ONE * (2 / 3 + 1 / 3 / 4), rel=1e-5)
        barely_not = self.step(old, [([(4, 1)], 1999), ([(1, 1)], 1001)])
        assert barely_not[4] == ONE // 4

    def test_members_without_a_vote_count_as_stake(self):
        old = equal_shares([1, 2, 3, 4])
        assert self.step(old, [([(4, 1)], 60), ([], 40)]) == old

    def test_votes_without_stake_change_nothing(self):
        assert self.step({1: ONE}, [([(4, 1)], 0)]) == {1: ONE, 2: 0, 3: 0, 4: 0}

    # rule: EMI-10
    def test_what_a_dissolved_subnet_had_goes_to_the_others_pro_rata(self):
        old = {1: ONE // 2, 2: ONE // 4, 3: ONE // 4}
        after = self.step(old, [([(1, 1)], 1), ([(2, 1)], 1), ([(3, 1)], 1)], netuids=(1, 2))
        assert after[1] == pytest.approx(ONE * 2 / 3, rel=1e-6) and sum(after.values()) == ONE

    # rule: EMI-9
    @given(
        st.lists(
            st.tuples(st.lists(st.tuples(st.integers(1, 6), st.integers(1, 65535)), max_size=4), st.integers(0, 10**16)),
            max_size=6,
        ),
        st.lists(st.integers(0, 100), min_size=4, max_size=4), st.integers(0, 400), st.integers(1, 400),
    )
    def test_shares_always_sum_to_one(self, votes, old, blocks, window):
        votes = [(sorted(dict(row).items()), stake) for row, stake in votes]
        total = sum(old)
        start = {n: value * ONE // total for n, value in zip((1, 2, 3, 4), old)} if total else {}
        after = self.step(start, votes, blocks, window)
        assert sum(after.values()) == ONE and min(after.values()) >= 0


# --- properties --------------------------------------------------------------------------------------------------

ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 65535)), max_size=5)


# rule: EMI-5
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 10**15), min_size=4, max_size=4), ROWS, ROWS, st.lists(st.integers(0, 3), max_size=2),
    st.booleans(),
)
def test_what_leaves_the_pots_is_paid_or_recycled_to_the_last_unit(make_market, amounts, first, second, carried, owns):
    world = make_market()
    world.set("initial_block_emission", 0)
    owner = "owner" if owns else "somebody"
    hotkeys.associate(world.context, world.key("extra hot"), world.key(owner))
    neurons.genesis_register(world.context, 1, world.key("extra hot"), world.key(owner))
    world.next_block()
    vote(world, sorted(dict(first).items()), names=("validator 0 hot",))
    vote(world, sorted(dict(second).items()), names=("validator 1 hot",))
    world.next_block(8)
    accounts.mint(world.context, sum(amounts), "pot")
    flags = [role in carried for role in range(4)]
    emission.POTS.put(world.state, 1, value=PotRow(amounts, flags, 0))
    before = invariants.holdings_rao(world.state)
    world.next_block()
    paid, after = world.row(1, 0).paid, invariants.holdings_rao(world.state)
    left = emission.pots(world.state, 1)
    for role, pot in enumerate(amounts):
        assert left.amounts_rao[role] in (0, pot) and left.carried[role] == (left.amounts_rao[role] > 0), ROLES[role]
    recycled = world.context.recycled_rao
    assert sum(amounts) - sum(left.amounts_rao) == paid.total_rao() + recycled
    assert after["stake"] + after.get("root_due", 0) - before["stake"] - before.get("root_due", 0) == paid.total_rao()
    for values, pot in ((paid.server_rao, amounts[1]), (paid.validator_rao, amounts[2]), (paid.root_rao, amounts[3])):
        assert sum(values) + (sum(paid.withheld_rao) if values is paid.server_rao else 0) in (0, pot)
