"""Proxies: accounts that may run some calls for another (5.7).

A proxy is a right that `real` gives to `delegate`: a kind, which is an **allow-list** of calls, and a delay. A call that is
not on the list of a kind is not allowed to it, so a call added later is allowed to nobody but `any`. With a delay, the
delegate first announces the hash of the call and runs it that many blocks later; until then `real` can reject it. The
delegate pays the fees. A call runs as if `real` had signed it, so neither more nor less is possible. Transfers of a batch are
small only if their sum is.

    deposits   of `real`: a base and a part for each proxy; of the delegate: a part for each open announcement

Rules: PRX-1 allow-lists · PRX-2 delays · PRX-3 deposits of proxies
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.codec import HASH, KEY, U32, Int, encode
from ledger.crypto import digest

from .. import dispatch, hooks
from ..params import Q
from ..registry import Call, Context, Origin, call, error, event, refuse
from ..tables import ReadState, Table, key_field
from . import accounts

MAX_PROXIES: Final = 20  # of one account
MAX_ANNOUNCEMENTS: Final = 16  # of one delegate for one account
DEPOSIT_BASE_RAO: Final = Q // 100
DEPOSIT_EACH_RAO: Final = Q // 200
SMALL_TRANSFER_RAO: Final = Q // 2

ANY, STAKING, REGISTRATION, WEIGHTS, SUBNET_OWNER, TRANSFER, SMALL_TRANSFER = range(7)
KINDS: Final = ("any", "staking", "registration", "weights", "subnet owner", "transfer", "small transfer")

ALLOWED: Final[dict[int, tuple[str, ...]]] = {
    STAKING: (
        "stake.add", "stake.remove", "stake.move", "stake.withdraw_unbonded", "stake.increase_take", "stake.decrease_take",
        "children.set", "children.set_take",
    ),
    REGISTRATION: ("neurons.register", "neurons.root_register", "neurons.unregister"),
    WEIGHTS: ("weights.set", "weights.commit", "weights.commit_timelocked", "weights.reveal", "weights.set_root"),
    SUBNET_OWNER: (
        "governance.set_subnet_param", "subnets.start_call", "subnets.set_identity", "subnets.set_owner_hotkey",
    ),
    TRANSFER: ("accounts.transfer", "stake.transfer"),
    SMALL_TRANSFER: ("accounts.transfer",),
}
BATCHES: Final = (dispatch.BATCH, dispatch.BATCH_EACH)
KIND: Final = Int(0, len(KINDS) - 1, "kind of proxy")


@dataclass(frozen=True)
class Proxies:
    """The proxies of an account: [delegate, kind, delay in blocks], ascending; what is reserved for them."""

    rows: list[list[Any]] = field(default_factory=list)
    deposit_rao: int = 0


@dataclass(frozen=True)
class Announcements:
    """What a delegate announced for an account: [call hash, block], oldest first; what is reserved of the delegate."""

    rows: list[list[Any]] = field(default_factory=list)
    deposit_rao: int = 0


PROXIES = Table(120, "proxies", Proxies, key_field("real"))
ANNOUNCEMENTS = Table(121, "announcements", Announcements, key_field("real"), key_field("delegate"))

PROXY_ADDED = event(130, "ProxyAdded", "real", "delegate", "kind", "delay_blocks")
PROXY_REMOVED = event(131, "ProxyRemoved", "real", "delegate", "kind", "delay_blocks")
PROXY_ANNOUNCED = event(132, "ProxyAnnounced", "real", "delegate", "call_hash")
PROXY_WITHDRAWN = event(133, "ProxyWithdrawn", "real", "delegate", "call_hash")
PROXY_RAN = event(134, "ProxyRan", "real", "delegate", "call")

error(130, "NotProxy", "the signer is not a proxy of this account for this call", "see `quorix proxy list`")
error(131, "Unproxyable", "a proxy of this kind may not run this call", "use a proxy of another kind")
error(132, "TooManyProxies", f"an account has at most {MAX_PROXIES} proxies", "remove one first")
error(133, "DuplicateProxy", "the account has this proxy already")
error(134, "NoSelfProxy", "an account is no proxy of itself")
error(135, "NotAnnounced", "this call was not announced", "`quorix proxy announce` it first, and wait for the delay")
error(136, "AnnouncedTooRecently", "the delay since the announcement is not over", "wait")
error(137, "TooManyAnnouncements", f"at most {MAX_ANNOUNCEMENTS} announcements are open", "withdraw one first")


# --- reads -------------------------------------------------------------------------------------------------------


def proxies_of(state: ReadState, real: bytes) -> Proxies:
    """The proxies that an account has appointed."""
    return PROXIES.get(state, real) or Proxies()


def announcements_of(state: ReadState, real: bytes, delegate: bytes) -> Announcements:
    return ANNOUNCEMENTS.get(state, real, delegate) or Announcements()


def call_hash(number: int, args: Sequence[Any]) -> bytes:
    """What is announced: the hash of the call that will run."""
    return digest("call", encode([number, list(args)]))


def allows(kind: int, entry: Call, args: Sequence[Any]) -> bool:
    """Whether a proxy of this kind may run the checked call, and all that it carries."""
    if entry.name in BATCHES:
        carried = [dispatch.find(number, inner) for number, inner in dispatch.inner_calls(entry, args)]
        if not all(allows(kind, *inner) for inner in carried):
            return False
        together_rao: int = sum(values[1] for inner, values in carried if kind == SMALL_TRANSFER and inner.name not in BATCHES)
        return together_rao < SMALL_TRANSFER_RAO
    if kind == ANY:
        return entry.name not in dispatch.NESTING
    if kind == SMALL_TRANSFER and entry.name == "accounts.transfer":
        return args[1] is not None and args[1] < SMALL_TRANSFER_RAO
    return entry.name in ALLOWED[kind]


# --- appointing --------------------------------------------------------------------------------------------------


@call(130, "proxies.add", {"delegate": KEY, "kind": KIND, "delay_blocks": U32}, work=15)
def add(context: Context, delegate: bytes, kind: int, delay_blocks: int) -> None:
    """Let another account run calls of a kind for the signer; a deposit is reserved while it may."""
    accounts.require_valid_key(delegate)
    if delegate == context.signer:
        refuse("NoSelfProxy")
    held, row = proxies_of(context.state, context.signer), [delegate, kind, delay_blocks]
    if row in held.rows:
        refuse("DuplicateProxy")
    if len(held.rows) >= MAX_PROXIES:
        refuse("TooManyProxies")
    _put_proxies(context, context.signer, held, sorted([*held.rows, row]))
    context.events.append(PROXY_ADDED(context.signer, delegate, kind, delay_blocks))


@call(131, "proxies.remove", {"delegate": KEY, "kind": KIND, "delay_blocks": U32}, work=15)
def remove(context: Context, delegate: bytes, kind: int, delay_blocks: int) -> None:
    """Take a proxy's right back, at once, with the deposit; what it had announced cannot run any more."""
    held, row = proxies_of(context.state, context.signer), [delegate, kind, delay_blocks]
    if row not in held.rows:
        refuse("NotProxy")
    _put_proxies(context, context.signer, held, [other for other in held.rows if other != row])
    if not any(other[0] == delegate for other in held.rows if other != row):
        _put_announcements(context, context.signer, delegate, [])
    context.events.append(PROXY_REMOVED(context.signer, delegate, kind, delay_blocks))


def _put_proxies(context: Context, real: bytes, old: Proxies, rows: list[list[Any]]) -> None:
    needed = DEPOSIT_BASE_RAO + DEPOSIT_EACH_RAO * len(rows) if rows else 0
    _adjust(context, real, needed - old.deposit_rao)
    if rows:
        PROXIES.put(context.state, real, value=Proxies(rows, needed))
    else:
        PROXIES.delete(context.state, real)


def _adjust(context: Context, who: bytes, more_rao: int) -> None:
    if more_rao > 0:
        accounts.reserve(context, who, more_rao)
    elif more_rao < 0:
        accounts.unreserve(context, who, -more_rao)


# --- announcing and running --------------------------------------------------------------------------------------


@call(132, "proxies.announce", {"real": KEY, "call_hash": HASH}, work=15)
def announce(context: Context, real: bytes, call_hash: bytes) -> None:
    """Announce, as a delegate with a delay, the hash of a call that is to run for `real`."""
    if not any(row[0] == context.signer for row in proxies_of(context.state, real).rows):
        refuse("NotProxy")
    rows = announcements_of(context.state, real, context.signer).rows
    if len(rows) >= MAX_ANNOUNCEMENTS:
        refuse("TooManyAnnouncements")
    _put_announcements(context, real, context.signer, [*rows, [call_hash, context.height]])
    context.events.append(PROXY_ANNOUNCED(real, context.signer, call_hash))


@call(133, "proxies.withdraw", {"real": KEY, "delegate": KEY, "call_hash": HASH}, work=15)
def withdraw(context: Context, real: bytes, delegate: bytes, call_hash: bytes) -> None:
    """Withdraw an announcement: its delegate, or `real`, which rejects it that way."""
    if context.signer not in (real, delegate):
        refuse("NotProxy")
    _drop(context, real, delegate, call_hash)
    context.events.append(PROXY_WITHDRAWN(real, delegate, call_hash))


@call(134, dispatch.PROXY, {"real": KEY, "call": dispatch.INNER_CALL}, work=10)
def run(context: Context, real: bytes, inner: list[Any]) -> None:
    """Run a call as `real`, by a proxy of a kind that allows it."""
    entry, values = dispatch.find(inner[0], inner[1])
    _require_right(context, real, entry, values, call_hash(inner[0], inner[1]))
    context.events.append(PROXY_RAN(real, context.signer, entry.name))
    delegate, origin = context.signer, context.origin
    context.signer, context.origin = real, Origin.SIGNED
    try:
        dispatch.invoke(context, entry, values)
    finally:
        context.signer, context.origin = delegate, origin


def _require_right(context: Context, real: bytes, entry: Call, values: Sequence[Any], announced: bytes) -> None:
    """Refuse unless one of the signer's rights allows the call now; uses the announcement up if it needs one."""
    rights = [row for row in proxies_of(context.state, real).rows if row[0] == context.signer]
    delays = [delay for _, kind, delay in rights if allows(kind, entry, values)]
    if not delays:
        refuse("Unproxyable" if rights else "NotProxy", call=entry.name)
    if min(delays) == 0:
        return
    since = [row[1] for row in announcements_of(context.state, real, context.signer).rows if row[0] == announced]
    if not since:
        refuse("NotAnnounced")
    if context.height - since[0] < min(delays):
        refuse("AnnouncedTooRecently", f"it can run at height {since[0] + min(delays)}")
    _drop(context, real, context.signer, announced)


def _drop(context: Context, real: bytes, delegate: bytes, call_hash: bytes) -> None:
    """Remove the oldest announcement of a call."""
    rows = list(announcements_of(context.state, real, delegate).rows)
    place = next((index for index, row in enumerate(rows) if row[0] == call_hash), None)
    if place is None:
        refuse("NotAnnounced")
    del rows[place]
    _put_announcements(context, real, delegate, rows)


def _put_announcements(context: Context, real: bytes, delegate: bytes, rows: list[list[Any]]) -> None:
    old = announcements_of(context.state, real, delegate)
    needed = DEPOSIT_EACH_RAO * len(rows)
    _adjust(context, delegate, needed - old.deposit_rao)
    if rows:
        ANNOUNCEMENTS.put(context.state, real, delegate, value=Announcements(rows, needed))
    elif old.rows:
        ANNOUNCEMENTS.delete(context.state, real, delegate)


@hooks.coldkey_swapped
def move_proxies(context: Context, old: bytes, new: bytes) -> int:
    """Proxies, and what they announced, serve the new key; if that is one of them, it stops being one."""
    state, held = context.state, proxies_of(context.state, old)
    for (_, delegate), _ in list(ANNOUNCEMENTS.items(state, old)):
        ANNOUNCEMENTS.move(state, (old, delegate), (new, delegate))
    kept = [row for row in held.rows if row[0] != new]
    _put_proxies(context, old, held, kept)
    PROXIES.move(state, (old,), (new,))
    return proxies_of(state, new).deposit_rao


@hooks.deposit
def deposits(state: ReadState) -> Iterator[tuple[bytes, int]]:
    for (real,), row in PROXIES.items(state):
        yield real, row.deposit_rao
    for (_, delegate), held in ANNOUNCEMENTS.items(state):
        yield delegate, held.deposit_rao


@hooks.invariant("proxies")
def audit(state: ReadState) -> Iterator[str]:
    """Rows are ascending and within their limits; every announcement has a proxy."""
    for (real,), row in PROXIES.items(state):
        if row.rows != sorted(row.rows) or not 0 < len(row.rows) <= MAX_PROXIES:
            yield f"the proxies of {real.hex()} are out of order or number"
    for (real, delegate), held in ANNOUNCEMENTS.items(state):
        if not any(row[0] == delegate for row in proxies_of(state, real).rows):
            yield f"{delegate.hex()} announced for {real.hex()} without being a proxy"
        if not 0 < len(held.rows) <= MAX_ANNOUNCEMENTS:
            yield f"{delegate.hex()} has {len(held.rows)} announcements for {real.hex()}"
