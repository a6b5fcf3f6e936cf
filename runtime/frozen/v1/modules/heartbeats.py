"""Signs of life: missed turns, the leader skip, uptime, and heartbeats of members and candidates.

    missed turns   executing a block of round p: every leader of a lower round missed once, its author's count becomes 0;
                   at three the leader is skipped, but never more than f of the set at once. Certificates never enter this
                   count: the next proposer would choose the round
    uptime         the signers of the canonical certificate in the next block. The next leader may leave out n - q of them,
                   so nothing hangs on it but who may send heartbeats
    heartbeat      signed by the session key, without fee or nonce: one for each key and session, and one more for each skip;
                   accepted of members that were skipped, sign little or have new versions to tell, and of candidates

Rules: AUT-2 missed turns · AUT-3 heartbeats
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ledger import inherents, votes
from ledger.errors import DecodeError

from .. import hooks, params
from ..chain import info
from ..registry import Context, error, event, refuse
from ..tables import ReadState
from .authorities import AUTHORITIES, CANDIDATES, SESSIONS, UPTIMES, session_keys, uptime

ORDER_LEADERS: Final = 10  # before the hooks of the market

AUTHORITY_SKIPPED = event(90, "AuthoritySkipped", "session_key", "missed")
AUTHORITY_BACK = event(91, "AuthorityBack", "session_key")

error(91, "InvalidHeartbeat", "the heartbeat is not acceptable")


# --- every block -------------------------------------------------------------------------------------------------


@hooks.begin_block(ORDER_LEADERS)
def note_leaders(context: Context) -> None:
    """Count missed turns, blocks led and certificates signed; forget sessions that left the evidence window."""
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
        _forget(context, oldest_session(state, number))


def oldest_session(state: ReadState, number: int) -> int:
    """The oldest session that is remembered in session `number`: one more than the evidence window."""
    return number - params.get(state, "evidence_window_sessions") - 1


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


def _forget(context: Context, oldest: int) -> None:
    for (past,), _ in list(SESSIONS.items(context.state)):
        if past >= oldest:
            break
        SESSIONS.delete(context.state, past)
        UPTIMES.delete(context.state, past)


# --- heartbeats --------------------------------------------------------------------------------------------------


@hooks.inherent(inherents.HEARTBEAT, "heartbeat", lambda state: len(session_keys(state)))
def accept_heartbeat(context: Context, payload: bytes) -> None:
    """Note that an authority is alive (a skipped one leads again), or that a candidate is."""
    try:
        beat = inherents.Heartbeat.decode(payload)
    except DecodeError as problem:
        refuse("InvalidHeartbeat", problem.cause)
    state, number = context.state, info(context.state).session(context.height)
    if not may_beat(state, beat.key):
        refuse("InvalidHeartbeat", "the key is neither in the authority set nor proposed for it")
    if beat.session != number:
        refuse("InvalidHeartbeat", f"it is for session {beat.session}, this is {number}")
    if not heartbeat_is_due(state, beat.key, context.height, beat.versions):
        refuse("InvalidHeartbeat", "one is recorded already, or its certificates show that it is alive")
    if not beat.verify(context.domain(context.height)):
        refuse("InvalidHeartbeat", "the signature is wrong")
    row, waiting = AUTHORITIES.get(state, beat.key), CANDIDATES.get(state, beat.key)
    if row is not None:
        if row.skipped:
            context.events.append(AUTHORITY_BACK(beat.key))
        AUTHORITIES.put(state, beat.key, value=replace(
            row, skipped=False, missed=0, heartbeat=[number, row.skips], versions=list(beat.versions),
        ))
    elif waiting is not None:
        CANDIDATES.put(state, beat.key, value=replace(waiting, heartbeat_session=number, versions=list(beat.versions)))


def may_beat(state: ReadState, key: bytes) -> bool:
    """A member of the set or a candidate."""
    return AUTHORITIES.get(state, key) is not None or CANDIDATES.get(state, key) is not None


def heartbeat_is_due(state: ReadState, key: bytes, height: int, versions: tuple[int, ...]) -> bool:
    """True if block `height` would accept a heartbeat of an authority that knows these runtime versions.

    Once a session, and once more after each skip: if it is skipped, signs little, or has new versions to tell. Candidates:
    once a session.
    """
    row, number = AUTHORITIES.get(state, key), info(state).session(height)
    if row is None:
        waiting = CANDIDATES.get(state, key)
        return waiting is not None and waiting.heartbeat_session != number
    if row.heartbeat == [number, row.skips]:
        return False
    return row.skipped or list(versions) != row.versions or _signs_little(state, number, key)


def _signs_little(state: ReadState, number: int, key: bytes) -> bool:
    """True if the key signed less than half of the session's canonical certificates so far."""
    row, counters = SESSIONS.get(state, number), uptime(state, number)
    return row is not None and key in row.keys and 2 * counters.signed[row.keys.index(key)] < counters.blocks
