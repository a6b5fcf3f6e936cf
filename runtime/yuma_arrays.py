"""The epoch of `yuma` on arrays: the same rules, function by function, for subnets with many weights.

`yuma.epoch` is the law; this engine agrees with it bit by bit (tests/unit/runtime/test_yuma_arrays.py) and takes a
hundredth of the time. Matrices are flat arrays of their entries, sorted by (row, column): u16 places as the state has
them, widened to int64 some at a time, because memory is what an epoch of a large subnet waits for. numpy integers wrap
silently, so the bound of every product stands beside it; nothing here is a float.

    Q32 numbers are at most 2^32, stakes at most 2^55 rao (all of a supply of 21e15), uids below 2^12.

Vectors over uids stay lists of Python integers: they are short, and their products need more than 64 bits.

Rules: EPO-16 the engine on arrays
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import yuma
from .fixed import EXP_LIMIT, EXP_TERMS, HALF, ONE, U16_MAX, fdiv, fmul, fnorm, from_ppm, from_u16
from .rows import U16_BYTES, U64_BYTES, PackedRows, Rows
from .trace import MAX_ROW_ENTRIES, EpochInputs, EpochParams, EpochTrace
from .yuma_bonds import STEEPNESS_UNIT

Ints = NDArray[np.int64]
Places = NDArray[np.uint16]
Values = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]

INDEX_BITS: Final = 13  # a uid, or the voter without one
MAX_STAKE_RAO: Final = 1 << 55
DENSE_SHARE: Final = 4  # a column sort of whole rows pays from a quarter of all possible entries on
_SHIFT: Final = np.uint64(32)
_ONE: Final = np.uint64(ONE)
ENTRIES_AT_ONCE: Final = 1 << 15
COLUMNS_AT_ONCE: Final = 128  # of a dense sort: what the processor's cache holds


class Part(NamedTuple):
    """Some entries of a matrix, as int64: what one pass over it works on."""

    row: Ints
    column: Ints
    value: Ints


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """A sparse n x n matrix: entries sorted by (row, column), no pair twice.

    `value` has the width that the entries came with (u16 in the state) or int64; what `parts` yields is int64 throughout.
    """

    n: int
    row: Places
    column: Places
    value: Values

    def with_value(self, value: Values) -> Entries:
        return Entries(self.n, self.row, self.column, value)

    def only(self, keep: Flags) -> Entries:
        return self if keep.all() else Entries(self.n, self.row[keep], self.column[keep], self.value[keep])

    @property
    def key(self) -> Ints:
        """Place of each entry in the full matrix: ascending."""
        return self.row.astype(np.int64) * self.n + self.column

    def parts(self) -> Iterator[tuple[slice, Part]]:
        """The entries, some at a time: temporaries of the processor's cache instead of fresh memory."""
        for start in range(0, len(self.row), ENTRIES_AT_ONCE):
            part = slice(start, start + ENTRIES_AT_ONCE)
            row, column = self.row[part].astype(np.int64), self.column[part].astype(np.int64)
            yield part, Part(row, column, self.value[part].astype(np.int64, copy=False))

    def each(self, function: Callable[[Part], Ints], dtype: type[np.integer[Any]] = np.int64) -> Entries:
        """The same entries with the values that `function` gives, stored as `dtype`."""
        values = np.empty(len(self.row), dtype=dtype)
        for part, entries in self.parts():
            values[part] = function(entries)
        return self.with_value(values)

    def where(self, function: Callable[[Part], Flags]) -> Entries:
        """The entries for which `function` is true."""
        keep = np.empty(len(self.row), dtype=np.bool_)
        for part, entries in self.parts():
            keep[part] = function(entries)
        return self.only(keep)

    def column_sums(self, function: Callable[[Part], Ints] = lambda entries: entries.value) -> Ints:
        """Per column the sum of what `function` gives; 2^12 numbers of at most 2^32."""
        sums = np.zeros(self.n, dtype=np.int64)
        for _, entries in self.parts():
            np.add.at(sums, entries.column, function(entries))
        return sums

    def row_sums(self, function: Callable[[Part], Ints] = lambda entries: entries.value) -> Ints:
        """Per row the sum of what `function` gives."""
        sums = np.zeros(self.n, dtype=np.int64)
        for _, entries in self.parts():
            np.add.at(sums, entries.row, function(entries))
        return sums


def epoch(inputs: EpochInputs, params: EpochParams) -> EpochTrace:
    """`yuma.epoch`, on arrays."""
    n = yuma.checked_size(inputs)
    votes = yuma.count_votes(inputs, params)
    total = votes.total
    assert total < MAX_STAKE_RAO, "support sums fit 64 bits"
    need = yuma.support_needed(params.kappa, total)

    raw = admitted_weights(entries_of(inputs.weights), inputs, votes, params.owner)
    weights = row_normalised(raw)
    voters, stakes = weights, list(votes.active_stake)
    if inputs.extra:
        row, stake = inputs.extra
        voters, stakes = _with_row(weights, row), [*stakes, stake]
    agreed = consensus(voters, stakes, need) if votes.agreed else [0] * n

    shares = np.array([fdiv(stake, total) for stake in stakes], dtype=np.int64)
    prerank, rank = ranks(voters, shares, agreed)
    incentive = fnorm(rank)

    bond_weights = blended(weights, agreed, params.bonds_penalty)
    before, after = moved_bonds(inputs, params, votes, bond_weights, agreed)
    dividends = dividend_shares(after, incentive, votes, params.yuma3)
    kept = after if params.yuma3 else relative_to_largest(after)

    paid_by, pay_weights = yuma.payees(incentive, dividends, votes)
    pay = yuma.payouts(pay_weights, inputs.emission_rao, exact=params.exact_payout)
    return EpochTrace(
        block=inputs.block, emission_rao=inputs.emission_rao, params=params, stake_rao=votes.stake,
        permit_before=votes.permit_before, permit=votes.permit, active=votes.active, forfeited=votes.forfeited,
        active_stake_rao=votes.active_stake, extra_stake_rao=votes.extra_stake, need_rao=need, muted_rao=votes.muted,
        consensus=agreed, validator_trust=clipped_row_sums(weights, agreed), prerank=prerank, rank=rank, incentive=incentive,
        dividends=dividends, paid_by=paid_by, pay_weights=pay_weights, server_rao=pay[:n], validator_rao=pay[n:],
        bonds_u16=packed(stored_bonds(kept, votes.permit), U16_BYTES), **_matrices(raw, before, after),
    )


def _matrices(raw: Entries, before: Entries, after: Entries) -> dict[str, Any]:
    """Matrices for the trace, unless they are too large for the record of an epoch."""
    if max(len(raw.row), len(before.row), len(after.row)) > MAX_ROW_ENTRIES:
        return {"has_rows": False}
    return {
        "raw_weights": packed(raw, U16_BYTES), "bonds_before": packed(before, U64_BYTES),
        "bonds_after": packed(after, U64_BYTES),
    }


# --- in and out --------------------------------------------------------------------------------------------------


def entries_of(rows: Rows) -> Entries:
    """Any rows as arrays."""
    n = len(rows)
    if isinstance(rows, PackedRows):
        lengths = np.frombuffer(rows.lengths, dtype="<u2")
        column = np.frombuffer(rows.uids, dtype="<u2")
        value: Values = np.frombuffer(rows.values, dtype=f"<u{rows.value_bytes}")
    else:
        lengths = np.array([len(row) for row in rows], dtype=np.uint16)
        flat = np.array([number for row in rows for pair in row for number in pair], dtype=np.int64).reshape(-1, 2)
        column, value = flat[:, 0].astype(np.uint16), np.ascontiguousarray(flat[:, 1])
    return Entries(n, np.repeat(np.arange(n, dtype=np.uint16), lengths), column, value)


def packed(entries: Entries, value_bytes: int) -> PackedRows:
    """Arrays as rows for the trace and the state."""
    lengths = np.diff(np.searchsorted(entries.row, np.arange(entries.n + 1, dtype=np.uint16)))
    return PackedRows(
        lengths.astype("<u2").tobytes(), entries.column.astype("<u2", copy=False).data.cast("B"),
        entries.value.astype(f"<u{value_bytes}", copy=False).data.cast("B"), value_bytes,
    )


def _with_row(weights: Entries, row: Sequence[tuple[int, int]]) -> Entries:
    """One more voter, below all others."""
    extra = np.array(row, dtype=np.int64).reshape(-1, 2)
    return Entries(
        weights.n, np.concatenate([weights.row, np.full(len(extra), weights.n, dtype=np.uint16)]),
        np.concatenate([weights.column, extra[:, 0].astype(np.uint16)]), np.concatenate([weights.value, extra[:, 1]]),
    )


# --- arithmetic --------------------------------------------------------------------------------------------------


def multiplied(a: Ints, b: Any) -> Ints:
    """floor(a * b / 2^32) for Q32 numbers up to 2^32. Unsigned products fit 64 bits but for 2^32 * 2^32, which wraps to 0;
    there, and only there, both numbers have bit 32."""
    first, second = a.view(np.uint64), np.asarray(b, dtype=np.int64).view(np.uint64)
    out: Ints = (((first * second) >> _SHIFT) + (first & second & _ONE)).view(np.int64)
    return out


def divided(a: Ints, b: Ints) -> Ints:
    """floor(a * 2^32 / b) for 0 <= a <= 2^32, a <= b; 0 where b is 0. Unsigned, a * 2^32 fits 64 bits but for a = 2^32."""
    divisor = np.maximum(b, 1)
    out: Ints = ((a.view(np.uint64) << _SHIFT) // divisor.view(np.uint64)).view(np.int64)
    if (whole := np.flatnonzero(a == ONE)).size:
        out[whole] = _reciprocal(divisor[whole])
    return out


# --- 1.5 weights -------------------------------------------------------------------------------------------------


def admitted_weights(raw: Entries, inputs: EpochInputs, votes: yuma.Votes, owner: int | None) -> Entries:
    """1.5.1-4: see `yuma.admitted_weights`."""
    registered_at = np.array(inputs.registered_at, dtype=np.int64)
    votes_row = np.array([may and not gone for may, gone in zip(votes.permit_before, votes.forfeited)], dtype=np.bool_)
    weights_at = np.array(inputs.weights_at, dtype=np.int64)
    newest = max(inputs.registered_at, default=0)
    commits = inputs.open_commit or [None] * len(weights_at)
    committed_at = np.array([newest if block is None else block for block in commits], dtype=np.int64)

    def counts(part: Part) -> Flags:
        row, registered = part.row, registered_at[part.column]
        other = (row != part.column) if owner is None else (row != part.column) | (row == owner)
        young = (weights_at[row] > registered) & (committed_at[row] >= registered)
        kept: Flags = votes_row[row] & (part.value > 0) & other & young
        return kept

    return raw.where(counts)


def row_normalised(entries: Entries) -> Entries:
    """1.5.5: each row as Q32 shares of its sum; weights are u16, so the product stays below 2^48."""
    sums = entries.row_sums()
    return entries.each(lambda part: (part.value << 32) // sums[part.row])


# --- 1.6 consensus -----------------------------------------------------------------------------------------------


def consensus(voters: Entries, stakes: Sequence[int], need: int) -> list[int]:
    """1.6: see `yuma.consensus`. Entries are ordered by column and falling weight, stakes are summed along, and the
    first entry of a column whose support reaches `need` is the consensus."""
    stake = np.array(stakes, dtype=np.int64)
    counted = stake > 0
    backed = voters.where(lambda part: counted[part.row])
    dense = DENSE_SHARE * len(backed.row) >= voters.n * int(np.count_nonzero(stake)) > 0
    if dense and int(backed.value.max()) < ONE:
        return _consensus_of_whole_rows(backed, stake, need)
    # column | 2^32 - weight | row: 13 + 33 + 13 bits
    key = backed.column.astype(np.int64) << (33 + INDEX_BITS)
    key |= ((ONE - backed.value.astype(np.int64, copy=False)) << INDEX_BITS) | backed.row
    key.sort()
    column = key >> (33 + INDEX_BITS)
    # The running sum wraps at 2^64 over many columns; differences within a column (< 2^55) come out right.
    running = np.cumsum(stake[key & ((1 << INDEX_BITS) - 1)].astype(np.uint64))
    first = np.searchsorted(column, np.arange(voters.n))
    before = np.concatenate([np.zeros(1, dtype=np.uint64), running])[first]
    reached = np.flatnonzero((running - before[column]).astype(np.int64) >= need)
    where, place = np.unique(column[reached], return_index=True)
    agreed = np.zeros(voters.n, dtype=np.int64)
    agreed[where] = ONE - ((key[reached[place]] >> INDEX_BITS) & ((1 << 33) - 1))
    return [int(value) for value in agreed]


def _consensus_of_whole_rows(backed: Entries, stake: Ints, need: int) -> list[int]:
    """The same where most entries are there, all below 2^32: sort whole columns, some at a time; a missing entry is 0."""
    rows = np.flatnonzero(stake)
    start_of = np.zeros(len(stake), dtype=np.int64)
    start_of[rows] = np.arange(len(rows)) * backed.n
    flat = np.zeros(len(rows) * backed.n, dtype=np.uint32)
    for _, entries in backed.parts():
        flat[start_of[entries.row] + entries.column] = entries.value
    table, weight_of_row, agreed = flat.reshape(len(rows), backed.n), stake[rows], np.zeros(backed.n, dtype=np.int64)
    for start in range(0, backed.n, COLUMNS_AT_ONCE):
        part = table[:, start : start + COLUMNS_AT_ONCE].T.astype(np.int64, order="C")
        key = ((ONE - part) << INDEX_BITS) | np.arange(len(rows))
        key.sort(axis=1)
        support = np.cumsum(weight_of_row[key & ((1 << INDEX_BITS) - 1)], axis=1)
        place_reached = (support < need).sum(axis=1)
        found = place_reached < len(rows)
        chosen = key[np.flatnonzero(found), place_reached[found]]
        agreed[start : start + COLUMNS_AT_ONCE][found] = ONE - (chosen >> INDEX_BITS)
    return [int(value) for value in agreed]


# --- 1.7 clip, ranks ---------------------------------------------------------------------------------------------


def ranks(voters: Entries, shares: Ints, agreed: Sequence[int]) -> tuple[list[int], list[int]]:
    """1.7: per column the sums of given and of clipped entries times their row's Q32 share, each product floored."""
    most = np.array(agreed, dtype=np.int64)
    given, clipped = np.zeros(voters.n, dtype=np.int64), np.zeros(voters.n, dtype=np.int64)
    for _, part in voters.parts():
        share = shares[part.row]
        np.add.at(given, part.column, multiplied(part.value, share))
        np.add.at(clipped, part.column, multiplied(np.minimum(part.value, most[part.column]), share))
    return given.tolist(), clipped.tolist()


def clipped_row_sums(weights: Entries, agreed: Sequence[int]) -> list[int]:
    """1.7: validator trust: what remains of each row where no entry is above its column's consensus."""
    most = np.array(agreed, dtype=np.int64)
    sums: list[int] = weights.row_sums(lambda part: np.minimum(part.value, most[part.column])).tolist()
    return sums


# --- 1.8, 1.9 bonds ----------------------------------------------------------------------------------------------


def blended(weights: Entries, agreed: Sequence[int], penalty: int) -> Entries:
    """1.8: see `yuma.blended`; a Q32 number times a u16 stays below 2^49."""
    if penalty == 0:
        return weights
    most = np.array(agreed, dtype=np.int64)
    return weights.each(
        lambda part: part.value - (part.value - np.minimum(part.value, most[part.column])) * penalty // U16_MAX
    )


def moved_bonds(
    inputs: EpochInputs, params: EpochParams, votes: yuma.Votes, bond_weights: Entries, agreed: Sequence[int]
) -> tuple[Entries, Entries]:
    """1.9: the bonds before and after this epoch's step of the moving average."""
    held = entries_of(inputs.bonds)
    registered_at = np.array(inputs.registered_at, dtype=np.int64)
    valid = inputs.bonds_from > registered_at
    held = held.where(lambda part: valid[part.column])
    if params.yuma3:
        before = held.each(lambda part: (part.value << 32) // U16_MAX)
        target = bond_weights
    else:
        before = column_normalised(held)
        target = stake_shares(bond_weights, votes.active_stake)
    was, wanted, union = _aligned(before, target)
    alpha: int | Ints = ONE - from_ppm(params.bonds_moving_average)
    if params.liquid_alpha and any(agreed):
        given = _aligned(union, bond_weights)[1]
        low, high = from_u16(params.alpha_low), from_u16(params.alpha_high)
        consensus_here = np.array(agreed, dtype=np.int64)[union.column]
        alpha = liquid_alphas(given, was, consensus_here, low, high, params.alpha_steepness)
    spare = was if len(before.row) > MAX_ROW_ENTRIES else np.empty(len(was), dtype=np.int64)  # no trace keeps `before` then
    after = union.with_value(_moved(was, wanted, alpha, spare))
    return before, after.only(after.value > 0)


def _moved(was: Ints, wanted: Ints, alpha: int | Ints, out: Ints) -> Ints:
    """alpha * wanted + (1 - alpha) * was, at most 1, written to `out`, which may be `was`."""
    for start in range(0, len(was), ENTRIES_AT_ONCE):
        part = slice(start, start + ENTRIES_AT_ONCE)
        share = np.asarray(alpha if isinstance(alpha, int) else alpha[part])
        out[part] = np.minimum(ONE, multiplied(wanted[part], share) + multiplied(was[part], ONE - share))
    return out


def _aligned(first: Entries, second: Entries) -> tuple[Ints, Ints, Entries]:
    """Values of both matrices at the entries of either, 0 where there is none, and those entries."""
    if np.array_equal(first.column, second.column) and np.array_equal(first.row, second.row):
        return first.value.astype(np.int64, copy=False), second.value.astype(np.int64, copy=False), first
    a, b = first.key, second.key
    keys = np.sort(np.concatenate([a, b]), kind="stable")
    keys = keys[np.concatenate([np.ones(min(1, len(keys)), dtype=np.bool_), keys[1:] != keys[:-1]])]
    left, right = np.zeros(len(keys), dtype=np.int64), np.zeros(len(keys), dtype=np.int64)
    left[np.searchsorted(keys, a)] = first.value
    right[np.searchsorted(keys, b)] = second.value
    row, column = np.divmod(keys, max(1, first.n))
    return left, right, Entries(first.n, row.astype(np.uint16), column.astype(np.uint16), left)


def column_normalised(entries: Entries) -> Entries:
    """1.9a: each entry as a Q32 share of its column's sum."""
    sums = entries.column_sums()
    return entries.each(lambda part: divided(part.value, sums[part.column]))


def stake_shares(weights: Entries, active_stake: Sequence[int]) -> Entries:
    """1.9a: each row times its validator's raw stake, then as Q32 shares of its column. Products reach 2^88 and are
    Python integers: classic bonds are the slower ones."""
    scaled = weights.value.astype(object) * np.array(active_stake, dtype=object)[weights.row]
    sums = np.zeros(weights.n, dtype=object)
    np.add.at(sums, weights.column, scaled)
    shares = (scaled << 32) // np.where(sums == 0, 1, sums)[weights.column]
    return weights.with_value(shares.astype(np.int64))


def liquid_alphas(weight: Ints, bond: Ints, agreed: Ints, low: int, high: int, steepness: int) -> Ints:
    """1.9b: see `yuma_bonds.liquid_alpha`."""
    distance = np.clip(np.where(weight >= bond, weight - agreed, bond - weight), 0, ONE)
    slope = _sigmoid(steepness * (distance - HALF) // STEEPNESS_UNIT)
    return np.maximum(low, np.minimum(high, low + multiplied(slope, high - low)))


def _sigmoid(x: Ints) -> Ints:
    """`fixed.fsigmoid`: 1 / (1 + e^-x)."""
    return _reciprocal(ONE + _exp(-x))


def _exp(x: Ints) -> Ints:
    """`fixed.fexp`: |x| <= 20 * 2^32; a term of the series is below 2^58, the sum below 2^61."""
    x = np.clip(x, -EXP_LIMIT * ONE, EXP_LIMIT * ONE)
    size = np.abs(x)
    total, term = ONE + size, size
    for i in range(2, EXP_TERMS):
        # floor(term * size / 2^32) with term = 2^32 h + 2^16 m + l: h * size < 2^63, m * size < 2^53
        low = ((((term >> 16) & 0xFFFF) * size) + (((term & 0xFFFF) * size) >> 16)) >> 16
        term = ((term >> 32) * size + low) // i
        total = total + term
    return np.where(x >= 0, total, _reciprocal(total))


def _reciprocal(x: Ints) -> Ints:
    """floor(2^64 / x) for x >= 3: 2^64 does not fit, so one is added where 2^64 - 1 leaves the remainder x - 1."""
    divisor = x.astype(np.uint64)
    quotient, rest = np.divmod(np.full(x.shape, (1 << 64) - 1, dtype=np.uint64), divisor)
    out: Ints = (quotient + (rest == divisor - np.uint64(1))).astype(np.int64)
    return out


def dividend_shares(bonds: Entries, incentive: Sequence[int], votes: yuma.Votes, yuma3: bool) -> list[int]:
    """1.9: see `yuma.dividend_shares`."""
    sums, earning = bonds.column_sums(), np.array(incentive, dtype=np.int64)
    earned: list[int] = bonds.row_sums(
        lambda part: multiplied(divided(part.value, sums[part.column]), earning[part.column])
    ).tolist()
    if yuma3:
        total = votes.total
        earned = [fmul(part, fdiv(stake, total)) for part, stake in zip(earned, votes.active_stake)]
    return fnorm([0 if forfeited else part for part, forfeited in zip(earned, votes.forfeited)])


def relative_to_largest(bonds: Entries) -> Entries:
    """1.9a: classic bonds as stored: Q32 shares of the column's largest, one unit added back for the flooring."""
    largest = np.zeros(bonds.n, dtype=np.int64)
    for _, part in bonds.parts():
        np.maximum.at(largest, part.column, part.value)
    return bonds.each(lambda part: divided(np.minimum(part.value + 1, largest[part.column]), largest[part.column]))


def stored_bonds(bonds: Entries, permit: Sequence[bool]) -> Entries:
    """1.9c: u16 rows of those with a permit for the next epoch, one unit added back; times 65535 below 2^49."""
    permitted = np.array(permit, dtype=np.bool_)
    kept = bonds.where(lambda part: permitted[part.row])
    return kept.each(lambda part: np.minimum(U16_MAX, ((part.value + 1) * U16_MAX) >> 32), np.uint16)

