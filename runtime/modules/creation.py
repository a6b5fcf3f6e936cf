"""Creating and starting a subnet (2.7).

The price is a lock: it doubles with every creation and falls back over `network_lock_reduction_interval` blocks. Who pays
it owns the subnet and gets uid 0. Until the owner starts it the subnet has no emission and takes no stake. A netuid is
never given twice; at `subnet_limit` the creation fails (`evictions.py` has what can be done then).

Rules: NET-2 creation · NET-3 start
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger.codec import KEY, U16, U64, Text

from .. import params
from ..curves import DEFAULT_PRICE_RAO, block_emission_rao, subnet_lock_rao
from ..registry import Context, call, error, refuse
from ..tables import ReadState, Table
from . import accounts, hotkeys, neurons, subnets

MAX_NETUID: Final = (1 << 16) - 1


@dataclass(frozen=True)
class LastLock:
    """What the last subnet cost, and when it was created."""

    lock_rao: int
    block: int


LAST_LOCK = Table(32, "last_lock", LastLock)

error(32, "NetworkTxRateLimitExceeded", "a subnet was created too recently", "wait until the rate limit has passed")
error(33, "SubnetLimitReached", "there are as many subnets as the chain allows", "`quorix subnet challenge` bids for a slot")
error(34, "CannotAffordLockCost", "the lock costs more than max_lock or than the free balance", "raise max_lock")
error(35, "FirstEmissionBlockNumberAlreadySet", "the subnet has been started already")
error(36, "NeedWaitingMoreBlocksToStartCall", "the subnet is too young to be started", "wait for `start_call_delay`")


def lock_cost_rao(state: ReadState, block: int) -> int:
    """What creating a subnet costs in `block`."""
    last, least = LAST_LOCK.get(state), params.get(state, "network_min_lock_rao")
    emission_rao = block_emission_rao(
        accounts.issuance(state), params.get(state, "supply_cap"), params.get(state, "initial_block_emission")
    )
    return subnet_lock_rao(
        last.lock_rao if last else least, last.block if last else None, block, floor_rao=least,
        interval_blocks=params.get(state, "network_lock_reduction_interval"), emission_rao=emission_rao,
    )


@call(
    23, "subnets.register_network", {"hotkey": KEY, "max_lock_rao": U64, "name": Text(subnets.MAX_NAME_BYTES)}, work=60
)
def register_network(context: Context, hotkey: bytes, max_lock_rao: int, name: str) -> None:
    """Create a subnet owned by the signer, with the hotkey as its first neuron; it pays out once it is started."""
    check_creator(context, hotkey)
    netuid = next_netuid(context.state)
    if not has_room(context.state) or netuid > MAX_NETUID:
        refuse("SubnetLimitReached")
    lock_rao = pay_lock(context, hotkey, max_lock_rao)
    found(context, netuid, name, context.signer, hotkey, lock_rao)


def check_creator(context: Context, hotkey: bytes) -> None:
    """The signer may own the hotkey, and no subnet was created too recently."""
    if not hotkeys.may_own(context.state, hotkey, context.signer):
        refuse("NonAssociatedColdKey")
    last = LAST_LOCK.get(context.state)
    if last is not None and context.height - last.block < params.get(context.state, "network_rate_limit"):
        free_at = last.block + params.get(context.state, "network_rate_limit")
        refuse("NetworkTxRateLimitExceeded", f"the next can be created at height {free_at}")


def has_room(state: ReadState) -> bool:
    """True while there are fewer subnets than `subnet_limit`."""
    return len(subnets.netuids(state)) < params.get(state, "subnet_limit")


def next_netuid(state: ReadState) -> int:
    """The netuid of the next subnet: none is used twice."""
    return subnets.NETUID_COUNT.get(state) or 1


def pay_lock(context: Context, hotkey: bytes, max_lock_rao: int) -> int:
    """Take the price of a subnet from the signer, who gets the hotkey; returns it, for a row that holds a lock."""
    lock_rao = lock_cost_rao(context.state, context.height)
    if lock_rao > max_lock_rao:
        refuse("CannotAffordLockCost", lock_rao=lock_rao)
    accounts.debit(context, context.signer, lock_rao, "lock", error_name="CannotAffordLockCost")
    hotkeys.associate(context, hotkey, context.signer)
    LAST_LOCK.put(context.state, value=LastLock(lock_rao, context.height))
    return lock_rao


def found(context: Context, netuid: int, name: str, coldkey: bytes, hotkey: bytes, lock_rao: int) -> None:
    """Create a subnet that is paid for; its owner's hotkey is uid 0."""
    subnets.create(context, netuid, name, coldkey, hotkey, started_at=None, lock_rao=lock_rao)
    subnets.set_price(context, netuid, DEFAULT_PRICE_RAO)
    neurons.place(context, netuid, hotkey)
    context.events.append(neurons.NEURON_REGISTERED(netuid, 0, hotkey, 0, None))


@call(24, "subnets.start_call", {"netuid": U16}, work=10)
def start_call(context: Context, netuid: int) -> None:
    """Start the signer's subnet: it takes stake now, and emission from the next block on."""
    row = subnets.subnet(context.state, netuid)
    if row.owner_coldkey != context.signer:
        refuse("NotSubnetOwner")
    subnets.require_lasting(context.state, netuid)
    if row.started_at is not None:
        refuse("FirstEmissionBlockNumberAlreadySet")
    if context.height - row.registered_at < params.get(context.state, "start_call_delay"):
        ripe_at = row.registered_at + params.get(context.state, "start_call_delay")
        refuse("NeedWaitingMoreBlocksToStartCall", f"it can be started at height {ripe_at}")
    subnets.SUBNETS.put(context.state, netuid, value=replace(row, started_at=context.height + 1))
    context.events.append(subnets.NETWORK_STARTED(netuid, context.height + 1))
