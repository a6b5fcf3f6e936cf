"""Conformance vectors, replayed through the functions that the chain runs.

`quorix lab vectors DIR` takes every `*.json` and `*.jsonl.gz` below DIR whose content has the form of the vectors
(tests/vectors/README.md). A case passes if every stated value comes out within its tolerance. Functions of which Quorix
has no counterpart are counted apart, each with the reason.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from tools.lab.frame import Run, experiment
from tools.lab.replay import chain, mathematics  # noqa: F401 - they declare the functions they replay
from tools.lab.replay.cases import Case, Mismatch, NotApplicable, Skipped, read_folder
from tools.lab.replay.epochs import replay_events, replay_history
from tools.lab.replay.graphs import replay_graph, replay_guarantee
from tools.lab.replay.registry import replay_function

REPLAYS = {
    "history": replay_history, "events": replay_events, "graph": replay_graph, "guarantee": replay_guarantee,
    "function": replay_function,
}


class Tally:
    """Verdicts, counted by file and by function."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self.failed: list[dict[str, str]] = []
        self.excused: dict[tuple[str, str], int] = {}
        self.by_file: dict[str, Counter[str]] = {}
        self.compared = 0

    def replay(self, case: Case) -> None:
        """Replay one case and keep its verdict; a case that cannot be understood has failed."""
        file = self.by_file.setdefault(case.file, Counter())
        file["cases"] += 1
        try:
            self.compared += REPLAYS[case.kind](case)
        except NotApplicable as reason:
            key = (case.group, str(reason))
            self.excused[key] = self.excused.get(key, 0) + 1
            file["not_applicable"] += 1
        except Exception as error:  # a case of an unknown form may break anywhere; the others go on
            why = str(error) if isinstance(error, Mismatch) else f"cannot be replayed: {error!r}"
            self.failed.append({"id": case.id, "file": case.file, "function": case.group, "reason": why})
            file["failed"] += 1
        else:
            self.passed[case.group] += 1
            file["passed"] += 1

    def figures(self, skipped: list[Skipped]) -> dict[str, Any]:
        """The figures of the result."""
        excused = [{"function": name, "count": count, "why": why} for (name, why), count in self.excused.items()]
        cases = sum(file["cases"] for file in self.by_file.values())
        return {
            "cases": cases, "passed": sum(self.passed.values()), "failed": self.failed,
            "not_applicable": sorted(excused, key=lambda row: str(row["function"])),
            "values_compared": self.compared,
            "files": [{"file": name, **counts} for name, counts in sorted(self.by_file.items())],
            "skipped_files": [{"file": file.file, "why": file.why} for file in skipped],
        }


@experiment("vectors", about="replay conformance vectors of a directory through the chain's own rules", seconds=20)
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path), default="tests/vectors")
@click.option("--max-uids", type=int, default=0, help="Leave out subnets with more uids than this; 0 takes all.")
def vectors(run: Run, directory: Path, max_uids: int) -> None:
    """Replay every vector found in DIRECTORY through the functions that the chain runs."""
    cases, skipped = read_folder(directory)
    if max_uids:
        cases = [case for case in cases if case.size <= max_uids]
    tally = Tally()
    for case in run.track(cases, "replaying"):
        tally.replay(case)
    for name, value in tally.figures(skipped).items():
        run.figure(name, value)
    run.at_least("cases found", len(cases), 1, "cases")
    run.equals("cases failed", len(tally.failed), 0, "cases")
    run.equals("damaged files", sum(file.damaged for file in skipped), 0, "files")
