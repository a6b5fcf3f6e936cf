"""What explorers, the CLI and RPC read: plain functions over a read-only view, in the records of the chain API.

`height` is the height of the view's block. Unknown subnets and uids raise `NotFound`. `names` gives hotkeys the names of a
devnet's cast. Nothing here changes state, and nothing here is part of the rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from ipaddress import ip_address
from typing import Final

from ledger.client.records import (
    AccountRecord,
    CommitRecord,
    EpochRecord,
    EpochTraceRecord,
    Metagraph,
    NeuronRecord,
    Parameter,
    ReceiptsRoot,
    Row,
    Serving,
    StakeRecord,
    SubnetRecord,
    Supply,
)
from ledger.codec import unpack_u16, unpack_u64
from ledger.errors import NotFound

from . import emission, epochs, hooks, params
from .modules import accounts, children, hotkeys, identities, neurons, pools, registration, serving, stake, subnets, weights
from .params import ROOT_NETUID
from .pruning import is_immune
from .tables import ReadState, Table
from .trace import EpochTrace

NO_NAMES: Final[Mapping[bytes, str]] = {}
EXAM: Final = "no exam"  # every subnet is plain Yuma: stake decides, nothing checks what it says


# --- subnets -----------------------------------------------------------------------------------------------------


def subnet_list(state: ReadState, height: int) -> list[SubnetRecord]:
    """All subnets but root, ascending."""
    return [subnet(state, netuid, height) for netuid in subnets.netuids(state)]


def subnet(state: ReadState, netuid: int, height: int) -> SubnetRecord:
    """One subnet (or root)."""
    row = _subnet(state, netuid)
    coming = subnets.next_epoch(state, netuid, height)
    left = coming.blocks_left or 0
    hidden, said = params.is_on(state, "commit_reveal_enabled", netuid), identities.subnet_identity_of(state, netuid)
    return SubnetRecord(
        netuid=netuid, name=row.name, owner_coldkey=row.owner_coldkey, owner_hotkey=row.owner_hotkey,
        started=row.started_at is not None, neurons=row.n - len(row.vacant),
        max_uids=registration.ROOT_SEATS if netuid == ROOT_NETUID else params.get(state, "max_allowed_uids", netuid),
        tempo=params.get(state, "tempo", netuid), epoch=coming.index, last_epoch_height=coming.last_epoch_block,
        next_epoch_height=height + left, blocks_left=left,
        registration_cost_rao=registration_cost(state, netuid, height),
        stake_rao=pools.totals(state, netuid).value_rao,
        emission_share_q32=emission.emission_shares(state).get(netuid, 0),
        pots_rao=list(emission.pots(state, netuid).amounts_rao), commit_reveal=hidden,
        reveal_period=params.get(state, "reveal_period_epochs", netuid),
        label=f"plain Yuma, {'commit-reveal' if hidden else 'open weights'}, {EXAM}", task="" if said is None else said.task,
    )


def next_epoch(state: ReadState, netuid: int, height: int) -> subnets.NextEpoch:
    """Running epoch, block of the last one, and blocks until the running one ends."""
    _subnet(state, netuid)
    return subnets.next_epoch(state, netuid, height)


def registration_cost(state: ReadState, netuid: int, height: int) -> int:
    """What a registration costs now, in rao; root seats cost nothing."""
    _subnet(state, netuid)
    return 0 if netuid == ROOT_NETUID else subnets.registration_price_rao(state, netuid, height)


def registration_queue(state: ReadState, netuid: int) -> list[tuple[bytes, bytes, int]]:
    """(coldkey, hotkey, max price in rao) of the bids that the next block settles."""
    bids = ((coldkey, bid) for (coldkey,), bid in registration.BIDS.items(state))
    return [(coldkey, bid.hotkey, bid.max_price_rao) for coldkey, bid in bids if bid.netuid == netuid]


def hyperparams(state: ReadState, netuid: int | None) -> list[Parameter]:
    """Parameters of a subnet, or the global ones for None, by number."""
    if netuid is not None:
        _subnet(state, netuid)
    scope = "global" if netuid is None else "subnet"
    out = []
    for _, param in sorted(params.BY_NUMBER.items()):
        if param.scope == scope:
            value = params.get(state, param.name, netuid)
            shown = bool(value) if param.kind == "bool" else value
            out.append(Parameter(param.name, shown, param.default, param.kind, param.who, param.about))
    return out


def root_shares(state: ReadState) -> dict[int, int]:
    """Q32 share of emission by netuid; they sum to one."""
    return emission.emission_shares(state)


def _subnet(state: ReadState, netuid: int) -> subnets.Subnet:
    row = subnets.SUBNETS.get(state, netuid)
    if row is None:
        raise NotFound(f"there is no subnet {netuid}", hint="quorix subnet list", netuid=netuid)
    return row


# --- neurons -----------------------------------------------------------------------------------------------------


def metagraph(state: ReadState, netuid: int, height: int, names: Mapping[bytes, str] = NO_NAMES) -> Metagraph:
    """All neurons of a subnet, by uid, with the outcome of its last epoch."""
    _subnet(state, netuid)
    tempo = subnets.tempo(state, netuid)
    columns = _columns(neurons.scores(state, netuid))
    rows = [
        _neuron(state, netuid, uid, row, columns, height, names)
        for uid, row in neurons.all_neurons(state, netuid).items()
    ]
    return Metagraph(netuid, tempo.epoch_index, tempo.last_epoch_block, rows)


def neuron(
    state: ReadState, netuid: int, uid: int, height: int, names: Mapping[bytes, str] = NO_NAMES
) -> NeuronRecord:
    """One row of the metagraph."""
    _subnet(state, netuid)
    row = neurons.neuron(state, netuid, uid) if 0 <= uid < 1 << 16 else None
    if row is None:
        raise NotFound(f"subnet {netuid} has no neuron under uid {uid}", netuid=netuid, uid=uid)
    return _neuron(state, netuid, uid, row, _columns(neurons.scores(state, netuid)), height, names)


def _columns(scores: neurons.Scores) -> dict[str, list[int]]:
    """Unpacked scores by name."""
    out: dict[str, list[int]] = {}
    for name, width in neurons.SCORE_BYTES.items():
        packed: bytes = getattr(scores, name)
        out[name] = list(packed) if width == 1 else unpack_u16(packed) if width == 2 else unpack_u64(packed)
    return out


def _neuron(
    state: ReadState, netuid: int, uid: int, row: neurons.Neuron, columns: dict[str, list[int]], height: int,
    names: Mapping[bytes, str],
) -> NeuronRecord:
    score = {name: values[uid] for name, values in columns.items()}
    return NeuronRecord(
        uid=uid, hotkey=row.hotkey, coldkey=neurons.coldkey_of(state, row.hotkey), name=names.get(row.hotkey, ""),
        active=score["active"] == 1, permit=score["permit"] == 1,
        stake_rao=sum(children.voting_stake_parts(state, netuid, row.hotkey)), stake_weight=score["stake_weight"],
        incentive=score["incentive"], trust=score["trust"], consensus=score["consensus"], dividends=score["dividends"],
        validator_trust=score["validator_trust"], emission_rao=score["emission_rao"],
        registered_height=row.registered_at, weights_height=0 if row.weights_at is None else row.weights_at,
        immune=is_immune(row.registered_at, height, params.get(state, "immunity_period", netuid)),
        score=score["score"], serving=_serving(state, netuid, row.hotkey),
    )


def _serving(state: ReadState, netuid: int, hotkey: bytes) -> Serving | None:
    row = serving.record_of(state, netuid, hotkey)
    if row is None:
        return None
    return Serving(str(ip_address(row.ip)), row.port, row.tls_spki_hash, row.capabilities_hash, row.height)


def weight_rows(state: ReadState, netuid: int) -> list[Row]:
    """Applied weights of every validator that has some; of root: votes on netuids."""
    return _rows(weights.WEIGHTS, state, netuid)


def bond_rows(state: ReadState, netuid: int) -> list[Row]:
    """Bonds of every validator that has some."""
    return _rows(weights.BONDS, state, netuid)


def _rows(table: Table[bytes], state: ReadState, netuid: int) -> list[Row]:
    _subnet(state, netuid)
    out = []
    for (_, uid), data in table.items(state, netuid):
        row = weights.unpack_row(data)
        out.append(Row(uid, [target for target, _ in row], [value for _, value in row]))
    return out


def commits(state: ReadState, netuid: int) -> list[CommitRecord]:
    """Commitments that wait for their reveal, by hotkey and epoch."""
    _subnet(state, netuid)
    return [
        CommitRecord(hotkey, entry[0], entry[1], entry[2], _commit_state(entry))
        for (_, hotkey), entries in weights.COMMITS.items(state, netuid) for entry in entries
    ]


def _commit_state(entry: weights.Commit) -> str:
    return "hidden" if weights.seal_of(entry) is None else "sealed" if weights.is_sealed(entry) else "malformed"


def receipt_roots(state: ReadState, netuid: int, epoch: int | None = None) -> list[ReceiptsRoot]:
    """Receipt roots of one epoch, or all that are kept, by epoch and hotkey."""
    _subnet(state, netuid)
    place = (netuid,) if epoch is None else (netuid, epoch)
    return [
        ReceiptsRoot(netuid, of_epoch, hotkey, row.root, row.count, row.height)
        for (_, of_epoch, hotkey), row in serving.RECEIPTS.items(state, *place)
    ]


# --- money -------------------------------------------------------------------------------------------------------


def account(state: ReadState, who: bytes) -> AccountRecord:
    """Balances, stake and keys of an account; an unknown one is all zeros."""
    row = accounts.account(state, who)
    return AccountRecord(
        address=who, free_rao=row.free_rao, reserved_rao=row.reserved_rao,
        staked_rao=sum(active + pending for _, _, active, pending in pools.positions(state, who)),
        unbonding_rao=stake.unbonding_rao(state, who), nonce=row.nonce, owner=hotkeys.owner_of(state, who),
        hotkeys=hotkeys.hotkeys_of(state, who),
    )


def stakes(state: ReadState, coldkey: bytes) -> list[StakeRecord]:
    """Stake of a coldkey by subnet and hotkey."""
    return [
        StakeRecord(hotkey, netuid, active, pending)
        for netuid, hotkey, active, pending in pools.positions(state, coldkey)
    ]


def supply(state: ReadState) -> Supply:
    """Where every unit of the issuance is; reads every row that holds money."""
    rows = [row for _, row in accounts.ACCOUNT.items(state)]
    totals = [row for _, row in pools.TOTALS.items(state)]
    held = dict.fromkeys(("unbonding", "root_due", "pot", "lock"), 0)
    for _, place in sorted(hooks.HOLDINGS.items()):
        if place.name in held:
            held[place.name] += sum(place.amount_rao(row) for _, row in place.table.items(state))
    return Supply(
        issuance_rao=accounts.issuance(state), free_rao=sum(row.free_rao for row in rows),
        reserved_rao=sum(row.reserved_rao for row in rows), staked_rao=sum(row.value_rao for row in totals),
        pending_stake_rao=sum(row.pending_rao for row in totals), unbonding_rao=held["unbonding"],
        root_due_rao=held["root_due"], pots_rao=held["pot"], locks_rao=held["lock"],
        cap_rao=params.get(state, "supply_cap"), block_emission_rao=emission.block_emission(state),
    )


# --- epochs (history rows, kept outside the state root) ----------------------------------------------------------


def epoch_record(data: bytes) -> EpochRecord:
    """Summary of a history row."""
    row = epochs.decode_row(data)
    return EpochRecord(
        netuid=row.netuid, epoch=row.index, height=row.height, emission_rao=row.trace.emission_rao,
        paid_rao=row.paid.total_rao(), validators=_voters(row.trace),
        miners_paid=sum(1 for amount in row.paid.server_rao if amount),
    )


def _voters(trace: EpochTrace) -> int:
    """Uids whose weights counted: a permit alone, which a paid miner's stake can earn, makes no validator.

    Where the record holds no weights, those whose weights agreed with others'.
    """
    gave = trace.raw_weights if trace.has_rows else trace.validator_trust
    return sum(1 for stake_rao, given in zip(trace.active_stake_rao, gave, strict=True) if stake_rao and given)


def epoch_trace(data: bytes, names: Mapping[bytes, str] = NO_NAMES) -> EpochTraceRecord:
    """Every value of an epoch: those of `runtime.trace` by name, and under `paid` what each uid got from each pot.

    A vacant uid has the hotkey of 32 zero bytes.
    """
    row = epochs.decode_row(data)
    paid = {field.name: getattr(row.paid, field.name) for field in fields(row.paid)}
    return EpochTraceRecord(
        netuid=row.netuid, epoch=row.index, height=row.height, hotkeys=row.hotkeys,
        names=[names.get(hotkey, "") for hotkey in row.hotkeys], trace={**row.trace.as_dict(), "paid": paid},
    )
