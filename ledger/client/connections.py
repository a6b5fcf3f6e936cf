"""What every server here does about connections that take what others need. Mixed into uvicorn's protocols.

    a reply         taken within 30 s where more of it waits than the buffers hold
    an address      at most 64 connections from outside this machine
    all taken       a new connection takes the place of the one that has waited for its next request for longest

How long the head of a request may take depends on the parser: `bounded_http`, `tools.rpc.server`.
"""

from __future__ import annotations

import asyncio
from asyncio import TimerHandle, Transport
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any, Final

UNREAD_SECONDS: Final = 30.0
MAX_CONNECTIONS_PER_ADDRESS: Final = 64


class CutOff:
    """Aborts a connection whose peer leaves our data unread for too long."""

    transport: Transport
    loop: asyncio.AbstractEventLoop
    _unread_timer: TimerHandle | None = None

    def pause_writing(self) -> None:
        super().pause_writing()  # type: ignore[misc]
        if self._unread_timer is None:
            self._unread_timer = self.loop.call_later(UNREAD_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()  # type: ignore[misc]
        self._taken()

    def connection_lost(self, exc: Exception | None) -> None:
        self._taken()
        super().connection_lost(exc)  # type: ignore[misc]

    def _taken(self) -> None:
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None


class Crowd:
    """Who gives way where connections are short. On the machine everybody has the same address: there only waiting counts."""

    transport: Transport
    client: tuple[str, int] | None
    connections: Any  # a set, of all protocols of the server
    limit_concurrency: int | None
    waiting_since: float | None = None  # None while a request is answered

    def is_admitted(self) -> bool:
        """Whether there is room for this connection, made in another's place if need be. Cuts it if not."""
        if self._is_crowded():
            self.transport.abort()
            return False
        self._make_room()
        return True

    def _is_crowded(self) -> bool:
        """True where an address elsewhere has more connections than it may, this one included."""
        address = self.client[0] if self.client else ""
        if is_local(address):
            return False
        clients = [getattr(other, "client", None) for other in self.connections]
        return sum(1 for client in clients if client and client[0] == address) > MAX_CONNECTIONS_PER_ADDRESS

    def _make_room(self) -> None:
        """Where all connections are taken, end the one that has waited for its next request for longest."""
        others: Collection[Any] = self.connections
        if self.limit_concurrency is None or len(others) < self.limit_concurrency:
            return
        waiting = [
            (other.waiting_since, place, other) for place, other in enumerate(others)
            if isinstance(other, Crowd) and other is not self and other.waiting_since is not None
        ]  # fmt: skip
        if waiting:
            _, _, longest = min(waiting)
            self.connections.discard(longest)
            longest.transport.abort()


def is_local(address: str) -> bool:
    """True for an address of this machine and for "" (a unix socket): it says nothing about who calls."""
    if not address:
        return True
    try:
        found = ip_address(address.split("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)
