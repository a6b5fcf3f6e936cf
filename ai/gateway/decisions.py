"""What the router decided and why, request by request: the memory behind `quorix ai route explain`.

A record has every candidate of every routing of a request with all parts of its score, the hedge that was made, who was
lost and why, and the receipts. It holds no word of the prompt or the reply. One SQLite file, `routes.db`; the newest
10,000 requests are kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from ai.database import open_database
from ledger.errors import NotFound

from .generate import Trail
from .router import Decision, Reason

MAX_RECORDS: Final = 10_000
PRUNE_EVERY: Final = 256
MAX_ROUTINGS: Final = 34  # of one request: 512 bytes, a routing every 16, and some after losses
MAX_CANDIDATES: Final = 32  # of one routing, best first
SCHEMA: Final = ("create table if not exists routes (id text primary key, at_ms integer, record text) without rowid",)

Namer = Callable[[bytes], str]


class DecisionLog:
    """Records by request id. `damaged`: where an unreadable file was put."""

    def __init__(self, path: Path) -> None:
        """Raises Locked where another gateway has the file open."""
        self._db, self.damaged = open_database(path, SCHEMA)
        self._db.execute("pragma synchronous=normal")  # the last ones may be lost with the machine
        self._added = 0

    def add(self, name: str, at_ms: int, record: dict[str, Any]) -> None:
        """Keep a record."""
        self._db.execute("insert or replace into routes values (?, ?, ?)", (name, at_ms, json.dumps(record)))
        self._added += 1
        if self._added % PRUNE_EVERY == 1:
            self._db.execute(
                "delete from routes where id in (select id from routes order by at_ms desc limit -1 offset ?)", (MAX_RECORDS,)
            )
        self._db.commit()

    def get(self, name: str) -> dict[str, Any]:
        """The record of a request. Raises NotFound."""
        row = self._db.execute("select record from routes where id = ?", (name,)).fetchone()
        if row is None:
            raise NotFound(f"no request {name[:80]!r}", hint=f"the newest {MAX_RECORDS} are kept")
        record: dict[str, Any] = json.loads(row[0])
        return record

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def record_of(trail: Trail, name_of: Namer) -> dict[str, Any]:
    """What is kept of a request that is over."""
    return {
        "routings": [explain(decision, name_of) for decision in trail.decisions[:MAX_ROUTINGS]],
        "hedges": [
            {"late": name_of(h.late), "stand_in": name_of(h.stand_in), "after_ms": round(1000 * h.after_s, 1), "won": h.won}
            for h in trail.hedges
        ],
        "lost": {name_of(hotkey): why for hotkey, why in trail.lost.items()},
        "receipts": trail.receipts, "experts": sorted(trail.experts), "units": trail.units, "truncated": trail.truncated,
    }


def explain(decision: Decision, name_of: Namer) -> dict[str, Any]:
    """A decision with all its parts, best candidate first."""
    return {
        "kind": name_of(decision.kind) if decision.kind else "",
        "candidates": [_row(reason, decision) for reason in decision.reasons[:MAX_CANDIDATES]],
        "of": len(decision.reasons),
    }


def _row(reason: Reason, decision: Decision) -> dict[str, Any]:
    numbers = {
        name: round(getattr(reason, name), 4)
        for name in ("gate", "trust", "prior", "reward", "count", "draw", "cost", "score")
    }
    weight = round(decision.weights.get(reason.hotkey, 0.0), 4)
    return {"expert": reason.name, "hotkey": reason.hotkey.hex(), **numbers, "chosen": reason.chosen, "weight": weight}
