"""Weights: set, commit, reveal, forfeit, root votes; checks in order."""

import pytest

from ledger.codec import pack_u16
from ledger.commitments import weights_commitment
from ledger.errors import Rejected
from runtime.modules import children, neurons, stake, subnets, weights
from runtime.modules.weights import WEIGHTS, read_row

SALT = b"\x05" * 32


def row_of(world, uid, netuid=1):
    return read_row(WEIGHTS, world.state, netuid, uid)


def args(netuid, row, *rest):
    return [netuid, pack_u16([uid for uid, _ in row]), pack_u16([value for _, value in row]), *rest]


def validator(world, index=0):
    return world.key(f"validator {index} hot")


def commitment(world, hotkey, row, *, netuid=1, epoch=None, version=0, salt=SALT):
    epoch = world.epoch(netuid) if epoch is None else epoch
    uids, values = [uid for uid, _ in row], [value for _, value in row]
    return weights_commitment(world.genesis_hash, hotkey, netuid, epoch, uids, values, version, salt)


def commit(world, row, index=0, **how):
    hotkey = validator(world, index)
    return world.refused("weights.commit", hotkey, 1, commitment(world, hotkey, row, **how))


def reveal(world, row, index=0, salt=SALT, version=0):
    return world.refused("weights.reveal", validator(world, index), *args(1, row, salt, version))


@pytest.fixture
def plain(market):
    """Commit and reveal is off; a block has passed, so that nobody is too fast."""
    market.set("commit_reveal_enabled", False, 1)
    market.next_block()
    return market


# --- set ---------------------------------------------------------------------------------------------------------


def test_a_row_is_stored_scaled_sorted_and_without_zeros(plain):
    plain.call("weights.set", validator(plain), *args(1, [(4, 10), (2, 5), (3, 0)], 0))
    assert row_of(plain, 0) == [(2, 32768), (4, 65535)]
    row = neurons.neuron(plain.state, 1, 0)
    assert (row.active_at, row.weights_at, row.updated_at) == (1, 1, 1)
    assert plain.named("WeightsSet") == [[1, 0]]


# rule: WGT-1
def test_what_set_refuses_in_order(plain):
    hot, call, good = validator(plain), "weights.set", [(2, 1)]
    assert plain.refused(call, hot, *args(0, good, 0)) == "CanNotSetRootNetworkWeights"
    assert plain.refused(call, hot, 1, pack_u16([2]), pack_u16([]), 0) == "WeightVecNotEqualSize"
    assert plain.refused(call, hot, *args(7, good, 0)) == "SubnetNotExists"
    assert plain.refused(call, hot, *args(1, [(0, 1)] * 6, 0)) == "UidsLengthExceedUidsInSubNet"
    assert plain.refused(call, plain.key("stranger"), *args(1, good, 0)) == "HotKeyNotRegisteredInSubNet"
    plain.set("stake_threshold", 700 * plain.Q)
    assert plain.refused(call, hot, *args(1, good, 0)) == "NotEnoughStakeToSetWeights"
    plain.set("stake_threshold", 0)
    plain.set("weights_version_key", 3, 1)
    assert plain.refused(call, hot, *args(1, good, 2)) == "IncorrectWeightVersionKey"
    plain.set("weights_set_rate_limit", 5, 1)
    assert plain.refused(call, hot, *args(1, [(9, 1)], 3)) == "SettingWeightsTooFast"
    assert plain.refused(call, hot, *args(1, good, 2)) == "IncorrectWeightVersionKey"  # still comes first
    plain.set("weights_set_rate_limit", 1, 1)
    assert plain.refused(call, plain.key("miner 0 hot"), *args(1, [(0, 1)], 3)) == "NeuronNoValidatorPermit"
    assert plain.refused(call, plain.key("miner 0 hot"), *args(1, [(2, 1)], 3)) == ""  # the weight on oneself
    assert plain.refused(call, hot, *args(1, [(2, 1), (2, 2)], 3)) == "DuplicateUids"
    assert plain.refused(call, hot, *args(1, [(5, 1)], 3)) == "UidVecContainInvalidOne"
    plain.set("min_allowed_weights", 3, 1)
    assert plain.refused(call, hot, *args(1, [(2, 1), (3, 2)], 3)) == "WeightVecLengthIsLow"
    plain.set("min_allowed_weights", 1, 1)
    assert plain.refused(call, hot, *args(1, [(2, 0)], 3)) == "InvalidValue"
    plain.set("max_weight_limit", 32768, 1)
    assert plain.refused(call, hot, *args(1, [(2, 3), (3, 2)], 3)) == "MaxWeightExceeded"
    assert plain.refused(call, hot, *args(1, [(2, 2), (3, 2)], 3)) == ""
    assert plain.refused(call, hot, *args(1, [(2, 2), (3, 2)], 3)) == "SettingWeightsTooFast"
    plain.set("commit_reveal_enabled", True, 1)
    assert plain.refused(call, hot, *args(1, [(2, 2), (3, 2)], 3)) == "CommitRevealEnabled"


def test_a_vacant_uid_has_no_weight(plain):
    plain.call("neurons.unregister", plain.key("miner 1"), 1, plain.key("miner 1 hot"))
    assert plain.refused("weights.set", validator(plain), *args(1, [(3, 1)], 0)) == "UidVecContainInvalidOne"


def test_misshapen_rows_are_refused_before_the_call(plain):
    for bad in (b"\1", b"\0" * 8194):
        with pytest.raises(Rejected, match="BadArguments"):
            plain.call("weights.set", validator(plain), 1, bad, bad, 0)


# rule: FEE-3
def test_weight_calls_are_free_within_their_rate_limit(plain):
    hot, row = validator(plain), args(1, [(2, 1)], 0)
    assert plain.is_free("weights.set", hot, *row) and not plain.is_free("weights.set", plain.key("stranger"), *row)
    assert plain.precheck("weights.set", hot, *row) == ""
    plain.call("weights.set", hot, *row)
    assert not plain.is_free("weights.set", hot, *row)
    assert plain.precheck("weights.set", hot, *row) == ""  # in the coming block it is not too fast
    assert not plain.is_free("weights.reveal", hot, *args(1, [(2, 1)], SALT, 0))


# --- commit and reveal -------------------------------------------------------------------------------------------


# rule: WGT-5
def test_reveal_in_the_window_applies_the_row_dated_to_its_commit(market):
    row = [(2, 65535), (3, 30000)]
    market.next_block(3)
    committed_at = market.height
    assert commit(market, row) == ""
    assert market.named("WeightsCommitted")[0][:3] == [1, validator(market), 0]
    assert market.is_free("weights.reveal", validator(market), *args(1, row, SALT, 0))
    assert reveal(market, row) == "RevealTooEarly"
    market.to_next_epoch(1)
    assert market.named("WeightsForfeited") == []
    assert reveal(market, [(2, 65535), (3, 30001)]) == "InvalidRevealCommitHashNotMatch"
    assert reveal(market, row, salt=bytes(32)) == "InvalidRevealCommitHashNotMatch"
    assert reveal(market, row, version=1) == "InvalidRevealCommitHashNotMatch"
    market.next_block(2)
    assert reveal(market, row) == ""
    held = neurons.neuron(market.state, 1, 0)
    assert (held.weights_at, held.updated_at, held.active_at) == (committed_at, committed_at, market.height)
    assert row_of(market, 0) == row
    assert reveal(market, row) == "NoWeightsCommitFound"
    market.to_next_epoch(1)
    assert market.named("WeightsForfeited") == []
    assert not any(market.row(1, 1).trace.forfeited) and market.row(1, 1).trace.raw_weights[0] == row


# rule: WGT-4
def test_a_commit_binds_hotkey_netuid_epoch_and_version(market):
    row = [(2, 1)]
    market.next_block()
    base = commitment(market, validator(market), row)
    assert base != commitment(market, validator(market, 1), row)
    assert base != commitment(market, validator(market), row, netuid=2, epoch=0)
    assert base != commitment(market, validator(market), row, epoch=1)
    assert base != commitment(market, validator(market), row, version=1)
    assert base != commitment(market, validator(market), [(2, 2)])
    market.call("weights.commit", validator(market, 1), 1, base)  # copied from validator 0
    market.to_next_epoch(1)
    assert reveal(market, row, index=1) == "InvalidRevealCommitHashNotMatch"


def test_what_commit_and_reveal_refuse(market):
    row = [(2, 1)]
    assert commit(market, row) == "CommittingWeightsTooFast"  # registered in this block
    market.next_block()
    assert market.refused("weights.commit", validator(market), 0, bytes(32)) == "CanNotSetRootNetworkWeights"
    assert market.refused("weights.commit", validator(market), 7, bytes(32)) == "SubnetNotExists"
    assert market.refused("weights.commit", market.key("stranger"), 1, bytes(32)) == "HotKeyNotRegisteredInSubNet"
    assert market.refused("weights.reveal", validator(market), *args(0, row, SALT, 0)) == "CanNotSetRootNetworkWeights"
    assert reveal(market, row) == "NoWeightsCommitFound"
    assert commit(market, row) == "" and commit(market, row) == "CommittingWeightsTooFast"
    market.set("commit_reveal_enabled", False, 1)
    assert commit(market, row) == reveal(market, row) == "CommitRevealDisabled"


def test_a_reveal_is_checked_like_a_set(market):
    market.next_block()
    for index, row in ((0, [(9, 1)]), (1, [(2, 0)])):
        assert commit(market, row, index) == ""
    market.to_next_epoch(1)
    assert reveal(market, [(9, 1)]) == "UidVecContainInvalidOne"
    assert reveal(market, [(2, 0)], 1) == "InvalidValue"
    market.to_next_epoch(1)
    assert sorted(market.named("WeightsForfeited")) == [[1, 0, 0], [1, 1, 0]]


# rule: WGT-6
def test_a_neuron_that_leaves_makes_nobody_forfeit(market):
    market.next_block()
    assert commit(market, [(2, 1), (3, 3)]) == ""
    market.to_next_epoch(1)
    market.call("neurons.unregister", market.key("miner 1"), 1, market.key("miner 1 hot"))
    assert reveal(market, [(2, 1), (3, 3)]) == ""
    market.to_next_epoch(1)
    assert market.named("WeightsForfeited") == []
    trace = market.row(1, 1).trace
    assert trace.incentive[2] > 0 and trace.incentive[3] == 0  # nobody is there to be paid


# rule: WGT-6
def test_a_neuron_that_comes_makes_no_committed_row_too_short(market):
    market.set("min_allowed_weights", 64, 1)
    market.next_block()
    row = [(uid, 1) for uid in range(5)]
    assert commit(market, row[:4], 1) == commit(market, row) == ""
    market.next_block()
    market.call("neurons.register", market.key("miner 0"), 1, market.key("sixth"), 9 * market.Q)
    market.to_next_epoch(1)
    assert subnets.subnet(market.state, 1).n == 6
    assert reveal(market, row) == "" and reveal(market, row[:4], 1) == "WeightVecLengthIsLow"


# rule: WGT-7
@pytest.mark.parametrize("name, before, after, error", [
    ("weights_version_key", 0, 9, "IncorrectWeightVersionKey"), ("min_allowed_weights", 1, 3, "WeightVecLengthIsLow"),
    ("max_weight_limit", 65535, 30000, "MaxWeightExceeded"),
])
def test_no_change_of_the_owner_makes_a_committed_row_forfeit(market, name, before, after, error):
    market.next_block()
    assert commit(market, [(2, 1), (3, 3)]) == ""
    market.to_next_epoch(1)
    market.set(name, after, 1)
    market.next_block()
    assert commit(market, [(2, 1), (3, 3)]) == "" and reveal(market, [(2, 1), (3, 3)]) == ""
    market.to_next_epoch(1)
    assert market.named("WeightsForfeited") == []
    assert reveal(market, [(2, 1), (3, 3)]) == error, "what was committed afterwards is asked for all"


# rule: WGT-1
def test_a_vacant_uid_leaves_fewer_weights_to_set(plain):
    plain.set("min_allowed_weights", 64, 1)
    plain.call("neurons.unregister", plain.key("miner 1"), 1, plain.key("miner 1 hot"))
    row = [(uid, 1) for uid in (0, 1, 2, 4)]
    assert plain.refused("weights.set", validator(plain), *args(1, row[1:], 0)) == "WeightVecLengthIsLow"
    plain.call("weights.set", validator(plain), *args(1, row, 0))


# rule: WGT-6
def test_only_the_last_commit_of_an_epoch_counts(market):
    market.next_block()
    assert commit(market, [(2, 1)]) == ""
    market.next_block()
    assert commit(market, [(3, 1)]) == ""
    market.to_next_epoch(1)
    assert reveal(market, [(2, 1)]) == "InvalidRevealCommitHashNotMatch"
    assert reveal(market, [(3, 1)]) == ""
    assert row_of(market, 0) == [(3, 65535)]


# rule: WGT-7
def test_who_does_not_reveal_forfeits_the_epoch_but_keeps_the_row(market):
    market.next_block()
    for index in (0, 1):
        assert commit(market, [(2, 1)], index) == ""
    market.to_next_epoch(1)
    for index in (0, 1):
        assert reveal(market, [(2, 1)], index) == ""
        market.next_block()
        assert commit(market, [(3, 1)], index) == ""
    market.to_next_epoch(1)
    assert reveal(market, [(3, 1)], 0) == ""
    market.to_next_epoch(1)  # validator 1 has not revealed epoch 1
    assert market.named("WeightsForfeited") == [[1, 1, 1]]
    trace = market.row(1, 2).trace
    assert trace.forfeited == [False, True, False, False, False]
    assert trace.raw_weights[1] == [] and trace.dividends[1] == 0 and trace.validator_rao[1] == 0
    assert trace.active_stake_rao[1] and trace.muted_rao == trace.active_stake_rao[1]
    assert row_of(market, 1) == [(2, 65535)]
    market.to_next_epoch(1)
    assert market.row(1, 3).trace.forfeited == [False] * 5
    assert market.row(1, 3).trace.raw_weights[1] == [(2, 65535)]


# rule: WGT-7
def test_a_majority_that_forfeits_stops_all_pay_and_the_pots_are_carried(market):
    market.next_block()
    assert commit(market, [(2, 1)]) == ""
    market.to_next_epoch(1)
    market.to_next_epoch(1)  # validator 0 has 60 % and did not reveal
    trace, paid = market.row(1, 1).trace, market.row(1, 1).paid
    assert not trace.agreed and paid.total_rao() == 0
    assert sorted(pot for _, pot, _ in market.named("PotCarried")) == ["owner", "root", "validator"]
    assert [reason for reason, _ in market.named("Recycled")] == ["server pot without receiver"]  # carried before
    market.to_next_epoch(1)
    assert market.row(1, 2).paid.total_rao() > 0


# rule: WGT-6
def test_a_longer_reveal_period_and_its_limit(market):
    market.set("immunity_period", 200, 1)
    market.set("reveal_period_epochs", 12, 1)
    market.next_block()
    for epoch in range(10):
        assert commit(market, [(2, epoch + 1), (3, 1)]) == ""
        market.to_next_epoch(1)
    assert commit(market, [(2, 1)]) == "TooManyUnrevealedCommits"
    assert reveal(market, [(2, 1), (3, 1)]) == "RevealTooEarly"
    market.set("reveal_period_epochs", 10, 1)
    assert reveal(market, [(2, 1), (3, 1)]) == ""
    assert len(weights.commits_of(market.state, 1, validator(market))) == 9
    market.set("reveal_period_epochs", 2, 1)  # shortened: what is past its window can only expire
    assert reveal(market, [(2, 2), (3, 1)]) == "ExpiredWeightCommit"
    market.to_next_epoch(1)
    assert [epoch for *_, epoch in market.named("WeightsForfeited")] == [8]
    assert [entry[0] for entry in weights.commits_of(market.state, 1, validator(market))] == [9]


def test_switching_off_drops_commits_without_forfeit(market):
    market.next_block()
    assert commit(market, [(2, 1)]) == ""
    market.set("commit_reveal_enabled", False, 1)
    market.to_next_epoch(1)
    market.to_next_epoch(1)
    assert market.named("WeightsForfeited") == [] and weights.commits_of(market.state, 1, validator(market)) == []


def test_the_pool_admits_a_reveal_for_the_block_that_opens_its_window(market):
    market.next_block()
    assert commit(market, [(2, 1)]) == ""
    row = args(1, [(2, 1)], SALT, 0)
    while not subnets.epoch_is_due(market.state, 1, market.height + 1):
        assert market.precheck("weights.reveal", validator(market), *row) == "RevealTooEarly"
        market.next_block()
    assert market.precheck("weights.reveal", validator(market), *row) == ""
    market.next_block()
    assert reveal(market, [(2, 1)]) == ""


def test_rows_and_commits_go_with_their_neuron(market):
    market.next_block()
    assert commit(market, [(2, 1)]) == ""
    market.to_next_epoch(1)
    assert reveal(market, [(2, 1)]) == ""
    market.next_block()
    assert commit(market, [(2, 1)]) == ""
    market.to_next_epoch(1)
    assert weights.BONDS.get(market.state, 1, 0)
    market.call("neurons.unregister", market.key("validator 0"), 1, validator(market))
    assert row_of(market, 0) == [] and weights.BONDS.get(market.state, 1, 0) is None
    assert weights.commits_of(market.state, 1, validator(market)) == []
    market.to_next_epoch(1)
    assert market.named("WeightsForfeited") == []


# --- root votes --------------------------------------------------------------------------------------------------


def root_args(votes):
    return pack_u16([netuid for netuid, _ in votes]), pack_u16([value for _, value in votes])


# rule: WGT-8
def test_root_votes(market):
    hot, call = validator(market), "weights.set_root"
    assert market.refused(call, hot, *root_args([(1, 1)])) == "SettingWeightsTooFast"
    market.next_block()
    assert market.refused(call, market.key("miner 0 hot"), *root_args([(1, 1)])) == "NotRootSubnet"
    assert market.refused(call, hot, pack_u16([1]), pack_u16([])) == "WeightVecNotEqualSize"
    assert market.refused(call, hot, *root_args([(1, 1), (1, 1)])) == "DuplicateUids"
    assert market.refused(call, hot, *root_args([(0, 1)])) == "UidVecContainInvalidOne"
    assert market.refused(call, hot, *root_args([(5, 1)])) == "UidVecContainInvalidOne"
    assert market.refused(call, hot, *root_args([(1, 0)])) == "InvalidValue"
    assert market.is_free(call, hot, *root_args([(1, 7)])) and market.precheck(call, hot, *root_args([(1, 7)])) == ""
    market.call(call, hot, *root_args([(1, 7)]))
    assert row_of(market, 0, 0) == [(1, 65535)] and market.named("RootWeightsSet") == [[hot]]
    assert market.refused(call, hot, *root_args([(1, 7)])) == "SettingWeightsTooFast"


def test_voting_stake_has_an_own_and_a_weighted_root_part(market):
    own, root = children.voting_stake_parts(market.state, 1, validator(market))
    assert own == 600 * market.Q and root == 60 * market.Q * ((18 << 64) // 100) >> 64
    stake.genesis_stake(market.context, market.key("miner 0 hot"), 0, market.key("miner 0"), 100)
    assert children.voting_stake_parts(market.state, 1, market.key("miner 0 hot")) == (0, 17)
