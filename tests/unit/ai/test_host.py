"""The AI host as the devnet runs it: a process with a pipe for its life line."""

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager

import psutil
import pytest

from ai.serve.host import HostConfig
from ledger.errors import UsageError

NEURON = {"name": "n", "model": "code", "netuids": [1], "rpc": ["http://x"], "home": "/tmp/x", "seed_hex": "11" * 32}
WORKER = {"name": "w", "entry": "m:f", "config": {}}

# What the host's children run: a worker that says its process and waits, one that ends by itself, one that cannot stop.
ENTRIES = """
import asyncio, os, sys, time
def steady(config, report, stop):
    report({"event": "up", "pid": os.getpid(), "shared": "fractions" in sys.modules, **config})
    asyncio.run(wait(report, stop))
async def wait(report, stop):
    await stop()
    report({"event": "down"})
def failing(config, report, stop):
    raise ValueError("on purpose")
def busy(config, report, stop):
    report({"event": "up", "pid": os.getpid()})
    while True:
        time.sleep(0.01)
"""


class HostProcess:
    def __init__(self, process):
        self.process, self.lines = process, []

    async def until(self, event, name=None, seconds=15):
        """The next line of that event, and of that child."""
        async with asyncio.timeout(seconds):
            while True:
                raw = await self.process.stdout.readline()
                assert raw, self.lines
                line = json.loads(raw)
                self.lines.append(line)
                if line["event"] == event and name in (None, line.get("name")):
                    return line


@asynccontextmanager
async def host(tmp_path, config):
    (tmp_path / "entries.py").write_text(ENTRIES)
    (tmp_path / "host.json").write_text(json.dumps(config))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ai.serve.host", str(tmp_path / "host.json"),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, env=environment,
    )
    try:
        yield HostProcess(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def worker(name, entry, **config):
    return {"name": name, "entry": f"entries:{entry}", "config": config}


async def gone(*pids, seconds=5):
    async with asyncio.timeout(seconds):
        while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids):
            await asyncio.sleep(0.02)


async def test_children_share_imports_are_restarted_and_end_with_the_life_line(tmp_path):
    workers = [worker("one", "steady", colour="red"), worker("bad", "failing")]
    async with host(tmp_path, {"workers": workers, "preload": ["fractions"]}) as running:
        first = await running.until("up", "one")
        assert first["shared"] and first["colour"] == "red"
        await running.until("ended", "bad")
        ends = [line for line in running.lines if line["event"] == "ended"]
        assert [line["again_in_s"] for line in ends] == [0.5, 1.0][: len(ends)] and {line["code"] for line in ends} == {1}
        assert {line["cause"] for line in running.lines if line["event"] == "crashed"} == {"ValueError: on purpose"}
        os.kill(first["pid"], signal.SIGKILL)
        ended = await running.until("ended", "one")
        assert ended["code"] == -signal.SIGKILL
        second = await running.until("up", "one")
        assert second["pid"] != first["pid"]
        running.process.send_signal(signal.SIGINT)  # Ctrl-C reaches the group; the life line decides
        family = [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
        running.process.stdin.close()
        await running.until("down", "one")
        await running.until("stopped")
        assert await running.process.wait() == 0
        await gone(*family)


async def test_a_killed_host_leaves_no_orphan(tmp_path):
    async with host(tmp_path, {"workers": [worker("one", "steady")], "preload": []}) as running:
        up = await running.until("up")
        family = [child.pid for child in psutil.Process(running.process.pid).children(recursive=True)]
        assert up["pid"] in family
        running.process.kill()
        await running.process.wait()
        await gone(*family)


async def test_a_child_that_does_not_listen_is_ended_too(tmp_path):
    async with host(tmp_path, {"workers": [worker("one", "busy")], "preload": []}) as running:
        up = await running.until("up")
        running.process.terminate()
        await running.until("stopped")
        assert await running.process.wait() == 0
        await gone(up["pid"])


async def test_a_wrong_file_is_named(tmp_path):
    async with host(tmp_path, {"workers": [], "colour": 1}) as running:
        failed = await running.until("failed")
        assert "colour" in failed["cause"] and await running.process.wait() == UsageError.exit_code


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("not json", "Expecting"),
        ({"neurons": [{**NEURON, "colour": 1}]}, "colour"),
        ({"neurons": [NEURON, NEURON]}, "differ"),
        ({"workers": [{**WORKER, "entry": "no function"}]}, "module:function"),
        ({"workers": [{"name": "w"}]}, "module:function"),
        ({"neurons": [NEURON], "workers": [{**WORKER, "name": "n"}]}, "differ"),
        ({"workers": [{**WORKER, "name": str(n)} for n in range(129)]}, "128"),
    ],
)
def test_mistakes_are_found_before_anything_starts(tmp_path, config, named):
    path = tmp_path / "host.json"
    path.write_text(config if isinstance(config, str) else json.dumps(config))
    with pytest.raises(UsageError, match=named):
        HostConfig.read(path)


def test_defaults_are_for_all_neurons(tmp_path):
    neuron = {key: value for key, value in NEURON.items() if key != "rpc"}
    (tmp_path / "host.json").write_text(json.dumps({"rpc": ["http://a"], "recipe": "tiny", "neurons": [neuron]}))
    [found] = HostConfig.read(tmp_path / "host.json").neurons
    assert found["rpc"] == ["http://a"] and found["recipe"] == "tiny"
    with pytest.raises(UsageError):
        HostConfig.read(tmp_path / "absent.json")


def test_the_host_imports_neither_torch_nor_numpy():
    import subprocess

    code = "import sys, ai, ai.serve.host; print([m for m in ('torch', 'numpy', 'httpx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
