"""Curves over blocks: the registration price, block emission and its halvings, the price of a subnet, moving averages.

They are the burn price with a half-life and a bump per registration (2.1), subnet lock (2.7), emission by issuance (3.5), the
linear-step averages of stake, root shares and pruning scores (1.11, 3.2, 3.6). Nothing here runs once per block over
all subnets: a price is kept with the block at which it was last set and decayed when it is read.

Rules: REG-1 decay of the price · REG-2 bump of the price · REG-9 pruning score · EMI-1 emission of a block ·
    NET-1 price of a subnet
"""

from __future__ import annotations

from typing import Final

from .fixed import FRACTION_BITS, HALF, ONE, PPM, clamp, fpow

DEFAULT_HALF_LIFE_BLOCKS: Final = 360
DEFAULT_PRICE_BUMP_PPM: Final = 1_260_000
DEFAULT_PRICE_RAO: Final = 1_000_000_000

DEFAULT_SUPPLY_CAP_RAO: Final = 21_000_000 * 10**9
DEFAULT_BLOCK_EMISSION_RAO: Final = 10**9

BASIS_POINTS: Final = 10_000
SCORE_FRACTION_BITS: Final = 16
SCORE_STEP: Final = 10  # the pruning score moves a tenth of the way each epoch that pays


# --- 2.1 registration price --------------------------------------------------------------------------------------


def decay_factor_q32(half_life_blocks: int) -> int:
    """Greatest Q32 factor per block with factor^half_life <= 1/2; ONE (no decay) for a half-life of 0.

    Stored when the half-life is set, so that no block has to search for it.
    """
    if half_life_blocks == 0:
        return ONE
    low, high = 0, ONE
    while high - low > 1:
        middle = (low + high) >> 1
        if fpow(middle, half_life_blocks) > HALF:
            high = middle
        else:
            low = middle
    return low


def decayed_price_rao(price_rao: int, factor_q32: int, blocks: int, low_rao: int, high_rao: int) -> int:
    """The price `blocks` after it was `price_rao`: one power, floored once, clamped."""
    return clamp((price_rao * fpow(factor_q32, blocks)) >> FRACTION_BITS, low_rao, high_rao)


def bumped_price_rao(price_rao: int, bump_ppm: int, registrations: int, low_rao: int, high_rao: int) -> int:
    """The price after that many registrations: each multiplies it by the bump (at least 1), floors and clamps it."""
    for _ in range(registrations):
        price_rao = clamp(price_rao * max(bump_ppm, PPM) // PPM, low_rao, high_rao)
    return price_rao


# --- 2.7 price of a subnet ---------------------------------------------------------------------------------------


def subnet_lock_rao(
    last_lock_rao: int, last_block: int | None, block: int, *, floor_rao: int, interval_blocks: int, emission_rao: int
) -> int:
    """Cost of creating a subnet: twice the last one, falling linearly to the last one after one interval, then to zero.

    `last_block` is None before the first creation (then nothing is doubled). The interval shrinks with the block
    emission, each division floored; the result is at least `floor_rao`.
    """
    interval = max(1, interval_blocks * emission_rao // DEFAULT_BLOCK_EMISSION_RAO)
    if last_block is None:
        return max(floor_rao, last_lock_rao)
    return max(floor_rao, 2 * last_lock_rao - last_lock_rao // interval * (block - last_block))


# --- 3.5 block emission ------------------------------------------------------------------------------------------


def halvings(issuance_rao: int, cap_rao: int = DEFAULT_SUPPLY_CAP_RAO) -> int:
    """How often emission has halved: the greatest k with (cap - issuance) * 2^k <= cap. Issuance is below the cap."""
    return (cap_rao // (cap_rao - issuance_rao)).bit_length() - 1


def block_emission_rao(
    issuance_rao: int, cap_rao: int = DEFAULT_SUPPLY_CAP_RAO, initial_rao: int = DEFAULT_BLOCK_EMISSION_RAO
) -> int:
    """What a block mints at this total issuance; never more than what is left to the cap, 0 at the cap."""
    if issuance_rao >= cap_rao:
        return 0
    return min(initial_rao >> halvings(issuance_rao, cap_rao), cap_rao - issuance_rao)


# --- moving averages ---------------------------------------------------------------------------------------------


def step_average(value: int, target: int, blocks: int, window_blocks: int) -> int:
    """Linear-step average: moves `value` towards `target` by min(blocks, window)/window of the distance.

    A window of 0 switches smoothing off. The step is floored towards minus infinity, so that a falling average reaches
    its target.
    """
    if window_blocks == 0:
        return target
    return value + (target - value) * min(blocks, window_blocks) // window_blocks


def pruning_score(score: int, pay_rao: int, pot_rao: int) -> int:
    """1.11: the next score of a neuron that got `pay_rao` of an epoch's pot; unit 2^-16 basis points of the pot.

    An epoch that pays nobody moves no score.
    """
    if pot_rao == 0:
        return score
    return score + ((pay_rao * BASIS_POINTS << SCORE_FRACTION_BITS) // pot_rao - score) // SCORE_STEP
