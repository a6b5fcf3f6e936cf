"""`quorix tx`: any call of the chain by its name, alone or in a batch."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.client.calls import Wait
from ledger.client.metadata_records import CallRecord
from ledger.errors import NotFound
from tools.cli.arguments import batch_file, prepare
from tools.cli.main import Noun
from tools.cli.output import Output, counted, nearest
from tools.cli.session import run, signing_key
from tools.cli.submission import SIGNER, WAIT, submit

group = Noun("tx", help="Any call of the chain, alone or in a batch.")

CALL = click.argument("name", metavar="CALL")
ARGUMENTS = click.argument("words", nargs=-1, metavar="[ARG=VALUE]...")


@group.command("calls")
@click.argument("part", default="")
@click.pass_context
def calls_command(ctx: click.Context, part: str) -> None:
    """All calls of the node's chain, or those with PART in their name."""
    out = Output(ctx.obj)
    known = run(ctx.obj, lambda api: api.state_get_metadata()).calls
    calls = [entry for entry in known if part in entry.name]
    if not calls:
        hint = nearest(part, [entry.name for entry in known], "quorix tx calls")
        raise NotFound(f"no call has {part[:64]!r} in its name", hint=hint)

    def show() -> None:
        rows = [(entry.name, _written(entry), entry.origin, entry.about) for entry in calls]
        out.table(counted(len(calls), "call"), ("call", "arguments", "by", "what it does"), rows)

    out.data(calls, show)


def _written(entry: CallRecord) -> str:
    return " ".join(f"{name}=<{kind}>" for name, kind in entry.args)


@group.command("send")
@CALL
@ARGUMENTS
@SIGNER
@WAIT
@click.pass_context
def send_command(ctx: click.Context, name: str, words: tuple[str, ...], signer: str, wait: Wait) -> None:
    """Sign and send any CALL; its arguments as NAME=VALUE, or all in order. `quorix tx calls` lists them.

    \b
    quorix tx send accounts.transfer to=//owner amount_rao=1.5Q keep_alive=yes --key //validator//0
    """
    prepared, key = prepare(ctx.obj, name, words), signing_key(ctx.obj, signer)
    submit(ctx, key, prepared.name, prepared.args, wait=wait, plan=str(prepared))


@group.command("batch")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--each", is_flag=True, help="Each call on its own: what fails does not undo the others.")
@SIGNER
@WAIT
@click.pass_context
def batch_command(ctx: click.Context, file: Path, each: bool, signer: str, wait: Wait) -> None:
    """Send the calls of a JSON FILE in one extrinsic: all of them or none.

    \b
    [{"call": "stake.add", "args": {"hotkey": "//validator//0//hot", "netuid": 1, "amount_rao": "5Q"}},
     {"call": "accounts.transfer", "args": ["//owner", "1Q", true]}]
    """
    calls, key = batch_file(ctx.obj, file), signing_key(ctx.obj, signer)
    how = "each on its own" if each else "all or none"
    plan = "\n".join([f"{counted(len(calls), 'call')}, {how}:", *(f"  {call}" for call in calls)])
    name = "keyring.batch_each" if each else "keyring.batch"
    submit(ctx, key, name, {"calls": [prepared.inner for prepared in calls]}, wait=wait, plan=plan)
