"""Damage that LevelDB takes for the end of a file is refused; what a power loss leaves is not."""

import shutil
import time
from pathlib import Path

import pytest

from ledger.errors import Corruption, NotFound
from ledger.level_files import (
    BLOCK_BYTES,
    FIRST,
    HEADER_BYTES,
    LAST,
    MIDDLE,
    _named,
    check_files,
    check_log,
    checksum,
    records,
)
from ledger.store import LevelStore

BATCHES = 60


def rows(batch: int) -> dict[bytes, bytes | None]:
    return {b"%d/%d" % (batch, index): bytes([index, batch % 251]) * 60 for index in range(8)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a table, and a log of BATCHES batches that spans two blocks."""
    folder = tmp_path_factory.mktemp("level") / "db"
    store = LevelStore.create(folder)
    store.write({b"first": b"row"}, sync=True)
    store.close()
    store = LevelStore.open(folder)  # moves the row into a table
    for batch in range(BATCHES):
        store.write(rows(batch), sync=False)
    store.close()
    assert log_of(folder).stat().st_size > BLOCK_BYTES and list(folder.glob("*.ldb"))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "db"))


def log_of(folder: Path) -> Path:
    return max(folder.glob("*.log"))


def change(path: Path, at: int, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def count(folder: Path) -> int:
    store = LevelStore.open(folder)
    found = sum(1 for _ in store.items(b""))
    store.close()
    return found


def test_a_whole_database_passes(folder: Path) -> None:
    data = log_of(folder).read_bytes()
    for start, length in records(data):
        content = data[start + HEADER_BYTES : start + HEADER_BYTES + length]
        assert checksum(data[start + 6], content) == int.from_bytes(data[start : start + 4], "little")
    check_files(folder)
    assert count(folder) == 1 + 8 * BATCHES


def test_no_flipped_bit_of_a_length_loses_rows_silently(made: Path, tmp_path: Path) -> None:
    """The last block: there LevelDB takes a length that is too large for the end of the log."""
    data = log_of(made).read_bytes()
    noticed = 0
    for start, length in [each for each in records(data) if each[0] >= len(data) // BLOCK_BYTES * BLOCK_BYTES][::3]:
        for bit in range(16):
            changed = length ^ 1 << bit
            if start + HEADER_BYTES + changed <= len(data):
                continue  # within the file: the checksum refuses it
            log = bytearray(data)
            log[start + 4 : start + 6] = changed.to_bytes(2, "little")
            with pytest.raises(Corruption, match="length"):
                check_log(bytes(log), "log")
            noticed += 1
    assert noticed > 10
    damaged = Path(shutil.copytree(made, tmp_path / "db"))
    change(log_of(damaged), list(records(data))[-1][0] + 5, 7)
    with pytest.raises(Corruption, match="length"):
        LevelStore.open(damaged)


@pytest.mark.parametrize("cut", [1, 3, 100, 500, 600, 2000])
def test_a_torn_write_is_no_damage(folder: Path, cut: int) -> None:
    """What was written before the torn batch is there, whole; of that one nothing."""
    log = log_of(folder)
    log.write_bytes(log.read_bytes()[:-cut])
    found = count(folder)
    assert found % 8 == 1 and found >= 1 + 8 * (BATCHES - 3)


def test_a_log_that_ends_in_zeros_is_no_damage_but_zeros_within_are(folder: Path) -> None:
    data = log_of(folder).read_bytes()
    check_log(data + bytes(512), "log")
    start, length = list(records(data))[-2]
    with pytest.raises(Corruption, match="zeros"):
        check_log(data[:start] + bytes(HEADER_BYTES + length) + data[start + HEADER_BYTES + length :], "log")


def test_a_missing_log_is_missed(folder: Path) -> None:
    log_of(folder).unlink()
    with pytest.raises(Corruption, match="log .* is missing"):
        LevelStore.open(folder)


@pytest.mark.parametrize("damage", ["missing", "cut", "longer"])
def test_a_missing_or_cut_table_is_missed(folder: Path, damage: str) -> None:
    table = next(folder.glob("*.ldb"))
    data = table.read_bytes()
    table.unlink()
    if damage != "missing":
        table.write_bytes(data[:-1] if damage == "cut" else data + b"x")
    with pytest.raises(Corruption, match="is missing" if damage == "missing" else "were written"):
        LevelStore.open(folder)


def test_tables_of_many_flushes_are_all_known(tmp_path: Path) -> None:
    """Tables come and go by compactions; those that are named are those that are there."""
    store = LevelStore.create(tmp_path / "db", write_buffer_bytes=1 << 16)
    for batch in range(400):
        store.write({b"%d" % (batch * 7919 % 1000): bytes([batch % 256]) * 2000}, sync=False)
    store.close()
    check_files(tmp_path / "db")
    assert count(tmp_path / "db") == 400


def test_no_flipped_bit_of_the_manifest_loses_rows_silently(made: Path, tmp_path: Path) -> None:
    size = next(made.glob("MANIFEST-*")).stat().st_size
    for at in range(size):
        damaged = Path(shutil.copytree(made, tmp_path / str(at)))
        change(next(damaged.glob("MANIFEST-*")), at, at % 8)
        try:
            assert count(damaged) == 1 + 8 * BATCHES
        except Corruption:
            pass
        shutil.rmtree(damaged)


def test_a_missing_manifest_or_current_is_missed(made: Path, tmp_path: Path) -> None:
    for name in ("CURRENT", next(made.glob("MANIFEST-*")).name):
        damaged = Path(shutil.copytree(made, tmp_path / name))
        (damaged / name).unlink()
        with pytest.raises(Corruption):
            LevelStore.open(damaged)
    with pytest.raises(NotFound):
        LevelStore.open(tmp_path / "none")


def test_a_number_without_an_end_costs_nothing() -> None:
    """A manifest of nothing but bytes that say "more follows"."""
    blocks = []
    for index in range(16):
        part = b"\xff" * (BLOCK_BYTES - HEADER_BYTES)
        kind = FIRST if index == 0 else LAST if index == 15 else MIDDLE
        blocks.append(bytes(4) + len(part).to_bytes(2, "little") + bytes([kind]) + part)
    started = time.process_time()
    assert _named(b"".join(blocks)) == (0, {})
    assert time.process_time() - started < 0.5
