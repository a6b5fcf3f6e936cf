"""An authority's part in opening sealed weights, block by block: announce its keys ahead, release its secrets in time.

Keys and secrets are derived anew from the session key whenever they are needed: nothing is stored, and a node that was
restarted goes on as if it had not been. A secret leaves the node only once a block is final after which the commits that it
opens can no longer be made: the state of that block is what asks for it. An authority that left the set, or has another
session key meanwhile, still releases what it has announced while its node runs with the key of that time.
"""

from __future__ import annotations

from typing import Final

from ledger.chain import Chain
from ledger.crypto import KeyPair
from ledger.errors import DecodeError
from ledger.inherents import TIMELOCK_KEY, TIMELOCK_SECRET
from ledger.machine import View
from ledger.timelock import Announcement, Release, public_of, secret_of
from runtime.versions import rules_of

KINDS: Final = (TIMELOCK_KEY, TIMELOCK_SECRET)
MAX_OFFERED: Final = 16  # keys and secrets offered after one block; the others after the next
MAX_REMEMBERED: Final = 192  # of all inherents that wait: the rest of the pool's room is for evidence and heartbeats


def due(chain: Chain, key: KeyPair) -> list[tuple[int, bytes, bytes]]:
    """(kind, payload, author) of what this authority has to say in the block after the head, at most MAX_OFFERED."""
    view, genesis_hash = chain.view(), chain.params.genesis_hash
    rules = rules_of(view).module("modules.timelock")
    found: list[tuple[int, bytes, bytes]] = []
    own: dict[tuple[int, int], tuple[bytes, bytes]] = {}
    for netuid, epoch, position, public in rules.secrets_to_release(view, chain.head.height + 1):
        if (netuid, epoch) not in own:
            secret = secret_of(key.seed, genesis_hash, netuid, epoch)
            own[netuid, epoch] = secret, public_of(secret)
        secret, mine = own[netuid, epoch]
        if public == mine:
            found.append((TIMELOCK_SECRET, Release(netuid, epoch, position, secret).encode(), author(key.public, netuid)))
    for netuid, epoch in rules.keys_to_announce(view, key.public)[: MAX_OFFERED - len(found)]:
        said = Announcement.sign(key, genesis_hash, netuid, epoch)
        found.append((TIMELOCK_KEY, said.encode(), author(key.public, netuid)))
    return found[:MAX_OFFERED]


def author(authority: bytes, netuid: int) -> bytes:
    """Under what the pool counts them: each authority has its own room for each subnet."""
    return authority + netuid.to_bytes(2, "big")


def judge(view: View, genesis_hash: bytes, kind: int, payload: bytes) -> bytes | None:
    """The author of a key or a secret from a peer that is worth remembering, else None. Raises DecodeError.

    Peers may be a block ahead: what the next block cannot carry yet is remembered, too, if it will be wanted.
    """
    rules = rules_of(view).module("modules.timelock")
    if kind == TIMELOCK_KEY:
        said = Announcement.decode(payload)
        return author(said.authority, said.netuid) if rules.may_announce(view, said) and said.verify(genesis_hash) else None
    if kind == TIMELOCK_SECRET:
        told = Release.decode(payload)
        keys = rules.lock(view, told.netuid, told.epoch) if rules.may_release(view, told) else None
        return None if keys is None else author(keys.authorities[told.index], told.netuid)
    raise DecodeError(f"kind {kind} is neither a key nor a secret", where="inherent")
