"""How root votes become the subnets' shares of emission (3.6): clipped at two thirds, never renormalised.

    got    = what the root stake gives a subnet after clipping at the consensus of `root_kappa` of the stake
    target = got + (1 - all that was got) * old share: mass that was clipped or not voted keeps the old shares
    share  moves towards its target by blocks / window

So a minority of the root stake that votes for its own subnet gains nothing by the clipping of its votes.

Rules: EMI-9 shares by root votes · EMI-10 shares without votes
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .curves import step_average
from .fixed import ONE, fdiv, fmul, fnorm, largest_remainder
from .rows import Row, Rows
from .yuma import clip, consensus, row_normalised, support_needed, weighted_sums


def equal_shares(netuids: Sequence[int]) -> dict[int, int]:
    """Q32 shares that sum to one, as equal as can be."""
    return dict(zip(netuids, largest_remainder([1] * len(netuids), ONE if netuids else 0), strict=True))


def voted_shares(
    old: Mapping[int, int], netuids: Sequence[int], votes: Sequence[tuple[Row, int]], *, kappa: int, blocks: int,
    window_blocks: int,
) -> dict[int, int]:
    """The new Q32 shares of the started subnets `netuids` (ascending); they sum to ONE.

    votes: (row of (netuid, value), consensus root stake in rao) of every root member. Without any vote the shares are
    equal. `old` has shares of subnets that are still started; what a dissolved one had goes to the others pro rata.
    """
    place = {netuid: i for i, netuid in enumerate(netuids)}
    rows = [[(place[netuid], value) for netuid, value in row if netuid in place] for row, _ in votes]
    shares = fnorm([old.get(netuid, 0) for netuid in netuids])
    if not any(rows) or not any(shares):
        return equal_shares(netuids)
    got = _got(row_normalised(rows), [stake for _, stake in votes], kappa, len(netuids))
    unclaimed = ONE - sum(got)
    moved = [
        step_average(share, part + fmul(unclaimed, share), blocks, window_blocks) for share, part in zip(shares, got)
    ]
    return dict(zip(netuids, largest_remainder(moved, ONE), strict=True))


def _got(rows: Rows, stakes: list[int], kappa: int, n: int) -> list[int]:
    """Per subnet the Q32 part of the root stake behind it, each vote cut down to the consensus."""
    total = sum(stakes)
    agreed = consensus(list(zip(rows, stakes, strict=True)), support_needed(kappa, total), n)
    return weighted_sums(clip(rows, agreed), [fdiv(stake, total) for stake in stakes], n)
