"""Coldkey swaps: the announcement locks the account, everything moves and nothing is left, and what is refused."""

import pytest

from ledger.errors import Rejected
from runtime import hooks
from runtime.modules import (
    accounts,
    bonds,
    coldkeys,
    governance,
    hotkeys,
    pools,
    proposals,
    proxies,
    registration,
    stake,
    subnets,
)
from runtime.registry import CALL_NUMBERS, CALLS
from runtime.tables import Table

DELAY, AGAIN = 12, 5
ANNOUNCE, SWAP, CLEAR = coldkeys.ANNOUNCE, coldkeys.SWAP, coldkeys.CLEAR


@pytest.fixture
def ready(market):
    market.set("coldkey_swap_delay", DELAY)
    market.set("coldkey_swap_again_delay", AGAIN)
    market.set("network_min_lock_rao", market.Q)
    market.set("unbond_blocks", 50, 1)
    market.set("voting_period", 100)
    market.next_block()
    return market


def inner(name, *args):
    return [CALL_NUMBERS[name], list(args)]


def rows_naming(world, key):
    """Tables that have a key or a value with this key."""
    return {
        table.name for number, table in Table.registry.items()
        for row, value in world.state.items(number.to_bytes(2, "big")) if key in row or key in value
    }


def announce(world, cold, new):
    world.call(ANNOUNCE, cold, coldkeys.swap_hash(new))


# rule: KEY-7
def test_everything_that_an_account_has_moves(ready):
    cold, hot, new, other = ready.key("validator 0"), ready.key("validator 0 hot"), ready.key("new"), ready.key("miner 1")
    state = ready.state
    governance.SUDO.put(state, value=cold)
    ready.call("stake.add", cold, ready.key("validator 1 hot"), 1, 5 * ready.Q)
    ready.call("stake.remove", cold, hot, 1, 7 * ready.Q)
    ready.call("subnets.register_network", cold, ready.key("sub"), 100 * ready.Q, "mine")
    ready.call("identities.set", cold, ["V", "", "", bytes(32)])
    ready.call("proxies.add", cold, other, proxies.STAKING, 3)
    ready.call("proxies.add", cold, new, proxies.ANY, 0)
    ready.call("proxies.announce", other, cold, bytes(32))
    ready.call("governance.propose", cold, hot, inner("governance.set_sudo", None))
    ready.call("neurons.register", cold, 1, ready.key("fourth"), 50 * ready.Q)
    ready.next_block()
    announce(ready, cold, new)
    ready.next_block(DELAY)
    bond = registration.BONDS.get(ready.state, 1, ready.uid(1, ready.key("fourth")))
    assert bond is not None and bond.coldkey == cold
    owned, free, reserved = hotkeys.hotkeys_of(ready.state, cold), ready.free(cold), ready.reserved(cold)
    staked = list(pools.positions(ready.state, cold))
    ready.call(SWAP, cold, new)
    assert ready.named("ColdkeySwapped") == [[cold, new, free + proxies.DEPOSIT_EACH_RAO, reserved - proxies.DEPOSIT_EACH_RAO]]
    assert (ready.free(cold), ready.reserved(cold)) == (0, 0) and ready.free(new) == free + proxies.DEPOSIT_EACH_RAO
    assert ready.reserved(new) == reserved - proxies.DEPOSIT_EACH_RAO, "the new key is no proxy of itself"
    assert list(pools.positions(ready.state, new)) == staked and hotkeys.hotkeys_of(ready.state, new) == owned
    assert registration.BONDS.get(ready.state, 1, ready.uid(1, ready.key("fourth"))).coldkey == new
    assert subnets.subnet(ready.state, 2).owner_coldkey == new and governance.sudo_key(ready.state) == new
    assert [row[:2] for row in proxies.proxies_of(ready.state, new).rows] == [[other, proxies.STAKING]]
    assert proxies.announcements_of(ready.state, new, other).rows
    assert proposals.PROPOSALS.get(ready.state, 0).proposer == new
    assert rows_naming(ready, cold) == set(), "nothing names the old key"
    ready.to_next_epoch(1)
    ready.call("stake.remove", new, hot, 1, None)


# rule: KEY-5
def test_an_announced_account_does_nothing_else(ready):
    cold, hot, new, friend = ready.key("validator 0"), ready.key("validator 0 hot"), ready.key("new"), ready.key("miner 0")
    ready.call("proxies.add", cold, friend, proxies.ANY, 0)
    before = ready.free(cold)
    announce(ready, cold, new)
    assert before - ready.free(cold) == coldkeys.COST_RAO
    stake_more = inner("stake.add", hot, 1, ready.Q)
    for name, args in (
        ("accounts.transfer", (friend, 5, False)), ("stake.add", (hot, 1, ready.Q)), ("keyring.batch", ([stake_more],)),
        ("keyring.batch_each", ([stake_more],)), ("keyring.swap_hotkey", (hot, new, None)), ("proxies.remove", (friend, 0, 0)),
    ):
        assert ready.refused(name, cold, *args) == "ColdkeySwapAnnounced", name
    assert ready.refused("proxies.run", friend, cold, stake_more) == "ColdkeySwapAnnounced"
    ready.call("weights.commit", hot, 1, bytes(32))  # its hotkeys work on
    ready.call("accounts.transfer", friend, cold, ready.Q, False)
    ready.next_block(DELAY + AGAIN)
    ready.call(CLEAR, cold)
    ready.call("stake.add", cold, hot, 1, ready.Q)
    assert coldkeys.ANNOUNCED_COUNT.get(ready.state) is None


def test_no_fee_is_taken_from_an_announced_account(ready):
    """Else whoever has the key could spend the balance on fees and tips."""
    cold = ready.key("validator 0")
    announce(ready, cold, ready.key("new"))
    entry = CALLS[CALL_NUMBERS["accounts.transfer"]]
    ready.context.signer = cold
    with pytest.raises(Rejected, match="announced"):
        hooks.run_call_guards(ready.context, entry)


# rule: KEY-6
def test_delays(ready):
    cold, new = ready.key("validator 0"), ready.key("new")
    assert ready.refused(SWAP, cold, new) == ready.refused(CLEAR, cold) == "ColdkeySwapNotAnnounced"
    announce(ready, cold, new)
    ready.next_block(DELAY - 1)
    assert ready.refused(SWAP, cold, new) == "ColdkeySwapTooEarly"
    assert ready.refused(ANNOUNCE, cold, bytes(32)) == ready.refused(CLEAR, cold) == "ColdkeySwapReannouncedTooEarly"
    ready.next_block(AGAIN)
    assert ready.refused(ANNOUNCE, cold, bytes(32)) == "ColdkeySwapReannouncedTooEarly"
    ready.next_block()
    free = ready.free(cold)
    announce(ready, cold, ready.key("newer"))
    assert ready.free(cold) == free, "another hash costs nothing"
    assert ready.refused(SWAP, cold, new) == "AnnouncedColdkeyHashDoesNotMatch"
    ready.next_block(DELAY)
    ready.call(SWAP, cold, ready.key("newer"))
    assert coldkeys.announcement_of(ready.state, cold) is None


# rule: KEY-8
@pytest.mark.parametrize("use", ["hotkey", "owner", "reserved", "announced", "same", "authority"])
def test_the_new_key_is_fresh(ready, use):
    cold, new = ready.key("validator 0"), ready.key("fresh")
    if use == "hotkey":
        new = ready.key("validator 1 hot")
    elif use == "owner":
        new = ready.key("miner 0")
    elif use == "same":
        new = cold
    elif use == "authority":
        new = ready.key("authority")
    else:
        ready.fund(new, 9 * ready.Q)
        args = {
            "reserved": ("proxies.add", cold, 0, 0), "announced": (ANNOUNCE, bytes(32)),
        }[use]
        ready.call(args[0], new, *args[1:])
    announce(ready, cold, new)
    ready.next_block(DELAY)
    assert ready.refused(SWAP, cold, new) == "NewColdkeyInUse"


# rule: KEY-8
def test_refusals(ready, monkeypatch):
    cold, poor = ready.key("validator 0"), ready.key("poor")
    assert ready.refused(ANNOUNCE, poor, bytes(32)) == "NotEnoughBalanceToPaySwap"
    assert ready.refused(ANNOUNCE, ready.key("authority"), bytes(32)) == "AuthorityAccount"
    ready.call("authorities.bond", ready.key("miner 0"), ready.Q)
    assert bonds.bond_of(ready.state, ready.key("miner 0")).total_rao == ready.Q
    assert ready.refused(ANNOUNCE, ready.key("miner 0"), bytes(32)) == "AuthorityAccount"
    ready.call(ANNOUNCE, cold, coldkeys.swap_hash(b"\xff" * 32))
    ready.call(ANNOUNCE, ready.key("validator 1"), coldkeys.swap_hash(ready.key("new")))
    ready.next_block(DELAY)
    assert ready.refused(SWAP, cold, b"\xff" * 32) == "InvalidKey"
    monkeypatch.setattr(coldkeys, "MAX_MOVED", 0)
    assert ready.refused(SWAP, ready.key("validator 1"), ready.key("new")) == "TooMuchToSwap"


# rule: KEY-7
def test_what_was_announced_as_a_delegate_stays_with_its_deposit(ready):
    cold, new, real = ready.key("validator 0"), ready.key("new"), ready.key("miner 0")
    ready.call("proxies.add", real, cold, proxies.ANY, 2)
    ready.call("proxies.announce", cold, real, bytes(32))
    announce(ready, cold, new)
    ready.next_block(DELAY)
    ready.call(SWAP, cold, new)
    assert ready.reserved(cold) == proxies.DEPOSIT_EACH_RAO and ready.reserved(new) == 0
    ready.next_block()
    ready.call("proxies.withdraw", real, real, cold, bytes(32))
    assert accounts.balance(ready.state, cold) == proxies.DEPOSIT_EACH_RAO


# rule: KEY-8
def test_nobody_can_hold_a_swap_up_by_sending_stake_to_the_new_key(ready):
    """Matured, pending and removed stake of both keys, in one pool and in different ones, is one key's afterwards."""
    cold, new, hot, other = (ready.key(name) for name in ("validator 0", "new", "validator 0 hot", "validator 1 hot"))
    ready.fund(new, 50 * ready.Q)
    for who in (cold, new):
        ready.call("stake.add", who, hot, 1, 5 * ready.Q)
    ready.call("stake.add", new, other, 1, 3 * ready.Q)
    ready.to_next_epoch(1)
    for who in (cold, new):
        ready.call("stake.add", who, hot, 1, 2 * ready.Q)
        ready.call("stake.remove", who, hot, 1, ready.Q)
    announce(ready, cold, new)
    ready.next_block(DELAY)
    ready.call("stake.transfer", ready.key("validator 1"), new, other, 1, 1, ready.Q)
    sums = [sum(column) for column in zip(*(pools.position(ready.state, 1, hot, who) for who in (cold, new)), strict=True)]
    elsewhere = sum(pools.position(ready.state, 1, other, new))
    ready.call(SWAP, cold, new)
    ready.next_block()
    together = pools.position(ready.state, 1, hot, new)
    assert together[1] == sums[1] and sums[0] <= together[0] <= sums[0] + 1
    assert sum(pools.position(ready.state, 1, other, new)) == elsewhere and list(pools.positions(ready.state, cold)) == []
    assert stake.unbonding_rao(ready.state, new) == 2 * ready.Q and stake.unbonding_rao(ready.state, cold) == 0


def test_two_full_lists_of_removed_stake_become_one(ready):
    cold, new = ready.key("validator 0"), ready.key("new")
    for who, step in ((cold, 0), (new, 500)):
        stake.UNBONDING.put(ready.state, who, value=[[1000 + step + i, 10] for i in range(stake.MAX_UNBONDINGS)])
    stake.move_unbondings(ready.context, cold, new)
    rows = stake.UNBONDING.get(ready.state, new)
    assert len(rows) == stake.MAX_UNBONDINGS and sum(amount for _, amount in rows) == 20 * stake.MAX_UNBONDINGS
    assert rows[0][1] > 10 and stake.UNBONDING.get(ready.state, cold) is None


# rule: KEY-8
def test_nobody_can_hold_a_swap_up_by_claiming_the_new_key(ready):
    cold, new, thief = ready.key("validator 0"), ready.key("new"), ready.key("miner 0")
    announce(ready, cold, new)
    announce(ready, ready.key("miner 1"), new)
    for name, args in (
        ("neurons.register", (1, new, 50 * ready.Q)), ("subnets.register_network", (new, 100 * ready.Q, "mine")),
        ("keyring.swap_hotkey", (ready.key("miner 0 hot"), new, None)),
    ):
        assert ready.refused(name, thief, *args) == "NonAssociatedColdKey", name
    ready.next_block(DELAY)
    ready.call(SWAP, cold, new)
    assert hotkeys.PROMISED.get(ready.state, coldkeys.swap_hash(new)) == 1, "another account has announced it, too"
    ready.next_block(AGAIN)
    announce(ready, ready.key("miner 1"), ready.key("newer"))
    assert hotkeys.may_own(ready.state, new, thief) and not hotkeys.may_own(ready.state, ready.key("newer"), thief)
    assert hotkeys.may_own(ready.state, ready.key("newer"), thief, proven=True)


# rule: KEY-7
def test_many_positions_take_more_than_one_call(ready, monkeypatch):
    """Else who sends stake to the old key in many places could hold the swap up."""
    cold, new, hot = ready.key("validator 0"), ready.key("new"), ready.key("validator 0 hot")
    for other in ("validator 1 hot", "miner 0 hot"):
        ready.call("stake.add", cold, ready.key(other), 1, ready.Q)
    monkeypatch.setattr(coldkeys, "MAX_MOVED", 2)
    announce(ready, cold, new)
    ready.next_block(DELAY)
    before = sum(active + pending for _, _, active, pending in pools.positions(ready.state, cold))
    ready.call(SWAP, cold, new)
    assert ready.named("ColdkeySwapContinues") == [[cold, new, 2]] and hotkeys.owner_of(ready.state, hot) == cold
    ready.next_block()
    ready.call(SWAP, cold, new)
    assert len(ready.named("ColdkeySwapped")) == 1 and hotkeys.owner_of(ready.state, hot) == new
    assert sum(active + pending for _, _, active, pending in pools.positions(ready.state, new)) == before
    ready.next_block()


def test_the_audit_counts_promises(ready):
    hotkeys.PROMISED.put(ready.state, bytes(32), value=1)
    assert list(coldkeys.audit(ready.state)) == [f"{bytes(32).hex()} is promised 1 times and announced 0 times"]


def test_the_audit_counts_announcements(ready):
    announce(ready, ready.key("validator 0"), ready.key("new"))
    assert list(coldkeys.audit(ready.state)) == []
    coldkeys.ANNOUNCED_COUNT.put(ready.state, value=2)
    assert list(coldkeys.audit(ready.state)) == ["1 coldkey swaps are announced, the count says 2"]
