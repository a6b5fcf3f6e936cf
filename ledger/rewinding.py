"""Going back to an earlier height: the head as it was, and the rows that make it the head again.

The state rows, with the places in them, come back from the reverse diffs; blocks, results and index rows above the height
are deleted. Everything is one batch, so a kill leaves the chain where it was or where it should be.
"""

from __future__ import annotations

from . import history as past
from . import layout
from .errors import Corruption
from .indexes import Rows
from .layout import Head
from .reading import ChainReader, Picture
from .state_tree import StateTree


def rewound(chain: ChainReader, now: Picture, height: int) -> tuple[Head, StateTree, Rows]:
    """Head and tree of `height`, and the batch that leads there. Raises Pruned beyond the kept history."""
    old = past.replaced_since(now.rows, height, now.head.height)
    tree, pages = now.tree.updated(old.values())
    head = head_at(chain, now, height)
    if tree.root != head.state_root:
        raise Corruption(f"the reverse diffs do not lead back to the state of block {height}")
    rows: Rows = {layout.STATE + key: row for key, row in old.state.items()}
    rows |= {layout.PAGE + key: page for key, page in pages.items()}
    rows |= {layout.HISTORY + key: value for key, value in old.history.items()}
    for later in range(height + 1, now.head.height + 1):
        rows |= past.cut_rows(now.rows, later)
    rows[layout.HEAD_KEY] = head.encode()
    return head, tree, rows


def head_at(chain: ChainReader, now: Picture, height: int) -> Head:
    """The head as it was when `height` was committed."""
    params = chain.params
    if height == params.genesis_height:
        first = chain.header(params.initial_height)
        tree = now.tree.updated(past.replaced_since(now.rows, height, now.head.height).values())[0]
        return Head(height, params.genesis_hash, params.genesis_time_ms, tree.root, first.authorities_hash)
    header = chain.header(height)
    return Head(height, header.hash, header.timestamp_ms, header.state_root, header.next_authorities_hash)
