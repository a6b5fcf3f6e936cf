"""What a validator must not forget: its scores, and the weights it has committed to but not yet revealed.

One SQLite file, `scores.db`. A commitment is stored before its extrinsic is sent: a validator that restarts can still
reveal, and a forfeit costs it the epoch's dividend.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from .shapley import ScoreBook

MAX_PENDING = 16


@dataclass(frozen=True)
class Pending:
    """Weights committed for an epoch; `salt` is 32 bytes in hex."""

    netuid: int
    epoch: int
    uids: list[int]
    values: list[int]
    version_key: int
    salt: str


class Memory:
    """The validator's file. All writes are durable when they return."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = sqlite3.connect(path)
        self._db.execute("pragma journal_mode=wal")
        self._db.execute("pragma synchronous=full")
        self._db.execute("create table if not exists book (netuid integer primary key, value text not null)")
        self._db.execute(
            "create table if not exists pending (netuid integer, epoch integer, value text, primary key (netuid, epoch))"
        )
        self._db.execute("create table if not exists done (what text primary key, epoch integer not null)")
        self._db.commit()

    def book(self, netuid: int) -> ScoreBook:
        """Stored scores of a subnet, or none."""
        row = self._db.execute("select value from book where netuid = ?", (netuid,)).fetchone()
        try:
            return ScoreBook.from_value(json.loads(row[0])) if row else ScoreBook()
        except (ValueError, TypeError):  # a damaged row costs history, not the validator
            return ScoreBook()

    def store_book(self, netuid: int, book: ScoreBook) -> None:
        self._db.execute("insert or replace into book values (?, ?)", (netuid, json.dumps(book.to_value())))
        self._db.commit()

    def remember(self, pending: Pending) -> None:
        row = (pending.netuid, pending.epoch, json.dumps(asdict(pending)))
        self._db.execute("insert or replace into pending values (?, ?, ?)", row)
        self._db.commit()

    def pending(self, netuid: int) -> list[Pending]:
        """Unrevealed commitments of a subnet, oldest first."""
        rows = self._db.execute("select value from pending where netuid = ? order by epoch", (netuid,)).fetchall()
        return [Pending(**json.loads(value)) for (value,) in rows][-MAX_PENDING:]

    def drop(self, netuid: int, epoch: int) -> None:
        """Revealed, or too late."""
        self._db.execute("delete from pending where netuid = ? and epoch = ?", (netuid, epoch))
        self._db.commit()

    def last(self, what: str) -> int:
        """Newest epoch for which `what` was done; -1 if never."""
        row = self._db.execute("select epoch from done where what = ?", (what,)).fetchone()
        return int(row[0]) if row else -1

    def note(self, what: str, epoch: int) -> None:
        self._db.execute("insert or replace into done values (?, ?)", (what, epoch))
        self._db.commit()

    def close(self) -> None:
        self._db.close()
