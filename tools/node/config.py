"""Settings of a node, and where each came from: flag > QUORIX_* > HOME/config.toml > default.

What all nodes of a chain must agree on is in its specification and never here. Each setting is declared once in
SETTINGS; its environment variable is QUORIX_ and its name in capitals. An unknown key in the file is an error that names
the nearest known one.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import UsageError

MAX_CONFIG_BYTES: Final = 1 << 20
MAX_PEERS: Final = 256


@dataclass(frozen=True)
class Setting:
    """One setting. `kind` is int, bool, str or list (of strings)."""

    kind: type
    default: Any
    about: str


SETTINGS: Final[dict[str, Setting]] = {
    "spec": Setting(str, "", "the chain's specification file; default: HOME/spec.toml"),
    "rpc_host": Setting(str, "127.0.0.1", "address on which RPC is served"),
    "rpc_port": Setting(int, 9900, "port of RPC; 0 takes a free one"),
    "rpc_external": Setting(bool, False, "allow RPC on an address that other machines can reach"),
    "rpc_names": Setting(list, [], "host names under which RPC may be called, beside localhost"),
    "rpc_origins": Setting(list, [], "web origins whose pages may call RPC from a browser"),
    "admin_socket": Setting(str, "", "unix socket for dev_ and admin_ methods; default: HOME/admin.sock"),
    "p2p": Setting(str, "auto", "on, off, or auto: off for the only authority of a chain without peers"),
    "p2p_host": Setting(str, "127.0.0.1", "IP address on which peers are accepted"),
    "p2p_port": Setting(int, 9920, "port for peers; 0 takes a free one"),
    "peers": Setting(list, [], "addresses that are dialled for ever: /ip4/1.2.3.4/tcp/9920/p2p/ID"),
    "seal": Setting(str, "", "interval, instant or manual; other than in the specification only with one authority"),
    "archive": Setting(bool, False, "keep the state of every block, not only of the last 256"),
    "new_sign_db": Setting(bool, False, "make a sign database for a key that has none, and listen before signing"),
    "sign_from": Setting(int, 0, "sign from this height on: no other copy of the key has signed there"),
    "log": Setting(str, "info", "level of log entries, also by room: info,p2p=debug"),
}
_CHOICES: Final = {"p2p": ("auto", "on", "off"), "seal": ("", "interval", "instant", "manual")}
_PORTS: Final = ("rpc_port", "p2p_port")


@dataclass(frozen=True)
class NodeConfig:
    """All settings of one node. `origin` says for each whether it was a flag, an environment variable, ..."""

    home: Path
    spec: Path
    rpc_host: str
    rpc_port: int
    rpc_external: bool
    rpc_names: tuple[str, ...]
    rpc_origins: tuple[str, ...]
    admin_socket: Path | None
    p2p: str
    p2p_host: str
    p2p_port: int
    peers: tuple[str, ...]
    seal: str
    archive: bool
    new_sign_db: bool
    sign_from: int
    log: str
    origin: Mapping[str, str]

    @property
    def chain_path(self) -> Path:
        return self.home / "chain"

    @property
    def sign_path(self) -> Path:
        return self.home / "sign"

    @property
    def node_key_path(self) -> Path:
        return self.home / "node.key"

    @property
    def session_key_path(self) -> Path:
        return self.home / "session.key"

    @property
    def book_path(self) -> Path:
        return self.home / "peers.cbor"

    @property
    def pool_path(self) -> Path:
        return self.home / "pool.cbor"


def load_config(
    home: Path, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> NodeConfig:
    """Settings of the node at `home`; flags that are None were not given. Raises UsageError naming the wrong setting."""
    values, origin = _gather(home, flags or {}, os.environ if environment is None else environment)
    for name in _PORTS:
        if not 0 <= values[name] <= 65535:
            raise UsageError(f"{name} = {values[name]} is no port ({origin[name]})")
    for name, known in _CHOICES.items():
        if values[name] not in known:
            raise UsageError(f"{name} = {values[name]!r} ({origin[name]}); one of {', '.join(filter(None, known))}")
    if len(values["peers"]) > MAX_PEERS:
        raise UsageError(f"at most {MAX_PEERS} peers, {len(values['peers'])} given ({origin['peers']})")
    if values["sign_from"] < 0:
        raise UsageError(f"sign_from = {values['sign_from']} is no height ({origin['sign_from']})")
    for name in ("rpc_names", "rpc_origins", "peers"):
        values[name] = tuple(values[name])
    values["spec"] = Path(values["spec"]) if values["spec"] else home / "spec.toml"
    values["admin_socket"] = Path(values["admin_socket"]) if values["admin_socket"] else home / "admin.sock"
    return NodeConfig(home=home, origin=origin, **values)


def _gather(
    home: Path, flags: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, str]]:
    path = home / "config.toml"
    written = _read_file(path)
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        variable = f"QUORIX_{name.upper()}"
        if flags.get(name) is not None and flags[name] != ():
            values[name], origin[name] = _checked(name, flags[name], "flag"), "flag"
        elif variable in environment:
            values[name], origin[name] = _from_text(name, environment[variable], variable), variable
        elif name in written:
            values[name], origin[name] = _checked(name, written[name], str(path)), str(path)
        else:
            values[name], origin[name] = setting.default, "default"
    return values, origin


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        tree = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="mend or remove that file") from None
    for key in tree:
        if key not in SETTINGS:
            near = difflib.get_close_matches(key, SETTINGS, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(SETTINGS)}"
            raise UsageError(f"{path}: unknown setting {key!r}", hint=hint)
    return tree


def _checked(name: str, value: Any, place: str) -> Any:
    kind = SETTINGS[name].kind
    if kind is list and isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return list(value)
    if kind is not list and type(value) is kind:
        return value
    words = {int: "a whole number", bool: "true or false", str: "text", list: "a list of texts"}
    raise UsageError(f"{name} = {value!r} ({place}); expected {words[kind]}")


def _from_text(name: str, text: str, place: str) -> Any:
    """An environment variable's value: true/false, a whole number, text, or a list separated by commas."""
    kind = SETTINGS[name].kind
    if kind is bool:
        if text.lower() not in ("1", "0", "true", "false", "yes", "no"):
            raise UsageError(f"{place} = {text!r}; expected true or false")
        return text.lower() in ("1", "true", "yes")
    if kind is int:
        if not text.isdecimal() or len(text) > 18:
            raise UsageError(f"{place} = {text!r}; expected a whole number")
        return int(text)
    if kind is list:
        return [item.strip() for item in text.split(",") if item.strip()]
    return text
