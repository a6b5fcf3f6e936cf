"""The story of an epoch for its page: the numbers of the trace, arranged by the steps in which they were computed.

    stake -> weights -> clipping -> incentive -> bonds -> dividends -> pay

Nothing is computed anew that the chain decided: the sums shown as worked examples are the trace's own numbers put into
the rule. Shares, weights, bonds, incentive and dividends are Q32. Integers above 2^53 arrive as strings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.client.records import EpochTraceRecord

from .figures import ONE_Q32, q32
from .stairs import Stair, stair

MAX_MINERS: Final = 16  # columns of the page's matrices; the data link has all
MAX_JUDGES: Final = 64
MAX_TERMS: Final = 8  # of a worked sum
CUTS_TOLD: Final = 3
CUT_WORTH_TELLING: Final = ONE_Q32 // 100
PPM: Final = 1_000_000

Rows = list[dict[int, int]]

WHO_IS_PAID: Final = {
    "scores": "Miners are paid by incentive, validators by dividends.",
    "active stake": "No weights counted yet: validators are paid by the stake with which they may vote, the miners' pot waits.",
    "stake": "No validator was active: validators are paid by stake, the miners' pot waits.",
    "nobody": "There is nobody to pay: the pots wait for the next epoch.",
}


@dataclass(frozen=True)
class Cell:
    """A weight of a validator for a miner, as voted and after the cut."""

    voted: int
    kept: int

    @property
    def lost(self) -> int:
        return self.voted - self.kept


@dataclass(frozen=True)
class Judge:
    """A validator's row."""

    uid: int
    name: str
    stake_rao: int
    share: int
    forfeited: bool
    cells: list[Cell | None]  # one a miner
    kept: int  # of its whole vote
    bonds: list[tuple[int, int, int]]  # (before, after, part of the target taken on), one a miner
    dividends: int
    sum: str  # how the dividends follow

    @property
    def voted(self) -> bool:
        return any(cell is not None for cell in self.cells)

    @property
    def state(self) -> str:
        if self.forfeited:
            return "withheld its weights: no vote"
        return "votes" if self.voted else "has revealed no weights yet"


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
    sum: str  # how the rank follows
    stair: Stair


@dataclass(frozen=True)
class Cut:
    """A vote that was cut."""

    judge: Judge
    miner: Miner
    cell: Cell


@dataclass(frozen=True)
class Payee:
    """What one neuron received, in rao."""

    uid: int
    name: str
    answering_rao: int
    judging_rao: int
    root_rao: int

    @property
    def total_rao(self) -> int:
        return self.answering_rao + self.judging_rao + self.root_rao


@dataclass(frozen=True)
class Pot:
    name: str
    amount_rao: int
    split: str


@dataclass(frozen=True)
class Story:
    judges: list[Judge]
    miners: list[Miner]
    more_judges: int
    more_miners: int
    cuts: list[Cut]  # the largest first
    payees: list[Payee]
    pots: list[Pot]
    minted_rao: int
    paid_rao: int
    need_rao: int
    total_rao: int
    kappa_u16: int
    old_part: str  # of a bond's moving average; with liquid alpha a range
    new_part: str
    own_speed: bool  # liquid alpha: each pair of validator and miner has its own parts
    bond_rule: str
    ranks: int
    agreed: bool
    paid_by: str
    has_rows: bool
    largest_vote: int

    @property
    def told_cuts(self) -> list[Cut]:
        """The cuts that a reader should see first."""
        return [cut for cut in self.cuts if cut.cell.lost >= CUT_WORTH_TELLING][:CUTS_TOLD]

    @property
    def headlines(self) -> list[tuple[str, str, str]]:
        """(anchor, step, its outcome in a few words), in order."""
        best_miner = max(self.miners, key=lambda m: m.incentive, default=None)
        best_judge = max(self.judges, key=lambda v: v.dividends, default=None)
        voters = sum(judge.voted for judge in self.judges)
        return [
            ("stake", "Stake", f"{self.total_rao // 10**9:,} Q vote"),
            ("weights", "Weights", f"{voters} judge {len(self.miners) + self.more_miners}"),
            ("clipping", "Clipping", f"✂ {len(self.cuts)} cut" if self.cuts else "nothing cut"),
            ("incentive", "Incentive", _best(best_miner, best_miner.incentive if best_miner else 0)),
            ("bonds", "Bonds", f"{self.new_part} new"),
            ("dividends", "Dividends", _best(best_judge, best_judge.dividends if best_judge else 0)),
            ("pay", "Pay", f"{self.paid_rao / 10**9:,.2f} Q"),
        ]


def _best(who: Miner | Judge | None, value: int) -> str:
    return f"{who.name} {q32(value, 2)}" if who is not None and value else "nobody"


def explain(record: EpochTraceRecord) -> Story:
    """Arrange a trace for the page."""
    trace = _Trace(record)
    t = record.trace
    voting = [uid for uid, stake in enumerate(trace.active) if stake > 0]
    judged = sorted({uid for row in trace.weights for uid in row} | {i for i, v in enumerate(t["incentive"]) if int(v)})
    shown_judges = sorted(sorted(voting, key=lambda uid: -trace.active[uid])[:MAX_JUDGES])
    shown_miners = sorted(sorted(judged, key=lambda uid: (-trace.prerank[uid], uid))[:MAX_MINERS])
    miners = [_miner(trace, uid, voting) for uid in shown_miners]
    judges = [_judge(trace, uid, shown_miners) for uid in shown_judges]
    cuts = [
        Cut(judge, miner, cell)
        for judge in judges for miner, cell in zip(miners, judge.cells, strict=True) if cell is not None and cell.lost
    ]
    parameters = t["params"]
    old_part, new_part, own_speed = _bond_parts(trace)
    payees, pots, minted = _payees(trace), _pots(t), int(t["emission_rao"]) + int(t["paid"]["owner_rao"])
    return Story(
        judges=judges, miners=miners, more_judges=len(voting) - len(judges), more_miners=len(judged) - len(miners),
        cuts=sorted(cuts, key=lambda cut: -cut.cell.lost), payees=payees, pots=pots, minted_rao=minted,
        paid_rao=sum(payee.total_rao for payee in payees) + int(t["paid"]["owner_rao"]),
        need_rao=int(t["need_rao"]), total_rao=int(t["total_stake_rao"]), kappa_u16=int(parameters["kappa"]),
        old_part=old_part, new_part=new_part, own_speed=own_speed, bond_rule=_bond_rule(parameters),
        ranks=sum(trace.rank), agreed=bool(t["agreed"]), paid_by=WHO_IS_PAID[str(t["paid_by"])], has_rows=bool(t["has_rows"]),
        largest_vote=max((cell.voted for judge in judges for cell in judge.cells if cell is not None), default=0),
    )


def earned_rao(record: EpochTraceRecord, uid: int) -> int:
    """All that an epoch paid to a uid."""
    paid = record.trace["paid"]
    return sum(int(paid[pot][uid]) for pot in ("server_rao", "validator_rao", "root_rao") if uid < len(paid[pot]))


class _Trace:
    """The lists of a trace as integers."""

    def __init__(self, record: EpochTraceRecord) -> None:
        t = self.values = record.trace
        self.record = record
        self.active, self.share = _integers(t["active_stake_rao"]), _integers(t["active_share"])
        self.prerank, self.rank, self.incentive = (_integers(t[name]) for name in ("prerank", "rank", "incentive"))
        self.weights, self.clipped = _rows(t["weights"]), _rows(t["clipped"])
        self.before, self.after, self.alphas = (_rows(t[name]) for name in ("bonds_before", "bonds_after", "bond_alphas"))
        self.bonded: dict[int, int] = {}  # sum of the bonds on a miner
        for row in self.after:
            for uid, bond in row.items():
                self.bonded[uid] = self.bonded.get(uid, 0) + bond

    def name(self, uid: int) -> str:
        return self.record.names[uid] or f"uid {uid}"


def _integers(values: Sequence[Any]) -> list[int]:
    return [int(value) for value in values]


def _rows(rows: Sequence[Any]) -> Rows:
    return [{int(uid): int(value) for uid, value in row} for row in rows]


def _at(rows: Rows, i: int, j: int) -> int:
    return rows[i].get(j, 0) if i < len(rows) else 0


def _miner(trace: _Trace, uid: int, voting: list[int]) -> Miner:
    t, consensus = trace.values, int(trace.values["consensus"][uid])
    votes = [(trace.name(i), _at(trace.weights, i, uid), trace.active[i]) for i in voting]
    terms = [(trace.share[i], _at(trace.clipped, i, uid)) for i in voting]
    worked = _products([term for term in terms if all(term)])
    return Miner(
        uid, trace.name(uid), consensus, trace.prerank[uid], trace.rank[uid], int(t["trust"][uid]), trace.incentive[uid],
        f"{worked} = {q32(trace.rank[uid])}" if worked else "nobody supports it",
        stair(votes, consensus, int(t["need_rao"]), int(t["total_stake_rao"])),
    )


def _judge(trace: _Trace, uid: int, miners: list[int]) -> Judge:
    t = trace.values
    given = trace.weights[uid] if uid < len(trace.weights) else {}
    cells = [Cell(given[j], _at(trace.clipped, uid, j)) if j in given else None for j in miners]
    return Judge(
        uid, trace.name(uid), trace.active[uid], trace.share[uid], bool(t["forfeited"][uid]), cells,
        int(t["validator_trust"][uid]),
        [(_at(trace.before, uid, j), _at(trace.after, uid, j), _at(trace.alphas, uid, j)) for j in miners],
        int(t["dividends"][uid]), _dividend_sum(trace, uid),
    )


def _dividend_sum(trace: _Trace, uid: int) -> str:
    """share x (incentive x part of the bonds + ...), with classic bonds without the share, which they contain."""
    row = trace.after[uid] if uid < len(trace.after) else {}
    terms = [(trace.incentive[j], (bond << 32) // trace.bonded[j]) for j, bond in sorted(row.items()) if bond]
    worked = _products([term for term in terms if all(term)])
    if not worked:
        return "no bonds on anybody who was paid"
    return f"{q32(trace.share[uid], 3)} × ({worked})" if trace.values["params"]["yuma3"] else worked


def _products(terms: list[tuple[int, int]]) -> str:
    shown = [f"{q32(a, 3)} × {q32(b, 3)}" for a, b in terms[:MAX_TERMS]]
    return " + ".join(shown) + (" + …" if len(terms) > MAX_TERMS else "")


def _bond_rule(parameters: dict[str, Any]) -> str:
    penalty = int(parameters["bonds_penalty"])
    target = {0: "the weight as voted", 65535: "the weight after the cut"}.get(penalty, "the weight, partly cut")
    kind = "" if parameters["yuma3"] else ", as its part of all stake-weighted votes for the miner"
    return target + kind


def _bond_parts(trace: _Trace) -> tuple[str, str, bool]:
    """Of the old bond and of the new one in the moving average, and whether each pair has its own."""
    parameters = trace.values["params"]
    old_ppm = int(parameters["bonds_moving_average"])
    used = sorted({alpha for row in trace.alphas for alpha in row.values()})
    if not (parameters["liquid_alpha"] and any(_integers(trace.values["consensus"]))):
        return f"{100 * old_ppm / PPM:g} %", f"{100 * (PPM - old_ppm) / PPM:g} %", False
    low, high = (used[0], used[-1]) if used else (0, ONE_Q32)
    return _span(ONE_Q32 - high, ONE_Q32 - low), _span(low, high), True


def _span(low: int, high: int) -> str:
    first, last = (f"{100 * value / ONE_Q32:.1f}" for value in (low, high))
    return f"{first} %" if first == last else f"{first} to {last} %"


def _payees(trace: _Trace) -> list[Payee]:
    """Who was paid, the most first."""
    paid = trace.values["paid"]
    server, validator, root = (_integers(paid[pot]) for pot in ("server_rao", "validator_rao", "root_rao"))
    parts = enumerate(zip(server, validator, root, strict=True))
    rows = [Payee(uid, trace.name(uid), *amounts_rao) for uid, amounts_rao in parts if any(amounts_rao)]
    return sorted(rows, key=lambda payee: (-payee.total_rao, payee.uid))


def _pots(t: dict[str, Any]) -> list[Pot]:
    """Where the epoch's emission went."""
    paid = t["paid"]
    server, validator, root, withheld = (
        sum(_integers(paid[pot])) for pot in ("server_rao", "validator_rao", "root_rao", "withheld_rao")
    )
    waiting = int(t["emission_rao"]) - server - validator - root - withheld
    pots = [
        Pot("subnet's owner", int(paid["owner_rao"]), "staked for the owner"),
        Pot("miners", server, "by incentive"),
        Pot("validators", validator, "by dividends, for their own stake"),
        Pot("root stakers", root, "by dividends, for the root stake behind the validators"),
        Pot("recycled", withheld, "earned by neurons of the subnet's owner: goes back to what can be minted"),
        Pot("waiting", waiting, "no receiver this time: paid with the next epoch"),
    ]
    return [pot for pot in pots if pot.amount_rao or pot.name in ("subnet's owner", "miners", "validators")]
