"""Fees: what an extrinsic costs, when it is free, and where the money goes.

    fee = (base + per byte * size + per work unit * work) * multiplier

The multiplier, between 1 and 100, follows how full blocks are: above half of the weight limit it rises, below it falls,
by at most an eighth a block. The fee is charged also when the call fails. It is recycled; the tip goes to the block's
author. Calls marked free in the registry cost nothing within their rate limit, but a key whose free calls keep failing
pays like everybody else for a while.

Rules: FEE-1 fee · FEE-2 multiplier · FEE-3 free calls · FEE-4 where fees go
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .. import hooks, params
from ..chain import info
from ..registry import Context, error
from ..tables import ReadState, Table, key_field
from . import accounts

SIGNATURE_BYTES: Final = 64
ONE_PPM: Final = 1_000_000
MAX_MULTIPLIER: Final = 100
STEP_DIVISOR: Final = 8

FREE_FAILURES_ALLOWED: Final = 8  # within a window of this many blocks:
FREE_WINDOW_BLOCKS: Final = 64

MULTIPLIER = Table(8, "fee_multiplier", int)  # ppm
FREE_FAILURES = Table(9, "free_failures", list, key_field("account"))  # -> [first height, failures since]

error(14, "CannotPayFee", "the account's free balance does not cover fee and tip", "top the account up")


def multiplier_ppm(state: ReadState) -> int:
    return MULTIPLIER.get(state) or ONE_PPM


@dataclass(frozen=True)
class Prices:
    """What a block charges: read once, before its first extrinsic, so that the pool's quote is what is charged."""

    base_rao: int
    per_byte_rao: int
    per_work_rao: int
    multiplier_ppm: int

    def fee_rao(self, size_bytes: int, work: int) -> int:
        """Fee of an extrinsic of that size and work, without tip."""
        plain = self.base_rao + self.per_byte_rao * size_bytes + self.per_work_rao * work
        return plain * self.multiplier_ppm // ONE_PPM


def prices(state: ReadState) -> Prices:
    """Prices of the block after `state`."""
    return Prices(
        base_rao=params.get(state, "fee_base_rao"), per_byte_rao=params.get(state, "fee_per_byte_rao"),
        per_work_rao=params.get(state, "fee_per_work_rao"), multiplier_ppm=multiplier_ppm(state),
    )


def may_be_free(context: Context) -> bool:
    """False while too many free calls of the signer have failed lately."""
    row = FREE_FAILURES.get(context.state, context.signer)
    return row is None or context.height - row[0] >= FREE_WINDOW_BLOCKS or row[1] < FREE_FAILURES_ALLOWED


def note_free_failure(context: Context) -> None:
    """Count a failed free call of the signer."""
    row = FREE_FAILURES.get(context.state, context.signer)
    if row is None or context.height - row[0] >= FREE_WINDOW_BLOCKS:
        row = [context.height, 0]
    FREE_FAILURES.put(context.state, context.signer, value=[row[0], row[1] + 1])


@hooks.neuron_removed
def forget_failures(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """Only registered hotkeys have free calls."""
    FREE_FAILURES.delete(context.state, hotkey)


def settle(context: Context, fees_rao: int, tips_rao: int, author: bytes | None) -> None:
    """At the block's end: recycle what was charged, and pay the tips to the author's account, if it has one."""
    accounts.recycle(context, fees_rao, "fees", "fees")
    if tips_rao and author is not None:
        accounts.credit(context, author, tips_rao, "fees")
    elif tips_rao:
        accounts.recycle(context, tips_rao, "fees", "tips without author")


def adjust_multiplier(context: Context, weight: int) -> None:
    """Follow the fullness of this block."""
    target = info(context.state).max_block_weight // 2
    old = multiplier_ppm(context.state)
    step = old * (min(weight, 2 * target) - target) // (target * STEP_DIVISOR)
    new = max(ONE_PPM, min(MAX_MULTIPLIER * ONE_PPM, old + step))
    if new != old:
        MULTIPLIER.put(context.state, value=new)
