"""The frame of experiments and benchmarks: declaring, finding without importing, running, showing."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from ledger.errors import NotFound
from tools.cli import bench, lab
from tools.cli.main import Settings
from tools.cli.measure import Measurements, duration, show
from tools.cli.output import Output
from tools.lab import frame
from tools.lab.frame import Entry, Result, Run, entries, execute, experiment, find, timed

KEYS = ["name", "ok", "targets", "figures", "environment", "seconds"]

SOURCE = '''
import click
from tools.lab.frame import Run, experiment
{extra}

@experiment("{name}", about="adds numbers", seconds=7)
@click.option("--first", default=1, help="One.")
@click.argument("second", type=int)
def add(run: Run, first: int, second: int) -> None:
    """Add two numbers."""
    for value in run.track([first, second], "adding"):
        run.figure(f"saw {{value}}", value)
    run.note("done")
    run.at_most("sum", first + second, 10, "units")
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable package of experiments: one that works and one that must not be imported by a list."""
    name = f"sample_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "adding.py").write_text(SOURCE.format(extra="", name="add"))
    (folder / "heavy.py").write_text(SOURCE.format(extra='raise RuntimeError("imported")', name="heavy"))
    (folder / "plain.py").write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(frame, "_FUNCTIONS", dict(frame._FUNCTIONS))
    return name


def invoke(group: click.Group, *args: str) -> Any:
    return CliRunner().invoke(group, list(args), prog_name="quorix", standalone_mode=False)


def test_a_trace_is_shown_to_its_end_and_other_lists_are_cut() -> None:
    lines = [f"{number} p0 step" for number in range(300)]
    figures = {"trace": lines, "others": [f"other {number}" for number in range(300)]}
    result = Result("sample", True, [], figures, frame.environment(), 1)

    @click.command()
    def command() -> None:
        show(Output(Settings()), result)

    text = CliRunner().invoke(command).stdout
    assert "\n".join(lines) in text and "other 299" not in text and "... and 288 more (see --json)" in text


# --- declaring and finding


def test_experiments_are_found_without_importing_them(package: str) -> None:
    found = entries("experiment", package)
    assert list(found) == ["add", "heavy"]
    assert found["add"] == Entry("experiment", "add", "adds numbers", 7, f"{package}.adding")
    assert f"{package}.adding" not in sys.modules


def test_a_name_is_declared_once(package: str) -> None:
    folder = Path(__import__(package).__path__[0])
    (folder / "again.py").write_text(SOURCE.format(extra="", name="add"))
    with pytest.raises(AssertionError, match="declared in"):
        entries("experiment", package)


def test_declarations_read_from_source_are_those_of_the_modules() -> None:
    for kind in ("experiment", "benchmark"):
        for name, entry in entries(kind).items():
            assert entry.about and entry.seconds >= 0 and entry.name == name
    for entry in (find("experiment", "vectors"), find("benchmark", "epoch"), find("benchmark", "set-weights")):
        assert callable(entry.load())


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(NotFound, match="nothing") as caught:
        find("benchmark", "nothing")
    assert "epoch" in caught.value.hint


# --- running


def run_of(function: Any, **options: Any) -> Result:
    name = function.__name__
    experiment(name, about="a test", seconds=1)(function)
    return execute(Entry("experiment", name, "a test", 1, __name__), options)


def test_a_result_holds_if_all_targets_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "_FUNCTIONS", {})
    monkeypatch.setattr(Entry, "load", lambda self: frame._FUNCTIONS[self.kind, self.name])

    def good(run: Run, limit: int) -> None:
        run.at_most("a", 5, limit, "ms")
        run.at_least("b", 5.5, 5, "ms")
        run.equals("c", 0, 0, "cases")

    result = run_of(good, limit=5)
    assert result.ok and [target.ok for target in result.targets] == [True, True, True]
    missed = execute(Entry("experiment", "good", "a test", 1, __name__), {"limit": 4})
    assert not missed.ok and [target.ok for target in missed.targets] == [False, True, True]


def test_what_was_not_measured_is_missed() -> None:
    run = Run()
    run.at_most("a", None, 1, "ms")
    run.at_least("b", None, 1, "ms")
    run.equals("c", None, 1, "ms")
    assert not any(target.ok for target in run.targets)


def test_async_experiments_get_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "_FUNCTIONS", {})
    monkeypatch.setattr(Entry, "load", lambda self: frame._FUNCTIONS[self.kind, self.name])

    async def waits(run: Run) -> None:
        await asyncio.sleep(0)
        run.figure("loop", True)

    assert run_of(waits).figures == {"loop": True}


def test_the_json_form_has_exactly_the_agreed_keys(package: str) -> None:
    result = execute(entries("experiment", package)["add"], {"first": 3, "second": 4})
    data = json.loads(json.dumps(result.as_dict()))
    assert list(data) == KEYS
    assert data["targets"] == [{"name": "sum", "target": 10, "measured": 7, "unit": "units", "ok": True}]
    assert data["figures"] == {"saw 3": 3, "saw 4": 4} and data["name"] == "add" and data["ok"] is True
    assert {"python", "platform", "cpus", "packages"} <= data["environment"].keys()
    assert data["environment"]["packages"]["cbor2"] and data["seconds"] >= 0


def test_progress_goes_to_the_console_only(package: str, capsys: pytest.CaptureFixture[str]) -> None:
    from io import StringIO

    from rich.console import Console

    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    execute(entries("experiment", package)["add"], {"first": 3, "second": 4}, console)
    assert "adding" in screen.getvalue() and "done" in screen.getvalue()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_the_least_of_several_runs_counts() -> None:
    ticks = iter([0.0, 5.0, 10.0, 12.0, 20.0, 29.0])
    assert timed(lambda: None, 3, clock=lambda: next(ticks)) == 2.0


# --- commands


@pytest.fixture
def group(package: str, monkeypatch: pytest.MonkeyPatch) -> Measurements:
    monkeypatch.setitem(frame.PACKAGES, "experiment", package)
    return Measurements("experiment", name="lab")


def test_list_says_what_each_measures_and_how_long_it_takes(group: Measurements) -> None:
    shown = invoke(group, "list")
    assert "adds numbers" in shown.stdout and "7 s" in shown.stdout and "heavy" in shown.stdout
    data = json.loads(invoke(group, "list", "--json").stdout)
    assert data[0] == {"name": "add", "about": "adds numbers", "seconds": 7}
    helped = invoke(group, "--help").stdout
    assert "adds numbers" in helped and "heavy" in helped


def test_options_of_an_experiment_are_options_of_its_command(group: Measurements) -> None:
    helped = invoke(group, "add", "--help").stdout
    assert "--first" in helped and "SECOND" in helped and "Add two numbers." in helped and "--json" in helped
    data = json.loads(invoke(group, "add", "--first", "2", "5", "--json").stdout)
    assert data["targets"][0]["measured"] == 7


def test_exit_code_says_whether_the_targets_hold(group: Measurements) -> None:
    assert CliRunner().invoke(group, ["add", "4"]).exit_code == 0
    missed = CliRunner().invoke(group, ["add", "40"])
    assert missed.exit_code == 1 and "MISSED" in missed.stdout and "41" in missed.stdout
    assert json.loads(CliRunner().invoke(group, ["add", "40", "--json"]).stdout)["ok"] is False
    assert CliRunner().invoke(group, ["nothing"]).exit_code == 2
    assert CliRunner().invoke(group, ["add", "word"]).exit_code == 2


def test_durations_are_readable() -> None:
    assert [duration(seconds) for seconds in (3, 119, 300, 7200)] == ["3 s", "119 s", "5 min", "2 h"]


def test_both_nouns_have_their_entries() -> None:
    assert "vectors" in lab.group.list_commands(click.Context(lab.group))
    assert {"epoch", "set-weights"} <= set(bench.group.list_commands(click.Context(bench.group)))


def test_listing_imports_neither_experiments_nor_heavy_packages() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from tools.cli.lab import group\n"
        "assert CliRunner().invoke(group, ['list', '--json']).exit_code == 0\n"
        "assert CliRunner().invoke(group, ['--help']).exit_code == 0\n"
        "bad = {'torch', 'libp2p', 'numpy', 'tools.lab.vectors', 'runtime.yuma'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3], timeout=60)


# --- the benchmarks themselves


def test_the_epoch_benchmark_reports_every_size() -> None:
    options = {
        "repeats": 1, "classic": True, "liquid": False, "dense": False, "max_uids": 64, "settings": False,
        "digests_only": False,
    }
    result = execute(find("benchmark", "epoch"), options)
    rows = result.figures["epochs"]
    assert len(rows) == len(result.targets) == 2 and all(row["ms"] > 0 for row in rows)
    again = execute(find("benchmark", "epoch"), options)
    assert [row["digest"] for row in rows] == [row["digest"] for row in again.figures["epochs"]]


def test_the_weights_benchmark_takes_the_whole_path() -> None:
    result = execute(find("benchmark", "set-weights"), {"entries": 64, "repeats": 1})
    assert result.targets[0].measured is not None and result.figures["call_bytes"] > 256
