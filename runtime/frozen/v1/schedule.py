"""When an epoch runs (1.1), its number for commits and reveals (4.3), and the window of a reveal.

Epochs are stateful, not a modulo of the height: a subnet keeps the block of its last epoch, so its tempo may change and
a deferred epoch is simply late.

Rules: SCH-1 when an epoch is due · SCH-2 stagger
"""

from __future__ import annotations

from enum import Enum
from typing import Final

MAX_TEMPO_BLOCKS: Final = 50_400


def epoch_due(
    block: int, *, tempo: int, last_epoch_block: int, pending_at: int | None, blocks_since_last_step: int,
    max_tempo: int = MAX_TEMPO_BLOCKS,
) -> bool:
    """True if the subnet's epoch runs in `block`. `pending_at` is the block to which it was deferred, or None.

    A tempo of 0 means never.
    """
    if tempo == 0:
        return False
    deferred = pending_at is not None and block >= pending_at
    return deferred or blocks_since_last_step > max_tempo or block - last_epoch_block >= tempo


def blocks_until_epoch(block: int, *, tempo: int, last_epoch_block: int) -> int | None:
    """Blocks from `block` to the next regular epoch, 0 if it is due, None if the tempo is 0."""
    if tempo == 0:
        return None
    return max(0, last_epoch_block + tempo - block)


def first_epoch_anchor(block: int, netuid: int, tempo: int) -> int:
    """`last_epoch_block` of a subnet created in `block`: epochs of different subnets are staggered by netuid."""
    return block - (netuid % tempo if tempo else 0)


def commit_epoch(epoch_index: int, *, due: bool) -> int:
    """The epoch number that a commit or reveal of this block belongs to: an epoch due in this block already counts."""
    return epoch_index + 1 if due else epoch_index


class Window(Enum):
    """Where a reveal stands."""

    EARLY = "RevealTooEarly"
    OPEN = ""
    EXPIRED = "ExpiredWeightCommit"


def reveal_window(committed_epoch: int, current_epoch: int, period: int) -> Window:
    """A commit of epoch e is revealed in epoch e + period, not before and not after."""
    if current_epoch < committed_epoch + period:
        return Window.EARLY
    return Window.OPEN if current_epoch == committed_epoch + period else Window.EXPIRED
