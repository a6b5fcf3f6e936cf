"""A long run of the crowd: blocks until enough was done, a full audit of every rule, and what is reported of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ledger.errors import InvariantBroken
from tools.lab.frame import Run

from . import accounts, market  # noqa: F401 - they declare the makers
from .local import Wrong
from .people import MAKERS, Crowd, without_maker

DEEP_EVERY = 500  # blocks between two audits that read every key
REFUSALS_SHOWN = 40


class Campaign:
    """The crowd at work. `failure` says what went wrong, and in which block; nothing goes on after it."""

    def __init__(self, crowd: Crowd, calls_per_block: int, audit_every: int = 1) -> None:
        self.crowd, self.calls_per_block, self.audit_every = crowd, calls_per_block, audit_every
        self.failure = ""
        self.blocks = self.audits = 0

    def block(self) -> bool:
        """One more block; False after a failure."""
        crowd, height = self.crowd, self.crowd.height
        try:
            for _ in range(self.calls_per_block):
                crowd.step()
            crowd.end_block()
            self.blocks += 1
            self._audit()
        except (InvariantBroken, Wrong, AssertionError) as broken:
            self.failure = f"block {height}: {type(broken).__name__}: {broken}"
        except Exception as broken:  # a rule that breaks is a finding, whatever it raises
            self.failure = f"block {height}: {broken!r}"
        return not self.failure

    def _audit(self) -> None:
        chain = self.crowd.chain
        deep = self.blocks % DEEP_EVERY == 0
        if chain.runtime.audits_itself(chain.store) and not deep:
            self.audits += 1
            return
        if deep or self.blocks % self.audit_every == 0:
            violations = chain.runtime.audit(chain.store, deep=deep)
            if violations:
                raise Wrong("; ".join(violations[:5]))
            self.audits += 1

    def until(self, steps: int) -> Iterator[int]:
        """Blocks until so many calls were executed; yields what has been added."""
        while self.crowd.executed < steps:
            before = self.crowd.executed
            if not self.block():
                return
            yield self.crowd.executed - before

    def report(self, run: Run, command: str) -> None:
        """Figures and targets that both experiments have."""
        crowd, chain = self.crowd, self.crowd.chain
        run.equals("violations", 1 if self.failure else 0, 0, "found")
        if self.failure:
            run.figure("failure", self.failure)
            run.figure("repeat", command)
        run.equals("rao held less issued", chain.holdings_rao - chain.issued_rao, 0, "rao")
        run.equals("calls without a maker", len(without_maker()), 0, "calls")
        run.figure("blocks", self.blocks)
        run.figure("audits", self.audits)
        run.figure("calls_executed", crowd.executed)
        run.figure("calls_done", sum(crowd.succeeded.values()))
        run.figure("epochs_paid", chain.payouts)
        run.figure("money_rao", {
            "issued": chain.issued_rao, "held": chain.holdings_rao, "minted": chain.minted_rao,
            "recycled": chain.recycled_rao, "paid_by_epochs": chain.paid_rao, "in_pots": chain.pots_rao,
        })
        run.figure("by_call", self.by_call())
        run.figure("refusals", dict(crowd.refusals.most_common(REFUSALS_SHOWN)))

    def by_call(self) -> dict[str, dict[str, int]]:
        """How often each call was tried, and done."""
        crowd = self.crowd
        return {name: {"tried": crowd.tried[name], "done": crowd.succeeded[name]} for name in sorted(MAKERS)}

    def never_done(self) -> list[str]:
        """Calls of which none succeeded."""
        return [name for name in sorted(MAKERS) if not self.crowd.succeeded[name]]


def named_last(crowd: Crowd) -> dict[str, Any]:
    """What the chain looks like in the end."""
    store = crowd.chain.store
    return {"height": crowd.chain.height, "keys": sum(1 for _ in store.items(b"")), "coldkeys": len(crowd.coldkeys)}
