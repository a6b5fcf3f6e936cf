"""Every mutant is noticed by a directed scenario; and an edit that no longer fits is an error, never a silent pass."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest

from ledger.errors import NotFound
from tools.lab.sim.mutants import MUTANTS
from tools.lab.sim.mutation import Stale, fates, mutate, readable
from tools.lab.sim.scenarios import scenarios


def test_every_mutant_is_killed() -> None:
    found = list(fates())
    assert len(found) == len(MUTANTS) >= 50
    assert [fate.name for fate in found if fate.error] == []
    assert [fate.name for fate in found if not fate.killer] == []


def test_the_catalogue_names_scenarios_that_exist() -> None:
    assert {mutant.killer for mutant in MUTANTS} <= set(scenarios())
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_an_edit_that_does_not_fit_is_an_error() -> None:
    for old, new in (("no such line", ""), ("self", "self"), ("The rules.", "The  rules.")):
        with pytest.raises(Stale):
            mutate(replace(MUTANTS[0], edits=(("ledger.bft", old, new),)))
    with pytest.raises(NotFound, match="no mutant"):
        next(fates(["no such mutant"]))


def test_byte_strings_in_failures_are_shown_as_hex() -> None:
    assert readable("(1, b'\\x8a\\x01X', b\"it's\") != b''") == "(1, 0x8a0158, 0x69742773) != 0x"
    assert readable(repr(bytes(20))) == "0x" + "00" * 8 + "…" and readable("cut b'\\x00\\x0") == "cut bytes"
    assert readable("blob'x' and sub'y'") == "blob'x' and sub'y'"


def test_an_interrupt_ends_all_processes() -> None:
    """A generator that is closed early is what an interrupt leaves."""
    trying = fates([mutant.name for mutant in MUTANTS[:4]])
    next(trying)
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    trying.close()
    assert before and not before & {child.pid for child in psutil.Process().children(recursive=True)}
