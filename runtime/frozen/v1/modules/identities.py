"""Identities and commitments: what people, subnets and neurons say about themselves (5.2, 5.3).

An identity holds a few short texts and the hash of a longer document that lives elsewhere; a deposit is reserved for as
long as it stands. A subnet's identity also names its kind of task, by which validators choose how to judge. A commitment
is data that a neuron publishes, such as the hash of its model: a few fields, within a space per epoch. With
`bonds_reset_on`, a commitment may say that the neuron is something new: the bonds on it are dropped.

Rules: IDN-1 identities · IDN-2 identity of a subnet · IDN-3 commitments · IDN-4 reset of bonds
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from ledger.codec import BOOL, U16, Bytes, ListOf, Record, Text

from .. import hooks, params
from ..params import Q
from ..registry import Context, Priority, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field
from . import accounts, hotkeys, neurons, subnets, weights

MAX_TEXT_BYTES: Final = 512  # of all texts of an identity together
IDENTITY_DEPOSIT_RAO: Final = Q // 10
MAX_FIELDS: Final = 3
MAX_FIELD_BYTES: Final = 1024
LEAST_COUNTED_BYTES: Final = 100  # a commitment counts as at least so much
SPACE_PER_EPOCH_BYTES: Final = 3100  # of one neuron

CONTENT: Final = Bytes(high=32, name="hash of 32 bytes, or none")
IDENTITY: Final = Record("identity", name=Text(64), url=Text(256), about=Text(512), content_hash=CONTENT)
SUBNET_IDENTITY: Final = Record(
    "subnet identity", name=Text(64), url=Text(256), about=Text(512), task=Text(32), content_hash=CONTENT
)


@dataclass(frozen=True)
class Identity:
    """Texts, and the hash of a document that says more (or none). `task` is empty but for subnets."""

    name: str
    url: str
    about: str
    task: str
    content_hash: bytes


@dataclass(frozen=True)
class Commitment:
    """What a neuron published last, in which block, and the space it used in the epoch `epoch`."""

    fields: list[bytes]
    block: int
    epoch: int
    used_bytes: int


IDENTITIES = Table(122, "identity", Identity, key_field("coldkey"))
SUBNET_IDENTITIES = Table(123, "subnet_identity", Identity, u16_field("netuid"))
COMMITMENTS = Table(84, "commitment", Commitment, u16_field("netuid"), key_field("hotkey"))

IDENTITY_SET = event(140, "IdentitySet", "coldkey")
IDENTITY_CLEARED = event(141, "IdentityCleared", "coldkey")
SUBNET_IDENTITY_SET = event(142, "SubnetIdentitySet", "netuid")
COMMITTED = event(143, "Commitment", "netuid", "hotkey")
BONDS_RESET = event(144, "BondsReset", "netuid", "uid")

error(140, "InvalidIdentity", f"the texts exceed {MAX_TEXT_BYTES} bytes together, or the hash has another length")
error(141, "SpaceLimitExceeded", f"a neuron commits at most {SPACE_PER_EPOCH_BYTES} bytes an epoch", "wait for the next epoch")
error(142, "NoIdentity", "the account has no identity")


# --- reads -------------------------------------------------------------------------------------------------------


def identity_of(state: ReadState, coldkey: bytes) -> Identity | None:
    return IDENTITIES.get(state, coldkey)


def subnet_identity_of(state: ReadState, netuid: int) -> Identity | None:
    return SUBNET_IDENTITIES.get(state, netuid)


def commitment_of(state: ReadState, netuid: int, hotkey: bytes) -> Commitment | None:
    return COMMITMENTS.get(state, netuid, hotkey)


# --- identities --------------------------------------------------------------------------------------------------


@call(140, "identities.set", {"identity": IDENTITY}, work=12)
def set_identity(context: Context, identity: list[Any]) -> None:
    """Say who the signer is; it owns a hotkey. A deposit is reserved until the identity is cleared."""
    name, url, about, content_hash = identity
    value = _checked(Identity(name, url, about, "", content_hash))
    if not hotkeys.hotkeys_of(context.state, context.signer):
        refuse("HotKeyAccountNotExists", "an identity is for coldkeys that own a hotkey")
    if identity_of(context.state, context.signer) is None:
        accounts.reserve(context, context.signer, IDENTITY_DEPOSIT_RAO)
    IDENTITIES.put(context.state, context.signer, value=value)
    context.events.append(IDENTITY_SET(context.signer))


@call(141, "identities.clear", {}, work=12)
def clear_identity(context: Context) -> None:
    """Take the signer's identity back, with its deposit."""
    if identity_of(context.state, context.signer) is None:
        refuse("NoIdentity")
    IDENTITIES.delete(context.state, context.signer)
    accounts.unreserve(context, context.signer, IDENTITY_DEPOSIT_RAO)
    context.events.append(IDENTITY_CLEARED(context.signer))


@call(142, "subnets.set_identity", {"netuid": U16, "identity": SUBNET_IDENTITY}, work=12)
def set_subnet_identity(context: Context, netuid: int, identity: list[Any]) -> None:
    """Say what a subnet is for, and the kind of its tasks; by its owner."""
    row = subnets.subnet(context.state, netuid)
    if row.owner_coldkey != context.signer:
        refuse("NotSubnetOwner", netuid=netuid)
    SUBNET_IDENTITIES.put(context.state, netuid, value=_checked(Identity(*identity)))
    context.events.append(SUBNET_IDENTITY_SET(netuid))


def _checked(identity: Identity) -> Identity:
    used = sum(len(text.encode()) for text in (identity.name, identity.url, identity.about, identity.task))
    if used > MAX_TEXT_BYTES or len(identity.content_hash) not in (0, 32):
        refuse("InvalidIdentity", text_bytes=used)
    return identity


# --- commitments -------------------------------------------------------------------------------------------------


def _check_commitment(context: Context, netuid: int, fields: list[bytes], reset_bonds: bool) -> None:
    neurons.require_uid(context.state, netuid, context.signer)
    _space_after(context, netuid, fields)


def _space_after(context: Context, netuid: int, fields: list[bytes]) -> int:
    """Bytes that the signer has used in the running epoch with this commitment; refuses SpaceLimitExceeded."""
    before, epoch = commitment_of(context.state, netuid, context.signer), subnets.tempo(context.state, netuid).epoch_index
    used = before.used_bytes if before is not None and before.epoch == epoch else 0
    used += max(LEAST_COUNTED_BYTES, sum(len(part) for part in fields))
    if used > SPACE_PER_EPOCH_BYTES:
        refuse("SpaceLimitExceeded", used_bytes=used)
    return used


def _is_registered(context: Context, netuid: int, *_: object) -> bool:
    return neurons.uid_of(context.state, netuid, context.signer) is not None


@call(
    83, "serving.set_commitment",
    {"netuid": U16, "fields": ListOf(Bytes(high=MAX_FIELD_BYTES), MAX_FIELDS, low=1), "reset_bonds": BOOL}, work=40,
    priority=Priority.WEIGHTS, free=_is_registered, precheck=_check_commitment,
)
def set_commitment(context: Context, netuid: int, fields: list[bytes], reset_bonds: bool) -> None:
    """Publish data of the signing neuron, such as the hash of its model; may ask for its bonds to be dropped."""
    uid = neurons.require_uid(context.state, netuid, context.signer)
    used = _space_after(context, netuid, fields)
    epoch = subnets.tempo(context.state, netuid).epoch_index
    COMMITMENTS.put(context.state, netuid, context.signer, value=Commitment(fields, context.height, epoch, used))
    context.events.append(COMMITTED(netuid, context.signer))
    if reset_bonds and params.is_on(context.state, "bonds_reset_on", netuid):
        drop_bonds(context, netuid, uid)


def drop_bonds(context: Context, netuid: int, uid: int) -> None:
    """Remove all bonds of validators on a neuron: at most one row for each of the 256 validators."""
    for (_, validator), packed in list(weights.BONDS.items(context.state, netuid)):
        row = weights.unpack_row(packed)
        kept = [pair for pair in row if pair[0] != uid]
        if len(kept) != len(row):
            weights.write_row(weights.BONDS, context.state, netuid, validator, kept)
    context.events.append(BONDS_RESET(netuid, uid))


@hooks.coldkey_swapped
def move_identity(context: Context, old: bytes, new: bytes) -> int:
    """The identity goes along, with its deposit."""
    there = identity_of(context.state, old) is not None
    IDENTITIES.move(context.state, (old,), (new,))
    return IDENTITY_DEPOSIT_RAO if there else 0


@hooks.hotkey_swapped
def move_commitment(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    COMMITMENTS.move(context.state, (netuid, old), (netuid, new))


@hooks.neuron_removed
def forget_commitment(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """What a neuron published goes with it."""
    COMMITMENTS.delete(context.state, netuid, hotkey)


# --- audit -------------------------------------------------------------------------------------------------------


@hooks.deposit
def deposits(state: ReadState) -> Iterator[tuple[bytes, int]]:
    return ((coldkey, IDENTITY_DEPOSIT_RAO) for (coldkey,), _ in IDENTITIES.items(state))


@hooks.invariant("commitments")
def audit(state: ReadState) -> Iterator[str]:
    """Every commitment belongs to a registered hotkey, every subnet identity to a subnet."""
    for (netuid, hotkey), _ in COMMITMENTS.items(state):
        if neurons.uid_of(state, netuid, hotkey) is None:
            yield f"{hotkey.hex()} has a commitment in subnet {netuid} without a uid"
    for (netuid,), _ in SUBNET_IDENTITIES.items(state):
        if not subnets.exists(state, netuid):
            yield f"subnet {netuid} has an identity but does not exist"
