"""Random calls of every kind, as many as asked for, with every invariant checked after each block.

A crowd of accounts makes calls of all kinds in the registry; most make sense, one in ten is signed by the wrong account. They
are executed by the chain's own executor, ten or so a block, with epochs, votes, sessions, bonds, swaps and evictions going on
meanwhile. After each block the full audit runs, and the money is counted again by other means. A call in the registry that
nobody here can make is a failure, and so is one that never succeeds. One seed is one run.
"""

from __future__ import annotations

import click

from tools.lab.frame import Run, experiment


@experiment("calls", about="random calls of every kind; every invariant and the whole supply after each block", seconds=150)
@click.option("--steps", type=click.IntRange(1), default=100_000, show_default=True, help="Calls that blocks execute.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of all chance in the run.")
@click.option("--per-block", type=click.IntRange(1, 200), default=16, show_default=True, help="Calls tried for one block.")
def calls(run: Run, steps: int, seed: int, per_block: int) -> None:
    """No sequence of calls may break an invariant; every kind of call must succeed now and then."""
    from tools.lab.crowd.campaign import Campaign, named_last
    from tools.lab.crowd.people import Crowd

    campaign = Campaign(Crowd(seed), per_block)
    done = campaign.until(steps)
    for _ in run.track((1 for added in done for _ in range(added)), "calls", total=steps):
        pass
    run.at_least("calls executed", campaign.crowd.executed, steps, "calls")
    campaign.report(run, f"quorix lab calls --seed {seed} --per-block {per_block} --steps {campaign.crowd.executed + 1000}")
    run.equals("calls that never succeeded", len(campaign.never_done()), 0, "kinds")
    run.figure("never_done", campaign.never_done())
    run.figure("end", named_last(campaign.crowd))
