"""The picture of a consensus: votes for one miner as blocks, as wide as the stake and as high as the weight behind them.

Sorted from high to low they form a stair. Walking from the left until enough stake is passed, the height of the block
one stands on is the consensus; what rises above it is cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .figures import q32

WIDTH: Final = 240
HEIGHT: Final = 96
LABEL_PX: Final = 6.2  # of one character of a label


@dataclass(frozen=True)
class Step:
    """A validator's block: in pixels from the top left."""

    x: float
    width: float
    top: float  # of the whole vote
    kept: float  # of what is kept
    label: str  # empty if it does not fit
    about: str


@dataclass(frozen=True)
class Stair:
    steps: list[Step]
    need_x: float
    consensus_y: float


def stair(votes: list[tuple[str, int, int]], consensus: int, need_rao: int, total_rao: int) -> Stair:
    """From (name, weight Q32, stake in rao) of every voter; a voter that left the miner out votes 0."""
    ordered = sorted(votes, key=lambda vote: (-vote[1], vote[0]))
    highest = max([weight for _, weight, _ in ordered] + [consensus, 1])
    steps, x = [], 0.0
    for name, weight, stake_rao in ordered:
        width = WIDTH * stake_rao / total_rao if total_rao else 0.0
        label = name if LABEL_PX * len(name) <= width - 4 else ""
        about = f"{name}: voted {q32(weight)}, kept {q32(min(weight, consensus))}"
        steps.append(Step(x, width, _y(weight, highest), _y(min(weight, consensus), highest), label, about))
        x += width
    need_x = WIDTH * need_rao / total_rao if total_rao else 0.0
    return Stair(steps, need_x, _y(consensus, highest))


def _y(weight: int, highest: int) -> float:
    return HEIGHT * (1 - weight / highest)
