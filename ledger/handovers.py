"""How trust gets from one authority set to a later one: the blocks whose headers hand over to another set.

A light client that trusts the set of a height believes a block that this set certified, and with it the set that its
header names next. A chain of such blocks leads to any later height. Not all are needed: where a set was replaced and
came back, the blocks between may be left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .blocks import Header
from .errors import NotFound, UsageError
from .layout import HEADER, at
from .store import Snapshot

MAX_HANDOVERS: Final = 400  # in one proof; a checkpoint shortens the way


def handovers(rows: Snapshot, first_height: int, last_height: int) -> list[Header]:
    """Headers, ascending, that lead from the set of the first stored block at or above `first_height` to that of the last.

    A node that began from a snapshot keeps no header between, but all that hand over. Reads some 20 headers for each.
    Where operators replaced a lost set by a recovery file, its block is among them: whoever has the file goes on from there.
    Raises NotFound (also where a header that handed over was lost), UsageError (too many).
    """
    current, last = _stored_from(rows, first_height), _stored_from(rows, last_height)
    found: list[Header] = []
    while current.authorities_hash != last.authorities_hash:
        if len(found) == MAX_HANDOVERS:
            raise UsageError(
                f"the authority set changed more than {MAX_HANDOVERS} times",
                hint=f"start at a checkpoint: a block that you trust, {current.height} or later",
            )
        handover = _last_of_set(rows, current, last)
        found.append(handover)
        current = _stored_from(rows, handover.height + 1)
    return found


def _last_of_set(rows: Snapshot, first: Header, other: Header) -> Header:
    """A block from `first` on, with its set, after which the next stored block has another set; `other` has another."""
    low, high = first, other.height  # the first stored block at or above `high` has another set
    while low.height + 1 < high:
        middle = (low.height + 1 + high) // 2
        found = _stored_from(rows, middle)
        if found.authorities_hash == first.authorities_hash:
            low = found
        else:
            high = middle
    following = _stored_from(rows, low.height + 1)
    if following.height > low.height + 1 and low.next_authorities_hash == low.authorities_hash:
        raise NotFound(
            f"a block between {low.height} and {following.height} handed over to another authority set and is not kept here",
            hint="ask another node for the proof",
        )
    return low


def _stored_from(rows: Snapshot, height: int) -> Header:
    return _header(rows.items(HEADER, at(HEADER, height - 1) if height > 0 else b""), height)


def _header(found: Iterator[tuple[bytes, bytes]], height: int) -> Header:
    row = next(found, None)
    if row is None:
        raise NotFound(f"there is no block {height} or later")
    return Header.decode(row[1])
