"""`quorix ai receipts`: what was asked and answered, proven. Works on the files of a gateway, validator or neuron.

A proof is one JSON document: the receipt, its place under the Merkle root of its caller's epoch, and, while the chain
keeps that root, the state proof of it. `verify` checks it without a node where the chain's spec file is given.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.errors import DecodeError, Error, NotFound, Rejected, UsageError
from tools.cli.main import Noun, Settings
from tools.cli.output import Output, format_time
from tools.cli.session import address, run
from tools.cli.target import running_devnet

if TYPE_CHECKING:
    from ai.receipts import Receipt, ReceiptStore

group = Noun("receipts", help="Receipts of query sessions: list, prove, verify; neurons that contradict themselves.")

DOCUMENT: Final = "quorix receipt proof 1"
DOCUMENT_MAX_BYTES: Final = 32 << 20
ROLES: Final = ("validators", "neurons")

_of = click.option("--of", "owner", default="gateway", show_default=True, metavar="NAME",
                   help="Whose, on this devnet: gateway, or the name of a validator or neuron.")
_folder = click.option("--dir", "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), default=None,
                       help="The receipts' own directory, instead of a devnet's.")


def open_store(settings: Settings, owner: str, folder: Path | None) -> ReceiptStore:
    """The store of that directory or owner, for reading. Raises NotFound."""
    from ai.receipts import ReceiptStore
    from ai.serve.clock import wall_ms

    if folder is None:
        layout = running_devnet(settings)
        if layout is None:
            raise NotFound("no devnet runs here", hint="name the directory: --dir DIR")
        plain = owner.removeprefix("validator-")  # as the metagraph calls it
        places = [layout.root / owner] if owner == "gateway" else [layout.root / role / plain for role in ROLES]
        folder = next((place / "receipts" for place in places if (place / "receipts").is_dir()), None)
        if folder is None:
            known = sorted(path.parent.name for role in ROLES for path in (layout.root / role).glob("*/receipts"))
            raise NotFound(f"{owner} has no receipts here", hint=f"gateway, {', '.join(known)}" if known else "")
    return ReceiptStore(folder, clock=wall_ms)


@group.command("list")
@_of
@_folder
@click.option("--subnet", "netuid", type=int, help="Only this subnet's.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="The newest so many of a subnet.")
@click.pass_context
def list_command(ctx: click.Context, owner: str, folder: Path | None, netuid: int | None, limit: int) -> None:
    """The newest receipts. A session that contradicts another is marked with !."""
    out, store = Output(ctx.obj), open_store(ctx.obj, owner, folder)
    netuids = store.netuids() if netuid is None else [netuid]
    rows = [_row(open_id, receipt, bool(store.flags(open_id))) for n in netuids for open_id, receipt in store.recent(n, limit)]

    def show() -> None:
        names = _names(ctx.obj, netuids) if folder is None else {}
        out.table("receipts", ("id", "subnet", "epoch", "method", "with", "steps", "units", "status", "closed", ""), [
            (row["id"], row["netuid"], row["epoch"], row["method"], names.get(row["callee"]) or address(row["callee"]),
             row["answers"], f"{row['units_in']}+{row['units_out']}", row["status"], format_time(row["closed_at_ms"]),
             "!" if row["contradicted"] else "")
            for row in rows
        ])  # fmt: skip

    out.data(rows, show)


def _names(settings: Settings, netuids: list[int]) -> dict[bytes, str]:
    """Names of the hotkeys on these subnets; {} where no node answers, for receipts are read without one."""

    async def read(api: Any) -> dict[bytes, str]:
        graphs = [(await api.subnet_get_metagraph(netuid)).value for netuid in netuids]
        return {neuron.hotkey: neuron.name for graph in graphs for neuron in graph.neurons}

    try:
        return run(settings, read)
    except Error:
        return {}


def _row(open_id: bytes, receipt: Receipt, contradicted: bool) -> dict[str, Any]:
    from ai.serve.frames import STATUS_NAMES, CloseBody, OpenBody

    opened, closed = OpenBody.decode(receipt.open_body), CloseBody.decode(receipt.close_body)
    return {
        "id": open_id.hex(), "netuid": opened.netuid, "epoch": closed.epoch, "method": opened.method,
        "caller": opened.caller, "callee": opened.callee, "answers": closed.answers, "units_in": closed.units_in,
        "units_out": closed.units_out, "status": STATUS_NAMES[closed.status], "model_hash": closed.model_hash,
        "closed_at_ms": closed.closed_at_ms, "contradicted": contradicted,
    }


@group.command("prove")
@click.argument("receipt_id", metavar="ID")
@_of
@_folder
@click.pass_context
def prove_command(ctx: click.Context, receipt_id: str, owner: str, folder: Path | None) -> None:
    """A proof of a receipt as a JSON document. The node at --rpc adds the proof of the root, if it is on chain."""
    from ai.receipts import Receipt
    from ai.serve.frames import OpenBody
    from runtime.modules.serving import RECEIPTS

    out = Output(ctx.obj)
    proof = open_store(ctx.obj, owner, folder).prove(_hash(receipt_id))
    hotkey = OpenBody.decode(Receipt.decode(proof.receipt).open_body).caller
    key = RECEIPTS.key(proof.netuid, proof.epoch, hotkey)

    async def read(api: Any) -> tuple[bytes, Any]:
        return (await api.system_properties()).genesis_hash, await api.state_get_proofs([key])

    genesis_hash, on_chain = run(ctx.obj, read)
    committed = on_chain.entries[0].value is not None
    if not committed:
        out.remark("its root is not on chain: the epoch still runs, was long ago, or these are a neuron's own receipts")
    out.line({
        "kind": DOCUMENT, "genesis_hash": genesis_hash, "hotkey": hotkey, "netuid": proof.netuid, "epoch": proof.epoch,
        "index": proof.index, "count": proof.count, "root": proof.root, "receipt": proof.receipt, "path": list(proof.path),
        "root_proof": on_chain if committed else None,
    })


@group.command("verify")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--genesis", "spec", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="The chain's spec file: then no node is asked.")
@click.pass_context
def verify_command(ctx: click.Context, file: Path, spec: Path | None) -> None:
    """Check a proof: both signatures, the place under the root, and the root on chain.

    Without --genesis the node at --rpc is believed about the chain and its root. Exit code 1: a link does not hold.
    """
    out, document = Output(ctx.obj), read_document(file)
    root = _root_by_light_client(document, spec) if spec is not None else run(ctx.obj, lambda api: _root_by_node(api, document))
    checked = check_document(document, *root)
    about = (
        f"valid: {checked.open.method} by {address(checked.open.callee)} for {address(checked.open.caller)}, subnet "
        f"{checked.open.netuid}, epoch {document['epoch']}, receipt {document['index']} of {document['count']}"
    )
    signed = "" if checked.both_sides else "; it ended early: only the neuron's words are proven"
    out.data({"ok": True, "id": checked.open_id, "both_sides": checked.both_sides, "root": root[1]}, about + signed)


def read_document(file: Path) -> dict[str, Any]:
    """A proof document with its byte strings decoded. Raises UsageError where it is none."""
    try:
        with open(file, "rb") as source:
            data = source.read(DOCUMENT_MAX_BYTES + 1)
        value = json.loads(data) if len(data) <= DOCUMENT_MAX_BYTES else None
        if not isinstance(value, dict) or value.get("kind") != DOCUMENT:
            raise ValueError("another kind of document")
        for name in ("genesis_hash", "hotkey", "root", "receipt"):
            value[name] = bytes.fromhex(value[name].removeprefix("0x"))
        value["path"] = tuple(bytes.fromhex(step.removeprefix("0x")) for step in value["path"])
        if not all(type(value[name]) is int and 0 <= value[name] < 1 << 32 for name in ("netuid", "epoch", "index", "count")):
            raise ValueError("a number is missing")
        return value
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{file} is no proof of a receipt: {error}", hint="quorix ai receipts prove ID") from None


def check_document(document: dict[str, Any], genesis_hash: bytes, root: bytes, count: int) -> Any:
    """The checked receipt. `root` and `count` are the chain's. Raises Rejected naming the link that does not hold."""
    from ai.receipts import Receipt, ReceiptProof

    try:
        checked = Receipt.decode(document["receipt"]).verify(genesis_hash)
    except DecodeError as error:
        raise Rejected("ReceiptMalformed", error.cause) from None
    if (checked.open.caller, checked.open.netuid) != (document["hotkey"], document["netuid"]):
        raise Rejected("AnotherOwner", "the receipt is of another caller or subnet than the root")
    names = ("netuid", "epoch", "index", "count", "root", "receipt", "path")
    if (document["root"], document["count"]) != (root, count):
        raise Rejected("AnotherRoot", "the chain holds another root for this caller and epoch")
    if not ReceiptProof(*(document[name] for name in names)).holds():
        raise Rejected("NotUnderTheRoot", "the Merkle path does not lead to the root")
    return checked


async def _root_by_node(api: Any, document: dict[str, Any]) -> tuple[bytes, bytes, int]:
    """(genesis hash, root, count) as the node says. Raises NotFound."""
    genesis_hash = (await api.system_properties()).genesis_hash
    for entry in (await api.subnet_get_receipt_roots(document["netuid"], document["epoch"])).value:
        if entry.hotkey == document["hotkey"]:
            return genesis_hash, entry.root, entry.count
    raise NotFound("the chain holds no root for this caller and epoch", hint="it comes as the epoch ends, for 64 epochs")


def _root_by_light_client(document: dict[str, Any], spec: Path) -> tuple[bytes, bytes, int]:
    """(genesis hash, root, count) from the state proof in the document. Raises what does not hold."""
    from genesis.build import build_genesis
    from genesis.spec import load_spec
    from ledger.client.light import verify_state_proofs
    from ledger.client.records import StateProofs, from_json
    from runtime.modules.serving import RECEIPTS

    if document.get("root_proof") is None:
        raise UsageError("the document holds no proof of its root", hint="make it again once the epoch is over")
    genesis = build_genesis(load_spec(spec))
    try:
        proofs: StateProofs = from_json(StateProofs, document["root_proof"], "root_proof")
    except (DecodeError, ValueError) as error:
        raise UsageError(f"the proof of the root cannot be read: {error}") from None
    verify_state_proofs(proofs, genesis.genesis_hash, genesis.authorities.keys)
    key = RECEIPTS.key(document["netuid"], document["epoch"], document["hotkey"])
    value = next((entry.value for entry in proofs.entries if entry.key == key), None)
    if value is None:
        raise Rejected("AnotherRoot", "the state proof is about something else")
    root = RECEIPTS.decode(value)
    return genesis.genesis_hash, root.root, root.count


@group.command("conflicts")
@_of
@_folder
@click.option("--out", "target", type=click.Path(file_okay=False, path_type=Path), help="Write the proofs there.")
@click.pass_context
def conflicts_command(ctx: click.Context, owner: str, folder: Path | None, target: Path | None) -> None:
    """Look for contradictory answers among the sessions that are kept, and flag them at their receipts."""
    from ai import contradiction

    out, store = Output(ctx.obj), open_store(ctx.obj, owner, folder)
    genesis_hash = run(ctx.obj, lambda api: api.system_properties()).genesis_hash
    rows = []
    for netuid in store.netuids():
        for epoch in store.epochs(netuid):
            for found in contradiction.find(store, netuid, epoch, genesis_hash):
                proven = found.verify(genesis_hash)
                store.flag(proven.open_ids, found.encode())
                rows.append(contradiction.describe(proven))
                if target is not None:
                    target.mkdir(parents=True, exist_ok=True)
                    name = "-".join(open_id.hex()[:16] for open_id in proven.open_ids)
                    (target / f"{name}.proof").write_bytes(found.encode())
    show = [(r["hotkey"][:16], r["netuid"], r["epoch"], r["total_variation"], r["context"], *r["receipts"]) for r in rows]
    columns = ("hotkey", "subnet", "epoch", "variation", "after", "receipt", "receipt")
    out.data(rows, lambda: out.table("contradictions", columns, show) if rows else "no contradiction")


@group.command("convict")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--genesis-hash", metavar="HASH", help="The chain's; else the node at --rpc is asked.")
@click.pass_context
def convict_command(ctx: click.Context, file: Path, genesis_hash: str | None) -> None:
    """Check a proof of contradictory answers, as `conflicts --out` writes it. Exit code 1: it proves nothing."""
    from ai import contradiction

    domain = _hash(genesis_hash) if genesis_hash else run(ctx.obj, lambda api: api.system_properties()).genesis_hash
    with open(file, "rb") as source:
        data = source.read(contradiction.PROOF_MAX_BYTES + 1)
    try:
        proven = contradiction.Contradiction.decode(data).verify(domain)
    except DecodeError as error:
        raise UsageError(
            f"{file} is no proof of contradictory answers: {error.cause}", hint="quorix ai receipts conflicts --out DIR"
        ) from None
    told = contradiction.describe(proven)
    Output(ctx.obj).data(told, f"valid: {told['hotkey']} gave two answers, total variation {told['total_variation']}")


def _hash(text: str) -> bytes:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != 32:
        raise UsageError(f"{text[:80]!r} is not 64 hex digits")
    return value
