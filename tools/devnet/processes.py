"""Child processes of a devnet: started with a pipe as their life line, logged, restarted, stopped in order.

Every child ends when its standard input closes, so `kill -9` of the supervisor leaves no orphan. A child that writes
JSON lines to stdout reports through them; its stderr goes to `logs/NAME.jsonl`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STOP_GRACE_S = 15.0
RESTART_DELAYS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
MAX_LINE_BYTES = 64 * 1024
LOG_BYTES_KEPT = 20 << 20
FATAL_CODES = range(20, 28)  # a node fault: restarting would repeat it


@dataclass
class Child:
    """One command of the devnet."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    restart: bool = True
    niceness: int = 0  # models yield to consensus where processors are few
    on_line: Callable[[dict[str, Any]], None] = lambda line: None
    process: asyncio.subprocess.Process | None = None
    restarts: int = 0
    last_code: int | None = None
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=20))


def command(*words: str) -> list[str]:
    """A `quorix` command line in this interpreter."""
    return [sys.executable, "-m", "tools.cli.main", *words]


class Processes:
    """Starts and stops the children; `failed` is set, with the reason, when one ends for good by itself.

    `on_change` is called after each start and restart, `on_end` when a child ended by itself and will be restarted.
    """

    def __init__(
        self, logs: Path, on_change: Callable[[], None] = lambda: None, on_end: Callable[[Child], None] = lambda child: None
    ) -> None:
        self.logs, self.on_change, self.on_end = logs, on_change, on_end
        self.children: list[Child] = []
        self.failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    async def start(self, child: Child) -> None:
        self.children.append(child)
        await self._spawn(child)
        self._tasks.append(asyncio.create_task(self._watch(child), name=f"watch {child.name}"))

    async def _spawn(self, child: Child) -> None:
        self.logs.mkdir(parents=True, exist_ok=True)
        log = self.logs / f"{child.name}.jsonl"
        if log.exists() and log.stat().st_size > LOG_BYTES_KEPT:
            log.replace(log.with_suffix(".jsonl.1"))
        with log.open("ab") as stderr:
            child.process = await asyncio.create_subprocess_exec(
                *child.command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=stderr,
                env={**os.environ, **child.environment}, limit=MAX_LINE_BYTES,
                preexec_fn=(lambda: os.nice(child.niceness) and None) if child.niceness else None,
            )
        self.on_change()

    async def _watch(self, child: Child) -> None:
        while not self._stopping:
            assert child.process is not None
            await self._read_lines(child)
            child.last_code = await child.process.wait()
            if self._stopping:
                return
            if not child.restart or child.last_code in FATAL_CODES:
                log = self.logs / f"{child.name}.jsonl"
                self._fail(f"{child.name} ended with exit code {child.last_code}; its log is {log}")
                return
            delay = RESTART_DELAYS_S[min(child.restarts, len(RESTART_DELAYS_S) - 1)]
            child.restarts += 1
            self.on_end(child)
            await asyncio.sleep(delay)
            if not self._stopping:
                await self._spawn(child)

    async def _read_lines(self, child: Child) -> None:
        assert child.process is not None and child.process.stdout is not None
        while True:
            try:
                raw = await child.process.stdout.readline()
            except ValueError:  # a line over the limit: not ours
                continue
            if not raw:
                return
            text = raw.decode("utf-8", "replace").rstrip()
            child.recent.append(text)
            with contextlib.suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict):
                    child.on_line(line)

    def _fail(self, reason: str) -> None:
        if not self.failed.done():
            self.failed.set_result(reason)

    async def stop(self, names: Sequence[str], grace_s: float = STOP_GRACE_S) -> None:
        """Close the life line of the named children, side by side; those that stay after the grace are killed."""
        self._stopping = True
        await asyncio.gather(*(self._stop_one(c, grace_s) for c in self.children if c.name in names))

    async def _stop_one(self, child: Child, grace_s: float) -> None:
        process = child.process
        if process is None or process.returncode is not None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), grace_s)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def expect_ends(self) -> None:
        """From now on a child that ends is no news: Ctrl-C reaches all processes of a terminal at the same time."""
        self._stopping = True

    def kill_all(self) -> None:
        """Second Ctrl-C: end everything at once."""
        self._stopping = True
        for child in self.children:
            if child.process is not None and child.process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    child.process.kill()

    async def close(self) -> None:
        """Let go of what belongs to the event loop."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for child in self.children:
            if child.process is not None:  # a killed child's own children may hold its pipes open longer than we live
                child.process._transport.close()  # type: ignore[attr-defined]  # there is no public way
        await asyncio.sleep(0)  # the transports finish in callbacks

    def table(self) -> list[dict[str, Any]]:
        """For run/processes.json: a pid alone may be another program's by the time somebody reads it."""
        return [
            {
                "name": c.name, "pid": None if c.process is None else c.process.pid, "restarts": c.restarts,
                "command": list(c.command),
            }
            for c in self.children
        ]
