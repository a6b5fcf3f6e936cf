"""What explorers, the CLI and RPC read of accounts and subnets beside their money: identity, proxies, children, swaps, bond.

As `reads`: plain functions over a read-only view, part of no rule.
"""

from __future__ import annotations

from ledger.client.account_records import (
    AnnouncementRecord,
    BondRecord,
    ChallengeRecord,
    ChildTake,
    IdentityRecord,
    Lending,
    PendingChildren,
    Proxies,
    ProxyRecord,
    RelationRecord,
    Relations,
    SwapRecord,
    Unbonding,
)
from ledger.errors import NotFound

from . import params
from .modules import authorities, bonds, children, coldkeys, evictions, identities, proxies, subnets, swaps
from .tables import ReadState


def identity(state: ReadState, coldkey: bytes) -> IdentityRecord | None:
    """What an account says of itself, or None."""
    return _identity(identities.identity_of(state, coldkey))


def subnet_identity(state: ReadState, netuid: int) -> IdentityRecord | None:
    """What a subnet's owner says of it, or None. Raises NotFound for an unknown subnet."""
    _require_subnet(state, netuid)
    return _identity(identities.subnet_identity_of(state, netuid))


def challenge(state: ReadState, netuid: int) -> ChallengeRecord | None:
    """Who has given a subnet notice, or None. Raises NotFound for an unknown subnet."""
    _require_subnet(state, netuid)
    row = evictions.challenge_of(state, netuid)
    return None if row is None else ChallengeRecord(row.coldkey, row.hotkey, row.name, row.price_rao, row.ends_at)


def _require_subnet(state: ReadState, netuid: int) -> None:
    if subnets.SUBNETS.get(state, netuid) is None:
        raise NotFound(f"there is no subnet {netuid}", hint="quorix subnet list", netuid=netuid)


def _identity(row: identities.Identity | None) -> IdentityRecord | None:
    return None if row is None else IdentityRecord(row.name, row.url, row.about, row.task, row.content_hash)


def appointed(state: ReadState, real: bytes) -> Proxies:
    """The proxies of an account and their announcements; one is ready after the shortest delay that its delegate has."""
    held, announced = proxies.proxies_of(state, real), list[AnnouncementRecord]()
    for (_, delegate), rows in proxies.ANNOUNCEMENTS.items(state, real):
        delay = min(row[2] for row in held.rows if row[0] == delegate)
        announced += [AnnouncementRecord(delegate, hashed, height, height + delay) for hashed, height in rows.rows]
    rights = [
        ProxyRecord(delegate, proxies.KINDS[kind], delay, list(proxies.ALLOWED.get(kind, ())))
        for delegate, kind, delay in held.rows
    ]
    return Proxies(rights, announced, held.deposit_rao)


def relations(state: ReadState, hotkey: bytes) -> Relations:
    """Children and parents of a hotkey in every subnet."""
    out = Relations([], [], [], [])
    for netuid in subnets.netuids(state):
        out.children.extend(_relations(netuid, children.children_of(state, netuid, hotkey)))
        out.parents.extend(_relations(netuid, children.parents_of(state, netuid, hotkey)))
        waiting, take = children.PENDING.get(state, netuid, hotkey), children.TAKES.get(state, netuid, hotkey)
        if waiting is not None:
            out.pending.append(PendingChildren(netuid, _relations(netuid, waiting.children), waiting.ripe_at))
        if take is not None:
            out.takes.append(ChildTake(netuid, take.take, take.next_take))
    return out


def subnet_relations(state: ReadState, netuid: int) -> list[Lending]:
    """What is lent in a subnet, by parent. Raises NotFound for an unknown subnet."""
    _require_subnet(state, netuid)
    return [
        Lending(parent, child, share) for (_, parent), rows in children.CHILDREN.items(state, netuid) for share, child in rows
    ]


def _relations(netuid: int, rows: children.Shares) -> list[RelationRecord]:
    return [RelationRecord(netuid, other, share) for share, other in rows]


def swap(state: ReadState, coldkey: bytes, height: int) -> SwapRecord:
    """Announced and past swaps of an account, as the next block after `height` finds them."""
    announced, swapped_at = coldkeys.announcement_of(state, coldkey), swaps.SWAPPED.get(state, coldkey)
    free_at = None if swapped_at is None else swapped_at + params.get(state, "tx_rate_limit")
    return SwapRecord(
        None if announced is None else announced.new_hash, None if announced is None else announced.ready_at,
        None if announced is None else announced.ready_at + params.get(state, "coldkey_swap_again_delay"), swapped_at,
        free_at if free_at is not None and free_at > height + 1 else None,
    )


def bond(state: ReadState, who: bytes) -> BondRecord:
    """The bond of an authority's account; all zeros for others."""
    row = bonds.bond_of(state, who)
    owners = ((key, authorities.account_of(state, key)) for key in authorities.session_keys(state))
    return BondRecord(
        row.bonded_rao, [Unbonding(session, amount) for session, amount in row.unbonding],
        bonds.SUSPECTS.get(state, who), bonds.least_rao(state), [key for key, owner in owners if owner == who],
    )
