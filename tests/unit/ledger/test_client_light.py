"""The light client: what it believes, and every broken link that it must refuse."""

from dataclasses import replace

import pytest

from ledger.blocks import Header
from ledger.client.light import LightClient, verify_state_proof
from ledger.client.records import At, Finality, StateProof
from ledger.crypto import KeyPair, digest
from ledger.errors import DecodeError, Rejected
from ledger.state_tree import StateTree
from ledger.votes import PRECOMMIT, PREVOTE, Certificate, Vote, authorities_hash, vote_body

GENESIS = digest("genesis", b"light")
FIRST = [KeyPair.from_seed(bytes([i]) * 32) for i in range(4)]
SECOND = [KeyPair.from_seed(bytes([i]) * 32) for i in range(10, 17)]
STATE, _ = StateTree().updated({b"key%d" % i: b"value%d" % i for i in range(50)})


def publics(keys):
    return [key.public for key in keys]


def header(height, keys=FIRST, following=None, root=STATE.root):
    return Header(1, 1, height, 0, 1000 * height, bytes(32), bytes(32), 0, 0, bytes(32), root, bytes(32),
                  authorities_hash(publics(keys)), authorities_hash(publics(following or keys)))


def finality(of, keys=FIRST, signers=None, kind=PRECOMMIT, domain=GENESIS, listed=None):
    tag = "precommit" if kind == PRECOMMIT else "prevote"
    votes = {
        i: Vote(kind, of.height, 0, of.hash, i, keys[i].sign(tag, domain, vote_body(of.height, 0, of.hash)))
        for i in (range(len(keys)) if signers is None else signers)
    }
    return Finality(of.encode(), Certificate.build(votes, len(keys)).encode(), publics(listed or keys))


def proof_of(key, of=None, final=None):
    of = of or header(9)
    value = {b"key%d" % i: b"value%d" % i for i in range(50)}.get(key)
    return StateProof(At(of.height, of.hash), key, value, of.state_root, STATE.prove(key), final or finality(of))


@pytest.mark.parametrize("key", [b"key3", b"key49", b"nothing", b""])
def test_inclusion_and_absence_are_believed(key):
    proof = proof_of(key)
    assert verify_state_proof(proof, GENESIS, publics(FIRST)).height == 9
    assert LightClient(GENESIS, publics(FIRST)).verify_state(proof) == proof.value


def refused(proof, name, **more):
    with pytest.raises(Rejected) as caught:
        verify_state_proof(proof, GENESIS, publics(FIRST), **more)
    assert caught.value.error_name == name


def test_a_changed_proof_is_refused():
    good = proof_of(b"key3")
    refused(replace(good, value=b"value4"), "BadProof")
    refused(replace(good, value=None), "BadProof")
    refused(replace(good, key=b"key4"), "BadProof")
    refused(replace(proof_of(b"nothing"), value=b""), "BadProof")
    refused(replace(good, proof=good.proof[:-1]), "BadProof")
    refused(replace(good, proof=b""), "BadProof")
    refused(replace(good, state_root=bytes(32)), "OtherRoot")
    refused(replace(good, at=At(8, good.at.hash)), "OtherBlock")
    refused(replace(good, at=At(9, bytes(32))), "OtherBlock")


def test_a_changed_finality_is_refused():
    of = header(9)
    refused(proof_of(b"key3", of, finality(of, signers=[0, 1])), "BadCertificate")
    refused(proof_of(b"key3", of, finality(of, domain=digest("domain", b"other"))), "BadCertificate")
    refused(proof_of(b"key3", of, finality(of, kind=PREVOTE)), "OtherBlock")
    refused(proof_of(b"key3", of, replace(finality(of), certificate=finality(header(8)).certificate)), "OtherBlock")
    refused(proof_of(b"key3", of, finality(of, listed=[*FIRST[:3], SECOND[0]])), "UntrustedAuthorities")
    refused(proof_of(b"key3", of, replace(finality(of), authorities=[])), "MalformedAuthorities")
    refused(proof_of(b"key3", of, replace(finality(of), authorities=[b"short"])), "MalformedAuthorities")
    signature = bytearray(finality(of).certificate)
    signature[-1] ^= 1
    refused(proof_of(b"key3", of, replace(finality(of), certificate=bytes(signature))), "BadCertificate")
    with pytest.raises(DecodeError):
        verify_state_proof(proof_of(b"key3", of, replace(finality(of), header=b"\x80")), GENESIS, publics(FIRST))


def test_a_set_of_its_own_making_is_not_believed():
    of = header(9, SECOND)
    refused(proof_of(b"key3", of, finality(of, SECOND)), "UntrustedAuthorities")


def test_sets_are_followed_from_genesis():
    boundary = header(100, FIRST, SECOND)
    later = header(150, SECOND)
    proof = proof_of(b"key3", later, finality(later, SECOND))
    refused(proof, "UntrustedAuthorities")
    verify_state_proof(proof, GENESIS, publics(FIRST), sessions=[finality(boundary)])
    old = header(150, FIRST)
    refused(proof_of(b"key3", old, finality(old)), "UntrustedAuthorities", sessions=[finality(boundary)])
    before = header(100, FIRST, SECOND)
    verify_state_proof(proof_of(b"key3", before, finality(before)), GENESIS, publics(FIRST), sessions=[finality(boundary)])


def test_trust_is_extended_by_final_blocks_only():
    client = LightClient(GENESIS, publics(FIRST))
    boundary = header(100, FIRST, SECOND)
    with pytest.raises(Rejected):
        client.advance(finality(boundary, signers=[0, 1]))
    client.advance(finality(boundary))
    with pytest.raises(Rejected) as caught:
        client.advance(finality(header(50, FIRST, FIRST)))
    assert caught.value.error_name == "NotLater"
