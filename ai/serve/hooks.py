"""Who is served, before whom, and how much: the hooks between a verified OPEN and the queue.

In this order, and only after the signature verified: blacklist -> priority -> rate limit. The defaults go by the
caller's standing on the subnet: a validator's permit and its share of the stake. A neuron's author replaces any of the
three functions of `Hooks`.

Rate: a token bucket per caller, in windows computed. An OPEN is let in while the bucket is not in debt; the work is
charged when it is done, so a session announces nothing it may not use, and a debt must be paid before the next OPEN.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from .frames import OpenBody

UNITS_PER_SECOND: Final = 4_000  # of all callers together, by share of the stake
MEMBER_UNITS_PER_SECOND: Final = 400  # of a member of the subnet whatever its stake: a gateway's users come through it
FLOOR_UNITS_PER_SECOND: Final = 40  # of a stranger
BURST_SECONDS: Final = 10
MAX_CALLERS_REMEMBERED: Final = 4_096

# Priority classes, best first.
PERMIT, STAKED, REGISTERED, STRANGER = range(4)


@dataclass(frozen=True, slots=True)
class Standing:
    """A caller on one subnet. `stake_share` is its part of the subnet's stake, 0..1."""

    registered: bool = False
    permit: bool = False
    stake_share: float = 0.0

    @property
    def stranger(self) -> bool:
        """True for who costs nothing to be: any fresh key."""
        return not (self.registered or self.permit or self.stake_share > 0)


class Standings(Protocol):
    """Where standings and epochs come from: the chain, or a table in tests."""

    def standing(self, netuid: int, caller: bytes) -> Standing:
        """The caller's standing by the last metagraph seen."""
        ...

    def epoch(self, netuid: int) -> int:
        """The subnet's running epoch by the last metagraph seen."""
        ...


@dataclass(slots=True)
class FixedStandings:
    """The same standing for everyone unless it is listed; for tests, benchmarks and neurons off the chain."""

    default: Standing = field(default_factory=lambda: Standing(registered=True))
    listed: dict[bytes, Standing] = field(default_factory=dict)
    running_epoch: int = 0

    def standing(self, netuid: int, caller: bytes) -> Standing:
        return self.listed.get(caller, self.default)

    def epoch(self, netuid: int) -> int:
        return self.running_epoch


class RateLimiter:
    """Token buckets by caller. The clock comes in as an argument (milliseconds that never go back)."""

    def __init__(self, units_per_second: int = UNITS_PER_SECOND) -> None:
        self._units_per_second = units_per_second
        self._buckets: OrderedDict[bytes, tuple[float, int]] = OrderedDict()  # caller -> (tokens, at_ms)

    def retry_after_ms(self, caller: bytes, standing: Standing, now_ms: int) -> int:
        """0 where the caller may open a session now, else the time until its debt is paid."""
        rate = self._rate(standing)
        tokens = self._refill(caller, rate, now_ms)
        return 0 if tokens >= 0 else int(-tokens * 1000 / rate) + 1

    def charge(self, caller: bytes, standing: Standing, units: int, now_ms: int) -> None:
        """Take `units` for work done; the bucket may go into debt."""
        tokens = self._refill(caller, self._rate(standing), now_ms)
        self._buckets[caller] = (tokens - units, now_ms)

    def _rate(self, standing: Standing) -> float:
        floor = MEMBER_UNITS_PER_SECOND if standing.registered else FLOOR_UNITS_PER_SECOND
        return floor + self._units_per_second * standing.stake_share

    def _refill(self, caller: bytes, rate: float, now_ms: int) -> float:
        full = rate * BURST_SECONDS
        tokens, at_ms = self._buckets.get(caller, (full, now_ms))
        tokens = min(full, tokens + rate * max(0, now_ms - at_ms) / 1000)
        self._buckets[caller] = (tokens, now_ms)
        self._buckets.move_to_end(caller)
        while len(self._buckets) > MAX_CALLERS_REMEMBERED:
            self._buckets.popitem(last=False)
        return tokens


def refuse_nobody(opened: OpenBody, standing: Standing) -> str:
    """The default blacklist."""
    return ""


def only_registered(opened: OpenBody, standing: Standing) -> str:
    """A blacklist for subnets that serve their own members only."""
    return "" if standing.registered else "not registered on this subnet"


def by_standing(opened: OpenBody, standing: Standing) -> int:
    """The default priority: validators with a permit, then stake, then members, then strangers."""
    if standing.permit:
        return PERMIT
    if standing.stake_share > 0:
        return STAKED
    return REGISTERED if standing.registered else STRANGER


@dataclass(slots=True)
class Hooks:
    """The three hooks. `blacklist` gives a reason or ""; `priority` a class, lower is served first."""

    blacklist: Callable[[OpenBody, Standing], str] = refuse_nobody
    priority: Callable[[OpenBody, Standing], int] = by_standing
    rate: RateLimiter = field(default_factory=RateLimiter)
