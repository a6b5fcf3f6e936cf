"""What a search means: the path of the page that shows it."""

from __future__ import annotations

from typing import Final

from ledger.client.api import ChainApi
from ledger.client.keys import decode_address, encode_address
from ledger.errors import NotFound, UsageError

MAX_QUERY_CHARS: Final = 200
MAX_HEIGHT_DIGITS: Final = 18
HINT: Final = "a block's height or hash, an extrinsic's id, an address or public key, a name, or SUBNET/UID"


async def find(api: ChainApi, text: str) -> str:
    """Path for a height, hash, extrinsic id, address, public key, name, or NETUID/UID. Raises UsageError, NotFound."""
    text = text.strip()
    if not text or len(text) > MAX_QUERY_CHARS:
        raise UsageError("there is nothing to look for" if not text else "that is too long to look for", hint=HINT)
    number = text.removeprefix("#").replace(",", "")
    if _is_number(number):
        return f"/block/{int(number)}"
    left, slash, right = text.partition("/")
    if slash and _is_number(left) and _is_number(right):
        return f"/neuron/{int(left)}/{int(right)}"
    raw = _bytes32(text)
    if raw is not None:
        return await _find_bytes(api, raw)
    named = await _find_name(api, text.lower())
    if named is not None:
        return named
    try:
        return f"/account/{encode_address(decode_address(text))}"
    except UsageError:
        raise NotFound(f"nothing is called {text[:60]!r}", hint=HINT) from None


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_HEIGHT_DIGITS


def _bytes32(text: str) -> bytes | None:
    hexed = text.removeprefix("0x")
    try:
        return bytes.fromhex(hexed) if len(hexed) == 64 else None
    except ValueError:
        return None


async def _find_bytes(api: ChainApi, raw: bytes) -> str:
    """A block's hash, else an extrinsic's id, else a public key."""
    try:
        return f"/block/{(await api.chain_get_header('0x' + raw.hex())).height}"
    except NotFound:
        pass
    try:
        return f"/tx/0x{(await api.chain_get_extrinsic(raw)).id.hex()}"
    except NotFound:
        return f"/account/{encode_address(raw)}"


async def _find_name(api: ChainApi, wanted: str) -> str | None:
    """A subnet or neuron with that name, else the only one whose name begins so."""
    places: dict[str, str] = {}
    for subnet in (await api.subnet_list()).value:
        if subnet.name:
            places.setdefault(subnet.name.lower(), f"/subnet/{subnet.netuid}")
        for neuron in (await api.subnet_get_metagraph(subnet.netuid)).value.neurons:
            if neuron.name:
                places.setdefault(neuron.name.lower(), f"/neuron/{subnet.netuid}/{neuron.uid}")
    if wanted in places:
        return places[wanted]
    beginning = [place for name, place in places.items() if name.startswith(wanted)]
    return beginning[0] if len(beginning) == 1 else None
