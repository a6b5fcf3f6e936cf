"""Frames between authorities: what is packed together, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.blocks import Header
from ledger.codec import decode, encode
from ledger.errors import DecodeError
from ledger.messages import (
    MAX_FRAME_BYTES,
    MAX_FRAME_VOTES,
    Bundle,
    FinalBlock,
    decode_bundle,
    decode_final,
    encode_bundle,
    encode_final,
    pack,
)
from ledger.votes import NIL, NO_ROUND, PRECOMMIT, PREVOTE, Certificate, Proposal, Status, Vote


def header(salt: int = 0, height: int = 5) -> Header:
    return Header(1, 1, height, 0, salt, NIL, NIL, 0, 0, NIL, NIL, NIL, NIL, NIL)


def vote(index: int, block_hash: bytes = NIL, kind: int = PREVOTE, round_: int = 0) -> Vote:
    return Vote(kind, 5, round_, block_hash, index, bytes(64))


def certificate(kind: int, of: Header) -> Certificate:
    return Certificate.build({index: replace(vote(index, of.hash, kind), height=of.height) for index in range(3)}, 4)


def full_bundle() -> Bundle:
    head = header(1)
    return Bundle(
        tuple(vote(index) for index in range(4)),
        (
            Proposal(5, 0, NO_ROUND, head.hash, 1, bytes(64)),
            Proposal(5, 1, 0, head.hash, 1, bytes(64), certificate(PREVOTE, head)),
        ),
        (certificate(PREVOTE, head),),
        Status(5, 1, NIL),
        FinalBlock(header(2, 4), certificate(PRECOMMIT, header(2, 4))),
        {head.hash: head},
    )


def test_a_bundle_survives_its_encoding() -> None:
    assert decode_bundle(encode_bundle(full_bundle())) == full_bundle()
    assert decode_bundle(encode_bundle(Bundle())) == Bundle(headers={})


def test_a_final_survives_its_encoding_and_is_small() -> None:
    data = encode_final(header(), certificate(PRECOMMIT, header()))
    assert decode_final(data) == FinalBlock(header(), certificate(PRECOMMIT, header()))
    assert len(data) < 700


@pytest.mark.parametrize(
    "certificate_",
    [certificate(PREVOTE, header()), certificate(PRECOMMIT, header(1)), replace(certificate(PRECOMMIT, header()), height=6)],
)
def test_a_final_of_something_else_is_refused(certificate_: Certificate) -> None:
    with pytest.raises(DecodeError):
        decode_final(encode_final(header(), certificate_))


def test_a_header_comes_with_all_proposals_of_its_block_or_with_none() -> None:
    bare = decode(encode_bundle(full_bundle()))
    bare[1][1][1] = None
    with pytest.raises(DecodeError, match="not with the other"):
        decode_bundle(encode(bare))


def test_a_header_must_be_that_of_the_proposal() -> None:
    head = header(1)
    proposal = Proposal(5, 0, NO_ROUND, head.hash, 1, bytes(64))
    for other in (header(2), replace(head, height=6)):
        bad = encode([[], [[proposal.value(), other.encode()]], [], None, None])
        with pytest.raises(DecodeError):
            decode_bundle(bad)


def bad_frames() -> dict[str, bytes]:
    ok = vote(0).value()
    return {
        "nothing": b"",
        "no array": encode(1),
        "too few fields": encode([[], [], []]),
        "too many votes": encode([[ok] * (MAX_FRAME_VOTES + 1), [], [], None, None]),
        "a vote that is none": encode([[[1]], [], [], None, None]),
        "a proposal that is none": encode([[], [[[1], None]], [], None, None]),
        "a certificate that is none": encode([[], [], [b"\x80"], None, None]),
        "a commit certificate without its header": encode([[], [], [certificate(PRECOMMIT, header()).encode()], None, None]),
        "a status that is none": encode([[], [], [], [1, 2], None]),
        "a final that is none": encode([[], [], [], None, b"\x80"]),
        "too long": b"\x00" * (MAX_FRAME_BYTES + 1),
        "bytes after it": encode_bundle(Bundle()) + b"\x00",
    }


@pytest.mark.parametrize("name", bad_frames())
def test_a_malformed_frame_is_refused(name: str) -> None:
    with pytest.raises(DecodeError):
        decode_bundle(bad_frames()[name])


@given(st.binary(max_size=300))
def test_no_bytes_break_the_decoders(data: bytes) -> None:
    for decoder in (decode_bundle, decode_final):
        try:
            decoder(data)
        except DecodeError:
            pass


@given(st.integers(0, 400), st.integers(0, 255))
def test_no_flipped_byte_breaks_the_decoder(at: int, value: int) -> None:
    data = bytearray(encode_bundle(full_bundle()))
    data[at % len(data)] = value
    try:
        decode_bundle(bytes(data))
    except DecodeError:
        pass


def test_packing_keeps_the_limits_and_says_everything_once() -> None:
    votes = [vote(index, kind=kind, round_=round_) for round_ in (0, 1) for kind in (PREVOTE, PRECOMMIT) for index in range(40)]
    said = [Status(5, 1, NIL), *votes, *votes[:9], *full_bundle().proposals, *full_bundle().proposals]
    bundles = pack(said, {})
    assert [len(bundle.votes) for bundle in bundles] == [64, 64, 32]
    assert [value for bundle in bundles for value in bundle.votes] == votes
    assert sum(len(bundle.proposals) for bundle in bundles) == 2 and bundles[0].status == Status(5, 1, NIL)
    for bundle in bundles:
        assert decode_bundle(encode_bundle(bundle)).votes == bundle.votes
    assert pack([], {}) == []


def test_the_largest_frame_fits() -> None:
    of = header(1)
    votes = {index: replace(vote(index, of.hash), height=(1 << 63)) for index in range(100)}
    big = Certificate.build(votes, 100)
    proposals = tuple(Proposal(1 << 63, 9, 1, of.hash, index, bytes(64), big) for index in range(4))
    final = FinalBlock(replace(of, height=1 << 63), replace(big, kind=PRECOMMIT, block_hash=replace(of, height=1 << 63).hash))
    bundle = Bundle(tuple(list(votes.values())[:64]), proposals, (big, big), Status(1 << 63, 9, NIL), final, {})
    data = encode_bundle(bundle)
    assert len(data) < MAX_FRAME_BYTES and decode_bundle(data) == bundle
