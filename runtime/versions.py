"""Runtime versions: which rules execute which block, and what is migrated when they change.

The version that executes a block is in the state before it (`VERSION`) and in its header. This program contains the rules
of `RULES`; a block that needs others stops the node with exit code 8 instead of guessing.
"""

from __future__ import annotations

from typing import Final

from ledger.errors import UnknownRuntimeVersion

from .tables import ReadState, Table

CURRENT: Final = 1

# number -> package with its rules ("" is this package; older ones are frozen copies)
RULES: Final[dict[int, str]] = {1: ""}

VERSION = Table(10, "runtime_version", int)


def version_at(state: ReadState) -> int:
    """Version that executes the block after `state`. Raises UnknownRuntimeVersion if this program lacks it."""
    version = VERSION.get(state)
    assert version is not None, "the state has no genesis"
    if version not in RULES:
        raise UnknownRuntimeVersion(
            f"the next block needs runtime version {version}, this program knows {sorted(RULES)}",
            hint="install a newer version of Quorix",
        )
    return version
