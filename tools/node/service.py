"""The node service: one process, several nodes. The one place where files, threads, sockets, RPC and p2p are joined.

    start   self-test, RPC ports, databases, RPC answers  ->  libp2p is imported, peers  ->  consensus
    run     until SIGTERM, SIGINT, the end of standard input (if asked), `admin_shutdown`, or a node's own fault
    stop    RPC, then the nodes: nothing new is taken in, the disk ends what it has begun; pools are kept; sign databases
            are closed, then chains, then the network. A second signal ends the process at once.

The process's exit code is 0, or that of the fault (`ledger.errors`), whose details are then in HOME/incident/.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from ledger import crypto
from ledger.client.connections import is_local
from ledger.client.ending import on_end_of_stdin
from ledger.client.records import to_json
from ledger.errors import DiskFailure, Error, InvariantBroken, NotFound, NotReady, UsageError
from p2p.addresses import Address, parse_address, peer_id_of
from p2p.network import Network
from tools.rpc.app import RpcApp
from tools.rpc.jsonrpc import Dispatcher
from tools.rpc.limits import Limits
from tools.rpc.methods import NodeApi
from tools.rpc.server import RpcServer, listen_tcp, listen_unix

from .checkpoint import parse_checkpoint
from .config import NodeConfig
from .counters import RpcCounters
from .disk import DiskGuard, Free, free_bytes
from .home import Databases, Specification, open_databases, read_pool, write_file
from .metrics import CONTENT_TYPE, Exposition, Observed
from .node import Node, Parts
from .shell import SystemClock, exit_code_of
from .threads import Threads, Workers, settle_interpreter

MAX_NODES: Final = 20
POOL_KEPT_S: Final = 10.0
JSON_TYPE: Final = "application/json"

Announce = Callable[[dict[str, Any]], None]


@dataclass
class _Running:
    """One node with what the service must close again."""

    config: NodeConfig
    databases: Databases
    node: Node
    disk: Workers
    api: NodeApi
    counters: RpcCounters
    server: RpcServer
    app: RpcApp
    network: Network | None = None


@dataclass
class Journal:
    """A node's log. Until logging is set up (after RPC answers), entries wait."""

    name: str
    waiting: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    log: Any = None

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        if self.log is None:
            self.waiting.append((level, event, fields))
        else:
            getattr(self.log, level)(event.replace(" ", "_"), **to_json(fields))

    def open(self) -> None:
        """Logging is set up: write what waited."""
        from . import logs

        self.log = logs.logger("node", node=self.name)
        for level, event, fields in self.waiting:
            self(level, event, **fields)
        self.waiting.clear()

    def flush(self) -> None:
        """Where the start failed before logging was set up, entries still come out."""
        if self.waiting:
            self.open()


def run_nodes(configs: Sequence[NodeConfig], *, announce: Announce, follow_stdin: bool = False) -> int:
    """Run the nodes until they are stopped; returns the exit code. `announce` gets what a supervisor wants to know."""
    if sys.flags.optimize:
        raise UsageError("refuses to run with python -O, which strips assertions")
    if not 0 < len(configs) <= MAX_NODES:
        raise UsageError(f"one process runs 1 to {MAX_NODES} nodes, not {len(configs)}")
    crypto.self_test()
    settle_interpreter()
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Service(configs, announce).run(follow_stdin=follow_stdin))


class Service:
    """See the module."""

    def __init__(self, configs: Sequence[NodeConfig], announce: Announce, *, free: Free = free_bytes) -> None:
        self.configs, self.announce = configs, announce
        self.version = version("quorix")
        self.running: list[_Running] = []
        self.journals = [Journal(str(index)) for index in range(len(configs))]
        self._stop = asyncio.Event()
        self._threads: Threads | None = None
        self._admin: RpcServer | None = None
        self._signals = 0
        self._disk = DiskGuard([config.home for config in configs], self.journals, free)
        self._exposition: Exposition | None = None

    async def run(self, *, follow_stdin: bool) -> int:
        """Start, wait, stop. Raises the error that prevented the start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        if follow_stdin:
            on_end_of_stdin(self._stop.set)
        code = 0
        try:
            await self._open()
            await self._restore_pools()
            await self._connect()
            await asyncio.to_thread(self._open_logs)
            self._freeze()
            code = await self._wait()
        finally:
            await self._close()
            for journal in self.journals:
                journal.flush()
        return code

    # --- start ---------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Databases and RPC: from here on the nodes answer."""
        self._disk.check()
        self._threads = Threads()
        specifications: dict[Path, Specification] = {}
        for config in self.configs:
            if config.spec not in specifications:
                specifications[config.spec] = _specification(config)
        listeners = [_listen(config) for config in self.configs]
        for index, (config, listener) in enumerate(zip(self.configs, listeners, strict=True)):
            self.running.append(self._make(index, config, specifications[config.spec], listener))
        self._exposition = Exposition(
            [
                Observed(str(i), each.node, each.counters, each.config.chain_path, lambda each=each: each.app.subscriptions)  # type: ignore[misc]
                for i, each in enumerate(self.running)
            ],
            self.version,
        )
        await asyncio.gather(*(each.server.start() for each in self.running))
        await self._open_admin_socket()
        self.announce({"event": "rpc", "urls": [_url(each) for each in self.running]})

    def _make(self, index: int, config: NodeConfig, specification: Specification, listener: Any) -> _Running:
        assert self._threads is not None
        databases = open_databases(config, specification)
        states_from = databases.chain.first_readable_height()
        if config.history == "archive" and states_from > databases.chain.params.genesis_height:
            self.journals[index]("warning", "archive begins late", states_from=states_from)  # the rest was never kept here
        disk = self._threads.disk(str(index))
        node = Node(
            Parts(
                name=str(index), chain=databases.chain, domains=databases.domains, threads=self._threads, disk=disk,
                clock=SystemClock(), journal=self.journals[index], session_key=databases.session_key,
                signer=databases.signer, watch_first=databases.watch_first, sign_from=config.sign_from,
                checkpoint=parse_checkpoint(config.checkpoint),
                node_version=self.version,
            ),
            may_build=lambda: self._disk.may_build(index),
        )
        api = NodeApi(node, specification.spec, self.version, self._stop.set)
        counters, limits = RpcCounters(), Limits()
        dispatcher = Dispatcher(api, limits, observe=counters.observe)
        names = [*config.rpc_names, config.rpc_host]
        app = RpcApp(dispatcher, self._pages(api), hosts=names, origins=config.rpc_origins)
        return _Running(config, databases, node, disk, api, counters, RpcServer(app, listener, limits), app)

    async def _open_admin_socket(self) -> None:
        """One for the process; it serves the first node's API with the unsafe methods."""
        first = self.running[0]
        if first.config.admin_socket is None:
            return
        limits = Limits()
        app = RpcApp(Dispatcher(first.api, limits, unsafe=True), self._pages(first.api), local=True)
        self._admin = RpcServer(app, listen_unix(first.config.admin_socket), limits)
        await self._admin.start()

    async def _restore_pools(self) -> None:
        """Transactions that waited when the nodes were stopped; RPC answers already."""
        for each in self.running:
            try:
                await each.node.relay.restore(read_pool(each.config.pool_path))
            except (OSError, NotReady) as error:
                each.node.parts.journal("warning", "kept transactions lost", cause=str(error))

    def _open_logs(self) -> None:
        """Last, because its import takes as long as everything before RPC answers; entries have waited."""
        from . import logs

        logs.set_up(self.configs[0].log)
        for journal in self.journals:
            journal.open()

    async def _connect(self) -> None:
        """Networks and consensus, side by side for all nodes; a lone authority needs no network."""
        for each in self.running:
            if _wants_network(each):
                from p2p.service import Libp2pNetwork

                config, spec = each.config, each.api.spec
                each.network = Libp2pNetwork(
                    each.databases.node_key.seed, (config.p2p_host, config.p2p_port), each.node.chain.params.genesis_hash,
                    each.node.handlers(), static_peers=self._peers_of(each), allow_private=spec.allow_private,
                    book_path=config.book_path,
                )
        await self._start_all()
        for index, each in enumerate(self.running):
            addresses = each.network.addresses() if each.network is not None else []
            self.announce({
                "event": "started", "node": index, "role": each.node.role, "rpc": _url(each), "p2p": addresses,
                "height": each.node.tip.height,
            })

    def _freeze(self) -> None:
        """What is alive now stays alive: the collector need not look at it again."""
        gc.collect()
        gc.freeze()

    async def _start_all(self) -> None:
        """Start the nodes; a stop meanwhile ends that, a failure of one is raised."""
        starting: asyncio.Future[Any] = asyncio.gather(*(each.node.start(each.network) for each in self.running))
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
        finally:
            for future in (starting, stopping):
                future.cancel()
            await asyncio.gather(starting, stopping, return_exceptions=True)

    def _peers_of(self, each: _Running) -> list[str]:
        """Static peers: those configured, and the other nodes of this process."""
        own = peer_id_of(each.databases.node_key.seed)
        found = dict.fromkeys(each.config.peers)
        for other in self.running:
            config = other.config
            if other is not each and config.p2p_port:
                peer = peer_id_of(other.databases.node_key.seed)
                family = "ip6" if ":" in config.p2p_host else "ip4"
                found.setdefault(str(Address(family, config.p2p_host, config.p2p_port, peer)))
        return [address for address in found if parse_address(address).peer != own]

    # --- run -----------------------------------------------------------------------------------------------------------

    async def _wait(self) -> int:
        """Until something ends it. Returns the exit code."""
        disk: asyncio.Future[Any] = asyncio.ensure_future(self._disk.watch())
        stopping: asyncio.Future[Any] = asyncio.ensure_future(self._stop.wait())
        enough = asyncio.Event()
        keeping: asyncio.Future[Any] = asyncio.ensure_future(self._keep_pools(enough))
        ended: list[asyncio.Future[Any]] = [each.node.ended for each in self.running]
        try:
            await asyncio.wait([disk, stopping, *ended], return_when=asyncio.FIRST_COMPLETED)
            for each in self.running:
                if each.node.ended.done():
                    return self._report(each, each.node.ended.result())
            if disk.done():
                return self._report(self.running[0], disk.exception() or DiskFailure("the disk watch ended"))
            return 0
        finally:
            for task in (disk, stopping):
                task.cancel()
            enough.set()
            await asyncio.gather(disk, stopping, keeping, return_exceptions=True)

    async def _keep_pools(self, enough: asyncio.Event) -> None:
        """Now and then what waits is written, for a node that is killed; a stop writes it again and synced."""
        kept = dict.fromkeys((each.node for each in self.running), 0)
        while not enough.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(enough.wait(), POOL_KEPT_S)
                return
            for each in self.running:
                pool = each.node.pool
                if pool.changes == kept[each.node]:
                    continue
                kept[each.node] = pool.changes
                try:
                    await asyncio.to_thread(write_file, each.config.pool_path, pool.dump(), sync=lambda _: None)
                except OSError as error:
                    each.node.parts.journal("warning", "pool not kept", cause=str(error))

    def _report(self, each: _Running, error: BaseException) -> int:
        """Keep the details of a fault, say what happened, and give its exit code."""
        code = exit_code_of(error)
        incident = {
            "error": type(error).__name__, "cause": str(error), "exit_code": code,
            "height": each.node.tip.height, **each.node.incident,
        }
        path = each.config.home / "incident" / f"{each.node.tip.height}-{code}.json"
        hint = error.hint if isinstance(error, Error) else ""
        try:
            if isinstance(error, InvariantBroken) and error.dump:
                block = path.with_suffix(".block")
                write_file(block, error.dump)
                hint = hint or f"quorix db replay {block}"
                incident["reproduce"] = f"quorix db replay {block}"
            write_file(path, json.dumps(to_json(incident), indent=1).encode())
        except OSError:
            path = Path("-")
        self.announce({"event": "fault", "node": each.node.parts.name, "code": code, "cause": str(error), "hint": hint,
                       "incident": str(path)})
        if not isinstance(error, Error):
            each.node.parts.journal("error", "bug", error=repr(error), traceback=_traceback(error))
        return code

    def _signalled(self) -> None:
        self._signals += 1
        if self._signals > 1:
            os._exit(130)
        self._stop.set()

    # --- stop ----------------------------------------------------------------------------------------------------------

    async def _close(self) -> None:
        """Everything that was opened, in order; goes on whatever fails."""
        servers = [each.server for each in self.running] + ([self._admin] if self._admin else [])
        await asyncio.gather(*(server.stop() for server in servers), return_exceptions=True)
        for outcome in await asyncio.gather(*(each.node.stop() for each in self.running), return_exceptions=True):
            if isinstance(outcome, BaseException):
                self.announce({"event": "trouble", "cause": f"while stopping: {outcome!r}"})
        for each in self.running:
            try:
                write_file(each.config.pool_path, each.node.pool.dump())
            except OSError as error:
                self.announce({"event": "trouble", "cause": f"the pool was not kept: {error}"})
            await asyncio.to_thread(each.disk.close)
        if self._threads is not None:
            await asyncio.to_thread(self._threads.close)
        for each in self.running:
            each.databases.close()

    # --- pages -----------------------------------------------------------------------------------------------------------

    def _pages(self, api: NodeApi) -> dict[str, Any]:
        node = api.node

        async def alive() -> tuple[int, str, bytes]:
            return 200, JSON_TYPE, _json({"alive": True, "height": node.tip.height})

        async def ready() -> tuple[int, str, bytes]:
            health = node.health()
            return (200 if health.ready else 503), JSON_TYPE, _json(to_json(health))

        async def numbers() -> tuple[int, str, bytes]:
            assert self._exposition is not None and self._threads is not None
            return 200, CONTENT_TYPE, await self._threads.read.call(self._exposition.text)

        async def openrpc() -> tuple[int, str, bytes]:
            from tools.rpc.openrpc import document

            return 200, JSON_TYPE, _json(document())

        async def about() -> tuple[int, str, bytes]:
            params = node.chain.params
            return 200, JSON_TYPE, _json({
                "version": self.version, "chain": api.spec.name, "genesis_hash": to_json(params.genesis_hash),
                "runtime_version": node.chain.machine.version_at(node.chain.view()), "python": sys.version.split()[0],
            })

        return {"/healthz": alive, "/readyz": ready, "/metrics": numbers, "/openrpc.json": openrpc, "/version": about}


# --- helpers ---------------------------------------------------------------------------------------------------------


def _specification(config: NodeConfig) -> Specification:
    """The chain's specification. Raises NotFound, with what is missing, for a home that holds no node."""
    if config.spec.parent == config.home and not config.spec.exists():
        what = "holds no node: it has no spec.toml" if config.home.exists() else "does not exist"
        raise NotFound(f"{config.home} {what}", hint=f"quorix node init --home {config.home} --spec FILE")
    return Specification.load(config.spec)


def _listen(config: NodeConfig) -> Any:
    if not config.rpc_external and not is_local(config.rpc_host) and config.rpc_host != "localhost":
        raise UsageError(
            f"RPC on {config.rpc_host} can be reached by other machines",
            hint="add --rpc-external if that is meant; dev_ and admin_ methods stay on the admin socket",
        )
    return listen_tcp(config.rpc_host, config.rpc_port)


def _wants_network(each: _Running) -> bool:
    config, chain = each.config, each.node.chain
    if config.p2p != "auto":
        return config.p2p == "on"
    alone = len(chain.authorities().keys) == 1 and each.node.role == "authority"
    return not alone or bool(config.peers)


def _url(each: _Running) -> str:
    host, port = each.server.address[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _traceback(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-8000:]
