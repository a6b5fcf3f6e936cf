"""Finding, checking, weighing and running calls: from outside, inside a batch, or through sudo.

A call that refuses leaves no trace but its error: `attempt` undoes every write, event and sum since its start.

Rules: BLK-6 a refused call · BLK-7 calls within calls
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.codec import U16, Record, Shape
from ledger.errors import DecodeError, Rejected

from . import hooks
from .registry import CALL_NUMBERS, CALLS, Call, Context, decode_args, error, refuse

EXTRINSIC_WORK: Final = 10  # signature, nonce, fee: what every extrinsic costs beside its call, in work units
MAX_INNER_CALLS: Final = 64

error(10, "UnknownCall", "there is no call with this number in the running version", "see `quorix tx calls`")
error(11, "BadArguments", "the arguments do not fit the call", "see `quorix tx calls` for their types")
error(12, "TooManyCalls", f"a batch holds at most {MAX_INNER_CALLS} calls", "split it")
error(13, "NestedBatch", "this call may not be inside of that one", "list the inner calls one by one")


class _Arguments(Shape):
    """Arguments of an inner call; its own schema checks them."""

    name = "arguments"

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not list:
            raise DecodeError(f"expected an array, got {type(value).__name__}", where=where)


INNER_CALL: Final = Record("call", number=U16, args=_Arguments())

BATCH: Final = "keyring.batch"
BATCH_EACH: Final = "keyring.batch_each"
SUDO: Final = "governance.sudo"
PROXY: Final = "proxies.run"
NESTING: Final = dict.fromkeys((BATCH, BATCH_EACH, SUDO, PROXY))
MAY_NEST: Final = {SUDO: (BATCH, BATCH_EACH), PROXY: (BATCH, BATCH_EACH)}


def find(number: int, args: Sequence[Any]) -> tuple[Call, list[Any]]:
    """The registry's entry and the checked arguments, inner calls included. Refuses UnknownCall, BadArguments."""
    entry = CALLS.get(number)
    if entry is None:
        refuse("UnknownCall", f"there is no call {number}")
    try:
        values = decode_args(entry, args)
    except DecodeError as problem:
        refuse("BadArguments", problem.cause)
    if entry.name in NESTING:
        _check_inner(entry, values)
    return entry, values


def _check_inner(entry: Call, values: Sequence[Any]) -> None:
    inner = inner_calls(entry, values)
    if len(inner) > MAX_INNER_CALLS:
        refuse("TooManyCalls")
    for number, args in inner:
        name = CALLS[number].name if number in CALLS else ""
        if name in NESTING and name not in MAY_NEST.get(entry.name, ()):
            refuse("NestedBatch")
        find(number, args)


def inner_calls(entry: Call, args: Sequence[Any]) -> list[tuple[int, list[Any]]]:
    """Calls that this call carries: (number, arguments)."""
    if entry.name in (BATCH, BATCH_EACH):
        return [(number, inner) for number, inner in args[0]]
    if entry.name in (SUDO, PROXY):
        return [(args[-1][0], args[-1][1])]
    return []


def work_of(entry: Call, args: Sequence[Any]) -> int:
    """Work units of a checked call with all it carries."""
    if entry.name not in NESTING:
        return entry.work
    return entry.work + sum(work_of(CALLS[number], inner) for number, inner in inner_calls(entry, args))


def invoke(context: Context, entry: Call, values: Sequence[Any]) -> None:
    """Run a checked call with the context's signer and origin; lets its refusal through, without undoing anything."""
    hooks.run_call_guards(context, entry)
    if entry.origin == "root":
        context.require_root()
    try:
        entry.function(context, *values)
    except OverflowError:
        refuse("Overflow", "an amount left its 64 bits")


def attempt(context: Context, entry: Call, values: Sequence[Any]) -> Rejected | None:
    """Run a checked call; if it refuses, undo all of it and return the refusal."""
    mark = context.mark()
    try:
        invoke(context, entry, values)
    except Rejected as refusal:
        context.revert(mark)
        return refusal
    return None


def call_number(name: str) -> int:
    """Number of a call by its name "module.function"."""
    return CALL_NUMBERS[name]
