"""Who used how much: requests and bytes by caller and day, and the free quota.

A caller is an API key's hash where keys are on, else "local". One SQLite file, `usage.db`; keys themselves are never stored.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from ai.database import open_database

FREE_UNITS_A_DAY: Final = 2_000_000
KEEP_DAYS: Final = 31
MS_A_DAY: Final = 86_400_000
SCHEMA: Final = (
    "create table if not exists usage (day integer, caller text, requests integer, units integer, primary key (day, caller))",
)


class Usage:
    """Counters; `wall_ms` comes in with each call. `damaged`: where an unreadable file was put."""

    def __init__(self, path: Path) -> None:
        """Raises Locked where another gateway has the file open."""
        self._db, self.damaged = open_database(path, SCHEMA)
        self._db.execute("pragma synchronous=normal")  # the last counts may be lost with the machine

    @staticmethod
    def caller(api_key: str | None) -> str:
        """A name for the holder of a key that does not give the key away."""
        return "local" if api_key is None else hashlib.blake2b(api_key.encode(), digest_size=12).hexdigest()

    def units_today(self, caller: str, wall_ms: int) -> int:
        """Bytes in and out of the running day (UTC)."""
        row = self._db.execute("select units from usage where day = ? and caller = ?", (wall_ms // MS_A_DAY, caller)).fetchone()
        return int(row[0]) if row else 0

    def add(self, caller: str, units: int, wall_ms: int) -> None:
        """Count one request of so many bytes in and out."""
        day = wall_ms // MS_A_DAY
        self._db.execute(
            "insert into usage values (?, ?, 1, ?) on conflict (day, caller) do update set "
            "requests = requests + 1, units = units + excluded.units",
            (day, caller, units),
        )
        self._db.execute("delete from usage where day < ?", (day - KEEP_DAYS,))
        self._db.commit()

    def by_day(self, caller: str) -> list[tuple[int, int, int]]:
        """(day since 1970, requests, bytes) of the days that are kept, newest first."""
        rows = self._db.execute("select day, requests, units from usage where caller = ? order by day desc", (caller,))
        return [(int(day), int(requests), int(units)) for day, requests, units in rows]

    def total_requests(self) -> int:
        """Requests of all days that are kept."""
        return int(self._db.execute("select coalesce(sum(requests), 0) from usage").fetchone()[0])

    def close(self) -> None:
        """Close the file."""
        self._db.close()
