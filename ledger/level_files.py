"""What LevelDB does not notice when it opens a directory: damage that looks like the end of a file, and a missing log.

A log, and the MANIFEST which has the same form, is a run of 32 KiB blocks of records: checksum (4 bytes), length (2), type
(1), data. A write that a power loss tore off leaves an incomplete record at the end, and LevelDB rightly goes on without
it. But it reads a damaged length in the last block in the same way, and forgets that record and all behind it without a
word. Here the two are told apart: behind the header of a torn record there is never the whole of it. Likewise a header of
zeros ends a block without a word; real zeros have nothing behind them.

The newest MANIFEST names the tables with their sizes, and the log that is written to. All of them were there before they
were named: if one is not, or is shorter, rows are gone.

All of this costs a look at each record's header, and a checksum only where a file ends in the middle of a record.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .errors import Corruption, DiskFailure

BLOCK_BYTES: Final = 32 * 1024
HEADER_BYTES: Final = 7
MAX_FILE_BYTES: Final = 256 << 20

FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4

# Fields of a MANIFEST's record ("version edit"), by tag: how to step over each.
_LOG_NUMBER, _TABLE_GONE, _TABLE_NEW = 2, 6, 7
_MAX_SHIFT: Final = 63
_FORMS: Final = {1: "s", 2: "n", 3: "n", 4: "n", 5: "ns", 6: "nn", 7: "nnnss", 9: "n"}  # n: number, s: byte string


def check_files(folder: Path) -> None:
    """Raises Corruption for damage in the MANIFEST and the logs that LevelDB would take for their end."""
    manifest = folder / _read(folder / "CURRENT").decode(errors="replace").strip()
    if not manifest.is_file():
        raise Corruption(f"{folder}: the manifest that CURRENT names is missing")
    data = _read(manifest)
    check_log(data, str(manifest))
    log_number, tables = _named(data)
    for number, size in sorted(tables.items()):
        check_table(folder, number, size)
    logs = {int(path.stem): path for path in folder.glob("*.log") if path.stem.isdecimal()}
    if log_number and log_number not in logs:
        raise Corruption(f"{folder}: the log {log_number:06} is missing, and with it the newest rows")
    for number, path in sorted(logs.items()):
        if number >= log_number:
            check_log(_read(path), str(path))


def live_tables(folder: Path) -> list[str]:
    """Names of the tables that belong to the database; others are left from before and go at the next opening."""
    _, tables = _named(_read(folder / _read(folder / "CURRENT").decode(errors="replace").strip()))
    return [f"{number:06}.ldb" for number in sorted(tables)]


def check_table(folder: Path, number: int, size: int) -> None:
    """Raises Corruption unless the table is there and as long as it was made."""
    for path in (folder / f"{number:06}.ldb", folder / f"{number:06}.sst"):
        if path.is_file():
            found = path.stat().st_size
            if found != size:
                raise Corruption(f"{path}: {found} bytes, {size} were written")
            return
    raise Corruption(f"{folder}: the table {number:06} is missing, and with it rows")


def check_log(data: bytes, name: str) -> None:
    """Raises Corruption if a log ends where its writer did not end it. Damage elsewhere is left to LevelDB's checksums."""
    for start, length in records(data):
        if length == 0 and data[start + 6] == 0:
            if data[start:].strip(b"\0"):
                raise Corruption(f"{name}: zeros at {start} instead of a record")
            return
        if start + HEADER_BYTES + length > len(data) and _holds_whole_record(data, start):
            raise Corruption(f"{name}: the length of the record at {start} is damaged")


def records(data: bytes) -> Iterator[tuple[int, int]]:
    """(start, length of its data) of each physical record, as its header says; the last may reach beyond the end."""
    position = 0
    while position + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:
            position += left  # filled with zeros
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        yield position, length
        if HEADER_BYTES + length > left:
            position += left  # a damaged length in a block that is not the last: LevelDB reports it
        elif length == 0 and data[position + 6] == 0:
            return
        else:
            position += HEADER_BYTES + length


def _holds_whole_record(data: bytes, start: int) -> bool:
    """Some beginning of what follows the header has the record's checksum: it is all there."""
    wanted = int.from_bytes(data[start : start + 4], "little")
    end = min(len(data), start - start % BLOCK_BYTES + BLOCK_BYTES)
    crc = _extend(0xFFFFFFFF, data[start + 6])
    for byte in data[start + HEADER_BYTES : end]:
        if _masked(crc ^ 0xFFFFFFFF) == wanted:
            return True
        crc = _extend(crc, byte)
    return _masked(crc ^ 0xFFFFFFFF) == wanted


# --- the manifest ------------------------------------------------------------------------------------------------


def _named(manifest: bytes) -> tuple[int, dict[int, int]]:
    """The log that is written to (0: none), and the tables with their sizes. Of what reads: the rest LevelDB will refuse."""
    log_number, tables = 0, dict[int, int]()
    for edit in _edits(manifest):
        try:
            for tag, numbers in _fields(edit):
                if tag == _LOG_NUMBER:
                    log_number = numbers[0]
                elif tag == _TABLE_GONE:
                    tables.pop(numbers[1], None)
                elif tag == _TABLE_NEW:
                    tables[numbers[1]] = numbers[2]
        except LookupError:
            return 0, {}
    return log_number, tables


def _edits(data: bytes) -> Iterator[bytes]:
    """Whole logical records, in order."""
    parts = bytearray()
    for start, length in records(data):
        end = start + HEADER_BYTES + length
        if end > len(data):
            return
        kind = data[start + 6]
        if kind in (FULL, FIRST):
            parts.clear()
        parts += data[start + HEADER_BYTES : end]
        if kind in (FULL, LAST):
            yield bytes(parts)


def _fields(edit: bytes) -> Iterator[tuple[int, list[int]]]:
    """(tag, numbers) of each field; of a byte string the number is its length."""
    position = 0
    while position < len(edit):
        tag, position = _varint(edit, position)
        numbers = []
        for form in _FORMS[tag]:
            number, position = _varint(edit, position)
            numbers.append(number)
            if form == "s":
                position += number
        yield tag, numbers


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        value |= (byte & 0x7F) << shift
        position += 1
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > _MAX_SHIFT:
            raise LookupError("a number of more than 64 bits")


# --- CRC-32C, masked as LevelDB stores it ------------------------------------------------------------------------

_POLYNOMIAL: Final = 0x82F63B78


def _table() -> list[int]:
    rows = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        rows.append(value)
    return rows


_TABLE: Final = _table()


def _extend(crc: int, byte: int) -> int:
    return _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def checksum(kind: int, data: bytes) -> int:
    """Checksum of a record of that type."""
    crc = _extend(0xFFFFFFFF, kind)
    for byte in data:
        crc = _extend(crc, byte)
    return _masked(crc ^ 0xFFFFFFFF)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MAX_FILE_BYTES)
    except OSError as error:
        raise DiskFailure(f"{path} cannot be read: {error.strerror}") from None
