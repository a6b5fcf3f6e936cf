"""`quorix node recover`: a recovery file for a chain that lost a third or more of its authorities, and giving it to a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ledger.errors import NotFound, UsageError
from tools.cli.authority import set_without
from tools.cli.main import Noun
from tools.cli.output import Output
from tools.cli.session import account, address, run

group = Noun("recover", help="Go on with another authority set after a third or more are lost.")

_FOLDER = click.Path(file_okay=False, path_type=Path)
_NEW = click.Path(dir_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@group.command("make")
@click.option("--remove", "removed", multiple=True, metavar="SESSION_KEY", help="A lost authority; may be repeated.")
@click.option("--add", "added", multiple=True, metavar="SESSION_KEY,ACCOUNT", help="A new one; may be repeated.")
@click.option("--reason", required=True, help="What happened, for those who read the file.")
@click.option("--out", "target", type=_NEW, default=Path("recovery.json"), show_default=True, help="The file.")
@click.pass_context
def make_command(
    ctx: click.Context, removed: tuple[str, ...], added: tuple[str, ...], reason: str, target: Path
) -> None:
    """Make a recovery file from the last block of the node at --rpc: its set, without the lost, with the new ones."""
    from ledger.recovery import MAX_REASON_CHARACTERS, Recovery

    if len(reason) > MAX_REASON_CHARACTERS:
        raise UsageError(f"the reason is longer than {MAX_REASON_CHARACTERS} characters")
    if target.exists():
        raise UsageError(f"{target} exists already", hint="every node needs the same file; choose another --out for a new one")
    gone, new = [account(ctx.obj, each) for each in removed], [_member(ctx, each) for each in added]

    async def ask(api: Any) -> Recovery:
        properties, reading = await api.system_properties(), await set_without(api, gone)
        kept = [(each.session_key, each.account) for each in reading.value]
        return Recovery(properties.genesis_hash, reading.at.height, reading.at.hash, (*kept, *new), reason).check()

    made = run(ctx.obj, ask)
    if not gone and not new:
        Output(ctx.obj).remark("warning: the file changes nobody: it only begins a new signing domain; see --remove and --add")
    target.write_text(made.text())
    _show(ctx, made, f"wrote {target}; give it to every node: quorix node recover apply --home HOME {target}")


@group.command("apply")
@click.argument("file", type=_FILE)
@click.option("--home", "folder", type=_FOLDER, required=True, help="Home of the node, which must not be running.")
@click.option("--spec", type=_FILE, default=None, help="The chain's specification; default: HOME/spec.toml.")
@click.pass_context
def apply_command(ctx: click.Context, file: Path, folder: Path, spec: Path | None) -> None:
    """Check FILE against the node's own last block and keep it in its home: from its next start on the new set holds."""
    from tools.node.config import load_config
    from tools.node.home import Specification, open_databases
    from tools.node.recoveries import read_recovery

    recovery = read_recovery(file)
    flags = {"recovery": str(file.absolute()), "spec": None if spec is None else str(spec)}
    config = load_config(folder.absolute(), flags)
    if not config.spec.is_file():
        devnet = folder.absolute().parent.parent / "spec.toml"
        raise NotFound(
            f"there is no specification at {config.spec}",
            hint=f"add --spec {devnet}" if devnet.is_file() else "give the chain's specification with --spec FILE",
        )
    databases = open_databases(config, Specification.load(config.spec))
    height = databases.chain.head.height
    databases.close()
    behind = "" if height >= recovery.height else f"; the node is at block {height} and checks the file when it gets there"
    _show(ctx, recovery, f"kept in {folder}{behind}")


def _member(ctx: click.Context, text: str) -> tuple[bytes, bytes]:
    session_key, comma, owner = text.partition(",")
    if not comma:
        raise UsageError(f"{text[:80]!r}: expected SESSION_KEY,ACCOUNT")
    return account(ctx.obj, session_key), account(ctx.obj, owner)


def _show(ctx: click.Context, recovery: Any, remark: str) -> None:
    out = Output(ctx.obj)
    found = {
        "hash": recovery.hash, "height": recovery.height, "head_hash": recovery.head_hash, "reason": recovery.reason,
        "session_keys": list(recovery.keys),
    }
    rows = [
        ("hash of the file", "0x" + recovery.hash.hex()), ("last block", recovery.height), ("reason", recovery.reason),
        *(("authority", address(key)) for key in recovery.keys),
    ]
    out.data(found, lambda: out.table("recovery", ("", "value"), rows))
    out.remark(remark)
