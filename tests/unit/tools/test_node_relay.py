"""Transactions between nodes: what travels on and what does not, and what a pool keeps over a restart."""

import asyncio
from types import SimpleNamespace

import pytest

from ledger.blocks import Extrinsic
from ledger.errors import NotReady
from runtime.dispatch import call_number
from tests.harness import Market, run
from tools.node.node import Node
from tools.node.relay import MAX_BATCH_ITEMS, MAX_OWN, decode_batch, encode_batch
from tools.node.service import Service


def transfer(market, nonce=0, *, sender=("validator", "0"), amount_rao=10**9, tip=0):
    chain = market.nodes[0].chain
    return Extrinsic.sign(
        market.account(*sender), chain.params.genesis_hash, chain.hash_at(0), nonce=nonce, birth_height=0,
        call_number=call_number("accounts.transfer"), args=[market.account("owner", "").public, amount_rao, True], tip=tip,
    )


def listen(node):
    """Collects the transactions that the node gossips from now on."""
    sent = []
    network = node.relay._network

    class Heard:
        async def publish(self, topic, data):
            if extrinsics := decode_batch(data)[0]:
                sent.append(extrinsics)
            await network.publish(topic, data)

    node.relay._network = Heard()
    return sent


def test_junk_does_not_travel_on_but_what_came_with_it_does():
    async def scenario():
        async with Market(authorities=4) as market:
            victim, other = market.nodes[:2]
            good = transfer(market)
            junk = [transfer(market, nonce).encode() for nonce in range(40, 60)]  # far behind a gap
            sent = listen(victim)
            with pytest.raises(NotReady):
                await victim.relay.gossiped("x", encode_batch([*junk, good.encode()], []))
            assert good.id in victim.pool and len(victim.pool) == 1
            assert victim.shell.counters.rejected["NonceGap"] == 20
            await asyncio.sleep(0.2)
            assert sent == [[good.encode()]]
            with pytest.raises(NotReady):  # known by now: it stays where it is
                await other.relay.gossiped("x", encode_batch([good.encode()], []))
            few = [transfer(market, 1).encode(), transfer(market, 2).encode(), junk[0]]
            assert await victim.relay.gossiped("x", encode_batch(few, [])) is True
            await asyncio.sleep(0.2)
            assert len(sent) == 1

    run(scenario())


def test_known_transactions_are_not_offered_in_circles():
    async def scenario():
        async with Market(authorities=4, block_time_ms=60_000) as market:
            sent = [listen(node) for node in market.nodes]
            for nonce in range(30):
                await market.nodes[0].submit(transfer(market, nonce).encode())
            await asyncio.sleep(3)
            assert [len(node.pool) for node in market.nodes] == [30] * 4
            assert sum(len(batch) for batch in sent[0]) == 30 and sent[1:] == [[], [], []]

    run(scenario())


def test_a_pool_survives_a_restart_and_damage_to_its_file():
    async def scenario():
        async with Market(authorities=1, block_time_ms=60_000) as market:
            (node,) = market.nodes
            for nonce in range(MAX_BATCH_ITEMS // 8):
                await node.submit(transfer(market, nonce).encode())
            forged = transfer(market, sender=("owner", ""))
            whole = node.pool.dump()
            await market.stop(0)
            fresh = await market.start(0)
            assert await fresh.relay.restore(whole) == len(fresh.pool) == MAX_BATCH_ITEMS // 8 == len(fresh.relay._own)
            assert await fresh.relay.restore(b"") == 0
            assert not [entry for entry in market.places[0].journal if "damaged" in entry[1]]
            raw = bytes(64) + forged.body
            cut = whole[:-5] + len(raw).to_bytes(4, "big") + raw
            await market.stop(0)
            again = await market.start(0)
            assert 0 < await again.relay.restore(whole[:-5]) == len(again.pool) < MAX_BATCH_ITEMS // 8
            assert await again.relay.restore(cut) == 0 and forged.id not in again.pool
            assert await again.relay.restore(b"nothing of the kind") == 0
            warnings = [entry for entry in market.places[0].journal if entry[1] == "kept transactions damaged"]
            assert len(warnings) == 3 and warnings[0][0] == "warning" and warnings[0][2]["readable"] > 0
            assert len(again.relay._own) <= MAX_OWN

    run(scenario())


async def test_what_waits_is_written_now_and_then_for_a_node_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("tools.node.service.POOL_KEPT_S", 0.01)
    dumps, troubles = [], []
    pool = SimpleNamespace(changes=0, dump=lambda: dumps.append(pool.changes) or b"dump %d" % pool.changes)
    parts = SimpleNamespace(journal=lambda level, event, **fields: troubles.append((level, event)))
    each = SimpleNamespace(
        node=Node.__new__(Node), config=SimpleNamespace(pool_path=tmp_path / "home" / "pool.cbor")
    )
    each.node.pool, each.node.parts = pool, parts
    enough = asyncio.Event()
    keeping = asyncio.ensure_future(Service._keep_pools(SimpleNamespace(running=[each]), enough))
    await asyncio.sleep(0.05)
    assert dumps == [] and not each.config.pool_path.exists()
    pool.changes = 3
    await asyncio.sleep(0.1)
    assert dumps == [3] and each.config.pool_path.read_bytes() == b"dump 3"
    each.config.pool_path = tmp_path / "home" / "pool.cbor" / "impossible"
    pool.changes = 4
    await asyncio.sleep(0.1)
    assert dumps == [3, 4] and troubles == [("warning", "pool not kept")]
    enough.set()
    await asyncio.wait_for(keeping, 1)
