"""What the chain API tells of proposals: the call, how the root seats vote, what is needed, and how long there is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class InnerCall:
    """A call that another one carries. `args` is JSON-ready, with the arguments' names; calls in it are of this form."""

    call: str  # "module.function"
    args: dict[str, Any]


@dataclass(frozen=True)
class SeatVote:
    """A root seat: what it weighs today, and how it voted if it has."""

    hotkey: bytes
    weight_rao: int
    choice: str | None  # "aye", "nay" or "cancel"


@dataclass(frozen=True)
class Tally:
    """Votes by today's weights, in rao of capped root stake.

    Approved at once with ayes of more than half of what is eligible; else at the end of the vote with more ayes than nays
    and `needed_turnout_rao` of both together. Cancelled with `needed_cancels_rao`.
    """

    ayes_rao: int
    nays_rao: int
    cancels_rao: int
    eligible_rao: int
    needed_turnout_rao: int
    needed_cancels_rao: int


@dataclass(frozen=True)
class ProposalRecord:
    """An open proposal. `decides_at` ends the vote; of an approved one it is the block in which the call runs."""

    number: int
    state: str  # "voting" or "approved"
    proposer: bytes
    hotkey: bytes
    proposed: InnerCall
    proposed_at: int
    approved_at: int | None
    decides_at: int
    blocks_left: int
    deposit_rao: int
    tally: Tally
    votes: list[SeatVote]  # of all seats, by weight
