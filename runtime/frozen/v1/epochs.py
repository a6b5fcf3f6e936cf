"""One epoch of a subnet, between state and `yuma.epoch`: collect the inputs, write the outputs, keep the history row.

The history row holds the complete trace, the hotkeys as they were and what each uid was paid, so that any epoch can be
explained later. It lives outside the state root; the event of the epoch carries its hash.

Rules: EPO-1 inputs · EPO-18 history rows
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.blocks import EPOCH_EVENT
from ledger.codec import KEY, U32, U64, Bytes, Int, ListOf, Record, decode, encode, pack_u16, pack_u64, unpack_u64
from ledger.crypto import digest
from ledger.errors import DecodeError

from . import params
from .curves import pruning_score
from .modules import children, neurons, subnets, weights
from .registry import Context, event
from .rows import PackedRows, entry_count
from .tables import ReadState
from .trace import MAX_UIDS, EpochInputs, EpochParams, EpochTrace
from .yuma import bonds_from, epoch

MILLI: Final = 1000
ROW_VERSION: Final = 1
MAX_ROW_BYTES: Final = 4 << 20
ARRAYS_FROM_ENTRIES: Final = 300  # weights and bonds from which on arrays are faster than Python integers
ARRAYS_STAKE_RAO: Final = 1 << 55  # what their support sums hold; a supply of 21e15 rao is below it
VACANT: Final = bytes(32)  # stands for the hotkey of a vacant uid

EPOCH_RAN = event(EPOCH_EVENT, "EpochRan", "netuid", "epoch", "emission_rao", "active", "row_hash")


@dataclass(frozen=True)
class Field:
    """Who stands where in an epoch: by uid the hotkey (VACANT if none) and whose stake it votes with."""

    hotkeys: list[bytes]
    backing: list[list[children.Contribution]]
    inputs: EpochInputs
    params: EpochParams


@dataclass(frozen=True)
class Paid:
    """What an epoch paid, in rao; by uid where it is a list. `withheld_rao`: earned by the owner's neurons, recycled."""

    owner_rao: int
    server_rao: list[int]
    validator_rao: list[int]
    root_rao: list[int]
    withheld_rao: list[int]

    def total_rao(self) -> int:
        """All that reached somebody."""
        return self.owner_rao + sum(self.server_rao) + sum(self.validator_rao) + sum(self.root_rao)


@dataclass(frozen=True)
class EpochRow:
    """A history row, decoded."""

    netuid: int
    index: int
    height: int
    hotkeys: list[bytes]
    paid: Paid
    trace: EpochTrace


# --- in ----------------------------------------------------------------------------------------------------------


def epoch_params(state: ReadState, netuid: int) -> EpochParams:
    """The subnet's parameters as the epoch takes them."""

    def value(name: str) -> int:
        return params.get(state, name, netuid)

    return EpochParams(
        kappa=value("kappa"), bonds_moving_average=value("bonds_moving_average"), bonds_penalty=value("bonds_penalty"),
        yuma3=value("yuma3_on") != 0, liquid_alpha=value("liquid_alpha_on") != 0, alpha_low=value("alpha_low"),
        alpha_high=value("alpha_high"), alpha_steepness=value("alpha_sigmoid_steepness"),
        max_validators=value("max_allowed_validators"), stake_threshold=params.get(state, "stake_threshold"),
        activity_cutoff=max(1, value("activity_cutoff_factor") * value("tempo") // MILLI),
        permit_twice=value("permit_twice") != 0, exact_payout=value("exact_payout") != 0,
    )


def collect(state: ReadState, netuid: int, block: int, emission_rao: int, forfeited: Sequence[int]) -> Field:
    """Everything the epoch of `block` reads. A vacant uid has no stake and is newer than any weight."""
    record, held = subnets.subnet(state, netuid), neurons.all_neurons(state, netuid)
    ids = range(record.n)
    backing = [children.contributions(state, netuid, held[uid].hotkey) if uid in held else [] for uid in ids]
    rows = {uid: row for (_, uid), row in weights.WEIGHTS.items(state, netuid)}
    bonds = {uid: row for (_, uid), row in weights.BONDS.items(state, netuid)}
    muted = dict.fromkeys(forfeited, True)
    inputs = EpochInputs(
        block=block,
        bonds_from=bonds_from(block, params.get(state, "tempo", netuid), subnets.tempo(state, netuid).last_step_block),
        emission_rao=emission_rao,
        stake=[sum(part.own_rao + part.root_rao for part in parts) for parts in backing],
        permit=[flag == 1 for flag in neurons.scores(state, netuid).permit],
        registered_at=[held[uid].registered_at if uid in held else block for uid in ids],
        active_at=[held[uid].active_at if uid in held else 0 for uid in ids],
        weights_at=[(held[uid].weights_at or 0) if uid in held else 0 for uid in ids],
        weights=PackedRows.from_pairs(rows.get(uid, b"") for uid in ids),
        bonds=PackedRows.from_pairs(bonds.get(uid, b"") for uid in ids),
        forfeit=[muted.get(uid, False) for uid in ids],
    )
    hotkeys = [held[uid].hotkey if uid in held else VACANT for uid in ids]
    return Field(hotkeys, backing, inputs, epoch_params(state, netuid))


def run(inputs: EpochInputs, params: EpochParams) -> EpochTrace:
    """The epoch by the engine that is faster for its size; both give the same numbers."""
    entries = entry_count(inputs.weights) + entry_count(inputs.bonds)
    if entries < ARRAYS_FROM_ENTRIES or sum(inputs.stake) >= ARRAYS_STAKE_RAO:
        return epoch(inputs, params)
    from .yuma_arrays import epoch as epoch_on_arrays  # numpy: not needed by a node whose subnets are small

    return epoch_on_arrays(inputs, params)


# --- out ---------------------------------------------------------------------------------------------------------


def store(context: Context, netuid: int, field: Field, trace: EpochTrace, paid: Paid) -> None:
    """Write scores, permits and bonds, the history row and the event of the epoch."""
    state = context.state
    earned = [
        sum(parts) for parts in zip(paid.server_rao, paid.validator_rao, paid.root_rao, paid.withheld_rao, strict=True)
    ]
    old_score, pot_rao = unpack_u64(neurons.scores(state, netuid).score), sum(earned)
    score = [pruning_score(old, pay, pot_rao) for old, pay in zip(old_score, earned, strict=True)]
    packed: dict[str, Any] = {name: pack_u16(values) for name, values in trace.scores_u16().items()}
    there = [hotkey != VACANT for hotkey in field.hotkeys]
    neurons.SCORES.put(state, netuid, value=neurons.Scores(
        active=bytes(here and active for here, active in zip(there, trace.active, strict=True)),
        permit=bytes(trace.permit),
        emission_rao=pack_u64([pay - held for pay, held in zip(earned, paid.withheld_rao, strict=True)]),
        score=pack_u64([value if here else 0 for here, value in zip(there, score, strict=True)]),
        **packed,
    ))
    for uid, row in enumerate(trace.bonds_u16):
        if trace.permit_before[uid] or trace.permit[uid]:
            weights.write_row(weights.BONDS, state, netuid, uid, [pair for pair in row if pair[1]])
    index = subnets.tempo(state, netuid).epoch_index
    row_bytes = encode_row(EpochRow(netuid, index, context.height, field.hotkeys, paid, trace))
    context.history[history_key(netuid, index)] = row_bytes
    active = sum(1 for stake in trace.active_stake_rao if stake)
    context.events.append(EPOCH_RAN(netuid, index, trace.emission_rao, active, digest("epoch", row_bytes)))


# --- the history row ---------------------------------------------------------------------------------------------

_PACKED: Final = Bytes(high=8 * MAX_UIDS)
_ROW: Final = Record(
    "epoch row", version=U32, netuid=Int(0, 65535, "u16"), index=U32, height=U64, hotkeys=Bytes(high=32 * MAX_UIDS),
    owner_rao=U64, paid=ListOf(_PACKED, 4, 4), trace=Bytes(high=MAX_ROW_BYTES),
)
assert KEY.low == 32


def history_prefix(netuid: int) -> bytes:
    """Key prefix of a subnet's history rows; they sort by epoch."""
    return b"e" + netuid.to_bytes(2, "big")


def history_key(netuid: int, index: int) -> bytes:
    """Key of the history row of an epoch."""
    return history_prefix(netuid) + index.to_bytes(4, "big")


def encode_row(row: EpochRow) -> bytes:
    """The stored form of a history row."""
    paid = [row.paid.server_rao, row.paid.validator_rao, row.paid.root_rao, row.paid.withheld_rao]
    return encode([
        ROW_VERSION, row.netuid, row.index, row.height, b"".join(row.hotkeys), row.paid.owner_rao,
        [pack_u64(values) for values in paid], row.trace.to_bytes(),
    ])


def decode_row(data: bytes) -> EpochRow:
    """Restore `encode_row`; raises DecodeError naming what is wrong."""
    value = decode(data, max_bytes=MAX_ROW_BYTES, where="epoch row")
    _ROW.check(value)
    version, netuid, index, height, keys, owner_rao, packed, trace_bytes = value
    if version != ROW_VERSION:
        raise DecodeError(f"version {version}, expected {ROW_VERSION}", where="epoch row")
    trace = EpochTrace.from_bytes(trace_bytes)
    paid = [unpack_u64(data, where="epoch row.paid") for data in packed]
    if len(keys) != 32 * trace.size or any(len(values) != trace.size for values in paid):
        raise DecodeError("hotkeys, pay and trace are of different sizes", where="epoch row")
    hotkeys = [keys[at : at + 32] for at in range(0, len(keys), 32)]
    return EpochRow(netuid, index, height, hotkeys, Paid(owner_rao, *paid), trace)
