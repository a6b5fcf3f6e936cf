"""Templates and the filters they use: amounts, shares, addresses, ages. Everything is escaped by default."""

from __future__ import annotations

import csv
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ledger.client.api import ChainApi
from ledger.client.keys import encode_address
from ledger.client.records import NewHead, to_json
from ledger.errors import Error

from .pages import PAGES, Page, Table, Values, home

RAO: Final = 1_000_000_000
ONE_Q32: Final = 1 << 32
LIVE_FRAGMENTS: Final = ("head", "strip", "subnets", "earners", "turn")  # element ids of the home page


def amount(rao: int, digits: int = 9) -> str:
    """`1,234.5` in Q, cut (not rounded) after `digits`."""
    whole, part = divmod(abs(int(rao)), RAO)
    text = f"{part:09d}"[:digits].rstrip("0")
    return f"{'-' if rao < 0 else ''}{whole:,}{'.' + text if text else ''}"


def q32(value: int, digits: int = 4) -> str:
    return f"{int(value) / ONE_Q32:.{digits}f}"


def u16(value: int, digits: int = 4) -> str:
    return f"{int(value) / 65535:.{digits}f}"


def short(value: bytes | str, left: int = 8, right: int = 6) -> str:
    text = "0x" + value.hex() if isinstance(value, bytes) else value
    return text if len(text) <= left + right + 1 else f"{text[:left]}…{text[-right:]}"


def hexed(value: bytes) -> str:
    return "0x" + value.hex()


def when(timestamp_ms: int) -> str:
    """UTC date and time."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(timestamp_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def bar(part: float, whole: float) -> Markup:
    """A left-aligned bar for a share; the number stands beside it, so colour and length are not the only meaning."""
    share = 0 if not whole else max(0.0, min(1.0, part / whole))
    return Markup(
        f'<svg class="bar" width="100" height="8" viewBox="0 0 100 8" aria-hidden="true" focusable="false">'
        f'<rect width="100" height="8" class="bar-back"/><rect width="{100 * share:.1f}" height="8" class="bar-fill"/></svg>'
    )


class Renderer:
    """Turns values into pages."""

    def __init__(self, can_ask: bool) -> None:
        self.environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )
        self.environment.filters.update(
            amount=amount, q32=q32, u16=u16, short=short, hexed=hexed, when=when, address=encode_address,
            json=lambda value: json.dumps(to_json(value), indent=1, ensure_ascii=False),
        )
        self.environment.globals.update(
            bar=bar, nav=[(p.path, p.nav) for p in PAGES if p.nav], can_ask=can_ask, version=version("quorix")
        )

    def page(self, entry: Page, values: Values, path: str) -> str:
        parts = _path_fields(entry, path)
        title = entry.title.format(**parts)
        snippet = [text.format(**parts) for text in entry.snippet]
        return self.environment.get_template(entry.template).render(
            title=title, snippet=snippet, path=path, here=entry.nav, live=entry.live, has_csv=values.table is not None,
            **values.show,
        )

    def error(self, status: int, error: Error) -> str:
        return self._plain("error.html", title=str(status), status=status, error=error)

    def ask(self, question: str, answer: dict[str, Any]) -> str:
        return self._plain("ask.html", title="Ask the network", question=question, answer=answer)

    def _plain(self, template: str, **values: Any) -> str:
        return self.environment.get_template(template).render(
            snippet=None, path="", here="", live=False, has_csv=False, **values
        )

    async def live(self, api: ChainApi, head: NewHead) -> dict[str, str]:
        """Fragments of the home page after a block, by element id."""
        values = await home(api, {}, {})
        return {name: self.environment.get_template(f"live_{name}.html").render(**values.show) for name in LIVE_FRAGMENTS}

    @staticmethod
    def csv(table: Table) -> str:
        out = io.StringIO()
        writer = csv.writer(out)
        writer.writerow(table[0])
        for row in table[1]:
            writer.writerow([_csv_cell(cell) for cell in row])
        return out.getvalue()


def _csv_cell(cell: Any) -> Any:
    """Spreadsheets run cells that begin with = + - @ as formulas: those get a quote in front."""
    value = to_json(cell)
    if isinstance(value, dict | list):
        return json.dumps(value)
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t"):
        return "'" + value
    return value


def _path_fields(entry: Page, path: str) -> dict[str, str]:
    """Values of the {fields} of a page's path."""
    wanted, given = entry.path.strip("/").split("/"), path.strip("/").split("/")
    return {w[1:-1]: g for w, g in zip(wanted, given, strict=False) if w.startswith("{")}
