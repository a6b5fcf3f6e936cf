"""Who owns a hotkey: a coldkey owns money and hotkeys, a hotkey is the identity of a neuron.

A hotkey has exactly one owner for ever, unless its coldkey is swapped. It gets one when it first registers (0.2): whoever
registers it owns it, without its signature. But a key that is announced to take over an account (5.5) becomes nobody's
hotkey without it, or whoever saw the swap on its way could hold it up.

Rules: KEY-1 one owner
"""

from __future__ import annotations

from collections.abc import Iterator

from ledger.crypto import digest

from .. import hooks
from ..registry import Context, error, refuse
from ..tables import ReadState, Table, key_field
from . import accounts

OWNERS = Table(20, "hotkey_owner", bytes, key_field("hotkey"))  # -> coldkey
OWNED = Table(21, "owned_hotkey", int, key_field("coldkey"), key_field("hotkey"))  # -> height of the association
PROMISED = Table(139, "promised_coldkey", int, key_field("hash"))  # -> accounts that announced the key of this hash

error(20, "NonAssociatedColdKey", "the hotkey belongs to another coldkey", "sign with the coldkey that owns the hotkey")
error(
    21, "HotKeyAccountNotExists", "the hotkey is not known to the chain",
    "name a hotkey, not a coldkey; a new one is registered in a subnet first",
)


def owner_of(state: ReadState, hotkey: bytes) -> bytes | None:
    """Coldkey that owns `hotkey`, or None if the hotkey is unknown."""
    return OWNERS.get(state, hotkey)


def hotkeys_of(state: ReadState, coldkey: bytes) -> list[bytes]:
    """Hotkeys of a coldkey, ascending."""
    return [hotkey for (_, hotkey), _ in OWNED.items(state, coldkey)]


def may_own(state: ReadState, hotkey: bytes, coldkey: bytes, *, proven: bool = False) -> bool:
    """True if the hotkey is already this coldkey's, or free: not even promised to take an account over, or it is `proven`
    that the hotkey agrees."""
    owner = owner_of(state, hotkey)
    return owner == coldkey or (owner is None and (proven or PROMISED.get(state, promise_hash(hotkey)) is None))


def promise_hash(coldkey: bytes) -> bytes:
    """What an account announces of the key that is to take it over (32 bytes)."""
    return digest("coldkey", coldkey)


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


@hooks.coldkey_swapped
def move_hotkeys(context: Context, old: bytes, new: bytes) -> int:
    """All hotkeys of a coldkey get another owner."""
    for (_, hotkey), since in list(OWNED.items(context.state, old)):
        OWNERS.put(context.state, hotkey, value=new)
        OWNED.delete(context.state, old, hotkey)
        OWNED.put(context.state, new, hotkey, value=since)
    return 0


@hooks.invariant("hotkeys have one owner")
def audit(state: ReadState) -> Iterator[str]:
    """The owner of a hotkey and the list of a coldkey's hotkeys name each other."""
    owners = {hotkey: coldkey for (hotkey,), coldkey in OWNERS.items(state)}
    listed = {hotkey: coldkey for (coldkey, hotkey), _ in OWNED.items(state)}
    if owners != listed:
        wrong = sorted(key.hex() for key in {**owners, **listed} if owners.get(key) != listed.get(key))
        yield f"the owners of {', '.join(wrong[:5])} and their lists differ"
