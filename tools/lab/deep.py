"""Everything a chain database says, checked, with a digest of it: what experiments call "nothing was lost or changed"."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

from ledger import layout
from ledger.chain import Chain
from ledger.deep_check import deep_check as check_everything
from ledger.errors import Corruption
from ledger.store import Snapshot

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
    """Reads every row with its checksum. Raises Corruption for whatever does not fit. Milliseconds a block."""
    for section in check_everything(chain, chain.picture(), chain.domain_at, lambda what, done, of: None):
        if section.found:
            raise Corruption(f"{section.name}: {section.problems[0]}")
    digest = blake2b(digest_size=32)
    for key, value in rows.items(b""):
        if not key.startswith(OWN_ROWS):
            digest.update(len(key).to_bytes(4, "big") + key + len(value).to_bytes(4, "big") + value)
    head = chain.head
    return Deep(head.height, head.hash, head.state_root, digest.digest())
