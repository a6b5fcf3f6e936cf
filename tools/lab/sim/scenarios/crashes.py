"""Crashes: what is signed survives, what is not durable was never said."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from ledger import effects as fx
from ledger.blocks import Block
from ledger.crypto import digest
from ledger.errors import DoubleSignRisk, NotFound
from ledger.signer import Signer, SignRecord
from ledger.votes import NIL, PRECOMMIT, PREVOTE, Vote
from ledger.watch import STALLED_MS, WATCH_MS

from ..disk import FaultStore
from ..player import Player
from ..stage import Stage
from . import scenario
from .locks import hides_lock, lock_p0_alone


def crash_once_before(stage: Stage, index: int, number: int) -> list[int]:
    """Let a player crash before its effect of that number (from 0). Returns a list that counts its effects."""
    seen = [0]

    def crash(player: Player, effect: object) -> bool:
        if player.index != index:
            return False
        seen[0] += 1
        return seen[0] == number + 1

    stage.crash_before = crash
    return seen


@scenario(7, "re-proposal after a restart")
def re_proposal_after_restart() -> None:
    """p0 locked A alone, crashes, and leads round 3 after the restart: it proposes A from its sign database."""
    stage = Stage(puppets=[3])
    with stage.lose(hides_lock):
        first = lock_p0_alone(stage)
        stage.reach(2, 3_000, 0, 1, 2)
        stage.pass_ms(5)
        before = stage.core(0).record()
        stage.players[0].restart()
        core = stage.core(0)
        assert core.record() == before and (core.locked_hash, core.round) == (first, 2)
        stage.reach(3, 3_000, 0)
        assert (core.locked_round, core.locked_hash) == (0, first)  # round 2 ended in nil; the lock stays
        stage.play(lambda: stage.has_proposed(0, 3), 500)
    again = stage.proposed(0, 3)
    assert (again.block_hash, again.valid_round) == (first, 0)
    stage.grow(1, 2_000)
    assert stage.hashes() == {first}


@scenario(28, "crash at every boundary")
def crash_at_every_boundary() -> None:
    """p0 crashes once before each of its effects of two heights: nothing is signed twice, nothing stands still.

    n = 2, so that each of its votes is needed. Among the boundaries: Persist and Send, Send and commit, commit and Start.
    """
    number, total = 0, 1
    while number < total:
        stage = Stage(2)
        effects = crash_once_before(stage, 0, number)
        stage.grow(3, 8_000)
        assert stage.crashes == 1 and len(stage.hashes(3)) == 1
        if number == 0:
            total = 2 * effects[0] // 3  # the first two heights
        number += 1
    assert total > 15


@scenario(29, "proposer crash")
def proposer_crash() -> None:
    """A proposer that crashes before Persist may propose another block; after Persist it proposes the identical one."""
    for durable in (False, True):
        stage = Stage()
        built: list[bytes] = []
        stage.crash_before = _crash_of_proposer(durable, built)
        stage.grow(1, 2_000)
        assert stage.crashes == 1 and len(built) == 1 and stage.rounds[1] == 0
        assert (stage.proposed(1, 0).block_hash == built[0]) == durable
        assert stage.hashes() == {stage.proposed(1, 0).block_hash}


def _crash_of_proposer(durable: bool, built: list[bytes]) -> Callable[[Player, object], bool]:
    """p1 crashes once, before the Persist of its proposal or right after it; `built` gets what it would have proposed."""

    def crash(player: Player, effect: object) -> bool:
        if player.index != 1 or player.stage.crashes:
            return False
        if isinstance(effect, fx.Persist) and effect.record.own[0] is not None and not built:
            built.append(effect.record.own[0].block_hash)
            return not durable
        assert player.signer is not None
        return bool(built) and player.signer.load(1)[0] is not None

    return crash


def _signed_at(stage: Stage, index: int, height: int) -> None:
    """Make the sign database claim a precommit of that height."""
    player = stage.players[index]
    signer = Signer.open(player.sign_store, stage.params.genesis_hash, player.key.public)
    signer.persist(SignRecord(height, 1, 2, (1, 2, digest("body", b"signed once"))), ())


@scenario(22, "chain older than the signatures")
def chain_older_than_signatures() -> None:
    """The chain database was rolled back: alone a node stops and names the ways out; with others it follows, then signs."""
    stage = Stage(1, absent=[0])
    _signed_at(stage, 0, 5)
    stage.expects_stop = True
    stage.players[0].boot()
    stage.pass_ms(1_000)
    ((_, stop),) = stage.stops
    assert stop.code == 20 and "restore" in stop.reason and "rewind" in stop.reason and not stage.said

    stage = Stage(4, absent=[0])
    _signed_at(stage, 0, 5)
    stage.grow(3, 4_000)
    stage.players[0].boot()
    stage.grow(4, 2_000)
    assert stage.core(0).me is None or stage.core(0).height == 5
    stage.grow(6, 2_000)
    assert min(value.height for value in stage.said[0]) >= 5
    assert all((value.height, value.round) > (5, 1) or isinstance(value, Vote) for value in stage.said[0])


@scenario(30, "sign database missing")
def sign_database_missing() -> None:
    """A key without its sign database signs nothing: it refuses to start, and a new database listens before it signs.

    n = 4: after 30 s and two heights it signs above what it saw. n = 2: nothing moves without it; the wait ends after 120 s,
    and only the operator's word lets it sign again. Another copy of the key stops it.
    """
    stage = Stage(4)
    player, signed = _lose_sign_database(stage)
    stage.pass_ms(WATCH_MS - 1_000)
    assert max(value.height for value in stage.said[0]) == signed
    stage.play(lambda: stage.core(0).me == 0, 3_000)
    from_height = stage.core(0).height
    stage.grow(from_height + 1, 3_000)
    heights = [value.height for value in stage.said[0] if value.height > signed]
    assert min(heights) == from_height > signed + 2

    stage = Stage(2)
    player, signed = _lose_sign_database(stage)
    head = player.chain.head.height
    stage.pass_ms(STALLED_MS + 2_000)
    assert (player.chain.head.height, max(value.height for value in stage.said[0])) == (head, signed)
    for sign_from, me in ((head + 2, None), (head + 1, 0)):
        player.kill()
        player.options = {"watch_first": True, "sign_from": sign_from}
        player.boot()
        assert stage.core(0).me == me
    stage.grow(head + 2, 3_000)

    stage = Stage(4, absent=[0])
    stage.players[0].options = {"watch_first": True}
    stage.expects_stop = True
    stage.players[0].boot()
    stage.show(1, [0], stage.prevote(0, NIL, 0))
    stage.pass_ms(10)
    assert [(index, stop.code) for index, stop in stage.stops] == [(0, 20)]


def _lose_sign_database(stage: Stage) -> tuple[Player, int]:
    """p0 at height 2 loses its sign database and is told to make a new one. Returns it and the last height it signed."""
    stage.grow(2, 2_000)
    player = stage.players[0]
    player.kill()
    player.sign_store = FaultStore(Random(0))
    try:
        player.boot()
        raise AssertionError("it started without a sign database")
    except NotFound as error:
        assert "--new-sign-db" in error.hint
    Signer.create(player.sign_store, stage.params.genesis_hash, player.key.public)
    player.options = {"watch_first": True}
    player.boot()
    assert stage.core(0).me is None
    return player, max(value.height for value in stage.said[0])


@scenario(40, "another copy of the key")
def another_copy_of_the_key() -> None:
    """A vote under p0's own key that p0 never cast: it stops with 20 before it signs anything else."""
    stage = Stage()
    stage.grow(1, 1_000)
    stage.expects_stop = True
    said = len(stage.said[0])
    stage.players[0].feed(fx.Timer("rebroadcast", 2, 0))  # still well
    stage.show(1, [0], stage.precommit(0, b"x" * 32, 3, 2))
    stage.pass_ms(5)
    assert [(index, stop.code) for index, stop in stage.stops] == [(0, 20)]
    stage.pass_ms(600)
    assert all(value.height == 1 for value in stage.said[0][said:])
    stage.grow(3, 3_000, 1, 2, 3)


@scenario(41, "stale sign database")
def stale_sign_database() -> None:
    """A sign database restored from a copy would sign again at a place already signed: the guard refuses."""
    stage = Stage()
    stage.grow(2, 2_000)
    player = stage.players[0]
    assert player.signer is not None
    newest, _ = player.signer.load(3)
    assert newest is not None and newest.signed is not None
    for other in (
        SignRecord(newest.height - 1, 7, 2, (7, 2, NIL)),
        replace(newest, signed=(*newest.signed[:2], digest("body", b"another"))),
        replace(newest, signed=None),
        replace(newest, own=(None, None, None)),
    ):
        _refused(player.signer, other)
    player.signer.persist(newest, ())  # identical: nothing new is said


def _refused(signer: Signer, record: SignRecord) -> None:
    try:
        signer.persist(record, ())
    except DoubleSignRisk:
        return
    raise AssertionError(f"the guard let {record.guard} pass")


@scenario(42, "vote durable with its body")
def vote_durable_with_body() -> None:
    """All who prevoted A crash at once: each comes back with the body of A, so the chain can still decide it."""
    stage = Stage()
    kept: list[Block] = []
    with stage.lose(lambda sender, receiver, value: isinstance(value, Vote) and value.kind == PRECOMMIT):
        (chosen, *_) = stage.vote_all(PRECOMMIT, 0, 1_000, 0, 1, 2, 3)
        for player in stage.players:
            player.kill()
        for player in stage.players:
            player.boot()
            block = player.engine.block(chosen)  # type: ignore[arg-type]
            assert block is not None, f"p{player.index} is bound by a block that it lost"
            kept.append(block)
        stage.pass_ms(500)  # in step precommit nothing but a quorum of precommits arms a timer
        assert [stage.core(index).round for index in range(4)] == [0] * 4
    assert {block.hash for block in kept} == {chosen} and stage.voted(0, PREVOTE, 0) == chosen
    stage.grow(1, 2_000)
    assert stage.hashes() == {chosen} and stage.rounds[1] == 0
