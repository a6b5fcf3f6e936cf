"""Looking at a stopped node's chain, and keeping it in order: info, check, compact, prune, reindex.

Each is safe to interrupt: what is done is done, what is not is done by the next run.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Final, cast

from ledger import reindexing
from ledger.deep_check import Section, deep_check, first_block
from ledger.errors import UsageError
from ledger.history import Pruner, archive_mark, first_readable
from ledger.layout import ARCHIVE_KEY, SCHEMA
from ledger.lost import described, lost_blocks
from ledger.store import check_stamp
from runtime.modules.accounts import ACCOUNT
from runtime.versions import VersionedRuntime
from tools.node.folders import size_of
from tools.node.home import Specification

from .db_home import StoppedNode, faults_explained, need_space, open_store, repair_command, spec_path, stopped_node

PRUNE_ROWS: Final = 20_000
SIGNALS_S: Final = 0.2

Progress = Callable[[str, int, int], None]  # what, done, of


def info(home: Path, spec: Path | None) -> dict[str, Any]:
    """What a home holds, after the checks of every start."""
    with stopped_node(home, spec) as node:
        chain, head = node.chain, node.chain.head
        first = first_block(node.store, head.height)
        return {
            "home": str(home), "chain": node.specification.spec.name, "genesis_hash": node.params.genesis_hash,
            "schema": SCHEMA, "height": head.height, "hash": head.hash, "timestamp_ms": head.timestamp_ms,
            "age_s": max(0, round(time.time() - head.timestamp_ms / 1000)), "state_root": head.state_root,
            "history": "archive" if node.archive else "full", "states_from": chain.first_readable_height(),
            "blocks_from": first if first <= head.height else None, "lost": described(lost_blocks(node.store)),
            "authorities": len(chain.authorities().keys), "chain_bytes": size_of(home / "chain"),
            "free_bytes": shutil.disk_usage(home).free,
            "signed_height": None if node.guard is None else node.guard.signed_height,
            "rewinds": node.rewinds,
        }


def check(home: Path, spec: Path | None, *, deep: bool, progress: Progress) -> dict[str, Any]:
    """The checks of every start; with `deep` everything. Raises Corruption only where the chain cannot even be opened."""
    started = time.monotonic()
    with stopped_node(home, spec) as node:
        head = node.chain.head
        sections = _deep(node, progress) if deep else []
        problems = sum(section.found for section in sections)
        return {
            "home": str(home), "height": head.height, "hash": head.hash, "deep": deep, "ok": not problems,
            "problems": problems, "lost": described(lost_blocks(node.store)),
            "sections": [
                {"name": each.name, "checked": each.checked, "unit": each.unit, "found": each.found, "problems": each.problems}
                for each in sections
            ],
            "seconds": round(time.monotonic() - started, 3), "next": repair_command(home) if problems else "",
        }


def _deep(node: StoppedNode, progress: Progress) -> list[Section]:
    chain = node.chain
    sections = deep_check(chain, chain.picture(), chain.domain_at, progress)
    progress("invariants", 0, 0)
    audit = Section("invariants", 1, "audit")
    for violation in cast(VersionedRuntime, chain.machine).audit(chain.view(), deep=True):
        audit.problem(violation)
    return [*sections, audit]


def compact(home: Path, progress: Progress, interrupted: Callable[[], Any]) -> dict[str, Any]:
    """Rewrite the database without what was deleted from it.

    `interrupted`: called for a Ctrl-C meanwhile; it has to end the process, as a kill does, which LevelDB is made for.
    """
    folder = home / "chain"
    before = size_of(folder)
    store = open_store(home)
    try:
        need_space(home, before)
        progress("compacting", 0, 0)
        with faults_explained(home):
            _beside(store.compact, interrupted)
    finally:
        store.close()
    open_store(home).close()  # LevelDB deletes the files that were replaced when it opens the database again
    after = size_of(folder)
    return {"home": str(home), "bytes_before": before, "bytes_after": after}


def _beside(work: Callable[[], None], interrupted: Callable[[], Any]) -> None:
    """Do something that cannot be interrupted on a thread of its own, so that signals are noticed meanwhile."""
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(work)
        try:
            while not wait((done,), SIGNALS_S).done:
                pass
        except KeyboardInterrupt:
            interrupted()
            raise
        done.result()


def prune(home: Path, spec: Path | None, keep: int, progress: Progress) -> dict[str, Any]:
    """Keep the states of the newest `keep` blocks and give up older ones. Blocks and indexes stay."""
    if keep < 0:
        raise UsageError(f"--keep {keep}: a number of blocks, 0 or more")
    with stopped_node(home, spec) as node:
        store, head = node.store, node.chain.head
        before = first_readable(store, head.height)
        floor = max(before, head.height - keep)
        deleted, pruner = 0, Pruner(floor if node.archive else None)
        if node.archive:
            store.write({ARCHIVE_KEY: archive_mark(floor)}, sync=True)  # first: nothing reads what is deleted now
        while not pruner.done:
            rows = pruner.rows(store.snapshot(), floor + 1, PRUNE_ROWS)
            store.write(rows, sync=pruner.done)
            deleted += len(rows)
            progress("pruning", deleted, 0)
        return {
            "home": str(home), "rows": deleted, "states_from_before": before, "states_from": first_readable(store, head.height),
            "height": head.height,
        }


def reindex(home: Path, spec: Path | None, progress: Progress) -> dict[str, Any]:
    """Make all index rows again."""
    params = Specification.load(spec_path(home, spec)).params("")
    store = open_store(home)
    try:
        with faults_explained(home):
            check_stamp(store, SCHEMA, params.genesis_hash)
            return {"home": str(home), "rows": reindexing.reindex(store, ACCOUNT.key, progress)}
    finally:
        store.close()
