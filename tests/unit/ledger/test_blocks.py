"""Blocks, votes and rows: golden bytes of every encoded type, hostile decoding, bounds.

`tests/golden/encodings.json` pins the encodings. A change there is a change of the protocol: it needs a new version number
or a new tag, never a silent edit of the file.
"""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ledger.blocks import (
    HEADER_SHAPE,
    MAX_BODY_ITEMS,
    MAX_EXTRINSIC_BYTES,
    NO_CERTIFICATE,
    NO_INHERENTS,
    Block,
    Body,
    Extrinsic,
    Header,
    Outcome,
    encode_inherents,
    events_root,
    result_leaves,
)
from ledger.codec import ARRAY, INNER_ARRAY, decode, encode
from ledger.crypto import KeyPair, digest
from ledger.errors import DecodeError
from ledger.layout import Head, ReverseDiff, decode_result, encode_place, encode_result
from ledger.state_tree import StateTree, state_root
from ledger.trees import list_proof, list_root, verify_list_proof
from ledger.votes import (
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    PROPOSAL,
    Certificate,
    Evidence,
    Proposal,
    Status,
    Vote,
    authorities_hash,
    leader,
    proposal_body,
    quorum,
    vote_body,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "encodings.json"
DOMAIN = digest("genesis", b"golden")
KEYS = [KeyPair.from_seed(bytes([index]) * 32) for index in range(4)]
PUBLIC = [key.public for key in KEYS]


def signed_vote(kind, index, block_hash, *, height=7, round_=2):
    tag = "prevote" if kind == PREVOTE else "precommit"
    signature = KEYS[index].sign(tag, DOMAIN, vote_body(height, round_, block_hash))
    return Vote(kind, height, round_, block_hash, index, signature)


def signed_proposal(index, block_hash, *, height=7, round_=3, valid_round=NO_ROUND, polc=None):
    signature = KEYS[index].sign("proposal", DOMAIN, proposal_body(height, round_, valid_round, block_hash))
    return Proposal(height, round_, valid_round, block_hash, index, signature, polc)


def certificate(kind, block_hash, indexes=(0, 1, 3)):
    return Certificate.build({index: signed_vote(kind, index, block_hash) for index in indexes}, 4)


HEADER = Header(
    1, 1, 7, 0, 1_700_000_000_123, digest("header", b"parent"), digest("body", b"certificate"), 3, 0,
    digest("list", b"extrinsics"), digest("node", b"state"), digest("events", b"events"), authorities_hash(PUBLIC),
    authorities_hash(PUBLIC[:3]),
)
EXTRINSIC = Extrinsic.sign(
    KEYS[0], DOMAIN, HEADER.hash, nonce=5, birth_height=7, call_number=300, args=[PUBLIC[1], 10**12, "text", [True, None]],
    tip=9,
)
POLC = certificate(PREVOTE, HEADER.hash)
FINAL = certificate(PRECOMMIT, HEADER.hash)
BODY = Body(FINAL.encode(), encode_inherents([(1, b"evidence"), (2, b"")]), (EXTRINSIC.encode(),))
EVENTS = [[1, 7], [2, PUBLIC[0], PUBLIC[1], 10**12], [2, PUBLIC[1], PUBLIC[0], 1], [9]]
OUTCOMES = [Outcome("", 1200, 1, 2), Outcome("InsufficientBalance", 1000, 3, 0)]
EVIDENCE = Evidence(
    PREVOTE, PUBLIC[0], 7, 2, HEADER.hash, NO_ROUND, signed_vote(PREVOTE, 0, HEADER.hash).signature,
    NIL, NO_ROUND, signed_vote(PREVOTE, 0, NIL).signature,
)
STATE = {b"key %d" % index: b"value %d" % index for index in range(40)}


def samples():
    """Name -> bytes of everything that is encoded, hashed or signed."""
    tree, _ = StateTree().updated(STATE)
    return {
        "header": HEADER.encode(),
        "header hash": HEADER.hash,
        "extrinsic": EXTRINSIC.encode(),
        "extrinsic id": EXTRINSIC.id,
        "body": BODY.encode(),
        "body certificate hash": BODY.cert_hash,
        "body extrinsics root": BODY.extrinsics_root,
        "empty body": Body(NO_CERTIFICATE, NO_INHERENTS, ()).encode(),
        "block": Block(HEADER, BODY).encode(),
        "prevote": encode(signed_vote(PREVOTE, 1, HEADER.hash).value()),
        "precommit for nothing": encode(signed_vote(PRECOMMIT, 2, NIL).value()),
        "vote body": vote_body(7, 2, HEADER.hash),
        "proposal": encode(signed_proposal(2, HEADER.hash).value()),
        "proposal again": encode(signed_proposal(2, HEADER.hash, valid_round=2, polc=POLC).value()),
        "proposal body": proposal_body(7, 3, NO_ROUND, HEADER.hash),
        "status": encode(Status(8, 1, HEADER.hash).value()),
        "prevote certificate": POLC.encode(),
        "precommit certificate": FINAL.encode(),
        "evidence": EVIDENCE.encode(),
        "authorities hash": authorities_hash(PUBLIC),
        "events root": events_root(EVENTS, OUTCOMES),
        "empty events root": events_root([], []),
        "result row": encode_result(result_leaves(EVENTS, OUTCOMES)),
        "head row": Head(7, HEADER.hash, 1_700_000_000_123, HEADER.state_root, HEADER.next_authorities_hash).encode(),
        "reverse diff": ReverseDiff({b"k": b"old", b"new": None}, {b"h": None}).encode(),
        "place": encode_place(7, 300),
        "list root": list_root([b"a", b"b", b"c"]),
        "state root": tree.root,
        "state proof": tree.prove(b"key 3"),
        "state absence proof": tree.prove(b"absent"),
        "state pages": b"".join(name + page for name, page in tree.pages()),
    }


@pytest.mark.parametrize("name", samples())
def test_golden_bytes(name):
    golden = json.loads(GOLDEN.read_text())
    assert samples()[name].hex() == golden.get(name), f"the bytes of {name!r} changed: that is another protocol"


def test_golden_file_names_nothing_else():
    assert set(json.loads(GOLDEN.read_text())) == set(samples())


# --- round trips and refusals ------------------------------------------------------------------------------------


def test_round_trips():
    assert Header.decode(HEADER.encode()) == HEADER
    assert Extrinsic.decode(EXTRINSIC.encode()) == EXTRINSIC
    assert Extrinsic.decode(EXTRINSIC.encode()).id == EXTRINSIC.id
    assert Body.decode(BODY.encode()) == BODY
    assert Block.decode(Block(HEADER, BODY).encode()) == Block(HEADER, BODY)
    assert Certificate.decode(FINAL.encode()) == FINAL
    assert Evidence.decode(EVIDENCE.encode()) == EVIDENCE
    for vote in (signed_vote(PREVOTE, 1, HEADER.hash), signed_vote(PRECOMMIT, 2, NIL)):
        assert Vote.from_value(vote.value()) == vote
    for proposal in (signed_proposal(2, HEADER.hash), signed_proposal(2, HEADER.hash, valid_round=2, polc=POLC)):
        assert Proposal.from_value(proposal.value()) == proposal
    assert decode_result(encode_result(result_leaves(EVENTS, OUTCOMES))) == (EVENTS, OUTCOMES)
    assert decode_result(encode_result(result_leaves([], []))) == ([], [])


DECODERS = [
    (Header.decode, HEADER.encode()), (Extrinsic.decode, EXTRINSIC.encode()), (Body.decode, BODY.encode()),
    (Block.decode, Block(HEADER, BODY).encode()), (Certificate.decode, FINAL.encode()),
    (Evidence.decode, EVIDENCE.encode()),
    (lambda data: Vote.from_value(decode(data)), encode(signed_vote(PREVOTE, 1, NIL).value())),
    (lambda data: Proposal.from_value(decode(data)), encode(signed_proposal(2, NIL, valid_round=2, polc=POLC).value())),
]


@pytest.mark.parametrize("decoder, good", DECODERS)
@given(data=st.data())
def test_hostile_bytes_raise_decode_error_or_mean_what_they_say(decoder, good, data):
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, min(len(bad) - 1, 300)))] = data.draw(st.integers(0, 255))
    bad = bytes(bad[: data.draw(st.integers(0, len(bad)))]) if data.draw(st.booleans()) else bytes(bad)
    try:
        value = decoder(bad)
    except DecodeError:
        return
    again = value.encode() if hasattr(value, "encode") else encode(value.value())
    assert again == bad


@pytest.mark.parametrize("decoder, good", DECODERS)
def test_other_shapes_are_refused(decoder, good):
    for bad in (b"", b"\x80", b"\x00", encode([]), encode([b"", 1] * 10), encode("x"), good + b"\0", good[:-1]):
        with pytest.raises(DecodeError):
            decoder(bad)


def test_extrinsic_bounds():
    def variant(**fields):
        return replace(EXTRINSIC, **fields).encode()

    for bad in (
        variant(version=2), variant(period=7), variant(period=4097), variant(nonce=-1), variant(nonce=1 << 64),
        variant(signer=bytes(31)), variant(call_number=1 << 16), variant(args=(1.5,)), variant(args={"a": 1}),
        variant(args=[bytes(MAX_EXTRINSIC_BYTES)]), variant(args=7), variant(signature=bytes(63)),
    ):
        with pytest.raises(DecodeError):
            Extrinsic.decode(bad)
        with pytest.raises(DecodeError):
            Extrinsic.decode_each([EXTRINSIC.encode(), bad])
    assert Extrinsic.decode(variant(period=8)).period == 8
    assert Extrinsic.decode(variant(period=4096)).period == 4096
    for count in range(3):
        assert Extrinsic.decode_each([EXTRINSIC.encode()] * count) == [EXTRINSIC] * count


def test_extrinsic_identity_ignores_the_signature():
    assert replace(EXTRINSIC, signature=bytes(64)).id == EXTRINSIC.id
    assert EXTRINSIC.verify(DOMAIN, HEADER.hash)
    assert not EXTRINSIC.verify(HEADER.hash, HEADER.hash)
    assert not EXTRINSIC.verify(DOMAIN, DOMAIN)
    assert not replace(EXTRINSIC, nonce=6).verify(DOMAIN, HEADER.hash)


def test_body_bounds():
    with pytest.raises(DecodeError):
        Body.decode(encode([b""]))
    with pytest.raises(DecodeError):
        Body.decode(encode([b""] * (MAX_BODY_ITEMS + 1)))
    with pytest.raises(DecodeError):
        Body.decode(encode([b"", b"", bytes(MAX_EXTRINSIC_BYTES + 1)]))
    assert len(Body.decode(encode([b""] * (MAX_BODY_ITEMS - 1))).extrinsics) == MAX_BODY_ITEMS - 3
    with pytest.raises(DecodeError):
        Body(b"", encode([[1, bytes(16 * 1024 + 1)]]), ()).inherent_list()
    with pytest.raises(DecodeError):
        Body(b"", encode([[1, b""]] * 257), ()).inherent_list()
    assert BODY.inherent_list() == [(1, b"evidence"), (2, b"")]


def test_a_bomb_in_place_of_a_body_costs_little():
    for bomb in (encode([[]] * (1 << 20))[: 1 << 20], encode([b""] * MAX_BODY_ITEMS * 9), b"\x99\x20\x01" + b"\x81" * 9000):
        start = time.process_time()
        with pytest.raises(DecodeError):
            Body.decode(bomb)
        assert time.process_time() - start < 0.03  # 5 ms on a quiet machine


def test_every_header_field_changes_the_hash():
    for field in HEADER_SHAPE.fields:
        value = getattr(HEADER, field)
        changed = replace(HEADER, **{field: value + 1 if isinstance(value, int) else bytes(32)})
        assert changed.hash != HEADER.hash


def test_one_proof_shows_an_outcome_with_its_events():
    leaves = result_leaves(EVENTS, OUTCOMES)
    assert [decode(leaf) for leaf in leaves] == [
        ["", 1200, 1, EVENTS[1:3]], ["InsufficientBalance", 1000, 3, []], [[0, EVENTS[0]], [3, EVENTS[3]]],
    ]
    proof = list_proof(leaves, 0, "events")
    assert verify_list_proof(events_root(EVENTS, OUTCOMES), leaves[0], 0, 3, proof, "events")


# What marks of `encode_marked` are made of may stand in an event; so may what is not flat, or long.
FIELDS = st.one_of(
    st.integers(0, 2**64 - 1), st.binary(max_size=40), st.sampled_from([ARRAY[4], INNER_ARRAY[1], INNER_ARRAY[1][:9] + b"P"]),
    st.text(max_size=3), st.lists(st.integers(0, 9), max_size=2), st.sampled_from([None, True, [0] * 30]),
)


@settings(max_examples=60)
@example([[0], [5] * 24, [0], [INNER_ARRAY[0][:-1] + b"\0"], *[[0]] * 4], [1, 1], ["", ""])  # a mark less, another more
@given(
    st.lists(st.one_of(st.lists(FIELDS, min_size=1, max_size=4), st.just([5] * 24)), min_size=8, max_size=8),
    st.lists(st.integers(0, 3), max_size=2), st.lists(st.sampled_from(["", "Overflow"]), min_size=2, max_size=2),
)
def test_leaves_are_the_encodings_of_what_they_say(events, counts, errors):
    outcomes, at = [], 1
    for count, error in zip(counts, errors):
        outcomes.append(Outcome(error, 10**at, at, count))
        at += count + 1
    expected = [encode([o.error, o.fee_rao, o.first_event, events[o.first_event : o.first_event + o.events]]) for o in outcomes]
    assert result_leaves(events, outcomes)[:-1] == expected


def test_events_root_covers_order_and_place():
    root = events_root(EVENTS, OUTCOMES)
    assert events_root([*EVENTS[1:], EVENTS[0]], OUTCOMES) != root
    assert events_root(EVENTS, [Outcome("", 1200, 1, 1), OUTCOMES[1]]) != root
    assert events_root(EVENTS, OUTCOMES[:1]) != root
    with pytest.raises(AssertionError):
        events_root(EVENTS, OUTCOMES[::-1])


# --- votes and certificates --------------------------------------------------------------------------------------


def test_quorum_and_leader():
    assert [quorum(n) for n in (1, 2, 3, 4, 7, 100)] == [1, 2, 3, 3, 5, 67]
    assert [leader(PUBLIC, (0, 2), 10, round_) for round_ in range(4)] == [0, 2, 0, 1]
    assert leader(PUBLIC, (), 10, 0) == 2


def test_certificates_hold_only_for_their_set_domain_and_votes():
    assert FINAL.verify(PUBLIC, DOMAIN) and POLC.verify(PUBLIC, DOMAIN)
    other = KeyPair.from_seed(b"x" * 32).public
    cases = {
        "other domain": (FINAL, PUBLIC, HEADER.hash),
        "other set": (FINAL, [other, *PUBLIC[1:]], DOMAIN),
        "other order": (FINAL, PUBLIC[::-1], DOMAIN),
        "larger set": (FINAL, [*PUBLIC, other], DOMAIN),
        "other kind": (replace(FINAL, kind=PREVOTE), PUBLIC, DOMAIN),
        "unknown kind": (replace(FINAL, kind=9), PUBLIC, DOMAIN),
        "other height": (replace(FINAL, height=8), PUBLIC, DOMAIN),
        "other round": (replace(FINAL, round=1), PUBLIC, DOMAIN),
        "round too high": (replace(FINAL, round=(1 << 31) + 1), PUBLIC, DOMAIN),
        "nil": (certificate(PRECOMMIT, NIL), PUBLIC, DOMAIN),
        "below the quorum": (certificate(PRECOMMIT, HEADER.hash, (0, 1)), PUBLIC, DOMAIN),
        "unused bit": (replace(FINAL, bitmap=b"\x1b"), PUBLIC, DOMAIN),
        "long bitmap": (replace(FINAL, bitmap=FINAL.bitmap + b"\0"), PUBLIC, DOMAIN),
        "signature missing": (replace(FINAL, signatures=FINAL.signatures[64:]), PUBLIC, DOMAIN),
        "signatures out of order": (
            replace(FINAL, signatures=FINAL.signatures[64:128] + FINAL.signatures[:64] + FINAL.signatures[128:]),
            PUBLIC, DOMAIN,
        ),
    }
    for name, (bad, keys, domain) in cases.items():
        assert bad.verify(keys, domain) is False, name


def test_a_bad_signature_beyond_the_quorum_counts():
    full = certificate(PRECOMMIT, HEADER.hash, (0, 1, 2, 3))
    assert full.verify(PUBLIC, DOMAIN)
    assert not replace(full, signatures=full.signatures[:-1] + b"\0").verify(PUBLIC, DOMAIN)


def test_proposals_and_their_certificates():
    assert signed_proposal(2, HEADER.hash).verify(PUBLIC, DOMAIN)
    again = signed_proposal(2, HEADER.hash, valid_round=2, polc=POLC)
    assert again.verify(PUBLIC, DOMAIN)
    assert not replace(again, valid_round=1).verify(PUBLIC, DOMAIN)
    assert not signed_proposal(2, HEADER.hash, valid_round=2, polc=FINAL).verify(PUBLIC, DOMAIN)
    for bad in (replace(again, polc=None), replace(again, valid_round=3), replace(again, index=100),
                replace(signed_proposal(2, HEADER.hash), polc=POLC), replace(again, round=(1 << 31) + 1)):
        with pytest.raises(DecodeError):
            Proposal.from_value(bad.value())


def test_evidence_needs_a_real_conflict():
    assert EVIDENCE.verify(DOMAIN)
    assert not EVIDENCE.verify(HEADER.hash)
    assert not replace(EVIDENCE, second=EVIDENCE.first, second_signature=EVIDENCE.first_signature).verify(DOMAIN)
    assert not replace(EVIDENCE, key=PUBLIC[1]).verify(DOMAIN)
    assert not replace(EVIDENCE, round=3).verify(DOMAIN)
    first, second = signed_proposal(0, HEADER.hash), signed_proposal(0, NIL)
    proposals = Evidence(
        PROPOSAL, PUBLIC[0], 7, 3, HEADER.hash, NO_ROUND, first.signature, NIL, NO_ROUND, second.signature
    )
    assert proposals.verify(DOMAIN)
    assert not replace(proposals, first_valid_round=1).verify(DOMAIN)
    with pytest.raises(DecodeError):
        Evidence.decode(replace(EVIDENCE, kind=4).encode())


def test_state_root_is_the_trees():
    assert state_root(STATE) == StateTree().updated(STATE)[0].root
