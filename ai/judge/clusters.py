"""Clones: experts whose surprise moves together play as one player and share its value.

Two experts are similar when the correlation of their surprisals (-log2 of the probability given to the true byte) over
a batch reaches 0.92; a pair that was similar stays so until it falls below 0.88. Clusters are the connected groups.
Exact copies and copies with 10 % noise then gain nothing by being two. Pure.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from .mixture import Floats

ENTER: Final = 0.92
LEAVE: Final = 0.88
MIN_POSITIONS: Final = 32  # with fewer observations a correlation says nothing


def similar_pairs(hits: Floats, before: frozenset[tuple[int, int]] = frozenset()) -> frozenset[tuple[int, int]]:
    """Pairs (i < j) of similar experts. `hits` (n, windows, positions); `before`: pairs that were similar."""
    n = hits.shape[0]
    surprisal = -np.log2(hits.reshape(n, -1))
    if surprisal.shape[1] < MIN_POSITIONS:
        return before
    centred = surprisal - surprisal.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1))
    found = set()
    for i in range(n):
        for j in range(i + 1, n):
            if length[i] < 1e-9 or length[j] < 1e-9:  # a constant answer (the null distribution) resembles nobody
                continue
            correlation = float(centred[i] @ centred[j] / (length[i] * length[j]))
            if correlation >= (LEAVE if (i, j) in before else ENTER):
                found.add((i, j))
    return frozenset(found)


def clusters(n: int, pairs: frozenset[tuple[int, int]]) -> list[list[int]]:
    """Connected groups of 0..n-1 under `pairs`, each ascending, ordered by their first member."""
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, j in sorted(pairs):
        a, b = find(i), find(j)
        if a != b:
            root[max(a, b)] = min(a, b)
    groups: dict[int, list[int]] = {}
    for i in range(n):
        groups.setdefault(find(i), []).append(i)
    return [groups[key] for key in sorted(groups)]
