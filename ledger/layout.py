"""The chain database: what is stored under which key, and the rows' encodings.

    m/schema m/genesis     what this database is (see `store.stamp`)
    m/head                 [height, hash, timestamp_ms, state_root, next_authorities_hash]
    m/work                 the indexes are being made again: until it is gone, nothing opens the chain
    m/lost                 blocks that a damaged database lost in part (see `lost`); only where there are some
    s + key                state row at the head: the value, and where the newest extrinsic of its account is (below)
    p + page key           page of the state tree at the head, or index row of a large one (see `tree_pages`)
    h b c r + height       header, body, certificate of the block, result (events and outcomes)
    d + height             reverse diff: the state rows and history rows that the block replaced; pruned
    m/archive              the first height whose state the versions give; only in an archive
    v + state key + height version: the state row that the block replaced (empty: none); only in an archive
    H + block hash         height
    A + authorities hash   the set's keys, joined
    x + id                 height and index of an extrinsic (16 bytes of its id)
    a + height             accounts that the block's extrinsics concern, each with its extrinsic before (see `indexes`)
    k + event number + height   the block holds such an event
    e + netuid + epoch     height of the block in which the epoch ran
    y + key                history row of the runtime, outside the state root
    z + key                extra rows of the node (`prepare_commit(extra=...)`)

A state row begins with a mark. 0: only the value follows, and no extrinsic has concerned its account since the first
state here. 1: the place (height, index) of the newest extrinsic that concerns its account, then the value. 2: only the
value follows; a block made this row, and what concerned its account earlier is not linked (see `linking`).

Heights are 8 bytes, big-endian. Rows are read back only by the node that wrote them and LevelDB checks them by checksum, so
large ones are decoded without the limit of `codec.decode` on the number of items, and without its walk over the bytes: what
they are made of is limited by their first byte and by their levels, and all but arrays and plain values is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cbor2

from .blocks import EPOCH_EVENT, Event, Outcome
from .codec import _REFUSED_TAGS, HASH, MAX_DEPTH, U64, Record, _refuse_tag, decode, encode
from .errors import Corruption, DecodeError

SCHEMA: Final = 1

HEAD_KEY: Final = b"m/head"
ARCHIVE_KEY: Final = b"m/archive"
WORK_KEY: Final = b"m/work"
LOST_KEY: Final = b"m/lost"
STATE: Final = b"s"
PAGE: Final = b"p"
HEADER: Final = b"h"
BODY: Final = b"b"
CERTIFICATE: Final = b"c"
RESULT: Final = b"r"
DIFF: Final = b"d"
VERSION: Final = b"v"
BY_HASH: Final = b"H"
AUTHORITIES: Final = b"A"
EXTRINSIC: Final = b"x"
ACCOUNTS: Final = b"a"
EVENT_KIND: Final = b"k"
EPOCH: Final = b"e"
HISTORY: Final = b"y"
EXTRA: Final = b"z"

EXTRINSIC_KEY_BYTES: Final = 16
PLACE_BYTES: Final = 10
NOTHING_OLDER: Final = bytes(PLACE_BYTES)  # in place of a place: no stored extrinsic is older
UNLINKED: Final = b"\xff" * PLACE_BYTES  # in place of a place: there may be older ones, to be searched for

LINKED_MARK: Final = b"\1"
_FOUR_PARTS: Final = b"\x84"  # an array of four
_LEAVES: Final = b"\x99"  # an array whose length is 2 bytes
_UNTOUCHED_MARK: Final = b"\0"
_UNLINKED_MARK: Final = b"\2"


@dataclass(frozen=True)
class Head:
    """The newest committed block (or the genesis state)."""

    height: int
    hash: bytes
    timestamp_ms: int
    state_root: bytes
    next_authorities_hash: bytes

    def encode(self) -> bytes:
        return encode([self.height, self.hash, self.timestamp_ms, self.state_root, self.next_authorities_hash])

    @classmethod
    def decode(cls, data: bytes | None) -> Head:
        """Raises Corruption."""
        try:
            value = decode(data or b"", where="the head row")
            _HEAD.check(value)
        except DecodeError as error:
            raise Corruption(f"the head row does not decode ({error.cause})") from None
        return cls(*value)


_HEAD: Final = Record(
    "head row", height=U64, hash=HASH, timestamp_ms=U64, state_root=HASH, next_authorities_hash=HASH
)


@dataclass(frozen=True)
class ReverseDiff:
    """What was there before a block, for every state key and history key that it wrote (None: nothing).

    `state` holds rows: a block also writes the rows of accounts whose value it leaves as it was, for the place in them.
    """

    state: dict[bytes, bytes | None]
    history: dict[bytes, bytes | None]

    def values(self) -> dict[bytes, bytes | None]:
        """The values of the state rows. Raises Corruption."""
        return {key: None if row is None else state_value(row) for key, row in self.state.items()}

    def encode(self) -> bytes:
        return encode([list(self.state), list(self.state.values()), list(self.history), list(self.history.values())])

    @classmethod
    def decode(cls, data: bytes) -> ReverseDiff:
        """Raises Corruption."""
        value = _loads(data, "a reverse diff", _FOUR_PARTS, 2)
        try:
            keys, rows, history_keys, history_rows = value
            diff = cls(dict(zip(keys, rows, strict=True)), dict(zip(history_keys, history_rows, strict=True)))
        except (TypeError, ValueError):
            raise Corruption("a reverse diff is misshapen") from None
        for part in (diff.state, diff.history):
            if not set(map(type, part)) <= {bytes} or not set(map(type, part.values())) <= {bytes, type(None)}:
                raise Corruption("a reverse diff holds something else than rows")
        return diff


def at(prefix: bytes, height: int) -> bytes:
    """Key of a row of one height."""
    return prefix + height.to_bytes(8, "big")


def extrinsic_key(extrinsic_id: bytes) -> bytes:
    return EXTRINSIC + extrinsic_id[:EXTRINSIC_KEY_BYTES]


def event_kind_key(kind: int, height: int = -1) -> bytes:
    """Key of the row (kind, height), or the prefix of all rows of the kind."""
    prefix = EVENT_KIND + kind.to_bytes(4, "big")
    return prefix if height < 0 else at(prefix, height)


def epoch_key(netuid: int, epoch: int) -> bytes:
    """Key of the row of one epoch of a subnet."""
    return EPOCH + netuid.to_bytes(2, "big") + epoch.to_bytes(4, "big")


def encode_place(height: int, index: int) -> bytes:
    return height.to_bytes(8, "big") + index.to_bytes(2, "big")


def decode_place(data: bytes) -> tuple[int, int]:
    return int.from_bytes(data[:8], "big"), int.from_bytes(data[8:], "big")


def state_row(value: bytes, place: bytes = NOTHING_OLDER) -> bytes:
    """The row of a state value. `place`: of its account's newest extrinsic, or NOTHING_OLDER, or UNLINKED."""
    if place == NOTHING_OLDER:
        return _UNTOUCHED_MARK + value
    return _UNLINKED_MARK + value if place == UNLINKED else LINKED_MARK + place + value


def state_value(row: bytes) -> bytes:
    """The value in a state row. Raises Corruption."""
    mark = row[:1]
    if mark == LINKED_MARK:
        return row[1 + PLACE_BYTES :]
    if mark in (_UNTOUCHED_MARK, _UNLINKED_MARK):
        return row[1:]
    raise Corruption("a state row begins with an unknown mark")


def state_place(row: bytes | None) -> bytes:
    """The place in a state row, NOTHING_OLDER or UNLINKED; where there is no row nothing is linked. Raises Corruption."""
    if row is None:
        return UNLINKED
    mark = row[:1]
    if mark == LINKED_MARK and len(row) > PLACE_BYTES:
        return row[1 : 1 + PLACE_BYTES]
    if mark == _UNTOUCHED_MARK:
        return NOTHING_OLDER
    if mark == _UNLINKED_MARK:
        return UNLINKED
    raise Corruption("a state row is damaged")


def encode_result(leaves: Sequence[bytes]) -> bytes:
    """The result row: an array of the leaves under the events root, which are encoded already."""
    return _LEAVES + len(leaves).to_bytes(2, "big") + b"".join(leaves)


def decode_result(data: bytes) -> tuple[list[Event], list[Outcome]]:
    """Events of the block in order, and the outcome of each extrinsic (see `blocks.result_leaves`). Raises Corruption."""
    value = _loads(data, "a result row", _LEAVES, MAX_DEPTH)
    rows = []
    try:
        *outcomes, own = value
        found: dict[int, Event] = dict(own)
        for error, fee_rao, first, events in outcomes:
            rows.append(Outcome(error, fee_rao, first, len(events)))
            found.update(enumerate(events, first))
        ordered = [found[index] for index in range(len(found))]
    except (TypeError, ValueError, LookupError):
        raise Corruption("a result row is misshapen") from None
    if not all(map(_is_event, ordered)) or not all(
        type(row.error) is str and type(row.fee_rao) is type(row.first_event) is int for row in rows
    ):
        raise Corruption("a result row holds something else than events and outcomes")
    return ordered, rows


def _is_event(event: Any) -> bool:
    """Whether it is a list that begins with what the indexes need of it."""
    if type(event) is not list or not event or not _is_number(event[0], 32):
        return False
    return event[0] != EPOCH_EVENT or (len(event) > 2 and _is_number(event[1], 16) and _is_number(event[2], 32))


def _is_number(value: Any, bits: int) -> bool:
    return type(value) is int and 0 <= value < 1 << bits


def _loads(data: bytes, what: str, head: bytes, levels: int) -> Any:
    """`head`: the first byte of every such row; `levels`: of arrays in it. Raises Corruption."""
    if data[:1] != head:
        raise Corruption(f"{what} does not begin as one")
    try:
        return cbor2.loads(
            data, max_depth=levels, allow_indefinite=False, allow_duplicate_keys=False, tag_hook=_refuse_tag,
            semantic_decoders=_REFUSED_TAGS,
        )
    except Exception as error:
        raise Corruption(f"{what} does not decode ({type(error).__name__})") from None
