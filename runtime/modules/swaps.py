"""Hotkey swaps: a coldkey gives a neuron another hotkey, in one subnet or everywhere (5.4).

Everything that stands under the hotkey moves: uid, stake of all coldkeys, averages, take, children and parents, serving
record, receipts, commitments. So nothing of that may stand under the new one there, but its take elsewhere: the lower counts.
The uid and the block of its registration stay, so a swap renews no immunity. What the old hotkey committed to and has not
revealed cannot be revealed by the new one: reveal first. Each module moves its own rows (`hooks.hotkey_swapped`).

Rules: KEY-3 hotkey swap · KEY-4 limits of hotkey swaps
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from ledger.codec import KEY, U16, Optional

from .. import hooks, params
from ..params import ROOT_NETUID, Q
from ..registry import Context, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field
from . import accounts, children, hotkeys, neurons, pools, subnets

COST_EVERYWHERE_RAO: Final = Q // 10  # recycled
COST_ONE_RAO: Final = Q // 1000
SUBNET_COOLDOWN_BLOCKS: Final = 7200
MAX_POSITIONS: Final = 1000  # stake positions that one swap moves


SWAPPED = Table(124, "hotkey_swapped", int, key_field("coldkey"))  # -> height of its last swap
SWAPPED_IN = Table(125, "hotkey_swapped_in", int, u16_field("netuid"), key_field("hotkey"))  # the new one -> height

HOTKEY_SWAPPED = event(122, "HotkeySwapped", "coldkey", "old_hotkey", "new_hotkey", "netuid")

error(122, "NewHotKeyIsSameWithOld", "the new hotkey is the old one")
error(123, "HotKeySetTxRateLimitExceeded", "this coldkey swapped a hotkey too recently", "wait until the rate limit has passed")
error(124, "HotKeySwapOnSubnetIntervalNotPassed", "this neuron's hotkey was swapped too recently", "wait")
error(125, "NotEnoughBalanceToPaySwap", "the free balance is below the cost of a swap", "top the account up")
error(126, "NewHotKeyInUse", "the new hotkey is registered there, or has stake, children or parents", "use a fresh hotkey")
error(127, "NothingToSwap", "the old hotkey has neither a uid nor stake there")
error(128, "TooManyPositions", f"more than {MAX_POSITIONS} stake positions would move", "swap subnet by subnet")


@call(122, "keyring.swap_hotkey", {"old_hotkey": KEY, "new_hotkey": KEY, "netuid": Optional(U16)}, work=2000)
def swap_hotkey(context: Context, old_hotkey: bytes, new_hotkey: bytes, netuid: int | None) -> None:
    """Replace a hotkey of the signer by another one in one subnet, or (none) everywhere."""
    _check(context, old_hotkey, new_hotkey)
    where = _places(context.state, old_hotkey, netuid)
    if not where:
        refuse("NothingToSwap")
    for place in where:
        _check_place(context, old_hotkey, new_hotkey, place)
    positions = (entry for place in where for entry in pools.SHARES.items(context.state, place, old_hotkey))
    if sum(1 for _ in islice(positions, MAX_POSITIONS + 1)) > MAX_POSITIONS:
        refuse("TooManyPositions")
    cost_rao = COST_EVERYWHERE_RAO if netuid is None else COST_ONE_RAO
    accounts.burn(context, context.signer, cost_rao, "hotkey swap", error_name="NotEnoughBalanceToPaySwap")
    hotkeys.associate(context, new_hotkey, context.signer)
    for place in where:
        hooks.run_hotkey_swapped(context, place, old_hotkey, new_hotkey)
        SWAPPED_IN.delete(context.state, place, old_hotkey)
        SWAPPED_IN.put(context.state, place, new_hotkey, value=context.height)
    SWAPPED.put(context.state, context.signer, value=context.height)
    context.events.append(HOTKEY_SWAPPED(context.signer, old_hotkey, new_hotkey, netuid))


def _check(context: Context, old_hotkey: bytes, new_hotkey: bytes) -> None:
    state = context.state
    if old_hotkey == new_hotkey:
        refuse("NewHotKeyIsSameWithOld")
    hotkeys.require_owner(context, old_hotkey)
    if not hotkeys.may_own(state, new_hotkey, context.signer):
        refuse("NonAssociatedColdKey")
    swapped_at, wait = SWAPPED.get(state, context.signer), params.get(state, "tx_rate_limit")
    if swapped_at is not None and context.height - swapped_at < wait:
        refuse("HotKeySetTxRateLimitExceeded", f"the next swap can be made at height {swapped_at + wait}")


def _places(state: ReadState, hotkey: bytes, netuid: int | None) -> list[int]:
    """Subnets, root included, in which the hotkey has a uid or stake."""
    if netuid is not None:
        subnets.subnet(state, netuid)
    wanted = [ROOT_NETUID, *subnets.netuids(state)] if netuid is None else [netuid]
    return [
        place for place in wanted
        if neurons.uid_of(state, place, hotkey) is not None or pools.POOLS.get(state, place, hotkey) is not None
    ]


def _check_place(context: Context, old_hotkey: bytes, new_hotkey: bytes, netuid: int) -> None:
    state = context.state
    held = pools.POOLS.get(state, netuid, new_hotkey) is not None or children.has_relations(state, netuid, new_hotkey)
    if held or neurons.uid_of(state, netuid, new_hotkey) is not None:
        refuse("NewHotKeyInUse", netuid=netuid)
    swapped_at = SWAPPED_IN.get(state, netuid, old_hotkey)
    if swapped_at is not None and context.height - swapped_at < SUBNET_COOLDOWN_BLOCKS:
        refuse("HotKeySwapOnSubnetIntervalNotPassed", netuid=netuid)


@hooks.coldkey_swapped
def move_swapped_at(context: Context, old: bytes, new: bytes) -> int:
    """A new coldkey is no way around the rate limit."""
    SWAPPED.move(context.state, (old,), (new,))
    return 0


@hooks.neuron_removed
def forget_swap(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """The waiting time is a neuron's."""
    SWAPPED_IN.delete(context.state, netuid, hotkey)
