"""Locks, valid blocks and certificates of prevotes: what keeps two blocks from being decided."""

from __future__ import annotations

from ledger.votes import NIL, PRECOMMIT, PREVOTE, PROPOSAL, Certificate, Proposal, Vote

from ..stage import Stage, Value
from . import scenario


def is_polc(value: Value, round_: int) -> bool:
    """A certificate of prevotes of that round, alone or in a proposal."""
    polc = value.polc if isinstance(value, Proposal) else value
    return isinstance(polc, Certificate) and (polc.kind, polc.round) == (PREVOTE, round_)


def is_vote(value: Value, kind: int, round_: int, *indexes: int) -> bool:
    """A vote of that kind and round, of one of these authorities (of any, if none is named)."""
    return (
        isinstance(value, Vote) and (value.kind, value.round) == (kind, round_)
        and (not indexes or value.index in indexes)
    )


def lock_p0_alone(stage: Stage) -> bytes:
    """Round 0 of height 1: only p0 hears a quorum of prevotes for A. p1 and p2 see a mixed round and end in nil.

    Needs puppet 3 and must run while p0's prevote and the certificate do not reach the others. Returns the hash of A.
    """
    stage.vote_all(PREVOTE, 0, 1_000, 0, 1, 2)
    stage.show(3, [1, 2], stage.prevote(3))
    first = stage.proposed(1, 0).block_hash
    assert stage.vote_all(PRECOMMIT, 0, 1_000, 0, 1, 2) == [first, NIL, NIL]
    assert stage.core(0).locked_round == 0
    return first


def hides_lock(sender: int, receiver: int, value: Value) -> bool:
    """What would show p0's lock to p1 and p2."""
    return receiver != 0 and (is_vote(value, PREVOTE, 0, 0) or is_polc(value, 0))


@scenario(1, "hidden lock")
def hidden_lock() -> None:
    """Only p0 knows the quorum for A and locks: it votes nil against a fresh B, and A is decided in the end."""
    stage = Stage(puppets=[3])
    with stage.lose(hides_lock):
        first = lock_p0_alone(stage)
        votes = stage.vote_all(PREVOTE, 1, 1_000, 0, 1, 2)
        second = stage.proposed(2, 1).block_hash
        assert second != first and votes == [NIL, second, second]
    stage.grow(1, 5_000)
    assert stage.hashes() == {first}
    again = stage.proposed(0, 3)
    assert (again.block_hash, again.valid_round) == (first, 0)
    assert stage.players[0].chain.header(1).proposal_round == 0  # the header is the original one


@scenario(2, "hidden decision")
def hidden_decision() -> None:
    """p0 decides A and is cut off before anybody hears of it: the others refuse B, and A stays the only decision."""
    stage = Stage(puppets=[3])
    with stage.lose(lambda sender, receiver, value: sender == 0 and is_vote(value, PRECOMMIT, 0)):
        stage.grow(1, 1_000, 0)
        stage.cut = frozenset([0])
        stage.show(3, [1, 2], stage.prevote(3), stage.precommit(3))
        first = stage.players[0].chain.hash_at(1)
        stage.reach(1, 1_000, 1, 2)
    with stage.lose(lambda sender, receiver, value: isinstance(value, Proposal) and value.round == 1):
        stage.play(lambda: stage.has_proposed(2, 1), 1_000)
        assert stage.proposed(2, 1).block_hash == first
        stage.show(3, [1, 2], stage.prevote(3, NIL, 1), stage.precommit(3, NIL, 1))
        stage.reach(2, 2_000, 1, 2)
    other = stage.block(2, after_ms=stage.now_ms, holder=3, on=1)
    stage.show(3, [1, 2], stage.proposal(3, other, 2), stage.prevote(3, other.hash, 2))
    assert stage.vote_all(PREVOTE, 2, 1_000, 1, 2) == [NIL, NIL]
    stage.show(3, [1, 2], stage.precommit(3, other.hash, 2))
    stage.cut = frozenset()
    stage.grow(1, 3_000)
    assert stage.hashes() == {first}


@scenario(3, "late PoLC")
def late_polc() -> None:
    """p0, locked on A in round 0, learns in round 2 that B had a quorum in round 1: it proposes B and votes for it."""
    stage = Stage(puppets=[3])

    def hides_second(sender: int, receiver: int, value: Value) -> bool:
        return receiver != 2 and (is_vote(value, PREVOTE, 1, 3) or is_polc(value, 1))

    with stage.lose(hides_lock):
        first = lock_p0_alone(stage)
        with stage.lose(hides_second):
            stage.vote_all(PREVOTE, 1, 1_000, 0, 1, 2)
            second = stage.proposed(2, 1).block_hash
            assert second != first
            stage.show(3, [2], stage.prevote(3, second, 1))
            stage.reach(2, 2_000, 0, 1, 2)
            cores = [stage.core(index) for index in range(3)]
            assert [core.valid_round for core in cores] == [0, -1, 1]
            assert [core.locked_round for core in cores] == [0, -1, 1]
        stage.reach(3, 3_000, 0)
    assert (cores[0].valid_round, cores[0].valid_hash, cores[0].locked_round) == (1, second, 0)
    stage.grow(1, 2_000)
    last = stage.proposed(0, 3)
    assert (last.block_hash, last.valid_round) == (second, 1)
    assert stage.voted(0, PREVOTE, 3) == second and stage.rounds[1] == 3
    assert stage.hashes() == {second}


@scenario(4, "equivocating proposer")
def equivocating_proposer() -> None:
    """p1 shows A to p0 and B to the others: p0 keeps the first, the pair is evidence, and one block is decided."""
    stage = Stage(puppets=[1])
    stage.pass_ms(260)
    one, other = (stage.block(0, after_ms=after_ms, holder=1) for after_ms in (250, 251))
    shown = [stage.proposal(1, block) for block in (one, other)]
    stage.show(1, [0], shown[0])
    stage.show(1, [2, 3], shown[1])
    stage.show(1, [0], shown[1])
    stage.show(1, [2], stage.prevote(1, other.hash))  # p2 alone locks B
    stage.grow(2, 5_000)
    assert stage.voted(0, PREVOTE, 0) == one.hash
    assert [stage.voted(index, PREVOTE, 0) for index in (2, 3)] == [other.hash, other.hash]
    assert stage.players[0].chain.hash_at(1) == other.hash  # re-proposed by p2, who locked it
    reports = [item for item in stage.evidence if item.kind == PROPOSAL]
    assert {(item.first, item.second) for item in reports} >= {(one.hash, other.hash)}
    assert all(item.verify(stage.params.genesis_hash) and item.key == stage.players[1].key.public for item in reports)
    assert stage.rules(0).count("R12") == 1


@scenario(11, "prevotes before the proposal")
def prevotes_first() -> None:
    """p0 hears a quorum of prevotes before the proposal, and its precommit is needed: it still locks in round 0."""
    stage = Stage(puppets=[3])
    with stage.lose(lambda sender, receiver, value: receiver == 0 and isinstance(value, Proposal)):
        stage.play(lambda: all(stage.voted(index, PREVOTE, 0) for index in (1, 2)), 1_000)
        chosen = stage.voted(1, PREVOTE, 0)
        assert chosen is not None
        stage.show(3, [0], stage.prevote(3, chosen))
        stage.play(lambda: stage.core(0).valid_round == 0, 1_000)
        assert stage.voted(0, PREVOTE, 0) is None and stage.core(0).locked_round == -1
    stage.grow(1, 1_000)
    assert stage.rounds[1] == 0 and stage.rules(0, 0) == ["R0", "R13", "R4a", "R2", "R4b", "R7"]


@scenario(26, "conflicting vote in a certificate")
def conflicting_vote_in_certificate() -> None:
    """p3 said nil to p0, but its prevote for A is in the PoLC: that stays valid, p0 locks A, the pair is evidence."""
    stage = Stage(puppets=[3])
    with stage.lose(lambda sender, receiver, value: receiver == 0 and (is_vote(value, PREVOTE, 0, 2) or is_polc(value, 0))):
        stage.show(3, [0], stage.prevote(3))
        stage.play(lambda: all(stage.voted(index, PREVOTE, 0) for index in (0, 1, 2)), 1_000)
        chosen = stage.voted(0, PREVOTE, 0)
        assert chosen is not None
        stage.play(lambda: stage.rules(0, 0)[-1] == "R6", 1_000)  # A, A and nil: it waits for more
        polc = stage.certificate(PREVOTE, chosen, 0, (1, 2, 3))
        stage.show(3, [0], polc)
        assert stage.core(0).stage == PREVOTE  # its signatures are checked first
        stage.play(lambda: stage.voted(0, PRECOMMIT, 0) is not None, 100)
    assert stage.voted(0, PRECOMMIT, 0) == chosen and stage.core(0).valid_polc == polc
    assert [(item.kind, item.first, item.second) for item in stage.evidence] == [(PREVOTE, NIL, chosen)]
    assert stage.evidence[0].verify(stage.params.genesis_hash)
    stage.grow(1, 1_000)
    assert stage.rounds[1] == 0


@scenario(52, "older PoLC")
def older_polc() -> None:
    """p2 is locked on B of round 1. A Byzantine leader re-proposes A with the PoLC of round 0: p2 votes nil."""
    stage = Stage(puppets=[3])
    with stage.lose(hides_lock), stage.lose(
        lambda sender, receiver, value: receiver != 2 and (is_vote(value, PREVOTE, 1, 3) or is_polc(value, 1))
    ):
        first = lock_p0_alone(stage)
        stage.vote_all(PREVOTE, 1, 1_000, 0, 1, 2)
        second = stage.proposed(2, 1).block_hash
        stage.show(3, [2], stage.prevote(3, second, 1))
        stage.reach(2, 2_000, 0, 1, 2)
        assert (stage.core(2).locked_round, stage.core(2).locked_hash) == (1, second)
        block = stage.players[0].engine.block(first)
        assert block is not None
        proposal = stage.proposal(3, block, 2, 0, stage.certificate(PREVOTE, first, 0, (0, 1, 2)))
        stage.show(3, [0, 1, 2], proposal, stage.prevote(3, first, 2))
        assert stage.vote_all(PREVOTE, 2, 1_000, 0, 1, 2) == [first, first, NIL]
    stage.grow(1, 6_000)
    assert len(stage.hashes()) == 1
