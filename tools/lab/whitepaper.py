"""The cabal of Bittensor's whitepaper: does a group with 49 % of the stake that pays itself decay, as its page 8 says?

Two groups, each with all its weights on itself. Trust of a group is the share of stake that has a weight on it, consensus
the logistic function of trust around one half, incentive rank times consensus; each block adds new stake in proportion to
incentive. This is the first design, before Yuma; the experiment is kept because everything later answers to it.
Source: Y. Rao et al., "BitTensor: A Peer-to-Peer Intelligence Market", arXiv:2003.03917.
"""

from __future__ import annotations

from math import exp

import click

from tools.lab.frame import Run, experiment

PUBLISHED = (0.48773, 0.48495, 0.48155, 0.47739, 0.47231)  # after blocks 0 to 4, from 49 %
INFLATION = 0.1
TEMPERATURE = 10.0
DIGITS = 5


@experiment("whitepaper", about="the 49 % cabal of Bittensor's whitepaper decays, to the digits printed there", seconds=1)
@click.option("--blocks", type=click.IntRange(5, 100_000), default=400, show_default=True, help="Blocks of the other starts.")
def whitepaper(run: Run, blocks: int) -> None:
    """Replay the published decay and say what becomes of starts around one half."""
    shares = decay(0.49, max(blocks, 100))
    for block, (share, published) in enumerate(zip(shares, PUBLISHED, strict=False)):
        run.equals(f"49 % cabal after block {block}", round(share, DIGITS), published, "of the stake")
    run.figure("share_at_block", {"50": round(shares[49], 4), "100": round(shares[99], 5)})
    run.figure("share_in_the_end", {str(start): round(decay(start, blocks)[-1], 4) for start in (0.3, 0.4, 0.4999, 0.5, 0.51)})


def decay(start: float, blocks: int) -> list[float]:
    """The cabal's share of the stake after each block."""
    share, out = start, []
    for _ in range(blocks):
        share = (share + INFLATION * incentive(share)) / (1 + INFLATION)
        out.append(share)
    return out


def incentive(share: float) -> float:
    """The cabal's share of one block's incentive: rank times consensus of two groups that know only themselves."""
    own, other = (part / (1 + exp(-TEMPERATURE * (part - 0.5))) for part in (share, 1 - share))
    return own / (own + other)
