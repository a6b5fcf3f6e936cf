"""Accounts: the only writer of balances.

Every operation is double entry: money leaves a named source and enters a named sink. An account is one side; the other
is a holding of another module ("stake", "pot", "lock", ...), "mint" or "recycle". A module that takes money out of an
account puts the same amount into a row of a table it declared with `hooks.holding`; the audit at the block's end adds
all of it up.

Amounts are u64 rao (1 Q = 10^9 rao). All arithmetic is checked: too little, or too much for u64, fails the call.
An account whose balance falls below the existential deposit (with nothing reserved) is reaped: the dust is recycled and
only the nonce stays, as a tombstone, until every extrinsic signed before has expired.

Rules: ACC-1 double entry · ACC-2 existential deposit · ACC-3 transfers · ACC-4 faucet
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Final

from ledger.blocks import MAX_PERIOD
from ledger.codec import BOOL, KEY, U64, Optional
from ledger.crypto import is_valid_key
from ledger.errors import Rejected

from .. import hooks, params
from ..chain import info
from ..registry import Context, call, error, event, refuse
from ..state import State
from ..tables import ReadState, Table, key_field, u64_field

RAO_PER_Q: Final = 10**9
U64_MAX: Final = (1 << 64) - 1


@dataclass(slots=True)
class Account:
    """A row of the account table. `nonce` is the number of extrinsics of this account that are in the chain.

    Rows are replaced and never changed in place; they are not frozen, because a block makes thousands of them and a frozen
    one takes four times as long to make.
    """

    REPLACED_ONLY: ClassVar = True

    free_rao: int = 0
    reserved_rao: int = 0
    nonce: int = 0

    @property
    def total_rao(self) -> int:
        return self.free_rao + self.reserved_rao


EMPTY: Final = Account()
HIGHEST_DEPOSIT: Final = params.PARAMS["existential_deposit"].high

ACCOUNT = Table(1, "account", Account, key_field("account"), remembered=True)
ISSUANCE = Table(2, "total_issuance", int)
DRAWN = Table(4, "faucet", list, key_field("account"))  # -> [session, rao drawn in it]
TOMBSTONE = Table(3, "tombstone", int, u64_field("expires_at"), key_field("account"))  # -> nonce when reaped

_ROW: Final = ACCOUNT.prefix

hooks.holding("account", ACCOUNT, lambda account: account.free_rao + account.reserved_rao)

TRANSFER = event(1, "Transfer", "source", "to", "amount_rao")
MINTED = event(2, "Minted", "sink", "amount_rao")
RECYCLED = event(3, "Recycled", "reason", "amount_rao")
REAPED = event(4, "AccountReaped", "account", "dust_rao")

error(1, "InsufficientBalance", "the account's free balance is smaller than the amount", "ask for less, or top it up")
error(2, "NotEnoughBalance", "the account's free balance is smaller than the price", "top the account up")
error(3, "ExistentialDeposit", "an account would be left below the existential deposit",
      "send more, send all, or set keep_alive to false")
error(4, "Overflow", "the amount does not fit 64 bits")
error(5, "InvalidKey", "the key is not a valid ed25519 point", "check the address")
error(6, "AmountTooLow", "the amount is zero or below the minimum", "use a larger amount")
error(7, "FaucetDisabled", "only devnets have a faucet")
error(8, "FaucetLimit", "the account has drawn its limit of this session", "wait for the next session")


AMOUNT: Final = Optional(U64)  # rao; none means all


# --- reads -------------------------------------------------------------------------------------------------------


def account(state: ReadState, who: bytes) -> Account:
    """The account's row; all zeros if it has none."""
    if type(state) is State:  # a block asks thousands of times: the table's own way takes twice as long
        assert len(who) == 32, "no account"
        return state.value(_ROW + who, ACCOUNT) or EMPTY
    return ACCOUNT.get(state, who) or EMPTY


def balance(state: ReadState, who: bytes) -> int:
    """Free balance in rao."""
    return account(state, who).free_rao


def issuance(state: ReadState) -> int:
    """Total issuance in rao: everything minted and not recycled."""
    return ISSUANCE.get(state) or 0


# --- entries -----------------------------------------------------------------------------------------------------


def debit(context: Context, who: bytes, amount_rao: int, sink: str, *, error_name: str = "NotEnoughBalance") -> None:
    """Take free balance out of an account; the caller puts it into `sink`. Refused if there is too little."""
    row = account(context.state, who)
    if amount_rao > row.free_rao:
        refuse(error_name, balance_rao=row.free_rao, needed_rao=amount_rao)
    _flow(context, sink, amount_rao)
    _store(context, who, row, Account(row.free_rao - amount_rao, row.reserved_rao, row.nonce))


def credit(context: Context, who: bytes, amount_rao: int, source: str) -> None:
    """Put into an account's free balance what the caller took out of `source`. A remainder below the existential
    deposit in an otherwise empty account is recycled."""
    row = account(context.state, who)
    _flow(context, source, -amount_rao)
    _store(context, who, row, Account(_u64(row.free_rao + amount_rao), row.reserved_rao, row.nonce))


def reserve(context: Context, who: bytes, amount_rao: int, *, error_name: str = "NotEnoughBalance") -> None:
    """Move free balance to the account's reserved balance. The module keeps a row that says why (`hooks.deposit`)."""
    row = account(context.state, who)
    assert amount_rao >= 0
    if amount_rao > row.free_rao:
        refuse(error_name, balance_rao=row.free_rao, needed_rao=amount_rao)
    _store(context, who, row, Account(row.free_rao - amount_rao, row.reserved_rao + amount_rao, row.nonce))


def unreserve(context: Context, who: bytes, amount_rao: int) -> None:
    """Move reserved balance back to the free one."""
    row = account(context.state, who)
    assert 0 <= amount_rao <= row.reserved_rao, "more is returned than was reserved"
    _store(context, who, row, Account(row.free_rao + amount_rao, row.reserved_rao - amount_rao, row.nonce))


def debit_reserved(context: Context, who: bytes, amount_rao: int, sink: str) -> None:
    """Take reserved balance out of an account; the caller puts it into `sink`."""
    row = account(context.state, who)
    assert 0 <= amount_rao <= row.reserved_rao, "more is taken than was reserved"
    _flow(context, sink, amount_rao)
    _store(context, who, row, replace(row, reserved_rao=row.reserved_rao - amount_rao))


def transfer(
    context: Context, source: bytes, to: bytes, amount_rao: int, *, error_name: str = "InsufficientBalance"
) -> None:
    """Move free balance between two accounts, with the Transfer event."""
    row = account(context.state, source)
    if amount_rao > row.free_rao:
        refuse(error_name, balance_rao=row.free_rao, needed_rao=amount_rao)
    if source != to:
        _move(context, source, row, to, account(context.state, to), amount_rao)
    context.events.append(TRANSFER(source, to, amount_rao))


def _move(context: Context, source: bytes, giver: Account, to: bytes, taker: Account, amount_rao: int) -> None:
    """Both sides of a transfer between two different accounts whose rows are at hand."""
    _store(context, source, giver, Account(giver.free_rao - amount_rao, giver.reserved_rao, giver.nonce))
    _store(context, to, taker, Account(_u64(taker.free_rao + amount_rao), taker.reserved_rao, taker.nonce))


def hand_over(context: Context, old: bytes, new: bytes, reserved_rao: int) -> int:
    """Give an account's free balance, and so much of its reserved one, to another key; returns the free rao.

    The nonce stays: what the old key signed before cannot be run again.
    """
    row, taker = account(context.state, old), account(context.state, new)
    assert 0 <= reserved_rao <= row.reserved_rao, "more is handed over than was reserved"
    _store(context, old, row, Account(0, row.reserved_rao - reserved_rao, row.nonce))
    gained = Account(_u64(taker.free_rao + row.free_rao), taker.reserved_rao + reserved_rao, taker.nonce)
    _store(context, new, taker, gained)
    return row.free_rao


def mint(context: Context, amount_rao: int, sink: str) -> None:
    """Create money; the caller puts it into `sink`. Never beyond the supply cap."""
    total = issuance(context.state) + amount_rao
    assert amount_rao >= 0 and total <= params.get(context.state, "supply_cap"), "minted beyond the supply cap"
    _flow(context, sink, amount_rao)
    context.minted_rao += amount_rao
    ISSUANCE.put(context.state, value=total)
    context.events.append(MINTED(sink, amount_rao))


def recycle(context: Context, amount_rao: int, source: str, reason: str) -> None:
    """Destroy money that the caller took out of `source`; it will be emitted again later."""
    total = issuance(context.state) - amount_rao
    assert amount_rao >= 0 and total >= 0, "more is recycled than was issued"
    if amount_rao == 0:
        return
    _flow(context, source, -amount_rao)
    context.recycled_rao += amount_rao
    ISSUANCE.put(context.state, value=total)
    context.events.append(RECYCLED(reason, amount_rao))


def burn(context: Context, who: bytes, amount_rao: int, reason: str, *, error_name: str = "NotEnoughBalance") -> None:
    """Recycle free balance of an account."""
    debit(context, who, amount_rao, "recycle", error_name=error_name)
    recycle(context, amount_rao, "recycle", reason)


def burn_reserved(context: Context, who: bytes, amount_rao: int, reason: str) -> None:
    """Recycle reserved balance of an account."""
    debit_reserved(context, who, amount_rao, "recycle")
    recycle(context, amount_rao, "recycle", reason)


def charge(context: Context, who: bytes, row: Account, fee_rao: int) -> None:
    """Count one extrinsic of the account, whose row is at hand, and take its fee (executor only)."""
    assert 0 <= fee_rao <= row.free_rao, "the fee was not checked"
    if fee_rao:
        _flow(context, "fees", fee_rao)
    _store(context, who, row, Account(row.free_rao - fee_rao, row.reserved_rao, row.nonce + 1))


def settle_rows(context: Context, rows: Mapping[bytes, Account], fees_rao: int) -> None:
    """Write the rows of accounts that a run of plain transfers has left, which paid these fees (executor only)."""
    context.flows.append(("fees", fees_rao))
    context.state.put_settled({_ROW + who: row for who, row in rows.items()}, ACCOUNT)


def require_valid_key(key: bytes) -> None:
    """A key that enters the state as a signer is a canonical point of prime order."""
    if not is_valid_key(key):
        refuse("InvalidKey", key=key.hex())


def _u64(amount: int) -> int:
    if amount > U64_MAX:
        refuse("Overflow")
    return amount


def _flow(context: Context, holding: str, amount_rao: int) -> None:
    context.flows.append((holding, amount_rao))


def _store(context: Context, who: bytes, old: Account, new: Account) -> None:
    """Write a row; reap it when it falls below the existential deposit."""
    state, dust = context.state, new.free_rao
    assert dust >= 0 and new.reserved_rao >= 0, "negative balance"
    if dust >= HIGHEST_DEPOSIT or new.reserved_rao or not _is_dust(state, dust):
        assert len(who) == 32, "no account"
        state.put_value(_ROW + who, ACCOUNT, new)
        return
    if new.nonce == 0:
        ACCOUNT.delete(context.state, who)
    else:
        ACCOUNT.put(context.state, who, value=replace(new, free_rao=0))
        if old.total_rao:
            TOMBSTONE.put(context.state, context.height + MAX_PERIOD + 1, who, value=new.nonce)
    recycle(context, dust, "account", "dust")
    if old.total_rao:
        context.events.append(REAPED(who, dust))


def _is_dust(state: ReadState, amount_rao: int) -> bool:
    """Below the existential deposit. Where many ask, they compare with HIGHEST_DEPOSIT first: that reads nothing."""
    return amount_rao < HIGHEST_DEPOSIT and amount_rao < params.get(state, "existential_deposit")


@hooks.neuron_removed
def bury_hotkey(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """A hotkey that only ever used free calls leaves a nonce behind: forget it in time, if it stays unused."""
    row = account(context.state, hotkey)
    if row.nonce and not row.total_rao:
        TOMBSTONE.put(context.state, context.height + MAX_PERIOD + 1, hotkey, value=row.nonce)


@hooks.begin_block(hooks.ORDER_CLEANUP)
def forget_tombstones(context: Context) -> None:
    """Drop the nonce of accounts reaped so long ago that nothing they signed is still valid, if unused since."""
    for (expires_at, who), nonce in list(TOMBSTONE.items(context.state, context.height)):
        TOMBSTONE.delete(context.state, expires_at, who)
        row = account(context.state, who)
        if row == Account(nonce=nonce):
            ACCOUNT.delete(context.state, who)


# --- calls -------------------------------------------------------------------------------------------------------


@call(1, "accounts.transfer", {"to": KEY, "amount_rao": AMOUNT, "keep_alive": BOOL}, work=8)
def transfer_call(context: Context, to: bytes, amount_rao: int | None, keep_alive: bool) -> None:
    """Send free balance to another account; none sends everything, which closes the account unless keep_alive."""
    state, sender = context.state, account(context.state, context.signer)
    free, must_stay = sender.free_rao, keep_alive and sender.reserved_rao == 0
    amount = amount_rao if amount_rao is not None else free - (params.get(state, "existential_deposit") if must_stay else 0)
    if amount_rao is None and amount <= 0:
        refuse("InsufficientBalance", balance_rao=free)
    if amount == 0:
        refuse("AmountTooLow")
    if amount > free:
        refuse("InsufficientBalance", balance_rao=free, needed_rao=amount)
    if to != context.signer:
        receiver = account(state, to)
        if must_stay and free - amount < HIGHEST_DEPOSIT and _is_dust(state, free - amount):
            refuse("ExistentialDeposit", "the sender would fall below the existential deposit")
        held = receiver.free_rao + receiver.reserved_rao + amount
        if held < HIGHEST_DEPOSIT and _is_dust(state, held):
            refuse("ExistentialDeposit", "the receiver would stay below the existential deposit")
        _move(context, context.signer, sender, to, receiver, amount)
    context.events.append(TRANSFER(context.signer, to, amount))


def is_plain(free_rao: int, amount_rao: int | None, receiver_rao: int, deposit_rao: int) -> bool:
    """True only where `transfer_call` between two accounts with these free balances does nothing but move the amount.

    Neither side comes near the existential deposit, and the receiver's balance stays a u64.
    """
    return (
        amount_rao is not None and amount_rao > 0 and free_rao - amount_rao >= deposit_rao
        and deposit_rao <= receiver_rao + amount_rao <= U64_MAX
    )


def _faucet_is_free(context: Context, amount_rao: int) -> bool:
    """Free where it gives. A signer without money whom it would refuse is not admitted: only a row would stay of it."""
    try:
        _check_faucet(context, amount_rao)
    except Rejected:
        if account(context.state, context.signer).total_rao == 0:
            raise
        return False
    return True


def _check_faucet(context: Context, amount_rao: int) -> list[int]:
    """What the signer will have drawn: [session, rao]. Raises Rejected."""
    chain = info(context.state)
    if not chain.devnet:
        refuse("FaucetDisabled")
    if amount_rao < params.get(context.state, "existential_deposit"):
        refuse("AmountTooLow")
    session = chain.session(context.height)
    before = DRAWN.get(context.state, context.signer)
    drawn = amount_rao + (before[1] if before is not None and before[0] == session else 0)
    limit = params.get(context.state, "faucet_limit_rao")
    if drawn > limit:
        refuse("FaucetLimit", f"{limit} rao a session are given", limit_rao=limit)
    if issuance(context.state) + amount_rao > params.get(context.state, "supply_cap"):
        refuse("FaucetLimit", "the supply is exhausted")
    return [session, drawn]


@call(2, "accounts.faucet", {"amount_rao": U64}, work=8, free=_faucet_is_free)
def faucet(context: Context, amount_rao: int) -> None:
    """Devnets: give new money to the signer, up to a limit per session."""
    DRAWN.put(context.state, context.signer, value=_check_faucet(context, amount_rao))
    mint(context, amount_rao, "faucet")
    credit(context, context.signer, amount_rao, "faucet")
