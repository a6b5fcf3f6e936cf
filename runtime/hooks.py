"""Where modules hang their rules into the block: begin of block, end of a subnet's epoch, invariants, holdings.

A module declares a rule with a decorator next to the rule; the executor, the coinbase and the audit run what is
declared here. Nothing is looked up by name at run time, and the order of every list is fixed by the numbers given.

    begin_block   once a block, in the order of the constants below
    end_epoch     after a subnet's payout, in ascending order number
    neuron_removed  whenever a uid loses its hotkey (pruned or unregistered)
    hotkey_swapped  whenever all that stands under a hotkey in a subnet moves to another
    coldkey_swapped  when all that an account has goes to another key
    subnet_ending   when a subnet begins to be dissolved
    param_changed / param_rule  after a parameter is set / to refuse a combination of parameters
    holding       a table whose rows hold money: conservation and I1 are computed from these declarations
    deposit       a table whose rows explain part of an account's reserved balance
    invariant     a full audit of one rule over the whole state
    inherent      an unsigned entry that a proposer may put into a block
    call_guard    before each call, wherever it is run from: may refuse it
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from .registry import Call, Context
from .state import State
from .tables import ReadState, Table

# Order of a block's start (protocol: decide, settle, mint, reveal, coinbase). Inherents come before all of them.
ORDER_GOVERNANCE: Final = 15  # votes that end, proposals that are enacted
ORDER_SETTLE: Final = 20  # registrations queued by the previous block
ORDER_MINT: Final = 30  # the block's emission
ORDER_COINBASE: Final = 50  # split, accumulate, run due epochs, pay
ORDER_CLEANUP: Final = 90  # rows whose time is over

BlockHook = Callable[[Context], None]
EpochHook = Callable[[Context, int, int], None]
NeuronHook = Callable[[Context, int, int, bytes], None]
SwapHook = Callable[[Context, int, bytes, bytes], None]
ColdkeyHook = Callable[[Context, bytes, bytes], int]
CallGuard = Callable[[Context, Call], None]
SubnetHook = Callable[[Context, int], None]
ParamHook = Callable[[Context, int], None]
ParamRule = Callable[[ReadState, int], str]
Audit = Callable[[ReadState], Iterable[str]]
InherentFunction = Callable[[Context, bytes], None]

F = TypeVar("F", bound=Callable[..., Any])

_BEGIN_BLOCK: list[tuple[int, str, BlockHook]] = []
_END_EPOCH: list[tuple[int, str, EpochHook]] = []
_NEURON_REMOVED: list[NeuronHook] = []
_HOTKEY_SWAPPED: list[SwapHook] = []
_COLDKEY_SWAPPED: list[ColdkeyHook] = []
_CALL_GUARDS: list[tuple[CallGuard, Callable[[State], bool]]] = []
_SUBNET_ENDING: list[SubnetHook] = []
_PARAM_CHANGED: dict[str, list[ParamHook]] = {}
_PARAM_RULES: list[ParamRule] = []


def _qualified(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def begin_block(order: int) -> Callable[[BlockHook], BlockHook]:
    """Run `f(context)` at the start of every block; hooks of equal order run by qualified name."""

    def declare(function: BlockHook) -> BlockHook:
        _BEGIN_BLOCK.append((order, _qualified(function), function))
        _BEGIN_BLOCK.sort(key=lambda row: row[:2])
        return function

    return declare


def end_epoch(order: int = 50) -> Callable[[EpochHook], EpochHook]:
    """Run `f(context, netuid, epoch_index)` after the payout of a subnet's epoch, which had that index."""

    def declare(function: EpochHook) -> EpochHook:
        _END_EPOCH.append((order, _qualified(function), function))
        _END_EPOCH.sort(key=lambda row: row[:2])
        return function

    return declare


def neuron_removed(function: NeuronHook) -> NeuronHook:
    """Run `f(context, netuid, uid, hotkey)` when a hotkey loses its uid, before the uid is given to another."""
    _NEURON_REMOVED.append(function)
    _NEURON_REMOVED.sort(key=_qualified)
    return function


def hotkey_swapped(function: SwapHook) -> SwapHook:
    """Run `f(context, netuid, old_hotkey, new_hotkey)`: move the module's rows; the new hotkey has none there."""
    _HOTKEY_SWAPPED.append(function)
    _HOTKEY_SWAPPED.sort(key=_qualified)
    return function


def coldkey_swapped(function: ColdkeyHook) -> ColdkeyHook:
    """Run `f(context, old, new)`: move the module's rows, and return the rao of `old`'s reserved balance they explain."""
    _COLDKEY_SWAPPED.append(function)
    _COLDKEY_SWAPPED.sort(key=_qualified)
    return function


def call_guard(idle: Callable[[State], bool]) -> Callable[[CallGuard], CallGuard]:
    """Run `f(context, call)` before a call runs, also inside another, and when it is admitted; refuses by raising.

    `idle(state)` is true only where f would refuse nothing, however often money moves between accounts.
    """

    def declare(function: CallGuard) -> CallGuard:
        _CALL_GUARDS.append((function, idle))
        _CALL_GUARDS.sort(key=lambda row: _qualified(row[0]))
        return function

    return declare


def subnet_ending(function: SubnetHook) -> SubnetHook:
    """Run `f(context, netuid)` when a subnet begins to be dissolved, in the same block."""
    _SUBNET_ENDING.append(function)
    _SUBNET_ENDING.sort(key=_qualified)
    return function


def param_changed(name: str) -> Callable[[ParamHook], ParamHook]:
    """Run `f(context, netuid)` after parameter `name` of a subnet was set (also in genesis)."""

    def declare(function: ParamHook) -> ParamHook:
        _PARAM_CHANGED.setdefault(name, []).append(function)
        _PARAM_CHANGED[name].sort(key=_qualified)
        return function

    return declare


def param_rule(function: ParamRule) -> ParamRule:
    """`f(state, netuid) -> str`: a conflict between a subnet's parameters or with its state, or "" if there is none."""
    _PARAM_RULES.append(function)
    _PARAM_RULES.sort(key=_qualified)
    return function


def run_begin_block(context: Context) -> None:
    for _, _, function in _BEGIN_BLOCK:
        function(context)


def run_end_epoch(context: Context, netuid: int, epoch_index: int) -> None:
    """Called by the coinbase once per epoch that ran, after its payout."""
    for _, _, function in _END_EPOCH:
        function(context, netuid, epoch_index)


def run_neuron_removed(context: Context, netuid: int, uid: int, hotkey: bytes) -> None:
    """Called by whoever frees a uid."""
    for function in _NEURON_REMOVED:
        function(context, netuid, uid, hotkey)


def run_hotkey_swapped(context: Context, netuid: int, old_hotkey: bytes, new_hotkey: bytes) -> None:
    """Called once for each subnet in which a hotkey is swapped."""
    for function in _HOTKEY_SWAPPED:
        function(context, netuid, old_hotkey, new_hotkey)


def run_coldkey_swapped(context: Context, old: bytes, new: bytes) -> int:
    """Called when an account hands over all it has; returns the rao of its reserved balance that goes along."""
    return sum([function(context, old, new) for function in _COLDKEY_SWAPPED])


def run_call_guards(context: Context, entry: Call) -> None:
    """Called before a call is run or admitted, with the signer set; lets a refusal through."""
    for function, _ in _CALL_GUARDS:
        function(context, entry)


def call_guards_are_idle(state: State) -> bool:
    """True where no guard refuses anything."""
    return all(idle(state) for _, idle in _CALL_GUARDS)


def run_subnet_ending(context: Context, netuid: int) -> None:
    for function in _SUBNET_ENDING:
        function(context, netuid)


def run_param_changed(context: Context, name: str, netuid: int) -> None:
    for function in _PARAM_CHANGED.get(name, ()):
        function(context, netuid)


def param_conflicts(state: ReadState, netuid: int) -> list[str]:
    return [text for text in (rule(state, netuid) for rule in _PARAM_RULES) if text]


# --- money -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holding:
    """A table that holds money under the name used as source or sink in `accounts`."""

    name: str
    table: Table[Any]
    amount_rao: Callable[[Any], int]


HOLDINGS: dict[int, Holding] = {}  # by table number

Deposits = Callable[[ReadState], Iterator[tuple[bytes, int]]]
DEPOSITS: list[Deposits] = []


def holding(name: str, table: Table[Any], amount_rao: Callable[[Any], int]) -> None:
    """Declare that each row of `table` holds `amount_rao(value)`; every unit of the issuance is in exactly one row."""
    assert table.number not in HOLDINGS, f"table {table.name} declared twice as a holding"
    HOLDINGS[table.number] = Holding(name, table, amount_rao)


def deposit(function: Deposits) -> Deposits:
    """`f(state)` yields (account, rao) for all the module has reserved; the audit compares it with `reserved_rao`."""
    DEPOSITS.append(function)
    DEPOSITS.sort(key=_qualified)
    return function


# --- audits and inherents ----------------------------------------------------------------------------------------

INVARIANTS: dict[str, Audit] = {}


def invariant(name: str) -> Callable[[Audit], Audit]:
    """`f(state)` yields one sentence per violation of the rule `name` (for example "I3 dense uids")."""

    def declare(function: Audit) -> Audit:
        assert name not in INVARIANTS, f"invariant {name} declared twice"
        INVARIANTS[name] = function
        return function

    return declare


@dataclass(frozen=True)
class Inherent:
    """A kind of unsigned entry. `function(context, payload)` applies it, or raises Rejected: the block is invalid."""

    kind: int
    name: str
    limit: Callable[[ReadState], int]  # entries of this kind allowed in one block
    function: InherentFunction


INHERENTS: dict[int, Inherent] = {}


def inherent(kind: int, name: str, limit: Callable[[ReadState], int]) -> Callable[[InherentFunction], InherentFunction]:
    def declare(function: InherentFunction) -> InherentFunction:
        assert kind not in INHERENTS, f"inherent {kind} declared twice"
        INHERENTS[kind] = Inherent(kind, name, limit, function)
        return function

    return declare
