"""The files of a devnet: half-made ones, the lock, and what is left of a run that was killed."""

import json
import subprocess
import sys
import threading
import time

import pytest

from genesis.cast import cast
from ledger.client.keys import DevKeys, read_key_file
from ledger.errors import Locked, UsageError
from tools.devnet import supervisor
from tools.devnet.layout import Layout
from tools.devnet.plan import DevnetPlan
from tools.devnet.prepare import hotkey_path, make

SLEEP = [sys.executable, "-c", "import time; time.sleep(30)", "tools.cli.main"]


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path, "x")


def plan(seed):
    return DevnetPlan("x", seed=seed, instance="00" * 16, genesis_time_ms=0)


def test_a_half_made_devnet_is_made_anew_with_another_seed(layout):
    make(layout, plan(1))
    layout.plan.unlink()  # killed just before the end
    damaged = layout.node(1) / "session.key"
    damaged.write_text("{")
    make(layout, plan(2))
    for index in range(4):
        assert read_key_file(layout.node(index) / "session.key").public == DevKeys(2).session(index).public
    for member in cast(2, 4):
        if member.hotkey is not None and member.role != "owner":
            path = hotkey_path(layout, member)
            assert read_key_file(path).public == member.hotkey.public and path.stat().st_mode & 0o777 == 0o600
    assert DevnetPlan.load(layout).seed == 2


@pytest.mark.parametrize("text", ["seed = ", "seed = " + "9" * 5000, "seed = " + "[" * 5000, 'name = "x"'])
def test_a_damaged_plan_says_so(layout, text):
    make(layout, plan(1))
    layout.plan.write_text(text)
    with pytest.raises(UsageError, match="is damaged"):
        DevnetPlan.load(layout)


def test_making_again_keeps_the_keys(layout):
    make(layout, plan(1))
    before = (layout.node(0) / "session.key").stat().st_mtime_ns
    make(layout, plan(1))
    assert (layout.node(0) / "session.key").stat().st_mtime_ns == before


def test_one_supervisor_at_a_time(layout):
    with supervisor.locked(layout):
        with pytest.raises(Locked), supervisor.locked(layout):
            pass
        assert layout.lock.exists()
    assert not layout.lock.exists()


def test_a_home_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(UsageError, match="cannot be written"), supervisor.locked(Layout(tmp_path / "file", "x")):
        pass


def test_who_waited_for_a_lock_that_was_removed_takes_the_new_one(layout):
    order = []

    def wait():
        with supervisor.locked(layout):
            order.append(layout.lock.exists())

    with supervisor.locked(layout):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
    waiting.join(5)
    assert order == [True] and not layout.lock.exists()


def test_a_process_that_only_has_the_number_of_an_orphan_is_let_be(layout, monkeypatch):
    monkeypatch.setattr(supervisor, "ORPHAN_WAIT_S", 0.1)
    layout.run.mkdir(parents=True)
    table = layout.run / "processes.json"
    with subprocess.Popen(SLEEP) as process:
        try:
            for command in (["quorix", "node"], [*SLEEP, "another"], None, 7):
                table.write_text(json.dumps([{"name": "node", "pid": process.pid, "command": command}, 5, {}]))
                supervisor.wait_for_orphans(layout)
                assert process.poll() is None
            table.write_text(json.dumps([{"name": "node", "pid": process.pid, "command": SLEEP}]))
            supervisor.wait_for_orphans(layout)
            assert process.wait(5) == -9
        finally:
            process.kill()


@pytest.mark.parametrize("text", ["", "{", "5", "[5]", '[{"pid": "x"}]'])
def test_a_damaged_table_of_processes_ends_nobody(layout, text):
    layout.run.mkdir(parents=True)
    (layout.run / "processes.json").write_text(text)
    supervisor.wait_for_orphans(layout)


@pytest.mark.parametrize("seed", [-1, 1 << 64])
def test_a_seed_that_is_none_is_refused_before_anything_is_written(seed):
    with pytest.raises(UsageError, match="a seed is from 0"):
        plan(seed)
