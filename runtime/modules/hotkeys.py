"""Who owns a hotkey: a coldkey owns money and hotkeys, a hotkey is the identity of a neuron.

A hotkey has exactly one owner for ever, unless it is swapped. It gets one when it first registers (0.2).
"""

from __future__ import annotations

from ..registry import Context, error, refuse
from ..tables import ReadState, Table, key_field
from . import accounts

OWNERS = Table(20, "hotkey_owner", bytes, key_field("hotkey"))  # -> coldkey
OWNED = Table(21, "owned_hotkey", int, key_field("coldkey"), key_field("hotkey"))  # -> height of the association

error(20, "NonAssociatedColdKey", "the hotkey belongs to another coldkey", "sign with the coldkey that owns the hotkey")
error(21, "HotKeyAccountNotExists", "the hotkey is not known to the chain", "register it in a subnet first")


def owner_of(state: ReadState, hotkey: bytes) -> bytes | None:
    """Coldkey that owns `hotkey`, or None if the hotkey is unknown."""
    return OWNERS.get(state, hotkey)


def hotkeys_of(state: ReadState, coldkey: bytes) -> list[bytes]:
    """Hotkeys of a coldkey, ascending."""
    return [hotkey for (_, hotkey), _ in OWNED.items(state, coldkey)]


def may_own(state: ReadState, hotkey: bytes, coldkey: bytes) -> bool:
    """True if the hotkey is free or already this coldkey's."""
    return owner_of(state, hotkey) in (None, coldkey)


def require_owner(context: Context, hotkey: bytes) -> None:
    """Refuse unless the signer owns the hotkey."""
    owner = owner_of(context.state, hotkey)
    if owner is None:
        refuse("HotKeyAccountNotExists")
    if owner != context.signer:
        refuse("NonAssociatedColdKey")


def associate(context: Context, hotkey: bytes, coldkey: bytes) -> None:
    """Give a free hotkey its owner; nothing happens if it is that owner's already.

    The caller has checked `may_own`. A hotkey signs, so it has to be a valid key.
    """
    if owner_of(context.state, hotkey) == coldkey:
        return
    accounts.require_valid_key(hotkey)
    OWNERS.put(context.state, hotkey, value=coldkey)
    OWNED.put(context.state, coldkey, hotkey, value=context.height)
