"""Whom to dial and when: static peers for ever, peers of the address book until there are enough connections.

The wait after a failure doubles from 0.2 s to 10 s, a refusal by name waits the full 10 s. Of two nodes that know each
other the one with the smaller peer id dials first, so that a pair that starts together gets one connection, not two.
The plan has no I/O and no clock; `p2p.switch` asks it what is due and tells it what came of it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from .addresses import Address

FIRST_DELAY_MS: Final = 200
MAX_DELAY_MS: Final = 10_000
YIELD_MS: Final = 300  # how long the larger peer id waits for the smaller one's dial
MAX_DIALS: Final = 8  # in progress at once
ENOUGH_PEERS: Final = 8
ENOUGH_PEERS_PRIVATE: Final = 4  # a devnet's processes share two cores: every link costs them


@dataclass(slots=True)
class Target:
    """One peer to be connected to. `static` targets are kept for ever."""

    address: Address
    static: bool
    next_ms: int
    delay_ms: int = FIRST_DELAY_MS
    dialling: bool = False


class DialPlan:
    """Times are milliseconds of one monotonic clock, given by the caller."""

    def __init__(self, own: str, *, enough: int = ENOUGH_PEERS) -> None:
        self.own, self.enough = own, enough
        self.targets: dict[str, Target] = {}

    def add(self, address: Address, now_ms: int, *, static: bool) -> None:
        """Want a connection to `address.peer`; a static address replaces a learned one."""
        if address.peer == self.own:
            return
        known = self.targets.get(address.peer)
        if known is None:
            wait = YIELD_MS if self.own > address.peer else 0
            self.targets[address.peer] = Target(address, static, now_ms + wait)
        elif static or not known.static:
            if known.address != address:
                known.address, known.delay_ms, known.next_ms = address, FIRST_DELAY_MS, min(known.next_ms, now_ms)
            known.static = known.static or static

    def due(self, now_ms: int, connected: Collection[str]) -> list[Address]:
        """Addresses to dial now; they count as being dialled until `succeeded` or `failed`."""
        room = MAX_DIALS - sum(target.dialling for target in self.targets.values())
        chosen: list[Address] = []
        for peer, target in self.targets.items():
            if len(chosen) >= room:
                break
            wanted = target.static or len(connected) + len(chosen) < self.enough
            if wanted and not target.dialling and target.next_ms <= now_ms and peer not in connected:
                target.dialling = True
                chosen.append(target.address)
        return chosen

    def wait_ms(self, now_ms: int, connected: Collection[str]) -> int | None:
        """Milliseconds until something may become due; None: only a change of connections can make it so."""
        times = [
            target.next_ms for peer, target in self.targets.items()
            if peer not in connected and not target.dialling and (target.static or len(connected) < self.enough)
        ]
        return max(0, min(times) - now_ms) if times else None

    def wants_more(self, connected: Collection[str]) -> bool:
        """True if there are fewer connections and candidates than wanted: the address book may help."""
        waiting = sum(peer not in connected for peer in self.targets)
        return len(connected) + waiting < self.enough

    def succeeded(self, peer: str, now_ms: int) -> None:
        target = self.targets.get(peer)
        if target:
            target.dialling, target.delay_ms, target.next_ms = False, FIRST_DELAY_MS, now_ms + FIRST_DELAY_MS

    def failed(self, peer: str, now_ms: int, *, refused: bool = False) -> bool:
        """True if the address, a learned one that failed at the longest wait, is given up."""
        target = self.targets.get(peer)
        if target is None:
            return False
        target.dialling = False
        if not target.static and (refused or target.delay_ms >= MAX_DELAY_MS):
            del self.targets[peer]
            return True
        target.next_ms = now_ms + (MAX_DELAY_MS if refused else target.delay_ms)
        target.delay_ms = min(MAX_DELAY_MS, target.delay_ms * 2)
        return False

    def lost(self, peer: str, now_ms: int) -> None:
        """The connection ended: try again at once, the smaller peer id first."""
        target = self.targets.get(peer)
        if target and not target.dialling:
            target.next_ms = max(target.next_ms, now_ms + (YIELD_MS if self.own > peer else 0))
