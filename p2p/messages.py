"""Wire types of hello, sync, the authority channel and the peer exchange: strict CBOR arrays with bounds.

Every decoder raises DecodeError naming the first bad field and nothing else; every size is checked before it is used.
The sync verbs are `head`, `headers`, `bodies` and `block`; requests and replies are encoded here for both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.blocks import MAX_BLOCK_BYTES
from ledger.codec import BOOL, HASH, KEY, SIGNATURE, U8, U16, U32, U64, Bytes, ListOf, Record, Shape, decode, encode
from ledger.crypto import KeyPair, verify
from ledger.errors import DecodeError

from .addresses import public_of_peer_id
from .network import Hello

PROTOCOL_VERSION: Final = 1
MAX_HELLO_BYTES: Final = 16 * 1024
MAX_CERTIFICATE_BYTES: Final = 8 * 1024
MAX_DOMAINS: Final = 64
MAX_VERDICT_BYTES: Final = 64
MAX_GOSSIP_BYTES: Final = 256 * 1024
MAX_CHANNEL_FRAME_BYTES: Final = 128 * 1024
MAX_REQUEST_BYTES: Final = 64 * 1024
MAX_REPLY_BYTES: Final = 8 * 1024 * 1024
ENVELOPE_BYTES: Final = 32  # array head, id, flag and length prefix around a request or a reply
MAX_HEADERS: Final = 512
MAX_BODIES: Final = 512
MAX_BODIES_BYTES: Final = 4 * 1024 * 1024
MAX_HEADER_BYTES: Final = 1024
MAX_BODY_BYTES: Final = MAX_BLOCK_BYTES + 16 * 1024
MAX_RECORDS: Final = 16

ROLES: Final = ("full", "authority")


# --- hello -------------------------------------------------------------------------------------------------------

_PROOF = Record("proof", session_key=KEY, expiry_height=U64, signature=SIGNATURE)


class _ProofOrNone(Shape):
    name = "proof or empty"

    def check(self, value: Any, where: str = "") -> None:
        if value != []:
            _PROOF.check(value, where)


_HELLO = Record(
    "hello", version=U16, genesis_hash=HASH,
    domains=ListOf(Record("domain", from_height=U64, domain=HASH), MAX_DOMAINS, low=1),
    height=U64, head_certificate=Bytes(high=MAX_CERTIFICATE_BYTES), role=U8, proof=_ProofOrNone(),
)


def encode_hello(hello: Hello) -> bytes:
    """Positional array; the authority proof is an empty array where there is none."""
    proof = [hello.session_key, hello.expiry_height, hello.signature] if hello.session_key else []
    domains = [[height, domain] for height, domain in hello.domains]
    role = ROLES.index(hello.role)
    return encode([hello.version, hello.genesis_hash, domains, hello.height, hello.head_certificate, role, proof])


def decode_hello(data: bytes) -> Hello:
    """Raises DecodeError; checks shape and bounds, not whether the hello is acceptable (see `p2p.hello`)."""
    value = decode(data, max_bytes=MAX_HELLO_BYTES, where="hello")
    _HELLO.check(value)
    version, genesis_hash, domains, height, certificate, role, proof = value
    if role >= len(ROLES):
        raise DecodeError(f"unknown role {role}", where="hello.role")
    heights = [from_height for from_height, _ in domains]
    if any(later <= earlier for earlier, later in zip(heights, heights[1:], strict=False)):
        raise DecodeError("heights do not rise", where="hello.domains")
    if bool(proof) != (ROLES[role] == "authority"):
        raise DecodeError("a proof exactly where the role is authority", where="hello.proof")
    key, expiry_height, signature = proof or (b"", 0, b"")
    pairs = tuple((from_height, domain) for from_height, domain in domains)
    return Hello(version, genesis_hash, pairs, height, certificate, ROLES[role], key, expiry_height, signature)


def proof_body(genesis_hash: bytes, peer: str, expiry_height: int) -> bytes:
    """What a session key signs, under the last signing domain: this peer id speaks for it until that height."""
    return genesis_hash + public_of_peer_id(peer) + expiry_height.to_bytes(8, "big")


def sign_proof(key: KeyPair, domain: bytes, genesis_hash: bytes, peer: str, expiry_height: int) -> bytes:
    """Signature (64 bytes) of an authority's hello, made by its session key under the last domain."""
    return key.sign("hello", domain, proof_body(genesis_hash, peer, expiry_height))


def encode_verdict(refusal: str) -> bytes:
    """Answer to a hello: empty text accepts, else the name of the rule that refuses."""
    return encode(refusal)


def decode_verdict(data: bytes) -> str:
    value = decode(data, max_bytes=MAX_VERDICT_BYTES + 2, where="verdict")
    if type(value) is not str or not value.isascii() or (value and not value.isalpha()):
        raise DecodeError("not a rule name", where="verdict")
    return value


# --- sync verbs --------------------------------------------------------------------------------------------------

HEAD, HEADERS, BODIES, BLOCK = 1, 2, 3, 4


@dataclass(frozen=True, slots=True)
class GetHead:
    """Ask for the tip; `height` is the asker's own, so that one exchange informs both."""

    height: int


@dataclass(frozen=True, slots=True)
class GetHeaders:
    from_height: int
    count: int


@dataclass(frozen=True, slots=True)
class GetBodies:
    hashes: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class GetBlock:
    """Header and body of one block, also one that is proposed but not final."""

    hash: bytes


Request = GetHead | GetHeaders | GetBodies | GetBlock


@dataclass(frozen=True, slots=True)
class Head:
    """The tip: `header` and `certificate` are encoded, and empty at genesis."""

    height: int
    hash: bytes
    header: bytes
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Headers:
    """Consecutive encoded headers from the height asked for; fewer, or none, if the server has no more."""

    headers: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Bodies:
    """Encoded bodies of a prefix of the hashes asked for; b"" where the server does not have one."""

    bodies: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class BlockReply:
    """Encoded header and body; both empty if the server does not have the block."""

    header: bytes
    body: bytes


Reply = Head | Headers | Bodies | BlockReply

_VERBS: Final[dict[int, Record]] = {
    HEAD: Record("head", verb=U8, height=U64),
    HEADERS: Record("headers", verb=U8, from_height=U64, count=U16),
    BODIES: Record("bodies", verb=U8, hashes=ListOf(HASH, MAX_BODIES, low=1)),
    BLOCK: Record("block", verb=U8, hash=HASH),
}
_HEADER_FIELD, _BODY_FIELD = Bytes(high=MAX_HEADER_BYTES), Bytes(high=MAX_BODY_BYTES)
_CERTIFICATE_FIELD = Bytes(high=MAX_CERTIFICATE_BYTES)
_REPLIES: Final[dict[int, Record]] = {
    HEAD: Record("head", verb=U8, height=U64, hash=HASH, header=_HEADER_FIELD, certificate=_CERTIFICATE_FIELD),
    HEADERS: Record("headers", verb=U8, headers=ListOf(_HEADER_FIELD, MAX_HEADERS)),
    BODIES: Record("bodies", verb=U8, bodies=ListOf(_BODY_FIELD, MAX_BODIES)),
    BLOCK: Record("block", verb=U8, header=_HEADER_FIELD, body=_BODY_FIELD),
}


def encode_request(request: Request) -> bytes:
    if isinstance(request, GetHead):
        return encode([HEAD, request.height])
    if isinstance(request, GetHeaders):
        return encode([HEADERS, request.from_height, request.count])
    if isinstance(request, GetBodies):
        return encode([BODIES, list(request.hashes)])
    return encode([BLOCK, request.hash])


def decode_request(data: bytes) -> Request:
    verb, fields = _verb(data, MAX_REQUEST_BYTES, _VERBS, "request")
    if verb == HEAD:
        return GetHead(*fields)
    if verb == HEADERS:
        if not 1 <= fields[1] <= MAX_HEADERS:
            raise DecodeError(f"{fields[1]} is outside 1..{MAX_HEADERS}", where="request.count")
        return GetHeaders(*fields)
    if verb == BODIES:
        return GetBodies(tuple(fields[0]))
    return GetBlock(fields[0])


def encode_reply(reply: Reply) -> bytes:
    if isinstance(reply, Head):
        return encode([HEAD, reply.height, reply.hash, reply.header, reply.certificate])
    if isinstance(reply, Headers):
        return encode([HEADERS, list(reply.headers)])
    if isinstance(reply, Bodies):
        return encode([BODIES, list(reply.bodies)])
    return encode([BLOCK, reply.header, reply.body])


def decode_reply(data: bytes, request: Request) -> Reply:
    """The reply to this very request: another verb, or more than was asked for, is a DecodeError."""
    verb, fields = _verb(data, MAX_REPLY_BYTES, _REPLIES, "reply")
    if verb != encode_request(request)[1]:
        raise DecodeError("answers another verb", where="reply.verb")
    if verb == HEAD:
        return Head(*fields)
    if verb == HEADERS:
        assert isinstance(request, GetHeaders)
        return Headers(_at_most(fields[0], request.count, "reply.headers"))
    if verb == BODIES:
        assert isinstance(request, GetBodies)
        return Bodies(_at_most(fields[0], len(request.hashes), "reply.bodies"))
    return BlockReply(*fields)


def _at_most(items: list[bytes], count: int, where: str) -> tuple[bytes, ...]:
    if len(items) > count:
        raise DecodeError(f"{len(items)} items where {count} were asked for", where=where)
    return tuple(items)


def _verb(data: bytes, max_bytes: int, shapes: dict[int, Record], where: str) -> tuple[int, list[Any]]:
    value = decode(data, max_bytes=max_bytes, where=where)
    if type(value) is not list or not value or type(value[0]) is not int or value[0] not in shapes:
        raise DecodeError("not a known verb", where=where)
    shapes[value[0]].check(value, where)
    return value[0], value[1:]


# --- envelopes of the kept sync stream -----------------------------------------------------------------------------

_REQUEST_ENVELOPE = Record("envelope", id=U32, payload=Bytes(high=MAX_REQUEST_BYTES))
_REPLY_ENVELOPE = Record("envelope", id=U32, ok=BOOL, payload=Bytes(high=MAX_REPLY_BYTES))


def encode_request_envelope(number: int, payload: bytes) -> bytes:
    return encode([number, payload])


def decode_request_envelope(data: bytes) -> tuple[int, bytes]:
    number, payload = _envelope(data, _REQUEST_ENVELOPE, MAX_REQUEST_BYTES)
    return number, payload


def encode_reply_envelope(number: int, ok: bool, payload: bytes) -> bytes:
    """`ok` false: the payload is the name of the error instead of a reply."""
    return encode([number, ok, payload])


def decode_reply_envelope(data: bytes) -> tuple[int, bool, bytes]:
    number, ok, payload = _envelope(data, _REPLY_ENVELOPE, MAX_REPLY_BYTES)
    return number, ok, payload


def _envelope(data: bytes, shape: Record, max_bytes: int) -> list[Any]:
    value: list[Any] = decode(data, max_bytes=max_bytes + ENVELOPE_BYTES, where="envelope")
    shape.check(value)
    return value


# --- peer exchange -------------------------------------------------------------------------------------------------

_PEER = Record("peer", public=KEY, ip=Bytes(low=4, high=16), port=U16, sequence=U64, expiry_ms=U64, signature=SIGNATURE)
MAX_RECORD_BYTES: Final = 192


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """A node key's signed statement of where it listens. `ip` is packed, 4 or 16 bytes; times are wall-clock."""

    public: bytes
    ip: bytes
    port: int
    sequence: int
    expiry_ms: int
    signature: bytes

    @property
    def body(self) -> bytes:
        return encode([self.public, self.ip, self.port, self.sequence, self.expiry_ms])

    @classmethod
    def sign(cls, key: KeyPair, genesis_hash: bytes, ip: bytes, port: int, sequence: int, expiry_ms: int) -> PeerRecord:
        draft = cls(key.public, ip, port, sequence, expiry_ms, b"")
        return cls(key.public, ip, port, sequence, expiry_ms, key.sign("peer", genesis_hash, draft.body))

    def verify(self, genesis_hash: bytes) -> bool:
        return verify(self.public, "peer", genesis_hash, self.body, self.signature)

    def encode(self) -> bytes:
        return encode([self.public, self.ip, self.port, self.sequence, self.expiry_ms, self.signature])

    @classmethod
    def decode(cls, data: bytes) -> PeerRecord:
        value = decode(data, max_bytes=MAX_RECORD_BYTES, where="peer")
        _PEER.check(value)
        record = cls(*value)
        if len(record.ip) not in (4, 16) or not record.port:
            raise DecodeError("not an IP address and port", where="peer.ip")
        return record


def encode_records(records: Sequence[PeerRecord]) -> bytes:
    return encode([record.encode() for record in records])


def decode_records(data: bytes) -> list[PeerRecord]:
    value = decode(data, max_bytes=MAX_RECORDS * (MAX_RECORD_BYTES + 2) + 4, where="peers")
    ListOf(Bytes(high=MAX_RECORD_BYTES), MAX_RECORDS, low=1).check(value, "peers")
    return [PeerRecord.decode(item) for item in value]
