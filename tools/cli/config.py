"""`quorix config`: settings of a home, and where each comes from."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click

from ledger.errors import UsageError
from tools.cli.main import Noun, Settings
from tools.cli.output import Output
from tools.devnet.layout import home_directory
from tools.devnet.plan import write_atomic
from tools.settings import COMMANDS, Setting, config_path, from_text, gather, nearest, read_file, variable

group = Noun("config", help="Settings and where they come from.")


@group.command("show")
@click.option("--origin", "with_origin", is_flag=True, help="Where each value comes from.")
@click.pass_context
def show_command(ctx: click.Context, with_origin: bool) -> None:
    """All settings of this home: those of commands, and those of a node that lives here."""
    out = Output(ctx.obj)
    rows = found(ctx.obj)

    def show() -> None:
        columns = ("name", "value", *(("origin",) if with_origin else ()), "meaning")
        cells = [
            (r["name"], _shown(r["value"]), *((r["origin"],) if with_origin else ()), r["about"]) for r in rows
        ]
        out.table(str(config_path(home_directory(ctx.obj.home))), columns, cells)

    out.data(rows, show)


@group.command("path")
@click.pass_context
def path_command(ctx: click.Context) -> None:
    """The file that holds this home's settings, whether or not it is there."""
    path = config_path(home_directory(ctx.obj.home))
    Output(ctx.obj).data({"path": str(path), "exists": path.exists()}, str(path))


@group.command("get")
@click.argument("name")
@click.pass_context
def get_command(ctx: click.Context, name: str) -> None:
    """The value of one setting."""
    _setting(name)
    row = next(row for row in found(ctx.obj) if row["name"] == name)
    Output(ctx.obj).data({key: row[key] for key in ("name", "value", "origin")}, _shown(row["value"]))


@group.command("set")
@click.argument("name")
@click.argument("value")
@click.pass_context
def set_command(ctx: click.Context, name: str, value: str) -> None:
    """Write a setting into the file. Lists are separated by commas; other keys stay, comments do not."""
    import tomli_w

    out, home = Output(ctx.obj), home_directory(ctx.obj.home)
    path, parsed = config_path(home), from_text(_setting(name), name, value)
    _check(home, name, parsed)
    table = {**read_file(path, declared()), name: parsed}
    text = tomli_w.dumps(table)
    assert tomllib.loads(text) == table
    write_atomic(path, text.encode())
    row = next(row for row in found(ctx.obj) if row["name"] == name)
    if row["origin"] == variable(name):
        out.remark(f"{variable(name)} is set and goes before the file")
    out.data({"name": name, "value": parsed, "path": str(path)}, f"{name} = {_shown(parsed)}  in {path}")


def declared() -> dict[str, Setting]:
    """Every setting that may stand in the file of a home."""
    from tools.node.config import SETTINGS

    return {**COMMANDS, **SETTINGS}


def found(settings: Settings) -> list[dict[str, Any]]:
    """Name, value, origin and meaning of every setting. Raises UsageError for the first that is wrong."""
    home, known = home_directory(settings.home), declared()
    values, origin = gather(known, home, {"rpc": settings.rpc})
    return [{"name": n, "value": values[n], "origin": origin[n], "about": s.about} for n, s in known.items()]


def _setting(name: str) -> Setting:
    known = declared()
    if name not in known:
        raise UsageError(f"there is no setting {name!r}", hint=nearest(name, known))
    return known[name]


def _check(home: Path, name: str, value: Any) -> None:
    """What reading it would refuse is refused before it is written."""
    from ledger.client.remote import RemoteChain
    from tools.node.config import load_config

    if name == "rpc" and value:
        RemoteChain(value)
    elif name == "gateway" and value and not value.startswith(("http://", "https://")):
        raise UsageError(f"not a gateway's address: {value!r}", hint="http://HOST:PORT")
    elif name not in COMMANDS:
        load_config(home, {name: value}, {})


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ", ".join(value) if isinstance(value, list) else str(value)
