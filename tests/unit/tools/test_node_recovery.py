"""A chain that lost half of its authorities goes on with a recovery file: survivors, new authorities, followers."""

import asyncio

import pytest

from ledger.client.light import LightClient
from ledger.crypto import KeyPair
from ledger.errors import UsageError
from ledger.recovery import Recovery
from ledger.votes import PRECOMMIT, authorities_hash
from runtime.modules import authorities
from tests.harness import Market, Place, run
from tools.rpc import render

FRESH = [KeyPair.from_seed(bytes([60 + index]) * 32) for index in range(2)]


def file_of(market, height, survivors=(0, 1), reason="two are lost"):
    chain = market.nodes[0].chain
    view = chain.view(height)
    members = [(key, authorities.account_of(view, key)) for key in (market.places[i].session_key.public for i in survivors)]
    fresh = [(key.public, market.account("owner", "").public) for key in FRESH]
    return Recovery(market.genesis.genesis_hash, height, chain.hash_at(height), (*members, *fresh), reason).check()


async def lose_half(market):
    """Two of four are gone for good; the others stand still at one height."""
    await market.reach(4)
    for index in (2, 3):
        await market.crash(index)
    (height,) = {await _still(market)}
    return height


async def _still(market):
    await asyncio.sleep(20)
    heights = {node.tip.height for node in market.nodes}
    await asyncio.sleep(20)
    assert {node.tip.height for node in market.nodes} == heights and len(heights) == 1, "without a quorum nothing is decided"
    return heights.pop()


async def restart(market, *indexes):
    for index in indexes:
        await market.stop(index)
    for index in indexes:
        await market.start(index)


def test_survivors_new_authorities_and_followers_go_on_with_one_file():
    async def scenario():
        async with Market(authorities=4, followers=1, block_time_ms=250) as market:
            height = await lose_half(market)
            market.recoveries = {height: file_of(market, height)}
            for index, key in ((2, FRESH[0]), (3, FRESH[1])):  # new machines with new keys and empty databases
                market.places[index] = Place(index, key)
            await restart(market, 0, 1, 4)
            for index in (2, 3):
                await market.start(index)
            await market.reach(height + 5)
            market.agree()
            keys = market.recoveries[height].keys
            for node in market.nodes:
                assert node.chain.authorities().keys == keys
                assert node.chain.header(height + 1).authorities_hash == authorities_hash(keys)
                assert node.chain.header(height).authorities_hash != authorities_hash(keys)
            assert market.nodes[2].role == "authority" and market.nodes[4].role == "full"
            await restart(market, 0, 2, 4)  # the file is remembered: what is past has to fit
            await market.reach(height + 8)
            late = Place(5, None)
            market.places.append(late)
            await market.start(5)
            await market.reach(height + 9)
            market.agree()
            client = LightClient(market.genesis.genesis_hash, market.genesis.authorities.keys)
            chain = late.node.chain
            file = market.recoveries[height]
            client.recover(file.head_hash, file.keys, file.hash, render.finality_record(chain, height))
            header = client.verify(render.finality_record(chain, height + 3))
            assert header.hash == chain.hash_at(height + 3) and chain.certificate(height + 3).kind == PRECOMMIT

    run(scenario())


def test_without_the_file_a_node_stays_where_it_was():
    async def scenario():
        async with Market(authorities=4, followers=1, block_time_ms=250) as market:
            height = await lose_half(market)
            await market.stop(4)
            kept = dict(market.recoveries)
            market.recoveries = {height: file_of(market, height)}
            for index, key in ((2, FRESH[0]), (3, FRESH[1])):
                market.places[index] = Place(index, key)
            await restart(market, 0, 1)
            for index in (2, 3):
                await market.start(index)
            await market.reach(height + 3)
            market.recoveries, given = kept, market.recoveries
            await market.start(4)
            await asyncio.sleep(10)
            follower = market.places[4].node
            assert follower.tip.height == height and not follower.network.peers(), "another list of domains, no connection"
            market.recoveries = given
            await restart(market, 4)
            await market.reach(height + 4)
            market.agree()

    run(scenario())


def test_a_file_that_does_not_fit_the_nodes_own_chain_is_refused():
    async def scenario():
        async with Market(authorities=4, block_time_ms=250) as market:
            await market.reach(6)
            good = file_of(market, 3)
            await market.stop(0)
            market.recoveries = {3: good}
            with pytest.raises(UsageError, match="old authorities decided"):
                await market.start(0)
            market.recoveries = {3: Recovery(good.genesis_hash, 3, bytes(32), good.members, "")}
            with pytest.raises(UsageError, match="not the one that the recovery file names"):
                await market.start(0)
            market.recoveries = {}

    run(scenario())
