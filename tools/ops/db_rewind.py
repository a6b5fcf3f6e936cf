"""Going back on a devnet: cut the chains of its nodes to one height, under one new signing domain.

Every home is opened and asked before the first is changed. Then the chains are cut, each in one batch, and after that the
sign databases get the new domain: nothing that was signed above the height counts any more, and each key may sign there
again. After a kill in between, the same command ends the work: a chain that is cut already stays, and a domain that one
home has got already is given to the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from ledger.client.keys import read_key_file
from ledger.errors import UsageError
from ledger.signer import Domains, Signer, rewound
from ledger.store import LevelStore

from .db_home import StoppedNode, stopped_node

ENTROPY_BYTES: Final = 16


def rewind(homes: Sequence[Path], spec: Path | None, height: int) -> dict[str, Any]:
    """Make `height` the head in all these homes of one devnet. Raises UsageError, NotFound or Pruned, changing nothing."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(stopped_node(home, spec)) for home in homes]
        for node in nodes:
            _check(node, nodes[0], height)
        domains = _new_domains(nodes, height)
        removed = {str(node.home): node.chain.head.height - height for node in nodes}
        for node in nodes:
            node.chain.rewind(height)
            (node.home / "pool.cbor").unlink(missing_ok=True)  # signed for blocks that are gone
        for node in nodes:
            _guard(node, domains)
        head = nodes[0].chain.head
        return {"height": height, "hash": head.hash, "removed_blocks": removed, "new_domain": domains[-1][1]}


def _check(node: StoppedNode, first: StoppedNode, height: int) -> None:
    if not node.params.devnet:
        raise UsageError("only a devnet can be rewound: elsewhere blocks are final")
    if node.params.genesis_hash != first.params.genesis_hash:
        raise UsageError(f"{node.home} belongs to another chain than {first.home}")
    node.chain.view(height)
    if node.chain.hash_at(height) != first.chain.hash_at(height):
        raise UsageError(f"{node.home} has another block {height} than {first.home}", hint="rewind further back")
    if _below(node, height) != _below(first, height):
        raise UsageError(f"{node.home} and {first.home} were rewound apart", hint="quorix devnet reset")


def _below(node: StoppedNode, height: int) -> Domains | None:
    """The signing domains that stay."""
    return None if node.guard is None else tuple(entry for entry in node.guard.domains if entry[0] <= height)


def _new_domains(nodes: Sequence[StoppedNode], height: int) -> Domains:
    """What all homes get: a list that an interrupted run has given to some of them already, else a new one."""
    guards = [node.guard for node in nodes if node.guard is not None]
    begun = {
        node.guard.domains for node in nodes
        if node.guard is not None and node.chain.head.height == height and node.guard.domains[-1][0] == height + 1
    }
    if len(begun) == 1 and any(guard.domains not in begun for guard in guards):
        return begun.pop()
    first = nodes[0]
    old = guards[0].domains if guards else ((first.params.initial_height, first.params.genesis_hash),)
    chain, params = first.chain, first.params
    authorities = (
        chain.head.next_authorities_hash if chain.head.height == height
        else chain.header(height).next_authorities_hash if height >= params.initial_height
        else chain.header(params.initial_height).authorities_hash
    )
    return rewound(old, height, chain.hash_at(height), authorities, secrets.token_bytes(ENTROPY_BYTES))


def _guard(node: StoppedNode, domains: Domains) -> None:
    if node.guard is None or node.guard.domains == domains:
        return
    store = LevelStore.open(node.home / "sign")
    try:
        Signer.open(store, node.params.genesis_hash, read_key_file(node.home / "session.key").public).rewind(domains)
    finally:
        store.close()
