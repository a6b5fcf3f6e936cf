"""Child hotkeys: a parent lends parts of its voting stake to others, subnet by subnet (3.4).

A validator with stake in many subnets need not judge in all of them: in each it names up to five children with shares of
its consensus stake, own and root. The children vote with it; what they earn by it goes back to the parent's stakers, less
the child's take. Only a hotkey's own stake is lent, so there are no grandchildren, and what is lent counts once.

    set      pending for some tempos, then in force from the end of the subnet's next epoch on, so many parents an epoch
    votes    own stake - lent parts + parts of all parents, each floored to whole rao
    pay      a child's dividend is split by contributions; from a parent's part the take, unless both have one owner

Rules: CHD-1 naming children · CHD-2 when children count · CHD-3 voting stake · CHD-4 pay of a child · CHD-5 take of a child
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from ledger.codec import KEY, U16, U64, ListOf, Record

from .. import hooks, params
from ..fixed import U64_MAX
from ..params import ROOT_NETUID
from ..registry import Context, call, error, event, refuse
from ..splits import ROOT_WEIGHT_BITS
from ..tables import ReadState, Table, key_field, u16_field
from . import hotkeys, pools, stake, subnets

MAX_CHILDREN: Final = 5  # of one hotkey in one subnet
MAX_PARENTS: Final = 64  # the largest stay
MAX_APPLIED: Final = 64  # parents whose children come into force at one epoch's end; some 3 ms each at worst
SET_RATE_BLOCKS: Final = 150  # between two changes of one hotkey's children in a subnet
SHARE_BITS: Final = 64

CHILDREN_SHAPE: Final = ListOf(Record("child", share=U64, hotkey=KEY), MAX_CHILDREN)

Shares = list[list[Any]]  # [[share of 2^64, hotkey], ...], ascending by hotkey


@dataclass(frozen=True)
class Contribution:
    """Part of a validator's voting stake (rao) and whose it is."""

    hotkey: bytes
    own_rao: int
    root_rao: int  # weighted


@dataclass(frozen=True)
class Pending:
    """Children that come into force at the end of the first epoch from `ripe_at` on."""

    children: list[list[Any]]
    ripe_at: int


CHILDREN = Table(52, "children", list, u16_field("netuid"), key_field("parent"))
PARENTS = Table(53, "parents", list, u16_field("netuid"), key_field("child"))
PENDING = Table(54, "pending_children", Pending, u16_field("netuid"), key_field("parent"))
CHANGED_AT = Table(55, "children_changed", int, u16_field("netuid"), key_field("parent"))
TAKES = Table(56, "child_take", stake.Take, u16_field("netuid"), key_field("child"))

SCHEDULED = event(48, "SetChildrenScheduled", "hotkey", "netuid", "children", "ripe_at")
CHILDREN_SET = event(49, "SetChildren", "hotkey", "netuid", "children")
CHILD_TAKE_SET = event(50, "ChildKeyTakeSet", "hotkey", "netuid", "old", "new", "announced_at")
RELATION_ENDED = event(51, "ChildRelationEnded", "hotkey", "netuid", "child", "reason")

error(48, "InvalidChild", "a hotkey is not its own child, and root has no children")
error(49, "DuplicateChild", "a child is named twice")
error(50, "ProportionOverflow", "the shares exceed the whole")
error(51, "ChildParentInconsistency", "a hotkey cannot be both child and parent of another in one subnet")
error(52, "NotEnoughStakeToSetChildkeys", "the hotkey's active stake is below the threshold, or the least stake", "add stake")
error(53, "ChildrenRateLimitExceeded", "the children of this hotkey were changed too recently", "wait")
error(54, "InvalidChildkeyTake", "the take of a child is outside its bounds")
error(55, "TxChildkeyTakeRateLimitExceeded", "the child's take was raised too recently", "wait until the rate limit has passed")


# --- reads -------------------------------------------------------------------------------------------------------


def children_of(state: ReadState, netuid: int, hotkey: bytes) -> Shares:
    """[share of 2^64, child] in force, ascending by child."""
    return CHILDREN.get(state, netuid, hotkey) or []


def parents_of(state: ReadState, netuid: int, hotkey: bytes) -> Shares:
    """[share of 2^64, parent] in force, ascending by parent."""
    return PARENTS.get(state, netuid, hotkey) or []


def has_relations(state: ReadState, netuid: int, hotkey: bytes) -> bool:
    """True if a hotkey has children or parents in a subnet, or has named children that wait."""
    return any(table.get(state, netuid, hotkey) is not None for table in (CHILDREN, PARENTS, PENDING))


def contributions(state: ReadState, netuid: int, hotkey: bytes) -> list[Contribution]:
    """1.3: what a hotkey votes with: first its own (what it does not lend), then the parts of its parents."""
    weight = params.get(state, "root_weight")

    def part(of: bytes, share: int) -> tuple[int, int]:
        own, root = pools.pool(state, netuid, of).consensus_rao, pools.pool(state, ROOT_NETUID, of).consensus_rao
        return (own * share) >> SHARE_BITS, (root * share) >> SHARE_BITS

    own, root = part(hotkey, 1 << SHARE_BITS)
    for share, _ in children_of(state, netuid, hotkey):
        lent_own, lent_root = part(hotkey, share)
        own, root = own - lent_own, root - lent_root
    out = [Contribution(hotkey, own, (root * weight) >> ROOT_WEIGHT_BITS)]
    for share, parent in parents_of(state, netuid, hotkey):
        own, root = part(parent, share)
        out.append(Contribution(parent, own, (root * weight) >> ROOT_WEIGHT_BITS))
    return out


def voting_stake_parts(state: ReadState, netuid: int, hotkey: bytes) -> tuple[int, int]:
    """1.3: a hotkey's voting stake in a subnet as (own, weighted root), children and parents counted, whole rao."""
    parts = contributions(state, netuid, hotkey)
    return sum(part.own_rao for part in parts), sum(part.root_rao for part in parts)


def child_take(state: ReadState, netuid: int, hotkey: bytes) -> stake.Take:
    """What a child keeps of its parents' dividends (u16 share), with an announced raise."""
    return TAKES.get(state, netuid, hotkey) or stake.Take(0)  # not the minimum, which an owner may raise just before a payout


# --- calls -------------------------------------------------------------------------------------------------------


@call(46, "children.set", {"hotkey": KEY, "netuid": U16, "children": CHILDREN_SHAPE}, work=100)
def set_children(context: Context, hotkey: bytes, netuid: int, children: Shares) -> None:
    """Name the children of a hotkey in a subnet and their shares of its stake; none ends it."""
    state = context.state
    row = subnets.subnet(state, netuid)
    hotkeys.require_owner(context, hotkey)
    wanted = sorted(([share, child] for share, child in children if share), key=lambda pair: pair[1])
    _check_children(state, netuid, hotkey, wanted)
    held = _held_rao(state, netuid, hotkey)
    if wanted and held < max(params.get(state, "stake_threshold"), params.get(state, "min_stake")):
        refuse("NotEnoughStakeToSetChildkeys", held_rao=held)
    changed_at = CHANGED_AT.get(state, netuid, hotkey)
    if changed_at is not None and context.height - changed_at < SET_RATE_BLOCKS:
        refuse("ChildrenRateLimitExceeded", f"they can be changed again at height {changed_at + SET_RATE_BLOCKS}")
    CHANGED_AT.put(state, netuid, hotkey, value=context.height)
    if row.started_at is None or not (wanted or children_of(state, netuid, hotkey)):
        PENDING.delete(state, netuid, hotkey)
        _apply(context, netuid, hotkey, wanted)
        return
    ripe_at = context.height + params.get(state, "childkey_cooldown_tempos") * params.get(state, "tempo", netuid)
    PENDING.put(state, netuid, hotkey, value=Pending(wanted, ripe_at))
    context.events.append(SCHEDULED(hotkey, netuid, wanted, ripe_at))


def _held_rao(state: ReadState, netuid: int, hotkey: bytes) -> int:
    """Active stake on a hotkey, in the subnet and on root."""
    return pools.pool(state, netuid, hotkey).value_rao + pools.pool(state, ROOT_NETUID, hotkey).value_rao


def _check_children(state: ReadState, netuid: int, hotkey: bytes, children: Shares) -> None:
    named = [child for _, child in children]
    if netuid == ROOT_NETUID or hotkey in named:
        refuse("InvalidChild")
    if len(dict.fromkeys(named)) != len(named):
        refuse("DuplicateChild")
    if sum(share for share, _ in children) > U64_MAX:
        refuse("ProportionOverflow")
    if any(parent in named for _, parent in parents_of(state, netuid, hotkey)):
        refuse("ChildParentInconsistency")
    for child in named:
        if hotkeys.owner_of(state, child) is None:
            refuse("HotKeyAccountNotExists", "a child is not known to the chain", child=child.hex())


@call(47, "children.set_take", {"hotkey": KEY, "netuid": U16, "take": U16}, work=10)
def set_take(context: Context, hotkey: bytes, netuid: int, take: int) -> None:
    """Set what a child keeps of its parents' dividends; a raise acts from the payout after the next epoch."""
    state = context.state
    subnets.subnet(state, netuid)
    hotkeys.require_owner(context, hotkey)
    low, high = params.get(state, "min_childkey_take", netuid), params.get(state, "max_childkey_take")
    if netuid == ROOT_NETUID or not low <= take <= high:
        refuse("InvalidChildkeyTake", f"a take is within {low}..{high}")
    old = child_take(state, netuid, hotkey)
    announced = old.take if old.next_take is None else old.next_take
    if take <= announced:
        row = stake.lowered(old, take, context.height)
    else:
        limit = params.get(state, "childkey_take_rate_limit")
        if old.changed_at is not None and context.height - old.changed_at < limit:
            refuse("TxChildkeyTakeRateLimitExceeded", f"it can be raised again at height {old.changed_at + limit}")
        row = stake.raised(old, take, context.height)
    TAKES.put(state, netuid, hotkey, value=row)
    context.events.append(CHILD_TAKE_SET(hotkey, netuid, announced, take, row.announced_at))


# --- coming into force -------------------------------------------------------------------------------------------


@hooks.end_epoch()
def apply_ripe(context: Context, netuid: int, epoch_index: int) -> None:
    """Children that have waited long enough count from the next epoch on.

    At most MAX_APPLIED parents an epoch, so that a crowd of them stops no block: those who end relations first, then those
    with most stake; others wait for the next epoch, and who has none by now named its children in vain.
    """
    state = context.state
    ripe = [(parent, row.children) for (_, parent), row in PENDING.items(state, netuid) if row.ripe_at <= context.height]
    ranked = sorted((bool(named), -_held_rao(state, netuid, parent), parent, named) for parent, named in ripe)
    applied = 0
    for some, held_rao, parent, named in ranked:
        if some and not held_rao:
            PENDING.delete(state, netuid, parent)
            context.events.append(CHILDREN_SET(parent, netuid, children_of(state, netuid, parent)))
        elif applied < MAX_APPLIED:
            applied += 1
            PENDING.delete(state, netuid, parent)
            _apply(context, netuid, parent, named)


def _apply(context: Context, netuid: int, parent: bytes, children: Shares) -> None:
    """Replace the children of a hotkey. What has become impossible since is left out."""
    state = context.state
    for _, child in children_of(state, netuid, parent):
        _put(PARENTS, context, netuid, child, [row for row in parents_of(state, netuid, child) if row[1] != parent])
    _put(CHILDREN, context, netuid, parent, [])
    mine = [row[1] for row in parents_of(state, netuid, parent)]
    kept = []
    for share, child in children:
        if child == parent:  # since it was named, the parent's hotkey was swapped to it
            context.events.append(RELATION_ENDED(parent, netuid, child, "InvalidChild"))
        elif child in mine:
            context.events.append(RELATION_ENDED(parent, netuid, child, "ChildParentInconsistency"))
        elif _make_room(context, netuid, child, parent, share):
            rows = [*parents_of(state, netuid, child), [share, parent]]
            _put(PARENTS, context, netuid, child, sorted(rows, key=lambda pair: pair[1]))
            kept.append([share, child])
    _put(CHILDREN, context, netuid, parent, kept)
    context.events.append(CHILDREN_SET(parent, netuid, kept))


def _make_room(context: Context, netuid: int, child: bytes, parent: bytes, share: int) -> bool:
    """Whether a child takes one more parent: if it is full, the one that lends least goes, or the new one stays out."""
    state = context.state
    rows = parents_of(state, netuid, child)
    if len(rows) < MAX_PARENTS:
        return True

    def lent(part: int, who: bytes) -> int:
        return (pools.pool(state, netuid, who).consensus_rao + pools.pool(state, ROOT_NETUID, who).consensus_rao) * part

    least = min(rows, key=lambda row: (lent(*row), row[1]))
    loser = least[1] if lent(share, parent) > lent(*least) else parent
    context.events.append(RELATION_ENDED(loser, netuid, child, "TooManyParents"))
    if loser == parent:
        return False
    _put(PARENTS, context, netuid, child, [row for row in rows if row[1] != loser])
    _put(CHILDREN, context, netuid, loser, [row for row in children_of(state, netuid, loser) if row[1] != child])
    return True


def _put(table: Table[Shares], context: Context, netuid: int, hotkey: bytes, rows: Shares) -> None:
    if rows:
        table.put(context.state, netuid, hotkey, value=rows)
    else:
        table.delete(context.state, netuid, hotkey)


def end_relations(context: Context, netuid: int, limit: int) -> int:
    """End relations of a subnet that is being dissolved; returns how many parents were found, at most `limit`."""
    found = [parent for (_, parent), _ in islice(CHILDREN.items(context.state, netuid), limit)]
    for parent in found:
        _apply(context, netuid, parent, [])
    return len(found)


@hooks.hotkey_swapped
def move_relations(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """Children and parents follow, on both sides."""
    state = context.state
    for _, child in children_of(state, netuid, old):
        _rename(PARENTS, context, netuid, child, old, new)
    for _, parent in parents_of(state, netuid, old):
        _rename(CHILDREN, context, netuid, parent, old, new)
    for table in (CHILDREN, PARENTS, PENDING, CHANGED_AT, TAKES):
        table.move(state, (netuid, old), (netuid, new))


def _rename(table: Table[Shares], context: Context, netuid: int, hotkey: bytes, old: bytes, new: bytes) -> None:
    rows = [[share, new if other == old else other] for share, other in table.get(context.state, netuid, hotkey) or []]
    _put(table, context, netuid, hotkey, sorted(rows, key=lambda pair: pair[1]))


# --- audit -------------------------------------------------------------------------------------------------------


@hooks.invariant("I6 children and parents mirror each other")
def audit(state: ReadState) -> Iterator[str]:
    """Each relation is stored on both sides with one share; shares fit the whole; numbers are within their limits."""
    down = {(net, parent, child): share for (net, parent), rows in CHILDREN.items(state) for share, child in rows}
    up = {(net, parent, child): share for (net, child), rows in PARENTS.items(state) for share, parent in rows}
    for relation in sorted({**down, **up}):
        if down.get(relation) != up.get(relation):
            netuid, parent, child = relation
            yield f"{parent.hex()[:8]} -> {child.hex()[:8]} in subnet {netuid}: {down.get(relation)} and {up.get(relation)}"
    for (netuid, parent), rows in CHILDREN.items(state):
        if len(rows) > MAX_CHILDREN or sum(share for share, _ in rows) > U64_MAX:
            yield f"{parent.hex()[:8]} lends too much in subnet {netuid}"
        if any(hotkeys.owner_of(state, child) is None for _, child in rows):
            yield f"{parent.hex()[:8]} has a child in subnet {netuid} that nobody owns"
    for (netuid, child), rows in PARENTS.items(state):
        if len(rows) > MAX_PARENTS:
            yield f"{child.hex()[:8]} has {len(rows)} parents in subnet {netuid}"
