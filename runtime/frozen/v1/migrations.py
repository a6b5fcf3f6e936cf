"""What changes in the state when these rules take over from older ones: the first thing in the block that they begin with.

A migration belongs to the version that needs it. It is small (MAX_MIGRATED_KEYS), and it says what must hold before and
after; if that does not hold, the node stops instead of going on with a state that the rules do not expect. Whoever starts
at a later version than the next one runs the migrations of all versions between, in order.

Rules: UPG-3 migrations
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from ledger.errors import InvariantBroken

from .modules import upgrades
from .registry import Context
from .tables import ReadState

MAX_MIGRATED_KEYS: Final = 5_000

Check = Callable[[ReadState], Sequence[str]]  # sentences about what is wrong


@dataclass(frozen=True)
class Migration:
    """`run` returns how many keys it wrote or deleted."""

    version: int
    name: str
    before: Check
    run: Callable[[Context], int]
    after: Check


MIGRATIONS: Final[tuple[Migration, ...]] = ()  # by version, ascending


def activate(context: Context, migrations: Sequence[Migration] = MIGRATIONS, current: int = upgrades.CURRENT) -> None:
    """Bring the state to the form of these rules, if the last block had older ones. Raises InvariantBroken."""
    state = context.state
    before, waiting = upgrades.state_version(state), upgrades.pending(state)
    if before == current:
        return
    if waiting is None or (waiting.version, waiting.height, waiting.certain) != (current, context.height, True):
        raise InvariantBroken(f"block {context.height} is to be executed by version {current}, the state has version {before}")
    migrated = sum(_run(context, each) for each in migrations if before < each.version <= current)
    if migrated > MAX_MIGRATED_KEYS:
        raise InvariantBroken(f"the migration to version {current} touched {migrated} keys")
    upgrades.UPGRADE.delete(state)
    upgrades.VERSION.put(state, value=current)
    context.events.append(upgrades.ACTIVATED(current, before, migrated))


def _run(context: Context, migration: Migration) -> int:
    _require(migration, "before", migration.before(context.state))
    keys = migration.run(context)
    _require(migration, "after", migration.after(context.state))
    return keys


def _require(migration: Migration, when: str, problems: Sequence[str]) -> None:
    if problems:
        raise InvariantBroken(f"{when} the migration {migration.name}: {'; '.join(problems[:5])}")
