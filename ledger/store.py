"""The store: an ordered map of bytes with atomic batches. LevelStore keeps it on disk, MemoryStore in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol


class Snapshot(Protocol):
    """An immutable picture of the store."""

    def get(self, key: bytes) -> bytes | None: ...

    def items(self, prefix: bytes, after: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        """Pairs whose key starts with `prefix`, ascending (or descending); only keys beyond `after` if it is given."""
        ...


class Store(Snapshot, Protocol):
    """`get` and `items` as of now; `write` applies all puts and deletes (None) of a batch or none of them."""

    def write(self, batch: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        """With `sync`, the batch is durable when this returns. Raises DiskFailure."""
        ...

    def snapshot(self) -> Snapshot: ...

    def close(self) -> None: ...
