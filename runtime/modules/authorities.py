"""Authorities: the set that makes blocks, who of them leads, sessions, signs of life and evidence.

The set is an ordered list of session keys; every flag and counter is kept by key, never by position. A session is a run of
blocks; its last block writes the next set. Who may lead in a round is the full list minus the *disabled* (convicted of
signing two things at once) and the *skipped* (missed their turns; a heartbeat brings them back). The quorum always counts
the full list.

    missed turns   executing a block of round p: every leader of a lower round missed once, its author's count becomes 0;
                   at three the leader is skipped, but never more than f of the set at once
    uptime         the signers of the canonical certificate in the next block; it only decides who may send heartbeats
    evidence       two signed messages of one key for the same (kind, height, round): recorded, and disabled at once
    change of set  by root: at most max(1, f) added and removed a session, never below one; an authority replaces its own
                   session key with a proof that it has the new one
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from ledger import inherents, votes
from ledger.codec import KEY, SIGNATURE
from ledger.crypto import verify
from ledger.errors import DecodeError
from ledger.machine import AuthoritySet

from .. import hooks, params
from ..chain import info
from ..params import AUTHORITY_SET
from ..registry import Context, Priority, call, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field, u32_field, u64_field
from . import accounts, subnets

MAX_EVIDENCE_PER_BLOCK: Final = 8
ORDER_LEADERS: Final = 10  # before the hooks of the market


@dataclass(frozen=True)
class Authority:
    """What is known of a session key in the set. `account` receives its tips and may replace its session key."""

    account: bytes
    disabled: bool = False
    skipped: bool = False
    missed: int = 0  # turns in a row
    skips: int = 0  # how often it was skipped
    heartbeat: list[int] = field(default_factory=list)  # [session, skips at that time] of the last one, or empty
    versions: list[int] = field(default_factory=list)  # runtime versions it advertised last


@dataclass(frozen=True)
class Session:
    """The set of a session, in order."""

    first_height: int
    keys: list[bytes]


@dataclass(frozen=True)
class Uptime:
    """Counters of a session, by position in its set: canonical certificates signed, blocks led."""

    signed: list[int]
    led: list[int]
    blocks: int  # certificates counted so far


@dataclass(frozen=True)
class Change:
    """A change of the set that takes effect at the session's end. `kind`: add, remove or replace."""

    kind: str
    key: bytes
    account: bytes  # of the added or replaced one
    new_key: bytes  # of the replacement, else 32 zero bytes


AUTHORITIES = Table(91, "authority", Authority, key_field("session_key"))
CHANGES = Table(92, "authority_change", Change, u16_field("position"))
SESSIONS = Table(93, "session", Session, u64_field("session"))
UPTIMES = Table(96, "uptime", Uptime, u64_field("session"))
EVIDENCE = Table(94, "evidence", int, u64_field("height"), u32_field("round"), u16_field("kind"), key_field("session_key"))
OFFENDERS = Table(95, "offender", int, key_field("session_key"))  # -> height of the offence; never let in again

AUTHORITY_SKIPPED = event(90, "AuthoritySkipped", "session_key", "missed")
AUTHORITY_BACK = event(91, "AuthorityBack", "session_key")
AUTHORITY_DISABLED = event(92, "AuthorityDisabled", "session_key", "kind", "height", "round")
CHANGE_SCHEDULED = event(93, "AuthorityChangeScheduled", "kind", "session_key", "new_key")
SET_CHANGED = event(94, "AuthorityChanged", "session", "keys")

error(90, "InvalidEvidence", "the evidence does not convict anybody")
error(91, "InvalidHeartbeat", "the heartbeat is not acceptable")
error(92, "UnknownAuthority", "the session key is not in the authority set")
error(93, "KnownAuthority", "the session key is or was an authority, or waits to become one", "use a fresh session key")
error(94, "TooManyChanges", "the session's limit for changes of the authority set is reached", "wait for the next session")
error(95, "LastAuthority", "the set cannot become empty")
error(96, "InvalidProof", "the proof does not show possession of the new session key")
error(97, "NotAuthority", "the signer is not the account of that authority")
error(98, "TempoTooShort", "with more authorities, a subnet's tempo would be too short to reveal weights")


# --- reads -------------------------------------------------------------------------------------------------------


def session_keys(state: ReadState) -> list[bytes]:
    """The set that certifies the next block, in order."""
    return AUTHORITY_SET.get(state) or []


def authority(state: ReadState, key: bytes) -> Authority | None:
    return AUTHORITIES.get(state, key)


def current(state: ReadState) -> AuthoritySet:
    """The set with the positions that lead first."""
    keys = session_keys(state)
    active = tuple(index for index, key in enumerate(keys) if _leads(state, key))
    return AuthoritySet(tuple(keys), active)


def session(state: ReadState, number: int) -> Session | None:
    """Set of a session, if it is within the evidence window."""
    return SESSIONS.get(state, number)


def uptime(state: ReadState, number: int) -> Uptime:
    """Counters of a session whose set is known."""
    row = UPTIMES.get(state, number)
    assert row is not None, f"session {number} was not opened"
    return row


def _leads(state: ReadState, key: bytes) -> bool:
    row = AUTHORITIES.get(state, key)
    return row is not None and not row.disabled and not row.skipped


def account_of(state: ReadState, key: bytes) -> bytes | None:
    """Account of a session key in the set."""
    row = AUTHORITIES.get(state, key)
    return None if row is None else row.account


# --- genesis -----------------------------------------------------------------------------------------------------


def genesis_authorities(context: Context, members: list[tuple[bytes, bytes]]) -> None:
    """Write the first set: (session key, account) in order."""
    keys = [key for key, _ in members]
    assert keys and len(dict.fromkeys(keys)) == len(keys) <= votes.MAX_AUTHORITIES
    for key, account in members:
        accounts.require_valid_key(key)
        AUTHORITIES.put(context.state, key, value=Authority(account))
    AUTHORITY_SET.put(context.state, value=keys)
    _open_session(context, 0, info(context.state).initial_height)


# --- every block -------------------------------------------------------------------------------------------------


@hooks.begin_block(ORDER_LEADERS)
def note_leaders(context: Context) -> None:
    """Count missed turns, blocks led and certificates signed; forget what left the evidence window."""
    block, state = context.block, context.state
    chain = info(state)
    number = chain.session(context.height)
    if block.parent_signers and context.height > chain.initial_height:
        _count_signers(context, chain.session(context.height - 1))
    row = SESSIONS.get(state, number)
    assert row is not None, f"session {number} was not opened"
    if block.proposer in row.keys:
        counters = uptime(state, number)
        led = _plus_one(counters.led, [row.keys.index(block.proposer)])
        UPTIMES.put(state, number, value=replace(counters, led=led))
    for key in block.leaders_missed:
        _miss(context, key)
    author = AUTHORITIES.get(state, block.proposer)
    if author is not None and author.missed:
        AUTHORITIES.put(state, block.proposer, value=replace(author, missed=0))
    if context.height == row.first_height:
        _forget(context, number)


def _count_signers(context: Context, number: int) -> None:
    row = SESSIONS.get(context.state, number)
    if row is None:
        return
    position = {key: index for index, key in enumerate(row.keys)}
    signers = [position[key] for key in context.block.parent_signers if key in position]
    counters = uptime(context.state, number)
    UPTIMES.put(context.state, number, value=replace(
        counters, signed=_plus_one(counters.signed, signers), blocks=counters.blocks + 1,
    ))


def _plus_one(counters: list[int], positions: list[int]) -> list[int]:
    out = list(counters)
    for position in positions:
        out[position] += 1
    return out


def _miss(context: Context, key: bytes) -> None:
    row = AUTHORITIES.get(context.state, key)
    if row is None:
        return
    row = replace(row, missed=row.missed + 1)
    if row.missed >= params.get(context.state, "leader_misses_to_skip") and not row.skipped and _may_skip(context.state):
        row = replace(row, skipped=True, skips=row.skips + 1)
        context.events.append(AUTHORITY_SKIPPED(key, row.missed))
    AUTHORITIES.put(context.state, key, value=row)


def _may_skip(state: ReadState) -> bool:
    keys = session_keys(state)
    skipped = sum(1 for key in keys if (row := AUTHORITIES.get(state, key)) is not None and row.skipped)
    return skipped < votes.max_faulty(len(keys))


def _forget(context: Context, number: int) -> None:
    oldest = number - params.get(context.state, "evidence_window_sessions") - 1
    chain = info(context.state)
    for (past,), _ in list(SESSIONS.items(context.state)):
        if past >= oldest:
            break
        SESSIONS.delete(context.state, past)
        UPTIMES.delete(context.state, past)
    for parts, _ in list(EVIDENCE.items(context.state)):
        if chain.session(parts[0]) >= oldest:
            break
        EVIDENCE.delete(context.state, *parts)


# --- inherents ---------------------------------------------------------------------------------------------------


@hooks.inherent(inherents.EVIDENCE, "evidence", lambda state: MAX_EVIDENCE_PER_BLOCK)
def accept_evidence(context: Context, payload: bytes) -> None:
    """Record a proven double signing and disable the key at once, unless it has left the set."""
    try:
        found = votes.Evidence.decode(payload)
    except DecodeError as problem:
        refuse("InvalidEvidence", problem.cause)
    state, chain = context.state, info(context.state)
    number = chain.session(found.height)
    window = params.get(state, "evidence_window_sessions") * chain.session_blocks
    if not max(chain.initial_height, context.height - window) <= found.height <= context.height:
        refuse("InvalidEvidence", f"height {found.height} is outside the evidence window")
    row = SESSIONS.get(state, number)
    if row is None or found.key not in row.keys:
        refuse("InvalidEvidence", "the key was not in the set of that height")
    where = (found.height, found.round, found.kind, found.key)
    if EVIDENCE.get(state, *where) is not None:
        refuse("InvalidEvidence", "recorded already")
    if not found.verify(context.domain(found.height)):
        refuse("InvalidEvidence", "the two messages do not conflict, or a signature is wrong")
    EVIDENCE.put(state, *where, value=context.height)
    if OFFENDERS.get(state, found.key) is None:
        OFFENDERS.put(state, found.key, value=found.height)
    member = AUTHORITIES.get(state, found.key)
    if member is not None and not member.disabled:
        AUTHORITIES.put(state, found.key, value=replace(member, disabled=True))
    context.events.append(AUTHORITY_DISABLED(found.key, found.kind, found.height, found.round))


@hooks.inherent(inherents.HEARTBEAT, "heartbeat", lambda state: len(session_keys(state)))
def accept_heartbeat(context: Context, payload: bytes) -> None:
    """Note that an authority is alive; a skipped one leads again."""
    try:
        beat = inherents.Heartbeat.decode(payload)
    except DecodeError as problem:
        refuse("InvalidHeartbeat", problem.cause)
    number = info(context.state).session(context.height)
    row = AUTHORITIES.get(context.state, beat.key)
    if row is None:
        refuse("InvalidHeartbeat", "the key is not in the authority set")
    if beat.session != number:
        refuse("InvalidHeartbeat", f"it is for session {beat.session}, this is {number}")
    if not heartbeat_is_due(context.state, beat.key, context.height, beat.versions):
        refuse("InvalidHeartbeat", "one is recorded already, or its certificates show that it is alive")
    if not beat.verify(context.domain(context.height)):
        refuse("InvalidHeartbeat", "the signature is wrong")
    if row.skipped:
        context.events.append(AUTHORITY_BACK(beat.key))
    AUTHORITIES.put(context.state, beat.key, value=replace(
        row, skipped=False, missed=0, heartbeat=[number, row.skips], versions=list(beat.versions),
    ))


def heartbeat_is_due(state: ReadState, key: bytes, height: int, versions: tuple[int, ...]) -> bool:
    """True if block `height` would accept a heartbeat of an authority that knows these runtime versions.

    Once a session, and once more after each skip: if it is skipped, signs little, or has new versions to tell.
    """
    row, number = AUTHORITIES.get(state, key), info(state).session(height)
    if row is None or row.heartbeat == [number, row.skips]:
        return False
    return row.skipped or list(versions) != row.versions or _signs_little(state, number, key)


def _signs_little(state: ReadState, number: int, key: bytes) -> bool:
    """True if the key signed less than half of the session's canonical certificates so far."""
    row, counters = SESSIONS.get(state, number), uptime(state, number)
    return row is not None and key in row.keys and 2 * counters.signed[row.keys.index(key)] < counters.blocks


# --- change of the set -------------------------------------------------------------------------------------------


@call(90, "authorities.add", {"account": KEY, "session_key": KEY, "proof": SIGNATURE}, work=40,
      priority=Priority.OPERATIONAL, origin="root")
def add(context: Context, account: bytes, session_key: bytes, proof: bytes) -> None:
    """Let an authority into the set from the next session on; `proof` shows that it has the session key."""
    _check_new_key(context, account, session_key, proof)
    _check_limit(context, "add")
    after = len(_members_after_changes(context.state)) + 1
    if after > votes.MAX_AUTHORITIES:
        refuse("TooManyChanges", f"a set has at most {votes.MAX_AUTHORITIES} authorities")
    least = params.least_tempo(after)
    for netuid in subnets.netuids(context.state):
        if params.get(context.state, "tempo", netuid) < least:
            refuse("TempoTooShort", f"subnet {netuid} would need a tempo of at least {least}", netuid=netuid)
    _schedule(context, Change("add", session_key, account, bytes(32)))


@call(91, "authorities.remove", {"session_key": KEY}, work=20, priority=Priority.OPERATIONAL, origin="root")
def remove(context: Context, session_key: bytes) -> None:
    """Take an authority out of the set at the session's end."""
    members = _members_after_changes(context.state)
    if session_key not in members:
        refuse("UnknownAuthority")
    if len(members) == 1:
        refuse("LastAuthority")
    _check_limit(context, "remove")
    _schedule(context, Change("remove", session_key, bytes(32), bytes(32)))


@call(92, "authorities.set_session_key", {"old_key": KEY, "new_key": KEY, "proof": SIGNATURE}, work=40,
      priority=Priority.OPERATIONAL)
def set_session_key(context: Context, old_key: bytes, new_key: bytes, proof: bytes) -> None:
    """Replace one's session key from the next session on; signed by the authority's account."""
    if old_key not in _members_after_changes(context.state):
        refuse("UnknownAuthority")
    if account_of(context.state, old_key) != context.signer:
        refuse("NotAuthority")
    _check_new_key(context, context.signer, new_key, proof)
    _schedule(context, Change("replace", old_key, context.signer, new_key))


def possession_body(account: bytes, session_key: bytes) -> bytes:
    """What a proof of possession signs (tag `pop`, domain of the including height)."""
    return account + session_key


def _check_new_key(context: Context, account: bytes, key: bytes, proof: bytes) -> None:
    accounts.require_valid_key(key)
    scheduled = any(key in (change.key, change.new_key) for change in _changes(context.state))
    if scheduled or AUTHORITIES.get(context.state, key) is not None or OFFENDERS.get(context.state, key) is not None:
        refuse("KnownAuthority")
    if not verify(key, "pop", context.domain(context.height), possession_body(account, key), proof):
        refuse("InvalidProof")


def _check_limit(context: Context, kind: str) -> None:
    allowed = max(1, votes.max_faulty(len(session_keys(context.state))))
    if sum(1 for change in _changes(context.state) if change.kind == kind) >= allowed:
        refuse("TooManyChanges", f"at most {allowed} of this kind a session")


def _changes(state: ReadState) -> Iterator[Change]:
    return (change for _, change in CHANGES.items(state))


def _schedule(context: Context, change: Change) -> None:
    CHANGES.put(context.state, sum(1 for _ in _changes(context.state)), value=change)
    context.events.append(CHANGE_SCHEDULED(change.kind, change.key, change.new_key))


def _members_after_changes(state: ReadState) -> list[bytes]:
    keys = list(session_keys(state))
    for change in _changes(state):
        if change.kind == "add":
            keys.append(change.key)
        elif change.kind == "remove":
            keys.remove(change.key)
        else:
            keys[keys.index(change.key)] = change.new_key
    return keys


def end_session(context: Context) -> None:
    """In the last block of a session: apply the scheduled changes and open the next session (executor)."""
    state, chain = context.state, info(context.state)
    if not chain.ends_session(context.height):
        return
    changes = list(_changes(state))
    if changes:
        keys = _members_after_changes(state)
        for change in changes:
            _apply(context, change)
        AUTHORITY_SET.put(state, value=keys)
        context.events.append(SET_CHANGED(chain.session(context.height) + 1, keys))
        for (position,), _ in list(CHANGES.items(state)):
            CHANGES.delete(state, position)
    _open_session(context, chain.session(context.height) + 1, context.height + 1)


def _apply(context: Context, change: Change) -> None:
    state = context.state
    if change.kind == "add":
        AUTHORITIES.put(state, change.key, value=Authority(change.account))
        return
    old = AUTHORITIES.get(state, change.key)
    AUTHORITIES.delete(state, change.key)
    if change.kind == "replace" and old is not None:
        AUTHORITIES.put(state, change.new_key, value=replace(old, heartbeat=[]))


def _open_session(context: Context, number: int, first_height: int) -> None:
    keys = session_keys(context.state)
    zeros = [0] * len(keys)
    SESSIONS.put(context.state, number, value=Session(first_height, keys))
    UPTIMES.put(context.state, number, value=Uptime(zeros, zeros, 0))


@hooks.invariant("authorities")
def audit(state: ReadState) -> Iterator[str]:
    """The set is not empty, has no double, and every member has its row."""
    keys = session_keys(state)
    if not keys:
        yield "the authority set is empty"
    if len(dict.fromkeys(keys)) != len(keys):
        yield "a session key is in the set twice"
    rows = [key for (key,), _ in AUTHORITIES.items(state)]
    if sorted(keys) != rows:
        yield "the rows of authorities are not those of the set"
