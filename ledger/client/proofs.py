"""Verifying state proofs without a node: an independent reading of the tree's rules (see `ledger.state_tree`).

A proof shows what one or several keys hold. It is the encoding of [shape, siblings, pages], three byte strings that are
read from the front while walking over the keys' paths, depth first. `shape` has a byte for each subtree met: for a node a
mask with bit i set if child i is not empty and on no path (then its hash is the next 32 bytes of `siblings`), for a page
16 plus the number of its entries that nobody asked for (the next of `pages`, ascending, each 64 bytes but for the whole
bytes of the path to the page, with which all of them begin). The others are what is claimed: whoever verifies puts them in,
and the root tells whether they were there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from io import BytesIO

from ..codec import decode
from ..crypto import TAGS, ZERO_HASH, digest
from ..errors import DecodeError

MAX_PROOF_BYTES = 256 * 1024
Claims = list[tuple[bytes, bytes | None]]  # (key hash, value hash or None)


def verify_state(root: bytes, key: bytes, value: bytes | None, proof: bytes) -> bool:
    """True iff `proof` shows that the state with this root holds `value` at `key` (None: holds nothing there)."""
    return verify_states(root, {key: value}, proof)


def verify_states(root: bytes, values: Mapping[bytes, bytes | None], proof: bytes) -> bool:
    """The same for one or several keys at once. Never raises, whatever it is given for keys, values and proof."""
    try:
        claims = [(digest("leaf", key), value if value is None else digest("leaf", value)) for key, value in values.items()]
        shape, siblings, pages = decode(proof, max_bytes=MAX_PROOF_BYTES, where="proof")
        if not type(shape) is type(siblings) is type(pages) is bytes or ZERO_HASH in siblings:  # an empty child is left out
            return False
        shape, siblings, pages = iter(shape), BytesIO(siblings), BytesIO(pages)
        found = _subtree(0, claims, shape, siblings, pages)
    except (DecodeError, ValueError, TypeError, IndexError, StopIteration):
        return False
    return found == root and not (any(True for _ in shape) or siblings.read(1) or pages.read(1) or not claims)


def _subtree(depth: int, claims: Claims, shape: Iterator[int], siblings: BytesIO, pages: BytesIO) -> bytes:
    """Hash of the next subtree, in which all claims lie. Raises an error if it is misshapen or one of them is wrong."""
    mark = next(shape)
    if mark >= 16:
        return _page(pages, mark - 16, depth, claims)
    below: dict[int, Claims] = {}  # by child
    for claim in claims:
        below.setdefault(claim[0][depth >> 2] >> (6 - 2 * (depth & 3)) & 3, []).append(claim)
    joined = b""
    for child, bit in ((0, 1), (1, 2), (2, 4), (3, 8)):
        if child in below:
            if mark & bit:
                raise ValueError("a child on a path has its hash from below")
            joined += _subtree(depth + 1, below[child], shape, siblings, pages)
        else:
            joined += siblings.read(32) if mark & bit else ZERO_HASH
    if len(joined) != 128:
        raise ValueError("too few siblings")
    return blake2b(joined, digest_size=32, person=TAGS["node"]).digest()


def _page(pages: BytesIO, count: int, depth: int, claims: Claims) -> bytes:
    shared = claims[0][0][: depth >> 2]
    width = 64 - len(shared)
    entries = [shared + pages.read(width) for _ in range(count)]
    found = {entry[:32]: entry[32:] for entry in entries}
    if not len(found) == count <= 8 or list(found) != sorted(found) or any(len(value) != 32 for value in found.values()):
        raise ValueError("not entries of a page")
    if any(path in found for path, _ in claims):
        raise ValueError("the page says something else")
    found.update((path, value_hash) for path, value_hash in claims if value_hash is not None)
    page = b"".join(path + value_hash for path, value_hash in sorted(found.items()))
    if len(page) > 512:
        raise ValueError("more than a page holds")
    return digest("page", page) if page else ZERO_HASH
