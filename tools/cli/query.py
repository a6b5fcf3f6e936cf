"""`quorix query`: blocks, state, and proofs that can be checked without a node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ledger.client.records import StateProof, from_json
from ledger.errors import UsageError
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount
from tools.cli.session import address, at, run

group = Noun("query", help="Blocks, state and proofs.")

MAX_DIGITS = 20


@group.command("block")
@click.argument("where", default="head")
@click.pass_context
def block_command(ctx: click.Context, where: str) -> None:
    """A block by height or hash (default: the head)."""
    out = Output(ctx.obj)
    block = run(ctx.obj, lambda api: api.chain_get_block(at(where)))

    def show() -> None:
        header, certificate = block.header, block.certificate
        signers = "none needed" if certificate is None else f"{len(certificate.signers)} signers, round {certificate.round}"
        fields = (
            ("height", header.height), ("hash", "0x" + header.hash.hex()), ("timestamp", f"{header.timestamp_ms} ms"),
            ("proposer", f"authority {header.proposer_index}, round {header.proposal_round}"),
            ("certificate", signers), ("final after", f"{header.finality_ms} ms"),
            ("state root", "0x" + header.state_root.hex()),
            ("parent", "0x" + header.parent_hash.hex()), ("size", f"{block.size_bytes} bytes"),
        )
        out.table(f"block {header.height}", ("field", "value"), fields)
        rows = [
            (x.index, x.call, address(x.signer), format_amount(x.fee_rao), x.error or "ok", "0x" + x.id.hex())
            for x in block.extrinsics
        ]
        if rows:
            out.table("extrinsics", ("#", "call", "signer", "fee", "outcome", "id"), rows)
        events = [(e.name, json.dumps(e.fields)) for e in block.events]
        if events:
            out.table("events of the block", ("event", "fields"), events)

    out.data(block, show)


@group.command("state")
@click.argument("key")
@click.option("--proof", is_flag=True, help="With a proof for a light client.")
@click.option("--at", "where", default="head", help="Height, hash or head.")
@click.pass_context
def state_command(ctx: click.Context, key: str, proof: bool, where: str) -> None:
    """A raw state key: 0x hex, or TABLE/PART/PART with numbers, 0x keys and addresses as parts."""
    out = Output(ctx.obj)

    async def read(api: Any) -> Any:
        raw = await _state_key(api, ctx.obj, key)
        return await (api.state_get_proof(raw, at(where)) if proof else api.state_get(raw, at(where)))

    answer = run(ctx.obj, read)
    value = answer.value
    text = "absent" if value is None else "0x" + value.hex()
    out.data(answer, text if not proof else f"{text}\nproof of {len(answer.proof)} bytes under block {answer.at.height}")


async def _state_key(api: Any, settings: Any, text: str) -> bytes:
    """Raw key from hex or from TABLE/PART/...; the runtime's tables give widths."""
    if text.startswith("0x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise UsageError(f"{text!r} is not hex") from None
    import runtime.executor  # noqa: F401 - declares all tables
    from runtime.tables import Table
    from tools.cli.session import account

    plain, slashes, path = text.partition("///")  # a dev key's path, as the last part, brings its own two slashes
    name, *parts = plain.split("/")
    parts += [f"//{path}"] if slashes else []
    table = next((t for t in Table.registry.values() if t.name == name), None)
    if table is None:
        known = ", ".join(sorted(t.name for t in Table.registry.values()))
        raise UsageError(f"no state table is called {name!r}", hint=f"tables: {known}")
    if len(parts) != len(table.fields):
        raise UsageError(f"{name} needs {'/'.join(f.name for f in table.fields) or 'no parts'}")
    fields = zip(table.fields, parts, strict=True)
    return table.key(*(_number(part, f.name, f.width) if f.number else account(settings, part) for f, part in fields))


def _number(text: str, name: str, width: int) -> int:
    known = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    if not known or int(text) >= 1 << 8 * width:
        raise UsageError(f"{name} = {text[:40]!r} is no number of {width} bytes")
    return int(text)


proof_group = Noun("proof", help="Proofs made by `query state --proof --json`.")
group.add_command(proof_group)


@proof_group.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--genesis", "spec", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The chain's spec file.")
@click.pass_context
def verify_command(ctx: click.Context, file: Path, spec: Path) -> None:
    """Check a state proof offline: certificate, state root, value. Needs no node."""
    from genesis.build import build_genesis
    from genesis.spec import load_spec
    from ledger.client.light import verify_state_proof

    out = Output(ctx.obj)
    try:
        proof = from_json(StateProof, json.loads(file.read_text()), "proof")
    except ValueError as error:
        raise UsageError(f"{file} is not a proof: {error}") from None
    genesis = build_genesis(load_spec(spec))
    verify_state_proof(proof, genesis.genesis_hash, genesis.authorities.keys)
    value = None if proof.value is None else "0x" + proof.value.hex()
    answer = {"ok": True, "height": proof.at.height, "state_root": proof.state_root, "key": proof.key, "value": value}
    out.data(answer, f"valid: the key is {'absent' if value is None else value} in final block {proof.at.height}")
