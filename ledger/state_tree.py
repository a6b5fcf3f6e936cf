"""The state's tree: a paged sparse Merkle tree of arity 4 over hashed keys.

    entry   keyhash(32) || valuehash(32), both blake2b-256 under the tag `leaf`
    page    the sorted entries of a subtree that holds at most PAGE_ENTRIES; hash under the tag `page`
    node    any other subtree: the hashes of its four children, joined (128 bytes); hash under the tag `node`
    empty   32 zero bytes

A key's hash is its path, two bits a level from the top. Which subtrees are pages depends on the content alone, so the
root does not depend on the order of inserts, updates and deletes: a subtree that falls to PAGE_ENTRIES folds back.

Trees are immutable and share what did not change. Several blocks can be executed on one parent, old versions stay
readable for proofs, and any thread may read. What is stored is in `ledger.tree_pages`. A small tree is in memory as a
whole. A larger one holds the nodes that it has met and some RESIDENT_PAGES pages and reads the others from a picture of the
database (`open`, `over`); what changed since that picture is in its memory.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Final

from .codec import encode
from .crypto import TAGS, ZERO_HASH
from .errors import Corruption, UsageError
from .tree_pages import (
    EMPTY,
    ENTRY_BYTES,
    MAX_DEPTH,
    PAGE_BYTES,
    PAGE_ENTRIES,
    Eviction,
    PageChanges,
    Pages,
    Subtree,
    begin_node,
    begin_page,
    child_of,
    from_index,
    hash_of,
    index_changes,
    load,
    node,
    page_key,
    rebuild,
)

__all__ = ["PAGE_ENTRIES", "PageChanges", "StateTree", "leaf_hash", "page_key", "state_root"]

RESIDENT_PAGES: Final = 1 << 18  # pages in memory, those of a million keys: with the nodes above them about 120 MiB
MAX_PROVEN_KEYS: Final = 64
_PAGE_MARK: Final = 0x10  # in the shape of a proof: a page ends the path here; plus the number of entries it gives

_FEW: Final = 16  # changes below a node; up to these a search for where those of one child end costs more than looking
_LEAF: Final = blake2b(digest_size=32, person=TAGS["leaf"])


def leaf_hash(data: bytes) -> bytes:
    """Hash of a key or of a value as it stands in an entry."""
    state = _LEAF.copy()
    state.update(data)
    return state.digest()


class StateTree:
    """One version of the tree. `root` is the state root (32 bytes)."""

    __slots__ = ("_hand", "_indexed", "_pages", "_top", "resident_pages", "root")

    def __init__(
        self, top: Subtree = EMPTY, pages: Pages | None = None, *, indexed: bool = False, resident_pages: int = 0,
        hand: int = 0,
    ) -> None:
        """Use `StateTree()` for the empty tree, else `open`, `updated` or `from_pages`."""
        self._top = top
        self._pages = pages  # None: all is in memory
        self._indexed = indexed  # its index rows are stored, or among the changes that led to it
        self._hand = hand  # the unit at which the next eviction begins
        self.resident_pages = resident_pages
        self.root: bytes = hash_of(top)

    @classmethod
    def open(cls, pages: Pages, root: bytes) -> StateTree:
        """The stored tree with this root. Raises Corruption. Reads 256 rows if the tree has an index, else all pages."""
        top = from_index(pages, root)
        if top is not None:
            return cls(top, pages, indexed=True)
        tree = cls.from_pages(pages.items(b"", b""))
        if tree.root != root:
            raise Corruption("the stored state tree does not have the head's state root")
        return tree

    @classmethod
    def from_pages(cls, rows: Iterable[tuple[bytes, bytes]]) -> StateTree:
        """Rebuild from stored pages, ascending by page key. Raises Corruption if they cannot be one tree."""
        top = rebuild(rows)
        return cls(top, resident_pages=_pages_in(top))

    def over(self, pages: Pages, limit: int = RESIDENT_PAGES) -> StateTree:
        """The same version with at most `limit` pages in memory; it reads the others from `pages`, which hold all of it."""
        if self.resident_pages > limit:
            eviction = Eviction(self._hand, self.resident_pages - limit + limit // 8)
            top = eviction.run(self._top)
            kept, hand = self.resident_pages - eviction.dropped, eviction.hand
        elif self._pages is None:
            return self
        else:
            top, kept, hand = self._top, self.resident_pages, self._hand
        return StateTree(top, pages, indexed=self._indexed, resident_pages=kept, hand=hand)

    def updated(self, changes: Mapping[bytes, bytes | None]) -> tuple[StateTree, PageChanges]:
        """The tree after writing `changes` (key -> value, None deletes), and the stored rows that differ."""
        hashes: dict[bytes, bytes | None] = {}
        begin = _LEAF.copy  # as `leaf_hash`, thousands of times
        for key, value in changes.items():
            key_state = begin()
            key_state.update(key)
            if value is None:
                hashes[key_state.digest()] = None
                continue
            value_state = begin()
            value_state.update(value)
            hashes[key_state.digest()] = value_state.digest()
        return self.updated_hashes(hashes)

    def updated_hashes(self, changes: Mapping[bytes, bytes | None]) -> tuple[StateTree, PageChanges]:
        """Like `updated`, by key hash and value hash."""
        if not changes:
            return self, {}
        update = _Update(changes, self._pages)
        top = update.run(self._top)
        indexed, rows = index_changes(top, {key[0] for key in changes}, self._indexed)
        update.rows.update(rows)
        tree = StateTree(
            top, self._pages, indexed=indexed, resident_pages=self.resident_pages + update.resident, hand=self._hand
        )
        return tree, update.rows

    def value_hash(self, key: bytes) -> bytes | None:
        """Hash of the value of `key`, None if it is absent."""
        key_hash = leaf_hash(key)
        subtree, depth = self._top, 0
        while type(subtree) is tuple:
            subtree = self._child(subtree, child_of(key_hash, depth), key_hash, depth)
            depth += 1
        at = _find(subtree, key_hash)
        return None if at < 0 else subtree[at + 32 : at + 64]

    def prove(self, *keys: bytes) -> bytes:
        """Proof of what up to 64 keys hold, present or absent: encoded [shape, siblings, pages].

        A walk over the keys' paths, depth first, children in order. `shape` has a byte for each subtree met: for a node a
        mask with bit i set if child i is not empty and on no path, for a page 16 plus the number of its entries that are
        not those of `keys`. `siblings` are the hashes of the children in the masks, `pages` those entries of the pages
        without the whole bytes of the path to them, each as the walk meets them.
        """
        if not 0 < len(set(keys)) <= MAX_PROVEN_KEYS:
            raise UsageError(f"a proof is of 1 to {MAX_PROVEN_KEYS} keys")
        proof = _Proof(self)
        proof.add(self._top, 0, sorted({leaf_hash(key) for key in keys}))
        return encode([bytes(proof.shape), bytes(proof.siblings), bytes(proof.pages)])

    def pages(self) -> Iterator[tuple[bytes, bytes]]:
        """(page key, content) of every non-empty page, in tree order; index rows are not among them."""
        stack: list[tuple[Subtree, int, bytes]] = [(self._top, 0, bytes(32))]
        while stack:
            subtree, depth, path = stack.pop()
            if type(subtree) is tuple:
                below = [_with_child(path, depth, child) for child in range(4)]
                stack += [
                    (self._child(subtree, child, below[child], depth), depth + 1, below[child]) for child in (3, 2, 1, 0)
                ]
            elif subtree:
                yield page_key(path, depth), subtree

    def __len__(self) -> int:
        return sum(len(page) // ENTRY_BYTES for _, page in self.pages())

    def _child(self, parent: Subtree, child: int, key_hash: bytes, depth: int) -> Subtree:
        """A child of a node at `depth`, read from the database if it is not in memory."""
        found = parent[1 + child]
        if found is None:
            return load(self._pages, parent[0][32 * child : 32 * child + 32], key_hash, depth + 1)
        return found


def state_root(items: Mapping[bytes, bytes]) -> bytes:
    """State root of a whole state (genesis, audits)."""
    return StateTree().updated(items)[0].root


def _pages_in(subtree: Subtree) -> int:
    if type(subtree) is tuple:
        return sum(map(_pages_in, subtree[1:]))
    return 1 if subtree else 0


def _with_child(path: bytes, depth: int, child: int) -> bytes:
    """The path, 32 bytes, of a child of the node at `depth`."""
    joined = bytearray(path)
    if depth < MAX_DEPTH:
        joined[depth >> 2] |= child << (6 - 2 * (depth & 3))
    return bytes(joined)


def _find(page: bytes, key_hash: bytes) -> int:
    """Offset of the entry of `key_hash`, or -1."""
    at = page.find(key_hash)
    while at > 0 and at & 63:
        at = page.find(key_hash, at + 1)
    return at


class _Proof:
    """A proof on its way down the tree."""

    def __init__(self, tree: StateTree) -> None:
        self.tree = tree
        self.shape = bytearray()
        self.siblings = bytearray()
        self.pages = bytearray()

    def add(self, subtree: Subtree, depth: int, paths: Sequence[bytes]) -> None:
        if type(subtree) is not tuple:
            entries = [subtree[at : at + ENTRY_BYTES] for at in range(0, len(subtree), ENTRY_BYTES)]
            others = [entry for entry in entries if entry[:32] not in paths]
            self.shape.append(_PAGE_MARK + len(others))
            self.pages += b"".join(entry[depth >> 2 :] for entry in others)
            return
        under: list[list[bytes]] = [[], [], [], []]
        for path in paths:
            under[child_of(path, depth)].append(path)
        place, mask, hashes = len(self.shape), 0, subtree[0]
        self.shape.append(mask)
        for child in range(4):
            sibling = hashes[32 * child : 32 * child + 32]
            if under[child]:
                self.add(self.tree._child(subtree, child, under[child][0], depth), depth + 1, under[child])
            elif sibling != ZERO_HASH:
                mask |= 1 << child
                self.siblings += sibling
        self.shape[place] = mask


class _Update:
    """One batch of changes on its way down the tree, sorted by key hash."""

    def __init__(self, changes: Mapping[bytes, bytes | None], pages: Pages | None) -> None:
        self.keys = sorted(changes)
        self.values = [changes[key] for key in self.keys]
        self.deletes = None in self.values
        self.pages = pages
        self.rows: PageChanges = {}
        self.resident = 0  # pages that came into memory, less those that went

    def run(self, top: Subtree) -> Subtree:
        return self.down(top, 0, 0, len(self.keys))

    def down(self, subtree: Subtree, depth: int, low: int, high: int) -> Subtree:
        """The subtree with changes [low, high) applied; they all lie under it."""
        if type(subtree) is not tuple:
            return self.page(subtree, depth, low, high)
        keys, first, below = self.keys, low, depth + 1
        parts = list(subtree)
        hashes = bytearray(subtree[0])
        byte, shift = depth >> 2, 6 - 2 * (depth & 3)
        while low < high:
            child = keys[low][byte] >> shift & 3
            end = high
            if child != 3:
                end = low + 1 if high - low <= _FEW else self.end_of(child, depth, low, high)
                while end < high and keys[end][byte] >> shift & 3 == child:
                    end += 1
            before = parts[1 + child]
            if before is None:
                before = self.load(hashes, child, keys[low], depth)
            if type(before) is tuple:
                changed = self.down(before, below, low, end)
            else:
                changed = self.page(before, below, low, end)
            parts[1 + child] = changed
            if type(changed) is tuple:
                state = begin_node()
                state.update(changed[0])
                hashes[32 * child : 32 * child + 32] = state.digest()
            elif changed:
                state = begin_page()
                state.update(changed)
                hashes[32 * child : 32 * child + 32] = state.digest()
            else:
                hashes[32 * child : 32 * child + 32] = ZERO_HASH
            low = end
        if self.deletes and (folded := self.fold(parts, hashes, depth, first, high)) is not None:
            return folded
        parts[0] = bytes(hashes)
        return tuple(parts)

    def load(self, hashes: bytes | bytearray, child: int, key_hash: bytes, depth: int) -> Subtree:
        """A child of a node at `depth` that is not in memory."""
        found = load(self.pages, bytes(hashes[32 * child : 32 * child + 32]), key_hash, depth + 1)
        self.resident += _pages_in(found)
        return found

    def end_of(self, child: int, depth: int, low: int, high: int) -> int:
        """End of the run of changes from `low` that lie under `child`, not the last one, of the node at `depth`."""
        byte, shift = depth >> 2, 6 - 2 * (depth & 3)
        first = self.keys[low]
        bound = first[:byte] + bytes(((first[byte] & ~(3 << shift) & (0xFF << shift)) | (child + 1) << shift,))
        return bisect_left(self.keys, bound, low, high)

    def page(self, page: bytes, depth: int, low: int, high: int) -> Subtree:
        """What the page at `depth` becomes with changes [low, high)."""
        keys, values, merged, index = self.keys, self.values, page, low
        while index < high:  # most changes replace a value
            key_hash, value_hash = keys[index], values[index]
            at = merged.find(key_hash)
            if at < 0 or at & 63 or value_hash is None:
                return self.reshape(page, _merged(merged, keys[index:high], values[index:high]), depth, keys[low])
            merged = merged[: at + 32] + value_hash + merged[at + ENTRY_BYTES :]
            index += 1
        self.rows[page_key(key_hash, depth)] = merged
        return merged

    def reshape(self, page: bytes, entries: bytes, depth: int, key_hash: bytes) -> Subtree:
        """The subtree of `entries` in the place of a page; `key_hash` is on its path."""
        if len(entries) <= PAGE_BYTES:
            self.rows[page_key(key_hash, depth)] = entries or None
            self.resident += bool(entries) - bool(page)
            return entries
        if page:
            self.rows[page_key(key_hash, depth)] = None
            self.resident -= 1
        return self.split(entries, depth)

    def split(self, entries: bytes, depth: int) -> Subtree:
        """A subtree of sorted entries: a page if they fit, else a node."""
        if len(entries) <= PAGE_BYTES:
            if entries:
                self.rows[page_key(entries[:32], depth)] = entries
                self.resident += 1
            return entries
        byte, shift = depth >> 2, 6 - 2 * (depth & 3)
        ends = [0, 0, 0, 0]
        for at in range(0, len(entries), ENTRY_BYTES):
            ends[entries[at + byte] >> shift & 3] = at + ENTRY_BYTES
        children, start = [], 0
        for end in ends:
            children.append(self.split(entries[start:end] if end else EMPTY, depth + 1))
            start = end or start
        return node(children)

    def fold(
        self, parts: list[Subtree], hashes: bytearray, depth: int, low: int, high: int
    ) -> bytes | None:
        """The one page that replaces a node whose children are pages that fit together, else None.

        [low, high): the changes under the node. Pages that are not in memory are read only if one of them deletes.
        """
        size = 0
        for child in parts[1:]:
            if type(child) is tuple:  # a node holds more than a page
                return None
            size += len(child or EMPTY)
        if size > PAGE_BYTES or None not in self.values[low:high]:
            return None
        for child in range(4):
            if parts[1 + child] is None:
                path = _with_child(self.prefix(low, depth), depth, child)
                parts[1 + child] = found = self.load(hashes, child, path, depth)
                if type(found) is tuple:
                    return None
                size += len(found)
        if size > PAGE_BYTES:
            return None
        joined: bytes = b"".join(parts[1:])
        for page in parts[1:]:
            if page:
                self.rows[page_key(page[:32], depth + 1)] = None
                self.resident -= 1
        if joined:
            self.rows[page_key(joined[:32], depth)] = joined
            self.resident += 1
        return joined

    def prefix(self, at: int, depth: int) -> bytes:
        """The path of the node at `depth` above a change, zeros below."""
        return page_key(self.keys[at], depth)[:-1].ljust(32, b"\0")


def _merged(page: bytes, keys: Sequence[bytes], values: Sequence[bytes | None]) -> bytes:
    """The entries of a page after these changes."""
    entries: dict[bytes, bytes | None] = {
        page[at : at + 32]: page[at + 32 : at + 64] for at in range(0, len(page), ENTRY_BYTES)
    }
    entries.update(zip(keys, values, strict=True))
    return b"".join([key + value for key, value in sorted(entries.items()) if value is not None])
