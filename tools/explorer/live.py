"""Server-sent events for the live page: one subscription to the node, rendered once a block, fanned out to all open pages.

An event carries HTML fragments that the server rendered; the page only swaps them in. When blocks come faster than they
can be drawn the newest is drawn; a page that reads too slowly misses events, never holds up others. While the node does
not answer, pages get an event that says so.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from ledger.client.api import ChainApi
from ledger.errors import Error

MAX_PAGES: Final = 256
QUEUED_EVENTS: Final = 4  # of one page
KEEPALIVE_S: Final = 15.0
RETRY_S: Final = 1.0

Draw = Callable[[], Awaitable[dict[str, str]]]


class Live:
    """Follows the chain while anybody watches. `draw` makes the fragments for the head of the moment."""

    def __init__(self, api: ChainApi, draw: Draw) -> None:
        self.api, self.draw = api, draw
        self._pages: set[asyncio.Queue[bytes]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._new = asyncio.Event()

    async def stream(self) -> AsyncIterator[bytes]:
        """Events of one open page."""
        if len(self._pages) >= MAX_PAGES:
            yield b"retry: 10000\n\n"
            return
        queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUED_EVENTS)
        self._pages.add(queue)
        self._begin()
        try:
            yield b"retry: 1000\n\n"
            while True:
                try:
                    yield await asyncio.wait_for(queue.get(), KEEPALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
        finally:
            self._pages.discard(queue)
            if not self._pages:
                self._end()

    def _begin(self) -> None:
        if not self._tasks:
            self._tasks = {asyncio.create_task(self._follow()), asyncio.create_task(self._drawing())}

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = set()

    async def _follow(self) -> None:
        while True:
            try:
                async for _ in self.api.chain_subscribe_new_heads():
                    self._new.set()
            except Error as error:
                self._send("trouble", {"cause": error.cause})
            await asyncio.sleep(RETRY_S)

    async def _drawing(self) -> None:
        while True:
            await self._new.wait()
            self._new.clear()
            try:
                self._send("head", await self.draw())
            except Error as error:
                self._send("trouble", {"cause": error.cause})

    def _send(self, name: str, data: dict[str, str]) -> None:
        event = f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()
        for queue in self._pages:
            if queue.full():
                with suppress(asyncio.QueueEmpty):
                    queue.get_nowait()
            queue.put_nowait(event)
