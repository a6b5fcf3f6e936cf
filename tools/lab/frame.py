"""One frame for everything that is measured: experiments (`quorix lab NAME`) and benchmarks (`quorix bench NAME`).

An experiment checks a claim about the rules, a benchmark measures speed or size on this machine. Both are a function
that gets a `Run`, reports figures and targets to it, and may take options of its own:

    @benchmark("epoch", about="one Yuma epoch at several sizes", seconds=10)
    @click.option("--repeats", default=3, show_default=True, help="Runs per size; the fastest counts.")
    def epoch(run: Run, repeats: int) -> None:
        for size in run.track(SIZES, "epochs"):
            run.at_most("epoch 64 x 256", measured_ms, 100, "ms")

One file per experiment, in `tools/lab` or `tools/bench`. Names, descriptions and durations are read from the source
without importing it, so a list costs nothing even if an experiment needs torch; they must therefore be literals. The
result is one JSON object with exactly these keys: name, ok, targets, figures, environment, seconds.
"""

from __future__ import annotations

import ast
import asyncio
import importlib
import importlib.metadata
import inspect
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from ledger.errors import NotFound

Kind = Literal["experiment", "benchmark"]
Number = int | float
T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

PACKAGES: dict[Kind, str] = {"experiment": "tools.lab", "benchmark": "tools.bench"}
MAX_PARSED = 1024  # files whose declarations are kept, as long as they do not change
KEY_PACKAGES = ("quorix", "cbor2", "pynacl", "plyvel", "numpy", "torch", "libp2p", "uvloop")


@dataclass(frozen=True)
class Target:
    """A claim and what was measured. `ok` says whether it holds; the relation is part of the readable form only."""

    name: str
    target: Number
    measured: Number | None
    unit: str
    ok: bool
    relation: str = "="


@dataclass(frozen=True)
class Result:
    """What a run yields. `figures` is JSON-ready and free in form."""

    name: str
    ok: bool
    targets: list[Target]
    figures: dict[str, Any]
    environment: dict[str, Any]
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """The JSON object."""
        out = asdict(self)
        for target in out["targets"]:
            del target["relation"]
        return out


@dataclass
class Run:
    """What an experiment reports to. With a `console` (a terminal on stderr) long loops show their progress there."""

    console: Any = None
    targets: list[Target] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def at_most(self, name: str, measured: Number | None, limit: Number, unit: str) -> None:
        """Target: the measured value is not above the limit. None counts as missed."""
        self._target(name, measured, limit, unit, "<=", measured is not None and measured <= limit)

    def at_least(self, name: str, measured: Number | None, limit: Number, unit: str) -> None:
        """Target: the measured value is not below the limit. None counts as missed."""
        self._target(name, measured, limit, unit, ">=", measured is not None and measured >= limit)

    def equals(self, name: str, measured: Number | None, value: Number, unit: str) -> None:
        """Target: the measured value is exactly this one."""
        self._target(name, measured, value, unit, "=", measured == value)

    def _target(self, name: str, measured: Number | None, limit: Number, unit: str, relation: str, ok: bool) -> None:
        shown = round(measured, 6) if isinstance(measured, float) else measured
        self.targets.append(Target(name, limit, shown, unit, ok, relation))

    def figure(self, name: str, value: Any) -> None:
        """Report a value to which no target is attached."""
        self.figures[name] = value

    def track(self, items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
        """Iterate with a progress bar and the time that is left on the terminal, or silently without one."""
        if self.console is None:
            yield from items
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        count = total if total is not None else len(items) if isinstance(items, Sequence) else None
        columns = (
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            yield from progress.track(items, total=count, description=label)

    def note(self, text: str) -> None:
        """Say on the terminal what is going on."""
        if self.console is not None:
            self.console.print(text, style="dim", highlight=False)


# --- declaring ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """One experiment or benchmark; `about` is one line, `seconds` a usual duration on two cores."""

    kind: Kind
    name: str
    about: str
    seconds: int
    module: str

    def load(self) -> Callable[..., Any]:
        """Import the module and return the function."""
        importlib.import_module(self.module)
        return _FUNCTIONS[self.kind, self.name]


_FUNCTIONS: dict[tuple[Kind, str], Callable[..., Any]] = {}


def experiment(name: str, *, about: str, seconds: int) -> Callable[[F], F]:
    """Declare an experiment of `quorix lab`. All arguments are literals."""
    return _declare("experiment", name, about, seconds)


def benchmark(name: str, *, about: str, seconds: int) -> Callable[[F], F]:
    """Declare a benchmark of `quorix bench`. All arguments are literals."""
    return _declare("benchmark", name, about, seconds)


def _declare(kind: Kind, name: str, about: str, seconds: int) -> Callable[[F], F]:
    assert about and seconds >= 0, f"{kind} {name} needs a description and a duration"

    def declare(function: F) -> F:
        known = _FUNCTIONS.get((kind, name))
        assert known is None or known.__module__ == function.__module__, f"{kind} {name} declared twice"
        _FUNCTIONS[kind, name] = function
        return function

    return declare


# --- finding -----------------------------------------------------------------------------------------------------


def entries(kind: Kind, package: str | None = None) -> dict[str, Entry]:
    """All experiments or benchmarks by name, sorted, read from the source of the package's own modules."""
    package = package or PACKAGES[kind]
    found: dict[str, Entry] = {}
    for folder in importlib.import_module(package).__path__:
        for path in sorted(Path(folder).glob("*.py")):
            for entry in _declared_in(path, f"{package}.{path.stem}", kind):
                assert entry.name not in found, f"{kind} {entry.name} declared in {found[entry.name].module} too"
                found[entry.name] = entry
    return dict(sorted(found.items()))


def find(kind: Kind, name: str) -> Entry:
    """The entry of that name; raises NotFound."""
    known = entries(kind)
    if name not in known:
        raise NotFound(f"there is no {kind} {name!r}", hint=f"known: {', '.join(known) or 'none'}")
    return known[name]


def _declared_in(path: Path, module: str, kind: Kind) -> list[Entry]:
    return _parsed(path, path.stat().st_mtime_ns, module, kind)


@lru_cache(MAX_PARSED)
def _parsed(path: Path, _changed_ns: int, module: str, kind: Kind) -> list[Entry]:
    source, found = path.read_text(), list[Entry]()
    if f"@{kind}(" not in source:
        return found
    for node in ast.parse(source).body:
        for call in getattr(node, "decorator_list", ()):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == kind:
                values = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
                found.append(Entry(kind, ast.literal_eval(call.args[0]), values["about"], values["seconds"], module))
    return found


# --- running -----------------------------------------------------------------------------------------------------


def execute(entry: Entry, options: dict[str, Any], console: Any = None) -> Result:
    """Run an entry with the given options; an async function gets its own event loop."""
    function = entry.load()
    run = Run(console)
    start = time.perf_counter()
    outcome = function(run, **options)
    if inspect.iscoroutine(outcome):
        asyncio.run(outcome)
    seconds = round(time.perf_counter() - start, 3)
    ok = all(target.ok for target in run.targets)
    return Result(entry.name, ok, run.targets, run.figures, environment(), seconds)


def environment() -> dict[str, Any]:
    """Where it was measured: interpreter, machine, processors, versions of the packages that matter."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "processor": _processor(),
        "cpus": os.cpu_count() or 0,
        "cpus_usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "optimised": bool(sys.flags.optimize),
        "packages": {name: version for name in KEY_PACKAGES if (version := _version(name))},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


def timed(function: Callable[[], Any], repeats: int, clock: Callable[[], float] = time.process_time) -> float:
    """Least seconds of `repeats` calls: what the work costs when nothing else disturbs it."""
    best = float("inf")
    for _ in range(repeats):
        start = clock()
        function()
        best = min(best, clock() - start)
    return best
