"""Full nodes without sockets, threads or waiting: a network in memory, a virtual clock, and workers that run in turn.

    async def scenario():
        async with Market(authorities=4) as market:
            await market.reach(5)

    run(scenario())

The nodes are the real ones (`tools.node.node.Node`): real engine, chain, pool, signatures, sync. Only what costs real time
is replaced. Time passes when nothing is left to do, so ten seconds of a chain take a fraction of one, and a run with the
same seed repeats itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import selectors
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from genesis.build import Genesis, build_genesis
from genesis.cast import cast, devnet_spec
from ledger.chain import Chain
from ledger.crypto import KeyPair
from ledger.errors import NotReady, Rejected, Timeout, Unreachable
from ledger.recovery import Recovery, members_of, recovered_domains
from ledger.signer import Signer
from ledger.signer import domain_at as domain_of
from ledger.store import MemoryStore
from ledger.verdict import verify_one_by_one
from p2p.addresses import peer_id_of
from p2p.hello import check_hello
from p2p.network import Handlers, Hello, PeerId, PeerInfo
from runtime.versions import NEWEST, VersionedRuntime
from tools.node.node import Node, Parts
from tools.node.threads import Lane

T = TypeVar("T")

EPOCH_MS = 1_700_000_000_000
START_S = 1_000.0
DISK_S = 0.004
LATENCY_S = 0.005
HANDLER_S = 10.0


# --- time --------------------------------------------------------------------------------------------------------


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of sleeping until the next timer, sets the clock to it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if not ready and timeout is None:
            raise AssertionError("nothing will ever happen again: a task waits for what nobody does")
        if not ready and timeout:
            self.loop.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while nothing else is to be done."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        super().__init__(selector)
        selector.loop = self
        self.now_s = START_S

    def time(self) -> float:
        return self.now_s


class VirtualClock:
    """Both clocks of a node, from the loop's time; `skew_ms` shifts its wall clock."""

    def __init__(self, skew_ms: int = 0) -> None:
        self.skew_ms = skew_ms

    def monotonic_ms(self) -> int:
        return round(asyncio.get_running_loop().time() * 1000)

    def wall_ms(self) -> int:
        return EPOCH_MS + self.monotonic_ms() + self.skew_ms


def run(scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario)


# --- threads -----------------------------------------------------------------------------------------------------


class TurnWorkers:
    """Has the face of `threads.Workers`; runs jobs one after the other on the loop, each after `seconds` of virtual time."""

    def __init__(self, name: str, seconds: float = 0.0) -> None:
        self.name, self.seconds, self.limit = name, seconds, 1 << 30
        self._free_s = 0.0
        self.closed = False

    def __len__(self) -> int:
        return 0

    def call(self, function: Callable[..., T], *arguments: Any, lane: Lane = Lane.PROPOSALS) -> asyncio.Future[T]:
        if self.closed:
            raise NotReady(f"{self.name} has stopped")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def perform() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(function(*arguments))
            except Exception as error:
                future.set_exception(error)

        self._free_s = max(self._free_s, loop.time()) + self.seconds
        loop.call_at(self._free_s, perform)
        return future

    def close(self) -> None:
        self.closed = True


class TurnThreads:
    """Has the face of `threads.Threads`."""

    def __init__(self) -> None:
        self.chain, self.verify, self.read = TurnWorkers("chain"), TurnWorkers("verify"), TurnWorkers("read")

    def disk(self, name: str) -> TurnWorkers:
        return TurnWorkers(f"disk-{name}", DISK_S)

    def verify_batch(self, tasks: Sequence[Any]) -> Sequence[bool]:
        return verify_one_by_one(tasks)

    def close(self) -> None:
        pass


# --- network -----------------------------------------------------------------------------------------------------


class Hub:
    """All networks of a scenario. `drops(sender, receiver, kind)` decides what is lost; `cut` separates groups."""

    def __init__(self, seed: int = 0) -> None:
        self.networks: dict[PeerId, MemoryNetwork] = {}
        self.random = random.Random(seed)
        self.drops: Callable[[PeerId, PeerId, str], bool] = lambda sender, receiver, kind: False
        self.frames: list[tuple[PeerId, PeerId, bytes]] = []  # the latest 1,000
        self._groups: tuple[frozenset[PeerId], ...] = ()

    def reachable(self, first: PeerId, second: PeerId) -> bool:
        if not self._groups:
            return True
        return any(first in group and second in group for group in self._groups)

    async def cut(self, *groups: Sequence[PeerId]) -> None:
        """Only peers of one group reach each other; without groups, all do again."""
        self._groups = tuple(frozenset(group) for group in groups)
        for network in list(self.networks.values()):
            await network.meet()

    def latency_s(self) -> float:
        return LATENCY_S * (0.5 + self.random.random())


class MemoryNetwork:
    """Implements `p2p.network.Network` within one process."""

    def __init__(self, hub: Hub, seed: bytes, handlers: Handlers) -> None:
        self.id: PeerId = peer_id_of(seed)
        self.hub, self.handlers = hub, handlers
        self.hellos: dict[PeerId, Hello] = {}
        self.faults: list[tuple[PeerId, str, int]] = []
        self._seen: set[bytes] = set()
        self._channels_s: dict[PeerId, float] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.running = False

    # --- life

    async def start(self) -> None:
        self.running = True
        self.hub.networks[self.id] = self
        await self.meet()

    async def stop(self) -> None:
        self.running = False
        self.hub.networks.pop(self.id, None)
        for peer in list(self.hellos):
            await self._part(peer)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def meet(self) -> None:
        """Exchange hellos with everybody who is there and leave those who are not."""
        for peer, other in list(self.hub.networks.items()):
            if peer == self.id or not self.running:
                continue
            if not self.hub.reachable(self.id, peer):
                await self._part(peer)
            elif peer not in self.hellos:
                await self._greet(other)

    async def _greet(self, other: MemoryNetwork) -> None:
        assert self.handlers.hello is not None and other.handlers.hello is not None
        mine, theirs = await self.handlers.hello(other.id), await other.handlers.hello(self.id)
        try:
            check_hello(mine, theirs, other.id)
            check_hello(theirs, mine, self.id)
        except Rejected:
            return
        for network, peer, hello in ((self, other.id, theirs), (other, self.id, mine)):
            network.hellos[peer] = hello
            if network.handlers.peer is not None:
                await network.handlers.peer(peer, True, hello)

    async def _part(self, peer: PeerId) -> None:
        other = self.hub.networks.get(peer)
        for network, gone in ((self, peer), (other, self.id)):
            if network is not None and network.hellos.pop(gone, None) and network.handlers.peer is not None:
                await network.handlers.peer(gone, False, None)

    # --- messages

    def _deliver(self, peer: PeerId, kind: str, act: Callable[[MemoryNetwork], Coroutine[Any, Any, Any]]) -> bool:
        """Have `act` done at the peer after the latency. Messages of one kind to one peer keep their order."""
        other = self.hub.networks.get(peer)
        if other is None or peer not in self.hellos or self.hub.drops(self.id, peer, kind):
            return False
        loop = asyncio.get_running_loop()
        at_s = max(loop.time() + self.hub.latency_s(), self._channels_s.get(peer, 0.0))
        self._channels_s[peer] = at_s

        def arrive() -> None:
            if other.running:
                other.spawn(act(other))

        loop.call_at(at_s, arrive)
        return True

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def publish(self, topic: str, data: bytes) -> None:
        self._seen.add(hashlib.sha256(topic.encode() + data).digest())
        for peer in list(self.hellos):
            self._deliver(peer, topic, lambda other: other._gossip(self.id, topic, data))

    async def _gossip(self, peer: PeerId, topic: str, data: bytes) -> None:
        name = hashlib.sha256(topic.encode() + data).digest()
        if name in self._seen:
            return
        self._seen.add(name)
        try:
            verdict = await self.handlers.topics[topic](peer, data)
        except (NotReady, TimeoutError):
            self._seen.discard(name)
            return
        if not verdict:
            self.fault(peer, "invalid gossip", 20)
            return
        for further in [known for known in self.hellos if known != peer]:
            self._deliver(further, topic, lambda other: other._gossip(self.id, topic, data))

    async def request(self, peer: PeerId, data: bytes, *, timeout_ms: int = 10_000) -> bytes:
        other = self.hub.networks.get(peer)
        if other is None or peer not in self.hellos:
            raise Unreachable(f"{peer} is not connected")
        if self.hub.drops(self.id, peer, "request"):
            await asyncio.sleep(timeout_ms / 1000)
            raise Timeout("no answer")
        await asyncio.sleep(self.hub.latency_s())
        if other.handlers.request is None or not other.running:
            raise Unreachable(f"{peer} is gone")
        try:
            reply = await other.handlers.request(self.id, data)
        except NotReady as error:
            raise Unreachable(error.cause) from None
        await asyncio.sleep(self.hub.latency_s())
        return reply

    def send(self, peer: PeerId, frame: bytes, *, votes: bool) -> bool:
        hello = self.hellos.get(peer)
        if hello is None or not hello.session_key:
            return False
        self.hub.frames = [*self.hub.frames[-999:], (self.id, peer, frame)]

        async def receive(other: MemoryNetwork) -> None:
            assert other.handlers.channel is not None
            await other.handlers.channel(self.id, frame)

        return self._deliver(peer, "channel", receive)

    async def connect(self, address: str) -> PeerId:
        peer = address.rpartition("/")[2]
        if peer not in self.hub.networks:
            raise Unreachable(f"{peer} is not there")
        await self.meet()
        return peer

    # --- looking

    def fault(self, peer: PeerId, reason: str, points: int) -> None:
        self.faults.append((peer, reason, points))

    def peers(self) -> list[PeerInfo]:
        return [
            PeerInfo(peer, f"/memory/{peer}", "out", hello.role, hello.session_key, hello.height, 0, 0)
            for peer, hello in self.hellos.items()
        ]

    def addresses(self) -> list[str]:
        return [f"/memory/p2p/{self.id}"]


# --- a market ----------------------------------------------------------------------------------------------------


class Place:
    """Where a node's databases are: they survive when the node is stopped or crashes."""

    def __init__(self, index: int, session_key: KeyPair | None) -> None:
        self.index, self.session_key = index, session_key
        self.chain_store, self.sign_store = MemoryStore(), MemoryStore()
        self.created = False
        self.node: Node | None = None
        self.network: MemoryNetwork | None = None
        self.skew_ms = 0
        self.newest = NEWEST  # version of the rules that its node may run
        self.journal: list[tuple[str, str, dict[str, Any]]] = []


class Market:
    """A chain with its authorities, and `followers` nodes that only follow, started in order."""

    def __init__(self, *, authorities: int = 4, followers: int = 0, seed: int = 1, **spec: Any) -> None:
        self.spec = devnet_spec(seed, authorities=authorities, genesis_time_ms=EPOCH_MS, **spec)
        self.genesis: Genesis = build_genesis(self.spec)
        self.members = cast(seed, authorities)
        keys = [member.session for member in self.members if member.session is not None]
        self.places = [Place(i, keys[i] if i < authorities else None) for i in range(authorities + followers)]
        self.hub, self.threads = Hub(seed), TurnThreads()
        self.recoveries: dict[int, Recovery] = {}  # given to every node at its next start

    async def __aenter__(self) -> Market:
        await asyncio.gather(*(self.start(place.index) for place in self.places))
        return self

    async def __aexit__(self, *_: object) -> None:
        for place in self.places:
            await self.stop(place.index)

    @property
    def nodes(self) -> list[Node]:
        """The nodes that run, in order."""
        return [place.node for place in self.places if place.node is not None]

    def account(self, role: str, name: str) -> KeyPair:
        """Coldkey of a member of the cast."""
        return next(member.coldkey for member in self.members if (member.role, member.name) == (role, name))

    async def start(self, index: int) -> Node:
        """Open the databases of a place, make its node and start it."""
        place = self.places[index]
        node = place.node = self._open(place)
        alone = len(self.places) == 1
        network = None if alone else MemoryNetwork(self.hub, bytes([index + 1]) * 32, node.handlers())
        place.network = network
        await node.start(network)
        return node

    def _open(self, place: Place) -> Node:
        params = self.genesis.params
        signer, domains = None, ((params.initial_height, params.genesis_hash),)
        if place.session_key is not None:
            public = place.session_key.public
            make = Signer.open if place.created else Signer.create
            signer = make(place.sign_store, params.genesis_hash, public)
            domains = signer.domains  # type: ignore[assignment]
        domains = recovered_domains(domains, self.recoveries)
        machine = VersionedRuntime(
            params.genesis_hash, lambda height: domain_of(domains, height), members_of(self.recoveries), newest=place.newest
        )
        if not place.created:
            Chain.create(place.chain_store, params, machine, self.genesis.state)
        chain = Chain.open(place.chain_store, params, machine, recoveries=self.recoveries)
        if signer is not None and signer.domains != domains:
            signer.rewind(domains)
        chain.domain_at = lambda height: domain_of(domains, height)
        place.created = True

        def journal(level: str, event: str, **fields: Any) -> None:
            place.journal.append((level, event, fields))

        return Node(Parts(
            f"node {place.index}", chain, domains, self.threads, self.threads.disk(str(place.index)),  # type: ignore[arg-type]
            VirtualClock(place.skew_ms), journal, place.session_key, signer,
        ))

    async def stop(self, index: int) -> None:
        """Stop a node in order; its databases stay."""
        place = self.places[index]
        if place.node is not None:
            node, place.node = place.node, None
            await node.stop()

    async def crash(self, index: int) -> None:
        """End a node without any goodbye: nothing of it runs on; what was not durable is lost with it."""
        place = self.places[index]
        assert place.node is not None
        node, place.node = place.node, None
        node.shell.stopping = True
        node.parts.disk.close()
        node.relay.stop()
        await node.follower.stop()
        node.shell._halt()
        for task in list(node.shell._tasks):
            task.cancel()
        if place.network is not None:
            await place.network.stop()

    async def reach(self, height: int, *, within_s: float = 60.0, of: Sequence[int] | None = None) -> None:
        """Wait in virtual time until all running nodes (or those of `of`) have a final block of that height."""
        wanted = self.nodes if of is None else [self.places[index].node for index in of]
        async with asyncio.timeout(within_s):
            for node in wanted:
                assert node is not None
                while node.tip.height < height:
                    if node.ended.done():
                        raise node.ended.result()
                    await asyncio.sleep(0.01)

    def agree(self) -> int:
        """All running nodes have the same blocks up to the lowest head; returns that height."""
        height = min(node.tip.height for node in self.nodes)
        first = self.nodes[0].chain
        for node in self.nodes[1:]:
            for h in range(first.params.initial_height, height + 1):
                assert node.chain.hash_at(h) == first.hash_at(h), f"{node.parts.name} has another block {h}"
            assert node.chain.header(height).state_root == first.header(height).state_root
        return height
