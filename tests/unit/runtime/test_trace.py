"""The record of an epoch: complete, bounded, restored exactly, and refused when damaged."""

import json
import random
from dataclasses import replace
from typing import Any

import pytest

from ledger.codec import encode, pack_u16, pack_u64
from ledger.errors import DecodeError
from runtime.fixed import ONE
from runtime.rows import Row
from runtime.trace import MAX_RECORD_BYTES, MAX_ROW_ENTRIES, EpochInputs, EpochParams, EpochTrace
from runtime.yuma import blended, epoch
from runtime.yuma_bonds import ema_rows


def sample(n: int = 6, *, seed: int = 1, density: float = 0.7, params: EpochParams | None = None) -> EpochTrace:
    chance = random.Random(seed)

    def row() -> Row:
        return [(j, chance.randint(1, 65535)) for j in range(n) if chance.random() < density]

    inputs = EpochInputs(
        block=200, bonds_from=90, emission_rao=10**12 + 7, stake=[chance.randint(0, 21 * 10**15) for _ in range(n)],
        permit=[chance.random() < 0.8 for _ in range(n)], registered_at=[0] * n, active_at=[150] * n,
        weights_at=[150] * n, weights=[row() for _ in range(n)], bonds=[row() for _ in range(n)],
        forfeit=[chance.random() < 0.1 for _ in range(n)],
    )
    return epoch(inputs, params or EpochParams())


# rule: EPO-17
@pytest.mark.parametrize("seed", range(20))
def test_a_record_restores_every_value(seed: int) -> None:
    trace = sample(seed % 9, seed=seed, params=EpochParams(yuma3=seed % 2 == 0))
    assert EpochTrace.from_bytes(trace.to_bytes()) == trace
    assert EpochTrace.from_record(trace.to_record()) == trace
    assert EpochTrace.from_bytes(trace.to_bytes()).as_dict() == trace.as_dict()


def test_parameters_of_every_kind_survive() -> None:
    trace = replace(sample(), params=EpochParams(owner=3, alpha_steepness=-200, exact_payout=False, kappa=19661))
    assert EpochTrace.from_bytes(trace.to_bytes()).params == trace.params


def test_a_large_epoch_keeps_its_vectors_and_drops_its_matrices() -> None:
    trace = sample(160)
    assert sum(len(row) for row in trace.bonds_after) > MAX_ROW_ENTRIES
    short = EpochTrace.from_bytes(trace.to_bytes())
    assert not short.has_rows and short.raw_weights == [] and short.weights == [] and short.clipped == []
    assert short.pay_rao == trace.pay_rao and short.scores_u16() == trace.scores_u16()
    assert EpochTrace.from_bytes(short.to_bytes()) == short
    assert len(encode(sample(125).to_record())) < MAX_RECORD_BYTES


def test_the_largest_subnet_fits() -> None:
    n = 4096
    inputs = EpochInputs(
        block=1, bonds_from=0, emission_rao=10**12, stake=[5] * n, permit=[True] * n, registered_at=[0] * n,
        active_at=[1] * n, weights_at=[1] * n, weights=[[(4095 - uid, 1)] for uid in range(n)],
        bonds=[[(uid, 9)] for uid in range(n)],
    )
    trace = epoch(inputs, EpochParams(max_validators=n))
    assert len(trace.to_bytes()) < MAX_RECORD_BYTES
    assert EpochTrace.from_bytes(trace.to_bytes()) == trace and trace.has_rows


def test_derived_values_agree_with_the_stored_ones() -> None:
    trace = sample(seed=3)
    assert trace.total_stake_rao == sum(trace.active_stake_rao) and trace.size == 6
    assert trace.validator_trust == [sum(value for _, value in row) for row in trace.clipped]
    assert all(ONE - len(row) <= sum(value for _, value in row) <= ONE for row in trace.weights if row)
    assert sum(trace.pay_rao) == trace.emission_rao
    floors = [weight * trace.emission_rao // sum(trace.pay_weights) for weight in trace.pay_weights]
    assert trace.remainder_rao == trace.emission_rao - sum(floors)
    given_out = [paid - floor for paid, floor in zip(trace.server_rao + trace.validator_rao, floors, strict=True)]
    assert sorted(given_out)[-trace.remainder_rao - 1 :] == [0] + [1] * trace.remainder_rao
    names = {"stake_weight", "consensus", "validator_trust", "trust", "incentive", "dividends"}
    assert set(trace.scores_u16()) == names


@pytest.mark.parametrize("penalty", [0, 1, 30_000, 65_535])
def test_bond_weights_are_those_of_the_rule(penalty: int) -> None:
    trace = replace(sample(), params=EpochParams(bonds_penalty=penalty))
    assert trace.bond_weights == blended(trace.weights, trace.clipped, penalty)


@pytest.mark.parametrize("seed", range(12))
def test_bonds_follow_from_their_target_and_speed(seed: int) -> None:
    params = EpochParams(yuma3=seed % 2 == 0, liquid_alpha=seed % 4 > 1, alpha_low=6554, bonds_penalty=seed * 5000)
    trace = EpochTrace.from_bytes(sample(3 + seed % 5, seed=seed, params=params).to_bytes())
    moved = ema_rows(trace.bonds_before, trace.bond_target, [dict(row) for row in trace.bond_alphas])
    assert moved == trace.bonds_after and any(moved)
    speeds = {alpha for row in trace.bond_alphas for _, alpha in row}
    own = params.liquid_alpha and any(trace.consensus)
    assert all(6554 * ONE // 65535 <= alpha <= 58983 * ONE // 65535 for alpha in speeds) if own else len(speeds) == 1


def test_the_dictionary_is_json_and_names_everything() -> None:
    data = sample().as_dict()
    again = json.loads(json.dumps(data))
    assert again == data
    for name in (
        "stake_rao", "active_share", "raw_weights", "weights", "clipped", "consensus", "need_rao", "rank", "incentive",
        "bonds_before", "bonds_after", "bond_target", "bond_alphas", "dividends", "pay_rao", "remainder_rao",
        "permit", "paid_by",
    ):
        assert name in data, name
    assert data["params"]["kappa"] == 32767


def damaged() -> list[tuple[str, Any]]:
    """Each with one thing wrong; the record of a subnet of 6."""

    def change(*path: int, value: Any) -> Any:
        record = sample().to_record()
        at = record
        for index in path[:-1]:
            at = at[index]
        at[path[-1]] = value
        return record

    return [
        ("not a list", 5), ("short", sample().to_record()[:-1]), ("long", [*sample().to_record(), 0]),
        ("version", change(0, value=2)), ("block", change(1, value=-1)), ("emission", change(2, value=1 << 64)),
        ("parameter", change(3, 0, value=70000)), ("flag parameter", change(3, 3, value=1)),
        ("size", change(4, value=5)), ("too many uids", change(4, value=4097)),
        ("way of pay", change(5, 3, value=4)), ("flags short", change(6, 0, value=b"\1" * 5)),
        ("flag of two", change(6, 0, value=b"\2" * 6)), ("vectors missing", change(7, value=[])),
        ("vector not whole", change(7, 0, value=b"\0" * 47)), ("vector short", change(7, 0, value=pack_u64([1] * 5))),
        ("pay of n", change(7, 8, value=pack_u64([1] * 6))), ("three matrices", change(8, value=sample().to_record()[8][:3])),
        ("matrix of two", change(8, 0, value=[b"", b""])), ("rows short", change(8, 0, 0, value=pack_u16([0] * 5))),
        ("lengths lie", change(8, 0, 0, value=pack_u16([9] * 6))),
        ("unknown uid", change(8, 0, value=[pack_u16([1, 0, 0, 0, 0, 0]), pack_u16([6]), pack_u16([1])])),
        ("uid twice", change(8, 0, value=[pack_u16([2, 0, 0, 0, 0, 0]), pack_u16([1, 1]), pack_u16([1, 1])])),
        ("text", change(8, 0, 0, value="x")),
    ]


# rule: EPO-17
@pytest.mark.parametrize(("what", "record"), damaged(), ids=[what for what, _ in damaged()])
def test_a_damaged_record_is_refused(what: str, record: Any) -> None:
    with pytest.raises(DecodeError):
        EpochTrace.from_record(record)


def test_bytes_that_are_too_many_or_cut_are_refused() -> None:
    data = sample().to_bytes()
    for broken in (data[:-1], data + b"\0", b"", bytes(MAX_RECORD_BYTES + 1)):
        with pytest.raises(DecodeError):
            EpochTrace.from_bytes(broken)
