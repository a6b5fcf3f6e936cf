"""The genesis state: healthy, reproducible, bound to its specification, and ready to pay."""

from dataclasses import replace

import pytest

from genesis.build import build_genesis
from genesis.cast import AUTHORITIES, NEURONS, cast, devnet_spec, key_names, neuron_names
from genesis.spec import parse_spec, preset_text, with_instance
from ledger.errors import UsageError
from runtime import chain, params, versions
from runtime.modules import accounts, authorities, governance, neurons, pools, subnets
from runtime.state import State


@pytest.fixture(scope="module")
def spec():
    return devnet_spec(1)


@pytest.fixture(scope="module")
def genesis(spec):
    return build_genesis(spec)


@pytest.fixture(scope="module")
def state(genesis):
    class View:
        def get(self, key):
            return genesis.state.get(key)

        def items(self, prefix, after=b""):
            return ((k, v) for k, v in sorted(genesis.state.items()) if k.startswith(prefix) and k > after)

    return State(View())


def test_the_same_specification_gives_the_same_chain(spec, genesis):
    assert build_genesis(devnet_spec(1)) == genesis
    assert genesis.params.genesis_hash == genesis.genesis_hash and len(genesis.genesis_hash) == 32


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"}, {"block_time_ms": 250}, {"genesis_time_ms": 5}, {"initial_height": 7}, {"session_blocks": 50},
        {"sudo": None}, {"allow_private": False}, {"max_block_weight": 5000}, {"accounts": ()}, {"neurons": ()},
        {"globals": {"fee_base_rao": 1}},
    ],
)
def test_every_part_of_the_specification_is_in_the_hash(spec, genesis, change):
    assert build_genesis(replace(spec, **change)).genesis_hash != genesis.genesis_hash


def test_an_instance_changes_the_hash_and_nothing_else(spec, genesis):
    other = build_genesis(with_instance(spec, b"\1" * 16))
    assert other.genesis_hash != genesis.genesis_hash and other.state == genesis.state


def test_what_the_ledger_learns(spec, genesis, state):
    info = chain.info(state)
    for name in ("initial_height", "block_time_ms", "session_blocks", "max_block_bytes", "max_block_weight", "seal", "devnet"):
        assert getattr(genesis.params, name) == getattr(info, name) == getattr(spec, name), name
    assert len(genesis.authorities.keys) == AUTHORITIES and genesis.authorities.active == (0, 1, 2, 3)
    assert genesis.params.runtime_version == spec.runtime_version == versions.NEWEST


def test_everybody_of_the_cast_is_there(spec, state):
    members = cast(1)
    assert len(members) == 4 + 3 + 9 + 1 + 1
    for member in members:
        assert accounts.balance(state, member.coldkey.public) == 1_000 * 10**9
        for netuid in member.subnets:
            assert neurons.uid_of(state, netuid, member.hotkey.public) is not None
    assert governance.sudo_key(state) == members[-1].coldkey.public
    assert authorities.account_of(state, members[0].session.public) == members[0].coldkey.public
    assert sorted(NEURONS) == sorted(name for name in neuron_names(spec).values() if name in NEURONS)
    assert key_names(1)[members[4].hotkey.public] == "//validator//0//hot"


def test_both_subnets_have_started_and_their_validators_may_vote_at_once(state):
    assert subnets.netuids(state) == subnets.started(state) == [1, 2]
    for netuid in (1, 2):
        permits = [neurons.has_permit(state, netuid, uid) for uid in range(9)]
        assert permits == [True] * 3 + [False] * 6
        held = [pools.pool(state, netuid, member.hotkey.public) for member in cast(1) if member.role == "validator"]
        assert [(row.value_rao, row.ema_rao) for row in held] == [(10**12, 10**12)] * 3
        assert params.conflicts(state, netuid) == [] and params.get(state, "tempo", netuid) == 15
        assert subnets.subnet(state, netuid).n == 9


def test_the_issuance_is_what_the_specification_gives_out(spec, state):
    given = sum(row.free_rao for row in spec.accounts) + sum(row.stake_rao * len(row.subnets) for row in spec.neurons)
    given += spec.globals["authority_bond_rao"] * len(spec.authorities)
    assert accounts.issuance(state) == given == 18 * 10**12 + 9 * 10**12 + 4 * 10**11


def test_seeds_give_other_keys(spec):
    assert devnet_spec(2).authorities != spec.authorities
    assert devnet_spec(2).neurons[0].hotkey != spec.neurons[0].hotkey


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_authorities(count):
    spec = devnet_spec(1, authorities=count, block_time_ms=250, name="mine", instance=b"\1" * 16, genesis_time_ms=9)
    assert len(spec.authorities) == count and (spec.block_time_ms, spec.name) == (250, "mine")
    genesis = build_genesis(spec)
    assert len(genesis.authorities.keys) == count and genesis.params.genesis_time_ms == 9


def test_impossible_wishes_are_refused():
    with pytest.raises(UsageError, match="one authority only"):
        devnet_spec(1, seal="manual")
    assert devnet_spec(1, authorities=1, seal="manual").seal == "manual"
    with pytest.raises(UsageError, match="block_time_ms"):
        devnet_spec(1, block_time_ms=1)
    with pytest.raises(UsageError):
        devnet_spec(1, authorities=101)


def test_a_chain_may_start_at_any_height(spec):
    genesis = build_genesis(replace(spec, initial_height=1000))
    assert genesis.params.genesis_height == 999


def test_the_shipped_devnet_is_the_cast(spec):
    shipped = parse_spec(preset_text("devnet"))
    assert replace(spec, accounts=()) == replace(shipped, accounts=())
    assert sorted(spec.accounts, key=lambda row: row.key) == sorted(shipped.accounts, key=lambda row: row.key)
