"""`quorix gateway`: the OpenAI-compatible gateway, a process of its own beside any node."""

from __future__ import annotations

from pathlib import Path

import click

from ledger.client.keys import key_file_info, read_key_file
from ledger.errors import UsageError
from tools.cli.main import Noun
from tools.cli.session import read_password
from tools.cli.target import rpc_url
from tools.devnet.layout import home_directory

MAX_DIGITS = 15

group = Noun("gateway", help="Serve the OpenAI-compatible gateway.")


@group.command("serve")
@click.option("--key", "key_path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Key file of the hotkey that signs; registered on the subnets it calls.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=None, help="Receipts and usage.")
@click.option("--host", default="127.0.0.1", help="Address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), default=9941, help="Port to bind.")
@click.option("--api-keys", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File with one API key a line, after it its bytes a day if they are not the usual ones.")
@click.option("--cache", type=click.Path(file_okay=False, path_type=Path), default=None, help="Cache of texts and models.")
@click.option("--name", "names", multiple=True, metavar="HOST", help="Host name under which it may be called, too.")
@click.option("--follow-stdin", is_flag=True, help="End when standard input closes.")
@click.pass_context
def serve_command(
    ctx: click.Context, key_path: Path, state: Path | None, host: str, port: int, api_keys: Path | None, cache: Path | None,
    names: tuple[str, ...], follow_stdin: bool,
) -> None:
    """Serve the market at --rpc to OpenAI clients."""
    from ai.gateway.serve import Service, serve

    keys, quotas = read_api_keys(api_keys) if api_keys else (frozenset(), {})
    password = read_password(ctx.obj, f"password of {key_path}: ") if key_file_info(key_path).encrypted else None
    home = state or home_directory(ctx.obj.home) / "gateway"
    serve(Service(
        rpc_url(ctx.obj), read_key_file(key_path, password), home, host=host, port=port, cache=cache, api_keys=keys,
        quotas=quotas, names=frozenset(name.lower() for name in names), follow_stdin=follow_stdin,
    ))


def read_api_keys(path: Path) -> tuple[frozenset[str], dict[str, int]]:
    """(keys, bytes a day of those that say so) from a file of lines `KEY [BYTES_A_DAY]`. Raises UsageError."""
    keys: set[str] = set()
    quotas: dict[str, int] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        key, *rest = line.split() or [""]
        if len(rest) > 1 or not all(word.isascii() and word.isdecimal() and len(word) <= MAX_DIGITS for word in rest):
            raise UsageError(f"{path}, line {number} is no key with its bytes a day", hint="write KEY or KEY BYTES_A_DAY")
        if key:
            keys.add(key)
            quotas.update((key, int(word)) for word in rest)
    if not keys:
        raise UsageError(f"{path} holds no key", hint="one key a line")
    return frozenset(keys), quotas
