"""The store: an ordered map of bytes with atomic batches. LevelStore keeps it on disk, MemoryStore in memory.

LevelDB is opened with paranoid checks and every read verifies checksums: without them one flipped bit can lose rows in
the middle of the log unnoticed. What it does not notice even then is looked for first (`ledger/level_files.py`). A
database is made by `create` and found by `open`; `open` never makes one, because LevelDB would otherwise cover up a lost
file with a new, empty database.

Failures: Locked (another process), Corruption, DiskFailure (any failed read, write or sync), NotFound (no database).
The rows `m/schema` and `m/genesis` say what a database is: see `stamp` and `check_stamp`.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Protocol

from .errors import Corruption, DiskFailure, Error, Locked, NewerSchema, NotFound, WrongGenesis
from .level_files import check_files

WRITE_BUFFER_BYTES: Final = 4 << 20
CACHE_BYTES: Final = 8 << 20
MAX_OPEN_FILES: Final = 64
BLOOM_FILTER_BITS: Final = 10

BEYOND_ALL_KEYS: Final = b"\xff" * 64

SCHEMA_KEY: Final = b"m/schema"
GENESIS_KEY: Final = b"m/genesis"


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


# --- what a database is ------------------------------------------------------------------------------------------


def stamp(schema: int, genesis_hash: bytes) -> dict[bytes, bytes | None]:
    """Rows that name the schema and the chain of a new database; part of its first batch."""
    return {SCHEMA_KEY: schema.to_bytes(4, "big"), GENESIS_KEY: genesis_hash}


def check_stamp(store: Snapshot, schema: int, genesis_hash: bytes) -> None:
    """Raises Corruption (no stamp), NewerSchema or WrongGenesis if the database is not of this schema and chain."""
    found, genesis = store.get(SCHEMA_KEY), store.get(GENESIS_KEY)
    if found is None or genesis is None or len(found) != 4:
        raise Corruption("the database has no stamp: it was never completely created")
    if int.from_bytes(found, "big") > schema:
        raise NewerSchema(
            f"the database has schema {int.from_bytes(found, 'big')}, this program knows {schema}",
            hint="use the version of Quorix that wrote it, or a newer one",
        )
    if int.from_bytes(found, "big") < schema:
        raise Corruption(f"the database has schema {int.from_bytes(found, 'big')}, which was never released")
    if genesis != genesis_hash:
        raise WrongGenesis(
            f"the database belongs to the chain {genesis.hex()[:16]}, the specification says {genesis_hash.hex()[:16]}",
            hint="use another home, or the specification with which this database was made",
        )


def prefix_end(prefix: bytes) -> bytes | None:
    """The smallest key above all keys with this prefix, None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes((stripped[-1] + 1,)) if stripped else None


# --- LevelDB -----------------------------------------------------------------------------------------------------


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """Turns plyvel's errors into ours."""
    import plyvel

    try:
        yield
    except plyvel.CorruptionError as error:
        raise Corruption(f"{path}: {_words(error)}") from error
    except (plyvel.Error, OSError) as error:
        raise _failure(path, error) from error


def _failure(path: str, error: Exception) -> Error:
    """What stands in the way of the database, and what to do about it."""
    words = _words(error)
    if any(sign in words for sign in _HELD):
        return Locked(f"{path} is open in another process", hint="stop that node first")
    for sign, (cause, hint) in _OBSTACLES.items():
        if sign in words:
            return DiskFailure(f"{path}: {cause} ({words})", hint=hint)
    return DiskFailure(f"{path}: {words}", hint="check the disk and its free space, then start again")


def _words(error: Exception) -> str:
    """The message of an error; plyvel gives it as bytes."""
    first = error.args[0] if error.args else error
    return first.decode(errors="replace") if isinstance(first, bytes) else str(error)


_HELD: Final = ("already held by process", "Resource temporarily unavailable")
_OBSTACLES: Final = {
    "No space left": ("the disk is full", "free some space, then start again; what was acknowledged is on the disk"),
    "Disk quota": ("the quota is used up", "free some space, then start again; what was acknowledged is on the disk"),
    "File too large": ("a file may not grow further", "raise the limit on file sizes (ulimit -f), then start again"),
    "Input/output error": ("the disk fails", "look at the system's log; replace the disk, then restore or sync again"),
    "Read-only file system": ("the file system is read-only", "look at the system's log for why, remount it, start again"),
    "Permission denied": ("this user may not write there", "start as the folder's owner, or give this user the folder"),
}


class _LevelReader:
    """Reads from a LevelDB database or one of its snapshots."""

    def __init__(self, source: Any, path: str) -> None:
        self._source, self._path = source, path

    def get(self, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._source.get(key, verify_checksums=True)
        except Exception:
            with _translated(self._path):
                raise
        return value

    def items(self, prefix: bytes, after: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        start: bytes | None = prefix
        stop, include_start = prefix_end(prefix), True
        if reverse:
            start = None  # plyvel 1.5.1 finds nothing going back to a start key that is the only one; see the loop's end
            stop = min(stop or after, after) if after else stop
        elif after and after >= prefix:
            start, include_start = after, False
        with _translated(self._path):
            with self._source.iterator(
                start=start, stop=stop, include_start=include_start, reverse=reverse, verify_checksums=True
            ) as rows:
                for row in rows:
                    if row[0] < prefix:
                        return
                    yield row


class LevelStore(_LevelReader):
    """A LevelDB directory. Any thread may read and write."""

    def __init__(self, db: Any, path: str) -> None:
        super().__init__(db, path)
        self._db = db
        self._snapshots: weakref.WeakSet[_LevelReader] = weakref.WeakSet()

    @classmethod
    def create(
        cls, path: str | Path, *, write_buffer_bytes: int = WRITE_BUFFER_BYTES, cache_bytes: int = CACHE_BYTES
    ) -> LevelStore:
        """Make a new, empty database. Raises Error if one with rows is there already."""
        folder = Path(path)
        if folder.is_dir() and any(folder.iterdir()):
            # A creation that was interrupted before its first batch left a database without rows: go on with it.
            store = cls.open(folder, write_buffer_bytes=write_buffer_bytes, cache_bytes=cache_bytes)
            if next(store.items(b""), None) is not None:
                store.close()
                raise Error(f"{folder} already holds a database", hint="open it, or choose another home")
            return store
        with _translated(str(folder)):
            folder.mkdir(parents=True, exist_ok=True)
        return cls(_open_level(folder, True, write_buffer_bytes, cache_bytes), str(folder))

    @classmethod
    def open(
        cls, path: str | Path, *, write_buffer_bytes: int = WRITE_BUFFER_BYTES, cache_bytes: int = CACHE_BYTES
    ) -> LevelStore:
        """Open an existing database. Raises NotFound, Locked, Corruption or DiskFailure."""
        folder = Path(path)
        if not (folder / "CURRENT").is_file():
            if folder.is_dir() and any(folder.iterdir()):
                raise Corruption(f"{folder} has lost its CURRENT file")
            raise NotFound(f"no database at {folder}")
        check_files(folder)
        return cls(_open_level(folder, False, write_buffer_bytes, cache_bytes), str(folder))

    def write(self, batch: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        with _translated(self._path):
            rows = self._db.write_batch(sync=sync)
            for key, value in batch.items():
                if value is None:
                    rows.delete(key)
                else:
                    rows.put(key, value)
            rows.write()

    def snapshot(self) -> Snapshot:
        made = _LevelReader(self._db.snapshot(), self._path)
        self._snapshots.add(made)
        return made

    def compact(self) -> None:
        """Rewrite all files without what was deleted. Raises DiskFailure or Corruption."""
        with _translated(self._path):
            self._db.compact_range(start=b"", stop=BEYOND_ALL_KEYS)  # plyvel takes no bounds for the empty range
            self._db.write_batch(sync=True).write()  # compacting tells nobody that it failed; from then on writes do

    def close(self) -> None:
        """Close the database, and the snapshots that are still held: plyvel crashes if it frees one after its database."""
        for held in list(self._snapshots):
            held._source.close()
        self._db.close()


def _open_level(folder: Path, create: bool, write_buffer_bytes: int, cache_bytes: int) -> Any:
    import plyvel

    try:
        return plyvel.DB(
            str(folder), create_if_missing=create, error_if_exists=create, paranoid_checks=True,
            write_buffer_size=write_buffer_bytes, lru_cache_size=cache_bytes, max_open_files=MAX_OPEN_FILES,
            bloom_filter_bits=BLOOM_FILTER_BITS, compression=None,  # most of what is written are hashes and signatures
        )
    except plyvel.CorruptionError as error:
        raise Corruption(f"{folder}: {_words(error)}") from error
    except (plyvel.Error, OSError) as error:
        raise _failure(str(folder), error) from error


# --- memory ------------------------------------------------------------------------------------------------------


class MemoryStore:
    """The same in memory, for tests and simulations. Any thread may read and write."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}
        self._keys: list[bytes] = []  # ascending
        self._lock = threading.RLock()
        self._snapshots: weakref.WeakSet[_MemorySnapshot] = weakref.WeakSet()

    def get(self, key: bytes) -> bytes | None:
        return self._rows.get(key)

    def items(self, prefix: bytes, after: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        with self._lock:
            rows = self._rows
            found = [(key, rows[key]) for key in _range(self._keys, prefix, after, reverse)]
        return iter(found[::-1] if reverse else found)

    def write(self, batch: Mapping[bytes, bytes | None], *, sync: bool) -> None:
        with self._lock:
            for snapshot in self._snapshots:
                for key in batch:
                    snapshot.before.setdefault(key, self._rows.get(key))
            added = [key for key, value in batch.items() if value is not None and key not in self._rows]
            removed = {key for key, value in batch.items() if value is None and key in self._rows}
            for key, value in batch.items():
                if value is not None:
                    self._rows[key] = value
                else:
                    self._rows.pop(key, None)
            if removed:
                self._keys = [key for key in self._keys if key not in removed]
            if added:
                self._keys += added
                self._keys.sort()

    def snapshot(self) -> Snapshot:
        with self._lock:
            snapshot = _MemorySnapshot(self)
            self._snapshots.add(snapshot)
            return snapshot

    def close(self) -> None:
        """Nothing to do; the rows stay readable."""


class _MemorySnapshot:
    """The store as it was: its rows of now, but for those changed since, whose old values are in `before`."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.before: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        with self._store._lock:
            return self.before[key] if key in self.before else self._store.get(key)

    def items(self, prefix: bytes, after: bytes = b"", *, reverse: bool = False) -> Iterator[tuple[bytes, bytes]]:
        with self._store._lock:
            rows: dict[bytes, bytes | None] = dict(self._store.items(prefix, after, reverse=reverse))
            changed = sorted(self.before)
            rows.update((key, self.before[key]) for key in _range(changed, prefix, after, reverse))
        return iter([(key, value) for key, value in sorted(rows.items(), reverse=reverse) if value is not None])


def _range(keys: list[bytes], prefix: bytes, after: bytes, reverse: bool) -> list[bytes]:
    """The keys (ascending) that start with `prefix` and lie beyond `after`."""
    end = prefix_end(prefix)
    low = bisect_left(keys, prefix)
    high = len(keys) if end is None else bisect_left(keys, end)
    if after and reverse:
        high = min(high, bisect_left(keys, after))
    elif after:
        low = max(low, bisect_right(keys, after))
    return keys[low:high]
