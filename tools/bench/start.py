"""Starting a whole devnet: from the command to the first RPC answer, the first final block, answering neurons, first pay.

Runs the command that a person runs, `quorix devnet up`, in a home of its own on free ports, with the models of the shared
cache (which it fills first where they are missing: then the time until neurons answer is that of a cold start, and no
target). Afterwards the CPU time of all its processes is taken while it idles, which here means: while validators probe.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
import psutil

from ledger.errors import Error
from tools.lab.frame import Run, benchmark

POLL_S: Final = 0.02
PATIENCE_S: Final = 900.0
STOP_S: Final = 45.0

# (authorities) -> (first RPC answer, first final block), in seconds
LIMITS: Final = {1: (1.5, 1.5), 4: (1.5, 4.0)}
NEURONS_LIMIT_S: Final = 20.0
PAY_LIMIT_S: Final = 45.0


@benchmark("start", about="a devnet from the command to RPC, first block, neurons and first pay; its idle CPU", seconds=150)
@click.option("--idle", "idle_s", type=click.IntRange(0, 3600), default=45, show_default=True, help="Seconds of idling.")
@click.option("--ai", type=click.Choice(["off", "tiny", "full"]), default="full", show_default=True, help="Neurons.")
def start(run: Run, idle_s: int, ai: str) -> None:
    """Wall times of a warm start with one and with four authorities; CPU of the latter while idle."""
    with _Devnet(nodes=1, ai="off") as single:
        run.note("one authority")
        _first_block(run, single, 1)
    with _Devnet(nodes=4, ai=ai) as devnet:
        run.note("four authorities")
        _first_block(run, devnet, 4)
        if ai != "off":
            ready_s = devnet.wait(lambda: any(line.get("ready") for line in devnet.lines()))
            trained = any(line.get("event") == "training" for line in devnet.lines())
            (run.figure if trained else _limited(run, NEURONS_LIMIT_S))("neurons answer", round(ready_s, 2))
            paid_s = devnet.wait(devnet.somebody_was_paid)
            run.at_most("first pay after neurons answer", round(paid_s - ready_s, 2), PAY_LIMIT_S, "s")
        if idle_s:
            run.note(f"idling for {idle_s} s")
            cpu, memory = devnet.idle(idle_s)
            run.figure("idle CPU, cores", cpu)
            run.figure("memory, MiB", memory)


def _first_block(run: Run, devnet: _Devnet, nodes: int) -> None:
    rpc_limit, block_limit = LIMITS[nodes]
    name = "authority" if nodes == 1 else "authorities"
    run.at_most(f"first RPC answer, {nodes} {name}", round(devnet.wait(lambda: devnet.height() is not None), 2), rpc_limit, "s")
    block_s = devnet.wait(lambda: (devnet.height() or 0) >= 1)
    run.at_most(f"first final block, {nodes} {name}", round(block_s, 2), block_limit, "s")


def _limited(run: Run, limit_s: float) -> Callable[[str, Any], None]:
    return lambda name, measured: run.at_most(name, measured, limit_s, "s")


class _Devnet:
    """`quorix devnet up` as a child, watched from outside."""

    def __init__(self, *, nodes: int, ai: str) -> None:
        self.words = ["devnet", "up", "--port", "auto", "--nodes", str(nodes), "--ai", ai]

    def __enter__(self) -> _Devnet:
        self._folder = tempfile.TemporaryDirectory(prefix="quorix-bench-")
        home = Path(self._folder.name)
        self._output = home / "out"
        self._started = time.monotonic()
        with self._output.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tools.cli.main", *self.words], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env={**os.environ, "QUORIX_HOME": str(home)},
            )
        self._url: str | None = None
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()

    def wait(self, condition: Callable[[], bool]) -> float:
        """Seconds from the start until the condition held. Raises Error if the devnet ends before."""
        while not condition():
            if self._process.poll() is not None or time.monotonic() - self._started > PATIENCE_S:
                raise Error("the devnet ended or hangs: " + self._output.read_text(errors="replace")[-400:])
            time.sleep(POLL_S)
        return time.monotonic() - self._started

    def lines(self) -> list[dict[str, Any]]:
        """What it has printed so far."""
        found = []
        for text in self._output.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict):
                found.append(line)
        return found

    def height(self) -> int | None:
        """Height by RPC, None while nothing answers."""
        import urllib.error
        import urllib.request

        if self._url is None:
            first = next((line for line in self.lines() if line.get("event") == "devnet"), None)
            if first is None:
                return None
            self._url = str(first["rpc"][0])
        body = b'{"jsonrpc":"2.0","id":1,"method":"system_health","params":{}}'
        request = urllib.request.Request(self._url, body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=2) as reply:
                return int(json.load(reply)["result"]["height"])
        except (OSError, urllib.error.URLError, KeyError, ValueError):
            return None

    def somebody_was_paid(self) -> bool:
        """A block line names neurons that earned."""
        return any(line.get("top") for line in self.lines() if line.get("event") == "block")

    def idle(self, seconds: int) -> tuple[float, int]:
        """(cores used on average, resident MiB at the end) of all processes of the devnet; short-lived ones are missed."""
        family = [psutil.Process(self._process.pid), *psutil.Process(self._process.pid).children(recursive=True)]
        before = {p.pid: _cpu_s(p) for p in family}
        time.sleep(seconds)
        used = sum(max(0.0, _cpu_s(p) - before[p.pid]) for p in family)
        return round(used / seconds, 3), sum(_memory(p) for p in family) >> 20


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _memory(process: psutil.Process) -> int:
    """Private and a share of shared memory where the system tells, else resident."""
    try:
        found = process.memory_full_info()
        return int(getattr(found, "pss", found.rss))
    except psutil.Error:
        return 0
