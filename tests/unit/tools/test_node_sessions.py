"""The authority set of running nodes changes: a follower with a session key is proposed, gets its seat and votes."""

from dataclasses import replace

from genesis.build import build_genesis
from ledger.client.calls import Wallet
from ledger.crypto import KeyPair
from runtime.dispatch import call_number
from runtime.modules import authorities, bonds, heartbeats
from runtime.modules.sessions import possession_body
from tests.harness import Market, Place, run
from tools.rpc.methods import NodeApi

NEW = KeyPair.from_seed(b"\x51" * 32)
BLOCKS = 10


def test_a_candidate_says_it_is_alive_gets_its_seat_and_is_needed_for_every_block():
    async def scenario():
        market = Market(authorities=1, followers=1, block_time_ms=250)
        market.spec = replace(market.spec, session_blocks=BLOCKS)
        market.genesis = build_genesis(market.spec)
        market.places[1] = Place(1, NEW)
        async with market:
            await market.reach(2)
            first, second = market.nodes
            assert (first.role, second.role) == ("authority", "full")
            api, owner = NodeApi(first, market.spec, "9.9", lambda: None), market.account("owner", "")
            wallet, present = Wallet(api, owner), (await api.chain_get_authorities()).value[0]
            await wallet.submit("authorities.bond", amount_rao=bonds.least_rao(first.chain.view()))
            proof = NEW.sign("pop", market.genesis.genesis_hash, possession_body(owner.public, NEW.public))
            members = [[present.session_key, present.account, None], [NEW.public, owner.public, proof]]
            await wallet.submit("governance.sudo", call=[call_number("authorities.propose_set"), [members]])
            (waiting,) = (await api.chain_get_authority_candidates()).value
            assert waiting.session_key == NEW.public and waiting.bonded_rao == waiting.needed_rao
            while NEW.public not in first.chain.authorities().keys:
                await market.reach(first.tip.height + 1)
                assert first.tip.height < 4 * BLOCKS
            assert first.tip.height % BLOCKS == 0 and not heartbeats.may_beat(first.chain.view(first.tip.height - 1), bytes(32))
            seat_at = first.tip.height
            await market.reach(seat_at + 6)
            market.agree()
            assert second.role == "authority"
            assert len(first.chain.certificate(seat_at + 3).indexes) == 2, "with two, both have to sign"
            led = authorities.uptime(first.chain.view(), first.chain.params.session(seat_at + 6)).led
            assert led[1] >= 2, "and both lead in turn"

    run(scenario())
