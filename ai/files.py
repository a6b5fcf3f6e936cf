"""Files that several processes share: written whole or not at all, and checked before they are believed."""

from __future__ import annotations

import os
import tempfile
from hashlib import blake2b
from pathlib import Path


def cache_dir() -> Path:
    """`QUORIX_CACHE`, or the platform's cache directory of Quorix. Shared by all homes; safe to delete."""
    named = os.environ.get("QUORIX_CACHE")
    if named:
        return Path(named).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("quorix", appauthor=False)


def write_atomic(path: Path, data: bytes) -> None:
    """Write `data` so that a reader sees the old file, none, or the whole new one; synced before it gets its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except BaseException:
        os.unlink(scratch)
        raise


def read_bounded(path: Path, *, max_bytes: int) -> bytes | None:
    """The file's bytes, or None if it is absent or larger than `max_bytes`. The size is looked at before it is read."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > max_bytes:
                return None
            return file.read(max_bytes)
    except FileNotFoundError:
        return None


def read_verified(path: Path, *, max_bytes: int) -> bytes | None:
    """The bytes after a leading 32-byte blake2b of them; None if the file is absent, too large or does not match."""
    data = read_bounded(path, max_bytes=max_bytes)
    if data is None or len(data) < 32 or blake2b(data[32:], digest_size=32).digest() != data[:32]:
        return None
    return data[32:]
