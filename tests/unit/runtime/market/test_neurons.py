"""Registration: the auction and its price, bonds, uids, pruning, root seats."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.codec import pack_u64
from runtime.modules import accounts, hotkeys, neurons, pools, registration, stake, subnets
from runtime.modules.registration import Bid, auction_rank


def price(world, netuid=1):
    return subnets.registration_price_rao(world.state, netuid, world.height)


def bid(world, name, max_price, netuid=1):
    world.fund(world.key(name), max_price + world.Q) if world.free(world.key(name)) < max_price else None
    return world.refused("neurons.register", world.key(name), netuid, world.key(name + " hot"), max_price)


# rule: REG-3
def test_register_is_settled_in_the_next_block(empty):
    empty.next_block()
    before = price(empty)
    empty.fund(empty.key("a"), 5 * empty.Q)
    empty.call("neurons.register", empty.key("a"), 1, empty.key("a hot"), 2 * empty.Q)
    assert empty.reserved(empty.key("a")) == 2 * empty.Q
    assert neurons.uid_of(empty.state, 1, empty.key("a hot")) is None
    assert hotkeys.owner_of(empty.state, empty.key("a hot")) is None
    empty.next_block()
    [[netuid, paid, winners, losers]] = empty.named("RegistrationSettled")
    assert (netuid, winners, losers) == (1, [empty.key("a hot")], []) and paid <= before
    assert neurons.uid_of(empty.state, 1, empty.key("a hot")) == 0
    assert hotkeys.owner_of(empty.state, empty.key("a hot")) == empty.key("a")
    assert empty.free(empty.key("a")) == 5 * empty.Q - paid
    assert empty.reserved(empty.key("a")) == paid // 2
    assert empty.context.recycled_rao == paid - paid // 2
    assert price(empty) == paid * 126 // 100
    row = neurons.neuron(empty.state, 1, 0)
    assert (row.registered_at, row.active_at, row.weights_at, row.updated_at) == (2, 2, None, 2)


# rule: REG-4
def test_highest_bids_win_and_pay_the_best_losing_one(empty):
    for name, amount in (("a", 3), ("b", 9), ("c", 5), ("d", 4)):
        assert bid(empty, name, amount * empty.Q) == ""
    empty.next_block()
    [[_, paid, winners, losers]] = empty.named("RegistrationSettled")
    assert paid == 4 * empty.Q
    assert winners == [empty.key("b hot"), empty.key("c hot")]
    assert losers == [empty.key("d hot"), empty.key("a hot")]
    assert empty.reserved(empty.key("a")) == empty.reserved(empty.key("d")) == 0
    assert [cost for *_, cost, _ in empty.named("NeuronRegistered")] == [paid, paid]
    before = empty.Q * 999 // 1000
    assert price(empty) > before * 126 // 100 * 125 // 100  # two registrations multiply the price twice


# rule: REG-4
def test_ties_are_broken_by_the_beacon(empty):
    bids = [(empty.key(name), Bid(1, empty.key(name + " hot"), 7)) for name in "abcdef"]
    orders = {
        tuple(coldkey for coldkey, _ in sorted(bids, key=lambda row: auction_rank(*row, bytes([beacon]) * 32)))
        for beacon in range(20)
    }
    assert len(orders) > 10
    high = (empty.key("z"), Bid(1, empty.key("z hot"), 8))
    assert sorted([*bids, high], key=lambda row: auction_rank(*row, bytes(32)))[0] == high


# rule: KEY-1
def test_the_first_of_two_coldkeys_gets_a_contested_hotkey(empty):
    for name, amount in (("a", 3), ("b", 9)):
        empty.fund(empty.key(name), 10 * empty.Q)
        empty.call("neurons.register", empty.key(name), 1, empty.key("same"), amount * empty.Q)
    empty.next_block()
    assert hotkeys.owner_of(empty.state, empty.key("same")) == empty.key("b")
    assert empty.free(empty.key("a")) == 10 * empty.Q
    [[_, paid, winners, losers]] = empty.named("RegistrationSettled")
    assert winners == losers == [empty.key("same")] and paid < empty.Q  # a bid that could not win sets no price
    assert empty.refused("neurons.register", empty.key("a"), 1, empty.key("same"), empty.Q) == (
        "HotKeyAlreadyRegisteredInSubNet"
    )


# rule: REG-3
def test_what_a_registration_refuses(empty):
    a, hot, q = empty.key("a"), empty.key("a hot"), empty.Q
    assert empty.refused("neurons.register", a, 0, hot, q) == "RegistrationNotPermittedOnRootSubnet"
    assert empty.refused("neurons.register", a, 9, hot, q) == "SubnetNotExists"
    assert empty.refused("neurons.register", a, 1, hot, q // 2) == "RegistrationPriceLimitExceeded"
    assert empty.refused("neurons.register", a, 1, hot, q) == "NotEnoughBalance"
    empty.fund(a, 10 * q)
    assert empty.refused("neurons.register", a, 1, empty.key("owner hot"), q) == "NonAssociatedColdKey"
    assert empty.refused("neurons.register", a, 1, bytes(32), q) == "InvalidKey"
    assert empty.free(a) == 10 * q
    empty.call("neurons.register", a, 1, hot, q)
    assert empty.refused("neurons.register", a, 1, empty.key("other"), q) == "RegistrationPending"
    empty.set("registration_allowed", False, 1)
    assert empty.refused("neurons.register", empty.key("b"), 1, hot, q) == "SubNetRegistrationDisabled"
    empty.next_block()  # checked again at the settlement
    assert neurons.uid_of(empty.state, 1, hot) is None and empty.free(a) == 10 * q


def test_bids_of_several_subnets_are_settled_apart(empty):
    subnets.genesis_create(empty.context, 2, "b", empty.key("owner"), empty.key("owner hot"), {
        "tempo": 10, "immunity_period": 30,
    }, price_rao=3 * empty.Q)
    assert bid(empty, "a", 4 * empty.Q, 1) == bid(empty, "b", 4 * empty.Q, 2) == ""
    empty.next_block()
    settled = {netuid: paid for netuid, paid, _, _ in empty.named("RegistrationSettled")}
    assert settled[1] < empty.Q < 2 * empty.Q < settled[2]


# --- price -------------------------------------------------------------------------------------------------------


# rule: NET-10
def test_price_halves_and_a_new_half_life_does_not_rewrite_the_past(empty):
    empty.set("burn_half_life", 10, 1)
    empty.next_block(10)
    assert empty.Q // 2 - 20 <= price(empty) <= empty.Q // 2
    before = price(empty)
    empty.set("burn_half_life", 1000, 1)
    assert price(empty) == before
    empty.next_block(10)
    assert before * 99 // 100 < price(empty) < before


# --- bonds -------------------------------------------------------------------------------------------------------


# rule: REG-5
def test_bond_comes_back_in_ten_parts(empty):
    bid(empty, "a", 2 * empty.Q)
    empty.next_block()
    left, parts = empty.reserved(empty.key("a")), []
    assert left % 10  # so that the parts differ by the rounding
    for _ in range(10):
        free = empty.free(empty.key("a"))
        empty.to_next_epoch(1)
        [[coldkey, netuid, uid, amount]] = empty.named("BondReturned")
        assert (coldkey, netuid, uid) == (empty.key("a"), 1, 0)
        assert empty.free(empty.key("a")) == free + amount
        parts.append(amount)
    assert sum(parts) == left and max(parts) - min(parts) <= 1
    assert empty.reserved(empty.key("a")) == 0
    empty.to_next_epoch(1)
    assert empty.named("BondReturned") == []


# rule: REG-5
def test_leaving_forfeits_the_bond_and_frees_the_uid(empty):
    for name in "ab":
        bid(empty, name, 2 * empty.Q)
    empty.next_block()
    left, stays = sorted("ab", key=lambda name: empty.uid(1, empty.key(name + " hot")))
    bond = empty.reserved(empty.key(left))
    free = empty.free(empty.key(left))
    assert empty.refused("neurons.unregister", empty.key(stays), 1, empty.key(left + " hot")) == "NonAssociatedColdKey"
    empty.call("neurons.unregister", empty.key(left), 1, empty.key(left + " hot"))
    assert empty.context.recycled_rao >= bond and empty.reserved(empty.key(left)) == 0
    assert empty.free(empty.key(left)) == free
    assert subnets.subnet(empty.state, 1).vacant == [0] and subnets.subnet(empty.state, 1).n == 2
    assert empty.uid(1, empty.key(stays + " hot")) == 1
    assert empty.refused("neurons.unregister", empty.key(left), 1, empty.key(left + " hot")) == (
        "HotKeyNotRegisteredInSubNet"
    )
    empty.to_next_epoch(1)  # an epoch with a vacant uid
    bid(empty, "c", 2 * empty.Q)
    empty.next_block()
    assert empty.uid(1, empty.key("c hot")) == 0 and subnets.subnet(empty.state, 1).vacant == []


# --- pruning -----------------------------------------------------------------------------------------------------


def full(world, size=16, **values):
    """Fill the subnet with genesis neurons and let their immunity pass."""
    params = {"max_allowed_uids": size, "min_non_immune_uids": 4, "immunity_period": 30, **values}
    for name, value in params.items():
        world.set(name, value, 1)
    for index in range(size):
        neurons.genesis_register(world.context, 1, world.key(f"n{index} hot"), world.key(f"n{index}"))
    world.next_block(31)


def set_scores(world, values):
    old = neurons.scores(world.state, 1)
    neurons.SCORES.put(world.state, 1, value=neurons.Scores(**{**vars(old), "score": pack_u64(values)}))


# rule: REG-5
def test_full_subnet_replaces_the_lowest_score_and_returns_its_bond(empty):
    full(empty)
    set_scores(empty, [50 - n for n in range(16)])
    registration.BONDS.put(empty.state, 1, 15, value=registration.Bond(empty.key("n15"), empty.Q, 7))
    empty.fund(empty.key("n15"), empty.Q)
    accounts.reserve(empty.context, empty.key("n15"), empty.Q)
    bid(empty, "new", 3 * empty.Q)
    empty.next_block()
    [[netuid, uid, hotkey, cost, replaced]] = empty.named("NeuronRegistered")
    assert (uid, hotkey, replaced) == (15, empty.key("new hot"), empty.key("n15 hot"))
    assert empty.free(empty.key("n15")) == empty.Q and empty.reserved(empty.key("n15")) == 0
    assert empty.named("BondReturned") == [[empty.key("n15"), 1, 15, empty.Q]]
    assert neurons.uid_of(empty.state, 1, empty.key("n15 hot")) is None
    assert subnets.subnet(empty.state, 1).n == 16


# rule: REG-8
def test_at_most_a_sixteenth_is_replaced_per_immunity_period(empty):
    full(empty)
    bid(empty, "x", 3 * empty.Q)
    bid(empty, "y", 4 * empty.Q)
    empty.next_block()
    [[_, paid, winners, losers]] = empty.named("RegistrationSettled")
    assert winners == [empty.key("y hot")] and losers == [empty.key("x hot")] and paid == 3 * empty.Q
    assert bid(empty, "x", 9 * empty.Q) == "NoNeuronIdAvailable"
    empty.next_block(30)
    assert bid(empty, "x", 9 * empty.Q) == ""
    empty.next_block()
    assert empty.named("RegistrationSettled")[0][2] == [empty.key("x hot")]


# rule: REG-7
def test_owner_is_never_replaced_and_immunity_protects_the_young(empty):
    empty.set("max_allowed_uids", 32, 1)
    full(empty, size=32, max_regs_per_block=2)
    assert registration.prune_limit(32) == 2
    owner = neurons.genesis_register
    held = neurons.all_neurons(empty.state, 1)
    assert registration.protected_uids(empty.state, 1, held) == []
    neurons.remove(empty.context, 1, 3)
    owner(empty.context, 1, empty.key("owner hot"), empty.key("owner"))
    held = neurons.all_neurons(empty.state, 1)
    assert registration.protected_uids(empty.state, 1, held) == [3]
    set_scores(empty, [9] * 3 + [0] + [9] * 28)
    assert registration.uids_to_prune(empty.state, 1, empty.height + 1, 2) == [0, 1]
    empty.next_block(31)
    assert registration.uids_to_prune(empty.state, 1, empty.height, 2) == [0, 1]  # the owner's is past immunity now


# rule: REG-6
def test_max_uids_cannot_fall_below_the_uids_in_use(empty):
    full(empty, min_allowed_uids=2)
    with pytest.raises(Exception, match="uids are in use"):
        empty.set("max_allowed_uids", 15, 1)


# --- root --------------------------------------------------------------------------------------------------------


# rule: REG-10
def test_root_seats(empty, monkeypatch):
    monkeypatch.setattr(registration, "ROOT_SEATS", 2)
    empty.set("max_regs_per_block", 2, 0)
    for name, amount in (("a", 5), ("b", 3), ("c", 3), ("d", 4)):
        hotkeys.associate(empty.context, empty.key(name + " hot"), empty.key(name))
        stake.genesis_stake(empty.context, empty.key(name + " hot"), 0, empty.key(name), amount * empty.Q)
    call = "neurons.root_register"
    assert empty.refused(call, empty.key("a"), empty.key("unknown")) == "HotKeyAccountNotExists"
    assert empty.refused(call, empty.key("b"), empty.key("a hot")) == "NonAssociatedColdKey"
    for name in "ab":
        empty.call(call, empty.key(name), empty.key(name + " hot"))
    assert empty.refused(call, empty.key("a"), empty.key("a hot")) == "HotKeyAlreadyRegisteredInSubNet"
    assert empty.refused(call, empty.key("d"), empty.key("d hot")) == "TooManyRegistrationsThisBlock"
    empty.next_block()
    assert empty.refused(call, empty.key("c"), empty.key("c hot")) == "StakeTooLowForRoot"  # as much is not more
    empty.call(call, empty.key("d"), empty.key("d hot"))
    assert empty.named("NeuronRegistered") == [[0, 1, empty.key("d hot"), 0, empty.key("b hot")]]
    assert pools.pool(empty.state, 0, empty.key("b hot")).value_rao == 3 * empty.Q  # the stake stays


# --- properties --------------------------------------------------------------------------------------------------

BIDS = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7), st.integers(1, 40)), max_size=12)


# rule: REG-4
@settings(max_examples=25, deadline=None)
@given(BIDS, st.integers(1, 4), st.integers(2, 4))
def test_winners_of_an_auction_pay_one_price_that_none_of_them_exceeds(make_empty, bids, winners_allowed, uids):
    world = make_empty()
    world.set("max_regs_per_block", winners_allowed, 1)
    world.set("min_allowed_uids", 1, 1)
    world.set("max_allowed_uids", uids, 1)
    placed = {}
    for who, hot, tenths in bids:
        name, amount = f"c{who}", tenths * world.Q // 10
        world.fund(world.key(name), amount)
        if not world.refused("neurons.register", world.key(name), 1, world.key(f"h{hot}"), amount):
            placed[name] = amount
    before = {name: world.free(world.key(name)) for name in placed}
    world.next_block()
    settled = world.named("RegistrationSettled")
    assert len(settled) == (1 if placed else 0)
    for _, paid, won, lost in settled:
        assert len(won) + len(lost) == len(placed) and len(won) <= min(winners_allowed, uids)
        costs = {
            name: before[name] + placed[name] - world.free(world.key(name)) for name in placed
        }
        winners = {name for name, cost in costs.items() if cost}
        assert len(winners) == len(won)
        assert all(costs[name] == paid <= placed[name] for name in winners)
        assert all(world.reserved(world.key(name)) == (paid // 2 if name in winners else 0) for name in placed)
    world.next_block()
