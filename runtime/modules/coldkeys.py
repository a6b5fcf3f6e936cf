"""Coldkey swaps: an account hands all it has over to another key, announced days before (5.5).

    announce   the hash of the new key, for a price; from then on the account may do nothing but what is on this page
    swap       `coldkey_swap_delay` blocks later, by the old key: it names the new key, and everything moves
    again      another hash can be announced, or the announcement cleared, `coldkey_swap_again_delay` blocks after that

So a thief who has the key can neither spend nor stake once the owner has announced, and an announcement of the thief
gives the owner days to see it. The new key has neither hotkeys nor anything reserved or announced, and is no hotkey: all
of that takes its own signature. Who sees the swap on its way can only send money and stake to the keys: that of the new one
is added to, and where the old one has too many positions, each swap moves the first of them and the last one the rest.

What moves: balances, stake, removed stake, hotkeys and their bonds, subnets, identity, proxies, proposals, the sudo key.
Each module moves its own rows (`hooks.coldkey_swapped`) and says how much of the reserved balance they explain. What the
old key announced as a delegate of others stays, with its deposits. The account of an authority does not swap: evidence
names it, and its bond must not leave.

Rules: KEY-5 announcement of a coldkey swap · KEY-6 delays of a coldkey swap · KEY-7 what a coldkey swap moves ·
    KEY-8 who can swap to what
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from ledger.codec import HASH, KEY

from .. import hooks, params
from ..params import Q
from ..registry import Call, Context, Origin, call, error, event, refuse
from ..state import State
from ..tables import ReadState, Table, key_field
from . import accounts, authorities, bonds, hotkeys, pools

COST_RAO: Final = Q // 10  # of the first announcement, recycled
MAX_MOVED: Final = 1000  # stake positions that one call moves, and hotkeys

ANNOUNCE, SWAP, CLEAR = "keyring.announce_coldkey_swap", "keyring.swap_coldkey", "keyring.clear_coldkey_swap"
STILL_ALLOWED: Final = (ANNOUNCE, SWAP, CLEAR)


@dataclass(frozen=True)
class Announcement:
    """Hash of the key that will take over, and the first block in which it can."""

    new_hash: bytes
    ready_at: int


ANNOUNCED = Table(137, "coldkey_swap", Announcement, key_field("coldkey"))
ANNOUNCED_COUNT = Table(138, "coldkey_swap_count", int)  # one read a block says that nobody has announced anything
_COUNT_KEY: Final = ANNOUNCED_COUNT.key()

SWAP_ANNOUNCED = event(123, "ColdkeySwapAnnounced", "coldkey", "new_hash", "ready_at")
SWAPPED = event(124, "ColdkeySwapped", "old_coldkey", "new_coldkey", "free_rao", "reserved_rao")
SWAP_CLEARED = event(125, "ColdkeySwapCleared", "coldkey")
STAKE_SWAPPED = event(126, "ColdkeySwapContinues", "old_coldkey", "new_coldkey", "positions")

error(170, "ColdkeySwapAnnounced", "the account has announced a coldkey swap and may do nothing else",
      "swap when the delay is over, or clear the announcement later")
error(171, "ColdkeySwapNotAnnounced", "the account has announced no coldkey swap", "announce the hash of the new key first")
error(172, "ColdkeySwapTooEarly", "the delay since the announcement is not over", "wait")
error(173, "ColdkeySwapReannouncedTooEarly", "the announcement stands for some time after its delay", "swap, or wait")
error(174, "AnnouncedColdkeyHashDoesNotMatch", "this is not the key whose hash was announced", "name the announced key")
error(175, "NewColdkeyInUse", "the new coldkey is a hotkey, or has hotkeys, deposits or an announcement",
      "use a fresh key")
error(176, "AuthorityAccount", "the account of an authority, or one with an authority's bond, does not swap",
      "leave the set and withdraw the bond first")
error(177, "TooMuchToSwap", f"more than {MAX_MOVED} hotkeys would move")


# --- reads -------------------------------------------------------------------------------------------------------


def announcement_of(state: ReadState, coldkey: bytes) -> Announcement | None:
    """The open announcement of an account, or None."""
    return ANNOUNCED.get(state, coldkey)


swap_hash = hotkeys.promise_hash


def nobody_has_announced(state: State) -> bool:
    return not state.value(_COUNT_KEY, ANNOUNCED_COUNT)


def may_tip(state: State, who: bytes) -> bool:
    """False for an announced account: else a thief could spend the balance on the tips of swaps that fail."""
    return nobody_has_announced(state) or ANNOUNCED.get(state, who) is None


@hooks.call_guard(idle=nobody_has_announced)
def allow_nothing_else(context: Context, entry: Call) -> None:
    """An account with an announcement runs no other call, not by itself, in a batch, or through a proxy."""
    if nobody_has_announced(context.state) or context.origin is Origin.ROOT or entry.name in STILL_ALLOWED:
        return
    if ANNOUNCED.get(context.state, context.signer) is not None:
        refuse("ColdkeySwapAnnounced", call=entry.name)


# --- calls -------------------------------------------------------------------------------------------------------


@call(123, ANNOUNCE, {"new_hash": HASH}, work=15)
def announce(context: Context, new_hash: bytes) -> None:
    """Announce the hash of the key that is to take over all that the signer has; it may do nothing else from now on."""
    state, who = context.state, context.signer
    _refuse_authority(state, who)
    before = ANNOUNCED.get(state, who)
    if before is None:
        accounts.burn(context, who, COST_RAO, "coldkey swap", error_name="NotEnoughBalanceToPaySwap")
        ANNOUNCED_COUNT.put(state, value=(ANNOUNCED_COUNT.get(state) or 0) + 1)
    else:
        _require_lapsed(context, before)
        _release(context, before)
    hotkeys.PROMISED.put(state, new_hash, value=(hotkeys.PROMISED.get(state, new_hash) or 0) + 1)
    ready_at = context.height + params.get(state, "coldkey_swap_delay")
    ANNOUNCED.put(state, who, value=Announcement(new_hash, ready_at))
    context.events.append(SWAP_ANNOUNCED(who, new_hash, ready_at))


@call(125, CLEAR, {}, work=15)
def clear(context: Context) -> None:
    """Take an announcement back, some time after its delay; the account may do everything again."""
    _require_lapsed(context, _require_announced(context))
    _forget(context, context.signer)
    context.events.append(SWAP_CLEARED(context.signer))


@call(124, SWAP, {"new_coldkey": KEY}, work=3000)
def swap(context: Context, new_coldkey: bytes) -> None:
    """Hand all that the signer has over to the announced key; too many stake positions take more than one call."""
    state, old = context.state, context.signer
    row = _require_announced(context)
    if swap_hash(new_coldkey) != row.new_hash:
        refuse("AnnouncedColdkeyHashDoesNotMatch")
    if context.height < row.ready_at:
        refuse("ColdkeySwapTooEarly", f"the swap can be made at height {row.ready_at}")
    _refuse_authority(state, old)
    accounts.require_valid_key(new_coldkey)
    if new_coldkey == old or is_in_use(state, new_coldkey):
        refuse("NewColdkeyInUse")
    if _more_than_move(hotkeys.OWNED.items(state, old)):
        refuse("TooMuchToSwap")
    if _more_than_move(pools.POSITIONS.items(state, old)):
        context.events.append(STAKE_SWAPPED(old, new_coldkey, pools.hand_over(context, old, new_coldkey, MAX_MOVED)))
        return
    reserved_rao = hooks.run_coldkey_swapped(context, old, new_coldkey)
    free_rao = accounts.hand_over(context, old, new_coldkey, reserved_rao)
    _forget(context, old)
    context.events.append(SWAPPED(old, new_coldkey, free_rao, reserved_rao))


def is_in_use(state: ReadState, key: bytes) -> bool:
    """A key that cannot take over an account: rows of both could not be told apart. Nobody else can make a key one."""
    return bool(
        hotkeys.owner_of(state, key) is not None
        or next(hotkeys.OWNED.items(state, key), None)
        or accounts.account(state, key).reserved_rao
        or ANNOUNCED.get(state, key) is not None
        or authorities.is_account(state, key)
    )


def _more_than_move(rows: Iterator[object]) -> bool:
    return sum(1 for _ in islice(rows, MAX_MOVED + 1)) > MAX_MOVED


def _require_announced(context: Context) -> Announcement:
    row = ANNOUNCED.get(context.state, context.signer)
    if row is None:
        refuse("ColdkeySwapNotAnnounced")
    return row


def _require_lapsed(context: Context, row: Announcement) -> None:
    """An announcement stands until `coldkey_swap_again_delay` blocks after its delay."""
    free_at = row.ready_at + params.get(context.state, "coldkey_swap_again_delay")
    if context.height < free_at:
        refuse("ColdkeySwapReannouncedTooEarly", f"it can be changed or cleared at height {free_at}")


def _refuse_authority(state: ReadState, who: bytes) -> None:
    if authorities.is_account(state, who) or bonds.bond_of(state, who).total_rao:
        refuse("AuthorityAccount")


def _forget(context: Context, who: bytes) -> None:
    state, count = context.state, (ANNOUNCED_COUNT.get(context.state) or 0) - 1
    row = ANNOUNCED.get(state, who)
    assert row is not None, "nothing is announced"
    _release(context, row)
    ANNOUNCED.delete(state, who)
    if count:
        ANNOUNCED_COUNT.put(state, value=count)
    else:
        ANNOUNCED_COUNT.delete(state)


def _release(context: Context, row: Announcement) -> None:
    """The key of an announcement is promised no more. Announcements of older rules promised none."""
    count = hotkeys.PROMISED.get(context.state, row.new_hash) or 0
    if count > 1:
        hotkeys.PROMISED.put(context.state, row.new_hash, value=count - 1)
    elif count:
        hotkeys.PROMISED.delete(context.state, row.new_hash)


@hooks.invariant("coldkey swaps")
def audit(state: ReadState) -> Iterator[str]:
    """The count of announcements is right: the guard believes it; no key is promised that nobody has announced."""
    held, stated = sum(1 for _ in ANNOUNCED.items(state)), ANNOUNCED_COUNT.get(state) or 0
    if held != stated:
        yield f"{held} coldkey swaps are announced, the count says {stated}"
    announced: dict[bytes, int] = {}
    for _, row in ANNOUNCED.items(state):
        announced[row.new_hash] = announced.get(row.new_hash, 0) + 1
    for (promised,), count in hotkeys.PROMISED.items(state):
        if count > announced.get(promised, 0):
            yield f"{promised.hex()} is promised {count} times and announced {announced.get(promised, 0)} times"
