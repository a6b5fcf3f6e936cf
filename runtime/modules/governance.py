"""Governance: who may set which parameter, and the sudo key of devnets.

The sudo key, named in genesis and possibly nobody's, runs calls with root origin. A subnet's owner sets the parameters
that the table gives to owners, within the owner's bounds; not in the last blocks before an epoch (validators have committed
weights by the old rules), and each parameter only once in two tempos. Root is bound by neither. Every change emits the old
and the new value.

Rules: PAR-2 what owners may set and when · GOV-1 sudo
"""

from __future__ import annotations

from typing import Any, Final

from ledger.codec import BOOL, KEY, U16, Int, OneOf, Optional, Text

from .. import dispatch, hooks, params
from ..registry import Context, Origin, Priority, call, error, event, refuse
from ..tables import ReadState, Table, u16_field
from . import accounts, subnets

VALUE: Final = OneOf(BOOL, Int(-(1 << 31), (1 << 64) - 1, "integer"))
NAME: Final = Text(64)

SUDO = Table(112, "sudo", bytes)
OWNER_CHANGED_AT = Table(113, "owner_param_changed", int, u16_field("netuid"), u16_field("number"))  # -> height

SUDO_DONE = event(111, "SudoDone", "call")
SUDO_CHANGED = event(112, "SudoChanged", "old", "new")

error(
    112, "RequireSudo", "the call needs the sudo key or an enacted proposal",
    "`quorix governance propose`, or `quorix governance sudo` with the sudo key",
)
error(113, "NotSubnetOwner", "the signer does not own the subnet")
error(114, "AdminActionProhibitedDuringWeightsWindow", "owners change nothing shortly before an epoch",
      "try again after the epoch")
error(115, "TxRateLimitExceeded", "the same thing was done too recently", "wait")


def sudo_key(state: ReadState) -> bytes | None:
    """The key that may call with root origin, or None."""
    return SUDO.get(state)


def genesis_sudo(context: Context, key: bytes | None) -> None:
    """Write the sudo key of genesis."""
    if key is not None:
        accounts.require_valid_key(key)
        SUDO.put(context.state, value=key)


@hooks.coldkey_swapped
def move_sudo(context: Context, old: bytes, new: bytes) -> int:
    """The sudo key is a right of an account."""
    if sudo_key(context.state) == old:
        SUDO.put(context.state, value=new)
        context.events.append(SUDO_CHANGED(old, new))
    return 0


@call(110, "governance.sudo", {"call": dispatch.INNER_CALL}, work=2, priority=Priority.OPERATIONAL)
def sudo(context: Context, inner: list[Any]) -> None:
    """Run a call with root origin; only the sudo key may."""
    if context.origin is not Origin.ROOT and context.signer != sudo_key(context.state):
        refuse("RequireSudo")
    entry, values = dispatch.find(inner[0], inner[1])
    before = context.origin
    context.origin = Origin.ROOT
    try:
        dispatch.invoke(context, entry, values)
    finally:
        context.origin = before
    context.events.append(SUDO_DONE(entry.name))


@call(111, "governance.set_sudo", {"key": Optional(KEY)}, work=5, priority=Priority.OPERATIONAL, origin="root")
def set_sudo(context: Context, key: bytes | None) -> None:
    """Give the sudo key to another account, or, with none, to nobody for ever."""
    old = sudo_key(context.state)
    if key is None:
        SUDO.delete(context.state)
    else:
        accounts.require_valid_key(key)
        SUDO.put(context.state, value=key)
    context.events.append(SUDO_CHANGED(old, key))


@call(112, "governance.set_global_param", {"name": NAME, "value": VALUE}, work=8, priority=Priority.OPERATIONAL, origin="root")
def set_global_param(context: Context, name: str, value: params.Value) -> None:
    """Set a global parameter."""
    param = params.PARAMS.get(name)
    if param is not None and param.who == "genesis":
        refuse("InvalidValue", f"{name} is fixed in genesis")
    params.put(context, name, value)


@call(113, "governance.set_subnet_param", {"netuid": U16, "name": NAME, "value": VALUE}, work=12)
def set_subnet_param(context: Context, netuid: int, name: str, value: params.Value) -> None:
    """Set a parameter of a subnet: its owner within the owner's limits, root any."""
    subnets.subnet(context.state, netuid)
    if context.origin is not Origin.ROOT:
        _check_owner(context, netuid, name, value)
    params.put(context, name, value, netuid)


def _check_owner(context: Context, netuid: int, name: str, value: params.Value) -> None:
    state, param = context.state, params.PARAMS.get(name)
    if netuid == params.ROOT_NETUID or subnets.subnet(state, netuid).owner_coldkey != context.signer:
        refuse("NotSubnetOwner", netuid=netuid)
    if param is None or param.scope != "subnet":
        refuse("UnknownParam", f"there is no subnet parameter {name}")
    if param.who != "owner":
        refuse("RequireSudo", f"{name} is not the owner's to set")
    low = param.low if param.owner_low is None else param.owner_low
    high = param.high if param.owner_high is None else param.owner_high
    if type(value) is int and not low <= value <= high:
        refuse("InvalidValue", f"an owner sets {name} within {low}..{high}")
    left = subnets.next_epoch(state, netuid, context.height).blocks_left
    if param.freeze and left is not None and left <= params.get(state, "admin_freeze_window"):
        refuse("AdminActionProhibitedDuringWeightsWindow", f"the next epoch is {left} blocks away", blocks_left=left)
    changed_at = OWNER_CHANGED_AT.get(state, netuid, param.number)
    wait = params.get(state, "owner_hyperparam_rate_limit") * params.get(state, "tempo", netuid)
    if changed_at is not None and context.height - changed_at < wait:
        refuse("TxRateLimitExceeded", f"{name} can be changed again at height {changed_at + wait}")
    OWNER_CHANGED_AT.put(state, netuid, param.number, value=context.height)
