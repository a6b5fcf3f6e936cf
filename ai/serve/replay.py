"""Every OPEN is served once: the set of (caller, nonce) seen, in memory and on disk.

An OPEN may be accepted while its `issued_at` lies within 30 s of the clock, so it is remembered until 30 s after that
time. The set is a ring of one-second buckets; it holds at most 100,000 entries, of which one caller at most an eighth,
and when it is full the neuron is `busy`: nothing is forgotten early. Keys cost nothing, so strangers are only let in while
half of it is free: however many keys they use, members of the subnet find room. A clock that is set back revives nothing,
because what has been forgotten is refused by the time up to which the set has forgotten.

On disk the same entries are 56 bytes each (caller, nonce, issued_at), written before the work starts, in two files
that take turns. There is no sync: a killed process loses nothing. After a reboot the files may be incomplete, which the
machine's boot id in their head reveals; OPENs issued before this start are then `stale`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from ai.files import read_bounded, write_atomic
from ledger.errors import DiskFailure

from .frames import CLOCK_WINDOW_MS
from .refusals import Refused

MAX_SEEN: Final = 100_000
MAX_SEEN_PER_CALLER: Final = MAX_SEEN // 8
MAX_SEEN_FOR_STRANGERS: Final = MAX_SEEN // 2
BUCKET_MS: Final = 1_000
FULL_RETRY_MS: Final = 5_000

ENTRY_BYTES: Final = 32 + 16 + 8
HEAD_BYTES: Final = 16
FILE_MAX_BYTES: Final = HEAD_BYTES + 4 * MAX_SEEN * ENTRY_BYTES  # what a minute can bring, with room
HALF_SPAN_MS: Final = 2 * CLOCK_WINDOW_MS + BUCKET_MS  # an entry may be issued 30 s ahead and matters 30 s longer


class SeenSet:
    """The set in memory. The clock comes in as an argument (unix milliseconds)."""

    def __init__(self, not_before_ms: int = 0) -> None:
        """`not_before_ms`: OPENs issued earlier are stale (start-up without a trustworthy file)."""
        self._buckets: dict[int, set[bytes]] = {}
        self._per_caller: dict[bytes, int] = {}
        self._size = 0
        self._forgotten_ms = not_before_ms  # whatever was issued before this is not known any more

    def __len__(self) -> int:
        return self._size

    def check(self, caller: bytes, nonce: bytes, issued_at_ms: int, now_ms: int, *, stranger: bool = False) -> None:
        """Raises Refused stale, replayed, or busy where there is no room for it. Remembers nothing."""
        self._forget(now_ms)
        if issued_at_ms < self._forgotten_ms:
            raise Refused("stale", "issued before what this neuron remembers")
        if caller + nonce in self._buckets.get(issued_at_ms // BUCKET_MS, ()):
            raise Refused("replayed")
        room = MAX_SEEN_FOR_STRANGERS if stranger else MAX_SEEN
        if self._size >= room or self._per_caller.get(caller, 0) >= MAX_SEEN_PER_CALLER:
            raise Refused("busy", "too many sessions in the last minute", retry_after_ms=FULL_RETRY_MS)

    def note(self, caller: bytes, nonce: bytes, issued_at_ms: int, now_ms: int) -> None:
        """Remember an OPEN that `check` let pass and whose signature holds."""
        self._forget(now_ms)
        bucket = self._buckets.setdefault(issued_at_ms // BUCKET_MS, set())
        if caller + nonce not in bucket:
            bucket.add(caller + nonce)
            self._per_caller[caller] = self._per_caller.get(caller, 0) + 1
            self._size += 1

    def _forget(self, now_ms: int) -> None:
        """Drop the buckets that only hold what would be stale by now."""
        oldest = (now_ms - CLOCK_WINDOW_MS) // BUCKET_MS
        if oldest * BUCKET_MS <= self._forgotten_ms:
            return
        for index in [index for index in self._buckets if index < oldest]:
            for entry in self._buckets.pop(index):
                caller, left = entry[:32], self._per_caller[entry[:32]] - 1
                self._size -= 1
                if left:
                    self._per_caller[caller] = left
                else:
                    del self._per_caller[caller]
        self._forgotten_ms = oldest * BUCKET_MS


class ReplayGuard:
    """A SeenSet that outlives the process. One process per file."""

    def __init__(self, path: Path, now_ms: int, boot_id: bytes | None = None) -> None:
        """Reads `path` and `path`.old. `boot_id` (16 bytes) names this run of the machine; default: the kernel's."""
        self._path, self._old = path, path.with_name(path.name + ".old")
        self._head = boot_id if boot_id is not None else machine_boot_id()
        entries = _read(self._path, self._head)
        self._seen = SeenSet(0 if entries is not None else now_ms)
        alive = [
            entry for entry in (_read(self._old, self._head) or []) + (entries or [])
            if entry[2] >= now_ms - CLOCK_WINDOW_MS
        ]  # fmt: skip
        for entry in alive:
            self._seen.note(*entry, now_ms)
        write_atomic(self._path, self._head + b"".join(_encode(*entry) for entry in alive))
        self._began_ms = now_ms
        self._file = self._open()

    def __len__(self) -> int:
        return len(self._seen)

    def check(self, caller: bytes, nonce: bytes, issued_at_ms: int, now_ms: int, *, stranger: bool = False) -> None:
        """As `SeenSet.check`."""
        self._seen.check(caller, nonce, issued_at_ms, now_ms, stranger=stranger)

    def note(self, caller: bytes, nonce: bytes, issued_at_ms: int, now_ms: int) -> None:
        """Remember an OPEN, on disk first. Raises DiskFailure."""
        if now_ms - self._began_ms > HALF_SPAN_MS:
            os.close(self._file)
            os.replace(self._path, self._old)  # what it replaces is older than anything that could still be accepted
            self._file = self._open()
            os.write(self._file, self._head)
            self._began_ms = now_ms
        try:
            whole = os.write(self._file, _encode(caller, nonce, issued_at_ms)) == ENTRY_BYTES
        except OSError:
            whole = False
        if not whole:  # what cannot be remembered must not be served
            raise DiskFailure("the replay file cannot be written")
        self._seen.note(caller, nonce, issued_at_ms, now_ms)

    def close(self) -> None:
        """Close the file; everything is on disk already."""
        os.close(self._file)

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def machine_boot_id() -> bytes:
    """16 bytes that change with every boot; random where the system does not tell, which reads as a reboot."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text()
        return bytes.fromhex(text.strip().replace("-", ""))[:16].ljust(16, b"\0")
    except (OSError, ValueError):
        return os.urandom(16)


def _encode(caller: bytes, nonce: bytes, issued_at_ms: int) -> bytes:
    return caller + nonce + issued_at_ms.to_bytes(8, "big")


def _read(path: Path, head: bytes) -> list[tuple[bytes, bytes, int]] | None:
    """Entries of a file of this boot, a torn last one left out; None where there is no such file to rely on."""
    data = read_bounded(path, max_bytes=FILE_MAX_BYTES)
    if data is None or data[:HEAD_BYTES] != head:
        return None
    whole = HEAD_BYTES + (len(data) - HEAD_BYTES) // ENTRY_BYTES * ENTRY_BYTES
    return [
        (data[at : at + 32], data[at + 32 : at + 48], int.from_bytes(data[at + 48 : at + 56], "big"))
        for at in range(HEAD_BYTES, whole, ENTRY_BYTES)
    ]
