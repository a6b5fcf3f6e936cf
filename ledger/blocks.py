"""Headers, extrinsics, bodies and events: what a block is, how it is encoded and hashed, and every bound.

Header     positional array of 14 fields; hash = blake2b-256(person qx/header/1, encoded header).
Extrinsic  signature(64) || body; body = [version, signer, nonce, birth_height, period, tip, call_number, args].
           The genesis hash and the hash of the block at birth_height are only in the signed digest; id = hash(body).
Body       an array of byte strings: encoded parent certificate, encoded list of inherents, then the extrinsics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from itertools import chain
from typing import Any, Final

from .codec import (
    ARRAY,
    HASH,
    INNER_ARRAY,
    KEY,
    U16,
    U32,
    U64,
    Bytes,
    ListOf,
    Record,
    Shape,
    are_plain,
    array_head_bytes,
    decode,
    decode_each,
    encode,
    encode_marked,
    is_plain,
    items_bytes,
)
from .crypto import TAGS, KeyPair, digest, verify
from .errors import DecodeError
from .trees import list_root

EXTRINSIC_VERSION: Final = 1
HEADER_VERSION: Final = 1
MAX_EXTRINSIC_BYTES: Final = 128 * 1024
MAX_BLOCK_BYTES: Final = 1 << 20
MAX_BODY_ITEMS: Final = 8192  # parts of a body; the one array that may be longer than the codec's limit
MAX_INHERENTS: Final = 256
MIN_PERIOD: Final = 8
MAX_PERIOD: Final = 4096
DEFAULT_PERIOD: Final = 64
MAX_ROUND: Final = 1 << 31


class _AnyArray(Shape):
    name = "array"

    def check(self, value: Any, where: str = "") -> None:
        if type(value) is not list:
            raise DecodeError(f"expected an array, got {type(value).__name__}", where=where)
        if not is_plain(value, 1):
            raise DecodeError("holds a map, float, tag or undefined value", where=where)

    def all_fit(self, values: Sequence[Any]) -> bool:
        return set(map(type, values)) <= {list} and are_plain(values)

    def encoded_bytes(self, values: Sequence[Any]) -> int:
        return sum(map(array_head_bytes, map(len, values))) + items_bytes(list(chain.from_iterable(values)))


HEADER_SHAPE = Record(
    "header", version=U16, runtime_version=U32, height=U64, session=U64, timestamp_ms=U64, parent_hash=HASH,
    parent_cert_hash=HASH, proposer_index=U16, proposal_round=U32, extrinsics_root=HASH, state_root=HASH,
    events_root=HASH, authorities_hash=HASH, next_authorities_hash=HASH,
)


@dataclass(frozen=True)
class Header:
    """All that a quorum certifies about a block. `state_root` is the root after this block."""

    version: int
    runtime_version: int
    height: int
    session: int
    timestamp_ms: int
    parent_hash: bytes
    parent_cert_hash: bytes
    proposer_index: int
    proposal_round: int
    extrinsics_root: bytes
    state_root: bytes
    events_root: bytes
    authorities_hash: bytes
    next_authorities_hash: bytes

    def encode(self) -> bytes:
        return encode([getattr(self, field) for field in HEADER_SHAPE.fields])

    @cached_property
    def hash(self) -> bytes:
        return digest("header", self.encode())

    @classmethod
    def from_value(cls, value: Any, where: str = "header") -> Header:
        HEADER_SHAPE.check(value, where)
        return cls(*value)

    @classmethod
    def decode(cls, data: bytes) -> Header:
        return cls.from_value(decode(data, max_bytes=1024, where="header"))


BODY_SHAPE = Record(
    "extrinsic", version=U16, signer=KEY, nonce=U64, birth_height=U64, period=U16, tip=U64, call_number=U16,
    args=_AnyArray(),
)


_begin_id: Final = blake2b(digest_size=32, person=TAGS["extrinsic"]).copy  # `digest` begun, for thousands a block


@dataclass(slots=True)
class Extrinsic:
    """A signed call. `args` are positional, checked against the call's schema by the runtime.

    `body` is what is signed; `id` is its hash: signature malleability cannot change an extrinsic's identity. Nobody changes
    an extrinsic; it is not frozen because a block makes thousands.
    """

    signature: bytes
    signer: bytes
    nonce: int
    birth_height: int
    period: int
    tip: int
    call_number: int
    args: list[Any]
    version: int = EXTRINSIC_VERSION
    body: bytes = field(init=False, repr=False, compare=False)
    id: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        self.body = encode([
            self.version, self.signer, self.nonce, self.birth_height, self.period, self.tip, self.call_number,
            self.args,
        ])
        self.id = _id_of(self.body)

    def encode(self) -> bytes:
        return self.signature + self.body

    @classmethod
    def decode(cls, data: bytes) -> Extrinsic:
        """Raises DecodeError; checks shape and bounds, not the signature."""
        if len(data) > MAX_EXTRINSIC_BYTES:
            raise DecodeError(f"{len(data)} bytes, at most {MAX_EXTRINSIC_BYTES} allowed", where="extrinsic")
        if len(data) < 65:
            raise DecodeError("shorter than a signature and a body", where="extrinsic")
        body = bytes(data[64:])
        value = decode(body, max_bytes=MAX_EXTRINSIC_BYTES, where="extrinsic")
        BODY_SHAPE.check(value)
        version, period = value[0], value[4]
        if version != EXTRINSIC_VERSION:
            raise DecodeError(f"version {version}, expected {EXTRINSIC_VERSION}", where="extrinsic.version")
        if not MIN_PERIOD <= period <= MAX_PERIOD:
            raise DecodeError(f"{period} is outside {MIN_PERIOD}..{MAX_PERIOD}", where="extrinsic.period")
        return cls._decoded(bytes(data), body, value)

    @classmethod
    def decode_each(cls, raws: Sequence[bytes]) -> list[Extrinsic]:
        """Like `decode` of each, faster. Raises DecodeError, not always of the first bad one."""
        if max(map(len, raws), default=65) > MAX_EXTRINSIC_BYTES or min(map(len, raws), default=65) < 65:
            return [cls.decode(raw) for raw in raws]
        bodies = [raw[64:] for raw in raws]
        values = decode_each(bodies, BODY_SHAPE, max_bytes=MAX_EXTRINSIC_BYTES, where="extrinsic")
        if any(value[0] != EXTRINSIC_VERSION or not MIN_PERIOD <= value[4] <= MAX_PERIOD for value in values):
            return [cls.decode(raw) for raw in raws]
        return list(map(cls._decoded, raws, bodies, values))

    @classmethod
    def _decoded(cls, raw: bytes, body: bytes, fields: list[Any]) -> Extrinsic:
        """The fields are valid, and `body` is their encoding."""
        made = cls.__new__(cls)
        (
            made.version, made.signer, made.nonce, made.birth_height, made.period, made.tip, made.call_number, made.args
        ) = fields
        made.signature, made.body, made.id = raw[:64], body, _id_of(body)
        return made

    @classmethod
    def sign(
        cls, key: KeyPair, genesis_hash: bytes, birth_hash: bytes, *, nonce: int, birth_height: int, call_number: int,
        args: list[Any], period: int = DEFAULT_PERIOD, tip: int = 0,
    ) -> Extrinsic:
        """Build and sign. `birth_hash` is the hash of the block at `birth_height`."""
        made = cls(b"", key.public, nonce, birth_height, period, tip, call_number, args)
        made.signature = key.sign("extrinsic", genesis_hash, birth_hash + made.body)
        return made

    def verify(self, genesis_hash: bytes, birth_hash: bytes) -> bool:
        """True iff the signature is the signer's for this chain and birth block."""
        return verify(self.signer, "extrinsic", genesis_hash, birth_hash + self.body, self.signature)


def _id_of(body: bytes) -> bytes:
    state = _begin_id()
    state.update(body)
    return state.digest()


# An inherent is an unsigned entry put in by the proposer: [kind, payload]; its module checks the payload.
INHERENT_SHAPE = Record("inherent", kind=U16, payload=Bytes(high=16 * 1024))
INHERENTS_SHAPE = ListOf(INHERENT_SHAPE, MAX_INHERENTS)


@dataclass(frozen=True)
class Body:
    """The parts of a block beside its header, as bytes; `parent_cert` is empty in the first block."""

    parent_cert: bytes
    inherents: bytes
    extrinsics: tuple[bytes, ...]

    def items(self) -> list[bytes]:
        return [self.parent_cert, self.inherents, *self.extrinsics]

    def encode(self) -> bytes:
        return encode(self.items())

    @classmethod
    def decode(cls, data: bytes) -> Body:
        value = decode(data, max_bytes=MAX_BLOCK_BYTES + 16384, max_items=MAX_BODY_ITEMS + 1, where="body")
        ListOf(Bytes(high=MAX_EXTRINSIC_BYTES), MAX_BODY_ITEMS, low=2).check(value, "body")
        return cls(value[0], value[1], tuple(value[2:]))

    @cached_property
    def cert_hash(self) -> bytes:
        """32 zero bytes where there is no parent certificate (the first block)."""
        return digest("body", self.parent_cert) if self.parent_cert != NO_CERTIFICATE else bytes(32)

    @cached_property
    def extrinsics_root(self) -> bytes:
        """Root of the list tree over the inherents and the extrinsics."""
        return list_root([self.inherents, *self.extrinsics])

    def inherent_list(self) -> list[tuple[int, bytes]]:
        value = decode(self.inherents, where="inherents")
        INHERENTS_SHAPE.check(value, "inherents")
        return [(kind, payload) for kind, payload in value]


NO_CERTIFICATE: Final = encode([])
NO_INHERENTS: Final = encode([])


@dataclass(frozen=True)
class Block:
    header: Header
    body: Body

    @property
    def hash(self) -> bytes:
        return self.header.hash

    @property
    def height(self) -> int:
        return self.header.height

    def encode(self) -> bytes:
        return encode([self.header.encode(), self.body.encode()])

    @classmethod
    def decode(cls, data: bytes) -> Block:
        value = decode(data, max_bytes=MAX_BLOCK_BYTES + 32768, where="block")
        ListOf(Bytes(high=MAX_BLOCK_BYTES + 16384), 2, low=2).check(value, "block")
        return cls(Header.decode(value[0]), Body.decode(value[1]))


def encode_inherents(inherents: Sequence[tuple[int, bytes]]) -> bytes:
    return encode([[kind, payload] for kind, payload in inherents])


# --- results of execution ----------------------------------------------------------------------------------------

# An event is [number, fields...]: number from the runtime's table of events.
Event = list[Any]
EPOCH_EVENT: Final = 65  # [65, netuid, epoch, ...]: the one whose meaning the ledger knows, to find epochs' blocks


@dataclass(slots=True)
class Outcome:
    """What became of one extrinsic: `error` is "" on success, else the rule's stable name.

    Nobody changes one; it is not frozen because a block makes thousands.
    """

    error: str
    fee_rao: int
    first_event: int
    events: int


def result_leaves(events: Sequence[Event], outcomes: Sequence[Outcome]) -> list[bytes]:
    """What execution yielded, as leaves under the header's events_root.

    One for each extrinsic, [error, fee_rao, index of its first event, its events], so that one proof shows an outcome
    with all its events; then one for the events of the block itself, [[index, event], ...].
    """
    own, covered = [], 0
    for outcome in outcomes:
        if covered != (first := outcome.first_event):
            assert covered < first, "outcomes are out of order"
            own += [[index, events[index]] for index in range(covered, first)]
        covered = first + outcome.events
    own += [[index, events[index]] for index in range(covered, len(events))]
    leaves = _outcome_leaves(events, outcomes)
    leaves.append(encode(own))
    return leaves


def _outcome_leaves(events: Sequence[Event], outcomes: Sequence[Outcome]) -> list[bytes]:
    """The leaves of the extrinsics; all of them encoded as one array, where the events are short and flat."""
    leaves: list[bytes] = []
    most = len(INNER_ARRAY) - 1
    if max(map(len, events), default=0) <= most and max([each.events for each in outcomes], default=0) <= most:
        flat: list[Any] = []
        add, head, inner, arrays = flat.append, ARRAY[4], INNER_ARRAY, len(outcomes)
        for outcome in outcomes:
            first, count = outcome.first_event, outcome.events
            flat += (head, outcome.error, outcome.fee_rao, first, inner[count])
            for event in events[first : first + count]:
                add(inner[len(event)])
                flat += event
            arrays += count
        leaves = encode_marked(flat, len(outcomes), arrays)
    return leaves or [
        encode([each.error, each.fee_rao, each.first_event, events[each.first_event : each.first_event + each.events]])
        for each in outcomes
    ]


def events_root(events: Sequence[Event], outcomes: Sequence[Outcome]) -> bytes:
    """The header's commitment to all events and outcomes of a block, in order."""
    return list_root(result_leaves(events, outcomes), kind="events")
