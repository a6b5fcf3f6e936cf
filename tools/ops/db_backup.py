"""A copy of a stopped node's chain that can be brought back, here or elsewhere.

    DIR/manifest.json   what the copy is of, and size and hash of every file
    DIR/chain/          the chain database
    DIR/spec.toml       the chain's specification

Keys and the sign database are never part of it. The sign database must not go back in time: a key that signs with an old
one may sign twice. It stays with the node; a restore replaces the chain beside it and nothing else.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from ledger.errors import Corruption, DecodeError, Locked, NewerSchema, NotFound, UsageError, WrongGenesis
from tools.node.folders import draft_of, name_folder, put_aside, size_of, sync_folder, unbroken
from tools.node.home import Specification

from .db_home import folders_explained, need_space, need_writable, open_store, spec_path, stopped_node

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
MAX_MANIFEST_BYTES: Final = 64 << 20
BLOCK_BYTES: Final = 1 << 20
READ_ROWS: Final = 10_000  # between two signs of progress
EXCLUDED: Final = ("sign/", "session.key", "node.key", "peers.cbor", "pool.cbor")
_DATABASES: Final = ("chain", "sign")
_NOT_COPIED: Final = ("LOCK", "LOG", "LOG.old")

Progress = Callable[[str, int, int], None]  # what, done, of


def backup(home: Path, spec: Path | None, folder: Path, progress: Progress) -> dict[str, Any]:
    """Copy the chain of a stopped node into a new folder, after the checks of every start and a look at every row."""
    with folders_explained(home):
        return _backed_up(home, spec, folder, progress)


def _backed_up(home: Path, spec: Path | None, folder: Path, progress: Progress) -> dict[str, Any]:
    if folder.exists():
        raise UsageError(f"{folder} exists", hint="name a new folder")
    if {(home / name).resolve() for name in _DATABASES} & set(folder.resolve().parents):
        raise UsageError(f"{folder} is inside a database", hint="name a folder elsewhere, best on another disk")
    with stopped_node(home, spec) as node:
        head, genesis, chain = node.chain.head, node.params.genesis_hash, node.specification.spec.name
        for number, _ in enumerate(node.store.items(b""), 1):  # each read verifies checksums: no copy of damage
            if not number % READ_ROWS:
                progress("reading all rows", number, 0)
    folder.parent.mkdir(parents=True, exist_ok=True)
    size = size_of(home / "chain")
    need_space(folder.parent, size)
    draft = draft_of(folder)
    try:
        with _held(home / "chain"):
            files = _copy(home / "chain", draft / "chain", size, progress)
        specification = spec_path(home, spec).read_bytes()
        (draft / "spec.toml").write_bytes(specification)
        manifest = {
            "format": FORMAT, "version": version("quorix"), "chain": chain, "genesis_hash": genesis.hex(),
            "height": head.height, "hash": head.hash.hex(), "made_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "spec": hashlib.blake2b(specification, digest_size=32).hexdigest(), "files": files, "excluded": list(EXCLUDED),
        }
        (draft / MANIFEST).write_text(json.dumps(manifest, indent=1))
        name_folder(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return {
        "folder": str(folder), "height": head.height, "hash": head.hash, "files": len(files), "bytes": size,
        "excluded": list(EXCLUDED),
    }


def restore(home: Path, spec: Path | None, folder: Path, progress: Progress) -> dict[str, Any]:
    """Put a backup's chain into a home. A chain that is there is put aside, not deleted; everything else stays."""
    need_writable(home)
    with folders_explained(home):
        return _put_back(home, spec, folder, progress)


def _put_back(home: Path, spec: Path | None, folder: Path, progress: Progress) -> dict[str, Any]:
    manifest = _manifest(folder)
    place = spec_path(home, spec)
    genesis = Specification.load(place).genesis.genesis_hash
    if manifest["genesis_hash"] != genesis.hex():
        raise WrongGenesis(
            f"the backup is of the chain {manifest['chain']} ({manifest['genesis_hash'][:16]}), "
            f"{place} says {genesis.hex()[:16]}"
        )
    chain, files = home / "chain", manifest["files"]
    if chain.exists():
        _refuse_running(home)
    size = sum(each["bytes"] for each in files.values())
    need_space(home, size)
    draft = draft_of(chain)
    try:
        copied = _copy(folder / "chain", draft, size, progress)
        for name in copied.keys() | files.keys():
            if copied.get(name) != files.get(name):
                raise Corruption(f"{folder}/chain/{name} is not the file of the backup", hint="use another backup")
        sync_folder(draft)  # now, so that nothing but two renames is left
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    try:
        with unbroken():  # a signal meanwhile comes at the end, and is then undone
            try:
                kept = put_aside(chain, "replaced") if chain.exists() else None
                name_folder(draft, chain)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        return _restored(home, spec, kept)
    except (Corruption, NewerSchema, WrongGenesis, KeyboardInterrupt) as error:
        with unbroken():
            os.rename(chain, draft)
            if kept is not None:
                os.rename(kept, chain)
        shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise type(error)(
            f"this home cannot take the backup: {error.cause}",
            hint="nothing was changed. If the node was rewound or recovered after the backup was made, its later blocks are "
            "of another signing domain: use a newer backup, or let the node sync from its peers",
        ) from error


def _restored(home: Path, spec: Path | None, kept: Path | None) -> dict[str, Any]:
    with stopped_node(home, spec) as node:
        return {
            "home": str(home), "height": node.chain.head.height, "hash": node.chain.head.hash,
            "put_aside": None if kept is None else str(kept),
            "signed_height": None if node.guard is None else node.guard.signed_height,
        }


def _refuse_running(home: Path) -> None:
    """Raises Locked while a node runs there; a damaged database is what a restore is for."""
    try:
        open_store(home).close()
    except (Corruption, NotFound):
        pass


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not path.is_file():
        raise NotFound(f"{folder} is no backup: it has no {MANIFEST}")
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise DecodeError(f"larger than {MAX_MANIFEST_BYTES} bytes", where=str(path))
    try:
        found = json.loads(path.read_text())
        if found["format"] != FORMAT:
            raise UsageError(f"{path} has format {found['format']!r}, this program knows {FORMAT}")
        plain = all("/" not in name and type(each["bytes"]) is int for name, each in found["files"].items())
        if not plain or type(found["genesis_hash"]) is not str or type(found["chain"]) is not str:
            raise ValueError("a file name with a folder, or a size that is no number")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DecodeError(f"not the manifest of a backup ({error})", where=str(path)) from None
    return dict(found)


def _copy(source: Path, target: Path, size: int, progress: Progress) -> dict[str, dict[str, Any]]:
    """Copy a database's files; returns size and hash of each by name."""
    target.mkdir(parents=True)
    done, files = 0, {}
    for path in sorted(source.iterdir()):
        if path.name in _NOT_COPIED or not path.is_file():
            continue
        hashed = hashlib.blake2b(digest_size=32)
        with open(path, "rb") as file, open(target / path.name, "xb") as copy:
            while part := file.read(BLOCK_BYTES):
                hashed.update(part)
                copy.write(part)
                done += len(part)
                progress("copying", done, size)
            files[path.name] = {"bytes": copy.tell(), "blake2b": hashed.hexdigest()}
    return files


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a database's lock without opening it: its files do not change meanwhile."""
    with open(folder / "LOCK", "ab") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Locked(f"{folder} is open in another process", hint="stop the node that runs there") from None
        try:
            yield
        finally:
            fcntl.lockf(lock, fcntl.LOCK_UN)
