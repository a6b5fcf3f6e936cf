"""Recovery files of a node's home: HOME/recovery/HEIGHT.json, read at every start (see `ledger/recovery.py`)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ledger.errors import NotFound
from ledger.recovery import MAX_FILE_BYTES, MAX_RECOVERIES, Recoveries, Recovery, by_height

FOLDER: Final = "recovery"


def read_recovery(path: Path) -> Recovery:
    """Raises NotFound or DecodeError."""
    try:
        with open(path, "rb") as file:
            return Recovery.parse(file.read(MAX_FILE_BYTES + 1))
    except OSError as error:
        raise NotFound(f"the recovery file {path} cannot be read: {error.strerror}") from None


def recoveries_of(home: Path, genesis_hash: bytes, given: Path | None) -> Recoveries:
    """Those that the home keeps, and the one given now. Raises UsageError where they contradict each other."""
    kept = sorted((home / FOLDER).glob("*.json"))[: MAX_RECOVERIES + 1]
    return by_height([read_recovery(path) for path in [*kept, *([given] if given is not None else [])]], genesis_hash)


def unkept(home: Path, recoveries: Recoveries) -> list[tuple[Path, bytes]]:
    """Path and content of those that the home does not have yet."""
    files = [(home / FOLDER / f"{height:020}.json", each.text().encode()) for height, each in recoveries.items()]
    return [(path, data) for path, data in files if not path.exists()]
