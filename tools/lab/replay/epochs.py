"""Histories of a subnet: operations between epochs, and every epoch through `runtime.yuma.epoch`.

The state kept here is what the chain keeps of a subnet; the rules are the runtime's. Histories come from the peer, so
the epoch runs with the peer's settings: an owner with privileges, permits of the previous epoch alone, floored payouts,
one block number for activity, weights and commits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from fractions import Fraction
from typing import Any

from runtime.fixed import ONE, U16_MAX
from runtime.rows import Row
from runtime.trace import EpochInputs, EpochParams, EpochTrace
from runtime.weightcheck import max_upscale
from runtime.yuma import bonds_from, epoch
from tools.lab.replay.cases import Case, Mismatch
from tools.lab.replay.compare import agree

FIRST_TOLERANCE = {"u16": 1, "bonds_u16": 1, "emission": 2, "real": Fraction(1, 100_000)}

# name in the vectors -> name in EpochParams; the rest are handled by `Subnet`
PARAM_NAMES = {
    "kappa": "kappa", "bonds_penalty": "bonds_penalty", "bonds_moving_average": "bonds_moving_average",
    "activity_cutoff": "activity_cutoff", "max_validators": "max_validators", "stake_threshold": "stake_threshold",
    "yuma3": "yuma3", "liquid_alpha": "liquid_alpha", "alpha_low": "alpha_low", "alpha_high": "alpha_high",
    "alpha_sigmoid_steepness": "alpha_steepness", "owner_uid": "owner",
}
PEER = EpochParams(
    bonds_penalty=65535, yuma3=False, permit_twice=False, exact_payout=False, activity_cutoff=5000, max_validators=64
)
PEER_TEMPO = 360


class Subnet:
    """The part of a subnet's state that an epoch reads and writes."""

    def __init__(self, size: int, settings: Mapping[str, Any]) -> None:
        self.size = size
        self.stake = [0] * size
        self.registered_at = [0] * size
        self.updated_at = [0] * size
        self.permit = [False] * size
        self.weights: list[Row] = [[] for _ in range(size)]
        self.bonds: list[Row] = [[] for _ in range(size)]
        self.open_commit: list[int | None] = [None] * size
        self.tempo = int(settings.get("tempo", PEER_TEMPO))
        self.last_step_block = int(settings.get("last_step_block", 0)) or None
        self.params = _params(settings)

    def set_weights(self, uid: int, block: int, row: Row) -> None:
        """As the chain stores a row: scaled to its largest value."""
        scaled = max_upscale([value for _, value in row])
        self.set_stored_weights(uid, block, [(j, value) for (j, _), value in zip(row, scaled, strict=True)])

    def set_stored_weights(self, uid: int, block: int, row: Row) -> None:
        self.weights[uid] = sorted((int(j), int(value)) for j, value in row)
        self.updated_at[uid] = block

    def replace(self, uid: int, block: int, stake: int | None) -> None:
        """Another neuron registers under the uid; weights of others towards it are void by their block numbers."""
        self.registered_at[uid] = self.updated_at[uid] = block
        self.weights[uid], self.bonds[uid], self.permit[uid], self.open_commit[uid] = [], [], False, None
        if stake is not None:
            self.stake[uid] = stake

    def reset_bonds(self, uid: int) -> None:
        self.bonds = [[(j, bond) for j, bond in row if j != uid] for row in self.bonds]

    def run_epoch(self, block: int, emission: int) -> EpochTrace:
        """Run the epoch of `block` and store its permits and bonds."""
        trace = epoch(
            EpochInputs(
                block=block, bonds_from=bonds_from(block, self.tempo, self.last_step_block), emission_rao=emission,
                stake=self.stake, permit=self.permit, registered_at=self.registered_at, active_at=self.updated_at,
                weights_at=self.updated_at, weights=self.weights, bonds=self.bonds, open_commit=self.open_commit,
            ),
            self.params,
        )
        self.permit, self.bonds = trace.permit, list(trace.bonds_u16)
        return trace


def _params(settings: Mapping[str, Any]) -> EpochParams:
    chosen = {PARAM_NAMES[name]: value for name, value in settings.items() if name in PARAM_NAMES}
    unknown = [name for name in settings if name not in PARAM_NAMES and name not in ("tempo", "last_step_block")]
    if unknown:
        raise Mismatch(f"unknown parameter {unknown[0]}")
    assert all(name in {item.name for item in fields(EpochParams)} for name in chosen)
    return replace(PEER, **chosen)


# --- what an epoch is compared with ------------------------------------------------------------------------------


def outputs(trace: EpochTrace) -> dict[str, Any]:
    """The values of an epoch under the names of the vectors; bonds as {(i, j): u16}."""
    scores = trace.scores_u16()
    return {
        "active": trace.active, "permits": trace.permit, **scores, "rank": scores["incentive"],
        "server_emission": trace.server_rao, "validator_emission": trace.validator_rao, "emission": trace.pay_rao,
        "bonds": {(i, j): bond for i, row in enumerate(trace.bonds_u16) for j, bond in row},
    }


def reals(trace: EpochTrace) -> dict[str, Any]:
    """The values that vectors state as real numbers, by name; bonds as {(i, j): share}."""
    named = {
        "stake": trace.stake_share, "active_stake": trace.active_share, "consensus": trace.consensus,
        "validator_trust": trace.validator_trust, "rank": trace.incentive, "trust": trace.trust,
        "incentive": trace.incentive, "dividends": trace.dividends,
    }
    values: dict[str, Any] = {name: [Fraction(value, ONE) for value in column] for name, column in named.items()}
    values["bonds"] = {(i, j): Fraction(bond, U16_MAX) for i, row in enumerate(trace.bonds_u16) for j, bond in row}
    for name, column in (
        ("emission", trace.pay_rao), ("server_emission", trace.server_rao), ("validator_emission", trace.validator_rao)
    ):
        values[name] = [Fraction(value, trace.emission_rao or 1) for value in column]
    return values


def compare_epoch(trace: EpochTrace, step: Mapping[str, Any], where: str) -> int:
    """Compare with everything that a step states about its epoch; returns the number of values compared."""
    tolerance = {**FIRST_TOLERANCE, **step.get("tolerance", {})}
    got, real = outputs(trace), reals(trace)
    count = 0
    for part in ("exact", "expect", "trace"):
        for name, expected in step.get(part, {}).items():
            label = f"{where} {part} {name}"
            if name == "real":
                for inner, values in expected.items():
                    count += _compare_values(real, inner, values, tolerance["real"], f"{label} {inner}")
            elif name.endswith("_real"):
                count += _compare_values(real, name.removesuffix("_real"), expected, tolerance["real"], label)
            else:
                count += _compare_values(got, name, expected, _tolerance(name, tolerance), label)
    for text in step.get("property", ()):
        _check_property(text, got, where)
        count += 1
    return count


def _tolerance(name: str, tolerance: Mapping[str, Any]) -> Any:
    if name in ("active", "permits"):
        return 0
    if name.startswith("bonds"):
        return tolerance["bonds_u16"]
    return tolerance["emission"] if name.endswith("emission") else tolerance["u16"]


def _compare_values(got: Mapping[str, Any], name: str, expected: Any, tolerance: Any, where: str) -> int:
    if name not in got:
        raise Mismatch(f"{where}: unknown value {name}")
    actual = got[name]
    if name == "bonds" and isinstance(expected, list):
        wanted = {(i, j): bond for i, row in enumerate(expected) for j, bond in row}
        return sum(
            agree(actual.get(pair, 0), wanted.get(pair, 0), tolerance, f"{where}{list(pair)}")
            for pair in sorted({**wanted, **actual})
        )
    if isinstance(expected, dict):
        return sum(
            agree(_at(actual, key), value, tolerance, f"{where}[{key}]") for key, value in expected.items()
        )
    return agree(actual, expected, tolerance, where)


def _at(values: Any, key: str) -> Any:
    """Value at "uid", or at "i,j" of a matrix."""
    index = tuple(int(part) for part in key.split(","))
    return values.get(index, 0) if isinstance(values, dict) else values[index[0]]


_TERM = re.compile(r"^([a-z_0-9]+)\[([0-9]+(?:,[0-9]+)?)\]$")
_COMPARISON = re.compile(r"^(.+?)\s*(==|!=|>=|<=|>|<)\s*(.+)$")


def _check_property(text: str, got: Mapping[str, Any], where: str) -> None:
    """A comparison of two terms, each `name[uid]` or a number."""
    match = _COMPARISON.match(text.strip())
    if not match:
        raise Mismatch(f"{where}: unknown property {text!r}")
    left, relation, right = _term(match[1], got, where), match[2], _term(match[3], got, where)
    holds = {
        "==": left == right, "!=": left != right, ">": left > right, "<": left < right, ">=": left >= right,
        "<=": left <= right,
    }
    if not holds[relation]:
        raise Mismatch(f"{where}: {text} does not hold ({left} against {right})")


def _term(text: str, got: Mapping[str, Any], where: str) -> Fraction:
    match = _TERM.match(text.strip())
    if match and match[1] in got:
        return Fraction(_at(got[match[1]], match[2]))
    try:
        return Fraction(text.strip())
    except ValueError:
        raise Mismatch(f"{where}: unknown term {text!r}") from None


# --- histories ---------------------------------------------------------------------------------------------------


def replay_history(case: Case) -> int:
    """A case with `steps`; returns the number of values compared."""
    body = case.body
    subnet = Subnet(body["n"], {**case.defaults, **body.get("params", {})})
    subnet.stake = [int(stake) for stake in body["stake"]]
    subnet.registered_at = list(body["block_at_registration"])
    subnet.updated_at = _fitted(body["last_update"], subnet.registered_at)
    subnet.permit = _fitted(body.get("validator_permits", []), subnet.permit)
    subnet.weights = [[(j, w) for j, w in row] for row in body.get("weights", subnet.weights)]
    subnet.bonds = [[(j, b) for j, b in row] for row in body.get("bonds", subnet.bonds)]
    return sum(_step(subnet, step, f"step {index}") for index, step in enumerate(body["steps"]))


def _fitted(values: list[Any], otherwise: list[Any]) -> list[Any]:
    """One value per uid: the peer's lists may be longer or shorter than the subnet."""
    return [*values, *otherwise[len(values) :]][: len(otherwise)]


def _step(subnet: Subnet, step: Mapping[str, Any], where: str) -> int:
    kind = step["op"]
    if kind == "epoch":
        return compare_epoch(subnet.run_epoch(step["block"], step["emission"]), step, where)
    uid = step["uid"]
    if kind == "set_weights":
        subnet.set_weights(uid, step["block"], [(j, w) for j, w in step["weights"]])
    elif kind == "set_weights_raw":
        block = step.get("last_update", step.get("block", subnet.updated_at[uid]))
        subnet.set_stored_weights(uid, block, [(j, w) for j, w in step["weights"]])
    elif kind == "replace":
        subnet.replace(uid, step["block"], step.get("stake"))
    elif kind == "set_stake":
        subnet.stake[uid] = int(step["stake"])
    elif kind == "set_commit_block":
        subnet.open_commit[uid] = step["block"]
    elif kind == "reset_bonds":
        subnet.reset_bonds(uid)
    else:
        raise Mismatch(f"{where}: unknown operation {kind}")
    return 0


# --- random subnets ----------------------------------------------------------------------------------------------


def replay_events(case: Case) -> int:
    """A random subnet: its events, every epoch, and the bonds after the last one."""
    body = case.body
    subnet = Subnet(body["n"], {**case.defaults, **body.get("params", {})})
    subnet.stake = [int(stake) for stake in body["stake"]]
    subnet.registered_at = list(body["reg"])
    subnet.updated_at = list(body["reg"])
    emission = body["emission"]
    tolerance = dict(body.get("tolerance", {}))
    if "emission_rel" in tolerance:
        tolerance["emission"] = 1 + tolerance.pop("emission_rel") * emission
    expected: Iterator[Any] = iter(body["epochs"])
    count, last = 0, None
    for index, event in enumerate(body["events"]):
        kind = event[0]
        if kind == "e":
            last = subnet.run_epoch(event[1], emission)
            stated = _flags(next(expected))
            count += compare_epoch(last, {"exact": stated, "tolerance": tolerance}, f"epoch in block {event[1]}")
        elif kind == "w":
            subnet.set_weights(event[1], event[2], [(j, w) for j, w in event[3]])
        elif kind == "r":
            subnet.replace(event[1], event[2], event[3])
        elif kind == "s":
            subnet.stake[event[1]] = int(event[2])
        else:
            raise Mismatch(f"event {index}: unknown event {kind}")
    if next(expected, None) is not None:
        raise Mismatch("more epochs are stated than events run")
    if last is not None and "bonds_last" in body:
        rows = [
            [[j, bond] for j, bond in zip(columns, values, strict=True)]
            for columns, values in zip(body["bonds_last"], body["bonds_last_value"], strict=True)
        ]
        count += compare_epoch(last, {"exact": {"bonds": rows}, "tolerance": tolerance}, "bonds after the last epoch")
    return count


def _flags(stated: Mapping[str, Any]) -> dict[str, Any]:
    """Permits and activity come as texts of 0 and 1."""
    return {
        name: [letter == "1" for letter in values] if isinstance(values, str) else values
        for name, values in stated.items()
    }
