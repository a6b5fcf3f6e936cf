"""The state's tree: a paged sparse Merkle tree of arity 4 over hashed keys.

    entry   keyhash(32) || valuehash(32), both blake2b-256 under the tag `leaf`
    page    the sorted entries of a subtree that holds at most PAGE_ENTRIES; hash under the tag `page`
    node    any other subtree: the hashes of its four children, joined (128 bytes); hash under the tag `node`
    empty   32 zero bytes

A key's hash is its path, two bits a level from the top. Which subtrees are pages depends on the content alone, so the
root does not depend on the order of inserts, updates and deletes: a subtree that falls to PAGE_ENTRIES folds back.

Trees are immutable and share what did not change. Several blocks can be executed on one parent, old versions stay
readable for proofs, and any thread may read. Only pages are stored on disk; nodes are rebuilt from them at start.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final

from .codec import encode
from .crypto import TAGS, ZERO_HASH
from .errors import Corruption

PAGE_ENTRIES: Final = 8
_ENTRY_BYTES: Final = 64
_PAGE_BYTES: Final = PAGE_ENTRIES * _ENTRY_BYTES
_PATH_BITS: Final = 256
_EMPTY: Final = b""

# A subtree: a page (bytes, may be empty) or a node (joined child hashes, child 0, 1, 2, 3).
Subtree = Any
PageChanges = dict[bytes, bytes | None]  # page key -> new content, None = no longer a page

# Copying a prepared hash state is faster than setting up a new one each time.
_LEAF: Final = blake2b(digest_size=32, person=TAGS["leaf"])
_PAGE: Final = blake2b(digest_size=32, person=TAGS["page"])
_NODE: Final = blake2b(digest_size=32, person=TAGS["node"])


def leaf_hash(data: bytes) -> bytes:
    """Hash of a key or of a value as it stands in an entry."""
    state = _LEAF.copy()
    state.update(data)
    return state.digest()


def page_key(key_hash: bytes, depth: int) -> bytes:
    """Database key of the page at `depth` on the path of `key_hash`: path bits, then the depth. Ascends as the tree."""
    whole, rest = divmod(2 * depth, 8)
    path = key_hash[:whole]
    if rest:
        path += bytes((key_hash[whole] & (0xFF00 >> rest) & 0xFF,))
    return path + bytes((depth,))


class StateTree:
    """One version of the tree. `root` is the state root (32 bytes)."""

    __slots__ = ("_top", "root")

    def __init__(self, top: Subtree = _EMPTY) -> None:
        self._top = top
        self.root: bytes = _hash(top)

    def updated(self, changes: Mapping[bytes, bytes | None]) -> tuple[StateTree, PageChanges]:
        """The tree after writing `changes` (key -> value, None deletes), and the pages that differ."""
        return self.updated_hashes({
            leaf_hash(key): None if value is None else leaf_hash(value) for key, value in changes.items()
        })

    def updated_hashes(self, changes: Mapping[bytes, bytes | None]) -> tuple[StateTree, PageChanges]:
        """Like `updated`, by key hash and value hash."""
        if not changes:
            return self, {}
        update = _Update(changes)
        return StateTree(update.run(self._top)), update.pages

    def value_hash(self, key: bytes) -> bytes | None:
        """Hash of the value of `key`, None if it is absent."""
        key_hash = leaf_hash(key)
        page: bytes = self._walk(key_hash)[0]
        at = _find(page, key_hash)
        return None if at < 0 else page[at + 32 : at + 64]

    def prove(self, key: bytes) -> bytes:
        """Proof of inclusion or absence: encoded [masks, siblings, page].

        One mask byte a level from the top: bit i is set if child i is a non-empty sibling; `siblings` are the hashes of
        exactly those, in order; `page` is where the path ends.
        """
        page, siblings = self._walk(leaf_hash(key))
        masks = bytearray()
        joined = bytearray()
        for hashes, own in siblings:
            mask = 0
            for child in range(4):
                sibling = hashes[32 * child : 32 * child + 32]
                if child != own and sibling != ZERO_HASH:
                    mask |= 1 << child
                    joined += sibling
            masks.append(mask)
        return encode([bytes(masks), bytes(joined), page])

    def _walk(self, key_hash: bytes) -> tuple[bytes, list[tuple[bytes, int]]]:
        """The page where the path ends, and (child hashes, own child) of each node above it."""
        subtree = self._top
        passed: list[tuple[bytes, int]] = []
        while type(subtree) is tuple:
            child = _child_of(key_hash, len(passed))
            passed.append((subtree[0], child))
            subtree = subtree[1 + child]
        return subtree, passed

    def pages(self) -> Iterator[tuple[bytes, bytes]]:
        """(page key, content) of every non-empty page, in tree order."""
        stack = [(self._top, 0)]
        while stack:
            subtree, depth = stack.pop()
            if type(subtree) is tuple:
                stack += [(child, depth + 1) for child in subtree[:0:-1]]
            elif subtree:
                yield page_key(subtree[:32], depth), subtree

    def __len__(self) -> int:
        return sum(len(page) // _ENTRY_BYTES for _, page in self.pages())

    @classmethod
    def from_pages(cls, rows: Iterable[tuple[bytes, bytes]]) -> StateTree:
        """Rebuild from stored pages, ascending by page key. Raises Corruption if they cannot be one tree."""
        build = _Rebuild(rows)
        tree = cls(build.subtree(0, _EMPTY))
        if build.row is not None:
            raise Corruption("state page outside the tree")
        return tree


def state_root(items: Mapping[bytes, bytes]) -> bytes:
    """State root of a whole state (genesis, audits)."""
    return StateTree().updated(items)[0].root


def _child_of(key_hash: bytes, depth: int) -> int:
    return key_hash[depth >> 2] >> (6 - 2 * (depth & 3)) & 3


def _hash(subtree: Subtree) -> bytes:
    if type(subtree) is tuple:
        state = _NODE.copy()
        state.update(subtree[0])
        return state.digest()
    if not subtree:
        return ZERO_HASH
    state = _PAGE.copy()
    state.update(subtree)
    return state.digest()


def _find(page: bytes, key_hash: bytes) -> int:
    """Offset of the entry of `key_hash`, or -1."""
    at = page.find(key_hash)
    while at > 0 and at & 63:
        at = page.find(key_hash, at + 1)
    return at


class _Update:
    """One batch of changes on its way down the tree, sorted by key hash."""

    def __init__(self, changes: Mapping[bytes, bytes | None]) -> None:
        self.keys = sorted(changes)
        self.values = [changes[key] for key in self.keys]
        self.deletes = None in self.values
        self.pages: PageChanges = {}

    def run(self, top: Subtree) -> Subtree:
        return self.down(top, 0, 0, len(self.keys))

    def down(self, subtree: Subtree, depth: int, low: int, high: int) -> Subtree:
        """The subtree with changes [low, high) applied; they all lie under it."""
        if type(subtree) is not tuple:
            return self.page(subtree, depth, low, high)
        keys = self.keys
        parts = list(subtree)
        hashes = bytearray(subtree[0])
        byte, shift = depth >> 2, 6 - 2 * (depth & 3)
        while low < high:
            child = keys[low][byte] >> shift & 3
            end = self.end_of(child, depth, low, high)
            parts[1 + child] = changed = self.down(parts[1 + child], depth + 1, low, end)
            hashes[32 * child : 32 * child + 32] = _hash(changed)
            low = end
        if self.deletes and (folded := self.fold(parts, depth)) is not None:
            return folded
        parts[0] = bytes(hashes)
        return tuple(parts)

    def end_of(self, child: int, depth: int, low: int, high: int) -> int:
        """End of the run of changes from `low` that lie under `child` of the node at `depth`."""
        keys = self.keys
        byte, shift = depth >> 2, 6 - 2 * (depth & 3)
        if high - low > 16 and child < 3:
            first = keys[low]
            bound = first[:byte] + bytes(((first[byte] & ~(3 << shift) & (0xFF << shift)) | (child + 1) << shift,))
            return bisect_left(keys, bound, low, high)
        if child == 3:
            return high
        low += 1
        while low < high and keys[low][byte] >> shift & 3 == child:
            low += 1
        return low

    def page(self, page: bytes, depth: int, low: int, high: int) -> Subtree:
        keys, values = self.keys, self.values
        if high - low == 1:
            merged = _with_entry(page, keys[low], values[low])
        else:
            entries: dict[bytes, bytes | None] = {
                page[at : at + 32]: page[at + 32 : at + 64] for at in range(0, len(page), _ENTRY_BYTES)
            }
            entries.update(zip(keys[low:high], values[low:high], strict=True))
            merged = b"".join([key + value for key, value in sorted(entries.items()) if value is not None])
        if len(merged) <= _PAGE_BYTES:
            self.pages[page_key(keys[low], depth)] = merged or None
            return merged
        if page:
            self.pages[page_key(keys[low], depth)] = None
        return self.split(merged, depth)

    def split(self, entries: bytes, depth: int) -> Subtree:
        """A subtree of sorted entries: a page if they fit, else a node."""
        if len(entries) <= _PAGE_BYTES:
            if entries:
                self.pages[page_key(entries[:32], depth)] = entries
            return entries
        byte, shift = depth >> 2, 6 - 2 * (depth & 3)
        ends = [0, 0, 0, 0]
        for at in range(0, len(entries), _ENTRY_BYTES):
            ends[entries[at + byte] >> shift & 3] = at + _ENTRY_BYTES
        children, start = [], 0
        for end in ends:
            children.append(self.split(entries[start:end] if end else _EMPTY, depth + 1))
            start = end or start
        return (b"".join(map(_hash, children)), *children)

    def fold(self, parts: list[Subtree], depth: int) -> bytes | None:
        """The one page that replaces a node whose children are pages that fit together, else None."""
        size = 0
        for child in parts[1:]:
            if type(child) is tuple:  # a node holds more than a page
                return None
            size += len(child)
        if size > _PAGE_BYTES:
            return None
        joined: bytes = b"".join(parts[1:])
        for child in parts[1:]:
            if child:
                self.pages[page_key(child[:32], depth + 1)] = None
        if joined:
            self.pages[page_key(joined[:32], depth)] = joined
        return joined


def _with_entry(page: bytes, key_hash: bytes, value_hash: bytes | None) -> bytes:
    """The page with one entry put in, replaced or (None) taken out."""
    at = _find(page, key_hash)
    if at >= 0:
        return page[:at] + (b"" if value_hash is None else key_hash + value_hash) + page[at + _ENTRY_BYTES :]
    if value_hash is None:
        return page
    at = 0
    while at < len(page) and page[at : at + 32] < key_hash:
        at += _ENTRY_BYTES
    return page[:at] + key_hash + value_hash + page[at:]


class _Rebuild:
    """Stored pages in tree order on their way back into a tree."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self.rows = iter(rows)
        self.row: tuple[bytes, bytes] | None = None
        self.advance()

    def advance(self) -> None:
        self.row = next(self.rows, None)
        if self.row is not None:
            key, page = self.row
            depth = key[-1] if key else 0
            whole = page and len(page) % _ENTRY_BYTES == 0 and len(page) <= _PAGE_BYTES and 2 * depth < _PATH_BITS
            if not whole or not page_key(page[:32], depth) == page_key(page[-_ENTRY_BYTES:-32], depth) == key:
                raise Corruption("a state page is misshapen")

    def subtree(self, depth: int, bits: bytes) -> Subtree:
        """The subtree whose path begins with `bits` (two-bit digits, one a byte)."""
        if self.row is None:
            return _EMPTY
        key, page = self.row
        if any(_child_of(page, level) != digit for level, digit in enumerate(bits)):
            return _EMPTY
        if key[-1] == depth:
            self.advance()
            return page
        if key[-1] < depth:
            raise Corruption("state pages overlap")
        children = [self.subtree(depth + 1, bits + bytes((child,))) for child in range(4)]
        return (b"".join(map(_hash, children)), *children)
