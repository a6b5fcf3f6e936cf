"""Real devnets for tests: started by the command that a user types, on free ports, in a home of their own, always stopped.

    with devnet(home, cache, "--ai", "off") as net:
        net.wait_for("block")
        assert net.cli("devnet", "status")[0]["running"]

A devnet runs in a process group of its own, so that it can be killed whole. It gets SIGTERM from the kernel when the test
process dies, whatever that dies of.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tools.devnet.layout import Layout, Ports

QUORIX = (sys.executable, "-m", "tools.cli.main")
START_S = 90.0
STOP_S = 40.0
READY_S = 300.0  # includes training five small experts on a busy machine
CLI_S = 120.0
POLL_S = 0.05
_PR_SET_PDEATHSIG = 1


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class CommandFailed(AssertionError):
    """A command ended with another exit code than the test expects."""


class Devnet:
    """One named devnet of a home, whether it runs or not."""

    def __init__(self, home: Path, cache: Path, name: str = "default") -> None:
        self.layout = Layout(home, name)
        self.home, self.cache, self.name = home, cache, name
        self.process: subprocess.Popen[bytes] | None = None
        self.runs = 0
        self._known: set[psutil.Process] = set()

    @property
    def environment(self) -> dict[str, str]:
        own = {"QUORIX_HOME": str(self.home), "QUORIX_CACHE": str(self.cache), "PYTHONUNBUFFERED": "1"}
        return {**{k: v for k, v in os.environ.items() if not k.startswith("QUORIX_")}, **own}

    # --- start and stop

    def up(self, *options: str) -> Devnet:
        """Start it and return at once; what it prints goes to files."""
        assert self.process is None or self.process.poll() is not None
        self.runs += 1
        self.home.mkdir(parents=True, exist_ok=True)
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*QUORIX, "devnet", "up", self.name, "--port", "auto", *options], stdin=subprocess.DEVNULL, stdout=out,
                stderr=err, env=self.environment, start_new_session=True, preexec_fn=_end_with_parent,
            )
        return self

    @property
    def out(self) -> Path:
        return self.home / f"{self.name}.{self.runs}.out"

    @property
    def err(self) -> Path:
        return self.home / f"{self.name}.{self.runs}.err"

    def stop(self) -> int:
        """SIGTERM and wait; kills what stays. Returns the exit code."""
        assert self.process is not None
        self.family()
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.kill_group()
                raise AssertionError(f"devnet {self.name} did not stop within {STOP_S:g} s: {self.tail()}") from None
        return self.process.returncode

    def kill_group(self) -> None:
        """SIGKILL to the supervisor and everything it started."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait(STOP_S)

    def family(self) -> set[psutil.Process]:
        """All processes that were ever seen to belong to it."""
        if self.process is not None and self.process.poll() is None:
            try:
                parent = psutil.Process(self.process.pid)
                self._known |= {parent, *parent.children(recursive=True)}
            except psutil.Error:
                pass
        return self._known

    def survivors(self, patience_s: float = 20.0) -> list[psutil.Process]:
        """Those of the family that still run after the patience."""
        _, alive = psutil.wait_procs(list(self._known), timeout=patience_s)
        return [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]

    # --- what it says

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines printed so far in this run; the last may still be in the making."""
        texts = self.out.read_text().split("\n")[:-1]
        return [json.loads(text) for text in texts]

    def blocks(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["event"] == "block"]

    def wait_for(self, what: str | Callable[[list[dict[str, Any]]], Any], within_s: float = START_S) -> Any:
        """Wait for a line of that event, or until the function of all lines gives something true; returns it."""
        deadline = time.monotonic() + within_s
        while True:
            lines = self.lines()
            found = next((line for line in lines if line["event"] == what), None) if isinstance(what, str) else what(lines)
            if found:
                return found
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"devnet {self.name} ended with {self.process.returncode}: {self.tail()}")
            if time.monotonic() > deadline:
                raise AssertionError(f"not seen within {within_s:g} s: {what}: {self.tail()}")
            time.sleep(POLL_S)

    def wait_ready(self, within_s: float = READY_S) -> dict[str, Any]:
        """Until every neuron answers."""
        return self.wait_for(lambda lines: next((line for line in lines if line.get("ready")), None), within_s)

    def wait_height(self, height: int, within_s: float = START_S) -> dict[str, Any]:
        return self.wait_for(
            lambda lines: next((x for x in lines if x["event"] == "block" and x["height"] >= height), None), within_s
        )

    @property
    def height(self) -> int:
        """Of the newest block it printed."""
        return max((line["height"] for line in self.blocks()), default=0)

    def tail(self) -> str:
        logs = sorted(self.layout.logs.glob("*.jsonl")) if self.layout.logs.is_dir() else []
        parts = [path.read_text(errors="replace")[-600:] for path in (self.out, self.err, *logs) if path.exists()]
        return " | ".join(part for part in parts if part)

    # --- doors

    @property
    def ports(self) -> Ports:
        return Ports.load(self.layout)

    @property
    def rpc(self) -> str:
        return self.ports.url(self.ports.rpc(0))

    @property
    def explorer(self) -> str:
        return self.ports.url(self.ports.explorer)

    @property
    def gateway(self) -> str:
        return self.ports.url(self.ports.gateway) + "/v1"

    def cli(self, *words: str, code: int = 0) -> Any:
        """Run `quorix WORDS --json` against it; returns the JSON document. Raises CommandFailed for another exit code."""
        done = subprocess.run(
            [*QUORIX, *words, "--json"], env=self.environment, capture_output=True, stdin=subprocess.DEVNULL, timeout=CLI_S,
            check=False,
        )
        if done.returncode != code:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise CommandFailed(f"quorix {' '.join(words)} ended with {done.returncode}, expected {code}: {said[-2000:]}")
        return json.loads(done.stdout)


@contextmanager
def devnet(home: Path, cache: Path, *options: str, name: str = "default") -> Iterator[Devnet]:
    """A running devnet; afterwards it is stopped and none of its processes is left."""
    net = Devnet(home, cache, name).up(*options)
    try:
        yield net
    finally:
        if net.process is not None and net.process.poll() is None:
            net.stop()
    left = net.survivors()
    for process in left:
        process.kill()
    assert not left, f"still running after the stop: {left}"
