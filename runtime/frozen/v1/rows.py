"""Rows of a sparse matrix, packed: how large subnets keep weights and bonds without an object for every entry.

`PackedRows` is a sequence of rows like any list of rows, each made when it is asked for; its bytes are those of the
epoch's record (`trace`), and of numpy arrays (`yuma_arrays`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import accumulate
from typing import Final, overload

from ledger.codec import pack_u16

Row = list[tuple[int, int]]
Rows = Sequence[Row]
Bytes = bytes | memoryview  # of unsigned bytes

U16_BYTES: Final = 2
U64_BYTES: Final = 8


class PackedRows(Sequence[Row]):
    """Immutable rows of (uid, value), ascending by uid within a row.

    lengths: u16 entries of each row; uids: u16 of all rows, one after the other; values: u16 or u64
    (`value_bytes` each) beside them. All little-endian.
    """

    def __init__(self, lengths: bytes, uids: Bytes, values: Bytes, value_bytes: int) -> None:
        assert len(uids) * value_bytes == len(values) * U16_BYTES, "as many uids as values"
        self.lengths, self.uids, self.values, self.value_bytes = lengths, uids, values, value_bytes

    @classmethod
    def from_pairs(cls, rows: Iterable[bytes]) -> PackedRows:
        """Rows as the state stores them: u16 pairs (uid, value) in one byte string each."""
        parts = list(rows)
        flat = memoryview(b"".join(parts)).cast("H")
        lengths = pack_u16([len(part) // (2 * U16_BYTES) for part in parts])
        return cls(lengths, flat[::2].tobytes(), flat[1::2].tobytes(), U16_BYTES)

    def pairs(self, index: int) -> bytes:
        """One row of u16 values as the state stores it."""
        assert self.value_bytes == U16_BYTES
        start, stop = self._ends[index], self._ends[index + 1]
        out = bytearray(2 * U16_BYTES * (stop - start))
        flat = memoryview(out).cast("H")
        flat[::2] = memoryview(self.uids).cast("H")[start:stop]
        flat[1::2] = memoryview(self.values).cast("H")[start:stop]
        return bytes(out)

    @property
    def entries(self) -> int:
        """Entries of all rows together."""
        return len(self.uids) // U16_BYTES

    @cached_property
    def _ends(self) -> list[int]:
        return [0, *accumulate(memoryview(self.lengths).cast("H"))]

    def __len__(self) -> int:
        return len(self.lengths) // U16_BYTES

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[each] for each in range(len(self))[index]]
        index = range(len(self))[index]
        start, stop = self._ends[index], self._ends[index + 1]
        raw, uids = memoryview(self.values), memoryview(self.uids).cast("H")
        values = raw.cast("H") if self.value_bytes == U16_BYTES else raw.cast("Q")
        return list(zip(uids[start:stop].tolist(), values[start:stop].tolist(), strict=True))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedRows) and other.value_bytes == self.value_bytes:
            return (self.lengths, self.uids, self.values) == (other.lengths, other.uids, other.values)
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedRows({len(self)} rows, {self.entries} entries)"


def entry_count(rows: Rows) -> int:
    """Entries of all rows together."""
    return rows.entries if isinstance(rows, PackedRows) else sum(len(row) for row in rows)
