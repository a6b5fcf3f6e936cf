"""Settings of a node, and where each came from: flag > QUORIX_* > HOME/config.toml > default.

What all nodes of a chain must agree on is in its specification and never here. Each setting is declared once in
SETTINGS; its environment variable is QUORIX_ and its name in capitals. An unknown key in the file is an error that names
the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ledger.errors import UsageError
from tools.settings import COMMANDS, Setting, gather

MAX_PEERS: Final = 256
MAX_WRITE_BUFFER_MIB: Final = 512


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
    "history": Setting(str, "full", "full: the states of the last 256 blocks can be read; archive: those of all blocks"),
    "write_buffer_mib": Setting(int, 64, "memory for writes to the chain's database, twice that at most: more is faster"),
    "new_sign_db": Setting(bool, False, "make a sign database for a key that has none, and listen before signing"),
    "sign_from": Setting(int, 0, "sign from this height on: no other copy of the key has signed there"),
    "max_runtime_version": Setting(int, 0, "hold back: run no later version of the rules than this one; 0: all there are"),
    "recovery": Setting(str, "", "recovery file: an authority set in the place of a lost one"),
    "checkpoint": Setting(str, "", "HEIGHT:HASH of a block that is known to be final, for a node that was away for long"),
    "log": Setting(str, "info", "level of log entries, also by room: info,p2p=debug"),
}
_CHOICES: Final = {"p2p": ("auto", "on", "off"), "seal": ("", "interval", "instant", "manual"), "history": ("full", "archive")}
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
    history: str
    write_buffer_mib: int
    new_sign_db: bool
    sign_from: int
    max_runtime_version: int
    recovery: Path | None
    checkpoint: str
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
    values, origin = gather(SETTINGS, home, flags or {}, environment, also=COMMANDS)
    for name in _PORTS:
        if not 0 <= values[name] <= 65535:
            raise UsageError(f"{name} = {values[name]} is no port ({origin[name]})")
    for name, known in _CHOICES.items():
        if values[name] not in known:
            raise UsageError(f"{name} = {values[name]!r} ({origin[name]}); one of {', '.join(filter(None, known))}")
    if len(values["peers"]) > MAX_PEERS:
        raise UsageError(f"at most {MAX_PEERS} peers, {len(values['peers'])} given ({origin['peers']})")
    if not 1 <= values["write_buffer_mib"] <= MAX_WRITE_BUFFER_MIB:
        raise UsageError(
            f"write_buffer_mib = {values['write_buffer_mib']} ({origin['write_buffer_mib']}); 1 to {MAX_WRITE_BUFFER_MIB}"
        )
    if values["sign_from"] < 0:
        raise UsageError(f"sign_from = {values['sign_from']} is no height ({origin['sign_from']})")
    if values["max_runtime_version"] < 0:
        name, value = "max_runtime_version", values["max_runtime_version"]
        raise UsageError(f"{name} = {value} is no version ({origin[name]})")
    for name in ("rpc_names", "rpc_origins", "peers"):
        values[name] = tuple(values[name])
    values["spec"] = Path(values["spec"]) if values["spec"] else home / "spec.toml"
    values["admin_socket"] = Path(values["admin_socket"]) if values["admin_socket"] else home / "admin.sock"
    values["recovery"] = Path(values["recovery"]) if values["recovery"] else None
    return NodeConfig(home=home, origin=origin, **values)
