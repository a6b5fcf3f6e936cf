"""Evictions: when all subnets are taken, a newcomer may challenge the weakest, and its owner is given notice (2.7).

    challenge   the subnet past its immunity with the least share of the emission (then the oldest) is given notice. The
                challenger pays the price of a new subnet, at once; it is held until the notice ends
    keep        within `eviction_notice_blocks` the owner may pay the same price: it goes into the subnet's lock, at once,
                the challenger gets its own back, and the subnet is immune as if it were new
    else        the subnet is dissolved as any other, and the challenger's is created with what it paid as its lock

Every challenge counts as a creation for the price and its rate limit, so that asking again and again gets dearer. If the
subnet goes for another reason the challenger gets the slot as well.

Rules: NET-4 challenges · NET-5 keeping a subnet · NET-6 eviction
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ledger.codec import KEY, U16, U64, Text

from .. import emission, hooks, params
from ..registry import Context, call, error, event, refuse
from ..tables import ReadState, Table, u16_field
from . import accounts, creation, dissolution, hotkeys, subnets


@dataclass(frozen=True)
class Challenge:
    """Who wants the slot, with which hotkey and name, what was paid, and the block in which the notice ends."""

    coldkey: bytes
    hotkey: bytes
    name: str
    price_rao: int
    ends_at: int


CHALLENGES = Table(135, "subnet_challenge", Challenge, u16_field("netuid"))
KEPT = Table(136, "subnet_kept", int, u16_field("netuid"))  # -> height at which its owner last paid to keep it

hooks.holding("lock", CHALLENGES, lambda row: row.price_rao)

CHALLENGED = event(32, "SubnetChallenged", "netuid", "coldkey", "price_rao", "ends_at")
KEPT_EVENT = event(33, "SubnetKept", "netuid", "price_rao")
EVICTED = event(34, "SubnetEvicted", "netuid", "coldkey", "new_netuid")

error(178, "SubnetSlotsFree", "there is room for another subnet", "use subnets.register_network")
error(179, "NotChallenged", "nobody has challenged this subnet")

NAME: Final = Text(subnets.MAX_NAME_BYTES)


# --- reads -------------------------------------------------------------------------------------------------------


def challenge_of(state: ReadState, netuid: int) -> Challenge | None:
    """The open challenge of a subnet, or None."""
    return CHALLENGES.get(state, netuid)


def weakest(state: ReadState, block: int) -> int | None:
    """The subnet that a challenge in `block` is about: least share of the emission, then earliest; None if all are safe."""
    shares, immune = emission.emission_shares(state), params.get(state, "network_immunity_period")
    ranked = []
    for netuid in subnets.netuids(state):
        row = subnets.subnet(state, netuid)
        safe_to = max(row.registered_at, KEPT.get(state, netuid) or 0) + immune
        if block >= safe_to and not subnets.is_dissolving(state, netuid) and CHALLENGES.get(state, netuid) is None:
            ranked.append((shares.get(netuid, 0), row.registered_at, netuid))
    return min(ranked)[2] if ranked else None


# --- calls -------------------------------------------------------------------------------------------------------


@call(29, "subnets.challenge", {"hotkey": KEY, "max_lock_rao": U64, "name": NAME}, work=120)
def challenge(context: Context, hotkey: bytes, max_lock_rao: int, name: str) -> None:
    """Give the weakest subnet notice, when there is no room for another, and pay the price of its slot now."""
    state = context.state
    creation.check_creator(context, hotkey)
    if creation.has_room(state):
        refuse("SubnetSlotsFree")
    netuid = weakest(state, context.height)
    if netuid is None:
        refuse("SubnetLimitReached", "every subnet is immune, or challenged already")
    price_rao = creation.pay_lock(context, hotkey, max_lock_rao)
    ends_at = context.height + params.get(state, "eviction_notice_blocks")
    CHALLENGES.put(state, netuid, value=Challenge(context.signer, hotkey, name, price_rao, ends_at))
    context.events.append(CHALLENGED(netuid, context.signer, price_rao, ends_at))


@call(30, "subnets.keep", {"netuid": U16}, work=20)
def keep(context: Context, netuid: int) -> None:
    """Keep the signer's challenged subnet: pay the challenger's price into its lock."""
    state, row = context.state, subnets.subnet(context.state, netuid)
    if netuid == params.ROOT_NETUID or row.owner_coldkey != context.signer:
        refuse("NotSubnetOwner", netuid=netuid)
    found = CHALLENGES.get(state, netuid)
    if found is None:
        refuse("NotChallenged", netuid=netuid)
    accounts.debit(context, context.signer, found.price_rao, "lock", error_name="CannotAffordLockCost")
    subnets.SUBNETS.put(state, netuid, value=replace(row, lock_rao=row.lock_rao + found.price_rao))
    CHALLENGES.delete(state, netuid)
    accounts.credit(context, found.coldkey, found.price_rao, "lock")
    KEPT.put(state, netuid, value=context.height)
    context.events.append(KEPT_EVENT(netuid, found.price_rao))


# --- the end of a notice -----------------------------------------------------------------------------------------


@hooks.begin_block(hooks.ORDER_CLEANUP)
def end_notices(context: Context) -> None:
    """Dissolve the subnets whose notice is over."""
    for (netuid,), row in list(CHALLENGES.items(context.state)):
        if context.height >= row.ends_at:
            dissolution.begin(context, netuid)


@hooks.subnet_ending
def take_over(context: Context, netuid: int) -> None:
    """Whoever challenged a subnet that ends gets a new one; if netuids are used up, the money back."""
    row = CHALLENGES.get(context.state, netuid)
    if row is None:
        return
    CHALLENGES.delete(context.state, netuid)
    fresh = creation.next_netuid(context.state)
    if fresh > creation.MAX_NETUID:
        accounts.credit(context, row.coldkey, row.price_rao, "lock")
        return
    creation.found(context, fresh, row.name, row.coldkey, row.hotkey, row.price_rao)
    context.events.append(EVICTED(netuid, row.coldkey, fresh))


@hooks.coldkey_swapped
def move_challenges(context: Context, old: bytes, new: bytes) -> int:
    """A challenge belongs to the account that paid it."""
    for (netuid,), row in list(CHALLENGES.items(context.state)):
        if row.coldkey == old:
            CHALLENGES.put(context.state, netuid, value=replace(row, coldkey=new))
    return 0


@hooks.invariant("challenges")
def audit(state: ReadState) -> Iterator[str]:
    """Only subnets that last are challenged, by coldkeys that own the hotkey they named."""
    for (netuid,), row in CHALLENGES.items(state):
        if not subnets.exists(state, netuid) or subnets.is_dissolving(state, netuid):
            yield f"subnet {netuid} is challenged but does not last"
        if hotkeys.owner_of(state, row.hotkey) != row.coldkey:
            yield f"the hotkey named in the challenge of subnet {netuid} belongs to another coldkey"
