"""Subnets: their records, when their epochs run (1.1), and what a registration costs (2.1).

A subnet is one market: neurons under uids, a registration price, parameters, a tempo and pots that fill block by block
and are paid at its epochs. Netuid 0 is root: its members vote on the subnets' shares of emission, its epochs pay root
dividends. A netuid is never used twice.

Rules: NET-10 records of a subnet
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from .. import hooks, params
from ..curves import DEFAULT_PRICE_RAO, bumped_price_rao, decay_factor_q32, decayed_price_rao
from ..fixed import clamp
from ..params import ROOT_NETUID, Value
from ..registry import Context, error, event, refuse
from ..schedule import blocks_until_epoch, epoch_due, first_epoch_anchor
from ..tables import ReadState, Table, u16_field
from . import hotkeys

MAX_NAME_BYTES: Final = 64


@dataclass(frozen=True)
class Subnet:
    """A subnet. `n` uids are in use, 0..n-1, of which those in `vacant` (ascending) wait for a new neuron."""

    name: str
    owner_coldkey: bytes
    owner_hotkey: bytes
    registered_at: int
    started_at: int | None  # first block with emission; None before the start
    n: int
    vacant: list[int]
    lock_rao: int  # paid for the creation, returned at dissolution


@dataclass(frozen=True)
class Tempo:
    """When a subnet's epochs run. `epoch_index` is the running epoch: commits and receipts name it."""

    last_epoch_block: int
    pending_at: int | None  # block to which a due epoch was deferred
    epoch_index: int
    last_step_block: int | None  # block of the last epoch that ran; None before the first


@dataclass(frozen=True)
class Price:
    """The registration price as it was set in `block`; it decays by `factor_q32` per block since."""

    price_rao: int
    block: int
    factor_q32: int


@dataclass(frozen=True)
class NextEpoch:
    """The running epoch of a subnet and the blocks to its end; `blocks_left` is None if its tempo is 0."""

    index: int
    last_epoch_block: int
    blocks_left: int | None


SUBNETS = Table(22, "subnet", Subnet, u16_field("netuid"))
TEMPOS = Table(23, "tempo", Tempo, u16_field("netuid"))
PRICES = Table(24, "registration_price", Price, u16_field("netuid"))
DISSOLVING = Table(34, "dissolving", int, u16_field("netuid"))  # -> height since when
NETUID_COUNT = Table(25, "netuid_count", int)  # netuids ever given out, root included

hooks.holding("lock", SUBNETS, lambda subnet: subnet.lock_rao)

NETWORK_ADDED = event(20, "NetworkAdded", "netuid", "owner_coldkey", "owner_hotkey")
NETWORK_STARTED = event(21, "NetworkStarted", "netuid", "first_block")

error(39, "SubnetDissolving", "the subnet is being dissolved")
error(22, "SubnetNotExists", "there is no subnet with this netuid", "see `quorix subnet list`")


# --- reads -------------------------------------------------------------------------------------------------------


def subnet(state: ReadState, netuid: int) -> Subnet:
    """The record of a subnet; refuses SubnetNotExists."""
    row = SUBNETS.get(state, netuid)
    if row is None:
        refuse("SubnetNotExists", f"there is no subnet {netuid}", netuid=netuid)
    return row


def exists(state: ReadState, netuid: int) -> bool:
    """True if there is a subnet with this netuid."""
    return SUBNETS.get(state, netuid) is not None


def is_dissolving(state: ReadState, netuid: int) -> bool:
    """True while what is in a subnet is being returned."""
    return DISSOLVING.get(state, netuid) is not None


def require_lasting(state: ReadState, netuid: int) -> None:
    """Refuse for a subnet that is being dissolved."""
    if is_dissolving(state, netuid):
        refuse("SubnetDissolving", netuid=netuid)


def tempo(state: ReadState, netuid: int) -> Tempo:
    """The epoch state of an existing subnet."""
    row = TEMPOS.get(state, netuid)
    assert row is not None, f"subnet {netuid} has no tempo"
    return row


def netuids(state: ReadState) -> list[int]:
    """All subnets but root, ascending."""
    return [netuid for (netuid,), _ in SUBNETS.items(state) if netuid != ROOT_NETUID]


def started(state: ReadState) -> list[int]:
    """Subnets that receive emission in this block, ascending."""
    return [
        netuid for (netuid,), row in SUBNETS.items(state) if netuid != ROOT_NETUID and row.started_at is not None
    ]


def occupied_uids(row: Subnet) -> Iterator[int]:
    """Uids that have a neuron, ascending."""
    vacant = dict.fromkeys(row.vacant)
    return (uid for uid in range(row.n) if uid not in vacant)


def epoch_is_due(state: ReadState, netuid: int, block: int) -> bool:
    """True if the subnet's epoch has to run at the start of `block`."""
    row = tempo(state, netuid)
    return epoch_due(
        block, tempo=params.get(state, "tempo", netuid), last_epoch_block=row.last_epoch_block,
        pending_at=row.pending_at, blocks_since_last_step=block - (row.last_step_block or row.last_epoch_block),
    )


def next_epoch(state: ReadState, netuid: int, block: int) -> NextEpoch:
    """The running epoch as seen after `block`: with `blocks_left` 1 it ends at the start of the next block."""
    row = tempo(state, netuid)
    left = blocks_until_epoch(block, tempo=params.get(state, "tempo", netuid), last_epoch_block=row.last_epoch_block)
    return NextEpoch(row.epoch_index, row.last_epoch_block, None if left is None else max(left, 1))


# --- writes ------------------------------------------------------------------------------------------------------


def create(
    context: Context, netuid: int, name: str, owner_coldkey: bytes, owner_hotkey: bytes, *, started_at: int | None,
    lock_rao: int = 0,
) -> None:
    """Write the records of a new subnet. Its parameters are set already: the tempo staggers the first epoch."""
    assert SUBNETS.get(context.state, netuid) is None, f"netuid {netuid} exists"
    assert len(name.encode()) <= MAX_NAME_BYTES
    SUBNETS.put(context.state, netuid, value=Subnet(
        name, owner_coldkey, owner_hotkey, context.height, started_at, n=0, vacant=[], lock_rao=lock_rao,
    ))
    anchor = max(0, first_epoch_anchor(context.height, netuid, params.get(context.state, "tempo", netuid)))
    TEMPOS.put(context.state, netuid, value=Tempo(anchor, None, 0, None))
    NETUID_COUNT.put(context.state, value=max(NETUID_COUNT.get(context.state) or 0, netuid + 1))
    context.events.append(NETWORK_ADDED(netuid, owner_coldkey, owner_hotkey))


def genesis_create(
    context: Context, netuid: int, name: str, owner_coldkey: bytes, owner_hotkey: bytes, values: Mapping[str, Value], *,
    started: bool = True, price_rao: int = DEFAULT_PRICE_RAO,
) -> None:
    """Create a subnet in genesis with its parameters, and associate its owner's hotkey. Root (netuid 0) comes first.

    Root has no owner: its keys are 32 zero bytes. The hotkey is not registered; that is `neurons.genesis_register`.
    """
    assert netuid == ROOT_NETUID or SUBNETS.get(context.state, ROOT_NETUID), "create root first"
    params.put_many(context, dict(values), netuid)
    if netuid != ROOT_NETUID:
        assert hotkeys.may_own(context.state, owner_hotkey, owner_coldkey), "the owner's hotkey is another coldkey's"
        hotkeys.associate(context, owner_hotkey, owner_coldkey)
    create(context, netuid, name, owner_coldkey, owner_hotkey, started_at=context.height if started else None)
    set_price(context, netuid, price_rao)


@hooks.coldkey_swapped
def move_subnets(context: Context, old: bytes, new: bytes) -> int:
    """Subnets of a coldkey get another owner."""
    for (netuid,), row in list(SUBNETS.items(context.state)):
        if row.owner_coldkey == old:
            SUBNETS.put(context.state, netuid, value=replace(row, owner_coldkey=new))
    return 0


def stop(context: Context, netuid: int) -> None:
    """Begin to dissolve a subnet: it is not started any more."""
    SUBNETS.put(context.state, netuid, value=replace(subnet(context.state, netuid), started_at=None))
    DISSOLVING.put(context.state, netuid, value=context.height)


def forget(context: Context, netuid: int) -> None:
    """Drop the records of a dissolved subnet; the caller gives the money of its lock a new place."""
    for table in (SUBNETS, TEMPOS, PRICES, DISSOLVING):
        table.delete(context.state, netuid)


def defer_epoch(context: Context, netuid: int) -> None:
    """Try the due epoch again in the next block."""
    TEMPOS.put(context.state, netuid, value=replace(tempo(context.state, netuid), pending_at=context.height + 1))


def close_epoch(context: Context, netuid: int) -> None:
    """Begin the next epoch: the one that was running has been paid in this block."""
    row = tempo(context.state, netuid)
    TEMPOS.put(context.state, netuid, value=Tempo(context.height, None, row.epoch_index + 1, context.height))


# --- registration price (2.1) ------------------------------------------------------------------------------------


def registration_price_rao(state: ReadState, netuid: int, block: int) -> int:
    """What a registration costs in `block`: the price last set, decayed by its half-life, within its bounds."""
    price = PRICES.get(state, netuid)
    assert price is not None, f"subnet {netuid} has no price"
    return decayed_price_rao(price.price_rao, price.factor_q32, block - price.block, *price_bounds(state, netuid))


def price_bounds(state: ReadState, netuid: int) -> tuple[int, int]:
    """Lowest and highest registration price (rao)."""
    return params.get(state, "min_burn_rao", netuid), params.get(state, "max_burn_rao", netuid)


def set_price(context: Context, netuid: int, price_rao: int) -> None:
    """Start the decay anew from `price_rao` (moved into its bounds) with the half-life of now."""
    price_rao = clamp(price_rao, *price_bounds(context.state, netuid))
    factor_q32 = decay_factor_q32(params.get(context.state, "burn_half_life", netuid))
    PRICES.put(context.state, netuid, value=Price(price_rao, context.height, factor_q32))


def bump_price(context: Context, netuid: int, registrations: int) -> None:
    """Each registration multiplies the price."""
    price_rao = registration_price_rao(context.state, netuid, context.height)
    bump_ppm = params.get(context.state, "burn_increase_ppm", netuid)
    bounds = price_bounds(context.state, netuid)
    set_price(context, netuid, bumped_price_rao(price_rao, bump_ppm, registrations, *bounds))


@hooks.param_changed("burn_half_life")
def restart_decay(context: Context, netuid: int) -> None:
    """The price decays by the old half-life up to this block and by the new one from here."""
    if PRICES.get(context.state, netuid) is not None:
        set_price(context, netuid, registration_price_rao(context.state, netuid, context.height))


# --- audit -------------------------------------------------------------------------------------------------------


@hooks.invariant("records of subnets")
def audit(state: ReadState) -> Iterator[str]:
    """Every subnet has a tempo and a price, nothing else has; its owner owns the hotkey it names; netuids are counted."""
    rows = {netuid: row for (netuid,), row in SUBNETS.items(state)}
    for table in (TEMPOS, PRICES):
        held = [netuid for (netuid,), _ in table.items(state)]
        if held != list(rows):
            yield f"subnets are {list(rows)}, but {table.name} has {held}"
    for netuid, row in rows.items():
        if netuid != ROOT_NETUID and hotkeys.owner_of(state, row.owner_hotkey) != row.owner_coldkey:
            yield f"the hotkey that the owner of subnet {netuid} names belongs to somebody else"
    if rows and max(rows) >= (NETUID_COUNT.get(state) or 0):
        yield f"netuid {max(rows)} was not counted"
