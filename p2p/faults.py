"""The ledger of faults: how much each peer misbehaved lately, and who is banned.

Points halve every ten minutes. At 100 the peer is disconnected and refused by its id for one hour. An authority is
never shut out for stale or late data, only for invalid signatures and blocks: nothing else counts against it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MALFORMED: Final = 20  # bytes that are not a message
INVALID: Final = 50  # a signature or block that can never be valid
TIMEOUT: Final = 2
BAN_AT: Final = 100
BAN_MS: Final = 3_600_000
HALF_LIFE_MS: Final = 600_000
MAX_PEERS: Final = 4096


@dataclass(slots=True)
class _Entry:
    points: float
    at_ms: int
    banned_until_ms: int = 0

    def decayed(self, now_ms: int) -> float:
        return float(self.points * 0.5 ** (max(0, now_ms - self.at_ms) / HALF_LIFE_MS))


class FaultLedger:
    """Times are milliseconds of one monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def add(self, peer: str, points: int, now_ms: int, *, authority: bool = False) -> bool:
        """Count `points` against a peer. True if this is what bans it."""
        if authority and points < INVALID:
            return False
        entry = self._entries.get(peer)
        if entry is None:
            self._make_room(now_ms)
            entry = self._entries[peer] = _Entry(0.0, now_ms)
        entry.points, entry.at_ms = entry.decayed(now_ms) + max(0, points), now_ms
        if round(entry.points) < BAN_AT or entry.banned_until_ms > now_ms:
            return False
        entry.banned_until_ms = now_ms + BAN_MS
        return True

    def points(self, peer: str, now_ms: int) -> int:
        entry = self._entries.get(peer)
        return 0 if entry is None else round(entry.decayed(now_ms))

    def banned(self, peer: str, now_ms: int) -> bool:
        entry = self._entries.get(peer)
        return entry is not None and entry.banned_until_ms > now_ms

    def _make_room(self, now_ms: int) -> None:
        """When the ledger is full the milder half of it goes, bans last: seldom, since each time costs a sort."""
        if len(self._entries) < MAX_PEERS:
            return
        rank = sorted(self._entries, key=lambda peer: (self.banned(peer, now_ms), self._entries[peer].decayed(now_ms)))
        for peer in rank[: MAX_PEERS // 2]:
            del self._entries[peer]
