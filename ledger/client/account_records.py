"""What the chain API tells of accounts, hotkeys and subnets beside their money: identity, proxies, children, swaps, bond."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IdentityRecord:
    """What an account or a subnet says of itself. Nobody has checked it."""

    name: str
    url: str
    about: str
    task: str  # kind of task; only of subnets
    content_hash: bytes  # of a longer document that lives elsewhere, or empty


@dataclass(frozen=True)
class ProxyRecord:
    """A right that an account has given away."""

    delegate: bytes
    kind: str
    delay_blocks: int  # from an announcement to the call; 0: no announcement is needed
    calls: list[str]  # that this kind may run; empty: all


@dataclass(frozen=True)
class AnnouncementRecord:
    """A call that a delegate has announced, by its hash. `ready_at`: the earliest block of its execution."""

    delegate: bytes
    call_hash: bytes
    height: int
    ready_at: int


@dataclass(frozen=True)
class Proxies:
    """Proxies that an account has appointed, and what they have announced; what is reserved for the appointments."""

    proxies: list[ProxyRecord]
    announcements: list[AnnouncementRecord]
    deposit_rao: int


@dataclass(frozen=True)
class RelationRecord:
    """Part of a hotkey's voting stake, lent by one hotkey to another: `share` of 2^64."""

    netuid: int
    hotkey: bytes  # the other one
    share: int


@dataclass(frozen=True)
class Lending:
    """Part of a parent's voting stake that a child votes with: `share` of 2^64."""

    parent: bytes
    child: bytes
    share: int


@dataclass(frozen=True)
class PendingChildren:
    """Children that were named and do not count yet. Empty: the present ones end."""

    netuid: int
    children: list[RelationRecord]
    ripe_at: int  # they count from the end of the subnet's first epoch at or after this block


@dataclass(frozen=True)
class ChildTake:
    """What a hotkey keeps, as a child, of its parents' dividends: fractions of 65535."""

    netuid: int
    take: int
    next_take: int | None  # an announced raise


@dataclass(frozen=True)
class Relations:
    """Children and parents of a hotkey in all subnets."""

    children: list[RelationRecord]
    parents: list[RelationRecord]
    pending: list[PendingChildren]
    takes: list[ChildTake]  # where they are not the subnet's least


@dataclass(frozen=True)
class SwapRecord:
    """Swaps of an account's keys. A coldkey swap is announced by the hash of the new key."""

    announced_hash: bytes | None
    ready_at: int | None  # block from which on the swap can be made
    changeable_at: int | None  # block from which on the announcement can be replaced or cleared
    hotkey_swapped_at: int | None  # block of the last hotkey swap
    hotkey_swap_free_at: int | None  # block from which on the next one can be made; None: now


@dataclass(frozen=True)
class Unbonding:
    """A part of a bond on its way back: it is free, and can no longer be slashed, in this session."""

    session: int
    amount_rao: int


@dataclass(frozen=True)
class BondRecord:
    """What an account has put down for its seat among the authorities."""

    bonded_rao: int
    unbonding: list[Unbonding]
    suspect_since: int | None  # height of evidence against it that the session's end will judge
    least_rao: int  # of a member or candidate
    seats: list[bytes]  # session keys of this account in the set


@dataclass(frozen=True)
class ChallengeRecord:
    """Notice to a subnet: it is dissolved in block `ends_at`, for a new one, unless its owner pays the same price."""

    coldkey: bytes
    hotkey: bytes
    name: str  # of the new subnet
    price_rao: int
    ends_at: int
