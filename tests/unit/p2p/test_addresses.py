import pytest

from ledger.errors import UsageError
from p2p.addresses import Address, address_of, parse_address, peer_id_of, peer_id_of_public, public_of_peer_id

PEER = peer_id_of(bytes(32))


@pytest.mark.parametrize("seed", [bytes(32), b"\x01" * 32, bytes(range(32)), b"\xff" * 32])
def test_peer_ids_are_those_of_libp2p(seed):
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    keys = create_new_key_pair(seed)
    public = keys.public_key.to_bytes()
    theirs = str(ID.from_pubkey(keys.public_key))
    assert peer_id_of(seed) == peer_id_of_public(public) == theirs
    assert public_of_peer_id(theirs) == public
    assert ID.from_base58(theirs).extract_public_key().to_bytes() == public


def test_a_known_peer_id():
    assert PEER == "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"


@pytest.mark.parametrize(
    "text",
    [
        f"/ip4/127.0.0.1/tcp/9920/p2p/{PEER}", f"/ip6/::1/tcp/1/p2p/{PEER}", f"/dns/node.example/tcp/65535/p2p/{PEER}",
        f"/dns4/a/tcp/0/p2p/{PEER}",
    ],
)
def test_addresses_round_trip(text):
    assert str(parse_address(text)) == text


def test_an_address_may_name_no_peer_where_that_is_allowed():
    assert parse_address("/ip4/10.0.0.1/tcp/80", need_peer=False) == Address("ip4", "10.0.0.1", 80)
    assert address_of("::1", 5, PEER) == f"/ip6/::1/tcp/5/p2p/{PEER}"
    with pytest.raises(UsageError, match="names no peer"):
        parse_address("/ip4/10.0.0.1/tcp/80")


@pytest.mark.parametrize(
    "text",
    [
        "", "/", "127.0.0.1:80", f"/ip4/127.0.0.1/udp/1/p2p/{PEER}", f"/ip4/256.0.0.1/tcp/1/p2p/{PEER}",
        f"/ip4/::1/tcp/1/p2p/{PEER}", f"/ip6/127.0.0.1/tcp/1/p2p/{PEER}", f"/ip4/127.0.0.1/tcp/65536/p2p/{PEER}",
        f"/ip4/127.0.0.1/tcp/-1/p2p/{PEER}", f"/ip4/127.0.0.1/tcp/²/p2p/{PEER}", f"/ip4/127.0.0.1/tcp//p2p/{PEER}",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3", "/ip4/127.0.0.1/tcp/1/p2p/" + "1" * 500, f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}x",
        f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit", f"/dns/-bad/tcp/1/p2p/{PEER}", f"/dns/a b/tcp/1/p2p/{PEER}",
        f"/onion/abc/tcp/1/p2p/{PEER}", "/ip4/127.0.0.1/tcp/1/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
    ],
)
def test_bad_addresses_are_refused(text):
    with pytest.raises(UsageError):
        parse_address(text)


def test_a_key_of_the_wrong_length_is_refused():
    with pytest.raises(UsageError):
        peer_id_of_public(bytes(31))
