"""Does it pay to copy? One validator of twenty measures nothing and sends the subnet's consensus of some epochs ago.

The miners' quality is a random walk, honest validators measure it with an error. Without commit-reveal a copier sees the
present weights (delay 0); with it, those of the epoch that was revealed last (delay 1 or more). Compared is the copier's
dividend with the mean of the honest ones; above 1 copying pays more than measuring. The chain's default is Yuma 3 without
bonds penalty, the only one of the four that never pays a copier more; classic bonds under commit-reveal pay for stale
weights. That a reveal cannot be inherited with a uid is shown elsewhere: commits are bound to the registration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from runtime.trace import EpochParams
from tools.lab.frame import Run, experiment
from tools.lab.votes import Subnet

if TYPE_CHECKING:
    from tools.lab.votes import Matrix

VALIDATORS, MINERS = 20, 64
COPIER = VALIDATORS - 1
SCORING_NOISE = 0.15
DRIFTS = (0.0, 0.03, 0.1, 0.25)  # sd of a step of the logarithm of quality, an epoch
DELAYS = (0, 1, 3)
RULES = {
    "Yuma 3": EpochParams(), "Yuma 3, penalty 1": EpochParams(bonds_penalty=65535),
    "Yuma 3, liquid alpha": EpochParams(liquid_alpha=True, alpha_low=6554, alpha_high=58982),
    "classic": EpochParams(yuma3=False), "classic, penalty 1": EpochParams(yuma3=False, bonds_penalty=65535),
}
DEFAULT = "Yuma 3"
WARM_UP = 20
NEVER_MORE = 1.002
COPYING_PAYS = 1.05


@experiment("copier", about="what a validator earns that copies the consensus, against the delay of reveals", seconds=60)
@click.option("--epochs", type=click.IntRange(40, 10_000), default=120, show_default=True, help="Of each subnet.")
@click.option("--worlds", type=click.IntRange(1, 100), default=3, show_default=True, help="Random subnets that are averaged.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of quality and noise.")
def copier(run: Run, epochs: int, worlds: int, seed: int) -> None:
    """Play every rule, delay and drift, and report the copier's dividend over the honest mean."""
    cases = [(rule, delay, drift) for rule in RULES for delay in DELAYS for drift in DRIFTS]
    paid = {
        case: sum(advantage(*case, epochs, world) for world in range(seed, seed + worlds)) / worlds
        for case in run.track(cases, "subnets")
    }
    revealed = [paid[DEFAULT, delay, drift] for delay in DELAYS[1:] for drift in DRIFTS]
    run.at_most("default rules with commit-reveal, at the worst", max(revealed), NEVER_MORE, "of honest")
    run.at_most("default rules, delay 1, drift 0.1", paid[DEFAULT, 1, 0.1], 0.99, "of honest")
    run.at_most("default rules, delay 3, drift 0.25", paid[DEFAULT, 3, 0.25], 0.95, "of honest")
    stale, unhidden = paid["classic", 3, 0.1], paid["Yuma 3, penalty 1", 0, 0.0]
    run.at_least("control: classic bonds pay for stale weights, delay 3, drift 0.1", stale, COPYING_PAYS, "of honest")
    run.at_least("control: a bonds penalty without commit-reveal", unhidden, COPYING_PAYS, "of honest")
    run.figure("dividend_over_honest", [_row(rule, delay, paid) for rule in RULES for delay in DELAYS])


def _row(rule: str, delay: int, paid: dict[tuple[str, int, float], float]) -> dict[str, Any]:
    return {"rule": rule, "delay": delay, **{f"drift {drift}": round(paid[rule, delay, drift], 3) for drift in DRIFTS}}


def advantage(rule: str, delay: int, drift: float, epochs: int, seed: int) -> float:
    """The copier's dividends over the mean of the honest validators', after the warm-up."""
    import numpy as np

    rng = np.random.default_rng([seed, round(1000 * drift)])
    subnet = Subnet(np.full(VALIDATORS, 1 / VALIDATORS), MINERS, RULES[rule])
    quality = rng.random(MINERS)
    past: list[Matrix] = []
    copied = honest = 0
    for epoch in range(epochs):
        quality = np.clip(quality + drift * rng.standard_normal(MINERS), 0, 1)
        weights = quality * np.maximum(0, 1 + SCORING_NOISE * rng.standard_normal((VALIDATORS, MINERS)))
        weights /= weights.sum(axis=1, keepdims=True)
        seen = [*past[-delay:], weights[:COPIER]][0] if delay else weights[:COPIER]
        weights[COPIER] = np.median(seen, axis=0)
        past.append(weights[:COPIER].copy())
        trace = subnet.play(weights)
        if epoch >= WARM_UP:
            copied += trace.validator_rao[COPIER]
            honest += sum(trace.validator_rao[:COPIER])
    return copied * COPIER / honest
