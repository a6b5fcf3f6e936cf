"""Evidence: two signed messages of one key for the same (kind, height, round) with different blocks.

    at once               recorded, so that it counts once, and the key disabled: it no longer leads. Its successor after a
                          rotation is disabled in its place. The key is never let in again (`OFFENDERS`)
    at the session's end  the seat is taken away (`sessions.py`) and the bond slashed: 5 % for one alone, rising to 100 % when
                          a third or more of a session's set offended in it, and 100 % for an account that offended before.
                          When more offenders of the same session are found later, the earlier ones are slashed up to the
                          new share

Evidence is valid for heights inside the window, of keys that were in the set of that height, under the domain of that height.
Nobody files it on itself.

Rules: AUT-4 evidence · AUT-5 slashes
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger import inherents, votes
from ledger.errors import DecodeError

from .. import hooks, params
from ..chain import info
from ..registry import Context, error, event, refuse
from ..tables import ReadState, Table, key_field, u16_field, u32_field, u64_field
from . import bonds
from .authorities import AUTHORITIES, NOBODY, SESSIONS, account_of
from .heartbeats import ORDER_LEADERS, oldest_session

MAX_EVIDENCE_PER_BLOCK: Final = 8
ONE_PPM: Final = 1_000_000
LEAST_SLASH_PPM: Final = 50_000


@dataclass(frozen=True)
class Offence:
    """Of one key in one session. `reporter` brought the evidence; the slash is a share of `base_rao`, the bond at first."""

    account: bytes
    reporter: bytes
    base_rao: int = 0
    slashed_ppm: int = 0
    slashed_rao: int = 0


EVIDENCE = Table(94, "evidence", int, u64_field("height"), u32_field("round"), u16_field("kind"), key_field("session_key"))
OFFENDERS = Table(95, "offender", int, key_field("session_key"))  # -> height of the offence; never let in again
SUCCESSORS = Table(99, "authority_successor", list, key_field("session_key"))  # -> [new session key, session of the change]
OFFENCES = Table(102, "offence", Offence, u64_field("session"), key_field("session_key"))

AUTHORITY_DISABLED = event(92, "AuthorityDisabled", "session_key", "kind", "height", "round")

error(90, "InvalidEvidence", "the evidence does not convict anybody")


@hooks.inherent(inherents.EVIDENCE, "evidence", lambda state: MAX_EVIDENCE_PER_BLOCK)
def accept_evidence(context: Context, payload: bytes) -> None:
    """Record a proven double signing, and disable its author unless it has left the set."""
    try:
        found = votes.Evidence.decode(payload)
    except DecodeError as problem:
        refuse("InvalidEvidence", problem.cause)
    account = _account_at(context, found)
    state, where = context.state, (found.height, found.round, found.kind, found.key)
    if EVIDENCE.get(state, *where) is not None:
        refuse("InvalidEvidence", "recorded already")
    if found.key == context.block.proposer:
        refuse("InvalidEvidence", "nobody files evidence on itself")
    if not found.verify(context.domain(found.height)):
        refuse("InvalidEvidence", "the two messages do not conflict, or a signature is wrong")
    EVIDENCE.put(state, *where, value=context.height)
    if OFFENDERS.get(state, found.key) is None:
        OFFENDERS.put(state, found.key, value=found.height)
        reporter = account_of(state, context.block.proposer) or NOBODY
        OFFENCES.put(state, info(state).session(found.height), found.key, value=Offence(account, reporter))
        bonds.SUSPECTS.put(state, account, value=context.height)
    member = AUTHORITIES.get(state, heir := heir_of(state, found.key))
    if member is not None and not member.disabled:
        AUTHORITIES.put(state, heir, value=replace(member, disabled=True))
    context.events.append(AUTHORITY_DISABLED(found.key, found.kind, found.height, found.round))


def _account_at(context: Context, found: votes.Evidence) -> bytes:
    """Account of the key in the set of the evidence's height, which must be inside the window."""
    state, chain = context.state, info(context.state)
    window = params.get(state, "evidence_window_sessions") * chain.session_blocks
    if not max(chain.initial_height, context.height - window) <= found.height <= context.height:
        refuse("InvalidEvidence", f"height {found.height} is outside the evidence window")
    row = SESSIONS.get(state, chain.session(found.height))
    if row is None or found.key not in row.keys:
        refuse("InvalidEvidence", "the key was not in the set of that height")
    return row.accounts[row.keys.index(found.key)]


def heir_of(state: ReadState, key: bytes) -> bytes:
    """The key that has the seat of `key` now, after any rotations. A key is never used twice, so this ends."""
    while (row := SUCCESSORS.get(state, key)) is not None:
        key = row[0]
    return key


@hooks.begin_block(ORDER_LEADERS + 1)
def forget(context: Context) -> None:
    """In the first block of a session: drop what left the window."""
    state, chain = context.state, info(context.state)
    number = chain.session(context.height)
    if number == chain.session(context.height - 1):
        return
    oldest = oldest_session(state, number)
    for parts, _ in list(EVIDENCE.items(state)):
        if chain.session(parts[0]) >= oldest:
            break
        EVIDENCE.delete(state, *parts)
    for parts, _ in list(OFFENCES.items(state)):
        if parts[0] >= oldest:
            break
        OFFENCES.delete(state, *parts)
    for (key,), (_, changed_in) in list(SUCCESSORS.items(state)):
        if changed_in < oldest:
            SUCCESSORS.delete(state, key)


# --- at the session's end ----------------------------------------------------------------------------------------


def punish(context: Context) -> None:
    """Slash every offender up to the share that its session's number of offenders asks for."""
    state = context.state
    if not list(bonds.SUSPECTS.items(state)):
        return
    offences = [(number, key, row) for (number, key), row in OFFENCES.items(state)]
    for number, key, row in offences:
        share_ppm = slash_ppm(sum(1 for other, _, _ in offences if other == number), len(_set_of(state, number)))
        if any(other.account == row.account and at < number for at, _, other in offences):
            share_ppm = ONE_PPM  # not its first one
        if share_ppm <= row.slashed_ppm:
            continue
        base_rao = row.base_rao if row.slashed_ppm else bonds.bond_of(state, row.account).total_rao
        due_rao = base_rao * share_ppm // ONE_PPM - row.slashed_rao
        taken_rao = bonds.slash(context, row.account, key, due_rao, row.reporter)
        OFFENCES.put(state, number, key, value=Offence(
            row.account, row.reporter, base_rao, share_ppm, row.slashed_rao + taken_rao,
        ))
    for (account,), _ in list(bonds.SUSPECTS.items(state)):
        bonds.SUSPECTS.delete(state, account)


def slash_ppm(offenders: int, n: int) -> int:
    """Share of the bond that each of so many offenders among n loses: 5 % for one, 100 % from n/3 on, linear between."""
    if 3 * offenders >= n:
        return ONE_PPM
    third = -(-n // 3)
    return LEAST_SLASH_PPM + (ONE_PPM - LEAST_SLASH_PPM) * (offenders - 1) // (third - 1)


def _set_of(state: ReadState, number: int) -> list[bytes]:
    row = SESSIONS.get(state, number)
    return [] if row is None else row.keys
