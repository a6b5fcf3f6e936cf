"""The indexes over committed blocks: where an extrinsic is, which extrinsics concern an account, which blocks hold an
event kind, in which block an epoch ran.

Index rows are part of the block's batch, so they are never ahead of or behind the chain; all of them can be made again
from the stored blocks and results. The extrinsics of an account are a linked list, newest first (see `linking`): from the
place in its state row through the entries of the account rows. Where the list has a gap, and to begin below a height that
is not a page's end, account rows are searched. Every search looks at a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from .blocks import EPOCH_EVENT, Body, Event, Extrinsic, Outcome
from .errors import Corruption
from .layout import (
    ACCOUNTS,
    BODY,
    EXTRINSIC,
    EXTRINSIC_KEY_BYTES,
    NOTHING_OLDER,
    PLACE_BYTES,
    RESULT,
    UNLINKED,
    at,
    decode_place,
    decode_result,
    epoch_key,
    event_kind_key,
    extrinsic_key,
)
from .linking import Links
from .store import Snapshot

ACCOUNT_SCAN_ROWS: Final = 2_000  # blocks with extrinsics looked at in one call
MAX_PAGE: Final = 1_000

# An account row holds one entry for each (account, extrinsic) pair of its block: the first bytes of the account, the index
# of the extrinsic, and the place of the account's extrinsic before it. Accounts that share these bytes see each other's
# history; in one that both share, the list goes on as that of one of them.
_ACCOUNT_BYTES: Final = 8
_NAME_BYTES: Final = _ACCOUNT_BYTES + 2
_ENTRY_BYTES: Final = _NAME_BYTES + PLACE_BYTES

Rows = dict[bytes, bytes | None]


def index_rows(
    height: int, extrinsics: Sequence[Extrinsic], events: Sequence[Event], outcomes: Sequence[Outcome], links: Links
) -> Rows:
    """The rows with which a block enters the indexes. `links` knows the places before it and then those in it."""
    block = height.to_bytes(8, "big")
    places = [block + index.to_bytes(2, "big") for index in range(len(extrinsics))]  # as `encode_place`
    rows: Rows = dict(zip([EXTRINSIC + each.id[:EXTRINSIC_KEY_BYTES] for each in extrinsics], places, strict=True))
    for kind in {event[0] for event in events}:
        rows[event_kind_key(kind, height)] = b""
    for key in _epoch_keys(events):
        rows[key] = height.to_bytes(8, "big")
    if extrinsics:
        rows[at(ACCOUNTS, height)] = _account_row(places, extrinsics, events, outcomes, links)
    return rows


def _epoch_keys(events: Sequence[Event]) -> Iterator[bytes]:
    for event in events:
        if event[0] == EPOCH_EVENT:
            yield epoch_key(event[1], event[2])


def _account_row(
    places: Sequence[bytes], extrinsics: Sequence[Extrinsic], events: Sequence[Event], outcomes: Sequence[Outcome],
    links: Links,
) -> bytes:
    """The signer of each extrinsic and every key (32-byte field) that its events name."""
    accounts: list[bytes] = []  # of each entry, and the place of its extrinsic
    entered: list[bytes] = []
    for place, extrinsic, outcome in zip(places, extrinsics, outcomes, strict=True):
        first, concerned = outcome.first_event, [extrinsic.signer]
        for event in events[first : first + outcome.events]:
            for field in event:
                if type(field) is bytes and len(field) == 32 and field not in concerned:
                    concerned.append(field)
        accounts += concerned
        entered += [place] * len(concerned)
    parts: list[bytes] = []
    for account, key, place in zip(accounts, map(links.account_key, accounts), entered, strict=True):
        parts += (account[:_ACCOUNT_BYTES], place[8:], links[key])
        links[key] = place
    return b"".join(parts)


def find_extrinsic(rows: Snapshot, extrinsic_id: bytes) -> tuple[int, int] | None:
    """(height, index) of a committed extrinsic."""
    row = rows.get(extrinsic_key(extrinsic_id))
    return None if row is None else decode_place(row)


def account_extrinsics(
    rows: Snapshot, account: bytes, newest: bytes, before_height: int | None, limit: int
) -> tuple[list[tuple[int, int]], int | None]:
    """Newest first (height, index), and the `before_height` with which to go on (None at the end).

    `newest`: the place in the account's state row. All matches of a block are returned together, so a page may exceed
    `limit` by those of its last block. Raises Corruption.
    """
    if newest == NOTHING_OLDER:
        return [], None
    if newest == UNLINKED or (before_height is not None and decode_place(newest)[0] >= before_height):
        newest, height = _searched(rows, account, before_height)
        if newest == NOTHING_OLDER:
            return [], height
    return _followed(rows, account, newest, max(1, min(limit, MAX_PAGE)))


def _searched(rows: Snapshot, account: bytes, before_height: int | None) -> tuple[bytes, int | None]:
    """The newest place below a height, or NOTHING_OLDER and where to go on with the search (None: there is none)."""
    after = b"" if before_height is None else at(ACCOUNTS, before_height)
    height, seen = 0, 0
    for key, row in islice(rows.items(ACCOUNTS, after, reverse=True), ACCOUNT_SCAN_ROWS):
        height, seen = int.from_bytes(key[1:], "big"), seen + 1
        position = _entry(row, account[:_ACCOUNT_BYTES], len(row))
        if position >= 0:
            return key[1:] + row[position + _ACCOUNT_BYTES : position + _NAME_BYTES], None
    return NOTHING_OLDER, height if seen == ACCOUNT_SCAN_ROWS else None


def _followed(
    rows: Snapshot, account: bytes, place: bytes, limit: int
) -> tuple[list[tuple[int, int]], int | None]:
    """The list from a place on, to the end of the page, to the list's end or to a gap in it."""
    found: list[tuple[int, int]] = []
    key, row, end = b"", b"", 0
    while place != NOTHING_OLDER and place != UNLINKED:
        height, index = decode_place(place)
        if place[:8] != key:
            if len(found) >= limit:
                return found, height + 1
            key, row = place[:8], rows.get(ACCOUNTS + place[:8]) or b""
            end = len(row)
        position = end = _entry(row, account[:_ACCOUNT_BYTES] + place[8:], end)
        if position < 0 or (found and (height, index) >= found[-1]):
            raise Corruption("the history of an account leads nowhere", hint="quorix db reindex")
        found.append((height, index))
        place = row[position + _NAME_BYTES : position + _ENTRY_BYTES]
    gap = place == UNLINKED and next(rows.items(ACCOUNTS, ACCOUNTS + key, reverse=True), None) is not None
    return found, found[-1][0] if gap else None


def _entry(row: bytes, name: bytes, end: int) -> int:
    """Where the last entry before `end` is that begins with `name`, or -1."""
    position = row.rfind(name, 0, end)
    while position % _ENTRY_BYTES and position >= 0:
        position = row.rfind(name, 0, position + len(name) - 1)
    return position


def same_links(row: bytes | None, expected: bytes) -> bool:
    """Whether an account row is the expected one, which has no gaps; the row may have them."""
    if row is None or len(row) != len(expected):
        return False
    for start in range(0, len(row), _ENTRY_BYTES):
        name = start + _NAME_BYTES
        if row[start:name] != expected[start:name]:
            return False
        if row[name : start + _ENTRY_BYTES] not in (expected[name : start + _ENTRY_BYTES], UNLINKED):
            return False
    return True


def epoch_height(rows: Snapshot, netuid: int, epoch: int) -> int | None:
    """Height of the block in which that epoch of the subnet ran."""
    row = rows.get(epoch_key(netuid, epoch))
    return None if row is None else int.from_bytes(row, "big")


def event_heights(rows: Snapshot, kind: int, before_height: int | None, limit: int) -> list[int]:
    """Heights, newest first, of blocks that hold an event of this number."""
    after = b"" if before_height is None else event_kind_key(kind, before_height)
    found = rows.items(event_kind_key(kind), after, reverse=True)
    return [int.from_bytes(key[-8:], "big") for key, _ in islice(found, min(limit, MAX_PAGE))]


def cut_index_rows(rows: Snapshot, height: int) -> Rows:
    """Takes the block at `height`, the newest one, out of the indexes. Raises Corruption or DecodeError."""
    removed: Rows = {at(ACCOUNTS, height): None}
    body, result = rows.get(at(BODY, height)), rows.get(at(RESULT, height))
    if body is None or result is None:
        raise Corruption(f"block {height} is incomplete")
    for raw in Body.decode(body).extrinsics:
        removed[extrinsic_key(Extrinsic.decode(raw).id)] = None
    events = decode_result(result)[0]
    for kind in {event[0] for event in events}:
        removed[event_kind_key(kind, height)] = None
    return removed | dict.fromkeys(_epoch_keys(events))
