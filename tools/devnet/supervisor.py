"""The supervisor: prepares a devnet's files, starts the commands that an operator would run, shows them, stops them.

It knows no secret that is not in the devnet's public cast, and imports neither libp2p, numpy nor torch. Nothing else in
Quorix knows that a devnet exists. Ctrl-C stops everything in order and keeps the state; a second one ends it at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TextIO

from genesis.cast import cast
from ledger.errors import Error, Locked, Timeout, Unreachable, UsageError
from tools.cli.output import Output

from . import prepare
from .layout import Layout, Ports, claim_ports
from .plan import DevnetPlan, write_atomic
from .processes import Child, Processes, command
from .status import Status, Tally, banner

if TYPE_CHECKING:
    from ledger.client.remote import RemoteChain

NODES_START_S: Final = 30.0
NICENESS: Final = 5
SMALL_NODES: Final = {"QUORIX_WRITE_BUFFER_MIB": "4"}  # many on one machine
CLOCK_JUMP_MS: Final = 2_000
ORPHAN_WAIT_S: Final = 15.0
LOCK_ATTEMPTS: Final = 10
LOCK_PAUSE_S: Final = 0.05
STOP_ORDER: Final = (("gateway",), ("ai",), ("explorer",), ("node",))  # prefixes of child names


@contextmanager
def locked(layout: Layout) -> Iterator[None]:
    """Only one supervisor per devnet. The kernel lets go of the lock when the process dies. Raises Locked, or UsageError
    where nothing can be written."""
    try:
        layout.run.mkdir(parents=True, exist_ok=True)
        file, taken = _open_lock(layout.lock)
    except OSError as error:
        cause = f"the devnet's files cannot be written in {layout.home}: {error.strerror}"
        raise UsageError(cause, hint="choose another place with --home or QUORIX_HOME") from None
    with file:
        if not taken:
            file.seek(0)
            pid = file.read().strip()
            hint = f"quorix devnet status {layout.name}, or quorix devnet down {layout.name}"
            raise Locked(f"devnet {layout.name!r} runs already (process {pid})", hint=hint) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        for name in ("ports.json", "ready.json"):  # of a run that was killed
            (layout.run / name).unlink(missing_ok=True)
        try:
            yield
        finally:
            for name in ("ports.json", "ready.json", "processes.json"):
                (layout.run / name).unlink(missing_ok=True)
            layout.lock.unlink(missing_ok=True)


def _open_lock(path: Path) -> tuple[TextIO, bool]:
    """The file and whether its lock is ours. One that its last holder removed while we waited locks nobody out."""
    while True:
        file = path.open("a+")
        if not _take(file):
            return file, False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file, True
        file.close()


def _take(file: TextIO) -> bool:
    """Take the lock; `devnet status`, which looks at it for a moment, is waited for."""
    for _ in range(LOCK_ATTEMPTS):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(LOCK_PAUSE_S)
    return False


def open_plan(layout: Layout, wanted: dict[str, Any], *, deterministic: bool) -> tuple[DevnetPlan, bool]:
    """The devnet's plan and whether it is new. Raises UsageError if a choice differs from the one it was made with."""
    if layout.exists():
        plan = DevnetPlan.load(layout)
        fixed = {k: v for k, v in wanted.items() if k not in ("ai", "processes", "cast")}
        changed = plan.changed(fixed)
        if changed:
            names = ", ".join(f"{name} = {getattr(plan, name)}" for name in changed)
            hint = f"quorix devnet reset {layout.name}, or another name"
            raise UsageError(f"devnet {layout.name!r} exists with {names}", hint=hint)
        free = {k: v for k, v in wanted.items() if k in ("ai", "processes", "cast") and v is not None}
        return DevnetPlan(**{**plan.__dict__, **free}), False
    given = {name: value for name, value in wanted.items() if value is not None}
    instance = bytes(16) if deterministic else secrets.token_bytes(16)
    started = 0 if deterministic else time.time_ns() // 1_000_000
    return DevnetPlan(layout.name, **given, instance=instance.hex(), genesis_time_ms=started), True


class Supervisor:
    """One run of a devnet."""

    def __init__(
        self, layout: Layout, plan: DevnetPlan, ports: Ports, out: Output, *, explorer: bool, full: bool, fresh: bool
    ) -> None:
        self.layout, self.plan, self.ports, self.out = layout, plan, ports, out
        self.explorer, self.full, self.fresh = explorer, full, fresh
        self.tally = Tally()
        self.stop = asyncio.Event()
        self.connected: set[str] = set()  # RPC addresses of nodes that reported their start
        self.nodes_started = asyncio.Event()
        self.stops = 0
        self.status: Status | None = None
        self.started = time.monotonic()

    async def run(self) -> None:
        """Until Ctrl-C, SIGTERM, or a child that cannot go on. Raises Unreachable in the last case."""
        loop = asyncio.get_running_loop()
        processes = Processes(self.layout.logs, lambda: self._write_table(processes), self._ended)
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signal, processes)
        chain = f"quorix-dev-{self.plan.seed}"
        members = cast(self.plan.seed, self.plan.nodes)
        banner(
            self.out, self.plan, self.ports, members, chain, version("quorix"), self.full, explorer=self.explorer,
            fresh=self.fresh,
        )
        with Status(self.out, self.plan.neurons, self.tally, seal=self.plan.seal) as status:
            self.status = status
            tasks: list[asyncio.Task[Any]] = []
            try:
                await self._start_nodes(processes)
                tasks = [asyncio.create_task(job) for job in (self._follow(status), self._start_market(processes))]
                ended = asyncio.create_task(self.stop.wait())
                await self._until_over({ended, processes.failed, *tasks})
                ended.cancel()
                if processes.failed.done():
                    raise Unreachable(processes.failed.result(), hint="mend the cause and start again: nothing final is lost")
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                status.say("stopping: gateway, neurons and validators, explorer, nodes")
                await self._stop(processes)
        again = "quorix devnet up" + ("" if self.plan.name == "default" else f" {self.plan.name}")
        self.out.remark(f"stopped; the state of devnet {self.plan.name!r} is kept. `{again}` goes on from there.")

    async def _until_over(self, waiting: set[asyncio.Future[Any]]) -> None:
        """Until the stop, a child that failed for good, or a task of ours that failed, whose error is raised."""
        while not self.stop.is_set():
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                failed = task.result()
                if isinstance(failed, str):  # the reason why a child cannot go on
                    return

    def _signal(self, processes: Processes) -> None:
        self.stops += 1
        self.stop.set()
        processes.expect_ends()
        if self.stops > 1:
            processes.kill_all()

    # --- start

    async def _start_nodes(self, processes: Processes) -> None:
        write_atomic(self.layout.run / "ports.json", json.dumps(self.ports.to_json()).encode())
        for child in self._nodes():
            await processes.start(child)

    async def _start_market(self, processes: Processes) -> None:
        """Everything but the nodes, once these are connected: a first block does not wait for models to load."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.nodes_started.wait(), NODES_START_S)
        cache, one_thread = prepare.cache_directory(), {"OMP_NUM_THREADS": "1"}
        rpc = self.ports.url(self.ports.rpc(0))
        if self.plan.ai != "off":
            config = prepare.ai_config(self.layout, self.plan, self.ports, cache)
            host = [*command()[:1], "-m", "ai.serve.host", str(config)]
            await processes.start(Child("ai", host, one_thread, niceness=NICENESS, on_line=self._line))
            key = self.layout.root / "gateway" / "hotkey.key"
            gateway = command(
                "gateway", "serve", "--rpc", rpc, "--key", str(key), "--state", str(self.layout.root / "gateway"),
                "--host", self.ports.host, "--port", str(self.ports.gateway), "--cache", str(cache), "--follow-stdin",
            )
            await processes.start(Child("gateway", gateway, one_thread, niceness=NICENESS, on_line=self._line))
        if self.explorer:
            explorer = command(
                "explorer", "serve", "--rpc", rpc, "--host", self.ports.host, "--port", str(self.ports.explorer),
                "--gateway", self.ports.url(self.ports.gateway), "--follow-stdin",
            )
            await processes.start(Child("explorer", explorer))

    def _nodes(self) -> list[Child]:
        """`quorix node run`: one process with all nodes, or one each."""
        plan, ports = self.plan, self.ports
        groups = [[i] for i in range(plan.nodes)] if plan.processes else [list(range(plan.nodes))]
        children = []
        for group in groups:
            words = ["node", "run", "--spec", str(self.layout.spec), "--rpc-host", ports.host, "--follow-stdin"]
            for index in group:
                words += ["--home", str(self.layout.node(index))]
            words += ["--rpc-port", str(ports.rpc(group[0])), "--p2p-port", str(ports.p2p(group[0]))]
            words += ["--admin-socket", str(self.layout.run / f"admin{'' if group[0] == 0 else group[0]}.sock")]
            if plan.nodes > 1:
                for index in range(plan.nodes):
                    words += ["--peer", prepare.node_address(self.layout, ports, index)]
            name = "node" if not plan.processes else f"node-{group[0]}"
            children.append(Child(name, command(*words), SMALL_NODES, on_line=self._line))
        return children

    def _write_table(self, processes: Processes) -> None:
        write_atomic(self.layout.run / "processes.json", json.dumps(processes.table()).encode())

    def _line(self, line: dict[str, Any]) -> None:
        self.tally.note(line)
        if line.get("event") == "started" and "role" in line:
            self.connected.add(str(line.get("rpc")))
            if len(self.connected) >= self.plan.nodes:
                self.nodes_started.set()

    def _ended(self, child: Child) -> None:
        """A child ended by itself and is started again: say so, since nothing else would."""
        log = self.layout.logs / f"{child.name}.jsonl"
        text = f"{child.name} ended with exit code {child.last_code} and is started again; its log is {log}"
        self.tally.trouble = text
        if self.status is not None:
            self.status.say(text, restarts=child.restarts)

    # --- follow

    async def _follow(self, status: Status) -> None:
        """Show each final block; notice when all neurons answer, and when the machine's clock jumped."""
        from ledger.client.remote import RemoteChain  # only here: the nodes are started without waiting for its import

        async with RemoteChain(self.ports.url(self.ports.rpc(0))) as api:
            height = await self._first_answer(api)
            if not self.fresh:
                status.say(f"continuing devnet {self.plan.name!r} at final block {height}", height=height)
            names = {m.hotkey.public: m.name for m in cast(self.plan.seed, self.plan.nodes) if m.hotkey is not None}
            drawing = asyncio.create_task(self._draw(status, height))
            clock = _clock_gap_ms()
            try:
                async for head in api.chain_subscribe_new_heads():
                    with contextlib.suppress(Error):
                        subnets = (await api.subnet_list()).value
                        if any(e.name == "EpochRan" for e in head.events) or not self.tally.earned_rao:
                            await self._earnings(api, [s.netuid for s in subnets], names)
                        status.block(head, subnets)
                    gap = _clock_gap_ms()
                    if abs(gap - clock) > CLOCK_JUMP_MS:
                        status.say(f"the machine's clock moved by {(gap - clock) / 1000:+.1f} s: blocks may pause for a moment")
                        clock = gap
            finally:
                drawing.cancel()

    async def _first_answer(self, api: RemoteChain) -> int:
        deadline = time.monotonic() + NODES_START_S
        while True:
            try:
                return int((await api.system_health()).height)
            except Error:
                if time.monotonic() > deadline:
                    raise Timeout(f"no node answers at {api.url}", hint=f"see {self.layout.logs}/node.jsonl") from None
                await asyncio.sleep(0.1)

    async def _earnings(self, api: RemoteChain, netuids: list[int], names: dict[bytes, str]) -> None:
        earned: dict[str, int] = {}
        for netuid in netuids:
            for neuron in (await api.subnet_get_metagraph(netuid)).value.neurons:
                name = neuron.name or names.get(neuron.hotkey, str(neuron.uid))
                if neuron.incentive:
                    earned[name] = earned.get(name, 0) + neuron.emission_rao
        self.tally.earned_rao = earned

    async def _announce_ready(self, status: Status, height: int) -> None:
        """Once: all neurons answer, explorer and gateway can be reached. `up --detach` waits for the file."""
        path = self.layout.run / "ready.json"
        if not path.exists() and set(self.plan.neurons) <= self.tally.ready and await self._doors_open():
            seconds = round(time.monotonic() - self.started, 1)
            write_atomic(path, json.dumps({"height": height, "seconds": seconds}).encode())
            who = f": {len(self.plan.neurons)} neurons answer" if self.plan.neurons else ""
            status.say(f"ready after {seconds} s{who}", seconds=seconds, ready=True)

    async def _doors_open(self) -> bool:
        doors = [self.ports.explorer] * self.explorer + [self.ports.gateway] * (self.plan.ai != "off")
        for port in doors:
            try:
                _, writer = await asyncio.open_connection(self.ports.host, port)
            except OSError:
                return False
            writer.close()
        return True

    async def _draw(self, status: Status, first: int) -> None:
        """Twice a second, blocks or not: with instant sealing there may be none for long."""
        while True:
            status.draw()
            await self._announce_ready(status, first if status.head is None else status.head.header.height)
            await asyncio.sleep(0.5)

    # --- stop

    async def _stop(self, processes: Processes) -> None:
        for prefixes in STOP_ORDER:
            names = [c.name for c in processes.children if c.name.split("-")[0] in prefixes]
            await processes.stop(names)
        await processes.close()


def _clock_gap_ms() -> int:
    return time.time_ns() // 1_000_000 - time.monotonic_ns() // 1_000_000


def wait_for_orphans(layout: Layout) -> None:
    """After a kill of the supervisor its children end by themselves; whoever stays too long is ended here."""
    import psutil

    try:
        rows = json.loads((layout.run / "processes.json").read_text())
    except (OSError, ValueError):
        return
    rows = rows if isinstance(rows, list) else []
    commands = {row.get("pid"): row.get("command") for row in rows if isinstance(row, dict)}
    left = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.info["cmdline"] and process.info["cmdline"] == commands.get(process.pid):
            with contextlib.suppress(psutil.Error):
                left += [process, *process.children(recursive=True)]
    _, alive = psutil.wait_procs(left, timeout=ORPHAN_WAIT_S)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()


def up(
    layout: Layout, wanted: dict[str, Any], out: Output, *, port: str | None, host: str, deterministic: bool,
    explorer: bool, full: bool,
) -> None:
    """Prepare and run a devnet until it is stopped; without a `port`, at that of its last run."""
    with locked(layout):
        wait_for_orphans(layout)
        plan, fresh = open_plan(layout, wanted, deterministic=deterministic)
        ports, claim = claim_ports(port or str(layout.last_base()), plan.nodes, len(plan.neurons), host)
        with claim:
            if fresh:
                prepare.make(layout, plan)
            else:
                plan.save(layout)
            layout.keep_base(ports.base)
            asyncio.run(Supervisor(layout, plan, ports, out, explorer=explorer, full=full, fresh=fresh).run())
