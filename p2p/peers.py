"""The address book: signed records of where other nodes listen, learned from the peer exchange and kept on disk.

A record is believed only if its node key signed it for this genesis, it has not expired, its address may be dialled,
and it is newer than what is known. One source network may fill only a small part of the book, and addresses that
answered before are tried first and survive a restart: together they make it expensive to surround a node with false
peers.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ledger.client.dial import dialable
from ledger.codec import BOOL, U16, U64, Bytes, ListOf, Record, decode, encode
from ledger.errors import DecodeError

from .addresses import peer_id_of_public
from .messages import MAX_RECORD_BYTES, MAX_RECORDS, PeerRecord

MAX_ENTRIES: Final = 1000
MAX_PER_GROUP: Final = 32  # of one /16 (IPv4) or /32 (IPv6); not applied where private addresses are allowed
RECORD_LIFE_MS: Final = 3_600_000
MAX_AHEAD_MS: Final = 2 * RECORD_LIFE_MS  # an expiry further away than this is a lie
FILE_VERSION: Final = 1
MAX_FILE_BYTES: Final = MAX_ENTRIES * (MAX_RECORD_BYTES + 32)

_FILE = Record("peers", version=U16, entries=ListOf(Bytes(high=MAX_RECORD_BYTES + 24), MAX_ENTRIES))
_ENTRY = Record("entry", record=Bytes(high=MAX_RECORD_BYTES), answered=BOOL, seen_ms=U64)


@dataclass(slots=True)
class Entry:
    """What is known of one peer. `answered`: a connection to it succeeded once."""

    record: PeerRecord
    answered: bool
    seen_ms: int

    @property
    def ip(self) -> str:
        return str(ipaddress.ip_address(self.record.ip))

    @property
    def group(self) -> bytes:
        return self.record.ip[: 2 if len(self.record.ip) == 4 else 4]


class AddressBook:
    """In memory; `load` and `dump` convert to and from bytes. Times are wall-clock milliseconds given by the caller."""

    def __init__(self, genesis_hash: bytes, own: str, *, allow_private: bool) -> None:
        self.genesis_hash, self.own, self.allow_private = genesis_hash, own, allow_private
        self.entries: dict[str, Entry] = {}
        self.changed = False

    def add(self, record: PeerRecord, now_ms: int) -> bool:
        """True if the record was new and is now in the book. A bad signature raises DecodeError: it is a fault."""
        peer = peer_id_of_public(record.public)
        known = self.entries.get(peer)
        if peer == self.own or (known and known.record.sequence >= record.sequence):
            return False
        if not now_ms < record.expiry_ms <= now_ms + MAX_AHEAD_MS:
            return False
        if not dialable(str(ipaddress.ip_address(record.ip)), record.port, allow_private=self.allow_private):
            return False
        if not record.verify(self.genesis_hash):
            raise DecodeError("signature is not the node key's", where="peer.signature")
        entry = Entry(record, bool(known and known.answered and known.record.ip == record.ip), now_ms)
        if known is None and not self._room(entry, now_ms):
            return False
        self.entries[peer] = entry
        self.changed = True
        return True

    def _room(self, entry: Entry, now_ms: int) -> bool:
        if not self.allow_private and sum(e.group == entry.group for e in self.entries.values()) >= MAX_PER_GROUP:
            return False
        if len(self.entries) < MAX_ENTRIES:
            return True
        for peer in [peer for peer, e in self.entries.items() if e.record.expiry_ms <= now_ms and not e.answered]:
            del self.entries[peer]
        if len(self.entries) < MAX_ENTRIES:
            return True
        strangers = [peer for peer, e in self.entries.items() if not e.answered]
        if not strangers:
            return False
        del self.entries[min(strangers, key=lambda peer: self.entries[peer].seen_ms)]
        return True

    def answered(self, peer: str, now_ms: int) -> None:
        """A connection to that peer's recorded address succeeded."""
        entry = self.entries.get(peer)
        if entry:
            entry.answered, entry.seen_ms, self.changed = True, now_ms, True

    def silent(self, peer: str) -> None:
        """Its address was tried until the plan gave up: it goes to the end, and out if it never answered."""
        entry = self.entries.get(peer)
        if entry is None:
            return
        self.changed = True
        if entry.answered:
            entry.answered, entry.seen_ms = False, 0
        else:
            del self.entries[peer]

    def candidates(self, exclude: Collection[str], limit: int) -> list[tuple[str, str, int]]:
        """(peer, ip, port) worth dialling: those that answered before first, then the most recently seen."""
        found = [(peer, e) for peer, e in self.entries.items() if peer not in exclude]
        found.sort(key=lambda item: (not item[1].answered, -item[1].seen_ms, item[0]))
        return [(peer, e.ip, e.record.port) for peer, e in found[:limit]]

    def fresh(self, now_ms: int) -> list[PeerRecord]:
        """The records to pass on: unexpired, most recently seen first, one place left for the sender's own."""
        alive = [e for e in self.entries.values() if e.record.expiry_ms > now_ms]
        alive.sort(key=lambda e: -e.seen_ms)
        return [e.record for e in alive[: MAX_RECORDS - 1]]

    def dump(self) -> bytes:
        """Bytes of the book's file."""
        self.changed = False
        rows = [encode([e.record.encode(), e.answered, e.seen_ms]) for e in self.entries.values()]
        return encode([FILE_VERSION, rows])

    def load(self, data: bytes) -> None:
        """Take over what a file held. Raises DecodeError; entries that may no longer be dialled are left out."""
        value = decode(data, max_bytes=MAX_FILE_BYTES, where="peers")
        _FILE.check(value)
        if value[0] != FILE_VERSION:
            raise DecodeError(f"version {value[0]}, expected {FILE_VERSION}", where="peers.version")
        for row in value[1]:
            fields = decode(row, where="peers.entry")
            _ENTRY.check(fields, "peers.entry")
            entry = Entry(PeerRecord.decode(fields[0]), fields[1], fields[2])
            if entry.record.verify(self.genesis_hash) and dialable(
                entry.ip, entry.record.port, allow_private=self.allow_private
            ):
                self.entries[peer_id_of_public(entry.record.public)] = entry


def read_book(path: Path) -> bytes:
    """Bytes of the book's file, or b"" if there is none. At most the largest book's size is read."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return b""


def write_book(path: Path, data: bytes) -> None:
    """Replace the file in one step. Losing it costs nothing but a slower start, so it is not synced."""
    temporary = path.with_suffix(".new")
    temporary.write_bytes(data)
    os.replace(temporary, path)
