"""Sessions: how the authority set changes. The last block of a session writes the set of the next.

    proposed set   root names the whole set that it wants (`authorities.propose_set`); each session brings the set closer:
                   at most max(1, f) are added and max(1, f) removed, so one of four, and one of one, two or three too
    newcomers      prove that they have their key when they are proposed; they get their seat once they have sent a
                   heartbeat in the session that ends, hold the least bond, and no subnet's tempo becomes too short
    rotation       an authority's account replaces its session key in its place (`authorities.set_session_key`)
    conviction     at most max(1, f) of the disabled lose their seats on top of that; the others stay disabled

The set never becomes empty. A chain that seals on demand keeps its only authority.

Rules: AUT-7 sessions · AUT-8 rotation of session keys
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ledger import votes
from ledger.codec import KEY, SIGNATURE, ListOf, Optional, Record
from ledger.crypto import verify

from .. import params
from ..chain import info
from ..params import AUTHORITY_SET
from ..registry import Context, Priority, call, error, event, refuse
from ..tables import ReadState, Table, key_field
from . import accounts, bonds, evidence, subnets
from .authorities import (
    AUTHORITIES,
    CANDIDATES,
    Authority,
    Candidate,
    candidate,
    candidates,
    open_session,
    session_keys,
    write_set,
)

MEMBERS: Final = ListOf(
    Record("member", session_key=KEY, account=KEY, proof=Optional(SIGNATURE)), votes.MAX_AUTHORITIES, low=1
)

REPLACEMENTS = Table(92, "session_key_replacement", bytes, key_field("session_key"))  # -> the key that follows
PROPOSED = Table(97, "authority_set_proposed", list)  # session keys of the set that root wants

SET_CHANGED = event(94, "AuthorityChanged", "session", "keys")
SET_PROPOSED = event(95, "AuthoritySetProposed", "keys")
KEY_ANNOUNCED = event(96, "SessionKeyAnnounced", "session_key", "new_key")
AUTHORITY_REMOVED = event(97, "AuthorityRemoved", "session_key", "convicted")

error(93, "KnownAuthority", "the session key is or was an authority's, or waits to become one", "use a fresh session key")
error(94, "InvalidSet", "the proposed set is not one that this chain can have")
error(96, "InvalidProof", "the proof does not show possession of the new session key")
error(98, "TempoTooShort", "with more authorities, a subnet's tempo would be too short to reveal weights")


# --- calls -------------------------------------------------------------------------------------------------------


@call(97, "authorities.propose_set", {"members": MEMBERS}, work=400, priority=Priority.OPERATIONAL, origin="root")
def propose_set(context: Context, members: list[list[Any]]) -> None:
    """Name the whole authority set that is wanted; the sessions to come approach it. The present set ends a change."""
    state, keys = context.state, [key for key, _, _ in members]
    if len(dict.fromkeys(keys)) != len(keys):
        refuse("InvalidSet", "a session key is named twice")
    _require_interval(context)
    if (conflict := _tempo_conflict(state, len(keys))) is not None:
        refuse("TempoTooShort", conflict)
    waiting = dict(candidates(state))
    for key, _ in waiting.items():
        CANDIDATES.delete(state, key)
    for key, account, proof in members:
        row = AUTHORITIES.get(state, key)
        if row is None:
            _check_new_key(context, account, key, proof)
            before = waiting.get(key)
            CANDIDATES.put(state, key, value=before if before is not None and before.account == account else Candidate(account))
        elif row.account != account:
            refuse("InvalidSet", "the account of a member is not the one that it has", session_key=key.hex())
    PROPOSED.put(state, value=keys)
    if sorted(keys) == sorted(session_keys(state)):
        PROPOSED.delete(state)
    context.events.append(SET_PROPOSED(keys))


@call(92, "authorities.set_session_key", {"old_key": KEY, "new_key": KEY, "proof": SIGNATURE}, work=40,
      priority=Priority.OPERATIONAL)
def set_session_key(context: Context, old_key: bytes, new_key: bytes, proof: bytes) -> None:
    """Replace one's session key from the next session on; signed by the authority's account."""
    row = AUTHORITIES.get(context.state, old_key)
    if row is None:
        refuse("UnknownAuthority")
    if row.account != context.signer:
        refuse("NotAuthority")
    if row.disabled:
        refuse("NotAuthority", "the authority is convicted and will lose its seat")
    _require_interval(context)
    if REPLACEMENTS.get(context.state, old_key) != new_key:
        _check_new_key(context, context.signer, new_key, proof)
    REPLACEMENTS.put(context.state, old_key, value=new_key)
    context.events.append(KEY_ANNOUNCED(old_key, new_key))


def possession_body(account: bytes, session_key: bytes) -> bytes:
    """What a proof of possession signs (tag `pop`, domain of the including height)."""
    return account + session_key


def _check_new_key(context: Context, account: bytes, key: bytes, proof: bytes | None) -> None:
    state = context.state
    accounts.require_valid_key(key)
    announced = any(new == key for _, new in REPLACEMENTS.items(state))
    seated = AUTHORITIES.get(state, key) is not None or candidate(state, key) is not None
    had_seat = evidence.OFFENDERS.get(state, key) is not None or evidence.SUCCESSORS.get(state, key) is not None
    if announced or seated or had_seat:
        refuse("KnownAuthority")
    if proof is None or not verify(key, "pop", context.domain(context.height), possession_body(account, key), proof):
        refuse("InvalidProof")


def _require_interval(context: Context) -> None:
    if info(context.state).seal != "interval":
        refuse("InvalidSet", "a chain that seals on demand keeps its only authority")


def _tempo_conflict(state: ReadState, count: int) -> str | None:
    """Why no set of that size can be: a subnet whose weights could not be revealed in time."""
    for netuid in subnets.netuids(state):
        least = params.tempo_needed(state, netuid, count)
        if params.get(state, "tempo", netuid) < least:
            return f"subnet {netuid} would need a tempo of at least {least}"
    return None


def recover(context: Context, members: Sequence[tuple[bytes, bytes]]) -> None:
    """Put another set in the place of a lost one, in the first block after the height that a recovery file names.

    Flags, candidates and announced keys are forgotten, and the running session goes on with the new set; evidence of the
    old set in this session can no longer be judged.
    """
    state = context.state
    for table in (AUTHORITIES, CANDIDATES, REPLACEMENTS):
        for (key,), _ in list(table.items(state)):
            table.delete(state, key)
    PROPOSED.delete(state)
    write_set(context, members)
    chain = info(state)
    number = chain.session(context.height)
    open_session(context, number, chain.initial_height + number * chain.session_blocks)


# --- the session's end -------------------------------------------------------------------------------------------


def proposed(state: ReadState) -> list[bytes] | None:
    """The set that root wants, if it is not reached yet."""
    return PROPOSED.get(state)


def end_session(context: Context) -> None:
    """In the last block of a session: slash offenders, change the set, open the next session (executor)."""
    state, chain = context.state, info(context.state)
    if not chain.ends_session(context.height):
        return
    number = chain.session(context.height)
    evidence.punish(context)
    before = session_keys(state)
    _rotate(context, number)
    keys = _next_set(context, number)
    if keys != before:
        AUTHORITY_SET.put(state, value=keys)
        context.events.append(SET_CHANGED(number + 1, keys))
    open_session(context, number + 1, context.height + 1)


def _rotate(context: Context, number: int) -> None:
    """Put announced keys in the places of the old ones, in the set and in the proposed one."""
    state = context.state
    replaced = {old: new for (old,), new in REPLACEMENTS.items(state)}
    if not replaced:
        return
    for old, new in replaced.items():
        REPLACEMENTS.delete(state, old)
        row = AUTHORITIES.get(state, old)
        assert row is not None, "only members announce keys, and members leave at the end of a session"
        AUTHORITIES.delete(state, old)
        AUTHORITIES.put(state, new, value=replace(row, heartbeat=[], versions=[]))
        evidence.SUCCESSORS.put(state, old, value=[new, number])
    AUTHORITY_SET.put(state, value=[replaced.get(key, key) for key in session_keys(state)])
    if (wanted := proposed(state)) is not None:
        PROPOSED.put(state, value=[replaced.get(key, key) for key in wanted])


def _next_set(context: Context, number: int) -> list[bytes]:
    """The set of the next session; writes the rows of those who come, and deletes those of who go."""
    state, keys = context.state, session_keys(context.state)
    limit, wanted = max(1, votes.max_faulty(len(keys))), proposed(state)
    after = list(keys)
    for key in [key for key in wanted or [] if _is_ready(state, key, number)][:limit]:
        if len(after) < votes.MAX_AUTHORITIES and _tempo_conflict(state, len(after) + 1) is None:
            after.append(key)
            _admit(context, key)
    convicted = [key for key in keys if _is_disabled(state, key)][:limit]
    unwanted = [key for key in keys if wanted is not None and key not in wanted and key not in convicted][:limit]
    for key in [*convicted, *unwanted]:
        if len(after) > 1:
            after.remove(key)
            AUTHORITIES.delete(state, key)
            context.events.append(AUTHORITY_REMOVED(key, key in convicted))
    if wanted is not None:
        left = [key for key in wanted if key in after or candidate(state, key) is not None]
        PROPOSED.put(state, value=left)
        if sorted(left) == sorted(after):
            PROPOSED.delete(state)
    return after


def _admit(context: Context, key: bytes) -> None:
    row = candidate(context.state, key)
    assert row is not None
    CANDIDATES.delete(context.state, key)
    AUTHORITIES.put(context.state, key, value=Authority(row.account, versions=row.versions))


def _is_ready(state: ReadState, key: bytes, number: int) -> bool:
    """A candidate that sent a heartbeat in the session that ends and has its bond."""
    row = candidate(state, key)
    return row is not None and row.heartbeat_session == number and bonds.is_enough(state, row.account)


def _is_disabled(state: ReadState, key: bytes) -> bool:
    row = AUTHORITIES.get(state, key)
    return row is not None and row.disabled
