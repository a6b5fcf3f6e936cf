"""HTTP/1.1 by uvicorn, with the bounds that uvicorn leaves open: gateway and explorer serve with `http_options`.

    a head          complete within 10 s, counted from the connection or the last reply: bytes that drip win no time
    the rest        a reply that nobody takes, connections of one address and of all: `connections`

A body's bounds are the application's.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .connections import Crowd, CutOff

HEAD_SECONDS: Final = 10.0
MAX_HEADER_BYTES: Final = 16 * 1024


class BoundedHttp(CutOff, Crowd, H11Protocol):
    """One connection of a client."""

    _head_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self.is_admitted():
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._wait()  # first: a request that came meanwhile ends the wait at once
        super().on_response_complete()

    def _wait(self) -> None:
        """For the head of the next request. Only a whole one ends the wait."""
        if self._head_timer is None:
            self.waiting_since = self.loop.time()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        self.waiting_since = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def http_options(app: Any, *, connections: int, drain_s: int) -> uvicorn.Config:
    """How uvicorn serves an application with every bound; requests at work have `drain_s` to end in when it stops."""
    return uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", server_header=False, http=BoundedHttp, ws="none",
        timeout_graceful_shutdown=drain_s, limit_concurrency=connections, h11_max_incomplete_event_size=MAX_HEADER_BYTES,
    )
