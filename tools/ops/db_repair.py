"""Repairing a damaged chain database, never silently.

    nothing   if the deep check finds nothing, nothing is done
    indexes   if only index rows are wrong, they are made again in place
    replay    else: what can still be read is read from a copy, and every block that is whole is verified and executed again,
              from the genesis on, into a new database. Nothing of the damaged state is believed. The damaged database is put
              aside beside the new one, and the report names the blocks that were lost

A node that began from a snapshot has no blocks to replay: it is told to take a snapshot again. The sign database is left
alone: what a key has signed stays signed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger import layout, reindexing
from ledger.blocks import Block, Body, Header
from ledger.chain import Chain
from ledger.deep_check import Section, deep_check, first_block
from ledger.errors import UNREADABLE, Corruption, DiskFailure, Locked, NewerSchema, NotFound, Rejected, WrongGenesis
from ledger.history import RETAINED_BLOCKS, archive_from
from ledger.layout import Head, at
from ledger.recovery import members_of
from ledger.signer import domain_at
from ledger.spec import ChainSpecParams
from ledger.store import LevelStore, Store, check_stamp
from ledger.votes import Certificate
from runtime.modules.accounts import ACCOUNT
from runtime.versions import VersionedRuntime
from tools.node.folders import draft_of, make_database, put_aside, size_of
from tools.node.home import Specification
from tools.node.recoveries import recoveries_of

from .db_home import (
    Guard,
    domains_of,
    folders_explained,
    need_space,
    need_writable,
    open_chain,
    open_store,
    read_guard,
    spec_path,
)

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
        return _report(job, "nothing", "", None, None, None)
    if problem == "indexes":
        return _report(job, "indexes", "index rows were missing or wrong; they were made again", None, None, None)
    with folders_explained(home):
        return _replay(job, problem)


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
        return "indexes" if remade else ""
    finally:
        store.close()


def _wrong(store: LevelStore, job: _Home) -> list[Section]:
    chain = open_chain(job.home, store, job.params, job.guard)
    return [each for each in deep_check(chain, chain.picture(), chain.domain_at, job.progress) if each.found]


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
        finally:
            salvaged.close()
        kept = put_aside(folder, "damaged")
        fresh.rename(folder)
    finally:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.rmtree(fresh, ignore_errors=True)
    return _report(job, "replay", problem, kept, head, top)


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
    for block, certificate in _blocks(salvaged, params.initial_height):
        try:
            chain.apply(chain.import_block(block, certificate))
        except Rejected:
            break
        job.progress("replaying blocks", block.height, top)
    return chain.head


def _blocks(rows: Store, first: int) -> Iterator[tuple[Block, Certificate]]:
    """Blocks that can be read, ascending; a lost certificate is taken from the block above."""
    height = first
    while True:
        try:
            header = Header.decode(rows.get(at(layout.HEADER, height)) or b"")
            body = Body.decode(rows.get(at(layout.BODY, height)) or b"")
            own = rows.get(at(layout.CERTIFICATE, height))
            if own is None:
                own = Body.decode(rows.get(at(layout.BODY, height + 1)) or b"").parent_cert
            found = Block(header, body), Certificate.decode(own)
        except (Locked, WrongGenesis, NewerSchema):
            raise
        except UNREADABLE:
            return
        yield found
        height += 1


# --- report ------------------------------------------------------------------------------------------------------


def _report(
    job: _Home, done: str, problem: str, kept: Path | None, head: Head | None, top: int | None
) -> dict[str, Any]:
    store = open_store(job.home)
    try:
        now = open_chain(job.home, store, job.params, job.guard).head
    finally:
        store.close()
    lost = [] if head is None or top is None or top <= head.height else [head.height + 1, top]
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
        "lost_blocks": lost, "put_aside": None if kept is None else str(kept), "warning": warning,
    }
