"""Taking a chain out of a stopped node and into another: files of blocks, and snapshots of the state.

    blocks     everything that happened, with certificates: the importing node verifies and executes all of it
    snapshot   the state after one block, proven: the importing node starts there, without what came before

What is trusted is said in `tools/ops/block_file.py` and `ledger/snapshot.py`.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ledger import snapshot
from ledger.deep_check import first_block
from ledger.errors import DecodeError, Rejected, UsageError
from ledger.framing import is_kind
from ledger.lost import described, stored_block
from ledger.snapshot import SnapshotReader, read_snapshot, write_snapshot
from runtime.versions import VersionedRuntime
from tools.node.folders import make_database, swap

from . import block_file
from .block_file import BlockReader, import_blocks, write_blocks
from .db_home import StoppedNode, folders_explained, need_space, new_file, repair_command, stopped_node
from .db_refill import Refill, finish, reindex_home

Progress = Callable[[str, int, int], None]  # what, done, of


def export_blocks(
    home: Path, spec: Path | None, path: Path, first: int | None, last: int | None, progress: Progress
) -> dict[str, Any]:
    """Write the blocks from `first` to `last` (default: all) into a new file."""
    with stopped_node(home, spec) as node:
        params, head = node.params, node.chain.head
        first = params.initial_height if first is None else first
        last = head.height if last is None else last
        if head.height < params.initial_height:
            raise UsageError(f"{home} has no block yet", hint="start the node, or import blocks or a snapshot")
        if not params.initial_height <= first <= last <= head.height:
            raise UsageError(
                f"there are no blocks {first} to {last}", hint=f"this chain has {params.initial_height} to {head.height}"
            )
        if first < (kept := first_block(node.store, head.height)):
            raise UsageError(
                f"{home} began from a snapshot and has no blocks before {kept}",
                hint="export from a node that has all blocks" + (f", or --from {kept}" if kept <= last else ""),
            )
        _refuse_rewound(node)
        with new_file(path) as draft, open(draft, "wb") as file:
            size = write_blocks(node.chain, first, last, file, progress)
        return {"file": str(path), "kind": "blocks", "first": first, "last": last, "bytes": size}


def export_snapshot(home: Path, spec: Path | None, path: Path, height: int | None, progress: Progress) -> dict[str, Any]:
    """Write the proven state after the block at `height` (default: the head) into a new file."""
    with stopped_node(home, spec) as node:
        height = node.chain.head.height if height is None else height
        _refuse_rewound(node)
        with new_file(path) as draft, open(draft, "wb") as file:
            manifest = write_snapshot(node.chain, height, file, progress)
        return {
            "file": str(path), "kind": "snapshot", "height": height, "hash": manifest.header.hash,
            "state_root": manifest.header.state_root, "keys": manifest.entries, "chunks": manifest.chunks,
            "bytes": path.stat().st_size,
        }


def _refuse_rewound(node: StoppedNode) -> None:
    if node.rewound:
        raise UsageError(
            "this devnet was rewound: what was certified after that cannot be verified from the genesis alone",
            hint="copy the home with `quorix db backup`, or reset the devnet",
        )


def import_file(
    home: Path, spec: Path | None, path: Path, checkpoint: tuple[int, bytes] | None, progress: Progress
) -> dict[str, Any]:
    """Take in a file of blocks or a snapshot, whichever it is."""
    with open(path, "rb") as file:
        if is_kind(file, snapshot.KIND):
            return _import_snapshot(home, spec, path, checkpoint, progress)
        if not is_kind(file, block_file.KIND):
            raise UsageError(f"{path} is neither a file of blocks nor a snapshot")
        if checkpoint is not None:
            raise UsageError("--checkpoint is for snapshots; blocks are verified from the genesis on")
        with stopped_node(home, spec) as node:
            before, started, refill = node.chain.head.height, time.monotonic(), Refill(node)
            with _goes_on(path, node):
                done = import_blocks(BlockReader(file, node.params.genesis_hash), node.chain, progress, refill.take)
            seconds = time.monotonic() - started
            finish(node, refill)
            found = {
                "file": str(path), "kind": "blocks", "blocks": done.blocks, "known": done.known,
                "transactions": done.transactions, "height_before": before, "height": node.chain.head.height,
                "hash": node.chain.head.hash, "seconds": round(seconds, 3), "blocks_per_s": round(done.blocks / seconds, 1),
                "refilled": done.refilled, "lost": described(refill.lost - refill.back), "next": _next(home, refill),
            }
        if refill.back:
            reindex_home(node, progress)
        return found


def _next(home: Path, refill: Refill) -> str:
    """What is to be done for blocks that came back without their results."""
    left = refill.lost - refill.back
    whole = left and not any(stored_block(refill.rows, height).needs_block for height in left)
    return f"{repair_command(home)}: their results were lost too, and every block is executed again for them" if whole else ""


@contextmanager
def _goes_on(path: Path, node: StoppedNode) -> Iterator[None]:
    """What ends an import of blocks, with the blocks that it leaves."""
    before = node.chain.head.height

    def kept() -> str:
        head = node.chain.head.height
        return f"blocks {before + 1} to {head} were imported and stay" if head > before else "no block was imported"

    try:
        yield
    except DecodeError as error:
        raise _of_file(path, error, kept(), "get the file again: importing it goes on where this one ended") from error
    except Rejected as error:
        if error.error_name != "Gap":
            raise
        hint = f"import a file that holds block {node.chain.head.height + 1} first"
        raise Rejected(error.error_name, f"{error.cause}; {kept()}", hint=hint) from error


def _of_file(path: Path, error: DecodeError, done: str, hint: str) -> DecodeError:
    """A fault in a file, with what came of it and the next step."""
    found = DecodeError(f"{error.cause}; {done}", where=str(path))
    found.hint = hint
    return found


def _import_snapshot(
    home: Path, spec: Path | None, path: Path, checkpoint: tuple[int, bytes] | None, progress: Progress
) -> dict[str, Any]:
    """Only into a home without blocks: a node that has some follows the others, or goes on with a file of blocks."""
    with stopped_node(home, spec) as node, open(path, "rb") as file:
        if node.chain.head.height != node.params.genesis_height:
            raise UsageError(
                f"{home} has blocks up to {node.chain.head.height} already; a snapshot starts an empty node",
                hint="make one with `quorix node init`, or import a file of blocks here",
            )
        params, retain = node.params, node.retain_blocks
        machine, authorities = VersionedRuntime(params.genesis_hash), node.specification.genesis.authorities.keys
        need_space(home, 2 * path.stat().st_size)
        fresh = home / "chain.snapshot"
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            reader = SnapshotReader(file, params, authorities, checkpoint)
            head = make_database(
                fresh, lambda store: read_snapshot(reader, store, params, machine, progress, retain_blocks=retain)
            )
        except DecodeError as error:
            raise _of_file(path, error, "nothing was changed", "get the file again, or a snapshot of another node") from error
        node.store.close()
        with folders_explained(home):
            old = swap(fresh, home / "chain", "empty")
        shutil.rmtree(old, ignore_errors=True)  # nothing but the genesis
    with stopped_node(home, spec) as node:
        return {
            "file": str(path), "kind": "snapshot", "height": head.height, "hash": node.chain.head.hash,
            "state_root": head.state_root, "keys": reader.manifest.entries,
            "age_s": max(0, round(time.time() - head.timestamp_ms / 1000)), "checkpoint": checkpoint is not None,
        }
