"""One node: chain, pool and engine, with the shell, the follower and the relay around them, on one network.

A node has no files and no sockets of its own: stores, threads, clock and network are given to it. `service.py` gives it
LevelDB, the system's clock and libp2p; the tests give it memory, a virtual clock and a network without sockets.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

from ledger.chain import Chain, ExecutedBlock
from ledger.client.records import Health, UpgradeRecord
from ledger.crypto import KeyPair
from ledger.effects import Frame, Gossip, PeerDown, PeerUp, Seal, Sync, Tip
from ledger.engine import Engine
from ledger.errors import InvariantBroken, NotReady, UnknownRuntimeVersion, UsageError
from ledger.inherents import HEARTBEAT, Heartbeat
from ledger.machine import Clock
from ledger.pool import Pool
from ledger.signer import Domains, Signer
from ledger.votes import leader, quorum
from p2p.messages import PROTOCOL_VERSION, sign_proof
from p2p.network import Handlers, Hello, Network, PeerId
from runtime import epochs
from runtime.modules import accounts, heartbeats, upgrades
from runtime.versions import VersionedRuntime, rules_of, unknown
from tools.rpc.subscriptions import HeadSignal

from . import timelock
from .checkpoint import Checkpoint
from .follow import Follower, Source, serve
from .meter import MeteredNetwork, metered_handlers
from .relay import TOPIC, Relay
from .shell import FINALITY_ROW, Shell
from .threads import Lane, Threads, Workers

T = TypeVar("T")

BOOT_WAIT_S: Final = 3.0  # for a quorum of connected authorities, before consensus starts without it
GOSSIP_VERDICT_S: Final = 4.0
PROOF_BLOCKS: Final = 10_000  # how long the proof in a hello is good
FINALITY_KEPT: Final = 4096
STALE_BLOCK_TIMES: Final = 3
LEAST_STALE_MS: Final = 3_000
SEAL_TIMEOUT_S: Final = 60.0
MAX_SEAL: Final = 1000
HEARTBEAT_EVERY_BLOCKS: Final = 4
AUDIT_EVERY_BLOCKS: Final = 100
WARN_EVERY_BLOCKS: Final = 100
CHANNEL_POLL_S: Final = 0.01
MAX_ROUNDS_COUNTED: Final = 100
MAX_EARLY_FRAMES: Final = 64
MAX_CUT: Final = 256


class Journal(Protocol):
    """Where a node's log entries go."""

    def __call__(self, level: str, event: str, **fields: Any) -> None: ...


@dataclass
class Parts:
    """What a node is made of. `domains`: the signing domains, from the sign database where there is one."""

    name: str
    chain: Chain
    domains: Domains
    threads: Threads
    disk: Workers
    clock: Clock
    journal: Journal
    session_key: KeyPair | None = None
    signer: Signer | None = None
    watch_first: bool = False
    sign_from: int = 0
    checkpoint: Checkpoint | None = None
    node_version: str = "0"


class Node:
    """See the module. `ended` is resolved with the error that stopped the node by itself."""

    def __init__(self, parts: Parts, *, may_build: Callable[[], bool] = lambda: True) -> None:
        self.parts, self.chain, self.clock = parts, parts.chain, parts.clock
        key = parts.session_key
        self.pool = Pool(parts.chain)
        self.engine = Engine(
            parts.chain.params, parts.domains, key.public if key else None, key.sign if key else None,
            watch_first=parts.watch_first, sign_from=parts.sign_from,
        )
        self.shell = Shell(
            self.engine, self.chain, self.pool, parts.threads, parts.disk, parts.clock, self, signer=parts.signer,
            may_build=may_build,
        )
        self.follower = Follower(self.shell, parts.checkpoint)
        self.relay = Relay(self.shell, key)
        self.tip = self.shell.tip()  # the newest durable block: what this node vouches for to the outside
        self.heads = HeadSignal(self.tip.height)
        self.network: MeteredNetwork | None = None
        self.incident: dict[str, Any] = {}
        self.ended: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._peers: dict[PeerId, Hello] = {}
        self._cut: set[PeerId] = set()  # neither heard nor spoken to: see `cut_peers`
        self._early: list[Frame] = []  # frames that came before consensus started
        self._enough = asyncio.Event()
        self._finality: OrderedDict[int, int] = OrderedDict()
        self._source = Source(self.chain, self.engine)
        self._makers = self.chain.authorities()  # of the block in work
        self.last_finality_ms = 0
        self._upgrade: upgrades.Upgrade | None = None  # the one that waited after the last block

    # --- life --------------------------------------------------------------------------------------------------------

    def handlers(self) -> Handlers:
        """What the network calls; give them to it before `start`."""
        handlers = Handlers(
            topics={"block": self._on_final, TOPIC: self.relay.gossiped}, request=self._on_request,
            channel=self._on_frame, peer=self._on_peer, hello=self._hello,
        )
        return metered_handlers(handlers, self.shell.counters.network_bytes, self._cut)

    async def start(self, network: Network | None) -> None:
        """Connect, then start consensus: at once when alone, else when enough authorities are there or after a while."""
        if network is not None:
            metered = self.network = self.shell.network = MeteredNetwork(network, self.shell.counters.network_bytes, self._cut)
            self._tell_authorities()
            await metered.start()
            self.follower.start(metered)
            self.relay.start(metered)
            await self._wait_for_company(metered)
        self.shell.boot()
        for peer, hello in self._peers.items():
            self.shell.feed(PeerUp(peer, hello.session_key, hello.height))
        for frame in self._early:
            self.shell.feed_frame(frame)
        self._early.clear()
        self.follower.pump()
        self.shell.work()
        self.parts.journal("info", "started", height=self.tip.height, role=self.role)

    async def _wait_for_company(self, network: MeteredNetwork) -> None:
        """Until enough authorities are connected, and reachable on their channels; BOOT_WAIT_S at most."""
        try:
            async with asyncio.timeout(BOOT_WAIT_S):
                await self._enough.wait()
                needed = quorum(len(self.chain.authorities().keys)) - 1
                while self.role == "authority" and (channels := network.open_channels()) is not None and channels < needed:
                    await asyncio.sleep(CHANNEL_POLL_S)
        except TimeoutError:
            pass

    async def stop(self) -> None:
        """Take in nothing more, end what was begun, leave the network. The caller closes stores and threads."""
        self.relay.stop()
        await self.follower.stop()
        await self.shell.stop()
        if self.network is not None:
            await self.network.stop()

    # --- what the shell tells (Listener) -----------------------------------------------------------------------------

    def committed(self, executed: ExecutedBlock, tip: Tip, finality_ms: int) -> None:
        self.last_finality_ms = finality_ms
        self._finality[tip.height] = finality_ms
        if len(self._finality) > FINALITY_KEPT:
            self._finality.popitem(last=False)
        self._count(executed)
        self._makers, self.tip = tip.authorities, tip
        self.heads.set(tip.height)
        self.follower.committed(tip.height, tip.hash)
        self.relay.committed([extrinsic.id for extrinsic in executed.extrinsics], tip.height)
        header = executed.block.header
        if header.next_authorities_hash != header.authorities_hash:
            self._tell_authorities()
        if tip.height % HEARTBEAT_EVERY_BLOCKS == 0:
            self._heartbeat()
        if tip.height % AUDIT_EVERY_BLOCKS == 0:
            self.shell.spawn(self._audit(tip.height))
        self._watch_upgrade(tip.height)
        self._open_weights()

    def _count(self, executed: ExecutedBlock) -> None:
        """What metrics say about turns, epochs and emission."""
        counters, header, makers = self.shell.counters, executed.block.header, self._makers
        own = self.parts.session_key.public if self.parts.session_key else b""
        for round_ in range(min(header.proposal_round, MAX_ROUNDS_COUNTED) + 1):
            if makers.keys[leader(makers.keys, makers.active, header.height, round_)] == own:
                counters.turns["led" if round_ == header.proposal_round else "missed"] += 1
        for event in executed.result.events:
            if event[0] == epochs.EPOCH_RAN.number:
                counters.epoch_s[event[1]] = self.shell.last_check_s
            elif event[0] == accounts.MINTED.number:
                counters.minted_rao += event[2]
            elif event[0] == heartbeats.AUTHORITY_SKIPPED.number and event[1] == own:
                counters.turns["skipped"] += 1

    def sync_hint(self, hint: Sync) -> None:
        self.follower.hint(hint)

    def sync_refused(self, height: int) -> None:
        self.follower.refused(height)

    def log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.parts.journal(level, event, **fields)

    def failed(self, error: BaseException, incident: dict[str, Any]) -> None:
        self.incident = incident
        self.parts.journal("error", "stopping", error=str(error), kind=type(error).__name__)
        if not self.ended.done():
            self.ended.set_result(error)

    # --- what the network tells (Handlers) ---------------------------------------------------------------------------

    async def _on_frame(self, peer: PeerId, frame: bytes) -> None:
        if self.shell.booted:
            self.shell.feed_frame(Frame(peer, frame))
        elif len(self._early) < MAX_EARLY_FRAMES:
            self._early.append(Frame(peer, frame))

    async def _on_final(self, peer: PeerId, data: bytes) -> bool:
        if not self.shell.booted or self.shell.stopping:
            raise NotReady("consensus has not started")
        number, verdict = self.shell.ticket()
        self.shell.feed_frame(Gossip(peer, data, number))
        try:
            async with asyncio.timeout(GOSSIP_VERDICT_S):
                accepted = await verdict
        except TimeoutError:
            raise NotReady("no verdict in time") from None
        if accepted is None:
            raise NotReady("it cannot be judged here")
        return accepted

    async def _on_request(self, peer: PeerId, data: bytes) -> bytes:
        return await serve(self.shell, self._source, data)

    async def _on_peer(self, peer: PeerId, connected: bool, hello: Hello | None) -> None:
        if connected and hello is not None:
            self._peers[peer] = hello
            self.follower.peer_up(peer, hello.height)
            self.shell.feed(PeerUp(peer, hello.session_key, hello.height))
        else:
            self._peers.pop(peer, None)
            self.follower.peer_down(peer)
            self.shell.feed(PeerDown(peer))
        if self._has_company():
            self._enough.set()

    async def _hello(self, peer: PeerId) -> Hello:
        chain, key, domains = self.chain, self.parts.session_key, self.parts.domains
        height = chain.durable_height
        certificate = chain.certificate(height).encode() if height >= chain.params.initial_height else b""
        genesis = chain.params.genesis_hash
        if key is None or self.network is None:
            return Hello(PROTOCOL_VERSION, genesis, domains, height, certificate, "full")
        # Whoever has a session key shows it: it may be in a set that this node has not reached yet, or get its seat later.
        expiry = height + self._blocks_since(self.tip.timestamp_ms) + PROOF_BLOCKS
        proof = sign_proof(key, domains[-1][1], genesis, self.network.id, expiry)
        return Hello(
            PROTOCOL_VERSION, genesis, domains, height, certificate, "authority", key.public, expiry, proof
        )

    def _blocks_since(self, timestamp_ms: int) -> int:
        """How many blocks there can have been since, at most: what a node that was away has missed."""
        return max(0, self.clock.wall_ms() - timestamp_ms) // self.chain.params.block_time_ms

    def _has_company(self) -> bool:
        """Enough authorities are connected to decide a block together; any peer is enough for one that follows."""
        keys = self.chain.authorities().keys
        present = {hello.session_key for hello in self._peers.values()} & set(keys)
        if self.role == "authority":
            return len(present) + 1 >= quorum(len(keys))
        return bool(self._peers)

    def _tell_authorities(self) -> None:
        if self.network is not None:
            self.network.set_authorities(self.chain.authorities().keys)

    # --- authority -----------------------------------------------------------------------------------------------------

    @property
    def role(self) -> str:
        """ "authority" while our session key is in the set, else "full"."""
        key = self.parts.session_key
        return "authority" if key is not None and key.public in self.chain.authorities().keys else "full"

    def _heartbeat(self) -> None:
        """Say that we are alive if we were skipped, or if the chain does not know which rules we can execute."""
        key, chain = self.parts.session_key, self.chain
        if key is None or self.network is None or self.follower.syncing:
            return
        height, rules = chain.head.height + 1, self.rules
        if not rules.heartbeat_is_due(chain.view(), key.public, height):
            return
        session = chain.params.session(height)
        beat = Heartbeat.sign(
            key, chain.domain_at(height), session, chain.head.hash, self.parts.node_version[:32], rules.known
        )
        self.relay.offer_inherent(HEARTBEAT, beat.encode())

    def _open_weights(self) -> None:
        """Announce keys for the weights that will be sealed, and release the secrets of those that may be read now."""
        key = self.parts.session_key
        if key is None or self.follower.syncing:
            return
        for kind, payload, author in timelock.due(self.chain, key):
            self.relay.offer_inherent(kind, payload, author)

    async def _audit(self, height: int) -> None:
        """The full audit of a state that is too large to be audited in every block, on a read thread."""
        machine, view = self.rules, self.chain.view(height)
        if machine.audits_itself(view):
            return
        violations = await self.parts.threads.read.call(machine.audit, view, lane=Lane.SYNC)
        if violations:
            found, hint = '; '.join(violations[:5]), "quorix db check --deep --home HOME finds it again"
            raise InvariantBroken(f"the audit of block {height} found: {found}", hint=hint)

    @property
    def rules(self) -> VersionedRuntime:
        return cast(VersionedRuntime, self.chain.machine)

    def upgrade(self, height: int | None = None) -> UpgradeRecord:
        """The rules in force after a block, the upgrade that waits, who is ready, and what this node's operator must do."""
        view = self.chain.view(self.tip.height if height is None else height)
        waiting, current, known = upgrades.pending(view), upgrades.next_version(view), self.rules.known
        if waiting is None:
            return UpgradeRecord(current, list(known), None, None, 0, False, [], 0, 0, "")
        ready = rules_of(view).module("modules.upgrades").readiness(view, waiting.version)
        error = None if waiting.version in known else unknown(waiting.version, known, waiting.height)
        return UpgradeRecord(
            current, list(known), waiting.version, waiting.height, waiting.postponed, waiting.certain, list(ready.ready),
            ready.needed, ready.of, "" if error is None else f"{error.cause}: {error.hint}",
        )

    def _watch_upgrade(self, height: int) -> None:
        """Stop before a block whose rules this node may not run; warn of it from the day it is scheduled."""
        view = self.chain.view()
        waiting = upgrades.pending(view)
        before, self._upgrade = self._upgrade, waiting
        if waiting is None:
            return
        if waiting.certain:
            try:
                self.rules.require_next(view, height + 1)
            except UnknownRuntimeVersion as error:
                self.shell.fail(error, {"needed_version": waiting.version, "known_versions": list(self.rules.known)})
        elif waiting != before or height % WARN_EVERY_BLOCKS == 0:
            warning = self.upgrade(height).warning
            self.parts.journal(
                "warning" if warning else "info", "upgrade scheduled", version=waiting.version, height=waiting.height,
                postponed=waiting.postponed, **({"next_step": warning} if warning else {}),
            )

    async def seal(self, count: int) -> int:
        """Make blocks now. Raises UsageError where blocks are made at intervals, or when there is something to put in."""
        if self.chain.params.seal != "manual":
            when = "at intervals" if self.chain.params.seal == "interval" else "as soon as there is a transaction"
            raise UsageError(f"this chain makes blocks {when}", hint="start the devnet with --nodes 1 --block-time manual")
        if not 1 <= count <= MAX_SEAL:
            raise UsageError(f"{count} blocks at once; 1 to {MAX_SEAL} are possible")
        if not self.shell.booted:
            raise NotReady("consensus has not started")
        target = self.tip.height + count
        self.shell.feed(Seal(count))
        async with asyncio.timeout(SEAL_TIMEOUT_S):
            await self.heads.reach(target)
        return target

    def cut_peers(self, peers: Collection[PeerId]) -> None:
        """Neither hear these peers nor speak to them, until the next call: a partition, for drills."""
        if len(peers) > MAX_CUT:
            raise UsageError(f"at most {MAX_CUT} peers can be cut off")
        self._cut.clear()
        self._cut.update(peers)
        self.parts.journal("warning", "peers cut off", peers=len(peers))

    # --- looking -------------------------------------------------------------------------------------------------------

    def finality_ms(self, height: int) -> int:
        """Time from the proposal's arrival to the commit here; 0 if the block was synced or the time is not known."""
        found = self._finality.get(height)
        if found is None:
            row = self.chain.extra_row(FINALITY_ROW + height.to_bytes(8, "big"))
            found = 0 if row is None else int.from_bytes(row, "big")
        return found

    def health(self) -> Health:
        chain, head = self.chain, self.tip
        params = chain.params
        peers = len(self._peers)
        age_ms = max(0, self.clock.wall_ms() - head.timestamp_ms) if head.height >= params.initial_height else 0
        blocking: list[str] = []
        if not self.shell.booted:
            blocking.append("consensus has not started")
        if self.shell.stopping:
            blocking.append("the node is stopping")
        if len(chain.authorities().keys) > 1 and self.network is not None and not peers:
            blocking.append("no peers")
        if self.follower.syncing:
            blocking.append(f"syncing: {self.follower.planner.behind} blocks behind")
        stale_ms = max(STALE_BLOCK_TIMES * params.block_time_ms, LEAST_STALE_MS)
        if params.seal == "interval" and age_ms > stale_ms:
            blocking.append(f"the head is {age_ms / 1000:.1f} s old")
        if params.seal == "interval" and head.height < params.initial_height:
            blocking.append("no block yet")
        target = max(head.height, self.follower.planner.best_height)
        return Health(
            head.height, age_ms, peers, self.follower.syncing, target, self.role, not blocking, blocking
        )

    async def read(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a read on a read thread, behind what consensus and sync want there."""
        return await self.parts.threads.read.call(function, *arguments, lane=Lane.TRANSACTIONS)

    async def submit(self, raw: bytes) -> bytes:
        """An extrinsic from RPC."""
        if self.follower.syncing:
            raise NotReady("the node is syncing", hint="wait until it has caught up, or use another node")
        return await self.relay.submit(raw)
