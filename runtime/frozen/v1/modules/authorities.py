"""Authorities: the set that makes blocks, in order, and what is kept of each member and each session.

The set is an ordered list of session keys; every flag and counter is kept by key, never by position. A session is a run of
blocks. Who may lead in a round is the full list minus the *disabled* (convicted of signing two things at once) and the
*skipped* (missed their turns; a heartbeat brings them back). The quorum always counts the full list.

    sessions.py     the proposed set, rotation of keys, and what the last block of a session makes of them
    heartbeats.py   missed turns, leader skip, uptime, signs of life of members and candidates
    evidence.py     two signed things of one key: disabled at once, removed and slashed at the session's end
    bonds.py        what an authority's account has put down

Rules: AUT-1 the set
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from ledger import votes
from ledger.machine import AuthoritySet

from .. import hooks
from ..chain import info
from ..params import AUTHORITY_SET
from ..registry import Context, error
from ..tables import ReadState, Table, key_field, u64_field
from . import accounts

NOBODY: Final = bytes(32)


@dataclass(frozen=True)
class Authority:
    """What is known of a session key in the set. `account` gets its tips, holds its bond, may replace its session key."""

    account: bytes
    disabled: bool = False
    skipped: bool = False
    missed: int = 0  # turns in a row
    skips: int = 0  # how often it was skipped
    heartbeat: list[int] = field(default_factory=list)  # [session, skips at that time] of the last one, or empty
    versions: list[int] = field(default_factory=list)  # runtime versions it advertised last


@dataclass(frozen=True)
class Session:
    """The set of a session, in order, and the accounts of its members."""

    first_height: int
    keys: list[bytes]
    accounts: list[bytes]


@dataclass(frozen=True)
class Uptime:
    """Counters of a session, by position in its set: canonical certificates signed, blocks led."""

    signed: list[int]
    led: list[int]
    blocks: int  # certificates counted so far


@dataclass(frozen=True)
class Candidate:
    """A session key of the proposed set that is not in the set yet."""

    account: bytes
    heartbeat_session: int = -1  # of its last heartbeat
    versions: list[int] = field(default_factory=list)


AUTHORITIES = Table(91, "authority", Authority, key_field("session_key"))
SESSIONS = Table(93, "session", Session, u64_field("session"))
UPTIMES = Table(96, "uptime", Uptime, u64_field("session"))
CANDIDATES = Table(98, "authority_candidate", Candidate, key_field("session_key"))

error(92, "UnknownAuthority", "the session key is not in the authority set")
error(97, "NotAuthority", "the signer is not the account of that authority")


# --- reads -------------------------------------------------------------------------------------------------------


def session_keys(state: ReadState) -> list[bytes]:
    """The set that certifies the next block, in order."""
    return AUTHORITY_SET.get(state) or []


def authority(state: ReadState, key: bytes) -> Authority | None:
    return AUTHORITIES.get(state, key)


def candidate(state: ReadState, key: bytes) -> Candidate | None:
    return CANDIDATES.get(state, key)


def candidates(state: ReadState) -> list[tuple[bytes, Candidate]]:
    """Session keys that wait to become authorities, ascending."""
    return [(key, row) for (key,), row in CANDIDATES.items(state)]


def current(state: ReadState) -> AuthoritySet:
    """The set with the positions that lead first."""
    keys = session_keys(state)
    active = tuple(index for index, key in enumerate(keys) if _leads(state, key))
    return AuthoritySet(tuple(keys), active)


def is_account(state: ReadState, who: bytes) -> bool:
    """True for the account of a member or of a candidate."""
    return any(row.account == who for _, row in AUTHORITIES.items(state)) or any(
        row.account == who for _, row in candidates(state)
    )


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


# --- writes of the other files of this module's rules ------------------------------------------------------------


def open_session(context: Context, number: int, first_height: int) -> None:
    """Write the set of a session that begins at `first_height`, with empty counters."""
    state, keys = context.state, session_keys(context.state)
    zeros = [0] * len(keys)
    SESSIONS.put(state, number, value=Session(first_height, keys, [account_of(state, key) or NOBODY for key in keys]))
    UPTIMES.put(state, number, value=Uptime(zeros, zeros, 0))


def genesis_authorities(context: Context, members: list[tuple[bytes, bytes]]) -> None:
    """Write the first set: (session key, account) in order."""
    write_set(context, members)
    open_session(context, 0, info(context.state).initial_height)


def write_set(context: Context, members: Sequence[tuple[bytes, bytes]]) -> None:
    """Write a whole set, (session key, account) in order, where there is none."""
    keys = [key for key, _ in members]
    assert keys and len(dict.fromkeys(keys)) == len(keys) <= votes.MAX_AUTHORITIES
    for key, account in members:
        accounts.require_valid_key(key)
        AUTHORITIES.put(context.state, key, value=Authority(account))
    AUTHORITY_SET.put(context.state, value=keys)


@hooks.invariant("authorities")
def audit(state: ReadState) -> Iterator[str]:
    """The set is not empty, has no double, and every member has its row; no candidate is a member."""
    keys = session_keys(state)
    if not keys:
        yield "the authority set is empty"
    if len(dict.fromkeys(keys)) != len(keys):
        yield "a session key is in the set twice"
    rows = [key for (key,), _ in AUTHORITIES.items(state)]
    if sorted(keys) != rows:
        yield "the rows of authorities are not those of the set"
    if any(key in keys for key, _ in candidates(state)):
        yield "a candidate is in the set already"
