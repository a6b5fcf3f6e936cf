"""The story of an epoch for its page: the numbers of the trace, arranged by the steps in which they were computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ledger.client.records import EpochTraceRecord

ONE_Q32: Final = 1 << 32
STAIR_WIDTH: Final = 160
STAIR_HEIGHT: Final = 64


@dataclass(frozen=True)
class Cell:
    """A weight of a validator for a miner: Q32 as voted and after clipping."""

    voted: int
    kept: int

    @property
    def cut(self) -> bool:
        return self.kept < self.voted


@dataclass(frozen=True)
class Judge:
    """A validator's row."""

    uid: int
    name: str
    stake_rao: int
    share: int
    permit: bool
    active: bool
    forfeited: bool
    cells: list[Cell | None]  # one a miner
    trust: int
    dividends: int
    pay_rao: int
    bonds: list[tuple[int, int]]  # (before, after) Q32, one a miner

    @property
    def lost(self) -> bool:
        """Part of this validator's vote was cut off."""
        return any(cell is not None and cell.cut for cell in self.cells)


@dataclass(frozen=True)
class Miner:
    """A column: who is judged."""

    uid: int
    name: str
    consensus: int
    prerank: int
    rank: int
    trust: int
    incentive: int
    pay_rao: int
    stair: str  # SVG path: weight over cumulative stake, sorted
    level: float  # y of the consensus in the stair
    kappa: float  # x of the needed support in the stair


@dataclass(frozen=True)
class Story:
    judges: list[Judge]
    miners: list[Miner]
    emission_rao: int
    paid_rao: int
    need_rao: int
    total_rao: int
    kappa_u16: int
    yuma: str
    agreed: bool
    paid_by: str
    remainder_rao: int
    has_rows: bool
    anyone_cut: bool


def explain(record: EpochTraceRecord) -> Story:
    """Arrange a trace. Integers above 2^53 arrive as strings and are turned back here."""
    t = record.trace
    weights, clipped = _rows(t["weights"]), _rows(t["clipped"])
    before, after = _rows(t["bonds_before"]), _rows(t["bonds_after"])
    active = [int(v) for v in t["active_stake_rao"]]
    total = int(t["total_stake_rao"])
    judged = sorted({uid for row in weights for uid in row} | {i for i, v in enumerate(t["incentive"]) if int(v)})
    judges = [
        Judge(
            i, record.names[i], int(t["stake_rao"][i]), int(t["active_share"][i]), bool(t["permit"][i]), bool(t["active"][i]),
            bool(t["forfeited"][i]), [_cell(weights, clipped, i, j) for j in judged], int(t["validator_trust"][i]),
            int(t["dividends"][i]), int(t["validator_rao"][i]), [(_at(before, i, j), _at(after, i, j)) for j in judged],
        )
        for i in range(len(active)) if active[i] > 0
    ]
    need = int(t["need_rao"])
    miners = [_miner(record, j, weights, active, total, need) for j in judged]
    paid = sum(int(v) for v in t["server_rao"]) + sum(int(v) for v in t["validator_rao"])
    parameters = t["params"]
    return Story(
        judges, miners, int(t["emission_rao"]), paid, need, total, int(parameters["kappa"]),
        "Yuma 3" if parameters["yuma3"] else "classic", bool(t["agreed"]), str(t["paid_by"]), int(t["remainder_rao"]),
        bool(t["has_rows"]), any(judge.lost for judge in judges),
    )


def _rows(rows: list[Any]) -> list[dict[int, int]]:
    return [{int(uid): int(value) for uid, value in row} for row in rows]


def _at(rows: list[dict[int, int]], i: int, j: int) -> int:
    return rows[i].get(j, 0) if i < len(rows) else 0


def _cell(weights: list[dict[int, int]], clipped: list[dict[int, int]], i: int, j: int) -> Cell | None:
    if i >= len(weights) or j not in weights[i]:
        return None
    return Cell(weights[i][j], clipped[i].get(j, 0))


def _miner(
    record: EpochTraceRecord, j: int, weights: list[dict[int, int]], active: list[int], total: int, need: int
) -> Miner:
    t = record.trace
    consensus = int(t["consensus"][j])
    votes = sorted(((_at(weights, i, j), stake) for i, stake in enumerate(active) if stake), reverse=True)
    top = max([w for w, _ in votes] + [consensus, 1])
    x, path = 0.0, "M0"
    for index, (weight, stake) in enumerate(votes):
        y = STAIR_HEIGHT * (1 - weight / top)
        x += STAIR_WIDTH * stake / total if total else 0.0
        path += f" {y:.1f} H{x:.1f}" if index == 0 else f" V{y:.1f} H{x:.1f}"
    return Miner(
        j, record.names[j], consensus, int(t["prerank"][j]), int(t["rank"][j]), int(t["trust"][j]), int(t["incentive"][j]),
        int(t["server_rao"][j]), path if votes else "", STAIR_HEIGHT * (1 - consensus / top),
        STAIR_WIDTH * need / total if total else 0.0,
    )
