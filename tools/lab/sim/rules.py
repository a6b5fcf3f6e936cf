"""What the nodes of a world run: the real rules over a small state, or a counter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from genesis.build import build_genesis
from genesis.spec import AccountSpec, AuthoritySpec, ChainSpec
from ledger.machine import StateMachine
from ledger.spec import ChainSpecParams
from runtime.versions import VersionedRuntime

from .clock import EPOCH_MS
from .counter import CounterMachine
from .keys import named_key

if TYPE_CHECKING:
    from .plan import Plan

FREE_RAO = 10**15
BOND_RAO = 10**12  # of each authority
ROOT = "root"  # the account with the sudo key


@dataclass(frozen=True)
class Rules:
    """A state machine, its genesis, and the keys of the authorities named there, in order.

    `candidates`: further keys whose nodes follow until the set takes them in.
    """

    machine: StateMachine
    genesis_state: Mapping[bytes, bytes]
    params: ChainSpecParams
    keys: tuple[Any, ...]  # KeyPair, or HashKey without real signatures
    candidates: tuple[Any, ...] = ()

    @classmethod
    def of(cls, seed: int, plan: Plan) -> Rules:
        """As the plan says."""
        return cls.market(seed, plan) if plan.runtime else cls.counter(seed, plan)

    @classmethod
    def counter(cls, seed: int, plan: Plan, schedule: Mapping[int, tuple[bytes, ...]] | None = None) -> Rules:
        """Blocks and nothing in them; every seed has a genesis hash of its own. `schedule`: see `CounterMachine`."""
        keys, candidates = _session_keys(plan)
        params = ChainSpecParams(
            genesis_hash=blake2b(f"genesis {seed}".encode(), digest_size=32).digest(), genesis_time_ms=EPOCH_MS,
            block_time_ms=plan.block_time_ms, session_blocks=plan.session_blocks, devnet=True,
        )
        genesis_state = CounterMachine.genesis([key.public for key in keys])
        return cls(CounterMachine(schedule), genesis_state, params, keys, candidates)

    @classmethod
    def market(cls, seed: int, plan: Plan) -> Rules:
        """The runtime with authorities, a few accounts and a sudo key, but no subnet except root."""
        keys, candidates = _session_keys(plan)
        everybody = (*keys, *candidates)
        users = [account(f"user {index}", plan) for index in range(plan.users)]
        owners = [account(f"authority {index}", plan) for index in range(len(everybody))]
        genesis = build_genesis(ChainSpec(
            name=f"sim-{seed}", instance=blake2b(f"instance {seed}".encode(), digest_size=16).digest(),
            authorities=tuple(AuthoritySpec(key.public, owners[index].public) for index, key in enumerate(keys)),
            accounts=tuple(AccountSpec(key.public, FREE_RAO) for key in (*owners, *users, account(ROOT, plan))),
            sudo=account(ROOT, plan).public, genesis_time_ms=EPOCH_MS, block_time_ms=plan.block_time_ms,
            session_blocks=plan.session_blocks, devnet=True,
            globals={"authority_bond_rao": BOND_RAO, "audit_below_keys": 0},  # the world audits each state once, not each node
        ))
        return cls(VersionedRuntime(genesis.genesis_hash), genesis.state, genesis.params, keys, candidates)


def account(role: str, plan: Plan) -> Any:
    """The key of an account."""
    return named_key(role, 0, real=plan.real_signatures)


def _session_keys(plan: Plan) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    keys = tuple(named_key("session", index, real=plan.real_signatures) for index in range(plan.n + plan.candidates))
    return keys[: plan.n], keys[plan.n :]
