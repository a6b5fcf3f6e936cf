"""Proposals: what the root seats decide together (5.6). Whoever owns a seat's hotkey proposes, votes and cancels for it.

    weight    consensus root stake of the seat's hotkey, min(active, average), so stake cannot be borrowed for a vote; at
              most a tenth of all seats' stake counts for one of them
    approved  at once when ayes exceed half of the eligible weight; else at the end of the voting period if ayes exceed
              nays and at least a third of the eligible weight has voted
    enacted   `enactment_delay` blocks after the approval, with root origin, before the block's extrinsics
    cancelled by two thirds of the eligible weight, at any time before
    deposit   returned on approval and cancellation, recycled on rejection

Weights are taken when votes are counted, so a seat that is lost loses its vote. A call that is refused when it is enacted
leaves only its event.

Rules: GOV-2 weight of a vote · GOV-3 approval · GOV-4 cancellation · GOV-5 enactment and deposit
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.codec import BOOL, KEY, U32
from ledger.errors import Rejected

from .. import dispatch, hooks, params
from ..params import ROOT_NETUID
from ..registry import Call, Context, Origin, Priority, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u32_field
from . import accounts, hotkeys, neurons, pools

MAX_OPEN: Final = 16  # proposals that are neither rejected nor enacted
CAP_PARTS: Final = 10  # one seat has at most 1/10 of the stake of all
NOBODY: Final = bytes(32)  # signer of an enacted call
ROOT_CAPABLE: Final = ("governance.set_subnet_param", "subnets.dissolve")  # signed calls that root may run, too

NAY, AYE, CANCEL = range(3)


@dataclass(frozen=True)
class Proposal:
    """A call that is voted on. `approved_at` is None while the vote is open."""

    proposer: bytes
    hotkey: bytes
    call_number: int
    args: list[Any]
    proposed_at: int
    deposit_rao: int
    approved_at: int | None = None


PROPOSALS = Table(114, "proposal", Proposal, u32_field("number"))
VOTES = Table(115, "proposal_vote", int, u32_field("number"), key_field("hotkey"))  # -> NAY, AYE or CANCEL
PROPOSAL_COUNT = Table(116, "proposal_count", int)

PROPOSED = event(113, "Proposed", "number", "hotkey", "call")
VOTED = event(114, "Voted", "number", "hotkey", "vote", "weight_rao")
APPROVED = event(115, "ProposalApproved", "number", "ayes_rao", "nays_rao", "eligible_rao", "enacted_at")
REJECTED = event(116, "ProposalRejected", "number", "ayes_rao", "nays_rao", "eligible_rao")
CANCELLED = event(117, "ProposalCancelled", "number", "cancels_rao", "eligible_rao")
EXECUTED = event(118, "ProposalExecuted", "number", "call", "error")

error(116, "NotMember", "the hotkey has no seat on root, or is not the signer's", "register it on root first")
error(117, "UnknownProposal", "there is no open proposal with this number", "see `quorix governance list`")
error(118, "VoteClosed", "the proposal is approved already; it can still be cancelled")
error(119, "DuplicateVote", "the seat has voted like this already")
error(120, "NotProposable", "only calls of root can be proposed", "`quorix tx calls` shows them: those by root")
error(121, "TooManyProposals", f"at most {MAX_OPEN} proposals are open", "wait until one is closed")


# --- reads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Count:
    """Votes as they stand, in rao of capped consensus root stake."""

    ayes_rao: int
    nays_rao: int
    cancels_rao: int
    eligible_rao: int

    @property
    def turnout_rao(self) -> int:
        return self.ayes_rao + self.nays_rao

    @property
    def majority(self) -> bool:
        """More than half of everything: no later vote could change it."""
        return 2 * self.ayes_rao > self.eligible_rao

    @property
    def carried(self) -> bool:
        """What counts when the voting period is over."""
        return self.ayes_rao > self.nays_rao and 3 * self.turnout_rao >= self.eligible_rao

    @property
    def cancelled(self) -> bool:
        return 3 * self.cancels_rao >= 2 * self.eligible_rao > 0


def seat_weights(state: ReadState) -> dict[bytes, int]:
    """Voting weight in rao of every root seat's hotkey, by uid."""
    stake = {
        row.hotkey: pools.pool(state, ROOT_NETUID, row.hotkey).consensus_rao
        for row in neurons.all_neurons(state, ROOT_NETUID).values()
    }
    most = sum(stake.values()) // CAP_PARTS
    return {hotkey: min(amount, most) for hotkey, amount in stake.items()}


def count(state: ReadState, number: int) -> Count:
    """The votes on a proposal by today's weights."""
    weights = seat_weights(state)
    sums = [0, 0, 0]
    for (_, hotkey), vote in VOTES.items(state, number):
        sums[vote] += weights.get(hotkey, 0)
    # A seat that asks to cancel has withdrawn its aye, so cancels are no turnout.
    return Count(sums[AYE], sums[NAY], sums[CANCEL], sum(weights.values()))


def proposals(state: ReadState) -> Iterator[tuple[int, Proposal]]:
    """Open proposals by number, ascending."""
    return ((number, row) for (number,), row in PROPOSALS.items(state))


def may_propose(entry: Call, args: list[Any]) -> bool:
    """Calls of root, alone or in a batch."""
    if entry.name in (dispatch.BATCH, dispatch.BATCH_EACH):
        return all(may_propose(*dispatch.find(number, inner)) for number, inner in dispatch.inner_calls(entry, args))
    return entry.origin == "root" or entry.name in ROOT_CAPABLE


# --- calls -------------------------------------------------------------------------------------------------------


@call(114, "governance.propose", {"hotkey": KEY, "call": dispatch.INNER_CALL}, work=40, priority=Priority.OPERATIONAL)
def propose(context: Context, hotkey: bytes, inner: list[Any]) -> None:
    """Propose a call of root; a deposit is reserved. The signer owns a root seat's hotkey."""
    state = context.state
    _require_seat(context, hotkey)
    entry, values = dispatch.find(inner[0], inner[1])
    if not may_propose(entry, values):
        refuse("NotProposable", call=entry.name)
    if sum(1 for _ in proposals(state)) >= MAX_OPEN:
        refuse("TooManyProposals")
    deposit = params.get(state, "proposal_deposit_rao")
    accounts.reserve(context, context.signer, deposit)
    number = PROPOSAL_COUNT.get(state) or 0
    PROPOSAL_COUNT.put(state, value=number + 1)
    row = Proposal(context.signer, hotkey, inner[0], list(inner[1]), context.height, deposit)
    PROPOSALS.put(state, number, value=row)
    context.events.append(PROPOSED(number, hotkey, entry.name))


@call(115, "governance.vote", {"hotkey": KEY, "number": U32, "aye": BOOL}, work=60, priority=Priority.OPERATIONAL)
def vote(context: Context, hotkey: bytes, number: int, aye: bool) -> None:
    """Vote on a proposal for a root seat; a later vote replaces it while the vote is open."""
    _require_seat(context, hotkey)
    row = _require_open(context.state, number)
    if row.approved_at is not None:
        refuse("VoteClosed")
    _cast(context, number, hotkey, AYE if aye else NAY)
    counted = count(context.state, number)
    if counted.majority:
        _approve(context, number, row, counted)


@call(116, "governance.cancel", {"hotkey": KEY, "number": U32}, work=60, priority=Priority.OPERATIONAL)
def cancel(context: Context, hotkey: bytes, number: int) -> None:
    """Ask, for a root seat, to cancel a proposal, before or after its approval; two thirds do it."""
    _require_seat(context, hotkey)
    row = _require_open(context.state, number)
    _cast(context, number, hotkey, CANCEL)
    counted = count(context.state, number)
    if counted.cancelled:
        if row.approved_at is None:
            accounts.unreserve(context, row.proposer, row.deposit_rao)
        _close(context, number)
        context.events.append(CANCELLED(number, counted.cancels_rao, counted.eligible_rao))


def _require_seat(context: Context, hotkey: bytes) -> None:
    state = context.state
    if neurons.uid_of(state, ROOT_NETUID, hotkey) is None or hotkeys.owner_of(state, hotkey) != context.signer:
        refuse("NotMember")


def _require_open(state: ReadState, number: int) -> Proposal:
    row = PROPOSALS.get(state, number)
    if row is None:
        refuse("UnknownProposal", number=number)
    return row


def _cast(context: Context, number: int, hotkey: bytes, vote: int) -> None:
    if VOTES.get(context.state, number, hotkey) == vote:
        refuse("DuplicateVote")
    VOTES.put(context.state, number, hotkey, value=vote)
    context.events.append(VOTED(number, hotkey, vote, seat_weights(context.state)[hotkey]))


# --- what follows from votes -------------------------------------------------------------------------------------


def _approve(context: Context, number: int, row: Proposal, counted: Count) -> None:
    accounts.unreserve(context, row.proposer, row.deposit_rao)
    PROPOSALS.put(context.state, number, value=replace(row, approved_at=context.height, deposit_rao=0))
    enacted_at = context.height + params.get(context.state, "enactment_delay")
    context.events.append(
        APPROVED(number, counted.ayes_rao, counted.nays_rao, counted.eligible_rao, enacted_at)
    )


def _close(context: Context, number: int) -> None:
    """Forget a proposal and its votes: at most one for each seat there ever was in its time."""
    PROPOSALS.delete(context.state, number)
    for (_, hotkey), _ in list(VOTES.items(context.state, number)):
        VOTES.delete(context.state, number, hotkey)


@hooks.begin_block(hooks.ORDER_GOVERNANCE)
def decide(context: Context) -> None:
    """Close votes whose time is over; enact what was approved long enough ago."""
    state = context.state
    for number, row in list(proposals(state)):
        if row.approved_at is None:
            if context.height - row.proposed_at >= params.get(state, "voting_period"):
                _end_vote(context, number, row)
        elif context.height - row.approved_at >= params.get(state, "enactment_delay"):
            _enact(context, number, row)


def _end_vote(context: Context, number: int, row: Proposal) -> None:
    counted = count(context.state, number)
    if counted.carried:
        _approve(context, number, row, counted)
        return
    accounts.burn_reserved(context, row.proposer, row.deposit_rao, "proposal rejected")
    _close(context, number)
    context.events.append(REJECTED(number, counted.ayes_rao, counted.nays_rao, counted.eligible_rao))


def _enact(context: Context, number: int, row: Proposal) -> None:
    _close(context, number)
    signer, origin = context.signer, context.origin
    context.signer, context.origin = NOBODY, Origin.ROOT
    try:
        refusal = dispatch.attempt(context, *dispatch.find(row.call_number, row.args))
    except Rejected as gone:  # an upgrade since has taken the call away, or changed its arguments
        refusal = gone
    finally:
        context.signer, context.origin = signer, origin
    context.events.append(EXECUTED(number, row.call_number, "" if refusal is None else refusal.error_name))


@hooks.coldkey_swapped
def move_proposals(context: Context, old: bytes, new: bytes) -> int:
    """What an account proposed is another's now, with the deposits."""
    moved_rao = 0
    for number, row in list(proposals(context.state)):
        if row.proposer == old:
            PROPOSALS.put(context.state, number, value=replace(row, proposer=new))
            moved_rao += row.deposit_rao
    return moved_rao


@hooks.deposit
def deposits(state: ReadState) -> Iterator[tuple[bytes, int]]:
    return ((row.proposer, row.deposit_rao) for _, row in proposals(state))


@hooks.invariant("proposals")
def audit(state: ReadState) -> Iterator[str]:
    """At most so many are open; votes belong to open proposals; approved ones hold no deposit."""
    open_ones = dict(proposals(state))
    if len(open_ones) > MAX_OPEN:
        yield f"{len(open_ones)} proposals are open"
    for number, row in open_ones.items():
        if row.approved_at is not None and row.deposit_rao:
            yield f"proposal {number} is approved and still holds a deposit"
    for (number, _), vote in VOTES.items(state):
        if number not in open_ones or vote not in (NAY, AYE, CANCEL):
            yield f"a vote {vote} on proposal {number}, which is not open"
