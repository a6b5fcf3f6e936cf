"""The sign database: what this authority has signed, and the guard that lets it never sign two things.

The database is a store of its own (never backed up, never restored). It holds the genesis hash, the public key, the
list of signing domains, one record for each domain, and the bodies of blocks that bind this node, each once under its
hash. An older copy of it cannot be told from the newest by itself: therefore the chain database notes with each block how
far this key had signed (`note`), and `check_note` refuses a sign database that knows less.

Guard (rule "Signer"): a record is written only if its newest signed (height, round, step, digest) is greater than the
stored one (lexicographic; proposal < prevote < precommit) or identical. A refusal raises DoubleSignRisk and ends the
node. A message may leave the node only after the record that contains it is durable.

Domains: the domain of height h is that of the last entry (from_height, domain) with from_height <= h. A rewind to H
drops the entries above H and appends a new one at H + 1, chained to the one it replaces: nothing that was signed above
H before the rewind is valid after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .blocks import Block
from .codec import HASH, KEY, U32, U64, Bytes, Int, ListOf, Optional, Record, Shape, decode, encode
from .errors import Corruption, DecodeError, DoubleSignRisk, InvariantBroken, NotFound, UsageError
from .store import SCHEMA_KEY, Store, check_stamp, stamp
from .votes import MAX_AUTHORITIES, NIL, Certificate, Proposal, Vote, next_domain

SCHEMA: Final = 1
MAX_DOMAINS: Final = 64
MAX_RECORD_BYTES: Final = 256 * 1024

# Steps of a round; a vote's kind (PREVOTE = 1, PRECOMMIT = 2) is also the step in which it is cast.
STEP_PROPOSE: Final = 0
STEP_PREVOTE: Final = 1
STEP_PRECOMMIT: Final = 2

Domains = tuple[tuple[int, bytes], ...]
Signed = tuple[int, int, bytes]  # round, step, digest of the signed body
Message = Proposal | Vote


def domain_at(domains: Domains, height: int) -> bytes:
    """The 32-byte signing domain of a height. `domains` is ordered by from_height."""
    found = domains[0][1]
    for from_height, domain in domains:
        if from_height > height:
            break
        found = domain
    return found


def rewound(domains: Domains, height: int, head_hash: bytes, next_authorities_hash: bytes, entropy: bytes) -> Domains:
    """The list after a rewind to `height`. `entropy`: 16 random bytes, the same for every node of the devnet."""
    old = domain_at(domains, height + 1)
    domain = next_domain(old, height, head_hash, next_authorities_hash, entropy)
    return (*(entry for entry in domains if entry[0] <= height), (height + 1, domain))


@dataclass(frozen=True, slots=True)
class SignRecord:
    """The durable part of the consensus state at one height (the letter D of the rules). Rounds of -1 mean none."""

    height: int
    round: int = 0
    step: int = STEP_PROPOSE
    signed: Signed | None = None  # the newest message signed at this height
    locked_round: int = -1
    locked_hash: bytes = NIL
    valid_round: int = -1
    valid_hash: bytes = NIL
    valid_polc: Certificate | None = None
    prevoted_hash: bytes = NIL  # the last block prevoted at this height
    own: tuple[Proposal | None, Vote | None, Vote | None] = (None, None, None)  # of `round`, by step
    why: tuple[Message, ...] = ()  # signed messages that justify being in `round`

    @property
    def guard(self) -> tuple[int, int, int]:
        """(height, round, step) of the newest signed message; a height without one is above the heights before."""
        return (self.height, *self.signed[:2]) if self.signed else (self.height, -1, -1)

    def binding(self) -> tuple[bytes, ...]:
        """Hashes of the blocks whose bodies must be durable with this record, each once."""
        proposed = self.own[0].block_hash if self.own[0] else NIL
        hashes = (proposed, self.prevoted_hash, self.locked_hash, self.valid_hash)
        return tuple(dict.fromkeys(block_hash for block_hash in hashes if block_hash != NIL))

    def guard_only(self) -> SignRecord:
        """The record without anything to resume from: all that a single authority needs, since nothing leaves it."""
        return SignRecord(self.height, self.round, self.step, self.signed)

    def encode(self) -> bytes:
        return bytes([SCHEMA]) + encode([
            self.height, self.round, self.step, self.signed, self.locked_round, self.locked_hash, self.valid_round,
            self.valid_hash, None if self.valid_polc is None else self.valid_polc.encode(), self.prevoted_hash,
            [None if message is None else message.value() for message in self.own],
            [[int(isinstance(message, Vote)), encode(message.value())] for message in self.why],
        ])

    @classmethod
    def decode(cls, data: bytes) -> SignRecord:
        """Raises DecodeError for bytes that `encode` cannot have made."""
        if data[:1] != bytes([SCHEMA]):
            raise DecodeError(f"format {data[:1].hex() or 'missing'}, expected {SCHEMA:02x}", where="sign record")
        value = decode(data[1:], max_bytes=MAX_RECORD_BYTES, where="sign record")
        _RECORD_SHAPE.check(value)
        height, round_, step, signed, locked_round, locked, valid_round, valid, polc, prevoted, own, why = value
        proposal, prevote, precommit = own
        return cls(
            height, round_, step, None if signed is None else (signed[0], signed[1], signed[2]), locked_round, locked,
            valid_round, valid, None if polc is None else Certificate.decode(polc), prevoted,
            (
                None if proposal is None else Proposal.from_value(proposal),
                None if prevote is None else Vote.from_value(prevote),
                None if precommit is None else Vote.from_value(precommit),
            ),
            tuple(_message(kind, data) for kind, data in why),
        )


class _Message(Shape):
    """Checked by the message's own decoder."""

    name = "message"

    def check(self, value: Any, where: str = "") -> None:
        return None


_ROUND = Int(-1, (1 << 31) + 1, "round")
_RECORD_SHAPE = Record(
    "sign record", height=U64, round=U32, step=Int(0, 2, "step"),
    signed=Optional(Record("signed", round=U32, step=Int(0, 2, "step"), digest=HASH)),
    locked_round=_ROUND, locked_hash=HASH, valid_round=_ROUND, valid_hash=HASH,
    valid_polc=Optional(Bytes(high=8 * 1024)), prevoted_hash=HASH, own=ListOf(_Message(), 3, low=3),
    why=ListOf(Record("why", vote=Int(0, 1, "kind"), message=Bytes(high=9 * 1024)), MAX_AUTHORITIES),
)


def _message(is_vote: int, data: bytes) -> Message:
    value = decode(data, where="why")
    return Vote.from_value(value) if is_vote else Proposal.from_value(value)


NOTE_ROW: Final = b"guard"  # of the chain database, among the rows of the node
_KEY_ROW: Final = b"m/key"
_DOMAINS_ROW: Final = b"m/domains"
_RECORD: Final = b"r/"  # + domain
_BODY: Final = b"b/"  # + block hash
_NOTE_SHAPE = Record("note", key=KEY, domain=HASH, height=U64, round=U32, step=Int(0, 2, "step"))
_DOMAINS_SHAPE = ListOf(Record("domain", from_height=U64, domain=HASH), MAX_DOMAINS, low=1)


class Signer:
    """The guard over one open sign database. Used by one thread at a time (the node's disk thread)."""

    def __init__(self, store: Store, public_key: bytes, domains: Domains) -> None:
        self._store = store
        self.public_key = public_key
        self.domains = domains
        self._newest: dict[bytes, SignRecord] = {}
        self._noted: bytes | None = None
        self._bodies = dict.fromkeys(key[len(_BODY) :] for key, _ in store.items(_BODY))
        for key, value in store.items(_RECORD):
            self._newest[key[len(_RECORD) :]] = _stored(value)

    @classmethod
    def create(cls, store: Store, genesis_hash: bytes, public_key: bytes, first_height: int = 1) -> Signer:
        """Initialise an empty store. Raises DoubleSignRisk if it is not empty: a guard is never overwritten."""
        if store.get(SCHEMA_KEY) is not None:
            raise DoubleSignRisk("the sign database exists already", hint="open it; it must never be made anew")
        KEY.check(public_key, "public key")
        domains: Domains = ((first_height, genesis_hash),)
        rows = stamp(SCHEMA, genesis_hash) | {_KEY_ROW: public_key, _DOMAINS_ROW: _encode_domains(domains)}
        store.write(rows, sync=True)
        return cls(store, public_key, domains)

    @classmethod
    def open(cls, store: Store, genesis_hash: bytes, public_key: bytes) -> Signer:
        """Raises NotFound (empty store), NewerSchema, WrongGenesis, DoubleSignRisk (another key) or Corruption."""
        if store.get(SCHEMA_KEY) is None:
            raise NotFound(
                "there is no sign database for this key",
                hint="restore it, or start with --new-sign-db once no other copy of this key runs",
            )
        check_stamp(store, SCHEMA, genesis_hash)
        if store.get(_KEY_ROW) != public_key:
            raise DoubleSignRisk("the sign database belongs to another key")
        return cls(store, public_key, _decode_domains(store.get(_DOMAINS_ROW) or b""))

    @property
    def has_guarded(self) -> bool:
        """True if anything was ever signed under this database, in whatever domain."""
        return bool(self._newest)

    def load(self, height: int) -> tuple[SignRecord | None, tuple[Block, ...]]:
        """Record of the domain of `height` (the one to work on next) and the stored bodies that it binds."""
        record = self._newest.get(domain_at(self.domains, height))
        if record is None:
            return None, ()
        stored = ((block_hash, self._store.get(_BODY + block_hash)) for block_hash in record.binding())
        return record, tuple(_block(block_hash, data) for block_hash, data in stored if data is not None)

    def persist(self, record: SignRecord, bodies: Sequence[Block], *, sync: bool = True) -> None:
        """Make the record and the new bodies durable in one batch. Bodies that bind no longer are deleted.

        Raises DoubleSignRisk if the guard refuses, InvariantBroken if a binding body is missing, DiskFailure.
        """
        domain = domain_at(self.domains, record.height)
        stored = self._newest.get(domain)
        if stored is not None:
            _guard(stored, record)
        new = {block.hash: block for block in bodies}
        binding = record.binding()
        batch: dict[bytes, bytes | None] = {_RECORD + domain: record.encode()}
        for block_hash in binding:
            if block_hash not in self._bodies:
                if block_hash not in new:
                    raise InvariantBroken(f"a vote for {block_hash.hex()[:16]} would bind without a durable body")
                batch[_BODY + block_hash] = bytes([SCHEMA]) + new[block_hash].encode()
        batch.update((_BODY + block_hash, None) for block_hash in self._bodies if block_hash not in binding)
        self._store.write(batch, sync=sync)
        self._newest[domain] = record
        self._bodies = dict.fromkeys(binding)
        if sync and record.signed is not None:
            self._noted = encode([self.public_key, domain, *record.guard])

    def note(self) -> bytes | None:
        """How far this key has durably signed, for the chain database; None if nothing was synced since the start."""
        return self._noted

    def check_note(self, note: bytes | None) -> None:
        """Raises DoubleSignRisk if the chain database knows of more than this one, Corruption if the note is none."""
        if note is None:
            return
        try:
            value = decode(note, where="note")
            _NOTE_SHAPE.check(value)
        except DecodeError as error:
            raise Corruption(f"what the chain database says of the guard does not decode ({error.cause})") from None
        key, domain, *place = value
        stored = self._newest.get(domain)
        if key == self.public_key and stored is not None and stored.guard < tuple(place):
            raise DoubleSignRisk(
                f"the sign database ends at (height, round, step) {stored.guard}, but this key has signed at {tuple(place)}",
                hint="restore the newest sign/; or move it away and start with --new-sign-db once no other copy runs",
            )

    def rewind(self, domains: Domains) -> None:
        """Replace the list of domains after a devnet rewind or a recovery (`rewound`)."""
        if len(domains) > MAX_DOMAINS:
            raise UsageError(f"more than {MAX_DOMAINS} rewinds", hint="reset the devnet")
        self._store.write({_DOMAINS_ROW: _encode_domains(domains)}, sync=True)
        self.domains = domains


def _guard(stored: SignRecord, record: SignRecord) -> None:
    """Refuse unless the newest signed message is above the stored one or the same one."""
    same_place = record.guard == stored.guard
    if record.guard < stored.guard or (same_place and record.signed != stored.signed):
        raise DoubleSignRisk(
            f"already signed at (height, round, step) {stored.guard}, asked to sign at {record.guard}",
            hint="another copy of this key runs, or the sign database is stale; stop all and find out which",
        )
    if (record.height, record.round) != (stored.height, stored.round):
        return
    for before, after in zip(stored.own, record.own):
        if before is not None and before != after:
            raise DoubleSignRisk(f"a message of height {record.height}, round {record.round} would change or vanish")


def _stored(value: bytes) -> SignRecord:
    try:
        return SignRecord.decode(value)
    except DecodeError as error:
        raise Corruption(f"the sign record does not decode ({error.cause})", hint=_CORRUPT_HINT) from None


def _block(block_hash: bytes, data: bytes) -> Block:
    try:
        block = Block.decode(data[1:])
    except DecodeError as error:
        raise Corruption(f"a stored body does not decode ({error.cause})", hint=_CORRUPT_HINT) from None
    if block.hash != block_hash:
        raise Corruption("a stored body is not the block of its hash", hint=_CORRUPT_HINT)
    return block


_CORRUPT_HINT: Final = "do not delete the sign database: this key may sign again only above the heights it has seen"


def _encode_domains(domains: Domains) -> bytes:
    return encode([list(entry) for entry in domains])


def _decode_domains(data: bytes) -> Domains:
    try:
        value = decode(data, where="domains")
        _DOMAINS_SHAPE.check(value, "domains")
    except DecodeError as error:
        raise Corruption(f"the list of signing domains does not decode ({error.cause})", hint=_CORRUPT_HINT) from None
    return tuple((from_height, domain) for from_height, domain in value)
