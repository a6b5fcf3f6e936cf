"""Devnets: rewinds and twins of one seed, in which old signatures must be worth nothing."""

from __future__ import annotations

from ledger import effects as fx
from ledger.messages import Bundle, FinalBlock, encode_bundle
from ledger.signer import Domains, rewound
from ledger.votes import PREVOTE

from ..player import Player
from ..stage import Stage
from . import scenario


def rewind(player: Player, height: int, entropy: bytes) -> Domains:
    """Cut the chain of a node that is down, and append the new signing domain."""
    chain = player.chain
    player.kill()
    chain.rewind(height)
    domains = rewound(player.domains, height, chain.head.hash, chain.head.next_authorities_hash, entropy)
    player.domains = domains
    if player.signer is not None:
        player.signer.rewind(domains)
    return domains


@scenario(20, "revert")
def revert() -> None:
    """100 blocks, back to 90: the old certified block 91 is refused, and the guard lets a new 91 be signed."""
    stage = Stage(1, followers=1)
    stage.grow(100, 100 * 260)
    authority, follower = stage.players
    old = follower.chain.block(91), follower.chain.certificate(91)
    for player in (authority, follower):
        rewind(player, 90, bytes(16))
    stage.decided = {height: found for height, found in stage.decided.items() if height <= 90}
    stage.puppets = frozenset([1])  # it may be blamed from now on
    authority.boot()
    authority.feed(fx.Frame("p1", encode_bundle(Bundle(final=FinalBlock(old[0].header, old[1])))))
    authority.feed(fx.Synced(*old))
    stage.pass_ms(20)
    assert stage.refusals == [(0, 91)] and [(by, of) for by, of, _ in stage.blamed] == [(0, "p1")]
    stage.grow(92, 1_000, 0)
    assert authority.chain.hash_at(91) != old[0].hash
    certificate = authority.chain.certificate(91)
    keys = authority.chain.authority_keys(91)
    assert certificate.verify(keys, authority.domain(91)) and not certificate.verify(keys, stage.params.genesis_hash)
    follower.boot()
    stage.grow(93, 1_000)
    assert len(stage.hashes(93)) == 1


@scenario(48, "revert of four")
def revert_of_four() -> None:
    """Four nodes rewind together: one domain entry for all, a node without it is refused, and the chain goes on."""
    stage = Stage()
    stage.grow(5, 2_000)
    old = stage.players[1].chain.hash_at(4)
    for player in stage.players:
        rewind(player, 3, b"r" * 16)
    assert len({player.domains for player in stage.players}) == 1
    stage.decided = {height: found for height, found in stage.decided.items() if height <= 3}
    stage.puppets = frozenset([3])  # p3 forgets the new entry: its messages are worth nothing
    stage.players[3].domains = stage.players[3].domains[:1]
    for player in stage.players[:3]:
        player.boot()
    stage.show(3, [0, 1, 2], stage.prevote(3, old, 0, 4))
    stage.pass_ms(20)
    assert {by for by, _, _ in stage.blamed} == {0, 1, 2}
    assert all(3 not in stage.core(index).tally(PREVOTE).votes for index in range(3))
    stage.grow(6, 4_000, 0, 1, 2)
    assert len(stage.hashes(6)) == 1 and old not in stage.hashes(4)


@scenario(21, "two devnets of one seed")
def two_devnets_of_one_seed() -> None:
    """The same keys, another instance: a vote of one devnet is a bad signature in the other, never evidence."""
    one, other = Stage(salt="one", puppets=[3]), Stage(salt="other", puppets=[3])
    assert [player.key for player in one.players] == [player.key for player in other.players]
    assert one.params.genesis_hash != other.params.genesis_hash
    other.show(3, [0], other.prevote(3, b"x" * 32))
    other.show(3, [0], one.prevote(3, b"y" * 32))
    other.pass_ms(10)
    assert not other.evidence and [(by, of) for by, of, _ in other.blamed] == [(0, "p3")]
    assert other.core(0).tally(PREVOTE).votes[3].block_hash == b"x" * 32
    other.grow(2, 3_000)


@scenario(49, "hostile frames")
def hostile_frames() -> None:
    """Junk, other kinds, other places: each costs its sender, changes nothing, and the chain goes on."""
    stage = Stage(puppets=[3])
    good = encode_bundle(Bundle(votes=(stage.prevote(3),)))
    hostile = [b"", b"\x00", good[:-1], good + b"\x00", good.replace(b"\x01\x01", b"\x07\x01", 1), bytes(100_000)]
    before = stage.core(0).record()
    for frame in hostile:
        stage.players[0].feed(fx.Frame("p3", frame))
        stage.players[0].feed(fx.Gossip("p3", frame, 1))
    assert stage.core(0).record() == before
    assert len(stage.blamed) >= 2 * len(hostile) - 1 and {of for _, of, _ in stage.blamed} == {"p3"}
    stage.grow(2, 3_000)


