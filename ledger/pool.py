"""The pool: extrinsics and inherent candidates that wait for a block.

Everything is bounded (bytes, number, per account, nonce gap, time to live). An extrinsic enters through `admit` (cheap
checks against the head's state), one signature check and `insert`; it leaves by inclusion, expiry, replacement or
eviction. What is in the pool is verified: importing a block that carries it costs no signature. One thread owns a pool.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .blocks import Extrinsic
from .chain import Chain, ExecutedBlock, VerifyBatch
from .machine import Admission


@dataclass(frozen=True)
class PoolLimits:
    extrinsics: int = 5_000
    bytes: int = 16 << 20
    per_account: int = 64
    nonce_gap: int = 16
    inherents: int = 256


@dataclass(frozen=True, slots=True)
class Candidate:
    """An extrinsic that passed every check but the signature's."""

    extrinsic: Extrinsic
    raw: bytes
    admission: Admission
    signature: tuple[bytes, bytes, bytes]  # (public key, message, signature) for `verify_batch`


class Pool:
    """See the module. Refusals are `Rejected` with a stable name, e.g. PoolFull, NonceTooLow, FeeTooLowToReplace."""

    def __init__(self, chain: Chain, limits: PoolLimits | None = None) -> None: ...

    # --- entering -----------------------------------------------------------------------------------------------

    def submit(self, raw: bytes) -> bytes:
        """admit, verify the signature here, insert; returns the extrinsic's id. Raises DecodeError or Rejected."""

    def admit(self, raw: bytes) -> Candidate:
        """All checks but the signature. Raises DecodeError or Rejected (AlreadyKnown for a duplicate)."""

    def insert(self, candidate: Candidate) -> bytes:
        """Take in a candidate whose signature was found valid; returns its id. Raises Rejected."""

    def add_inherent(self, kind: int, payload: bytes) -> bool:
        """Remember an inherent candidate (evidence, heartbeat); False if known or full."""

    # --- for a block --------------------------------------------------------------------------------------------

    def select(self, max_bytes: int, max_weight: int) -> list[Extrinsic]:
        """For a block on the head: by class, then id, each account in nonce order, within the limits.

        A quarter of both limits is kept for the operational class.
        """

    def inherents(self) -> list[tuple[int, bytes]]:
        """Inherent candidates, oldest first."""

    @property
    def verified(self) -> Mapping[bytes, Extrinsic]:
        """Extrinsics by their bytes: their signatures hold on this chain. For `Chain.check`; safe to read anywhere."""

    def on_block(self, executed: ExecutedBlock) -> list[bytes]:
        """After a commit: drop what was included, expired or became invalid; returns the ids dropped unincluded."""

    def on_rewind(self) -> None:
        """After a rewind: forget everything (birth blocks may have changed)."""

    # --- looking ------------------------------------------------------------------------------------------------

    def get(self, extrinsic_id: bytes) -> Extrinsic | None: ...

    def __contains__(self, extrinsic_id: object) -> bool: ...

    def __len__(self) -> int: ...

    @property
    def size_bytes(self) -> int: ...

    def ready(self) -> bool:
        """True iff a block made now would carry something (an extrinsic that is ready, or an inherent candidate)."""

    def of_account(self, account: bytes) -> list[Extrinsic]:
        """Waiting extrinsics of one account in nonce order."""

    def next_nonce(self, account: bytes, state_nonce: int) -> int:
        """The nonce a client should use next, counting what waits without a gap."""

    # --- over a restart -----------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """All waiting extrinsics and inherent candidates as bytes, for `load`."""

    def load(self, data: bytes, verify_batch: VerifyBatch | None = None) -> int:
        """Take a dump in again, through every check; returns how many entered. A damaged dump counts as empty."""
