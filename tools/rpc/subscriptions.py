"""Subscriptions: heads as a cursor over the chain, and the messages of one WebSocket connection.

A subscriber of heads holds a height, not a queue: the chain keeps every block, so a slow subscriber reads what it
missed from there and costs no memory. One that falls more than WINDOW blocks behind is moved on and told how many it
lost (`lagged`); nothing is dropped silently. Each message carries `seq`, which grows by one.

    -> {"method": "x_subscribe", "params": {"kind": "newHeads", "from": 12}, ...}      (or chain_subscribeNewHeads)
    <- {"jsonrpc": "2.0", "method": "x_event", "params": {"subscription": "1", "seq": 1, "result": {...}}}
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Final, Generic, TypeVar

from ledger.client.faults import INTERNAL_ERROR, error_to_json, protocol_error
from ledger.client.records import to_json
from ledger.client.registry import Method, find
from ledger.errors import Error, NotFound, Pruned, Rejected

T = TypeVar("T")

WINDOW: Final = 1000  # blocks that a subscriber may be behind
# Kinds of x_subscribe and the API methods behind them. All blocks are final: Substrate's two names are one stream.
KINDS: Final = {"newHeads": "chain_subscribeNewHeads", "finalizedHeads": "chain_subscribeNewHeads"}
ALIASES: Final = {"chain_subscribeFinalizedHeads": "chain_subscribeNewHeads"}


class HeadSignal:
    """The newest height, and a way to wait for a higher one."""

    def __init__(self, height: int) -> None:
        self.height = height
        self._changed = asyncio.Event()

    def set(self, height: int) -> None:
        self.height = height
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def reach(self, height: int) -> None:
        """Return when the head is at `height` or above."""
        while self.height < height:
            await self._changed.wait()


class Follower(Generic[T]):
    """Items of consecutive heights from `start` on, each read when the consumer asks for it.

    `lagged` counts the heights that were skipped before the latest item. Raises Pruned if `start` is too far back.
    """

    def __init__(self, signal: HeadSignal, read: Callable[[int], Awaitable[T]], start: int | None = None) -> None:
        self._signal, self._read = signal, read
        self._next = signal.height + 1 if start is None else start
        self._fresh = True
        self.lagged = 0

    def __aiter__(self) -> Follower[T]:
        return self

    async def __anext__(self) -> T:
        head = self._signal.height
        oldest = head + 1 - WINDOW
        if self._fresh and self._next > head + WINDOW:
            raise Rejected("StartAhead", f"the head is at {head}", hint="subscribe without a start")
        if self._fresh and self._next < oldest:
            raise Pruned(f"{self._next} is more than {WINDOW} blocks back", hint="read older blocks one by one")
        self._fresh = False
        self.lagged = max(0, oldest - self._next)
        self._next += self.lagged
        await self._signal.reach(self._next)
        item = await self._read(self._next)
        self._next += 1
        return item


class Session:
    """The subscriptions of one connection. `send` takes the text of a message and returns when it was handed over."""

    def __init__(self, api: Any, send: Callable[[str], Awaitable[None]], limit: int) -> None:
        self._api, self._send, self._limit = api, send, limit
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._gate = asyncio.Event()
        self._count = 0

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, method: Method, arguments: dict[str, Any]) -> str:
        """Prepare a subscription; messages flow after `release`. Raises Rejected when there are too many."""
        if len(self._tasks) >= self._limit:
            raise Rejected("TooManySubscriptions", f"at most {self._limit} on one connection")
        self._count += 1
        name = str(self._count)
        stream = getattr(self._api, method.name)(**arguments)
        self._tasks[name] = task = asyncio.ensure_future(self._run(name, stream, self._gate))
        task.add_done_callback(lambda _: self._tasks.pop(name, None))
        return name

    def release(self) -> None:
        """Let the prepared subscriptions flow: the answers that carry their ids have been sent."""
        gate, self._gate = self._gate, asyncio.Event()
        gate.set()

    def drop(self, name: Any) -> bool:
        """Cancel a subscription. Raises NotFound."""
        task = self._tasks.pop(name, None) if isinstance(name, str) else None
        if task is None:
            raise NotFound("no such subscription on this connection")
        return task.cancel()

    async def close(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, name: str, stream: AsyncIterator[Any], gate: asyncio.Event) -> None:
        await gate.wait()
        with suppress(OSError):  # the connection is gone; its owner closes this session
            await self._pump(name, stream)

    async def _pump(self, name: str, stream: AsyncIterator[Any]) -> None:
        prefix = f'{{"jsonrpc":"2.0","method":"x_event","params":{{"subscription":"{name}",'
        seq = 0
        try:
            async for item in stream:
                seq += 1
                lagged = getattr(stream, "lagged", 0)
                note = f'"lagged":{lagged},' if lagged else ""
                await self._send(f'{prefix}"seq":{seq},{note}"result":{_text_of(item)}}}}}')
        except OSError:
            raise
        except Error as error:
            await self._send(f'{prefix}"seq":{seq + 1},"error":{json.dumps(error_to_json(error))}}}}}')
        except Exception:
            logging.getLogger("quorix.rpc").exception("a subscription failed")
            failed = protocol_error(INTERNAL_ERROR, "internal error", name="Internal")
            await self._send(f'{prefix}"seq":{seq + 1},"error":{json.dumps(failed)}}}}}')


class _LastText:
    """The JSON text of the item that was sent last: one head goes to many subscribers and is encoded once."""

    item: Any = None
    text = ""


def _text_of(item: Any) -> str:
    if _LastText.item is not item:
        _LastText.text = json.dumps(to_json(item), separators=(",", ":"))
        _LastText.item = item
    return _LastText.text


def resolve(kind: Any) -> Method:
    """The method of a kind of `x_subscribe`. Raises NotFound."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise NotFound(f"no subscription {str(kind)[:40]!r}", hint=f"one of {', '.join(KINDS)}")
    return find(KINDS[kind])
