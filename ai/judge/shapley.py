"""Exact Shapley values: what each expert adds to the mixture that serves users (Shapley 1953).

phi_i = sum over coalitions S without i of |S|! (n - |S| - 1)! / n! * (v(S + i) - v(S)). The values sum to v(all): nothing
is invented or lost; copies of one expert share its value; an expert that adds nothing gets nothing. Pure.
"""

from __future__ import annotations

from math import factorial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .mixture import Floats, coalition_values

MAX_EXACT: Final = 12  # 4,096 coalitions


def shapley_values(values: Floats, n: int) -> Floats:
    """phi (n,) of a game given by v (2^n,), coalitions indexed by their bits."""
    if not 0 <= n <= MAX_EXACT or len(values) != 1 << n:
        raise ValueError(f"a game of {n} players needs 2^{n} values and at most {MAX_EXACT} players")
    coalitions = np.arange(1 << n)
    sizes = np.array([bin(c).count("1") for c in coalitions])
    weight = np.array([factorial(s) * factorial(n - s - 1) / factorial(n) if s < n else 0.0 for s in range(n + 1)])
    phi = np.zeros(n)
    for player in range(n):
        without = coalitions[(coalitions >> player) & 1 == 0]
        phi[player] = np.sum(weight[sizes[without]] * (values[without | (1 << player)] - values[without]))
    return phi


def score_batch(hits: Floats, clusters: list[list[int]] | None = None) -> Floats:
    """phi (n,) >= 0 of one batch of probes, in bits per byte.

    `hits` (n, windows, positions): floored probability of the true byte; a missing answer is the null distribution. Each
    cluster of similar experts plays as one player, their average answer, and its value is shared equally inside.
    """
    n = hits.shape[0]
    groups = clusters if clusters is not None else [[i] for i in range(n)]
    if sorted(i for group in groups for i in group) != list(range(n)):
        raise ValueError("clusters must hold each expert once")
    played = np.stack([hits[group].mean(axis=0) for group in groups]) if groups else hits
    phi_groups = shapley_values(coalition_values(played), len(groups))
    phi = np.zeros(n)
    for value, group in zip(phi_groups, groups, strict=True):
        phi[group] = max(0.0, float(value)) / len(group)
    return phi


def to_weights(scores: Floats) -> NDArray[np.int64]:
    """u16 weights: round(65535 x / max x); all zero stays all zero. NaN and infinities count as zero."""
    clean = np.where(np.isfinite(scores) & (scores > 0), scores, 0.0)
    top = clean.max(initial=0.0)
    if top <= 0:
        return np.zeros(len(clean), dtype=np.int64)
    weights: NDArray[np.int64] = np.floor(clean / top * 65535 + 0.5).astype(np.int64)
    return weights


PRIOR_BATCHES: Final = 4
EMA_OLD: Final = 0.9


class ScoreBook:
    """Smoothed scores of one subnet, by hotkey: phi_ema = 0.9 old + 0.1 new, with the count of batches.

    A newcomer is not trusted at once: its score is max(0, mean - sd / k), sd pooled over the subnet with a prior of four
    pseudo-batches; the bound fades as 1/k, without a step.
    """

    def __init__(self) -> None:
        self.mean: dict[bytes, float] = {}
        self.count: dict[bytes, int] = {}
        self.squares: float = 0.0  # pooled squared deviations
        self.deviations: int = 0

    def add(self, phi: dict[bytes, float]) -> None:
        """One batch."""
        for hotkey, value in phi.items():
            count = self.count.get(hotkey, 0)
            if count == 0:
                self.mean[hotkey] = value
            else:
                old = self.mean[hotkey]
                self.squares += (value - old) ** 2
                self.deviations += 1
                # A plain average at first, then the moving one: the first batches count equally.
                rate = max(1.0 - EMA_OLD, 1.0 / (count + 1))
                self.mean[hotkey] = (1.0 - rate) * old + rate * value
            self.count[hotkey] = count + 1

    def scores(self, hotkeys: list[bytes]) -> Floats:
        """Scores in the order of `hotkeys`; unknown ones are 0."""
        level = float(np.mean(list(self.mean.values()))) if self.mean else 0.0
        pooled = (self.squares + PRIOR_BATCHES * (0.2 * level) ** 2) / (self.deviations + PRIOR_BATCHES)
        sd = float(np.sqrt(pooled))
        out = np.zeros(len(hotkeys))
        for i, hotkey in enumerate(hotkeys):
            if hotkey in self.mean:
                out[i] = max(0.0, self.mean[hotkey] - sd / self.count[hotkey])
        return out

    def forget(self, keep: set[bytes]) -> None:
        """Drop hotkeys that are no longer registered."""
        for hotkey in [h for h in self.mean if h not in keep]:
            del self.mean[hotkey], self.count[hotkey]

    def to_value(self) -> list[object]:
        """Plain value for storage; `from_value` restores it."""
        rows = [[h.hex(), self.mean[h], self.count[h]] for h in sorted(self.mean)]
        return [rows, self.squares, self.deviations]

    @classmethod
    def from_value(cls, value: object) -> ScoreBook:
        book = cls()
        if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], list)):
            raise ValueError("not a stored score book")
        for hotkey, mean, count in value[0]:
            book.mean[bytes.fromhex(hotkey)], book.count[bytes.fromhex(hotkey)] = float(mean), int(count)
        book.squares, book.deviations = float(value[1]), int(value[2])
        return book
