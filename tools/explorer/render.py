"""Templates: values become pages, live fragments and CSV. Everything is escaped by default."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ledger.client.api import ChainApi
from ledger.client.fields import key_of
from ledger.client.keys import encode_address
from ledger.client.records import to_json
from ledger.errors import Error

from .figures import amount, bar, cut_bar, field_name, field_text, hexed, percent, q32, role, short, short_key, u16, when
from .page import Page, Table, Values
from .pages import PAGES, home

LIVE_FRAGMENTS: Final = ("head", "strip", "subnets", "earners", "turn")  # element ids of the home page


class Renderer:
    """Turns values into pages."""

    def __init__(self, can_ask: bool) -> None:
        self.environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )
        self.environment.filters.update(
            amount=amount, q32=q32, u16=u16, short=short, short_key=short_key, hexed=hexed, when=when, role=role,
            address=encode_address, key_of=key_of, field_name=field_name, field_text=field_text,
            json=lambda value: json.dumps(to_json(value), indent=1, ensure_ascii=False),
        )
        self.environment.globals.update(
            bar=bar, cut_bar=cut_bar, percent=percent, nav=[(p.path, p.nav) for p in PAGES if p.nav], can_ask=can_ask,
            version=version("quorix"),
        )

    def page(self, entry: Page, values: Values, path: str, arguments: Mapping[str, str]) -> str:
        """A whole page. `arguments`: the {fields} of its path; the values may know better ("latest" -> 7)."""
        fields = {name: int(text) if text.isdecimal() else text for name, text in {**arguments, **values.fields}.items()}
        title = entry.title.format(**fields)
        ways = ("RPC", "CLI", "Python")
        snippet = [(way, text.format(**fields)) for way, text in zip(ways, entry.snippet, strict=True) if text]
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
            snippet=[], path="", here="", live=False, has_csv=False, **values
        )

    async def live(self, api: ChainApi) -> dict[str, str]:
        """Fragments of the home page for the head of the moment, by element id."""
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
