"""Generated graphs (validators that all weigh every other uid alike) and guarantees of consensus."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from runtime.trace import EpochTrace
from tools.lab.replay.cases import Case, Mismatch
from tools.lab.replay.compare import agree
from tools.lab.replay.epochs import Subnet, outputs

GENERATOR_PARAMS = (
    "max_validators", "tempo", "bonds_penalty", "kappa", "bonds_moving_average", "activity_cutoff", "stake_threshold",
    "yuma3", "liquid_alpha", "alpha_low", "alpha_high", "alpha_sigmoid_steepness", "owner_uid",
)
SHARE_TOLERANCE = Fraction(1, 100_000)  # shares are stated with six digits
GUARANTEE_EMISSION_RAO = 10**12
GUARANTEE_BLOCK = 1


def replay_graph(case: Case) -> int:
    """A generated graph: what every validator and every server gets after the last epoch."""
    body, generator = case.body, case.body["generator"]
    params = {name: generator[name] for name in GENERATOR_PARAMS if name in generator}
    subnet = Subnet(body["n"], {**case.defaults, **params})
    chosen = _validators(generator["validators"], subnet.size)
    judges = dict.fromkeys(chosen)
    servers = [uid for uid in range(subnet.size) if uid not in judges]
    stake, other = int(generator["stake_per_validator"]), int(generator.get("other_stake", 0))
    subnet.stake = [stake if uid in judges else other for uid in range(subnet.size)]
    subnet.registered_at = [generator["block_at_registration"]] * subnet.size
    subnet.updated_at = list(subnet.registered_at)
    if "permits_from" in generator:
        subnet.run_epoch(_first_block(generator["permits_from"]), body["emission"])
    _set_graph_weights(subnet, generator, chosen, servers)
    subnet.updated_at = [generator["last_update"]] * subnet.size
    trace = None
    for block in generator["epochs"]:
        trace = subnet.run_epoch(block, body["emission"])
    if trace is None:
        raise Mismatch("no epoch is stated")
    return _compare_graph(trace, body, chosen, servers)


def _validators(rule: Any, n: int) -> list[int]:
    if isinstance(rule, list):
        return rule
    count = rule["v"]
    if rule["rule"] == "first v uids":
        return list(range(count))
    if rule["rule"] == "every n/v-th uid":
        return [index * n // count for index in range(count)]
    raise Mismatch(f"unknown rule for validators: {rule['rule']!r}")


def _first_block(text: str) -> int:
    match = re.fullmatch(r"one epoch at block (\d+) without weights", text)
    if not match:
        raise Mismatch(f"unknown origin of permits: {text!r}")
    return int(match[1])


def _set_graph_weights(subnet: Subnet, generator: Mapping[str, Any], judges: list[int], servers: list[int]) -> None:
    match = re.fullmatch(r"every non-validator uid, value (\d+)", generator["validator_weights"])
    if not match:
        raise Mismatch(f"unknown weights of validators: {generator['validator_weights']!r}")
    value, block = int(match[1]), generator["last_update"]
    for uid in judges:
        subnet.set_weights(uid, block, [(j, value) for j in servers])
    rule = generator.get("server_weights", "none")
    own = re.fullmatch(r"self weight (\d+)", rule)
    if own:
        for uid in servers:
            subnet.set_weights(uid, block, [(uid, int(own[1]))])
    elif rule != "none":
        raise Mismatch(f"unknown weights of servers: {rule!r}")


def _compare_graph(trace: EpochTrace, body: Mapping[str, Any], judges: list[int], servers: list[int]) -> int:
    got, tolerance = outputs(trace), body["tolerance"]
    count = 0
    for stated, uids in (("expect_each_validator", judges), ("expect_each_server", servers)):
        for name, expected in body.get(stated, {}).items():
            unit = "emission" if name.endswith("emission") else "u16"
            if name.startswith("bond_to_first_"):
                target = (servers if name.endswith("server") else judges)[0]
                values = [got["bonds"].get((uid, target), 0) for uid in uids]
                unit = "bonds_u16" if "bonds_u16" in tolerance else "u16"
            elif name in got:
                values = [got[name][uid] for uid in uids]
            else:
                raise Mismatch(f"{stated}: unknown value {name}")
            count += agree(values, [expected] * len(uids), tolerance[unit], f"{stated} {name}")
    return count


# --- guarantees --------------------------------------------------------------------------------------------------


def replay_guarantee(case: Case) -> int:
    """The majority's share of the pay is at least its share of the stake; and it is the stated one."""
    body = case.body
    if not body["property"].startswith("emission share of major_uids >= major_stake"):
        raise Mismatch(f"unknown property {body['property']!r}")
    subnet = Subnet(body["n"], {**case.defaults, **body.get("params", {})})
    subnet.stake = [int(stake) for stake in body["stake"]]
    subnet.permit = [uid < body["validators"] for uid in range(subnet.size)]
    for uid, row in body["weights"].items():
        subnet.set_weights(int(uid), GUARANTEE_BLOCK, [(j, w) for j, w in row])
    trace = subnet.run_epoch(GUARANTEE_BLOCK, GUARANTEE_EMISSION_RAO)
    pay = trace.pay_rao
    share = Fraction(sum(pay[uid] for uid in body["major_uids"]), GUARANTEE_EMISSION_RAO)
    if share < body["major_stake"] - Fraction(1, 10**6):
        raise Mismatch(f"the majority gets {float(share):.6f} of the pay with {float(body['major_stake'])} of the stake")
    return 1 + (agree(share, body["share"], SHARE_TOLERANCE, "share") if "share" in body else 0)
