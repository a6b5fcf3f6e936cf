"""Recovery files: what they may say, the domains that follow from them, and whom light clients believe afterwards."""

import json
from dataclasses import replace

import pytest

from ledger.blocks import Header
from ledger.client.light import LightClient
from ledger.client.records import Finality
from ledger.crypto import KeyPair, digest
from ledger.errors import DecodeError, Rejected, UsageError
from ledger.recovery import MAX_FILE_BYTES, Recovery, by_height, recovered_domains
from ledger.signer import domain_at
from ledger.votes import PRECOMMIT, Certificate, Vote, authorities_hash, vote_body

GENESIS = digest("genesis", b"recovery")
OLD = [KeyPair.from_seed(bytes([i]) * 32) for i in range(4)]
NEW = [OLD[0], OLD[1], *(KeyPair.from_seed(bytes([i]) * 32) for i in (20, 21))]
DOMAINS = ((1, GENESIS),)


def header(height, keys, following=None):
    return Header(1, 1, height, 0, 1000 * height, bytes(32), bytes(32), 0, 0, bytes(32), bytes(32), bytes(32),
                  authorities_hash([k.public for k in keys]), authorities_hash([k.public for k in following or keys]))


def finality(of, keys, domain):
    body = vote_body(of.height, 0, of.hash)
    votes = {i: Vote(PRECOMMIT, of.height, 0, of.hash, i, key.sign("precommit", domain, body)) for i, key in enumerate(keys)}
    return Finality(of.encode(), Certificate.build(votes, len(keys)).encode(), [key.public for key in keys])


LAST = header(7, OLD)
FILE = Recovery(GENESIS, 7, LAST.hash, tuple((key.public, bytes([i]) * 32) for i, key in enumerate(NEW)), "two machines burnt")


def test_a_file_reads_back_and_its_hash_covers_every_value():
    assert Recovery.parse(FILE.text().encode()) == FILE
    assert FILE.keys == tuple(key.public for key in NEW) and FILE.authorities.active == (0, 1, 2, 3)
    others = [
        replace(FILE, genesis_hash=bytes(32)), replace(FILE, height=8), replace(FILE, head_hash=bytes(32)),
        replace(FILE, members=FILE.members[:3]), replace(FILE, members=FILE.members[::-1]), replace(FILE, reason="no"),
    ]
    assert len({each.hash for each in (FILE, *others)}) == 7
    spaced = json.dumps(json.loads(FILE.text()), indent=8).encode()
    assert Recovery.parse(spaced).hash == FILE.hash, "the values count, not the text"


@pytest.mark.parametrize("damage", [
    {"version": 2}, {"version": "1"}, {"genesis_hash": "00"}, {"genesis_hash": 7}, {"height": -1}, {"height": "7"},
    {"height": True}, {"height": 1 << 64}, {"head_hash": "zz" * 32}, {"authorities": []}, {"authorities": {}},
    {"authorities": [{"session_key": "00" * 32, "account": "00" * 32}]},
    {"authorities": [{"session_key": OLD[0].public.hex(), "account": "00" * 32}] * 2},
    {"authorities": [{"session_key": OLD[0].public.hex()}]}, {"authorities": [7]},
    {"authorities": [{"session_key": OLD[0].public.hex(), "account": "00" * 32}] * 101},
    {"reason": 7}, {"reason": "x" * 3000}, {"more": 1},
])
def test_what_no_file_may_say_is_refused(damage):
    with pytest.raises(DecodeError):
        Recovery.parse(json.dumps({**json.loads(FILE.text()), **damage}).encode())


@pytest.mark.parametrize("data", [
    b"", b"\xff", b"[]", b"{}", b"7", FILE.text().encode()[:-4], b" " * (MAX_FILE_BYTES + 1), b"[" * 50_000,
    FILE.text().replace('"height": 7', '"height": 7, "height": 8').encode(),
])
def test_what_is_no_file_is_refused(data):
    with pytest.raises(DecodeError):
        Recovery.parse(data)


def test_the_new_domain_begins_after_the_last_block_and_is_appended_once():
    domains = recovered_domains(DOMAINS, {7: FILE})
    assert [start for start, _ in domains] == [1, 8]
    assert domain_at(domains, 7) == GENESIS and domain_at(domains, 8) not in (GENESIS, bytes(32))
    assert recovered_domains(domains, {7: FILE}) == domains
    assert recovered_domains(DOMAINS, {7: replace(FILE, reason="another")}) != domains
    later = replace(FILE, height=20)
    both = recovered_domains(DOMAINS, {7: FILE, 20: later})
    assert both[:2] == domains and len(both) == 3 and recovered_domains(both, {7: FILE, 20: later}) == both


def test_files_of_one_chain_fit_together():
    assert by_height([FILE, FILE], GENESIS) == {7: FILE}
    for bad in ([replace(FILE, genesis_hash=bytes(32))], [FILE, replace(FILE, reason="another")]):
        with pytest.raises(UsageError):
            by_height(bad, GENESIS)
    with pytest.raises(UsageError, match="more than"):
        by_height([replace(FILE, height=height) for height in range(17)], GENESIS)


def test_a_light_client_follows_the_new_set_with_the_file_and_not_without():
    following = header(8, NEW)
    domain = domain_at(recovered_domains(DOMAINS, {7: FILE}), 8)
    client = LightClient(GENESIS, [key.public for key in OLD])
    with pytest.raises(Rejected, match="UntrustedAuthorities"):
        client.verify(finality(following, NEW, domain))
    with pytest.raises(Rejected, match="OtherBlock"):
        client.recover(FILE.head_hash, FILE.keys, FILE.hash, finality(header(6, OLD), OLD, GENESIS))
    client.recover(FILE.head_hash, FILE.keys, FILE.hash, finality(LAST, OLD, GENESIS))
    assert client.verify(finality(following, NEW, domain)) == following
    assert client.verify(finality(LAST, OLD, GENESIS)) == LAST, "what was final stays final"
    with pytest.raises(Rejected, match="BadCertificate"):
        client.verify(finality(following, NEW, GENESIS))
    with pytest.raises(Rejected, match="UntrustedAuthorities"):
        client.verify(finality(header(8, OLD), OLD, GENESIS))
