"""The story of an epoch: what the page says follows from the trace, whatever the trace looks like."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.client.records import EpochTraceRecord, from_json, to_json
from runtime.trace import EpochInputs, EpochParams
from runtime.yuma import epoch
from tools.explorer.epoch import MAX_JUDGES, MAX_MINERS, WHO_IS_PAID, earned_rao, explain
from tools.explorer.figures import ONE_Q32
from tools.explorer.page import Values
from tools.explorer.pages import PAGES
from tools.explorer.render import Renderer
from tools.explorer.stairs import HEIGHT, WIDTH

EMISSION = 6 * 10**9 + 5
RENDERER = Renderer(False)


def record(stake, weights, *, emission=EMISSION, forfeit=(), **params):
    """The trace record of one epoch of `len(stake)` uids, as it comes over RPC."""
    n = len(stake)
    inputs = EpochInputs(
        block=100, bonds_from=90, emission_rao=emission, stake=stake, permit=[amount > 0 for amount in stake],
        registered_at=[0] * n, active_at=[95] * n, weights_at=[95] * n,
        weights=[sorted(weights.get(i, {}).items()) for i in range(n)], bonds=[[] for _ in range(n)], forfeit=forfeit,
    )
    trace = epoch(inputs, EpochParams(**params))
    paid = {
        "owner_rao": emission // 5, "server_rao": trace.server_rao, "validator_rao": trace.validator_rao, "root_rao": [0] * n,
        "withheld_rao": [0] * n,
    }
    names = [f"n{i}" if i % 2 else "" for i in range(n)]
    made = EpochTraceRecord(1, 6, 100, [bytes([i % 256]) * 32 for i in range(n)], names, {**trace.as_dict(), "paid": paid})
    return from_json(EpochTraceRecord, to_json(made))


def page(made):
    (entry,) = [entry for entry in PAGES if entry.template == "epoch.html"]
    values = Values(made, {"record": made, "story": explain(made), "newest": 6}, None, {"epoch": "6"})
    return RENDERER.page(entry, values, "/epoch/1/6", {"netuid": "1", "epoch": "latest"})


def test_a_lone_voter_is_cut_and_told_first():
    made = record([10, 10, 10, 0, 0], {0: {3: 3, 4: 1}, 1: {3: 3, 4: 1}, 2: {4: 1}})
    story = explain(made)
    (cut,) = story.told_cuts
    assert (cut.judge.uid, cut.miner.uid) == (2, 4)
    assert cut.cell.voted == ONE_Q32 and cut.cell.kept == ONE_Q32 // 4
    assert [judge.kept for judge in story.judges] == [ONE_Q32, ONE_Q32, ONE_Q32 // 4]
    assert story.paid_rao == story.minted_rao == EMISSION + EMISSION // 5
    assert sum(earned_rao(made, uid) for uid in range(5)) + EMISSION // 5 == story.paid_rao
    assert {name: text for _, name, text in story.headlines}["Clipping"] == "✂ 1 cut"
    text = page(made)
    assert "gave <a href=\"/neuron/1/4\">uid 4</a> <b>1.000</b> of its vote" in text
    assert "await api.epoch_explain(1, 6)" in text


def test_the_stair_meets_the_consensus_where_enough_stake_is_passed():
    story = explain(record([50, 30, 20, 0], {0: {3: 1}, 1: {3: 1}, 2: {3: 1}}))
    (miner,) = story.miners
    stair = miner.stair
    assert stair.consensus_y == 0 and stair.need_x == pytest.approx(WIDTH / 2, abs=5)
    assert [step.width for step in stair.steps] == [WIDTH * part / 100 for part in (30, 50, 20)]  # by name: n1, uid 0, uid 2


@pytest.mark.parametrize(("stake", "weights", "forfeit", "paid_by"), [
    ([10, 10, 0], {}, (), "active stake"),
    ([0, 0, 0], {}, (), "nobody"),
    ([10, 5, 0], {0: {2: 1}, 1: {2: 1}}, (True, False, False), "nobody"),
    ([10, 5, 0], {0: {2: 1}, 1: {2: 1}}, (False, True, False), "scores"),
])
def test_epochs_without_votes_or_consensus_are_explained(stake, weights, forfeit, paid_by):
    made = record(stake, weights, forfeit=forfeit)
    story = explain(made)
    assert story.paid_by == WHO_IS_PAID[paid_by]
    text = page(made)
    assert ("More than half of the stake withheld" in text) == (not story.agreed)
    assert sum(pot.amount_rao for pot in story.pots) == story.minted_rao
    if any(forfeit):
        assert "withheld its weights" in text


def test_a_large_epoch_shows_the_most_important_and_says_how_many_more():
    judges, miners = MAX_JUDGES + 6, MAX_MINERS + 20
    stake = [1000 + i for i in range(judges)] + [0] * miners
    rng = random.Random(1)
    rows = {i: {judges + j: rng.randrange(1, 65535) for j in range(miners)} for i in range(judges)}
    story = explain(record(stake, rows, max_validators=4096))
    assert (len(story.judges), story.more_judges, len(story.miners), story.more_miners) == (MAX_JUDGES, 6, MAX_MINERS, 20)
    shown = {miner.uid for miner in story.miners}
    support = {miner.uid: miner.prerank for miner in story.miners}
    assert shown == set(sorted(range(judges, judges + miners), key=lambda uid: (-support.get(uid, -1), uid))[:MAX_MINERS])
    assert min(story.judges, key=lambda judge: judge.stake_rao).stake_rao == 1006
    assert len(page(record(stake, rows, max_validators=4096))) < 2_000_000


def test_the_bond_rule_follows_the_parameters():
    votes = {0: {2: 1}, 1: {2: 1}}
    assert explain(record([5, 5, 0], votes)).bond_rule == "the weight as voted"
    assert explain(record([5, 5, 0], votes, bonds_penalty=65535)).bond_rule == "the weight after the cut"
    classic = explain(record([5, 5, 0], votes, yuma3=False, bonds_moving_average=975_000))
    assert (classic.old_part, classic.new_part, classic.own_speed) == ("97.5 %", "2.5 %", False)
    assert "stake-weighted" in classic.bond_rule
    assert all(not judge.sum.startswith("0.5") for judge in classic.judges)


def test_liquid_alpha_shows_the_speed_of_each_pair():
    votes = {0: {3: 3, 4: 1}, 1: {3: 3, 4: 1}, 2: {4: 1}}
    liquid = record([10, 10, 10, 0, 0], votes, liquid_alpha=True, alpha_low=6554)
    story = explain(liquid)
    assert story.own_speed and " to " in story.new_part and " to " in story.old_part
    speeds = {alpha for judge in story.judges for before, after, alpha in judge.bonds if after}
    assert len(speeds) > 1 and page(liquid).count("<small>at 0.") == sum(
        1 for judge in story.judges for before, after, _ in judge.bonds if before or after
    )
    assert "its own speed" in page(liquid) and "its own speed" not in page(record([5, 5, 0], {0: {2: 1}}))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 10**15), min_size=1, max_size=6),
    st.dictionaries(st.integers(0, 5), st.dictionaries(st.integers(0, 5), st.integers(0, 65535), max_size=6), max_size=6),
    st.booleans(),
)
def test_any_epoch_makes_a_page(stake, weights, yuma3):
    n = len(stake)
    rows = {i: {j: w for j, w in row.items() if j < n} for i, row in weights.items() if i < n}
    made = record(stake, rows, yuma3=yuma3)
    story = explain(made)
    for miner in story.miners:
        assert 0 <= miner.stair.consensus_y <= HEIGHT
        for step in miner.stair.steps:
            assert 0 <= step.top <= step.kept <= HEIGHT
    assert sum(pot.amount_rao for pot in story.pots) == story.minted_rao
    text = page(made)
    assert ">nan" not in text and "</html>" in text
