"""Token buckets: how often a peer, or a network of addresses, may do something."""

from __future__ import annotations

from collections.abc import Hashable

import trio


class TokenBucket:
    """At most `rate` a second in the long run and `burst` at once (trio time)."""

    __slots__ = ("at", "burst", "rate", "tokens")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate, self.burst, self.tokens, self.at = rate, burst, burst, trio.current_time()

    def take(self) -> bool:
        """True if it may be done now."""
        now = trio.current_time()
        self.tokens = min(self.burst, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


class TokenBuckets:
    """A bucket for each key, at most `limit` of them: the one unused for the longest time is forgotten."""

    def __init__(self, rate: float, burst: float, limit: int) -> None:
        self.rate, self.burst, self.limit = rate, burst, limit
        self._buckets: dict[Hashable, TokenBucket] = {}

    def take(self, key: Hashable) -> bool:
        bucket = self._buckets.pop(key, None) or TokenBucket(self.rate, self.burst)
        if len(self._buckets) >= self.limit:
            del self._buckets[next(iter(self._buckets))]
        self._buckets[key] = bucket
        return bucket.take()
