"""Blocks that are not whole any more: what a damaged database lost of its past, written down so that nobody takes it for more
damage, or for nothing.

`m/lost` holds their heights as ranges [first, last]. It is written when a repair keeps a database whose head and state are
sound (`tools/ops/db_salvage.py`), and goes when the blocks are back (`tools/ops/db_refill.py`). Of such a block any of header,
body, certificate and results may be gone; what is there is its own. Its transactions are in no index.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from .blocks import Body, Header, events_root
from .codec import U64, ListOf, Record, decode, encode
from .errors import UNREADABLE, Corruption, DecodeError
from .layout import BODY, CERTIFICATE, HEADER, LOST_KEY, RESULT, at, decode_result
from .store import Snapshot
from .votes import PRECOMMIT, Certificate

MAX_LOST_RANGES: Final = 1_000
MAX_LOST_BLOCKS: Final = 20_000

_ROW: Final = ListOf(Record("range", first=U64, last=U64), MAX_LOST_RANGES, low=1)


def lost_blocks(rows: Snapshot) -> frozenset[int]:
    """Heights of the blocks that are not whole here. Raises Corruption."""
    row = rows.get(LOST_KEY)
    if row is None:
        return frozenset()
    try:
        _ROW.check(found := decode(row, where="lost blocks"), "lost blocks")
    except DecodeError as error:
        raise Corruption(f"the row of lost blocks does not decode ({error.cause})") from None
    if any(first > last for first, last in found) or sum(last - first + 1 for first, last in found) > MAX_LOST_BLOCKS:
        raise Corruption("the row of lost blocks is damaged")
    heights = frozenset(height for first, last in found for height in range(first, last + 1))
    if spans(heights) != [tuple(each) for each in found]:
        raise Corruption("the row of lost blocks is damaged")
    return heights


def lost_row(heights: Iterable[int]) -> bytes | None:
    """Value of `m/lost`; None (no row) if no block is lost. Raises Corruption if they are too many to go on without."""
    found = spans(heights)
    if len(found) > MAX_LOST_RANGES or sum(last - first + 1 for first, last in found) > MAX_LOST_BLOCKS:
        raise Corruption("too many blocks are lost")
    return encode([list(each) for each in found]) if found else None


def spans(heights: Iterable[int]) -> list[tuple[int, int]]:
    """Ranges (first, last) of consecutive heights, ascending."""
    found: list[tuple[int, int]] = []
    for height in sorted(heights):
        if found and found[-1][1] + 1 == height:
            found[-1] = found[-1][0], height
        else:
            found.append((height, height))
    return found


def described(heights: Iterable[int]) -> str:
    """For people: "3, 7 to 9"."""
    return ", ".join(str(first) if first == last else f"{first} to {last}" for first, last in spans(heights))


@dataclass(frozen=True)
class StoredBlock:
    """What can be read of one block's rows; each part is None where it is missing, damaged or not that of the header.

    `body`, `certificate` and `result` of a block whose header is gone are only known to decode.
    """

    height: int
    header: Header | None
    body: Body | None
    certificate: Certificate | None
    result: bytes | None

    @property
    def missing(self) -> list[str]:
        """Names of the parts that are gone."""
        parts = {"header": self.header, "body": self.body, "certificate": self.certificate, "results": self.result}
        return [name for name, part in parts.items() if part is None]

    @property
    def needs_block(self) -> bool:
        """It cannot be executed again: more is gone than the results."""
        return self.header is None or self.body is None or self.certificate is None


def stored_block(rows: Snapshot, height: int) -> StoredBlock:
    """Read a block of a database that may be damaged. A lost certificate is taken from the block above; none is verified."""
    header, body = _header(rows, height), _body(rows, height)
    if header is not None and body is not None and not is_body_of(header, body):
        body = None
    return StoredBlock(height, header, body, _certificate(rows, height, header), _result(rows, height, header))


def is_body_of(header: Header, body: Body) -> bool:
    return body.cert_hash == header.parent_cert_hash and body.extrinsics_root == header.extrinsics_root


def _header(rows: Snapshot, height: int) -> Header | None:
    try:
        header = Header.decode(rows.get(at(HEADER, height)) or b"")
    except UNREADABLE:
        return None
    return header if header.height == height else None


def _body(rows: Snapshot, height: int) -> Body | None:
    try:
        return Body.decode(rows.get(at(BODY, height)) or b"")
    except UNREADABLE:
        return None


def _result(rows: Snapshot, height: int, header: Header | None) -> bytes | None:
    try:
        row = rows.get(at(RESULT, height)) or b""
        root = events_root(*decode_result(row))
    except UNREADABLE:
        return None
    return row if header is None or root == header.events_root else None


def _certificate(rows: Snapshot, height: int, header: Header | None) -> Certificate | None:
    for from_above in (False, True):
        try:
            if from_above:
                found = Certificate.decode(Body.decode(rows.get(at(BODY, height + 1)) or b"").parent_cert)
            else:
                found = Certificate.decode(rows.get(at(CERTIFICATE, height)) or b"")
        except UNREADABLE:
            continue
        named = found.block_hash if header is None else header.hash
        if (found.kind, found.height, found.block_hash) == (PRECOMMIT, height, named):
            return found
    return None
