"""Networks of real processes: plans that repeat, the cut that parts them, figures; and, as long tests, the real thing."""

import asyncio
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from ledger.client.keys import write_key_file
from ledger.client.light import LightClient
from ledger.client.remote import RemoteChain
from ledger.crypto import KeyPair
from ledger.errors import NotReady, Unreachable, UsageError
from ledger.recovery import Recovery
from p2p.network import Handlers
from tests.harness import Market, run
from tools.bench.finality import _counts
from tools.cli.main import cli
from tools.lab.cluster import Cluster, Seen, gaps_s, percentile
from tools.lab.net import KINDS, Plan
from tools.lab.switch import Switch
from tools.node.meter import MeteredNetwork, metered_handlers


def test_a_plan_follows_from_its_seed_and_stays_within_its_limits():
    plans = [Plan.random(seed, 30, 5) for seed in range(200)]
    assert plans == [Plan.random(seed, 30, 5) for seed in range(200)] and len(set(plans)) == 200
    assert {trouble.kind for plan in plans for trouble in plan.troubles} == set(KINDS)
    for plan in plans:
        everybody = range(plan.authorities + plan.followers)
        assert plan.authorities >= 1 and len(everybody) <= 5 and plan.troubles
        ends = [trouble.at_s + trouble.for_s for trouble in plan.troubles]
        assert all(later.at_s >= end - 0.11 for end, later in zip(ends, plan.troubles[1:], strict=False)), "one at a time"
        for trouble in plan.troubles:
            assert trouble.nodes and set(trouble.nodes) <= set(everybody) and 0 <= trouble.at_s <= 30
            assert trouble.kind != "part" or len(trouble.nodes) < len(everybody)


def test_figures_of_what_was_seen():
    seen = [Seen(at, height, b"", 1, 0) for height, at in enumerate((0.0, 0.25, 1.0))]
    assert gaps_s(seen) == [0.25, 0.75] and gaps_s(seen[:1]) == []
    assert [percentile([4, 1, 3, 2], part) for part in (1, 25, 50, 99, 100)] == [1, 1, 2, 4, 4] and percentile([], 50) == 0


def test_numbers_of_authorities_are_read_and_bounded():
    assert _counts("1,4,7") == [1, 4, 7]
    for bad in ("", "0", "4,x", "21"):
        with pytest.raises(UsageError):
            _counts(bad)


KNOCK = "import socket, sys; socket.create_connection((sys.argv[1], 9), 0.4)"


def test_cables_part_and_heal_a_net_and_nothing_is_left():
    if not Switch.available():
        pytest.skip("this user cannot make network namespaces here")

    def reaches(one: int, other: int) -> bool:
        done = subprocess.run(
            [*switch.prefix(one), sys.executable, "-S", "-c", KNOCK, switch.address(other)], capture_output=True, text=True,
        )
        assert done.returncode == 1, "nobody listens"
        return "ConnectionRefusedError" in done.stderr

    with Switch(3) as switch:
        assert reaches(0, 2)
        switch.part([[0, 1]])
        assert reaches(0, 1) and not reaches(0, 2)
        switch.part([[0, 1, 2]])
        assert reaches(2, 0)
        name = switch.prefix(0)[3]
    assert name not in subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout


class Recorder:
    id = "me"

    def __init__(self):
        self.sent = []

    def send(self, peer, frame, *, votes):
        self.sent.append(peer)
        return True

    async def request(self, peer, data, *, timeout_ms=0):
        return b"reply"


def test_who_is_cut_off_is_neither_heard_nor_spoken_to():
    async def scenario():
        cut, heard, network = {"far"}, [], Recorder()
        metered = MeteredNetwork(network, Counter(), cut)

        async def take(peer, data):
            heard.append(peer)
            return True

        handlers = metered_handlers(Handlers(topics={"tx": take}, request=take, channel=take), Counter(), cut)
        assert metered.send("near", b"", votes=True) and not metered.send("far", b"", votes=True)
        with pytest.raises(Unreachable):
            await metered.request("far", b"")
        await handlers.channel("far", b"")
        for handler in (handlers.topics["tx"], handlers.request):
            with pytest.raises(NotReady):
                await handler("far", b"")
        cut.clear()
        assert metered.send("far", b"", votes=True) and await metered.request("far", b"") == b"reply"
        await handlers.channel("far", b"")
        assert heard == ["far"] and network.sent == ["near", "far"]

    asyncio.run(scenario())


def test_a_parted_chain_waits_and_goes_on_after_the_heal():
    async def scenario():
        async with Market(authorities=4, block_time_ms=250) as market:
            await market.reach(3)
            names = [place.network.id for place in market.places]
            for index, node in enumerate(market.nodes):
                node.cut_peers([name for other, name in enumerate(names) if other // 2 != index // 2])
            await asyncio.sleep(2)
            stuck = {node.tip.height for node in market.nodes}
            await asyncio.sleep(10)
            assert {node.tip.height for node in market.nodes} == stuck, "two of four are no quorum"
            with pytest.raises(UsageError):
                market.nodes[0].cut_peers([str(number) for number in range(300)])
            for node in market.nodes:
                node.cut_peers([])
            await market.reach(max(stuck) + 5)
            market.agree()

    run(scenario())


# --- real processes ------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("words", [
    ("net", "--nets", "1", "--minutes", "0.15", "--seed", "1", "--max-nodes", "4"), ("restarts", "--rounds", "2"),
])
def test_a_tiny_campaign(words):
    done = CliRunner().invoke(cli, ["lab", *words, "--json"], standalone_mode=False)
    result = json.loads(done.stdout)
    safe = [target for target in result["targets"] if target["unit"] in ("networks", "")]
    assert safe and all(target["ok"] for target in safe), result


@pytest.mark.long
def test_real_processes_recover_with_a_file(tmp_path):
    """Four processes, two are lost, two new ones with new keys take their places; a follower comes along."""
    fresh = [KeyPair.from_seed(bytes([70 + index]) * 32) for index in range(2)]

    async def scenario():
        cluster = Cluster(tmp_path / "net", authorities=4, followers=1, block_time_ms=300)
        try:
            await cluster.start()
            assert await cluster.reach(5, within_s=60)
            await asyncio.gather(*(node.kill() for node in cluster.nodes[2:4]))
            await asyncio.sleep(5)
            stands = cluster.height
            await asyncio.sleep(3)
            assert cluster.height == stands
            async with RemoteChain(cluster.nodes[0].url) as api:
                head, reading = await api.chain_get_header(), await api.chain_get_authorities()
            assert head.height == stands
            members = [(each.session_key, each.account) for each in reading.value[:2]]
            members += [(key.public, reading.value[0].account) for key in fresh]
            file = Recovery(cluster.genesis.genesis_hash, head.height, head.hash, tuple(members), "a drill").check()
            (tmp_path / "recovery.json").write_text(file.text())
            await cluster.stop()
            for node, key in zip(cluster.nodes[2:4], fresh, strict=True):
                _renew(node.home, key)
                node.words += ["--new-sign-db", "--sign-from", str(head.height + 1)]
            for node in cluster.nodes:
                node.words += ["--recovery", str(tmp_path / "recovery.json")]
            await cluster.start()
            assert await cluster.reach(head.height + 5, cluster.nodes, within_s=60)
            assert await cluster.violations() == []
            async with RemoteChain(cluster.nodes[4].url) as api:
                client = LightClient(cluster.genesis.genesis_hash, cluster.genesis.authorities.keys)
                client.recover(file.head_hash, file.keys, file.hash, await api.chain_get_proof_of_finality(head.height))
                assert client.verify(await api.chain_get_proof_of_finality(head.height + 3)).height == head.height + 3
        finally:
            await cluster.stop()

    asyncio.run(scenario())


def _renew(home: Path, key: KeyPair) -> None:
    """Another machine: a new session key, no sign database."""
    shutil.rmtree(home / "sign")
    (home / "session.key").unlink()
    write_key_file(home / "session.key", key, "session", password=None)
