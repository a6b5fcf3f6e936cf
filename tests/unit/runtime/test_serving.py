"""Serving records and receipts roots."""

import pytest

from ledger.errors import Rejected
from runtime import hooks, params
from runtime.modules import serving, subnets

HOME = bytes([127, 0, 0, 1])
PUBLIC = bytes([93, 184, 216, 34])
CAPABILITIES = b"\7" * 32


def record(ip=HOME, port=9950, pin=b"", capabilities=CAPABILITIES):
    return [ip, port, pin, capabilities]


def v6(text):
    import ipaddress

    return ipaddress.ip_address(text).packed


# --- addresses ---------------------------------------------------------------------------------------------------


# rule: SRV-1
@pytest.mark.parametrize(
    ("ip", "port", "private", "problem"),
    [
        (PUBLIC, 1, False, ""),
        (v6("2606:2800:220:1::1"), 65535, False, ""),
        (PUBLIC, 0, False, "InvalidPort"),
        (b"", 1, True, "InvalidIpType"),
        (bytes(5), 1, True, "InvalidIpType"),
        *[(bytes(ip), 1, True, "InvalidIpAddress") for ip in ([0, 1, 2, 3], [224, 0, 0, 1], [240, 1, 1, 1], [255] * 4)],
        *[(v6(ip), 1, True, "InvalidIpAddress") for ip in ("::", "ff02::1", "::ffff:1.2.3.4")],
        *[
            (bytes(ip), 1, private, "" if private else "InvalidIpAddress")
            for private in (True, False)
            for ip in ([10, 0, 0, 1], [127, 9, 9, 9], [192, 168, 0, 1], [172, 31, 0, 1], [169, 254, 1, 1], [100, 127, 0, 1])
        ],
        *[(v6(ip), 1, private, "" if private else "InvalidIpAddress") for private in (True, False)
          for ip in ("::1", "fd00::1", "fe80::1")],
        (bytes([172, 32, 0, 1]), 1, False, ""),
        (bytes([100, 128, 0, 1]), 1, False, ""),
        (v6("::2"), 1, False, ""),
    ],
)
def test_addresses(ip, port, private, problem):
    assert serving.address_problem(ip, port, allow_private=private) == problem


# --- records -----------------------------------------------------------------------------------------------------


def test_serve_is_free_and_readable(devnet):
    hot = devnet.hot("neuron code")
    result = devnet.block(devnet.sign(hot, "serving.serve", 1, record(pin=b"\1" * 32)))
    assert (result.outcomes[0].error, result.outcomes[0].fee_rao) == ("", 0)
    assert serving.record_of(devnet.view, 1, hot.public) == serving.ServingRecord(HOME, 9950, b"\1" * 32, CAPABILITIES, 1)
    assert devnet.call(hot, "serving.unserve", 1) == ""
    assert serving.record_of(devnet.view, 1, hot.public) is None
    assert devnet.audit() == []


# rule: SRV-1
@pytest.mark.parametrize(
    ("netuid", "given", "error"),
    [
        (2, record(), "HotKeyNotRegisteredInNetwork"),
        (9, record(), "HotKeyNotRegisteredInNetwork"),
        (1, record(ip=bytes(5)), "InvalidIpType"),
        (1, record(ip=bytes(4)), "InvalidIpAddress"),
        (1, record(port=0), "InvalidPort"),
        (1, record(pin=b"\1" * 31), "BadArguments"),
    ],
)
def test_what_serve_refuses(devnet, netuid, given, error):
    assert devnet.root("accounts.transfer", devnet.hot("neuron code").public, 10**9, True) == ""
    assert devnet.call(devnet.hot("neuron code"), "serving.serve", netuid, given) == error


@pytest.mark.parametrize("given", [record(ip=bytes(3)), record(ip=bytes(17)), record(port=65536), record(capabilities=b""), []])
def test_malformed_records_never_reach_the_call(devnet, given):
    with pytest.raises(Rejected, match="BadArguments"):
        devnet.call(devnet.hot("neuron code"), "serving.serve", 1, given)


# rule: SRV-2
def test_records_change_only_so_often_even_around_an_unserve(devnet):
    hot = devnet.hot("neuron code")
    assert devnet.root("governance.set_subnet_param", 1, "serving_rate_limit", 5) == ""
    assert devnet.call(hot, "serving.serve", 1, record()) == ""
    assert devnet.call(hot, "serving.serve", 1, record(port=1)) == "ServingRateLimitExceeded"
    assert devnet.call(hot, "serving.unserve", 1) == ""
    assert devnet.call(hot, "serving.serve", 1, record(port=1)) == "ServingRateLimitExceeded"
    devnet.skip(1)
    assert devnet.call(hot, "serving.serve", 1, record(port=1)) == ""


def test_strangers_pay_and_cannot_serve(devnet):
    stranger = devnet.hot("owner")
    with pytest.raises(Rejected, match="CannotPayFee"):
        devnet.call(stranger, "serving.serve", 1, record())


def test_a_removed_neuron_serves_no_more(devnet):
    hot = devnet.hot("neuron code")
    devnet.call(hot, "serving.serve", 1, record())
    context = devnet.context()
    hooks.run_neuron_removed(context, 1, 0, hot.public)
    assert serving.record_of(context.state, 1, hot.public) is None
    assert serving.SERVED_AT.get(context.state, 1, hot.public) is None


def test_serving_on_public_chains_needs_public_addresses(devnet, monkeypatch):
    from dataclasses import replace

    from runtime import chain

    info = replace(chain.info(devnet.view), devnet=False, allow_private=False)
    devnet.rows[chain.INFO.key()] = chain.INFO.encode(info)
    assert devnet.call(devnet.hot("neuron code"), "serving.serve", 1, record()) == "InvalidIpAddress"
    assert devnet.call(devnet.hot("neuron code"), "serving.serve", 1, record(ip=PUBLIC)) == ""


# --- receipts ----------------------------------------------------------------------------------------------------

ROOT = b"\3" * 32


def commit(devnet, epoch, who="validator 0", count=5, netuid=1):
    key = devnet.hot(who)
    return devnet.call(key, "serving.commit_receipts", netuid, epoch, ROOT, count)


# rule: SRV-3
def test_receipts_are_committed_once_for_the_running_or_last_epoch(devnet):
    assert commit(devnet, 1) == "InvalidReceiptEpoch"
    assert commit(devnet, 0, count=0) == "NoReceipts"
    assert commit(devnet, 0) == ""
    assert commit(devnet, 0) == "ReceiptsAlreadyCommitted"
    assert commit(devnet, 0, who="gateway 0") == ""
    while subnets.tempo(devnet.view, 1).epoch_index < 2:
        devnet.block()
    assert commit(devnet, 0) == "InvalidReceiptEpoch"
    assert commit(devnet, 1) == "" and commit(devnet, 2) == ""
    found = serving.receipts_of(devnet.view, 1, 1, devnet.hot("validator 0").public)
    assert (found.root, found.count) == (ROOT, 5)


def test_receipts_need_a_registered_hotkey(devnet):
    assert devnet.root("accounts.transfer", devnet.hot("neuron code").public, 10**9, True) == ""
    assert commit(devnet, 0, who="neuron code", netuid=2) == "HotKeyNotRegisteredInSubNet"
    assert commit(devnet, 0, who="neuron code", netuid=7) == "HotKeyNotRegisteredInSubNet"


def test_receipts_are_free(devnet):
    result = devnet.block(devnet.sign(devnet.hot("gateway 0"), "serving.commit_receipts", 2, 0, ROOT, 1))
    assert (result.outcomes[0].error, result.outcomes[0].fee_rao) == ("", 0)


# rule: SRV-3
def test_roots_are_kept_for_64_epochs(devnet):
    context = devnet.context()
    value = serving.ReceiptsRoot(ROOT, 1, 1)
    for epoch in range(3):
        serving.RECEIPTS.put(context.state, 1, epoch, bytes(32), value=value)
    serving.RECEIPTS.put(context.state, 2, 0, bytes(32), value=value)
    hooks.run_end_epoch(context, 1, params.RECEIPT_EPOCHS)
    assert [parts[:2] for parts, _ in serving.RECEIPTS.items(context.state)] == [(1, 1), (1, 2), (2, 0)]
