"""Authorities: leaders that miss their turns, heartbeats, evidence."""

from dataclasses import replace

import pytest

from ledger import inherents, votes
from ledger.crypto import KeyPair
from ledger.errors import Rejected
from ledger.inherents import EVIDENCE, HEARTBEAT, Heartbeat
from runtime.modules import authorities, evidence
from runtime.modules.upgrades import CURRENT


def heartbeat(devnet, index, *, session=None, versions=(CURRENT,), key=None, domain=None):
    key = key or devnet.session(index)
    session = (devnet.next_height - 1) // 100 if session is None else session
    domain = domain or devnet.genesis.genesis_hash
    return (HEARTBEAT, Heartbeat.sign(key, domain, session, bytes(32), "0.1", versions).encode())


def double_vote(devnet, key, height=1, *, domain=None, kind=votes.PREVOTE):
    domain = domain or devnet.genesis.genesis_hash
    hashes = [bytes([n]) * 32 for n in (1, 2)]
    if kind == votes.PROPOSAL:
        bodies = [votes.proposal_body(height, 0, votes.NO_ROUND, block) for block in hashes]
    else:
        bodies = [votes.vote_body(height, 0, block) for block in hashes]
    tag = {votes.PREVOTE: "prevote", votes.PRECOMMIT: "precommit", votes.PROPOSAL: "proposal"}[kind]
    signatures = [key.sign(tag, domain, body) for body in bodies]
    valid = votes.NO_ROUND if kind == votes.PROPOSAL else 0
    found = votes.Evidence(kind, key.public, height, 0, hashes[0], valid, signatures[0], hashes[1], valid, signatures[1])
    return (EVIDENCE, found.encode())


def jump_to_session_end(devnet):
    while devnet.height % 100:
        devnet.block()


def active(devnet):
    return devnet.runtime.authorities(devnet.view).active


# --- leaders -----------------------------------------------------------------------------------------------------


# rule: AUT-2
def test_three_missed_turns_skip_a_leader_and_a_heartbeat_brings_it_back(devnet):
    for _ in range(2):
        devnet.block(proposer=1, round_=1, missed=[0])
    assert active(devnet) == (0, 1, 2, 3)
    assert devnet.names(devnet.block(proposer=1, round_=1, missed=[0]))[0] == "AuthoritySkipped"
    assert active(devnet) == (1, 2, 3)
    result = devnet.block(proposer=1, inherents=[heartbeat(devnet, 0)])
    assert "AuthorityBack" in devnet.names(result)
    assert active(devnet) == (0, 1, 2, 3)
    assert authorities.authority(devnet.view, devnet.session(0).public).missed == 0


def test_leading_a_block_forgives_missed_turns(devnet):
    for _ in range(2):
        devnet.block(proposer=1, round_=1, missed=[0])
    devnet.block(proposer=0)
    devnet.block(proposer=1, round_=1, missed=[0])
    assert active(devnet) == (0, 1, 2, 3)


# rule: AUT-2
def test_at_most_f_are_skipped_at_once(devnet):
    for _ in range(6):
        devnet.block(proposer=3, round_=3, missed=[0, 1, 2])
    assert active(devnet) == (1, 2, 3)


def test_uptime_counts_signers_and_leaders(devnet):
    devnet.block(proposer=0)
    devnet.block(proposer=1, signers=[0, 1, 2])
    devnet.block(proposer=1, signers=[1, 2, 3])
    assert authorities.uptime(devnet.view, 0) == authorities.Uptime([1, 2, 2, 1], [1, 2, 0, 0], 2)


# --- heartbeats --------------------------------------------------------------------------------------------------


# rule: AUT-3
def test_heartbeats_are_only_for_those_who_need_them(devnet):
    devnet.skip(3)
    first = heartbeat(devnet, 0)  # advertises versions for the first time
    devnet.block(inherents=[first])
    for again in (first, heartbeat(devnet, 0, versions=(CURRENT, CURRENT + 1))):
        with pytest.raises(Rejected, match="InvalidHeartbeat"):
            devnet.block(inherents=[again])
    assert authorities.authority(devnet.view, devnet.session(0).public).versions == [CURRENT]


def test_silent_authorities_may_send_one_heartbeat_a_session(devnet):
    devnet.block(inherents=[heartbeat(devnet, 3)])
    jump_to_session_end(devnet)
    devnet.block(signers=[0, 1, 2])
    assert not devnet.runtime.heartbeat_is_due(devnet.view, devnet.session(3).public, devnet.next_height)
    with pytest.raises(Rejected, match="alive"):
        devnet.block(signers=[0, 1, 2], inherents=[heartbeat(devnet, 3)])
    devnet.block(signers=[0, 1, 2])
    assert devnet.runtime.heartbeat_is_due(devnet.view, devnet.session(3).public, devnet.next_height)
    assert not devnet.runtime.heartbeat_is_due(devnet.view, bytes(32), devnet.next_height)
    devnet.block(signers=[0, 1, 2], inherents=[heartbeat(devnet, 3)])


# rule: AUT-3
@pytest.mark.parametrize("change", ["session", "stranger", "domain", "garbage", "tampered"])
def test_bad_heartbeats_are_refused(devnet, change):
    kind, payload = heartbeat(devnet, 0)
    bad = {
        "session": heartbeat(devnet, 0, session=1),
        "stranger": heartbeat(devnet, 0, key=KeyPair.from_seed(bytes(32))),
        "domain": heartbeat(devnet, 0, domain=bytes(32)),
        "garbage": (kind, b"\x80" + payload),
        "tampered": (kind, replace(Heartbeat.decode(payload), versions=(1, 9)).encode()),
    }[change]
    with pytest.raises(Rejected, match="InvalidHeartbeat"):
        devnet.block(inherents=[bad])


# --- evidence ----------------------------------------------------------------------------------------------------


# rule: AUT-4
@pytest.mark.parametrize("kind", [votes.PREVOTE, votes.PRECOMMIT, votes.PROPOSAL])
def test_evidence_disables_at_once_and_for_good(devnet, kind):
    devnet.skip(2)
    result = devnet.block(inherents=[double_vote(devnet, devnet.session(2), kind=kind)])
    assert "AuthorityDisabled" in devnet.names(result)
    assert active(devnet) == (0, 1, 3)
    devnet.block(inherents=[heartbeat(devnet, 2)])
    assert active(devnet) == (0, 1, 3)
    with pytest.raises(Rejected, match="recorded already"):
        devnet.block(inherents=[double_vote(devnet, devnet.session(2), kind=kind)])


# rule: AUT-4
def test_bad_evidence_is_refused(devnet):
    devnet.skip(3)
    key = devnet.session(1)
    good = votes.Evidence.decode(double_vote(devnet, key)[1])
    bad = [
        replace(good, second=good.first, second_signature=good.first_signature),
        replace(good, second_signature=good.first_signature),
        replace(good, height=2),
        replace(good, kind=votes.PRECOMMIT),
        votes.Evidence.decode(double_vote(devnet, key, domain=bytes(32))[1]),
        votes.Evidence.decode(double_vote(devnet, key, height=50)[1]),
        votes.Evidence.decode(double_vote(devnet, KeyPair.from_seed(bytes(32)))[1]),
    ]
    for wrong in bad:
        with pytest.raises(Rejected, match="InvalidEvidence"):
            devnet.block(inherents=[(EVIDENCE, wrong.encode())])
    with pytest.raises(Rejected, match="on itself"):
        devnet.block(proposer=1, inherents=[(EVIDENCE, good.encode())])
    assert active(devnet) == (0, 1, 2, 3)


def test_the_domain_of_the_height_counts_after_a_rewind(devnet):
    devnet.skip(2)
    devnet.runtime.domain_at = lambda height: b"\7" * 32 if height >= 2 else devnet.genesis.genesis_hash
    devnet.block(proposer=3, inherents=[double_vote(devnet, devnet.session(0), height=1)])
    devnet.block(inherents=[double_vote(devnet, devnet.session(1), height=2, domain=b"\7" * 32)])
    assert active(devnet) == (2, 3)


def test_evidence_leaves_the_window(devnet):
    devnet.root("governance.set_global_param", "evidence_window_sessions", 1)
    jump_to_session_end(devnet)
    late = double_vote(devnet, devnet.session(0), height=1)
    devnet.block(proposer=3, inherents=[double_vote(devnet, devnet.session(0), height=2)])
    with pytest.raises(Rejected, match="window"):
        devnet.block(proposer=3, inherents=[late])
    assert len(list(evidence.EVIDENCE.items(devnet.view))) == 1
    for _ in range(2):
        devnet.block()
        jump_to_session_end(devnet)
    devnet.block()
    assert list(evidence.EVIDENCE.items(devnet.view)) == []
    assert [parts for parts, _ in authorities.SESSIONS.items(devnet.view)] == [(1,), (2,), (3,)]
    assert devnet.audit() == []


# rule: BLK-4
def test_the_proposer_chooses_valid_inherents_in_the_one_order(devnet):
    devnet.skip(2)
    good = [heartbeat(devnet, 1), double_vote(devnet, devnet.session(2)), heartbeat(devnet, 0)]
    candidates = [*good, good[0], heartbeat(devnet, 0, session=9), (EVIDENCE, b""), (77, b"x")]
    chosen = devnet.runtime.block_inherents(devnet.view, devnet.block_context(), candidates)
    assert chosen == sorted(good)
    devnet.execute(inherents=chosen)
    for order in ([chosen[1], chosen[0]], [chosen[0], chosen[0]]):
        with pytest.raises(Rejected, match="InvalidInherent"):
            devnet.execute(inherents=order)


def test_evidence_per_block_is_limited(devnet):
    devnet.skip(9)
    many = sorted(double_vote(devnet, devnet.session(1), height=h) for h in range(1, 10))
    chosen = devnet.runtime.block_inherents(devnet.view, devnet.block_context(), many)
    assert len(chosen) == evidence.MAX_EVIDENCE_PER_BLOCK
    with pytest.raises(Rejected, match="too many"):
        devnet.block(inherents=many)


def test_heartbeat_encoding_is_pinned(devnet):
    beat = Heartbeat.sign(devnet.session(0), bytes(32), 3, b"\1" * 32, "0.1.0", (1,))
    assert Heartbeat.decode(beat.encode()) == beat and beat.verify(bytes(32)) and not beat.verify(b"\1" * 32)
    assert (inherents.EVIDENCE, inherents.HEARTBEAT) == (1, 2)
