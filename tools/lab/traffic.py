"""Random traffic on a small network for many blocks: the supply is exact at every block, and no remainder is lost.

The crowd of `calls`, with fewer calls a block and for longer: hundreds of sessions, thousands of epochs and payouts. After
each block all money rows are summed up (followed through the block's changes), the issuance is compared with what was minted
and recycled, and the pots with what came in, was paid and is left. The full audit runs now and then.
"""

from __future__ import annotations

import click

from tools.lab.frame import Run, experiment

AUDIT_EVERY = 100


@experiment("traffic", about="100,000 blocks of random traffic: supply exact at each, no unpaid remainder lost", seconds=900)
@click.option("--blocks", type=click.IntRange(1), default=100_000, show_default=True, help="Length of the chain.")
@click.option("--seed", type=int, default=1, show_default=True, help="Of all chance in the run.")
@click.option("--per-block", type=click.IntRange(0, 200), default=3, show_default=True, help="Calls tried for one block.")
def traffic(run: Run, blocks: int, seed: int, per_block: int) -> None:
    """Count every rao after every block."""
    from tools.lab.crowd.campaign import Campaign, named_last
    from tools.lab.crowd.people import Crowd, genesis_of

    campaign = Campaign(Crowd(seed, genesis_of(1, audit_below_keys=0)), per_block, AUDIT_EVERY)
    for _ in run.track(range(blocks), "blocks"):
        if not campaign.block():
            break
    run.equals("blocks with exact books", campaign.blocks, blocks, "blocks")
    campaign.report(run, f"quorix lab traffic --seed {seed} --per-block {per_block} --blocks {campaign.blocks + 1}")
    run.at_least("epochs paid", campaign.crowd.chain.payouts, blocks // 40, "epochs")
    run.figure("end", named_last(campaign.crowd))
