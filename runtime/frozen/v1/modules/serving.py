"""Serving: where a neuron answers, and the Merkle roots of receipts.

A record is [ip, port, tls_spki_hash or empty, capabilities_hash]. Whoever dials it checks the address again. A receipts
root commits a hotkey to all receipts of one epoch of a subnet, once; roots are kept for 64 epochs. Receipts mint nothing:
no formula of pay counts them.

Rules: SRV-1 serving records · SRV-2 rate of serving records · SRV-3 roots of receipts
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from ledger.codec import HASH, U16, U32, Bytes, Record

from .. import hooks, params
from ..chain import info
from ..registry import Context, Priority, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field, u32_field
from . import neurons, subnets


@dataclass(frozen=True)
class ServingRecord:
    """A neuron's address. `ip`: 4 or 16 bytes; `tls_spki_hash`: 32 bytes, or empty where the connection is not pinned."""

    ip: bytes
    port: int
    tls_spki_hash: bytes
    capabilities_hash: bytes
    height: int


@dataclass(frozen=True)
class ReceiptsRoot:
    """Root of the list tree over a hotkey's receipts of one epoch, and how many there are."""

    root: bytes
    count: int
    height: int


SERVING = Table(80, "serving", ServingRecord, u16_field("netuid"), key_field("hotkey"))
SERVED_AT = Table(81, "served_at", int, u16_field("netuid"), key_field("hotkey"))  # -> height; outlives `unserve`
RECEIPTS = Table(82, "receipts", ReceiptsRoot, u16_field("netuid"), u32_field("epoch"), key_field("hotkey"))

SERVED = event(80, "Served", "netuid", "hotkey")
UNSERVED = event(81, "Unserved", "netuid", "hotkey")
RECEIPTS_COMMITTED = event(82, "ReceiptsCommitted", "netuid", "hotkey", "epoch", "root", "count")

error(80, "HotKeyNotRegisteredInNetwork", "the hotkey has no uid in this subnet", "register it first")
error(81, "InvalidIpType", "an address has 4 bytes (IPv4) or 16 (IPv6)")
error(82, "InvalidIpAddress", "nobody could dial that address", "give the neuron's public address")
error(83, "InvalidPort", "the port is 0", "give the neuron's port")
error(84, "ServingRateLimitExceeded", "the record was changed too recently", "wait")
error(85, "NotServing", "the neuron has no serving record")
error(86, "InvalidReceiptEpoch", "receipts are committed for the running epoch or the one before")
error(87, "ReceiptsAlreadyCommitted", "this hotkey has committed its receipts of that epoch")
error(88, "NoReceipts", "the count is 0", "commit nothing if there are no receipts")

RECORD: Final = Record(
    "record", ip=Bytes(low=4, high=16), port=U16, tls_spki_hash=Bytes(low=0, high=32), capabilities_hash=HASH,
)


# --- addresses ---------------------------------------------------------------------------------------------------

# By length of the address in bytes: (prefix, bits). Nobody has an address of the first table; those of the second are
# served only where the chain allows private addresses.
_NEVER: Final = {
    4: ((b"\x00", 8), (b"\xe0", 4), (b"\xf0", 4)),  # this network, multicast, reserved and broadcast
    16: ((bytes(16), 128), (b"\xff", 8), (bytes(10) + b"\xff\xff", 96)),  # unspecified, multicast, mapped IPv4
}
_PRIVATE: Final = {
    4: ((b"\x0a", 8), (b"\x64\x40", 10), (b"\x7f", 8), (b"\xa9\xfe", 16), (b"\xac\x10", 12), (b"\xc0\xa8", 16)),
    16: ((bytes(15) + b"\x01", 128), (b"\xfc", 7), (b"\xfe\x80", 10)),
}


def address_problem(ip: bytes, port: int, *, allow_private: bool) -> str:
    """Name of the error that forbids the address, or ""."""
    if len(ip) not in _NEVER:
        return "InvalidIpType"
    if _within(ip, _NEVER[len(ip)]) or (not allow_private and _within(ip, _PRIVATE[len(ip)])):
        return "InvalidIpAddress"
    return "" if port else "InvalidPort"


def _within(ip: bytes, ranges: tuple[tuple[bytes, int], ...]) -> bool:
    return any(_leading(ip, bits) == _leading(prefix, bits) for prefix, bits in ranges)


def _leading(data: bytes, bits: int) -> int:
    return int.from_bytes(data.ljust(16, b"\0"), "big") >> (128 - bits)


# --- reads -------------------------------------------------------------------------------------------------------


def record_of(state: ReadState, netuid: int, hotkey: bytes) -> ServingRecord | None:
    """Where a neuron answers, or None."""
    return SERVING.get(state, netuid, hotkey)


def receipts_of(state: ReadState, netuid: int, epoch: int, hotkey: bytes) -> ReceiptsRoot | None:
    return RECEIPTS.get(state, netuid, epoch, hotkey)


# --- calls -------------------------------------------------------------------------------------------------------


def _check_serve(context: Context, netuid: int, record: list[bytes | int]) -> None:
    state, chain = context.state, info(context.state)
    if neurons.uid_of(state, netuid, context.signer) is None:
        refuse("HotKeyNotRegisteredInNetwork", netuid=netuid)
    ip, port, pin, _ = record
    assert isinstance(ip, bytes) and isinstance(port, int) and isinstance(pin, bytes)
    problem = address_problem(ip, port, allow_private=chain.devnet or chain.allow_private)
    if problem:
        refuse(problem)
    if len(pin) not in (0, 32):
        refuse("BadArguments", "the TLS key hash has 32 bytes, or none")
    served_at, limit = SERVED_AT.get(state, netuid, context.signer), params.get(state, "serving_rate_limit", netuid)
    if served_at is not None and context.height - served_at < limit:
        refuse("ServingRateLimitExceeded", f"the record can be changed again at height {served_at + limit}")


def _is_registered(context: Context, netuid: int, *_: object) -> bool:
    return neurons.uid_of(context.state, netuid, context.signer) is not None


@call(80, "serving.serve", {"netuid": U16, "record": RECORD}, work=10, priority=Priority.WEIGHTS, free=_is_registered,
      precheck=_check_serve)
def serve(context: Context, netuid: int, record: list[bytes | int]) -> None:
    """Say where the signing neuron answers."""
    _check_serve(context, netuid, record)
    ip, port, pin, capabilities = record
    assert isinstance(ip, bytes) and isinstance(port, int) and isinstance(pin, bytes) and isinstance(capabilities, bytes)
    value = ServingRecord(ip, port, pin, capabilities, context.height)
    SERVING.put(context.state, netuid, context.signer, value=value)
    SERVED_AT.put(context.state, netuid, context.signer, value=context.height)
    context.events.append(SERVED(netuid, context.signer))


def _check_unserve(context: Context, netuid: int) -> None:
    if not _is_registered(context, netuid):
        refuse("HotKeyNotRegisteredInNetwork", netuid=netuid)
    if record_of(context.state, netuid, context.signer) is None:
        refuse("NotServing", netuid=netuid)


@call(81, "serving.unserve", {"netuid": U16}, work=5, priority=Priority.WEIGHTS, free=_is_registered, precheck=_check_unserve)
def unserve(context: Context, netuid: int) -> None:
    """Take the signing neuron's record back."""
    _check_unserve(context, netuid)
    SERVING.delete(context.state, netuid, context.signer)
    context.events.append(UNSERVED(netuid, context.signer))


def _check_receipts(context: Context, netuid: int, epoch: int, root: bytes, count: int) -> None:
    state = context.state
    neurons.require_uid(state, netuid, context.signer)
    running = subnets.tempo(state, netuid).epoch_index
    if not max(0, running - 1) <= epoch <= running:
        refuse("InvalidReceiptEpoch", f"the running epoch is {running}, the receipts are of {epoch}", running=running)
    if count == 0:
        refuse("NoReceipts")
    if receipts_of(state, netuid, epoch, context.signer) is not None:
        refuse("ReceiptsAlreadyCommitted", netuid=netuid, epoch=epoch)


@call(82, "serving.commit_receipts", {"netuid": U16, "epoch": U32, "root": HASH, "count": U32}, work=10,
      priority=Priority.WEIGHTS, free=_is_registered, precheck=_check_receipts)
def commit_receipts(context: Context, netuid: int, epoch: int, root: bytes, count: int) -> None:
    """Commit the signing hotkey to its receipts of the running or the last epoch."""
    _check_receipts(context, netuid, epoch, root, count)
    RECEIPTS.put(context.state, netuid, epoch, context.signer, value=ReceiptsRoot(root, count, context.height))
    context.events.append(RECEIPTS_COMMITTED(netuid, context.signer, epoch, root, count))


# --- what ends ---------------------------------------------------------------------------------------------------


@hooks.end_epoch()
def forget_receipts(context: Context, netuid: int, epoch_index: int) -> None:
    """Delete roots that are 64 epochs old."""
    for (_, epoch, hotkey), _ in list(RECEIPTS.items(context.state, netuid)):
        if epoch > epoch_index - params.RECEIPT_EPOCHS:
            break
        RECEIPTS.delete(context.state, netuid, epoch, hotkey)


@hooks.neuron_removed
def forget_record(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """A hotkey without uid serves nothing."""
    SERVING.delete(context.state, netuid, hotkey)
    SERVED_AT.delete(context.state, netuid, hotkey)


@hooks.hotkey_swapped
def move_records(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """The record stays until the new hotkey serves its own; receipts are those of the neuron."""
    state = context.state
    SERVING.move(state, (netuid, old), (netuid, new))
    SERVED_AT.move(state, (netuid, old), (netuid, new))
    running = subnets.tempo(state, netuid).epoch_index
    for epoch in range(max(0, running - params.RECEIPT_EPOCHS), running + 1):
        RECEIPTS.move(state, (netuid, epoch, old), (netuid, epoch, new))


@hooks.invariant("serving")
def audit(state: ReadState) -> Iterator[str]:
    """Every record belongs to a registered hotkey."""
    for (netuid, hotkey), _ in SERVING.items(state):
        if neurons.uid_of(state, netuid, hotkey) is None:
            yield f"{hotkey.hex()} serves subnet {netuid} without a uid"
