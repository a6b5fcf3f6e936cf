"""`quorix explorer`: the block explorer, a process of its own beside any node."""

from __future__ import annotations

import click

from tools.cli.main import Noun
from tools.cli.target import rpc_url

group = Noun("explorer", help="Serve the block explorer.")


@group.command("serve")
@click.option("--host", default="127.0.0.1", help="Address to bind.")
@click.option("--port", type=click.IntRange(0, 65535), default=9940, help="Port to bind.")
@click.option("--gateway", metavar="URL", default=None, help="Gateway for the box `ask the network`.")
@click.option("--follow-stdin", is_flag=True, help="End when standard input closes.")
@click.pass_context
def serve_command(ctx: click.Context, host: str, port: int, gateway: str | None, follow_stdin: bool) -> None:
    """Serve the explorer against the node at --rpc."""
    from tools.explorer.app import serve

    serve(rpc_url(ctx.obj), host=host, port=port, gateway=gateway, follow_stdin=follow_stdin)
