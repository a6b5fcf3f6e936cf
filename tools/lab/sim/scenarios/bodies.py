"""Bodies: what names a block does not bring it, and a block that nobody can get may bind nobody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ledger import effects as fx
from ledger.blocks import Block
from ledger.errors import DiskFailure
from ledger.messages import Bundle, FinalBlock, encode_bundle
from ledger.votes import NIL, PRECOMMIT, PREVOTE, Certificate

from ..stage import Stage
from . import scenario
from .locks import is_vote


@scenario(14, "withheld body")
def withheld_body() -> None:
    """p1 shows B to p0 and p2 only, hides its vote, and later shows the PoLC to p3: no lock on air, and B stays available.

    p0 and p2 crash in between. Their prevotes made the body durable, so p3 gets it; until then it adopts nothing.
    """
    stage = Stage(puppets=[1])
    stage.pass_ms(255)
    hidden = stage.block(0, after_ms=255, holder=1)
    stage.show(1, [0, 2], stage.proposal(1, hidden))
    assert stage.vote_all(PREVOTE, 0, 300, 0, 2) == [hidden.hash, hidden.hash]
    stage.shelf.clear()  # from now on p1 serves nothing
    stage.starved = frozenset([3])
    stage.reach(1, 1_500, 0, 2, 3)
    stage.players[0].restart()
    stage.players[2].restart()
    stage.show(1, [3], stage.certificate(PREVOTE, hidden.hash, 0, (0, 1, 2)))
    stage.pass_ms(20)
    core = stage.core(3)
    assert core.held_polc is not None and core.valid_round == -1 and core.locked_round == -1
    assert all(stage.players[index].engine.block(hidden.hash) == hidden for index in (0, 2))
    stage.starved = frozenset()
    stage.play(lambda: core.valid_hash == hidden.hash or core.height == 2, 1_500)
    stage.grow(2, 4_000)


@scenario(15, "precommits for a missing body")
def precommits_for_missing_body() -> None:
    """p0 has a quorum of precommits for a block it lacks: no timer, it stays, fetches and decides in that round."""
    stage = Stage()
    stage.starved = frozenset([0])
    with stage.lose(lambda sender, receiver, value: receiver == 0 and not is_vote(value, PRECOMMIT, 0)):
        stage.grow(1, 1_000, 1, 2, 3)
        stage.pass_ms(600)
        core = stage.core(0)
        assert core.tally(PRECOMMIT).winner() == stage.players[1].chain.hash_at(1)
        assert (core.height, core.round, "R8" in core.done) == (1, 0, True)
        fetched_before = stage.rules(0).count("R13")
        stage.pass_ms(450)
        assert stage.rules(0).count("R13") >= fetched_before + 2  # again at each rebroadcast
        stage.starved = frozenset()
        stage.grow(1, 300, 0)
    assert stage.rules(0).count("R0") == 1  # it never left round 0


@scenario(32, "full blocks slower than the timeout")
def full_blocks() -> None:
    """Pulling and executing a full block takes far longer than T_propose: R1 shrinks the blocks until they fit."""
    stage = Stage()
    full_bytes, full_ms = stage.params.max_block_bytes, 20_000

    def pull_ms(block: Block) -> int:
        allowed = stage.allowances.get((block.height, block.header.proposal_round), 0)
        return full_ms * allowed // full_bytes

    stage.pull_ms = pull_ms
    stage.grow(1, 20_000)
    assert stage.rounds[1] >= 2  # the first ones were too large
    sizes = [stage.allowances[1, round_] for round_ in range(stage.rounds[1] + 1) if (1, round_) in stage.allowances]
    assert sizes == [full_bytes >> round_ for round_ in range(len(sizes))] or sizes[-1] == 0


@scenario(37, "failing disk is no verdict")
def failing_disk() -> None:
    """While p0 checks a block its disk fails: it ends without a vote, neither for the block nor for nil."""
    stage = Stage()

    def fails(block: Block) -> None:
        raise DiskFailure("read error")

    stage.players[0].chain.check = fails  # type: ignore[assignment, method-assign]
    failure = None
    try:
        stage.grow(1, 1_000, 1, 2, 3)
        stage.pass_ms(600)
    except DiskFailure as error:
        failure = error
        stage.players[0].kill()
    assert failure is not None and stage.said.get(0) is None
    stage.grow(2, 2_000, 1, 2, 3)
    stage.players[0].boot()
    stage.grow(3, 2_000)


def _bad_blocks(stage: Stage) -> dict[str, Block]:
    """Blocks for the leader of height 2, each with one thing wrong."""
    good = stage.block(0, after_ms=stage.now_ms)
    certificate = Certificate.decode(good.body.parent_cert)
    forged = replace(certificate, signatures=bytes(64) + certificate.signatures[64:])
    forged_body = replace(good.body, parent_cert=forged.encode())
    fields: dict[str, dict[str, Any]] = {
        "state root": {"state_root": bytes(31) + b"x"}, "events root": {"events_root": bytes(31) + b"x"},
        "next set": {"next_authorities_hash": bytes(31) + b"x"}, "author": {"proposer_index": 3},
        "time": {"timestamp_ms": stage.players[0].chain.head.timestamp_ms}, "parent": {"parent_hash": bytes(31) + b"x"},
        "rules": {"runtime_version": 9},
    }
    blocks = {name: Block(replace(good.header, **changed), good.body) for name, changed in fields.items()}
    blocks["parent certificate"] = Block(replace(good.header, parent_cert_hash=forged_body.cert_hash), forged_body)
    return blocks


@scenario(39, "bad blocks")
def bad_blocks() -> None:
    """The leader proposes a block with one thing wrong: nil from everybody, the next leader decides. For each thing."""
    names: list[str] | None = None
    while names is None or names:
        stage = Stage(puppets=[2])
        stage.grow(1, 1_000)
        stage.pass_ms(255)
        blocks = _bad_blocks(stage)
        names = list(blocks) if names is None else names
        name = names.pop()
        bad = blocks[name]
        stage.shelf[2, bad.hash] = bad
        stage.show(2, [0, 1, 3], stage.proposal(2, bad), stage.prevote(2, bad.hash, 0, 2))
        assert stage.vote_all(PREVOTE, 0, 300, 0, 1, 3, height=2) == [NIL, NIL, NIL], name
        stage.grow(2, 1_500)
        assert bad.hash not in stage.hashes(2)


@scenario(50, "certified bad block")
def certified_bad_block() -> None:
    """More than a third lie: a quorum certifies a block that breaks the rules. An honest node stops with 22."""
    stage = Stage(puppets=[1, 2, 3])
    good = stage.block(0)
    bad = Block(replace(good.header, state_root=bytes(31) + b"x"), good.body)
    stage.shelf[1, bad.hash] = bad
    stage.expects_stop = True
    final = FinalBlock(bad.header, stage.certificate(PRECOMMIT, bad.hash, 0, (1, 2, 3)))
    stage.players[0].feed(fx.Frame("p1", encode_bundle(Bundle(final=final))))
    stage.pass_ms(50)
    assert [(index, stop.code) for index, stop in stage.stops] == [(0, 22)] and not stage.decided
    assert "certificate" in stage.stops[0][1].incident


@scenario(51, "prevotes for a missing body")
def prevotes_for_missing_body() -> None:
    """p0 cannot get the block that a quorum prevoted: its round ends by timer, and its nil lets the others go on."""
    stage = Stage(puppets=[3])
    stage.starved = frozenset([0])
    (chosen, _) = stage.vote_all(PREVOTE, 0, 1_000, 1, 2)
    assert chosen is not None
    stage.show(3, [0, 1, 2], stage.prevote(3, chosen))
    assert stage.vote_all(PRECOMMIT, 0, 1_500, 0, 1, 2) == [NIL, chosen, chosen]
    assert "R6" in stage.rules(0, 0)
    stage.reach(1, 1_500, 0, 1, 2)
    stage.starved = frozenset()
    stage.grow(1, 2_000)
    assert stage.hashes() == {chosen}
