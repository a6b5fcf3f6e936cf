"""Who came to whom: the order of experts that answer alike, by what they did and not by what they registered.

Some windows are asked again in later batches. How far an expert's answers to the same question move from batch to batch
is its *motion*: the sum of total variations, of which a tenth fades with every batch; a newcomer begins with 1, and
whoever never changes ends at 0. When two experts become similar, or one becomes a mixture of others, the one that moved
more came to the other, and stays the *younger* of the two for as long as both are registered; without a clear difference
neither is. Then

    clusters   experts that are similar play as one player: their surprise moves together, and their answers lie close (two
               that learned the same from other seeds correlate by up to 0.93, but lie half a bit apart). The elders share
               its value; who is younger than one of those that it is similar to gets nothing and takes no part
    hull       an expert that is a mixture of its elders is paid by its residual (see `hull`). Nobody is held against an
               expert that came to it, appeared or moved later: surrounding a rival with two blends of it does it no harm

Pure: one object per subnet, fed batch by batch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, TypeVar

import numpy as np

from .clusters import clusters, similar_pairs
from .hull import FEW, MANY, Hull, residual
from .mixture import Floats

FADING: Final = 0.9
NEW: Final = 1.0  # a newcomer's motion
CLEARLY: Final = 0.02  # difference in motion that decides who came to whom
CLOSE_BITS: Final = 0.1  # between the answers of two that are similar
STILL_CLOSE_BITS: Final = 0.2  # of two that were
MAX_LOOKS: Final = 1024  # pairs whose distance is measured in one batch; of more, correlation alone decides
TIE: Final = b""

T = TypeVar("T", bytes, int)

Pairs = frozenset[tuple[int, int]]
Order = dict[tuple[bytes, bytes], bytes]


@dataclass(frozen=True)
class Standing:
    """What a batch showed. `groups`: players, each a list of indices; who is in none is paid nothing.

    `factors` (n,): which part of its value each is paid; `residuals` (n,): bits, infinite where nobody is held against it.
    """

    groups: list[list[int]]
    factors: Floats
    residuals: Floats


@dataclass
class Conduct:
    """Motion of each hotkey, which pairs are similar now, and which of two came to the other."""

    motion: dict[bytes, float] = field(default_factory=dict)
    similar: frozenset[tuple[bytes, bytes]] = frozenset()
    order: Order = field(default_factory=dict)  # (a, b), a < b -> the younger one, or TIE

    def moved(self, changes: dict[bytes, float | None]) -> None:
        """One batch: by how much each expert that answered changed its answers; None where nothing can be compared.

        Where nobody's can be, the questions were new, and nobody is held to have moved.
        """
        questions_new = all(change is None for change in changes.values())
        for hotkey, change in changes.items():
            before = self.motion.get(hotkey)
            if before is not None and questions_new:
                continue
            if before is None or change is None:
                self.motion[hotkey] = NEW
            else:
                self.motion[hotkey] = min(NEW, FADING * before + change)

    def judge(self, hotkeys: list[bytes], hits: Floats, answers: Floats) -> Standing:
        """What is known after a batch. `hits` (n, windows, cuts) floored; `answers` (n, positions, 256) floored."""
        n = len(hotkeys)
        place = {hotkey: i for i, hotkey in enumerate(hotkeys)}
        before = frozenset(_sorted(place[a], place[b]) for a, b in self.similar if a in place and b in place)
        pairs = _close(similar_pairs(hits, before), before, answers)
        self.similar = frozenset((hotkeys[i], hotkeys[j]) for i, j in pairs)
        younger = set()
        for i, j in sorted(pairs):
            who = self._younger(hotkeys[i], hotkeys[j])
            if who != TIE:
                younger.add(place[who])
        equals = frozenset((i, j) for i, j in pairs if i not in younger and j not in younger)
        groups = [group for group in clusters(n, equals) if group[0] not in younger]
        factors, residuals = self._discounts(hotkeys, groups, answers)
        return Standing(groups, factors, residuals)

    def _discounts(self, hotkeys: list[bytes], groups: list[list[int]], answers: Floats) -> tuple[Floats, Floats]:
        """(factors, residuals) of each player's members against the other players that did not come to them."""
        factors, residuals = np.ones(len(hotkeys)), np.full(len(hotkeys), np.inf)
        says = [bool(np.ptp(own) > 0) for own in answers]  # the null distribution is in every mixture anyway
        for group in groups:
            others = [other[0] for other in groups if other is not group and says[other[0]]]
            for member in (i for i in group if says[i]):
                residuals[member] = self._residual(hotkeys, member, others, answers, FEW)
                factors[member] = FEW.factor(residuals[member])
                if len(others) > FEW.mixed and factors[member] == 1.0:
                    factors[member] = MANY.factor(self._residual(hotkeys, member, others, answers, MANY))
        return factors, residuals

    def _residual(self, hotkeys: list[bytes], member: int, others: list[int], answers: Floats, hull: Hull) -> float:
        """Against the elders alone. Of those that are near, but not elders, it is noted that they came to this one."""
        me = hotkeys[member]
        order = {i: self._order(me, hotkeys[i]) for i in others}
        elders = [i for i in others if order[i] == me]
        bits, named = residual(answers[member], answers[elders], hull.mixed)
        near = elders
        if bits >= hull.full_bits:
            near = [i for i in others if order[i] == me or _sorted(me, hotkeys[i]) not in self.order]
            distance, named = residual(answers[member], answers[near], hull.mixed) if near != elders else (bits, [])
            if distance >= hull.full_bits:
                named = []
        for i in named:
            self._younger(me, hotkeys[near[i]])
        return bits

    def _order(self, a: bytes, b: bytes) -> bytes:
        """The younger of two as it was noted, else the one that has moved clearly more."""
        difference = self.motion.get(a, NEW) - self.motion.get(b, NEW)
        now = TIE if abs(difference) <= CLEARLY else a if difference > 0 else b
        return self.order.get(_sorted(a, b), now)

    def _younger(self, a: bytes, b: bytes) -> bytes:
        """Which of two came to the other; noted for as long as both are registered."""
        return self.order.setdefault(_sorted(a, b), self._order(a, b))

    def forget(self, keep: set[bytes]) -> None:
        """Drop hotkeys that are no longer registered."""
        self.motion = {hotkey: value for hotkey, value in self.motion.items() if hotkey in keep}
        self.order = {pair: who for pair, who in self.order.items() if keep.issuperset(pair)}
        self.similar = frozenset(pair for pair in self.similar if keep.issuperset(pair))

    def to_value(self) -> list[object]:
        """Plain value for storage; `from_value` restores it."""
        return [
            [[hotkey.hex(), self.motion[hotkey]] for hotkey in sorted(self.motion)],
            [[a.hex(), b.hex()] for a, b in sorted(self.similar)],
            [[a.hex(), b.hex(), who.hex()] for (a, b), who in sorted(self.order.items())],
        ]

    @classmethod
    def from_value(cls, value: object) -> Conduct:
        """Raises ValueError or TypeError where the value is not one that `to_value` made."""
        if not (isinstance(value, list) and len(value) == 3 and all(isinstance(part, list) for part in value)):
            raise ValueError("not a stored conduct")
        motion = {bytes.fromhex(hotkey): float(moved) for hotkey, moved in value[0]}
        similar = frozenset((bytes.fromhex(a), bytes.fromhex(b)) for a, b in value[1])
        order = {(bytes.fromhex(a), bytes.fromhex(b)): bytes.fromhex(who) for a, b, who in value[2]}
        if not all(0.0 <= moved <= NEW for moved in motion.values()) or any(a >= b for a, b in order):
            raise ValueError("numbers or pairs out of range")
        if any(who not in (a, b, TIE) for (a, b), who in order.items()):
            raise ValueError("an order between others than its pair")
        return cls(motion, similar, order)


def _close(pairs: Pairs, before: Pairs, answers: Floats) -> Pairs:
    """Those of the pairs whose answers lie close: one is nearly the other, or a blend of it with the null expert."""
    found = set()
    for looks, (i, j) in enumerate(sorted(pairs)):
        limit = STILL_CLOSE_BITS if (i, j) in before else CLOSE_BITS
        if looks >= MAX_LOOKS or any(residual(answers[a], answers[[b]])[0] < limit for a, b in ((i, j), (j, i))):
            found.add((i, j))
    return frozenset(found)


def _sorted(a: T, b: T) -> tuple[T, T]:
    return (a, b) if a < b else (b, a)
