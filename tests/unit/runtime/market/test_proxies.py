"""Proxies: what each kind may do, delays and announcements, deposits, and everything that is refused."""

import pytest

from runtime.dispatch import call_number
from runtime.modules import accounts, proxies
from runtime.modules.proxies import ANY, KINDS, SMALL_TRANSFER, STAKING, TRANSFER, WEIGHTS, call_hash
from runtime.registry import CALLS


@pytest.fixture
def keys(empty):
    """(real, delegate), each with 100 Q."""
    real, delegate = empty.key("real"), empty.key("delegate")
    for who in (real, delegate):
        empty.fund(who, 100 * empty.Q)
    return real, delegate


def transfer(to, amount_rao):
    return [call_number("accounts.transfer"), [to, amount_rao, True]]


def test_a_proxy_acts_as_the_account_and_pays_nothing_of_its_own(empty, keys):
    real, delegate = keys
    empty.call("proxies.add", real, delegate, TRANSFER, 0)
    other, before = empty.key("other"), accounts.account(empty.state, delegate)
    empty.call("proxies.run", delegate, real, transfer(other, 7 * empty.Q))
    assert accounts.balance(empty.state, other) == 7 * empty.Q
    assert accounts.account(empty.state, delegate) == before
    assert empty.named("ProxyRan") == [[real, delegate, "accounts.transfer"]]
    assert empty.context.signer == delegate  # what follows is the delegate's again
    empty.next_block()


# rule: PRX-1
def test_kinds_are_lists_of_what_is_allowed(empty, keys):
    real, delegate = keys
    small, large = transfer(empty.key("x"), empty.Q // 2 - 1), transfer(empty.key("x"), empty.Q // 2)
    add_stake = [call_number("stake.add"), [real, 1, empty.Q]]
    empty.call("proxies.add", real, delegate, SMALL_TRANSFER, 0)
    empty.call("proxies.run", delegate, real, small)
    assert empty.refused("proxies.run", delegate, real, large) == "Unproxyable"
    assert empty.refused("proxies.run", delegate, real, transfer(empty.key("x"), None)) == "Unproxyable"
    assert empty.refused("proxies.run", delegate, real, add_stake) == "Unproxyable"
    tiny = transfer(empty.key("x"), empty.Q // 4)
    for name in ("keyring.batch", "keyring.batch_each"):
        batch = [call_number(name), [[tiny, transfer(empty.key("x"), empty.Q // 4 - 1)]]]
        empty.call("proxies.run", delegate, real, batch)
        assert empty.refused("proxies.run", delegate, real, [call_number(name), [[tiny, tiny]]]) == "Unproxyable"
        nested = [call_number(name), [[batch]]]
        assert empty.refused("proxies.run", delegate, real, nested) not in ("", "NotProxy")
    empty.call("proxies.add", real, delegate, STAKING, 0)
    assert empty.refused("proxies.run", delegate, real, add_stake) not in ("", "Unproxyable", "NotProxy")  # the call's own
    assert empty.refused("proxies.run", delegate, real, large) == "Unproxyable"


# rule: PRX-1
def test_a_call_on_no_list_is_allowed_to_any_only():
    listed = {name for names in proxies.ALLOWED.values() for name in names}
    for entry in CALLS.values():
        for kind in range(len(KINDS)):
            if entry.name not in listed and entry.name not in proxies.BATCHES:
                allowed = kind == ANY and entry.name not in ("governance.sudo", "proxies.run")
                assert proxies.allows(kind, entry, []) == allowed, (entry.name, kind)
    assert not any(name.startswith(("proxies", "governance.s", "keyring")) for name in listed - {"governance.set_subnet_param"})


# rule: PRX-1
def test_a_batch_needs_every_call_allowed(empty, keys):
    real, delegate = keys
    empty.call("proxies.add", real, delegate, TRANSFER, 0)
    first, second = transfer(empty.key("a"), empty.Q), transfer(empty.key("b"), empty.Q)
    empty.call("proxies.run", delegate, real, [call_number("keyring.batch"), [[first, second]]])
    assert accounts.balance(empty.state, empty.key("b")) == empty.Q
    stake = [call_number("stake.withdraw_unbonded"), []]
    assert empty.refused("proxies.run", delegate, real, [call_number("keyring.batch"), [[first, stake]]]) == "Unproxyable"
    inner = [call_number("proxies.run"), [real, first]]
    assert empty.refused("keyring.batch", delegate, [inner]) == "NestedBatch"
    assert empty.refused("proxies.run", delegate, real, inner) == "NestedBatch"
    assert empty.refused("proxies.run", delegate, real, [call_number("governance.sudo"), [first]]) == "NestedBatch"


def test_strangers_and_removed_proxies_are_refused(empty, keys):
    real, delegate = keys
    assert empty.refused("proxies.run", delegate, real, transfer(delegate, 1)) == "NotProxy"
    empty.call("proxies.add", real, delegate, ANY, 0)
    assert empty.refused("proxies.run", empty.key("stranger"), real, transfer(delegate, 1)) == "NotProxy"
    empty.call("proxies.remove", real, delegate, ANY, 0)
    assert empty.refused("proxies.run", delegate, real, transfer(delegate, 1)) == "NotProxy"
    assert empty.refused("proxies.remove", real, delegate, ANY, 0) == "NotProxy"


# rule: PRX-2
def test_a_delay_needs_an_announcement_that_is_used_once(empty, keys):
    real, delegate = keys
    empty.call("proxies.add", real, delegate, TRANSFER, 3)
    wanted = transfer(empty.key("other"), empty.Q)
    assert empty.refused("proxies.run", delegate, real, wanted) == "NotAnnounced"
    empty.call("proxies.announce", delegate, real, call_hash(*wanted))
    empty.next_block(2)
    assert empty.refused("proxies.run", delegate, real, wanted) == "AnnouncedTooRecently"
    empty.next_block()
    assert empty.refused("proxies.run", delegate, real, transfer(empty.key("other"), 2 * empty.Q)) == "NotAnnounced"
    empty.call("proxies.run", delegate, real, wanted)
    assert empty.refused("proxies.run", delegate, real, wanted) == "NotAnnounced"
    assert accounts.account(empty.state, delegate).reserved_rao == 0


def test_a_refused_call_keeps_its_announcement(empty, keys):
    real, delegate = keys
    empty.call("proxies.add", real, delegate, TRANSFER, 1)
    wanted = transfer(empty.key("other"), 10**6 * empty.Q)
    empty.call("proxies.announce", delegate, real, call_hash(*wanted))
    empty.next_block()
    assert empty.refused("proxies.run", delegate, real, wanted) == "InsufficientBalance"
    assert len(proxies.announcements_of(empty.state, real, delegate).rows) == 1


def test_the_account_rejects_what_it_does_not_want(empty, keys):
    real, delegate = keys
    empty.call("proxies.add", real, delegate, TRANSFER, 1)
    wanted = call_hash(*transfer(empty.key("other"), empty.Q))
    empty.call("proxies.announce", delegate, real, wanted)
    assert empty.refused("proxies.withdraw", empty.key("other"), real, delegate, wanted) == "NotProxy"
    empty.call("proxies.withdraw", real, real, delegate, wanted)
    assert empty.refused("proxies.withdraw", real, real, delegate, wanted) == "NotAnnounced"
    empty.call("proxies.announce", delegate, real, wanted)
    empty.call("proxies.withdraw", delegate, real, delegate, wanted)
    assert accounts.account(empty.state, delegate).reserved_rao == 0


# rule: PRX-3
def test_deposits_follow_the_rows(empty, keys):
    real, delegate = keys
    for delay in range(3):
        empty.call("proxies.add", real, delegate, WEIGHTS, delay)
    assert accounts.account(empty.state, real).reserved_rao == proxies.DEPOSIT_BASE_RAO + 3 * proxies.DEPOSIT_EACH_RAO
    empty.call("proxies.announce", delegate, real, bytes(32))
    assert accounts.account(empty.state, delegate).reserved_rao == proxies.DEPOSIT_EACH_RAO
    empty.next_block()
    for delay in range(3):
        empty.call("proxies.remove", real, delegate, WEIGHTS, delay)
    assert accounts.account(empty.state, real).reserved_rao == accounts.account(empty.state, delegate).reserved_rao == 0
    empty.next_block()


# rule: PRX-3
def test_limits_and_bad_input(empty, keys):
    real, delegate = keys
    assert empty.refused("proxies.add", real, real, ANY, 0) == "NoSelfProxy"
    assert empty.refused("proxies.add", real, bytes(32), ANY, 0) == "InvalidKey"
    assert empty.refused("proxies.add", real, delegate, len(KINDS), 0) == "BadArguments"
    assert empty.refused("proxies.add", empty.key("poor"), delegate, ANY, 0) == "NotEnoughBalance"
    empty.call("proxies.add", real, delegate, ANY, 9)
    assert empty.refused("proxies.add", real, delegate, ANY, 9) == "DuplicateProxy"
    for delay in range(proxies.MAX_PROXIES - 1):
        empty.call("proxies.add", real, delegate, STAKING, delay)
    assert empty.refused("proxies.add", real, delegate, WEIGHTS, 0) == "TooManyProxies"
    for index in range(proxies.MAX_ANNOUNCEMENTS):
        empty.call("proxies.announce", delegate, real, bytes([index]) * 32)
    assert empty.refused("proxies.announce", delegate, real, bytes(32)) == "TooManyAnnouncements"
    assert empty.refused("proxies.announce", empty.key("stranger"), real, bytes(32)) == "NotProxy"
    empty.next_block()
