"""Runs of plain transfers: most of a full block, done on the rows at hand and written once.

A transfer is plain where the rules of the ordinary way (`executor`, `accounts`) can neither refuse it nor do more than to
take the fee, count the nonce, move the amount and say so in one event. A run ends before the first extrinsic of which that
is not certain; the executor takes that one the ordinary way, and another run may begin after it. What a run leaves is to
the byte what the ordinary way leaves: a test compares the two.

Rules: BLK-1 order of a block · BLK-2 what is admitted · ACC-3 transfers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger.blocks import EXTRINSIC_VERSION, Extrinsic, Outcome
from ledger.errors import Rejected

from . import dispatch, hooks, params
from .modules import accounts, fees
from .modules.accounts import Account
from .registry import CALLS, Context

TRANSFER: Final = CALLS[dispatch.call_number("accounts.transfer")]
WORK: Final = dispatch.EXTRINSIC_WORK + TRANSFER.work

assert TRANSFER.free is None and TRANSFER.origin == "signed", "a plain transfer is paid for and signed"


@dataclass(slots=True)
class Tally:
    """What the extrinsics of a block have come to so far. `limit` is that of the weight."""

    limit: int
    weight: int = 0
    fees_rao: int = 0  # without tips
    tips_rao: int = 0
    outcomes: list[Outcome] = field(default_factory=list)


class Runs:
    """The plain transfers among the extrinsics of one block."""

    def __init__(self, context: Context, extrinsics: Sequence[Extrinsic], prices: fees.Prices, tally: Tally) -> None:
        self._context, self._extrinsics, self._prices, self._tally = context, extrinsics, prices, tally
        number = TRANSFER.number
        self._fit = TRANSFER.schema.all_fit([each.args for each in extrinsics if each.call_number == number])
        self._fees: dict[int, int] = {}  # size in bytes -> fee in rao

    def take(self, start: int) -> int:
        """Execute the plain transfers from index `start` on; returns the index of the first extrinsic that is not one."""
        if self._extrinsics[start].call_number != TRANSFER.number:
            return start
        context, tally, extrinsics, lives = self._context, self._tally, self._extrinsics, self._context.lives
        state, events, outcomes, fees_of = context.state, context.events, tally.outcomes, self._fees
        deposit_rao, guarded = params.get(state, "existential_deposit"), not hooks.call_guards_are_idle(state)
        number, moved, account, is_plain = TRANSFER.number, accounts.TRANSFER.number, accounts.account, accounts.is_plain
        room = (tally.limit - tally.weight) // WORK
        rows: dict[bytes, Account] = {}  # as the run leaves them
        paid_rao = tips_rao = 0
        end = start
        for index in range(start, min(start + room, len(extrinsics))):
            extrinsic = extrinsics[index]
            args, signer, nonce = extrinsic.args, extrinsic.signer, extrinsic.nonce
            if (
                extrinsic.call_number != number or extrinsic.version != EXTRINSIC_VERSION or nonce == 0
                or (extrinsic.birth_height, extrinsic.period) not in lives or not (self._fit or TRANSFER.schema.fits(args))
            ):
                break
            to, amount, _ = args
            giver = rows.get(signer) or account(state, signer)
            taker = rows.get(to) or account(state, to)
            size, tip_rao = len(extrinsic.body), extrinsic.tip
            fee_rao = tip_rao + (fees_of.get(size) or self._fee(size))
            left_rao = giver.free_rao - fee_rao
            if giver.nonce != nonce or to == signer or not is_plain(left_rao, amount, taker.free_rao, deposit_rao):
                break
            if guarded and not self._passes(signer):
                break
            rows[signer] = Account(left_rao - amount, giver.reserved_rao, nonce + 1)
            rows[to] = Account(taker.free_rao + amount, taker.reserved_rao, taker.nonce)
            outcomes.append(Outcome("", fee_rao, len(events), 1))
            events.append([moved, signer, to, amount])
            paid_rao += fee_rao
            tips_rao += tip_rao
            end += 1
        if end > start:
            context.signer = extrinsics[end - 1].signer
            accounts.settle_rows(context, rows, paid_rao)
            tally.weight += WORK * (end - start)
            tally.fees_rao += paid_rao - tips_rao
            tally.tips_rao += tips_rao
        return end

    def _passes(self, signer: bytes) -> bool:
        """Whether the call guards let this account transfer."""
        context = self._context
        before, context.signer = context.signer, signer
        try:
            hooks.run_call_guards(context, TRANSFER)
        except Rejected:
            context.signer = before
            return False
        return True

    def _fee(self, body_bytes: int) -> int:
        fee_rao = self._fees[body_bytes] = self._prices.fee_rao(body_bytes + fees.SIGNATURE_BYTES, WORK)
        return fee_rao
