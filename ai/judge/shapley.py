"""Exact Shapley values: what each expert adds to the mixture that serves users (Shapley 1953).

phi_i = sum over coalitions S without i of |S|! (n - |S| - 1)! / n! * (v(S + i) - v(S)). The values sum to v(all): nothing
is invented or lost; copies of one expert share its value; an expert that adds nothing gets nothing. With more than ten
players the game is played in groups of at most eight, drawn anew for every eight windows: nobody asks more experts than
that at once, and nobody can arrange with whom it sits. Pure: randomness comes in as an argument.
"""

from __future__ import annotations

from math import factorial
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .mixture import Floats, coalition_values

MAX_EXACT: Final = 12  # 4,096 coalitions
MAX_AT_ONCE: Final = 10  # players in one exact game of a batch
GROUP_PLAYERS: Final = 8
GROUP_WINDOWS: Final = 8


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


def score_batch(hits: Floats, clusters: list[list[int]] | None = None, random: Random | None = None) -> Floats:
    """phi (n,) >= 0 of one batch of probes, in bits per byte.

    `hits` (n, windows, positions): floored probability of the true byte; a missing answer is the null distribution. Each
    cluster of similar experts plays as one player, their average answer, and its value is shared equally inside. Who is
    in no cluster does not play. `random` draws the groups where there are more than ten players.
    """
    n = hits.shape[0]
    players = clusters if clusters is not None else [[i] for i in range(n)]
    playing = [i for player in players for i in player]
    if len(set(playing)) != len(playing) or not set(playing) <= set(range(n)) or not all(players):
        raise ValueError("clusters must hold an expert once at most")
    phi = np.zeros(n)
    if not players:
        return phi
    played = np.stack([hits[player].mean(axis=0) for player in players])
    values = _all_at_once(played) if len(players) <= MAX_AT_ONCE else _in_groups(played, random or Random(0))
    for value, player in zip(values, players, strict=True):
        phi[player] = max(0.0, float(value)) / len(player)
    return phi


def _all_at_once(hits: Floats) -> Floats:
    return shapley_values(coalition_values(hits), hits.shape[0])


def _in_groups(hits: Floats, random: Random) -> Floats:
    """Mean over rounds of eight windows; in each round every player plays in one group, all groups of about one size."""
    players, windows, _ = hits.shape
    count = -(-players // GROUP_PLAYERS)
    total, weight = np.zeros(players), 0
    for first in range(0, windows, GROUP_WINDOWS):
        part = hits[:, first : first + GROUP_WINDOWS]
        order = random.sample(range(players), players)
        for number in range(count):
            group = order[number::count]
            total[group] += part.shape[1] * _all_at_once(part[group])
        weight += part.shape[1]
    return total / max(1, weight)


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
        """One batch: the values of those that were asked, 0 for those that are known but did not serve."""
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
        out = np.zeros(len(hotkeys))
        for i, hotkey in enumerate(hotkeys):
            if hotkey in self.mean:
                out[i] = max(0.0, self.mean[hotkey] - self.uncertainty(hotkey))
        return out

    def uncertainty(self, hotkey: bytes) -> float:
        """sd / k: what is taken off a mean for want of observations; 0 for unknown ones."""
        if hotkey not in self.mean:
            return 0.0
        level = float(np.mean(list(self.mean.values())))
        pooled = (self.squares + PRIOR_BATCHES * (0.2 * level) ** 2) / (self.deviations + PRIOR_BATCHES)
        return float(np.sqrt(pooled)) / self.count[hotkey]

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
        """Raises ValueError or TypeError where the value is not one that `to_value` made."""
        book = cls()
        if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], list)):
            raise ValueError("not a stored score book")
        try:
            for hotkey, mean, count in value[0]:
                book.mean[bytes.fromhex(hotkey)], book.count[bytes.fromhex(hotkey)] = float(mean), int(count)
            book.squares, book.deviations = float(value[1]), int(value[2])
        except OverflowError:
            raise ValueError("numbers out of range") from None
        numbers = [book.squares, *book.mean.values(), *book.count.values()]
        if not all(np.isfinite(number) and number >= 0 for number in numbers) or 0 in book.count.values():
            raise ValueError("numbers out of range")
        return book
