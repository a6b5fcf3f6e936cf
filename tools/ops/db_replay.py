"""Executing a block that stopped a node once more, from the dump that the node left in HOME/incident/. Needs no database."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ledger.dumps import MAX_DUMP_BYTES, Dump
from ledger.errors import DecodeError, Error, InvariantBroken, NotFound, Rejected, UsageError
from runtime.versions import VersionedRuntime


def read_dump(path: Path) -> Dump:
    """The dump in a file. Raises NotFound, UsageError."""
    try:
        if path.stat().st_size > MAX_DUMP_BYTES:
            raise UsageError(f"{path} is larger than a dump may be")
        return Dump.decode(path.read_bytes())
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error}") from error
    except DecodeError as error:
        hint = "give the .block file of HOME/incident/"
        raise UsageError(f"{path} is no dump of a block: {error.cause}", hint=hint) from error


def replay(path: Path) -> dict[str, Any]:
    """Execute the block of a dump by the rules of this program, and say what came of it.

    `reproduced`: it fails here as well, by a broken rule or an assertion, or is refused as it was.
    """
    found = read_dump(path)
    recoveries = {found.context.height - 1: found.members} if found.members else None
    machine = VersionedRuntime(found.genesis_hash, found.domain_at, recoveries)
    violations: list[str] = []
    failure = ""
    try:
        found.run(machine)
    except InvariantBroken as broken:
        failure, violations = str(broken), list(broken.data.get("violations", ()))
    except Rejected as refused:
        failure = str(refused)
    except Error:
        raise
    except Exception as bug:
        failure = repr(bug)
    return {
        "file": str(path), "height": found.context.height, "genesis_hash": found.genesis_hash,
        "extrinsics": len(found.extrinsics), "inherents": len(found.inherents), "rows": len(found.rows),
        "building": found.building, "whole_state": found.whole, "then": found.error, "now": failure, "violations": violations,
        "reproduced": bool(failure),
    }
