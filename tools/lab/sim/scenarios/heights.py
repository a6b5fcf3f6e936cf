"""From one height to the next: early messages, changes of the set, laggards, and chains that wait for work."""

from __future__ import annotations

from ledger import effects as fx
from ledger.blocks import NO_CERTIFICATE
from ledger.client.light import LightClient
from ledger.client.records import Finality
from ledger.errors import Rejected
from ledger.votes import Certificate, Proposal, Status, quorum

from ..player import Player
from ..stage import Stage
from . import scenario

SMALL, OTHER, LARGE = (0, 1, 2, 3), (0, 1, 2, 4), tuple(range(7))


@scenario(16, "messages of the next height")
def messages_of_next_height() -> None:
    """p0 commits last and is needed: what came for the next height meanwhile counts at once, so the pace holds."""
    stage = Stage(puppets=[3], block_time_ms=20)
    stage.slow_disks_ms[0] = 40
    heights = 12
    slow_ms = stage.grow(heights, heights * 1_000, 0, 1, 2)
    led_by_dead = sum(height % 4 == 3 for height in range(1, heights + 1))
    assert slow_ms <= led_by_dead * 700 + (heights - led_by_dead) * 170, f"{slow_ms} ms for {heights} heights"


@scenario(8, "set change at a crash")
def set_change_at_a_crash() -> None:
    """p0 crashes before each of its effects around the height where p4 replaces p3: it signs with the right set after it."""
    sets = {1: (SMALL, range(4)), 3: (OTHER, range(4))}
    number, total = 0, 1
    while number < total:
        stage = Stage(5, sets=sets)
        seen = [0]

        def crash(player: Player, effect: object, stage: Stage = stage, seen: list[int] = seen, number: int = number) -> bool:
            if player.index != 0 or player.engine.core.height not in (2, 3) or len(stage.decided) < 1:
                return False
            seen[0] += 1
            return seen[0] == number + 1

        stage.crash_before = crash
        stage.grow(4, 6_000)
        assert stage.crashes == 1 and len(stage.hashes(4)) == 1
        keys = [player.key.public for player in stage.players]
        assert stage.players[0].chain.authority_keys(2) == tuple(keys[index] for index in SMALL)
        assert stage.players[0].chain.authority_keys(3) == tuple(keys[index] for index in OTHER)
        total = seen[0] if number == 0 else total
        number += 3
    assert total > 12
    assert stage.core(3).me is None and stage.core(4).me == 3
    assert {value.height for value in stage.said[3]} == {1, 2} and min(value.height for value in stage.said[4]) == 3


@scenario(9, "from four to seven to one")
def four_seven_one() -> None:
    """The set grows from 4 to 7 and shrinks to 1: each height needs the quorum of its own set, a follower sees it all."""
    stage = Stage(7, sets={1: (SMALL, range(4)), 4: (LARGE, range(7)), 7: ((2,), (0,))}, followers=1)
    stage.grow(9, 6_000)
    chain = stage.players[7].chain
    signers = [len(chain.certificate(height).indexes) for height in range(1, 10)]
    assert all(quorum(4) <= count <= 4 for count in signers[:3]) and all(quorum(7) <= count for count in signers[3:6])
    assert signers[6:] == [1, 1, 1] and not stage.said.get(7)
    assert max(value.height for value in stage.said[0]) == 6


@scenario(31, "one laggard, three ahead")
def one_laggard() -> None:
    """p3 stands at height 1 and says so every 10 ms for a second: each peer answers once in T_rebroadcast, without bodies."""
    stage = Stage(puppets=[3])
    stage.grow(5, 5_000)
    before = stage.finals_sent
    for _ in range(100):
        stage.show(3, [0, 1, 2], Status(1, 0, stage.params.genesis_hash))
        stage.pass_ms(10)
    assert 3 * 4 <= stage.finals_sent - before <= 3 * 6

    stage = Stage(absent=[3])
    stage.grow(50, 50 * 700)
    started_ms, before = stage.now_ms, stage.finals_sent
    stage.players[3].boot()
    stage.grow(50, 5_000, 3)
    assert stage.finals_sent - before <= 3 * (stage.now_ms - started_ms) // 200 + 3


@scenario(34, "instant and manual sealing")
def instant_and_manual() -> None:
    """No empty block in `instant`; Seal(3) makes three blocks, and a restart in between makes none of its own."""
    stage = Stage(1, seal="instant")
    player = stage.players[0]
    stage.pass_ms(2_000)
    assert player.chain.head.height == 0
    player.feed(fx.Work())
    stage.pass_ms(2_000)
    assert player.chain.head.height == 1
    player.feed(fx.Seal(3))
    stage.pass_ms(500)
    assert player.chain.head.height == 1

    stage = Stage(1, seal="manual")
    player = stage.players[0]
    player.feed(fx.Work())
    stage.pass_ms(1_000)
    assert player.chain.head.height == 0
    player.feed(fx.Seal(3))
    stage.pass_ms(1_000)
    assert player.chain.head.height == 3
    player.restart()
    stage.pass_ms(1_000)
    assert player.chain.head.height == 3
    player.feed(fx.Seal(1))
    stage.pass_ms(1_000)
    assert player.chain.head.height == 4


@scenario(35, "first block of a session", real=False)
def first_block_of_session() -> None:
    """The first block under a new set carries the certificate of the old one; a light client follows with the sets alone."""
    stage = Stage(5, sets={1: (SMALL, range(4)), 3: (OTHER, range(4))})
    stage.grow(5, 4_000)
    chain = stage.players[0].chain
    carried = Certificate.decode(chain.block(3).body.parent_cert)
    assert carried.verify(chain.authority_keys(2), stage.params.genesis_hash)
    assert not carried.verify(chain.authority_keys(3), stage.params.genesis_hash)
    assert chain.block(1).body.parent_cert == NO_CERTIFICATE

    def finality(height: int) -> Finality:
        keys = list(chain.authority_keys(height))
        return Finality(chain.header(height).encode(), chain.certificate(height).encode(), keys)

    client = LightClient(stage.params.genesis_hash, list(chain.authority_keys(1)))
    try:
        client.verify(finality(5))
        raise AssertionError("a set that nobody named was trusted")
    except Rejected as error:
        assert error.error_name == "UntrustedAuthorities"
    client.advance(finality(2))
    assert client.verify(finality(5)).hash == chain.hash_at(5)


@scenario(44, "early messages are bounded")
def early_messages_are_bounded() -> None:
    """A flood for the next height: one message of each (author, round, kind) is kept, rounds 0 and 1 only."""
    stage = Stage(puppets=[3])
    player = stage.players[0]
    for round_ in range(30):
        for index in range(4):
            votes = [stage.vote(index, kind, bytes([salt]) * 32, round_, 2) for kind in (1, 2) for salt in (1, 2)]
            stage.show(3, [0], *votes)
        chosen = stage.block(round_, after_ms=300)
        stage.show(3, [0], Proposal(2, round_, 0xFFFFFFFF, chosen.hash, round_ % 4, bytes(64)))
    assert len(player.engine._inbox._early) <= 4 * 4 + 2
