"""Whole nodes in virtual time: they agree, relay, follow, crash, come back, and never speak before the disk has it."""

import asyncio

import pytest

from genesis.cast import NEURONS
from ledger.blocks import Extrinsic
from ledger.crypto import KeyPair
from ledger.errors import DiskFailure, DoubleSignRisk, NotReady, Rejected, UsageError
from ledger.inherents import EVIDENCE
from ledger.messages import decode_bundle
from ledger.votes import PRECOMMIT, Evidence, vote_body
from runtime.modules import accounts
from runtime.registry import CALL_NUMBERS
from tests.harness import Market, MemoryNetwork, Place, run
from tools.node.relay import encode_batch
from tools.node.shell import exit_code_of


def transfer(market, node, nonce=0, amount_rao=10**9, sender=("validator", "0"), to=("owner", ""), birth=None, keep_alive=True):
    head = node.tip if birth is None else birth
    return Extrinsic.sign(
        market.account(*sender), market.genesis.genesis_hash, head.hash, nonce=nonce, birth_height=head.height,
        call_number=CALL_NUMBERS["accounts.transfer"], args=[market.account(*to).public, amount_rao, keep_alive],
    )


async def included(nodes, extrinsic, within_s=20.0):
    async with asyncio.timeout(within_s):
        for node in nodes:
            while node.chain.find_extrinsic(extrinsic.id) is None:
                await asyncio.sleep(0.02)
    places = {node.chain.find_extrinsic(extrinsic.id) for node in nodes}
    assert len(places) == 1
    return places.pop()


@pytest.mark.parametrize("authorities", [1, 2, 4])
def test_authorities_make_one_chain_at_the_pace_of_its_specification(authorities):
    async def scenario():
        async with Market(authorities=authorities) as market:
            started_s = asyncio.get_running_loop().time()
            await market.reach(6)
            assert asyncio.get_running_loop().time() - started_s < 6 * 1.2
            assert market.agree() >= 6
            for node in market.nodes:
                assert node.health().ready, node.health()
                assert node.chain.certificate(3).block_hash == node.chain.hash_at(3)
                assert node.finality_ms(3) > 0
            rounds = {node.chain.header(h).proposal_round for node in market.nodes for h in range(1, 7)}
            assert rounds == {0}

    run(scenario())


def test_a_follower_gets_every_block_and_passes_transactions_on():
    async def scenario():
        async with Market(authorities=4, followers=1) as market:
            await market.reach(2)
            follower = market.nodes[-1]
            extrinsic = transfer(market, follower)
            assert await follower.submit(extrinsic.encode()) == extrinsic.id
            height, index = await included(market.nodes, extrinsic)
            assert market.nodes[0].chain.outcomes(height)[index].error == ""
            assert len(follower.pool) == 0
            assert follower.role == "full" and follower.shell.counters.records == 0
            await market.reach(height + 2)
            market.agree()

    run(scenario())


def test_many_transactions_of_one_account_are_all_included_in_order():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(1)
            first, second = market.nodes[:2]
            extrinsics = [transfer(market, first, nonce) for nonce in range(12)]
            for extrinsic in extrinsics:
                await first.submit(extrinsic.encode())
            with pytest.raises(Rejected) as caught:
                await first.submit(extrinsics[0].encode())
            assert caught.value.error_name == "AlreadyKnown"
            for extrinsic in extrinsics:
                await included(market.nodes, extrinsic)
            assert second.shell.counters.gossiped >= 1

    run(scenario())


def test_a_forged_transaction_is_refused_by_rpc_and_never_forwarded():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(1)
            good = transfer(market, market.nodes[0])
            forged = bytes([good.encode()[0] ^ 1]) + good.encode()[1:]
            with pytest.raises(Rejected) as caught:
                await market.nodes[0].submit(forged)
            assert caught.value.error_name == "BadSignature"

            attacker, victim = market.places[1].network, market.nodes[0]
            assert await victim.relay.gossiped(attacker.id, encode_batch([forged], [])) is False
            assert await victim.relay.gossiped(attacker.id, b"\x82\x80") is False
            assert await victim.relay.gossiped(attacker.id, encode_batch([], [(7, b"x")])) is False
            assert await victim.relay.gossiped(attacker.id, encode_batch([good.encode()], [])) is True
            with pytest.raises(NotReady):
                await victim.relay.gossiped(attacker.id, encode_batch([good.encode()], []))
            assert all(forged not in node.pool.verified for node in market.nodes)

    run(scenario())


def double_vote(key, domain, height):
    first, second = bytes([1]) * 32, bytes([2]) * 32
    signed = [key.sign("precommit", domain, vote_body(height, 0, block)) for block in (first, second)]
    return Evidence(PRECOMMIT, key.public, height, 0, first, 0, signed[0], second, 0, signed[1])


def test_only_evidence_that_convicts_an_authority_is_taken_from_peers():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(3)
            victim, culprit, genesis = market.nodes[0], market.places[3].session_key, market.genesis.genesis_hash
            for number in range(10):  # anybody can sign two things with a key of its own
                stranger = double_vote(KeyPair.from_seed(bytes([number]) * 32), genesis, 2)
                with pytest.raises(NotReady):
                    await victim.relay.gossiped("x", encode_batch([], [(EVIDENCE, stranger.encode())]))
            far = double_vote(culprit, genesis, 1 << 40)
            with pytest.raises(NotReady):
                await victim.relay.gossiped("x", encode_batch([], [(EVIDENCE, far.encode())]))
            assert victim.pool.inherents() == []
            real = double_vote(culprit, genesis, 2)
            assert await victim.relay.gossiped("x", encode_batch([], [(EVIDENCE, real.encode())])) is True
            assert victim.pool.inherents() == [(EVIDENCE, real.encode())]
            await market.reach(victim.tip.height + 5)
            assert 3 not in victim.chain.authorities().active
            assert victim.pool.inherents() == []

    run(scenario())


def test_accounts_that_empty_themselves_do_not_empty_the_block():
    async def scenario():
        async with Market(authorities=1) as market:
            (node,) = market.nodes
            await market.reach(2)
            names = [("neuron", name) for name in NEURONS]
            view = node.chain.view()
            names = [name for name in names if accounts.balance(view, market.account(*name).public) > 10**6]
            assert len(names) > 8
            for name in names:  # the first takes all that the second would pay its fee with
                await node.submit(transfer(market, node, nonce=0, amount_rao=None, sender=name, keep_alive=False).encode())
                await node.submit(transfer(market, node, nonce=1, amount_rao=1000, sender=name).encode())
            honest = transfer(market, node)
            await node.submit(honest.encode())
            before = node.tip.height
            height, _ = await included([node], honest)
            assert height == before + 1
            assert len(node.chain.block(height).body.extrinsics) == len(names) + 1
            await market.reach(height + 2)
            assert len(node.pool) == 0

    run(scenario())


def test_a_late_node_syncs_and_then_follows():
    async def scenario():
        market = Market(authorities=4, followers=1)
        for index in range(4):
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(market.start(index))), 10)
        await market.reach(20, of=[0, 1, 2, 3])
        follower = await market.start(4)
        await market.reach(22, within_s=15)
        market.agree()
        head = follower.tip.height
        await market.reach(head + 5)
        assert not follower.follower.syncing and follower.health().ready
        assert not [fault for place in market.places for fault in place.network.faults]
        for place in market.places:
            await market.stop(place.index)

    run(scenario())


def test_an_authority_that_crashes_comes_back_and_signs_again():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(5)
            await market.crash(2)
            await market.reach(12)
            before = market.nodes[0].tip.height
            await market.start(2)
            await market.reach(before + 8)
            market.agree()
            signers = set()
            for height in range(before + 3, before + 9):
                signers |= set(market.nodes[0].chain.certificate(height).indexes)
            assert 2 in signers

    run(scenario())


def test_all_authorities_crash_at_any_moment_and_nothing_final_is_lost():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(2)
            for moment in range(12):
                await asyncio.sleep(0.013 * moment)
                heads = [(node.chain.durable_height, node.chain.hash_at(node.chain.durable_height)) for node in market.nodes]
                for place in market.places:
                    await market.crash(place.index)
                await asyncio.gather(*(market.start(place.index) for place in market.places))
                height = max(height for height, _ in heads)
                await market.reach(height + 1)
                for node, (durable, block_hash) in zip(market.nodes, heads, strict=True):
                    assert node.chain.hash_at(durable) == block_hash
            market.agree()

    run(scenario())


def test_a_minority_stops_in_a_partition_and_catches_up_after_it():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(3)
            ids = [place.network.id for place in market.places]
            await market.hub.cut(ids[:3], ids[3:])
            await market.reach(10, of=[0, 1, 2])
            stuck = market.nodes[3]
            assert stuck.tip.height <= 4 and "no peers" in stuck.health().blocking
            await market.hub.cut()
            await market.reach(14)
            market.agree()

    run(scenario())


def test_without_a_quorum_nothing_is_decided():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(2)
            ids = [place.network.id for place in market.places]
            await market.hub.cut(ids[:2], ids[2:])
            await asyncio.sleep(1)
            heights = [node.tip.height for node in market.nodes]
            await asyncio.sleep(30)
            assert [node.tip.height for node in market.nodes] == heights
            await market.hub.cut()
            await market.reach(max(heights) + 2, within_s=40)
            market.agree()

    run(scenario())


def test_lost_frames_delay_but_do_not_stop():
    async def scenario():
        async with Market(authorities=4) as market:
            market.hub.drops = lambda sender, receiver, kind: market.hub.random.random() < 0.2
            await market.reach(10, within_s=120)
            market.hub.drops = lambda sender, receiver, kind: False
            await market.reach(max(node.tip.height for node in market.nodes) + 2)
            market.agree()

    run(scenario())


def test_no_vote_leaves_before_the_record_that_holds_it_is_durable(monkeypatch):
    checked = []

    def watched(self, peer, frame, *, votes, real=MemoryNetwork.send):
        place = next(place for place in self.hub.market.places if place.network is self)
        index = place.index
        for message in (*decode_bundle(frame).votes, *decode_bundle(frame).proposals):
            if message.index != index:
                continue
            # What a crash at this very moment would find in the sign database.
            record, _ = place.node.parts.signer.open(
                place.sign_store, self.hub.market.genesis.genesis_hash, place.session_key.public
            ).load(message.height)
            assert record is not None and record.height >= message.height
            if record.height == message.height and record.round == message.round:
                assert message in record.own
            checked.append(message)
        return real(self, peer, frame, votes=votes)

    monkeypatch.setattr(MemoryNetwork, "send", watched)

    async def scenario():
        market = Market(authorities=4)
        market.hub.market = market
        async with market:
            market.hub.drops = lambda sender, receiver, kind: market.hub.random.random() < 0.1
            await market.reach(5)

    run(scenario())
    assert len(checked) > 100


@pytest.mark.parametrize(("error", "code"), [
    (DiskFailure("no space left"), 24), (DoubleSignRisk("refused"), 20), (OSError("gone"), 70),
])
def test_a_record_that_cannot_be_written_stops_the_node_with_the_lane_unsent(error, code):
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(3)
            victim = market.places[1]
            node, id = victim.node, victim.network.id

            def refuse(*args, **kwargs):
                market.hub.frames.clear()
                raise error

            node.parts.signer.persist = refuse
            assert exit_code_of(await node.ended) == code
            await asyncio.sleep(5)
            sent = [frame for sender, _, frame in market.hub.frames if sender == id]
            assert not any(vote.index == 1 for frame in sent for vote in decode_bundle(frame).votes)
            await market.reach(8, of=[0, 2, 3])
            victim.node = None

    run(scenario())


def test_a_copy_of_a_key_stops_before_it_signs_twice():
    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(3)
            twin = Place(4, market.places[0].session_key)
            market.places.append(twin)
            node = await market.start(4)
            async with asyncio.timeout(30):
                codes = {exit_code_of(await next(asyncio.as_completed([node.ended, market.nodes[0].ended])))}
            assert codes == {20}
            for place in (twin, market.places[0]):
                if place.node is not None and place.node.ended.done():
                    place.node = None

    run(scenario())


def test_manual_sealing_makes_exactly_the_blocks_asked_for():
    async def scenario():
        async with Market(authorities=1, seal="manual") as market:
            (node,) = market.nodes
            await asyncio.sleep(30)
            assert node.tip.height == 0
            assert await node.seal(3) == 3
            await node.submit(transfer(market, node).encode())
            await asyncio.sleep(5)
            assert node.tip.height == 3 and len(node.pool) == 1
            assert await node.seal(1) == 4 and len(node.pool) == 0
            for count in (0, 1001):
                with pytest.raises(UsageError):
                    await node.seal(count)

    run(scenario())


def test_instant_sealing_makes_a_block_for_a_transaction_and_never_an_empty_one():
    async def scenario():
        async with Market(authorities=1, seal="instant") as market:
            (node,) = market.nodes
            await asyncio.sleep(10)
            assert node.tip.height == 0
            extrinsic = transfer(market, node)
            await node.submit(extrinsic.encode())
            await included([node], extrinsic, within_s=1)
            await asyncio.sleep(10)
            assert node.tip.height == 1
        async with Market(authorities=1) as market:
            with pytest.raises(UsageError):
                await market.nodes[0].seal(1)

    run(scenario())


def test_an_authority_that_was_skipped_returns_by_heartbeat():
    async def scenario():
        from runtime.modules import authorities

        async with Market(authorities=4, block_time_ms=250) as market:
            key = market.places[3].session_key.public
            await market.reach(5)
            await market.crash(3)

            def row():
                return authorities.authority(market.nodes[0].chain.view(), key)

            async with asyncio.timeout(120):
                while not row().skipped:
                    await asyncio.sleep(0.5)
            await market.start(3)
            async with asyncio.timeout(60):
                while row().skipped:
                    await asyncio.sleep(0.5)
            market.agree()

    run(scenario())


def test_finality_survives_a_restart():
    async def scenario():
        async with Market(authorities=1) as market:
            await market.reach(4)
            known = market.nodes[0].finality_ms(2)
            await market.stop(0)
            node = await market.start(0)
            assert node.finality_ms(2) == known > 0

    run(scenario())


def test_a_large_state_is_audited_now_and_then_and_a_violation_stops_the_node(monkeypatch):
    from runtime.executor import Runtime

    audited = []

    def audit(self, view, *, deep=False):
        audited.append(view)
        return [] if len(audited) < 2 else ["a unit is missing"]

    monkeypatch.setattr("tools.node.node.AUDIT_EVERY_BLOCKS", 3)
    monkeypatch.setattr(Runtime, "audits_itself", lambda self, view: False)
    monkeypatch.setattr(Runtime, "audit", audit)

    async def scenario():
        async with Market(authorities=1) as market:
            (node,) = market.nodes
            assert exit_code_of(await node.ended) == 22
            assert len(audited) == 2 and node.tip.height == 6

    run(scenario())
