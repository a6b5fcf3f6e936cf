"""Relays: is an expert's answer no more than a mixture of what others answer?

The hull residual of an expert is the least Kullback-Leibler divergence, in bits per byte, of its answers from any mixture
of others and the null expert: 0 for whoever blends its peers, above 1.5 for experts that know something of their own,
above 0.5 between two that learned the same with other luck. It is taken twice: over mixtures of at most three others,
which a discount up to 0.05 bits applies to, and over mixtures of many, where only what is an exact blend to the
coarseness of answers is found out (a blend of answers that name 32 bytes each would name more than 32, but may not).
Who may be held against whom is not decided here (see `conduct`). Pure.

The mixture's weights are found by expectation maximisation; of many candidates, those are taken one after the other
that improve the mixture most.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from .mixture import NULL_PROBABILITY, Floats

EM_STEPS: Final = 40
SEARCH_STEPS: Final = 8  # while candidates are being looked for
COUNTED_WEIGHT: Final = 0.01  # who has less of the mixture is not named


@dataclass(frozen=True)
class Hull:
    """Mixtures of at most `mixed` others. Nothing is paid up to a residual of `none_bits`, all from `full_bits`."""

    mixed: int
    none_bits: float
    full_bits: float

    def factor(self, bits: float) -> float:
        """Which part of its value an expert with this residual is paid, 0..1."""
        return min(1.0, max(0.0, (bits - self.none_bits) / (self.full_bits - self.none_bits)))


FEW: Final = Hull(mixed=3, none_bits=0.01, full_bits=0.05)
MANY: Final = Hull(mixed=16, none_bits=0.04, full_bits=0.08)


def residual(own: Floats, others: Floats, mixed: int = FEW.mixed) -> tuple[float, list[int]]:
    """(bits per byte, indices of the others in it) of the nearest mixture of at most `mixed` others and the null expert.

    `own` (positions, 256) and `others` (k, positions, 256): floored probabilities. Infinite where there are no others.
    """
    if not len(others) or not len(own):
        return float("inf"), []
    own_bits = float((own * np.log2(own)).sum() / len(own))
    flat, target = others.reshape(len(others), -1), own.ravel()
    chosen = _candidates(target, flat, 2 * mixed)
    weights = _weights(target, flat[chosen], EM_STEPS)
    if len(chosen) > mixed:
        chosen = [chosen[i] for i in np.argsort(-weights, kind="stable")[:mixed]]
        weights = _weights(target, flat[chosen], EM_STEPS)
    bits = own_bits - float((target * np.log2(_mixed(weights, flat[chosen]))).sum() / len(own))
    return max(0.0, bits), [i for i, weight in zip(chosen, weights, strict=True) if weight >= COUNTED_WEIGHT]


def _candidates(target: Floats, flat: Floats, count: int) -> list[int]:
    """Who may be part of the nearest mixture: all where they are few, else the steepest ascent's choice, one by one."""
    if len(flat) <= count:
        return list(range(len(flat)))
    chosen = [int(np.argmax(np.log2(flat) @ target))]
    while len(chosen) < count:
        gains = flat @ (target / _mixed(_weights(target, flat[chosen], SEARCH_STEPS), flat[chosen]))
        gains[chosen] = -np.inf
        chosen.append(int(np.argmax(gains)))
    return chosen


def _weights(target: Floats, flat: Floats, steps: int) -> Floats:
    """Weights of `flat` (the null expert has the rest) in the mixture that is nearest to `target`, after so many steps."""
    parts = np.concatenate([flat, np.full((1, flat.shape[1]), NULL_PROBABILITY)])
    weights = np.full(len(parts), 1.0 / len(parts))
    for _ in range(steps):
        weights = weights * (parts @ (target / (weights @ parts)))
        weights /= weights.sum()
    found: Floats = weights[:-1]
    return found


def _mixed(weights: Floats, flat: Floats) -> Floats:
    mixture: Floats = weights @ flat + (1.0 - weights.sum()) * NULL_PROBABILITY
    return mixture
