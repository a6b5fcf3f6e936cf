"""Proposals, votes, certificates and evidence: what authorities sign, how it is counted and when it is valid.

Signed bodies are fixed width, big-endian, without CBOR and without a timestamp, so that signing again after a crash gives
the same bytes. A certificate is a self-standing object: a bitmap and the signatures, in index order; it is valid only
with the set and the signing domain of its height.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from .codec import HASH, KEY, SIGNATURE, U8, U16, U32, U64, Bytes, Optional, Record, decode, encode
from .crypto import ZERO_HASH, digest, verify
from .errors import DecodeError

MAX_AUTHORITIES: Final = 100
NO_ROUND: Final = 0xFFFFFFFF
NIL: Final = ZERO_HASH
MAX_ROUND: Final = 1 << 31

PREVOTE: Final = 1
PRECOMMIT: Final = 2
KIND_TAG: Final[dict[int, str]] = {PREVOTE: "prevote", PRECOMMIT: "precommit"}


def quorum(n: int) -> int:
    """Votes needed of n authorities (n - f)."""
    return 2 * n // 3 + 1


def max_faulty(n: int) -> int:
    """Byzantine authorities tolerated of n."""
    return (n - 1) // 3


def authorities_hash(keys: Sequence[bytes]) -> bytes:
    """Commitment of a header to an ordered authority set."""
    return digest("authset", *keys)


def next_domain(old: bytes, height: int, head_hash: bytes, next_authorities_hash: bytes, entropy: bytes) -> bytes:
    """Signing domain of the heights above `height` after a rewind (`entropy`: 16 random bytes) or a recovery (its hash)."""
    return digest("domain", old, height.to_bytes(8, "big"), head_hash, next_authorities_hash, entropy)


def leader(keys: Sequence[bytes], active: Sequence[int], height: int, round_: int) -> int:
    """Index, in the full list, of the proposer of (height, round).

    The active list leads first; past its length the full list does, so an empty or dead active list halts nothing.
    """
    if round_ < len(active):
        return active[(height + round_) % len(active)]
    return (height + round_) % len(keys)


def proposal_body(height: int, round_: int, valid_round: int, block_hash: bytes) -> bytes:
    return height.to_bytes(8, "big") + round_.to_bytes(4, "big") + valid_round.to_bytes(4, "big") + block_hash


def vote_body(height: int, round_: int, block_hash: bytes) -> bytes:
    return height.to_bytes(8, "big") + round_.to_bytes(4, "big") + block_hash


VOTE_SHAPE = Record("vote", kind=U8, height=U64, round=U32, block_hash=HASH, index=U16, signature=SIGNATURE)


@dataclass(frozen=True, slots=True)
class Vote:
    """A prevote or precommit of the authority at `index`; `block_hash` NIL (zeros) is a vote for nothing."""

    kind: int
    height: int
    round: int
    block_hash: bytes
    index: int
    signature: bytes

    def value(self) -> list[Any]:
        return [self.kind, self.height, self.round, self.block_hash, self.index, self.signature]

    @classmethod
    def from_value(cls, value: Any) -> Vote:
        VOTE_SHAPE.check(value)
        vote = cls(*value)
        if vote.kind not in KIND_TAG:
            raise DecodeError(f"unknown kind {vote.kind}", where="vote.kind")
        _check_place(vote.round, vote.index, "vote")
        return vote

    def verify(self, keys: Sequence[bytes], domain: bytes) -> bool:
        return self.index < len(keys) and verify(
            keys[self.index], KIND_TAG[self.kind], domain, vote_body(self.height, self.round, self.block_hash), self.signature
        )


PROPOSAL_SHAPE = Record(
    "proposal", height=U64, round=U32, valid_round=U32, block_hash=HASH, index=U16, signature=SIGNATURE,
    polc=Optional(Bytes(high=8 * 1024)),
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """A signed proposal; it never carries a body. `polc` is the prevote certificate of `valid_round`, if that is set."""

    height: int
    round: int
    valid_round: int  # NO_ROUND = none
    block_hash: bytes
    index: int
    signature: bytes
    polc: Certificate | None = None

    def value(self) -> list[Any]:
        polc = None if self.polc is None else self.polc.encode()
        return [self.height, self.round, self.valid_round, self.block_hash, self.index, self.signature, polc]

    @classmethod
    def from_value(cls, value: Any) -> Proposal:
        PROPOSAL_SHAPE.check(value)
        height, round_, valid_round, block_hash, index, signature, polc = value
        _check_place(round_, index, "proposal")
        if valid_round != NO_ROUND and not valid_round < round_:
            raise DecodeError("not below round", where="proposal.valid_round")
        if (valid_round == NO_ROUND) != (polc is None):
            raise DecodeError("a certificate exactly where valid_round is set", where="proposal.polc")
        certificate = None if polc is None else Certificate.decode(polc)
        return cls(height, round_, valid_round, block_hash, index, signature, certificate)

    def verify(self, keys: Sequence[bytes], domain: bytes) -> bool:
        """The author's signature, and the certificate if there is one."""
        body = proposal_body(self.height, self.round, self.valid_round, self.block_hash)
        if self.index >= len(keys) or not verify(keys[self.index], "proposal", domain, body, self.signature):
            return False
        if self.polc is None:
            return True
        wanted = (PREVOTE, self.height, self.valid_round, self.block_hash)
        found = (self.polc.kind, self.polc.height, self.polc.round, self.polc.block_hash)
        return found == wanted and self.polc.verify(keys, domain)


def _check_place(round_: int, index: int, where: str) -> None:
    if round_ > MAX_ROUND:
        raise DecodeError(f"{round_} is above {MAX_ROUND}", where=f"{where}.round")
    if index >= MAX_AUTHORITIES:
        raise DecodeError(f"{index} is not below {MAX_AUTHORITIES}", where=f"{where}.index")


STATUS_SHAPE = Record("status", height=U64, round=U32, head_hash=HASH)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a peer stands: the (height, round) it works on and the hash of its head. Unsigned: a hint, never a fact."""

    height: int
    round: int
    head_hash: bytes

    def value(self) -> list[Any]:
        return [self.height, self.round, self.head_hash]

    @classmethod
    def from_value(cls, value: Any) -> Status:
        STATUS_SHAPE.check(value)
        status = cls(*value)
        _check_place(status.round, 0, "status")
        return status


CERTIFICATE_SHAPE = Record(
    "certificate", kind=U8, height=U64, round=U32, block_hash=HASH, bitmap=Bytes(high=(MAX_AUTHORITIES + 7) // 8),
    signatures=Bytes(high=64 * MAX_AUTHORITIES),
)


@dataclass(frozen=True)
class Certificate:
    """A quorum of votes of one kind, height, round and block. Any valid one of kind PRECOMMIT proves finality."""

    kind: int
    height: int
    round: int
    block_hash: bytes
    bitmap: bytes
    signatures: bytes

    @classmethod
    def build(cls, votes: Mapping[int, Vote], n: int) -> Certificate:
        """From votes (by index) that agree in kind, height, round and hash; all are put in."""
        first = next(iter(votes.values()))
        bitmap = bytearray((n + 7) // 8)
        for index in votes:
            bitmap[index >> 3] |= 1 << (index & 7)
        signatures = b"".join(votes[index].signature for index in sorted(votes))
        return cls(first.kind, first.height, first.round, first.block_hash, bytes(bitmap), signatures)

    @cached_property
    def indexes(self) -> tuple[int, ...]:
        """Positions of the signers, ascending."""
        return tuple(i for i in range(8 * len(self.bitmap)) if self.bitmap[i >> 3] >> (i & 7) & 1)

    def votes(self) -> list[Vote]:
        return [
            Vote(self.kind, self.height, self.round, self.block_hash, index, self.signatures[64 * k : 64 * k + 64])
            for k, index in enumerate(self.indexes)
        ]

    def verify(self, keys: Sequence[bytes], domain: bytes) -> bool:
        """True iff well-formed for this set, at least a quorum, and **all** signatures verify (no stop at the quorum)."""
        n, indexes = len(keys), self.indexes
        if len(self.bitmap) != (n + 7) // 8 or (indexes and indexes[-1] >= n):
            return False
        if self.kind not in KIND_TAG or self.round > MAX_ROUND or self.block_hash == NIL:
            return False
        if len(indexes) < quorum(n) or len(self.signatures) != 64 * len(indexes):
            return False
        tag, body = KIND_TAG[self.kind], vote_body(self.height, self.round, self.block_hash)
        return all(
            verify(keys[index], tag, domain, body, self.signatures[64 * k : 64 * k + 64]) for k, index in enumerate(indexes)
        )

    def encode(self) -> bytes:
        return encode([self.kind, self.height, self.round, self.block_hash, self.bitmap, self.signatures])

    @classmethod
    def decode(cls, data: bytes) -> Certificate:
        value = decode(data, max_bytes=8 * 1024, where="certificate")
        CERTIFICATE_SHAPE.check(value)
        certificate = cls(*value)
        if certificate.kind not in KIND_TAG:
            raise DecodeError(f"unknown kind {certificate.kind}", where="certificate.kind")
        _check_place(certificate.round, 0, "certificate")
        return certificate


class Tally:
    """The votes of one (height, round, kind): one per authority, and at most one more that conflicts with it."""

    __slots__ = ("_counts", "_quorum", "conflicts", "n", "votes")

    def __init__(self, n: int) -> None:
        self.n = n
        self.votes: dict[int, Vote] = {}
        self.conflicts: dict[int, Vote] = {}
        self._counts: dict[bytes, int] = {}
        self._quorum = quorum(n)

    def add(self, vote: Vote) -> Vote | None:
        """Count the first vote of an authority. Returns it if `vote` is the first to conflict with it, else None."""
        first = self.votes.get(vote.index)
        if first is None:
            self.votes[vote.index] = vote
            self._counts[vote.block_hash] = self._counts.get(vote.block_hash, 0) + 1
        elif first.block_hash != vote.block_hash and vote.index not in self.conflicts:
            self.conflicts[vote.index] = vote
            return first
        return None

    def knows(self, vote: Vote) -> bool:
        """Adding it would change nothing."""
        first = self.votes.get(vote.index)
        return first is not None and (first.block_hash == vote.block_hash or vote.index in self.conflicts)

    def __len__(self) -> int:
        return len(self.votes)

    def is_full(self) -> bool:
        """A quorum voted, for whatever."""
        return len(self.votes) >= self._quorum

    def winner(self) -> bytes | None:
        """The hash (or NIL) that a quorum voted for. There is at most one, since two quorums share an authority."""
        return next((block_hash for block_hash, count in self._counts.items() if count >= self._quorum), None)

    def supporters(self, block_hash: bytes) -> tuple[int, ...]:
        """Indexes of those who voted for this hash, ascending."""
        return tuple(sorted(index for index, vote in self.votes.items() if vote.block_hash == block_hash))

    def named(self, least: int) -> list[bytes]:
        """Hashes, NIL excepted, with at least that many votes."""
        return [block_hash for block_hash, count in self._counts.items() if count >= least and block_hash != NIL]

    def certificate(self, block_hash: bytes) -> Certificate:
        """All counted votes for this hash; call only for the winner."""
        return Certificate.build({index: self.votes[index] for index in self.supporters(block_hash)}, self.n)


EVIDENCE_SHAPE = Record(
    "evidence", kind=U8, key=KEY, height=U64, round=U32, first=HASH, first_valid_round=U32, first_signature=SIGNATURE,
    second=HASH, second_valid_round=U32, second_signature=SIGNATURE,
)
PROPOSAL: Final = 3  # kind of evidence beside PREVOTE and PRECOMMIT


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two signed messages of one key for one (kind, height, round) with different block hashes.

    The valid rounds matter only for proposals, whose signature covers them.
    """

    kind: int
    key: bytes
    height: int
    round: int
    first: bytes
    first_valid_round: int
    first_signature: bytes
    second: bytes
    second_valid_round: int
    second_signature: bytes

    def encode(self) -> bytes:
        return encode([getattr(self, name) for name in EVIDENCE_SHAPE.fields])

    @classmethod
    def decode(cls, data: bytes) -> Evidence:
        value = decode(data, max_bytes=1024, where="evidence")
        EVIDENCE_SHAPE.check(value)
        evidence = cls(*value)
        if evidence.kind not in (PREVOTE, PRECOMMIT, PROPOSAL):
            raise DecodeError(f"unknown kind {evidence.kind}", where="evidence.kind")
        return evidence

    def verify(self, domain: bytes) -> bool:
        """True iff the two messages conflict and both signatures are the key's under the domain of that height."""
        if self.first == self.second:
            return False
        if self.kind == PROPOSAL:
            return all(
                verify(self.key, "proposal", domain, proposal_body(self.height, self.round, valid, block), signature)
                for valid, block, signature in (
                    (self.first_valid_round, self.first, self.first_signature),
                    (self.second_valid_round, self.second, self.second_signature),
                )
            )
        tag = KIND_TAG[self.kind]
        return all(
            verify(self.key, tag, domain, vote_body(self.height, self.round, block), signature)
            for block, signature in ((self.first, self.first_signature), (self.second, self.second_signature))
        )
