"""What commands print: one JSON document, or text and tables for a person; amounts, addresses, confirmations.

Data goes to stdout, remarks and progress to stderr. `rich` is imported only when a table is printed.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ledger.client.json_form import to_json
from ledger.errors import Aborted, UsageError

if TYPE_CHECKING:
    from tools.cli.main import Settings

RAO = 1_000_000_000
PIPE_COLUMNS = 240  # a pipe has no width: rows stay on one line, whatever the terminal above has
FOLDED = 20  # a wider column of words may be folded to this
NARROW = 6  # a first column that is no wider does not name a row by itself
GAP = 3  # between two columns
SUPPLY_CAP_RAO = 21_000_000 * RAO
MAX_AMOUNT_CHARACTERS = 64
MAX_DATE_MS = 253_402_300_799_999  # the end of the year 9999


_AMOUNT = re.compile(r"([0-9][0-9_]*)(?:\.([0-9]+))?(Q|r)", re.ASCII)


def parse_amount(text: str) -> int | None:
    """`1.5Q`, `1_500_000r`, `all` (None). A bare number is refused: the unit must be said. Never a float."""
    if text.strip() == "all":
        return None
    found = _AMOUNT.fullmatch(text.strip()) if len(text) <= MAX_AMOUNT_CHARACTERS else None
    if found is None:
        shown = text[:MAX_AMOUNT_CHARACTERS]
        raise UsageError(f"{shown!r} is not an amount", hint="write 1.5Q, 1_500_000r or all (1 Q = 1,000,000,000 rao)")
    whole, fraction, unit = found[1].replace("_", ""), (found[2] or "").rstrip("0"), found[3]
    places = 9 if unit == "Q" else 0
    if len(fraction) > places:
        raise UsageError(f"{text!r} is finer than one rao", hint="1 Q = 1,000,000,000 rao")
    rao = int(whole + fraction.ljust(places, "0"))
    if rao > SUPPLY_CAP_RAO:
        raise UsageError(f"{text!r} is more than there will ever be")
    return rao


_PERCENT = re.compile(r"([0-9]{1,3})(?:\.([0-9]{1,18}))?%", re.ASCII)


def parse_percent(text: str, whole: int) -> int:
    """`12.5%` of `whole`, rounded down; at most all of it. Raises UsageError."""
    found = _PERCENT.fullmatch(text.strip())
    digits = "" if found is None else found[1] + (found[2] or "")
    scale = 100 * 10 ** (0 if found is None else len(found[2] or ""))
    if not digits or int(digits) > scale:
        raise UsageError(f"{text[:40]!r} is no share", hint="write 12.5%, at most 100%")
    part: int = whole * int(digits) // scale
    return part


def format_amount(rao: int, *, digits: int | None = None) -> str:
    """`1,000.5 Q`; exact unless `digits` after the point are asked for."""
    sign, rao = ("-" if rao < 0 else ""), abs(rao)
    whole, part = divmod(rao, RAO)
    fraction = f"{part:09d}" if digits is None else f"{part:09d}"[:digits]
    fraction = fraction.rstrip("0") if digits is None else fraction
    return f"{sign}{whole:,}{'.' + fraction if fraction else ''} Q"


def format_time(timestamp_ms: int) -> str:
    """UTC date and time to the millisecond; what is no date, as the number it is."""
    if not 0 <= timestamp_ms <= MAX_DATE_MS:
        return f"{timestamp_ms} ms"
    moment = datetime.fromtimestamp(timestamp_ms // 1000, UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{timestamp_ms % 1000:03d} UTC"


def printable(text: str) -> str:
    """Without characters that move a terminal's cursor, colour it or turn its writing round: texts come from strangers."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def counted(number: int, thing: str, things: str = "") -> str:
    """`1 node`, `2 nodes`."""
    return f"{number:,} {thing if number == 1 else things or thing + 's'}"


def nearest(word: str, known: Iterable[str], every: str) -> str:
    """A hint for a name that does not exist: those like it, and the command that lists `every` one."""
    near = difflib.get_close_matches(word[:64], list(known), 3)
    return f"did you mean {' or '.join(near)}? all of them: {every}" if near else every


def share(u16: int) -> str:
    """A u16 fraction as a decimal with four digits."""
    return f"{u16 / 65535:.4f}"


def _parts(least: Sequence[int], width: int) -> list[list[int]]:
    """Columns, by index, in parts that fit the width, each with the leading column again, or two where it is narrow."""
    lead = list(range(min(len(least), 2 if least and least[0] <= NARROW else 1)))
    parts, part = [], list(lead)
    for at in range(len(lead), len(least)):
        if part != lead and sum(least[each] + GAP for each in (*part, at)) > width + 1:
            parts.append(part)
            part = list(lead)
        part.append(at)
    return [*parts, part]


def _cell(value: Any) -> str:
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


class Output:
    """Prints in the form the settings ask for."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def json(self) -> bool:
        return self.settings.json

    def data(self, value: Any, text: str | Callable[[], str | None] | None = None) -> None:
        """The result of a command: JSON if asked for, else the text (or what the function prints or returns)."""
        if self.json:
            self._write(json.dumps(to_json(value), ensure_ascii=False))
            return
        shown = text() if callable(text) else text
        if shown is not None:
            self._write(printable(shown))

    def line(self, value: Any) -> None:
        """One JSON line of a stream."""
        self._write(json.dumps(to_json(value), ensure_ascii=False))

    def text(self, text: str) -> None:
        """One line for people, beside a table."""
        self._write(printable(text))

    def piece(self, text: str) -> None:
        """Part of a text that comes bit by bit; no new line after it."""
        sys.stdout.write(printable(text))
        sys.stdout.flush()

    def table(
        self, title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()
    ) -> None:
        """A table; columns named in `right` are aligned to the right.

        Where the terminal is too narrow for all columns they come in several parts, each with the first ones again.
        """
        from rich.box import SIMPLE_HEAD
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        cells = [[printable(_cell(cell)) for cell in row] for row in rows]
        console = self.console()
        if title:  # a line of its own: rich would fold it to the width of the table
            console.print(Text(printable(title)), style="bold", soft_wrap=True)
        widest = [
            max(cell_len(line) for cell in column for line in cell.split("\n") or [""])
            for column in zip(columns, *cells, strict=True)
        ]
        least = [width if name in right else min(width, FOLDED) for name, width in zip(columns, widest, strict=True)]
        for part in _parts(least, console.width):
            table = Table(box=SIMPLE_HEAD, pad_edge=False)
            for at in part:
                number = columns[at] in right
                table.add_column(
                    columns[at], justify="right" if number else "left", overflow="fold", no_wrap=number, min_width=least[at]
                )
            for row in cells:
                table.add_row(*(Text(row[at]) for at in part))  # a plain string would be read as markup
            console.print(table)

    def console(self, *, stderr: bool = False) -> Any:
        from rich.console import Console

        color = self.settings.color
        stream = sys.stderr if stderr else sys.stdout
        width = None if stream.isatty() else PIPE_COLUMNS
        off = color is False or None
        return Console(file=stream, no_color=off, force_terminal=color or None, width=width, highlight=False)

    def remark(self, text: str) -> None:
        """Something a person may want to know; not data."""
        if not self.settings.quiet and not self.json:
            print(printable(text), file=sys.stderr, flush=True)

    def confirm(self, plan: str, typed: str = "") -> None:
        """Show what will happen and ask; raises Aborted when declined or when nobody can be asked.

        Where `typed` is given, that word is the only yes.
        """
        if self.settings.yes:
            return
        if self.settings.no_input or not sys.stdin.isatty():
            raise Aborted("this needs a confirmation and there is nobody to ask", hint="add --yes")
        question = f"this cannot be taken back; type {typed} to go on: " if typed else "go on? [y/N] "
        print(printable(plan), question, sep="\n", end="", file=sys.stderr, flush=True)
        said = sys.stdin.readline().strip()
        if said != typed if typed else said.lower() not in ("y", "yes"):
            raise Aborted("declined")

    @staticmethod
    def _write(text: str) -> None:
        print(text, flush=True)
