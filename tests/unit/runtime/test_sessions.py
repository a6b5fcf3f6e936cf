"""Sessions: proposed sets, rotation of keys, conviction, bonds and slashing, on a chain with sessions of ten blocks."""

from dataclasses import replace
from functools import cache

import pytest

from genesis.build import build_genesis
from genesis.cast import devnet_spec
from ledger import votes
from ledger.crypto import KeyPair
from ledger.errors import Rejected
from ledger.inherents import EVIDENCE, HEARTBEAT, Heartbeat
from runtime import chain
from runtime.executor import Runtime
from runtime.modules import accounts, authorities, bonds, evidence, sessions
from runtime.modules.sessions import possession_body

BLOCKS = 10
Q = 10**9
BOND = 100 * Q
NEW = [KeyPair.from_seed(bytes([40 + index]) * 32) for index in range(4)]


@cache
def short_genesis(authorities):
    spec = devnet_spec(1)
    return build_genesis(replace(spec, session_blocks=BLOCKS, authorities=spec.authorities[:authorities]))


@pytest.fixture
def short(devnet):
    """The devnet with short sessions."""
    return with_authorities(devnet, 4)


def with_authorities(devnet, count):
    devnet.genesis = short_genesis(count)
    devnet.runtime = Runtime(devnet.genesis.genesis_hash)
    devnet.rows, devnet.hashes = dict(devnet.genesis.state), {0: devnet.genesis.genesis_hash}
    return devnet


def proof(devnet, account, key):
    return key.sign("pop", devnet.genesis.genesis_hash, possession_body(account, key.public))


def seats(devnet):
    """The present set as members of a proposal."""
    return [[key, authorities.account_of(devnet.view, key), None] for key in keys_of(devnet)]


def keys_of(devnet):
    return list(devnet.runtime.authorities(devnet.view).keys)


def newcomer(devnet, index, who="owner"):
    account = devnet.cold(who).public
    return [NEW[index].public, account, proof(devnet, account, NEW[index])]


def beat(devnet, key, session=None):
    session = (devnet.next_height - 1) // BLOCKS if session is None else session
    return (HEARTBEAT, Heartbeat.sign(key, devnet.genesis.genesis_hash, session, bytes(32), "0.1", (1,)).encode())


def end_session(devnet, beats=(), **context):
    """Heartbeats of these keys, then blocks to the session's end."""
    for key in beats:
        devnet.block(inherents=[beat(devnet, key)])
    result = None
    while result is None or devnet.height % BLOCKS:
        result = devnet.block(**context)
    return result


def double_vote(devnet, key, height=1, round_=0):
    hashes = [bytes([n]) * 32 for n in (1, 2)]
    signed = [key.sign("prevote", devnet.genesis.genesis_hash, votes.vote_body(height, round_, block)) for block in hashes]
    found = votes.Evidence(votes.PREVOTE, key.public, height, round_, hashes[0], 0, signed[0], hashes[1], 0, signed[1])
    return (EVIDENCE, found.encode())


def bond_of(devnet, account):
    return bonds.bond_of(devnet.view, account)


# --- the proposed set ----------------------------------------------------------------------------------------------


# rule: AUT-7
def test_a_newcomer_gets_its_seat_after_heartbeat_and_bond(short):
    owner = short.cold("owner")
    assert short.root("authorities.propose_set", [*seats(short), newcomer(short, 0)]) == ""
    end_session(short)
    assert len(keys_of(short)) == 4, "no heartbeat, no bond"
    end_session(short, [NEW[0]])
    assert len(keys_of(short)) == 4, "no bond"
    assert short.call(owner, "authorities.bond", BOND) == ""
    end_session(short)
    assert len(keys_of(short)) == 4, "no heartbeat in the session that ended"
    before = keys_of(short)
    result = end_session(short, [NEW[0]])
    assert keys_of(short) == [*before, NEW[0].public] == list(result.authorities.keys)
    assert "AuthorityChanged" in short.names(result) and sessions.proposed(short.view) is None
    short.block(signers=[0, 1, 2])  # the certificate is still the old set's
    number = short.height // BLOCKS
    assert authorities.uptime(short.view, number - 1).blocks == BLOCKS and authorities.uptime(short.view, number).blocks == 0
    short.block(signers=[1, 2, 3, 4])
    assert authorities.uptime(short.view, number).signed == [0, 1, 1, 1, 1]
    assert authorities.candidates(short.view) == [] and short.audit() == []


# rule: AUT-7
def test_from_four_to_seven_to_one_over_sessions(short):
    """Each session adds and removes max(1, f): a light client that knows one set always knows a quorum of the next."""
    for who in ("owner", "validator 0", "validator 1"):
        assert short.call(short.cold(who), "authorities.bond", BOND) == "", who
    members = [*seats(short), *(newcomer(short, i, who) for i, who in enumerate(("owner", "validator 0", "validator 1")))]
    assert short.root("authorities.propose_set", members) == ""
    sizes = []
    for _ in range(4):
        end_session(short, [key for key in NEW[:3] if key.public not in keys_of(short)])
        sizes.append(len(keys_of(short)))
    assert sizes == [5, 6, 7, 7]
    last = keys_of(short)[6]
    assert short.root("authorities.propose_set", [[last, authorities.account_of(short.view, last), None]]) == ""
    sizes = []
    while len(keys_of(short)) > 1:
        end_session(short)
        sizes.append(len(keys_of(short)))
    assert sizes == [5, 4, 3, 2, 1] and keys_of(short) == [last]
    assert sessions.proposed(short.view) is None and short.audit() == []


def test_one_authority_can_hand_over_to_another(devnet):
    short = with_authorities(devnet, 1)
    assert short.call(short.cold("owner"), "authorities.bond", BOND) == ""
    assert short.root("authorities.propose_set", [newcomer(short, 0)]) == ""
    end_session(short)
    assert keys_of(short) == [short.session(0).public], "the only one stays until somebody is there"
    end_session(short, [NEW[0]])
    assert keys_of(short) == [NEW[0].public]


# rule: AUT-1
@pytest.mark.parametrize("change", ["unproven", "not a point", "twice", "offender", "another's", "announced", "empty tempo"])
def test_sets_that_cannot_be_are_refused(short, change):
    owner = short.cold("owner").public
    members, good, expected = seats(short), newcomer(short, 0), "InvalidProof"
    if change == "unproven":
        good[2] = None
    elif change == "not a point":
        good[0], expected = bytes(32), "InvalidKey"
    elif change == "twice":
        members, expected = [*members, good], "InvalidSet"
    elif change == "offender":
        short.block()
        short.block(inherents=[double_vote(short, short.session(3))])
        end_session(short)
        key = short.session(3)
        members, good, expected = seats(short), [key.public, owner, proof(short, owner, key)], "KnownAuthority"
    elif change == "another's":
        members[0], expected = [members[0][0], owner, None], "InvalidSet"
    elif change == "announced":
        account = short.cold("authority 1")
        args = (short.session(1).public, NEW[0].public, proof(short, account.public, NEW[0]))
        assert short.call(account, "authorities.set_session_key", *args) == ""
        expected = "KnownAuthority"
    elif change == "empty tempo":
        assert short.root("governance.set_subnet_param", 1, "tempo", 7) == ""
        members = [*members, *([KeyPair.from_seed(bytes([90 + i]) * 32).public, owner, bytes(64)] for i in range(3))]
        expected = "TempoTooShort"
    assert short.root("authorities.propose_set", [*members, good]) == expected


def test_only_root_proposes_a_set_and_the_present_one_ends_a_change(short):
    owner = short.cold("owner")
    assert short.call(owner, "authorities.propose_set", seats(short)) == "RequireSudo"
    assert short.root("authorities.propose_set", [*seats(short), newcomer(short, 0)]) == ""
    assert authorities.candidate(short.view, NEW[0].public) is not None
    assert short.root("authorities.propose_set", seats(short)) == ""
    assert authorities.candidates(short.view) == [] and sessions.proposed(short.view) is None
    with pytest.raises(Rejected, match="neither in the authority set nor proposed"):
        short.block(inherents=[beat(short, NEW[0])])


def test_candidates_send_one_heartbeat_a_session(short):
    assert short.root("authorities.propose_set", [*seats(short), newcomer(short, 0)]) == ""
    assert short.runtime.heartbeat_is_due(short.view, NEW[0].public, short.next_height)
    short.block(inherents=[beat(short, NEW[0])])
    assert not short.runtime.heartbeat_is_due(short.view, NEW[0].public, short.next_height)
    with pytest.raises(Rejected, match="recorded already"):
        short.block(inherents=[beat(short, NEW[0])])
    end_session(short)
    short.block(inherents=[beat(short, NEW[0])])


def test_a_chain_that_seals_on_demand_keeps_its_authority(devnet):
    short = with_authorities(devnet, 1)
    context = short.context(signer=short.cold("authority 0").public)
    chain.INFO.put(context.state, value=replace(chain.info(short.view), seal="manual"))
    with pytest.raises(Rejected, match="seals on demand"):
        sessions.propose_set(context, [newcomer(short, 0)])
    with pytest.raises(Rejected, match="seals on demand"):
        sessions.set_session_key(context, short.session(0).public, NEW[0].public, bytes(64))


# --- rotation ------------------------------------------------------------------------------------------------------


# rule: AUT-8
def test_a_session_key_is_replaced_in_its_place(short):
    account, old = short.cold("authority 1"), short.session(1)
    args = (old.public, NEW[0].public, proof(short, account.public, NEW[0]))
    assert short.call(short.cold("owner"), "authorities.set_session_key", *args) == "NotAuthority"
    assert short.call(account, "authorities.set_session_key", NEW[1].public, *args[1:]) == "UnknownAuthority"
    assert short.call(account, "authorities.set_session_key", *args[:2], bytes(64)) == "InvalidProof"
    assert short.call(account, "authorities.set_session_key", *args) == ""
    assert short.root("authorities.propose_set", [*seats(short), newcomer(short, 2)]) == ""
    end_session(short)
    assert keys_of(short)[1] == NEW[0].public and len(keys_of(short)) == 4
    assert NEW[0].public in sessions.proposed(short.view) and old.public not in sessions.proposed(short.view)
    assert short.call(account, "authorities.set_session_key", NEW[0].public, old.public,
                      proof(short, account.public, old)) == "KnownAuthority"
    assert short.audit() == []


# rule: AUT-8
def test_a_rotated_key_still_answers_for_what_it_signed(short):
    account, old = short.cold("authority 1"), short.session(1)
    args = (old.public, NEW[0].public, proof(short, account.public, NEW[0]))
    assert short.call(account, "authorities.set_session_key", *args) == ""
    end_session(short)
    short.block(inherents=[double_vote(short, old, height=5)])
    assert evidence.OFFENDERS.get(short.view, old.public) == 5
    assert authorities.authority(short.view, NEW[0].public).disabled, "the seat's new key stops leading"
    end_session(short)
    assert NEW[0].public not in keys_of(short) and len(keys_of(short)) == 3
    assert bond_of(short, account.public).total_rao == BOND * 95 // 100


# --- conviction ----------------------------------------------------------------------------------------------------


def test_an_offender_loses_its_seat_and_a_part_of_its_bond_at_the_sessions_end(short):
    short.skip(2)
    offender, reporter = short.cold("authority 2").public, short.cold("authority 1").public
    short.block(proposer=1, inherents=[double_vote(short, short.session(2))])
    assert len(keys_of(short)) == 4 and bond_of(short, offender).bonded_rao == BOND
    while short.next_height % BLOCKS:
        short.block()
    issued, free = accounts.issuance(short.view), short.free(reporter)
    result = short.block()
    assert short.session(2).public not in keys_of(short) and len(keys_of(short)) == 3
    slashed = next(event for event in result.events if event[0] == bonds.SLASHED.number)
    assert slashed[1:] == [offender, short.session(2).public, 5 * Q, Q // 4, reporter]
    assert bond_of(short, offender).bonded_rao == 95 * Q and short.free(reporter) == free + Q // 4
    emission = sum(event[2] for event in result.events if event[0] == accounts.MINTED.number)
    recycled = sum(event[2] for event in result.events if event[0] == accounts.RECYCLED.number)
    assert accounts.issuance(short.view) == issued + emission - recycled and recycled >= 5 * Q - Q // 4
    assert {"AuthorityRemoved", "AuthorityChanged"} <= set(short.names(result))
    assert short.audit() == []
    assert short.call(short.cold("authority 2"), "authorities.unbond", 95 * Q) == "", "no seat, no duty"


# rule: AUT-5
def test_a_third_of_the_set_loses_everything_also_what_is_unbonding(short):
    short.skip(2)
    first, second = short.cold("authority 2"), short.cold("authority 3")
    assert short.call(second, "authorities.bond", 50 * Q) == ""
    assert short.call(second, "authorities.unbond", 50 * Q) == ""
    short.block(proposer=0, inherents=[double_vote(short, short.session(2))])
    end_session(short)
    assert bond_of(short, first.public).total_rao == 95 * Q
    short.block(proposer=0, inherents=[double_vote(short, short.session(3), height=2)])
    end_session(short)
    assert bond_of(short, first.public).total_rao == 0, "raised when the second of the same session was found"
    assert bond_of(short, second.public).total_rao == 0
    assert keys_of(short) == [short.session(0).public, short.session(1).public]
    assert short.audit() == []


def test_a_second_offence_of_an_account_costs_everything(short):
    short.skip(2)
    account = short.cold("authority 2")
    short.block(proposer=0, inherents=[double_vote(short, short.session(2))])
    end_session(short)
    assert short.call(account, "authorities.bond", 5 * Q) == ""
    members = [*seats(short), [NEW[0].public, account.public, proof(short, account.public, NEW[0])]]
    assert short.root("authorities.propose_set", members) == ""
    end_session(short, [NEW[0]])
    assert NEW[0].public in keys_of(short)
    height = short.next_height
    short.block()
    short.block(proposer=0, inherents=[double_vote(short, NEW[0], height=height)])
    end_session(short)
    assert bond_of(short, account.public).total_rao == 0


def test_more_convicted_than_the_limit_leave_one_session_after_the_other(short):
    short.skip(2)
    for index in (1, 2, 3):
        short.block(proposer=0, inherents=[double_vote(short, short.session(index))])
    sizes = []
    for _ in range(4):
        end_session(short)
        sizes.append(len(keys_of(short)))
    assert sizes == [3, 2, 1, 1] and keys_of(short) == [short.session(0).public]


def test_the_last_authority_stays_though_convicted(devnet):
    short = with_authorities(devnet, 1)
    short.skip(2)
    context = short.context()
    row = authorities.authority(context.state, short.session(0).public)
    authorities.AUTHORITIES.put(context.state, short.session(0).public, value=replace(row, disabled=True))
    assert sessions._next_set(context, 0) == [short.session(0).public]


# rule: AUT-5
@pytest.mark.parametrize(("offenders", "n", "ppm"), [
    (1, 4, 50_000), (2, 4, 1_000_000), (1, 3, 1_000_000), (1, 1, 1_000_000), (1, 7, 50_000), (2, 7, 525_000),
    (3, 7, 1_000_000), (33, 100, 1_000_000 - 950_000 // 33 - 1), (34, 100, 1_000_000),
])
def test_shares_of_a_slash(offenders, n, ppm):
    assert evidence.slash_ppm(offenders, n) == ppm


# --- bonds ---------------------------------------------------------------------------------------------------------


# rule: AUT-6
def test_bonds_are_put_down_and_taken_back_after_their_time(short):
    short.root("governance.set_global_param", "authority_unbond_sessions", 1)
    member, other = short.cold("authority 0"), short.cold("validator 0")
    assert short.call(member, "authorities.unbond", 1) == "BondNeeded"
    assert short.call(other, "authorities.bond", 0) == "AmountTooLow"
    assert short.call(other, "authorities.bond", 10**18) == "NotEnoughBalance"
    assert short.call(other, "authorities.bond", 30 * Q) == ""
    assert short.call(other, "authorities.unbond", 31 * Q) == "NotBonded"
    assert short.call(other, "authorities.unbond", 0) == "AmountTooLow"
    assert short.call(other, "authorities.unbond", 10 * Q) == ""
    assert bond_of(short, other.public) == bonds.Bond(20 * Q, [[2, 10 * Q]])
    assert short.call(other, "authorities.withdraw_bond") == "NothingUnbonded"
    end_session(short)
    assert short.call(other, "authorities.withdraw_bond") == "NothingUnbonded"
    end_session(short)
    context = short.context(signer=other.public)
    bonds.SUSPECTS.put(context.state, other.public, value=1)
    with pytest.raises(Rejected, match="BondUnderSuspicion"):
        bonds.withdraw_bond(context)
    free = short.free(other.public)
    assert short.call(other, "authorities.withdraw_bond") == ""
    assert free < short.free(other.public) <= free + 10 * Q
    assert bond_of(short, other.public) == bonds.Bond(20 * Q) and short.audit() == []


def test_unbondings_are_bounded_and_the_newest_is_slashed_first(short):
    context = short.context(signer=short.cold("validator 0").public)
    bonds.bond(context, 100 * Q)
    for _ in range(bonds.MAX_UNBONDINGS):
        bonds.unbond(context, Q)
    with pytest.raises(Rejected, match="TooManyUnbondings"):
        bonds.unbond(context, Q)
    row = bonds.Bond(5, [[1, 10], [2, 10]])
    assert bonds._without(row, 5) == bonds.Bond(0, [[1, 10], [2, 10]])
    assert bonds._without(row, 18) == bonds.Bond(0, [[1, 7]])
    assert bonds._without(row, 25).total_rao == 0


# --- recovery ------------------------------------------------------------------------------------------------------


def test_a_recovered_set_takes_the_place_of_the_lost_one(short):
    short.skip(3)
    short.root("authorities.propose_set", [*seats(short), newcomer(short, 0)])
    account = short.cold("authority 3")
    args = (short.session(3).public, NEW[2].public, proof(short, account.public, NEW[2]))
    assert short.call(account, "authorities.set_session_key", *args) == ""
    members = [(NEW[1].public, short.cold("owner").public), (short.session(0).public, bytes(32))]
    short.runtime.recoveries = {short.height: members}
    result = short.block(proposer=0)
    keys = [key for key, _ in members]
    assert list(result.authorities.keys) == keys and sessions.proposed(short.view) is None
    assert authorities.session(short.view, 0).keys == keys
    end_session(short)
    end_session(short)
    assert keys_of(short) == keys, "nothing of what was announced or proposed before is left"
    assert authorities.candidates(short.view) == [] and short.audit() == []
