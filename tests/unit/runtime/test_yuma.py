"""The epoch: literal numbers, each rule on its own, and properties that hold for every input."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime import yuma, yuma_bonds
from runtime.fixed import ONE, from_u16
from runtime.rows import Row
from runtime.trace import EpochInputs, EpochParams, EpochTrace

E12 = 10**12
PEER = EpochParams(yuma3=False, permit_twice=False, exact_payout=False)
ROWS: list[Row] = [[(3, 65535), (4, 32768)], [(3, 32768), (4, 65535)], [(4, 65535)], [], []]


def inputs(stake: list[int], weights: list[Row], **given_: Any) -> EpochInputs:
    """A subnet in block 200: the validators are the uids with stake, weights were set in block 100."""
    n = len(stake)
    values: dict[str, Any] = {
        "block": 200, "bonds_from": 90, "emission_rao": E12, "stake": stake, "permit": [amount > 0 for amount in stake],
        "registered_at": [0] * n, "active_at": [100] * n, "weights_at": [100] * n, "weights": weights,
        "bonds": [[] for _ in range(n)], **given_,
    }
    return EpochInputs(**values)


def five(**given_: Any) -> EpochInputs:
    return inputs([600 * 10**9, 300 * 10**9, 100 * 10**9, 0, 0], ROWS, **given_)


# --- literal numbers


# rule: EPO-7
def test_classic_epoch() -> None:
    trace = yuma.epoch(five(), EpochParams(yuma3=False))
    assert trace.stake_share[:3] == [2576980377, 1288490188, 429496729]
    assert trace.weights[0] == [(3, 2863296966), (4, 1431670329)]
    assert trace.consensus == [0, 0, 0, 2863296966, 1431670329]
    scores = trace.scores_u16()
    assert scores["consensus"][3:] == [43689, 21845] and scores["validator_trust"][:3] == [65534, 43690, 21845]
    assert trace.incentive == [0, 0, 0, 2576967795, 1717999500] and scores["incentive"][3:] == [39320, 26214]
    assert scores["trust"][3:] == [65535, 43690]
    assert trace.dividends == [2748773341, 1202594754, 343599200, 0, 0]
    assert scores["dividends"][:3] == [41942, 18349, 5242]
    assert trace.server_rao[3:] == [299998535262, 200001464738]
    assert trace.validator_rao[:3] == [319999333196, 140000455347, 40000211457]
    assert sum(trace.pay_rao) == E12 and trace.paid_by == "scores"
    assert trace.bonds_u16[:3] == [[(3, 65535), (4, 65535)], [(3, 16384), (4, 65534)], [(4, 32767)]]


def test_classic_epoch_with_the_peers_payout_loses_a_little() -> None:
    """The peer rounds the shares once more before it pays; here each part is floored once."""
    trace = yuma.epoch(five(), PEER)
    exact = yuma.epoch(five(), replace(PEER, exact_payout=True))
    lost = E12 - sum(trace.pay_rao)
    assert 0 < lost < 10 and lost == trace.remainder_rao == exact.remainder_rao
    peer = [319999333005, 140000455314, 40000211447, 299998535076, 200001464691]
    assert all(0 <= ours - theirs < 250 for ours, theirs in zip(trace.pay_rao, peer, strict=True))


# rule: EPO-9
def test_second_classic_epoch_builds_on_stored_bonds() -> None:
    params = EpochParams(yuma3=False)
    first = yuma.epoch(five(), params)
    assert yuma.epoch(five(bonds=first.bonds_u16), params).dividends[:3] == [2748773968, 1202595385, 343597942]


# rule: EPO-10
def test_yuma3_epoch() -> None:
    trace = yuma.epoch(five(), EpochParams())
    assert trace.dividends[:3] == [3006467497, 1073749251, 214750547]
    assert trace.bonds_u16[:3] == [[(3, 4368), (4, 2184)], [(3, 2184), (4, 4368)], [(4, 6553)]]
    assert trace.trust[3:] == [4294967296, 2863334831]
    assert trace.server_rao[3:] == [299998535262, 200001464738]
    assert trace.validator_rao[:3] == [349998881307, 125000864646, 25000254047]


# rule: EPO-13
def test_forfeiting_minority_votes_zero_and_is_not_paid() -> None:
    trace = yuma.epoch(five(forfeit=[False, True, False, False, False]), EpochParams())
    assert trace.consensus == yuma.epoch(five(), EpochParams()).consensus
    assert trace.incentive[3:] == [2712595674, 1582371621]
    assert trace.dividends[:3] == [4038001073, 0, 256966222]
    assert trace.scores_u16()["validator_trust"][:3] == [65534, 0, 21845]
    assert trace.server_rao[3:] == [315787698449, 184212301551]
    assert trace.validator_rao[:3] == [470085194560, 0, 29914805440]


# rule: EPO-13
def test_forfeiting_majority_leaves_the_pot() -> None:
    trace = yuma.epoch(five(forfeit=[True, False, False, False, False]), EpochParams())
    assert not any(trace.consensus) and not any(trace.pay_rao) and not any(trace.pay_weights)
    assert trace.paid_by == "nobody" and not trace.agreed


# --- each rule on its own


# rule: EPO-2
def test_stake_below_the_threshold_counts_nothing() -> None:
    assert yuma.voting_stake([9, 10, 11], 10) == [0, 10, 11]
    assert yuma.voting_stake([9, 10, 11], 10, exempt=0) == [9, 10, 11]


# rule: EPO-3
def test_permits_go_to_the_largest_stakes_and_ties_to_the_higher_uid() -> None:
    assert yuma.topk_nonzero([5, 7, 5, 0, 5], 2) == [False, True, False, False, True]
    assert yuma.topk_nonzero([5, 0, 0], 3) == [True, False, False]
    assert yuma.topk_nonzero([5, 7], 0) == [False, False]


# rule: EPO-3
def test_a_vote_needs_both_permits() -> None:
    subnet = inputs([5, 7, 0], [[(2, 1)], [(2, 1)], []], permit=[True, False, False])
    assert yuma.epoch(subnet, EpochParams()).active_stake_rao == [5, 0, 0]
    one = EpochParams(max_validators=1)
    assert yuma.epoch(subnet, one).active_stake_rao == [0, 0, 0]
    assert yuma.epoch(subnet, replace(one, permit_twice=False)).active_stake_rao == [5, 0, 0]
    assert yuma.epoch(subnet, one).permit == [False, True, False]


# rule: EPO-4
def test_inactivity_starts_after_the_cutoff() -> None:
    subnet = inputs([5, 5, 0], [[(2, 1)], [(2, 1)], []], active_at=[150, 149, 0])
    trace = yuma.epoch(subnet, EpochParams(activity_cutoff=50))
    assert trace.active == [True, False, False] and trace.active_stake_rao == [5, 0, 0]


# rule: EPO-5
def test_weights_that_do_not_count() -> None:
    every: list[Row] = [[(0, 7), (1, 7), (2, 7), (3, 7)] for _ in range(4)]
    subnet = inputs(
        [5, 5, 5, 5], every, permit=[True, True, False, True], forfeit=[False, False, False, True],
        registered_at=[0, 0, 100, 101],
    )
    trace = yuma.epoch(subnet, EpochParams())
    assert trace.raw_weights == [[(1, 7)], [(0, 7)], [], []]  # own, too old for uid 2 and 3; no permit; forfeited
    younger = yuma.epoch(replace(subnet, weights_at=[101] * 4), EpochParams())
    assert younger.raw_weights[0] == [(1, 7), (2, 7)]
    masked = yuma.epoch(replace(subnet, registered_at=[0, 0, 50, 60], open_commit=[55, None, None, None]), PEER)
    assert masked.raw_weights[0] == [(1, 7), (2, 7)]


def test_zero_weights_are_no_votes() -> None:
    assert yuma.epoch(inputs([5, 0, 0], [[(1, 0), (2, 9)], [], []]), EpochParams()).raw_weights[0] == [(2, 9)]


# rule: EPO-6
@pytest.mark.parametrize(("kappa", "total", "need"), [(32767, 2, 1), (32768, 2, 2), (65535, 7, 7), (0, 7, 0), (1, 0, 0)])
def test_need_is_the_least_support_that_suffices(kappa: int, total: int, need: int) -> None:
    assert yuma.support_needed(kappa, total) == need
    assert 65535 * need >= kappa * total and (need == 0 or 65535 * (need - 1) < kappa * total)


# rule: EPO-6
def test_threshold_is_exact_where_64_bits_would_wrap() -> None:
    supply = 21 * 10**15
    assert yuma.support_needed(32767, supply) == -(-32767 * supply // 65535) > supply // 2 - supply // 10**4


# rule: EPO-6
def test_consensus_counts_support_that_is_exactly_enough() -> None:
    voters: list[tuple[Row, int]] = [([(0, 9)], 2), ([(0, 5)], 1), ([], 1)]
    assert yuma.consensus(voters, 2, 1) == [9] and yuma.consensus(voters, 3, 1) == [5]
    assert yuma.consensus(voters, 4, 1) == [0]
    assert yuma.consensus([([(0, 9)], 0)], 0, 1) == [0]  # without stake there is no vote


# rule: EPO-8
def test_bond_weights_lie_between_given_and_clipped() -> None:
    given_, cut = [[(0, 100), (1, 50)]], [[(0, 40), (1, 50)]]
    assert yuma.blended(given_, cut, 0) is given_ and yuma.blended(given_, cut, 65535) is cut
    assert yuma.blended(given_, cut, 1, 4) == [[(0, 85), (1, 50)]]


# rule: EPO-12
def test_bonds_towards_a_replaced_neuron_are_void() -> None:
    subnet = inputs(
        [5, 0, 0], [[(1, 1)], [], []], bonds=[[(1, 30000), (2, 30000)], [], []], registered_at=[0, 50, 89],
        bonds_from=yuma.bonds_from(200, 15, 88),
    )
    assert subnet.bonds_from == 89
    assert yuma.epoch(subnet, EpochParams()).bonds_before[0] == [(1, from_u16(30000))]
    assert yuma.bonds_from(200, 15, None) == 185 and yuma.bonds_from(5, 15, None) == 0


# rule: EPO-10
def test_a_bond_whose_weight_is_left_out_decays() -> None:
    alpha = ONE // 4
    moved = yuma_bonds.ema_rows([[(1, ONE), (2, ONE)]], [[(2, ONE), (3, ONE)]], alpha)
    assert moved == [[(1, ONE * 3 // 4), (2, ONE), (3, ONE // 4)]]
    liquid = EpochParams(liquid_alpha=True)
    subnet = inputs([5, 0, 0], [[(1, 1)], [], []], bonds=[[(1, 65535), (2, 65535)], [], []])
    row = dict(yuma.epoch(subnet, liquid).bonds_after[0])
    assert 0 < row[2] < ONE and row[1] == ONE


def test_bonds_never_exceed_one() -> None:
    assert yuma_bonds.ema_rows([[(0, 3 * ONE)]], [[(0, 3 * ONE)]], ONE // 2) == [[(0, ONE)]]


# rule: EPO-9
def test_a_resting_bond_keeps_its_value() -> None:
    """3/5 of a column in every epoch: stored, loaded and stored again without loss."""
    params, subnet = EpochParams(yuma3=False), inputs([3, 2, 0], [[(2, 1)], [(2, 1)], []])
    first = yuma.epoch(subnet, params).bonds_u16
    later = first
    for _ in range(20):
        later = yuma.epoch(replace(subnet, bonds=later), params).bonds_u16
    assert first == later == [[(2, 65535)], [(2, 43690)], []]


# rule: EPO-12
def test_bond_rows_are_kept_with_a_new_permit_only() -> None:
    subnet = inputs([5, 7, 0], [[(2, 1)], [(2, 1)], []])
    trace = yuma.epoch(subnet, EpochParams(max_validators=1, permit_twice=False))
    assert trace.bonds_u16[0] == [] and trace.bonds_u16[1] and trace.bonds_after[0]


# rule: EPO-11
def test_liquid_alpha_is_a_sigmoid_between_its_bounds() -> None:
    low, high = ONE // 10, ONE * 3 // 10
    near = yuma_bonds.liquid_alpha(ONE // 5, ONE // 5, ONE // 5, low, high, 1000)
    far = yuma_bonds.liquid_alpha(0, ONE, ONE, low, high, 1000)
    assert low < near < (low + high) // 2 < far < high
    assert abs(near * 10**6 // ONE - 101_338) <= 1 and abs(far * 10**6 // ONE - 298_661) <= 1
    assert yuma_bonds.liquid_alpha(ONE, 0, 0, low, high, 0) == low + (high - low) // 2


# rule: EPO-14
def test_without_scores_validators_are_paid_by_stake() -> None:
    empty = inputs([3, 1, 0], [[], [], []])
    trace = yuma.epoch(empty, EpochParams())
    assert trace.paid_by == "active stake" and trace.validator_rao == [E12 * 3 // 4, E12 // 4, 0]
    nobody = yuma.epoch(replace(empty, permit=[False] * 3), EpochParams())
    assert nobody.paid_by == "stake" and nobody.validator_rao == [E12 * 3 // 4, E12 // 4, 0]
    assert yuma.epoch(replace(empty, stake=[0, 0, 0]), EpochParams()).paid_by == "nobody"
    gone = replace(empty, permit=[False] * 3, forfeit=[True, False, False])
    assert yuma.epoch(gone, EpochParams()).validator_rao == [0, E12, 0]


# rule: EPO-15
def test_an_extra_voter_counts_without_a_uid() -> None:
    """A row without uid, a third as strong as the others together, tips the balance and is not paid."""
    subnet = inputs([2, 1, 0, 0], [[(2, 1)], [(3, 1)], [], []])
    plain = yuma.epoch(subnet, EpochParams())
    assert plain.consensus == [0, 0, ONE, 0]
    extra = yuma.epoch(replace(subnet, extra=([(3, ONE)], 1)), EpochParams())
    assert extra.total_stake_rao == 4 and extra.need_rao == 2 and extra.consensus == [0, 0, ONE, ONE]
    assert extra.incentive == [0, 0, ONE // 2, ONE // 2] and sum(extra.pay_rao) == E12


def test_owner_privileges_exist_for_replay_only() -> None:
    subnet = inputs([1, 9, 0], [[(0, 1), (2, 1)], [(2, 1)], []], permit=[False, True, False])
    plain = yuma.epoch(subnet, EpochParams(stake_threshold=5))
    assert plain.stake_rao == [0, 9, 0] and not plain.permit[0] and plain.raw_weights[0] == []
    owner = yuma.epoch(subnet, replace(PEER, stake_threshold=5, owner=0))
    assert owner.stake_rao == [1, 9, 0] and owner.permit[0] and owner.raw_weights[0] == [(0, 1), (2, 1)]


def test_an_empty_subnet_pays_nobody() -> None:
    trace = yuma.epoch(inputs([], []), EpochParams())
    assert trace.pay_rao == [] and trace.paid_by == "nobody"


def test_inputs_that_do_not_fit_together_are_refused() -> None:
    broken: list[dict[str, Any]] = [
        {"permit": [True]}, {"forfeit": [True]}, {"stake": [5, -1, 0, 0, 0]}, {"emission_rao": -1}
    ]
    for changes in broken:
        with pytest.raises(ValueError):
            yuma.epoch(replace(five(), **changes), EpochParams())
    with pytest.raises(ValueError):
        yuma.epoch(inputs([1] * 4097, [[]] * 4097), EpochParams())


# --- properties

seeds = st.integers(0, 2**32)


def random_subnet(seed: int, *, forfeits: bool = False, distinct: bool = False) -> tuple[EpochInputs, EpochParams]:
    """A small subnet with everything that can vary; `distinct` gives every uid another stake."""
    chance = random.Random(seed)
    n, block = chance.randint(1, 10), chance.randint(20, 200)

    def row() -> Row:
        return [(j, chance.choice((1, 65535, chance.randint(1, 65535)))) for j in range(n) if chance.random() < 0.6]

    stake = [chance.choice((0, 1, 10**9, 10**9, chance.randint(0, 21 * 10**15))) for _ in range(n)]
    if distinct:
        stake = chance.sample(range(10**12), n)
    subnet = EpochInputs(
        block=block, bonds_from=chance.randint(0, block), emission_rao=chance.choice((0, 1, E12, 999_999_937)),
        stake=stake, permit=[chance.random() < 0.8 for _ in range(n)],
        registered_at=[chance.randint(0, block) if chance.random() < 0.2 else 0 for _ in range(n)],
        active_at=[chance.randint(0, block) for _ in range(n)], weights_at=[chance.randint(1, block) for _ in range(n)],
        weights=[row() for _ in range(n)], bonds=[row() for _ in range(n)],
        forfeit=[forfeits and chance.random() < 0.3 for _ in range(n)],
    )
    params = EpochParams(
        kappa=chance.choice((32767, 43690)), yuma3=chance.random() < 0.6, liquid_alpha=chance.random() < 0.3,
        bonds_penalty=chance.choice((0, 65535, 20000)), max_validators=chance.randint(1, 10), activity_cutoff=100,
    )
    return subnet, params


# rule: EPO-14
@given(seeds)
@settings(max_examples=150, deadline=None)
def test_pay_is_the_pot_exactly_or_nothing_and_never_for_who_forfeits(seed: int) -> None:
    subnet, params = random_subnet(seed, forfeits=True)
    trace = yuma.epoch(subnet, params)
    assert sum(trace.pay_rao) == (0 if trace.paid_by == "nobody" else subnet.emission_rao)
    assert 0 <= trace.remainder_rao < 2 * trace.size or not trace.size
    for uid, forfeited in enumerate(trace.forfeited):
        if forfeited:
            assert trace.validator_rao[uid] == 0 and trace.raw_weights[uid] == []


@given(seeds, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_scaling_all_stakes_changes_nothing(seed: int, factor: int) -> None:
    subnet, params = random_subnet(seed)
    one = yuma.epoch(subnet, params)
    many = yuma.epoch(replace(subnet, stake=[amount * factor for amount in subnet.stake]), params)
    for name in ("permit", "consensus", "incentive", "dividends", "bonds_u16", "server_rao", "validator_rao"):
        assert getattr(one, name) == getattr(many, name), name


@given(seeds, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_renumbering_the_uids_permutes_the_outputs(seed: int, chance: random.Random) -> None:
    subnet, params = random_subnet(seed, forfeits=True, distinct=True)
    n = len(subnet.stake)
    place = list(range(n))  # old uid -> new uid
    chance.shuffle(place)
    old = [place.index(uid) for uid in range(n)]

    def moved_rows(rows: Any) -> list[Row]:
        return [sorted((place[j], value) for j, value in rows[old[uid]]) for uid in range(n)]

    columns = ("stake", "permit", "registered_at", "active_at", "weights_at", "forfeit")
    changes: dict[str, Any] = {name: [getattr(subnet, name)[old[uid]] for uid in range(n)] for name in columns}
    changes |= {"weights": moved_rows(subnet.weights), "bonds": moved_rows(subnet.bonds)}
    before, after = yuma.epoch(subnet, params), yuma.epoch(replace(subnet, **changes), params)
    for name in ("permit", "active", "consensus", "validator_trust", "incentive", "dividends", "stake_rao"):
        assert [getattr(before, name)[old[uid]] for uid in range(n)] == getattr(after, name), name
    assert moved_rows(before.bonds_u16) == after.bonds_u16


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_validator_without_stake_changes_nothing(seed: int) -> None:
    """Without stake there is no permit, and without a permit a row is nothing."""
    subnet, params = random_subnet(seed)
    more = replace(
        subnet, stake=[*subnet.stake, 0], permit=[*subnet.permit, False], registered_at=[*subnet.registered_at, 0],
        active_at=[*subnet.active_at, subnet.block], weights_at=[*subnet.weights_at, subnet.block],
        weights=[*subnet.weights, [(0, 65535)]], bonds=[*subnet.bonds, []], forfeit=[*subnet.forfeit, False],
    )
    one, two = yuma.epoch(subnet, params), yuma.epoch(more, params)
    for name in ("consensus", "incentive", "dividends", "permit", "server_rao"):
        assert getattr(two, name)[:-1] == getattr(one, name), name
    assert two.incentive[-1] == two.dividends[-1] == 0


# rule: EPO-6
@given(seeds)
@settings(max_examples=150, deadline=None)
def test_consensus_is_the_pivot_of_the_weighted_quantile(seed: int) -> None:
    """Found another way: the score v with less than total - need below it and at least that much up to it."""
    chance = random.Random(seed)
    stakes = [chance.choice((0, 1, 1, 2, 5)) for _ in range(chance.randint(1, 8))]
    scores = [chance.choice((0, 1, 1, 3, 7)) for _ in stakes]
    total = sum(stakes)
    need = yuma.support_needed(chance.choice((19661, 32767, 43690)), total)
    if not total:
        return
    pivots = [
        score
        for score in sorted({*scores, 0})
        if sum(s for s, v in zip(stakes, scores, strict=True) if v < score) <= total - need
        < sum(s for s, v in zip(stakes, scores, strict=True) if v <= score)
    ]
    rows: list[tuple[Row, int]] = [([(0, score)] if score else [], s) for s, score in zip(stakes, scores, strict=True)]
    assert yuma.consensus(rows, need, 1) == pivots


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_scores_and_bonds_stay_in_range(seed: int) -> None:
    subnet, params = random_subnet(seed, forfeits=True)
    trace: EpochTrace = yuma.epoch(subnet, params)
    for name in ("consensus", "validator_trust", "rank", "prerank", "incentive", "dividends", "trust"):
        assert all(0 <= value <= ONE for value in getattr(trace, name)), name
    for rows in (trace.bonds_before, trace.bonds_after):
        assert all(0 <= value <= ONE for row in rows for _, value in row)
    assert all(row == sorted(dict(row).items()) for row in trace.bonds_u16)
    assert all(value <= 65535 for row in trace.bonds_u16 for _, value in row)
