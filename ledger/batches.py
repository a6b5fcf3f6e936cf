"""What the commit of a block writes: the rows of its one synced batch (`ledger/layout.py` says what stands in each).

A batch also holds what the chain adds to a block's own rows: those of the past that it keeps or prunes, and the node's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import indexes, layout
from .blocks import Block, Extrinsic
from .layout import Head, ReverseDiff, at
from .linking import AccountKey, HeadLinks, StateRows, linked_rows
from .machine import BlockResult
from .reading import Picture
from .state_tree import PageChanges, StateTree
from .views import CachedView
from .votes import Certificate


@dataclass(frozen=True)
class ExecutedBlock:
    """A block with the effect of executing it on its parent's state. Immutable; several may exist for one parent."""

    block: Block
    extrinsics: tuple[Extrinsic, ...]
    result: BlockResult
    refused: tuple[bytes, ...] = ()  # ids of extrinsics that `build` had to leave out because they are invalid now
    tree: StateTree = field(default_factory=StateTree, repr=False)
    pages: PageChanges = field(default_factory=dict, repr=False)
    leaves: Sequence[bytes] = field(default=(), repr=False)
    view: CachedView | None = field(default=None, repr=False, compare=False)  # what it was executed on


@dataclass(frozen=True)
class CommitBatch:
    """All rows of one committed block; `Chain.apply` makes them durable at once or not at all."""

    height: int
    rows: Mapping[bytes, bytes | None] = field(repr=False)


def block_rows(
    executed: ExecutedBlock, certificate: Certificate, head: Head, parent: Picture, view: CachedView, account_key: AccountKey
) -> tuple[dict[bytes, bytes | None], StateRows, ReverseDiff]:
    """A block's own rows, the state rows among them once more by state key, and what it replaced.

    `head`: of the block; `view`: the state of `parent`.
    """
    block, result, height = executed.block, executed.result, head.height
    replaced = view.rows(result.changes)
    links = HeadLinks(account_key, replaced, view.row)
    index_rows = indexes.index_rows(height, executed.extrinsics, result.events, result.outcomes, links)
    state = linked_rows(result.changes, links, replaced, view.row)
    before = ReverseDiff(replaced, {key: parent.rows.get(layout.HISTORY + key) for key in result.history})
    rows: dict[bytes, bytes | None] = {layout.STATE + key: row for key, row in state.items()}
    rows.update((layout.PAGE + key, page) for key, page in executed.pages.items())
    rows.update((layout.HISTORY + key, row) for key, row in result.history.items())
    rows |= {
        at(layout.HEADER, height): block.header.encode(),
        at(layout.BODY, height): block.body.encode(),
        at(layout.CERTIFICATE, height): certificate.encode(),
        at(layout.RESULT, height): layout.encode_result(executed.leaves),
        layout.BY_HASH + block.hash: height.to_bytes(8, "big"),
        layout.HEAD_KEY: head.encode(),
    }
    if head.next_authorities_hash != parent.head.next_authorities_hash:
        rows[layout.AUTHORITIES + head.next_authorities_hash] = b"".join(result.authorities.keys)
    rows |= index_rows
    return rows, state, before
