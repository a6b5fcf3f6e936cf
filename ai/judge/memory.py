"""What a validator must not forget: its scores, and the weights it has committed to but not yet revealed.

One SQLite file, `scores.db`, opened by one process at a time. A commitment is stored before its extrinsic is sent: a
validator that restarts can still reveal, and a forfeit costs it the epoch's dividend. A damaged file is moved aside and
begun anew: what it held is lost, the validator is not.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ledger.commitments import SALT_BYTES
from ledger.errors import Locked

from .shapley import ScoreBook

MAX_PENDING: Final = 16  # of a subnet; the chain itself takes ten
U16_MAX: Final = 65_535
LOCK_PATIENCE_S: Final = 2.0
DAMAGED: Final = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA: Final = (
    "create table if not exists book (netuid integer primary key, value text not null)",
    "create table if not exists pending (netuid integer, epoch integer, value text, primary key (netuid, epoch))",
    "create table if not exists done (what text primary key, number integer not null)",
)


@dataclass(frozen=True)
class Pending:
    """Weights committed for an epoch; `salt` is 32 bytes in hex. `confirmed`: the commitment is final in that epoch."""

    netuid: int
    epoch: int
    uids: list[int]
    values: list[int]
    version_key: int
    salt: str
    confirmed: bool = False

    @classmethod
    def from_json(cls, text: str) -> Pending:
        """Raises ValueError where a stored row is not one that `remember` wrote."""
        value: Any = json.loads(text)
        if not isinstance(value, dict) or set(value) != set(cls.__dataclass_fields__):
            raise ValueError("other fields")
        row = cls(**value)
        numbers = [row.netuid, row.epoch, row.version_key, *row.uids, *row.values]
        if not all(type(number) is int and number >= 0 for number in numbers) or len(row.uids) != len(row.values):
            raise ValueError("numbers out of range")
        if max([*row.uids, *row.values], default=0) > U16_MAX or len(bytes.fromhex(row.salt)) != SALT_BYTES:
            raise ValueError("numbers out of range")
        return row


class Memory:
    """The validator's file. All writes are durable when they return. `damaged`: where an unreadable file was put."""

    def __init__(self, path: Path) -> None:
        """Raises Locked where another process has the file open."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.damaged: Path | None = None
        try:
            self._db = _open(path)
        except sqlite3.DatabaseError as error:
            if (error.sqlite_errorcode & 0xFF) not in DAMAGED:
                raise
            self.damaged = _set_aside(path)
            self._db = _open(path)

    def book(self, netuid: int) -> ScoreBook:
        """Stored scores of a subnet, or none. A damaged row costs history, not the validator."""
        row = self._db.execute("select value from book where netuid = ?", (netuid,)).fetchone()
        try:
            return ScoreBook.from_value(json.loads(row[0])) if row else ScoreBook()
        except (ValueError, TypeError):
            return ScoreBook()

    def store_book(self, netuid: int, book: ScoreBook) -> None:
        """Keep the scores of a subnet."""
        self._write("insert or replace into book values (?, ?)", netuid, json.dumps(book.to_value()))

    def remember(self, pending: Pending) -> None:
        """Keep a commitment until it is dropped. A later one for the same epoch takes its place."""
        value = json.dumps(asdict(pending))
        self._write("insert or replace into pending values (?, ?, ?)", pending.netuid, pending.epoch, value)

    def pending(self, netuid: int) -> list[Pending]:
        """Unrevealed commitments of a subnet, oldest first. Rows that cannot be read are dropped."""
        query = "select epoch, value from pending where netuid = ? order by epoch"
        found = []
        for epoch, value in self._db.execute(query, (netuid,)).fetchall():
            try:
                found.append(Pending.from_json(value))
            except (ValueError, TypeError):
                self.drop(netuid, epoch)
        for old in found[:-MAX_PENDING]:
            self.drop(netuid, old.epoch)
        return found[-MAX_PENDING:]

    def drop(self, netuid: int, epoch: int) -> None:
        """Revealed, or never to be revealed."""
        self._write("delete from pending where netuid = ? and epoch = ?", netuid, epoch)

    def last(self, what: str) -> int:
        """The number last noted under `what`; -1 if there is none."""
        row = self._db.execute("select number from done where what = ?", (what,)).fetchone()
        return int(row[0]) if row else -1

    def note(self, what: str, number: int) -> None:
        """Keep a number under `what`: the newest epoch in which it was done, or how often."""
        self._write("insert or replace into done values (?, ?)", what, number)

    def close(self) -> None:
        """Close the file; everything is on disk already."""
        self._db.close()

    def _write(self, statement: str, *values: int | str) -> None:
        self._db.execute(statement, values)
        self._db.commit()


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_PATIENCE_S)
    try:
        db.execute("pragma locking_mode=exclusive")  # a second validator with this key would commit twice
        db.execute("pragma journal_mode=wal")
        db.execute("pragma synchronous=full")
        if db.execute("pragma quick_check").fetchone()[0] != "ok":
            problem = sqlite3.DatabaseError("the file does not hold together")
            problem.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise problem
        db.execute("begin immediate")
        for statement in _SCHEMA:
            db.execute(statement)
        db.commit()
    except sqlite3.DatabaseError as error:
        db.close()
        if (error.sqlite_errorcode & 0xFF) == sqlite3.SQLITE_BUSY:
            raise Locked(f"{path} is open in another process", hint="one validator per home") from None
        raise
    return db


def _set_aside(path: Path) -> Path:
    """Rename a damaged file to the first free NAME.damaged-N; its journal goes with it."""
    number = 1
    while (kept := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    path.rename(kept)
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).unlink()
    return kept
