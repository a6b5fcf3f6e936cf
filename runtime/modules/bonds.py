"""Bonds: what the account of an authority puts down, and loses if its session key signs two things at once.

The bond is reserved balance of the account. It is taken back in two steps: unbonding money can still be slashed, for as many
sessions as evidence may come in. While the account is that of a member or candidate, the least bond must stay.

    slash   from the bond first, then from what unbonds, the longest waiting last; 5 % go to the account of the authority
            whose block brought the evidence, the rest is recycled

Rules: AUT-6 bonds of authorities
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from ledger.codec import U64

from .. import hooks, params
from ..chain import info
from ..registry import Context, call, error, event, refuse
from ..tables import ReadState, Table, key_field
from . import accounts
from .authorities import NOBODY, is_account

MAX_UNBONDINGS: Final = 32  # entries of one account
REWARD_PERCENT: Final = 5  # of a slash, to the account whose block brought the evidence


@dataclass(frozen=True)
class Bond:
    """All amounts are part of the account's reserved balance. `unbonding`: [first session in which it is free, rao]."""

    bonded_rao: int = 0
    unbonding: list[list[int]] = field(default_factory=list)

    @property
    def total_rao(self) -> int:
        return self.bonded_rao + sum(amount for _, amount in self.unbonding)


BONDS = Table(100, "authority_bond", Bond, key_field("account"))

BONDED = event(98, "AuthorityBonded", "account", "amount_rao")
UNBONDING = event(99, "AuthorityUnbonding", "account", "amount_rao", "free_in_session")
BOND_PAID = event(100, "AuthorityBondPaid", "account", "amount_rao")
SLASHED = event(101, "AuthoritySlashed", "account", "session_key", "amount_rao", "reward_rao", "reporter")

error(99, "BondNeeded", "an authority, or a candidate, keeps the least bond", "leave the set first")
error(100, "NotBonded", "the account has not bonded that much")
error(101, "NothingUnbonded", "no unbonding amount is free yet", "wait until its session")
error(102, "BondUnderSuspicion", "evidence against the account is judged at the session's end", "wait for the next session")
error(103, "TooManyUnbondings", "too many amounts of this account are unbonding", "withdraw those that are free first")


@hooks.deposit
def deposits(state: ReadState) -> Iterator[tuple[bytes, int]]:
    return ((account, bond.total_rao) for (account,), bond in BONDS.items(state))


def bond_of(state: ReadState, account: bytes) -> Bond:
    return BONDS.get(state, account) or Bond()


def least_rao(state: ReadState) -> int:
    """What the account of an authority has to have bonded."""
    return params.get(state, "authority_bond_rao")


def is_enough(state: ReadState, account: bytes) -> bool:
    """The account may have a seat."""
    return bond_of(state, account).bonded_rao >= least_rao(state)


def genesis_bonds(context: Context, members: list[bytes]) -> None:
    """Give each account of the first set the least bond, as new money; once, however many seats it has."""
    amount = least_rao(context.state)
    for account in dict.fromkeys(members) if amount else ():
        accounts.mint(context, amount, "genesis")
        accounts.credit(context, account, amount, "genesis")
        accounts.reserve(context, account, amount)
        BONDS.put(context.state, account, value=Bond(amount))


# --- calls -------------------------------------------------------------------------------------------------------


@call(94, "authorities.bond", {"amount_rao": U64}, work=15)
def bond(context: Context, amount_rao: int) -> None:
    """Put free balance down as the bond of an authority."""
    if amount_rao == 0:
        refuse("AmountTooLow")
    row = bond_of(context.state, context.signer)
    accounts.reserve(context, context.signer, amount_rao)
    _store(context, context.signer, replace(row, bonded_rao=row.bonded_rao + amount_rao))
    context.events.append(BONDED(context.signer, amount_rao))


@call(95, "authorities.unbond", {"amount_rao": U64}, work=25)
def unbond(context: Context, amount_rao: int) -> None:
    """Begin to take bond back; it can be slashed until its time is over."""
    state, row = context.state, bond_of(context.state, context.signer)
    if amount_rao == 0:
        refuse("AmountTooLow")
    if amount_rao > row.bonded_rao:
        refuse("NotBonded", bonded_rao=row.bonded_rao)
    least = least_rao(state) if is_account(state, context.signer) else 0
    if row.bonded_rao - amount_rao < least:
        refuse("BondNeeded", f"{least} rao must stay bonded", least_rao=least)
    if len(row.unbonding) >= MAX_UNBONDINGS:
        refuse("TooManyUnbondings")
    free_in = info(state).session(context.height) + 1 + params.get(state, "authority_unbond_sessions")
    unbonding = sorted([*row.unbonding, [free_in, amount_rao]])
    _store(context, context.signer, Bond(row.bonded_rao - amount_rao, unbonding))
    context.events.append(UNBONDING(context.signer, amount_rao, free_in))


@call(96, "authorities.withdraw_bond", {}, work=15)
def withdraw_bond(context: Context) -> None:
    """Pay out all unbonding amounts whose time is over."""
    state, row = context.state, bond_of(context.state, context.signer)
    number = info(state).session(context.height)
    amount = sum(rao for free_in, rao in row.unbonding if free_in <= number)
    if not amount:
        first = min((free_in for free_in, _ in row.unbonding), default=None)
        refuse("NothingUnbonded", "" if first is None else f"the next is free in session {first}, this is session {number}")
    if SUSPECTS.get(state, context.signer) is not None:
        refuse("BondUnderSuspicion")
    _store(context, context.signer, replace(row, unbonding=[each for each in row.unbonding if each[0] > number]))
    accounts.unreserve(context, context.signer, amount)
    context.events.append(BOND_PAID(context.signer, amount))


# --- slashing ----------------------------------------------------------------------------------------------------

SUSPECTS = Table(101, "authority_suspect", int, key_field("account"))  # -> height of the evidence, until it is judged


def slash(context: Context, account: bytes, session_key: bytes, amount_rao: int, reporter: bytes) -> int:
    """Take up to `amount_rao` of the bond, pay the reporter's part, recycle the rest. Returns what was taken."""
    row = bond_of(context.state, account)
    amount = min(amount_rao, row.total_rao)
    if not amount:
        return 0
    reward = amount * REWARD_PERCENT // 100 if reporter not in (NOBODY, account) else 0
    _store(context, account, _without(row, amount))
    if reward:
        accounts.debit_reserved(context, account, reward, "slash")
        accounts.credit(context, reporter, reward, "slash")
    accounts.burn_reserved(context, account, amount - reward, "slash")
    context.events.append(SLASHED(account, session_key, amount, reward, reporter))
    return amount


def _without(row: Bond, amount_rao: int) -> Bond:
    """The bond first, then what unbonds, the newest entry first."""
    from_bond = min(amount_rao, row.bonded_rao)
    left, kept = amount_rao - from_bond, list[list[int]]()
    for free_in, rao in reversed(row.unbonding):
        taken = min(left, rao)
        left -= taken
        if rao > taken:
            kept.append([free_in, rao - taken])
    return Bond(row.bonded_rao - from_bond, kept[::-1])


def _store(context: Context, account: bytes, row: Bond) -> None:
    if row.total_rao:
        BONDS.put(context.state, account, value=row)
    else:
        BONDS.delete(context.state, account)
