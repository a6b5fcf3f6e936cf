"""May this address be dialled? One function decides for everyone who connects to an address taken from the chain.

Serving records are written by strangers, so an address in them may point into the caller's own network. Rules:

1. The address is a literal IPv4 or IPv6 address without a zone; names are never resolved. Mapped IPv4 is unwrapped.
2. Never: unspecified, multicast, broadcast, reserved and link-local addresses (a cloud's metadata service lives there),
   and every tunnel that hides another address (6to4, Teredo, NAT64, site-local, 192.0.0.0/24).
3. Only globally reachable addresses, unless the chain's specification allows private ones (devnets).
4. No port below 1024 except 443, and none of the caller's own addresses that it names.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

LOWEST_PORT: Final = 1024
HIGHEST_PORT: Final = 65535
TLS_PORT: Final = 443
MAX_ADDRESS_CHARACTERS: Final = 45  # the longest text form of an IPv6 address

_NEVER: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "169.254.0.0/16", "192.0.0.0/24", "192.88.99.0/24", "224.0.0.0/4", "240.0.0.0/4",
        "::/128", "fe80::/10", "fec0::/10", "ff00::/8", "2001::/32", "2002::/16", "64:ff9b::/96", "64:ff9b:1::/48",
        "::/96",
    )
)
# What a devnet may use beside the global addresses: loopback, private and unique local ranges.
_PRIVATE: Final[tuple[IPv4Network | IPv6Network, ...]] = tuple(
    ip_network(text)
    for text in ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7", "::1/128")
)
_LOOPBACK_V6: Final = IPv6Address(1)


def dialable(ip: str, port: int, *, allow_private: bool, own: Collection[tuple[str, int]] = ()) -> bool:
    """True iff a connection to this address may be opened; see `refusal` for the reason if not."""
    return not refusal(ip, port, allow_private=allow_private, own=own)


def refusal(ip: str, port: int, *, allow_private: bool, own: Collection[tuple[str, int]] = ()) -> str:
    """Why the address may not be dialled, or "" if it may. `own` holds (ip, port) pairs of the caller itself."""
    address = _parse(ip)
    if address is None:
        return "not an IP address"
    if type(port) is not int or not 0 < port <= HIGHEST_PORT:
        return "no such port"
    if port < LOWEST_PORT and port != TLS_PORT:
        return f"port {port} is below {LOWEST_PORT}"
    if any((_parse(own_ip), own_port) == (address, port) for own_ip, own_port in own):
        return "own address"
    if address != _LOOPBACK_V6 and _within(address, _NEVER):
        return f"{address} is never dialled"
    if _within(address, _PRIVATE):
        return "" if allow_private else f"{address} is private"
    return "" if address.is_global else f"{address} is not globally reachable"


def _parse(ip: str) -> IPv4Address | IPv6Address | None:
    if len(ip) > MAX_ADDRESS_CHARACTERS or "%" in ip:
        return None
    try:
        address = ip_address(ip)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _within(address: IPv4Address | IPv6Address, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    return any(address.version == network.version and address in network for network in networks)
