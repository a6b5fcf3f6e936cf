"""What the chain API says of sealed weights: to which keys they are sealed, what became of them, and the beacon."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TimelockKeys:
    """The keys to which the commits of an epoch are sealed, by position; `threshold` of their secrets open them."""

    epoch: int
    threshold: int
    authorities: list[bytes]  # session keys
    publics: list[bytes]  # X25519


@dataclass(frozen=True)
class TimelockOpening:
    """What became of the commits of an epoch whose reveal window is open.

    `stage`: "waiting" for secrets (until `until_height` at the latest), "opening", "opened", or "failed": too few secrets
    came, and what was sealed is revealed by hand. `released` of `keys` secrets are there, `threshold` are needed.
    """

    epoch: int
    stage: str
    released: int
    keys: int
    threshold: int
    until_height: int
    waiting: int  # sealed commits that are still to be opened
    opened: int
    malformed: int  # forfeited


@dataclass(frozen=True)
class BeaconRecord:
    """Randomness of an epoch. `released`: secrets in it; 0 if the hash of a certificate stands for them."""

    netuid: int
    epoch: int
    value: bytes
    released: int


@dataclass(frozen=True)
class TimelockRecord:
    """Sealed weights on a subnet. `keys`: of the running epoch's commits, null if those are revealed by hand."""

    netuid: int
    on: bool
    announced: int  # keys for the next epoch's commits, so far
    keys: TimelockKeys | None
    sealed: int  # commits of the running epoch that are sealed
    opening: TimelockOpening | None
    beacon: BeaconRecord | None  # of the running epoch
    next_beacon: BeaconRecord | None
