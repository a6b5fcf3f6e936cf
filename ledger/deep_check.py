"""Everything that a stored chain says about itself, checked against everything else it says: `quorix db check --deep`.

    state         every value against the head's state root; the stored pages of the tree against the values
    blocks        links, bodies, results and certificates of every block against its header, the sets against each other
    indexes       the index rows of every block, none missing and none too many; the lists of accounts, link by link
    past states   every reverse diff leads back to the root of the block below; versions say what the diffs say
    rows          no row of an unknown kind

History rows of the runtime are outside every root: only a replay of the blocks can check them. Blocks that are known to be
lost (see `lost`) are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

from . import indexes, layout
from .blocks import Body, Event, Extrinsic, Header, Outcome, events_root
from .errors import UNREADABLE, Corruption, DecodeError
from .history import archive_from, version_rows
from .layout import ReverseDiff, at
from .linking import Links, fits
from .lost import lost_blocks
from .reading import Picture
from .state_tree import StateTree
from .store import Snapshot
from .votes import PRECOMMIT, Certificate, authorities_hash

if TYPE_CHECKING:
    from .chain import Chain

MAX_PROBLEMS: Final = 20
ROW_KINDS: Final = frozenset((
    layout.STATE, layout.PAGE, layout.HEADER, layout.BODY, layout.CERTIFICATE, layout.RESULT, layout.DIFF, layout.VERSION,
    layout.BY_HASH, layout.AUTHORITIES, layout.EXTRINSIC, layout.ACCOUNTS, layout.EVENT_KIND, layout.EPOCH, layout.HISTORY,
    layout.EXTRA, b"m",
))
INDEX_KINDS: Final = (layout.EXTRINSIC, layout.ACCOUNTS, layout.EVENT_KIND, layout.EPOCH)

Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass
class Section:
    """One part of the check. `problems`: the first MAX_PROBLEMS; `found`: how many there are."""

    name: str
    checked: int = 0
    unit: str = ""
    found: int = 0
    problems: list[str] = field(default_factory=list)

    def problem(self, text: str) -> None:
        self.found += 1
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)

    def expect(self, holds: bool, text: str) -> None:
        if not holds:
            self.problem(text)


def deep_check(chain: Chain, now: Picture, domain_at: Callable[[int], bytes], progress: Progress) -> list[Section]:
    """All sections, in order. Reads every row; nothing is changed."""
    return [
        _state(now, progress), *_blocks(chain, now, domain_at, progress), _past_states(chain, now, progress),
        _rows(now.rows, progress),
    ]


def _state(now: Picture, progress: Progress) -> Section:
    section = Section("state", unit="values")
    progress("state", 0, 0)
    values: dict[bytes, bytes] = {}
    for key, row in now.rows.items(layout.STATE):
        section.checked += 1
        try:
            values[key[1:]] = layout.state_value(row)
        except UNREADABLE as error:
            section.problem(f"the state row {key[1:].hex()} cannot be read: {error}")
    tree, pages = StateTree().updated(values)
    section.expect(tree.root == now.head.state_root, "the values do not have the state root of the head")
    stored = {key[1:]: page for key, page in now.rows.items(layout.PAGE)}
    for key, page in pages.items():
        section.expect(stored.get(key) == page, f"page {key.hex()} of the tree is missing or not what the values say")
    for key in stored.keys() - pages.keys():
        section.problem(f"page {key.hex()} of the tree should not be there")
    return section


# --- blocks and indexes ------------------------------------------------------------------------------------------


def _blocks(
    chain: Chain, now: Picture, domain_at: Callable[[int], bytes], progress: Progress
) -> tuple[Section, Section]:
    blocks, index = Section("blocks", unit="blocks"), Section("indexes", unit="rows")
    params, head = chain.params, now.head
    sets = {key[1:]: row for key, row in now.rows.items(layout.AUTHORITIES)}
    for name, row in sets.items():
        keys = [row[start : start + 32] for start in range(0, len(row), 32)]
        blocks.expect(authorities_hash(keys) == name, f"the authority set {name.hex()[:16]} is not that of its name")
    first, lost = first_block(now.rows, head.height), lost_blocks(now.rows)
    links = Links(chain.machine.account_key)
    expected: tuple[int, bytes, bytes] | None = None  # height, parent hash and authority set that the next header names
    for header in _headers(now.rows, blocks):
        progress("blocks", header.height, head.height)
        if expected is not None and header.height == expected[0]:
            blocks.expect(header.parent_hash == expected[1], f"block {header.height} does not follow the one below it")
            blocks.expect(header.authorities_hash == expected[2], f"block {header.height} has another set than was named")
        elif header.height == params.initial_height:
            blocks.expect(header.parent_hash == params.genesis_hash, "the first block does not follow the genesis")
        elif header.height >= first and header.height - 1 not in lost:
            blocks.problem(f"the block below {header.height} is missing")
        recovery = chain.recoveries.get(header.height)
        named = header.next_authorities_hash if recovery is None else authorities_hash(recovery.keys)
        expected = header.height + 1, header.hash, named
        place = now.rows.get(layout.BY_HASH + header.hash)
        blocks.expect(place == header.height.to_bytes(8, "big"), f"block {header.height} is not found by its hash")
        if header.height >= first and header.height not in lost:
            blocks.checked += 1
            _block(now.rows, header, sets.get(header.authorities_hash, b""), domain_at(header.height), blocks, index, links)
    if head.height > params.genesis_height:
        blocks.expect(expected is not None and expected[:2] == (head.height + 1, head.hash), "the head's block is missing")
    _places(now.rows, links, index)
    stored = sum(1 for kind in INDEX_KINDS for _ in now.rows.items(kind))
    index.expect(stored <= index.checked, f"{stored - index.checked} index rows should not be there")
    return blocks, index


def first_block(rows: Snapshot, head_height: int) -> int:
    """The lowest height whose whole block is kept, or was before it was lost; above the head if none is: a node that began
    from a snapshot. Raises Corruption where nothing says so any more."""
    found = sorted(lost_blocks(rows))[:1]
    for kind in (layout.BODY, layout.RESULT):  # either may be the one that is gone
        try:
            found += [int.from_bytes(key[1:], "big") for key, _ in islice(rows.items(kind), 1)]
        except Corruption:
            if kind == layout.RESULT and not found:
                raise
    return min(found, default=head_height + 1)


def _headers(rows: Snapshot, section: Section) -> Iterator[Header]:
    for key, row in rows.items(layout.HEADER):
        height = int.from_bytes(key[1:], "big")
        try:
            header = Header.decode(row)
        except DecodeError as error:
            section.problem(f"header {height} does not decode: {error.cause}")
            continue
        section.expect(header.height == height, f"the header at {height} says that it is of {header.height}")
        yield header


def _block(
    rows: Snapshot, header: Header, keys: bytes, domain: bytes, blocks: Section, index: Section, links: Links
) -> None:
    height = header.height
    try:
        certificate = Certificate.decode(rows.get(at(layout.CERTIFICATE, height)) or b"")
        named = (certificate.kind, certificate.height, certificate.block_hash) == (PRECOMMIT, height, header.hash)
        members = [keys[start : start + 32] for start in range(0, len(keys), 32)]
        blocks.expect(
            named and bool(members) and certificate.verify(members, domain), f"the certificate of block {height} is not valid"
        )
    except DecodeError:
        blocks.problem(f"the certificate of block {height} is missing or damaged")
    body = _body(rows, header, blocks)
    if body is None:
        return
    try:
        events, outcomes = layout.decode_result(rows.get(at(layout.RESULT, height)) or b"")
        expected, root = indexed(height, body, events, outcomes, links), events_root(events, outcomes)
    except UNREADABLE as error:
        blocks.problem(f"the results of block {height} cannot be read: {error}")
        return
    blocks.expect(root == header.events_root, f"the results of block {height} are not the header's")
    for key, row in expected.items():
        index.checked += 1
        found = rows.get(key)
        same = found == row or (key[:1] == layout.ACCOUNTS and row is not None and indexes.same_links(found, row))
        index.expect(same, f"an index row of block {height} is missing or wrong")


def _body(rows: Snapshot, header: Header, section: Section) -> Body | None:
    try:
        body = Body.decode(rows.get(at(layout.BODY, header.height)) or b"")
    except DecodeError:
        section.problem(f"the body of block {header.height} is missing or damaged")
        return None
    fits = body.cert_hash == header.parent_cert_hash and body.extrinsics_root == header.extrinsics_root
    section.expect(fits, f"the body of block {header.height} is not the header's")
    return body if fits else None


def indexed(
    height: int, body: Body, events: Sequence[Event], outcomes: Sequence[Outcome], links: Links
) -> indexes.Rows:
    """The index rows that a block with these results has, after those below it. Raises Corruption or DecodeError."""
    if len(body.extrinsics) != len(outcomes):
        raise Corruption(f"block {height} has {len(body.extrinsics)} extrinsics and {len(outcomes)} outcomes")
    return indexes.index_rows(height, [Extrinsic.decode(raw) for raw in body.extrinsics], events, outcomes, links)


def _places(rows: Snapshot, heads: dict[bytes, bytes], index: Section) -> None:
    """The places in the state rows against those in the blocks."""
    for key, row in rows.items(layout.STATE):
        try:
            index.expect(fits(row, heads.get(key[1:])), f"the state row {key[1:].hex()} names a wrong extrinsic")
        except UNREADABLE as error:
            index.problem(f"the place in the state row {key[1:].hex()} cannot be read: {error}")


# --- the past ----------------------------------------------------------------------------------------------------


def _past_states(chain: Chain, now: Picture, progress: Progress) -> Section:
    section = Section("past states", unit="states")
    tree, archive, versions = now.tree, archive_from(now.rows), 0
    for height in range(now.head.height, chain.params.genesis_height, -1):
        row = now.rows.get(at(layout.DIFF, height))
        if row is None:
            section.expect(archive is None or height <= archive, f"the reverse diff of block {height} is missing")
            break
        try:
            diff = ReverseDiff.decode(row)
            tree = tree.updated(diff.values())[0]
            below = now.rows.get(at(layout.HEADER, height - 1))
            if below is not None:
                section.expect(
                    Header.decode(below).state_root == tree.root, f"the reverse diff of {height} does not lead back"
                )
        except UNREADABLE as error:
            section.problem(f"the reverse diff of block {height} cannot be used: {error}")
            break
        section.checked += 1
        if archive is not None and height > archive:
            for key, value in version_rows(diff, height).items():
                versions += 1
                section.expect(now.rows.get(key) == value, f"a version of block {height} is missing or wrong")
        progress("past states", section.checked, 0)
    if archive is not None:
        stored = sum(1 for key, _ in now.rows.items(layout.VERSION) if int.from_bytes(key[-8:], "big") > archive)
        section.expect(stored <= versions, f"{stored - versions} versions should not be there")
    return section


def _rows(rows: Snapshot, progress: Progress) -> Section:
    section = Section("rows", unit="rows")
    for key, _ in rows.items(b""):
        section.checked += 1
        section.expect(key[:1] in ROW_KINDS, f"a row of an unknown kind: {key[:9].hex()}")
        if section.checked % 4096 == 0:
            progress("rows", section.checked, 0)
    return section
