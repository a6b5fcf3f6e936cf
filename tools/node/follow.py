"""Following the others: the sync planner's requests and the serving of theirs.

The planner (`p2p.sync`) decides whom to ask for what; here its requests are sent, their answers given back, and the next
block handed to the engine, one at a time. The other half answers peers from the chain and from the engine's undecided
blocks.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ledger.chain import Chain
from ledger.effects import Sync, Synced
from ledger.engine import Engine
from ledger.errors import DecodeError, Error, NotFound, NotReady, Timeout
from ledger.votes import Certificate
from p2p.answers import answer
from p2p.messages import GetBlock, GetHead, Head, decode_request
from p2p.network import Network
from p2p.sync import Ask, Penalty, SyncPlanner

from .checkpoint import Checkpoint, WrongCheckpoint, check_block
from .shell import Shell
from .threads import Lane

TICK_S: Final = 1.0
ASK_TIMEOUT_MS: Final = 10_000
SYNCING_BLOCKS: Final = 3  # behind by fewer is the normal lag of gossip


class Follower:
    """Drives one node's planner. All methods run on the event loop."""

    def __init__(self, shell: Shell, checkpoint: Checkpoint | None = None) -> None:
        """`checkpoint`: a block whose hash is known; when another one is served in its place, the node stops."""
        head = shell.chain.head
        self._checkpoint = checkpoint
        self._shell, self._network = shell, None
        self.planner = SyncPlanner(head.height, head.hash)
        self._ticking: asyncio.Task[None] | None = None

    _network: Network | None

    @property
    def syncing(self) -> bool:
        """True while this node is more than a few blocks behind what its peers announce."""
        return self.planner.behind >= SYNCING_BLOCKS

    def start(self, network: Network) -> None:
        self._network = network
        self._ticking = asyncio.ensure_future(self._tick())

    async def stop(self) -> None:
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.pump()

    # --- what happened

    def peer_up(self, peer: str, height: int) -> None:
        self.planner.peer_up(peer, height)
        self.pump()

    def peer_down(self, peer: str) -> None:
        self.planner.peer_down(peer)
        self.pump()

    def hint(self, hint: Sync) -> None:
        """The engine heard of a final block above the one in work."""
        self.planner.announced(hint.peer, hint.height)
        if hint.certificate is not None:
            self.planner.certificate(hint.block_hash, hint.certificate.encode(), hint.peer)
        self.pump()

    def committed(self, height: int, block_hash: bytes) -> None:
        self.planner.committed(height, block_hash)
        self.pump()

    def refused(self, height: int) -> None:
        self._punish(self.planner.refused(height, self._now_ms()))
        self.pump()

    # --- what to do

    def pump(self) -> None:
        """Send what the planner asks for and hand over the next block."""
        if self._network is None or not self._shell.booted or self._shell.stopping:
            return
        for ask in self.planner.next(self._now_ms()):
            self._shell.spawn(self._ask(ask, self._network))
        ready = self.planner.ready()
        if ready is None:
            return
        try:
            certificate = Certificate.decode(ready.certificate)
        except DecodeError:
            return self.refused(ready.block.height)
        if self._checkpoint is not None and ready.block.height == self._checkpoint.height:
            try:
                header = ready.block.header
                check_block(self._shell.chain, self._checkpoint, header.hash, header.timestamp_ms, self._shell.clock.wall_ms())
            except WrongCheckpoint as error:
                return self._shell.fail(error)
        self._shell.feed(Synced(ready.block, certificate))

    async def _ask(self, ask: Ask, network: Network) -> None:
        try:
            data = await network.request(ask.peer, ask.data, timeout_ms=ASK_TIMEOUT_MS)
        except Error as error:
            self._punish(self.planner.failed(ask.number, self._now_ms(), timeout=isinstance(error, Timeout)))
        else:
            self._punish(self.planner.reply(ask.number, data, self._now_ms()))
        self.pump()

    def _punish(self, penalties: list[Penalty]) -> None:
        for penalty in penalties:
            if self._network is not None and penalty.peer:
                self._network.fault(penalty.peer, penalty.reason, penalty.points)

    def _now_ms(self) -> int:
        return self._shell.clock.monotonic_ms()


class Source:
    """What this node serves to its peers: final blocks, and undecided ones that it holds."""

    def __init__(self, chain: Chain, engine: Engine) -> None:
        self._chain, self._engine = chain, engine

    def head(self) -> Head:
        chain, height = self._chain, self._chain.durable_height
        if height < chain.params.initial_height:
            return Head(height, chain.params.genesis_hash, b"", b"")
        header = chain.header(height)
        return Head(height, header.hash, header.encode(), chain.certificate(height).encode())

    def header_at(self, height: int) -> bytes | None:
        if height > self._chain.durable_height:
            return None
        try:
            return self._chain.header(height).encode()
        except NotFound:
            return None

    def body_of(self, block_hash: bytes) -> bytes | None:
        try:
            return self._chain.body(block_hash).encode()
        except NotFound:
            return None

    def block_of(self, block_hash: bytes) -> tuple[bytes, bytes] | None:
        block = self._engine.block(block_hash)
        if block is None:
            try:
                block = self._chain.block(block_hash)
            except NotFound:
                return None
        return block.header.encode(), block.body.encode()


async def serve(shell: Shell, source: Source, data: bytes) -> bytes:
    """Answer one request of a peer: what consensus waits for at once, everything else on a read thread."""
    if shell.stopping:
        raise NotReady("the node is stopping")
    if isinstance(decode_request(data), GetBlock | GetHead):
        return answer(data, source)
    return await shell.threads.read.call(answer, data, source, lane=Lane.SYNC)
