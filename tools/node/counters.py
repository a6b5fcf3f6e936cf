"""What a node counts about itself, as plain numbers: cheap to keep, turned into metrics only when somebody asks."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
MAX_NAMES: Final = 64  # different reasons, topics or methods that are counted apart


@dataclass
class Histogram:
    """Numbers of durations by bucket (the last is everything above all bounds), and their sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    total_s: float = 0.0

    def observe(self, seconds: float) -> None:
        place = next((i for i, bound in enumerate(BUCKETS_S) if seconds <= bound), len(BUCKETS_S))
        self.counts[place] += 1
        self.total_s += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """(upper bound, number at or below it), as Prometheus wants them."""
        out, running = [], 0
        for bound, count in zip((*map(str, BUCKETS_S), "+Inf"), self.counts, strict=True):
            running += count
            out.append((bound, float(running)))
        return out


@dataclass
class Counters:
    """One node since its start."""

    build: Histogram = field(default_factory=Histogram)
    check: Histogram = field(default_factory=Histogram)  # execution of blocks, own and others'
    commit: Histogram = field(default_factory=Histogram)
    transactions: int = 0
    bad_blocks: int = 0
    records: int = 0  # persisted before signing
    frames_dropped: int = 0
    equivocations: int = 0  # seen, of any authority
    turns: Counter[str] = field(default_factory=Counter)  # own: led, missed, skipped
    epoch_s: dict[int, float] = field(default_factory=dict)  # netuid -> execution of the block of its last epoch
    minted_rao: int = 0
    network_bytes: Counter[tuple[str, str]] = field(default_factory=Counter)  # (in or out, topic)
    rejected: Counter[str] = field(default_factory=Counter)  # transactions, by rule
    submitted: int = 0  # transactions by RPC
    gossiped: int = 0  # transactions and inherents from peers

    def reject(self, name: str) -> None:
        self.rejected[name if name in self.rejected or len(self.rejected) < MAX_NAMES else "other"] += 1


@dataclass
class RpcCounters:
    """One RPC server. Method names are those of the API, or "other"."""

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    seconds: Histogram = field(default_factory=Histogram)

    def observe(self, method: str, code: int, seconds: float) -> None:
        self.requests[method, code] += 1
        self.seconds.observe(seconds)
