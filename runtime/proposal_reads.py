"""What explorers, the CLI and RPC read of proposals (5.6), and the names of calls that are stored by their numbers.

As `reads`: plain functions over a read-only view, part of no rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from ledger.client.governance_records import InnerCall, ProposalRecord, SeatVote, Tally
from ledger.client.json_form import to_json
from ledger.codec import ListOf, Shape
from ledger.errors import NotFound

from . import dispatch, params
from .modules import proposals
from .registry import CALLS
from .tables import ReadState

CHOICES: Final[Mapping[int, str]] = {proposals.NAY: "nay", proposals.AYE: "aye", proposals.CANCEL: "cancel"}


def open_proposals(state: ReadState, height: int) -> list[ProposalRecord]:
    """All that are neither rejected, cancelled nor enacted, by number."""
    return [_record(state, number, row, height) for number, row in proposals.proposals(state)]


def proposal(state: ReadState, number: int, height: int) -> ProposalRecord:
    """One open proposal. Raises NotFound."""
    row = proposals.PROPOSALS.get(state, number)
    if row is None:
        raise NotFound(f"there is no open proposal {number}", hint="quorix governance list")
    return _record(state, number, row, height)


def _record(state: ReadState, number: int, row: proposals.Proposal, height: int) -> ProposalRecord:
    counted, weights = proposals.count(state, number), proposals.seat_weights(state)
    given = {hotkey: CHOICES[vote] for (_, hotkey), vote in proposals.VOTES.items(state, number)}
    votes = [SeatVote(hotkey, weight, given.get(hotkey)) for hotkey, weight in weights.items()]
    voting = row.approved_at is None
    ends_at = row.proposed_at + params.get(state, "voting_period")
    if row.approved_at is not None:
        ends_at = row.approved_at + params.get(state, "enactment_delay")
    return ProposalRecord(
        number=number, state="voting" if voting else "approved", proposer=row.proposer, hotkey=row.hotkey,
        proposed=named(row.call_number, row.args), proposed_at=row.proposed_at, approved_at=row.approved_at,
        decides_at=ends_at, blocks_left=max(0, ends_at - height), deposit_rao=row.deposit_rao,
        tally=Tally(
            counted.ayes_rao, counted.nays_rao, counted.cancels_rao, counted.eligible_rao,
            -(-counted.eligible_rao // 3), -(-2 * counted.eligible_rao // 3),
        ),
        votes=sorted(votes, key=lambda vote: (-vote.weight_rao, vote.hotkey)),
    )


def named(number: int, args: Sequence[Any]) -> InnerCall:
    """A call with its name and those of its arguments, and so are the calls that it carries."""
    entry = CALLS.get(number)
    return InnerCall(f"unknown.{number}" if entry is None else entry.name, named_args(number, args))


def named_args(number: int, args: Sequence[Any]) -> dict[str, Any]:
    """Arguments by name, JSON-ready; by position where they do not fit a call that is known."""
    entry = CALLS.get(number)
    if entry is None or not entry.schema.fits(list(args)):
        return {str(position): to_json(value) for position, value in enumerate(args)}
    fields = zip(entry.schema.fields.items(), args, strict=True)
    return {name: _named_value(shape, value) for (name, shape), value in fields}


def _named_value(shape: Shape, value: Any) -> Any:
    if shape is dispatch.INNER_CALL:
        return to_json(named(*value))
    if isinstance(shape, ListOf):
        return [_named_value(shape.item, item) for item in value]
    return to_json(value)
