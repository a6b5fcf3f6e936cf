"""The sync planner: whom to ask for what, so that this node reaches the height its peers announce. No I/O, no clock.

Every few seconds heads are exchanged; that, not gossip, is what makes a follower complete. If peers are ahead, headers
are fetched from one peer and must link to our head; bodies are fetched by hash from up to three peers and must match
their headers; blocks are handed over in order, one by one, each with the certificate that proves it final: the parent
certificate inside the next body, or the tip's own from a head exchange. The receiver checks certificates, executes and
compares roots; the planner learns by `committed` or `refused`. Claimed heights never size an allocation.

A peer that serves something invalid, lowers its height or times out three times is not asked for ten minutes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from ledger.blocks import Block, Body, Header
from ledger.errors import DecodeError

from .faults import INVALID, MALFORMED, TIMEOUT
from .messages import (
    MAX_BODIES_BYTES,
    MAX_HEADERS,
    BlockReply,
    Bodies,
    GetBlock,
    GetBodies,
    GetHead,
    GetHeaders,
    Head,
    Headers,
    Request,
    decode_reply,
    encode_request,
)

HEAD_EVERY_MS: Final = 3_000
HEADS_AT_ONCE: Final = 2
PATIENCE_MS: Final = 1_500  # a peer one block ahead is normal for this long: consensus or gossip will bring the block
MAX_WINDOW: Final = 2 * MAX_HEADERS  # headers held
MAX_HELD_BYTES: Final = 16 * 1024 * 1024  # bodies held and on their way
MAX_BODY_ASKS: Final = 3
BODIES_PER_ASK: Final = 128
SUSPEND_MS: Final = 600_000
RETRY_MS: Final = 10_000  # of a peer suspended for silence, if there is nobody else
MAX_TIMEOUTS: Final = 3
LOST_MS: Final = 60_000  # a request of whose end the owner said nothing for so long is forgotten
MAX_PEERS: Final = 256
MAX_TIPS: Final = 64


@dataclass(frozen=True, slots=True)
class Ask:
    """Send `data` to `peer`; answer with `reply(number, bytes)` or `failed(number)`."""

    number: int
    peer: str
    request: Request

    @property
    def data(self) -> bytes:
        return encode_request(self.request)


@dataclass(frozen=True, slots=True)
class Penalty:
    """Count `points` against `peer` in the network's ledger of faults."""

    peer: str
    reason: str
    points: int


@dataclass(frozen=True, slots=True)
class SyncedBlock:
    """The next block of the chain with an encoded commit certificate, both unverified."""

    block: Block
    certificate: bytes


@dataclass(slots=True)
class _Peer:
    height: int = 0  # announced in any way
    head_height: int = 0  # of its last head reply
    asked_ms: int = -HEAD_EVERY_MS
    asks: int = 0
    timeouts: int = 0
    suspended_until_ms: int = 0
    lied: bool = False


@dataclass(slots=True)
class _Slot:
    """One height between our head and the peers'."""

    header: Header
    source: str
    body: Body | None = None
    size: int = 0
    ask: int = 0  # number of the request that fetches the body, 0 = none
    missing: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class _Handed:
    """The block that the receiver is working on, and who answers for its certificate."""

    height: int
    giver: str


class SyncPlanner:
    """`height` and `head_hash` are our last committed block (or genesis); times are monotonic milliseconds."""

    def __init__(self, height: int, head_hash: bytes) -> None:
        self.height, self.head_hash = height, head_hash
        self._peers: dict[str, _Peer] = {}
        self._connected: set[str] = set()
        self._asks: dict[int, Ask] = {}
        self._sent_ms: dict[int, int] = {}
        self._number = 0
        self._slots: deque[_Slot] = deque()
        self._tips: dict[bytes, tuple[bytes, str]] = {}  # block hash -> certificate and who gave it
        self._handed: _Handed | None = None
        self._held_bytes = 0
        self._behind_since_ms: int | None = None
        self._last_source = ""

    # --- what the owner tells

    def peer_up(self, peer: str, height: int) -> None:
        """A peer's hello was accepted; calling it again updates the height."""
        if peer not in self._peers and len(self._peers) >= MAX_PEERS:
            gone = [known for known in self._peers if known not in self._connected]
            if not gone:
                return
            del self._peers[gone[0]]
        state = self._peers.setdefault(peer, _Peer())
        state.height = state.head_height = height
        self._connected.add(peer)

    def peer_down(self, peer: str) -> None:
        """The peer is gone: its requests are over, its suspension stays."""
        self._connected.discard(peer)
        for ask in [ask for ask in self._asks.values() if ask.peer == peer]:
            self._end(ask)

    def announced(self, peer: str, height: int) -> None:
        """The peer itself said that its head is at `height`."""
        if peer in self._connected:
            self._peers[peer].height = max(self._peers[peer].height, height)

    def certificate(self, block_hash: bytes, certificate: bytes, peer: str) -> None:
        """A commit certificate for a block, from whatever source; it may serve as the tip's."""
        if len(self._tips) >= MAX_TIPS:
            del self._tips[next(iter(self._tips))]
        self._tips[block_hash] = (certificate, peer)

    def committed(self, height: int, block_hash: bytes) -> None:
        """Our head is now this block, whoever brought it."""
        if height <= self.height:
            return
        last = None
        while self._slots and self._slots[0].header.height <= height:
            last = self._slots.popleft()
            self._held_bytes -= last.size
        self.height, self.head_hash, self._behind_since_ms = height, block_hash, None
        if self._handed and self._handed.height <= height:
            self._handed = None
        self._tips.pop(block_hash, None)
        if last is None or last.header.hash != block_hash:
            self._drop_from(0)

    def refused(self, height: int, now_ms: int) -> list[Penalty]:
        """The certificate handed over for `height` does not prove that block. Whoever gave it lied.

        One out of the next body is bound by the next header, which no honest quorum has certified then.
        """
        handed = self._handed
        if handed is None or handed.height != height:
            return []
        self._handed = None
        self._drop_from(0)
        return self._lie(handed.giver, "invalid block or certificate", INVALID, now_ms)

    # --- what the owner asks

    @property
    def best_height(self) -> int:
        """The highest height a connected, unsuspected peer announces, at least our own."""
        heights = (self._peers[peer].height for peer in self._connected if not self._peers[peer].lied)
        return max(heights, default=self.height) if self._connected else self.height

    @property
    def behind(self) -> int:
        """Blocks missing to the best announced height."""
        return max(0, self.best_height - self.height)

    def ready(self) -> SyncedBlock | None:
        """The next block, once: the following one comes after `committed` or `refused`."""
        if self._handed or not self._slots or self._slots[0].body is None:
            return None
        slot = self._slots[0]
        if len(self._slots) > 1 and self._slots[1].body is not None:
            certificate, giver = self._slots[1].body.parent_cert, self._slots[1].source
        elif slot.header.hash in self._tips:
            certificate, giver = self._tips.pop(slot.header.hash)
        else:
            return None
        assert slot.body is not None
        self._handed = _Handed(slot.header.height, giver)
        return SyncedBlock(Block(slot.header, slot.body), certificate)

    def next(self, now_ms: int) -> list[Ask]:
        """Requests to send now. To be called after every event and at least once a second."""
        for ask in [ask for ask in self._asks.values() if now_ms - self._sent_ms[ask.number] > LOST_MS]:
            self._end(ask)
        asks = self._ask_heads(now_ms)
        if not self.behind:
            self._behind_since_ms = None
            return asks
        if self._behind_since_ms is None:
            self._behind_since_ms = now_ms
        if self._slots or self.behind > 1 or now_ms - self._behind_since_ms >= PATIENCE_MS:
            asks += self._ask_headers(now_ms)
            asks += self._ask_bodies(now_ms)
        return asks

    # --- replies

    def reply(self, number: int, data: bytes, now_ms: int) -> list[Penalty]:
        """Take the answer to a request; whatever is wrong with it is counted against its sender."""
        ask = self._asks.get(number)
        if ask is None:
            return []
        self._end(ask)
        self._peers[ask.peer].timeouts = 0
        try:
            reply = decode_reply(data, ask.request)
            if isinstance(reply, Head):
                return self._take_head(ask.peer, reply, now_ms)
            if isinstance(reply, Headers) and isinstance(ask.request, GetHeaders):
                return self._take_headers(ask, [Header.decode(item) for item in reply.headers], now_ms)
            assert isinstance(reply, Bodies) and isinstance(ask.request, GetBodies)
            return self._take_bodies(ask, ask.request.hashes, reply.bodies, now_ms)
        except DecodeError as error:
            return self._lie(ask.peer, f"malformed reply: {error.cause}", MALFORMED, now_ms)

    def failed(self, number: int, now_ms: int, *, timeout: bool) -> list[Penalty]:
        """No answer: it timed out, or the peer could not be reached (which is nobody's fault)."""
        ask = self._asks.get(number)
        if ask is None:
            return []
        self._end(ask)
        return self._stalled(ask.peer, now_ms) if timeout else []

    def _take_head(self, peer: str, head: Head, now_ms: int) -> list[Penalty]:
        state = self._peers[peer]
        if head.header or head.height > self.height:
            header = Header.decode(head.header)
            if header.height != head.height or header.hash != head.hash:
                raise DecodeError("header is not the head's", where="head.header")
        if head.height < state.head_height:
            return self._lie(peer, "lowered its height", MALFORMED, now_ms)
        state.head_height, state.height = head.height, max(state.height, head.height)
        state.lied = state.lied and state.suspended_until_ms > now_ms
        if head.height > self.height and head.certificate:
            self.certificate(head.hash, head.certificate, peer)
        return []

    def _take_headers(self, ask: Ask, headers: list[Header], now_ms: int) -> list[Penalty]:
        if not headers:
            return self._stalled(ask.peer, now_ms)
        assert isinstance(ask.request, GetHeaders)
        for offset, header in enumerate(headers):
            if header.height != ask.request.from_height + offset:
                return self._lie(ask.peer, "headers of other heights", INVALID, now_ms)
            if offset and header.parent_hash != headers[offset - 1].hash:
                return self._lie(ask.peer, "headers that do not link", INVALID, now_ms)
        wanted = [header for header in headers if header.height > self._last_height()]
        if not wanted or wanted[0].height != self._last_height() + 1:
            return []
        if wanted[0].parent_hash != (self._slots[-1].header.hash if self._slots else self.head_hash):
            if not self._slots:
                return self._lie(ask.peer, "headers that do not link to our head", INVALID, now_ms)
            self._drop_from(0)  # one of the two givers lied; start again, from somebody else
            return []
        self._slots.extend(_Slot(header, ask.peer) for header in wanted)
        return []

    def _take_bodies(self, ask: Ask, hashes: tuple[bytes, ...], bodies: tuple[bytes, ...], now_ms: int) -> list[Penalty]:
        if not bodies:
            return self._stalled(ask.peer, now_ms)
        slots = {slot.header.hash: slot for slot in self._slots}
        for block_hash, data in zip(hashes, bodies, strict=False):
            slot = slots.get(block_hash)
            if slot is None or slot.body is not None:
                continue
            if not data:
                slot.missing.add(ask.peer)
                continue
            body = Body.decode(data)
            if body.cert_hash != slot.header.parent_cert_hash or body.extrinsics_root != slot.header.extrinsics_root:
                return self._lie(ask.peer, "body that does not match its header", INVALID, now_ms)
            slot.body, slot.size = body, len(data)
            self._held_bytes += len(data)
        return self._unavailable(now_ms)

    def _unavailable(self, now_ms: int) -> list[Penalty]:
        """Headers whose own giver has no body for them are worth nothing."""
        for index, slot in enumerate(self._slots):
            if slot.body is None and slot.source in slot.missing:
                self._drop_from(index)
                return self._lie(slot.source, "headers without bodies", MALFORMED, now_ms)
        return []

    # --- requests

    def _ask_heads(self, now_ms: int) -> list[Ask]:
        """In turn, the peer that was not asked for the longest time first; at once if only the tip's proof is missing."""
        waiting = {ask.peer for ask in self._asks.values() if isinstance(ask.request, GetHead)}
        urgent = self._needs_tip()
        turn = [peer for peer in self._usable(now_ms) if peer not in waiting]
        turn.sort(key=lambda peer: (self._peers[peer].asked_ms, peer))
        asks = []
        for peer in turn[: max(0, HEADS_AT_ONCE - len(waiting))]:
            state = self._peers[peer]
            if now_ms - state.asked_ms >= (PATIENCE_MS // 3 if urgent else HEAD_EVERY_MS):
                state.asked_ms = now_ms
                asks.append(self._begin(peer, GetHead(self.height), now_ms))
        return asks

    def _needs_tip(self) -> bool:
        if not self._slots:
            return False
        last = self._slots[-1]
        return last.body is not None and last.header.hash not in self._tips and last.header.height >= self.best_height

    def _ask_headers(self, now_ms: int) -> list[Ask]:
        start = self._last_height() + 1
        if any(isinstance(ask.request, GetHeaders) for ask in self._asks.values()) or len(self._slots) > MAX_HEADERS:
            return []
        able = [peer for peer in self._usable(now_ms) if self._peers[peer].height >= start]
        if not able:
            return []
        peer = max(able, key=lambda p: (p != self._last_source, -self._peers[p].asks, self._peers[p].height, p))
        self._last_source = peer
        count = min(MAX_HEADERS, MAX_WINDOW - len(self._slots), self._peers[peer].height - start + 1)
        return [self._begin(peer, GetHeaders(start, count), now_ms)]

    def _ask_bodies(self, now_ms: int) -> list[Ask]:
        asks = []
        under_way = sum(isinstance(ask.request, GetBodies) for ask in self._asks.values())
        while under_way < MAX_BODY_ASKS:
            starved = not under_way and any(slot.body is None for slot in islice(self._slots, 2))
            if not starved and self._held_bytes + (under_way + 1) * MAX_BODIES_BYTES > MAX_HELD_BYTES:
                break
            run = self._bodies_wanted()
            able = [
                peer for peer in self._usable(now_ms)
                if run and self._peers[peer].height >= run[0].header.height and peer not in run[0].missing
            ]
            if not able:
                if run and not under_way and not self._asks and run[0].missing:
                    self._drop_from(run[0].header.height - self.height - 1)  # nobody has it: perhaps no such block
                break
            peer = min(able, key=lambda p: (self._peers[p].asks, p != run[0].source, p))
            run = run[: next((i for i, slot in enumerate(run) if peer in slot.missing), len(run))]
            ask = self._begin(peer, GetBodies(tuple(slot.header.hash for slot in run)), now_ms)
            for slot in run:
                slot.ask = ask.number
            asks.append(ask)
            under_way += 1
        return asks

    def _bodies_wanted(self) -> list[_Slot]:
        """The first run of consecutive heights that have no body and are not being fetched."""
        run: list[_Slot] = []
        for slot in self._slots:
            if slot.body is None and not slot.ask:
                run.append(slot)
                if len(run) >= BODIES_PER_ASK:
                    break
            elif run:
                break
        return run

    def _usable(self, now_ms: int) -> list[str]:
        """Peers that may be asked. If silence has suspended all, each is tried again now and then."""
        free = [peer for peer in self._connected if self._peers[peer].suspended_until_ms <= now_ms]
        if free:
            return sorted(free)
        return sorted(
            peer for peer in self._connected
            if not self._peers[peer].lied
            and now_ms >= self._peers[peer].suspended_until_ms - SUSPEND_MS + RETRY_MS and not self._peers[peer].asks
        )

    def _begin(self, peer: str, request: Request, now_ms: int) -> Ask:
        self._number += 1
        self._sent_ms[self._number] = now_ms
        ask = self._asks[self._number] = Ask(self._number, peer, request)
        self._peers[peer].asks += 1
        return ask

    def _end(self, ask: Ask) -> None:
        del self._asks[ask.number], self._sent_ms[ask.number]
        self._peers[ask.peer].asks -= 1
        for slot in self._slots:
            if slot.ask == ask.number:
                slot.ask = 0

    # --- faults

    def _stalled(self, peer: str, now_ms: int) -> list[Penalty]:
        state = self._peers[peer]
        state.timeouts += 1
        if state.timeouts >= MAX_TIMEOUTS:
            state.timeouts, state.suspended_until_ms = 0, now_ms + SUSPEND_MS
        return [Penalty(peer, "no answer", TIMEOUT)]

    def _lie(self, peer: str, reason: str, points: int, now_ms: int) -> list[Penalty]:
        """Suspend the peer and forget what it gave."""
        state = self._peers.get(peer)
        if state is not None:
            state.suspended_until_ms, state.lied, state.height, state.head_height = now_ms + SUSPEND_MS, True, 0, 0
        for index, slot in enumerate(self._slots):
            if slot.source == peer and not (self._handed and self._handed.height == slot.header.height):
                self._drop_from(index)
                break
        return [Penalty(peer, reason, points)]

    def _drop_from(self, index: int) -> None:
        while len(self._slots) > index:
            self._held_bytes -= self._slots.pop().size

    def _last_height(self) -> int:
        return self._slots[-1].header.height if self._slots else self.height


def decode_block(data: bytes, request: GetBlock) -> Block | None:
    """Block of a `block` reply, None if the peer does not have it. Raises DecodeError if it is not the one asked for."""
    reply = decode_reply(data, request)
    assert isinstance(reply, BlockReply)
    if not reply.header:
        return None
    block = Block(Header.decode(reply.header), Body.decode(reply.body))
    if block.hash != request.hash:
        raise DecodeError("another block", where="block.header")
    if block.body.cert_hash != block.header.parent_cert_hash or block.body.extrinsics_root != block.header.extrinsics_root:
        raise DecodeError("body does not match its header", where="block.body")
    return block


__all__ = ["Ask", "Penalty", "SyncPlanner", "SyncedBlock", "decode_block"]
