"""A devnet that is stopped, killed and started again: nothing final is lost, no process is left behind."""

import asyncio
import os
import random
import signal
import time

import httpx
import psutil
import pytest

from ledger.client.calls import Wallet
from ledger.client.keys import DevKeys
from ledger.client.remote import RemoteChain
from ledger.errors import Error, UsageError
from tests.devnets import Devnet, devnet

RESUMED_S = 60.0


def pay(net, amount_rao):
    """A transfer that is final before this returns; gives its id and height."""

    async def send():
        async with RemoteChain(net.rpc) as api:
            wallet = Wallet(api, DevKeys(1).key("//owner"))
            to = DevKeys(1).key("//validator//2").public
            return await wallet.submit("accounts.transfer", to=to, amount_rao=amount_rao, keep_alive=True)

    done = asyncio.run(send())
    return done.id, done.height


def look(net, height, ids):
    """(hash of the block at a height, places of extrinsics) as node 0 knows them."""

    async def ask():
        async with RemoteChain(net.rpc) as api:
            header = await api.chain_get_header(height)
            return header.hash, {id: (await api.chain_get_extrinsic(id)).height for id in ids}

    return asyncio.run(ask())


def resumed(net):
    return net.wait_for(lambda lines: next((x for x in lines if "continuing devnet" in x.get("text", "")), None), RESUMED_S)


def killed_again_and_again(net, options, kills, seed, *, whole_group=lambda turn: True):
    """Kill it `kills` times at random moments; after each start compare with everything that was final before."""
    rng, paid = random.Random(seed), {}
    net.up(*options)
    for turn in range(kills):
        net.wait_height(net.height + 2)
        transfer, height = pay(net, 1_000 + turn)
        paid[transfer] = height
        hash_before, _ = look(net, height, ())
        time.sleep(rng.uniform(0.0, 1.0))
        net.family()
        if whole_group(turn):
            net.kill_group()
        else:
            net.process.kill()  # only the supervisor: its children have to notice
            net.process.wait()
        last = max([height, *(line["height"] for line in net.blocks())])
        assert not net.survivors(), f"orphans after kill {turn}"
        net.up(*options)
        assert resumed(net)["height"] >= last, f"kill {turn} lost final blocks"
        net.wait_height(last + 1)
        hash_after, places = look(net, height, list(paid))
        assert hash_after == hash_before and places == paid


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_final(tmp_path, model_cache):
    net = Devnet(tmp_path, model_cache)
    try:
        options = ("--ai", "off", "--block-time", "250ms", "--no-explorer")
        killed_again_and_again(net, options, 3, 1, whole_group=lambda turn: turn != 1)
        before = net.height
        assert net.cli("devnet", "down")["stopped"] and net.process.wait(10) == 0
        assert not net.survivors()
        (row,) = net.cli("devnet", "status")
        assert not row["running"] and row["pid"] is None
        net.up()  # without options it is what it was
        assert resumed(net)["height"] >= before
        assert net.lines()[0]["block_time_ms"] == 250
        net.wait_ready()
        assert net.cli("devnet", "check")["ok"]
        error = net.cli("devnet", "up", "--seed", "7", code=27)["error"]
        net.process.send_signal(signal.SIGINT)  # Ctrl-C
        assert net.process.wait(20) == 0 and error["name"] == "Locked"
        assert net.cli("devnet", "up", "--seed", "7", code=2)["error"]["cause"].endswith("exists with seed = 1")
        assert net.cli("devnet", "reset", "default", "--yes")["reset"]
        assert not net.layout.root.exists() and net.cli("devnet", "status") == []
    finally:
        net.stop()
    assert not net.survivors()


@pytest.mark.long
def test_ten_kills_of_a_whole_market_lose_nothing_final(tmp_path, model_cache):
    net = Devnet(tmp_path, model_cache)
    try:
        killed_again_and_again(net, ("--ai", "tiny"), 10, 2)
        net.wait_ready()
        assert net.cli("devnet", "check")["ok"]
    finally:
        net.stop()
    assert not net.survivors()


def test_a_second_ctrl_c_ends_it_at_once(tmp_path, model_cache):
    net = Devnet(tmp_path, model_cache).up("--ai", "off", "--nodes", "1", "--block-time", "250ms", "--no-explorer")
    try:
        net.wait_height(1)
        net.family()
        net.process.send_signal(signal.SIGINT)
        net.process.send_signal(signal.SIGINT)
        net.process.wait(5)
    finally:
        net.kill_group()
    assert not net.survivors(5)
    net.up("--no-explorer")
    try:
        assert resumed(net)["height"] >= 1
    finally:
        net.stop()


@pytest.mark.long
def test_one_process_for_each_node_survives_the_loss_of_one(tmp_path, model_cache):
    options = ("--ai", "off", "--processes", "--block-time", "500ms")
    with devnet(tmp_path, model_cache, *options) as net:
        net.wait_height(3)
        nodes = [p for p in net.family() if "node" in p.cmdline() and "run" in p.cmdline()]
        assert len(nodes) == 4
        nodes[-1].send_signal(signal.SIGKILL)
        net.wait_height(net.height + 8)  # three of four go on
        net.wait_for(lambda lines: any("is started again" in line.get("text", "") for line in lines))
        deadline = time.monotonic() + RESUMED_S
        while True:
            try:
                report = net.cli("devnet", "check")
                break
            except AssertionError:
                assert time.monotonic() < deadline
                time.sleep(1)
        assert report["ok"]
        assert len({p.pid for p in net.family() if p.is_running() and "node" in p.cmdline()}) >= 4


def test_a_detached_devnet_returns_when_it_is_ready_and_goes_on(tmp_path, model_cache):
    net = Devnet(tmp_path, model_cache, "aside")
    options = ("--ai", "off", "--nodes", "1", "--block-time", "250ms", "--port", "auto", "--detach")
    answer = net.cli("devnet", "up", "aside", *options)
    try:
        assert answer["devnet"] == "aside" and answer["height"] >= 1 and answer["rpc"] == [net.rpc]
        supervisor = psutil.Process(answer["pid"])
        assert "devnet" in supervisor.cmdline()
        assert httpx.get(net.explorer, trust_env=False).status_code == 200
        assert net.cli("devnet", "up", "aside", *options, code=27)["error"]["name"] == "Locked"
    finally:
        assert net.cli("devnet", "down", "aside")["stopped"]
    supervisor.wait(10)


def test_one_node_seals_on_demand(tmp_path, model_cache):
    with devnet(tmp_path, model_cache, "--ai", "off", "--nodes", "1", "--block-time", "instant", "--no-explorer") as net:
        net.wait_for("devnet")
        deadline = time.monotonic() + RESUMED_S
        while not (net.layout.run / "ports.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)

        async def visit():
            async with RemoteChain(net.rpc) as api, RemoteChain(f"unix:{net.layout.run / 'admin.sock'}") as admin:
                while True:
                    try:
                        start = (await api.system_health()).height
                        break
                    except Error:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.1)
                await asyncio.sleep(1.5)
                assert (await api.system_health()).height == start  # nothing to seal, nothing sealed
                wallet = Wallet(api, DevKeys(1).key("//owner"))
                to = DevKeys(1).key("//validator//2").public
                began = time.monotonic()
                done = await wallet.submit("accounts.transfer", to=to, amount_rao=10**9, keep_alive=True)
                assert done.height == start + 1 and time.monotonic() - began < 5
                with pytest.raises(UsageError, match="as soon as there is a transaction"):
                    await admin.dev_seal()
                return done.height

        assert net.wait_height(asyncio.run(visit()))["extrinsics"] == 1


def test_one_node_seals_by_hand(tmp_path, model_cache):
    with devnet(tmp_path, model_cache, "--ai", "off", "--nodes", "1", "--block-time", "manual", "--no-explorer") as net:
        net.wait_for("devnet")
        socket = net.layout.run / "admin.sock"
        deadline = time.monotonic() + RESUMED_S
        while not socket.exists():
            assert time.monotonic() < deadline, net.tail()
            time.sleep(0.05)
        assert os.stat(socket).st_mode & 0o777 == 0o600

        async def visit():
            async with RemoteChain(net.rpc) as api, RemoteChain(f"unix:{socket}") as admin:
                while True:
                    try:
                        assert (await api.system_health()).height == 0
                        break
                    except Error:
                        assert time.monotonic() < deadline
                        await asyncio.sleep(0.1)
                wallet = Wallet(api, DevKeys(1).key("//owner"))
                to = DevKeys(1).key("//validator//2").public
                await wallet.submit("accounts.transfer", to=to, amount_rao=10**9, keep_alive=True, wait="pool")
                await asyncio.sleep(1.0)
                assert (await api.system_health()).height == 0 and len(await api.author_pending_extrinsics()) == 1
                assert await admin.dev_seal() == 1
                assert (await api.chain_get_block(1)).extrinsics[0].call == "accounts.transfer"
                assert await admin.dev_seal(17) == 18
                return [record.epoch for record in (await api.epoch_list(1)).items]

        assert asyncio.run(visit()) == [0]  # an epoch of 15 blocks has ended
        assert net.wait_height(18)["height"] == 18


def test_the_time_to_the_first_block_is_within_the_budget_of_one_node(tmp_path, model_cache):
    """1.5 s on a quiet machine of two cores; ten times that here, where other tests run beside."""
    began = time.monotonic()
    with devnet(tmp_path, model_cache, "--ai", "off", "--nodes", "1", "--block-time", "250ms", "--no-explorer") as net:
        net.wait_height(1)
        assert time.monotonic() - began < 15


@pytest.mark.parametrize(("options", "cause"), [
    (("--nodes", "0"), "1 to 20"), (("--nodes", "4", "--block-time", "instant"), "--nodes 1"),
    (("--block-time", "5"), "block time"), (("--block-time", "10ms"), "block time"), (("--port", "80"), "port base"),
    (("--port", "x"), "port base"),
])
def test_options_that_cannot_be_are_refused_before_anything_is_made(tmp_path, model_cache, options, cause):
    net = Devnet(tmp_path, model_cache)
    error = net.cli("devnet", "up", *options, code=2)["error"]
    assert cause in error["cause"] and not net.layout.plan.exists()
