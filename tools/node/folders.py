"""Folders that appear under their name when they are complete and on the disk, or not at all.

A draft lies beside its place, under a hidden name. A kill in between leaves the old folder and perhaps a draft, which the
next attempt throws away.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

from ledger.errors import Error
from ledger.store import LevelStore

T = TypeVar("T")
MAX_KEPT_NAMES: Final = 1000


def draft_of(path: Path) -> Path:
    """Where a folder is made before it gets its name; whatever lies there is thrown away."""
    draft = path.with_name(f".{path.name}.new")
    shutil.rmtree(draft, ignore_errors=True)
    return draft


def make_database(path: Path, fill: Callable[[LevelStore], T]) -> T:
    """A new database, filled and then named. Whatever `fill` raises leaves nothing."""
    draft = draft_of(path)
    try:
        store = LevelStore.create(draft)
        try:
            made = fill(store)
        finally:
            store.close()
        name_folder(draft, path, "*.log")  # LevelDB has synced the others itself
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    return made


def name_folder(draft: Path, path: Path, to_sync: str = "*") -> None:
    """Make a complete folder durable and give it its name, which must be free."""
    sync_folder(draft, to_sync)
    os.rename(draft, path)
    _sync(path.parent)


def put_aside(path: Path, why: str) -> Path:
    """Rename a folder so that its place is free; nothing is deleted. Returns where it is."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in range(MAX_KEPT_NAMES):
        kept = path.with_name(f"{path.name}.{why}-{stamp}" + (f"-{number}" if number else ""))
        if not kept.exists():
            os.rename(path, kept)
            _sync(path.parent)
            return kept
    raise Error(f"{path} cannot be put aside: too many folders beside it", hint="delete those no longer needed")


def swap(fresh: Path, path: Path, why: str) -> Path:
    """Put a complete folder in the place of another, which is put aside; returns where that is. No signal comes between."""
    with unbroken():
        kept = put_aside(path, why)
        os.rename(fresh, path)
        _sync(path.parent)
    return kept


@contextmanager
def unbroken() -> Iterator[None]:
    """Hold back Ctrl-C and a request to end until a few renames that belong together are done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def sync_folder(folder: Path, pattern: str = "*") -> None:
    """Every file of this pattern in a folder, and the folder, are on the disk afterwards."""
    for path in sorted(folder.rglob(pattern)):
        _sync(path)
    _sync(folder)


def size_of(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
