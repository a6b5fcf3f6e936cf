"""Registration: an auction settled one block later, bonds, pruning, and root seats (2.3, 2.4, 2.6).

    block b      `register` checks, reserves the bidder's `max_price` and queues the bid
    block b + 1  per subnet the highest bids win, at most `max_regs_per_block`; all winners pay one price: the higher of
                 the price now and the best bid that lost for want of room. Half of it is recycled, half is a bond that
                 comes back in ten parts at the subnet's next ten epochs

The order of transactions inside a block buys nothing. Ties are broken by a hash over the certificate of block b, which
nobody knows when bidding. A full subnet replaces the neuron with the lowest score, at most a sixteenth of its uids per
immunity period; who is replaced gets the rest of the bond back.

Rules: REG-3 bids · REG-4 settlement · REG-5 bond of a neuron · REG-10 root seats
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ledger.codec import KEY, U16, U64, unpack_u64
from ledger.crypto import digest

from .. import hooks, params
from ..params import ROOT_NETUID
from ..pruning import Candidate, prune_limit, uid_to_prune
from ..registry import Context, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field
from . import accounts, hotkeys, neurons, pools, subnets

BOND_PARTS: Final = 10  # a bond is returned in this many epochs
ROOT_SEATS: Final = 64


@dataclass(frozen=True)
class Bid:
    """A registration that is settled at the start of the next block; `max_price_rao` is reserved."""

    netuid: int
    hotkey: bytes
    max_price_rao: int


@dataclass(frozen=True)
class Bond:
    """What is left of a neuron's bond, reserved on `coldkey`."""

    coldkey: bytes
    left_rao: int
    parts_left: int


@dataclass(frozen=True)
class Churn:
    """How many uids were replaced since block `since` (root: how many seats were given in block `since`)."""

    since: int
    replaced: int


BIDS = Table(29, "registration_bid", Bid, key_field("coldkey"))
BONDS = Table(30, "registration_bond", Bond, u16_field("netuid"), u16_field("uid"))
CHURN = Table(31, "churn", Churn, u16_field("netuid"))

REGISTRATION_QUEUED = event(24, "RegistrationQueued", "netuid", "coldkey", "hotkey", "max_price_rao")
REGISTRATION_SETTLED = event(25, "RegistrationSettled", "netuid", "price_rao", "winners", "losers")
BOND_RETURNED = event(26, "BondReturned", "coldkey", "netuid", "uid", "amount_rao")

error(25, "RegistrationNotPermittedOnRootSubnet", "root has seats, not registrations", "use neurons.root_register")
error(26, "SubNetRegistrationDisabled", "the subnet takes no registrations now")
error(27, "RegistrationPending", "this coldkey has an open registration", "one registration per coldkey and block")
error(28, "RegistrationPriceLimitExceeded", "the registration costs more than max_price", "raise max_price")
error(29, "NoNeuronIdAvailable", "the subnet is full and no neuron may be replaced now", "try again later")
error(30, "TooManyRegistrationsThisBlock", "root gave out its seats of this block", "try again in the next block")
error(31, "StakeTooLowForRoot", "all root seats are taken by hotkeys with at least as much stake", "add root stake")


@hooks.deposit
def reserved_for_registration(state: ReadState) -> Iterator[tuple[bytes, int]]:
    """Bids and bonds are parts of reserved balances."""
    for (coldkey,), bid in BIDS.items(state):
        yield coldkey, bid.max_price_rao
    for _, bond in BONDS.items(state):
        yield bond.coldkey, bond.left_rao


# --- bids --------------------------------------------------------------------------------------------------------


@call(20, "neurons.register", {"netuid": U16, "hotkey": KEY, "max_price_rao": U64}, work=20)
def register(context: Context, netuid: int, hotkey: bytes, max_price_rao: int) -> None:
    """Bid for a uid in a subnet, at most `max_price_rao`; bids are settled together at the start of the next block."""
    state, coldkey = context.state, context.signer
    problem = bid_problem(state, netuid, hotkey, coldkey)
    if problem:
        refuse(problem)
    price_rao = subnets.registration_price_rao(state, netuid, context.height)
    if price_rao > max_price_rao:
        refuse("RegistrationPriceLimitExceeded", price_rao=price_rao)
    if BIDS.get(state, coldkey) is not None:
        refuse("RegistrationPending")
    if not free_uids(state, netuid) and not replacements_left(state, netuid, context.height):
        refuse("NoNeuronIdAvailable")
    accounts.require_valid_key(hotkey)
    accounts.reserve(context, coldkey, max_price_rao)
    BIDS.put(state, coldkey, value=Bid(netuid, hotkey, max_price_rao))
    context.events.append(REGISTRATION_QUEUED(netuid, coldkey, hotkey, max_price_rao))


def bid_problem(state: ReadState, netuid: int, hotkey: bytes, coldkey: bytes) -> str:
    """What forbids a registration whatever it pays, or "". Checked for the bid and again for its settlement."""
    if netuid == ROOT_NETUID:
        return "RegistrationNotPermittedOnRootSubnet"
    if subnets.SUBNETS.get(state, netuid) is None:
        return "SubnetNotExists"
    if subnets.is_dissolving(state, netuid):
        return "SubnetDissolving"
    if not params.is_on(state, "registration_allowed", netuid):
        return "SubNetRegistrationDisabled"
    if neurons.uid_of(state, netuid, hotkey) is not None:
        return "HotKeyAlreadyRegisteredInSubNet"
    return "" if hotkeys.may_own(state, hotkey, coldkey) else "NonAssociatedColdKey"


def auction_rank(coldkey: bytes, bid: Bid, beacon: bytes) -> tuple[int, bytes]:
    """Sort key of a bid: higher price first, ties by a hash nobody could choose."""
    return -bid.max_price_rao, digest("auction", coldkey, bid.hotkey, beacon)


@hooks.begin_block(hooks.ORDER_SETTLE)
def settle_registrations(context: Context) -> None:
    """Settle all bids of the previous block, subnet by subnet."""
    by_subnet: dict[int, list[tuple[bytes, Bid]]] = {}
    for (coldkey,), bid in list(BIDS.items(context.state)):
        BIDS.delete(context.state, coldkey)
        by_subnet.setdefault(bid.netuid, []).append((coldkey, bid))
    beacon = context.block.beacon
    for netuid in sorted(by_subnet):
        _settle(context, netuid, sorted(by_subnet[netuid], key=lambda entry: auction_rank(entry[0], entry[1], beacon)))


def _settle(context: Context, netuid: int, bids: list[tuple[bytes, Bid]]) -> None:
    """The first bids win as long as there is room; all pay the best bid that found none, at least the price now."""
    state = context.state
    price_rao = subnets.registration_price_rao(state, netuid, context.height)
    pruned = uids_to_prune(state, netuid, context.height, params.get(state, "max_regs_per_block", netuid))
    room = min(params.get(state, "max_regs_per_block", netuid), free_uids(state, netuid) + len(pruned))
    winners: dict[bytes, tuple[bytes, Bid]] = {}
    losers: list[bytes] = []
    paid_rao = price_rao
    for coldkey, bid in bids:
        valid = bid.max_price_rao >= price_rao and not bid_problem(state, netuid, bid.hotkey, coldkey)
        if valid and bid.hotkey not in winners and len(winners) < room:
            winners[bid.hotkey] = (coldkey, bid)
            continue
        if valid and bid.hotkey not in winners:
            paid_rao = max(paid_rao, bid.max_price_rao)
        losers.append(bid.hotkey)
        accounts.unreserve(context, coldkey, bid.max_price_rao)
    for coldkey, bid in winners.values():
        _register_winner(context, netuid, coldkey, bid, paid_rao, pruned)
    if winners:
        subnets.bump_price(context, netuid, len(winners))
    context.events.append(REGISTRATION_SETTLED(netuid, paid_rao, list(winners), losers))


def _register_winner(
    context: Context, netuid: int, coldkey: bytes, bid: Bid, paid_rao: int, pruned: list[int]
) -> None:
    """Take the price, give the uid: half is recycled, half stays reserved as the neuron's bond."""
    accounts.unreserve(context, coldkey, bid.max_price_rao - paid_rao)
    bond_rao = paid_rao // 2
    accounts.burn_reserved(context, coldkey, paid_rao - bond_rao, "registration")
    hotkeys.associate(context, bid.hotkey, coldkey)
    uid = replaced = None
    if not free_uids(context.state, netuid):
        uid = pruned.pop(0)
        replaced = _prune(context, netuid, uid)
    uid = neurons.place(context, netuid, bid.hotkey, uid)
    BONDS.put(context.state, netuid, uid, value=Bond(coldkey, bond_rao, BOND_PARTS))
    context.events.append(neurons.NEURON_REGISTERED(netuid, uid, bid.hotkey, paid_rao, replaced))


# --- bonds -------------------------------------------------------------------------------------------------------


@hooks.end_epoch(order=20)
def return_bonds(context: Context, netuid: int, epoch_index: int) -> None:
    """One part of every bond of the subnet comes back."""
    for (_, uid), bond in list(BONDS.items(context.state, netuid)):
        part_rao = bond.left_rao // bond.parts_left
        if bond.parts_left == 1:
            BONDS.delete(context.state, netuid, uid)
        else:
            left = Bond(bond.coldkey, bond.left_rao - part_rao, bond.parts_left - 1)
            BONDS.put(context.state, netuid, uid, value=left)
        _give_back(context, bond.coldkey, netuid, uid, part_rao)


@hooks.neuron_removed
def forfeit_bond(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """Who leaves loses the rest of the bond; a neuron that is pruned has got it back before."""
    bond = BONDS.get(context.state, netuid, uid)
    if bond is not None:
        BONDS.delete(context.state, netuid, uid)
        accounts.burn_reserved(context, bond.coldkey, bond.left_rao, "bond")


@hooks.coldkey_swapped
def move_bonds(context: Context, old: bytes, new: bytes) -> int:
    """The bonds of a coldkey's neurons are reserved on another one."""
    state, moved_rao = context.state, 0
    where = subnets.netuids(state)
    for hotkey in hotkeys.hotkeys_of(state, old) + hotkeys.hotkeys_of(state, new):
        for netuid in where:
            uid = neurons.uid_of(state, netuid, hotkey)
            bond = None if uid is None else BONDS.get(state, netuid, uid)
            if uid is not None and bond is not None:
                BONDS.put(state, netuid, uid, value=replace(bond, coldkey=new))
                moved_rao += bond.left_rao
    return moved_rao


def release_bond(context: Context, netuid: int, uid: int) -> None:
    """Give back all that is left of a bond, before its neuron goes through no call of its own."""
    bond = BONDS.get(context.state, netuid, uid)
    if bond is not None:
        BONDS.delete(context.state, netuid, uid)
        _give_back(context, bond.coldkey, netuid, uid, bond.left_rao)


def _give_back(context: Context, coldkey: bytes, netuid: int, uid: int, amount_rao: int) -> None:
    if amount_rao:
        accounts.unreserve(context, coldkey, amount_rao)
        context.events.append(BOND_RETURNED(coldkey, netuid, uid, amount_rao))


# --- 2.4 room for new neurons ------------------------------------------------------------------------------------


def free_uids(state: ReadState, netuid: int) -> int:
    """Uids that can be given without replacing anybody."""
    row = subnets.subnet(state, netuid)
    return len(row.vacant) + max(0, params.get(state, "max_allowed_uids", netuid) - row.n)


def replacements_left(state: ReadState, netuid: int, block: int) -> int:
    """How many uids may still be replaced in this immunity period."""
    churn = _churn(state, netuid, block)
    return max(0, prune_limit(subnets.subnet(state, netuid).n) - churn.replaced)


def uids_to_prune(state: ReadState, netuid: int, block: int, wanted: int) -> list[int]:
    """The uids that registrations would replace one after the other, at most `wanted`."""
    wanted = min(wanted - free_uids(state, netuid), replacements_left(state, netuid, block))
    if wanted <= 0:
        return []
    held = neurons.all_neurons(state, netuid)
    score = unpack_u64(neurons.scores(state, netuid).score)
    left = {uid: Candidate(score[uid], row.registered_at, uid) for uid, row in held.items() if row.registered_at < block}
    protected = protected_uids(state, netuid, held)
    out: list[int] = []
    while len(out) < wanted:
        uid = uid_to_prune(
            list(left.values()), block, immunity_period=params.get(state, "immunity_period", netuid),
            min_non_immune=params.get(state, "min_non_immune_uids", netuid), protected=protected,
        )
        if uid is None:
            break
        out.append(uid)
        del left[uid]
    return out


def protected_uids(state: ReadState, netuid: int, held: dict[int, neurons.Neuron]) -> list[int]:
    """The owner's neurons that are never replaced: the declared hotkey first, then the oldest."""
    record = subnets.subnet(state, netuid)
    owned = [
        (row.hotkey != record.owner_hotkey, row.registered_at, uid) for uid, row in held.items()
        if hotkeys.owner_of(state, row.hotkey) == record.owner_coldkey
    ]
    return [uid for _, _, uid in sorted(owned)[: params.get(state, "immune_owner_uids_limit", netuid)]]


def _prune(context: Context, netuid: int, uid: int) -> bytes:
    """Replace a neuron through no call of its own: the rest of its bond comes back."""
    bond = BONDS.get(context.state, netuid, uid)
    if bond is not None:
        BONDS.delete(context.state, netuid, uid)
        _give_back(context, bond.coldkey, netuid, uid, bond.left_rao)
    churn = _churn(context.state, netuid, context.height)
    CHURN.put(context.state, netuid, value=replace(churn, replaced=churn.replaced + 1))
    return neurons.remove(context, netuid, uid)


def _churn(state: ReadState, netuid: int, block: int) -> Churn:
    """The running counter; it starts anew when an immunity period has passed."""
    churn = CHURN.get(state, netuid)
    if churn is None or block - churn.since >= params.get(state, "immunity_period", netuid):
        return Churn(block, 0)
    return churn


# --- 2.6 root seats ----------------------------------------------------------------------------------------------


@call(21, "neurons.root_register", {"hotkey": KEY}, work=60)
def root_register(context: Context, hotkey: bytes) -> None:
    """Take a root seat; if all are taken, that of the member with the least root stake, if this one has more."""
    state = context.state
    hotkeys.require_owner(context, hotkey)
    if neurons.uid_of(state, ROOT_NETUID, hotkey) is not None:
        refuse("HotKeyAlreadyRegisteredInSubNet")
    given = CHURN.get(state, ROOT_NETUID)
    seats = given.replaced if given is not None and given.since == context.height else 0
    if seats >= params.get(state, "max_regs_per_block", ROOT_NETUID):
        refuse("TooManyRegistrationsThisBlock")
    uid = replaced = None
    members = neurons.all_neurons(state, ROOT_NETUID)
    if len(members) >= ROOT_SEATS:
        least, uid = min((_root_stake(state, row.hotkey), uid) for uid, row in members.items())
        if _root_stake(state, hotkey) <= least:
            refuse("StakeTooLowForRoot", least_rao=least)
        replaced = neurons.remove(context, ROOT_NETUID, uid)
    CHURN.put(state, ROOT_NETUID, value=Churn(context.height, seats + 1))
    uid = neurons.place(context, ROOT_NETUID, hotkey, uid)
    context.events.append(neurons.NEURON_REGISTERED(ROOT_NETUID, uid, hotkey, 0, replaced))


def _root_stake(state: ReadState, hotkey: bytes) -> int:
    return pools.pool(state, ROOT_NETUID, hotkey).consensus_rao
