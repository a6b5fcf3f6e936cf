"""Weights: setting, committing and revealing rows, and the root's votes (4.1 to 4.3, 3.6).

    commit   in epoch e: 32 bytes that hide a row; only the last commit of an epoch counts
    reveal   in epoch e + reveal_period, exactly: the row is checked and applied, dated to the block of its commit
    forfeit  at the end of that epoch, if the commit has not been revealed: no dividend and an empty row, while the
             stake still counts, so that muting others makes no majority

A commit may carry its row sealed to the authorities (`timelock.py`): then they open it, and nobody reveals it by hand.

A row is stored scaled to a largest value of 65535, sorted by uid, without zeros. Who commits nothing keeps the row.

Rules: WGT-4 commitments · WGT-5 windows · WGT-6 the last commit counts · WGT-7 forfeits · WGT-8 root votes
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from ledger.codec import HASH, U16, U64, Bytes, DecodeError, pack_u16, unpack_u16
from ledger.commitments import SALT_BYTES, weights_commitment

from .. import hooks, params
from ..fixed import U16_MAX
from ..params import ROOT_NETUID
from ..registry import Context, Priority, call, error, event, refuse
from ..rows import U16_BYTES, Row
from ..schedule import commit_epoch
from ..tables import ReadState, Table, WriteState, key_field, u16_field, u32_field
from ..trace import MAX_UIDS
from ..weightcheck import (
    RowRules,
    count_fault,
    duplicate_fault,
    length_fault,
    packed_row,
    pending_fault,
    rate_fault,
    reveal_fault,
    row_fault,
    value_fault,
)
from . import children, neurons, subnets

Commit = list[Any]  # [epoch, block, hash], and if it was sealed the number of its seal, or MALFORMED once that was opened
MALFORMED: Final = -1

WEIGHTS = Table(60, "weights", bytes, u16_field("netuid"), u16_field("uid"))  # root: netuids and votes
BONDS = Table(61, "bonds", bytes, u16_field("netuid"), u16_field("uid"))
COMMITS = Table(62, "weight_commits", list, u16_field("netuid"), key_field("hotkey"))  # one per epoch, ascending
CHANGED = Table(59, "row_rule_changed", int, u16_field("netuid"), u16_field("param"))  # -> height
SEALS = Table(65, "sealed_weights", list, u16_field("netuid"), u32_field("epoch"), u32_field("number"))  # timelock.py

WEIGHTS_SET = event(60, "WeightsSet", "netuid", "uid")
ROOT_WEIGHTS_SET = event(61, "RootWeightsSet", "hotkey")
WEIGHTS_COMMITTED = event(62, "WeightsCommitted", "netuid", "hotkey", "epoch", "hash")
WEIGHTS_REVEALED = event(63, "WeightsRevealed", "netuid", "hotkey", "epoch")
WEIGHTS_FORFEITED = event(64, "WeightsForfeited", "netuid", "uid", "epoch")

error(60, "CanNotSetRootNetworkWeights", "root has votes, not weights", "use weights.set_root")
error(61, "WeightVecNotEqualSize", "there are not as many values as uids")
error(62, "UidsLengthExceedUidsInSubNet", "the row has more entries than the subnet has uids")
error(63, "NotEnoughStakeToSetWeights", "the stake is below the threshold", "add stake")
error(64, "IncorrectWeightVersionKey", "the subnet asks for newer validator software", "update it")
error(65, "SettingWeightsTooFast", "weights were set too recently", "wait until the rate limit has passed")
error(66, "NeuronNoValidatorPermit", "the hotkey has no validator permit", "more stake earns one at the next epoch")
error(67, "DuplicateUids", "the row names a uid twice")
error(68, "UidVecContainInvalidOne", "the row names a uid without a neuron")
error(69, "WeightVecLengthIsLow", "the row has fewer entries than the subnet asks for")
error(70, "MaxWeightExceeded", "one weight exceeds its allowed share of the row")
error(71, "CommitRevealEnabled", "the subnet takes weights by commit and reveal only", "use weights.commit")
error(72, "CommitRevealDisabled", "the subnet takes weights without commit", "use weights.set")
error(73, "CommittingWeightsTooFast", "weights were committed too recently", "wait until the rate limit has passed")
error(74, "TooManyUnrevealedCommits", "too many commits wait for their reveal", "reveal them first")
error(75, "NoWeightsCommitFound", "no commit waits for its reveal", "commit first")
error(76, "RevealTooEarly", "the reveal window has not begun", "reveal in the epoch reveal_period after the commit")
error(77, "ExpiredWeightCommit", "the reveal window is over")
error(78, "InvalidRevealCommitHashNotMatch", "the revealed row is not the committed one", "use the same salt and values")
error(79, "NotRootSubnet", "the hotkey has no root seat", "take one with neurons.root_register")
error(160, "WeightsAreSealed", "the authorities open this commit", "reveal it if they release too few secrets")
error(161, "SealedWeightsMalformed", "what was sealed is not the committed row: the epoch is forfeited")


class _PackedU16(Bytes):
    """Numbers up to 65535, packed little-endian; one for each uid at most."""

    def __init__(self) -> None:
        super().__init__(high=2 * MAX_UIDS, name="packed u16")

    def check(self, value: Any, where: str = "") -> None:
        super().check(value, where)
        if len(value) % 2:
            raise DecodeError("an odd number of bytes", where=where)


PACKED_U16: Final = _PackedU16()

ROW: Final = {"netuid": U16, "uids": PACKED_U16, "values": PACKED_U16}
CHANGEABLE: Final = ("weights_version_key", "min_allowed_weights", "max_weight_limit")  # what an owner asks of rows
BEFORE_RATE: Final = (  # row faults that come before the rate limit
    "WeightVecNotEqualSize", "UidsLengthExceedUidsInSubNet", "NotEnoughStakeToSetWeights", "IncorrectWeightVersionKey",
)


# --- rows --------------------------------------------------------------------------------------------------------


def read_row(table: Table[bytes], state: ReadState, netuid: int, uid: int) -> Row:
    """A stored row of WEIGHTS or BONDS as (uid, u16) pairs; empty if there is none."""
    return unpack_row(table.get(state, netuid, uid) or b"")


def unpack_row(data: bytes) -> Row:
    """Pairs of a packed row."""
    flat = unpack_u16(data)
    return list(zip(flat[::2], flat[1::2], strict=True))


def write_row(table: Table[bytes], state: WriteState, netuid: int, uid: int, row: Row) -> None:
    """Store a row; an empty one is deleted."""
    if row:
        table.put(state, netuid, uid, value=pack_u16([number for pair in row for number in pair]))
    else:
        table.delete(state, netuid, uid)


@hooks.neuron_removed
def forget_rows(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """Weights, bonds and commits go with their neuron."""
    WEIGHTS.delete(context.state, netuid, uid)
    BONDS.delete(context.state, netuid, uid)
    for entry in commits_of(context.state, netuid, hotkey):
        _drop_seal(context.state, netuid, entry)
    COMMITS.delete(context.state, netuid, hotkey)


@hooks.hotkey_swapped
def move_commits(context: Context, netuid: int, old: bytes, new: bytes) -> None:
    """Open commits stay the neuron's: what is not revealed forfeits."""
    COMMITS.move(context.state, (netuid, old), (netuid, new))


def commits_of(state: ReadState, netuid: int, hotkey: bytes) -> list[Commit]:
    """Open commits of a hotkey, ascending by epoch."""
    return COMMITS.get(state, netuid, hotkey) or []


def seal_of(entry: Commit) -> int | None:
    """Number of a commit's seal, MALFORMED if it was opened in vain, None if the commit is revealed by hand."""
    return entry[3] if len(entry) > 3 else None


def is_sealed(entry: Commit) -> bool:
    """True while a commit waits for the authorities to open it."""
    return len(entry) > 3 and entry[3] != MALFORMED


def _drop_seal(state: WriteState, netuid: int, entry: Commit) -> None:
    if is_sealed(entry):
        SEALS.delete(state, netuid, entry[0], entry[3])


# --- 4.1 set -----------------------------------------------------------------------------------------------------


def within_rate(context: Context, netuid: int, *_: Any) -> bool:
    """Weight calls of a registered hotkey are free within the rate limit."""
    uid = neurons.uid_of(context.state, netuid, context.signer)
    return uid is not None and not _rate_problem(context, netuid, uid, "SettingWeightsTooFast")


def _rate_problem(context: Context, netuid: int, uid: int, name: str) -> str | None:
    row = neurons.neuron(context.state, netuid, uid)
    assert row is not None
    limit = params.get(context.state, "weights_set_rate_limit", netuid)
    return rate_fault(context.height, row.updated_at, limit, name)


def _check_set(context: Context, netuid: int, uids: bytes, values: bytes, version_key: int) -> None:
    _checked_row(context, netuid, uids, values, version_key)


def _checked_row(
    context: Context, netuid: int, uids: bytes, values: bytes, version_key: int
) -> tuple[int, list[int], list[int]]:
    """Everything that weights.set checks, in order; returns the signer's uid and the row."""
    uid = _row_owner(context, netuid, uids, values)
    if params.is_on(context.state, "commit_reveal_enabled", netuid):
        refuse("CommitRevealEnabled")
    row = unpack_u16(uids), unpack_u16(values)
    problem = row_problem(context.state, netuid, uid, context.signer, *row, version_key)
    if problem not in BEFORE_RATE:
        problem = _rate_problem(context, netuid, uid, "SettingWeightsTooFast") or problem
    if problem:
        refuse(problem)
    return uid, *row


@call(
    60, "weights.set", {**ROW, "version_key": U64}, work=60, priority=Priority.WEIGHTS, free=within_rate,
    precheck=_check_set,
)
def set_weights(context: Context, netuid: int, uids: bytes, values: bytes, version_key: int) -> None:
    """Set the signer's row of weights where the subnet does not ask for commit and reveal."""
    uid, row_uids, row_values = _checked_row(context, netuid, uids, values, version_key)
    apply_row(context, netuid, uid, row_uids, row_values, weights_at=context.height)
    row = neurons.neuron(context.state, netuid, uid)
    assert row is not None
    neurons.NEURONS.put(context.state, netuid, uid, value=replace(row, updated_at=context.height))


def _row_owner(context: Context, netuid: int, uids: bytes, values: bytes) -> int:
    """Uid of the signer; the first checks of every row."""
    if netuid == ROOT_NETUID:
        refuse("CanNotSetRootNetworkWeights")
    problem = length_fault(uids, values)
    count = 0 if problem else subnets.subnet(context.state, netuid).n
    problem = problem or count_fault(range(len(uids) // U16_BYTES), count)
    if problem:
        refuse(problem)
    return neurons.require_uid(context.state, netuid, context.signer)


def row_problem(
    state: ReadState, netuid: int, uid: int, hotkey: bytes, uids: list[int], values: list[int], version_key: int,
    committed_at: int | None = None,
) -> str | None:
    """The first broken rule of a row of the hotkey under `uid`, or None. `committed_at`: the block of its commit.

    Who came or left after the commit makes nobody forfeit: a committed row may name uids that are vacant by now (no epoch
    counts such weights), and it need not judge later neurons. Nor does the subnet's owner: a rule that has changed since the
    commit is not asked of the row.
    """
    record = subnets.subnet(state, netuid)
    version_required, min_allowed, weight_limit = (
        params.get(state, name, netuid) if _stood_at(state, netuid, name, committed_at) else lax
        for name, lax in zip(CHANGEABLE, (0, 1, U16_MAX), strict=True)
    )
    if min_allowed > len(uids):
        there = record.n - len(record.vacant) if committed_at is None else _judged_count(state, netuid, committed_at)
        min_allowed = min(min_allowed, there)
    rules = RowRules(
        uid, record.n, neurons.has_permit(state, netuid, uid),
        stake=sum(children.voting_stake_parts(state, netuid, hotkey)),
        stake_threshold=params.get(state, "stake_threshold"),
        version_required=version_required,
        min_allowed=min_allowed,
        weight_limit=weight_limit,
    )
    problem = row_fault(uids, values, version_key, rules)
    if problem is None and committed_at is None and record.vacant and any(target in record.vacant for target in uids):
        return "UidVecContainInvalidOne"
    return problem


def _stood_at(state: ReadState, netuid: int, name: str, committed_at: int | None) -> bool:
    """True if a parameter has not changed since the block of a commit, or there was none."""
    changed_at = None if committed_at is None else CHANGED.get(state, netuid, params.PARAMS[name].number)
    return committed_at is None or changed_at is None or changed_at < committed_at


def _noting(name: str) -> Callable[[Context, int], None]:
    number = params.PARAMS[name].number

    def note_change(context: Context, netuid: int) -> None:
        """Nothing is committed in genesis."""
        if context.height:
            CHANGED.put(context.state, netuid, number, value=context.height)

    return note_change


for _name in CHANGEABLE:
    hooks.param_changed(_name)(_noting(_name))


def _judged_count(state: ReadState, netuid: int, committed_at: int) -> int:
    """Neurons that a committed row can be asked to judge: those that were there before its commit."""
    return sum(1 for row in neurons.all_neurons(state, netuid).values() if row.registered_at < committed_at)


def apply_row(
    context: Context, netuid: int, uid: int, uids: list[int], values: list[int], *, weights_at: int
) -> None:
    """Store a checked row; `weights_at` is the block it is dated to."""
    row = neurons.neuron(context.state, netuid, uid)
    assert row is not None
    WEIGHTS.put(context.state, netuid, uid, value=packed_row(uids, values))
    applied = replace(row, active_at=context.height, weights_at=weights_at)
    neurons.NEURONS.put(context.state, netuid, uid, value=applied)
    context.events.append(WEIGHTS_SET(netuid, uid))


# --- 4.3 commit and reveal ---------------------------------------------------------------------------------------


def check_commit(context: Context, netuid: int, commitment: bytes) -> None:
    """Everything that a commit checks, in order."""
    if netuid == ROOT_NETUID:
        refuse("CanNotSetRootNetworkWeights")
    subnets.subnet(context.state, netuid)
    if not params.is_on(context.state, "commit_reveal_enabled", netuid):
        refuse("CommitRevealDisabled")
    uid = neurons.require_uid(context.state, netuid, context.signer)
    epoch = subnets.tempo(context.state, netuid).epoch_index
    others = [entry for entry in commits_of(context.state, netuid, context.signer) if entry[0] != epoch]
    problem = _rate_problem(context, netuid, uid, "CommittingWeightsTooFast") or pending_fault(len(others))
    if problem:
        refuse(problem)


@call(
    61, "weights.commit", {"netuid": U16, "hash": HASH}, work=10, priority=Priority.WEIGHTS, free=within_rate,
    precheck=check_commit,
)
def commit(context: Context, netuid: int, commitment: bytes) -> None:
    """Commit to a row of weights for the running epoch; a second commit in one epoch replaces the first."""
    check_commit(context, netuid, commitment)
    store_commit(context, netuid, commitment)


def store_commit(context: Context, netuid: int, commitment: bytes, *seal: int) -> None:
    """Keep a checked commit for the running epoch in the place of an earlier one; `seal`: the number of its seal."""
    state, hotkey = context.state, context.signer
    epoch = subnets.tempo(state, netuid).epoch_index
    before = commits_of(state, netuid, hotkey)
    for entry in before:
        if entry[0] == epoch:
            _drop_seal(state, netuid, entry)
    kept = [entry for entry in before if entry[0] != epoch]
    COMMITS.put(state, netuid, hotkey, value=[*kept, [epoch, context.height, commitment, *seal]])
    uid = neurons.require_uid(state, netuid, hotkey)
    row = neurons.neuron(state, netuid, uid)
    assert row is not None
    neurons.NEURONS.put(state, netuid, uid, value=replace(row, updated_at=context.height))
    context.events.append(WEIGHTS_COMMITTED(netuid, hotkey, epoch, commitment))


def _reveal_is_free(context: Context, netuid: int, *_: Any) -> bool:
    """A reveal is free if something waits for it."""
    return bool(commits_of(context.state, netuid, context.signer))


def _check_reveal(context: Context, netuid: int, uids: bytes, values: bytes, salt: bytes, version_key: int) -> None:
    """The checks that the pool makes. The epoch that is due in the coming block counts as run."""
    _row_owner(context, netuid, uids, values)
    index = subnets.tempo(context.state, netuid).epoch_index
    due = subnets.epoch_is_due(context.state, netuid, context.height)
    _find_commit(context, netuid, uids, values, salt, version_key, commit_epoch(index, due=due))


@call(
    62, "weights.reveal", {**ROW, "salt": Bytes(SALT_BYTES, name="salt"), "version_key": U64}, work=70,
    priority=Priority.WEIGHTS, free=_reveal_is_free, precheck=_check_reveal,
)
def reveal(context: Context, netuid: int, uids: bytes, values: bytes, salt: bytes, version_key: int) -> None:
    """Reveal the row committed `reveal_period` epochs ago; it counts from the end of the running epoch on."""
    uid = _row_owner(context, netuid, uids, values)
    epoch = subnets.tempo(context.state, netuid).epoch_index
    found = _find_commit(context, netuid, uids, values, salt, version_key, epoch)
    row_uids, row_values = unpack_u16(uids), unpack_u16(values)
    problem = row_problem(context.state, netuid, uid, context.signer, row_uids, row_values, version_key, found[1])
    if problem:
        refuse(problem)
    apply_row(context, netuid, uid, row_uids, row_values, weights_at=found[1])
    keep_commits(context, netuid, context.signer, after_epoch=found[0])
    context.events.append(WEIGHTS_REVEALED(netuid, context.signer, found[0]))


def _find_commit(
    context: Context, netuid: int, uids: bytes, values: bytes, salt: bytes, version_key: int, epoch: int
) -> Commit:
    """The signer's commit to this row, in its reveal window."""
    if not params.is_on(context.state, "commit_reveal_enabled", netuid):
        refuse("CommitRevealDisabled")
    period = params.get(context.state, "reveal_period_epochs", netuid)
    waiting = commits_of(context.state, netuid, context.signer)
    if not waiting:
        refuse("NoWeightsCommitFound")
    row = unpack_u16(uids), unpack_u16(values)
    windows = [reveal_fault(entry[0], epoch, period) for entry in waiting]
    for entry, window in zip(waiting, windows, strict=True):
        hashed = weights_commitment(
            context.genesis_hash, context.signer, netuid, entry[0], row[0], row[1], version_key, salt
        )
        if hashed == entry[2]:
            if window:
                refuse(window)
            if (seal := seal_of(entry)) is not None:
                refuse("SealedWeightsMalformed" if seal == MALFORMED else "WeightsAreSealed")
            return entry
    refuse("InvalidRevealCommitHashNotMatch" if None in windows else str(windows[-1]))


def keep_commits(context: Context, netuid: int, hotkey: bytes, *, after_epoch: int) -> None:
    """Drop the commits of that epoch and of earlier ones."""
    kept = []
    for entry in commits_of(context.state, netuid, hotkey):
        if entry[0] > after_epoch:
            kept.append(entry)
        else:
            _drop_seal(context.state, netuid, entry)
    if kept:
        COMMITS.put(context.state, netuid, hotkey, value=kept)
    else:
        COMMITS.delete(context.state, netuid, hotkey)


def close_window(context: Context, netuid: int) -> list[int]:
    """Uids that forfeit the epoch that ends now: their commit of `reveal_period` epochs ago was not revealed.

    Without commit and reveal (switched off since) old commits just go.
    """
    state = context.state
    ended = subnets.tempo(state, netuid).epoch_index - params.get(state, "reveal_period_epochs", netuid)
    counted = params.is_on(state, "commit_reveal_enabled", netuid)
    forfeited = []
    for (_, hotkey), waiting in list(COMMITS.items(state, netuid)):
        if waiting[0][0] > ended:
            continue
        if counted and any(entry[0] == ended for entry in waiting):
            uid = neurons.require_uid(state, netuid, hotkey)
            forfeited.append(uid)
            context.events.append(WEIGHTS_FORFEITED(netuid, uid, ended))
        keep_commits(context, netuid, hotkey, after_epoch=ended)
    return sorted(forfeited)


# --- 3.6 root votes ----------------------------------------------------------------------------------------------


def _check_root(context: Context, netuids: bytes, values: bytes) -> None:
    state = context.state
    uid = neurons.uid_of(state, ROOT_NETUID, context.signer)
    if uid is None:
        refuse("NotRootSubnet")
    targets, votes = unpack_u16(netuids), unpack_u16(values)
    problem = (
        length_fault(targets, votes)
        or _rate_problem(context, ROOT_NETUID, uid, "SettingWeightsTooFast")
        or duplicate_fault(targets)
        or (None if all(n != ROOT_NETUID and subnets.SUBNETS.get(state, n) for n in targets) else "UidVecContainInvalidOne")
        or value_fault(votes)
    )
    if problem:
        refuse(problem)


def _root_within_rate(context: Context, *_: Any) -> bool:
    return within_rate(context, ROOT_NETUID)


@call(
    63, "weights.set_root", {"netuids": PACKED_U16, "values": PACKED_U16}, work=30, priority=Priority.WEIGHTS,
    free=_root_within_rate, precheck=_check_root,
)
def set_root_weights(context: Context, netuids: bytes, values: bytes) -> None:
    """Vote, from a root seat, on the subnets' shares of emission."""
    _check_root(context, netuids, values)
    state = context.state
    uid = neurons.require_uid(state, ROOT_NETUID, context.signer)
    row = neurons.neuron(state, ROOT_NETUID, uid)
    assert row is not None
    WEIGHTS.put(state, ROOT_NETUID, uid, value=packed_row(unpack_u16(netuids), unpack_u16(values)))
    now = context.height
    neurons.NEURONS.put(state, ROOT_NETUID, uid, value=replace(row, active_at=now, weights_at=now, updated_at=now))
    context.events.append(ROOT_WEIGHTS_SET(context.signer))
