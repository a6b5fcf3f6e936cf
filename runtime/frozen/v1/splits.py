"""How a block's emission becomes pots (3.6, 3.7): by subnet, by role, by root stake; and how a take is cut.

    mint -> subnets, in proportion to share * (1 - withheld), by largest remainder
    a subnet's part -> owner cut; of the rest the miners' share; of the validators' rest the root's share

Every split is exact: what is floored off one part is in the next one, so the pots sum to what was minted.

Rules: EMI-2 split over subnets · EMI-3 four pots · EMI-4 root's part
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .fixed import FRACTION_BITS, ONE, U16_MAX, fdiv, largest_remainder

ROOT_WEIGHT_BITS = 64  # the root weight is a fraction of 2^64


class Pots(NamedTuple):
    """What a block adds to a subnet's pots, in rao."""

    owner: int
    server: int
    validator: int
    root: int


def part_u16(amount_rao: int, part: int) -> int:
    """A u16 proportion of an amount (owner cut, take), floored."""
    return amount_rao * part // U16_MAX


def split_mint(mint_rao: int, shares_q32: Sequence[int], withheld_q32: Sequence[int]) -> list[int]:
    """The emission of each started subnet; all zeros if no subnet has a share, and then nothing is minted."""
    weights = [share * (ONE - withheld) for share, withheld in zip(shares_q32, withheld_q32, strict=True)]
    return largest_remainder(weights, mint_rao if any(weights) else 0)


def split_emission(emission_rao: int, *, owner_cut: int, miner_share: int, root_share_q32: int) -> Pots:
    """One subnet's emission by role; `owner_cut` (0 if switched off) and `miner_share` are u16 proportions."""
    owner = part_u16(emission_rao, owner_cut)
    rest = emission_rao - owner
    server = part_u16(rest, miner_share)
    judged = rest - server
    root = (judged * root_share_q32) >> FRACTION_BITS
    return Pots(owner, server, judged - root, root)


def root_share_q32(root_weight: int, root_stake_rao: int, subnet_stake_rao: int) -> int:
    """Root's part of what validators get: weighted root stake in all stake; `root_weight` is a fraction of 2^64."""
    weighted = root_weight * root_stake_rao
    return fdiv(weighted, weighted + (subnet_stake_rao << ROOT_WEIGHT_BITS))
