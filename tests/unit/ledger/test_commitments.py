"""Commitments to weights: bound to every field, frozen in their bytes."""

from hashlib import blake2b

import pytest

from ledger.commitments import weights_commitment

FIELDS = {
    "genesis_hash": bytes(32), "hotkey": b"h" * 32, "netuid": 1, "commit_epoch": 4, "uids": [0, 1], "values": [10, 10],
    "version_key": 0, "salt": b"s" * 32,
}


def commitment(**changes: object) -> bytes:
    return weights_commitment(**{**FIELDS, **changes})  # type: ignore[arg-type]


def test_a_commitment_binds_every_field() -> None:
    changes: list[dict[str, object]] = [
        {"genesis_hash": b"g" * 32}, {"hotkey": b"k" * 32}, {"netuid": 2}, {"commit_epoch": 5}, {"uids": [0, 2]},
        {"values": [10, 11]}, {"version_key": 1}, {"salt": b"t" * 32}, {"uids": [1, 0]}, {"uids": [0], "values": [10]},
    ]
    assert len({commitment(), *(commitment(**change) for change in changes)}) == len(changes) + 1
    assert commitment() == commitment()


def test_the_bytes_of_a_commitment_are_frozen() -> None:
    row = bytes.fromhex("82" "44" "00000100" "44" "0a000a00")  # an array of two byte strings of four bytes
    body = bytes(32) + b"h" * 32 + b"\x01\x00" + b"\x04\x00\x00\x00" + row + bytes(8) + b"s" * 32
    assert commitment() == blake2b(body, digest_size=32, person=b"qx/weights/1".ljust(16, b"\0")).digest()
    assert commitment().hex() == "64b76d959c1c6bed663b1c4c7562caaf813c3ee41d622668e9ef96a27d3c66ef"


@pytest.mark.parametrize("change", [{"salt": b"s" * 31}, {"hotkey": b""}, {"genesis_hash": bytes(33)}])
def test_fields_of_another_size_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        commitment(**change)


def test_packed_rows_are_refused() -> None:
    with pytest.raises(TypeError):
        commitment(uids=b"\0\0")
