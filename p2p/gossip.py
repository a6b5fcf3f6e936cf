"""Gossip: gossipsub with the node's own validation, in which no message can end the host.

Topics are `/qx/<genesis8>/<name>/1`. A message travels on only after its handler said True; False means it can never be
valid, and counts against who forwarded it. A handler that is late, fails or was not asked leaves no verdict: the
message is dropped and may come again. Message ids are hashes of topic and data, so equal bytes published by two nodes
are one message, and bytes sent twice within two minutes vanish: completeness is never gossip's business.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any, Final

import trio
from libp2p.exceptions import ValidationError
from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub
from libp2p.pubsub import pubsub as pubsub_module
from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.tools.anyio_service import background_trio_service

from .host import Host
from .messages import MAX_GOSSIP_BYTES
from .pace import TokenBuckets
from .thread import wall_ms

DEGREE, DEGREE_LOW, DEGREE_HIGH = 8, 6, 48  # a hub keeps 48 leaves in its mesh; with less it prunes and is flooded
HEARTBEAT_S: Final = 1
OUT_QUEUE: Final = 512  # messages waiting for one peer
MAX_RPC_BYTES: Final = 1 << 20
SUBSCRIPTION_QUEUE: Final = 1024
MAX_SUBSCRIPTIONS: Final = 32  # of one peer
SEEN_S: Final = 120
MAX_SEEN: Final = 200_000
HANDLERS_AT_ONCE: Final = 10
MAX_WAITING: Final = 256  # messages whose validation has not ended
HANDLER_SECONDS: Final = 5.0
RATE_PER_S: Final = 20  # new messages of one peer on one topic
BURST: Final = 256
MAX_BUCKETS: Final = 1024

log = logging.getLogger("quorix.p2p")

# (forwarder, topic name, data) -> True: forward, False: can never be valid, None: no verdict
Validator = Callable[[ID, str, bytes], Awaitable[bool | None]]


def message_id(message: Any) -> bytes:
    """20 raw bytes; must be the same function on all nodes."""
    topic = message.topicIDs[0] if message.topicIDs else ""
    return hashlib.sha256(topic.encode() + b"\0" + message.data).digest()[:20]


class Seen:
    """Which messages were seen in the last two minutes: two buckets of one minute each, at most 200,000 ids."""

    def __init__(self) -> None:
        self._new: dict[bytes, None] = {}
        self._old: dict[bytes, None] = {}
        self._turned = trio.current_time()

    def add(self, key: bytes) -> bool:
        """True if it is new."""
        fresh = not self.has(key)
        if trio.current_time() - self._turned >= SEEN_S / 2 or len(self._new) >= MAX_SEEN // 2:
            self._old, self._new, self._turned = self._new, {}, trio.current_time()
        self._new[key] = None
        return fresh

    def has(self, key: bytes) -> bool:
        return key in self._new or key in self._old


class GuardedPubsub(Pubsub):  # type: ignore[misc]
    """Pubsub in which no message can end the host, and whose verdicts are ours."""

    seen_messages: Any
    names: Mapping[str, str]
    validator: Validator
    fault: Callable[[ID, BaseException], None]

    def prepare(self, names: Mapping[str, str], validator: Validator, fault: Callable[[ID, BaseException], None]) -> None:
        """`names`: full topic -> short name."""
        self.names, self.validator, self.fault = names, validator, fault
        self.counter = wall_ms() * 1_000_000  # the library's seconds repeat numbers after a quick restart
        self.seen_messages.stop()  # a thread for each host, only to sweep
        self.seen_messages = Seen()
        self._handlers = trio.Semaphore(HANDLERS_AT_ONCE)
        self._waiting: set[bytes] = set()
        self._buckets = TokenBuckets(RATE_PER_S, BURST, MAX_BUCKETS)

    async def push_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """Bounds first; then the library's own path (seen, signature, `validate_msg`, delivery)."""
        if msg_forwarder == self.my_id:
            await super().push_msg(msg_forwarder, msg)
            return
        if len(msg.topicIDs) != 1 or msg.topicIDs[0] not in self.names or len(msg.data) > MAX_GOSSIP_BYTES:
            self.fault(msg_forwarder, ValueError("gossip message out of bounds"))
            return
        key = message_id(msg)
        if key in self._waiting or len(self._waiting) >= MAX_WAITING or self.seen_messages.has(key):
            return
        if not self._buckets.take((msg_forwarder, msg.topicIDs[0])):
            return
        self._waiting.add(key)
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            self.fault(msg_forwarder, error)
        finally:
            self._waiting.discard(key)

    async def validate_msg(self, msg_forwarder: ID, msg: Any) -> None:
        """Ask the handler. Only "never valid" is remembered; the library would remember a late answer as that."""
        if msg_forwarder == self.my_id:
            return
        verdict: bool | None = None
        async with self._handlers:
            with trio.move_on_after(HANDLER_SECONDS):
                verdict = await self.validator(msg_forwarder, self.names[msg.topicIDs[0]], msg.data)
        if verdict is None:
            raise ValidationError("no verdict")
        if not verdict:
            self._mark_msg_seen(msg)
            self.fault(msg_forwarder, ValueError("gossip message that can never be valid"))
            raise ValidationError("invalid")


class Gossip:
    """The node's topics. Everything runs in trio."""

    def __init__(
        self, host: Host, prefix: str, names: list[str], validator: Validator, fault: Callable[[ID, BaseException], None]
    ) -> None:
        _tame_library()
        self._topics = {name: f"{prefix}/{name}/1" for name in names}
        self._router = GossipSub(
            # 1.2 costs twice the CPU: an IDONTWANT for each message and neighbour
            [PROTOCOL_ID_V11, PROTOCOL_ID], degree=DEGREE, degree_low=DEGREE_LOW, degree_high=DEGREE_HIGH,
            heartbeat_initial_delay=0.2, heartbeat_interval=HEARTBEAT_S, do_px=False, spam_protection_enabled=False,
            eclipse_protection_enabled=False, adaptive_gossip_enabled=False,
        )
        self._router._do_px = _ignore  # peers offered at a PRUNE are not dialled
        self._router._check_equivocation = _believe  # keeps a thousand messages; ids are hashes here, not numbers
        self.pubsub = GuardedPubsub(
            host.library, self._router, msg_id_constructor=message_id, max_inbound_rpc_size=MAX_RPC_BYTES,
            max_subscriptions_per_peer=MAX_SUBSCRIPTIONS, max_subscriptions_per_rpc=MAX_SUBSCRIPTIONS,
            allowed_topics=set(self._topics.values()),
        )
        self.pubsub.prepare({topic: name for name, topic in self._topics.items()}, validator, fault)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Gossip:
        await self._stack.enter_async_context(background_trio_service(self.pubsub))
        await self._stack.enter_async_context(background_trio_service(self._router))
        await self.pubsub.wait_until_ready()
        return self

    async def __aexit__(self, *error: Any) -> bool | None:
        return await self._stack.__aexit__(*error)

    async def join(self, nursery: trio.Nursery) -> None:
        """Subscribe to all topics."""
        for topic in self._topics.values():
            nursery.start_soon(_drain, await self.pubsub.subscribe(topic))

    async def publish(self, name: str, data: bytes) -> None:
        await self.pubsub.publish(self._topics[name], data)

    def neighbours(self, name: str) -> int:
        """Peers in the mesh of a topic."""
        return len(self._router.mesh.get(self._topics[name], ()))


def _tame_library() -> None:
    """Settings of the library that have no parameter; idempotent."""
    pubsub_module.SUBSCRIPTION_CHANNEL_SIZE = SUBSCRIPTION_QUEUE  # 32 drops bursts
    RpcQueue.__init__.__defaults__ = (OUT_QUEUE, MAX_RPC_BYTES)  # also 32
    # Peers append a signed record of addresses to every message; verifying it twice each time is a third of the cost,
    # and what it says is not used: addresses come from our own exchange, the sender's identity from noise.
    pubsub_module.maybe_consume_signed_record = gossipsub.maybe_consume_signed_record = _believe


def _believe(*_: Any) -> bool:
    return True


async def _ignore(_: Any) -> None:
    """Stands in for what the library would do by itself."""


async def _drain(subscription: Any) -> None:
    while True:  # delivery has happened in the validator
        await subscription.get()


__all__ = ["Gossip", "message_id"]
