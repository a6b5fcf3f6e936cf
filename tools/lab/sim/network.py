"""The network of a world: latency, loss, duplicates, reordering and partitions until it heals."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

DROPS = (0.0, 0.0, 0.05, 0.2, 0.4)
LATENCIES_MS = (5, 40, 150)


@dataclass(frozen=True)
class Weather:
    """`drop` and `duplicate` are probabilities for each message; latency is up to `latency_ms`, exponential while bad.

    A partition that `breaks` connections has them closed on both sides; else what is sent across is lost without a sign.
    """

    drop: float
    duplicate: float
    latency_ms: int
    partitions: tuple[tuple[int, int, frozenset[int]], ...]  # from, until, one side
    heals_at_ms: int
    breaks: bool = False

    @classmethod
    def random(cls, rng: Random, n: int, heals_at_ms: int) -> Weather:
        """Each kind of trouble is off in some worlds."""
        partitions = []
        at_ms = 0
        while rng.random() < 0.6 and at_ms < heals_at_ms:
            start = at_ms + rng.randint(0, 1500)
            at_ms = start + rng.randint(200, 2500)
            side = frozenset(rng.sample(range(n), rng.randint(0, n)))
            partitions.append((start, min(at_ms, heals_at_ms), side))
        duplicate = rng.choice((0.0, 0.1))
        return cls(
            rng.choice(DROPS), duplicate, rng.choice(LATENCIES_MS), tuple(partitions), heals_at_ms, rng.random() < 0.3
        )

    @classmethod
    def fine(cls, latency_ms: int = 5) -> Weather:
        return cls(0.0, 0.0, latency_ms, (), 0)

    def until(self, heals_at_ms: int) -> Weather:
        """The same, healed then."""
        partitions = tuple((start, min(end, heals_at_ms), side) for start, end, side in self.partitions if start < heals_at_ms)
        return replace(self, partitions=partitions, heals_at_ms=heals_at_ms)

    def is_cut(self, one: int, other: int, now_ms: int) -> bool:
        """A partition stands between the two."""
        return any(
            start <= now_ms < end and (one in side) != (other in side) for start, end, side in self.partitions
        )

    def arrivals(self, rng: Random, sender: int, receiver: int, now_ms: int) -> list[int]:
        """Delays after which copies of one message arrive; none if it is lost."""
        if now_ms >= self.heals_at_ms:
            return [1 + int(rng.random() * self.latency_ms)]
        if (self.partitions and self.is_cut(sender, receiver, now_ms)) or rng.random() < self.drop:
            return []
        copies = 2 if rng.random() < self.duplicate else 1
        return [1 + int(rng.expovariate(1 / self.latency_ms)) for _ in range(copies)]
