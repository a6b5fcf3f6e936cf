"""Peer ids and multiaddresses as text, computed without libp2p.

A peer id is the base58 text of the identity multihash of the node's ed25519 key, so it contains the key. Only
`/ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER]` is understood: the one transport in use is TCP.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

import base58
from nacl import bindings

from ledger.errors import UsageError

# Identity multihash (0x00, 36 bytes) of the protobuf PublicKey {type: Ed25519, data: 32 bytes}.
_PREFIX: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
MAX_ADDRESS_CHARS: Final = 512
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")


def peer_id_of(seed: bytes) -> str:
    """Peer id of the node key made from a 32-byte seed."""
    public, _ = bindings.crypto_sign_seed_keypair(seed)
    return peer_id_of_public(public)


def peer_id_of_public(public: bytes) -> str:
    """Peer id of a 32-byte ed25519 public key."""
    if len(public) != 32:
        raise UsageError(f"a node key has 32 bytes, not {len(public)}")
    return str(base58.b58encode(_PREFIX + public), "ascii")


def public_of_peer_id(peer: str) -> bytes:
    """The 32-byte key inside a peer id. Raises UsageError if it is not the id of an ed25519 key."""
    try:
        raw = base58.b58decode(peer) if len(peer) <= 64 else b""
    except ValueError:
        raw = b""
    if len(raw) != len(_PREFIX) + 32 or not raw.startswith(_PREFIX):
        raise UsageError(f"{peer[:64]!r} is not the peer id of an ed25519 key")
    return raw[len(_PREFIX) :]


@dataclass(frozen=True, slots=True)
class Address:
    """Where to dial: `kind` is ip4, ip6, dns, dns4 or dns6; `peer` is empty if the text named none."""

    kind: str
    host: str
    port: int
    peer: str = ""

    def __str__(self) -> str:
        tail = f"/p2p/{self.peer}" if self.peer else ""
        return f"/{self.kind}/{self.host}/tcp/{self.port}{tail}"


def address_of(ip: str, port: int, peer: str = "") -> str:
    """Multiaddress text of an IP address, a TCP port and, optionally, a peer id."""
    return str(Address("ip6" if ":" in ip else "ip4", ip, port, peer))


def parse_address(text: str, *, need_peer: bool = True) -> Address:
    """Parse and check a multiaddress. Raises UsageError naming what is wrong."""
    parts = text.split("/") if len(text) <= MAX_ADDRESS_CHARS else []
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp" or (len(parts) == 7 and parts[5] != "p2p"):
        raise UsageError(f"{text[:80]!r} is not like /ip4/127.0.0.1/tcp/9920/p2p/PEER")
    kind, host, port_text = parts[1], parts[2], parts[4]
    if kind in ("ip4", "ip6"):
        try:
            host = str(ipaddress.IPv4Address(host) if kind == "ip4" else ipaddress.IPv6Address(host))
        except ValueError:
            raise UsageError(f"{host[:80]!r} is not an {kind} address") from None
    elif kind not in ("dns", "dns4", "dns6") or not _NAME.fullmatch(host):
        raise UsageError(f"{text[:80]!r}: expected ip4, ip6, dns, dns4 or dns6 and a host")
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 and int(port_text) <= 65535):
        raise UsageError(f"{port_text[:80]!r} is not a TCP port")
    peer = parts[6] if len(parts) == 7 else ""
    if peer:
        public_of_peer_id(peer)
    elif need_peer:
        raise UsageError(f"{text!r} names no peer: add /p2p/PEER")
    return Address(kind, host, int(port_text), peer)
