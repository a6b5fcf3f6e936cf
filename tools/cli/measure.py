"""The verbs of `quorix lab` and `quorix bench`: `list`, and one per experiment or benchmark.

Each experiment's options are those of its function; its module is imported only when it is run or its help is asked
for. Exit code 0 if every target holds, 1 if one is missed.
"""

from __future__ import annotations

import sys
from typing import Any

import click

from tools.cli.main import Leaf, Noun, Settings
from tools.cli.output import Output
from tools.lab.frame import Entry, Kind, Result, Target, entries, execute

MISSED = 1
SHOWN_LIST_ITEMS = 12  # of a figure that is a list; the JSON form has all of it
WHOLE = ("trace",)  # lists that are shown to the end


class Measurements(Noun):
    """A noun whose verbs are the experiments, or benchmarks, that are found in their package."""

    def __init__(self, kind: Kind, **settings: Any) -> None:
        super().__init__(**settings)
        self.kind = kind
        self.add_command(Leaf("list", callback=self._list, help="What there is, what it measures, how long it takes."))

    def list_commands(self, ctx: click.Context) -> list[str]:
        return ["list", *entries(self.kind)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = entries(self.kind).get(cmd_name)
        return super().get_command(ctx, cmd_name) if entry is None else verb(entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [("list", "What there is, what it measures, how long it takes.")]
        rows += [(name, entry.about) for name, entry in entries(self.kind).items()]
        with formatter.section(f"{self.kind.capitalize()}s"):
            formatter.write_dl(rows)

    def _list(self) -> None:
        output = Output(_settings())
        found = list(entries(self.kind).values())
        data = [{"name": entry.name, "about": entry.about, "seconds": entry.seconds} for entry in found]
        rows = [(entry.name, entry.about, duration(entry.seconds)) for entry in found]
        output.data(data, lambda: output.table("", ("name", "what it measures", "takes"), rows, right=("takes",)))


def verb(entry: Entry) -> click.Command:
    """The command of an entry: its function's own options, and the common ones."""
    function = entry.load()
    options = list(reversed(getattr(function, "__click_params__", [])))

    def callback(**given: Any) -> None:
        settings = _settings()
        output = Output(settings)
        terminal = sys.stderr.isatty() and not settings.quiet
        result = execute(entry, given, output.console(stderr=True) if terminal else None)
        output.data(result.as_dict(), lambda: show(output, result))
        click.get_current_context().exit(0 if result.ok else MISSED)

    about = (function.__doc__ or entry.about).strip()
    return Leaf(entry.name, callback=callback, params=options, help=f"{about}\n\nTakes {duration(entry.seconds)}.",
                short_help=entry.about)


def show(output: Output, result: Result) -> None:
    """The result as tables: targets with the verdict, then the figures."""
    console = output.console()
    verdict = "[bold green]all targets hold[/]" if result.ok else "[bold red]a target is missed[/]"
    console.print(f"[bold]{result.name}[/]  {verdict}  [dim]{result.seconds:,.1f} s[/]")
    if result.targets:
        rows = [
            ("ok" if target.ok else "MISSED", target.name, _number(target.measured), _limit(target), target.unit)
            for target in result.targets
        ]
        output.table("", ("", "target", "measured", "wanted", "unit"), rows, right=("measured", "wanted"))
    tables = {name: value for name, value in result.figures.items() if _is_table(value)}
    plain = [
        (name, _readable(value)) for name, value in result.figures.items() if name not in tables and name not in WHOLE
    ]
    if plain:
        output.table("", ("figure", "value"), plain)
    for name, rows in tables.items():
        columns = list(dict.fromkeys(column for row in rows for column in row))
        right = [column for column in columns if all(_is_number(row.get(column, 0)) for row in rows)]
        cells = [[_readable(row.get(column, "")) for column in columns] for row in rows]
        output.table(name, [column.replace("_", " ") for column in columns], cells,
                     right=[column.replace("_", " ") for column in right])
    for line in (line for name in WHOLE for line in result.figures.get(name, ())):
        output.piece(f"{line}\n")
    where = result.environment
    console.print(f"[dim]{where['processor']}, {where['cpus_usable']} cpus, Python {where['python']}[/]")


def duration(seconds: int) -> str:
    """`40 s`, `5 min`, `2 h`."""
    if seconds < 120:
        return f"{seconds} s"
    return f"{round(seconds / 60)} min" if seconds < 7200 else f"{round(seconds / 3600)} h"


def _settings() -> Settings:
    settings = click.get_current_context().obj
    return settings if isinstance(settings, Settings) else Settings()


def _limit(target: Target) -> str:
    return f"{target.relation} {_number(target.target)}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_table(value: Any) -> bool:
    """A list of objects is shown as a table of its own."""
    return isinstance(value, list) and bool(value) and all(isinstance(row, dict) for row in value)


def _number(value: Any) -> str:
    if not _is_number(value):
        return "not measured" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _readable(value: Any) -> str:
    """Numbers grouped; a dictionary or list one item a line."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {_flat(item)}" for name, item in value.items())
    if isinstance(value, list):
        lines = [_flat(item) for item in value[:SHOWN_LIST_ITEMS]]
        more = len(value) - SHOWN_LIST_ITEMS
        return "\n".join(lines + ([f"... and {more} more (see --json)"] if more > 0 else [])) or "none"
    return _number(value)


def _flat(item: Any) -> str:
    if isinstance(item, dict):
        return ", ".join(f"{name} {_flat(value)}" for name, value in item.items())
    return " ".join(_flat(value) for value in item) if isinstance(item, list) else _number(item)
