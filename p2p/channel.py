"""Direct streams between authorities: votes and proposals, sent to each of them without gossip.

Each side opens one stream to the other and only writes on it. Votes leave before everything else that waits, and none is
ever dropped: a peer that does not take them loses the whole channel, and with it nothing, since what a node holds is
rebroadcast. Other frames wait in a bounded queue; when it is full `send` says so. Frames that wait together leave in
one write.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio

from ledger.errors import Unreachable

from .frames import FrameStream, StreamEnded
from .messages import MAX_CHANNEL_FRAME_BYTES

MAX_VOTE_FRAMES: Final = 4096
MAX_OTHER_FRAMES: Final = 64
FRAMES_PER_WRITE: Final = 32
FRAMES_PER_DELIVERY: Final = 64
REOPEN_S: Final = 0.2  # wait before a lost stream is opened again, doubling to
LONGEST_REOPEN_S: Final = 10.0

log = logging.getLogger("quorix.p2p")


class Channel:
    """The sending side to one authority. `push` may be called from any thread, the rest runs in trio."""

    def __init__(self, peer: str, open_stream: Callable[[], Awaitable[Any]]) -> None:
        self.peer, self._open_stream = peer, open_stream
        self._votes: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._work = trio.Event()
        self.open = False

    def push(self, frame: bytes, *, votes: bool) -> bool:
        """Queue a frame; follow it with `wake` in trio. False: the channel is closed, or has no room for it."""
        if not self.open or (not votes and len(self._others) >= MAX_OTHER_FRAMES):
            return False
        (self._votes if votes else self._others).append(frame)
        return True

    def wake(self) -> None:
        self._work.set()

    async def run(self) -> None:
        """Write until cancelled; after a failure the stream is opened again and what waited is dropped."""
        wait_s = REOPEN_S
        while True:
            began = trio.current_time()
            try:
                await self._write_all(FrameStream(await self._open_stream(), MAX_CHANNEL_FRAME_BYTES))
            except Unreachable as error:
                log.debug("channel to %s: %s", self.peer, error)
            finally:
                self.open = False
                self._votes.clear()
                self._others.clear()
            wait_s = REOPEN_S if trio.current_time() - began > LONGEST_REOPEN_S else min(LONGEST_REOPEN_S, 2 * wait_s)
            await trio.sleep(wait_s)

    async def _write_all(self, stream: FrameStream) -> None:
        self.open = True
        try:
            while True:
                frames = self._next_frames()
                if frames:
                    await stream.write(*frames)
                    continue
                self._work = trio.Event()
                if not self._votes and not self._others:
                    await self._work.wait()
        finally:
            await stream.reset()

    def _next_frames(self) -> list[bytes]:
        """Votes if there are any, else one other frame: a vote never waits for more than one write."""
        if len(self._votes) > MAX_VOTE_FRAMES:
            raise StreamEnded(f"{len(self._votes)} vote frames wait: the peer does not take them")
        if self._votes:
            return [self._votes.popleft() for _ in range(min(len(self._votes), FRAMES_PER_WRITE))]
        return [self._others.popleft()] if self._others else []


async def receive(stream: Any, deliver: Callable[[list[bytes]], Awaitable[None]]) -> None:
    """The receiving side: hand over frames in order, in batches; the next is read when the last was taken."""
    frames = FrameStream(stream, MAX_CHANNEL_FRAME_BYTES)
    while True:
        await deliver(await frames.read_many(FRAMES_PER_DELIVERY))
