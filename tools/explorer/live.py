"""Server-sent events for the live pages: one subscription to the node, fanned out to all open pages.

Each event carries HTML fragments that the server rendered; the page only swaps them in. A page that reads too slowly
misses frames, never holds up others, and gets the newest next.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from ledger.client.api import ChainApi
from ledger.client.records import NewHead
from ledger.errors import Error

if TYPE_CHECKING:
    from .render import Renderer

MAX_PAGES: Final = 256
QUEUE: Final = 4
KEEPALIVE_S: Final = 15.0
RETRY_S: Final = 1.0


class Live:
    """Follows the chain while anybody watches."""

    def __init__(self, api: ChainApi) -> None:
        self.api = api
        self._pages: set[asyncio.Queue[NewHead]] = set()
        self._task: asyncio.Task[None] | None = None

    async def stream(self, renderer: Renderer) -> AsyncIterator[bytes]:
        """Events of one open page."""
        if len(self._pages) >= MAX_PAGES:
            yield b"retry: 10000\n\n"
            return
        queue: asyncio.Queue[NewHead] = asyncio.Queue(QUEUE)
        self._pages.add(queue)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._follow())
        try:
            yield b"retry: 1000\n\n"
            while True:
                try:
                    head = await asyncio.wait_for(queue.get(), KEEPALIVE_S)
                except TimeoutError:
                    yield b": still here\n\n"
                    continue
                fragments = await renderer.live(self.api, head)
                yield b"event: head\ndata: " + json.dumps(fragments).encode() + b"\n\n"
        finally:
            self._pages.discard(queue)

    async def _follow(self) -> None:
        while self._pages:
            try:
                async for head in self.api.chain_subscribe_new_heads():
                    for queue in self._pages:
                        if queue.full():
                            queue.get_nowait()
                        queue.put_nowait(head)
                    if not self._pages:
                        return
            except Error:
                await asyncio.sleep(RETRY_S)
