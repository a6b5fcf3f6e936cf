"""What the ledger itself must know of a chain's specification. The whole specification belongs to `genesis`.

All of it is genesis data: every node of a chain has the same values, and the genesis hash commits to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Seal = Literal["interval", "instant", "manual"]


@dataclass(frozen=True)
class ChainSpecParams:
    """Constants of one chain.

    The genesis state has height `initial_height - 1` and hash `genesis_hash`; the first block has `initial_height`.
    """

    genesis_hash: bytes  # 32 bytes; also the signing domain until a rewind
    initial_height: int = 1
    genesis_time_ms: int = 0  # timestamp of the genesis state; the first block's is greater
    block_time_ms: int = 1000
    session_blocks: int = 100
    max_block_bytes: int = 512 * 1024  # of the encoded body
    max_block_weight: int = 10_000_000  # work units
    seal: Seal = "interval"
    devnet: bool = False  # only such chains can be rewound
    runtime_version: int = 1

    @property
    def genesis_height(self) -> int:
        """Height of the genesis state, for which no block exists."""
        return self.initial_height - 1

    def session(self, height: int) -> int:
        """Session of a block: consecutive runs of `session_blocks` heights from the first block on."""
        return (height - self.initial_height) // self.session_blocks
