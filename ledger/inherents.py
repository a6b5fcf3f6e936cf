"""Inherents: unsigned entries that a proposer puts into a block, by kind, and the heartbeat of an authority.

Evidence travels as the encoding of `votes.Evidence`. A heartbeat says that an authority is alive and which runtime
versions it knows; it is free of fee and nonce, and signed by the session key under the domain of the including height.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .codec import HASH, KEY, SIGNATURE, U32, U64, ListOf, Record, Text, decode, encode
from .crypto import KeyPair, verify

EVIDENCE: Final = 1
HEARTBEAT: Final = 2
TIMELOCK_KEY: Final = 3  # `timelock.Announcement`
TIMELOCK_SECRET: Final = 4  # `timelock.Release`

MAX_HEARTBEAT_BYTES: Final = 1024
MAX_VERSIONS: Final = 16

HEARTBEAT_SHAPE = Record(
    "heartbeat", session=U64, key=KEY, head_hash=HASH, node_version=Text(32), versions=ListOf(U32, MAX_VERSIONS),
    signature=SIGNATURE,
)


@dataclass(frozen=True)
class Heartbeat:
    """A sign of life for one session."""

    session: int
    key: bytes  # session key
    head_hash: bytes  # head the authority has seen
    node_version: str
    versions: tuple[int, ...]  # runtime versions it can execute
    signature: bytes = b""

    @property
    def body(self) -> bytes:
        return encode([self.session, self.key, self.head_hash, self.node_version, list(self.versions)])

    def encode(self) -> bytes:
        return encode([
            self.session, self.key, self.head_hash, self.node_version, list(self.versions), self.signature,
        ])

    @classmethod
    def decode(cls, data: bytes) -> Heartbeat:
        value = decode(data, max_bytes=MAX_HEARTBEAT_BYTES, where="heartbeat")
        HEARTBEAT_SHAPE.check(value)
        session, key, head_hash, node_version, versions, signature = value
        return cls(session, key, head_hash, node_version, tuple(versions), signature)

    @classmethod
    def sign(
        cls, key: KeyPair, domain: bytes, session: int, head_hash: bytes, node_version: str, versions: tuple[int, ...]
    ) -> Heartbeat:
        """`domain`: the signing domain of the height that will include it."""
        draft = cls(session, key.public, head_hash, node_version, versions)
        return cls(session, key.public, head_hash, node_version, versions, key.sign("heartbeat", domain, draft.body))

    def verify(self, domain: bytes) -> bool:
        """True iff the session key signed this under the domain."""
        return verify(self.key, "heartbeat", domain, self.body, self.signature)
