"""Share pools: stake as parts of a value, deposits that wait for the next payout, and the stake that votes (3.1, 3.2).

Stake is 1:1 money in the pool of a (netuid, hotkey); root is netuid 0. A pool has a value and shares; the stake of a
coldkey is its shares' part of the value, so a dividend to everybody is one addition.

    deposit    pending until the subnet's next payout: until then it earns nothing and votes nothing
    activate   right after a payout: all pending deposits of a pool become shares at one ratio, which is kept until
               every coldkey has taken up its part (lazily, when its position is next touched)
    withdraw   pending stake first, then shares; it earns nothing for the running epoch
    consensus  what votes = min(value, its moving average): bought stake acts late, sold stake at once

Shares are units of 2^-32 rao at a pool's first deposit. Deposits floor the shares they mint and withdrawals ceil those
they burn, so a pool never owes more than its value; what rounding leaves belongs to those who stay.

Rules: STK-1 share pools · STK-2 first deposits · STK-3 pending deposits · STK-4 removal · STK-7 consensus stake ·
    STK-8 no schedule beats staying
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import islice
from typing import Any, Final, TypeVar, cast

from ledger.codec import decode, encode

from .. import hooks, params
from ..curves import step_average
from ..params import Q
from ..registry import Context, event, refuse
from ..tables import MAX_VALUE_BYTES, ReadState, Table, key_field, u16_field, u32_field
from . import accounts, hotkeys, subnets

SHARE_BITS: Final = 32
SHARE_BYTES: Final = 16  # at most 2^87 shares
FORGOTTEN_BELOW_RAO: Final = Q  # an average without stake: else rows that cost nothing would be read in every epoch

R = TypeVar("R")


@dataclass(frozen=True)
class Pool:
    """Stake on a hotkey in a subnet. `value_rao` is active; `pending_rao` joins it after the next payout.

    `ema_rao` moves once per epoch of the subnet; it started at 0 in block `since_block`.
    """

    value_rao: int = 0
    shares: int = 0
    pending_rao: int = 0
    ema_rao: int = 0
    since_block: int = 0

    @property
    def consensus_rao(self) -> int:
        """The stake that votes."""
        return min(self.value_rao, self.ema_rao)


@dataclass(frozen=True)
class Share:
    """A coldkey's part of a pool, and what it deposited in epoch `epoch` that is not turned into shares here yet."""

    shares: int = 0
    pending_rao: int = 0
    epoch: int = 0


@dataclass(frozen=True)
class Ratio:
    """At which shares and value the deposits of one epoch joined a pool, and what coldkeys have not taken up of them.

    `shares` is 0 if the pool was empty: then a rao became 2^32 shares.
    """

    shares: int
    value_rao: int
    untaken_shares: int
    untaken_rao: int


@dataclass(frozen=True)
class Totals:
    """Sums over the pools of a subnet; `consensus_rao` as of the subnet's last epoch."""

    value_rao: int = 0
    pending_rao: int = 0
    consensus_rao: int = 0


class _ShareTable(Table[R]):
    """A table whose record has shares: they may exceed 64 bits and are stored as 16 bytes."""

    def encode(self, value: R) -> bytes:
        row = [(field.name, getattr(value, field.name)) for field in fields(cast(Any, value))]
        return encode([v.to_bytes(SHARE_BYTES, "big") if name.endswith("shares") else v for name, v in row])

    def decode(self, data: bytes) -> R:
        row: list[Any] = decode(data, max_bytes=MAX_VALUE_BYTES, where=self.name)
        return self.kind(*(int.from_bytes(v, "big") if isinstance(v, bytes) else v for v in row))


POOLS = _ShareTable(40, "stake_pool", Pool, u16_field("netuid"), key_field("hotkey"))
SHARES = _ShareTable(41, "stake_share", Share, u16_field("netuid"), key_field("hotkey"), key_field("coldkey"))
RATIOS = _ShareTable(42, "deposit_ratio", Ratio, u16_field("netuid"), key_field("hotkey"), u32_field("epoch"))
POSITIONS = Table(43, "stake_position", int, key_field("coldkey"), u16_field("netuid"), key_field("hotkey"))
TOTALS = Table(44, "stake_totals", Totals, u16_field("netuid"))

hooks.holding("stake", POOLS, lambda row: row.value_rao + row.pending_rao)

STAKE_ACTIVATED = event(40, "StakeActivated", "hotkey", "netuid", "amount_rao")


# --- reads -------------------------------------------------------------------------------------------------------


def pool(state: ReadState, netuid: int, hotkey: bytes) -> Pool:
    """The pool of a hotkey in a subnet; empty if there is none."""
    return POOLS.get(state, netuid, hotkey) or Pool()


def totals(state: ReadState, netuid: int) -> Totals:
    """Sums over the pools of a subnet."""
    return TOTALS.get(state, netuid) or Totals()


def position(state: ReadState, netuid: int, hotkey: bytes, coldkey: bytes) -> tuple[int, int]:
    """(active, pending) stake of a coldkey in rao: what it could withdraw now."""
    share = SHARES.get(state, netuid, hotkey, coldkey) or Share()
    ratio = _due_ratio(state, netuid, hotkey, share)
    pending, shares = share.pending_rao, share.shares
    if ratio is not None:
        pending, shares = 0, shares + _shares_for(pending, ratio.shares, ratio.value_rao)
    return _worth(pool(state, netuid, hotkey), shares), pending


def positions(state: ReadState, coldkey: bytes) -> Iterator[tuple[int, bytes, int, int]]:
    """(netuid, hotkey, active rao, pending rao) of all positions of a coldkey, ascending."""
    for (_, netuid, hotkey), _ in POSITIONS.items(state, coldkey):
        active, pending = position(state, netuid, hotkey, coldkey)
        yield netuid, hotkey, active, pending


def _worth(row: Pool, shares: int) -> int:
    return row.value_rao * shares // row.shares if row.shares else 0


def _shares_for(amount_rao: int, shares: int, value_rao: int) -> int:
    """Shares for a deposit into a pool of these shares and value, floored."""
    return amount_rao * shares // value_rao if shares else amount_rao << SHARE_BITS


def _due_ratio(state: ReadState, netuid: int, hotkey: bytes, share: Share) -> Ratio | None:
    """The ratio at which a pending deposit has become shares, or None if it is still waiting."""
    if not share.pending_rao or share.epoch >= subnets.tempo(state, netuid).epoch_index:
        return None
    ratio = RATIOS.get(state, netuid, hotkey, share.epoch)
    assert ratio is not None, "a deposit of a closed epoch has no ratio"
    return ratio


# --- deposits and withdrawals ------------------------------------------------------------------------------------


def deposit(context: Context, netuid: int, hotkey: bytes, coldkey: bytes, amount_rao: int) -> None:
    """Add a pending deposit; the caller has taken the money out of an account or another pool.

    Refuses AmountTooLow if it would not buy a single share.
    """
    state = context.state
    share = _take_up(context, netuid, hotkey, coldkey)
    row = POOLS.get(state, netuid, hotkey) or Pool(since_block=context.height)
    if _shares_for(amount_rao, row.shares, row.value_rao) == 0:
        refuse("AmountTooLow")
    _put_pool(context, netuid, hotkey, replace(row, pending_rao=row.pending_rao + amount_rao))
    epoch = subnets.tempo(state, netuid).epoch_index
    _put_share(context, netuid, hotkey, coldkey, Share(share.shares, share.pending_rao + amount_rao, epoch))


def withdraw(
    context: Context, netuid: int, hotkey: bytes, coldkey: bytes, amount_rao: int | None, least_rao: int
) -> int:
    """Take stake out, pending first, and return the rao taken; the caller gives them a new place.

    None means all; a rest below `least_rao` goes too. Refuses NotEnoughStakeToWithdraw.
    """
    share = _take_up(context, netuid, hotkey, coldkey)
    row = pool(context.state, netuid, hotkey)
    active = _worth(row, share.shares)
    held = active + share.pending_rao
    amount = held if amount_rao is None else amount_rao
    if held == 0 or amount > held:
        refuse("NotEnoughStakeToWithdraw", held_rao=held, asked_rao=amount)
    everything = held - amount < max(1, least_rao)
    from_pending = share.pending_rao if everything else min(share.pending_rao, amount)
    from_active = active if everything else amount - from_pending
    burned = share.shares if everything else -(-from_active * row.shares // row.value_rao) if from_active else 0
    row = replace(row, value_rao=row.value_rao - from_active, shares=row.shares - burned)
    _put_pool(context, netuid, hotkey, replace(row, pending_rao=row.pending_rao - from_pending))
    rest = Share(share.shares - burned, share.pending_rao - from_pending, share.epoch)
    _put_share(context, netuid, hotkey, coldkey, rest)
    return from_pending + from_active


def close_position(context: Context, netuid: int, hotkey: bytes, coldkey: bytes) -> int:
    """Take all of a coldkey's stake out of a pool, also if it is worth nothing; returns the rao taken."""
    share = _take_up(context, netuid, hotkey, coldkey)
    row = pool(context.state, netuid, hotkey)
    active = _worth(row, share.shares)
    row = replace(row, value_rao=row.value_rao - active, shares=row.shares - share.shares)
    _put_pool(context, netuid, hotkey, replace(row, pending_rao=row.pending_rao - share.pending_rao))
    _put_share(context, netuid, hotkey, coldkey, Share())
    return active + share.pending_rao


def reward(context: Context, netuid: int, hotkey: bytes, coldkey: bytes, to_all_rao: int, to_coldkey_rao: int) -> int:
    """Pay out: raise the value for all shares, then add an immediate deposit of `coldkey` (the hotkey's owner).

    Returns the rao that found no receiver: what was for all shares of a pool that has none. The caller takes the money
    out of a pot.
    """
    row = POOLS.get(context.state, netuid, hotkey) or Pool(since_block=context.height)
    lost = 0 if row.shares else to_all_rao
    if to_all_rao - lost + to_coldkey_rao == 0:
        return lost
    row = replace(row, value_rao=row.value_rao + to_all_rao - lost)
    minted = _shares_for(to_coldkey_rao, row.shares, row.value_rao)
    row = replace(row, value_rao=row.value_rao + to_coldkey_rao, shares=row.shares + minted)
    _put_pool(context, netuid, hotkey, row)
    if minted:
        share = _take_up(context, netuid, hotkey, coldkey)
        _put_share(context, netuid, hotkey, coldkey, replace(share, shares=share.shares + minted))
    return lost


def _take_up(context: Context, netuid: int, hotkey: bytes, coldkey: bytes) -> Share:
    """A coldkey's share with its matured deposit turned into shares; the last one leaves the rounding to the pool."""
    state = context.state
    share = SHARES.get(state, netuid, hotkey, coldkey) or Share()
    ratio = _due_ratio(state, netuid, hotkey, share)
    if ratio is None:
        return share
    minted = _shares_for(share.pending_rao, ratio.shares, ratio.value_rao)
    left = replace(
        ratio, untaken_shares=ratio.untaken_shares - minted, untaken_rao=ratio.untaken_rao - share.pending_rao
    )
    assert left.untaken_shares >= 0 and left.untaken_rao >= 0, "more was taken up than was deposited"
    if left.untaken_rao:
        RATIOS.put(state, netuid, hotkey, share.epoch, value=left)
    else:
        RATIOS.delete(state, netuid, hotkey, share.epoch)
        row = pool(state, netuid, hotkey)
        _put_pool(context, netuid, hotkey, replace(row, shares=row.shares - left.untaken_shares))
    share = Share(share.shares + minted, 0, 0)
    _put_share(context, netuid, hotkey, coldkey, share)
    return share


def _put_pool(context: Context, netuid: int, hotkey: bytes, row: Pool) -> None:
    """Write a pool and keep the subnet's totals. Value that nobody has shares of is recycled."""
    state = context.state
    if row.value_rao and not row.shares:
        accounts.recycle(context, row.value_rao, "stake", "stake dust")
        row = replace(row, value_rao=0)
    old = pool(state, netuid, hotkey)
    value, pending = row.value_rao - old.value_rao, row.pending_rao - old.pending_rao
    assert row.value_rao >= 0 and row.pending_rao >= 0 and row.shares >= 0
    if value or pending:
        sums = totals(state, netuid)
        TOTALS.put(state, netuid, value=replace(
            sums, value_rao=sums.value_rao + value, pending_rao=sums.pending_rao + pending
        ))
    _store_pool(context, netuid, hotkey, row)


def _store_pool(context: Context, netuid: int, hotkey: bytes, row: Pool) -> None:
    if row.value_rao or row.shares or row.pending_rao or row.ema_rao >= FORGOTTEN_BELOW_RAO:
        POOLS.put(context.state, netuid, hotkey, value=row)
    else:
        POOLS.delete(context.state, netuid, hotkey)


def _put_share(context: Context, netuid: int, hotkey: bytes, coldkey: bytes, share: Share) -> None:
    """Write a coldkey's share and its entry in the index by coldkey."""
    state = context.state
    if share.shares or share.pending_rao:
        SHARES.put(state, netuid, hotkey, coldkey, value=share)
        if POSITIONS.get(state, coldkey, netuid, hotkey) is None:
            POSITIONS.put(state, coldkey, netuid, hotkey, value=1)
    else:
        SHARES.delete(state, netuid, hotkey, coldkey)
        POSITIONS.delete(state, coldkey, netuid, hotkey)


@hooks.hotkey_swapped
def move_pool(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """A pool with all its holders, and its age, gets another hotkey."""
    state = context.state
    POOLS.move(state, (netuid, old), (netuid, new))
    for (_, _, coldkey), _ in list(SHARES.items(state, netuid, old)):
        SHARES.move(state, (netuid, old, coldkey), (netuid, new, coldkey))
        POSITIONS.move(state, (coldkey, netuid, old), (coldkey, netuid, new))
    for (_, _, epoch), _ in list(RATIOS.items(state, netuid, old)):
        RATIOS.move(state, (netuid, old, epoch), (netuid, new, epoch))


@hooks.coldkey_swapped
def move_positions(context: Context, old: bytes, new: bytes) -> int:
    """All positions of a coldkey get another one."""
    hand_over(context, old, new, None)
    return 0


def hand_over(context: Context, old: bytes, new: bytes, limit: int | None) -> int:
    """Add so many (all) positions of a coldkey to those of another one, in their order; returns how many."""
    held = list(islice(POSITIONS.items(context.state, old), limit))
    for (_, netuid, hotkey), _ in held:
        given = _take_up(context, netuid, hotkey, old)
        _put_share(context, netuid, hotkey, old, Share())
        there = _take_up(context, netuid, hotkey, new)
        pending_rao, epoch = there.pending_rao + given.pending_rao, max(there.epoch, given.epoch)
        _put_share(context, netuid, hotkey, new, Share(there.shares + given.shares, pending_rao, epoch))
    return len(held)


# --- after a payout ----------------------------------------------------------------------------------------------


def close_epoch(context: Context, netuid: int) -> None:
    """3.2: pending deposits become shares, then the averages move.

    Runs right after the payout, before the epoch index is counted up.
    """
    state = context.state
    value = consensus = 0
    for (_, hotkey), old in list(POOLS.items(state, netuid)):
        row = _averaged(context, netuid, _activated(context, netuid, hotkey, old))
        if row != old:
            _store_pool(context, netuid, hotkey, row)
        value += row.value_rao
        consensus += row.consensus_rao
    TOTALS.put(state, netuid, value=Totals(value, 0, consensus))


def _activated(context: Context, netuid: int, hotkey: bytes, row: Pool) -> Pool:
    """The pool with its pending deposits as shares; the ratio is kept for those who take them up."""
    pending = row.pending_rao
    if not pending:
        return row
    minted = _shares_for(pending, row.shares, row.value_rao)
    epoch = subnets.tempo(context.state, netuid).epoch_index
    RATIOS.put(context.state, netuid, hotkey, epoch, value=Ratio(row.shares, row.value_rao, minted, pending))
    context.events.append(STAKE_ACTIVATED(hotkey, netuid, pending))
    return replace(row, value_rao=row.value_rao + pending, shares=row.shares + minted, pending_rao=0)


def _averaged(context: Context, netuid: int, row: Pool) -> Pool:
    """The pool with its average moved by the blocks since the last epoch, or since the pool's first deposit."""
    since = max(row.since_block, subnets.tempo(context.state, netuid).last_step_block or 0)
    window = params.get(context.state, "stake_ema_blocks", netuid)
    return replace(row, ema_rao=step_average(row.ema_rao, row.value_rao, context.height - since, window))


def genesis_deposit(context: Context, netuid: int, hotkey: bytes, coldkey: bytes, amount_rao: int) -> None:
    """Active stake in genesis that votes at once; the money is minted here."""
    accounts.mint(context, amount_rao, "stake")
    reward(context, netuid, hotkey, coldkey, 0, amount_rao)
    row = pool(context.state, netuid, hotkey)
    POOLS.put(context.state, netuid, hotkey, value=replace(row, ema_rao=row.value_rao))
    sums = totals(context.state, netuid)
    TOTALS.put(context.state, netuid, value=replace(sums, consensus_rao=sums.consensus_rao + amount_rao))


# --- audit -------------------------------------------------------------------------------------------------------


@hooks.invariant("I2 stake totals")
def audit_totals(state: ReadState) -> Iterator[str]:
    """The totals of a subnet are the sums of its pools."""
    sums: dict[int, list[int]] = {}
    for (netuid, _), row in POOLS.items(state):
        held = sums.setdefault(netuid, [0, 0])
        held[0] += row.value_rao
        held[1] += row.pending_rao
    stated = {netuid: [row.value_rao, row.pending_rao] for (netuid,), row in TOTALS.items(state)}
    for netuid in sorted({**sums, **stated}):
        if sums.get(netuid, [0, 0]) != stated.get(netuid, [0, 0]):
            yield f"pools of subnet {netuid} hold {sums.get(netuid)}, totals say {stated.get(netuid)} (value, pending)"


@hooks.invariant("I7 shares have value")
def audit_shares(state: ReadState) -> Iterator[str]:
    """Shares and value are both zero or both positive; shares and pending deposits of coldkeys add up to the pool's."""
    for (netuid, hotkey), row in POOLS.items(state):
        place = f"pool ({netuid}, {hotkey.hex()[:8]})"
        if (row.shares == 0) != (row.value_rao == 0):
            yield f"{place} has {row.shares} shares and {row.value_rao} rao"
        untaken = list(RATIOS.items(state, netuid, hotkey))
        holders = [share for _, share in SHARES.items(state, netuid, hotkey)]
        held = sum(share.shares for share in holders) + sum(ratio.untaken_shares for _, ratio in untaken)
        pending = sum(share.pending_rao for share in holders)
        if held != row.shares:
            yield f"{place} has {row.shares} shares, its holders {held}"
        if pending != row.pending_rao + sum(ratio.untaken_rao for _, ratio in untaken):
            yield f"{place} has {row.pending_rao} rao pending, its holders {pending}"


@hooks.invariant("stake positions")
def audit_positions(state: ReadState) -> Iterator[str]:
    """The index by coldkey lists exactly the shares there are; stake stands on hotkeys that have an owner."""
    listed = sorted((netuid, hotkey, coldkey) for (coldkey, netuid, hotkey), _ in POSITIONS.items(state))
    if listed != [place for place, _ in SHARES.items(state)]:
        yield "the index of stake positions does not list the shares there are"
    for (netuid, hotkey), _ in POOLS.items(state):
        if hotkeys.owner_of(state, hotkey) is None:
            yield f"stake in subnet {netuid} on {hotkey.hex()}, which nobody owns"
