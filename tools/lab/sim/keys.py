"""Signatures for most worlds: a keyed hash instead of ed25519, forty times cheaper and just as deterministic.

Everybody could forge them; no actor of the simulator does. A share of the worlds runs on real signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

from ledger import crypto
from ledger.crypto import signing_bytes


def _mac(public: bytes, message: bytes) -> bytes:
    return blake2b(message, key=public, digest_size=64).digest()


@dataclass(frozen=True)
class HashKey:
    """Looks like a `KeyPair` to whoever signs."""

    public: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> HashKey:
        return cls(blake2b(seed, digest_size=32).digest())

    def sign(self, kind: str, context: bytes, body: bytes) -> bytes:
        return _mac(self.public, signing_bytes(kind, context, body))


@contextmanager
def keyed_hashes() -> Iterator[None]:
    """While this is open, the one verify function of the ledger accepts keyed hashes and nothing else."""
    real = crypto.verify_raw
    crypto.verify_raw = lambda public, message, signature: _mac(public, message) == signature
    try:
        yield
    finally:
        crypto.verify_raw = real
