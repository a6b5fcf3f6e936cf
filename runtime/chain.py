"""What the state remembers of its own chain: the constants of genesis, recent block hashes, and how many keys it has.

Hashes of the last 4,096 blocks are kept in a ring, since an extrinsic is bound to the hash of its birth block and may live
that long. The state after block h knows the hashes up to h - 1; the hash of h itself comes with block h + 1.

Rules: BLK-11 recent hashes
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.blocks import MAX_PERIOD

from .registry import Context
from .tables import ReadState, Table, u16_field

BIRTH_WINDOW: Final = MAX_PERIOD


@dataclass(frozen=True)
class ChainInfo:
    """Constants of the chain, written by genesis and never changed."""

    name: str
    initial_height: int
    block_time_ms: int
    session_blocks: int
    max_block_bytes: int
    max_block_weight: int
    seal: str  # "interval", "instant" or "manual"
    devnet: bool
    allow_private: bool  # private addresses may be served

    def session(self, height: int) -> int:
        return (height - self.initial_height) // self.session_blocks

    def ends_session(self, height: int) -> bool:
        """True for the last block of a session: it writes the next authority set."""
        return (height - self.initial_height + 1) % self.session_blocks == 0


@dataclass(frozen=True)
class Birth:
    """A block in which an extrinsic may be born."""

    height: int
    block_hash: bytes


INFO = Table(5, "chain_info", ChainInfo)
BIRTH_HASHES = Table(6, "birth_hash", Birth, u16_field("slot"))  # by height mod 4096
KEY_COUNT = Table(7, "key_count", int)


def info(state: ReadState) -> ChainInfo:
    found = INFO.get(state)
    assert found is not None, "the state has no genesis"
    return found


def remember_parent(context: Context) -> None:
    """Put the parent's hash into the ring."""
    height = context.height - 1
    BIRTH_HASHES.put(context.state, height % BIRTH_WINDOW, value=Birth(height, context.block.parent_hash))


def birth_hash(state: ReadState, height: int) -> bytes | None:
    """Hash of the block at `height` if it is among the last 4,096 and below the head, else None."""
    found = BIRTH_HASHES.get(state, height % BIRTH_WINDOW)
    return None if found is None or found.height != height else found.block_hash


def key_count(state: ReadState) -> int:
    """Number of keys in the state."""
    return KEY_COUNT.get(state) or 0


def count_keys(context: Context, changes: dict[bytes, bytes | None]) -> None:
    """Bring the count up to date with the block's changes, and add it to them."""
    state = context.state
    added = state.absent_before(changes) - list(changes.values()).count(None)
    if added:
        KEY_COUNT.put(state, value=key_count(state) + added)
        changes[KEY_COUNT.key()] = state.get(KEY_COUNT.key())
