"""The checks of a row of weights and of its commit and reveal, over plain values (4.1, 4.3).

Each check returns the name of the error that a bad input earns, or None. `row_fault` runs them in the order in which a
caller sees them; `prepared_row` makes the row that is stored. The `weights` module calls these with values it has read;
pool, dispatcher and the replay of vectors therefore run the same code.

Rules: WGT-1 checks of a row · WGT-2 the stored row · WGT-3 rate limits
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from ledger.codec import pack_u16

from .fixed import U16_MAX
from .schedule import Window, reveal_window

MAX_OPEN_COMMITS: Final = 10

Row = list[tuple[int, int]]


class RowRules(NamedTuple):
    """What a row is checked against. `stake` and `stake_threshold` in rao, `weight_limit` a share of the row as u16."""

    uid: int
    uid_count: int
    permit: bool
    stake: int = 0
    stake_threshold: int = 0
    version_required: int = 0
    min_allowed: int = 1
    weight_limit: int = U16_MAX


def row_fault(uids: Sequence[int], values: Sequence[int], version_key: int, rules: RowRules) -> str | None:
    """The first broken rule of a row, in the order of 4.1; None if the row may be stored."""
    return (
        length_fault(uids, values)
        or count_fault(uids, rules.uid_count)
        or stake_fault(rules.stake, rules.stake_threshold)
        or version_fault(version_key, rules.version_required)
        or permit_fault(rules.permit, rules.uid, uids)
        or duplicate_fault(uids)
        or unknown_fault(uids, rules.uid_count)
        or minimum_fault(uids, rules.uid, rules.uid_count, rules.min_allowed)
        or value_fault(values)
        or limit_fault(uids, values, rules.uid, rules.weight_limit)
    )


def prepared_row(uids: Sequence[int], values: Sequence[int]) -> Row:
    """The stored form of a row that has no fault: scaled to a largest value of 65535, sorted by uid, without zeros."""
    row = [(uid, value) for uid, value in zip(uids, max_upscale(values), strict=True) if value]
    row.sort()
    return row


def packed_row(uids: Sequence[int], values: Sequence[int]) -> bytes:
    """`prepared_row` as the state stores it: u16 pairs (uid, weight). A row that needs neither sorting nor thinning, as
    senders make them, is packed without an object for each entry."""
    scaled = max_upscale(values)
    if 0 in scaled or uids != sorted(uids):
        return pack_u16([number for pair in prepared_row(uids, scaled) for number in pair])
    flat = [0] * (2 * len(scaled))
    flat[::2], flat[1::2] = uids, scaled
    return pack_u16(flat)


# --- the checks of a row, in order -------------------------------------------------------------------------------


def length_fault(uids: Sequence[int], values: Sequence[int]) -> str | None:
    """As many values as uids."""
    return None if len(uids) == len(values) else "WeightVecNotEqualSize"


def count_fault(uids: Sequence[int], uid_count: int) -> str | None:
    """Not more entries than the subnet has uids."""
    return None if len(uids) <= uid_count else "UidsLengthExceedUidsInSubNet"


def stake_fault(stake: int, threshold: int) -> str | None:
    """Enough voting stake (rao)."""
    return None if stake >= threshold else "NotEnoughStakeToSetWeights"


def version_fault(given: int, required: int) -> str | None:
    """The validator's software is at least as new as the subnet asks for; 0 asks for nothing."""
    return None if required == 0 or given >= required else "IncorrectWeightVersionKey"


def permit_fault(permit: bool, uid: int, uids: Sequence[int]) -> str | None:
    """A permit, unless the row is the single weight on oneself (which no epoch counts)."""
    return None if permit or is_self_weight(uid, uids) else "NeuronNoValidatorPermit"


def duplicate_fault(uids: Sequence[int]) -> str | None:
    """No uid twice."""
    return None if len(dict.fromkeys(uids)) == len(uids) else "DuplicateUids"


def unknown_fault(uids: Sequence[int], uid_count: int) -> str | None:
    """Only uids that exist: they are dense from 0."""
    known = not uids or (min(uids) >= 0 and max(uids) < uid_count)
    return None if known else "UidVecContainInvalidOne"


def minimum_fault(uids: Sequence[int], uid: int, uid_count: int, min_allowed: int) -> str | None:
    """Enough entries for the size of the subnet, or the single weight on oneself."""
    enough = len(uids) >= min(min_allowed, uid_count) or is_self_weight(uid, uids)
    return None if enough else "WeightVecLengthIsLow"


def value_fault(values: Sequence[int]) -> str | None:
    """At least one positive value: a row of zeros says nothing."""
    return None if any(values) else "InvalidValue"


def limit_fault(uids: Sequence[int], values: Sequence[int], uid: int, limit: int) -> str | None:
    """No single value above its allowed share of the row, except the single weight on oneself."""
    return None if is_self_weight(uid, uids) or share_within(values, limit) else "MaxWeightExceeded"


def is_self_weight(uid: int, uids: Sequence[int]) -> bool:
    """True if the row is exactly one entry, the setter's own."""
    return len(uids) == 1 and uids[0] == uid


def share_within(values: Sequence[int], limit: int) -> bool:
    """True if the largest value is at most limit/65535 of the sum, exactly; always for an empty or zero row."""
    return limit >= U16_MAX or max(values, default=0) * U16_MAX <= limit * sum(values)


def max_upscale(values: Sequence[int]) -> list[int]:
    """Scale so that the largest value becomes 65535, rounding half up; a row of zeros stays as it is."""
    top = max(values, default=0)
    if top in (0, U16_MAX):  # nothing to scale by, or scaled already
        return list(values)
    doubled, whole = 2 * U16_MAX, 2 * top
    return [(value * doubled + top) // whole for value in values]


def share_u16(values: Sequence[int]) -> list[int]:
    """Each value's floored share of the sum as u16; zeros stay zeros. What explorers show as a row's proportions."""
    total = sum(values)
    return [value * U16_MAX // total if total else 0 for value in values]


# --- rate, commit and reveal -------------------------------------------------------------------------------------


def rate_fault(block: int, last: int | None, limit: int, error: str = "SettingWeightsTooFast") -> str | None:
    """At least `limit` blocks since the last time; `last` is None if there was none. The same rule for every limit."""
    return None if last is None or block - last >= limit else error


def pending_fault(open_commits: int) -> str | None:
    """A hotkey has at most ten open commits in a subnet."""
    return None if open_commits < MAX_OPEN_COMMITS else "TooManyUnrevealedCommits"


def reveal_fault(committed_epoch: int, current_epoch: int, period: int) -> str | None:
    """A reveal is made in the one epoch that is `period` epochs after its commit."""
    window = reveal_window(committed_epoch, current_epoch, period)
    return None if window is Window.OPEN else window.value
