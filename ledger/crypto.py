"""Signatures, hashes and the one table of domain tags.

What is signed is always `tag16 || blake2b-256(person=tag16, context(32) || body)`: the tag stops replay across kinds of
message, the context (genesis hash or signing domain) across chains and rewinds. Verification is libsodium's single
`crypto_sign_open` and nothing else, so the acceptance rule is one library's, frozen by the vectors of `ledger.acceptance`.
A key enters the state only if `is_valid_key` says it is a canonical point of prime order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from nacl import bindings
from nacl._sodium import ffi, lib  # type: ignore[import-not-found]

from .errors import Fault

# `bindings.crypto_sign_open` without the copy of the message that it gives back and nobody wants: a fortieth of its time.
_open: Final[Callable[[Any, Any, bytes, int, bytes], int]] = lib.crypto_sign_open
_NOWHERE: Final = ffi.NULL

HASH_BYTES: Final = 32
ZERO_HASH: Final = bytes(32)

# kind -> tag, at most 16 ASCII bytes. Signed kinds and hashed kinds share the table; a tag is never reused.
TAGS: Final[dict[str, bytes]] = {
    kind: f"qx/{kind}/1".encode().ljust(16, b"\0")
    for kind in (
        # consensus
        "header", "body", "events", "authset", "domain", "proposal", "prevote", "precommit", "heartbeat", "pop", "hello",
        # chain
        "extrinsic", "genesis", "weights", "timelock", "beacon", "auction", "hotkey", "coldkey", "epoch", "call",
        "timekey",
        # state trees
        "leaf", "page", "node", "list",
        # AI
        "open", "finish", "close", "step", "receipt", "card",
        # network, devnet, exported files
        "peer", "seed", "frame", "recovery",
    )
}
assert all(len(tag) == 16 for tag in TAGS.values()), "a tag is longer than 16 bytes"


def digest(kind: str, *parts: bytes) -> bytes:
    """blake2b-256 of the joined parts under the tag of `kind` (32 bytes)."""
    return blake2b(b"".join(parts), digest_size=32, person=TAGS[kind]).digest()


def signing_bytes(kind: str, context: bytes, body: bytes) -> bytes:
    """The 48 bytes that are signed for a message of `kind`; `context` is 32 bytes."""
    tag = TAGS[kind]
    return tag + blake2b(context + body, digest_size=32, person=tag).digest()


def signing_hasher(kind: str, context: bytes, start: bytes) -> Callable[[bytes], bytes]:
    """body -> `signing_bytes(kind, context, start + body)`, for many bodies that begin alike."""
    tag = TAGS[kind]
    begun = blake2b(context + start, digest_size=32, person=tag)

    def message(body: bytes) -> bytes:
        state = begun.copy()
        state.update(body)
        return tag + state.digest()

    return message


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """An ed25519 key pair made from a 32-byte seed. Its repr never shows the seed."""

    seed: bytes
    public: bytes
    _secret: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> KeyPair:
        """Derive the pair of a 32-byte seed (RFC 8032)."""
        public, secret = bindings.crypto_sign_seed_keypair(seed)
        return cls(seed, public, secret)

    def sign(self, kind: str, context: bytes, body: bytes) -> bytes:
        """64-byte signature of `body` under the tag of `kind` and the 32-byte context. Deterministic."""
        return self.sign_raw(signing_bytes(kind, context, body))

    def sign_raw(self, message: bytes) -> bytes:
        """64-byte signature of what `signing_bytes` made."""
        return bytes(bindings.crypto_sign(message, self._secret)[:64])

    def __repr__(self) -> str:
        return f"KeyPair(public={self.public.hex()})"


def verify(public: bytes, kind: str, context: bytes, body: bytes, signature: bytes) -> bool:
    """True iff `signature` (64 bytes) is libsodium-valid for this key, kind, context and body. Never raises."""
    return verify_raw(public, signing_bytes(kind, context, body), signature)


def verify_raw(public: bytes, message: bytes, signature: bytes) -> bool:
    """The one call into the library. An absent or misshapen signature or key is an invalid one."""
    if len(signature) != 64 or len(public) != 32:
        return False
    signed = signature + message
    return _open(_NOWHERE, _NOWHERE, signed, len(signed), public) == 0


def is_valid_key(public: bytes) -> bool:
    """True iff the 32 bytes are a canonical point of prime order: only such keys may enter the state."""
    return len(public) == 32 and bool(bindings.crypto_core_ed25519_is_valid_point(public))


def self_test() -> None:
    """Run at every start of a node, some 3 ms. Raises Fault if the library does not follow the chain's rules."""
    from .acceptance import CASES, SEED, SIGNED

    def require(holds: bool, what: str) -> None:
        if not holds:
            raise Fault(
                f"self-test of the crypto library failed: {what}",
                hint="install exactly the libraries of requirements.lock: with others this node would leave the chain",
            )

    for name, public, message, signature, accepted, valid in CASES:
        key = bytes.fromhex(public)
        require(verify_raw(key, bytes.fromhex(message), bytes.fromhex(signature)) is accepted, name)
        require(is_valid_key(key) is valid, f"key validity, {name}")
    require(KeyPair.from_seed(bytes.fromhex(SEED)).sign("open", ZERO_HASH, b"abc").hex() == SIGNED, "signing and hashing")
