"""`quorix query`: blocks, extrinsics, accounts, events, state, and proofs that can be checked without a node."""

from __future__ import annotations

import difflib
import json
import re
from pathlib import Path
from typing import Any

import click

from ledger.client.records import StateProofs, from_json
from ledger.errors import DecodeError, UsageError
from tools.cli.main import Noun
from tools.cli.output import Output, counted, format_amount, format_time
from tools.cli.session import account, address, at, run
from tools.cli.submission import event_fields, field_text

group = Noun("query", help="Blocks, extrinsics, accounts, events, state and proofs.")

MAX_DIGITS = 20
MAX_PROOF_FILE_BYTES = 32 << 20


@group.command("block")
@click.argument("where", default="head")
@click.pass_context
def block_command(ctx: click.Context, where: str) -> None:
    """A block by height or hash (default: the head)."""
    out = Output(ctx.obj)
    block = run(ctx.obj, lambda api: api.chain_get_block(at(where)))

    def show() -> None:
        header, certificate = block.header, block.certificate
        signers = "none needed"
        if certificate is not None:
            signers = f"{counted(len(certificate.signers), 'signer')}, round {certificate.round}"
        fields = (
            ("height", header.height), ("hash", "0x" + header.hash.hex()), ("time", format_time(header.timestamp_ms)),
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
        events = [(e.name, event_fields(e.fields)) for e in block.events]
        if events:
            out.table("events of the block", ("event", "fields"), events)

    out.data(block, show)


@group.command("extrinsic")
@click.argument("id_", metavar="ID")
@click.pass_context
def extrinsic_command(ctx: click.Context, id_: str) -> None:
    """What became of an extrinsic: its call, fee, outcome and events, or that it still waits."""
    out, found = Output(ctx.obj), re.fullmatch("(?:0x)?([0-9a-fA-F]{64})", id_)
    if found is None:
        raise UsageError(f"{id_[:80]!r} is no extrinsic id", hint="an id is 0x and 64 hexadecimal digits")
    record = run(ctx.obj, lambda api: api.chain_get_extrinsic(bytes.fromhex(found[1])))

    def show() -> None:
        place = "waits in the pool" if record.height is None else f"final in block {record.height}, number {record.index}"
        outcome = "-" if record.height is None else record.error or "ok"
        rows = [
            ("state", place), ("call", record.call),
            *((f"  {name}", field_text(name, value)) for name, value in record.args.items()),
            ("signer", address(record.signer)), ("nonce", record.nonce), ("fee", format_amount(record.fee_rao)),
            ("tip", format_amount(record.tip_rao)), ("outcome", outcome), ("size", f"{len(record.raw)} bytes"),
        ]
        out.table(f"extrinsic 0x{record.id.hex()}", ("field", "value"), rows)
        if record.events:
            out.table("events", ("event", "fields"), [(e.name, event_fields(e.fields)) for e in record.events])

    out.data(record, show)


@group.command("account")
@click.argument("who")
@click.option("--history", is_flag=True, help="Extrinsics that concern it, newest first.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="For --history: how many.")
@click.option("--after", help="For --history: go on where an earlier page ended.")
@click.option("--at", "where", default="head", help="Height, hash or head; not for --history.")
@click.pass_context
def account_command(ctx: click.Context, who: str, history: bool, limit: int, after: str | None, where: str) -> None:
    """An account: money, keys, identity, proxies, bond; with --history the extrinsics that concern it."""
    out, public = Output(ctx.obj), account(ctx.obj, who)
    if history:
        page = run(ctx.obj, lambda api: api.account_history(public, after=after, limit=limit))

        def show_page() -> None:
            rows = [
                (x.height, x.index, x.call, _signer(x.signer, public), format_amount(x.fee_rao), x.error or "ok",
                 "0x" + x.id.hex())
                for x in page.items
            ]
            columns = ("block", "#", "call", "signed by", "fee", "outcome", "id")
            out.table(f"extrinsics that concern {address(public)}", columns, rows)
            if page.next:
                out.remark(f"older ones: --after {page.next}")
            elif not rows:
                out.remark("none; a node that began from a snapshot knows none from before it")

        out.data(page, show_page)
        return
    found = run(ctx.obj, lambda api: _whole_account(api, public, at(where)))
    out.data(found, lambda: out.table(f"{address(public)} at block {found['account'].at.height}", ("", "value"), _rows(found)))


def _signer(signer: bytes, public: bytes) -> str:
    return "itself" if signer == public else address(signer)


async def _whole_account(api: Any, public: bytes, where: int | str) -> dict[str, Any]:
    first = await api.account_get(public, where)
    height = first.at.height
    reads = {
        "identity": api.account_identity, "proxies": api.account_proxies, "relations": api.account_relations,
        "swaps": api.account_swaps, "bond": api.account_bond, "stakes": api.account_stakes,
    }
    return {"account": first, **{name: (await read(public, height)).value for name, read in reads.items()}}


def _rows(found: dict[str, Any]) -> list[tuple[str, object]]:
    value, bond, identity, swaps = found["account"].value, found["bond"], found["identity"], found["swaps"]
    rows: list[tuple[str, object]] = [
        ("free", format_amount(value.free_rao)), ("reserved", format_amount(value.reserved_rao)),
        ("staked", format_amount(value.staked_rao)), ("unbonding", format_amount(value.unbonding_rao)), ("nonce", value.nonce),
    ]
    rows += [("hotkey of", address(value.owner))] if value.owner is not None else []
    rows += [("owns hotkey", address(hotkey)) for hotkey in value.hotkeys]
    rows += [("says of itself", f"{identity.name} {identity.url}".strip())] if identity is not None else []
    rows += [("proxy", f"{address(p.delegate)}: {p.kind}, delay {p.delay_blocks}") for p in found["proxies"].proxies]
    rows += [("child", f"{address(r.hotkey)} in subnet {r.netuid}") for r in found["relations"].children]
    rows += [("parent", f"{address(r.hotkey)} in subnet {r.netuid}") for r in found["relations"].parents]
    rows += [("authority's bond", format_amount(bond.bonded_rao))] if bond.bonded_rao else []
    rows += [("bond on its way back", f"{format_amount(u.amount_rao)} in session {u.session}") for u in bond.unbonding]
    rows += [("coldkey swap", f"announced, possible from block {swaps.ready_at}")] if swaps.announced_hash is not None else []
    return rows


@group.command("events")
@click.argument("kind", default="")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many.")
@click.option("--after", help="Go on where an earlier page ended.")
@click.pass_context
def events_command(ctx: click.Context, kind: str, limit: int, after: str | None) -> None:
    """Events of the chain, newest first, of all kinds or of one."""
    out = Output(ctx.obj)
    page = run(ctx.obj, lambda api: api.events_query(kind or None, after=after, limit=limit))

    def show() -> None:
        rows = [(e.height, e.name, event_fields(e.fields)) for e in page.items]
        if rows:
            out.table("events", ("block", "event", "fields"), rows)
        else:
            out.remark(f"no event {kind}".rstrip() + (" in the blocks that were looked at" if page.next else " so far"))
        if page.next:
            out.remark(f"older ones: --after {page.next}")

    out.data(page, show)


@group.command("upgrade")
@click.option("--at", "where", default="head", help="Height, hash or head.")
@click.pass_context
def upgrade_command(ctx: click.Context, where: str) -> None:
    """The version of the rules in force, the one that is scheduled, and which authorities are ready for it."""
    from tools.cli.node import upgrade_rows

    out = Output(ctx.obj)
    answer = run(ctx.obj, lambda api: api.chain_get_upgrades(at(where)))
    rows = upgrade_rows(answer.value) + [("ready", "0x" + key.hex()) for key in answer.value.ready]
    out.data(answer, lambda: out.table("", ("", "rules"), rows))


@group.command("state")
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@click.option("--proof", is_flag=True, help="One proof of all keys, as a JSON document that is checked without a node.")
@click.option("--at", "where", default="head", help="Height, hash or head.")
@click.option("--checkpoint", type=click.IntRange(1), help="Height of a block that the verifier will trust, for --proof.")
@click.pass_context
def state_command(ctx: click.Context, keys: tuple[str, ...], proof: bool, where: str, checkpoint: int | None) -> None:
    """Raw state keys: 0x hex, or TABLE/PART/PART with numbers, 0x keys and addresses as parts."""
    out = Output(ctx.obj)
    if checkpoint is not None and not proof:
        raise UsageError("--checkpoint is for --proof")

    async def read(api: Any) -> Any:
        raw = [await _state_key(api, ctx.obj, key) for key in keys]
        if proof:
            return await api.state_get_proofs(raw, at(where), checkpoint)
        first = await api.state_get(raw[0], at(where))
        rest = [await api.state_get(key, first.at.height) for key in raw[1:]]  # all of one block
        return [{"key": key, "at": each.at, "value": each.value} for key, each in zip(raw, [first, *rest], strict=True)]

    answer = run(ctx.obj, read)
    if proof:
        out.line(answer)
    elif len(keys) == 1:
        out.data(answer[0], _shown(answer[0]["value"]))
    else:
        rows = [(key, _shown(each["value"])) for key, each in zip(keys, answer, strict=True)]
        out.data(answer, lambda: out.table("", ("key", "value"), rows))


def _shown(value: bytes | None) -> str:
    return "absent" if value is None else "0x" + value.hex()


async def _state_key(api: Any, settings: Any, text: str) -> bytes:
    """Raw key from hex or from TABLE/PART/...; the runtime's tables give widths."""
    if text.startswith("0x"):
        try:
            return bytes.fromhex(text[2:])
        except ValueError:
            raise UsageError(f"{text!r} is not hex") from None
    import runtime.executor  # noqa: F401 - declares all tables
    from runtime.tables import Table

    plain, slashes, path = text.partition("///")  # a dev key's path, as the last part, brings its own two slashes
    name, *parts = plain.split("/")
    parts += [f"//{path}"] if slashes else []
    table = next((t for t in Table.registry.values() if t.name == name), None)
    if table is None:
        known = sorted(t.name for t in Table.registry.values())
        near = difflib.get_close_matches(name[:64], known, 3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"tables: {', '.join(known)}"
        raise UsageError(f"no state table is called {name[:64]!r}", hint=hint)
    if len(parts) != len(table.fields):
        form = "/".join((name, *(f.name.upper() for f in table.fields)))
        raise UsageError(f"a key of this table is written {form}", hint="a dev key after a slash has three: account///owner")
    fields = zip(table.fields, parts, strict=True)
    return table.key(*(_number(part, f.name, f.width) if f.number else account(settings, part) for f, part in fields))


def _key_words(key: bytes) -> str:
    """A raw key as it is written on the command line: TABLE/PART/PART, or hex if no table has such keys."""
    import runtime.executor  # noqa: F401 - declares all tables
    from runtime.tables import Table

    table = Table.registry.get(int.from_bytes(key[:2], "big"))
    if table is None or len(key) != 2 + sum(field.width for field in table.fields):
        return "0x" + key.hex()
    parts = (str(part) if type(part) is int else address(part) for part in table.parts(key))
    return "/".join((table.name, *parts))


def _number(text: str, name: str, width: int) -> int:
    known = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    if not known or int(text) >= 1 << 8 * width:
        raise UsageError(f"{name} = {text[:40]!r} is no number of {width} bytes")
    return int(text)


@group.command("metadata")
@click.pass_context
def metadata_command(ctx: click.Context) -> None:
    """The rules in force: every call, event, error, table, parameter and constant, with numbers (whole with --json)."""
    out = Output(ctx.obj)
    found = run(ctx.obj, lambda api: api.state_get_metadata())

    def show() -> None:
        rows = [
            (call.number, call.name, ", ".join(f"{name}: {kind}" for name, kind in call.args), call.origin, call.priority,
             call.work, "free" if call.free else "") for call in found.calls
        ]
        heads = ("#", "call", "arguments", "by", "class", "work", "within its limit")
        out.table(f"calls of runtime version {found.runtime_version}", heads, rows)
        counts = (
            ("events", len(found.events)), ("errors", len(found.errors)), ("tables", len(found.tables)),
            ("parameters", len(found.params)), ("constants", len(found.constants)), ("invariants", len(found.invariants)),
        )
        out.table("also, with --json", ("", "number"), counts)

    out.data(found, show)


_PROOF_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
proof_group = Noun("proof", help="Proofs made by `query state --proof`.")
group.add_command(proof_group)


@proof_group.command("verify")
@click.argument("file", type=_PROOF_FILE)
@click.option("--genesis", "spec", required=True, type=_PROOF_FILE,
              help="The chain's spec file, from which the first authority set is derived.")
@click.option("--checkpoint", metavar="HEIGHT:HASH", help="Trust this block instead of the first authority set.")
@click.option("--recovery", "recoveries", multiple=True, type=_PROOF_FILE,
              help="A recovery file that you trust; may be repeated.")
@click.option("--rewinds", type=_PROOF_FILE, help="rewinds.json of a node's home, for a devnet that was rewound.")
@click.pass_context
def verify_command(
    ctx: click.Context, file: Path, spec: Path, checkpoint: str | None, recoveries: tuple[Path, ...], rewinds: Path | None
) -> None:
    """Check a state proof offline: authority sets, certificate, state root, values. Needs no node.

    Exit code 0: every value is proven. 1: something is not, and the error says which link is broken. 2: no proof file.
    """
    from genesis.build import build_genesis
    from genesis.spec import load_spec
    from ledger.client.light import verify_state_proofs
    from ledger.recovery import by_height, recovered_domains
    from tools.node.recoveries import read_recovery
    from tools.node.rewinds import read_rewinds

    out = Output(ctx.obj)
    trusted = None if checkpoint is None else _checkpoint(checkpoint)
    genesis = build_genesis(load_spec(spec))
    proofs, own = _proof_file(file), genesis.genesis_hash
    files = by_height([read_recovery(path) for path in recoveries], own)
    domains = ((genesis.params.initial_height, own),) if rewinds is None else read_rewinds(rewinds, own)
    header, handovers = verify_state_proofs(
        proofs, own, genesis.authorities.keys, checkpoint=trusted, domains=recovered_domains(domains, files),
        recoveries={height: (each.head_hash, each.keys, each.hash) for height, each in files.items()},
    )
    root = "the genesis" if trusted is None else f"checkpoint {trusted[0]}"
    changes = counted(handovers, "change") if handovers else "no change"
    lines = [f"valid: block {header.height} is final, by {changes} of the authority set since {root}"]
    lines += [f"{_key_words(entry.key)}  {_shown(entry.value)}" for entry in proofs.entries]
    out.data(
        {"ok": True, "height": header.height, "hash": header.hash, "state_root": header.state_root,
         "set_changes": handovers, "checkpoint": checkpoint, "entries": proofs.entries},
        "\n".join(lines),
    )


def _checkpoint(text: str) -> tuple[int, bytes]:
    found = re.fullmatch(r"([0-9]{1,20}):(?:0x)?([0-9a-fA-F]{64})", text, re.ASCII)
    if found is None:
        raise UsageError(f"{text[:100]!r} is no checkpoint", hint="write HEIGHT:HASH, as `quorix query block` shows them")
    return int(found[1]), bytes.fromhex(found[2])


def _proof_file(file: Path) -> StateProofs:
    try:
        with open(file, "rb") as source:
            data = source.read(MAX_PROOF_FILE_BYTES + 1)
        if len(data) > MAX_PROOF_FILE_BYTES:
            raise UsageError(f"{file} is larger than any proof")
        proofs: StateProofs = from_json(StateProofs, json.loads(data), "proof")
        return proofs
    except json.JSONDecodeError:
        hint = "make one with quorix query state KEY --proof"
        raise UsageError(f"{file} is not a proof: it is not JSON", hint=hint) from None
    except (ValueError, DecodeError, RecursionError) as error:
        raise UsageError(f"{file} is not a proof: {error}", hint="make one with quorix query state KEY --proof") from None
