"""Timelocked weights: the authorities open what validators sealed to them; and the authorities' beacon (4.4, M9, 0.5).

    announced  in epoch c - 1: each authority's public key for the commits of epoch c. At the end of that epoch the list is
               fixed, in the order of the set, if a quorum t of the set is on it; else the commits of c are revealed by hand
    sealed     in epoch c: a commit (4.3) that carries its row, readable with the secrets of any t of the list
    released   in epoch c + reveal_period, after its first block: each secret, proven by its public key. The released list is
               fixed when all are there, or else after `release_blocks`
    opened     from that block on, at the start of blocks, in the order of the commits, with the secrets of the t lowest
               positions: what does not open to the committed row, or breaks a rule of rows, is malformed and forfeits. If
               fewer than t secrets were released, the sealed commits become ones to be revealed by hand: nothing is lost
    beacon     of epoch e: a hash over the secrets that were released in e - 1, chained to the beacon before. Where fewer than
               t were, the hash of the parent's certificate takes their place, which the leader of that block can choose

Keys, seals and secrets of an epoch go when its reveal window closes. The work of a block is bounded by the boxes that it
opens; what waits longest is opened at the latest in the block in which the epoch runs, before it.

Rules: TLK-1 sealing · TLK-2 keys and secrets · TLK-3 opening · TLK-4 too few secrets · TLK-5 beacon
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from ledger import inherents, timelock, votes
from ledger.codec import HASH, U16, U32, Bytes
from ledger.commitments import weights_commitment
from ledger.crypto import ZERO_HASH, digest
from ledger.errors import DecodeError
from ledger.timelock import MAX_BODY_BYTES, SHARE_BYTES, Announcement, Payload, Release, Sealed

from .. import hooks, params
from ..params import ROOT_NETUID
from ..registry import Context, Priority, call, error, event, refuse
from ..schedule import blocks_until_epoch
from ..tables import ReadState, Table, key_field, u16_field, u32_field
from . import neurons, subnets, weights
from .authorities import session_keys
from .weights import COMMITS, MALFORMED, SEALS, Commit

ORDER_OPEN: Final = 40  # reveals: after the emission is minted, before epochs run
MAX_KEYS_PER_BLOCK: Final = 64
MAX_SECRETS_PER_BLOCK: Final = 64
MAX_BOXES_PER_BLOCK: Final = 256  # some 15 ms
BEACONS_KEPT: Final = 64

WAITING, OPENING, OPENED, FAILED = range(4)


@dataclass(frozen=True)
class Lock:
    """The fixed list for the commits of one epoch: session keys and their public keys, by position."""

    threshold: int
    authorities: list[bytes]
    publics: list[bytes]


@dataclass(frozen=True)
class Progress:
    """What became of a list. `stage`: WAITING for secrets, OPENING, OPENED (all), FAILED (too few secrets)."""

    stage: int = WAITING
    seals: int = 0  # numbers given out
    opened: int = 0
    malformed: int = 0


@dataclass(frozen=True)
class Beacon:
    """`released`: how many secrets are in it; 0 if the hash of a certificate stands for them."""

    value: bytes
    released: int


KEYS = Table(66, "timelock_key", bytes, u16_field("netuid"), u32_field("epoch"), key_field("authority"))
LOCKS = Table(67, "timelock", Lock, u16_field("netuid"), u32_field("epoch"))
PROGRESS = Table(68, "timelock_progress", Progress, u16_field("netuid"), u32_field("epoch"))
SECRETS = Table(69, "timelock_secret", bytes, u16_field("netuid"), u32_field("epoch"), u16_field("position"))
DUE = Table(70, "timelock_due", int, u16_field("netuid"))  # -> the epoch whose commits are being opened
BEACONS = Table(71, "beacon", Beacon, u16_field("netuid"), u32_field("epoch"))

LOCK_READY = event(71, "TimelockReady", "netuid", "epoch", "keys", "threshold")
RELEASED = event(72, "TimelockReleased", "netuid", "epoch", "released", "keys", "beacon")
FAILED_LOCK = event(73, "TimelockFailed", "netuid", "epoch", "released", "threshold")
REVEAL_FAILED = event(74, "TimelockedWeightsRevealFailed", "netuid", "hotkey", "epoch", "error")

error(162, "TimelockOff", "the subnet takes no sealed weights", "use weights.commit")
error(163, "TimelockNotReady", "too few authorities announced a key for the commits of this epoch", "use weights.commit")
error(164, "InvalidSealedWeights", "the sealed row or the number of its shares does not fit the subnet's list of keys")
error(165, "InvalidTimelockKey", "the announced key is not acceptable")
error(166, "InvalidTimelockSecret", "the released secret is not acceptable")
error(167, "SealedForOtherEpoch", "the row is sealed to the keys of another epoch than the running one", "seal it anew")


# --- reads -------------------------------------------------------------------------------------------------------


def is_on(state: ReadState, netuid: int) -> bool:
    """True if weights of the subnet may be sealed."""
    return params.is_on(state, "timelock_on", netuid) and params.is_on(state, "commit_reveal_enabled", netuid)


def lock(state: ReadState, netuid: int, epoch: int) -> Lock | None:
    """The keys to which the commits of an epoch are sealed; None if those are to be revealed by hand."""
    return LOCKS.get(state, netuid, epoch)


def progress(state: ReadState, netuid: int, epoch: int) -> Progress:
    """What became of an epoch's list so far."""
    return PROGRESS.get(state, netuid, epoch) or Progress()


def beacon(state: ReadState, netuid: int, epoch: int) -> Beacon | None:
    """Randomness of an epoch, known from somewhere in the epoch before; None if there was none or it is forgotten."""
    return BEACONS.get(state, netuid, epoch)


def release_blocks(tempo: int, authorities: int) -> int:
    """Blocks after the first of an epoch in which secrets are released: f + 1 at least, so that one leader is honest.

    Enough are left for reveals by hand (`params.tempo_needed`).
    """
    faulty = votes.max_faulty(authorities)
    return max(faulty + 1, min(tempo // 4, 2 * (faulty + 2)))


def last_release(state: ReadState, netuid: int) -> int:
    """Height of the last block of the running epoch that takes secrets."""
    blocks = release_blocks(params.get(state, "tempo", netuid), len(session_keys(state)))
    return subnets.tempo(state, netuid).last_epoch_block + blocks


def keys_to_announce(state: ReadState, authority: bytes) -> list[tuple[int, int]]:
    """(netuid, epoch) of the keys that an authority has still to announce."""
    coming = [(netuid, subnets.tempo(state, netuid).epoch_index + 1) for netuid in subnets.netuids(state)]
    return [place for place in coming if _wants_key(state, *place, authority)]


def secrets_to_release(state: ReadState, height: int) -> list[tuple[int, int, int, bytes]]:
    """(netuid, epoch, position, public key) of the secrets that block `height` would take."""
    return [
        (netuid, epoch, position, public)
        for (netuid,), epoch in DUE.items(state) if _takes_secrets(state, netuid, epoch, height)
        for position, public in enumerate(_lock(state, netuid, epoch).publics)
        if SECRETS.get(state, netuid, epoch, position) is None
    ]


def _lock(state: ReadState, netuid: int, epoch: int) -> Lock:
    row = LOCKS.get(state, netuid, epoch)
    assert row is not None, f"subnet {netuid} has no list of keys for epoch {epoch}"
    return row


def may_announce(state: ReadState, said: Announcement) -> bool:
    """True if a key is wanted now, or will be in the next epoch: that may have begun where its author is."""
    return any(_wants_key(state, said.netuid, said.epoch, said.authority, ahead) for ahead in (1, 2))


def may_release(state: ReadState, said: Release) -> bool:
    """True if this is the secret of a listed key that the chain does not know yet, whether it is wanted already or not."""
    return is_secret_of(state, said) and SECRETS.get(state, said.netuid, said.epoch, said.index) is None


def _wants_key(state: ReadState, netuid: int, epoch: int, authority: bytes, ahead: int = 1) -> bool:
    """True if a member of the set has still to announce its key for that epoch, so many ahead of the running one."""
    return (
        netuid != ROOT_NETUID and subnets.exists(state, netuid) and not subnets.is_dissolving(state, netuid)
        and is_on(state, netuid) and epoch == subnets.tempo(state, netuid).epoch_index + ahead
        and authority in session_keys(state) and KEYS.get(state, netuid, epoch, authority) is None
    )


def _takes_secrets(state: ReadState, netuid: int, epoch: int, height: int) -> bool:
    return progress(state, netuid, epoch).stage == WAITING and height <= last_release(state, netuid)


# --- what authorities say ----------------------------------------------------------------------------------------


@hooks.inherent(inherents.TIMELOCK_KEY, "timelock key", lambda state: MAX_KEYS_PER_BLOCK)
def accept_key(context: Context, payload: bytes) -> None:
    """Note an authority's key for the commits of the next epoch."""
    try:
        said = Announcement.decode(payload)
    except DecodeError as problem:
        refuse("InvalidTimelockKey", problem.cause)
    state = context.state
    if not _wants_key(state, said.netuid, said.epoch, said.authority):
        refuse("InvalidTimelockKey", "no such key is wanted, or it is known")
    if not timelock.is_sound(said.public) or not said.verify(context.genesis_hash):
        refuse("InvalidTimelockKey", "the key is of low order, or the signature is wrong")
    KEYS.put(state, said.netuid, said.epoch, said.authority, value=said.public)


@hooks.inherent(inherents.TIMELOCK_SECRET, "timelock secret", lambda state: MAX_SECRETS_PER_BLOCK)
def accept_secret(context: Context, payload: bytes) -> None:
    """Note the secret of a key whose commits may be read now."""
    try:
        said = Release.decode(payload)
    except DecodeError as problem:
        refuse("InvalidTimelockSecret", problem.cause)
    state, place = context.state, (said.netuid, said.epoch)
    if DUE.get(state, said.netuid) != said.epoch or not _takes_secrets(state, *place, context.height):
        refuse("InvalidTimelockSecret", "no secrets of that epoch are wanted now")
    if not is_secret_of(state, said) or SECRETS.get(state, *place, said.index) is not None:
        refuse("InvalidTimelockSecret", "it is not the secret of that key, or it is known")
    SECRETS.put(state, *place, said.index, value=said.secret)


def is_secret_of(state: ReadState, said: Release) -> bool:
    """True if this is the secret of a listed key, whether it is wanted now or not."""
    row = LOCKS.get(state, said.netuid, said.epoch)
    return row is not None and said.index < len(row.publics) and timelock.fits(said.secret, row.publics[said.index])


# --- what validators seal ----------------------------------------------------------------------------------------


def _check_sealed(context: Context, netuid: int, epoch: int, commitment: bytes, body: bytes, shares: bytes) -> None:
    """Everything that a sealed commit checks, in order."""
    weights.check_commit(context, netuid, commitment)
    state = context.state
    if not is_on(state, netuid):
        refuse("TimelockOff")
    if epoch != subnets.tempo(state, netuid).epoch_index:
        refuse("SealedForOtherEpoch")
    keys = LOCKS.get(state, netuid, epoch)
    if keys is None:
        refuse("TimelockNotReady")
    largest = 4 * subnets.subnet(state, netuid).n + timelock.PAYLOAD_OVERHEAD_BYTES + timelock.BODY_OVERHEAD_BYTES
    if len(shares) != SHARE_BYTES * len(keys.publics) or len(body) > largest:
        refuse("InvalidSealedWeights")
    if not neurons.has_permit(state, netuid, neurons.require_uid(state, netuid, context.signer)):
        refuse("NeuronNoValidatorPermit")


@call(
    64, "weights.commit_timelocked",
    {
        "netuid": U16, "epoch": U32, "hash": HASH, "body": Bytes(high=MAX_BODY_BYTES),
        "shares": Bytes(high=SHARE_BYTES * votes.MAX_AUTHORITIES),
    },
    work=100, priority=Priority.WEIGHTS, free=weights.within_rate, precheck=_check_sealed,
)
def commit_timelocked(context: Context, netuid: int, epoch: int, commitment: bytes, body: bytes, shares: bytes) -> None:
    """Commit to a row of weights, in the running epoch, that the authorities open when its reveal window begins."""
    _check_sealed(context, netuid, epoch, commitment, body, shares)
    state, row = context.state, progress(context.state, netuid, epoch)
    PROGRESS.put(state, netuid, epoch, value=replace(row, seals=row.seals + 1))
    weights.store_commit(context, netuid, commitment, row.seals)
    SEALS.put(state, netuid, epoch, row.seals, value=[context.signer, body, shares])


# --- opening -----------------------------------------------------------------------------------------------------


@hooks.begin_block(ORDER_OPEN)
def open_due(context: Context) -> None:
    """Fix the released lists that are complete or late, and open what is sealed, as much as a block may."""
    boxes = MAX_BOXES_PER_BLOCK
    for (netuid,), epoch in list(DUE.items(context.state)):
        if subnets.is_dissolving(context.state, netuid):
            continue
        if progress(context.state, netuid, epoch).stage == WAITING:
            _fix_released(context, netuid, epoch)
        if progress(context.state, netuid, epoch).stage == OPENING:
            boxes -= _open_some(context, netuid, epoch, max(0, boxes))


def _fix_released(context: Context, netuid: int, epoch: int) -> None:
    """Once all secrets are there, or no more are taken: fix the list, and make the next epoch's beacon of it."""
    state, keys = context.state, _lock(context.state, netuid, epoch)
    released = [secret for _, secret in SECRETS.items(state, netuid, epoch)]
    late = context.height > last_release(state, netuid) or subnets.epoch_is_due(state, netuid, context.height)
    if len(released) < len(keys.publics) and not late:
        return
    if len(released) < keys.threshold:
        context.events.append(FAILED_LOCK(netuid, epoch, len(released), keys.threshold))
        _to_manual(context, netuid, epoch)
        PROGRESS.put(state, netuid, epoch, value=replace(progress(state, netuid, epoch), stage=FAILED))
        DUE.delete(state, netuid)
        return
    value = _put_beacon(context, netuid, subnets.tempo(state, netuid).epoch_index + 1, released)
    context.events.append(RELEASED(netuid, epoch, len(released), len(keys.publics), value))
    PROGRESS.put(state, netuid, epoch, value=replace(progress(state, netuid, epoch), stage=OPENING))


def _open_some(context: Context, netuid: int, epoch: int, boxes: int) -> int:
    """Open seals in the order of their commits; returns the boxes opened. In the block of the epoch: all that are left."""
    state, keys = context.state, _lock(context.state, netuid, epoch)
    waiting = sum(1 for _ in state.items(SEALS.key(netuid, epoch)))
    tempo = subnets.tempo(state, netuid)
    left = blocks_until_epoch(
        context.height, tempo=params.get(state, "tempo", netuid), last_epoch_block=tempo.last_epoch_block
    )
    due = subnets.epoch_is_due(state, netuid, context.height)
    count = waiting if due else max(boxes // keys.threshold, -(-waiting // ((left or 0) + 1)))
    secrets = {position: secret for (_, _, position), secret in SECRETS.items(state, netuid, epoch)}
    chosen = {position: secrets[position] for position in sorted(secrets)[: keys.threshold]}
    row = progress(state, netuid, epoch)
    for place, (hotkey, body, shares) in list(islice(SEALS.items(state, netuid, epoch), count)):
        SEALS.delete(state, *place)
        payload = timelock.unseal(Sealed(body, shares), chosen, keys.publics)
        problem = _open(context, netuid, epoch, place[2], hotkey, payload)
        row = replace(row, opened=row.opened + (not problem), malformed=row.malformed + bool(problem))
    if count >= waiting:
        row = replace(row, stage=OPENED)
        DUE.delete(state, netuid)
    PROGRESS.put(state, netuid, epoch, value=row)
    return min(count, waiting) * keys.threshold


def _open(context: Context, netuid: int, epoch: int, number: int, hotkey: bytes, payload: Payload | None) -> str:
    """Apply an opened row, or mark its commit malformed; returns the rule that it breaks, "" if it breaks none."""
    state = context.state
    held = weights.commits_of(state, netuid, hotkey)
    found = next((entry for entry in held if entry[0] == epoch and weights.seal_of(entry) == number), None)
    if found is None:
        return "NoWeightsCommitFound"  # the hotkey was swapped since: it forfeits as if it had committed by hand
    problem = _opened_fault(context, netuid, hotkey, found, payload)
    if problem or payload is None:
        marked = [[*entry[:3], MALFORMED] if entry is found else entry for entry in held]
        COMMITS.put(state, netuid, hotkey, value=marked)
        context.events.append(REVEAL_FAILED(netuid, hotkey, epoch, problem))
        return problem
    uid = neurons.require_uid(state, netuid, hotkey)
    weights.apply_row(context, netuid, uid, payload.uids, payload.values, weights_at=found[1])
    weights.keep_commits(context, netuid, hotkey, after_epoch=epoch)
    context.events.append(weights.WEIGHTS_REVEALED(netuid, hotkey, epoch))
    return ""


def _opened_fault(context: Context, netuid: int, hotkey: bytes, entry: Commit, payload: Payload | None) -> str:
    """Why an opened row is not applied, "" if it is: the same checks as those of a reveal."""
    if payload is None:
        return "SealedWeightsMalformed"
    if len(payload.uids) != len(payload.values):
        return "WeightVecNotEqualSize"
    hashed = weights_commitment(
        context.genesis_hash, hotkey, netuid, entry[0], payload.uids, payload.values, payload.version_key, payload.salt
    )
    if hashed != entry[2]:
        return "InvalidRevealCommitHashNotMatch"
    uid = neurons.require_uid(context.state, netuid, hotkey)
    return weights.row_problem(
        context.state, netuid, uid, hotkey, payload.uids, payload.values, payload.version_key, entry[1]
    ) or ""


def _to_manual(context: Context, netuid: int, epoch: int | None = None) -> None:
    """Make sealed commits (of one epoch, or all) ones that are revealed by hand."""
    state = context.state
    for (_, hotkey), held in list(COMMITS.items(state, netuid)):
        plain = [entry[:3] if weights.is_sealed(entry) and epoch in (None, entry[0]) else entry for entry in held]
        if plain != held:
            COMMITS.put(state, netuid, hotkey, value=plain)
    for place, _ in list(SEALS.items(state, *((netuid,) if epoch is None else (netuid, epoch)))):
        SEALS.delete(state, *place)


@hooks.param_changed("reveal_period_epochs")
@hooks.param_changed("commit_reveal_enabled")
def end_locks(context: Context, netuid: int) -> None:
    """The epochs in which the lists fall due are other ones now: what is sealed is revealed by hand, if at all."""
    state = context.state
    _to_manual(context, netuid)
    for place, _ in list(LOCKS.items(state, netuid)):
        _forget(context, *place)
    DUE.delete(state, netuid)


# --- an epoch's end ----------------------------------------------------------------------------------------------


@hooks.end_epoch()
def turn_page(context: Context, netuid: int, index: int) -> None:
    """Forget the lists whose reveal window closed, fix the keys of the commits to come, say whose secrets are due."""
    state = context.state
    if netuid == ROOT_NETUID:
        return
    period = params.get(state, "reveal_period_epochs", netuid)
    for place, _ in list(LOCKS.items(state, netuid)):
        if place[1] <= index - period:
            _forget(context, *place)
    DUE.delete(state, netuid)
    _fix_keys(context, netuid, index + 1)
    due = index + 1 - period
    if due >= 0 and LOCKS.get(state, netuid, due) is not None:
        DUE.put(state, netuid, value=due)
    if is_on(state, netuid) and BEACONS.get(state, netuid, index + 1) is None:
        _put_beacon(context, netuid, index + 1, [])
    if index + 1 >= BEACONS_KEPT:
        BEACONS.delete(state, netuid, index + 1 - BEACONS_KEPT)


def _fix_keys(context: Context, netuid: int, epoch: int) -> None:
    state, members = context.state, session_keys(context.state)
    announced = {authority: public for (_, _, authority), public in KEYS.items(state, netuid, epoch)}
    for place, _ in list(KEYS.items(state, netuid)):
        KEYS.delete(state, *place)
    listed = [key for key in members if key in announced]
    threshold = votes.quorum(len(members))
    if len(listed) >= threshold and is_on(state, netuid):
        LOCKS.put(state, netuid, epoch, value=Lock(threshold, listed, [announced[key] for key in listed]))
        PROGRESS.put(state, netuid, epoch, value=Progress())
        context.events.append(LOCK_READY(netuid, epoch, len(listed), threshold))


def _forget(context: Context, netuid: int, epoch: int) -> None:
    state = context.state
    for place, _ in list(SECRETS.items(state, netuid, epoch)):
        SECRETS.delete(state, *place)
    for place, _ in list(SEALS.items(state, netuid, epoch)):
        SEALS.delete(state, *place)
    LOCKS.delete(state, netuid, epoch)
    PROGRESS.delete(state, netuid, epoch)


def _put_beacon(context: Context, netuid: int, epoch: int, secrets: list[bytes]) -> bytes:
    """Beacon of `epoch` from the secrets released in the epoch before, or from the parent's certificate if it has none."""
    before = BEACONS.get(context.state, netuid, epoch - 1)
    value = digest(
        "beacon", context.genesis_hash, netuid.to_bytes(2, "little"), epoch.to_bytes(4, "little"),
        ZERO_HASH if before is None else before.value, *(secrets or [context.block.beacon]),
    )
    BEACONS.put(context.state, netuid, epoch, value=Beacon(value, len(secrets)))
    return value
