"""What must hold of stored rows and commits: of weights and bonds by uid, and of what waits to be revealed (1.5, 1.9, 4.3)."""

from __future__ import annotations

from collections.abc import Iterator
from operator import lt

from ledger.codec import unpack_u16

from .. import hooks
from ..fixed import U16_MAX
from ..params import ROOT_NETUID
from ..tables import ReadState
from ..weightcheck import MAX_OPEN_COMMITS
from . import neurons, subnets, weights


@hooks.invariant("rows of weights and bonds")
def audit_rows(state: ReadState) -> Iterator[str]:
    """Rows are a neuron's, ascending, positive, and towards uids that exist; weights are scaled to 65535."""
    for table in (weights.WEIGHTS, weights.BONDS):
        for (netuid, uid), packed in table.items(state):
            flat, record = unpack_u16(packed), subnets.SUBNETS.get(state, netuid)
            targets, values = flat[::2], flat[1::2]
            place = f"the row of {table.name} of uid {uid} in subnet {netuid}"
            if record is None or neurons.neuron(state, netuid, uid) is None:
                yield f"{place} has no neuron"
            elif not values or len(targets) != len(values) or not all(map(lt, targets, targets[1:])) or not min(values):
                yield f"{place} is empty, out of order, or has a zero"
            elif netuid != ROOT_NETUID and targets[-1] >= record.n:
                yield f"{place} names uid {targets[-1]} of {record.n}"
            elif table is weights.WEIGHTS and max(values) != U16_MAX:
                yield f"{place} has a largest value of {max(values)}"


@hooks.invariant("commits")
def audit_commits(state: ReadState) -> Iterator[str]:
    """Open commits are those of a neuron, one for each epoch, ascending, within their limit, of epochs that have begun."""
    for (netuid, hotkey), waiting in weights.COMMITS.items(state):
        epochs = [entry[0] for entry in waiting]
        if neurons.uid_of(state, netuid, hotkey) is None:
            yield f"{hotkey.hex()} has commits in subnet {netuid} without a uid"
        elif not 0 < len(epochs) <= MAX_OPEN_COMMITS or not all(map(lt, epochs, epochs[1:])):
            yield f"the commits of {hotkey.hex()} in subnet {netuid} are out of order or number"
        elif epochs[-1] > subnets.tempo(state, netuid).epoch_index:
            yield f"{hotkey.hex()} committed in subnet {netuid} for epoch {epochs[-1]}, which has not begun"
