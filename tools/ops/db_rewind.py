"""Going back on a devnet: cut the chains of its nodes to one height, under one new signing domain.

Every home is opened and asked before the first is changed; all authorities of the devnet have to be among them. Then the
chains are cut, each in one batch, and after that the sign databases get the new domain: nothing that was signed above the
height counts any more, and each key may sign there again. `rewinds.json` in each home says so to those without a key. After
a kill in between, the same command ends the work: a chain that is cut already stays, and a domain that one home has got
already is given to the others.
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
from tools.node.home import write_file
from tools.node.rewinds import unkept_rewinds

from .db_home import StoppedNode, own_domains, stopped_node

ENTROPY_BYTES: Final = 16


def rewind(homes: Sequence[Path], spec: Path | None, height: int) -> dict[str, Any]:
    """Make `height` the head in all these homes of one devnet. Raises UsageError, NotFound or Pruned, changing nothing."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(stopped_node(home, spec)) for home in homes]
        for node in nodes:
            _check(node, nodes[0], height)
        _require_authorities(nodes, height)
        domains = _new_domains(nodes, height)
        removed = {str(node.home): node.chain.head.height - height for node in nodes}
        for node in nodes:
            node.chain.rewind(height)
            (node.home / "pool.cbor").unlink(missing_ok=True)  # signed for blocks that are gone
        for node in nodes:
            _guard(node, domains)
            for path, data in unkept_rewinds(node.home, node.params.genesis_hash, domains):
                write_file(path, data)
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


def _require_authorities(nodes: Sequence[StoppedNode], height: int) -> None:
    """A home that is left out would go on with what is undone in the others, and no quorum might be left for either."""
    chain = nodes[0].chain
    wanted = chain.machine.authorities(chain.view(height)).keys
    given = [read_key_file(node.home / "session.key").public for node in nodes if node.guard is not None]
    missing = [key for key in wanted if key not in given]
    if missing:
        found = _homes_beside(nodes)
        also = " ".join(f"--also {home}" for home in found) or "--also HOME for each of them"
        raise UsageError(
            f"{len(missing)} of {len(wanted)} authorities of the devnet are not among the homes to rewind: "
            + ", ".join(key.hex()[:16] for key in missing), hint=f"rewind all of them in one command: add {also}",
        )


def _homes_beside(nodes: Sequence[StoppedNode]) -> list[Path]:
    """Homes of authorities in the folders of the given ones."""
    given = {node.home.absolute() for node in nodes}
    folders = sorted({home.parent for home in given})
    beside = [home for folder in folders for home in sorted(folder.glob("*")) if (home / "session.key").is_file()]
    return [home for home in beside if home not in given]


def _below(node: StoppedNode, height: int) -> Domains:
    """The signing domains that stay."""
    return tuple(entry for entry in own_domains(node.home, node.guard, node.params) if entry[0] <= height)


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
    old = guards[0].domains if guards else own_domains(first.home, None, first.params)
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
