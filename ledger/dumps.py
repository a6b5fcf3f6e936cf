"""A block whose execution broke a rule that can never fail, with all it read: enough to execute it again, anywhere.

The dump holds the parent state, the block's context and content, the signing domains up to its height, and the authority
set of a recovery at its parent if there is one. Of a large state it holds what the execution read, found by repeating it
over a view that takes notes: since execution is deterministic, the same rules ask for nothing else. So executing a dump
needs no database.

    file   parts, each a 4-byte big-endian length and strict CBOR: the head, then inherents, extrinsics and rows, as many as
           the head says
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

from .blocks import MAX_BLOCK_BYTES, Extrinsic
from .codec import BOOL, HASH, KEY, U32, U64, Bytes, ListOf, Optional, Record, Text, decode, encode
from .errors import DecodeError, NotFound
from .machine import BlockContext, StateMachine, View
from .votes import MAX_AUTHORITIES

DUMP_VERSION: Final = 1
MAX_DUMP_BYTES: Final = 1 << 30
MAX_PART_BYTES: Final = 4 << 20
MAX_ERROR_BYTES: Final = 4096
DOMAIN_BLOCKS: Final = 100_000  # how far back signing domains are noted
MAX_DOMAINS: Final = 256
MAX_WHOLE_KEYS: Final = 100_000  # of larger states only what was read is kept

_KEYS: Final = ListOf(KEY, MAX_AUTHORITIES)
_HEAD: Final = Record(
    "dump", version=U32, genesis_hash=HASH, height=U64, session=U64, timestamp_ms=U64, parent_hash=HASH, proposer=KEY,
    proposal_round=U32, leaders_missed=_KEYS, parent_signers=_KEYS, beacon=HASH, building=BOOL, whole=BOOL,
    error=Text(MAX_ERROR_BYTES),
    domains=ListOf(Record("domain", first_height=U64, domain=HASH), MAX_DOMAINS, low=1),
    members=ListOf(Record("member", session_key=KEY, account=KEY), MAX_AUTHORITIES), parts=ListOf(U32, 3, low=3),
)
_INHERENT: Final = Record("inherent", kind=U32, payload=Bytes(high=MAX_BLOCK_BYTES))
_EXTRINSIC: Final = Record("extrinsic", raw=Bytes(high=MAX_BLOCK_BYTES))
_ROW: Final = Record("row", key=Bytes(high=1024), value=Optional(Bytes(high=MAX_PART_BYTES)))


class Recorder:
    """A view that notes what is read through it."""

    def __init__(self, view: View) -> None:
        self._view = view
        self.rows: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        value = self.rows[key] = self._view.get(key)
        return value

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        for key, value in self._view.items(prefix, after):
            self.rows[key] = value
            yield key, value


@dataclass(frozen=True)
class Dump:
    """What executing one block takes.

    `rows`: key -> value on the parent state, None where there was none; `whole`: they are all it had. `building`: the block
    was being made, so that extrinsics which cannot be admitted are left out of it.
    """

    genesis_hash: bytes
    context: BlockContext
    building: bool
    whole: bool
    error: str
    inherents: tuple[tuple[int, bytes], ...]
    extrinsics: tuple[bytes, ...]
    rows: Mapping[bytes, bytes | None]
    domains: tuple[tuple[int, bytes], ...]
    members: tuple[tuple[bytes, bytes], ...] = ()  # of a recovery at the parent: (session key, account)

    def get(self, key: bytes) -> bytes | None:
        if not self.whole and key not in self.rows:
            raise NotFound(f"key {key.hex()} was not read when the block failed, and is not in the dump")
        return self.rows.get(key)

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        keys = self._keys
        for index in range(max(bisect_left(keys, prefix), bisect_right(keys, after)), len(keys)):
            key = keys[index]
            if not key.startswith(prefix):
                return
            value = self.rows[key]
            assert value is not None
            yield key, value

    @cached_property
    def _keys(self) -> list[bytes]:
        return sorted(key for key, value in self.rows.items() if value is not None)

    def domain_at(self, height: int) -> bytes:
        """Signing domain of a height."""
        return next((domain for first, domain in reversed(self.domains) if first <= height), self.domains[0][1])

    def run(self, machine: StateMachine) -> None:
        """Execute the block again; raises what executing it raises, Rejected if it is invalid."""
        extrinsics = Extrinsic.decode_each(self.extrinsics)
        machine.apply_block(self, self.context, self.inherents, extrinsics, {} if self.building else None)

    def encode(self) -> bytes:
        at = self.context
        head = [
            DUMP_VERSION, self.genesis_hash, at.height, at.session, at.timestamp_ms, at.parent_hash, at.proposer,
            at.proposal_round, list(at.leaders_missed), list(at.parent_signers), at.beacon, self.building,
            self.whole, self.error,
            [list(entry) for entry in self.domains], [list(member) for member in self.members],
            [len(self.inherents), len(self.extrinsics), len(self.rows)],
        ]
        parts = [head, *map(list, self.inherents), *([raw] for raw in self.extrinsics), *map(list, sorted(self.rows.items()))]
        return b"".join(len(data).to_bytes(4, "big") + data for data in map(encode, parts))

    @classmethod
    def decode(cls, data: bytes) -> Dump:
        """Raises DecodeError."""
        if len(data) > MAX_DUMP_BYTES:
            raise DecodeError(f"{len(data)} bytes, at most {MAX_DUMP_BYTES}", where="dump")
        parts = _parts(data)
        head = next(parts, None)
        _HEAD.check(head, "dump")
        assert head is not None
        if head[0] != DUMP_VERSION:
            raise DecodeError(f"version {head[0]}, expected {DUMP_VERSION}", where="dump")
        read = [_read(parts, shape, count) for shape, count in zip((_INHERENT, _EXTRINSIC, _ROW), head[16], strict=True)]
        if next(parts, None) is not None:
            raise DecodeError("more parts than the head says", where="dump")
        keys = [key for key, _ in read[2]]
        if keys != sorted(dict.fromkeys(keys)):
            raise DecodeError("rows are not in ascending order", where="dump")
        height, session, timestamp_ms, parent_hash, proposer, round_, missed, signers, beacon = head[2:11]
        context = BlockContext(
            height, session, timestamp_ms, parent_hash, proposer, round_, tuple(missed), tuple(signers), beacon
        )
        return cls(
            head[1], context, head[11], head[12], head[13], tuple((kind, payload) for kind, payload in read[0]),
            tuple(raw for (raw,) in read[1]), dict(read[2]), _pairs(head[14]), _pairs(head[15]),
        )


def dump(
    machine: StateMachine, view: View, context: BlockContext, inherents: Sequence[tuple[int, bytes]],
    extrinsics: Sequence[Extrinsic], error: str, *, building: bool, genesis_hash: bytes, domains: tuple[tuple[int, bytes], ...],
    members: tuple[tuple[bytes, bytes], ...] = (),
) -> Dump:
    """Keep what it takes to execute a block that failed: the parent state, or what executing it once more reads of it."""
    rows: dict[bytes, bytes | None] = dict(islice(view.items(b""), MAX_WHOLE_KEYS + 1))
    whole = len(rows) <= MAX_WHOLE_KEYS
    if not whole:
        recorder = Recorder(view)
        with suppress(Exception):  # it failed before, and will again
            machine.apply_block(recorder, context, inherents, extrinsics, {} if building else None)
        rows = recorder.rows
    return Dump(
        genesis_hash, context, building, whole, error.encode()[:MAX_ERROR_BYTES].decode(errors="ignore"), tuple(inherents),
        tuple(extrinsic.encode() for extrinsic in extrinsics), rows, domains, members,
    )


def _read(parts: Iterator[Any], shape: Record, count: int) -> list[Any]:
    out = []
    for _ in range(count):
        part = next(parts, None)
        shape.check(part, "dump")
        out.append(part)
    return out


def _parts(data: bytes) -> Iterator[Any]:
    at = 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        at += 4
        if at + size > len(data) or size > MAX_PART_BYTES + 2048:
            raise DecodeError("a part is longer than what is left, or than a part may be", where="dump")
        yield decode(data[at : at + size], max_bytes=MAX_PART_BYTES + 2048, where="dump")
        at += size


def _pairs(rows: list[Any]) -> tuple[tuple[Any, Any], ...]:
    return tuple((first, second) for first, second in rows)


def domains_until(height: int, first: int, domain_at: Callable[[int], bytes]) -> tuple[tuple[int, bytes], ...]:
    """(first height, domain) of each signing domain up to `height`, back to `first` or as far as is noted."""
    out: list[tuple[int, bytes]] = []
    for each in range(max(first, height - DOMAIN_BLOCKS), height + 1):
        domain = domain_at(each)
        if not out or out[-1][1] != domain:
            out.append((each, domain))
    return tuple(out[-MAX_DOMAINS:])
