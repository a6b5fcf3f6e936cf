"""Directed scenarios: every case that is known to be hard, arranged message by message over real engines and signers.

One function each, numbered and named; the first line of its docstring says what happens. A scenario asserts what each node
does; where the harm would be slowness, it has a bound on time. `run_scenario` gives the outcome with all transitions.
"""

from __future__ import annotations

import importlib
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

from ..keys import keyed_hashes
from ..stage import recorded

THEMES: Final = ("locks", "rounds", "bodies", "heights", "crashes", "clocks", "certificates", "membership", "devnets")


@dataclass(frozen=True)
class Scenario:
    """`real`: with ed25519 signatures instead of keyed hashes."""

    number: int
    name: str
    play: Callable[[], None]
    real: bool

    @property
    def about(self) -> str:
        return (self.play.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Outcome:
    """`failure` is empty if all went as it must; `lines` are the transitions, in order."""

    failure: str
    lines: list[str]


_SCENARIOS: dict[str, Scenario] = {}


def scenario(number: int, name: str, *, real: bool = False) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Declare a scenario."""

    def declare(play: Callable[[], None]) -> Callable[[], None]:
        assert name not in _SCENARIOS, f"scenario {name} is declared twice"
        _SCENARIOS[name] = Scenario(number, name, play, real)
        return play

    return declare


def scenarios() -> dict[str, Scenario]:
    """All of them by name, in the order of their numbers."""
    for theme in THEMES:
        importlib.import_module(f"{__name__}.{theme}")
    return dict(sorted(_SCENARIOS.items(), key=lambda item: item[1].number))


def run_scenario(chosen: Scenario) -> Outcome:
    """Play it once."""
    with nullcontext() if chosen.real else keyed_hashes(), recorded() as lines:
        try:
            chosen.play()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)
            mine = [frame for frame in place if "scenarios" in frame.filename]
            where = f" (line {mine[-1].lineno}: {mine[-1].line})" if mine else ""
            return Outcome(f"{type(error).__name__}: {error}{where}", lines)
    return Outcome("", lines)
