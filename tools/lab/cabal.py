"""What does a cabal gain in a subnet by any way of voting that we know, beyond what honest voting would pay it?

Twenty validators, forty miners, constant stakes, the chain's own epoch with its default rules. The cabal has a part of the
stake and eight miners of a fifth of the usual quality. Honest validators measure quality with an error. Strategies:

    inflate   a part of each row goes to the own miners (13 parts from 0.02 to 1; with 1 it is *all-in*)
    pulse     all-in in epochs in which the cabal predicts a majority of the stake that votes, else honest
    reset     all-in for four epochs, then the stake moves to fresh hotkeys, which do not vote in the epoch they wait
    pump      the row piles up on the own miners and on few others, which hold 50, 67 or 80 % of the merit

Reported is the *excess*: the best strategy's part of the whole pot less honest voting's, averaged over epochs and worlds.
It is a lower bound of what an attacker can do. Below half of the stake it has to be small. Above half plain Yuma belongs
to the cabal; the experiment says so instead of hiding it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from runtime.trace import EpochParams
from tools.lab.frame import Run, experiment
from tools.lab.votes import Subnet, share_of

if TYPE_CHECKING:
    import numpy as np

    from tools.lab.votes import Matrix

VALIDATORS, MINERS, OWN_MINERS = 20, 40, 8
POOR_QUALITY = 0.2
SCORING_NOISE = 0.25  # sd of the logarithm
STAKES = (0.1, 0.2, 0.3, 0.4, 0.45, 0.55, 0.6, 0.7)
INFLATIONS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 0.85, 1.0)
PUMPED_MERIT = (0.5, 0.67, 0.8)
RESET_EPOCHS = 4
HALF = 0.5
EXCESS_BELOW_HALF = 0.02
CAPTURED = 0.95

Rows = Callable[["World", "Matrix", int], "Matrix"]  # (world, honest rows of the cabal, epoch) -> what the cabal sends


@dataclass(frozen=True)
class World:
    """One subnet. The cabal has validators `first`.. and miners 0..OWN_MINERS-1; `twins`: a second set of its hotkeys."""

    part: float
    quality: Matrix
    stake: Matrix
    first: int
    twins: bool

    @property
    def cabal(self) -> range:
        return range(self.first, len(self.stake))


@experiment("cabal", about="what a cabal gains by inflation, pulses, resets, pumping and all-in, for 10 to 70 % of the stake",
            seconds=120)
@click.option("--epochs", type=click.IntRange(20, 10_000), default=100, show_default=True, help="Of each subnet.")
@click.option("--warm-up", type=click.IntRange(0), default=40, show_default=True, help="Epochs that do not count.")
@click.option("--worlds", type=click.IntRange(1, 100), default=1, show_default=True, help="Random subnets that are averaged.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of qualities and noise.")
def cabal(run: Run, epochs: int, warm_up: int, worlds: int, seed: int) -> None:
    """Play every strategy at every stake."""
    if warm_up >= epochs:
        raise click.UsageError("the warm-up leaves no epoch to count")
    seeds = range(seed, seed + worlds)
    table: list[dict[str, Any]] = []
    for part in run.track(STAKES, "stakes"):
        shares = {
            name: sum(share(part, name, rows, epochs, warm_up, world) for world in seeds) / worlds
            for name, rows in strategies().items()
        }
        honest = shares.pop("honest")
        best = max(shares, key=shares.__getitem__)
        excess = shares[best] - honest
        if part < HALF:
            run.at_most(f"excess with {part:.0%} of the stake", excess, EXCESS_BELOW_HALF, "of the pot")
        else:
            run.at_least(f"captured: all-in with {part:.0%} of the stake takes", shares["inflate 1.0"], CAPTURED, "of the pot")
        table.append({
            "stake": part, "honest": honest, "all-in": shares["inflate 1.0"], "inflate": _best(shares, "inflate"),
            "pulse": shares["pulse"], "reset": shares["reset"], "pump": _best(shares, "pump"), "best": best, "excess": excess,
        })
    run.figure("part_of_the_pot", [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()} for row in table
    ])
    run.figure("verdict", "plain Yuma: below half of a subnet's stake voting otherwise does not pay; above half it takes all")


def _best(shares: dict[str, float], kind: str) -> float:
    return max(value for name, value in shares.items() if name.startswith(kind))


# --- strategies --------------------------------------------------------------------------------------------------


def strategies() -> dict[str, Rows]:
    """Name -> what the cabal sends."""
    known: dict[str, Rows] = {"honest": lambda world, honest, epoch: honest}
    known |= {f"inflate {part}": inflated(part) for part in INFLATIONS}
    known |= {f"pump {merit}": pumped(merit) for merit in PUMPED_MERIT}
    return known | {"pulse": pulsed, "reset": reset}


def inflated(part: float) -> Rows:
    """That part of each row goes to the own miners, by their number."""
    def rows(world: World, honest: Matrix, epoch: int) -> Matrix:
        mixed = (1 - part) * honest
        mixed[:, :OWN_MINERS] += part / OWN_MINERS
        return mixed
    return rows


def pumped(merit: float) -> Rows:
    """Only the own miners and the best others count, so many that together they hold this part of the merit."""
    def rows(world: World, honest: Matrix, epoch: int) -> Matrix:
        import numpy as np

        order = [int(uid) for uid in np.argsort(-world.quality) if uid >= OWN_MINERS]
        held, kept = float(world.quality[:OWN_MINERS].sum()), list(range(OWN_MINERS))
        for uid in order:
            if held >= merit:
                break
            kept.append(uid)
            held += float(world.quality[uid])
        piled = np.zeros_like(honest)
        piled[:, kept] = honest[:, kept]
        return np.asarray(piled / piled.sum(axis=1, keepdims=True))
    return rows


def pulsed(world: World, honest: Matrix, epoch: int) -> Matrix:
    """All-in if the cabal outvotes the rest, else honest."""
    return inflated(1.0)(world, honest, epoch) if world.part > HALF else honest


def reset(world: World, honest: Matrix, epoch: int) -> Matrix:
    """All-in by the set of hotkeys that holds the stake now; while it moves nobody of the cabal votes."""
    rows = inflated(1.0)(world, honest, epoch)
    half, turn = len(world.cabal) // 2, epoch // RESET_EPOCHS % 2
    rows[half * (1 - turn) : half * (2 - turn)] = 0
    if epoch % RESET_EPOCHS == 0:
        rows[:] = 0
    return rows


# --- worlds ------------------------------------------------------------------------------------------------------


def share(part: float, name: str, rows: Rows, epochs: int, warm_up: int, seed: int) -> float:
    """The cabal's mean part of the pot: its validators' and its miners'."""
    import numpy as np

    rng = np.random.default_rng([seed, round(100 * part)])
    world = arranged(part, rng, twins=name == "reset")
    subnet = Subnet(world.stake, MINERS, EpochParams())
    taken = 0.0
    for epoch in range(epochs):
        noise = np.exp(SCORING_NOISE * rng.standard_normal((VALIDATORS, MINERS)))
        weights = world.quality * noise
        weights /= weights.sum(axis=1, keepdims=True)
        own = weights[world.first : VALIDATORS]
        said = np.concatenate([weights[: world.first], rows(world, np.concatenate([own, own]) if world.twins else own, epoch)])
        if world.twins:
            subnet.stake = moved(world, epoch)
        trace = subnet.play(said)
        if epoch >= warm_up:
            taken += share_of(trace, world.cabal, range(OWN_MINERS), len(world.stake))
    return taken / (epochs - warm_up)


def arranged(part: float, rng: np.random.Generator, twins: bool) -> World:
    """Qualities and stakes of one world. The cabal's validators are as many of twenty as its part of the stake."""
    import numpy as np

    quality = np.exp(0.1 * rng.standard_normal(MINERS))
    quality[:OWN_MINERS] *= POOR_QUALITY
    members = max(1, round(part * VALIDATORS))
    own = np.full(members, part / members)
    others = np.full(VALIDATORS - members, (1 - part) / (VALIDATORS - members))
    stake = np.concatenate([others, own, own] if twins else [others, own])
    return World(part, quality / quality.sum(), stake, VALIDATORS - members, twins)


def moved(world: World, epoch: int) -> Matrix:
    """Stakes while the cabal's stake goes to and fro between its two sets of hotkeys; stake on the way is with nobody."""
    stake = world.stake.copy()
    half, turn = len(world.cabal) // 2, epoch // RESET_EPOCHS % 2
    idle = world.first + half * (1 - turn)
    stake[idle : idle + half] = 0
    if epoch % RESET_EPOCHS == 0:
        stake[world.first :] = 0
    return stake
