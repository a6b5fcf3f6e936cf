"""`quorix ai new` and `quorix ai serve`: programs for authors of miners and validators, and a neuron from a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from ledger.errors import UsageError
from tools.cli.main import Noun
from tools.cli.output import Output
from tools.cli.session import key_path
from tools.cli.target import rpc_url

new_group = Noun("new", help="A program to start from.")

STEPS: Final = """next:
  quorix key new {kind} --kind hotkey --unencrypted
  quorix subnet register NETUID --hotkey {kind} --max-price 5Q --key //validator//0 --yes      (your coldkey, outside devnets)
{stake}  python {path} {key} NETUID {rpc}"""
STAKE: Final = """  quorix stake add {kind} NETUID 500Q --key //validator//0 --yes      (for a permit)
"""


def write_example(kind: str, target: Path) -> Path:
    """Copy the example program of that kind into a directory. Raises UsageError where it is there already."""
    path = target / f"{kind}.py"
    if path.exists():
        raise UsageError(f"{path} exists", hint="choose another --dir")
    target.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).parents[2] / "ai" / "examples" / f"{kind}.py"
    path.write_text(source.read_text())
    return path


def _new(ctx: click.Context, kind: str, target: Path) -> None:
    path = write_example(kind, target)
    out = Output(ctx.obj)
    stake = STAKE.format(kind=kind) if kind == "validator" else ""
    steps = STEPS.format(kind=kind, path=path, rpc=rpc_url(ctx.obj), key=key_path(ctx.obj, kind), stake=stake)
    out.data({"path": str(path), "kind": kind}, f"{path}\n{steps}")


_target = click.option("--dir", "target", type=click.Path(file_okay=False, path_type=Path), default=Path(), show_default="here",
                       help="Where to write it.")


@new_group.command("miner")
@_target
@click.pass_context
def miner_command(ctx: click.Context, target: Path) -> None:
    """Write miner.py: a model of three methods, put on the market."""
    _new(ctx, "miner", target)


@new_group.command("validator")
@_target
@click.pass_context
def validator_command(ctx: click.Context, target: Path) -> None:
    """Write validator.py: probe, score and vote, with texts of your own."""
    _new(ctx, "validator", target)


@click.option("--key", "key_path", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Key file of the registered hotkey, unencrypted.")
@click.option("--subnet", "netuids", type=int, multiple=True, required=True, help="A subnet to serve; may be given again.")
@click.option("--model", required=True,
              help="A trained expert's name, a Hugging Face folder, URL#MODEL of an OpenAI-like server, or module:function.")
@click.option("--name", default="neuron", show_default=True, help="In status lines.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to bind, and to publish.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to bind (default: any).")
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), default=Path("neuron-home"), show_default=True,
              help="Replay protection, receipts and certificate.")
@click.option("--tls", is_flag=True, help="Serve over TLS: needed outside devnets.")
@click.option("--collaborate", type=click.IntRange(0, 3), default=0, show_default=True, help="Ask so many peers where allowed.")
@click.option("--device", default="cpu", show_default=True, help="cpu or cuda.")
@click.option("--keep-training", is_flag=True, help="An expert goes on training between queries.")
@click.pass_context
def serve_command(
    ctx: click.Context, key_path: Path, netuids: tuple[int, ...], model: str, name: str, host: str, port: int, state: Path,
    tls: bool, collaborate: int, device: str, keep_training: bool,
) -> None:
    """Serve one neuron until interrupted. One JSON line for each event."""
    import asyncio

    from ai.serve.config import NeuronConfig
    from ai.serve.neuron import Neuron, interrupted
    from ai.serve.worker import report

    config = NeuronConfig(
        name, model, netuids, (rpc_url(ctx.obj),), str(state.absolute()), key_file=str(key_path), host=host, port=port,
        device=device, tls=tls, collaborate=collaborate, keep_training=keep_training,
    )
    asyncio.run(Neuron.from_config(config, report).serve(interrupted))
