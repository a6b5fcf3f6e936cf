import pytest

from ledger.codec import encode
from ledger.crypto import KeyPair
from ledger.errors import DecodeError
from p2p.addresses import peer_id_of
from p2p.messages import MAX_RECORDS, PeerRecord
from p2p.peers import (
    MAX_AHEAD_MS,
    MAX_ENTRIES,
    MAX_FILE_BYTES,
    MAX_PER_GROUP,
    RECORD_LIFE_MS,
    AddressBook,
    read_book,
    write_book,
)

GENESIS, NOW = b"g" * 32, 10**12
OWN = peer_id_of(bytes(32))


def key(number):
    return KeyPair.from_seed(number.to_bytes(32, "big"))


def record(number, ip=b"\x08\x08\x08\x08", *, port=9000, sequence=1, expiry_ms=NOW + RECORD_LIFE_MS, genesis=GENESIS):
    return PeerRecord.sign(key(number), genesis, ip, port, sequence, expiry_ms)


def book(*, allow_private=False):
    return AddressBook(GENESIS, OWN, allow_private=allow_private)


def test_newer_records_replace_older_ones():
    addresses = book()
    assert addresses.add(record(1, sequence=5), NOW)
    assert not addresses.add(record(1, sequence=5), NOW) and not addresses.add(record(1, sequence=4), NOW)
    assert addresses.add(record(1, b"\x01\x01\x01\x01", sequence=6), NOW)
    assert addresses.candidates((), 9) == [(peer_id_of((1).to_bytes(32, "big")), "1.1.1.1", 9000)]


@pytest.mark.parametrize(
    "bad",
    [
        record(0), record(1, expiry_ms=NOW), record(1, expiry_ms=NOW + MAX_AHEAD_MS + 1), record(1, b"\x7f\0\0\1"),
        record(1, b"\x0a\0\0\1"), record(1, b"\xa9\xfe\xa9\xfe"), record(1, port=22), record(1, bytes(16)),
    ],
)
def test_records_that_are_not_believed(bad):
    addresses = book()
    assert not addresses.add(bad, NOW) and not addresses.entries


def test_private_addresses_where_the_chain_allows_them():
    assert book(allow_private=True).add(record(1, b"\x7f\0\0\1"), NOW)
    assert not book(allow_private=True).add(record(1, b"\xa9\xfe\xa9\xfe"), NOW)


def test_a_false_signature_is_a_fault():
    with pytest.raises(DecodeError, match="signature"):
        book().add(record(1, genesis=b"x" * 32), NOW)
    with pytest.raises(DecodeError, match="signature"):
        book().add(PeerRecord(key(1).public, b"\x08" * 4, 1024, 1, NOW + 1, bytes(64)), NOW)


def test_one_network_fills_only_a_part_of_the_book():
    addresses = book()
    added = [addresses.add(record(k, bytes((8, 8, k // 200, k % 200))), NOW) for k in range(1, 3 * MAX_PER_GROUP)]
    assert sum(added) == MAX_PER_GROUP
    assert addresses.add(record(999, b"\x09\x09\x09\x09"), NOW)


def test_the_book_is_bounded_and_keeps_who_answered():
    addresses = book(allow_private=True)
    for k in range(1, MAX_ENTRIES + 50):
        addresses.add(record(k, bytes((10, 0, k // 250, k % 250 + 1))), NOW + k)
        if k == 3:
            addresses.answered(peer_id_of((3).to_bytes(32, "big")), NOW)
    assert len(addresses.entries) == MAX_ENTRIES
    assert peer_id_of((3).to_bytes(32, "big")) in addresses.entries
    assert addresses.candidates((), 1)[0][0] == peer_id_of((3).to_bytes(32, "big"))
    assert len(addresses.fresh(NOW)) == MAX_RECORDS - 1


def test_who_does_not_answer_goes():
    addresses = book()
    addresses.add(record(1), NOW)
    addresses.add(record(2, b"\x09\x09\x09\x09"), NOW)
    one, two = (peer_id_of(k.to_bytes(32, "big")) for k in (1, 2))
    addresses.answered(one, NOW)
    addresses.silent(one)
    addresses.silent(two)
    assert list(addresses.entries) == [one] and not addresses.entries[one].answered
    addresses.silent(one)
    assert not addresses.entries


def test_the_file_round_trips(tmp_path):
    addresses, path = book(allow_private=True), tmp_path / "peers.cbor"
    for k in range(1, MAX_ENTRIES + 1):
        addresses.add(record(k, bytes((10, 0, k // 250, k % 250 + 1))), NOW)
    addresses.answered(next(iter(addresses.entries)), NOW)
    data = addresses.dump()
    write_book(path, data)
    assert read_book(path) == data and len(data) <= MAX_FILE_BYTES and read_book(tmp_path / "none") == b""
    again = book(allow_private=True)
    again.load(data)
    assert again.entries == addresses.entries and not again.changed
    strict = book()
    strict.load(data)
    assert not strict.entries, "private addresses are not taken over where they may not be dialled"


@pytest.mark.parametrize(
    "data", [b"", b"\xff", encode([]), encode([2, []]), encode([1, [b"x"]]), encode([1, [encode([b"", False, 0])]]),
             encode([1, [encode([record(1).encode(), 1, 0])]]), bytes(MAX_FILE_BYTES + 1)],
)
def test_damaged_files_are_refused(data):
    with pytest.raises(DecodeError):
        book().load(data)


def test_entries_with_false_signatures_are_left_out():
    again = book()
    again.load(encode([1, [encode([record(1, genesis=b"x" * 32).encode(), True, 0])]]))
    assert not again.entries
