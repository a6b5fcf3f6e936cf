"""The validator's table for its operator: who answered what, what it was worth, and the weight that follows.

One JSON file in the home, written whole after each batch, read by `quorix ai validator`. It is for people: nothing in the
validator reads it again.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from ai.files import read_bounded, write_atomic
from ledger.errors import DecodeError

MAX_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class Row:
    """A neuron in a batch. `score`: of this batch; `smoothed`: what weights follow from, `uncertainty` already taken off."""

    uid: int
    name: str
    hotkey: str
    answered: int
    asked: int
    score: float
    smoothed: float
    uncertainty: float
    batches: int
    weight: int
    details: dict[str, Any] = field(default_factory=dict)


class LiveTables:
    """Writes the newest table of each subnet."""

    def __init__(self, path: Path, validator: str) -> None:
        self._path = path
        self._value: dict[str, Any] = {"validator": validator, "subnets": {}}

    def show(self, netuid: int, epoch: int, task: str, at_ms: int, rows: list[Row]) -> None:
        """Replace a subnet's table. Raises OSError."""
        table = {"netuid": netuid, "epoch": epoch, "task": task, "at_ms": at_ms, "rows": [_plain(asdict(row)) for row in rows]}
        self._value["subnets"][str(netuid)] = table
        write_atomic(self._path, json.dumps(self._value, allow_nan=False).encode())


def read_tables(path: Path) -> dict[str, Any]:
    """What a validator wrote last; {} where there is nothing. Raises DecodeError where it is damaged."""
    data = read_bounded(path, max_bytes=MAX_BYTES)
    if data is None:
        return {}
    try:
        value = json.loads(data)
        tables = {name: value["subnets"][name] for name in value["subnets"]}
        return {"validator": str(value["validator"]), "subnets": tables}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise DecodeError(f"{path} is no validator's table", where="live table") from None


def _plain(value: Any) -> Any:
    """Floats that JSON can hold: infinite ones become None."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
