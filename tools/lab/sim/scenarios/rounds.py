"""Rounds: how they end, who goes on, and how those who are behind come after."""

from __future__ import annotations

from ledger.votes import NIL, PRECOMMIT, PREVOTE, Proposal

from ..stage import Stage
from . import scenario
from .locks import is_vote


@scenario(5, "all-nil round")
def all_nil_round() -> None:
    """The leader says nothing: nil prevotes, nil precommits, and the next leader decides within the timeouts."""
    stage = Stage(puppets=[1])
    stage.grow(1, 900)
    assert stage.rounds[1] == 1
    for index in (0, 2, 3):
        assert [stage.voted(index, kind, 0) for kind in (PREVOTE, PRECOMMIT)] == [NIL, NIL]
        assert stage.rules(index, 0) == ["R0", "R3", "R5", "R8", "R8"]
    assert stage.rules(2, 1)[:3] == ["R0", "R1", "R13"]


@scenario(6, "round skip")
def round_skip() -> None:
    """Seven authorities: two that claim late rounds move nobody, a third moves p0 to the round where all three are."""
    stage = Stage(7, puppets=range(1, 7))
    core = stage.core(0)
    stage.show(5, [0], stage.prevote(5, NIL, 9))
    stage.show(6, [0], stage.precommit(6, NIL, 1 << 30))
    stage.pass_ms(50)
    assert core.round == 0
    stage.show(4, [0], stage.prevote(4, NIL, 4))
    stage.pass_ms(50)
    assert core.round == 4 and sorted(message.index for message in core.why) == [4, 5, 6]
    stage.show(3, [0], stage.precommit(3, NIL, 6))
    stage.pass_ms(50)
    assert core.round == 6 and stage.rules(0, 4) == ["R0", "R9"]


@scenario(12, "lost precommits")
def lost_precommits() -> None:
    """p0 alone has the precommits of round 0 and goes on, p3 is dead: p0's `why` brings p1 and p2 after it."""
    stage = Stage(puppets=[3])
    with stage.lose(lambda sender, receiver, value: isinstance(value, Proposal) and value.round == 0):
        with stage.lose(lambda sender, receiver, value: is_vote(value, PRECOMMIT, 0, 0)):
            stage.show(3, [0, 1, 2], stage.prevote(3))  # p1 prevotes its own block
            stage.reach(1, 1_500, 0)
            assert [stage.core(index).round for index in range(3)] == [1, 0, 0]
            assert {vote.index for vote in stage.core(0).why} == {0, 1, 2}
        stage.reach(1, 700, 1, 2)
    stage.grow(1, 3_000)


@scenario(13, "selective Byzantine")
def selective_byzantine() -> None:
    """p3 shows each vote to one node only, while the network loses others: nobody is left behind for ever."""
    stage = Stage(puppets=[3])
    for round_ in range(3):
        chosen = round_ % 3
        others = [index for index in range(3) if index != chosen]
        with stage.lose(
            lambda sender, receiver, value, round_=round_: (  # type: ignore[misc]
                (isinstance(value, Proposal) and value.round == round_)
                or is_vote(value, PRECOMMIT, round_, round_ % 3) and receiver != round_ % 3
                or is_vote(value, PRECOMMIT, round_, (round_ + 1) % 3) and receiver == round_ % 3
            )
        ):
            stage.show(3, [0, 1, 2], stage.prevote(3, NIL, round_))
            stage.vote_all(PRECOMMIT, round_, 3_000, 0, 1, 2)
            stage.show(3, [chosen], stage.precommit(3, NIL, round_))
            stage.reach(round_ + 1, 3_000, chosen)
            assert all(stage.core(index).round == round_ for index in others)
        stage.reach(round_ + 1, 1_500, *others)
    stage.grow(1, 4_000)


@scenario(53, "relayed by rebroadcast")
def relayed_by_rebroadcast() -> None:
    """The leader is dead, p0 and p3 cannot hear each other, p2 hears both: its rebroadcast lets both end the nil round."""
    stage = Stage(puppets=[1])
    with stage.lose(lambda sender, receiver, value: {sender, receiver} == {0, 3}):
        stage.grow(2, 4_000)
    assert [stage.voted(index, PRECOMMIT, 0) for index in (0, 2, 3)] == [NIL, NIL, NIL] and stage.rounds[1] == 1


@scenario(25, "dead active list")
def dead_active_list() -> None:
    """All that may lead first are dead: past the active list the full list leads, and every height goes on."""
    stage = Stage(sets={1: ((0, 1, 2, 3), (3,))}, puppets=[3])
    assert stage.grow(4, 4 * 1_800) < 4 * 1_800
    assert all(stage.rounds[height] >= 1 for height in (1, 2, 4))
    assert stage.rounds[2] == 2  # round 0: p3 of the active list; round 1: p3 of the full one


@scenario(33, "authorities in a line")
def authorities_in_a_line() -> None:
    """Each hears only its neighbours: votes cross the line by rebroadcast, and blocks become final."""
    stage = Stage(line=True)
    assert stage.grow(4, 8_000) < 8_000
    assert max(stage.rounds.values()) <= 3
