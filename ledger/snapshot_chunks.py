"""A state cut into chunks, each of which proves by itself that it belongs under a state root.

A chunk is a whole subtree of the state's tree (`ledger/state_tree.py`): every entry whose key's hash begins with the
chunk's path, and the hashes beside that path. Who has the root can check it alone: nothing can be left out of it, added
or changed. Chunks come in the order of their paths and do not overlap; that all of them are there is shown by the tree
that they make together, which has the root.

    chunk   [path, masks, siblings, entries]
    path    one byte a level, 0 to 3: the child taken from the top; empty: the whole state
    masks   one byte a level: bit i is set if child i, beside the path, is not empty; `siblings` are those hashes in order
    entry   key length (2 bytes), key, value length (4 bytes), value; entries ascend by the hash of the key
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from .codec import Bytes, Record, decode, encode
from .crypto import ZERO_HASH, digest
from .errors import DecodeError, Rejected

CHUNK_BYTES: Final = 256 * 1024  # of keys and values; a subtree with more is cut, down to single pages
MAX_CHUNK_BYTES: Final = 16 * 1024 * 1024
MAX_CHUNK_ENTRIES: Final = 1 << 20
PAGE_ENTRIES: Final = 8
MAX_DEPTH: Final = 127
REMEMBERED_ABOVE: Final = 64  # entries of a subtree whose hash is kept while a state is cut

Planned = tuple[int, int, bytes, bytes, bytes]

_CHUNK_SHAPE = Record(
    "chunk", path=Bytes(high=MAX_DEPTH), masks=Bytes(high=MAX_DEPTH), siblings=Bytes(high=3 * 32 * MAX_DEPTH),
    entries=Bytes(high=MAX_CHUNK_BYTES),
)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Entries of one subtree, and the hashes that connect it with the root."""

    path: bytes
    masks: bytes
    siblings: bytes
    entries: tuple[tuple[bytes, bytes], ...]  # key, value

    def encode(self) -> bytes:
        packed = b"".join(
            b"".join((len(key).to_bytes(2, "big"), key, len(value).to_bytes(4, "big"), value)) for key, value in self.entries
        )
        return encode([self.path, self.masks, self.siblings, packed])

    @classmethod
    def decode(cls, data: bytes) -> Chunk:
        """Raises DecodeError for anything that `encode` cannot have made."""
        value = decode(data, max_bytes=MAX_CHUNK_BYTES, where="chunk")
        _CHUNK_SHAPE.check(value, "chunk")
        path, masks, siblings, packed = value
        if any(step > 3 for step in path) or len(masks) != len(path):
            raise DecodeError("not a path of steps 0 to 3 with a mask for each", where="chunk.path")
        return cls(path, masks, siblings, tuple(_unpacked(packed)))

    def verify(self, root: bytes) -> None:
        """Raises Rejected unless these are exactly the entries under the path in the state with this root."""
        hashed = [(digest("leaf", key), digest("leaf", value)) for key, value in self.entries]
        previous = b""
        for key_hash, _ in hashed:
            if key_hash <= previous:
                raise Rejected("MalformedChunk", "entries are not in the order of their keys' hashes")
            previous = key_hash
        if hashed and not all(_step(key_hash, level) == step for key_hash in (hashed[0][0], hashed[-1][0])
                              for level, step in enumerate(self.path)):
            raise Rejected("MalformedChunk", "an entry does not lie under the chunk's path")
        if self._climb(_subtree_hash(hashed, 0, len(hashed), len(self.path))) != root:
            raise Rejected("WrongChunk", "its entries and hashes do not lead to the state root")

    def _climb(self, found: bytes) -> bytes:
        """The root that the subtree's hash leads to; empty if the siblings do not fit the masks."""
        end = len(self.siblings)
        for step, mask in zip(reversed(self.path), reversed(self.masks), strict=True):
            start = end - 32 * mask.bit_count()
            if mask > 15 or mask >> step & 1 or start < 0:
                return b""
            present = iter(self.siblings[at : at + 32] for at in range(start, end, 32))
            children = [next(present) if mask >> child & 1 else ZERO_HASH for child in range(4)]
            children[step] = found
            found = digest("node", *children)
            end = start
        return found if end == 0 else b""


def _unpacked(packed: bytes) -> Iterator[tuple[bytes, bytes]]:
    at, end, count = 0, len(packed), 0
    while at < end:
        key_end = at + 2 + int.from_bytes(packed[at : at + 2], "big")
        value_start = key_end + 4
        value_end = value_start + int.from_bytes(packed[key_end:value_start], "big")
        if value_start > end or value_end > end:
            raise DecodeError("an entry ends too early", where="chunk.entries")
        count += 1
        if count > MAX_CHUNK_ENTRIES:
            raise DecodeError(f"more than {MAX_CHUNK_ENTRIES} entries", where="chunk.entries")
        yield packed[at + 2 : key_end], packed[value_start:value_end]
        at = value_end


# --- cutting -----------------------------------------------------------------------------------------------------


def cut(state: Iterable[tuple[bytes, bytes]], value_of: Callable[[bytes], bytes], chunk_bytes: int = CHUNK_BYTES) -> Cut:
    """Plan the chunks of a state. `value_of` reads a value again: only hashes, keys and sizes are held meanwhile."""
    rows = sorted((digest("leaf", key), digest("leaf", value), key, len(key) + len(value)) for key, value in state)
    return Cut(rows, value_of, chunk_bytes)


class Cut:
    """A state on its way into chunks. `root`: its state root."""

    def __init__(
        self, rows: Sequence[tuple[bytes, bytes, bytes, int]], value_of: Callable[[bytes], bytes], chunk_bytes: int
    ) -> None:
        self._hashed = [(key_hash, value_hash) for key_hash, value_hash, _, _ in rows]
        self._keys = [key for _, _, key, _ in rows]
        self._ends = [0, *accumulate(size for _, _, _, size in rows)]  # bytes before each entry
        self._value_of, self._limit = value_of, chunk_bytes
        self._known: dict[tuple[int, int], bytes] = {}
        self.entries = len(rows)
        self.bytes = self._ends[-1]
        self.root = _subtree_hash(self._hashed, 0, len(rows), 0, self._known)

    def chunks(self) -> Iterator[Chunk]:
        """All chunks, in the order of their paths."""
        for low, high, path, masks, siblings in self.plan():
            yield Chunk(path, masks, siblings, tuple((key, self._value_of(key)) for key in self._keys[low:high]))

    def plan(self) -> Iterator[Planned]:
        """(first entry, end, path, masks, siblings) of each chunk."""
        return self._under(0, self.entries, b"", b"", b"")

    def _under(self, low: int, high: int, path: bytes, masks: bytes, siblings: bytes) -> Iterator[Planned]:
        """Chunks of the entries [low, high), which are those under the path."""
        if self._ends[high] - self._ends[low] <= self._limit or high - low <= PAGE_ENTRIES:
            yield low, high, path, masks, siblings
            return
        bounds = _children(self._hashed, low, high, len(path))
        hashes = [_subtree_hash(self._hashed, start, end, len(path) + 1, self._known) for start, end in bounds]
        for step, (start, end) in enumerate(bounds):
            if start == end:
                continue  # the masks of the others say that it is empty
            beside = [child for child in range(4) if child != step and hashes[child] != ZERO_HASH]
            mask = sum(1 << child for child in beside)
            joined = b"".join(hashes[child] for child in beside)
            yield from self._under(start, end, path + bytes((step,)), masks + bytes((mask,)), siblings + joined)


def _subtree_hash(
    hashed: Sequence[tuple[bytes, bytes]], low: int, high: int, depth: int, known: dict[tuple[int, int], bytes] | None = None
) -> bytes:
    """Hash of the subtree at `depth` that holds these (key hash, value hash), ascending. `known`: hashes of large ones."""
    if high - low <= PAGE_ENTRIES:
        return digest("page", *(part for entry in hashed[low:high] for part in entry)) if high > low else ZERO_HASH
    if known is not None and (found := known.get((low, high))) is not None:
        return found
    bounds = _children(hashed, low, high, depth)
    found = digest("node", *(_subtree_hash(hashed, start, end, depth + 1, known) for start, end in bounds))
    if known is not None and high - low > REMEMBERED_ABOVE:
        known[low, high] = found
    return found


def _children(hashed: Sequence[tuple[bytes, bytes]], low: int, high: int, depth: int) -> list[tuple[int, int]]:
    """The four runs into which [low, high) falls at `depth`."""
    first = hashed[low][0]
    byte, shift = depth >> 2, 6 - 2 * (depth & 3)
    above = first[byte] & ~(3 << shift) & (0xFF << shift)
    cuts = [low]
    for child in (1, 2, 3):
        bound = first[:byte] + bytes((above | child << shift,))
        cuts.append(bisect_left(hashed, bound, cuts[-1], high, key=_key_hash))
    return list(zip(cuts, (*cuts[1:], high), strict=True))


def _key_hash(entry: tuple[bytes, bytes]) -> bytes:
    return entry[0]


def _step(key_hash: bytes, depth: int) -> int:
    return key_hash[depth >> 2] >> (6 - 2 * (depth & 3)) & 3
