"""Certificates and signatures: what is not valid is not believed, and what is normal alarms nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ledger import effects as fx
from ledger.blocks import Block
from ledger.codec import encode
from ledger.crypto import KeyPair
from ledger.errors import DecodeError
from ledger.messages import Bundle, FinalBlock, encode_bundle, encode_final
from ledger.votes import (
    KIND_TAG,
    MAX_ROUND,
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    Certificate,
    Proposal,
    Vote,
    quorum,
    vote_body,
)

from ..stage import Stage
from . import scenario
from .locks import hides_lock, lock_p0_alone

DOMAIN = b"d" * 32


@scenario(23, "relay changes the valid round")
def relay_changes_valid_round() -> None:
    """A relay turns p0's re-proposal into a fresh proposal: the signature covers the valid round, so it is refused."""
    stage = Stage(puppets=[3])
    with stage.lose(hides_lock):
        first = lock_p0_alone(stage)
        stage.reach(3, 4_000, 0)
    with stage.lose(lambda sender, receiver, value: isinstance(value, Proposal) and value.round == 3):
        stage.play(lambda: stage.has_proposed(0, 3), 500)
        genuine = stage.proposed(0, 3)
        stage.reach(3, 2_000, 1, 2)
        stage.show(3, [1, 2], replace(genuine, valid_round=NO_ROUND, polc=None))
        stage.pass_ms(10)
        assert [(by, of) for by, of, _ in stage.blamed] == [(1, "p3"), (2, "p3")]
        assert all(3 not in stage.core(index).proposals for index in (1, 2))
        stage.show(3, [1, 2], genuine)
    assert stage.vote_all(PREVOTE, 3, 300, 1, 2) == [first, first]
    stage.grow(1, 1_000)


@scenario(45, "stripped or foreign PoLC")
def stripped_polc() -> None:
    """A Byzantine leader re-proposes B with a PoLC of too few, of another block, or of another round: nobody votes for B."""
    for fault in ("too few", "other block", "other round"):
        stage = Stage(puppets=[2])
        with stage.lose(lambda sender, receiver, value: isinstance(value, Proposal) and value.round == 0):
            stage.reach(1, 2_000, 0, 1, 3)
        block = stage.block(0, after_ms=300, holder=2)
        named = NIL[:31] + b"x" if fault == "other block" else block.hash
        signers = (2,) if fault == "too few" else (0, 1, 2)
        votes = {index: stage.prevote(index if fault != "too few" else 2, named, 0) for index in signers}
        polc = Certificate.build(votes, 4)
        if fault == "too few":
            polc = replace(polc, bitmap=b"\x07", signatures=polc.signatures * 3)
        if fault == "other round":
            polc = replace(polc, round=1)
        proposal = stage.proposal(2, block, 1, 0, polc)
        stage.show(2, [0, 1, 3], proposal, stage.prevote(2, block.hash, 1))
        assert stage.vote_all(PREVOTE, 1, 1_000, 0, 1, 3) == [NIL, NIL, NIL], fault
        stage.grow(1, 3_000)
        assert block.hash not in stage.hashes()


@scenario(24, "two certificates")
def two_certificates() -> None:
    """Of one block at rounds 0 and 1: normal. Of two blocks: the node stops with 21 and keeps both."""
    stage = Stage(followers=1, puppets=[0, 1, 2, 3])
    follower = stage.players[4]
    one, other = (stage.block(0, after_ms=after_ms, holder=1) for after_ms in (250, 251))

    def final(block: Block, round_: int) -> fx.Frame:
        certificate = stage.certificate(PRECOMMIT, block.hash, round_, (0, 1, 2))
        return fx.Frame("p1", encode_bundle(Bundle(final=FinalBlock(block.header, certificate))))

    follower.feed(final(one, 0))
    follower.feed(final(one, 1))
    stage.grow(1, 500, 4)
    stage.pass_ms(300)
    assert not stage.stops and follower.chain.hash_at(1) == one.hash
    stage.expects_stop = True
    follower.feed(final(one, 2))
    follower.feed(final(other, 1))
    stage.pass_ms(10)
    ((_, stop),) = stage.stops
    assert stop.code == 21 and set(stop.incident) == {"first", "second"}
    follower.kill()

    stage.stops.clear()  # the same while the height is still open
    stage = Stage(followers=1, puppets=[0, 1, 2, 3])
    stage.expects_stop = True
    stage.players[4].feed(final(one, 0))
    stage.pass_ms(5)
    stage.players[4].feed(final(other, 1))
    stage.pass_ms(5)
    assert [again.code for _, again in stage.stops] == [21] and not stage.decided
    second = Certificate.decode(bytes.fromhex(stop.incident["second"]))
    assert second.block_hash == other.hash and second.verify(follower.chain.authority_keys(1), stage.params.genesis_hash)


def _malformed(good: Certificate, votes: dict[int, Vote], one_bad: Vote) -> Iterator[tuple[str, Certificate]]:
    """Certificates of a set of seven that must not verify. `good` has six signers; `one_bad` is signed by another key."""
    signatures = good.signatures
    yield "bitmap too long", replace(good, bitmap=good.bitmap + b"\x00")
    yield "bitmap too short", replace(good, bitmap=b"")
    yield "unused bit", replace(good, bitmap=bytes([good.bitmap[0] | 0x80]), signatures=signatures + signatures[:64])
    yield "below the quorum", Certificate.build({index: votes[index] for index in range(quorum(7) - 1)}, 7)
    yield "a signature too many", replace(good, signatures=signatures + signatures[:64])
    yield "a signature too few", replace(good, signatures=signatures[:-64])
    yield "out of order", replace(good, signatures=signatures[64:128] + signatures[:64] + signatures[128:])
    yield "one signer six times", replace(good, signatures=signatures[:64] * 6)
    yield "bad signature beyond the quorum", Certificate.build({**votes, 5: one_bad}, 7)
    yield "round above the limit", replace(good, round=MAX_ROUND + 1)
    yield "another round", replace(good, round=good.round + 1)
    yield "another height", replace(good, height=good.height + 1)
    yield "another kind", replace(good, kind=PREVOTE)
    yield "for nil", replace(good, block_hash=NIL)


@scenario(38, "malformed certificates", real=True)
def malformed_certificates() -> None:
    """Bitmap, unused bits, count, order, one bad signature beyond the quorum, wrong set, height or domain, huge round."""
    keys = [KeyPair.from_seed(bytes([index]) * 32) for index in range(8)]
    public = [key.public for key in keys[:7]]

    def vote(index: int, signer: int, block_hash: bytes = b"b" * 32, round_: int = 1, domain: bytes = DOMAIN) -> Vote:
        signature = keys[signer].sign(KIND_TAG[PRECOMMIT], domain, vote_body(9, round_, block_hash))
        return Vote(PRECOMMIT, 9, round_, block_hash, index, signature)

    votes = {index: vote(index, index) for index in range(6)}
    good = Certificate.build(votes, 7)
    assert good.verify(public, DOMAIN) and Certificate.decode(good.encode()) == good
    for name, bad in _malformed(good, votes, vote(5, 7)):
        assert not bad.verify(public, DOMAIN), name
    nil = Certificate.build({index: vote(index, index, NIL) for index in range(6)}, 7)
    high = Certificate.build({index: vote(index, index, round_=MAX_ROUND + 1) for index in range(6)}, 7)
    four = Certificate.build({index: votes[index] for index in range(4)}, 7)
    foreign = Certificate.build({index: vote(index, index, domain=b"e" * 32) for index in range(6)}, 7)
    for name, bad in {"nil": nil, "high round": high, "four of seven": four, "domain": foreign}.items():
        assert not bad.verify(public, DOMAIN), name
    assert not good.verify([*public[:5], keys[7].public, public[6]], DOMAIN), "another set"
    assert not good.verify(public[:6], DOMAIN) or quorum(6) <= 6
    assert not good.verify([*public, keys[7].public, *public[:2]], DOMAIN), "a larger set"
    try:
        Certificate.decode(encode([PRECOMMIT, 9, MAX_ROUND + 1, b"b" * 32, good.bitmap, good.signatures]))
        raise AssertionError("a round above the limit was decoded")
    except DecodeError as error:
        assert error.where == "certificate.round"


@scenario(46, "duplicate and relayed votes")
def duplicate_votes() -> None:
    """One vote shown many times, by many peers, counts once: two voters of four are no quorum."""
    stage = Stage(puppets=[1, 2, 3])
    stage.pass_ms(255)
    block = stage.block(0, after_ms=255, holder=1)
    stage.show(1, [0], stage.proposal(1, block))
    stage.vote_all(PREVOTE, 0, 300, 0)
    for peer in (1, 2, 3, 1, 2, 3):
        stage.show(peer, [0], stage.prevote(1, block.hash))
        stage.pass_ms(2)
    core = stage.core(0)
    assert core.valid_round == -1 and stage.voted(0, PRECOMMIT, 0) is None and len(core.tally(PREVOTE)) == 2
    stage.show(1, [0], stage.prevote(2, block.hash))
    assert stage.vote_all(PRECOMMIT, 0, 100, 0) == [block.hash]
    for peer in (1, 2, 3, 1, 2, 3):
        stage.show(peer, [0], stage.precommit(1, block.hash))
        stage.pass_ms(2)
    assert not stage.decided
    stage.show(1, [0], stage.precommit(3, block.hash))
    stage.grow(1, 100)

    # a vote heard before its round begins is placed again when it does
    stage = Stage(puppets=[1, 2, 3])
    block = stage.block(1, after_ms=255, holder=2)
    stage.show(1, [0], stage.prevote(1, block.hash, 1))
    stage.show(1, [0], *(stage.vote(index, kind, NIL) for kind in (PREVOTE, PRECOMMIT) for index in (1, 2, 3)))
    stage.pass_ms(5)
    assert stage.core(0).round == 0
    stage.reach(1, 1_000, 0)
    stage.show(2, [0], stage.proposal(2, block, 1))
    assert stage.vote_all(PREVOTE, 1, 300, 0) == [block.hash]
    assert stage.core(0).valid_round == -1 and stage.voted(0, PRECOMMIT, 1) is None


@scenario(47, "votes of another height")
def votes_of_another_height() -> None:
    """Precommits for the same block hash at another height, relayed as of this one, prove nothing."""
    stage = Stage(puppets=[1, 2, 3])
    stage.pass_ms(255)
    block = stage.block(0, after_ms=255, holder=1)
    moved = [replace(stage.precommit(index, block.hash, 0, 2), height=1) for index in (1, 2, 3)]
    stage.show(1, [0], stage.proposal(1, block))
    stage.show(1, [0], *moved)
    certificate = Certificate.build({vote.index: vote for vote in moved}, 4)
    stage.players[0].feed(fx.Frame("p1", encode_bundle(Bundle(final=FinalBlock(block.header, certificate)))))
    stage.pass_ms(100)
    assert not stage.decided and stage.core(0).commit is None and stage.blamed
    stage.show(1, [0], *(stage.precommit(index, block.hash) for index in (1, 2, 3)))
    stage.grow(1, 100)
    ticket = fx.Gossip("p1", encode_final(block.header, replace(certificate, round=1)), 7)
    assert fx.Verdict(7, False) in _answers(stage, ticket)


def _answers(stage: Stage, event: fx.Event) -> list[fx.Effect]:
    """What p0's engine answers in the end."""
    player = stage.players[0]
    made = player.engine.handle(event, player.now())
    for effect in list(made):
        if isinstance(effect, fx.Verify):
            made += player.engine.handle(effect.run(), player.now())
    return made
