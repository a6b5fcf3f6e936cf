"""The AI host: one process per neuron and per validator, forked from a server that has imported torch once.

    python -m ai.serve.host CONFIG.json

CONFIG has `neurons` (see `neuron.NeuronConfig`), `workers` (`{"name", "entry": "module:function", "config": {...}}`,
validators for example), defaults for all neurons (`rpc`, `cache`, `recipe`, `train_seed`), and `preload`, the modules
that the fork server imports (default: torch and everything a neuron needs). Models that are not in the cache are trained
first, two at a time; each neuron starts as soon as its model is there. A child that ends by itself is started again.
Reports go to stdout, one JSON object a line:

    {"event": "training", "model": NAME, "share": 0..1}      {"event": "trained", "model": NAME, ...}
    {"event": "serving", "name": NAME, "ip", "port", ...}    {"event": "ready", "name": NAME, ...}: it is on chain too
    {"event": "ended", "name": NAME, "code", "again_in_s"}   {"event": "stopped"}: everything has ended

The host ends when its standard input closes. It imports neither torch nor numpy itself.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import signal
import stat
import sys
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, Final

from ledger.errors import Error, UsageError

from . import worker
from .config import NeuronConfig

CONFIG_MAX_BYTES: Final = 1 << 20
MAX_CHILDREN: Final = 128
TRAINERS: Final = 2
MAX_TRAININGS: Final = 3  # attempts for one model
RESTART_DELAYS_S: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_AFTER_S: Final = 60.0  # a child that ran this long starts over with the shortest delay
STOP_GRACE_S: Final = 8.0
PRELOAD: Final = "ai.serve.preload"
_INHERITED: Final = ("rpc", "cache", "recipe", "train_seed")
_FORKSERVER_LOST: Final = 255  # what multiprocessing says of a child whose fork server died


@dataclass(slots=True)
class HostConfig:
    """The checked configuration file."""

    neurons: list[dict[str, Any]] = field(default_factory=list)
    workers: list[dict[str, Any]] = field(default_factory=list)
    preload: tuple[str, ...] = (PRELOAD,)

    @classmethod
    def read(cls, path: Path) -> HostConfig:
        """Raises UsageError naming what is wrong."""
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(CONFIG_MAX_BYTES))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: {error}") from None
        unknown = sorted(set(value) - {"neurons", "workers", "preload", *_INHERITED})
        if unknown:
            raise UsageError(f"unknown setting {unknown[0]!r} in {path}")
        shared = {name: value[name] for name in _INHERITED if name in value}
        neurons = [{**shared, **neuron} for neuron in value.get("neurons", [])]
        for neuron in neurons:
            NeuronConfig.from_json(neuron)
        workers = value.get("workers", [])
        for entry in workers:
            if set(entry) != {"name", "entry", "config"} or ":" not in str(entry["entry"]):
                raise UsageError(f"a worker needs name, entry (module:function) and config: {entry}")
        names = [part["name"] for part in (*neurons, *workers)]
        if len(names) != len(set(names)) or len(names) > MAX_CHILDREN:
            raise UsageError(f"names must differ, and there may be {MAX_CHILDREN} of them")
        return cls(neurons, workers, tuple(value.get("preload", [PRELOAD])))


class Host:
    """Starts, watches and ends the children."""

    def __init__(self, config: HostConfig) -> None:
        self._config = config
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(list(config.preload))
        self._starter = ThreadPoolExecutor(1)  # a start waits for the fork server's imports
        self._trainers = asyncio.Semaphore(TRAINERS)
        self._trainings: dict[str, asyncio.Task[None]] = {}
        self._running: dict[str, ForkServerProcess] = {}
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set. Raises what made a child impossible to start for good."""
        jobs: list[Coroutine[Any, Any, None]] = [
            self._keep(neuron["name"], "ai.serve.neuron:run", neuron, self._model_of(neuron))
            for neuron in self._config.neurons
        ]
        jobs += [self._keep(part["name"], part["entry"], part["config"]) for part in self._config.workers]
        tasks = [asyncio.create_task(job) for job in jobs]
        stopped = asyncio.create_task(stop.wait())
        try:
            waiting: set[asyncio.Task[Any]] = {stopped, *tasks}
            while not stopped.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done - {stopped}:
                    task.result()
        finally:
            self._stopping = True
            for task in (stopped, *tasks, *self._trainings.values()):
                task.cancel()
            await self._end_all()
            self._starter.shutdown(wait=False, cancel_futures=True)
            worker.report({"event": "stopped"})

    def _model_of(self, neuron: dict[str, Any]) -> Callable[[], Awaitable[None]]:
        """What makes sure that a neuron's model is in the cache, training it where it is not."""
        config = NeuronConfig.from_json(neuron)

        async def ensure() -> None:
            if not config.is_expert or config.weights().exists():
                return
            key = str(config.weights())
            if key not in self._trainings or self._trainings[key].done():
                self._trainings[key] = asyncio.create_task(self._train(config.model, neuron))
            await asyncio.shield(self._trainings[key])

        return ensure

    async def _train(self, model: str, neuron: dict[str, Any]) -> None:
        wanted = {"recipe": "full", "train_seed": 0, "cache": "", **neuron}
        config = {"name": model, **{key: wanted[key] for key in ("recipe", "train_seed", "cache")}}
        async with self._trainers:
            for _ in range(MAX_TRAININGS):
                code = await self._once(f"train {model}", "ai.serve.training:run", config)
                if code == 0 or self._stopping:
                    return
                worker.report({"event": "ended", "name": f"train {model}", "code": code, "again_in_s": 1.0})
                await asyncio.sleep(1.0)
        raise UsageError(f"the model {model} could not be trained", hint="see the host's log")

    async def _keep(
        self, name: str, entry: str, config: dict[str, Any], ready: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Run a child again whenever it ends, after a growing pause; `ready` is awaited before each start."""
        loop, failures = asyncio.get_running_loop(), 0
        while not self._stopping:
            if ready is not None:
                await ready()
            began = loop.time()
            code = await self._once(name, entry, config)
            if self._stopping:
                return
            failures = 0 if loop.time() - began > HEALTHY_AFTER_S else failures + 1
            delay = RESTART_DELAYS_S[min(max(failures - 1, 0), len(RESTART_DELAYS_S) - 1)]
            worker.report({"event": "ended", "name": name, "code": code, "again_in_s": delay})
            await asyncio.sleep(delay)

    async def _once(self, name: str, entry: str, config: dict[str, Any]) -> int:
        """Start a child and wait for its end; its exit code (negative: the signal)."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        process = self._context.Process(target=worker.main, args=(name, entry, config), name=name, daemon=False)
        await loop.run_in_executor(self._starter, self._start, name, process)
        if process.pid is None:
            return 0
        loop.add_reader(process.sentinel, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(process.sentinel)
        process.join()
        code = process.exitcode if process.exitcode is not None else _FORKSERVER_LOST
        if code == _FORKSERVER_LOST:  # the child itself may live on without anybody watching it
            _kill(process.pid)
        self._running.pop(name, None)
        return code

    def _start(self, name: str, process: ForkServerProcess) -> None:
        """In the starter's thread; waits for the fork server's imports the first time."""
        if not self._stopping:
            process.start()
            self._running[name] = process
            worker.report({"event": "started", "name": name, "pid": process.pid})

    async def _end_all(self) -> None:
        """SIGTERM to all, SIGKILL to those that stay."""
        await asyncio.get_running_loop().run_in_executor(self._starter, lambda: None)  # a start on its way is over
        children = list(self._running.values())
        for process in children:
            process.terminate()
        deadline = asyncio.get_running_loop().time() + STOP_GRACE_S
        while any(process.is_alive() for process in children) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.02)
        for process in children:
            if process.is_alive():
                process.kill()
            process.join(1.0)


def _kill(pid: int | None) -> None:
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


async def _main(path: Path) -> None:
    host = Host(HostConfig.read(path))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    if sys.stdin.isatty():
        loop.add_signal_handler(signal.SIGINT, stop.set)
    else:
        loop.add_signal_handler(signal.SIGINT, lambda: None)  # Ctrl-C reaches the whole group; the life line decides
        if stat.S_ISFIFO(os.fstat(0).st_mode) or stat.S_ISSOCK(os.fstat(0).st_mode):
            loop.add_reader(0, lambda: stop.set() if not os.read(0, 4096) else None)
    await host.run(stop)


def main(arguments: list[str]) -> int:
    """Run the host; the exit code of the process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m ai.serve.host CONFIG.json\n")
        return UsageError.exit_code
    try:
        asyncio.run(_main(Path(arguments[0])))
    except Error as error:
        worker.report({"event": "failed", "error": error.name, "cause": error.cause, "hint": error.hint})
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
