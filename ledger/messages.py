"""What authorities say to each other on the direct channel, and `Final` on the block topic: bytes, bounds, errors.

Bundle  one frame: [votes, proposals, certificates, status, final]; votes first, at most 64; a proposal comes with the
        header of its block if the sender has it, and never with a body; certificates are PoLCs.
Final   [header, precommit certificate]: proof that the block of this header is final. It carries no body either.

Whatever decodes has the right shape and bounds, its parts belong together, and it encodes to the same bytes again. The
signatures are checked later, with the set and the domain of the height. Everything else raises DecodeError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from .blocks import Header
from .codec import HASH, U32, U64, Bytes, ListOf, Optional, Record, Shape, decode, encode
from .errors import DecodeError
from .votes import PRECOMMIT, PREVOTE, Certificate, Proposal, Status, Vote

MAX_FRAME_BYTES: Final = 96 * 1024
MAX_FRAME_VOTES: Final = 64
MAX_FRAME_PROPOSALS: Final = 4
MAX_FRAME_CERTIFICATES: Final = 2
MAX_FINAL_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 1024
MAX_CERTIFICATE_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """A header and the precommit certificate of its hash."""

    header: Header
    certificate: Certificate

    @property
    def height(self) -> int:
        return self.header.height


@dataclass(frozen=True, slots=True)
class Bundle:
    """One frame of the direct channel. `headers` holds those of the proposals' blocks, by hash, as far as sent."""

    votes: tuple[Vote, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    status: Status | None = None
    final: FinalBlock | None = None
    headers: Mapping[bytes, Header] | None = None


Said = Vote | Proposal | Certificate | Status


class _Checked(Shape):
    """Checked by the value's own decoder."""

    name = "message"

    def check(self, value: Any, where: str = "") -> None:
        return None


_BUNDLE_SHAPE = Record(
    "bundle",
    votes=ListOf(_Checked(), MAX_FRAME_VOTES),
    proposals=ListOf(
        Record("proposed", proposal=_Checked(), header=Optional(Bytes(high=MAX_HEADER_BYTES))), MAX_FRAME_PROPOSALS
    ),
    certificates=ListOf(Bytes(high=MAX_CERTIFICATE_BYTES), MAX_FRAME_CERTIFICATES),
    status=Optional(Record("status", height=U64, round=U32, head_hash=HASH)),
    final=Optional(Bytes(high=MAX_FINAL_BYTES)),
)
_FINAL_SHAPE = Record("final", header=Bytes(high=MAX_HEADER_BYTES), certificate=Bytes(high=MAX_CERTIFICATE_BYTES))


def encode_final(header: Header, certificate: Certificate) -> bytes:
    """For the block topic."""
    return encode([header.encode(), certificate.encode()])


def decode_final(data: bytes) -> FinalBlock:
    value = decode(data, max_bytes=MAX_FINAL_BYTES, where="final")
    _FINAL_SHAPE.check(value)
    header, certificate = Header.decode(value[0]), Certificate.decode(value[1])
    found = (certificate.kind, certificate.height, certificate.block_hash)
    if found != (PRECOMMIT, header.height, header.hash):
        raise DecodeError("not a precommit certificate of this header", where="final.certificate")
    return FinalBlock(header, certificate)


def encode_bundle(bundle: Bundle) -> bytes:
    headers = bundle.headers or {}
    return encode([
        [vote.value() for vote in bundle.votes],
        [
            [proposal.value(), headers[proposal.block_hash].encode() if proposal.block_hash in headers else None]
            for proposal in bundle.proposals
        ],
        [certificate.encode() for certificate in bundle.certificates],
        None if bundle.status is None else bundle.status.value(),
        None if bundle.final is None else encode_final(bundle.final.header, bundle.final.certificate),
    ])


def decode_bundle(data: bytes) -> Bundle:
    value = decode(data, max_bytes=MAX_FRAME_BYTES, where="bundle")
    _BUNDLE_SHAPE.check(value)
    votes, proposed, certificates, status, final = value
    proposals, headers = [], {}
    for item, header_bytes in proposed:
        proposal = Proposal.from_value(item)
        proposals.append(proposal)
        if header_bytes is not None:
            header = Header.decode(header_bytes)
            if (header.hash, header.height) != (proposal.block_hash, proposal.height):
                raise DecodeError("not the header of the proposed block", where="bundle.proposals")
            headers[header.hash] = header
    if any((each.block_hash in headers) == (given is None) for each, (_, given) in zip(proposals, proposed, strict=True)):
        raise DecodeError("the header of a block with one of its proposals and not with the other", where="bundle.proposals")
    return Bundle(
        tuple(Vote.from_value(item) for item in votes),
        tuple(proposals),
        tuple(_polc(item) for item in certificates),
        None if status is None else Status.from_value(status),
        None if final is None else decode_final(final),
        headers,
    )


def _polc(data: bytes) -> Certificate:
    certificate = Certificate.decode(data)
    if certificate.kind != PREVOTE:
        raise DecodeError("a commit certificate travels with its header", where="bundle.certificates")
    return certificate


def pack(said: Sequence[Said], headers: Mapping[bytes, Header]) -> list[Bundle]:
    """Put all that is to be said into as few frames as the limits allow, each value once, votes in the order given."""
    unique = dict.fromkeys(said)
    votes = iter([value for value in unique if isinstance(value, Vote)])
    proposals = iter([value for value in unique if isinstance(value, Proposal)])
    certificates = iter([value for value in unique if isinstance(value, Certificate)])
    statuses = iter([value for value in unique if isinstance(value, Status)])
    bundles: list[Bundle] = []
    while True:
        bundle = Bundle(
            tuple(islice(votes, MAX_FRAME_VOTES)),
            tuple(islice(proposals, MAX_FRAME_PROPOSALS)),
            tuple(islice(certificates, MAX_FRAME_CERTIFICATES)),
            next(statuses, None),
            headers=headers,
        )
        if not (bundle.votes or bundle.proposals or bundle.certificates or bundle.status):
            return bundles
        bundles.append(bundle)
