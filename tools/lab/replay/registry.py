"""Which function of the vectors is replayed by what, and which ones Quorix has no rule for.

A replayer takes the case's input and returns the value that the vector's output is compared with; it may take the whole
case if it compares by itself. Names that are neither declared nor excused are reported as not applicable too: a function
that nobody has looked at is not a failure of a rule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tools.lab.replay.cases import Case, NotApplicable
from tools.lab.replay.compare import agree

Replayer = Callable[[Any], Any]
CaseReplayer = Callable[[Case], int]

REPLAYERS: Final[dict[str, CaseReplayer]] = {}
EXCUSES: Final[dict[str, str]] = {}

UNKNOWN: Final = "no rule of Quorix is known under this name"


def replays(*names: str) -> Callable[[Replayer], Replayer]:
    """Declare `f(input) -> output` for functions of these names; the output is compared within the case's `tol`."""

    def declare(function: Replayer) -> Replayer:
        def replay(case: Case) -> int:
            return agree(function(case.body["input"]), case.body["output"], case.body.get("tol", 0), "output")

        for name in names:
            _add(name, replay)
        return function

    return declare


def compares(*names: str) -> Callable[[CaseReplayer], CaseReplayer]:
    """Declare `f(case) -> values compared`, which raises Mismatch itself."""

    def declare(function: CaseReplayer) -> CaseReplayer:
        for name in names:
            _add(name, function)
        return function

    return declare


def excuse(why: str, *names: str) -> None:
    """Say why Quorix has no such rule."""
    for name in names:
        assert name not in REPLAYERS and name not in EXCUSES, f"{name} declared twice"
        EXCUSES[name] = why


def replay_function(case: Case) -> int:
    """Replay a function case; raises Mismatch or NotApplicable."""
    name = case.body["fn"]
    if name in REPLAYERS:
        return REPLAYERS[name](case)
    raise NotApplicable(EXCUSES.get(name, UNKNOWN))


def _add(name: str, function: CaseReplayer) -> None:
    assert name not in REPLAYERS and name not in EXCUSES, f"{name} declared twice"
    REPLAYERS[name] = function
