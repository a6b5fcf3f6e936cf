"""Bringing lost blocks back into a database (`ledger/lost.py`) while a file of blocks is imported.

A block is believed if the authority set that its header names is one of this chain's, certified it, and it is the one that
its neighbours here name; it is not executed again: its results are kept beside it unless they were lost as well. Then it
stays in the list of lost blocks, and `quorix db repair` executes the whole chain again, now that it can.
"""

from __future__ import annotations

from collections.abc import Callable

from ledger import layout, lost, reindexing
from ledger.blocks import Block
from ledger.errors import NotFound, Rejected
from ledger.lost import is_body_of, stored_block
from ledger.votes import PRECOMMIT, Certificate, authorities_hash
from runtime.modules.accounts import ACCOUNT

from .db_home import StoppedNode, open_store

Progress = Callable[[str, int, int], None]  # what, done, of


class Refill:
    """The lost blocks of an open node; `take` is given to `import_blocks`."""

    def __init__(self, node: StoppedNode) -> None:
        self._node, self.rows = node, node.store
        self.lost = set(lost.lost_blocks(node.store))
        self.back: set[int] = set()

    def take(self, block: Block, certificate: Certificate) -> bool:
        """Write a block of the file if it is a lost one. Raises Rejected for one that is not this chain's."""
        if block.height not in self.lost:
            return False
        self._check(block, certificate)
        height = block.height.to_bytes(8, "big")
        self._node.store.write({
            layout.HEADER + height: block.header.encode(), layout.BODY + height: block.body.encode(),
            layout.CERTIFICATE + height: certificate.encode(), layout.BY_HASH + block.header.hash: height,
        }, sync=False)
        if not stored_block(self._node.store, block.height).missing:
            self.back.add(block.height)
        return True

    def _check(self, block: Block, certificate: Certificate) -> None:
        node, header, height = self._node, block.header, block.height
        keys = node.store.get(layout.AUTHORITIES + header.authorities_hash) or b""
        members = [keys[start : start + 32] for start in range(0, len(keys), 32)]
        if (certificate.kind, certificate.height, certificate.block_hash) != (PRECOMMIT, height, header.hash):
            raise Rejected("WrongCertificate", f"the certificate of block {height} is of another block")
        if not members or authorities_hash(members) != header.authorities_hash:
            raise Rejected("OtherChain", f"block {height} names an authority set that this chain never had")
        if not certificate.verify(members, node.chain.domain_at(height)):
            raise Rejected("WrongCertificate", f"the certificate of block {height} is not valid")
        if not is_body_of(header, block.body):
            raise Rejected("WrongBody", f"the body of block {height} is not the header's")
        here, below, above = self._hash(height), self._hash(height - 1), stored_block(node.store, height + 1).header
        if here not in (None, header.hash) or below not in (None, header.parent_hash) or (
            above is not None and above.parent_hash != header.hash
        ):
            raise Rejected("OtherChain", f"block {height} of the file is another one than this chain's")

    def _hash(self, height: int) -> bytes | None:
        try:
            return self._node.chain.hash_at(height)
        except NotFound:
            return None


def finish(node: StoppedNode, refill: Refill) -> None:
    """Take the blocks that are whole again off the list, and mark the indexes, which `reindex_home` makes afterwards."""
    if refill.back:
        left = lost.lost_row(refill.lost - refill.back)
        node.store.write({layout.LOST_KEY: left, layout.WORK_KEY: b"refill"}, sync=True)


def reindex_home(node: StoppedNode, progress: Progress) -> None:
    """After `finish`, with the node closed: make the indexes again, with the blocks that are back."""
    store = open_store(node.home)
    try:
        reindexing.reindex(store, ACCOUNT.key, progress)
    finally:
        store.close()
