"""Checkpoints: a node that was away for longer than offenders can be punished believes nobody without one."""

import asyncio
from dataclasses import replace

import pytest

from ledger.errors import UsageError
from tests.harness import EPOCH_MS, Market, Place, run
from tools.node.checkpoint import Checkpoint, WrongCheckpoint, check_start, parse_checkpoint, window_ms
from tools.node.node import Node

HASH = "ab" * 32


def test_what_a_checkpoint_is():
    assert parse_checkpoint("") is None
    assert parse_checkpoint(f"12:0x{HASH}") == parse_checkpoint(f"12:{HASH}") == Checkpoint(12, bytes.fromhex(HASH))
    for bad in ("12", f"-1:{HASH}", f"12:{HASH[:-1]}", f"12:{HASH}0", f"x:{HASH}", f"{10**19}:{HASH}", f"12:{HASH}\n"):
        with pytest.raises(UsageError):
            parse_checkpoint(bad)


def test_a_node_that_was_away_too_long_does_not_start_without_one():
    async def scenario():
        async with Market(authorities=1, block_time_ms=250) as market:
            await market.reach(5)
            chain = market.nodes[0].chain
            head = chain.head
            good, other = Checkpoint(4, chain.hash_at(4)), Checkpoint(4, bytes(32))
            soon, late = head.timestamp_ms + window_ms(chain), head.timestamp_ms + window_ms(chain) + 1
            assert window_ms(chain) == 14 * 100 * 250
            check_start(chain, None, late)  # a devnet does not ask
            chain.params = replace(chain.params, devnet=False)
            check_start(chain, None, soon)
            with pytest.raises(UsageError, match="days old"):
                check_start(chain, None, late)
            check_start(chain, good, soon - 2000)
            check_start(chain, Checkpoint(9, bytes(32)), late)  # judged when it gets there
            with pytest.raises(WrongCheckpoint, match="not the one"):
                check_start(chain, other, soon - 2000)
            with pytest.raises(WrongCheckpoint, match="too old"):
                check_start(chain, good, late)

    run(scenario())


@pytest.mark.parametrize("time_ms", [0, EPOCH_MS])
def test_a_chain_without_blocks_is_judged_by_the_time_of_its_genesis(time_ms):
    async def scenario():
        market = Market(authorities=1)
        chain = market._open(market.places[0]).chain
        chain.params = replace(chain.params, devnet=False, genesis_time_ms=time_ms)
        now = chain.head.timestamp_ms + window_ms(chain) + 1
        if time_ms:
            with pytest.raises(UsageError):
                check_start(chain, None, now)
        else:
            check_start(chain, None, now)

    run(scenario())


def test_a_node_stops_when_peers_serve_another_block_than_the_checkpoint():
    async def scenario():
        async with Market(authorities=1, followers=1, block_time_ms=250) as market:
            await market.reach(6)
            right = market.nodes[0].chain.hash_at(3)
            for wanted, ends in ((right, False), (bytes(32), True)):
                place = Place(len(market.places), None)
                market.places.append(place)
                opened = market._open

                def with_checkpoint(place, opened=opened, wanted=wanted):
                    parts = opened(place).parts
                    parts.checkpoint = Checkpoint(3, wanted)
                    return Node(parts)

                market._open = with_checkpoint
                node = await market.start(place.index)
                market._open = opened
                await asyncio.sleep(5)
                assert node.ended.done() == ends
                if ends:
                    assert isinstance(node.ended.result(), WrongCheckpoint) and node.tip.height == 2
                    place.node = None
                    await node.stop()
                else:
                    assert node.tip.height > 6

    run(scenario())
