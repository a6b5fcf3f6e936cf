"""2.4: which uid a registration replaces when the subnet is full, and how many may be replaced.

Lowest (score, registration block, uid) goes first, among the neurons whose immunity has passed; immune ones only when
too few others remain. Keys that are protected never go.

Rules: REG-7 who is replaced · REG-8 how many are replaced
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

PRUNE_DIVISOR: Final = 16  # at most one sixteenth of the uids, at least one, is replaced per immunity period


class Candidate(NamedTuple):
    """A registered neuron as pruning sees it; the field order is the order of replacement."""

    score: int
    registered_at: int
    uid: int


def uid_to_prune(
    neurons: Sequence[Candidate], block: int, *, immunity_period: int, min_non_immune: int,
    protected: Sequence[int] = (),
) -> int | None:
    """The uid that a registration in `block` replaces, or None if none may go.

    While more than `min_non_immune` candidates are past their immunity the first of them goes; otherwise the first of
    the immune ones.
    """
    candidates = [neuron for neuron in neurons if neuron.uid not in protected]
    immune = [neuron for neuron in candidates if is_immune(neuron.registered_at, block, immunity_period)]
    exposed = [neuron for neuron in candidates if not is_immune(neuron.registered_at, block, immunity_period)]
    if exposed and len(exposed) > min_non_immune:
        return min(exposed).uid
    return min(immune).uid if immune else None


def is_immune(registered_at: int, block: int, immunity_period: int) -> bool:
    """A neuron is immune during the first `immunity_period` blocks after its registration."""
    return block - registered_at < immunity_period


def prune_limit(uid_count: int) -> int:
    """How many uids of a subnet of this size may be replaced within one immunity period."""
    return max(1, uid_count // PRUNE_DIVISOR)
