"""Weights sealed to the authorities: readable when a threshold of them has released the secrets of an epoch.

    secret   of an authority for the commits of an epoch: H(timelock; seed, genesis hash, netuid u16le, epoch u32le), clamped:
             an X25519 key that comes from the session key's seed alone: nothing is stored, a restart changes nothing
    sealed   payload under a one-time key K (XSalsa20-Poly1305); K split `threshold` of m, share i in a box sealed to the
             public key of authority i. Opening takes the secrets of any `threshold` authorities, and which ones must not
             matter: the payload carries the salt of the commitment that it has to match
    bound    to hotkey, netuid, epoch and chain only through that commitment: a copied box opens to another's row

Whoever opens something here treats it as hostile: `unseal` returns None for whatever is not a payload under these shares.
"""

from __future__ import annotations

import secrets as system
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from nacl import bindings
from nacl.exceptions import CryptoError

from .codec import HASH, KEY, SIGNATURE, U16, U32, U64, Bytes, Record, decode, encode, pack_u16, unpack_u16
from .commitments import SALT_BYTES
from .crypto import TAGS, KeyPair, verify
from .errors import DecodeError
from .sharing import KEY_BYTES, combine, split

SECRET_BYTES: Final = 32
SHARE_BYTES: Final = KEY_BYTES + 48  # in its box
BODY_OVERHEAD_BYTES: Final = 16
MAX_PAYLOAD_BYTES: Final = 17 * 1024  # 4,096 uids with their values
MAX_BODY_BYTES: Final = MAX_PAYLOAD_BYTES + BODY_OVERHEAD_BYTES
PAYLOAD_OVERHEAD_BYTES: Final = 64  # of a payload beside the four bytes of each entry of its row
_NONCE: Final = bytes(24)  # the key is used once
_PROBE: Final = bytes([1]) + bytes(31)

Secret = Callable[[int, int], bytes]  # (netuid, epoch) -> 32 bytes


# --- secrets and public keys -------------------------------------------------------------------------------------


def secret_of(seed: bytes, genesis_hash: bytes, netuid: int, epoch: int) -> bytes:
    """An authority's 32-byte secret for the commits of an epoch; `seed` is that of its session key."""
    context = genesis_hash + netuid.to_bytes(2, "little") + epoch.to_bytes(4, "little")
    return _clamped(blake2b(context, key=seed, digest_size=32, person=TAGS["timelock"]).digest())


def _clamped(secret: bytes) -> bytes:
    """The one form in which a secret is released: X25519 ignores these bits, a hash over secrets would not."""
    return bytes([secret[0] & 248]) + secret[1:31] + bytes([secret[31] & 127 | 64])


def fits(secret: bytes, public: bytes) -> bool:
    """True iff these 32 bytes are the secret of a public key, in their one form."""
    return len(secret) == SECRET_BYTES and secret == _clamped(secret) and public_of(secret) == public


def public_of(secret: bytes) -> bytes:
    """X25519 public key of a 32-byte secret."""
    return bytes(bindings.crypto_scalarmult_base(secret))


def is_sound(public: bytes) -> bool:
    """True unless the 32 bytes are a point of low order: to such a key nothing can be sealed."""
    try:
        bindings.crypto_scalarmult(_PROBE, public)
    except CryptoError:
        return False
    return True


# --- what is sealed ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Payload:
    """A row of weights with what its commitment needs to be checked."""

    uids: list[int]
    values: list[int]
    version_key: int
    salt: bytes

    def encode(self) -> bytes:
        return encode([pack_u16(self.uids), pack_u16(self.values), self.version_key, self.salt])

    @classmethod
    def decode(cls, data: bytes) -> Payload:
        """Raises DecodeError."""
        value = decode(data, max_bytes=MAX_PAYLOAD_BYTES, where="sealed weights")
        _PAYLOAD.check(value)
        uids, values, version_key, salt = value
        return cls(unpack_u16(uids), unpack_u16(values), version_key, salt)


_PACKED: Final = Bytes(high=2 * 4096, name="packed u16")
_PAYLOAD: Final = Record("sealed weights", uids=_PACKED, values=_PACKED, version_key=U64, salt=Bytes(SALT_BYTES, name="salt"))


@dataclass(frozen=True)
class Sealed:
    """What goes on chain: the encrypted payload, and the boxes of the shares, SHARE_BYTES each, in the keys' order."""

    body: bytes
    shares: bytes


def seal(
    payload: Payload, publics: Sequence[bytes], threshold: int, random: Callable[[int], bytes] = system.token_bytes
) -> Sealed:
    """Seal to these keys; `threshold` of their secrets open it. `random` gives the key and the shares' coefficients."""
    key = random(KEY_BYTES)
    shares = split(key, len(publics), [random(KEY_BYTES) for _ in range(threshold - 1)])
    body = bindings.crypto_secretbox(payload.encode(), _NONCE, key)
    return Sealed(bytes(body), b"".join(
        bytes(bindings.crypto_box_seal(share, public)) for share, public in zip(shares, publics, strict=True)
    ))


def unseal(sealed: Sealed, secrets: Mapping[int, bytes], publics: Sequence[bytes]) -> Payload | None:
    """The payload, by the secrets of exactly `threshold` of the keys' positions. None if it is malformed.

    `secrets` fit the keys in `publics` at their positions: whoever accepted them has checked that.
    """
    try:
        opened = {}
        for index, secret in secrets.items():
            box = sealed.shares[SHARE_BYTES * index : SHARE_BYTES * (index + 1)]
            opened[index] = bytes(bindings.crypto_box_seal_open(box, publics[index], secret))
        return Payload.decode(bytes(bindings.crypto_secretbox_open(sealed.body, _NONCE, combine(opened))))
    except (CryptoError, DecodeError, ValueError, TypeError):
        return None


# --- what authorities say ----------------------------------------------------------------------------------------

MAX_MESSAGE_BYTES: Final = 256
_ANNOUNCEMENT: Final = Record(
    "timelock key", netuid=U16, epoch=U32, authority=KEY, public=HASH, signature=SIGNATURE,
)
_RELEASE: Final = Record("timelock secret", netuid=U16, epoch=U32, index=U16, secret=Bytes(SECRET_BYTES, name="secret"))


@dataclass(frozen=True)
class Announcement:
    """An authority's public key for the commits of an epoch, signed by its session key."""

    netuid: int
    epoch: int
    authority: bytes  # session key
    public: bytes
    signature: bytes = b""

    @property
    def body(self) -> bytes:
        return encode([self.netuid, self.epoch, self.authority, self.public])

    def encode(self) -> bytes:
        return encode([self.netuid, self.epoch, self.authority, self.public, self.signature])

    @classmethod
    def decode(cls, data: bytes) -> Announcement:
        """Raises DecodeError."""
        value = decode(data, max_bytes=MAX_MESSAGE_BYTES, where="timelock key")
        _ANNOUNCEMENT.check(value)
        return cls(*value)

    @classmethod
    def sign(cls, key: KeyPair, genesis_hash: bytes, netuid: int, epoch: int) -> Announcement:
        """Of the key pair's own secret for that epoch."""
        draft = cls(netuid, epoch, key.public, public_of(secret_of(key.seed, genesis_hash, netuid, epoch)))
        return cls(netuid, epoch, key.public, draft.public, key.sign("timekey", genesis_hash, draft.body))

    def verify(self, genesis_hash: bytes) -> bool:
        """True iff the session key signed this on that chain."""
        return verify(self.authority, "timekey", genesis_hash, self.body, self.signature)


@dataclass(frozen=True)
class Release:
    """The secret of the key at position `index` of an epoch's list. It proves itself: nobody else can know it."""

    netuid: int
    epoch: int
    index: int
    secret: bytes

    def encode(self) -> bytes:
        return encode([self.netuid, self.epoch, self.index, self.secret])

    @classmethod
    def decode(cls, data: bytes) -> Release:
        """Raises DecodeError."""
        value = decode(data, max_bytes=MAX_MESSAGE_BYTES, where="timelock secret")
        _RELEASE.check(value)
        return cls(*value)
