"""Parameters of the chain as people set them: names and bounds are checked before they cost a fee, a vote, or days."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ledger.errors import UsageError
from tools.cli.output import nearest

SCOPES: Final = {"governance.set_global_param": "global", "governance.set_subnet_param": "subnet"}
MAX_DEPTH: Final = 4  # calls within calls


def check_parameters(number: int, args: Sequence[Any], depth: int = 0) -> None:
    """All parameters that a call sets, itself or by a call in it. Raises UsageError.

    The chain takes any proposal, and finds out only when it runs it.
    """
    from runtime.dispatch import inner_calls
    from runtime.registry import CALLS

    entry = CALLS[number]
    if entry.name in SCOPES:
        given = dict(zip(entry.schema.fields, args, strict=True))
        check_parameter(SCOPES[entry.name], given["name"], given["value"], given.get("netuid"))
    for inner, inner_args in inner_calls(entry, args) if depth < MAX_DEPTH else ():
        check_parameters(inner, inner_args, depth + 1)


def check_parameter(scope: str, name: str, value: bool | int, netuid: int | None = None) -> None:
    """A parameter of the chain ("global") or of a subnet: is there one of that name, and does it take the value?"""
    import runtime.executor  # noqa: F401 - declares all parameters
    from runtime.params import PARAMS, bounds_problem

    known = {each: param for each, param in PARAMS.items() if param.scope == scope}
    if name not in known:
        listed = "quorix governance params" if scope == "global" else f"quorix subnet params {netuid}"
        raise UsageError(f"there is no parameter {name[:64]!r}", hint=nearest(name, known, listed))
    if problem := bounds_problem(known[name], value):
        raise UsageError(problem, hint=f"{name}: {known[name].about}")
