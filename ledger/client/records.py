"""What the chain API returns: frozen records. Their JSON form (`to_json`, `from_json`) is that of `json_form`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from .json_form import JSON_SAFE_INTEGER as JSON_SAFE_INTEGER
from .json_form import from_json as from_json
from .json_form import to_json as to_json

T = TypeVar("T")


@dataclass(frozen=True)
class At:
    """The height at which something was read; the head is always final."""

    height: int
    hash: bytes


@dataclass(frozen=True)
class Reading(Generic[T]):
    """A value and the height it belongs to."""

    at: At
    value: T


@dataclass(frozen=True)
class Page(Generic[T]):
    """Part of a list; pass `next` as `after` to go on, None at the end."""

    items: list[T]
    next: str | None = None


# --- system ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Properties:
    """What a client must know to talk to this chain."""

    chain: str
    genesis_hash: bytes
    token: str  # "Q"
    decimals: int  # 9: 1 Q = 10^9 rao
    address_prefix: int
    block_time_ms: int
    session_blocks: int
    runtime_version: int
    node_version: str
    devnet: bool
    allow_private: bool  # whether private and loopback addresses may be dialled
    seal: str
    signing_domain: bytes = bytes(32)  # of the next height: what proofs of possession are signed under


@dataclass(frozen=True)
class Health:
    height: int
    head_age_ms: int
    peers: int
    syncing: bool
    target_height: int
    role: str  # "authority" or "full"
    ready: bool
    blocking: list[str]  # what keeps the node from being ready, in words


@dataclass(frozen=True)
class Peer:
    id: str
    address: str
    direction: str
    role: str
    height: int
    faults: int


# --- chain -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HeaderRecord:
    hash: bytes
    version: int
    runtime_version: int
    height: int
    session: int
    timestamp_ms: int
    parent_hash: bytes
    parent_cert_hash: bytes
    proposer_index: int
    proposal_round: int
    extrinsics_root: bytes
    state_root: bytes
    events_root: bytes
    authorities_hash: bytes
    next_authorities_hash: bytes
    proposer: bytes  # session key
    extrinsics: int  # how many
    finality_ms: int  # from the proposal's acceptance to the commit on this node; 0 if synced


@dataclass(frozen=True)
class CertificateRecord:
    kind: str
    height: int
    round: int
    block_hash: bytes
    signers: list[int]
    raw: bytes  # the encoded certificate


@dataclass(frozen=True)
class EventRecord:
    height: int
    index: int
    extrinsic: int | None  # position in the block, None for events of the block itself
    name: str
    fields: dict[str, Any]  # JSON-ready: bytes as hex, big integers as decimal strings


@dataclass(frozen=True)
class ExtrinsicRecord:
    id: bytes
    height: int | None  # None while it waits in the pool
    index: int | None
    signer: bytes
    nonce: int
    call: str  # "module.function"
    args: dict[str, Any]  # JSON-ready
    tip_rao: int
    fee_rao: int
    error: str  # "" on success, else the rule's name
    events: list[EventRecord]
    raw: bytes


@dataclass(frozen=True)
class BlockRecord:
    header: HeaderRecord
    certificate: CertificateRecord | None  # proves this block final
    extrinsics: list[ExtrinsicRecord]
    events: list[EventRecord]  # of the block itself
    size_bytes: int
    raw_header: bytes


@dataclass(frozen=True)
class AuthorityRecord:
    index: int
    session_key: bytes
    active: bool
    disabled: bool
    skipped: bool
    led: int  # blocks led, as recorded in state
    missed: int  # consecutive turns missed
    signed: int  # canonical certificates of this session that it signed
    certificates: int  # of this session so far
    account: bytes
    bonded_rao: int
    unbonding_rao: int
    heartbeat_session: int | None  # of its last heartbeat


@dataclass(frozen=True)
class CandidateRecord:
    """A session key that root wants in the authority set. It gets its seat when it is ready at a session's end."""

    session_key: bytes
    account: bytes
    bonded_rao: int
    needed_rao: int  # least bond
    heartbeat_session: int | None
    ready: bool  # it has the bond, and sent a heartbeat in this session


@dataclass(frozen=True)
class UpgradeRecord:
    """Runtime versions: of the next block, of the asked node, and of the upgrade that is scheduled (None: none is).

    The upgrade takes place at its height if `needed` of the `authorities` are ready then; else it is postponed.
    """

    runtime_version: int  # executes the next block
    known_versions: list[int]  # that this node can run
    version: int | None
    height: int | None
    postponed: int  # sessions by which it was postponed so far
    certain: bool  # the next block is the first one by the new rules
    ready: list[bytes]  # session keys whose nodes can run it
    needed: int
    authorities: int
    warning: str  # what the operator of this node has to do before that height; empty if nothing


@dataclass(frozen=True)
class Finality:
    """Enough to check a block offline together with the genesis."""

    header: bytes
    certificate: bytes
    authorities: list[bytes]  # session keys of the set that certified it


@dataclass(frozen=True)
class StateProof:
    """A proof of inclusion or absence of `key` under the state root of the block at `at`."""

    at: At
    key: bytes
    value: bytes | None
    state_root: bytes
    proof: bytes
    finality: Finality


@dataclass(frozen=True)
class StateEntry:
    """What a state key holds (None: nothing)."""

    key: bytes
    value: bytes | None


@dataclass(frozen=True)
class StateProofs:
    """All that an offline check needs: one proof of what several keys hold, and the way from a trusted set to its block.

    `handovers`: ascending, from the first block or a checkpoint on, blocks by which one authority set hands over to the
    next. A checkpoint is among them whether it hands over or not.
    """

    at: At
    entries: list[StateEntry]
    state_root: bytes
    proof: bytes
    finality: Finality
    handovers: list[Finality]


@dataclass(frozen=True)
class DryRun:
    ok: bool
    error: str
    hint: str
    fee_rao: int
    events: list[EventRecord]
    cause: str = ""  # why it is refused, with `data`: the figures of the refusal
    data: dict[str, Any] = field(default_factory=dict)


# --- accounts and stake ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AccountRecord:
    address: bytes
    free_rao: int
    reserved_rao: int
    staked_rao: int
    unbonding_rao: int
    nonce: int
    owner: bytes | None  # coldkey, if this key is a hotkey
    hotkeys: list[bytes]


@dataclass(frozen=True)
class StakeRecord:
    hotkey: bytes
    netuid: int
    stake_rao: int  # active part
    pending_rao: int  # counts from the next payout on


# --- subnets -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubnetRecord:
    netuid: int
    name: str
    owner_coldkey: bytes
    owner_hotkey: bytes
    started: bool
    neurons: int
    max_uids: int
    tempo: int
    epoch: int  # running epoch index
    last_epoch_height: int
    next_epoch_height: int
    blocks_left: int
    registration_cost_rao: int
    stake_rao: int
    emission_share_q32: int
    pots_rao: list[int]  # owner, miners, validators, root
    commit_reveal: bool
    reveal_period: int
    label: str  # "plain Yuma, commit-reveal, no exam"
    task: str


@dataclass(frozen=True)
class Serving:
    ip: str
    port: int
    tls_spki_hash: bytes
    capabilities_hash: bytes
    height: int


@dataclass(frozen=True)
class NeuronRecord:
    """One row of the metagraph. u16 values are fractions of 65535."""

    uid: int
    hotkey: bytes
    coldkey: bytes
    name: str  # of the devnet's cast, else ""
    active: bool
    permit: bool
    stake_rao: int
    stake_weight: int
    incentive: int
    trust: int
    consensus: int
    dividends: int
    validator_trust: int
    emission_rao: int  # paid in the last epoch
    registered_height: int
    weights_height: int
    immune: bool
    score: int
    serving: Serving | None


@dataclass(frozen=True)
class Metagraph:
    netuid: int
    epoch: int
    last_epoch_height: int
    neurons: list[NeuronRecord]


@dataclass(frozen=True)
class Row:
    """Sparse row of one validator: uids and u16 values, same length, uids ascending."""

    uid: int
    uids: list[int]
    values: list[int]


@dataclass(frozen=True)
class Parameter:
    name: str
    value: int | bool
    default: int | bool
    unit: str
    who: str  # "owner" or "root"
    about: str


@dataclass(frozen=True)
class CommitRecord:
    """A commitment that waits. `state`: "hidden" is revealed by hand, "sealed" is opened by the authorities, "malformed"
    was opened in vain and is forfeited."""

    hotkey: bytes
    epoch: int
    height: int
    hash: bytes
    state: str = "hidden"


@dataclass(frozen=True)
class ReceiptsRoot:
    netuid: int
    epoch: int
    hotkey: bytes
    root: bytes
    count: int
    height: int


@dataclass(frozen=True)
class EpochRecord:
    netuid: int
    epoch: int
    height: int
    emission_rao: int
    paid_rao: int
    validators: int
    miners_paid: int


@dataclass(frozen=True)
class EpochTraceRecord:
    """Everything computed in one epoch of a subnet, with names; see `runtime.trace` for the meaning of each value.

    `trace` is JSON-ready; `hotkeys` and `names` are by uid as they were at that epoch.
    """

    netuid: int
    epoch: int
    height: int
    hotkeys: list[bytes]
    names: list[str]
    trace: dict[str, Any]


@dataclass(frozen=True)
class Supply:
    """All of it in rao; the parts sum to `issuance_rao` exactly."""

    issuance_rao: int
    free_rao: int
    reserved_rao: int
    staked_rao: int
    pending_stake_rao: int
    unbonding_rao: int
    root_due_rao: int
    pots_rao: int
    locks_rao: int
    cap_rao: int
    block_emission_rao: int


# --- subscriptions -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Subscription:
    """One message of a subscription: `seq` grows by one; `lagged` tells how many messages were dropped before it."""

    seq: int
    result: Any
    lagged: int = 0


@dataclass(frozen=True)
class NewHead:
    """Sent for every final block."""

    header: HeaderRecord
    extrinsics: int
    finality_ms: int
    events: list[EventRecord] = field(default_factory=list)
