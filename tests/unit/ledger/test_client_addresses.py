"""Which RPC addresses the client takes."""

import pytest

from ledger.client.remote import RemoteChain
from ledger.errors import UsageError


@pytest.mark.parametrize("url", ["http://127.0.0.1:9900", "https://node.example/rpc", "unix:/tmp/admin.sock", "ws://[::1]:1"])
def test_addresses_that_may_be_called(url):
    assert RemoteChain(url).url == url


@pytest.mark.parametrize("url", [
    "", "foo", "127.0.0.1:9900", "http://", "http://127.0.0.1:abc", "http://127.0.0.1:99999", "http://127.0.0.1:0",
    "http://[::1", "ftp://host", "unix:",
])
def test_addresses_refused_by_name(url):
    with pytest.raises(UsageError, match="not an RPC address"):
        RemoteChain(url)
