"""The indexes over committed blocks: where an extrinsic is, which extrinsics concern an account, which blocks hold an
event kind, in which block an epoch ran.

Index rows are part of the block's batch, so they are never ahead of or behind the chain; all of them can be made again
from the stored blocks and results. Every search looks at a bounded number of rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final

from .blocks import EPOCH_EVENT, Body, Event, Extrinsic, Outcome
from .layout import (
    ACCOUNTS,
    BODY,
    RESULT,
    at,
    decode_place,
    decode_result,
    encode_place,
    epoch_key,
    event_kind_key,
    extrinsic_key,
)
from .store import Snapshot

ACCOUNT_SCAN_ROWS: Final = 2_000  # blocks with extrinsics looked at in one call
MAX_PAGE: Final = 1_000

# An account row holds one entry for each (account, extrinsic) pair of its block.
_ACCOUNT_BYTES: Final = 8
_ENTRY_BYTES: Final = _ACCOUNT_BYTES + 2

Rows = dict[bytes, bytes | None]


def index_rows(
    height: int, extrinsics: Sequence[Extrinsic], events: Sequence[Event], outcomes: Sequence[Outcome]
) -> Rows:
    """The rows with which a block enters the indexes: from what is stored of it, nothing else is needed to rebuild them."""
    rows: Rows = {extrinsic_key(each.id): encode_place(height, index) for index, each in enumerate(extrinsics)}
    for kind in {event[0] for event in events}:
        rows[event_kind_key(kind, height)] = b""
    for key in _epoch_keys(events):
        rows[key] = height.to_bytes(8, "big")
    if extrinsics:
        rows[at(ACCOUNTS, height)] = _account_row(extrinsics, events, outcomes)
    return rows


def _epoch_keys(events: Sequence[Event]) -> Iterator[bytes]:
    for event in events:
        if event[0] == EPOCH_EVENT:
            yield epoch_key(event[1], event[2])


def _account_row(extrinsics: Sequence[Extrinsic], events: Sequence[Event], outcomes: Sequence[Outcome]) -> bytes:
    """The signer of each extrinsic and every key (32-byte field) that its events name."""
    entries = []
    for index, (extrinsic, outcome) in enumerate(zip(extrinsics, outcomes, strict=True)):
        place, first = index.to_bytes(2, "big"), outcome.first_event
        named = [
            field for event in events[first : first + outcome.events] for field in event
            if type(field) is bytes and len(field) == 32
        ]
        entries += [account[:_ACCOUNT_BYTES] + place for account in dict.fromkeys((extrinsic.signer, *named))]
    return b"".join(entries)


def find_extrinsic(rows: Snapshot, extrinsic_id: bytes) -> tuple[int, int] | None:
    """(height, index) of a committed extrinsic."""
    row = rows.get(extrinsic_key(extrinsic_id))
    return None if row is None else decode_place(row)


def account_extrinsics(
    rows: Snapshot, account: bytes, before_height: int | None, limit: int
) -> tuple[list[tuple[int, int]], int | None]:
    """Newest first (height, index), and the `before_height` with which to go on (None at the end).

    All matches of a block are returned together, so a page may exceed `limit` by those of its last block.
    """
    limit = min(limit, MAX_PAGE)
    after = b"" if before_height is None else at(ACCOUNTS, before_height)
    found: list[tuple[int, int]] = []
    height, seen = 0, 0
    for key, row in islice(rows.items(ACCOUNTS, after, reverse=True), ACCOUNT_SCAN_ROWS):
        height, seen = int.from_bytes(key[1:], "big"), seen + 1
        found += [(height, index) for index in reversed(list(_matches(row, account[:_ACCOUNT_BYTES])))]
        if len(found) >= limit:
            return found, height
    return found, height if seen == ACCOUNT_SCAN_ROWS else None


def _matches(row: bytes, account: bytes) -> Iterable[int]:
    position = row.find(account)
    while position >= 0:
        if position % _ENTRY_BYTES == 0:
            yield int.from_bytes(row[position + _ACCOUNT_BYTES : position + _ENTRY_BYTES], "big")
        position = row.find(account, position + 1)


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
    """Takes the block at `height`, the newest one, out of the indexes."""
    removed: Rows = {at(ACCOUNTS, height): None}
    body, result = rows.get(at(BODY, height)), rows.get(at(RESULT, height))
    assert body is not None and result is not None, f"block {height} is incomplete"
    for raw in Body.decode(body).extrinsics:
        removed[extrinsic_key(Extrinsic.decode(raw).id)] = None
    events = decode_result(result)[0]
    for kind in {event[0] for event in events}:
        removed[event_kind_key(kind, height)] = None
    return removed | dict.fromkeys(_epoch_keys(events))
