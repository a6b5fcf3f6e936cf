"""Repairing a damaged chain database, never silently.

    nothing   if the deep check finds nothing, nothing is done
    indexes   if only index rows are wrong, they are made again in place
    kept      if some block cannot be executed again, but head and state are sound: all that is sound goes into a new database,
              and the node goes on at its head (`db_salvage.py`). The report names the blocks that were lost
    replay    else: what can still be read is read from a copy, and every block that is whole is verified and executed again,
              from the genesis on, into a new database. Nothing of the damaged state is believed. The report names the blocks
              that were lost; those above an unreadable one are written to files that `quorix db import` takes

The damaged database is put aside beside the new one. A node that began from a snapshot has no blocks to replay: where it
cannot be kept, it is told to take a snapshot again. The sign database is left alone: what a key has signed stays signed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger import layout, reindexing
from ledger.blocks import Block
from ledger.chain import Chain
from ledger.deep_check import Section, deep_check, first_block
from ledger.errors import UNREADABLE, Corruption, DiskFailure, Locked, NewerSchema, NotFound, Rejected, WrongGenesis
from ledger.history import RETAINED_BLOCKS, archive_from
from ledger.layout import Head
from ledger.lost import StoredBlock, described, lost_blocks, spans, stored_block
from ledger.recovery import members_of
from ledger.signer import domain_at
from ledger.spec import ChainSpecParams
from ledger.store import LevelStore, Store, check_stamp
from ledger.votes import Certificate
from runtime.modules.accounts import ACCOUNT
from runtime.versions import VersionedRuntime
from tools.node.folders import draft_of, make_database, size_of, swap
from tools.node.home import Specification
from tools.node.recoveries import recoveries_of

from .block_file import Range, write_pairs
from .db_home import (
    Guard,
    domains_of,
    folders_explained,
    need_space,
    need_writable,
    new_file,
    open_chain,
    open_store,
    read_guard,
    spec_path,
)
from .db_salvage import first_unwhole, salvage

Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass
class _Home:
    """What a repair knows of the home before it opens the chain."""

    home: Path
    specification: Specification
    params: ChainSpecParams
    guard: Guard | None
    progress: Progress


def repair(home: Path, spec: Path | None, progress: Progress) -> dict[str, Any]:
    """See the module. Raises Locked, WrongGenesis, NewerSchema or NotFound where repairing is not what is needed."""
    specification = Specification.load(spec_path(home, spec))
    params = specification.params("")
    if not (home / "chain").is_dir():
        raise NotFound(f"there is no chain database in {home}", hint="start the node: it makes one and syncs from its peers")
    need_writable(home)
    job = _Home(home, specification, params, read_guard(home, params), progress)
    try:
        problem = _in_place(job)
    except (Corruption, DiskFailure) as error:
        problem = error.cause
    if problem == "":
        return _report(job, "nothing", "", None)
    if problem == "indexes":
        return _report(job, "indexes", "index rows were missing or wrong; they were made again", None)
    with folders_explained(home):
        return _keep(job, problem) or _replay(job, problem)


def _in_place(job: _Home) -> str:
    """Empty if the database is sound, "indexes" if they were all that was wrong, else what is wrong."""
    store = open_store(job.home)
    try:
        check_stamp(store, layout.SCHEMA, job.params.genesis_hash)
        remade = store.get(layout.WORK_KEY) is not None
        if remade:
            reindexing.reindex(store, ACCOUNT.key, job.progress)
        wrong = _wrong(store, job)
        if [section.name for section in wrong] == ["indexes"]:
            reindexing.reindex(store, ACCOUNT.key, job.progress)
            remade, wrong = True, _wrong(store, job)
        if wrong:
            return "; ".join(text for section in wrong for text in section.problems[:2])
        if (gone := lost_blocks(store)) and not any(stored_block(store, height).needs_block for height in gone):
            return f"the results of blocks {described(gone)} are missing"
        return "indexes" if remade else ""
    finally:
        store.close()


def _wrong(store: LevelStore, job: _Home) -> list[Section]:
    chain = open_chain(job.home, store, job.params, job.guard)
    return [each for each in deep_check(chain, chain.picture(), chain.domain_at, job.progress) if each.found]


# --- keep --------------------------------------------------------------------------------------------------------


def _keep(job: _Home, problem: str) -> dict[str, Any] | None:
    """Keep the database with what is sound in it; None where every block can be executed again, or more is damaged."""
    folder, fresh = job.home / "chain", job.home / "chain.repaired"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        damaged = open_store(job.home)
    except (Corruption, DiskFailure):
        return None
    try:
        check_stamp(damaged, layout.SCHEMA, job.params.genesis_hash)
        head = Head.decode(damaged.get(layout.HEAD_KEY))
        if first_unwhole(damaged, job.params.initial_height, head.height) is None:
            return None
        need_space(job.home, size_of(folder))
        gone = make_database(fresh, lambda store: _salvaged(job, damaged, store))
    except (Locked, WrongGenesis, NewerSchema, DiskFailure):
        raise
    except UNREADABLE:
        return None
    finally:
        damaged.close()
    kept = swap(fresh, folder, "damaged")
    return _report(job, "kept", problem, kept, gone=gone)


def _salvaged(job: _Home, damaged: LevelStore, store: LevelStore) -> frozenset[int]:
    """Fill the new database, and check all of it. Raises what UNREADABLE names."""
    gone = salvage(damaged, store, job.progress)
    reindexing.reindex(store, ACCOUNT.key, job.progress)
    for section in _wrong(store, job):
        raise Corruption(section.problems[0])
    return gone


# --- replay ------------------------------------------------------------------------------------------------------


def _replay(job: _Home, problem: str) -> dict[str, Any]:
    folder = job.home / "chain"
    need_space(job.home, 3 * size_of(folder))
    copy, fresh = draft_of(job.home / "chain.salvage"), job.home / "chain.repaired"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        job.progress("copying what can be read", 0, 0)
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("LOCK", "LOG*"))
        _mend(copy)
        salvaged = LevelStore.open(copy)
        try:
            top = _top(salvaged)
            if first_block(salvaged, -1) not in (0, job.params.initial_height):
                raise Corruption(
                    f"{problem}; and this node began from a snapshot, so that there are no blocks to replay",
                    hint=f"move {folder} away, `quorix node init` and import a snapshot again; keep sign/ where it is",
                )
            head = make_database(fresh, lambda store: _rebuild(job, salvaged, store, top))
            stopped_at = stored_block(salvaged, head.height + 1) if head.height < top else None
            files = _write_later(job, salvaged, head.height + 2, top)
        finally:
            salvaged.close()
        kept = swap(fresh, folder, "damaged")
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(fresh, ignore_errors=True)
    return _report(job, "replay", problem, kept, top=top, stopped_at=stopped_at, files=files)


def _write_later(job: _Home, rows: Store, first: int, top: int) -> list[str]:
    """Whole blocks from a height on into files, one for each unbroken run of them."""
    whole = [height for height in range(first, top + 1) if not stored_block(rows, height).needs_block]
    paths = []
    for low, high in spans(whole):
        path = job.home / f"salvaged-{low}-{high}.blocks"
        path.unlink(missing_ok=True)
        with new_file(path) as draft, open(draft, "wb") as file:
            write_pairs(Range(job.params.genesis_hash, low, high), _pairs(rows, low, high), file, job.progress)
        paths.append(str(path))
    return paths


def _pairs(rows: Store, first: int, last: int) -> Iterator[tuple[Block, Certificate]]:
    """Blocks from `first` on, as long as they can be executed again."""
    for height in range(first, last + 1):
        found = stored_block(rows, height)
        if found.header is None or found.body is None or found.certificate is None:
            return
        yield Block(found.header, found.body), found.certificate


def _mend(folder: Path) -> None:
    """LevelDB's own salvage, on a copy: rows may be lost or come back, which is why all of them are verified after it."""
    import plyvel

    try:
        plyvel.repair_db(str(folder))
    except plyvel.Error as error:
        raise Corruption(
            f"nothing can be read from {folder}: {error}", hint="move chain/ away; the node syncs again from its peers"
        ) from None


def _top(store: Store) -> int:
    """The highest height of which there is a trace."""
    try:
        highest = Head.decode(store.get(layout.HEAD_KEY)).height
    except UNREADABLE:
        highest = 0
    try:
        for key, _ in store.items(layout.HEADER, reverse=True):
            return max(highest, int.from_bytes(key[1:], "big"))
    except UNREADABLE:
        pass
    return highest


def _rebuild(job: _Home, salvaged: Store, store: LevelStore, top: int) -> Head:
    """Replay every whole block from the genesis on, until one is missing or not valid."""
    params, recoveries = job.params, recoveries_of(job.home, job.params.genesis_hash, None)
    domains = domains_of(job.home, job.guard, params, recoveries)

    def domain(height: int) -> bytes:
        return domain_at(domains, height)

    retain = None if archive_from(salvaged) is not None else RETAINED_BLOCKS
    machine = VersionedRuntime(params.genesis_hash, domain, members_of(recoveries))
    Chain.create(store, params, machine, job.specification.genesis.state, retain_blocks=retain)
    chain = Chain.open(store, params, machine, retain_blocks=retain, domain_at=domain, recoveries=recoveries)
    for block, certificate in _pairs(salvaged, params.initial_height, top):
        try:
            chain.apply(chain.import_block(block, certificate))
        except Rejected:
            break
        job.progress("replaying blocks", block.height, top)
    return chain.head


# --- report ------------------------------------------------------------------------------------------------------


def _report(
    job: _Home, done: str, problem: str, kept: Path | None, *, gone: Iterable[int] = (), top: int = 0,
    stopped_at: StoredBlock | None = None, files: Sequence[str] = (),
) -> dict[str, Any]:
    """What was done. `gone`: blocks lost below the head; `top`: the highest of which there was a trace before a replay."""
    store = open_store(job.home)
    try:
        now = open_chain(job.home, store, job.params, job.guard).head
    finally:
        store.close()
    lost = [list(each) for each in spans(gone)] or ([[now.height + 1, top]] if top > now.height else [])
    signed = -1 if job.guard is None else job.guard.signed_height
    warning = ""
    if signed > now.height + 1:
        warning = (
            f"the key of this node has signed up to height {signed}, the chain ends at {now.height}: the node fetches the "
            "missing blocks from its peers before it signs again. If it is the only authority, bring back a backup with "
            "`quorix db restore`, or on a devnet begin a new domain with `quorix db rewind`"
        )
    return {
        "home": str(job.home), "done": done, "problem": problem, "height": now.height, "hash": now.hash,
        "lost_blocks": lost, "unreadable": None if stopped_at is None else [stopped_at.height, stopped_at.missing],
        "salvaged_files": list(files), "put_aside": None if kept is None else str(kept), "warning": warning,
    }
