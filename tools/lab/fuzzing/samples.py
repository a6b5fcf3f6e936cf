"""Valid inputs for every decoder: small, signed, of every variant that a decoder knows."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from io import BytesIO
from random import Random
from typing import Any, Final

from ledger.blocks import NO_CERTIFICATE, NO_INHERENTS, Block, Body, Extrinsic, Header, encode_inherents
from ledger.codec import Bytes, Int, ListOf, OneOf, Optional, Record, Shape, Text
from ledger.crypto import KeyPair, digest
from ledger.errors import DecodeError
from ledger.inherents import Heartbeat
from ledger.messages import Bundle, FinalBlock, encode_bundle, encode_final
from ledger.signer import SignRecord
from ledger.timelock import Announcement, Payload, Release, secret_of
from ledger.votes import (
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    Certificate,
    Evidence,
    Proposal,
    Status,
    Vote,
    authorities_hash,
    proposal_body,
    vote_body,
)

DOMAIN: Final = digest("genesis", b"fuzz")
KEYS: Final = [KeyPair.from_seed(bytes([index + 1]) * 32) for index in range(4)]
PUBLIC: Final = [key.public for key in KEYS]
SET_HASH: Final = authorities_hash(PUBLIC)
NOW_MS: Final = 1_700_000_000_000
SAMPLES_OF_A_SHAPE: Final = 3
EMPTY: Final = Body(NO_CERTIFICATE, NO_INHERENTS, ())


def value_of(shape: Shape, rng: Random) -> Any:
    """A random value that the shape accepts."""
    value: Any = _drawn(shape, rng)
    while not _fits(shape, value):
        value = _drawn(shape, rng)
    return value


def _drawn(shape: Shape, rng: Random) -> Any:
    if isinstance(shape, Int):
        return rng.choice((shape.low, shape.high, rng.randint(shape.low, shape.high)))
    if isinstance(shape, Bytes):
        return rng.randbytes(rng.randint(shape.low, min(shape.high, shape.low + 64)))
    if isinstance(shape, Text):
        return "text"[: shape.high]
    if isinstance(shape, ListOf):
        return [value_of(shape.item, rng) for _ in range(rng.randint(shape.low, min(shape.high, shape.low + 3)))]
    if isinstance(shape, Record):
        return [value_of(field, rng) for field in shape.fields.values()]
    if isinstance(shape, Optional):
        return None if rng.random() < 0.3 else value_of(shape.item, rng)
    if isinstance(shape, OneOf):
        return value_of(rng.choice(shape.items), rng)
    others: tuple[Any, ...] = (True, b"\0\0", [])
    return next(value for value in others if _fits(shape, value))


def _fits(shape: Shape, value: Any) -> bool:
    try:
        shape.check(value)
    except DecodeError:
        return False
    return True


# --- consensus ---------------------------------------------------------------------------------------------------


def header(
    height: int = 7, *, state_root: bytes = digest("node", b"state"), body: Body = EMPTY
) -> Header:
    return Header(
        1, 1, height, 0, NOW_MS + height, digest("header", b"parent"), body.cert_hash, 3, 0,
        body.extrinsics_root, state_root, digest("events", b"events"), SET_HASH, SET_HASH,
    )


def vote(kind: int, index: int, block_hash: bytes, height: int = 7, round_: int = 2) -> Vote:
    tag = "prevote" if kind == PREVOTE else "precommit"
    return Vote(kind, height, round_, block_hash, index, KEYS[index].sign(tag, DOMAIN, vote_body(height, round_, block_hash)))


def certificate(kind: int, block_hash: bytes, height: int = 7) -> Certificate:
    return Certificate.build({index: vote(kind, index, block_hash, height) for index in (0, 1, 3)}, 4)


def proposal(valid_round: int = NO_ROUND) -> Proposal:
    block_hash = header().hash
    signature = KEYS[3].sign("proposal", DOMAIN, proposal_body(7, 3, valid_round, block_hash))
    polc = None if valid_round == NO_ROUND else certificate(PREVOTE, block_hash)
    return Proposal(7, 3, valid_round, block_hash, 3, signature, polc)


def evidence() -> Evidence:
    first, second = vote(PREVOTE, 0, header().hash), vote(PREVOTE, 0, NIL)
    return Evidence(PREVOTE, PUBLIC[0], 7, 2, first.block_hash, NO_ROUND, first.signature, NIL, NO_ROUND, second.signature)


@cache
def final() -> FinalBlock:
    return FinalBlock(header(), certificate(PRECOMMIT, header().hash))


def bundles() -> list[bytes]:
    block_hash = header().hash
    full = Bundle(
        (vote(PREVOTE, 1, block_hash), vote(PRECOMMIT, 2, NIL)), (proposal(), proposal(2)), (certificate(PREVOTE, block_hash),),
        Status(8, 1, block_hash), final(), {block_hash: header()},
    )
    votes = Bundle(tuple(vote(PREVOTE, index, block_hash) for index in range(4)))
    return [encode_bundle(full), encode_bundle(votes), encode_bundle(Bundle())]


def finals() -> list[bytes]:
    return [encode_final(final().header, final().certificate)]


def heartbeat() -> Heartbeat:
    return Heartbeat.sign(KEYS[0], DOMAIN, 3, header().hash, "0.1.0", (1, 2))


def announcement() -> Announcement:
    return Announcement.sign(KEYS[0], DOMAIN, 1, 7)


def release() -> Release:
    return Release(1, 7, 3, secret_of(KEYS[0].seed, DOMAIN, 1, 7))


def payload() -> Payload:
    return Payload([0, 3, 9], [65535, 1, 700], 4, digest("weights", b"salt"))


def sign_records() -> list[bytes]:
    block_hash, again = header().hash, proposal(2)
    own = (again, vote(PREVOTE, 3, block_hash, round_=3), vote(PRECOMMIT, 3, block_hash, round_=3))
    signed = (3, 2, digest("body", b"signed"))
    full = SignRecord(
        7, 3, 2, signed, 2, block_hash, 2, block_hash, certificate(PREVOTE, block_hash), block_hash, own,
        (vote(PREVOTE, 1, block_hash), proposal()),
    )
    return [full.encode(), full.guard_only().encode(), SignRecord(1).encode()]


# --- blocks ------------------------------------------------------------------------------------------------------


def extrinsic(call_number: int = 300, args: list[Any] | None = None, *, nonce: int = 5) -> Extrinsic:
    return Extrinsic.sign(
        KEYS[0], DOMAIN, header().hash, nonce=nonce, birth_height=7, call_number=call_number,
        args=[PUBLIC[1], 10**12, "text", [True, None]] if args is None else args, tip=9,
    )


@cache
def calls() -> list[tuple[int, list[Any]]]:
    """(number, arguments) of every call of the runtime, a few times each."""
    import runtime.executor  # noqa: F401 - declares the calls
    from runtime.registry import CALLS

    rng = Random("sample calls")
    return [
        (number, value_of(entry.schema, rng)) for number, entry in sorted(CALLS.items()) for _ in range(SAMPLES_OF_A_SHAPE)
    ]


def extrinsics() -> list[bytes]:
    return [extrinsic().encode(), *(extrinsic(number, args).encode() for number, args in calls()[::SAMPLES_OF_A_SHAPE])]


def bodies() -> list[Body]:
    parent = final().certificate.encode()
    inherents = encode_inherents([(1, evidence().encode()), (2, heartbeat().encode())])
    return [
        Body(parent, inherents, (extrinsic().encode(), extrinsic(nonce=6).encode())), EMPTY,
    ]


def blocks() -> list[bytes]:
    return [Block(header(), body).encode() for body in bodies()]


# --- state -------------------------------------------------------------------------------------------------------

SEVERAL: Final = (b"key 3", b"key 17", b"absent", b"nowhere")
STATE: Final = {b"key %d" % index: b"value %d" % index for index in range(40)}


@cache
def proofs() -> tuple[bytes, list[bytes]]:
    """(root, proofs) of that state: of a key that is there, of one that is not, of several."""
    from ledger.state_tree import StateTree

    tree, _ = StateTree().updated(STATE)
    return tree.root, [tree.prove(b"key 3"), tree.prove(b"absent"), tree.prove(*SEVERAL)]


def chunks() -> list[bytes]:
    """That state in chunks."""
    from ledger.snapshot_chunks import cut

    whole = cut(STATE.items(), STATE.__getitem__)
    return [chunk.encode() for source in (whole, cut(STATE.items(), STATE.__getitem__, 200)) for chunk in source.chunks()][:4]


def block_dumps() -> list[bytes]:
    """Dumps of two blocks: with everything, and with nothing."""
    from ledger.dumps import Dump
    from ledger.machine import BlockContext

    key = bytes([7]) * 32
    context = BlockContext(9, 1, 1000, key, key, 2, (key,), (key,), key)
    rows, pairs = {b"a": b"1", b"b": None}, ((key, key),)
    full = Dump(key, context, True, False, "I1: too much", ((1, b"in"),), (b"ex",), rows, ((0, key),), pairs)
    return [full.encode(), Dump(key, context, False, True, "", (), (), {}, ((0, key),)).encode()]


@cache
def chain() -> Any:
    """Three blocks of a chain with one authority, in memory. By version 1 of the rules, so that they are the same for ever."""
    from genesis.build import build_genesis
    from genesis.cast import cast, devnet_spec
    from ledger.chain import Chain
    from ledger.store import MemoryStore
    from runtime.versions import VersionedRuntime

    genesis = build_genesis(replace(devnet_spec(1, authorities=1), runtime_version=1))
    session = next(member.session for member in cast(1, 1) if member.session is not None)
    found = Chain.create(MemoryStore(), genesis.params, VersionedRuntime(genesis.genesis_hash), genesis.state)
    for height in (1, 2, 3):
        executed = found.build(timestamp_ms=found.head.timestamp_ms + 1000, round_=0)
        block_hash = executed.block.hash
        signature = session.sign("precommit", genesis.genesis_hash, vote_body(height, 0, block_hash))
        found.commit(executed, Certificate.build({0: Vote(PRECOMMIT, height, 0, block_hash, 0, signature)}, 1))
    return found


@cache
def snapshot() -> bytes:
    """A snapshot file of that chain's head."""
    from ledger.snapshot import write_snapshot

    file = BytesIO()
    write_snapshot(chain(), 3, file)
    return file.getvalue()


def epoch_row() -> Any:
    """The history row of an epoch of four neurons."""
    from runtime.epochs import EpochRow, Paid
    from runtime.trace import EpochInputs, EpochParams
    from runtime.yuma import epoch

    inputs = EpochInputs(
        block=200, bonds_from=90, emission_rao=10**12 + 7, stake=[10**12, 10**13, 0, 0], permit=[True, True, False, False],
        registered_at=[0] * 4, active_at=[150] * 4, weights_at=[150] * 4,
        weights=[[(2, 65535), (3, 100)], [(2, 9), (3, 65535)], [], []], bonds=[[(2, 500)], [(3, 7)], [], []],
        forfeit=[False] * 4,
    )
    trace = epoch(inputs, EpochParams())
    return EpochRow(1, 3, 200, list(PUBLIC), Paid(5, [0, 0, 3, 4], [1, 2, 0, 0], [0] * 4, [0] * 4), trace)
