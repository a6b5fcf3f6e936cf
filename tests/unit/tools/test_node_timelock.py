"""Authorities open sealed weights by themselves: over restarts, without one of them, and by hand where too few release."""

import asyncio
from dataclasses import replace

import pytest

from ai.judge.ballot import Ballot
from ai.judge.memory import Memory
from genesis.build import build_genesis
from ledger.inherents import TIMELOCK_KEY, TIMELOCK_SECRET
from ledger.timelock import Announcement, Release
from runtime.modules import timelock, weights
from tests.harness import Market, run
from tools.node import timelock as duty
from tools.node.relay import encode_batch
from tools.rpc.methods import NodeApi

TEMPO = 9


def market(authorities=4):
    """Blocks of a quarter of a second, short epochs, sealed weights on subnet 1."""
    made = Market(authorities=authorities, block_time_ms=250)
    first, *others = made.spec.subnets
    first = replace(first, params={**first.params, "timelock_on": True, "tempo": TEMPO, "immunity_period": 60})
    made.spec = replace(made.spec, subnets=(first, *others))
    made.genesis = build_genesis(made.spec)
    return made


class Voter:
    """A validator that votes for neurons 3 and 4 of subnet 1, once, in an epoch for which keys are there."""

    def __init__(self, world, path):
        self.api, self.told = NodeApi(world.nodes[0], world.spec, "9.9", lambda: None), []
        key = next(m.hotkey for m in world.members if (m.role, m.name) == ("validator", "0"))
        self.ballot = Ballot(self.api, key, world.genesis.genesis_hash, Memory(path / "scores.db"), self.told.append)

    async def subnet(self):
        return (await self.api.subnet_get(1)).value

    async def vote(self):
        while (await self.api.subnet_get_timelock(1)).value.keys is None or (await self.subnet()).blocks_left < 6:
            await asyncio.sleep(0.1)
        subnet = await self.subnet()
        assert await self.ballot.commit(subnet, [3, 4], [40, 20])
        return subnet.epoch

    async def settle(self, epoch, last=10**9):
        """Do the validator's part until nothing is left to do."""
        while self.ballot.memory.pending(1):
            subnet = await self.subnet()
            assert subnet.epoch <= epoch + 1
            await self.ballot.reveal(subnet)
            await asyncio.sleep(0.1)
        return [line["event"] for line in self.told]

    def row(self, world, uid=0):
        return weights.read_row(weights.WEIGHTS, world.nodes[0].chain.view(), 1, uid)


def opening(world, epoch):
    return timelock.progress(world.nodes[0].chain.view(), 1, epoch)


@pytest.mark.parametrize("authorities", [1, 4])
def test_a_vote_is_opened_without_the_validator(authorities, tmp_path):
    async def scenario():
        async with market(authorities) as world:
            voter = Voter(world, tmp_path)
            epoch = await voter.vote()
            assert voter.told[-1] == {"event": "committed", "netuid": 1, "epoch": epoch, "sealed": True}
            assert (await voter.api.subnet_get_commits(1)).value[0].state == "sealed"
            while not opening(world, epoch).opened:
                assert (await voter.subnet()).epoch <= epoch + 1
                await asyncio.sleep(0.1)
            assert voter.row(world) == [(3, 65535), (4, 32768)]
            await world.reach(world.nodes[0].chain.head.height)  # until that block is durable, too
            begun = (await voter.subnet()).last_epoch_height
            opened_at = next(
                height for height in range(begun + 1, world.nodes[0].tip.height + 1)
                if any(kind == TIMELOCK_SECRET for kind, _ in world.nodes[0].chain.block(height).body.inherent_list())
            )
            assert opened_at <= begun + 3
            assert await voter.settle(epoch) == ["committed", "opened"]
            beacon = (await voter.api.subnet_get_beacon(1, epoch + 2)).value
            assert beacon.released == authorities
            world.agree()

    run(scenario())


def test_one_authority_is_gone_and_another_comes_back(tmp_path):
    async def scenario():
        async with market() as world:
            voter = Voter(world, tmp_path)
            epoch = await voter.vote()
            await world.crash(3)
            await world.crash(2)
            await world.start(2)
            while not opening(world, epoch).opened:
                assert (await voter.subnet()).epoch <= epoch + 1
                await asyncio.sleep(0.1)
            assert (await voter.api.subnet_get_timelock(1)).value.opening.released == 3
            assert await voter.settle(epoch) == ["committed", "opened"]
            world.agree()

    run(scenario())


def test_where_too_few_release_the_validator_reveals_by_hand(tmp_path, monkeypatch):
    real = duty.due

    def stingy(chain, key):
        """Two of four keep their secrets."""
        withheld = key.public in chain.authorities().keys[2:]
        return [row for row in real(chain, key) if not (withheld and row[0] == TIMELOCK_SECRET)]

    async def scenario():
        async with market() as world:
            monkeypatch.setattr(duty, "due", stingy)
            voter = Voter(world, tmp_path)
            epoch = await voter.vote()
            assert await voter.settle(epoch) == ["committed", "revealed"]
            assert opening(world, epoch).stage == timelock.FAILED
            assert voter.row(world) == [(3, 65535), (4, 32768)]

    run(scenario())


def test_what_strangers_say_is_not_remembered(monkeypatch):
    async def scenario():
        async with market() as world:
            monkeypatch.setattr(duty, "due", lambda chain, key: [])
            await world.reach(2)
            node, (pair, *_) = world.nodes[0], [place.session_key for place in world.places]
            epoch, genesis = timelock.subnets.tempo(node.chain.view(), 1).epoch_index, world.genesis.genesis_hash
            good = Announcement.sign(pair, genesis, 1, epoch + 1)
            for bad in (
                (TIMELOCK_KEY, replace(good, public=bytes(32)).encode()),
                (TIMELOCK_KEY, replace(good, epoch=epoch + 5).encode()),
                (TIMELOCK_KEY, replace(good, authority=bytes(32)).encode()),
                (TIMELOCK_SECRET, Release(1, epoch, 0, bytes(32)).encode()),
            ):
                with pytest.raises(Exception, match="nothing in it was new"):
                    await node.relay.gossiped("peer", encode_batch([], [bad]))
            assert await node.relay.gossiped("peer", encode_batch([], [(TIMELOCK_KEY, b"junk")])) is False
            assert node.pool.inherents() == []
            assert await node.relay.gossiped("peer", encode_batch([], [(TIMELOCK_KEY, good.encode())]))
            assert node.pool.inherents() == [(TIMELOCK_KEY, good.encode())]

    run(scenario())
