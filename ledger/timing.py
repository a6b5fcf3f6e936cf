"""The one timeout formula: every duration of consensus follows from the block time, and nothing else sets one.

With b = block_time_ms and clamp(x, low, high), integers throughout:
T_propose = clamp(b, 300, 3000) · T_vote = clamp(b//2, 150, 1500) · delta = clamp(3b//10, 150, 500)
T_rebroadcast = clamp(b//2, 200, 1000) · drift = clamp(b, 500, 2000) · cap = clamp(10b, 5000, 30000)
A timeout of round r is T(x, r) = min(x + r * delta, cap): linear growth, not doubling, so that recovery stays short.
"""

from __future__ import annotations

from dataclasses import dataclass


def clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))


@dataclass(frozen=True, slots=True)
class Timing:
    """All durations in milliseconds. `interval_ms` is the pace: the least time from one proposal to the next."""

    interval_ms: int
    propose_ms: int
    vote_ms: int
    delta_ms: int
    rebroadcast_ms: int
    drift_ms: int
    cap_ms: int

    @classmethod
    def of(cls, block_time_ms: int) -> Timing:
        b = block_time_ms
        return cls(
            interval_ms=b,
            propose_ms=clamp(b, 300, 3000),
            vote_ms=clamp(b // 2, 150, 1500),
            delta_ms=clamp(3 * b // 10, 150, 500),
            rebroadcast_ms=clamp(b // 2, 200, 1000),
            drift_ms=clamp(b, 500, 2000),
            cap_ms=clamp(10 * b, 5000, 30000),
        )

    def propose(self, round_: int) -> int:
        """How long round `round_` waits for a proposal."""
        return self._grow(self.propose_ms, round_)

    def vote(self, round_: int) -> int:
        """How long a quorum of mixed votes waits for more."""
        return self._grow(self.vote_ms, round_)

    def tolerance(self, round_: int) -> int:
        """How far a fresh block's timestamp may be from the own wall clock."""
        return self._grow(self.drift_ms, round_)

    def _grow(self, base_ms: int, round_: int) -> int:
        return min(base_ms + round_ * self.delta_ms, self.cap_ms)
