"""The wire between a caller and a neuron: frames, the signed bodies inside them, and the chain that ties a session.

    frame = u32 big-endian length | one strict CBOR array

    0 GREET   [0, versions, genesis_hash, hotkey, capabilities_hash, now_ms]   callee first, unsigned: a hint
    1 OPEN    [1, sid, open_body, signature, body]                             signed by the caller, qx/open/1
    2 ASK     [2, sid, seq, payload]                                           by the chain
    3 ANSWER  [3, sid, seq, payload]                                           by the chain
    4 FINISH  [4, sid, asks, head, signature]                                  signed by the caller, qx/finish/1
    5 CLOSE   [5, sid, close_body, signature, upstream_receipts]               signed by the callee, qx/close/1
    6 CANCEL  [6, sid]
    7 REFUSE  [7, sid, code, retry_after_ms, detail]

Bodies and payloads are byte strings inside the frame: what is hashed and signed is the bytes as received. Signatures
are over the genesis hash and the content under their tag. The digest of OPEN's content is `open_id`, the session's
name and its receipt's. The chain starts there, and each step makes

    head = blake2b-256(person "qx/step/1", head || kind u8 || seq u32 BE || blake2b-256(payload))

A length is looked at before anything is read. A version fixes the number of fields, the hashing and the order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final

from ledger import codec, crypto
from ledger.codec import HASH, KEY, U8, U16, U32, U64, Bytes, Int, ListOf, Record, Shape, Text
from ledger.errors import DecodeError

from . import flat
from .flat import head_of, number
from .refusals import DETAIL_MAX_BYTES, Refused

VERSION: Final = 1
VERSIONS: Final = (1,)  # spoken here, ascending: the newest and the one before

FRAME_MAX_BYTES: Final = 64 << 10
BODY_MAX_BYTES: Final = 8 << 10
SESSION_MAX_BYTES: Final = 1 << 20  # each way
MAX_ASKS: Final = 1024
SESSION_MAX_MS: Final = 60_000  # from issued_at to the deadline
CLOCK_WINDOW_MS: Final = 30_000  # how far issued_at may lie from the callee's clock
MAX_HOPS: Final = 1
MAX_BUDGET: Final = 12
MAX_TRACE: Final = 12
MAX_UPSTREAM: Final = 12
METHOD_MAX_BYTES: Final = 32
RECEIPT_MAX_BYTES: Final = 4096
LENGTH_BYTES: Final = 4

GREET, OPEN, ASK, ANSWER, FINISH, CLOSE, CANCEL, REFUSE = range(8)

# How a session ended, in CLOSE.
OK, CANCELLED, EXPIRED, MODEL_FAILED, LIMIT = range(5)
STATUS_NAMES: Final = ("ok", "cancelled", "expired", "model failed", "stopped at a limit")


def payload_hash(data: bytes) -> bytes:
    """blake2b-256 of a body or payload (32 bytes)."""
    return blake2b(data, digest_size=32).digest()


def step(head: bytes, kind: int, seq: int, payload: bytes) -> bytes:
    """The chain's next head after an ASK or ANSWER."""
    return crypto.digest("step", head, bytes([kind]), seq.to_bytes(4, "big"), payload_hash(payload))


# --- signed bodies -----------------------------------------------------------------------------------------------

_OPEN_BODY = Record(
    "open_body",
    version=U16,
    newest=U16,
    netuid=U16,
    caller=KEY,
    callee=KEY,
    method=Text(METHOD_MAX_BYTES),
    nonce=Bytes(16),
    issued_at_ms=U64,
    deadline_ms=U64,
    max_asks=U32,
    hops=U8,
    budget=U8,
    trace=ListOf(Record("hop", hotkey=KEY, open_id=HASH), MAX_TRACE),
    body_hash=HASH,
)
_CLOSE_BODY = Record(
    "close_body",
    version=U16,
    open_id=HASH,
    head=HASH,
    asks=U32,
    answers=U32,
    status=Int(OK, LIMIT, "status"),
    model_hash=HASH,
    epoch=U32,
    units_in=U32,
    units_out=U32,
    closed_at_ms=U64,
    upstream=Bytes(high=32 * MAX_UPSTREAM),
)
BODY_RECORD_MAX_BYTES: Final = 2048
_OPEN_FIELDS: Final = flat.fields_of(_OPEN_BODY)
_CLOSE_FIELDS: Final = flat.fields_of(_CLOSE_BODY)
_CLOSE_BODY_HEAD: Final = flat.array_head(len(_CLOSE_FIELDS))


@dataclass(slots=True)  # a frozen one of so many fields takes three times as long to make
class OpenBody:
    """What the caller signs at the start. Times are unix milliseconds; `max_asks` 0: all its words are in the body."""

    version: int
    newest: int
    netuid: int
    caller: bytes
    callee: bytes
    method: str
    nonce: bytes
    issued_at_ms: int
    deadline_ms: int
    max_asks: int
    hops: int
    budget: int
    trace: tuple[tuple[bytes, bytes], ...]
    body_hash: bytes

    def encode(self) -> bytes:
        """Strict CBOR. Raises DecodeError where a field is over its bound."""
        value = [
            self.version, self.newest, self.netuid, self.caller, self.callee, self.method, self.nonce,
            self.issued_at_ms, self.deadline_ms, self.max_asks, self.hops, self.budget,
            [list(hop) for hop in self.trace] if self.trace else [], self.body_hash,
        ]  # fmt: skip
        if not _OPEN_BODY.fits(value):
            _OPEN_BODY.check(value)
        return codec.encode(value)

    @classmethod
    def decode(cls, data: bytes) -> OpenBody:
        """Reverse of `encode`. Raises Refused: malformed, or bad_version before the fields are looked at."""
        value = _versioned(data, "open_body", _OPEN_BODY, _OPEN_FIELDS)
        value[12] = tuple((hotkey, open_id) for hotkey, open_id in value[12])
        return cls(*value)

    def open_id(self, genesis_hash: bytes, encoded: bytes) -> bytes:
        """The session's name: the digest that is signed. `encoded` is the body as it travelled."""
        return crypto.digest("open", genesis_hash, encoded)


@dataclass(slots=True)
class CloseBody:
    """What the callee signs at the end, over the whole session by its chain head."""

    version: int
    open_id: bytes
    head: bytes
    asks: int
    answers: int
    status: int
    model_hash: bytes
    epoch: int
    units_in: int
    units_out: int
    closed_at_ms: int
    upstream: bytes

    def encode(self) -> bytes:
        """Strict CBOR. The fields are the callee's own and within their bounds."""
        return b"".join((
            _CLOSE_BODY_HEAD, number(self.version), head_of(self.open_id), self.open_id, head_of(self.head), self.head,
            number(self.asks), number(self.answers), number(self.status), head_of(self.model_hash), self.model_hash,
            number(self.epoch), number(self.units_in), number(self.units_out), number(self.closed_at_ms),
            head_of(self.upstream), self.upstream,
        ))  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> CloseBody:
        """Reverse of `encode`. Raises Refused: malformed or bad_version."""
        return cls(*_versioned(data, "close_body", _CLOSE_BODY, _CLOSE_FIELDS))


assert [f.name for f in dataclasses.fields(OpenBody)] == list(_OPEN_BODY.fields)
assert [f.name for f in dataclasses.fields(CloseBody)] == list(_CLOSE_BODY.fields)


def finish_content(open_id: bytes, asks: int, head: bytes) -> bytes:
    """What FINISH signs."""
    return codec.encode([open_id, asks, head])


def _versioned(data: bytes, where: str, shape: Shape, fields: tuple[flat.Field, ...]) -> list[Any]:
    plain = flat.read(data, fields) if len(data) <= BODY_RECORD_MAX_BYTES else None
    if plain is not None and plain[0] in VERSIONS:
        return plain
    try:
        value: list[Any] = codec.decode(data, max_bytes=BODY_RECORD_MAX_BYTES, where=where)
        if type(value) is list and value and type(value[0]) is int and value[0] not in VERSIONS:
            raise Refused("bad_version", f"{where}: version {value[0]}")
        if not shape.fits(value):
            shape.check(value)  # slower, and names what does not fit
    except DecodeError as error:
        raise Refused("malformed", error.cause) from None
    return value


# --- frames ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Greet:
    versions: tuple[int, ...]
    genesis_hash: bytes
    hotkey: bytes
    capabilities_hash: bytes
    now_ms: int


@dataclass(slots=True)
class Open:
    sid: int
    open_body: bytes
    signature: bytes
    body: bytes


@dataclass(slots=True)
class Ask:
    sid: int
    seq: int
    payload: bytes


@dataclass(slots=True)
class Answer:
    sid: int
    seq: int
    payload: bytes


@dataclass(slots=True)
class Finish:
    sid: int
    asks: int
    head: bytes
    signature: bytes


@dataclass(slots=True)
class Close:
    sid: int
    close_body: bytes
    signature: bytes
    upstream_receipts: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Cancel:
    sid: int


@dataclass(slots=True)
class Refuse:
    sid: int
    code: int
    retry_after_ms: int
    detail: str


Frame = Greet | Open | Ask | Answer | Finish | Close | Cancel | Refuse

_PAYLOAD = Bytes(high=FRAME_MAX_BYTES, name="payload")
_SIGNATURE = Bytes(high=64, name="signature")  # an empty or short one is an invalid one, not a malformed frame
_FRAMES: Final[tuple[tuple[type[Any], Record], ...]] = (
    (Greet, Record("GREET", kind=U8, versions=ListOf(U16, 8, 1), genesis_hash=HASH, hotkey=KEY,
                   capabilities_hash=HASH, now_ms=U64)),
    (Open, Record("OPEN", kind=U8, sid=U32, open_body=Bytes(high=BODY_RECORD_MAX_BYTES), signature=_SIGNATURE,
                  body=_PAYLOAD)),
    (Ask, Record("ASK", kind=U8, sid=U32, seq=U32, payload=_PAYLOAD)),
    (Answer, Record("ANSWER", kind=U8, sid=U32, seq=U32, payload=_PAYLOAD)),
    (Finish, Record("FINISH", kind=U8, sid=U32, asks=U32, head=HASH, signature=_SIGNATURE)),
    (Close, Record("CLOSE", kind=U8, sid=U32, close_body=Bytes(high=BODY_RECORD_MAX_BYTES), signature=_SIGNATURE,
                   upstream_receipts=ListOf(Bytes(high=RECEIPT_MAX_BYTES), MAX_UPSTREAM))),
    (Cancel, Record("CANCEL", kind=U8, sid=U32)),
    (Refuse, Record("REFUSE", kind=U8, sid=U32, code=U16, retry_after_ms=U32, detail=Text(DETAIL_MAX_BYTES))),
)  # fmt: skip
_KIND_OF: Final[dict[type[Any], tuple[int, tuple[str, ...]]]] = {
    form: (kind, tuple(f.name for f in dataclasses.fields(form))) for kind, (form, _) in enumerate(_FRAMES)
}

_OPEN_HEAD: Final = b"\x85\x01"
_CLOSE_HEAD: Final = b"\x85\x05"
_NO_ITEMS: Final = b"\x80"
_STEP_HEAD: Final[dict[type[Any], bytes]] = {Ask: b"\x84\x02", Answer: b"\x84\x03"}
# The kinds of which there are many, by their first two bytes.
_FLAT_FRAMES: Final[dict[bytes, tuple[type[Any], tuple[flat.Field, ...]]]] = {
    bytes([0x80 | len(shape.fields), kind]): (form, flat.fields_of(shape))
    for kind, (form, shape) in enumerate(_FRAMES) if form in (Open, Ask, Answer, Finish, Close)
}


def encode_frame(frame: Frame) -> bytes:
    """Length and CBOR of a frame, ready to send. Raises Refused too_large."""
    if isinstance(frame, Answer | Ask):
        data = b"".join((
            _STEP_HEAD[type(frame)], number(frame.sid), number(frame.seq), head_of(frame.payload), frame.payload,
        ))  # fmt: skip
    elif isinstance(frame, Open):
        data = b"".join((
            _OPEN_HEAD, number(frame.sid), head_of(frame.open_body), frame.open_body,
            head_of(frame.signature), frame.signature, head_of(frame.body), frame.body,
        ))  # fmt: skip
    elif isinstance(frame, Close) and not frame.upstream_receipts:
        data = b"".join((
            _CLOSE_HEAD, number(frame.sid), head_of(frame.close_body), frame.close_body,
            head_of(frame.signature), frame.signature, _NO_ITEMS,
        ))  # fmt: skip
    else:
        kind, names = _KIND_OF[type(frame)]
        data = codec.encode([kind, *(getattr(frame, name) for name in names)])
    if len(data) > FRAME_MAX_BYTES:
        raise Refused("too_large", f"a frame of {len(data)} bytes")
    return len(data).to_bytes(LENGTH_BYTES, "big") + data


def decode_frame(data: bytes) -> Frame:
    """The frame in the bytes after the length. Raises Refused malformed, with `sid` 0 meaning the connection."""
    known = _FLAT_FRAMES.get(data[:2])
    if known is not None and len(data) <= FRAME_MAX_BYTES:
        form, fields = known
        items = flat.read(data, fields)
        if items is not None:
            quick: Frame = form(*[() if item == [] else item for item in items[1:]])
            return quick
    try:
        value = codec.decode(data, max_bytes=FRAME_MAX_BYTES, where="frame")
        kind = value[0] if type(value) is list and value else None
        if type(kind) is not int or not 0 <= kind < len(_FRAMES):
            raise DecodeError("unknown kind", where="frame")
        form, shape = _FRAMES[kind]
        if not shape.fits(value):
            shape.check(value)
    except DecodeError as error:
        raise Refused("malformed", error.cause) from None
    arguments = [tuple(item) if type(item) is list else item for item in value[1:]]
    frame: Frame = form(*arguments)
    return frame


class FrameBuffer:
    """Cuts a byte stream into frames. The declared length is checked before a byte of the frame is kept."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    @property
    def begun(self) -> bool:
        """True while a frame has begun and not ended."""
        return bool(self._data)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Frames completed by `data`, in order. Raises Refused too_large or malformed; then the stream is lost."""
        self._data += data
        while len(self._data) >= LENGTH_BYTES:
            length = int.from_bytes(self._data[:LENGTH_BYTES], "big")
            if length > FRAME_MAX_BYTES:
                self._data.clear()
                raise Refused("too_large", f"a frame of {length} bytes, at most {FRAME_MAX_BYTES}")
            end = LENGTH_BYTES + length
            if len(self._data) < end:
                return
            frame = bytes(self._data[LENGTH_BYTES:end])
            del self._data[:end]
            yield decode_frame(frame)
