"""Signatures for most worlds: a keyed hash instead of ed25519, forty times cheaper and just as deterministic.

Everybody could forge them; no actor of the simulator does. A share of the worlds runs on real signatures. The public keys
are real ones in both kinds, because the rules let no others into the state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from ledger import crypto, verdict
from ledger.crypto import KeyPair, signing_bytes


def _mac(public: bytes, message: bytes) -> bytes:
    return blake2b(message, key=public, digest_size=64).digest()


@dataclass(frozen=True)
class HashKey:
    """Looks like a `KeyPair` to whoever signs."""

    public: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> HashKey:
        return cls(_pair(seed).public)

    def sign(self, kind: str, context: bytes, body: bytes) -> bytes:
        return _mac(self.public, signing_bytes(kind, context, body))


@lru_cache(maxsize=256)
def _pair(seed: bytes) -> KeyPair:
    return KeyPair.from_seed(seed)


def named_key(role: str, number: int, *, real: bool) -> KeyPair | HashKey:
    """The key of a role; the same in every world."""
    seed = blake2b(f"{role} {number}".encode(), digest_size=32).digest()
    return _pair(seed) if real else HashKey.from_seed(seed)


@contextmanager
def keyed_hashes() -> Iterator[None]:
    """While this is open, the one verify function of the ledger accepts keyed hashes and nothing else."""
    real = crypto.verify_raw
    for module in (crypto, verdict):
        setattr(module, "verify_raw", _holds)  # noqa: B010  # both look it up under this name
    try:
        yield
    finally:
        for module in (crypto, verdict):
            setattr(module, "verify_raw", real)  # noqa: B010


def _holds(public: bytes, message: bytes, signature: bytes) -> bool:
    return len(public) == 32 and _mac(public, message) == signature
