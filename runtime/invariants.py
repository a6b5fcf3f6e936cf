"""What must always hold. A violation stops the node: a wrong ledger never continues.

    conservation   every block: the sum of the changes of all money rows = minted - recycled (cost per touched key), and
                   no account's nonce goes back
    audit          the full list, while the state is small, and in tools:
      I1  every unit of the issuance is in exactly one row: accounts, stake, pots, locks ...     (hooks.holding)
      I1r what an account has reserved is explained by the deposits of the modules               (hooks.deposit)
      I2.. the rules of the modules                                                              (hooks.invariant)
      deep: every key belongs to a known table, its value is the one encoding of itself, the key count is right

Rules: INV-1 every unit has one place · INV-2 conservation of a block · INV-3 nonces never go back · INV-4 rows of modules ·
    INV-5 a violation halts with a dump
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.errors import DecodeError, InvariantBroken

from . import hooks
from .chain import key_count
from .modules import accounts
from .registry import Context
from .tables import ReadState, Table

MAX_REPORTED: Final = 20


@dataclass(frozen=True)
class Violation:
    rule: str
    what: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.what}"


def check_conservation(context: Context, changes: Mapping[bytes, bytes | None]) -> list[Violation]:
    """I1, I5 and the order of nonces over the keys that the block touched."""
    out: list[Violation] = []
    state, moved = context.state, dict.fromkeys((held.name for held in hooks.HOLDINGS.values()), 0)
    touched: dict[bytes, list[bytes]] = {held.table.prefix: [] for held in hooks.HOLDINGS.values()}
    for key in changes:
        if (prefix := key[:2]) in touched:
            touched[prefix].append(key)
    for held in hooks.HOLDINGS.values():
        table, keys = held.table, touched[held.table.prefix]
        now, then = state.values_of(keys, table)
        moved[held.name] += _amount(held, now) - _amount(held, then)
        if table is accounts.ACCOUNT:
            for key, after, before in zip(keys, now, then, strict=True):
                if after is not None and before is not None and after.nonce < before.nonce:
                    out.append(Violation("nonces", f"{key[2:].hex()} went from nonce {before.nonce} to {after.nonce}"))
    expected, found = context.minted_rao - context.recycled_rao, sum(moved.values())
    start = state.before(accounts.ISSUANCE.key())
    issued = accounts.issuance(state) - (accounts.ISSUANCE.decode(start) if start is not None else 0)
    if found != expected:
        out.append(Violation("I1", f"rows changed by {found} rao, minted - recycled is {expected}; {_flows(context, moved)}"))
    if issued != expected:
        out.append(Violation("I5", f"the issuance changed by {issued} rao, minted - recycled is {expected}"))
    return out


def _amount(held: hooks.Holding, values: Sequence[Any]) -> int:
    """What rows of a table hold together, in rao; None is a row that is not there."""
    amounts = [held.amount_rao(value) for value in values if value is not None]
    assert min(amounts, default=0) >= 0, f"a row of {held.table.name} holds {min(amounts)} rao"
    return sum(amounts)


def _flows(context: Context, moved: Mapping[str, int]) -> str:
    """For the dump: what was declared to `accounts` against what the rows show, by holding."""
    declared = dict.fromkeys(moved, 0)
    for name, amount in context.flows:
        declared[name] = declared.get(name, 0) + amount
    return ", ".join(f"{name}: declared {amount}, rows {moved.get(name, 0)}" for name, amount in sorted(declared.items()))


def audit(state: ReadState, *, deep: bool = False) -> list[Violation]:
    """The full audit of a state. `deep` reads every key first, and stops there if one is damaged."""
    out = _keys(state) if deep else []
    if out:
        return out
    out += _issuance(state) + _reserved(state)
    for name, check in sorted(hooks.INVARIANTS.items()):
        out += [Violation(name, what) for what in check(state)]
    return out


def holdings_rao(state: ReadState) -> dict[str, int]:
    """Where the issuance is: sum by holding."""
    sums: dict[str, int] = {}
    for _, held in sorted(hooks.HOLDINGS.items()):
        total = sum(held.amount_rao(value) for _, value in held.table.items(state))
        sums[held.name] = sums.get(held.name, 0) + total
    return sums


def _issuance(state: ReadState) -> list[Violation]:
    sums, issued = holdings_rao(state), accounts.issuance(state)
    if sum(sums.values()) == issued:
        return []
    return [Violation("I1", f"the rows hold {sum(sums.values())} rao, issued are {issued}: {sums}")]


def _reserved(state: ReadState) -> list[Violation]:
    explained: dict[bytes, int] = {}
    for deposits in hooks.DEPOSITS:
        for who, amount in deposits(state):
            explained[who] = explained.get(who, 0) + amount
    out = []
    for (who,), row in accounts.ACCOUNT.items(state):
        if row.reserved_rao != explained.pop(who, 0):
            out.append(Violation("I1r", f"{who.hex()} has {row.reserved_rao} rao reserved, its deposits differ"))
    out += [Violation("I1r", f"{who.hex()} has no account for deposits of {left} rao") for who, left in explained.items()]
    return out


def _keys(state: ReadState) -> list[Violation]:
    out, count = [], 0
    for key, data in state.items(b""):
        count += 1
        table = Table.registry.get(int.from_bytes(key[:2], "big"))
        if table is None:
            out.append(Violation("keys", f"key {key.hex()} belongs to no table"))
            continue
        try:
            table.parts(key)
            same = table.encode(table.decode(data)) == data
        except (DecodeError, AssertionError, TypeError) as problem:
            out.append(Violation("keys", f"key {key.hex()} of {table.name}: {problem}"))
            continue
        if not same:
            out.append(Violation("keys", f"the value of key {key.hex()} of {table.name} is not its one encoding"))
    if not out and count != key_count(state):
        out.append(Violation("keys", f"the state has {count} keys, its count says {key_count(state)}"))
    return out


def require(violations: list[Violation], height: int) -> None:
    """Raise InvariantBroken, with all that was found, unless nothing was."""
    if violations:
        found = [str(violation) for violation in violations[:MAX_REPORTED]]
        raise InvariantBroken(f"block {height} breaks {len(violations)} rules; {found[0]}", violations=found, height=height)
