"""Merkle trees. This file's list tree is over an ordered list of byte strings; the state's tree is beside it."""

from __future__ import annotations

from collections.abc import Sequence

from .crypto import ZERO_HASH, digest


def list_root(leaves: Sequence[bytes], kind: str = "list") -> bytes:
    """Root of the list tree: leaf hash = H(0 || leaf), node = H(1 || left || right), an odd node is promoted.

    An empty list has the root of 32 zero bytes.
    """
    level = [digest(kind, b"\0", leaf) for leaf in leaves]
    if not level:
        return ZERO_HASH
    while len(level) > 1:
        paired = [digest(kind, b"\1", level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = paired + level[len(level) & ~1 :]
    return level[0]
