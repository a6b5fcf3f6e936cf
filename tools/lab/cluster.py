"""Real node processes on loopback: started, killed, paused, parted, put under load, and watched over RPC.

Everything is what an operator runs: `quorix node run`, one process for each node, a home for each, libp2p between them.
With a `Switch` each node has a network of its own, and its admin socket is what the observer talks to.
The cluster keeps what it saw: every final block that each node announced, how long it took from the proposal to final
there, and every process that ended by itself. The keys and the plan of a net come from its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger.blocks import Extrinsic
from ledger.client.keys import DevKeys, write_key_file
from ledger.client.remote import RemoteChain
from ledger.crypto import KeyPair
from ledger.errors import Error
from p2p.addresses import Address, peer_id_of
from runtime.dispatch import call_number
from tools.lab.switch import Switch

START_S: Final = 90.0
STOP_S: Final = 20.0
RPC_S: Final = 10.0
POLL_S: Final = 0.05
MAX_SEEN: Final = 100_000  # heads remembered of one node
MAX_LINE_BYTES: Final = 64 * 1024
LOAD_RAO: Final = 1_000_000
PAGE: Final = 100
EVIDENCE_PREFIX: Final = (94).to_bytes(2, "big")


@dataclass(frozen=True)
class Seen:
    """A final block as one node announced it. `at_s` is the monotonic clock of the observer."""

    at_s: float
    height: int
    hash: bytes
    finality_ms: int
    round: int


@dataclass
class Process:
    """One node: its home, its process, what it said. `url` and `role` are known once it is up."""

    index: int
    home: Path
    peer: str
    p2p_port: int
    words: list[str]
    prefix: tuple[str, ...] = ()  # of the command, if the node has a network of its own
    child: asyncio.subprocess.Process | None = None
    url: str = ""
    role: str = ""
    started_s: float = 0.0
    paused: bool = False
    meant: bool = False  # it is to end now: we kill or stop it
    seen: list[Seen] = field(default_factory=list)
    faults: list[dict[str, Any]] = field(default_factory=list)
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.child is not None and self.child.returncode is None

    @property
    def admin_url(self) -> str:
        return f"unix:{self.home / 'admin.sock'}"

    @property
    def height(self) -> int:
        """Of the newest final block it announced."""
        return self.seen[-1].height if self.seen else -1

    async def start(self) -> None:
        """Begin the process; `up` waits until it is ready."""
        assert not self.running
        self.meant, self.paused = False, False
        self._up.clear()
        self.started_s = time.monotonic()
        with (self.home / "log.jsonl").open("ab") as log:
            self.child = await asyncio.create_subprocess_exec(
                *self.prefix, sys.executable, "-m", "tools.cli.main", "node", "run", "--home", str(self.home), *self.words,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=log, limit=MAX_LINE_BYTES,
                env={**_environment(), "QUORIX_HOME": str(self.home)},
            )
        self._tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._watch())]

    async def up(self) -> None:
        """Until consensus has begun. Raises Error if the process ends before."""
        waiting = asyncio.ensure_future(self._up.wait())
        ending = asyncio.ensure_future(self._ended())
        done, _ = await asyncio.wait({waiting, ending}, timeout=START_S, return_when=asyncio.FIRST_COMPLETED)
        for task in (waiting, ending):
            task.cancel()
        if waiting not in done:
            raise Error(f"node {self.index} did not start: {self.faults or self.log_tail()}")

    async def _ended(self) -> None:
        assert self.child is not None
        await self.child.wait()

    async def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """End it: at once, or with SIGTERM in good order."""
        self.meant = True
        if self.running:
            assert self.child is not None
            if self.paused:
                self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(number)
            try:
                await asyncio.wait_for(self.child.wait(), STOP_S)
            except TimeoutError:
                self.child.kill()
                await self.child.wait()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def pause(self, stop: bool) -> None:
        """SIGSTOP, or SIGCONT: the process sees its clocks jump."""
        if self.running and self.child is not None:
            self.child.send_signal(signal.SIGSTOP if stop else signal.SIGCONT)
            self.paused = stop

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return (self.home / "log.jsonl").read_text(errors="replace")[-2000:]
        return ""

    async def _read(self) -> None:
        """Its reports: where RPC answers, when it is up, what stopped it."""
        assert self.child is not None and self.child.stdout is not None
        while raw := await self.child.stdout.readline():
            try:
                line = json.loads(raw)
            except ValueError:
                continue
            if line.get("event") == "rpc":
                self.url = self.admin_url if self.prefix else line["urls"][0]
            elif line.get("event") == "started":
                self.role = line["role"]
                self._up.set()
            elif line.get("event") == "fault" or "error" in line:
                self.faults.append(line)
        await self.child.wait()
        if not self.meant:
            self.faults.append({"event": "ended", "code": self.child.returncode})

    async def _watch(self) -> None:
        """Follow its heads for as long as it runs."""
        while not self.url or not self._up.is_set():
            await asyncio.sleep(POLL_S)
        while True:
            try:
                async with RemoteChain(self.url) as api:
                    async for new in api.chain_subscribe_new_heads():
                        header = new.header
                        if len(self.seen) < MAX_SEEN:
                            self.seen.append(Seen(
                                time.monotonic(), header.height, header.hash, new.finality_ms, header.proposal_round,
                            ))
            except Error:
                await asyncio.sleep(POLL_S)


class Cluster:
    """The nodes of one net: the first `authorities` of them make blocks, the others follow."""

    def __init__(
        self, folder: Path, *, authorities: int, followers: int = 0, block_time_ms: int = 250, seed: int = 1,
        words: Sequence[str] = (), switch: Switch | None = None, **changes: Any,
    ) -> None:
        self.folder, self.seed, self.authorities, self.switch = folder, seed, authorities, switch
        self.keys = DevKeys(seed)
        spec = devnet_spec(
            seed, authorities=authorities, instance=random.Random(seed).randbytes(16), block_time_ms=block_time_ms,
            genesis_time_ms=time.time_ns() // 1_000_000, name=f"net-{seed}", **changes,
        )
        self.genesis = build_genesis(spec)
        self.block_time_ms, self.session_blocks = spec.block_time_ms, spec.session_blocks
        folder.mkdir(parents=True, exist_ok=True)
        self.spec = folder / "spec.toml"
        self.spec.write_text(format_spec(spec))
        self.nodes = [self._node(index, port, words) for index, port in enumerate(_free_ports(authorities + followers))]
        for node in self.nodes:
            others = [
                str(Address("ip4", self._host(each.index), each.p2p_port, each.peer)) for each in self.nodes if each is not node
            ]
            node.words += [word for address in others for word in ("--peer", address)]

    def _node(self, index: int, port: int, words: Sequence[str]) -> Process:
        home = self.folder / f"node-{index}"
        home.mkdir(parents=True)
        key = self.keys.key(f"//net//{index}//node")
        write_key_file(home / "node.key", key, "node", password=None)
        if index < self.authorities:
            write_key_file(home / "session.key", self.keys.session(index), "session", password=None)
        return Process(index, home, peer_id_of(key.seed), port, [
            "--spec", str(self.spec), "--rpc-port", "0", "--p2p-host", self._host(index), "--p2p-port", str(port),
            "--follow-stdin", "--log", "info", *words,
        ], self.switch.prefix(index) if self.switch else ())

    def _host(self, index: int) -> str:
        return self.switch.address(index) if self.switch else "127.0.0.1"

    # --- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """All nodes, side by side, until each has begun."""
        await asyncio.gather(*(node.start() for node in self.nodes))
        await asyncio.gather(*(node.up() for node in self.nodes))

    async def stop(self) -> None:
        await asyncio.gather(*(node.kill(signal.SIGTERM) for node in self.nodes))

    def live(self) -> list[Process]:
        return [node for node in self.nodes if node.running and not node.paused]

    @property
    def height(self) -> int:
        return max(node.height for node in self.nodes)

    async def reach(self, height: int, nodes: Iterable[Process] | None = None, *, within_s: float) -> bool:
        """True once all these nodes (all live ones) have announced the height; False if that takes too long."""
        waiting = list(self.live() if nodes is None else nodes)
        deadline = time.monotonic() + within_s
        while any(node.height < height for node in waiting):
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def part(self, groups: Sequence[Sequence[int]]) -> None:
        """Only nodes of one group hear each other; one group of all heals. Nodes that do not answer are left as they are."""
        if self.switch is not None:
            await asyncio.to_thread(self.switch.part, groups)
            return
        for node in self.live():
            own = next((group for group in groups if node.index in group), (node.index,))
            cut = [other.peer for other in self.nodes if other.index not in own]
            with contextlib.suppress(Error):
                async with RemoteChain(node.admin_url) as api:
                    await api.within(RPC_S).admin_cut_peers(cut)

    async def heal(self) -> None:
        await self.part([[node.index for node in self.nodes]])

    # --- load --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(self, per_second: float) -> AsyncIterator[Load]:
        """Transfers at that rate, each to a live node drawn from the seed."""
        load = Load(self, per_second)
        task = asyncio.create_task(load.run())
        try:
            yield load
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # --- checks ------------------------------------------------------------------------------------------------------

    async def violations(self) -> list[str]:
        """What must not be, found over RPC: forks, double signs, wrong supply, nodes that ended by themselves."""
        found = [f"node {node.index} ended by itself: {node.faults}" for node in self.nodes if node.faults]
        hashes: dict[int, bytes] = {}
        for node in self.live():
            try:
                async with RemoteChain(node.url) as api:
                    found += await self._check(node, api, hashes)
            except Error as error:
                found.append(f"node {node.index} does not answer: {error}")
        for node in self.nodes:  # what it announced while it ran is what it must still say
            found += [
                f"node {node.index} announced another block {seen.height}" for seen in node.seen
                if hashes.get(seen.height, seen.hash) != seen.hash
            ]
        return found

    async def _check(self, node: Process, api: Any, hashes: dict[int, bytes]) -> list[str]:
        found = []
        before: int | None = None
        while before is None or before > 1:
            page = await api.chain_get_headers(before, PAGE)
            for header in page:
                if hashes.setdefault(header.height, header.hash) != header.hash:
                    found.append(f"node {node.index} has another block {header.height}")
            if not page:
                break
            before = page[-1].height
        supply = (await api.chain_get_supply()).value
        parts = (
            supply.free_rao, supply.reserved_rao, supply.staked_rao, supply.pending_stake_rao, supply.unbonding_rao,
            supply.root_due_rao, supply.pots_rao, supply.locks_rao,
        )
        if sum(parts) != supply.issuance_rao:
            found.append(f"node {node.index}: the supply is {supply.issuance_rao} rao, its parts {sum(parts)}")
        if (await api.state_get_keys(EVIDENCE_PREFIX)).value:
            found.append(f"node {node.index} has evidence of a double signing in its state")
        return found


@dataclass
class Load:
    """Transfers between two accounts of the cast, in the order of their nonces."""

    cluster: Cluster
    per_second: float
    sent: int = 0
    refused: int = 0

    async def run(self) -> None:
        members = {(member.role, member.name): member for member in cast(self.cluster.seed, self.cluster.authorities)}
        sender, receiver = members["validator", "0"].coldkey, members["validator", "1"].coldkey
        chance, nonce = random.Random(self.cluster.seed), -1
        while True:
            await asyncio.sleep(1 / self.per_second)
            nodes = [node for node in self.cluster.live() if node.url and node.height > 0]
            if not nodes:
                continue
            node = chance.choice(nodes)
            try:
                async with asyncio.timeout(RPC_S), RemoteChain(node.url, timeout_s=RPC_S) as api:
                    nonce = await self._send(api, sender, receiver, nonce)
                    self.sent += 1
            except (Error, TimeoutError):
                self.refused += 1
                nonce = -1

    async def _send(self, api: Any, sender: KeyPair, receiver: KeyPair, nonce: int) -> int:
        """Returns the next nonce."""
        head = await api.chain_get_header()
        if nonce < 0:
            nonce = await api.author_next_nonce(sender.public)
        await api.author_submit_extrinsic(Extrinsic.sign(
            sender, self.cluster.genesis.genesis_hash, head.hash, nonce=nonce, birth_height=head.height,
            call_number=call_number("accounts.transfer"), args=[receiver.public, LOAD_RAO, True],
        ).encode())
        return nonce + 1


def percentile(values: Sequence[float], part: int) -> float:
    """The smallest value that is not below `part` hundredths of them; 0 of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, -(-len(ordered) * part // 100) - 1)] if ordered else 0.0


def gaps_s(seen: Sequence[Seen]) -> list[float]:
    """Times between announcements of successive blocks."""
    return [later.at_s - earlier.at_s for earlier, later in zip(seen, seen[1:], strict=False)]


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _environment() -> dict[str, str]:
    """Ours without settings of nodes."""
    return {name: value for name, value in os.environ.items() if not name.startswith("QUORIX_")}
