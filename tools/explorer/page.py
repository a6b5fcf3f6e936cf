"""What a page of the explorer is, how the fields of its path are read, and the names that all pages show."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ledger.client.api import ChainApi
from ledger.client.keys import decode_address
from ledger.errors import UsageError

Query = Mapping[str, str]
Table = tuple[list[str], list[list[Any]]]

LIST_BLOCKS: Final = 50  # of the list of blocks, and those that leaders are counted in
MAX_DIGITS: Final = 18


@dataclass(frozen=True)
class Values:
    """`fields`: values of the path's fields where the page knows them better than the path."""

    data: Any
    show: dict[str, Any]
    table: Table | None = None
    fields: dict[str, str] = field(default_factory=dict)


Loader = Callable[[ChainApi, dict[str, str], Query], Awaitable[Values]]


@dataclass(frozen=True)
class Page:
    """`snippet`: the same thing by RPC, CLI and Python, with {fields} of the path filled in; "" where there is no way."""

    path: str
    title: str
    template: str
    load: Loader
    snippet: tuple[str, str, str]
    nav: str = ""
    live: bool = False


def whole_number(text: str, what: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise UsageError(f"{text[:40]!r} is no {what}", hint=f"a {what} is a whole number")
    return int(text)


def place(text: str) -> int | str:
    """A block's height, its 0x hash, or head."""
    if text == "head":
        return text
    if text.startswith("0x"):
        return "0x" + hash_of(text, "block hash").hex()
    return whole_number(text, "block")


def hash_of(text: str, what: str) -> bytes:
    try:
        value = bytes.fromhex(text.removeprefix("0x"))
    except ValueError:
        value = b""
    if len(value) != 32:
        raise UsageError(f"{text[:80]!r} is no {what}", hint=f"a {what} is 0x and 64 hexadecimal digits")
    return value


def key_of(text: str) -> bytes:
    return hash_of(text, "public key") if text.startswith("0x") else decode_address(text)


async def names(api: ChainApi) -> dict[bytes, str]:
    """Names of hotkeys and their coldkeys, where the devnet's cast gives them."""
    out: dict[bytes, str] = {}
    for subnet in (await api.subnet_list()).value:
        for neuron in (await api.subnet_get_metagraph(subnet.netuid)).value.neurons:
            if neuron.name:
                out[neuron.hotkey] = neuron.name
                out.setdefault(neuron.coldkey, neuron.name)
    return out
