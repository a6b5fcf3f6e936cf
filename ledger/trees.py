"""Merkle trees over an ordered list of byte strings. The state's tree is in `ledger.state_tree`.

    leaf    H(0 || item)
    node    H(1 || left || right); the last of an odd level moves up unchanged
    empty   32 zero bytes

H is blake2b-256 under the tag of the list's kind. A proof is the sibling hashes from the leaf up; it is checked with
the leaf's index and the number of leaves, which say where a level has no sibling.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

from .crypto import TAGS, ZERO_HASH, digest

__all__ = ["list_proof", "list_root", "verify_list_proof"]


def list_root(leaves: Sequence[bytes], kind: str = "list") -> bytes:
    """Root (32 bytes) of a list of byte strings; an empty list has the root of 32 zero bytes."""
    if not leaves:
        return ZERO_HASH
    level = _leaf_hashes(leaves, kind)
    while len(level) > 1:
        level = _parents(level, kind)
    return level[0]


def list_proof(leaves: Sequence[bytes], index: int, kind: str = "list") -> list[bytes]:
    """Sibling hashes from leaf `index` up to the root. Raises IndexError outside the list."""
    if not 0 <= index < len(leaves):
        raise IndexError(f"leaf {index} of {len(leaves)}")
    level = _leaf_hashes(leaves, kind)
    proof = []
    while len(level) > 1:
        if index ^ 1 < len(level):
            proof.append(level[index ^ 1])
        level = _parents(level, kind)
        index >>= 1
    return proof


def verify_list_proof(
    root: bytes, leaf: bytes, index: int, count: int, proof: Sequence[bytes], kind: str = "list"
) -> bool:
    """True iff `leaf` is item `index` of the list of `count` items with this root."""
    if not 0 <= index < count or len(proof) > 64:
        return False
    found = digest(kind, b"\0", leaf)
    left = list(proof)
    while count > 1:
        if index ^ 1 < count:
            if not left or type(left[0]) is not bytes or len(left[0]) != 32:
                return False
            sibling = left.pop(0)
            found = digest(kind, b"\1", sibling, found) if index & 1 else digest(kind, b"\1", found, sibling)
        index >>= 1
        count = (count + 1) // 2
    return not left and found == root


def _leaf_hashes(leaves: Sequence[bytes], kind: str) -> list[bytes]:
    begin = blake2b(b"\0", digest_size=32, person=TAGS[kind]).copy  # faster than beginning each time
    hashes = []
    for leaf in leaves:
        state = begin()
        state.update(leaf)
        hashes.append(state.digest())
    return hashes


def _parents(level: list[bytes], kind: str) -> list[bytes]:
    begin = blake2b(b"\1", digest_size=32, person=TAGS[kind]).copy
    even = len(level) & ~1
    parents = []
    for left, right in zip(level[0:even:2], level[1:even:2], strict=True):
        state = begin()
        state.update(left + right)
        parents.append(state.digest())
    return parents + level[even:]
