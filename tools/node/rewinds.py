"""The rewinds of a devnet as a file: HOME/rewinds.json lists the signing domains of its heights.

A rewind draws a new signing domain, which nobody can derive from the genesis. The sign database guards the key by it; this
file tells it to all who hold no key: followers, repairs, the devnet's check, and whoever verifies proofs offline. Nothing in
it is secret. Who uses another node's file trusts it for which blocks of a devnet count, and for nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ledger.errors import DecodeError, NotFound, WrongGenesis
from ledger.signer import MAX_DOMAINS, Domains

NAME: Final = "rewinds.json"
VERSION: Final = 1
MAX_FILE_BYTES: Final = 16 * 1024
_FIELDS: Final = {"version", "genesis_hash", "domains"}
_U64: Final = 1 << 64


def rewinds_text(genesis_hash: bytes, domains: Domains) -> str:
    """The file."""
    rows = [{"from_height": height, "domain": domain.hex()} for height, domain in domains]
    return json.dumps({"version": VERSION, "genesis_hash": genesis_hash.hex(), "domains": rows}, indent=1) + "\n"


def unkept_rewinds(home: Path, genesis_hash: bytes, domains: Domains) -> list[tuple[Path, bytes]]:
    """Path and content of the home's file, where it does not say this yet; without a rewind none is needed."""
    path, text = home / NAME, rewinds_text(genesis_hash, domains).encode()
    needed = any(domain != genesis_hash for _, domain in domains)
    return [] if not needed or (path.is_file() and path.read_bytes() == text) else [(path, text)]


def rewinds_of(home: Path, genesis_hash: bytes, initial_height: int) -> Domains:
    """The signing domains that a home's file names; the genesis' alone where there is none. Raises as `read_rewinds`."""
    path = home / NAME
    return read_rewinds(path, genesis_hash) if path.is_file() else ((initial_height, genesis_hash),)


def read_rewinds(path: Path, genesis_hash: bytes) -> Domains:
    """Raises NotFound, DecodeError, or WrongGenesis for the file of another chain."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from None
    named, domains = parse_rewinds(data)
    if named != genesis_hash:
        raise WrongGenesis(f"{path} is of the chain {named.hex()[:16]}, this is {genesis_hash.hex()[:16]}")
    return domains


def parse_rewinds(data: bytes) -> tuple[bytes, Domains]:
    """Genesis hash and domains, ascending by height. Raises DecodeError."""
    if len(data) > MAX_FILE_BYTES:
        raise DecodeError(f"more than {MAX_FILE_BYTES} bytes", where="rewinds")
    try:
        tree = json.loads(data.decode())
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise DecodeError("not JSON", where="rewinds") from None
    if not isinstance(tree, dict) or set(tree) != _FIELDS or tree["version"] != VERSION:
        raise DecodeError(f"not a file of version {VERSION}", where="rewinds")
    rows = tree["domains"]
    if not isinstance(rows, list) or not 0 < len(rows) <= MAX_DOMAINS:
        raise DecodeError(f"not a list of 1 to {MAX_DOMAINS}", where="rewinds.domains")
    domains = tuple(_entry(row) for row in rows)
    heights = [height for height, _ in domains]
    if heights != sorted(dict.fromkeys(heights)):
        raise DecodeError("heights do not ascend", where="rewinds.domains")
    return _hash(tree["genesis_hash"]), domains


def _entry(row: Any) -> tuple[int, bytes]:
    if not isinstance(row, dict) or set(row) != {"from_height", "domain"}:
        raise DecodeError("expected exactly the fields from_height, domain", where="rewinds.domains")
    height = row["from_height"]
    if type(height) is not int or not 0 <= height < _U64:
        raise DecodeError("from_height is no height", where="rewinds.domains")
    return height, _hash(row["domain"])


def _hash(value: Any) -> bytes:
    try:
        found = bytes.fromhex(value) if isinstance(value, str) and len(value) == 64 else b""
    except ValueError:
        found = b""
    if len(found) != 32:
        raise DecodeError("expected 64 hex digits", where="rewinds")
    return found
