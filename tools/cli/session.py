"""A command's connection to a node, and the keys it may sign with."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ledger.client.api import ChainApi
from ledger.client.keys import ADDRESS_LEAD, DevKeys, decode_address, encode_address, key_file_info, read_key_file
from ledger.crypto import KeyPair
from ledger.errors import KeyLocked, NotFound, Timeout, Unreachable, UsageError
from tools.cli.output import Output
from tools.cli.target import DEFAULT_NAME, DEFAULT_RPC, devnet_of_keys, rpc_url, running_devnet
from tools.devnet.layout import home_directory

if TYPE_CHECKING:
    from tools.cli.main import Settings

T = TypeVar("T")
MAX_PASSWORD_BYTES = 4096
MAX_HEIGHT_DIGITS = 18
KEY_HINT = "quorix key list; devnet keys are written //role//name, such as //validator//0: quorix devnet accounts"
WHOLE_HINT = "the beginning of an address is not enough to act on; whole ones: quorix subnet metagraph NETUID --json"
SHORTEST_ADDRESS = 40  # what is shorter is the name of a key


def run(settings: Settings, work: Callable[[ChainApi], Awaitable[T]], *, deadline: bool = True) -> T:
    """Connect, do the work, disconnect; the whole within the command's deadline."""

    async def session() -> T:
        async with connect(settings) as api:
            return await work(api)

    async def timed() -> T:
        try:
            return await asyncio.wait_for(session(), settings.timeout_s if deadline else None)
        except TimeoutError:
            raise Timeout(f"no answer within {settings.timeout_s:g} s", hint="raise --timeout, or look at the node") from None

    return asyncio.run(timed())


@asynccontextmanager
async def connect(settings: Settings) -> AsyncIterator[ChainApi]:
    """The chain API of the node that the settings name; a remark names a devnet that was not asked for by its name."""
    from ledger.client.remote import RemoteChain

    import_httpx()
    url = rpc_url(settings)
    devnet = None if settings.rpc else running_devnet(settings)
    if devnet is not None and devnet.name != DEFAULT_NAME and not settings.devnet:
        _remark_devnet(settings, devnet.name)
    try:
        async with RemoteChain(url) as api:
            yield api
    except Unreachable as error:
        if url != DEFAULT_RPC or settings.rpc or devnet is not None:
            raise
        home = home_directory(settings.home)
        hint = f"no devnet of {home} runs: quorix devnet up, or name a node with --rpc URL, or another --home"
        raise Unreachable(error.cause, hint=hint) from None


def _remark_devnet(settings: Settings, name: str) -> None:
    """Once a command, which may open several sessions."""
    ctx = click.get_current_context(silent=True)
    said = ctx.find_root().meta.setdefault("quorix.devnets_named", set()) if ctx else set()
    if name not in said:
        said.add(name)
        Output(settings).remark(f"devnet {name!r}")


def import_httpx() -> None:
    """Import httpx without trio and rich, which it takes along where they are installed: a command starts 0.3 s sooner."""
    if "httpx" in sys.modules:
        return
    unwanted = [name for name in ("trio", "httpx._main") if name not in sys.modules]
    sys.modules.update(dict.fromkeys(unwanted))  # type: ignore[arg-type]  # None: not to be had, which httpx allows for
    try:
        for name in ("httpx", "httpcore"):
            importlib.import_module(name)
    finally:
        for name in unwanted:
            del sys.modules[name]


def at(text: str) -> int | str:
    """`--at`: a height, a 0x hash, or head."""
    if text.isascii() and text.isdecimal() and len(text) <= MAX_HEIGHT_DIGITS:
        return int(text)
    if text in ("head", "latest"):
        return "head"
    if re.fullmatch("0x[0-9a-fA-F]{64}", text):
        return text
    raise UsageError(f"{text!r} is no height, hash or head")


def account(settings: Settings, text: str) -> bytes:
    """An address, a 0x public key, a key file's name, or the dev key of a `//role//name` path, as a public key."""
    if text.startswith("//"):
        return dev_key(settings, text).public
    if text.startswith("0x"):
        try:
            key = bytes.fromhex(text[2:])
        except ValueError:
            key = b""
        if len(key) != 32:
            raise UsageError(f"{text!r} is no 32-byte public key")
        return key
    if len(text) < SHORTEST_ADDRESS:
        path = key_path(settings, text)
        if not path.exists():
            begins = text.startswith(ADDRESS_LEAD)
            raise NotFound(f"no key is called {text!r}", hint=WHOLE_HINT if begins else KEY_HINT)
        return key_file_info(path).public
    return decode_address(text)


def address(key: bytes) -> str:
    return encode_address(key)


def dev_key(settings: Settings, path: str) -> KeyPair:
    """A key of the cast of the devnet that is meant. Raises NotFound for a path of nobody."""
    import difflib

    from genesis.cast import key_names
    from tools.devnet.plan import DevnetPlan

    plan = DevnetPlan.load(devnet_of_keys(settings))
    known = sorted(key_names(plan.seed, plan.nodes).values())
    if path not in known:
        near = difflib.get_close_matches(path, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "quorix devnet accounts"
        raise NotFound(f"nobody in devnet {plan.name!r} has the key {path}", hint=hint)
    return DevKeys(plan.seed).key(path)


def key_path(settings: Settings, name: str) -> Path:
    """File of a named key. Raises UsageError for a name that is no plain file name."""
    if not re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"{name[:64]!r} is no key name", hint="letters, digits, dot, dash and underscore, at most 64")
    return home_directory(settings.home) / "keys" / f"{name}.json"


def signing_key(settings: Settings, name: str) -> KeyPair:
    """The key to sign with: a `//role//name` path on a devnet, else a key file, whose password is asked for."""
    if name.startswith("//"):
        return dev_key(settings, name)
    path = key_path(settings, name)
    if not path.exists():
        raise NotFound(f"no key is called {name!r}", hint=KEY_HINT)
    if not key_file_info(path).encrypted:
        return read_key_file(path)
    return read_key_file(path, read_password(settings, f"password of {name}: "))


def read_password(settings: Settings, prompt: str) -> str:
    """From --password-fd, --password-file or QUORIX_PASSWORD_FILE, else asked on the terminal; never from an argument."""
    import getpass
    import sys

    path = settings.password_file or os.environ.get("QUORIX_PASSWORD_FILE")
    try:
        if settings.password_fd is not None:
            with os.fdopen(os.dup(settings.password_fd), "rb") as file:
                return _first_line(file.read(MAX_PASSWORD_BYTES))
        if path:
            with open(path, "rb") as file:
                return _first_line(file.read(MAX_PASSWORD_BYTES))
    except OSError as error:
        raise UsageError(f"the password cannot be read: {error.strerror}") from None
    if settings.no_input or not sys.stdin.isatty():
        raise KeyLocked("a password is needed and there is no terminal", hint="--password-file FILE or QUORIX_PASSWORD_FILE")
    return getpass.getpass(prompt)


def _first_line(data: bytes) -> str:
    try:
        return data.decode().splitlines()[0] if data else ""
    except UnicodeDecodeError:
        raise UsageError("the password is not text in UTF-8") from None


def asks_for_password(settings: Settings) -> bool:
    """True where a person will be asked."""
    return settings.password_fd is None and not (settings.password_file or os.environ.get("QUORIX_PASSWORD_FILE"))


async def short_names(api: ChainApi, netuid: int) -> dict[bytes, str]:
    """Names of a subnet's neurons by hotkey, where the devnet's cast gives them."""
    graph = await api.subnet_get_metagraph(netuid)
    return {n.hotkey: n.name for n in graph.value.neurons if n.name}
