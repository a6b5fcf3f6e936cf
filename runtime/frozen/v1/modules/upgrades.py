"""Scheduled upgrades of the rules: which version executes a block, when the next one does, and who can run it.

    schedule   root names a version and a height, a session ahead at least; one upgrade waits at a time
    ready      authorities tell in their heartbeats which versions their nodes can run. Who is disabled or skipped, or has
               told nothing since its key changed, is not ready
    decide     at the end of the block before that height: ready are at least as many as certify a block (more than 2/3 of
               the set that certifies the next one), else the upgrade is postponed by a session; after MAX_POSTPONED of
               those it is cancelled
    activate   the new rules migrate the state, as the first thing in the block of that height, and say so in the state

`VERSION` names the rules whose form the state has: those of the last block. A certain upgrade makes the next block's rules
others (`next_version`). Programs without them must be able to find that out: the keys, values and meaning of both tables
are the same in all versions for ever.

Rules: UPG-1 schedule of an upgrade · UPG-2 readiness
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ledger import votes
from ledger.codec import U32, U64

from .. import hooks
from ..chain import info
from ..registry import Context, Priority, call, error, event, refuse
from ..tables import ReadState, Table
from .authorities import AUTHORITIES, session_keys

CURRENT: Final = 1  # the version of these rules
MAX_POSTPONED: Final = 10  # sessions that an upgrade waits for the authorities
MAX_VERSION: Final = 1 << 16
MAX_BLOCKS_AHEAD: Final = 10_000_000


@dataclass(frozen=True)
class Upgrade:
    """The upgrade that waits. `certain`: the next block, of that height, is executed by the new rules."""

    version: int
    height: int
    postponed: int = 0
    certain: bool = False


@dataclass(frozen=True)
class Readiness:
    """Session keys of the set's authorities that can run a version, how many are needed, of how many."""

    ready: tuple[bytes, ...]
    needed: int
    of: int

    @property
    def is_enough(self) -> bool:
        return len(self.ready) >= self.needed


VERSION = Table(10, "runtime_version", int)
UPGRADE = Table(130, "upgrade", Upgrade)

SCHEDULED = event(150, "UpgradeScheduled", "version", "height")
POSTPONED = event(151, "UpgradePostponed", "version", "height", "ready", "needed")
CERTAIN = event(152, "UpgradeCertain", "version", "height", "ready", "needed")
ACTIVATED = event(153, "UpgradeActivated", "version", "before", "migrated_keys")
CANCELLED = event(154, "UpgradeCancelled", "version", "height", "reason")

error(150, "UpgradeNotNewer", "the chain runs this version or a later one already", "see `quorix query upgrade`")
error(151, "UpgradeTooSoon", "an upgrade is scheduled at least one session ahead", "name another height")
error(152, "UpgradePending", "another upgrade is scheduled", "cancel that one first")
error(153, "NoUpgrade", "no upgrade is scheduled")


# --- reads -------------------------------------------------------------------------------------------------------


def state_version(state: ReadState) -> int:
    """The rules whose form this state has."""
    version = VERSION.get(state)
    assert version is not None, "the state has no genesis"
    return version


def next_version(state: ReadState) -> int:
    """The rules that execute the block after this state."""
    waiting = UPGRADE.get(state)
    return waiting.version if waiting is not None and waiting.certain else state_version(state)


def pending(state: ReadState) -> Upgrade | None:
    """The upgrade that waits, None if there is none."""
    return UPGRADE.get(state)


def readiness(state: ReadState, version: int) -> Readiness:
    """Who of the authorities could execute blocks by that version's rules now."""
    keys, ready = session_keys(state), []
    for key in keys:
        row = AUTHORITIES.get(state, key)
        if row is not None and version in row.versions and not row.skipped and not row.disabled:
            ready.append(key)
    return Readiness(tuple(ready), votes.quorum(len(keys)), len(keys))


def genesis_version(context: Context) -> None:
    """Write that the chain starts with these rules."""
    VERSION.put(context.state, value=CURRENT)


# --- calls -------------------------------------------------------------------------------------------------------


@call(117, "governance.schedule_upgrade", {"version": U32, "height": U64}, work=10, priority=Priority.OPERATIONAL,
      origin="root")
def schedule_upgrade(context: Context, version: int, height: int) -> None:
    """Let another version of the rules execute the blocks from a height on, if the authorities are ready then."""
    state, notice = context.state, info(context.state).session_blocks
    if not state_version(state) < version < MAX_VERSION:
        refuse("UpgradeNotNewer", f"the chain runs version {state_version(state)}", version=state_version(state))
    if UPGRADE.get(state) is not None:
        refuse("UpgradePending")
    earliest, latest = context.height + notice, context.height + MAX_BLOCKS_AHEAD
    if not earliest <= height <= latest:
        refuse("UpgradeTooSoon", f"possible are heights from {earliest} to {latest}", height=earliest)
    UPGRADE.put(state, value=Upgrade(version, height))
    context.events.append(SCHEDULED(version, height))


@call(118, "governance.cancel_upgrade", {}, work=10, priority=Priority.OPERATIONAL, origin="root")
def cancel_upgrade(context: Context) -> None:
    """Forget the upgrade that is scheduled."""
    waiting = UPGRADE.get(context.state)
    if waiting is None:
        refuse("NoUpgrade")
    UPGRADE.delete(context.state)
    context.events.append(CANCELLED(waiting.version, waiting.height, "by root"))


# --- blocks ------------------------------------------------------------------------------------------------------


def decide(context: Context) -> None:
    """In the block before an upgrade's height, after the set of the next block is known (executor)."""
    state = context.state
    waiting = UPGRADE.get(state)
    if waiting is None or context.height + 1 < waiting.height:
        return
    found, version = readiness(state, waiting.version), waiting.version
    if found.is_enough:
        UPGRADE.put(state, value=replace(waiting, certain=True))
        context.events.append(CERTAIN(version, waiting.height, len(found.ready), found.needed))
    elif waiting.postponed < MAX_POSTPONED:
        later = waiting.height + info(state).session_blocks
        UPGRADE.put(state, value=replace(waiting, height=later, postponed=waiting.postponed + 1))
        context.events.append(POSTPONED(version, later, len(found.ready), found.needed))
    else:
        UPGRADE.delete(state)
        context.events.append(CANCELLED(version, waiting.height, "the authorities were not ready"))


@hooks.invariant("upgrades")
def check_upgrade(state: ReadState) -> list[str]:
    """The upgrade that waits leads to newer rules, and no further than it may be postponed."""
    waiting, out = UPGRADE.get(state), []
    if waiting is not None and waiting.version <= state_version(state):
        out.append(f"an upgrade to version {waiting.version} waits in a state of version {state_version(state)}")
    if waiting is not None and not 0 <= waiting.postponed <= MAX_POSTPONED:
        out.append(f"an upgrade was postponed {waiting.postponed} times")
    return out
