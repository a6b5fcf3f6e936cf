"""Verifying state proofs without a node: an independent reading of the tree's rules (see `ledger.state_tree`).

A proof is the encoding of [masks, siblings, page]. `masks` has one byte a level: bit i says that child i, beside the
path, is not empty; `siblings` are those children's hashes in order. `page` is where the key's path ends.
"""

from __future__ import annotations

from ..codec import decode
from ..crypto import ZERO_HASH, digest
from ..errors import DecodeError

MAX_PROOF_BYTES = 16 * 1024
_PAGE_BYTES = 8 * 64
_FULL = (0b1110, 0b1101, 0b1011, 0b0111)  # all siblings of child 0, 1, 2, 3


def verify_state(root: bytes, key: bytes, value: bytes | None, proof: bytes) -> bool:
    """True iff `proof` shows that the state with this root holds `value` at `key` (None: holds nothing there)."""
    try:
        masks, siblings, page = decode(proof, max_bytes=MAX_PROOF_BYTES, where="proof")
    except (DecodeError, ValueError, TypeError):
        return False
    if not type(masks) is type(siblings) is type(page) is bytes or len(masks) > 127:
        return False
    path = digest("leaf", key)
    if not _page_holds(page, path, None if value is None else digest("leaf", value)):
        return False
    found = digest("page", page) if page else ZERO_HASH
    end = len(siblings)
    for level in range(len(masks) - 1, -1, -1):
        mask, own = masks[level], path[level >> 2] >> (6 - 2 * (level & 3)) & 3
        start = end - 32 * mask.bit_count()
        if mask & ~_FULL[own] or start < 0:
            return False
        if mask == _FULL[own]:
            middle = start + 32 * own
            found = digest("node", siblings[start:middle], found, siblings[middle:end])
        else:
            present = (siblings[at : at + 32] for at in range(start, end, 32))
            children = [next(present) if mask >> child & 1 else ZERO_HASH for child in range(4)]
            children[own] = found
            found = digest("node", *children)
        end = start
    return end == 0 and found == root


def _page_holds(page: bytes, path: bytes, value_hash: bytes | None) -> bool:
    """True iff the page's entries ascend and the one of `path` has this value hash (None: there is none)."""
    if len(page) % 64 or len(page) > _PAGE_BYTES:
        return False
    keys = [page[at : at + 32] for at in range(0, len(page), 64)]
    if keys != sorted(set(keys)):
        return False
    if value_hash is None:
        return path not in keys
    return path in keys and page[keys.index(path) * 64 + 32 :][:32] == value_hash
