"""An epoch between state and `yuma.epoch`: what it reads, what it writes, what it keeps for later."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import decode, encode, pack_u16
from ledger.commitments import weights_commitment
from ledger.crypto import digest
from ledger.errors import DecodeError, Rejected
from runtime import epochs
from runtime.modules import coldkeys, dissolution, evictions, neurons, pools, subnets, weights
from runtime.yuma import epoch

SALT = b"\x09" * 32


def commit_and_reveal(world, rows):
    """Validators commit rows in the running epoch and reveal them in the next."""
    index = world.epoch(1)
    for number, row in rows.items():
        hotkey = world.key(f"validator {number} hot")
        uids, values = [uid for uid, _ in row], [value for _, value in row]
        hashed = weights_commitment(world.genesis_hash, hotkey, 1, index, uids, values, 0, SALT)
        world.call("weights.commit", hotkey, 1, hashed)
    world.to_next_epoch(1)
    for number, row in rows.items():
        uids, values = pack_u16([uid for uid, _ in row]), pack_u16([value for _, value in row])
        world.call("weights.reveal", world.key(f"validator {number} hot"), 1, uids, values, SALT, 0)


# --- in ----------------------------------------------------------------------------------------------------------


# rule: EPO-1
def test_inputs_come_from_state(market):
    market.next_block(2)
    commit_and_reveal(market, {0: [(2, 2), (3, 1)]})
    market.call("neurons.unregister", market.key("miner 2"), 1, market.key("miner 2 hot"))
    stage = epochs.collect(market.state, 1, 20, 12345, forfeited=[1])
    seen = stage.inputs
    assert (seen.block, seen.emission_rao, seen.bonds_from) == (20, 12345, 11)
    own = [pools.pool(market.state, 1, hotkey).consensus_rao for hotkey in stage.hotkeys]
    assert [sum(part.own_rao for part in parts) for parts in stage.backing] == own and own[0] > 600 * market.Q
    assert seen.stake == [sum(part.own_rao + part.root_rao for part in parts) for parts in stage.backing]
    assert list(seen.permit) == [True, True, False, False, False]
    assert list(seen.registered_at) == [0, 0, 0, 0, 20]  # the vacant uid is newer than any weight
    assert list(seen.weights_at) == [2, 0, 0, 0, 0] and list(seen.active_at) == [10, 0, 0, 0, 0]
    assert seen.weights[0] == [(2, 65535), (3, 32768)] and seen.weights[1:] == [[]] * 4
    assert list(seen.forfeit) == [False, True, False, False, False]
    assert stage.hotkeys[4] == epochs.VACANT and stage.hotkeys[2] == market.key("miner 0 hot")


# rule: EPO-1
def test_parameters_come_from_the_table(market):
    assert epochs.epoch_params(market.state, 1).activity_cutoff == 13889 * 10 // 1000
    for name, value in (
        ("kappa", 40000), ("bonds_penalty", 7), ("yuma3_on", False), ("liquid_alpha_on", True), ("permit_twice", False),
        ("max_allowed_validators", 3), ("alpha_low", 2000), ("activity_cutoff_factor", 1000),
    ):
        market.set(name, value, 1)
    market.set("stake_threshold", 5)
    got = epochs.epoch_params(market.state, 1)
    assert (got.kappa, got.bonds_penalty, got.yuma3, got.liquid_alpha, got.permit_twice) == (40000, 7, False, True, False)
    assert (got.max_validators, got.alpha_low, got.activity_cutoff, got.stake_threshold) == (3, 2000, 10, 5)


# --- out ---------------------------------------------------------------------------------------------------------


def test_commit_reveal_consensus_and_pay(market):
    market.next_block()
    commit_and_reveal(market, {0: [(2, 3), (3, 1)], 1: [(2, 1), (3, 1)]})
    market.to_next_epoch(1)
    row = market.row(1, 1)
    trace = row.trace
    assert trace.agreed and trace.paid_by == "scores" and any(trace.consensus)
    held = neurons.scores(market.state, 1)
    for name, values in trace.scores_u16().items():
        assert getattr(held, name) == pack_u16(values), name
    assert list(held.permit) == [1, 1, 0, 0, 0] and trace.permit == [True, True, False, False, False]
    assert weights.read_row(weights.BONDS, market.state, 1, 0) == trace.bonds_u16[0] != []
    paid = [sum(parts) for parts in zip(row.paid.server_rao, row.paid.validator_rao, row.paid.root_rao)]
    assert held.emission_rao == b"".join(amount.to_bytes(8, "little") for amount in paid)
    assert paid[2] > paid[3] > 0 == paid[4]


def test_a_validator_that_loses_its_permit_loses_its_bonds(market):
    market.next_block()
    commit_and_reveal(market, {0: [(2, 1)], 1: [(2, 1)]})
    market.to_next_epoch(1)
    assert weights.BONDS.get(market.state, 1, 1)
    market.set("max_allowed_validators", 1, 1)
    market.to_next_epoch(1)
    assert not neurons.has_permit(market.state, 1, 1) and weights.BONDS.get(market.state, 1, 1) is None
    assert weights.WEIGHTS.get(market.state, 1, 1)  # the row stays for the day the permit comes back


# rule: EPO-5
def test_weights_do_not_pass_to_the_next_neuron_under_a_uid(market):
    market.next_block()
    commit_and_reveal(market, {0: [(2, 1)], 1: [(2, 1)]})
    market.call("neurons.unregister", market.key("miner 0"), 1, market.key("miner 0 hot"))
    market.fund(market.key("new"), 5 * market.Q)
    market.call("neurons.register", market.key("new"), 1, market.key("new hot"), 2 * market.Q)
    market.next_block()
    assert market.uid(1, market.key("new hot")) == 2
    market.to_next_epoch(1)
    trace = market.row(1, 1).trace
    assert trace.raw_weights == [[]] * 5 and trace.incentive[2] == 0
    assert weights.read_row(weights.WEIGHTS, market.state, 1, 0) == [(2, 65535)]  # not rewritten, only masked


def test_permits_go_to_new_stake_and_count_one_epoch_later(market):
    market.set("stake_ema_blocks", 0, 1)
    market.call("stake.add", market.key("miner 2"), market.key("miner 2 hot"), 1, 500 * market.Q)
    market.to_next_epoch(1)  # the stake becomes active after this payout
    assert not neurons.has_permit(market.state, 1, 4)
    market.to_next_epoch(1)
    assert neurons.has_permit(market.state, 1, 4)
    assert market.row(1, 1).trace.active_stake_rao[4] == 0
    market.to_next_epoch(1)
    assert market.row(1, 2).trace.active_stake_rao[4] >= 500 * market.Q - 1


def test_an_epoch_of_an_empty_subnet(empty):
    empty.to_next_epoch(1)
    assert empty.row(1, 0).trace.size == 0 and empty.epoch(1) == 1


# --- the history row ---------------------------------------------------------------------------------------------


# rule: EPO-18
def test_the_history_row_explains_the_epoch_and_its_hash_is_in_the_events(market):
    market.next_block()
    commit_and_reveal(market, {0: [(2, 3), (3, 1)], 1: [(2, 1), (3, 1)]})
    while not subnets.epoch_is_due(market.state, 1, market.height + 1):
        market.next_block()
    before = epochs.collect(market.state, 1, market.height + 1, 0, [])
    market.next_block()
    data = market.context.history[epochs.history_key(1, 1)]
    [[netuid, index, emission_rao, active, hashed]] = market.named("EpochRan")
    assert (netuid, index, hashed) == (1, 1, digest("epoch", data)) and active == 2
    row = epochs.decode_row(data)
    assert row.height == market.height and row.hotkeys[2] == market.key("miner 0 hot")
    inputs = replace(before.inputs, emission_rao=emission_rao)
    assert epoch(inputs, before.params) == row.trace  # the same inputs give the same record, value by value


def test_history_keys_sort_by_subnet_and_epoch():
    keys = [epochs.history_key(netuid, index) for netuid in (1, 2, 256) for index in (0, 9, 255, 256, 70000)]
    assert keys == sorted(keys) and all(key.startswith(epochs.history_prefix(1)) for key in keys[:5])


def test_a_damaged_history_row_is_refused(market):
    market.to_next_epoch(1)
    data = market.context.history[epochs.history_key(1, 0)]
    value = decode(data, max_bytes=1 << 20)
    for place, wrong in ((0, 2), (1, 1 << 16), (4, b"x"), (4, b""), (5, -1), (6, [b""] * 3), (6, [b""] * 4), (7, b"\0")):
        with pytest.raises(DecodeError):
            epochs.decode_row(encode([*value[:place], wrong, *value[place + 1 :]]))
    with pytest.raises(DecodeError):
        epochs.decode_row(data[:-1])
    assert epochs.encode_row(epochs.decode_row(data)) == data


# --- random calls ------------------------------------------------------------------------------------------------

COLD = ["owner", "validator 0", "validator 1", "miner 0", "miner 1", "miner 2", "x", "y"]
WHO = st.integers(0, len(COLD) - 1)
JUDGE = st.sampled_from([1, 1, 2, 2, 3, 6])  # mostly the validators
AMOUNT = st.one_of(st.none(), st.just(0), st.integers(1, 10**6), st.integers(10**8, 5 * 10**9), st.integers(10**8, 10**11))
NET = st.sampled_from([1, 1, 2, 2, 0, 3])
PRICE = st.one_of(st.integers(0, 10**8), st.integers(10**9, 3 * 10**9))
STEP = st.one_of(
    st.tuples(st.just("stake.add"), WHO, JUDGE, NET, AMOUNT),
    st.tuples(st.just("stake.remove"), WHO, JUDGE, NET, AMOUNT),
    st.tuples(st.just("stake.remove"), JUDGE, JUDGE, NET, AMOUNT),
    st.tuples(st.just("stake.move"), WHO, JUDGE, JUDGE, NET, NET, AMOUNT),
    st.tuples(st.just("stake.transfer"), WHO, WHO, JUDGE, NET, NET, AMOUNT),
    st.tuples(st.just("stake.withdraw_unbonded"), JUDGE),
    st.tuples(st.just("announce"), WHO),
    st.tuples(st.just("swap"), WHO),
    st.tuples(st.just("challenge"), WHO),
    st.tuples(st.just("subnets.keep"), WHO, NET),
    st.tuples(st.just("take"), JUDGE, st.integers(0, 20000)),
    st.tuples(st.just("neurons.register"), WHO, NET, WHO, PRICE),
    st.tuples(st.just("register"), WHO, NET, PRICE),
    st.tuples(st.just("unregister"), WHO, NET),
    st.tuples(st.just("seat"), WHO),
    st.tuples(st.just("weights"), JUDGE, st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=3)),
    st.tuples(st.just("commit"), WHO),
    st.tuples(st.just("vote"), JUDGE, st.integers(1, 2)),
)


def run(world, step):
    """One step; refusals are fine, broken invariants are not. Returns the refusal."""
    kind, who, *rest = step
    cold, hot = world.key(world.now.get(who, COLD[who])), world.key(COLD[who] + " hot")
    hots = {"stake.add": (0,), "stake.remove": (0,), "stake.move": (0, 1), "neurons.register": (1,)}.get(kind, ())
    args = [world.key(COLD[value] + " hot") if i in hots else value for i, value in enumerate(rest)]
    if kind == "stake.transfer":
        return world.refused(kind, cold, world.key(COLD[args[0]]), world.key(COLD[args[1]] + " hot"), *args[2:])
    if kind == "announce":
        return world.refused(coldkeys.ANNOUNCE, cold, coldkeys.swap_hash(world.key(COLD[who] + " new")))
    if kind == "swap":
        refusal = world.refused(coldkeys.SWAP, cold, world.key(COLD[who] + " new"))
        world.now.update({} if refusal else {who: COLD[who] + " new"})
        return refusal
    if kind == "challenge":
        return world.refused("subnets.challenge", cold, world.key(COLD[who] + " sub"), 10 * world.Q, "new")
    if kind == "take":
        return world.refused("stake.decrease_take", cold, hot, *args)
    if kind == "register":
        return world.refused("neurons.register", cold, args[0], hot, args[1])
    if kind == "unregister":
        return world.refused("neurons.unregister", cold, args[0], hot)
    if kind == "seat":
        return world.refused("neurons.root_register", cold, hot)
    if kind == "weights":
        row = dict(args[0])
        return world.refused("weights.set", hot, 1, pack_u16(list(row)), pack_u16(list(row.values())), 0)
    if kind == "commit":
        return world.refused("weights.commit", hot, 2, bytes([who]) * 32)
    if kind == "vote":
        return world.refused("weights.set_root", hot, pack_u16([args[0]]), pack_u16([1]))
    return world.refused(kind, cold, *args)


# rule: INV-4
@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(STEP, st.integers(0, 2)), min_size=5, max_size=60))
def test_invariants_hold_under_random_calls(make_market, steps):
    world = make_market()
    world.now = {}
    world.set("commit_reveal_enabled", False, 1)
    world.set("unbond_blocks", 3, 1)
    for name, value in (
        ("coldkey_swap_delay", 1), ("subnet_limit", 2), ("network_immunity_period", 4), ("eviction_notice_blocks", 3),
        ("network_min_lock_rao", world.Q), ("network_rate_limit", 0),
    ):
        world.set(name, value)
    world.set("tempo", 7, 0)
    subnets.genesis_create(world.context, 2, "b", world.key("owner"), world.key("owner hot"), {
        "tempo": 5, "immunity_period": 11, "weights_set_rate_limit": 1, "max_regs_per_block": 2, "max_allowed_uids": 3,
        "min_allowed_uids": 1, "min_non_immune_uids": 0,
    }, price_rao=world.Q // 100)
    for name in ("validator 0", "validator 1"):
        neurons.genesis_register(world.context, 2, world.key(name + " hot"), world.key(name), permit=True)
    for name in ("owner", "x", "y"):
        world.fund(world.key(name), 1000 * world.Q)
    world.next_block()
    for step, blocks in steps:
        run(world, step)
        go_on(world, blocks)
    go_on(world, 15)  # every block is audited: I1 to I8


def go_on(world, blocks):
    for _ in range(blocks):
        world.next_block()
        dissolution.proceed(world.context)
        evictions.end_notices(world.context)


# rule: BLK-6
def test_a_refused_call_leaves_no_trace(market):
    market.next_block()
    before, events = dict(market.state.items(b"")), list(market.context.events)
    with pytest.raises(Rejected):
        market.call("stake.move", market.key("validator 0"), market.key("validator 0 hot"), market.key("nobody"), 1, 1, 5)
    assert dict(market.state.items(b"")) == before and market.context.events == events


def test_all_of_it_is_deterministic(make_market):
    """Two runs of the same blocks give the same state, byte by byte."""
    worlds = [make_market(), make_market()]
    for world in worlds:
        world.next_block()
        commit_and_reveal(world, {0: [(2, 3), (3, 1)], 1: [(2, 1)]})
        world.call("stake.add", world.key("miner 0"), world.key("validator 1 hot"), 1, 7 * world.Q)
        world.to_next_epoch(1)
        world.commit()
    assert worlds[0].view.rows == worlds[1].view.rows and worlds[0].history == worlds[1].history
