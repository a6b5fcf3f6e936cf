"""What every group of RPC methods stands on: places on the chain, readings stamped with theirs, and checks of arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, TypeVar

from genesis.cast import neuron_names
from genesis.spec import ChainSpec
from ledger.chain import Chain
from ledger.client.api import MAX_PAGE, AtLike
from ledger.client.records import At, Reading
from ledger.errors import DecodeError, NotFound
from ledger.machine import View

if TYPE_CHECKING:
    from tools.node.node import Node

T = TypeVar("T")

MAX_KEY_BYTES: Final = 1024
MAX_CURSOR_CHARACTERS: Final = 64


@dataclass
class Places:
    """A node that answers. `shutdown` ends the process that it lives in."""

    node: Node
    spec: ChainSpec
    version: str
    shutdown: Callable[[], None]

    @property
    def chain(self) -> Chain:
        return self.node.chain

    @cached_property
    def _names(self) -> dict[bytes, str]:
        return neuron_names(self.spec)

    def _height(self, at: AtLike) -> int:
        """Height of a place on the chain. Raises NotFound, or DecodeError for what is no place."""
        head = self.node.tip.height
        if at == "head":
            return head
        if isinstance(at, int):
            if not self.chain.params.genesis_height <= at <= head:
                raise NotFound(f"there is no block {at}; the head is at {head}")
            return at
        try:
            block_hash = bytes.fromhex(at[2:]) if at.startswith("0x") else b""
        except ValueError:
            block_hash = b""
        if len(block_hash) != 32:
            raise DecodeError("expected a height, a 0x hash or head", where="at")
        height = self.chain.height_of(block_hash)
        if height > head:
            raise NotFound(f"there is no block {at}")
        return height

    def _stamped(self, height: int, value: T) -> Reading[T]:
        return Reading(At(height, self.chain.hash_at(height)), value)

    async def _reading(self, at: AtLike, compute: Callable[[View, int], T]) -> Reading[T]:
        height = self._height(at)
        return await self._heavy(lambda: self._stamped(height, compute(self.chain.view(height), height)))

    async def _heavy(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self.node.read(function, *arguments)


def page(limit: int) -> int:
    if not 1 <= limit <= MAX_PAGE:
        raise DecodeError(f"{limit} is outside 1..{MAX_PAGE}", where="limit")
    return limit


def cursor(text: str, parts: int) -> list[int]:
    """Numbers of a cursor that an earlier page gave."""
    numbers = text.split(":") if len(text) <= MAX_CURSOR_CHARACTERS else []
    if len(numbers) != parts or not all(part.isdecimal() and len(part) <= 20 for part in numbers):
        raise DecodeError("not where an earlier page ended; take its `next` as it is, or begin without one", where="after")
    return [int(part) for part in numbers]


def key_of(account: bytes, where: str) -> bytes:
    if len(account) != 32:
        raise DecodeError(f"expected 32 bytes, got {len(account)}", where=where)
    return account


def epoch_number(number: int, where: str) -> int:
    if not 0 <= number < 1 << 32:
        raise DecodeError("not an epoch", where=where)
    return number


def netuid_of(netuid: int) -> int:
    if not 0 <= netuid < 1 << 16:
        raise NotFound(f"there is no subnet {netuid}", hint="quorix subnet list")
    return netuid


def proposal_number(number: int) -> int:
    if not 0 <= number < 1 << 32:
        raise NotFound(f"there is no open proposal {number}")
    return number


def bounded(key: bytes) -> None:
    if len(key) > MAX_KEY_BYTES:
        raise DecodeError(f"longer than {MAX_KEY_BYTES} bytes", where="key")
