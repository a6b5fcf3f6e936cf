"""Votes, certificates and evidence: what is counted, what is valid, what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.crypto import KeyPair
from ledger.errors import DecodeError
from ledger.votes import (
    KIND_TAG,
    MAX_ROUND,
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Certificate,
    Evidence,
    Proposal,
    Status,
    Tally,
    Vote,
    leader,
    max_faulty,
    proposal_body,
    quorum,
    vote_body,
)

DOMAIN = b"d" * 32
A, B = b"a" * 32, b"b" * 32
KEYS = [KeyPair.from_seed(bytes([i]) * 32) for i in range(7)]


def publics(n: int) -> list[bytes]:
    return [key.public for key in KEYS[:n]]


def vote(index: int, block_hash: bytes = A, kind: int = PRECOMMIT, height: int = 5, round_: int = 0) -> Vote:
    signature = KEYS[index].sign(KIND_TAG[kind], DOMAIN, vote_body(height, round_, block_hash))
    return Vote(kind, height, round_, block_hash, index, signature)


def proposal(
    index: int, block_hash: bytes, round_: int = 0, valid_round: int = NO_ROUND, polc: Certificate | None = None
) -> Proposal:
    signature = KEYS[index].sign("proposal", DOMAIN, proposal_body(5, round_, valid_round, block_hash))
    return Proposal(5, round_, valid_round, block_hash, index, signature, polc)


def certificate(n: int = 4, signers: tuple[int, ...] = (0, 1, 2), **fields: object) -> Certificate:
    return Certificate.build({index: vote(index, **fields) for index in signers}, n)  # type: ignore[arg-type]


@given(st.integers(1, 100))
def test_quorum_is_all_but_the_faulty_and_two_quorums_share_an_honest_one(n: int) -> None:
    q, f = quorum(n), max_faulty(n)
    assert q == n - f
    assert 2 * q - n >= f + 1


@pytest.mark.parametrize(("n", "q"), [(1, 1), (2, 2), (3, 3), (4, 3), (7, 5), (100, 67)])
def test_quorum_sizes(n: int, q: int) -> None:
    assert quorum(n) == q


def test_leaders_rotate_over_the_active_list_then_over_the_full_one() -> None:
    keys = publics(4)
    assert [leader(keys, (0, 1, 2, 3), 5, r) for r in range(5)] == [1, 2, 3, 0, 1]
    assert [leader(keys, (3,), 5, r) for r in range(5)] == [3, 2, 3, 0, 1]  # one active, then everybody
    assert [leader(keys, (), 5, r) for r in range(4)] == [1, 2, 3, 0]  # an empty list halts nothing


# --- tally ---------------------------------------------------------------------------------------------------------


def test_a_tally_counts_each_authority_once() -> None:
    tally = Tally(4)
    first = vote(0)
    for _ in range(5):
        assert tally.add(first) is None
        assert tally.add(replace(first)) is None
    assert len(tally) == 1 and tally.winner() is None and not tally.is_full()
    tally.add(vote(1))
    assert tally.winner() is None
    tally.add(vote(2))
    assert tally.winner() == A and tally.supporters(A) == (0, 1, 2)


def test_a_tally_reports_a_conflict_once_and_never_counts_it() -> None:
    tally = Tally(4)
    first, second, third = vote(0, A), vote(0, B), vote(0, NIL)
    tally.add(first)
    assert not tally.knows(second) and tally.knows(first)
    assert tally.add(second) == first
    assert tally.knows(third) and tally.add(third) is None
    assert tally.supporters(B) == () and tally.votes[0] == first


def test_mixed_votes_fill_a_tally_without_a_winner() -> None:
    tally = Tally(4)
    for index, block_hash in enumerate((A, B, NIL)):
        tally.add(vote(index, block_hash))
    assert tally.is_full() and tally.winner() is None
    assert tally.named(1) == [A, B]  # nil names nothing
    tally.add(vote(3, A))
    assert tally.named(2) == [A]


def test_a_tally_builds_a_certificate_of_all_supporters() -> None:
    tally = Tally(4)
    for index in (3, 0, 2, 1):
        tally.add(vote(index))
    built = tally.certificate(A)
    assert built.indexes == (0, 1, 2, 3) and built.verify(publics(4), DOMAIN)


# --- certificates: everything that makes one invalid ----------------------------------------------------------------


def test_a_certificate_verifies_and_survives_its_encoding() -> None:
    found = certificate()
    assert found.verify(publics(4), DOMAIN)
    assert Certificate.decode(found.encode()) == found
    assert [len(certificate(n, tuple(range(quorum(n)))).encode()) for n in (1, 4, 7)] == [106, 234, 363]


def broken_certificates() -> dict[str, Certificate]:
    good = certificate()
    swapped = good.signatures[64:128] + good.signatures[:64] + good.signatures[128:]
    beyond = certificate(signers=(0, 1, 2, 3))
    bad_last = beyond.signatures[:-1] + bytes([beyond.signatures[-1] ^ 1])
    return {
        "bitmap too short": replace(good, bitmap=b""),
        "bitmap too long": replace(good, bitmap=good.bitmap + b"\0"),
        "unused bit set": replace(good, bitmap=bytes([good.bitmap[0] | 0x10]), signatures=good.signatures + bytes(64)),
        "below the quorum": certificate(signers=(0, 1)),
        "more bits than signatures": replace(good, bitmap=b"\x0f"),
        "more signatures than bits": replace(good, signatures=good.signatures + bytes(64)),
        "signatures out of order": replace(good, signatures=swapped),
        "one bad signature beyond the quorum": replace(beyond, signatures=bad_last),
        "other height": replace(good, height=6),
        "other round": replace(good, round=1),
        "other kind": replace(good, kind=PREVOTE),
        "other block": replace(good, block_hash=B),
        "nil": certificate(block_hash=NIL),
        "round above the limit": certificate(round_=MAX_ROUND + 1),
    }


@pytest.mark.parametrize("name", broken_certificates())
def test_a_malformed_certificate_is_invalid(name: str) -> None:
    assert not broken_certificates()[name].verify(publics(4), DOMAIN)


def test_a_certificate_holds_only_with_its_set_and_domain() -> None:
    good = certificate()
    assert not good.verify(publics(4)[::-1], DOMAIN)
    assert not good.verify(publics(7), DOMAIN)  # four of seven would not do either
    assert not good.verify(publics(4), b"e" * 32)


def test_certificates_of_one_block_may_differ_in_round_and_signers() -> None:
    assert certificate(round_=0).verify(publics(4), DOMAIN)
    assert certificate(round_=1, signers=(1, 2, 3)).verify(publics(4), DOMAIN)


# --- decoding: bounds -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [0, 5, 0, A, 0, bytes(64)],  # unknown kind
        [1, 5, MAX_ROUND + 1, A, 0, bytes(64)],
        [1, 5, 0, A, 100, bytes(64)],
        [1, 5, 0, A[:31], 0, bytes(64)],
        [1, 5, 0, A, 0, bytes(63)],
        [1, -1, 0, A, 0, bytes(64)],
        [1, True, 0, A, 0, bytes(64)],
        [1, 5, 0, A, 0],
        "vote",
    ],
)
def test_a_malformed_vote_is_refused(value: object) -> None:
    with pytest.raises(DecodeError):
        Vote.from_value(value)


def test_a_proposal_carries_a_certificate_exactly_when_it_is_of_an_earlier_round() -> None:
    polc = certificate(kind=PREVOTE)
    good = proposal(0, A, 2, 0, polc)
    assert Proposal.from_value(good.value()) == good and good.verify(publics(4), DOMAIN)
    for bad in (proposal(0, A, 2, 0, None), proposal(0, A, 2, NO_ROUND, polc), proposal(0, A, 2, 2, polc)):
        with pytest.raises(DecodeError):
            Proposal.from_value(bad.value())


def test_a_relay_cannot_change_the_valid_round() -> None:
    polc = certificate(kind=PREVOTE)
    honest = proposal(0, A, 2, 0, polc)
    assert not replace(honest, valid_round=NO_ROUND, polc=None).verify(publics(4), DOMAIN)
    assert not replace(honest, valid_round=1).verify(publics(4), DOMAIN)
    assert not replace(honest, polc=certificate(kind=PREVOTE, block_hash=B)).verify(publics(4), DOMAIN)
    assert not replace(honest, polc=certificate(kind=PRECOMMIT)).verify(publics(4), DOMAIN)
    assert not replace(honest, polc=certificate(kind=PREVOTE, round_=1)).verify(publics(4), DOMAIN)
    assert not replace(honest, polc=certificate(kind=PREVOTE, signers=(0, 1))).verify(publics(4), DOMAIN)


def test_a_status_has_bounds() -> None:
    status = Status(3, 1, A)
    assert Status.from_value(status.value()) == status
    with pytest.raises(DecodeError):
        Status.from_value([3, MAX_ROUND + 1, A])


# --- evidence ---------------------------------------------------------------------------------------------------------


def evidence_of(first: Vote, second: Vote) -> Evidence:
    return Evidence(
        first.kind, KEYS[first.index].public, first.height, first.round, first.block_hash, NO_ROUND, first.signature,
        second.block_hash, NO_ROUND, second.signature,
    )


def test_evidence_needs_two_different_blocks_signed_in_one_place() -> None:
    good = evidence_of(vote(1, A), vote(1, B))
    assert good.verify(DOMAIN) and Evidence.decode(good.encode()) == good
    assert not good.verify(b"e" * 32)
    assert not evidence_of(vote(1, A), vote(1, A)).verify(DOMAIN)
    assert not evidence_of(vote(1, A), vote(2, B)).verify(DOMAIN)
    assert not evidence_of(vote(1, A), vote(1, B, round_=1)).verify(DOMAIN)
    assert not evidence_of(vote(1, A), vote(1, B, kind=PREVOTE)).verify(DOMAIN)


def test_evidence_of_proposals_covers_the_signed_valid_rounds() -> None:
    first, second = proposal(1, A, 3), proposal(1, B, 3, 0, certificate(kind=PREVOTE, block_hash=B))
    good = Evidence(
        PROPOSAL, KEYS[1].public, 5, 3, A, NO_ROUND, first.signature, B, 0, second.signature,
    )
    assert good.verify(DOMAIN)
    assert not replace(good, second_valid_round=NO_ROUND).verify(DOMAIN)


@pytest.mark.parametrize("data", [b"", b"\x80", bytes(2000), b"\xff"])
def test_malformed_evidence_is_refused(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Evidence.decode(data)
