"""The harness of the mutants: change a function in memory, in a process of its own, and see whether a scenario notices.

    python -m tools.lab.sim.mutation --deep SEEDS [NAME ...]     one JSON object a line and mutant, as they are done

Everything is imported once; each mutant is a fork of that, two at a time. The source is edited as text, compiled, and the
functions whose code differs get the new code in place, so whatever refers to them sees the mutant. Files are never touched.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import NotFound

from .mutants import MUTANTS, Mutant

LIMIT_S: Final = 120  # a mutant that hangs is dead
JOBS: Final = 2
SHOWN_BYTES: Final = 8
_BYTES: Final = re.compile(r"""\bb(?:'(?:[^'\\]|\\.)*(?:'|\\?$)|"(?:[^"\\]|\\.)*(?:"|\\?$))""")


class Stale(Exception):
    """An edit does not fit the source any more."""


@dataclass(frozen=True)
class Fate:
    """`killer` is the first scenario, else the first world, that noticed; empty for a survivor. `tried`: scenarios played."""

    name: str
    killer: str
    failure: str
    tried: int
    random: str = ""  # with --deep: the first random world that notices too
    twins: str = ""  # and the first one with twins
    error: str = ""  # the mutant could not be made


def fates(names: Sequence[str] = (), deep_seeds: int = 0) -> Iterator[Fate]:
    """Try mutants (all by default) in a separate process; yields their fates as they are known."""
    unknown = [name for name in names if name not in {mutant.name for mutant in MUTANTS}]
    if unknown:
        raise NotFound(f"there is no mutant {unknown[0]!r}", hint=f"known: {', '.join(each.name for each in MUTANTS)}")
    command = [sys.executable, "-m", __name__, "--deep", str(deep_seeds), *names]
    root = Path(__file__).resolve().parents[3]
    # A session of its own: an interrupt reaches this process alone, which then ends that one with all its forks.
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            yield Fate(**json.loads(line))
        if process.wait() != 0:
            raise RuntimeError(f"the process of the mutants ended with {process.returncode}")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


# --- the mutation -------------------------------------------------------------------------------------------------------


def mutate(mutant: Mutant) -> int:
    """Give the edited functions their new code; returns how many changed. Raises Stale."""
    changed = 0
    for name in dict.fromkeys(module for module, _, _ in mutant.edits):
        module = importlib.import_module(name)
        assert module.__file__ is not None
        source = Path(module.__file__).read_text()
        before = _functions(compile(source, module.__file__, "exec", dont_inherit=True))
        for _, old, new in (edit for edit in mutant.edits if edit[0] == name):
            if source.count(old) != 1:
                raise Stale(f"{mutant.name}: {name} has {old!r} {source.count(old)} times, not once")
            source = source.replace(old, new)
        for qualname, code in _functions(compile(source, module.__file__, "exec", dont_inherit=True)).items():
            if not _same(before[qualname], code):
                _live(module, qualname).__code__ = code
                changed += 1
    if not changed:
        raise Stale(f"{mutant.name}: no function changed")
    return changed


def _functions(code: types.CodeType, prefix: str = "") -> dict[str, types.CodeType]:
    """Top-level functions and methods of a module's code, by qualified name."""
    found: dict[str, types.CodeType] = {}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType) and "<" not in constant.co_name:
            name = prefix + constant.co_name
            is_function = constant.co_flags & inspect.CO_OPTIMIZED  # the body of a class is not
            found |= {name: constant} if is_function else _functions(constant, name + ".")
    return found


def _same(one: types.CodeType, other: types.CodeType) -> bool:
    """Equal but for line numbers."""
    if (one.co_code, one.co_names, one.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return False
    if len(one.co_consts) != len(other.co_consts):
        return False
    return all(
        _same(a, b) if isinstance(a, types.CodeType) and isinstance(b, types.CodeType) else (type(a), a) == (type(b), b)
        for a, b in zip(one.co_consts, other.co_consts, strict=True)
    )


def _live(module: types.ModuleType, qualname: str) -> Any:
    """The function object that everybody uses."""
    place: Any = module
    *classes, name = qualname.split(".")
    for each in classes:
        place = getattr(place, each)
    found = vars(place)[name]
    for wrapped in ("__func__", "fget", "func"):  # class and static methods, properties, cached properties
        found = getattr(found, wrapped, None) or found
    return found


# --- in the fork ----------------------------------------------------------------------------------------------------------


def judge(mutant: Mutant, deep_seeds: int) -> Fate:
    """Make the mutant, here and for good, and look for a scenario that notices."""
    from .scenarios import run_scenario, scenarios

    known = scenarios()
    try:
        mutate(mutant)
        order = [known.pop(mutant.killer), *known.values()]
    except (Stale, KeyError) as error:
        return Fate(mutant.name, "", "", 0, error=f"{type(error).__name__}: {error}")
    killer, failure, tried = "", "", 0
    for each in order:
        tried += 1
        failure = readable(run_scenario(each).failure)
        if failure:
            killer = each.name
            break
    random, twins = _worlds_that_notice(deep_seeds) if deep_seeds else ("", "")
    return Fate(mutant.name, killer or random or twins, failure[:300], tried, random, twins)


def readable(failure: str) -> str:
    """A failure with the beginning of its byte strings in hex instead of their Python form."""

    def shown(found: re.Match[str]) -> str:
        try:
            data: bytes = ast.literal_eval(found[0])
        except (SyntaxError, ValueError):  # cut off
            return "bytes"
        return "0x" + data[:SHOWN_BYTES].hex() + ("…" if len(data) > SHOWN_BYTES else "")

    return _BYTES.sub(shown, failure)


def _worlds_that_notice(seeds: int) -> tuple[str, str]:
    """The first random world, and the first with twins, of so many of each."""
    from .plan import Plan
    from .twins import twins_plan
    from .world import World

    def first(kind: str, plan_of: Callable[[int], Plan]) -> str:
        for seed in range(seeds):
            try:
                World(seed, plan_of(seed)).run()
            except Exception as error:  # whatever goes wrong in a world is noticed
                return f"{kind} seed {seed} ({type(error).__name__})"
        return ""

    return first("random", Plan.random), first("twins", twins_plan)


def _fork(mutant: Mutant, deep_seeds: int) -> tuple[int, int]:
    """Judge in a child. Returns its process id and the end of the pipe to read."""
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        return child, reading
    status = 1
    try:
        os.close(reading)
        signal.alarm(LIMIT_S * (1 + bool(deep_seeds)))
        os.write(writing, json.dumps(asdict(judge(mutant, deep_seeds))).encode())
        status = 0
    finally:
        os._exit(status)


def _collect(mutant: Mutant, child: int, reading: int) -> Fate:
    """The fate that the child wrote; one that was ended by the alarm hung."""
    with os.fdopen(reading, "rb") as pipe:
        data = pipe.read()
    _, status = os.waitpid(child, 0)
    if data:
        return Fate(**json.loads(data))
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
        return Fate(mutant.name, mutant.killer, f"hangs for {LIMIT_S} s", 1)
    return Fate(mutant.name, "", "", 0, error=f"its process ended with {status}")


def main(arguments: list[str]) -> None:
    """The process of `fates`."""
    from .scenarios import scenarios

    deep_seeds, names = int(arguments[1]), arguments[2:]
    scenarios()  # imported once, before the forks
    if deep_seeds:
        importlib.import_module("tools.lab.sim.twins")
        importlib.import_module("tools.lab.sim.world")
    waiting = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    running: list[tuple[Mutant, int, int]] = []
    while waiting or running:
        while waiting and len(running) < JOBS:
            mutant = waiting.pop(0)
            running.append((mutant, *_fork(mutant, deep_seeds)))
        fate = _collect(*running.pop(0))
        sys.stdout.write(json.dumps(asdict(fate)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
