"""Twins: each faulty authority runs as two honest copies with one key, and partitions are drawn anew all the time.

Two copies that follow the rules, each in its own part of the network, make all the equivocations that rules can make, and
none that a rule would have to be broken for (Bano et al., "Twins: BFT systems made robust"). Partitions of lengths around
those of a round mostly part the copies of each key; two layers of them make up to four groups.
"""

from __future__ import annotations

from random import Random
from typing import Final

from ledger.votes import max_faulty

from .network import Weather
from .plan import Plan

SIZES: Final = (4, 4, 4, 7)
TROUBLE_MS: Final = 6_000
LAYERS: Final = 2


def twins_plan(seed: int, max_n: int = 7) -> Plan:
    """The world of a seed: all faulty authorities are twins."""
    rng = Random(f"twins {seed}")
    n = rng.choice([size for size in SIZES if size <= max_n])
    bad = rng.sample(range(n), max_faulty(n))
    latency_ms = rng.choice((5, 20, 80))
    weather = Weather(rng.choice((0.0, 0.0, 0.1)), 0.0, latency_ms, _partitions(rng, n, bad), TROUBLE_MS)
    return Plan(
        n=n, actors=dict.fromkeys(bad, "twins"), weather=weather, trouble_ms=TROUBLE_MS, slow_disk_ms=rng.choice((1, 6, 30)),
        crash=rng.choice((0.0, 0.0, 0.002)), skew_ms=rng.choice((0, 100)), runtime=rng.random() < 0.2, users=0,
        real_signatures=rng.random() < 0.03,
    )


def _partitions(rng: Random, n: int, bad: list[int]) -> tuple[tuple[int, int, frozenset[int]], ...]:
    """One layer or two, each window with a split of its own."""
    windows = []
    for _ in range(rng.choice((1, 1, LAYERS))):
        at_ms = 0
        while at_ms < TROUBLE_MS:
            end_ms = at_ms + rng.choice((rng.randint(100, 800), rng.randint(800, 2_500)))
            windows.append((at_ms, min(end_ms, TROUBLE_MS), _side(rng, n, bad)))
            at_ms = end_ms + rng.choice((0, 0, rng.randint(0, 300)))
    return tuple(windows)


def _side(rng: Random, n: int, bad: list[int]) -> frozenset[int]:
    """Any split, or more often one that parts the copies: each side then hears every faulty key once."""
    if rng.random() < 0.3:
        return frozenset(rng.sample(range(n + len(bad)), rng.randint(1, n + len(bad) - 1)))
    honest = [index for index in range(n) if index not in bad]
    first = [index if rng.random() < 0.5 else n + copy for copy, index in enumerate(sorted(bad))]
    return frozenset([*first, *rng.sample(honest, rng.randint(1, len(honest) - 1))])
