"""Two teams share a subnet: how useful must the honest team's miners be so that an honest majority keeps its stake?

The tables of the incumbent's description of its consensus (subtensor, docs/consensus.md), replayed on this chain's epoch.
Honest validators give each team's miners what they are worth (utility U to their own team's, the rest to the other's),
each weight off by the noise. The cabal puts a fraction of its weight on its own miners; of all fractions tried the one
counts that hurts most. The honest team keeps its stake where its pay is at least its share of the stake. Bonds are
classic; the penalty says how far a bond follows the clipped weight (1) or the weight as it was sent (0).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from runtime.trace import EpochParams
from tools.lab.frame import Run, experiment
from tools.lab.votes import Subnet, share_of

if TYPE_CHECKING:
    from tools.lab.votes import Matrix

NOISES = (0.0, 0.2, 0.4)
TEAM_VALIDATORS, TEAM_MINERS = 32, 224  # 64 validators and 448 miners: 512 neurons
SELF_WEIGHTS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
PUBLISHED = (60, 67, 73)  # per cent, at 60 % of the stake and full penalty
WITHOUT_PENALTY = (64, 72, 79)
POINT = 1  # how many points of 100 the seeds may move a figure
WORTHLESS = 1e-4  # shortfall of the honest share that rounding explains
STEP = 0.004


@experiment("yuma-tables", about="how useful honest miners must be for an honest majority to keep its stake", seconds=30)
@click.option("--worlds", type=click.IntRange(1, 64), default=2, show_default=True, help="Random weights that are averaged.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the noise.")
def yuma_tables(run: Run, worlds: int, seed: int) -> None:
    """Search the least utility for each setting and compare it with what was published."""
    seeds = range(seed, seed + worlds)
    settings = [(0.6, noise, penalty, 0.5) for penalty in (1.0, 0.0) for noise in NOISES]
    found = [least_utility(*setting, seeds) for setting in run.track(settings, "60 % of the stake")]
    for expected, (_, noise, penalty, _), measured in zip((*PUBLISHED, *WITHOUT_PENALTY), settings, found, strict=True):
        off = None if measured is None else abs(round(100 * measured) - expected)
        run.at_most(f"60 % honest, noise {noise}, penalty {penalty:.0f}: points from {expected} %", off, POINT, "of 100")
    others = {
        "kappa 0.6, 55 % honest": (0.55, 0.2, 1.0, 0.6), "kappa 0.4, 55 % honest": (0.55, 0.2, 1.0, 0.4),
        "kappa 0.5, 51 % honest": (0.51, 0.2, 1.0, 0.5),
    }
    rest = {name: least_utility(*setting, seeds) for name, setting in run.track(tuple(others.items()), "other kappas")}
    run.at_least("kappa 0.6 protects nobody below 60 %: utility needed", rest["kappa 0.6, 55 % honest"] or 1.0, 0.99, "of 1")
    for name, expected in (("kappa 0.4, 55 % honest", 90), ("kappa 0.5, 51 % honest", 72)):
        value = rest[name]
        off = None if value is None else abs(round(100 * value) - expected)
        run.at_most(f"{name}, noise 0.2: points from {expected} %", off, POINT, "of 100")
    run.figure("least_utility", [
        {"honest": share, "noise": noise, "penalty": penalty, "kappa": kappa, "utility": value}
        for (share, noise, penalty, kappa), value in zip((*settings, *others.values()), (*found, *rest.values()), strict=True)
    ])
    run.figure("known_limit", "noise 0.4: a cabal with 40 % of the stake and 30 % of the utility grows")


def least_utility(honest: float, noise: float, penalty: float, kappa: float, seeds: Sequence[int]) -> float | None:
    """The least utility (0.5 to 1, within STEP) that lets the honest team keep `honest` of the stake; None if none does."""
    low, high = 0.5, 1.0
    if not keeps(honest, high, noise, penalty, kappa, seeds):
        return None
    while high - low > STEP:
        middle = (low + high) / 2
        low, high = (low, middle) if keeps(honest, middle, noise, penalty, kappa, seeds) else (middle, high)
    return round(high, 3)


def keeps(honest: float, utility: float, noise: float, penalty: float, kappa: float, seeds: Sequence[int]) -> bool:
    """Whether the honest team's pay is its share of the stake whatever weight the cabal gives itself."""
    return all(
        sum(honest_pay(honest, utility, noise, penalty, kappa, own, seed) for seed in seeds) / len(seeds) >= honest - WORTHLESS
        for own in (*SELF_WEIGHTS, 1 - utility)
    )


def honest_pay(honest: float, utility: float, noise: float, penalty: float, kappa: float, own: float, seed: int) -> float:
    """The honest team's part of one epoch's pot; `own`: the part of its weight that the cabal gives to itself."""
    import numpy as np

    team = range(TEAM_VALIDATORS)
    stake = np.repeat([honest, 1 - honest], TEAM_VALIDATORS) / TEAM_VALIDATORS
    params = EpochParams(
        kappa=round(kappa * 65535), bonds_penalty=round(penalty * 65535), yuma3=False, max_validators=2 * TEAM_VALIDATORS,
    )
    trace = Subnet(stake, 2 * TEAM_MINERS, params).play(rows(utility, own, noise, seed))
    return share_of(trace, team, range(TEAM_MINERS), 2 * TEAM_VALIDATORS)


def rows(utility: float, own: float, noise: float, seed: int) -> Matrix:
    """Weights of both teams, honest ones first: each weight times a normal factor around one."""
    import numpy as np

    worth = np.repeat([[utility, 1 - utility], [1 - own, own]], TEAM_VALIDATORS, axis=0)
    weights = np.repeat(worth, TEAM_MINERS, axis=1) / TEAM_MINERS
    off = 1 + noise * np.random.default_rng(seed).standard_normal(weights.shape)
    return np.asarray(weights * np.maximum(0, off))
