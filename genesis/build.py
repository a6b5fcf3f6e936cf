"""From a specification to the genesis state, its hash, and what the ledger must know.

The state is made by the same modules that run the first blocks, in the version that the specification names, so every
invariant holds from the start. Permits, stakes and their averages are written as if they had been there for long: the
first epoch already pays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ledger.codec import encode
from ledger.crypto import ZERO_HASH, digest
from ledger.machine import AuthoritySet, BlockContext
from ledger.spec import ChainSpecParams
from ledger.trees import list_root
from runtime.versions import Rules, rules

from .spec import ChainSpec


@dataclass(frozen=True)
class Genesis:
    """The start of a chain. `state` holds every key of the genesis state."""

    genesis_hash: bytes
    params: ChainSpecParams
    state: Mapping[bytes, bytes]
    authorities: AuthoritySet


class EmptyView:
    """The state before genesis."""

    def get(self, key: bytes) -> bytes | None:
        return None

    def items(self, prefix: bytes, after: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        return iter(())


def build_genesis(spec: ChainSpec) -> Genesis:
    """Build the genesis of a checked specification. Pure: the same specification gives the same hash."""
    made = rules(spec.runtime_version)
    chain, invariants, accounts = made.module("chain"), made.module("invariants"), made.module("modules.accounts")
    context = empty_context(spec.initial_height - 1, spec.genesis_time_ms, made)
    _write_chain(made, context, spec)
    for account in spec.accounts:
        accounts.mint(context, account.free_rao, "genesis")
        accounts.credit(context, account.key, account.free_rao, "genesis")
    _write_market(made, context, spec)
    changes = context.state.changes()
    invariants.require(invariants.check_conservation(context, changes), context.height)
    chain.KEY_COUNT.put(context.state, value=0)
    count = sum(1 for _ in context.state.items(b""))
    chain.KEY_COUNT.put(context.state, value=count)
    invariants.require(invariants.audit(context.state, deep=True), context.height)
    state = dict(context.state.items(b""))
    genesis_hash = _hash(spec, state)
    authorities: AuthoritySet = made.module("modules.authorities").current(context.state)
    return Genesis(genesis_hash, _ledger_params(spec, genesis_hash), state, authorities)


def empty_context(height: int = 0, timestamp_ms: int = 0, made: Rules | None = None) -> Any:
    """A `Context` of these rules (default: the newest) over an empty state, at the height of a genesis."""
    made = rules() if made is None else made
    block = BlockContext(
        height=height, session=0, timestamp_ms=timestamp_ms, parent_hash=ZERO_HASH, proposer=ZERO_HASH,
        proposal_round=0, leaders_missed=(), parent_signers=(), beacon=ZERO_HASH,
    )
    return made.module("registry").Context(made.module("state").State(EmptyView()), block, ZERO_HASH)


def _write_chain(made: Rules, context: Any, spec: ChainSpec) -> None:
    chain, params = made.module("chain"), made.module("params")
    chain.INFO.put(context.state, value=chain.ChainInfo(
        spec.name, spec.initial_height, spec.block_time_ms, spec.session_blocks, spec.max_block_bytes,
        spec.max_block_weight, spec.seal, spec.devnet, spec.allow_private,
    ))
    made.module("modules.upgrades").genesis_version(context)
    for name, value in sorted(spec.globals.items()):
        params.put(context, name, value)
    authorities = [(row.session, row.account) for row in spec.authorities]
    made.module("modules.authorities").genesis_authorities(context, authorities)
    made.module("modules.bonds").genesis_bonds(context, [account for _, account in authorities])
    made.module("modules.governance").genesis_sudo(context, spec.sudo)


def _write_market(made: Rules, context: Any, spec: ChainSpec) -> None:
    nobody, subnets = bytes(32), made.module("modules.subnets")
    subnets.genesis_create(context, made.module("params").ROOT_NETUID, "root", nobody, nobody, spec.root)
    for row in sorted(spec.subnets, key=lambda row: row.netuid):
        subnets.genesis_create(
            context, row.netuid, row.name, row.owner, row.owner_hotkey, row.params, started=row.started,
            price_rao=row.price_rao,
        )
    neurons, stake = made.module("modules.neurons"), made.module("modules.stake")
    for neuron in spec.neurons:
        for netuid in neuron.subnets:
            neurons.genesis_register(context, netuid, neuron.hotkey, neuron.coldkey, permit=neuron.permit)
            if neuron.stake_rao:
                stake.genesis_stake(context, neuron.hotkey, netuid, neuron.coldkey, neuron.stake_rao)


def _hash(spec: ChainSpec, state: Mapping[bytes, bytes]) -> bytes:
    """Commits to every key of the state, and to what is not in it: the instance and the time."""
    rows = list_root([encode([key, state[key]]) for key in sorted(state)])
    return digest("genesis", encode([spec.name, spec.instance, spec.initial_height, spec.genesis_time_ms, rows]))


def _ledger_params(spec: ChainSpec, genesis_hash: bytes) -> ChainSpecParams:
    return ChainSpecParams(
        genesis_hash=genesis_hash, initial_height=spec.initial_height, genesis_time_ms=spec.genesis_time_ms,
        block_time_ms=spec.block_time_ms, session_blocks=spec.session_blocks, max_block_bytes=spec.max_block_bytes,
        max_block_weight=spec.max_block_weight, seal=spec.seal, devnet=spec.devnet, runtime_version=spec.runtime_version,
    )
