"""The stored form of the state's tree: its pages, an index of them, and how subtrees come back from the database.

    page key    path bits from the top, then the depth; keys ascend as the tree
    page        sorted entries, 64 bytes each (see `ledger.state_tree`)
    index row   for each node at depth INDEX_DEPTH: the hashes of its 16 grandchildren, in order; key: path byte, 0

Index rows exist only while every subtree at UNIT_DEPTH - 1 is a node, from some 10,000 keys on. With them a tree opens by
reading 256 rows; what lies below UNIT_DEPTH (a unit) is built from its pages when it is first needed. They are a
convenience and nothing is believed because of them: they must hash to the root, a unit to its hash in them, a page to its
hash in the node above it. Without them, or with stale ones, all pages are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from hashlib import blake2b
from typing import Any, Final, Protocol

from .crypto import TAGS, ZERO_HASH
from .errors import Corruption
from .layout import PAGE
from .store import Snapshot

PAGE_ENTRIES: Final = 8
ENTRY_BYTES: Final = 64
PAGE_BYTES: Final = PAGE_ENTRIES * ENTRY_BYTES
MAX_DEPTH: Final = 127
_PATH_BITS: Final = 256
INDEX_DEPTH: Final = 4
UNIT_DEPTH: Final = 6
UNITS: Final = 4**UNIT_DEPTH
EMPTY: Final = b""

# A subtree: a page (bytes, may be empty), a node (tuple: joined child hashes, child 0, 1, 2, 3), or None: not in memory.
Subtree = Any
PageChanges = dict[bytes, bytes | None]  # page key or index key -> new content, None = no longer there

_INDEX_ROW_BYTES: Final = 16 * 32
_INDEX_KEYS: Final = [bytes((path, 0)) for path in range(4**INDEX_DEPTH)]

# Copying a prepared hash state is faster than setting up a new one each time.
_PAGE: Final = blake2b(digest_size=32, person=TAGS["page"])
_NODE: Final = blake2b(digest_size=32, person=TAGS["node"])
begin_page, begin_node = _PAGE.copy, _NODE.copy


def hash_of(subtree: Subtree) -> bytes:
    """Hash of a page or node."""
    if type(subtree) is tuple:
        state = _NODE.copy()
        state.update(subtree[0])
        return state.digest()
    if not subtree:
        return ZERO_HASH
    state = _PAGE.copy()
    state.update(subtree)
    return state.digest()


def node(children: Iterable[Subtree]) -> Subtree:
    """The node of four subtrees that are all in memory."""
    children = tuple(children)
    return (b"".join(map(hash_of, children)), *children)


def child_of(key_hash: bytes, depth: int) -> int:
    """Which child of a node at `depth` the path goes to."""
    return key_hash[depth >> 2] >> (6 - 2 * (depth & 3)) & 3


def page_key(key_hash: bytes, depth: int) -> bytes:
    """Database key of the page at `depth` on the path of `key_hash`: path bits, then the depth. Ascends as the tree."""
    whole = depth >> 2
    return key_hash[:whole] + _tails(depth)[key_hash[whole]]


@cache
def _tails(depth: int) -> list[bytes]:
    """What follows the whole bytes of a path in a page key, by the path's next byte: the bits left of it, and the depth."""
    bits = 2 * (depth & 3)
    return [(bytes((byte & 0xFF00 >> bits & 0xFF,)) if bits else b"") + bytes((depth,)) for byte in range(256)]


class Pages(Protocol):
    """Where the stored pages of one version of a tree are found, for as long as that version is used."""

    def get(self, key: bytes) -> bytes | None: ...

    def items(self, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Pages and index rows with that prefix, ascending, beyond `after`."""
        ...


class StoredPages:
    """The pages within the rows of the chain database."""

    def __init__(self, rows: Snapshot) -> None:
        self._rows = rows

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(PAGE + key)

    def items(self, prefix: bytes, after: bytes) -> Iterator[tuple[bytes, bytes]]:
        for key, page in self._rows.items(PAGE + prefix, PAGE + after if after else b""):
            yield key[1:], page


def load(pages: Pages | None, expected: bytes, key_hash: bytes, depth: int) -> Subtree:
    """The subtree at `depth` on the path of `key_hash` whose hash is `expected`. Raises Corruption."""
    if pages is None:
        raise Corruption("a part of the state tree is in no database")
    if depth == UNIT_DEPTH:
        found: Subtree = _load_unit(pages, key_hash)
    else:
        found = pages.get(page_key(key_hash, depth))
        if found is None:
            raise Corruption("a page of the state tree is missing")
    if hash_of(found) != expected:
        raise Corruption("a stored page differs from the state tree")
    return found


def _load_unit(pages: Pages, key_hash: bytes) -> Subtree:
    first, low = key_hash[:1], key_hash[1] & 0xF0
    rows = pages.items(first, first + bytes((low,)))
    return rebuild(_below(rows, low | 0x0F), UNIT_DEPTH, first[0] << 4 | low >> 4)


def _below(rows: Iterator[tuple[bytes, bytes]], last: int) -> Iterator[tuple[bytes, bytes]]:
    for row in rows:
        if row[0][1] > last:
            return
        yield row


# --- the index ---------------------------------------------------------------------------------------------------


def is_indexed(top: Subtree) -> bool:
    """True iff every subtree at UNIT_DEPTH - 1 is a node, so that the tree has an index."""
    level = [top]
    for _ in range(UNIT_DEPTH - 1):
        if any(type(subtree) is not tuple for subtree in level):
            return False
        level = [child for subtree in level for child in subtree[1:]]
    return all(type(subtree) is tuple for subtree in level)


def index_changes(top: Subtree, paths: Iterable[int], before: bool) -> tuple[bool, PageChanges]:
    """Is the new tree indexed, and the index rows to write after changes under these first bytes of paths.

    `before`: whether the index of the tree before the changes is stored.
    """
    if before:
        changed: PageChanges = {}
        for path in paths:
            row = _index_row(top, path)
            if row is None:
                return False, dict.fromkeys(_INDEX_KEYS)
            changed[_INDEX_KEYS[path]] = row
        return True, changed
    if not is_indexed(top):
        return False, {}
    return True, {key: _index_row(top, key[0]) for key in _INDEX_KEYS}


def _index_row(top: Subtree, path: int) -> bytes | None:
    """The row of the node at INDEX_DEPTH, None if it or one of its children is a page."""
    for shift in (6, 4, 2, 0):
        if type(top) is not tuple:
            return None
        top = top[1 + (path >> shift & 3)]
    if type(top) is not tuple:
        return None
    _, first, second, third, fourth = top
    if type(first) is type(second) is type(third) is type(fourth) is tuple:
        return b"".join((first[0], second[0], third[0], fourth[0]))
    return None


def from_index(pages: Pages, root: bytes) -> Subtree | None:
    """The tree down to UNIT_DEPTH from its index rows; None if there is no index or it is not that of this root."""
    nodes: list[Subtree] = []
    for key in _INDEX_KEYS:
        row = pages.get(key)
        if row is None or len(row) != _INDEX_ROW_BYTES:
            return None
        nodes.append(node((row[at : at + 128], None, None, None, None) for at in range(0, _INDEX_ROW_BYTES, 128)))
    while len(nodes) > 1:
        nodes = [node(nodes[at : at + 4]) for at in range(0, len(nodes), 4)]
    return nodes[0] if hash_of(nodes[0]) == root else None


# --- rebuilding --------------------------------------------------------------------------------------------------


def rebuild(rows: Iterable[tuple[bytes, bytes]], depth: int = 0, path: int = 0) -> Subtree:
    """The subtree at a path (a number of two bits a level) from its stored pages, ascending by key.

    Index rows among them are passed over. Raises Corruption if the pages cannot be one such subtree.
    """
    build = _Rebuild(rows)
    subtree = build.subtree(depth, path)
    if build.page:
        raise Corruption("state page outside the tree")
    return subtree


class _Rebuild:
    """Stored pages in tree order on their way back into a tree."""

    def __init__(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self.rows = iter(rows)
        self.depth = self.path = 0  # of the next page; a path is a number of two bits a level
        self.page = EMPTY  # empty: there are no more
        self.advance()

    def advance(self) -> None:
        key, self.page = next(self.rows, (b"", EMPTY))
        while len(key) == 2 and key[1] == 0:
            key, self.page = next(self.rows, (b"", EMPTY))
        if not key:
            return
        page, self.depth = self.page, key[-1]
        below = _PATH_BITS - 2 * self.depth
        if below <= 0:
            raise Corruption("a state page is deeper than any tree")
        self.path = int.from_bytes(page[:32], "big") >> below
        if not page or len(page) % ENTRY_BYTES or len(page) > PAGE_BYTES or (
            int.from_bytes(page[-ENTRY_BYTES:-32], "big") >> below != self.path
        ) or page_key(page, self.depth) != key:
            raise Corruption("a state page is misshapen")

    def subtree(self, depth: int, path: int) -> Subtree:
        """The subtree at this path, made of the next pages that lie in it."""
        deeper = self.depth - depth
        if not self.page:
            return EMPTY
        if deeper < 0:
            if path >> -2 * deeper == self.path:
                raise Corruption("state pages overlap")
            return EMPTY
        if self.path >> 2 * deeper != path:
            return EMPTY
        if deeper == 0:
            page = self.page
            self.advance()
            return page
        path <<= 2
        depth += 1
        return node([self.subtree(depth, path | child) for child in range(4)])


# --- giving memory back ------------------------------------------------------------------------------------------


class Eviction:
    """Drops the pages of whole units, going round the tree from unit `hand`, until `count` pages are gone."""

    def __init__(self, hand: int, count: int) -> None:
        self.hand, self.left, self.dropped = hand, count, 0

    def run(self, top: Subtree) -> Subtree:
        """The same tree with fewer pages in memory; only a tree that has units loses any."""
        for _ in range(2):
            top = self._down(top, 0, 0)
            if self.left <= 0:
                break
            self.hand = 0
        return top

    def _down(self, subtree: Subtree, depth: int, first: int) -> Subtree:
        """`first`: number of the first unit below the subtree."""
        if type(subtree) is not tuple:
            return subtree
        if depth == UNIT_DEPTH:
            self.hand = (first + 1) % UNITS
            return self._without_pages(subtree)
        parts = list(subtree)
        span = 4 ** (UNIT_DEPTH - depth - 1)
        start = self.hand
        for child in range(4):
            if self.left > 0 and first + (child + 1) * span > start:
                parts[1 + child] = self._down(parts[1 + child], depth + 1, first + child * span)
        return tuple(parts)

    def _without_pages(self, subtree: Subtree) -> Subtree:
        parts = list(subtree)
        for child in range(1, 5):
            part = parts[child]
            if type(part) is tuple:
                parts[child] = self._without_pages(part)
            elif part:
                parts[child] = None
                self.left -= 1
                self.dropped += 1
        return tuple(parts)
