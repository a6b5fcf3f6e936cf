"""The guard over free disk space, with a disk of our own invention, and a node on a disk that is really full."""

import asyncio
import os
import subprocess
import time

import pytest

from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger.errors import DiskFailure
from tools.node.config import load_config
from tools.node.disk import FULL_BYTES, LOW_BYTES, DiskGuard, free_bytes
from tools.node.home import Specification, make_home
from tools.node.service import Service
from tools.ops import db_upkeep
from tools.ops.db_home import stopped_node


def test_a_node_stops_proposing_and_then_stops(tmp_path):
    free, said = {"a": LOW_BYTES, "b": LOW_BYTES}, []

    def journal(level, event, **fields):
        said.append(fields)

    guard = DiskGuard([tmp_path / "a", tmp_path / "b"], [journal, journal], lambda home: free[home.name])
    guard.check()
    assert guard.may_build(0) and guard.may_build(1) and not said
    free["b"] = LOW_BYTES - 1
    guard.check()
    guard.check()
    assert guard.may_build(0) and not guard.may_build(1)
    assert said == [{"free_mib": 1023, "proposing": False}]
    free["b"] = LOW_BYTES
    guard.check()
    assert guard.may_build(1) and said[-1]["proposing"]
    free["a"] = FULL_BYTES - 1
    with pytest.raises(DiskFailure) as caught:
        asyncio.run(guard.watch())
    assert caught.value.exit_code == 24 and "255 MiB are free" in caught.value.cause and "nothing is lost" in caught.value.hint


def test_free_space_of_a_folder_that_is_not_there_yet(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") == pytest.approx(free_bytes(tmp_path), rel=0.2)


def test_a_node_does_not_start_on_a_full_disk(tmp_path):
    text = format_spec(devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000))
    home = tmp_path / "node"
    home.mkdir()
    (home / "spec.toml").write_text(text)
    make_home(home, Specification.load(home / "spec.toml"))
    config = load_config(home, {"rpc_port": 0, "p2p": "off"}, {})
    before = {path.name: path.stat().st_mtime_ns for path in (home / "chain").iterdir()}
    with pytest.raises(DiskFailure):
        asyncio.run(Service([config], lambda line: None, free=lambda folder: FULL_BYTES - 1).run(follow_stdin=False))
    assert {path.name: path.stat().st_mtime_ns for path in (home / "chain").iterdir()} == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 6 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", folder]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("making a small disk needs root")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.long
def test_a_node_on_a_disk_that_fills_up_stops_and_goes_on_when_there_is_space(small_disk):
    text = format_spec(devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000))
    home = small_disk / "node"
    home.mkdir()
    (home / "spec.toml").write_text(text)
    key = next(member.session for member in cast(1, 1) if member.session is not None)
    make_home(home, Specification.load(home / "spec.toml"), session_key=key)
    config = load_config(home, {"rpc_port": 0, "p2p": "off", "seal": "manual"}, {})
    ballast = small_disk / "ballast"
    free = os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize
    ballast.write_bytes(bytes(free - (300 << 10)))

    async def until_full():
        lines = []
        service = Service([config], lines.append, free=lambda folder: 1 << 40)
        running = asyncio.ensure_future(service.run(follow_stdin=False))
        sealed = 0
        while not running.done():
            await asyncio.sleep(0.01)
            if service.running and service.running[0].node.shell.booted:
                node = service.running[0].node
                waiting = asyncio.ensure_future(node.seal(20))
                await asyncio.wait([running, waiting], return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                sealed = node.tip.height
        return await running, sealed, lines

    code, sealed, lines = asyncio.run(until_full())
    assert code == 24 and sealed > 20
    fault = next(line for line in lines if line["event"] == "fault")
    assert "the disk is full" in fault["cause"] and "free some space" in fault["hint"]
    with pytest.raises(DiskFailure, match="the disk is full"), stopped_node(home):
        pass
    ballast.unlink()
    with stopped_node(home) as node:
        assert node.chain.head.height >= sealed and node.guard.signed_height >= sealed
    assert db_upkeep.check(home, None, deep=True, progress=lambda *_: None)["ok"]
