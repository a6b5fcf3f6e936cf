"""The one table of hyperparameters: name, type, default, bounds, who may set it, when, and what it means.

A *subnet* parameter has a value per subnet, a *global* one has one value. A value is stored only where it was set; else
the default of this table counts (a changed default is a migration). Numbers are never reused. Bounds hold for all;
`owner_low`/`owner_high` narrow them for a subnet's owner. Combinations that must hold together (`conflicts`) are
checked wherever a value is set: in genesis, by owners, by root, and when the authority set changes.

Rules: PAR-1 bounds and combinations
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ledger.votes import max_faulty

from . import hooks
from .registry import Context, error, event, refuse
from .tables import ReadState, Table, u16_field

Value = int | bool
Who = Literal["owner", "root", "genesis"]
Scope = Literal["subnet", "global"]

Q: Final = 10**9  # rao
U16: Final = (1 << 16) - 1
U32: Final = (1 << 32) - 1
U64: Final = (1 << 64) - 1
LONGEST_DELAY: Final = 90 * 86_400  # blocks: no value, voted by mistake, may keep governance from ever taking it back
ROOT_NETUID: Final = 0


@dataclass(frozen=True)
class Param:
    """One hyperparameter. `freeze`: owners may not change it shortly before an epoch."""

    number: int
    name: str
    kind: str
    default: Value
    low: int
    high: int
    who: Who
    scope: Scope
    about: str
    freeze: bool = True
    owner_low: int | None = None
    owner_high: int | None = None


PARAMS: dict[str, Param] = {}
BY_NUMBER: dict[int, Param] = {}


def _add(param: Param) -> None:
    assert param.name not in PARAMS and param.number not in BY_NUMBER, f"parameter {param.name} declared twice"
    PARAMS[param.name] = BY_NUMBER[param.number] = param


def _subnet(
    number: int, name: str, kind: str, default: Value, low: int, high: int, who: Who, about: str, *,
    owner_low: int | None = None, owner_high: int | None = None, freeze: bool = True,
) -> None:
    _add(Param(number, name, kind, default, low, high, who, "subnet", about, freeze, owner_low, owner_high))


def _global(number: int, name: str, kind: str, default: Value, low: int, high: int, who: Who, about: str) -> None:
    _add(Param(number, name, kind, default, low, high, who, "global", about, False))


# epochs and consensus
_subnet(1, "tempo", "u16 blocks", 360, 5, 50400, "owner", "blocks between two epochs")
_subnet(2, "kappa", "u16 share", 32767, 19661, 45875, "root", "share of active stake that must support a weight")
_subnet(
    3, "bonds_moving_average", "ppm", 900_000, 0, 990_000, "owner",
    "how slowly bonds follow weights", owner_high=975_000,
)
_subnet(4, "bonds_penalty", "u16 share", 0, 0, U16, "owner", "how far bonds use clipped weights (0 none, 65535 fully)")
_subnet(5, "bonds_reset_on", "bool", False, 0, 1, "owner", "a miner's commitment may reset the bonds on it")
_subnet(6, "yuma3_on", "bool", True, 0, 1, "owner", "bonds by the rule of Yuma 3 (else classic)")
_subnet(7, "liquid_alpha_on", "bool", False, 0, 1, "owner", "bond speed per pair instead of one for all")
_subnet(8, "alpha_low", "u16 share", 45875, 1638, U16, "owner", "slowest bond speed with liquid alpha")
_subnet(9, "alpha_high", "u16 share", 58982, 1638, U16, "owner", "fastest bond speed with liquid alpha")
_subnet(
    10, "alpha_sigmoid_steepness", "i16 hundredths", 1000, -32768, 32767, "owner",
    "steepness of liquid alpha", owner_low=0,
)
_subnet(11, "max_allowed_uids", "u16", 256, 1, 4096, "owner", "neurons a subnet may have")
_subnet(12, "min_allowed_uids", "u16", 16, 1, 4096, "root", "lower bound for max_allowed_uids")
_subnet(13, "max_allowed_validators", "u16", 64, 1, 256, "root", "validators that get a permit")
_subnet(14, "min_allowed_weights", "u16", 1, 1, 4096, "owner", "fewest weights in a row")
_subnet(15, "max_weight_limit", "u16 share", U16, 1, U16, "owner", "largest share of a row that one weight may have")
_subnet(16, "immunity_period", "u16 blocks", 5000, 1, U16, "owner", "blocks during which a new neuron is pruned last")
_subnet(
    17, "activity_cutoff_factor", "milli-tempos", 13889, 1000, 50000, "owner",
    "weights older than this make a validator inactive",
)
_subnet(18, "weights_set_rate_limit", "blocks", 100, 0, U32, "root", "blocks between two weight updates of one hotkey")
_subnet(
    19, "weights_version_key", "u64", 0, 0, U64, "owner", "lowest version of validator software whose weights count",
)
_subnet(20, "commit_reveal_enabled", "bool", True, 0, 1, "owner", "weights are committed first and revealed later")
_subnet(21, "reveal_period_epochs", "epochs", 1, 1, 100, "owner", "epochs between commit and reveal")
_subnet(22, "commit_reveal_version", "u16", 1, 1, 1, "root", "form of the commitment")
_subnet(40, "timelock_on", "bool", False, 0, 1, "owner", "committed weights may be sealed, and the authorities open them")
_subnet(33, "permit_twice", "bool", True, 0, 1, "root", "a vote needs the permit of this and of the last epoch")
_subnet(34, "exact_payout", "bool", True, 0, 1, "root", "pay by largest remainder, nothing lost")

# registration
_subnet(23, "registration_allowed", "bool", True, 0, 1, "owner", "new neurons may register")
_subnet(24, "min_burn_rao", "rao", Q // 2000, 1, Q, "owner", "lowest registration price")
_subnet(25, "max_burn_rao", "rao", 100 * Q, Q // 10, 21 * 10**6 * Q, "owner", "highest registration price")
_subnet(26, "burn_half_life", "blocks", 360, 1, 36100, "owner", "blocks in which the registration price halves")
_subnet(
    27, "burn_increase_ppm", "ppm", 1_260_000, 1_000_000, 3_000_000, "owner", "factor of the price per registration",
)
_subnet(28, "max_regs_per_block", "u16", 1, 1, 64, "root", "registrations that succeed in one settlement")
_subnet(29, "min_non_immune_uids", "u16", 10, 0, 4096, "root", "above this many, only neurons past immunity are pruned")
_subnet(30, "immune_owner_uids_limit", "u16", 1, 1, 10, "owner", "neurons of the owner that are never pruned")
_subnet(
    31, "serving_rate_limit", "blocks", 50, 0, U32, "owner",
    "blocks between two serving records of one hotkey", freeze=False,
)

# stake and pay
_subnet(32, "owner_cut_enabled", "bool", True, 0, 1, "owner", "the subnet's owner gets the owner cut")
_subnet(35, "miner_share", "u16 share", 32768, 16384, 49151, "root", "miners' part of what remains after the owner cut")
_subnet(36, "transfer_toggle", "bool", True, 0, 1, "owner", "stake may be transferred to another coldkey", freeze=False)
_subnet(37, "min_childkey_take", "u16 share", 0, 0, 11796, "owner", "lowest take that a child hotkey may set")
_subnet(38, "unbond_blocks", "u32 blocks", 360, 0, 50400, "root", "blocks until removed stake is paid out")
_subnet(
    39, "stake_ema_blocks", "u32 blocks", 604_800, 0, U32, "root", "window of the stake average that votes (0 = off)",
)

# root and emission
_global(60, "root_weight", "u64 of 2^64", (18 << 64) // 100, 0, U64, "root", "how much root stake counts in subnets")
_global(
    61, "root_kappa", "u16 share", 43690, 32768, 49151, "root",
    "share of root stake that must support a subnet's share",
)
_global(
    62, "root_share_blocks", "u32 blocks", 604_800, 1, U32, "root", "window in which subnet shares follow root votes",
)
_global(63, "initial_block_emission", "rao", Q, 0, 1000 * Q, "genesis", "emission of a block before the first halving")
_global(64, "supply_cap", "rao", 21 * 10**6 * Q, Q, 21 * 10**6 * Q, "genesis", "issuance never exceeds this")
_global(65, "owner_cut", "u16 share", 11796, 0, 11796, "root", "subnet owners' part of the emission")
_global(66, "max_epochs_per_block", "u8", 2, 1, 32, "root", "epochs that one block may run")

# stake limits
_global(70, "stake_threshold", "rao", 0, 0, U64, "root", "stake below this has no vote and sets no weights")
_global(71, "min_stake", "rao", Q // 500, 1, Q, "root", "smallest deposit of stake, and smallest remainder")
_global(72, "nominator_min_required_stake", "rao", Q // 10, 0, 1000 * Q, "root", "smaller nominations are paid back")
_global(73, "max_delegate_take", "u16 share", 11796, 0, 11796, "root", "highest take of a hotkey's owner")
_global(74, "min_delegate_take", "u16 share", 0, 0, 11796, "root", "lowest take of a hotkey's owner")
_global(75, "max_childkey_take", "u16 share", 11796, 0, 11796, "root", "highest take of child hotkeys")
_global(76, "tx_rate_limit", "blocks", 1000, 0, U32, "root", "blocks between two key swaps")
_global(77, "delegate_take_rate_limit", "blocks", 216_000, 0, U32, "root", "blocks between two raises of a take")
_global(78, "childkey_take_rate_limit", "blocks", 216_000, 0, U32, "root", "blocks between two raises of a child take")
_global(79, "childkey_cooldown_tempos", "tempos", 2, 0, 100, "root", "tempos until new children count")
_global(
    80, "coldkey_swap_delay", "blocks", 36_000, 1, LONGEST_DELAY, "root",
    "blocks from the announcement of a coldkey swap to it",
)
_global(
    81, "coldkey_swap_again_delay", "blocks", 7200, 0, LONGEST_DELAY, "root",
    "blocks after that until another one is announced, or none",
)

# subnets
_global(90, "subnet_limit", "u16", 64, 1, 1024, "root", "subnets that may exist")
_global(91, "network_rate_limit", "blocks", 7200, 0, U32, "root", "blocks between two new subnets")
_global(92, "network_min_lock_rao", "rao", 1000 * Q, 1, 10**6 * Q, "root", "lowest lock for a new subnet")
_global(
    93, "network_lock_reduction_interval", "blocks", 100_800, 1, U32, "root",
    "blocks in which the lock falls back to the last price",
)
_global(94, "network_immunity_period", "blocks", 216_000, 0, U32, "root", "before this age a subnet is not dissolved")
_global(95, "start_call_delay", "blocks", 0, 0, U32, "root", "blocks from a subnet's creation to its start")
_global(96, "admin_freeze_window", "blocks", 10, 0, 1000, "root", "owners change nothing this close before an epoch")
_global(
    97, "owner_hyperparam_rate_limit", "tempos", 2, 0, 100, "root",
    "tempos between two changes of one parameter by an owner",
)
_global(
    98, "owner_change_rate_limit", "blocks", 604_800, 0, U32, "root", "blocks between two changes of a subnet's owner",
)
_global(
    99, "eviction_notice_blocks", "blocks", 86_400, 1, LONGEST_DELAY, "root",
    "blocks that the owner of a challenged subnet has",
)

# accounts, fees, blocks
_global(110, "existential_deposit", "rao", 500, 0, Q, "root", "an account below this is closed")
_global(111, "fee_base_rao", "rao", 1000, 0, Q // 10, "root", "fee of every extrinsic")
_global(112, "fee_per_byte_rao", "rao", 1, 0, Q // 1000, "root", "fee per byte")
_global(113, "fee_per_work_rao", "rao", 10, 0, Q // 1000, "root", "fee per work unit")
_global(
    116, "faucet_limit_rao", "rao", 1000 * Q, 0, 10**6 * Q, "root",
    "what a devnet's faucet gives one account per session",
)
_global(
    117, "audit_below_keys", "keys", 20_000, 0, U32, "root",
    "the full audit runs every block while the state is smaller",
)

# authorities
_global(120, "evidence_window_sessions", "sessions", 14, 1, 1000, "root", "sessions for which evidence is accepted")
_global(
    121, "leader_misses_to_skip", "misses", 3, 1, 100, "root", "missed proposals in a row until a leader is skipped",
)
_global(122, "authority_bond_rao", "rao", 0, 0, 10**6 * Q, "root", "least bond of an authority; genesis gives it")
_global(123, "authority_unbond_sessions", "sessions", 14, 1, 1000, "root", "sessions until a bond that is taken back is free")

# governance
_global(124, "voting_period", "blocks", 604_800, 1, LONGEST_DELAY, "root", "blocks during which a proposal can be voted on")
_global(
    125, "enactment_delay", "blocks", 86_400, 0, LONGEST_DELAY, "root",
    "blocks from a proposal's approval to its enactment",
)
_global(126, "proposal_deposit_rao", "rao", 10 * Q, 0, 10**4 * Q, "root", "deposit of a proposal")

RECEIPT_EPOCHS: Final = 64  # epochs for which receipt roots are kept

GLOBAL = Table(110, "global_param", int, u16_field("number"))
SUBNET = Table(111, "subnet_param", int, u16_field("netuid"), u16_field("number"))

PARAM_SET = event(110, "ParamSet", "netuid", "name", "old", "new")

error(110, "UnknownParam", "there is no such hyperparameter", "see `quorix subnet params` and `quorix governance params`")
error(111, "InvalidValue", "the value is outside its bounds or conflicts with another parameter")


# --- reads and writes --------------------------------------------------------------------------------------------


def get(state: ReadState, name: str, netuid: int | None = None) -> int:
    """Value of a parameter as an integer (booleans are 0 and 1); `netuid` exactly for subnet parameters."""
    param = PARAMS[name]
    assert (netuid is not None) == (param.scope == "subnet"), f"{name} is a {param.scope} parameter"
    stored = GLOBAL.get(state, param.number) if netuid is None else SUBNET.get(state, netuid, param.number)
    return int(param.default) if stored is None else stored


def is_on(state: ReadState, name: str, netuid: int | None = None) -> bool:
    """Value of a boolean parameter."""
    assert PARAMS[name].kind == "bool", name
    return get(state, name, netuid) != 0


def put(context: Context, name: str, value: Value, netuid: int | None = None) -> None:
    """Set a parameter, with bounds, conflicts, hooks and the event with old and new value. Refuses InvalidValue.

    Who may call is the governance module's business.
    """
    param = PARAMS.get(name)
    if param is None or (netuid is not None) != (param.scope == "subnet"):
        refuse("UnknownParam", f"there is no {'global' if netuid is None else 'subnet'} parameter {name}")
    problem = bounds_problem(param, value)
    if problem:
        refuse("InvalidValue", problem)
    old = get(context.state, name, netuid)
    if netuid is None:
        GLOBAL.put(context.state, param.number, value=int(value))
    else:
        SUBNET.put(context.state, netuid, param.number, value=int(value))
        problems = conflicts(context.state, netuid)
        if problems:
            refuse("InvalidValue", problems[0])
        hooks.run_param_changed(context, name, netuid)
    context.events.append(PARAM_SET(netuid, name, old, int(value)))


def put_many(context: Context, values: dict[str, Value], netuid: int) -> None:
    """Set several parameters of a subnet at once: only their final combination is checked for conflicts."""
    for name, value in values.items():
        param = PARAMS.get(name)
        if param is None or param.scope != "subnet":
            refuse("UnknownParam", f"there is no subnet parameter {name}")
        problem = bounds_problem(param, value)
        if problem:
            refuse("InvalidValue", problem)
        SUBNET.put(context.state, netuid, param.number, value=int(value))
    problems = conflicts(context.state, netuid)
    if problems:
        refuse("InvalidValue", problems[0])
    for name in values:
        hooks.run_param_changed(context, name, netuid)


def bounds_problem(param: Param, value: Value) -> str:
    """Why `value` is not allowed for anybody, or ""."""
    if param.kind == "bool":
        return "" if type(value) is bool or value in (0, 1) else f"{param.name} is true or false"
    if type(value) is not int:
        return f"{param.name} is an integer ({param.kind})"
    if not param.low <= value <= param.high:
        return f"{param.name} is {value}, allowed are {param.low}..{param.high} ({param.kind})"
    return ""


def forget(context: Context, netuid: int) -> None:
    """Drop all parameters of a dissolved subnet."""
    for (_, number), _ in list(SUBNET.items(context.state, netuid)):
        SUBNET.delete(context.state, netuid, number)


def conflicts(state: ReadState, netuid: int) -> list[str]:
    """Combinations that must not be, as sentences; empty if the subnet's parameters fit together."""

    def value(name: str) -> int:
        return get(state, name, netuid)

    out = []
    least = tempo_needed(state, netuid, authority_count(state))
    if value("tempo") < least:
        out.append(f"tempo is {value('tempo')}, to reveal weights with these authorities it must be at least {least}")
    reveal = (value("reveal_period_epochs") + 1) * value("tempo")
    if netuid != ROOT_NETUID and value("immunity_period") <= reveal:
        immunity = value("immunity_period")
        out.append(f"immunity_period is {immunity}, it must exceed (reveal_period_epochs + 1) * tempo = {reveal}")
    for low, high in (
        ("alpha_low", "alpha_high"), ("min_allowed_uids", "max_allowed_uids"), ("min_burn_rao", "max_burn_rao"),
        ("min_allowed_weights", "max_allowed_uids"),
    ):
        if value(low) > value(high):
            out.append(f"{low} is {value(low)}, above {high} = {value(high)}")
    return out + hooks.param_conflicts(state, netuid)


def least_tempo(authorities: int) -> int:
    """A reveal ready after the first block of its window must be includable by f + 2 distinct proposers, twice over."""
    return 2 * (max_faulty(authorities) + 2) if authorities else 0


def tempo_needed(state: ReadState, netuid: int, authorities: int) -> int:
    """The least tempo of a subnet with so many authorities. Where they open weights, a reveal by hand begins later."""
    return least_tempo(authorities) + (authorities > 0 and is_on(state, "timelock_on", netuid))


AUTHORITY_SET = Table(90, "authority_set", list)  # session keys in order; rules in modules/authorities.py


def authority_count(state: ReadState) -> int:
    return len(AUTHORITY_SET.get(state) or ())
