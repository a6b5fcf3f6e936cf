"""Ownership: a hotkey gets its coldkey without registering; a subnet changes its owner or its owner's hotkey.

A hotkey agrees to its coldkey by a signature, so nobody can claim one that is not his. What a subnet's owner changes about
ownership can be changed again only after `owner_change_rate_limit` blocks; the new owner names a hotkey of its own.

Rules: KEY-2 association by signature · NET-9 change of owner
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger.codec import KEY, SIGNATURE, U16
from ledger.crypto import verify

from .. import params
from ..registry import Context, call, error, event, refuse
from ..tables import Table, u16_field
from . import accounts, hotkeys, subnets

PROOF: Final = "hotkey"  # tag of the hotkey's signature over its coldkey

OWNER_CHANGED_AT = Table(33, "owner_changed", int, u16_field("netuid"))  # -> height

HOTKEY_ASSOCIATED = event(28, "HotkeyAssociated", "hotkey", "coldkey")
OWNER_CHANGED = event(29, "SubnetOwnerChanged", "netuid", "old_coldkey", "new_coldkey", "hotkey")

error(37, "InvalidHotkeyProof", "the signature is not the hotkey's, over this coldkey, for this chain",
      "sign it with `quorix key prove`")


@call(27, "hotkeys.associate", {"hotkey": KEY, "proof": SIGNATURE}, work=15)
def associate(context: Context, hotkey: bytes, proof: bytes) -> None:
    """Make the signer the owner of a hotkey that agrees by its signature."""
    if not hotkeys.may_own(context.state, hotkey, context.signer, proven=True):
        refuse("NonAssociatedColdKey")
    if not verify(hotkey, PROOF, context.genesis_hash, context.signer + hotkey, proof):
        refuse("InvalidHotkeyProof")
    hotkeys.associate(context, hotkey, context.signer)
    context.events.append(HOTKEY_ASSOCIATED(hotkey, context.signer))


@call(25, "subnets.set_owner_hotkey", {"netuid": U16, "hotkey": KEY}, work=15)
def set_owner_hotkey(context: Context, netuid: int, hotkey: bytes) -> None:
    """Name another hotkey of the owner's: it gets the owner cut and is not pruned."""
    row = _own_subnet(context, netuid)
    hotkeys.require_owner(context, hotkey)
    _change(context, netuid, replace(row, owner_hotkey=hotkey))


@call(26, "subnets.transfer_ownership", {"netuid": U16, "to": KEY, "hotkey": KEY}, work=15)
def transfer_ownership(context: Context, netuid: int, to: bytes, hotkey: bytes) -> None:
    """Give a subnet to another coldkey, with a hotkey that it owns."""
    row = _own_subnet(context, netuid)
    accounts.require_valid_key(to)
    if hotkeys.owner_of(context.state, hotkey) != to:
        refuse("NonAssociatedColdKey", "the hotkey does not belong to the new owner")
    _change(context, netuid, replace(row, owner_coldkey=to, owner_hotkey=hotkey))


def _own_subnet(context: Context, netuid: int) -> subnets.Subnet:
    row = subnets.subnet(context.state, netuid)
    if netuid == params.ROOT_NETUID or row.owner_coldkey != context.signer:
        refuse("NotSubnetOwner", netuid=netuid)
    changed_at = OWNER_CHANGED_AT.get(context.state, netuid)
    wait = params.get(context.state, "owner_change_rate_limit")
    if changed_at is not None and context.height - changed_at < wait:
        refuse("TxRateLimitExceeded", f"the owner can be changed again at height {changed_at + wait}")
    return row


def _change(context: Context, netuid: int, row: subnets.Subnet) -> None:
    old = subnets.subnet(context.state, netuid)
    subnets.SUBNETS.put(context.state, netuid, value=row)
    OWNER_CHANGED_AT.put(context.state, netuid, value=context.height)
    context.events.append(OWNER_CHANGED(netuid, old.owner_coldkey, row.owner_coldkey, row.owner_hotkey))
