"""What explorers, the CLI, validators and RPC read about sealed weights and the beacon; nothing here changes state."""

from __future__ import annotations

from typing import Final

from ledger.client.timelock_records import BeaconRecord, TimelockKeys, TimelockOpening, TimelockRecord
from ledger.errors import NotFound

from . import params
from .modules import subnets, timelock, weights
from .tables import ReadState

STAGES: Final = ("waiting", "opening", "opened", "failed")


def timelock_of(state: ReadState, netuid: int) -> TimelockRecord:
    """Everything about a subnet's sealed weights. Raises NotFound."""
    _require(state, netuid)
    epoch = subnets.tempo(state, netuid).epoch_index
    keys = timelock.lock(state, netuid, epoch)
    return TimelockRecord(
        netuid=netuid, on=timelock.is_on(state, netuid), announced=_count(state, timelock.KEYS.key(netuid, epoch + 1)),
        keys=None if keys is None else TimelockKeys(epoch, keys.threshold, keys.authorities, keys.publics),
        sealed=_count(state, weights.SEALS.key(netuid, epoch)), opening=_opening(state, netuid, epoch),
        beacon=beacon(state, netuid, epoch), next_beacon=beacon(state, netuid, epoch + 1),
    )


def beacon(state: ReadState, netuid: int, epoch: int | None = None) -> BeaconRecord | None:
    """The beacon of an epoch, by default the running one; None if there is none or it is forgotten. Raises NotFound."""
    _require(state, netuid)
    epoch = subnets.tempo(state, netuid).epoch_index if epoch is None else epoch
    row = timelock.beacon(state, netuid, epoch)
    return None if row is None else BeaconRecord(netuid, epoch, row.value, row.released)


def _require(state: ReadState, netuid: int) -> None:
    if not subnets.exists(state, netuid):
        raise NotFound(f"there is no subnet {netuid}", hint="quorix subnet list", netuid=netuid)


def _opening(state: ReadState, netuid: int, running: int) -> TimelockOpening | None:
    epoch = running - params.get(state, "reveal_period_epochs", netuid)
    keys = timelock.lock(state, netuid, epoch) if epoch >= 0 else None
    if keys is None:
        return None
    row = timelock.progress(state, netuid, epoch)
    return TimelockOpening(
        epoch=epoch, stage=STAGES[row.stage], released=_count(state, timelock.SECRETS.key(netuid, epoch)),
        keys=len(keys.publics), threshold=keys.threshold, until_height=timelock.last_release(state, netuid),
        waiting=_count(state, weights.SEALS.key(netuid, epoch)), opened=row.opened, malformed=row.malformed,
    )


def _count(state: ReadState, prefix: bytes) -> int:
    return sum(1 for _ in state.items(prefix))
