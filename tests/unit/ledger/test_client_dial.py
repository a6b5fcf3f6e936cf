"""Which addresses from the chain may be dialled."""

import pytest

from ledger.client.dial import dialable, refusal

PUBLIC = ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:8.8.8.8"]
PRIVATE = ["127.0.0.1", "127.0.0.2", "10.0.0.5", "172.16.9.9", "192.168.1.1", "100.64.0.1", "::1", "fd00::7",
           "::ffff:127.0.0.1", "::ffff:10.1.2.3"]
NEVER = [
    "0.0.0.0", "0.1.2.3", "169.254.169.254", "::ffff:169.254.169.254", "192.0.0.8", "224.0.0.1", "239.1.1.1",
    "255.255.255.255", "240.0.0.1", "::", "fe80::1", "fec0::1", "ff02::1", "ff0e::1", "64:ff9b::a00:1",
    "64:ff9b:1::a00:1", "2002:a00:1::1", "2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "::10.0.0.1",
]
MALFORMED = ["", "localhost", "example.com", "fe80::1%eth0", "1.2.3", "010.0.0.1", "1.1.1.1 ", "[::1]", "0x7f000001",
             "2130706433", "1" * 4000]


@pytest.mark.parametrize("ip", PUBLIC)
@pytest.mark.parametrize("allow_private", [False, True])
def test_global_addresses_may_be_dialled(ip, allow_private):
    assert dialable(ip, 9950, allow_private=allow_private)


@pytest.mark.parametrize("ip", PRIVATE)
def test_private_addresses_only_where_the_chain_allows_them(ip):
    assert dialable(ip, 9950, allow_private=True)
    assert "private" in refusal(ip, 9950, allow_private=False)


@pytest.mark.parametrize("ip", NEVER + MALFORMED)
@pytest.mark.parametrize("allow_private", [False, True])
def test_never_whatever_the_chain_says(ip, allow_private):
    assert refusal(ip, 9950, allow_private=allow_private)


@pytest.mark.parametrize("port", [-1, 0, 22, 80, 442, 1023, 65536, 1 << 40, True])
def test_ports_refused(port):
    assert refusal("1.1.1.1", port, allow_private=True)


@pytest.mark.parametrize("port", [443, 1024, 9950, 65535])
def test_ports_allowed(port):
    assert dialable("1.1.1.1", port, allow_private=False)


def test_own_address_is_not_dialled_in_any_spelling():
    own = [("127.0.0.1", 9950)]
    assert refusal("127.0.0.1", 9950, allow_private=True, own=own) == "own address"
    assert refusal("::ffff:127.0.0.1", 9950, allow_private=True, own=own) == "own address"
    assert dialable("127.0.0.1", 9951, allow_private=True, own=own)
