"""Neurons: which hotkey has which uid in a subnet, and what the last epoch said about it (2.4).

Uids are dense, 0..n-1. A new neuron takes the lowest vacant uid, else the next one, else (registration) the uid of a
neuron that is pruned. Nobody's uid ever changes. Others' weights towards a uid stay where they are: an epoch ignores those
that are not younger than the registration of the neuron that has the uid now.

Rules: REG-6 uids
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger.codec import KEY, U16

from .. import hooks, params
from ..registry import Context, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field
from . import hotkeys, subnets


@dataclass(frozen=True)
class Neuron:
    """The occupant of a uid; all numbers are blocks.

    `active_at`: last applied weights, else registration. `weights_at`: set, or commit, of the applied weights.
    `updated_at`: last set or commit, else registration; the rate limit counts from it.
    """

    hotkey: bytes
    registered_at: int
    active_at: int
    weights_at: int | None
    updated_at: int


@dataclass(frozen=True)
class Scores:
    """Outcome of a subnet's last epoch by uid, packed little-endian: flags u8, shares u16, rao and pruning score u64."""

    active: bytes = b""
    permit: bytes = b""
    stake_weight: bytes = b""
    trust: bytes = b""
    consensus: bytes = b""
    incentive: bytes = b""
    dividends: bytes = b""
    validator_trust: bytes = b""
    emission_rao: bytes = b""
    score: bytes = b""


SCORE_BYTES: Final = {
    "active": 1, "permit": 1, "stake_weight": 2, "trust": 2, "consensus": 2, "incentive": 2, "dividends": 2,
    "validator_trust": 2, "emission_rao": 8, "score": 8,
}

UIDS = Table(26, "uid", int, u16_field("netuid"), key_field("hotkey"))
NEURONS = Table(27, "neuron", Neuron, u16_field("netuid"), u16_field("uid"))
SCORES = Table(28, "scores", Scores, u16_field("netuid"))

NEURON_REGISTERED = event(22, "NeuronRegistered", "netuid", "uid", "hotkey", "price_rao", "replaced")
NEURON_UNREGISTERED = event(23, "NeuronUnregistered", "netuid", "uid", "hotkey")

error(23, "HotKeyAlreadyRegisteredInSubNet", "the hotkey has a uid in this subnet already")
error(24, "HotKeyNotRegisteredInSubNet", "the hotkey has no uid in this subnet", "register it first")


# --- reads -------------------------------------------------------------------------------------------------------


def uid_of(state: ReadState, netuid: int, hotkey: bytes) -> int | None:
    """Uid of a hotkey in a subnet, or None."""
    return UIDS.get(state, netuid, hotkey)


def require_uid(state: ReadState, netuid: int, hotkey: bytes) -> int:
    """Uid of a hotkey; refuses HotKeyNotRegisteredInSubNet."""
    uid = UIDS.get(state, netuid, hotkey)
    if uid is None:
        refuse("HotKeyNotRegisteredInSubNet", netuid=netuid)
    return uid


def neuron(state: ReadState, netuid: int, uid: int) -> Neuron | None:
    """The neuron under a uid; None if the uid is vacant or does not exist."""
    return NEURONS.get(state, netuid, uid)


def all_neurons(state: ReadState, netuid: int) -> dict[int, Neuron]:
    """Neurons by uid, ascending; vacant uids are missing."""
    return {uid: row for (_, uid), row in NEURONS.items(state, netuid)}


def scores(state: ReadState, netuid: int) -> Scores:
    """Packed outcome of the last epoch."""
    return SCORES.get(state, netuid) or Scores()


def has_permit(state: ReadState, netuid: int, uid: int) -> bool:
    """True if the uid may set weights."""
    permit = scores(state, netuid).permit
    return uid < len(permit) and permit[uid] == 1


def coldkey_of(state: ReadState, hotkey: bytes) -> bytes:
    """Owner of a registered hotkey."""
    owner = hotkeys.owner_of(state, hotkey)
    assert owner is not None, "a registered hotkey has no owner"
    return owner


# --- uids --------------------------------------------------------------------------------------------------------


def place(context: Context, netuid: int, hotkey: bytes, uid: int | None = None) -> int:
    """Give a hotkey a uid: `uid` if given (just freed by `remove`), else the lowest vacant one, else the next."""
    state, now = context.state, context.height
    row = subnets.subnet(state, netuid)
    if uid is None:
        uid = row.vacant[0] if row.vacant else row.n
    vacant = [other for other in row.vacant if other != uid]
    subnets.SUBNETS.put(state, netuid, value=replace(row, n=max(row.n, uid + 1), vacant=vacant))
    UIDS.put(state, netuid, hotkey, value=uid)
    NEURONS.put(state, netuid, uid, value=Neuron(hotkey, now, now, None, now))
    _put_scores(context, netuid, uid, active=1)
    return uid


def remove(context: Context, netuid: int, uid: int) -> bytes:
    """Free a uid and return the hotkey it had: its rows, records and scores go."""
    state = context.state
    row = NEURONS.get(state, netuid, uid)
    assert row is not None, f"uid {uid} of subnet {netuid} is vacant"
    hooks.run_neuron_removed(context, netuid, uid, row.hotkey)
    UIDS.delete(state, netuid, row.hotkey)
    NEURONS.delete(state, netuid, uid)
    _put_scores(context, netuid, uid, active=0)
    record = subnets.subnet(state, netuid)
    vacant = list(record.vacant)
    insort(vacant, uid)
    subnets.SUBNETS.put(state, netuid, value=replace(record, vacant=vacant))
    return row.hotkey


@hooks.hotkey_swapped
def rename(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """The uid and the age of a neuron stay; an owner's declared hotkey follows."""
    uid = uid_of(context.state, netuid, old)
    if uid is not None:
        row = NEURONS.get(context.state, netuid, uid)
        assert row is not None
        UIDS.delete(context.state, netuid, old)
        UIDS.put(context.state, netuid, new, value=uid)
        NEURONS.put(context.state, netuid, uid, value=replace(row, hotkey=new))
    record = subnets.subnet(context.state, netuid)
    if record.owner_hotkey == old:
        subnets.SUBNETS.put(context.state, netuid, value=replace(record, owner_hotkey=new))


def _put_scores(context: Context, netuid: int, uid: int, **flags: int) -> None:
    """Zero a uid's scores but for the given flags; a uid beyond the end appends."""
    old = scores(context.state, netuid)
    changed: dict[str, Any] = {}
    for name, width in SCORE_BYTES.items():
        packed: bytes = getattr(old, name)
        fresh = flags.get(name, 0).to_bytes(width, "little")
        changed[name] = packed[: uid * width] + fresh + packed[(uid + 1) * width :]
    SCORES.put(context.state, netuid, value=Scores(**changed))


@call(22, "neurons.unregister", {"netuid": U16, "hotkey": KEY}, work=20)
def unregister(context: Context, netuid: int, hotkey: bytes) -> None:
    """Give up a uid; what is left of its bond is recycled. Stake stays where it is."""
    subnets.subnet(context.state, netuid)
    hotkeys.require_owner(context, hotkey)
    uid = require_uid(context.state, netuid, hotkey)
    remove(context, netuid, uid)
    context.events.append(NEURON_UNREGISTERED(netuid, uid, hotkey))


def genesis_register(context: Context, netuid: int, hotkey: bytes, coldkey: bytes, *, permit: bool = False) -> int:
    """Register a neuron (or, with netuid 0, give a root seat) in genesis, free of charge; returns its uid.

    `permit` lets it set weights, and vote in the first epoch.
    """
    assert hotkeys.may_own(context.state, hotkey, coldkey), "the hotkey is another coldkey's"
    assert uid_of(context.state, netuid, hotkey) is None, "the hotkey has a uid already"
    hotkeys.associate(context, hotkey, coldkey)
    uid = place(context, netuid, hotkey)
    if permit:
        _put_scores(context, netuid, uid, active=1, permit=1)
    context.events.append(NEURON_REGISTERED(netuid, uid, hotkey, 0, None))
    return uid


@hooks.param_rule
def room_for_neurons(state: ReadState, netuid: int) -> str:
    """A subnet cannot shrink below the uids it has given out."""
    row = subnets.SUBNETS.get(state, netuid)
    most = params.get(state, "max_allowed_uids", netuid)
    return f"max_allowed_uids is {most}, but {row.n} uids are in use" if row is not None and row.n > most else ""


# --- audit -------------------------------------------------------------------------------------------------------


@hooks.invariant("I3 uids are dense")
def audit_uids(state: ReadState) -> Iterator[str]:
    """Every uid below n has exactly one hotkey or is vacant, and hotkeys and uids name each other."""
    for (netuid,), row in subnets.SUBNETS.items(state):
        held = all_neurons(state, netuid)
        named = {uid: hotkey for (_, hotkey), uid in UIDS.items(state, netuid)}
        if list(held) != list(subnets.occupied_uids(row)):
            yield f"subnet {netuid} has n = {row.n}, vacant {row.vacant}, but neurons at {list(held)}"
        if named != {uid: entry.hotkey for uid, entry in held.items()}:
            yield f"hotkeys and uids of subnet {netuid} do not name each other"
        if any(hotkeys.owner_of(state, entry.hotkey) is None for entry in held.values()):
            yield f"a neuron of subnet {netuid} has a hotkey that nobody owns"


@hooks.invariant("I4 score vectors have length n")
def audit_scores(state: ReadState) -> Iterator[str]:
    """Each vector of the last epoch's outcome has one entry per uid."""
    for (netuid,), row in subnets.SUBNETS.items(state):
        held = scores(state, netuid)
        for name, width in SCORE_BYTES.items():
            if len(getattr(held, name)) != row.n * width:
                yield f"{name} of subnet {netuid} has {len(getattr(held, name))} bytes, expected {row.n * width}"
