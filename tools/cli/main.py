"""The command `quorix NOUN VERB`: one file per noun, imported only when its noun is used.

Options that every command takes (`--json`, `--rpc`, `--home`...) may stand anywhere after `quorix`. Data goes to
stdout, everything else to stderr. Every failure ends in one place, `main`, with the exit code declared beside its error.
"""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ledger.errors import Error

# noun -> (module, one line); the attribute is always `group`.
NOUNS = {
    "devnet": ("tools.cli.devnet", "Run a whole market on this machine."),
    "node": ("tools.cli.node", "Make, run and ask a node."),
    "authority": ("tools.cli.authority", "Authorities: who makes blocks, bonds, keys, changes of the set."),
    "explorer": ("tools.cli.explorer", "Serve the block explorer."),
    "gateway": ("tools.cli.gateway", "Serve the OpenAI-compatible gateway."),
    "key": ("tools.cli.key", "Make, list and swap keys."),
    "wallet": ("tools.cli.wallet", "Balances, transfers, identity, handing an account over."),
    "stake": ("tools.cli.stake", "Stake on hotkeys, and hotkeys that lend it to others."),
    "subnet": ("tools.cli.subnet", "Subnets, their metagraph, and owning one."),
    "governance": ("tools.cli.governance", "Proposals of the root seats, and the chain's parameters."),
    "proxy": ("tools.cli.proxy", "Accounts that may act for another."),
    "tx": ("tools.cli.tx", "Any call of the chain, alone or in a batch."),
    "weights": ("tools.cli.weights", "Weights of validators."),
    "epoch": ("tools.cli.epoch", "Epochs, explained."),
    "ai": ("tools.cli.ai", "Ask the network."),
    "query": ("tools.cli.query", "Blocks, extrinsics, accounts, events, state and proofs."),
    "db": ("tools.cli.db", "A stopped node's database."),
    "config": ("tools.cli.config", "Settings and where they come from."),
    "lab": ("tools.cli.lab", "Experiments that check what Quorix claims."),
    "bench": ("tools.cli.bench", "Measurements on this machine."),
}


@dataclass(frozen=True)
class Settings:
    """Values of the common options."""

    json: bool = False
    quiet: bool = False
    verbose: int = 0
    color: bool | None = None
    rpc: str | None = None
    home: str | None = None
    devnet: str | None = None
    yes: bool = False
    dry_run: bool = False
    no_input: bool = False
    timeout_s: float = 60.0
    password_file: str | None = None
    password_fd: int | None = None


COMMON: list[click.Option] = [
    click.Option(["--json"], is_flag=True, default=None, help="Print one JSON document."),
    click.Option(["-q", "--quiet"], is_flag=True, default=None, help="Print data only, no remarks."),
    click.Option(["-v", "--verbose"], count=True, default=None, help="More remarks on stderr."),
    click.Option(["--color/--no-color"], default=None, help="Colour; also NO_COLOR, FORCE_COLOR."),
    click.Option(["--rpc"], metavar="URL", default=None, help="RPC address of a node."),
    click.Option(["--home"], metavar="DIR", default=None, help="Where state lives (QUORIX_HOME)."),
    click.Option(["--devnet"], metavar="NAME", default=None, help="Which devnet (QUORIX_DEVNET)."),
    click.Option(["--yes"], is_flag=True, default=None, help="Answer yes to every question."),
    click.Option(["--dry-run"], is_flag=True, default=None, help="Show what a call to the chain would do; send nothing."),
    click.Option(["--no-input"], is_flag=True, default=None, help="Never ask; fail instead."),
    click.Option(["--timeout", "timeout_s"], type=click.FloatRange(0, min_open=True), default=None, metavar="SECONDS",
                 help="Deadline."),
    click.Option(["--password-file"], metavar="FILE", default=None, help="Password of a key (QUORIX_PASSWORD_FILE)."),
    click.Option(["--password-fd"], type=click.IntRange(0), metavar="N", default=None, help="The same, from a descriptor."),
]
_FIELDS = [option.name for option in COMMON]
FIRST_SENTENCE_CHARS = 400
NEGATIVE = re.compile(r"-[0-9.]")


def _take_common(ctx: click.Context) -> None:
    """Move the common options out of a command's parameters into the settings of the run."""
    settings = ctx.obj if isinstance(ctx.obj, Settings) else Settings()
    given: dict[str, Any] = {}
    declared = {p.name for p in ctx.command.params if p not in COMMON}
    for name in _FIELDS:
        if name in ctx.params and name not in declared:
            value = ctx.params.pop(name)
            if value is not None and not (name == "verbose" and value == 0):
                given[name] = value
    ctx.obj = replace(settings, **given)


class Leaf(click.Command):
    """A command that also takes the common options."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        taken = {opt for p in self.params for opt in p.opts}
        self.params = [*self.params, *(o for o in COMMON if not taken.intersection(o.opts))]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption:
            negative = next((word for word in words if NEGATIVE.match(word)), None)
            if negative is None:
                raise
            raise click.UsageError(f"{negative[:40]!r} is a negative number, and nothing here is negative.", ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        _take_common(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_options(self, ctx, formatter)


def _write_options(command: click.Command, ctx: click.Context, formatter: click.HelpFormatter) -> None:
    """A command's own options, then the common ones. Arguments stand in the line of usage."""
    options = [p for p in command.get_params(ctx) if isinstance(p, click.Option)]
    own = [r for p in options if p not in COMMON and (r := p.get_help_record(ctx))]
    common = [r for p in options if p in COMMON and (r := p.get_help_record(ctx))]
    for title, rows in (("Options", own), ("Common options", common)):
        if rows:
            with formatter.section(title):
                formatter.write_dl(rows)


class Tree(click.Group):
    """A group that lists its commands with the whole first sentence, and for one it lacks names the nearest it has."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, command.get_short_help_str(FIRST_SENTENCE_CHARS)) for name, command in commands if command is not None]
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0][:64], known, 1)
            ask = f"Did you mean {near[0]!r}?" if near else f"There are: {', '.join(known)}."
            raise click.UsageError(f"No such command {args[0][:64]!r}. {ask}", ctx)
        return super().resolve_command(ctx, args)


class Noun(Tree):
    """A group whose commands are leaves; it takes the common options as well."""

    command_class = Leaf

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *COMMON]

    def invoke(self, ctx: click.Context) -> Any:
        _take_common(ctx)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        _write_options(self, ctx, formatter)


Noun.group_class = Noun


class Root(Tree):
    """The nouns, imported one by one as they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*NOUNS, "version", "explain"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in NOUNS:
            group: click.Command = importlib.import_module(NOUNS[cmd_name][0]).group
            return group
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        _take_common(ctx)
        return super().invoke(ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(noun, about) for noun, (_, about) in NOUNS.items()]
        rows += [("version", "Version of Quorix."), ("explain", "What an error name or exit code means.")]
        with formatter.section("Nouns"):
            formatter.write_dl(rows)


@click.command(cls=Root, params=list(COMMON), context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quorix", prog_name="quorix", message="%(prog)s %(version)s")
def cli() -> None:
    """A decentralized intelligence market: neurons answer, peers judge, a chain pays.

    \b
    quorix devnet up                    run everything on this machine
    quorix subnet metagraph 1           who answers, who judges, who earns
    quorix epoch explain 1 latest       how the last pay came about
    quorix ai query "import "           ask the network
    """


@cli.command("version", cls=Leaf)
@click.pass_context
def version_command(ctx: click.Context) -> None:
    """Version of Quorix."""
    from importlib.metadata import version

    from tools.cli.output import Output

    number = version("quorix")
    Output(ctx.obj).data({"version": number, "python": sys.version.split()[0]}, text=f"quorix {number}")


@cli.command("explain", cls=Leaf)
@click.argument("code")
@click.pass_context
def explain_command(ctx: click.Context, code: str) -> None:
    """What an error name or exit code means."""
    from tools.cli.explain import explain
    from tools.cli.output import Output

    Output(ctx.obj).data(*explain(code))


def main() -> None:
    """Entry point of the command."""
    if sys.flags.optimize:
        sys.exit("quorix: refuses to run with python -O, which strips assertions")
    try:
        code = cli.main(prog_name="quorix", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except Error as error:
        _report(getattr(error, "error_name", error.name), error.cause, error.hint, error.data)
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if "--json" in sys.argv:
            _report("UsageError", error.format_message(), "see --help", {})
        else:
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, BrokenPipeError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        sys.exit(130)
    except Exception as error:
        sys.exit(_crash(error))


def _report(name: str, cause: str, hint: str, data: dict[str, Any]) -> None:
    """One error, in the form that was asked for."""
    if "--json" in sys.argv:
        import json

        from ledger.client.records import to_json

        try:
            details = to_json(data)
        except TypeError:
            details = {}
        click.echo(json.dumps({"error": {"name": name, "cause": cause, "hint": hint, "data": details}}))
        return
    from tools.cli.output import printable

    click.echo(printable(f"{name}: {cause}"), err=True)
    if hint:
        click.echo(printable(f"  next: {hint}"), err=True)


def _crash(error: Exception) -> int:
    """An unexpected exception is a bug: keep the traceback in a file, show one line."""
    import tempfile
    import traceback

    with tempfile.NamedTemporaryFile("w", prefix="quorix-", suffix=".txt", delete=False) as report:
        report.write("".join(traceback.format_exception(error)))
    _report("Bug", f"{type(error).__name__}: {error}", f"please report it with {Path(report.name)}", {})
    return 70


if __name__ == "__main__":
    main()
