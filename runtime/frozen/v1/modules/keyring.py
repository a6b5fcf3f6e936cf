"""Keyring: several calls in one extrinsic.

`batch` is atomic: the first refusal undoes all of it and is its error. `batch_each` runs every item on its own and reports
each refusal in an event. Neither holds batches or sudo.

Rules: BLK-8 batches
"""

from __future__ import annotations

from typing import Any, Final

from ledger.codec import ListOf

from .. import dispatch
from ..registry import Context, call, event

CALLS: Final = ListOf(dispatch.INNER_CALL, dispatch.MAX_INNER_CALLS, low=1)

BATCH_ITEM_FAILED = event(120, "BatchItemFailed", "index", "error")


@call(120, dispatch.BATCH, {"calls": CALLS}, work=2)
def batch(context: Context, calls: list[list[Any]]) -> None:
    """Run calls in order; all of them or none."""
    for number, args in calls:
        dispatch.invoke(context, *dispatch.find(number, args))


@call(121, dispatch.BATCH_EACH, {"calls": CALLS}, work=2)
def batch_each(context: Context, calls: list[list[Any]]) -> None:
    """Run calls in order, each on its own; one event per failure."""
    for index, (number, args) in enumerate(calls):
        refusal = dispatch.attempt(context, *dispatch.find(number, args))
        if refusal is not None:
            context.events.append(BATCH_ITEM_FAILED(index, refusal.error_name))
