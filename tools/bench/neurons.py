"""The AI host's nine neurons: how soon all answer, how much memory they take together, and how one that is killed comes back.

A devnet of one authority without neurons runs beside; the host starts as the devnet's supervisor starts it, with the cast's
keys and the models of the shared cache (where they are missing they are trained first, and the time is no target). Each
neuron is asked once before memory is taken: private pages, and shared ones by share.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Final

import psutil

from ledger.errors import Timeout
from tools.bench.start import _Devnet, _memory
from tools.lab.frame import Run, benchmark

READY_LIMIT_S: Final = 10.0
MEMORY_LIMIT_MIB: Final = 450
BACK_LIMIT_S: Final = 10.0
PATIENCE_S: Final = 600.0
POLL_S: Final = 0.02
SEED: Final = 1  # the devnet's default
VICTIM: Final = "code"


@benchmark("neurons", about="nine neurons under the AI host: time, memory, and one that is killed", seconds=60)
def neurons(run: Run) -> None:
    """Seconds until all nine answer, MiB together, seconds until a killed one is back."""
    from genesis.cast import NEURONS

    with _Devnet(nodes=1, ai="off") as devnet, tempfile.TemporaryDirectory(prefix="quorix-bench-") as folder:
        devnet.wait(lambda: (devnet.height() or 0) > 0)
        assert devnet._url is not None
        with _Host(Path(folder), devnet._url, list(NEURONS)) as host:
            ready_s = host.wait(lambda: host.count("ready") == len(NEURONS))
            warm = not host.count("trained")
            if warm:
                run.at_most("nine neurons ready", round(ready_s, 2), READY_LIMIT_S, "s")
            else:
                run.figure("nine neurons trained and ready, s", round(ready_s, 2))
            asyncio.run(_ask_each(devnet._url))
            run.at_most("memory of the nine together", host.memory_mib(neurons_only=True), MEMORY_LIMIT_MIB, "MiB")
            run.figure("memory with host and fork server, MiB", host.memory_mib())
            began = host.kill(VICTIM)
            noticed_s = host.wait(lambda: host.count("ended")) - began
            back_s = host.wait(lambda: host.count("ready") > len(NEURONS)) - began
            run.figure("a killed one noticed, s", round(noticed_s, 2))
            run.at_most("a killed one back", round(back_s, 2), BACK_LIMIT_S, "s")
            run.figure("host's CPU, s", host.cpu_s())


async def _ask_each(url: str) -> None:
    """One question to each neuron, over a signed session."""
    from ai.client import Client

    async with await Client.connect(url) as client:
        for netuid in (1, 2):
            for neuron in await client.neurons(netuid):
                await client.distribution(netuid, neuron.hotkey, [b"the quick brown fox "], timeout_ms=30_000)


class _Host:
    """`python -m ai.serve.host`, watched by what it prints."""

    def __init__(self, folder: Path, url: str, names: list[str]) -> None:
        from genesis.cast import cast

        members = {member.name: member for member in cast(SEED, 1) if member.role == "neuron"}
        entries = []
        for name in names:
            key = members[name].hotkey
            assert key is not None
            entries.append({
                "name": name, "model": name, "netuids": list(members[name].subnets), "home": str(folder / name),
                "seed_hex": key.seed.hex(), "poll_seconds": 1.0,
            })
        from ai.files import cache_dir

        self._config = folder / "host.json"
        self._config.write_text(json.dumps({"neurons": entries, "rpc": [url], "cache": str(cache_dir())}))
        self._lines: list[dict[str, Any]] = []

    def __enter__(self) -> _Host:
        self._started = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "ai.serve.host", str(self._config)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.append(json.loads(line))

    def count(self, event: str) -> int:
        """How often it reported that."""
        return sum(1 for line in list(self._lines) if line.get("event") == event)

    def wait(self, condition: Any) -> float:
        """Seconds from the start until the condition held. Raises Timeout."""
        while not condition():
            if self._process.poll() is not None or time.monotonic() - self._started > PATIENCE_S:
                raise Timeout(f"the host ended or hangs: {self._lines[-3:]}")
            time.sleep(POLL_S)
        return time.monotonic() - self._started

    def kill(self, name: str) -> float:
        """SIGKILL to that neuron; seconds from the start until now."""
        pid = next(line["pid"] for line in reversed(self._lines) if line.get("event") == "started" and line["name"] == name)
        os.kill(pid, signal.SIGKILL)
        return time.monotonic() - self._started

    def _family(self) -> list[psutil.Process]:
        parent = psutil.Process(self._process.pid)
        return [parent, *parent.children(recursive=True)]

    def memory_mib(self, *, neurons_only: bool = False) -> int:
        """Of the neurons, with their share of what is shared; else of the host and its fork server, too."""
        neurons = {line["pid"] for line in list(self._lines) if line.get("event") == "started"}
        return sum(_memory(p) for p in self._family() if not neurons_only or p.pid in neurons) >> 20

    def cpu_s(self) -> float:
        """CPU time of those that live."""
        return round(sum(sum(process.cpu_times()[:2]) for process in self._family()), 1)
