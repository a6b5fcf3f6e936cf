"""The fixed-share Bayes mixture: how answers of several experts become one, for users and for the judge's game alike.

Experts give probabilities of the next byte. Each expert has a weight; after a byte is known the weights are multiplied by
the probability that each gave it (Bayes), then a share of 0.02 is spread evenly again (fixed share), so that an expert
that was wrong for long can come back at once. A *null expert* that holds all bytes equally likely always takes part.
Probabilities are mixed, never logits: off its domain a specialist is far worse than a uniform guess.

Pure: numbers in, numbers out. All logarithms are to base 2, all losses bits per byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ALPHABET: Final = 256
SHARE: Final = 0.02
FLOOR: Final = 0.01  # part of every answer that is spread over all bytes: no answer can cost more than 14.7 bits
NULL_PROBABILITY: Final = 1.0 / ALPHABET
CACHE_BYTES: Final = 1 << 18  # weights worked on at a time: they should stay in the processor's cache


def floored(probabilities: Floats) -> Floats:
    """p' = 0.99 p + 0.01 / 256, for probabilities of any shape."""
    return (1.0 - FLOOR) * probabilities + FLOOR / ALPHABET


@dataclass
class Mixture:
    """Running weights of a mixture over named experts and the null expert.

    `weights[name]` and `null` sum to 1.
    """

    weights: dict[str, float]
    null: float

    @classmethod
    def start(cls, prior: dict[str, float]) -> Mixture:
        """Weights proportional to `prior` (non-negative), with one even part for the null expert."""
        if not prior:
            return cls({}, 1.0)
        null = 1.0 / (len(prior) + 1)
        total = sum(prior.values())
        even = (1.0 - null) / len(prior)
        return cls({name: (1.0 - null) * p / total if total > 0 else even for name, p in prior.items()}, null)

    def predict(self, answers: dict[str, Floats]) -> Floats:
        """Probabilities (256,) of the next byte; experts without an answer are left out for this byte."""
        mixed = np.full(ALPHABET, self.null * NULL_PROBABILITY)
        total = self.null
        for name, answer in answers.items():
            mixed += self.weights[name] * floored(answer)
            total += self.weights[name]
        return mixed / total

    def observe(self, byte: int, answers: dict[str, Floats]) -> None:
        """Bayes' rule for the byte that came, then the fixed share. Who did not answer counts as the null expert."""
        posterior = {
            name: weight * (float(floored(answers[name][byte])) if name in answers else NULL_PROBABILITY)
            for name, weight in self.weights.items()
        }
        null = self.null * NULL_PROBABILITY
        total = null + sum(posterior.values())
        even = SHARE / (len(posterior) + 1)
        self.weights = {name: (1.0 - SHARE) * value / total + even for name, value in posterior.items()}
        self.null = (1.0 - SHARE) * null / total + even

    def rejoin(self, prior: dict[str, float], keep: float = 0.5) -> None:
        """Change the experts: those that stay keep part of their weight, the rest follows `prior`."""
        fresh = Mixture.start(prior)
        mixed = {name: keep * self.weights.get(name, 0.0) + (1.0 - keep) * w for name, w in fresh.weights.items()}
        null = keep * self.null + (1.0 - keep) * fresh.null
        total = null + sum(mixed.values())
        self.weights, self.null = {name: w / total for name, w in mixed.items()}, null / total


def coalition_values(hits: Floats) -> Floats:
    """v(S) for every coalition S of n experts: 8 + mean log2 of the mixture's probability of the true byte.

    `hits` (n, windows, positions): probability that each expert gave the true byte, already floored. Returns (2^n,),
    indexed by the bits of S; v of the empty coalition is exactly 0 (the null expert alone).
    """
    n, windows, positions = hits.shape
    total_bits = np.zeros(1 << n)
    members = ((np.arange(1 << n)[None, :] >> np.arange(n)[:, None]) & 1).astype(np.float64)
    members = np.concatenate([members, np.ones((1, 1 << n))])  # the null expert is in every coalition
    even = members / members.sum(axis=0)  # (n + 1, coalitions)
    shared = SHARE * even[:, :, None]
    at_once = max(1, CACHE_BYTES // even.nbytes)
    for first in range(0, windows, at_once):
        part = hits[:, first : first + at_once]
        chances = np.concatenate([part, np.full((1, *part.shape[1:]), NULL_PROBABILITY)])
        weights = np.repeat(even[:, :, None], part.shape[1], axis=2)  # (n + 1, coalitions, windows of this part)
        for position in range(positions):
            weights *= chances[:, None, :, position]
            probability = weights.sum(axis=0)
            total_bits += np.log2(probability).sum(axis=1)
            weights *= (1.0 - SHARE) / probability
            weights += shared
    values: Floats = 8.0 + total_bits / (windows * positions) if windows * positions else np.zeros(1 << n)
    values[0] = 0.0
    return values
