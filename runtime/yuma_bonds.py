"""How bonds move (1.9): towards what, and how fast for each pair of a validator and a miner.

A row of the matrices is a list of (uid, value) sorted by uid; a missing entry is 0. Values are Q32.

Rules: EPO-9 classic bonds · EPO-10 bonds of Yuma 3 · EPO-11 liquid alpha
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from .fixed import HALF, ONE, clamp, fmul, from_ppm, from_u16, fsigmoid
from .rows import Row, Rows

if TYPE_CHECKING:
    from .trace import EpochParams

STEEPNESS_UNIT: Final = 100

Alphas = int | Sequence[Mapping[int, int]]  # one for all, or one per row and uid


def bond_target(bond_weights: Rows, active_stake: Sequence[int], *, yuma3: bool) -> Rows:
    """1.9: what the bonds move towards: the weights, or with classic bonds each one's part of all stake-weighted votes."""
    if yuma3:
        return bond_weights
    return column_normalised(scaled_rows(bond_weights, active_stake), len(active_stake))


def bond_alphas(params: EpochParams, before: Rows, target: Rows, bond_weights: Rows, agreed: Sequence[int]) -> Alphas:
    """1.9b: how much of the target a bond takes on in this epoch; `agreed` is the consensus by uid."""
    if not (params.liquid_alpha and any(agreed)):
        return ONE - from_ppm(params.bonds_moving_average)
    low, high = from_u16(params.alpha_low), from_u16(params.alpha_high)
    return liquid_alphas(before, target, bond_weights, agreed, low, high, params.alpha_steepness)


def scaled_rows(rows: Rows, factors: Sequence[int]) -> Rows:
    """1.9a: each row times its validator's raw stake."""
    return [[(j, value * factor) for j, value in row] for row, factor in zip(rows, factors)]


def column_normalised(rows: Rows, n: int) -> Rows:
    """1.9a: each entry as a Q32 share of its column's sum."""
    totals = [0] * n
    for row in rows:
        for j, value in row:
            totals[j] += value
    return [[(j, (value << 32) // totals[j] if totals[j] else 0) for j, value in row] for row in rows]


def liquid_alphas(
    before: Rows, target: Rows, bond_weights: Rows, agreed: Sequence[int], low: int, high: int, steepness: int
) -> list[dict[int, int]]:
    """1.9b: an alpha for every entry that exists before or in the target."""
    out: list[dict[int, int]] = []
    for old, new, weights in zip(before, target, bond_weights):
        was, wanted, weight = dict(old), dict(new), dict(weights)
        out.append({
            j: liquid_alpha(weight.get(j, 0), was.get(j, 0), agreed[j], low, high, steepness)
            for j in merged(was, wanted)
        })
    return out


def liquid_alpha(weight: int, bond: int, agreed: int, low: int, high: int, steepness: int) -> int:
    """1.9b: faster for a weight above the consensus, or one withdrawn; a sigmoid between `low` and `high` (all Q32)."""
    distance = clamp(weight - agreed if weight >= bond else bond - weight, 0, ONE)
    slope = fsigmoid(steepness * (distance - HALF) // STEEPNESS_UNIT)
    return clamp(low + fmul(slope, high - low), low, high)


def ema_rows(before: Rows, target: Rows, alpha: Alphas) -> Rows:
    """1.9: alpha * target + (1 - alpha) * before, at most 1, over the union of both rows: what is left out decays.

    `alpha` is one Q32 number, or one mapping per row with an entry for every uid of both rows. Zeros are dropped.
    """
    out: list[Row] = []
    for i, (old, new) in enumerate(zip(before, target)):
        was, wanted = dict(old), dict(new)
        row = []
        for j in merged(was, wanted):
            part = alpha if isinstance(alpha, int) else alpha[i][j]
            value = min(ONE, fmul(part, wanted.get(j, 0)) + fmul(ONE - part, was.get(j, 0)))
            if value:
                row.append((j, value))
        out.append(row)
    return out


def merged(first: Mapping[int, int], second: Mapping[int, int]) -> list[int]:
    """Ascending uids of either row."""
    return list(first) if first.keys() == second.keys() else sorted({**first, **second})
