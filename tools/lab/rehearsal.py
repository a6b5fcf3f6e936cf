"""An upgrade rehearsed on a copy of a stopped node's state: its migration, empty blocks by the new rules, all invariants.

The state is held in memory; nothing of the home is written. Time, leaders and certificates are the plain ones: each block
follows its parent after the chain's block time, and everybody signs.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

from ledger.chain import Chain
from ledger.crypto import digest
from ledger.errors import UsageError
from ledger.machine import BlockContext, BlockResult
from ledger.views import MemoryView
from runtime.chain import KEY_COUNT
from runtime.modules import upgrades
from runtime.versions import VersionedRuntime

AUDIT_EVERY: Final = 10


@dataclass
class Rehearsal:
    """What the new rules did with the state. `first` counts keys that their first block added, changed, deleted."""

    version: int
    before: int
    height: int
    keys: int
    first: dict[str, int]
    migrated_keys: int
    blocks: int
    ms_a_block: float
    violations: list[str]


def rehearse(chain: Chain, version: int, blocks: int) -> Rehearsal:
    """Run `blocks` blocks by `version` on the head's state. Raises UsageError, UnknownRuntimeVersion, InvariantBroken."""
    rows, height = dict(chain.view().items(b"")), chain.head.height
    view = MemoryView(rows)
    before = upgrades.state_version(view)
    if version <= before:
        raise UsageError(f"the chain runs version {before}", hint="rehearse a later one")
    machine = VersionedRuntime(chain.params.genesis_hash).at(version)
    done = Rehearsal(version, before, height + 1, len(rows), {}, 0, blocks, 0.0, [])
    _make_certain(rows, upgrades.Upgrade(version, height + 1, certain=True))
    parent, spent_s = chain.head.hash, 0.0
    for number in range(1, blocks + 1):
        started_s = time.process_time()
        result = machine.apply_block(view, _context(chain, machine, view, height + number, number, parent), [], [])
        spent_s += time.process_time() - started_s
        if number == 1:
            done.first, done.migrated_keys = _difference(rows, result), result.events[0][-1]
        for key, value in result.changes.items():
            rows.pop(key, None) if value is None else rows.__setitem__(key, value)
        view, parent = MemoryView(rows), digest("header", parent)
        if number % AUDIT_EVERY == 0 or number == blocks:
            done.violations += [f"block {height + number}: {each}" for each in machine.audit(view, deep=number == blocks)]
    done.ms_a_block = round(1000 * spent_s / blocks, 2)
    return done


def _make_certain(rows: dict[bytes, bytes], waiting: upgrades.Upgrade) -> None:
    """As the block before would have done it."""
    key, count = upgrades.UPGRADE.key(), KEY_COUNT.key()
    rows[count] = KEY_COUNT.encode(KEY_COUNT.decode(rows[count]) + (key not in rows))
    rows[key] = upgrades.UPGRADE.encode(waiting)


def _context(chain: Chain, machine: Any, view: MemoryView, height: int, number: int, parent: bytes) -> BlockContext:
    keys = machine.authorities(view).keys
    at_ms = chain.head.timestamp_ms + number * chain.params.block_time_ms
    return BlockContext(
        height, chain.params.session(height), at_ms, parent, keys[height % len(keys)], 0, (), keys, digest("beacon", parent)
    )


def _difference(rows: dict[bytes, bytes], result: BlockResult) -> dict[str, int]:
    """Keys that a block added, changed and deleted."""
    deleted = sum(value is None for value in result.changes.values())
    added = sum(value is not None and key not in rows for key, value in result.changes.items())
    return {"added": added, "changed": len(result.changes) - added - deleted, "deleted": deleted}
