"""`quorix epoch`: how the pay of an epoch came about, step by step, with the real numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ledger.client.records import EpochTraceRecord
from ledger.errors import UsageError
from tools.cli.main import Noun
from tools.cli.output import Output, format_amount
from tools.cli.session import run

group = Noun("epoch", help="Epochs, explained.")

ONE_Q32 = 1 << 32
STEPS = ("stake", "weights", "clip", "incentive", "bonds", "dividends", "pay")


@group.command("list")
@click.argument("netuid", type=int)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many, newest first.")
@click.pass_context
def list_command(ctx: click.Context, netuid: int, limit: int) -> None:
    """Epochs of a subnet, newest first."""
    out = Output(ctx.obj)
    page = run(ctx.obj, lambda api: api.epoch_list(netuid, limit=limit))

    def show() -> None:
        rows = [
            (e.epoch, e.height, format_amount(e.emission_rao, digits=4), format_amount(e.paid_rao, digits=4),
             e.validators, e.miners_paid)
            for e in page.items
        ]
        columns = ("epoch", "block", "for neurons", "paid with the owner", "validators", "miners paid")
        out.table(f"epochs of subnet {netuid}", columns, rows, right=columns)

    out.data(page, show)


@group.command("explain")
@click.argument("netuid", type=int)
@click.argument("epoch", default="latest")
@click.option("--uid", type=int, help="Only this neuron.")
@click.option("--step", type=click.Choice(STEPS), help="Only this step.")
@click.pass_context
def explain_command(ctx: click.Context, netuid: int, epoch: str, uid: int | None, step: str | None) -> None:
    """Stake, weights, clipping, incentive, bonds, dividends and pay of an epoch (a number or latest)."""
    out = Output(ctx.obj)
    if epoch != "latest" and not epoch.isdecimal():
        raise UsageError(f"{epoch!r} is no epoch", hint="a number, or latest; see `quorix epoch list`")
    number = None if epoch == "latest" else int(epoch)
    record = run(ctx.obj, lambda api: api.epoch_explain(netuid, number))
    out.data(record, lambda: Explanation(out, record, uid).show(step))


def q32(value: int) -> str:
    """A Q32 share with four digits."""
    return f"{value / ONE_Q32:.4f}"


class Explanation:
    """Prints the steps of one epoch."""

    def __init__(self, out: Output, record: EpochTraceRecord, uid: int | None) -> None:
        self.out, self.record, self.trace = out, record, record.trace
        everyone = range(len(record.hotkeys))
        if uid is not None and uid not in everyone:
            raise UsageError(f"there was no uid {uid} in that epoch", hint=f"uids are 0 to {len(everyone) - 1}")
        self.uids = list(everyone) if uid is None else [uid]
        votes = self.rows("weights")
        self.validators = [i for i in everyone if int(self.trace["active_stake_rao"][i]) > 0 and votes[i]]
        self.one = uid
        self.judges = [uid] if uid in self.validators else self.validators  # rows of the matrices

    def name(self, uid: int) -> str:
        return f"{uid} {self.record.names[uid]}".rstrip()

    def values(self, field: str) -> list[int]:
        return [int(value) for value in self.trace[field]]

    def rows(self, field: str) -> list[dict[int, int]]:
        return [{int(uid): int(value) for uid, value in row} for row in self.trace[field]]

    def show(self, step: str | None) -> None:
        record = self.record
        self.out.remark(
            f"subnet {record.netuid}, epoch {record.epoch}, computed in block {record.height}: "
            f"{format_amount(int(self.trace['emission_rao']))} to pay"
        )
        for name in STEPS if step is None else (step,):
            getattr(self, f"_{name}")()

    def _stake(self) -> None:
        stake, share = self.values("stake_rao"), self.values("active_share")
        rows = [
            (self.name(i), format_amount(stake[i], digits=4), q32(share[i]),
             "yes" if self.trace["permit"][i] else "no", "yes" if self.trace["active"][i] else "no",
             "yes" if i in self.validators else "no")
            for i in self.uids if stake[i]
        ]
        columns = ("neuron", "stake", "voting share", "permit", "active", "votes")
        self._table("1. stake -> voting share", columns, rows, right=columns[1:3])
        self.out.remark(f"   support that makes a weight the consensus: {format_amount(int(self.trace['need_rao']))}")

    def _weights(self) -> None:
        self._matrix("2. weights as voted", self.rows("weights"))

    def _clip(self) -> None:
        consensus = self.values("consensus")
        self._matrix("3. clipped at the consensus (✂ = cut)", self.rows("clipped"), before=self.rows("weights"))
        rows = [(self.name(j), q32(consensus[j])) for j in self.uids if consensus[j]]
        self._table("   consensus: the largest weight that enough stake supports", ("miner", "consensus"), rows)

    def _matrix(self, title: str, rows: list[dict[int, int]], before: list[dict[int, int]] | None = None) -> None:
        columns = self._judged(before or rows)
        body = []
        for i in self.judges:
            cells = []
            for j in columns:
                value = rows[i].get(j, 0)
                cut = before is not None and value < before[i].get(j, 0)
                cells.append(f"{'✂ ' if cut else ''}{q32(value)}" if value or cut else "·")
            body.append((self.name(i), *cells))
        names = [self.name(j) for j in columns]
        self._table(title, ("validator", *names), body, right=names)

    def _judged(self, rows: list[dict[int, int]]) -> list[int]:
        """Columns of a matrix: all miners, or the one that is asked for."""
        everyone = self.one is None or self.one in self.validators
        return sorted({j for i in self.judges for j in rows[i] if everyone or j == self.one})

    def _table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], right: Sequence[str] = ()) -> None:
        if rows and len(columns) > 1:
            self.out.table(title, columns, rows, right=right)
        else:
            self.out.console().print(f"{title}: nothing", style="bold", soft_wrap=True)

    def _incentive(self) -> None:
        rank, prerank, incentive = self.values("rank"), self.values("prerank"), self.values("incentive")
        trust = self.values("trust")
        rows = [
            (self.name(j), q32(prerank[j]), q32(rank[j]), q32(trust[j]), q32(incentive[j]))
            for j in self.uids if prerank[j]
        ]
        columns = ("miner", "support before", "after clipping", "trust", "incentive")
        self._table("4. rank -> incentive", columns, rows, right=columns[1:])

    def _bonds(self) -> None:
        before, after, alphas = self.rows("bonds_before"), self.rows("bonds_after"), self.rows("bond_alphas")
        names = self._judged(after)
        speeds = {alpha for i in self.judges for alpha in alphas[i].values()}
        own = len(speeds) > 1  # liquid alpha: each pair has its own

        def cell(i: int, j: int) -> str:
            moved = f"{q32(before[i].get(j, 0))} -> {q32(after[i].get(j, 0))}"
            return f"{moved} at {q32(alphas[i].get(j, 0))}" if own else moved

        body = [(self.name(i), *(cell(i, j) for j in names)) for i in self.judges]
        titles = [self.name(j) for j in names]
        rule = "the way taken is each pair's own" if own else "".join(f"{q32(speed)} of the way" for speed in speeds)
        title = f"5. bonds: moving average of the weights{f', {rule}' if rule else ''}"
        self._table(title, ("validator", *titles), body, right=titles)

    def _dividends(self) -> None:
        dividends, trust, share = self.values("dividends"), self.values("validator_trust"), self.values("active_share")
        rows = [
            (self.name(i), q32(share[i]), q32(trust[i]), q32(dividends[i]), f"{(dividends[i] - share[i]) / ONE_Q32:+.4f}")
            for i in self.judges if i in self.uids
        ]
        columns = ("validator", "voting share", "validator trust", "dividends", "against share")
        self._table("6. bonds x incentive -> dividends", columns, rows, right=columns[1:])

    def _pay(self) -> None:
        paid = self.trace["paid"]
        pots = [[int(value) for value in paid[pot]] for pot in ("server_rao", "validator_rao", "root_rao")]
        rows: list[tuple[Any, ...]] = [
            (self.name(i), *(format_amount(rao, digits=9) for rao in [*(pot[i] for pot in pots), sum(pot[i] for pot in pots)]))
            for i in self.uids if any(pot[i] for pot in pots)
        ]
        columns = ("neuron", "for answers", "for judging", "for root stake", "together")
        owner, total = int(paid["owner_rao"]), sum(sum(pot) for pot in pots)
        self._table("7. pay by largest remainder", columns, rows, right=columns[1:])
        self.out.remark(f"   paid {format_amount(total)} and {format_amount(owner)} to the subnet's owner")
