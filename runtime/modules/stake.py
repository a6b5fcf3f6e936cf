"""Calls on stake: add, remove, move, transfer, withdraw, and the owner's take of dividends (3.2, 3.3).

Added, moved or transferred stake is pending until the subnet's next payout. Removed stake goes to the coldkey's list of
unbondings and is paid out on request once it has matured (`unbond_blocks`; 0 pays at once). A raise of a take acts one epoch
after it was announced, a decrease at once.

Rules: STK-5 unbonding · STK-6 moves and transfers · STK-9 takes · STK-10 amounts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.codec import KEY, U16

from .. import hooks, params
from ..registry import Context, call, error, event, refuse
from ..schedule import MAX_TEMPO_BLOCKS
from ..tables import ReadState, Table, key_field
from . import accounts, hotkeys, pools, subnets

DEFAULT_TAKE: Final = 11796  # u16 share, about 18 %
MAX_UNBONDINGS: Final = 64  # entries of one coldkey


@dataclass(frozen=True)
class Take:
    """The owner's part of a hotkey's dividends (u16 share); a raise announced in `announced_at`; the last change."""

    take: int
    next_take: int | None = None
    announced_at: int | None = None
    changed_at: int | None = None


UNBONDING = Table(45, "unbonding", list, key_field("coldkey"))  # [[matures at block, rao], ...]
TAKES = Table(46, "take", Take, key_field("hotkey"))

hooks.holding("unbonding", UNBONDING, lambda rows: sum(amount for _, amount in rows))

STAKE_ADDED = event(41, "StakeAdded", "coldkey", "hotkey", "netuid", "amount_rao")
STAKE_REMOVED = event(42, "StakeRemoved", "coldkey", "hotkey", "netuid", "amount_rao")
STAKE_MOVED = event(43, "StakeMoved", "coldkey", "from_hotkey", "from_netuid", "to_hotkey", "to_netuid", "amount_rao")
UNBOND_STARTED = event(44, "UnbondStarted", "coldkey", "amount_rao", "matures_at")
UNBOND_PAID = event(45, "UnbondPaid", "coldkey", "amount_rao")
TAKE_INCREASED = event(46, "TakeIncreased", "hotkey", "old", "new", "announced_at")
TAKE_DECREASED = event(47, "TakeDecreased", "hotkey", "old", "new")
STAKE_TRANSFERRED = event(52, "StakeTransferred", "coldkey", "to", "hotkey", "from_netuid", "to_netuid", "amount_rao")

error(40, "NotEnoughStakeToWithdraw", "the position is smaller than the amount", "see `quorix stake list`")
error(41, "StakeUnavailable", "too many removals of this coldkey are waiting", "withdraw those that have matured first")
error(42, "SubtokenDisabled", "the subnet has not started", "wait until its owner starts it")
error(43, "SameNetuid", "the stake is there already", "name another hotkey or another subnet")
error(44, "NothingToWithdraw", "no removed stake has matured", "wait until it matures")
error(45, "DelegateTakeTooLow", "the take is below the minimum, or a raise is not higher than the take it has")
error(46, "DelegateTakeTooHigh", "the take is above the maximum, or a decrease is not lower than the take it has")
error(180, "TransferDisallowed", "a subnet does not let stake change its coldkey", "remove the stake instead")
error(47, "DelegateTxRateLimitExceeded", "the take was changed too recently", "wait until the rate limit has passed")


# --- reads -------------------------------------------------------------------------------------------------------


def unbonding_rao(state: ReadState, coldkey: bytes) -> int:
    """All removed stake of a coldkey that has not been paid out."""
    return sum(amount for _, amount in UNBONDING.get(state, coldkey) or ())


def take_of(state: ReadState, hotkey: bytes) -> Take:
    """The take of a hotkey with its announced raise."""
    return TAKES.get(state, hotkey) or Take(min(DEFAULT_TAKE, params.get(state, "max_delegate_take")))


def take_at_payout(state: ReadState, hotkey: bytes, previous_epoch_block: int | None) -> int:
    """3.3: the take (u16 share) that a payout uses: a raise only if the subnet's previous epoch ran after it."""
    return in_force(take_of(state, hotkey), previous_epoch_block)


def in_force(row: Take, previous_epoch_block: int | None) -> int:
    """3.3: the take in a subnet whose previous epoch ran in that block."""
    if row.next_take is None or row.announced_at is None or previous_epoch_block is None:
        return row.take
    return row.next_take if previous_epoch_block >= row.announced_at else row.take


def raised(row: Take, take: int, height: int) -> Take:
    """A take with a raise announced now; a raise that some subnet has not reached yet is not made the base."""
    announced = row.take if row.next_take is None else row.next_take
    everywhere = row.announced_at is None or height - row.announced_at >= MAX_TEMPO_BLOCKS
    return Take(announced if everywhere else row.take, take, height, height)


def lowered(row: Take, take: int, height: int) -> Take:
    """A take lowered at once, an announced raise with it."""
    if take <= row.take:
        return Take(take, changed_at=height)
    return Take(row.take, take, row.announced_at, height)


def lower_of(one: Take, other: Take) -> Take:
    """The lower take of two, raises of both as late as the later one: for a hotkey that gets another one's stake."""
    take = min(one.take, other.take)
    final = min(row.take if row.next_take is None else row.next_take for row in (one, other))
    announced = [row.announced_at for row in (one, other) if row.announced_at is not None]
    changed = [row.changed_at for row in (one, other) if row.changed_at is not None]
    changed_at = max(changed) if changed else None
    return Take(take, final, max(announced), changed_at) if final > take and announced else Take(take, changed_at=changed_at)


def least_position_rao(state: ReadState, hotkey: bytes, coldkey: bytes) -> int:
    """The smallest position that may remain: of the hotkey's owner, or the larger one of a nominator."""
    least = params.get(state, "min_stake")
    if hotkeys.owner_of(state, hotkey) == coldkey:
        return least
    return max(least, params.get(state, "nominator_min_required_stake"))


# --- stake -------------------------------------------------------------------------------------------------------


@call(40, "stake.add", {"hotkey": KEY, "netuid": U16, "amount_rao": accounts.AMOUNT}, work=12)
def add(context: Context, hotkey: bytes, netuid: int, amount_rao: int | None) -> None:
    """Stake free balance on a hotkey in a subnet (0 is root); it is pending until the subnet's next payout."""
    amount = accounts.balance(context.state, context.signer) if amount_rao is None else amount_rao
    _require_open(context, netuid)
    _require_least(context, amount)
    accounts.debit(context, context.signer, amount, "stake")
    _deposit(context, hotkey, netuid, context.signer, amount)
    context.events.append(STAKE_ADDED(context.signer, hotkey, netuid, amount))


@call(41, "stake.remove", {"hotkey": KEY, "netuid": U16, "amount_rao": accounts.AMOUNT}, work=12)
def remove(context: Context, hotkey: bytes, netuid: int, amount_rao: int | None) -> None:
    """Take stake back, pending stake first; it is paid out after the subnet's unbonding time."""
    subnets.subnet(context.state, netuid)
    amount = _withdraw(context, hotkey, netuid, amount_rao)
    context.events.append(STAKE_REMOVED(context.signer, hotkey, netuid, amount))
    unbond(context, context.signer, amount, params.get(context.state, "unbond_blocks", netuid), limited=True)


@call(
    42, "stake.move",
    {"from_hotkey": KEY, "to_hotkey": KEY, "from_netuid": U16, "to_netuid": U16, "amount_rao": accounts.AMOUNT}, work=20,
)
def move(
    context: Context, from_hotkey: bytes, to_hotkey: bytes, from_netuid: int, to_netuid: int, amount_rao: int | None
) -> None:
    """Move stake to another hotkey or subnet: a removal and a pending deposit, without unbonding."""
    if (from_hotkey, from_netuid) == (to_hotkey, to_netuid):
        refuse("SameNetuid")
    subnets.subnet(context.state, from_netuid)
    _require_open(context, to_netuid)
    amount = _withdraw(context, from_hotkey, from_netuid, amount_rao)
    _require_least(context, amount)
    _deposit(context, to_hotkey, to_netuid, context.signer, amount)
    context.events.append(STAKE_MOVED(context.signer, from_hotkey, from_netuid, to_hotkey, to_netuid, amount))


@call(
    48, "stake.transfer", {"to": KEY, "hotkey": KEY, "from_netuid": U16, "to_netuid": U16, "amount_rao": accounts.AMOUNT},
    work=20,
)
def transfer(
    context: Context, to: bytes, hotkey: bytes, from_netuid: int, to_netuid: int, amount_rao: int | None
) -> None:
    """Give stake on a hotkey to another coldkey: a removal and a pending deposit of `to`, without unbonding."""
    accounts.require_valid_key(to)
    if to == context.signer:
        refuse("SameNetuid", "the stake belongs to this coldkey already")
    subnets.subnet(context.state, from_netuid)
    _require_open(context, to_netuid)
    for netuid in (from_netuid, to_netuid):
        if not params.is_on(context.state, "transfer_toggle", netuid):
            refuse("TransferDisallowed", netuid=netuid)
    amount = _withdraw(context, hotkey, from_netuid, amount_rao)
    _require_least(context, amount)
    _deposit(context, hotkey, to_netuid, to, amount)
    context.events.append(STAKE_TRANSFERRED(context.signer, to, hotkey, from_netuid, to_netuid, amount))


@call(43, "stake.withdraw_unbonded", {}, work=10)
def withdraw_unbonded(context: Context) -> None:
    """Pay out all removed stake that has matured."""
    rows = UNBONDING.get(context.state, context.signer) or []
    amount = sum(rao for matures_at, rao in rows if matures_at <= context.height)
    if not amount:
        refuse("NothingToWithdraw", f"the next matures at height {min(at for at, _ in rows)}" if rows else "")
    waiting = [row for row in rows if row[0] > context.height]
    if waiting:
        UNBONDING.put(context.state, context.signer, value=waiting)
    else:
        UNBONDING.delete(context.state, context.signer)
    _pay_out(context, context.signer, amount, "unbonding")


def _require_open(context: Context, netuid: int) -> None:
    if subnets.subnet(context.state, netuid).started_at is None:
        refuse("SubtokenDisabled")


def _require_least(context: Context, amount_rao: int) -> None:
    least = params.get(context.state, "min_stake")
    if amount_rao < least:
        refuse("AmountTooLow", minimum_rao=least)


def _deposit(context: Context, hotkey: bytes, netuid: int, coldkey: bytes, amount_rao: int) -> None:
    """Pending deposit of a coldkey, which leaves a position of the least size."""
    state = context.state
    if hotkeys.owner_of(state, hotkey) is None:
        refuse("HotKeyAccountNotExists")
    active, pending = pools.position(state, netuid, hotkey, coldkey)
    least = least_position_rao(state, hotkey, coldkey)
    if active + pending + amount_rao < least:
        refuse("AmountTooLow", f"a position on this hotkey has at least {least} rao", minimum_rao=least)
    pools.deposit(context, netuid, hotkey, coldkey, amount_rao)


def _withdraw(context: Context, hotkey: bytes, netuid: int, amount_rao: int | None) -> int:
    if amount_rao == 0:
        refuse("AmountTooLow")
    least = least_position_rao(context.state, hotkey, context.signer)
    return pools.withdraw(context, netuid, hotkey, context.signer, amount_rao, least)


def unbond(context: Context, coldkey: bytes, amount_rao: int, blocks: int, *, limited: bool = False) -> None:
    """Put removed stake on a coldkey's list, or pay it at once if there is no waiting time, or no room on the list.

    `limited`: refuse if there is no room.
    """
    if blocks == 0:
        _pay_out(context, coldkey, amount_rao, "stake")
        return
    rows = list(UNBONDING.get(context.state, coldkey) or [])
    matures_at = context.height + blocks
    same = [i for i, row in enumerate(rows) if row[0] == matures_at]
    if same:
        rows[same[0]] = [matures_at, rows[same[0]][1] + amount_rao]
    elif len(rows) >= MAX_UNBONDINGS and limited:
        refuse("StakeUnavailable", limit=MAX_UNBONDINGS)
    elif len(rows) >= MAX_UNBONDINGS:
        _pay_out(context, coldkey, amount_rao, "stake")
        return
    else:
        rows.append([matures_at, amount_rao])
    UNBONDING.put(context.state, coldkey, value=rows)
    context.events.append(UNBOND_STARTED(coldkey, amount_rao, matures_at))


def _pay_out(context: Context, coldkey: bytes, amount_rao: int, source: str) -> None:
    accounts.credit(context, coldkey, amount_rao, source)
    context.events.append(UNBOND_PAID(coldkey, amount_rao))


# --- takes -------------------------------------------------------------------------------------------------------


def _take_is_free(context: Context, hotkey: bytes, take: int) -> bool:
    """Changing a take costs no fee once per rate limit, to its owner."""
    return hotkeys.owner_of(context.state, hotkey) == context.signer and not _changed_recently(context, hotkey)


def _changed_recently(context: Context, hotkey: bytes) -> bool:
    changed_at = take_of(context.state, hotkey).changed_at
    limit = params.get(context.state, "delegate_take_rate_limit")
    return changed_at is not None and context.height - changed_at < limit


@call(44, "stake.increase_take", {"hotkey": KEY, "take": U16}, work=5, free=_take_is_free)
def increase_take(context: Context, hotkey: bytes, take: int) -> None:
    """Announce a higher take of dividends; it acts in a subnet from the payout after its next epoch."""
    hotkeys.require_owner(context, hotkey)
    row = take_of(context.state, hotkey)
    announced = row.take if row.next_take is None else row.next_take
    if take > params.get(context.state, "max_delegate_take"):
        most = params.get(context.state, "max_delegate_take")
        refuse("DelegateTakeTooHigh", f"the most is {most} of 65535, {(200 * most + 65535) // 131070} %")
    if take <= announced or take < params.get(context.state, "min_delegate_take"):
        refuse("DelegateTakeTooLow", take=announced)
    if _changed_recently(context, hotkey):
        free_at = (row.changed_at or 0) + params.get(context.state, "delegate_take_rate_limit")
        refuse("DelegateTxRateLimitExceeded", f"it can be raised again at height {free_at}")
    TAKES.put(context.state, hotkey, value=raised(row, take, context.height))
    context.events.append(TAKE_INCREASED(hotkey, announced, take, context.height))


@call(45, "stake.decrease_take", {"hotkey": KEY, "take": U16}, work=5, free=_take_is_free)
def decrease_take(context: Context, hotkey: bytes, take: int) -> None:
    """Lower the take of dividends at once; an announced raise is lowered with it."""
    hotkeys.require_owner(context, hotkey)
    row = take_of(context.state, hotkey)
    announced = row.take if row.next_take is None else row.next_take
    if take < params.get(context.state, "min_delegate_take"):
        least = params.get(context.state, "min_delegate_take")
        refuse("DelegateTakeTooLow", f"the least is {least} of 65535")
    if take >= announced:
        refuse("DelegateTakeTooHigh", take=announced)
    TAKES.put(context.state, hotkey, value=lowered(row, take, context.height))
    context.events.append(TAKE_DECREASED(hotkey, announced, take))


@hooks.hotkey_swapped
def copy_take(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """The new hotkey has the old one's take, or its own if that is lower: a swap is no way around the limits of either."""
    row, own = TAKES.get(context.state, old), TAKES.get(context.state, new)
    if row is not None:
        TAKES.put(context.state, new, value=row if own is None else lower_of(row, own))


@hooks.coldkey_swapped
def move_unbondings(context: Context, old: bytes, new: bytes) -> int:
    """Removed stake waits for the new key. Where both lists are too long for one, what is due first waits longer."""
    state, waiting = context.state, dict[int, int]()
    for matures_at, amount_rao in [*(UNBONDING.get(state, old) or ()), *(UNBONDING.get(state, new) or ())]:
        waiting[matures_at] = waiting.get(matures_at, 0) + amount_rao
    rows = [[matures_at, waiting[matures_at]] for matures_at in sorted(waiting)]
    while len(rows) > MAX_UNBONDINGS:
        rows[1][1] += rows.pop(0)[1]
    UNBONDING.delete(state, old)
    if rows:
        UNBONDING.put(state, new, value=rows)
    return 0


@hooks.invariant("removed stake")
def audit(state: ReadState) -> Iterator[str]:
    """Lists of removed stake are within their limit, without zeros; takes belong to hotkeys that have an owner."""
    for (coldkey,), rows in UNBONDING.items(state):
        if not 0 < len(rows) <= MAX_UNBONDINGS or min(amount for _, amount in rows) <= 0:
            yield f"the removed stake of {coldkey.hex()} is {rows[:3]}... in {len(rows)} entries"
    for (hotkey,), _ in TAKES.items(state):
        if hotkeys.owner_of(state, hotkey) is None:
            yield f"{hotkey.hex()} has a take and no owner"


def genesis_stake(context: Context, hotkey: bytes, netuid: int, coldkey: bytes, amount_rao: int) -> None:
    """Stake in genesis: active, and voting at once. The money is minted here, not taken from an account."""
    assert hotkeys.owner_of(context.state, hotkey) is not None, "register the hotkey before staking on it"
    pools.genesis_deposit(context, netuid, hotkey, coldkey, amount_rao)
