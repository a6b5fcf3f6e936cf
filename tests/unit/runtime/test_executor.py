"""Blocks: admission, fees, undo, outcomes, limits, what makes a whole block invalid."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from genesis.build import build_genesis
from ledger.crypto import KeyPair
from ledger.errors import InvariantBroken, Rejected, UnknownRuntimeVersion
from ledger.inherents import HEARTBEAT
from runtime import chain, dispatch, registry
from runtime.executor import Runtime
from runtime.modules import accounts, fees, upgrades
from runtime.registry import Priority

Q = 10**9
CODE, JSON = "neuron code", "neuron json"


def transfer(devnet, amount=Q, **options):
    return devnet.sign(devnet.cold(CODE), "accounts.transfer", devnet.cold(JSON).public, amount, True, **options)


# --- pure --------------------------------------------------------------------------------------------------------


# rule: BLK-1
def test_the_same_block_gives_the_same_result_and_leaves_the_view_alone(devnet):
    devnet.skip(3)
    before, extrinsic = dict(devnet.rows), transfer(devnet)
    first, second = devnet.execute(extrinsic), devnet.execute(extrinsic)
    assert first == second and first.changes and devnet.rows == before


DIGEST_OF_A_CHAIN = """
import importlib.util, sys
from ledger.blocks import events_root
from ledger.codec import encode
from ledger.crypto import digest
spec = importlib.util.spec_from_file_location("devnet", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
chain, seen = module.Devnet(), b""
for height in range(33):
    seen = digest("list", seen, events_root(*(lambda r: (r.events, r.outcomes))(chain.block())))
print(digest("list", seen, encode(sorted(chain.rows.items()))).hex())
"""


def test_python_s_hash_seed_changes_nothing():
    helper = Path(__file__).parents[1] / "conftest.py"
    digests = [
        subprocess.run(
            [sys.executable, "-c", DIGEST_OF_A_CHAIN, str(helper)], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert digests[0] == digests[1] and len(digests[0]) == 65


def test_invariants_hold_through_epochs(devnet):
    for _ in range(20):
        devnet.block(transfer(devnet))
    assert devnet.audit() == []
    assert chain.key_count(devnet.view) == len(devnet.rows)


# --- admission ---------------------------------------------------------------------------------------------------


# rule: BLK-2
def test_admission_tells_what_the_pool_needs(devnet):
    extrinsic = transfer(devnet, tip=7, nonce=3)
    admission = devnet.runtime.admit(devnet.view, extrinsic, devnet.next_height)
    outcome = devnet.execute(transfer(devnet, tip=7)).outcomes[0]
    assert (admission.signer, admission.nonce, admission.ready_nonce) == (extrinsic.signer, 3, 0)
    assert admission.fee_rao == outcome.fee_rao and admission.priority == Priority.NORMAL and admission.weight == 18


# rule: BLK-2
@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"nonce": 0}, "NonceTooLow"),
        ({"birth_height": 11}, "BirthBlockUnknown"),
        ({"birth_height": 10}, "BirthBlockUnknown"),
        ({"birth_height": 1, "period": 8}, "Expired"),
        ({"version": 2}, "UnsupportedVersion"),
        ({"period": 0}, "UnsupportedVersion"),
        ({"period": 5000}, "UnsupportedVersion"),
        ({"call_number": 60_000}, "UnknownCall"),
        ({"args": []}, "BadArguments"),
        ({"args": [1, 2, 3]}, "BadArguments"),
        ({"tip": 10**18}, "CannotPayFee"),
        ({"signer": bytes(32)}, "InvalidKey"),
        ({"signer": KeyPair.from_seed(bytes(32)).public}, "CannotPayFee"),
    ],
)
def test_inadmissible_extrinsics_are_named_and_invalidate_a_block(devnet, change, error):
    devnet.skip(8)
    devnet.block(transfer(devnet))
    extrinsic = replace(transfer(devnet), **change)
    with pytest.raises(Rejected, match=error):
        devnet.runtime.admit(devnet.view, extrinsic, devnet.next_height)
    good = devnet.sign(devnet.cold(JSON), "accounts.transfer", devnet.cold(CODE).public, Q, True)
    with pytest.raises(Rejected, match=error) as caught:
        devnet.block(good, extrinsic)
    assert caught.value.data["index"] == 1


# rule: BLK-3
def test_a_nonce_gap_waits_in_the_pool_and_invalidates_a_block(devnet):
    gap = transfer(devnet, nonce=1)
    assert devnet.runtime.admit(devnet.view, gap, 1).ready_nonce == 0
    with pytest.raises(Rejected, match="NonceTooHigh"):
        devnet.block(gap)
    assert [o.error for o in devnet.block(transfer(devnet), gap).outcomes] == ["", ""]


# rule: BLK-2
def test_an_extrinsic_lives_exactly_its_period(devnet):
    extrinsic = transfer(devnet, period=8)
    devnet.skip(7)
    assert devnet.execute(extrinsic).outcomes[0].error == ""
    devnet.skip(1)
    with pytest.raises(Rejected, match="Expired"):
        devnet.block(extrinsic)


# rule: BLK-11
def test_birth_blocks_are_remembered_in_a_ring(devnet):
    devnet.skip(3)
    assert [devnet.runtime.birth_hash(devnet.view, h) for h in range(4)] == [*[devnet.hashes[h] for h in range(3)], None]
    context = devnet.context(height=4097)
    chain.remember_parent(context)  # height 4096 takes the slot of height 0
    assert chain.birth_hash(context.state, 0) is None
    assert chain.birth_hash(context.state, 1) == devnet.hashes[1]


def test_rate_limited_prechecks_run_in_the_pool(devnet):
    record = [bytes([127, 0, 0, 1]), 0, b"", bytes(32)]
    extrinsic = devnet.sign(devnet.hot(CODE), "serving.serve", 1, record)
    with pytest.raises(Rejected, match="InvalidPort"):
        devnet.runtime.admit(devnet.view, extrinsic, 1)
    assert devnet.block(extrinsic).outcomes[0].error == "InvalidPort"


# --- fees and undo -----------------------------------------------------------------------------------------------


# rule: BLK-6
def test_a_refused_call_keeps_its_fee_and_nothing_else(devnet):
    alice = devnet.cold(CODE)
    before = devnet.free(alice.public)
    result = devnet.block(transfer(devnet, amount=10**6 * Q))
    outcome = result.outcomes[0]
    assert outcome.error == "InsufficientBalance" and outcome.events == 0
    assert devnet.free(alice.public) == before - outcome.fee_rao and devnet.nonce(alice.public) == 1
    assert "Transfer" not in devnet.names(result)


# rule: BLK-1
def test_outcomes_point_at_their_events(devnet):
    result = devnet.block(transfer(devnet), transfer(devnet, amount=10**6 * Q, nonce=1), transfer(devnet, nonce=2))
    names = devnet.names(result)
    spans = [names[o.first_event : o.first_event + o.events] for o in result.outcomes]
    assert spans == [["Transfer"], [], ["Transfer"]]


# rule: FEE-4
def test_the_tip_goes_to_the_author_and_the_fee_is_recycled(devnet):
    author = devnet.cold("authority 2").public
    before = devnet.free(author)
    result = devnet.block(transfer(devnet, tip=5 * Q), proposer=2)
    assert devnet.free(author) == before + 5 * Q
    recycled = [row[1:] for row in result.events if row[0] == accounts.RECYCLED.number]
    assert recycled == [["fees", result.outcomes[0].fee_rao - 5 * Q]]


# rule: FEE-2
def test_fees_rise_in_full_blocks_and_fall_again(devnet):
    context = devnet.context()
    full = chain.info(context.state).max_block_weight
    for _ in range(20):
        fees.adjust_multiplier(context, full)
    high = fees.multiplier_ppm(context.state)
    assert 8 * fees.ONE_PPM < high < 12 * fees.ONE_PPM
    assert fees.prices(context.state).fee_rao(100, 10) > 8 * 1200
    fees.adjust_multiplier(context, full // 2)
    assert fees.multiplier_ppm(context.state) == high
    for _ in range(200):
        fees.adjust_multiplier(context, full)
    assert fees.multiplier_ppm(context.state) == 100 * fees.ONE_PPM
    for _ in range(200):
        fees.adjust_multiplier(context, 0)
    assert fees.multiplier_ppm(context.state) == fees.ONE_PPM


# rule: FEE-3
def test_failing_free_calls_cost_in_the_end(devnet):
    hot = devnet.hot(CODE)
    for _ in range(fees.FREE_FAILURES_ALLOWED):
        assert devnet.call(hot, "serving.unserve", 1) == "NotServing"
    with pytest.raises(Rejected, match="CannotPayFee"):
        devnet.call(hot, "serving.unserve", 1)
    later = devnet.context(height=devnet.height + fees.FREE_WINDOW_BLOCKS, signer=hot.public)
    assert fees.may_be_free(later)


def test_a_dry_run_says_what_would_happen(devnet):
    extrinsic = transfer(devnet, tip=3)
    outcome, events, refusal = devnet.runtime.dry_run(devnet.view, extrinsic, devnet.next_height)
    assert refusal is None
    assert outcome.fee_rao == devnet.execute(extrinsic).outcomes[0].fee_rao
    assert [registry.EVENTS[event[0]].name for event in events] == ["Transfer"]
    refused, events, refusal = devnet.runtime.dry_run(devnet.view, transfer(devnet, amount=10**6 * Q), devnet.next_height)
    assert refused.error == refusal.error_name == "InsufficientBalance" and events == []
    assert refusal.data["needed_rao"] == 10**6 * Q > refusal.data["balance_rao"]
    with pytest.raises(Rejected, match="NonceTooLow"):
        devnet.block(extrinsic)
        devnet.runtime.dry_run(devnet.view, extrinsic, devnet.next_height)


# --- blocks as a whole -------------------------------------------------------------------------------------------


# rule: BLK-5
def test_a_block_has_a_weight_limit(devnet):
    genesis = build_genesis(replace(devnet.spec, max_block_weight=30))
    devnet.genesis, devnet.rows = genesis, dict(genesis.state)
    devnet.runtime = Runtime(genesis.genesis_hash)
    assert devnet.execute(transfer(devnet)).weight == 18
    with pytest.raises(Rejected, match="BlockTooHeavy") as caught:
        devnet.block(transfer(devnet), transfer(devnet, nonce=1))
    assert caught.value.data["index"] == 1


def test_a_block_of_a_wrong_session_is_invalid(devnet):
    context = replace(devnet.block_context(), session=5)
    with pytest.raises(Rejected, match="InvalidBlock"):
        devnet.runtime.apply_block(devnet.view, context, [], [])


# rule: BLK-4
@pytest.mark.parametrize("inherents", [[(99, b"")], [(HEARTBEAT, b"\xff")], [(1, b"")]])
def test_unknown_and_malformed_inherents_invalidate_a_block(devnet, inherents):
    with pytest.raises(Rejected, match="Inherent|Heartbeat|Evidence"):
        devnet.block(inherents=inherents)


def test_an_unknown_runtime_version_stops_the_node(devnet):
    devnet.rows[upgrades.VERSION.key()] = upgrades.VERSION.encode(1 << 15)
    with pytest.raises(UnknownRuntimeVersion) as caught:
        devnet.block()
    assert caught.value.exit_code == 8


# rule: INV-2
def test_money_from_nowhere_stops_the_node(devnet, monkeypatch):
    def steal(context, to, amount, keep_alive):
        accounts.credit(context, to, amount, "nowhere")

    entry = registry.CALLS[dispatch.call_number("accounts.transfer")]
    monkeypatch.setitem(registry.CALLS, entry.number, replace(entry, function=steal))
    with pytest.raises(InvariantBroken, match="nowhere: declared -1000000000"):
        devnet.block(transfer(devnet))


def test_an_overflow_inside_a_call_is_a_refusal(devnet, monkeypatch):
    def burst(context, *args):
        raise OverflowError

    entry = registry.CALLS[dispatch.call_number("accounts.transfer")]
    monkeypatch.setitem(registry.CALLS, entry.number, replace(entry, function=burst))
    assert devnet.block(transfer(devnet)).outcomes[0].error == "Overflow"


# --- batches -----------------------------------------------------------------------------------------------------


# rule: BLK-8
def test_batch_is_atomic_and_batch_each_is_not(devnet):
    alice, bob = devnet.cold(CODE), devnet.cold(JSON).public
    good, bad = (devnet.inner("accounts.transfer", bob, amount, True) for amount in (Q, 10**6 * Q))
    before = devnet.free(bob)
    assert devnet.call(alice, "keyring.batch", [good, bad]) == "InsufficientBalance"
    assert devnet.free(bob) == before
    result = devnet.block(devnet.sign(alice, "keyring.batch_each", [good, bad, good]))
    assert result.outcomes[0].error == "" and devnet.free(bob) == before + 2 * Q
    first, count = result.outcomes[0].first_event, result.outcomes[0].events
    assert devnet.names(result)[first : first + count] == ["Transfer", "BatchItemFailed", "Transfer"]
    assert devnet.audit() == []


# rule: BLK-7
def test_a_batch_weighs_what_it_holds(devnet):
    item = devnet.inner("accounts.transfer", devnet.cold(JSON).public, Q, True)
    one = devnet.execute(devnet.sign(devnet.cold(CODE), "keyring.batch", [item])).weight
    three = devnet.execute(devnet.sign(devnet.cold(CODE), "keyring.batch", [item] * 3)).weight
    assert three - one == 16


# rule: BLK-7
@pytest.mark.parametrize(
    ("calls", "error"),
    [
        (lambda w, t: [w.inner("keyring.batch", [t])], "NestedBatch"),
        (lambda w, t: [w.inner("governance.sudo", t)], "NestedBatch"),
        (lambda w, t: [], "BadArguments"),
        (lambda w, t: [t] * 65, "BadArguments"),
        (lambda w, t: [[t[0], [1]]], "BadArguments"),
        (lambda w, t: [[60_000, []]], "UnknownCall"),
        (lambda w, t: [[t[0]]], "BadArguments"),
    ],
)
def test_malformed_batches(devnet, calls, error):
    item = devnet.inner("accounts.transfer", devnet.cold(JSON).public, Q, True)
    with pytest.raises(Rejected, match=error):
        devnet.block(devnet.sign(devnet.cold(CODE), "keyring.batch", calls(devnet, item)))
