"""Running nodes go from version 1 of the rules to version 2; one that may not run it stops before, and comes back with it."""

import asyncio
from dataclasses import replace

from genesis.build import build_genesis
from ledger.client.calls import Wallet
from ledger.errors import UnknownRuntimeVersion
from runtime.dispatch import call_number
from runtime.modules import upgrades
from runtime.versions import VersionedRuntime
from tests.harness import Market, run
from tools.node.shell import exit_code_of
from tools.rpc.methods import NodeApi

BLOCKS = 10


def test_a_chain_is_upgraded_without_a_pause_and_a_node_without_the_rules_stops_before():
    async def scenario():
        market = Market(authorities=4, followers=1, block_time_ms=250)
        market.spec = replace(market.spec, session_blocks=BLOCKS, runtime_version=1)
        market.genesis = build_genesis(market.spec)
        market.places[3].newest = 1
        for index in range(4):
            await market.start(index)
        first, *_, behind = market.nodes
        api, owner = NodeApi(first, market.spec, "9.9", lambda: None), market.account("owner", "")
        await market.reach(BLOCKS)
        wallet = Wallet(api, owner)
        at = first.tip.height + BLOCKS + 5
        await wallet.submit("governance.sudo", call=[call_number("governance.schedule_upgrade"), [2, at]])
        waiting = (await api.chain_get_upgrades()).value
        assert (waiting.runtime_version, waiting.version, waiting.height, waiting.warning) == (1, 2, at, "")
        assert (len(waiting.ready), waiting.needed, waiting.authorities) == (3, 3, 4)
        assert "held back at version 1" in behind.upgrade().warning
        await market.reach(at - 1)
        error = await asyncio.wait_for(behind.ended, 20)
        assert isinstance(error, UnknownRuntimeVersion) and exit_code_of(error) == 8 and behind.tip.height == at - 1
        assert any(level == "warning" and event == "upgrade scheduled" for level, event, _ in market.places[3].journal)
        await market.stop(3)
        await market.reach(at + 5, of=(0, 1, 2))
        await the_past_is_read_by_its_own_rules(api, first.chain.view, at)

        market.places[3].newest = 2
        await market.start(3)
        await market.start(4)  # a follower that executes everything from the genesis
        await market.reach(first.tip.height + 4)
        market.agree()
        assert first.rules.audit(first.chain.view(), deep=True) == []

    run(scenario())


async def the_past_is_read_by_its_own_rules(api, view, at):
    assert [(await api.chain_get_header(at + step)).runtime_version for step in (-1, 0)] == [1, 2]
    block = await api.chain_get_block(at)
    assert [event.name for event in block.events][0] == "UpgradeActivated" and block.events[0].fields["migrated_keys"] == 1
    before, after = [(await api.chain_get_upgrades(height)).value for height in (at - 1, at)]
    assert (before.version, before.certain, before.runtime_version) == (2, True, 2)
    assert (after.version, after.runtime_version) == (None, 2)
    assert upgrades.first_heights(view(at)) == {1: 1, 2: at} and upgrades.first_heights(view(at - 1)) == {}
    calls = {call.name for call in (await api.state_get_metadata()).calls}
    assert "governance.move_upgrade" in calls
    assert (await api.account_get(api.spec.accounts[0].key, at - 1)).value.free_rao > 0


def test_reads_before_and_after_use_other_modules():
    runtime = VersionedRuntime(bytes(32))
    assert runtime.at(1) is not runtime.at(2) and type(runtime.at(1)).__module__ == "runtime.frozen.v1.executor"
    assert type(runtime.at(2)).__module__ == "runtime.executor" and (runtime.at(1).version, runtime.at(2).version) == (1, 2)
