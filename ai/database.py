"""A process's own SQLite file: opened by one process at a time, durable, and replaced where it is damaged.

What such a file holds makes a process better, not possible: scores, commitments, counters. A file that does not hold
together is renamed to NAME.damaged-N and a new one is begun; the caller tells.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from ledger.errors import Locked

LOCK_PATIENCE_S: Final = 2.0  # the process before may still be closing it
MAX_DAMAGED_KEPT: Final = 100
DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def open_database(path: Path, schema: Sequence[str]) -> tuple[sqlite3.Connection, Path | None]:
    """(connection, where a damaged file was put). `schema`: statements that make the tables unless they are there.

    Every commit is durable when it returns. Raises Locked where another process has the file open.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return _open(path, schema), None
    except sqlite3.DatabaseError as error:
        if (error.sqlite_errorcode & 0xFF) not in DAMAGED:
            raise
    kept = _set_aside(path)
    return _open(path, schema), kept


def _open(path: Path, schema: Sequence[str]) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_PATIENCE_S)
    try:
        db.execute("pragma locking_mode=exclusive")
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        if db.execute("pragma quick_check").fetchone()[0] != "ok":
            problem = sqlite3.DatabaseError("the file does not hold together")
            problem.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise problem
        db.execute("begin immediate")
        for statement in schema:
            db.execute(statement)
        db.commit()
    except sqlite3.DatabaseError as error:
        db.close()
        if (error.sqlite_errorcode & 0xFF) == sqlite3.SQLITE_BUSY:
            raise Locked(f"{path} is open in another process", hint="one process for each home") from None
        raise
    return db


def _set_aside(path: Path) -> Path:
    """Rename a damaged file to the first free name; its journal goes."""
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in range(1, MAX_DAMAGED_KEPT))
    kept = next((name for name in names if not name.exists()), path.with_name(f"{path.name}.damaged-last"))
    path.replace(kept)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    return kept
