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

group = Noun("gateway", help="Serve the OpenAI-compatible gateway.")


@group.command("serve")
@click.option("--key", "key_path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Key file of the hotkey that signs; registered on the subnets it calls.")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=None, help="Receipts and usage.")
@click.option("--host", default="127.0.0.1", help="Address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), default=9941, help="Port to bind.")
@click.option("--api-keys", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="File with one API key a line.")
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

    keys = frozenset(line.strip() for line in api_keys.read_text().splitlines() if line.strip()) if api_keys else frozenset()
    if api_keys and not keys:
        raise UsageError(f"{api_keys} holds no key", hint="one key a line")
    password = read_password(ctx.obj, f"password of {key_path}: ") if key_file_info(key_path).encrypted else None
    home = state or home_directory(ctx.obj.home) / "gateway"
    serve(Service(
        rpc_url(ctx.obj), read_key_file(key_path, password), home, host=host, port=port, cache=cache, api_keys=keys,
        names=frozenset(name.lower() for name in names), follow_stdin=follow_stdin,
    ))
