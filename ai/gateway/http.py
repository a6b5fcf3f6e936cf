"""The gateway's side of a connection: HTTP/1.1 by uvicorn, with the bounds that uvicorn leaves open.

    a head          complete within 10 s, counted from the connection or the last reply: bytes that drip win no time
    a reply         taken within 30 s where more of it waits than the buffers hold
    an address      at most 64 connections from outside this machine
    all taken       a new connection takes the place of the one that has waited for its next request for longest

The body's bounds are `app.read_json`'s.
"""

from __future__ import annotations

from asyncio import TimerHandle, Transport
from ipaddress import ip_address
from typing import Final

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 10.0
UNREAD_SECONDS: Final = 30.0
MAX_CONNECTIONS_PER_ADDRESS: Final = 64


class BoundedHttp(H11Protocol):
    """One connection of a client."""

    _waiting_since: float | None = None  # None while a request is answered
    _head_timer: TimerHandle | None = None
    _unread_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if self._is_crowded():
            transport.abort()
            return
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            self._replace_longest_waiting()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._taken()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        self._wait()  # first: a request that came meanwhile ends the wait at once
        super().on_response_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taken()

    def _is_crowded(self) -> bool:
        address = self.client[0] if self.client else ""
        if not address or is_local(address):
            return False
        clients = [getattr(other, "client", None) for other in self.connections]
        return sum(1 for client in clients if client and client[0] == address) > MAX_CONNECTIONS_PER_ADDRESS

    def _replace_longest_waiting(self) -> None:
        waiting = [
            (other._waiting_since, place, other) for place, other in enumerate(self.connections)
            if isinstance(other, BoundedHttp) and other is not self and other._waiting_since is not None
        ]  # fmt: skip
        if waiting:
            _, _, longest = min(waiting)
            self.connections.discard(longest)
            longest.transport.abort()

    def _wait(self) -> None:
        """For the head of the next request. Only a whole one ends the wait."""
        if self._head_timer is None:
            self._waiting_since = self.loop.time()
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        self._waiting_since = None
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _taken(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


def is_local(address: str) -> bool:
    """True for an address of this machine: it says nothing about who calls."""
    try:
        found = ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


__all__ = ["BoundedHttp", "is_local"]
