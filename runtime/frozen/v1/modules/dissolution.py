"""Dissolving a subnet (2.7): its owner after the immunity period, or root at any time.

From that block on the subnet has no emission, takes no stake and no neurons, and runs no epoch; its pots are recycled and its
share of the emission goes to the others. What people have in it is given back bit by bit, a bounded number of rows a block:
neurons leave with the whole rest of their bonds, stake goes to the unbondings of its coldkeys. When nothing is left the
record goes, and the lock is returned but for a tenth. The netuid is never used again.

Rules: NET-7 dissolution · NET-8 return of the lock
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from ledger.codec import U16

from .. import hooks, params
from ..params import ROOT_NETUID
from ..registry import Context, Origin, call, error, event, refuse
from ..tables import Table
from . import accounts, children, neurons, pools, registration, stake, subnets

ROWS_PER_BLOCK: Final = 100
RECYCLED_PARTS: Final = 10  # one of so many parts of the lock is not returned
LAST_ROWS: Final = ("subnet", "tempo", "registration_price", "scores", "subnet_param", "dissolving")  # go with the record

DISSOLVING_EVENT = event(30, "NetworkDissolving", "netuid")
NETWORK_REMOVED = event(31, "NetworkRemoved", "netuid", "returned_rao")

error(38, "SubnetImmune", "a subnet is not dissolved before `network_immunity_period`", "wait")


@call(28, "subnets.dissolve", {"netuid": U16}, work=200)
def dissolve(context: Context, netuid: int) -> None:
    """End a subnet: everything in it is returned over the next blocks; by its owner, or by root."""
    state, row = context.state, subnets.subnet(context.state, netuid)
    subnets.require_lasting(state, netuid)
    by_root = context.origin is Origin.ROOT
    if netuid == ROOT_NETUID or not (by_root or row.owner_coldkey == context.signer):
        refuse("NotSubnetOwner", netuid=netuid)
    immune_to = row.registered_at + params.get(state, "network_immunity_period")
    if not by_root and context.height < immune_to:
        refuse("SubnetImmune", f"it can be dissolved at height {immune_to}")
    begin(context, netuid)


def begin(context: Context, netuid: int) -> None:
    """From now on the subnet ends."""
    subnets.stop(context, netuid)
    hooks.run_subnet_ending(context, netuid)
    context.events.append(DISSOLVING_EVENT(netuid))


@hooks.begin_block(hooks.ORDER_CLEANUP)
def proceed(context: Context) -> None:
    """Take the next step for the first subnet that is being dissolved."""
    ending = next(subnets.DISSOLVING.items(context.state), None)
    if ending is None:
        return
    (netuid,), _ = ending
    for step in (release_neurons, return_stake, children.end_relations, sweep):
        if step(context, netuid, ROWS_PER_BLOCK):
            return
    _remove(context, netuid)


def release_neurons(context: Context, netuid: int, limit: int) -> int:
    """Free uids, each with the whole rest of its bond. Returns how many there were to free, at most `limit`."""
    held = list(islice(neurons.NEURONS.items(context.state, netuid), limit))
    for (_, uid), row in held:
        registration.release_bond(context, netuid, uid)
        neurons.remove(context, netuid, uid)
        context.events.append(neurons.NEURON_UNREGISTERED(netuid, uid, row.hotkey))
    return len(held)


def return_stake(context: Context, netuid: int, limit: int) -> int:
    """Close stake positions: their money is removed stake now, and waits like any other."""
    held = list(islice(pools.SHARES.items(context.state, netuid), limit))
    blocks = params.get(context.state, "unbond_blocks", netuid)
    for (_, hotkey, coldkey), _ in held:
        amount = pools.close_position(context, netuid, hotkey, coldkey)
        if amount:
            stake.unbond(context, coldkey, amount, blocks)
            context.events.append(stake.STAKE_REMOVED(coldkey, hotkey, netuid, amount))
    return len(held)


def sweep(context: Context, netuid: int, limit: int) -> int:
    """Delete what else is stored under the netuid, in any module's table."""
    deleted = 0
    for number in sorted(Table.registry):
        table = Table.registry[number]
        if table.name in LAST_ROWS or not table.fields or table.fields[0].name != "netuid":
            continue
        for parts, _ in list(islice(table.items(context.state, netuid), limit - deleted)):
            table.delete(context.state, *parts)
            deleted += 1
    return deleted


def _remove(context: Context, netuid: int) -> None:
    row = subnets.subnet(context.state, netuid)
    kept = row.lock_rao // RECYCLED_PARTS
    subnets.forget(context, netuid)
    neurons.SCORES.delete(context.state, netuid)
    params.forget(context, netuid)
    accounts.recycle(context, kept, "lock", "lock of a dissolved subnet")
    if row.lock_rao:
        accounts.credit(context, row.owner_coldkey, row.lock_rao - kept, "lock")
    context.events.append(NETWORK_REMOVED(netuid, row.lock_rao - kept))
