"""A subnet of voters and miners around the chain's own epoch: what the experiments on collusion and copying play with.

Rows of weights come as floats, become u16 as a validator would send them, and go through `runtime.epochs.run`, the very
function that the chain calls; bonds are carried from epoch to epoch as the chain stores them. Validators have the uids
0..V-1, miners follow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from runtime.epochs import run as run_epoch
from runtime.rows import PackedRows, Rows
from runtime.trace import EpochInputs, EpochParams, EpochTrace

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]

TEMPO_BLOCKS = 100
POT_RAO = 10**12
SUPPLY_RAO = 10**15
FULL_U16 = 65535


@dataclass
class Subnet:
    """Voters with fixed stakes, by share. `play` runs one epoch on the rows that they send.

    `stake`: one share a validator, together about 1. `registered_at`: block of each miner's registration, by default 0.
    """

    stake: Matrix
    miners: int
    params: EpochParams
    block: int = TEMPO_BLOCKS
    bonds: Rows = field(default_factory=list)

    def play(self, weights: Matrix) -> EpochTrace:
        """One epoch; `weights`: a row of miners' shares for each validator, all zero for one that says nothing."""
        voters, size = len(self.stake), len(self.stake) + self.miners
        self.block += TEMPO_BLOCKS
        said = [bool(row.any()) for row in weights]
        trace = run_epoch(EpochInputs(
            block=self.block, bonds_from=self.block - TEMPO_BLOCKS, emission_rao=POT_RAO,
            stake=[int(share * SUPPLY_RAO) for share in self.stake] + [0] * self.miners,
            permit=[True] * voters + [False] * self.miners, registered_at=[0] * size, active_at=[self.block - 1] * size,
            weights_at=[self.block - 1 if here else 0 for here in said] + [0] * self.miners,
            weights=PackedRows.from_pairs([sent(row, voters) for row in weights] + [b""] * self.miners),
            bonds=self.bonds or [[]] * size,
        ), self.params)
        self.bonds = trace.bonds_u16
        return trace


def sent(row: Matrix, first_uid: int) -> bytes:
    """A row as it stands in the state: u16 pairs (uid, weight), the largest weight 65,535."""
    import numpy as np

    if not row.any():
        return b""
    scaled = np.round(FULL_U16 * row / row.max())
    uids = np.nonzero(scaled)[0]
    return np.stack([uids + first_uid, scaled[uids]], axis=1).astype("<u2").tobytes()


def share_of(trace: EpochTrace, validators: Iterable[int], miners: Iterable[int], voters: int) -> float:
    """Part of the pot that reached these validators (indices) and these miners (indices from 0)."""
    earned = [trace.validator_rao[index] for index in validators] + [trace.server_rao[voters + index] for index in miners]
    return sum(earned) / POT_RAO
