"""Everything a chain database says, said again from its parts: what experiments call "nothing was lost, nothing differs".

Every row is read with its checksum. Each block's header links to its parent, its body and results have the roots that it
names, its certificate verifies, its hash finds it. The state's values make the head's root, the stored pages make the
same, and the reverse diffs lead back to the root of every height that they reach.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from ledger import layout
from ledger.blocks import Header, result_leaves
from ledger.chain import Chain
from ledger.errors import Corruption, DecodeError, NotFound, Pruned
from ledger.history import reverse_diff
from ledger.state_tree import StateTree, state_root
from ledger.store import Snapshot
from ledger.trees import list_root

# Rows that say how this node fared, not what the chain is: they may differ between equal chains.
OWN_ROWS = (layout.EXTRA,)


@dataclass(frozen=True)
class Deep:
    """What a database holds. Two with the same digest hold the same chain, row for row."""

    height: int
    hash: bytes
    state_root: bytes
    digest: bytes


def deep_check(chain: Chain, rows: Snapshot) -> Deep:
    """Raises Corruption for whatever does not fit. Milliseconds a block."""
    digest = blake2b(digest_size=32)
    state: dict[bytes, bytes] = {}
    pages: list[tuple[bytes, bytes]] = []
    for key, value in rows.items(b""):
        if not key.startswith(OWN_ROWS):
            digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
        if key.startswith(layout.STATE):
            state[key[1:]] = value
        elif key.startswith(layout.PAGE):
            pages.append((key[1:], value))
    head = chain.head
    if state_root(state) != head.state_root:
        raise Corruption("the stored state values do not have the head's state root")
    tree = StateTree.from_pages(pages)
    if tree.root != head.state_root:
        raise Corruption("the stored pages do not have the head's state root")
    try:
        _check_past(chain, rows, StateTree().updated(state)[0])
    except (DecodeError, NotFound) as error:
        raise Corruption(f"a block is incomplete: {error.cause}") from None
    return Deep(head.height, head.hash, head.state_root, digest.digest())


def _check_past(chain: Chain, rows: Snapshot, tree: StateTree) -> None:
    """From the head down: each block, and the root to which the reverse diffs lead."""
    head, params, known = chain.head, chain.params, True
    expected = head.hash
    for height in range(head.height, params.genesis_height, -1):
        header = chain.header(height)
        if header.hash != expected or chain.height_of(expected) != height:
            raise Corruption(f"block {height} is not the parent of the block above it")
        _check_block(chain, header)
        if known:
            if tree.root != header.state_root:
                raise Corruption(f"the reverse diffs do not lead back to the state root of block {height}")
            try:
                tree = tree.updated(reverse_diff(rows, height).state)[0]
            except Pruned:
                known = False
        expected = header.parent_hash
    if expected != params.genesis_hash:
        raise Corruption("the first block is not the child of the genesis state")


def _check_block(chain: Chain, header: Header) -> None:
    height, body = header.height, chain.body(header.height)
    if (body.extrinsics_root, body.cert_hash) != (header.extrinsics_root, header.parent_cert_hash):
        raise Corruption(f"the body of block {height} is not its header's")
    if list_root(result_leaves(*chain.results(height)), "events") != header.events_root:
        raise Corruption(f"the results of block {height} do not have its header's root")
    certificate, keys = chain.certificate(height), chain.authority_keys(height)
    if certificate.block_hash != header.hash or not certificate.verify(keys, chain.domain_at(height)):
        raise Corruption(f"the certificate of block {height} does not verify")
