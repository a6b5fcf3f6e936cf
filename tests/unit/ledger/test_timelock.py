"""Shares of a key and weights sealed to authorities: any threshold opens the same, fewer nothing, hostile bytes do no harm."""

from hashlib import blake2b
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger import sharing, timelock
from ledger.crypto import KeyPair
from ledger.errors import DecodeError
from ledger.timelock import SHARE_BYTES, Announcement, Payload, Release, Sealed, seal, unseal

GENESIS = bytes(range(32))
PAYLOAD = Payload([0, 3, 9], [65535, 1, 7], 4, b"s" * 32)


def flow(seed):
    """Bytes that look random and are the same each time."""
    count = iter(range(1 << 20))
    return lambda size: blake2b(next(count).to_bytes(4, "big"), key=seed, digest_size=size).digest()


def authorities(count, epoch=7):
    secrets = [timelock.secret_of(bytes([index]) * 32, GENESIS, 1, epoch) for index in range(count)]
    return secrets, [timelock.public_of(secret) for secret in secrets]


# --- shares ------------------------------------------------------------------------------------------------------


def test_the_field_is_the_field():
    assert sharing.multiply(0x57, 0x83) == 0xC1 and sharing.multiply(0x57, 0x13) == 0xFE  # FIPS 197, 4.2
    assert all(sharing.multiply(a, sharing.inverse(a)) == 1 for a in range(1, 256))
    assert all(sharing.multiply(0, a) == 0 for a in range(256))


def test_shares_are_what_they_were():
    key = bytes(range(32))
    shares = sharing.split(key, 5, [bytes([7]) * 32, bytes(range(100, 132))])
    assert [share.hex()[:16] for share in shares] == FROZEN_SHARES
    assert sharing.combine({index: shares[index] for index in (4, 0, 2)}) == key


FROZEN_SHARES = ["636363636b6b6b6b", "d4d7d2d1c8cbcecd", "b7b5b3b1a7a5a3a1", "fbfef1f4cfcac5c0", "989c9094a0a4a8ac"]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_threshold_of_shares_opens_the_same_and_fewer_fit_every_key(data):
    count = data.draw(st.integers(1, 9))
    threshold = data.draw(st.integers(1, count))
    key, other = data.draw(st.binary(min_size=32, max_size=32)), data.draw(st.binary(min_size=32, max_size=32))
    shares = sharing.split(key, count, [flow(key)(32) for _ in range(threshold - 1)])
    chosen = data.draw(st.permutations(range(count)))
    assert sharing.combine({index: shares[index] for index in chosen[:threshold]}) == key
    # Whatever threshold - 1 shares are known, there is a last share that makes them those of any other key.
    known = {index: shares[index] for index in chosen[: threshold - 1]}
    last = chosen[threshold - 1]
    base = int.from_bytes(sharing.combine({**known, last: bytes(32)}), "big")
    weight = sharing._weight_at_zero(last + 1, (*known, last))
    missing = (base ^ int.from_bytes(other, "big")).to_bytes(32, "big").translate(sharing._times(sharing.inverse(weight)))
    assert sharing.combine({**known, last: missing}) == other


def test_misshapen_shares_are_refused():
    for bad in ({}, {0: bytes(31)}, {-1: bytes(32)}, {255: bytes(32)}):
        with pytest.raises(ValueError, match="shares"):
            sharing.combine(bad)
    one = bytes(32)
    for key, count, coefficients in ((bytes(31), 2, []), (one, 256, []), (one, 1, [one]), (one, 2, [b""])):
        with pytest.raises(ValueError, match="32-byte"):
            sharing.split(key, count, coefficients)


# --- sealing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "threshold"), [(1, 1), (2, 2), (4, 3), (5, 4)])
def test_any_threshold_of_authorities_opens_what_fewer_cannot(count, threshold):
    secrets, publics = authorities(count)
    sealed = seal(PAYLOAD, publics, threshold)
    for chosen in combinations(range(count), threshold):
        assert unseal(sealed, {index: secrets[index] for index in chosen}, publics) == PAYLOAD
    for chosen in combinations(range(count), threshold - 1):
        assert unseal(sealed, {index: secrets[index] for index in chosen}, publics) is None


def test_what_was_sealed_once_opens_for_ever():
    secrets, publics = authorities(4)
    assert [secret.hex()[:16] for secret in secrets] == FROZEN_SECRETS
    body, shares = map(bytes.fromhex, FROZEN_SEALED)
    assert unseal(Sealed(body, shares), {index: secrets[index] for index in (0, 2, 3)}, publics) == PAYLOAD


FROZEN_SECRETS = ["e0125e743c137544", "189e17dd4284f563", "d0064cff849cb523", "f8dfc33e10c9be56"]
FROZEN_SEALED = (
    "0af8e5c99348bd41b762116c790e71e573680391c8eabef51409d9c528748fd5ee23fd0c48ca315bf142467ca4e14297d6493f3715afacae"
    "c01f4119875b04725d1a",
    "f951c9c714f04bfc3d31e5940e5ea3f1cbd2a5d100025bec2d6d2f2f2b1d6a5eaa22d5494414813fa40cead727bad44d6ef73a1331b70862"
    "5a7b794238443724a02530d099c760ec66ea660d458aa43e0190d2810462f5f864c52816502cca0d623c38483116a3d31730bacf35cb6951"
    "39dcf87c8e5631364f6caa6e793210da8fec2a92ae5ebad921f3c614c5b83121ecd5cb7dfe3a4d832f2d903608f155053fd7dc0aa84480d8"
    "2494f17e80a5c21e726d1c44fbb02f14818ce106feff064ac8d25119eddc76980dcea16c3038e191a4a92f797bc04745c4ced150a9affa69"
    "77894b06693a6233f90f5d76723c66420b2a030b5b0e471344745fd67ef5a0d431e407f4f18aba5127aaf6ce78a8b03e1b68f7408c0fd689"
    "96681e3c6de953306f791ed65c84cb29033efb3961570d5de18223d1147d3e72e2cac3d25022056e",
)


def test_every_changed_byte_is_malformed_or_changes_nothing():
    secrets, publics = authorities(4)
    chosen, sealed = {index: secrets[index] for index in range(3)}, seal(PAYLOAD, publics, 3)
    for at in range(0, len(sealed.body), 7):
        assert unseal(Sealed(_flipped(sealed.body, at), sealed.shares), chosen, publics) is None
    for at in range(0, 3 * SHARE_BYTES, 5):
        assert unseal(Sealed(sealed.body, _flipped(sealed.shares, at)), chosen, publics) in (None, PAYLOAD)
    assert unseal(Sealed(sealed.body, _flipped(sealed.shares, 3 * SHARE_BYTES + 40)), chosen, publics) == PAYLOAD


def _flipped(data, at):
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def test_hostile_boxes_are_malformed():
    secrets, publics = authorities(3)
    chosen, good = dict(enumerate(secrets)), seal(PAYLOAD, publics, 3)
    for body, shares in (
        (b"", b""), (good.body, b""), (b"", good.shares), (good.body[:-1], good.shares), (good.body, good.shares[:-1]),
        (good.body, bytes(len(good.shares))), (bytes(15), good.shares), (good.body, b"\xff" * len(good.shares)),
    ):
        assert unseal(Sealed(body, shares), chosen, publics) is None
    assert unseal(good, {}, publics) is None


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_payloads_are_decoded_strictly(data):
    try:
        assert Payload.decode(data).encode() == data
    except DecodeError:
        pass


def test_payloads_are_bounded():
    whole = Payload(list(range(4096)), [65535] * 4096, (1 << 64) - 1, bytes(32))
    assert Payload.decode(whole.encode()) == whole
    assert len(whole.encode()) <= 4 * 4096 + timelock.PAYLOAD_OVERHEAD_BYTES < timelock.MAX_PAYLOAD_BYTES
    salt = bytes(32)
    for bad in (Payload([1] * 4097, [1], 0, salt), Payload([1], [1], 0, bytes(31)), Payload([1], [1], 1 << 64, salt)):
        with pytest.raises(DecodeError):
            Payload.decode(bad.encode())


# --- keys --------------------------------------------------------------------------------------------------------


def test_secrets_differ_by_all_they_are_made_of():
    made = [(seed, genesis, netuid, epoch) for seed in (b"a" * 32, b"b" * 32) for genesis in (GENESIS, bytes(32))
            for netuid in (1, 2) for epoch in (1, 256)]
    assert len({timelock.secret_of(*parts) for parts in made}) == len(made)


def test_a_secret_has_one_form():
    (secret,), (public,) = authorities(1)
    assert timelock.fits(secret, public) and not timelock.fits(secret, bytes(32)) and not timelock.fits(secret[:31], public)
    for index, bit in ((0, 1), (0, 4), (31, 128)):
        other = bytearray(secret)
        other[index] ^= bit
        assert timelock.public_of(bytes(other)) == public and not timelock.fits(bytes(other), public)


def test_keys_of_low_order_are_not_sound():
    assert timelock.is_sound(authorities(1)[1][0])
    order_8 = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    assert not any(map(timelock.is_sound, (bytes(32), b"\1" + bytes(31), order_8)))


def test_announcements_and_releases():
    pair = KeyPair.from_seed(b"k" * 32)
    said = Announcement.sign(pair, GENESIS, 3, 9)
    assert Announcement.decode(said.encode()) == said and said.verify(GENESIS) and not said.verify(bytes(32))
    secret = timelock.secret_of(pair.seed, GENESIS, 3, 9)
    assert timelock.fits(secret, said.public)
    assert not Announcement(3, 10, said.authority, said.public, said.signature).verify(GENESIS)
    release = Release(3, 9, 99, secret)
    assert Release.decode(release.encode()) == release
    for decoder, good in ((Announcement, said), (Release, release)):
        for bad in (b"", good.encode()[:-1], good.encode() + b"\0", b"\x80", bytes(300)):
            with pytest.raises(DecodeError):
                decoder.decode(bad)
