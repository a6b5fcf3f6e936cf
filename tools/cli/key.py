"""`quorix key`: make keys and list them, give a hotkey its owner, replace a hotkey by another."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from ledger.client.calls import Wait
from ledger.client.keys import (
    KDF_PROFILES,
    encode_address,
    key_file_info,
    key_from_secret,
    new_phrase,
    write_key_file,
)
from ledger.crypto import KeyPair
from ledger.errors import Error, UsageError
from tools.cli.main import Noun
from tools.cli.output import Output
from tools.cli.session import account, address, asks_for_password, key_path, read_password, run, signing_key
from tools.cli.submission import SIGNER, WAIT, send, submit
from tools.devnet.layout import home_directory

group = Noun("key", help="Make, list and swap keys.")


@group.command("new")
@click.argument("name")
@click.option("--kind", type=click.Choice(["coldkey", "hotkey"]), default="coldkey", help="What the key is for.")
@click.option("--words", type=click.Choice(["12", "24"]), default="12", help="Length of the phrase.")
@click.option("--kdf", "profile", type=click.Choice(sorted(KDF_PROFILES)), default="moderate", help="Cost of a guess.")
@click.option("--unencrypted", is_flag=True, help="No password: for a server that must start by itself (hotkeys).")
@click.pass_context
def new_command(ctx: click.Context, name: str, kind: str, words: str, profile: str, unencrypted: bool) -> None:
    """Make a key NAME and show its phrase once."""
    out, path = Output(ctx.obj), key_path(ctx.obj, name)
    if path.exists():
        raise UsageError(f"{path} exists already and is not overwritten", hint="choose another name")
    password = None if unencrypted else _new_password(ctx.obj)
    phrase = new_phrase(int(words))
    key = key_from_secret(phrase)
    created = time.strftime("%Y-%m-%d")
    write_key_file(path, key, kind, password=password, profile=profile, created=created)
    answer = {"name": name, "kind": kind, "address": encode_address(key.public), "path": str(path), "phrase": phrase}
    out.data(
        answer,
        f"{kind} {name}  {answer['address']}\nfile      {path}\nphrase    {phrase}\n"
        "Write the phrase down now: it is the only backup and is not shown again.",
    )


def _new_password(settings: Any) -> str:
    password = read_password(settings, "new password: ")
    if len(password) < 8:
        raise UsageError("a password has at least 8 characters")
    if asks_for_password(settings) and read_password(settings, "again: ") != password:
        raise UsageError("the two passwords differ")
    return password


@group.command("list")
@click.pass_context
def list_command(ctx: click.Context) -> None:
    """All keys of this home, without opening them."""
    out, folder = Output(ctx.obj), home_directory(ctx.obj.home) / "keys"
    rows = [_describe(path) for path in sorted(folder.glob("*.json"))]

    def show() -> None:
        if not rows:
            out.remark(f"no keys in {folder}; make one with `quorix key new NAME`")
            return
        out.table(str(folder), ("name", "kind", "address", "encrypted", "created"), [tuple(r.values()) for r in rows])

    out.data(rows, show)


def _describe(path: Path) -> dict[str, Any]:
    try:
        info = key_file_info(path)
    except Error as error:
        return {"name": path.stem, "kind": "unreadable", "address": error.cause, "encrypted": None, "created": ""}
    return {
        "name": path.stem, "kind": info.kind, "address": info.address, "encrypted": info.encrypted, "created": info.created,
    }


@group.command("swap-hotkey")
@click.argument("old")
@click.argument("new")
@click.option("--netuid", type=int, help="Only in this subnet; default: everywhere.")
@SIGNER
@WAIT
@click.pass_context
def swap_command(ctx: click.Context, old: str, new: str, netuid: int | None, signer: str, wait: Wait) -> None:
    """Replace hotkey OLD by NEW: uid, stake, children and the rest go along. Signed by the coldkey that owns OLD."""
    where = "everywhere" if netuid is None else f"in subnet {netuid}"
    given = {"old_hotkey": old, "new_hotkey": new, "netuid": "none" if netuid is None else str(netuid)}
    plan = f"replace {address(account(ctx.obj, old))} by {address(account(ctx.obj, new))} {where}"
    send(ctx, signer, "keyring.swap_hotkey", given, wait=wait, plan=plan, typed="swap")


@group.command("associate")
@click.argument("hotkey")
@SIGNER
@WAIT
@click.pass_context
def associate_command(ctx: click.Context, hotkey: str, signer: str, wait: Wait) -> None:
    """Make the signing coldkey the owner of HOTKEY, a key at hand that agrees by its signature."""
    agreed, key = signing_key(ctx.obj, hotkey), signing_key(ctx.obj, signer)
    proof = run(ctx.obj, lambda api: _ownership_proof(api, agreed, key.public))
    plan = f"{address(key.public)} owns the hotkey {address(agreed.public)} from now on"
    submit(ctx, key, "hotkeys.associate", {"hotkey": agreed.public, "proof": proof}, wait=wait, plan=plan)


@group.command("prove")
@click.argument("hotkey")
@click.argument("owner")
@click.pass_context
def prove_command(ctx: click.Context, hotkey: str, owner: str) -> None:
    """Sign, with HOTKEY, that it is to belong to the coldkey OWNER: for owners on another machine."""
    agreed, coldkey = signing_key(ctx.obj, hotkey), account(ctx.obj, owner)
    proof = run(ctx.obj, lambda api: _ownership_proof(api, agreed, coldkey))
    said = f"quorix tx send hotkeys.associate hotkey={address(agreed.public)} proof={proof.hex()} --key OWNER"
    Output(ctx.obj).data({"hotkey": agreed.public, "coldkey": coldkey, "proof": proof}, said)


async def _ownership_proof(api: Any, hotkey: KeyPair, coldkey: bytes) -> bytes:
    properties = await api.system_properties()
    return hotkey.sign("hotkey", properties.genesis_hash, coldkey + hotkey.public)
