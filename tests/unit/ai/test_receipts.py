"""Receipts on disk: order, roots, proofs, torn files, limits, and what is left after their time."""

import os
from random import Random

import pytest

from ai import receipts
from ai.receipts import Receipt, ReceiptStore, receipts_root
from ledger.errors import DecodeError, DiskFailure, NotFound

DAY_MS = 24 * 3_600_000


class Clock:
    def __init__(self):
        import time

        self.now_ms = time.time_ns() // 1_000_000

    def __call__(self):
        return self.now_ms


def receipt(number):
    return Receipt(b"open %d" % number, bytes(64), b"", b"close", number.to_bytes(64, "big"))


def store(path, clock=None):
    return ReceiptStore(path, clock=clock or Clock())


def fill(target, count, netuid=1, epoch=5, start=0):
    for number in range(start, start + count):
        assert target.append(number.to_bytes(32, "big"), receipt(number), netuid, epoch, b"transcript %d" % number)


def test_receipts_survive_their_encoding():
    assert Receipt.decode(receipt(3).encode()) == receipt(3)
    for data in (b"", b"\x80", receipt(1).encode() + b"x", bytes(5_000)):
        with pytest.raises(DecodeError):
            Receipt.decode(data)


def test_another_receipt_version_is_refused():
    from dataclasses import replace

    with pytest.raises(DecodeError, match="version"):
        Receipt.decode(replace(receipt(1), version=2).encode())


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_every_receipt_proves_itself_under_the_root(tmp_path, count):
    target = store(tmp_path)
    fill(target, count)
    root, counted = target.root(1, 5)
    assert counted == count and root == receipts_root([receipt(n).encode() for n in range(count)])
    for number in range(count):
        proof = target.prove(number.to_bytes(32, "big"))
        assert (proof.root, proof.index, proof.epoch, proof.netuid) == (root, number, 5, 1) and proof.holds()


def test_a_proof_of_something_else_does_not_hold(tmp_path):
    from dataclasses import replace

    target = store(tmp_path)
    fill(target, 5)
    proof = target.prove((2).to_bytes(32, "big"))
    for change in ({"index": 3}, {"receipt": receipt(3).encode()}, {"count": 3}, {"root": bytes(32)}, {"path": ()}):
        assert not replace(proof, **change).holds()


def test_epochs_and_subnets_are_apart(tmp_path):
    target = store(tmp_path)
    fill(target, 2, netuid=1, epoch=5)
    fill(target, 3, netuid=1, epoch=6, start=10)
    fill(target, 4, netuid=2, epoch=6, start=20)
    assert [target.root(1, 5)[1], target.root(1, 6)[1], target.root(2, 6)[1], target.root(2, 7)[1]] == [2, 3, 4, 0]
    assert target.epochs(1) == [5, 6] and target.netuids() == [1, 2]
    assert target.prove((21).to_bytes(32, "big")).netuid == 2
    assert [found for _, found in target.recent(1, 4)] == [receipt(n) for n in (12, 11, 10, 1)]
    with pytest.raises(NotFound):
        target.prove(bytes(31) + b"\xff")


def test_a_store_goes_on_where_it_was(tmp_path):
    first = store(tmp_path)
    fill(first, 3)
    first.close()
    second = store(tmp_path)
    fill(second, 2, start=3)
    assert second.root(1, 5)[1] == 5 and second.transcript(1, 5, (4).to_bytes(32, "big")) == b"transcript 4"


@pytest.mark.parametrize("torn", [b"\0", b"\0\0\1\0" + bytes(40), Random(1).randbytes(30)])
def test_a_torn_record_is_cut_off(tmp_path, torn):
    first = store(tmp_path)
    fill(first, 3)
    first.close()
    [file] = tmp_path.glob("1/*.receipts")
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    assert len(first.leaves(1, 5)) == 3
    fill(first, 1, start=3)
    assert first.root(1, 5)[1] == 4 and file.read_bytes().startswith(whole)


def test_an_epoch_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(receipts, "MAX_RECEIPTS_PER_EPOCH", 3)
    target = store(tmp_path)
    fill(target, 3)
    assert not target.append(b"x" * 32, receipt(9), 1, 5)
    assert target.append(b"x" * 32, receipt(9), 1, 6)
    assert target.root(1, 5)[1] == 3
    target.close()
    assert not store(tmp_path).append(b"x" * 32, receipt(9), 1, 5)


def test_old_receipts_leave_their_hashes(tmp_path):
    clock = Clock()
    target = store(tmp_path, clock)
    for epoch in (1, 2, 3):
        fill(target, 2, epoch=epoch, start=10 * epoch)
    clock.now_ms += 2 * DAY_MS
    fill(target, 1, epoch=4, start=99)  # a new epoch prunes
    assert target.epochs(1) == [2, 3, 4]  # the two newest before it stay, whatever their age
    hashes = (tmp_path / "1" / "0000000001.hashes").read_bytes()
    from ledger.crypto import digest

    assert hashes == b"".join(digest("receipt", b"\0", receipt(n).encode()) for n in (10, 11))
    assert target.transcript(1, 1, (10).to_bytes(32, "big")) is None


def test_space_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(receipts, "RECEIPTS_MAX_BYTES", 4_000)
    monkeypatch.setattr(receipts, "TRANSCRIPTS_MAX_BYTES", 500)
    monkeypatch.setattr(receipts, "MAX_HASH_FILES", 3)
    target = store(tmp_path)
    for epoch in range(30):
        fill(target, 5, epoch=epoch, start=100 * epoch)
        target.flush()
        for suffix in ("receipts", "transcript"):
            file = tmp_path / "1" / f"{epoch:010d}.{suffix}"
            stamp = file.stat().st_mtime_ns - 10**9 * (30 - epoch)
            os.utime(file, ns=(stamp, stamp))
    target.prune()
    sizes = {suffix: sum(f.stat().st_size for f in tmp_path.glob(f"1/*.{suffix}")) for suffix in ("receipts", "transcript")}
    assert sizes["receipts"] <= 4_000 + 2 * 5 * 300
    assert len(list(tmp_path.glob("1/*.hashes"))) <= 3
    assert target.root(1, 29)[1] == 5


def test_pruning_waits_for_time_or_bytes(tmp_path, monkeypatch):
    clock, times = Clock(), []
    target = store(tmp_path, clock)
    prune = target.prune
    monkeypatch.setattr(target, "prune", lambda: (times.append(clock.now_ms), prune()))
    for epoch in range(10):
        fill(target, 1, epoch=epoch)
    assert len(times) == 1
    clock.now_ms += receipts.PRUNE_EVERY_MS
    fill(target, 1, epoch=10)
    monkeypatch.setattr(receipts, "PRUNE_EVERY_BYTES", 100)
    fill(target, 1, epoch=11)
    assert len(times) == 3


def test_a_full_disk_leaves_no_torn_record(tmp_path, monkeypatch):
    target = store(tmp_path)
    fill(target, 2)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[: len(data) // 2]))
    with pytest.raises(DiskFailure):
        target.append(b"x" * 32, receipt(2), 1, 5)
    monkeypatch.undo()
    fill(target, 1, start=3)
    assert [r for _, r in target.recent(1)] == [receipt(3), receipt(1), receipt(0)]


def test_files_are_closed_when_many_epochs_are_written(tmp_path):
    target = store(tmp_path)
    for epoch in range(40, 0, -1):
        fill(target, 1, epoch=epoch)
    assert len(target._open) <= receipts.MAX_OPEN_FILES
    fill(target, 1, epoch=40, start=7)
    assert target.root(1, 40)[1] == 2
