"""Reading vectors: files are recognised by their content, numbers are read exactly.

    *.json       an object with a list "cases" (and "defaults" for epoch histories)
    *.jsonl.gz   one random subnet a line

A case is a *history* (steps of one subnet), a *graph* (a generated one), *events* (a random subnet), a *guarantee* (a
property of consensus) or a *function* (a call with its result). Decimal numbers become fractions, never floats.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from ledger.errors import NotFound

CaseKind = Literal["history", "graph", "events", "guarantee", "function"]

MAX_FILE_BYTES = 1 << 28  # of a file's text: a vector file is a few megabytes
SUFFIXES = (".json", ".jsonl.gz")


class Mismatch(Exception):
    """A value differs, or the case holds something this replay does not understand: the case fails."""


class NotApplicable(Exception):
    """Quorix has no such rule; the text says why."""


@dataclass(frozen=True)
class Case:
    """One case. `group` is the function's name, or the kind; `body` is the parsed object."""

    file: str
    id: str
    kind: CaseKind
    body: dict[str, Any]
    defaults: dict[str, Any] = field(default_factory=dict)

    @property
    def group(self) -> str:
        return str(self.body["fn"]) if self.kind == "function" else self.kind

    @property
    def size(self) -> int:
        """Number of uids, 0 for a function."""
        n = self.body.get("n", 0)
        return n if isinstance(n, int) else 0


@dataclass(frozen=True)
class Skipped:
    """A file that holds no vectors, or cannot be read (`damaged`)."""

    file: str
    why: str
    damaged: bool


def read_folder(folder: Path) -> tuple[list[Case], list[Skipped]]:
    """All cases of all vector files below `folder`, in order of their names. Raises NotFound if there is no folder."""
    if not folder.is_dir():
        raise NotFound(f"{folder} is not a directory")
    cases: list[Case] = []
    skipped: list[Skipped] = []
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith(SUFFIXES) or not path.is_file():
            continue
        name = str(path.relative_to(folder))
        try:
            found = list(read_file(path, name))
        except (ValueError, RecursionError, OSError, EOFError, zlib.error) as error:
            skipped.append(Skipped(name, f"{type(error).__name__}: {error}", damaged=True))
            continue
        if not found:
            skipped.append(Skipped(name, "holds no vectors", damaged=False))
        cases += found
    return cases, skipped


def read_file(path: Path, name: str) -> Iterator[Case]:
    """Cases of one file; raises ValueError or OSError if it cannot be read."""
    if path.name.endswith(".json"):
        yield from _document(_parse(path.read_text()), name)
        return
    with gzip.open(path, "rb") as stream:
        data = stream.read(MAX_FILE_BYTES + 1)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"more than {MAX_FILE_BYTES} bytes")
    for index, line in enumerate(data.decode().splitlines()):
        if line.strip():
            body = _parse(line)
            kind = _kind(body)
            if kind:
                yield Case(name, str(body.get("id", f"line {index + 1}")), kind, body)


def _parse(text: str) -> Any:
    return json.loads(text, parse_float=Fraction)


def _document(document: Any, name: str) -> Iterator[Case]:
    defaults = document.get("defaults", {}) if isinstance(document, dict) else {}
    cases = document.get("cases") if isinstance(document, dict) else document
    for index, body in enumerate(cases if isinstance(cases, list) else []):
        kind = _kind(body)
        if kind:
            yield Case(name, str(body.get("id", f"case {index}")), kind, body, defaults)


def _kind(body: Any) -> CaseKind | None:
    if not isinstance(body, dict):
        return None
    if "fn" in body and "output" in body:
        return "function"
    if "events" in body and "epochs" in body:
        return "events"
    if "generator" in body:
        return "graph"
    if "steps" in body:
        return "history"
    return "guarantee" if "major_uids" in body else None
