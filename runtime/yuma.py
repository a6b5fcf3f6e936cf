"""The Yuma epoch (1.2 to 1.10): stakes, weights and bonds of a subnet in, consensus and pay out.

Pure: `epoch(inputs, params)` reads no store and no clock. Each rule is one function, in the order in which they apply;
`epoch` strings them together and returns the `EpochTrace` with every value on the way. Thresholds compare raw stakes;
everything else is Q32. These whole numbers are the law: a faster engine has to agree with them bit by bit.

    voting stake -> permits -> active stake          (1.3, 1.4)
    rows -> masked, normalised                       (1.5)
    consensus = greatest weight backed by need       (1.6)
    clip -> trust, ranks, incentive                  (1.7)
    bonds: weights, moving average, dividends        (1.8, 1.9)
    pay by largest remainder                         (1.10)

A row of the matrices is a list of (uid, value) sorted by uid; a missing entry is 0.

Rules: EPO-2 voting stake and threshold · EPO-3 permits · EPO-4 activity · EPO-5 rows that count · EPO-6 consensus ·
    EPO-7 clip, rank, incentive, trust · EPO-8 weights for bonds · EPO-12 bond rows kept · EPO-13 forfeits in the epoch ·
    EPO-14 pay · EPO-15 an extra voter
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .fixed import U16_MAX, fdiv, fmul, fnorm, from_u16, fu16, largest_remainder
from .rows import Row, Rows
from .trace import MAX_UIDS, EpochInputs, EpochParams, EpochTrace
from .yuma_bonds import bond_alphas, bond_target, column_normalised, ema_rows, merged

Voter = tuple[Row, int]  # row of Q32 shares, raw stake


class Votes(NamedTuple):
    """Who votes with how much (1.3, 1.4)."""

    stake: list[int]
    permit_before: list[bool]
    permit: list[bool]
    active: list[bool]
    active_stake: list[int]
    forfeited: list[bool]
    extra_stake: int

    @property
    def total(self) -> int:
        return sum(self.active_stake) + self.extra_stake

    @property
    def muted(self) -> int:
        return sum(stake for stake, forfeited in zip(self.active_stake, self.forfeited) if forfeited)

    @property
    def agreed(self) -> bool:
        """At most half of the voting stake forfeits; otherwise there is no consensus."""
        return 2 * self.muted <= self.total


def epoch(inputs: EpochInputs, params: EpochParams) -> EpochTrace:
    """Run one epoch. Raises ValueError if the inputs do not fit together (a bug of the caller, never of a user)."""
    n = checked_size(inputs)
    votes = count_votes(inputs, params)
    total = votes.total
    need = support_needed(params.kappa, total)

    raw = admitted_weights(inputs, votes.permit_before, votes.forfeited, params.owner)
    weights = row_normalised(raw)
    voters: list[Voter] = list(zip(weights, votes.active_stake))
    if inputs.extra:
        voters.append(inputs.extra)
    agreed = consensus(voters, need, n) if votes.agreed else [0] * n

    clipped = clip(weights, agreed)
    shares = [fdiv(stake, total) for _, stake in voters]
    support = [row for row, _ in voters]
    prerank = weighted_sums(support, shares, n)
    rank = weighted_sums(clip(support, agreed), shares, n)
    incentive = fnorm(rank)

    before, after = moved_bonds(inputs, params, votes, blended(weights, clipped, params.bonds_penalty), agreed)
    dividends = dividend_shares(after, incentive, votes, params.yuma3)
    kept = after if params.yuma3 else relative_to_largest(after, n)

    paid_by, pay_weights = payees(incentive, dividends, votes)
    pay = payouts(pay_weights, inputs.emission_rao, exact=params.exact_payout)
    return EpochTrace(
        block=inputs.block, emission_rao=inputs.emission_rao, params=params, stake_rao=votes.stake,
        permit_before=votes.permit_before, permit=votes.permit, active=votes.active, forfeited=votes.forfeited,
        active_stake_rao=votes.active_stake, extra_stake_rao=votes.extra_stake, need_rao=need, muted_rao=votes.muted,
        consensus=agreed, validator_trust=row_sums(clipped), prerank=prerank, rank=rank, incentive=incentive,
        dividends=dividends, paid_by=paid_by, pay_weights=pay_weights, server_rao=pay[:n], validator_rao=pay[n:],
        raw_weights=raw, bonds_before=before, bonds_after=after, bonds_u16=stored_bonds(kept, votes.permit),
    )


def checked_size(inputs: EpochInputs) -> int:
    """Number of uids. Raises ValueError if the inputs do not fit together."""
    n = len(inputs.stake)
    columns = (
        inputs.permit, inputs.registered_at, inputs.active_at, inputs.weights_at, inputs.weights, inputs.bonds,
        inputs.forfeit or inputs.stake, inputs.open_commit or inputs.stake,
    )
    if n > MAX_UIDS or any(len(column) != n for column in columns):
        raise ValueError(f"epoch inputs have {[len(column) for column in columns]} entries for {n} uids")
    if any(stake < 0 for stake in inputs.stake) or inputs.emission_rao < 0:
        raise ValueError("negative stake or emission")
    return n


# --- 1.3, 1.4 stakes and permits ---------------------------------------------------------------------------------


def count_votes(inputs: EpochInputs, params: EpochParams) -> Votes:
    """1.3 and 1.4 together: who may vote in this epoch, with how much, and who may vote in the next."""
    stake = voting_stake(inputs.stake, params.stake_threshold, params.owner)
    permit_before, permit = list(inputs.permit), topk_nonzero(stake, params.max_validators)
    if params.owner is not None:
        permit_before[params.owner] = permit[params.owner] = True
    active = [block + params.activity_cutoff >= inputs.block for block in inputs.active_at]
    allowed = permit_before
    if params.permit_twice:
        allowed = [before and now for before, now in zip(permit_before, permit)]
    forfeited = list(inputs.forfeit) or [False] * len(stake)
    extra_stake = inputs.extra[1] if inputs.extra else 0
    return Votes(stake, permit_before, permit, active, active_stake(stake, active, allowed), forfeited, extra_stake)


def voting_stake(stake: Sequence[int], threshold: int, exempt: int | None = None) -> list[int]:
    """1.3: stake below the threshold counts 0 (rao); `exempt` is a uid to which this does not apply."""
    return [amount if uid == exempt or amount >= threshold else 0 for uid, amount in enumerate(stake)]


def topk_nonzero(stake: Sequence[int], k: int) -> list[bool]:
    """1.4: permits of the k largest stakes that are not zero; among equal stakes the higher uid wins."""
    keep = [amount != 0 for amount in stake]
    for uid in sorted(range(len(stake)), key=stake.__getitem__)[: max(0, len(stake) - k)]:
        keep[uid] = False
    return keep


def active_stake(stake: Sequence[int], active: Sequence[bool], allowed: Sequence[bool]) -> list[int]:
    """1.4: the stake that votes: of validators that are active and allowed to."""
    return [amount if here and may else 0 for amount, here, may in zip(stake, active, allowed)]


# --- 1.5 weights -------------------------------------------------------------------------------------------------


def admitted_weights(
    inputs: EpochInputs, permit: Sequence[bool], forfeited: Sequence[bool], owner: int | None = None
) -> Rows:
    """1.5.1-4: raw rows without what does not count.

    Out go rows of validators that had no permit or forfeit, the weight on oneself, and any weight that is not younger
    than the registration of the neuron that now has the uid.
    """
    registered_at = inputs.registered_at
    rows: list[Row] = []
    for uid, row in enumerate(inputs.weights):
        if not permit[uid] or forfeited[uid]:
            rows.append([])
            continue
        weights_at = inputs.weights_at[uid]
        open_commit = inputs.open_commit[uid] if inputs.open_commit else None
        rows.append([
            (j, weight) for j, weight in row
            if weight and (j != uid or uid == owner) and weights_at > registered_at[j]
            and (open_commit is None or open_commit >= registered_at[j])
        ])
    return rows


def row_normalised(rows: Rows) -> Rows:
    """1.5.5: each row as Q32 shares of its sum."""
    out: list[Row] = []
    for row in rows:
        total = sum(value for _, value in row)
        out.append([(j, fdiv(value, total)) for j, value in row])
    return out


# --- 1.6 consensus -----------------------------------------------------------------------------------------------


def support_needed(kappa: int, total_stake: int) -> int:
    """1.6: the raw stake (rao) that has to back a weight: the least with 65535 * support >= kappa * total."""
    return -(-kappa * total_stake // U16_MAX)


def consensus(voters: Sequence[Voter], need: int, n: int) -> list[int]:
    """1.6: per column the greatest weight that stake of at least `need` gives or exceeds; 0 if there is none.

    Voters that leave a column out vote 0 for it. Support that is exactly `need` suffices. The unit of the weights does
    not matter; stakes are raw.
    """
    columns: list[list[tuple[int, int]]] = [[] for _ in range(n)]
    for row, stake in voters:
        if stake:
            for j, weight in row:
                columns[j].append((weight, stake))
    agreed = [0] * n
    for j, column in enumerate(columns):
        column.sort(reverse=True)
        support = 0
        for weight, stake in column:
            support += stake
            if support >= need:
                agreed[j] = weight
                break
    return agreed


# --- 1.7 clip, ranks, incentive ----------------------------------------------------------------------------------


def clip(rows: Rows, ceiling: Sequence[int]) -> Rows:
    """1.7: no entry above its column's ceiling."""
    return [[(j, value if value < ceiling[j] else ceiling[j]) for j, value in row] for row in rows]


def weighted_sums(rows: Rows, shares: Sequence[int], n: int) -> list[int]:
    """1.7: per column the sum of entries times their row's Q32 share, each product floored."""
    sums = [0] * n
    for row, share in zip(rows, shares):
        if share:
            for j, value in row:
                sums[j] += (share * value) >> 32
    return sums


def row_sums(rows: Rows) -> list[int]:
    """1.7: validator trust: how much of its row a validator keeps after the clipping."""
    return [sum(value for _, value in row) for row in rows]


# --- 1.8, 1.9 bonds ----------------------------------------------------------------------------------------------


def blended(rows: Rows, clipped: Rows, penalty: int, whole: int = U16_MAX) -> Rows:
    """1.8: weights for bonds: `penalty`/`whole` of the way from the given to the clipped rows, exact integers."""
    if penalty == 0:
        return rows
    if penalty == whole:
        return clipped
    out: list[Row] = []
    for row, cut in zip(rows, clipped):
        low, high = dict(cut), dict(row)
        out.append([
            (j, high.get(j, 0) - (high.get(j, 0) - low.get(j, 0)) * penalty // whole) for j in merged(high, low)
        ])
    return out


def bonds_from(block: int, tempo: int, last_step_block: int | None) -> int:
    """1.9: bonds towards a uid registered at or after the returned block are void.

    That is the block after the previous epoch; before the first one, a tempo ago.
    """
    return max(0, block - tempo) if last_step_block is None else last_step_block + 1


def moved_bonds(
    inputs: EpochInputs, params: EpochParams, votes: Votes, bond_weights: Rows, agreed: Sequence[int]
) -> tuple[Rows, Rows]:
    """1.9: the bonds before and after this epoch's step of the moving average."""
    n = len(inputs.stake)
    valid = [[(j, bond) for j, bond in row if inputs.bonds_from > inputs.registered_at[j]] for row in inputs.bonds]
    if params.yuma3:
        before: Rows = [[(j, from_u16(bond)) for j, bond in row] for row in valid]
    else:
        before = column_normalised(valid, n)
    target = bond_target(bond_weights, votes.active_stake, yuma3=params.yuma3)
    return before, ema_rows(before, target, bond_alphas(params, before, target, bond_weights, agreed))


def dividend_shares(bonds: Rows, incentive: Sequence[int], votes: Votes, yuma3: bool) -> list[int]:
    """1.9: what a validator's bonds earn: its part of each column times that column's incentive, as Q32 shares.

    With Yuma 3 the sum counts in proportion to the active stake; with classic bonds the stake is in the bonds already.
    A forfeiting validator earns nothing.
    """
    earned = row_dots(column_normalised(bonds, len(incentive)), incentive)
    if yuma3:
        total = votes.total
        earned = [fmul(part, fdiv(stake, total)) for part, stake in zip(earned, votes.active_stake)]
    return fnorm([0 if forfeited else part for part, forfeited in zip(earned, votes.forfeited)])


def row_dots(rows: Rows, vector: Sequence[int]) -> list[int]:
    """Per row the sum of entries times the vector, each product floored."""
    return [sum((vector[j] * value) >> 32 for j, value in row) for row in rows]


def relative_to_largest(rows: Rows, n: int) -> Rows:
    """1.9a: classic bonds as stored: Q32 shares of the column's largest, one unit added back for the flooring."""
    largest = [0] * n
    for row in rows:
        for j, value in row:
            largest[j] = max(largest[j], value)
    return [[(j, fdiv(min(value + 1, largest[j]), largest[j])) for j, value in row] for row in rows]


def stored_bonds(rows: Rows, permit: Sequence[bool]) -> Rows:
    """1.9c: u16 rows of those with a permit for the next epoch.

    A Q32 number is a floor; one unit is added back, so that a bond that rests (exactly 3/5, say) does not lose one u16
    in every epoch.
    """
    return [[(j, fu16(value + 1)) for j, value in row] if permit[uid] else [] for uid, row in enumerate(rows)]


# --- 1.10 pay ----------------------------------------------------------------------------------------------------


def payees(incentive: list[int], dividends: list[int], votes: Votes) -> tuple[str, list[int]]:
    """1.10: the integer weights by which a pot is paid (incentives, then dividends) and what they are made of.

    Without any score validators are paid by active stake, without that by stake; forfeiting ones are not. All zeros if
    nobody can be paid or if too much stake forfeits: then the caller carries the pot.
    """
    weights = incentive + dividends
    if any(weights):
        return "scores", weights
    nothing = [0] * len(incentive)
    if not votes.agreed:
        return "nobody", nothing + nothing
    basis, stakes = ("active stake", votes.active_stake) if any(votes.active_stake) else ("stake", votes.stake)
    paid = [0 if gone else stake for stake, gone in zip(stakes, votes.forfeited)]
    return (basis if any(paid) else "nobody"), nothing + paid


def payouts(weights: Sequence[int], pot_rao: int, *, exact: bool) -> list[int]:
    """1.10: the pot split by weight; `exact` gives every unit out, otherwise each part is floored on its own."""
    total = sum(weights)
    if total == 0:
        return [0] * len(weights)
    if exact:
        return largest_remainder(weights, pot_rao)
    return [weight * pot_rao // total for weight in weights]
