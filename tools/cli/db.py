"""`quorix db`: look at a stopped node's database, check, repair, copy and move it."""

from __future__ import annotations

import functools
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from ledger.errors import Corruption, NotFound, UsageError
from tools.cli.main import Noun, Settings
from tools.cli.output import Output, counted

group = Noun("db", help="A stopped node's database: check, repair, copy, move.")

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW = click.Path(path_type=Path)
_SHOWN_EVERY_S = 0.1
_SAID_EVERY_S = 10.0  # where there is no terminal
_CHANGE_NOTHING = ("info", "check", "export", "backup")
_INTERRUPTED = {
    "check": "nothing was changed",
    "repair": "the database is still damaged, and nothing of it is lost; the same command begins again",
    "compact": "nothing is lost; the same command begins again",
    "prune": "states that were given up are gone, and nothing else; the same command goes on",
    "reindex": "the indexes are incomplete, and no node starts here until the same command has run to its end",
    "export": "no file was written",
    "import": "blocks that were imported stay, of a snapshot nothing does; the same command goes on",
    "backup": "no copy was made, and nothing was changed",
    "restore": "nothing was changed: the chain that was here is in its place",
}
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")

Progress = Callable[[str, int, int], None]  # what, done, of


def _on_home(command: Any) -> Any:
    """A command on a stopped node: its options, and in front of its own arguments the output, the home and the spec."""

    @click.pass_context
    def run(ctx: click.Context, /, folder: Path | None, spec: Path | None, **given: Any) -> None:
        if ctx.obj.dry_run and ctx.info_name not in _CHANGE_NOTHING:
            raise UsageError("--dry-run is for calls to the chain; nothing was done", hint="try it on a copy of the home")
        out = Output(ctx.obj)
        try:
            command(out, _home(ctx.obj, folder), spec, **given)
        except KeyboardInterrupt:
            out.remark(_INTERRUPTED.get(str(ctx.info_name), ""))
            raise

    of_chain = click.option("--spec", type=_FILE, default=None, help="The chain's specification; default: HOME/spec.toml.")
    of_node = click.option("--home", "folder", type=_FOLDER, default=None, help="The stopped node's home.")
    return of_node(of_chain(functools.update_wrapper(run, command)))


@group.command("info")
@_on_home
def info_command(out: Output, home: Path, spec: Path | None) -> None:
    """What a node's database holds."""
    from tools.ops.db_upkeep import info

    found = info(home, spec)
    blocks = "none yet" if found["blocks_from"] is None else f"{found['blocks_from']} to {found['height']}"
    blocks += f", lost: {found['lost']} (`quorix db import` brings them back)" if found["lost"] else ""
    states = f"{found['states_from']} to {found['height']} ({found['history']})"
    signed = found["signed_height"]
    guard = "nothing signed yet" if signed == -1 else f"up to height {signed}"
    guard = "none: this node signs nothing" if signed is None else guard
    rows = [
        ("chain", found["chain"]), ("genesis", _hex(found["genesis_hash"])),
        ("head", f"{found['height']}, {_age(found['age_s'])} old"), ("hash", _hex(found["hash"])),
        ("blocks", blocks), ("states", states), ("authorities", found["authorities"]), ("sign database", guard),
        ("rewinds", found["rewinds"]), ("size", _size(found["chain_bytes"])), ("free on the disk", _size(found["free_bytes"])),
        ("schema", found["schema"]),
    ]
    out.data(found, lambda: out.table("", ("", str(found["home"])), rows))


@group.command("check")
@click.option("--deep", is_flag=True, help="Everything: state root, blocks, certificates, indexes, past states, supply.")
@_on_home
def check_command(out: Output, home: Path, spec: Path | None, deep: bool) -> None:
    """Check a database; exits 23 and names the command to repair it if something is wrong."""
    from tools.ops.db_upkeep import check

    with _progress(out) as progress:
        found = check(home, spec, deep=deep, progress=progress)

    def show() -> str | None:
        rows = [
            (each["name"], f"{each['checked']:,} {each['unit']}", "ok" if not each["found"] else f"{each['found']:,} wrong")
            for each in found["sections"]
        ]
        if rows:
            out.table("", ("part", "checked", "result"), rows, right=("checked",))
        if found["ok"]:
            kind = "everything fits" if deep else "the newest blocks and a sample of the state fit; --deep checks everything"
            lost = f"\nlost earlier: blocks {found['lost']}; `quorix db import FILE` brings them back" if found["lost"] else ""
            return f"block {found['height']}: {kind} ({found['seconds']:.1f} s){lost}"
        return "\n".join(f"{each['name']}: {problem}" for each in found["sections"] for problem in each["problems"])

    out.data(found, show)
    if not found["ok"]:
        if out.json:
            click.get_current_context().exit(Corruption.exit_code)
        raise Corruption(f"{found['problems']:,} problems in {home}", hint=found["next"])


@group.command("repair")
@_on_home
def repair_command(out: Output, home: Path, spec: Path | None) -> None:
    """Repair a damaged database from what can still be read, verifying all of it; says what was lost."""
    from tools.ops.db_repair import repair

    with _progress(out) as progress:
        found = repair(home, spec, progress)
    if found["done"] == "nothing":
        lines = ["nothing to repair: the deep check finds nothing"]
    elif found["done"] == "indexes":
        lines = ["repaired: " + found["problem"], "nothing was lost"]
    else:
        lines = _kept_lines(found) if found["done"] == "kept" else _replay_lines(found)
    if found["put_aside"]:
        lines.append(f"the damaged database is kept at {found['put_aside']}; delete it when all is well")
        lines.append("the sign database was not touched")
    out.data(found, "\n".join([*lines, *([f"warning: {found['warning']}"] if found["warning"] else [])]))


def _kept_lines(found: dict[str, Any]) -> list[str]:
    """What a repair kept, and how to get the rest again."""
    lines = [
        f"found: {found['problem']}",
        f"repaired: block {found['height']}, the head, and its state are sound and stay, with all that is sound below",
    ]
    if not found["lost_blocks"]:
        return [*lines, "nothing was lost"]
    first, last = found["lost_blocks"][0][0], found["lost_blocks"][-1][1]
    return [
        *lines,
        f"lost: blocks {_ranges(found['lost_blocks'])}; their transactions are in no index",
        f"to get them again: `quorix db export FILE --from {first} --to {last}` on a node that has them (or on a backup that "
        "was restored elsewhere), and `quorix db import FILE` here",
    ]


def _replay_lines(found: dict[str, Any]) -> list[str]:
    """What a replay could execute, what stopped it, and where the rest is."""
    height, lost = found["height"], found["lost_blocks"]
    lines = [
        f"found: {found['problem']}",
        f"repaired: every block up to {height} was verified and executed again" if height else
        "no whole block could be read: the node begins again at its genesis",
    ]
    if not lost:
        return [*lines, "no block is known to be lost; if there were later ones, peers have them"]
    if found["unreadable"] is not None:
        at, missing = found["unreadable"]
        why = f"{' and '.join(missing)} cannot be read" if missing else "it is not valid"
        above = lost[0][1] - at
        lines.append(f"stopped at block {at}: {why}" + (
            f"; {counted(above, 'block')} above it could not be executed without it" if above else ""
        ))
    lines.append(f"lost: blocks {_ranges(lost)}; peers have them")
    if found["salvaged_files"]:
        lines.append(f"the whole ones are in these files; without peers, import one that holds block {height + 1} first:")
        lines += [f"  quorix db import {file}" for file in found["salvaged_files"]]
    return lines


def _ranges(ranges: list[list[int]]) -> str:
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in ranges)


@group.command("rewind")
@click.argument("height", type=click.IntRange(0))
@click.option("--also", "others", type=_FOLDER, multiple=True, help="Home of another node of the devnet; may be repeated.")
@_on_home
def rewind_command(out: Output, home: Path, spec: Path | None, height: int, others: tuple[Path, ...]) -> None:
    """Devnets only: make HEIGHT the newest block again, and begin a new signing domain.

    All authorities of the devnet have to be rewound in one command: --home for one, --also for each other.
    """
    from tools.ops.db_rewind import rewind

    homes = list(dict.fromkeys(path.absolute() for path in (home, *others)))
    out.confirm(f"blocks above {height} will be deleted in {len(homes)} home(s)")
    found = rewind(homes, spec, height)
    lines = [f"block {height} is the newest again, hash {_hex(found['hash'])}"]
    lines += [f"  {name}: {count:,} blocks removed" for name, count in found["removed_blocks"].items()]
    out.data(found, "\n".join(lines))


@group.command("compact")
@_on_home
def compact_command(out: Output, home: Path, spec: Path | None) -> None:
    """Rewrite the database without what was deleted from it."""
    from tools.ops.db_upkeep import compact

    def end() -> NoReturn:
        """LevelDB cannot be asked to stop, and needs no farewell."""
        out.remark(f"interrupted: {_INTERRUPTED['compact']}")
        os._exit(130)

    with _progress(out) as progress:
        found = compact(home, progress, end)
    out.data(found, f"{_size(found['bytes_before'])} before, {_size(found['bytes_after'])} now")


@group.command("prune")
@click.option("--keep", type=click.IntRange(0), default=256, show_default=True, help="Newest blocks whose states are kept.")
@_on_home
def prune_command(out: Output, home: Path, spec: Path | None, keep: int) -> None:
    """Give up the states of old blocks; blocks, certificates and indexes stay."""
    from tools.ops.db_upkeep import prune

    with _progress(out) as progress:
        found = prune(home, spec, keep, progress)
    text = f"states from block {found['states_from']} on are kept (before: {found['states_from_before']})"
    rows = counted(found["rows"], "row")
    done = f"{rows} deleted; `quorix db compact` gives their space back" if found["rows"] else "nothing to delete"
    out.data(found, f"{text}\n{done}")


@group.command("reindex")
@_on_home
def reindex_command(out: Output, home: Path, spec: Path | None) -> None:
    """Make the indexes again: transactions, accounts, kinds of events."""
    from tools.ops.db_upkeep import reindex

    with _progress(out) as progress:
        found = reindex(home, spec, progress)
    out.data(found, f"{found['rows']:,} index rows made")


@group.command("export")
@click.argument("file", type=_NEW)
@click.option("--from", "first", type=click.IntRange(0), default=None, help="First block (default: the chain's first).")
@click.option("--to", "last", type=click.IntRange(0), default=None, help="Last block (default: the head).")
@click.option("--snapshot", is_flag=True, help="The proven state after one block (--to, default: the head), without blocks.")
@_on_home
def export_command(
    out: Output, home: Path, spec: Path | None, file: Path, first: int | None, last: int | None, snapshot: bool
) -> None:
    """Write blocks with their certificates, or a snapshot of the state, into FILE."""
    from tools.ops.db_transfer import export_blocks, export_snapshot

    if snapshot and first is not None:
        raise UsageError("a snapshot is of one block: give --to, not --from")
    with _progress(out) as progress:
        if snapshot:
            found = export_snapshot(home, spec, file, last, progress)
            what = f"the state after block {found['height']}: {counted(found['keys'], 'key')}"
            what += f" in {counted(found['chunks'], 'chunk')}"
            what += f"\ncheckpoint: {found['height']}:{_hex(found['hash'])}"
        else:
            found = export_blocks(home, spec, file, first, last, progress)
            what = f"blocks {found['first']} to {found['last']}"
    out.data(found, f"{file}, {_size(found['bytes'])}: {what}")


@group.command("import")
@click.argument("file", type=_FILE)
@click.option("--checkpoint", metavar="HEIGHT:HASH", default=None, help="For a snapshot: a block you trust.")
@_on_home
def import_command(out: Output, home: Path, spec: Path | None, file: Path, checkpoint: str | None) -> None:
    """Take in a FILE made by `db export`, verifying all of it: blocks go on from the head, a snapshot starts an empty node."""
    from tools.node.checkpoint import parse_checkpoint
    from tools.ops.db_transfer import import_file

    named = parse_checkpoint(checkpoint or "")
    trusted = None if named is None else (named.height, named.hash)
    with _progress(out) as progress:
        found = import_file(home, spec, file, trusted, progress)
    if found["kind"] == "snapshot":
        by = "the checkpoint" if found["checkpoint"] else "the authorities of the genesis and their successors"
        text = f"the node starts after block {found['height']}, {_age(found['age_s'])} old: {found['keys']:,} keys proven"
        text += f"\ntrusted: {by}"
    else:
        text = _imported(found)
        text += f"\nnext: {found['next']}" if found["next"] else ""
    out.data(found, text)


def _imported(found: dict[str, Any]) -> str:
    """What an import of blocks did, in words."""
    head = f"the head is {found['height']}"
    if found["refilled"]:
        left = f"; blocks {found['lost']} are not whole yet" if found["lost"] else "; no block is lost any more"
        head = f"{counted(found['refilled'], 'lost block')} came back{left}; {head}"
    if not found["blocks"] and found["refilled"]:
        return head
    if not found["blocks"]:
        return f"nothing new: {counted(found['known'], 'block')} of the file were here already; {head}"
    known = f", {found['known']:,} were here already" if found["known"] else ""
    text = f"{counted(found['blocks'], 'block')} with {counted(found['transactions'], 'transaction')} imported{known}; {head}"
    return f"{text}\n{found['seconds']:.1f} s, {found['blocks_per_s']:,.0f} blocks/s"


@group.command("backup")
@click.argument("copy", metavar="DIR", type=_NEW)
@_on_home
def backup_command(out: Output, home: Path, spec: Path | None, copy: Path) -> None:
    """Copy the chain into a new folder DIR; keys and the sign database are never part of a backup."""
    from tools.ops.db_backup import backup

    with _progress(out) as progress:
        found = backup(home, spec, copy, progress)
    text = f"{copy}: block {found['height']}, {found['files']} files, {_size(found['bytes'])}"
    text += f"\nnot part of it: {', '.join(found['excluded'])} (an old sign database could make a key sign twice)"
    out.data(found, text)


@group.command("restore")
@click.argument("copy", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@_on_home
def restore_command(out: Output, home: Path, spec: Path | None, copy: Path) -> None:
    """Bring a backup's chain back; the chain that is there is put aside, the sign database stays as it is."""
    from tools.ops.db_backup import restore

    with _progress(out) as progress:
        found = restore(home, spec, copy, progress)
    lines = [f"restored: the head is block {found['height']}"]
    if found["put_aside"]:
        lines.append(f"the chain that was there is kept at {found['put_aside']}; delete it when all is well")
    if found["signed_height"] is not None and found["signed_height"] > found["height"] + 1:
        lines.append(
            f"this node's key has signed up to {found['signed_height']}: it syncs the missing blocks before it signs again"
        )
    out.data(found, "\n".join(lines))


@group.command("replay")
@click.argument("file", type=_FILE)
@click.pass_context
def replay_command(ctx: click.Context, file: Path) -> None:
    """Execute the block again that stopped a node: FILE is the dump in its HOME/incident/. No database is needed."""
    from tools.ops.db_replay import replay

    out, found = Output(ctx.obj), replay(file)
    lines = [
        f"block {found['height']}: {found['extrinsics']} extrinsics, {found['inherents']} inherents, {found['rows']} rows read",
        f"then: {found['then']}", f"now:  {found['now'] or 'it is executed without a fault by this program'}",
    ]
    out.data(found, "\n".join([*lines, *(f"      {violation}" for violation in found["violations"][1:])]))


# --- what the commands share -------------------------------------------------------------------------------------


def _home(settings: Settings, folder: Path | None) -> Path:
    """The node's home that is meant; an error lists those of this machine's devnets."""
    from tools.cli.target import configured
    from tools.devnet.layout import all_devnets, home_directory

    given = folder or (Path(settings.home) if settings.home else None)
    if given is not None:
        if not given.is_dir():
            raise NotFound(f"there is no folder {given}", hint="name a node's home with --home")
        return given.absolute()
    base = home_directory(None)
    if (base / "chain").is_dir():
        return base
    named = configured(settings, "devnet", settings.devnet)
    nodes = [
        path for layout in all_devnets(base) if named in ("", layout.name) for path in sorted((layout.root / "nodes").glob("*"))
    ]
    hint = "; ".join(f"--home {path}" for path in nodes[:4]) + (f"; and {len(nodes) - 4} more" if len(nodes) > 4 else "")
    raise UsageError("name a stopped node's home with --home", hint=hint or "it is the folder given to `quorix node init`")


@contextmanager
def _progress(out: Output) -> Iterator[Progress]:
    """A bar on a terminal's stderr, a line now and then elsewhere. Each step notices a Ctrl-C that got lost.

    SIGTERM ends a command as Ctrl-C does, so that nothing half-made is left. One that arrives while a C library calls back is
    printed there and forgotten, and the work would go on to its end.
    """
    lost = False

    def note(number: int, frame: FrameType | None) -> NoReturn:
        nonlocal lost
        lost = True
        raise KeyboardInterrupt

    def watched(show: Progress) -> Progress:
        def step(what: str, done: int, of: int) -> None:
            if lost:
                raise KeyboardInterrupt
            show(what, done, of)

        return step

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _bar(out) as show:
            yield watched(show)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _bar(out: Output) -> Iterator[Progress]:
    if out.json or out.settings.quiet:
        yield lambda what, done, of: None
        return
    if not sys.stderr.isatty():
        yield _lines(out)
        return
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"), TimeElapsedColumn(),
               TimeRemainingColumn())
    with Bars(*columns, console=out.console(stderr=True), transient=True) as bars:
        task, last = bars.add_task("", total=None, shown=""), [0.0, ""]

        def show(what: str, done: int, of: int) -> None:
            now = time.monotonic()
            if what == last[1] and now - last[0] < _SHOWN_EVERY_S and done != of:  # type: ignore[operator]
                return
            if what != last[1]:
                bars.reset(task)
            last[:] = now, what
            bars.update(task, description=what, completed=done, total=of or None, shown=_done(done, of))

        yield show


def _lines(out: Output) -> Progress:
    """Progress in a log: after each `_SAID_EVERY_S` one line; a command that is done sooner says nothing."""
    said = [time.monotonic()]

    def show(what: str, done: int, of: int) -> None:
        if (now := time.monotonic()) - said[0] >= _SAID_EVERY_S:
            said[0] = now
            out.remark(f"{what} {_done(done, of)}".rstrip())

    return show


def _done(done: int, of: int) -> str:
    return f"{done:,} of {of:,}" if of else f"{done:,}" if done else ""


def _size(count: int) -> str:
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{count:,} bytes" if not unit else f"{value:,.1f} {_UNITS[unit]}"


def _age(seconds: int) -> str:
    for span, name in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * span:
            return f"{seconds // span} {name}"
    return f"{seconds} s"


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
