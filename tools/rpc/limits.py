"""Every bound of the RPC server, and the two checks made before a request is parsed.

Host check (DNS rebinding): a page on the web can make a browser send requests to a loopback port under its own host
name; only known names are answered. Rate: a token bucket per address of a caller outside this machine; a method costs
what it costs the node. Callers on the machine itself (loopback, unix socket) are bounded by concurrency, not by rate.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ledger.client.connections import is_local

LOCAL_HOSTS: Final = ("localhost", "127.0.0.1", "[::1]")
MAX_BUCKETS: Final = 10_000
DEFAULT_COST: Final = 1
# Methods that cost a node much more than a lookup, in lookups.
COSTS: Final[Mapping[str, int]] = {
    "author_submitExtrinsic": 2,
    "author_dryRun": 5,
    "author_pendingExtrinsics": 5,
    "chain_getBlock": 3,
    "chain_getHeaders": 5,
    "chain_getSupply": 10,
    "chain_subscribeNewHeads": 10,
    "account_history": 10,
    "events_query": 10,
    "epoch_list": 5,
    "epoch_explain": 25,
    "state_getKeys": 5,
    "state_getProof": 3,
    "state_getProofs": 20,
    "subnet_getMetagraph": 10,
    "subnet_getWeights": 10,
    "subnet_getBonds": 10,
    "subnet_list": 5,
}


@dataclass(frozen=True)
class Limits:
    """Bounds of one server. Times in seconds."""

    body_bytes: int = 1 << 20
    header_bytes: int = 8 << 10
    response_bytes: int = 15 << 20
    batch: int = 100
    depth: int = 16  # of nested arrays and objects in parameters
    concurrency: int = 32  # calls in flight of one request or WebSocket
    subscriptions: int = 32  # of one WebSocket
    connections: int = 1_280
    websockets_per_remote: int = 16  # of one address outside this machine
    websockets_local: int = 512  # of this machine, all together
    rate_per_s: int = 50  # of one address outside this machine
    burst: int = 500
    body_s: float = 10.0
    call_s: float = 10.0
    header_s: float = 5.0
    idle_s: int = 60


@dataclass
class _Bucket:
    tokens: float
    at_ms: int


@dataclass
class RateLimiter:
    """Token buckets by caller's address. At most MAX_BUCKETS are kept; the one unused for longest is forgotten."""

    rate_per_s: int
    burst: int
    _buckets: OrderedDict[str, _Bucket] = field(default_factory=OrderedDict)

    def take(self, address: str, cost: int, now_ms: int) -> bool:
        """True iff the caller may spend `cost` now. Callers on this machine always may."""
        if is_local(address):
            return True
        bucket = self._buckets.get(address)
        if bucket is None:
            bucket = self._buckets[address] = _Bucket(float(self.burst), now_ms)
            if len(self._buckets) > MAX_BUCKETS:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(address)
        earned = (now_ms - bucket.at_ms) * self.rate_per_s / 1000
        bucket.tokens, bucket.at_ms = min(self.burst, bucket.tokens + earned), now_ms
        if bucket.tokens < cost:
            return False
        bucket.tokens -= cost
        return True


def cost(method: str) -> int:
    """What one call of the method costs, in lookups."""
    return COSTS.get(method, DEFAULT_COST)


def allowed_hosts(names: Iterable[str]) -> frozenset[str]:
    """Lower-case host names, without port, under which the server answers: the local ones and `names`."""
    return frozenset((*LOCAL_HOSTS, *(name.lower() for name in names)))


def host_of(header: str) -> str:
    """Host name of a Host header, lower case, without port; brackets of IPv6 stay."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[: host.find("]") + 1]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def nesting(value: object, limit: int) -> bool:
    """True iff `value` holds at most `limit` levels of arrays and objects. Iterative: depth costs no stack."""
    level: list[object] = [value]
    for _ in range(limit + 1):
        level = [
            item
            for container in level
            if isinstance(container, list | dict)
            for item in (container.values() if isinstance(container, dict) else container)
            if isinstance(item, list | dict)
        ]
        if not level:
            return True
    return False
