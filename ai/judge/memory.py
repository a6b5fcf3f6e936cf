"""What a validator must not forget: its scores, and the weights it has committed to but not yet revealed.

One SQLite file, `scores.db`, opened by one process at a time. A commitment is stored before its extrinsic is sent: a
validator that restarts can still reveal, and a forfeit costs it the epoch's dividend. A damaged file is moved aside and
begun anew: what it held is lost, the validator is not.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from ai.database import open_database
from ledger.commitments import SALT_BYTES

from .conduct import Conduct
from .shapley import ScoreBook

MAX_PENDING: Final = 16  # of a subnet; the chain itself takes ten
U16_MAX: Final = 65_535
SCHEMA: Final = (
    "create table if not exists book (netuid integer primary key, value text not null)",
    "create table if not exists pending (netuid integer, epoch integer, value text, primary key (netuid, epoch))",
    "create table if not exists conduct (netuid integer primary key, value text not null)",
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
        try:
            value: Any = json.loads(text)
        except RecursionError:
            raise ValueError("nested too deeply") from None
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
        self._db, self.damaged = open_database(path, SCHEMA)

    def book(self, netuid: int) -> ScoreBook:
        """Stored scores of a subnet, or none. A damaged row costs history, not the validator."""
        row = self._db.execute("select value from book where netuid = ?", (netuid,)).fetchone()
        try:
            return ScoreBook.from_value(json.loads(row[0])) if row else ScoreBook()
        except (ValueError, TypeError, RecursionError):
            return ScoreBook()

    def store_book(self, netuid: int, book: ScoreBook) -> None:
        """Keep the scores of a subnet."""
        self._write("insert or replace into book values (?, ?)", netuid, json.dumps(book.to_value()))

    def conduct(self, netuid: int) -> Conduct:
        """Who came to whom on a subnet, as far as it is stored and can be read."""
        row = self._db.execute("select value from conduct where netuid = ?", (netuid,)).fetchone()
        try:
            return Conduct.from_value(json.loads(row[0])) if row else Conduct()
        except (ValueError, TypeError, RecursionError, OverflowError):
            return Conduct()

    def store_conduct(self, netuid: int, conduct: Conduct) -> None:
        """Keep who came to whom."""
        self._write("insert or replace into conduct values (?, ?)", netuid, json.dumps(conduct.to_value()))

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
