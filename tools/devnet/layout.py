"""Where a devnet keeps its files, and which ports it uses.

    HOME/devnets/NAME/
        spec.toml  cast.toml  plan.toml       what the chain is, who plays, how it was started
        run/{lock,ports.json,processes.json}  only while it runs; admin sockets lie here too
        logs/*.jsonl                          one file a process
        nodes/I/  neurons/NAME/  validators/NAME/  gateway/

    ports (loopback): RPC BASE+0..19 · p2p BASE+20..39 · explorer BASE+40 · gateway BASE+41
                      the supervisor BASE+49 · neurons BASE+50..99
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import NotFound, UsageError

DEFAULT_BASE = 9900
PORT_BLOCK = 100
MAX_BASE = 65_000
MAX_NODES = 20
MAX_NEURONS = 50
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def home_directory(flag: str | None = None) -> Path:
    """`--home`, else QUORIX_HOME, else the platform's data directory."""
    given = flag or os.environ.get("QUORIX_HOME")
    if given:
        return Path(given).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("quorix", appauthor=False)


@dataclass(frozen=True)
class Layout:
    """Paths of one devnet."""

    home: Path
    name: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UsageError(f"{self.name!r} is no devnet name", hint="at most 32 of a-z, 0-9 and -")

    @property
    def root(self) -> Path:
        return self.home / "devnets" / self.name

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def spec(self) -> Path:
        return self.root / "spec.toml"

    @property
    def plan(self) -> Path:
        return self.root / "plan.toml"

    @property
    def cast(self) -> Path:
        return self.root / "cast.toml"

    def last_base(self) -> int:
        """First port of the last run, where the next one is looked for; the default's before the first."""
        try:
            return int((self.root / "base").read_text())
        except (OSError, ValueError):
            return DEFAULT_BASE

    def keep_base(self, base: int) -> None:
        (self.root / "base").write_text(f"{base}\n")

    @property
    def lock(self) -> Path:
        return self.run / "lock"

    def node(self, index: int) -> Path:
        return self.root / "nodes" / str(index)

    def exists(self) -> bool:
        return self.plan.exists()


def all_devnets(home: Path) -> Iterator[Layout]:
    """Every devnet of a home, by name."""
    folder = home / "devnets"
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if _NAME.fullmatch(path.name) and (path / "plan.toml").exists():
                yield Layout(home, path.name)


def supervisor_pid(layout: Layout) -> int | None:
    """Process that holds the devnet's lock, or None."""
    import fcntl

    try:
        with layout.lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except OSError:
                return int(file.read().strip() or 0) or None
    except (OSError, ValueError):
        return None


@dataclass(frozen=True)
class Ports:
    """The block of ports of a running devnet."""

    base: int
    nodes: int
    host: str = "127.0.0.1"

    def rpc(self, index: int) -> int:
        return self.base + index

    def p2p(self, index: int) -> int:
        return self.base + 20 + index

    @property
    def explorer(self) -> int:
        return self.base + 40

    @property
    def gateway(self) -> int:
        return self.base + 41

    @property
    def claim(self) -> int:
        """Held by the supervisor: the block is taken."""
        return self.base + 49

    def neuron(self, index: int) -> int:
        return self.base + 50 + index

    def url(self, port: int) -> str:
        return f"http://{self.host}:{port}"

    def to_json(self) -> dict[str, object]:
        return {
            "base": self.base, "nodes": self.nodes, "host": self.host,
            "rpc": [self.url(self.rpc(i)) for i in range(self.nodes)],
            "explorer": self.url(self.explorer), "gateway": self.url(self.gateway) + "/v1",
        }

    @classmethod
    def load(cls, layout: Layout) -> Ports:
        """Ports of a running devnet; NotFound if it does not run."""
        try:
            value = json.loads((layout.run / "ports.json").read_text())
            return cls(value["base"], value["nodes"], value["host"])
        except (OSError, ValueError, KeyError):
            raise NotFound(f"devnet {layout.name!r} is not running", hint=f"quorix devnet up {layout.name}") from None


def claim_ports(base: str, nodes: int, neurons: int, host: str) -> tuple[Ports, socket.socket]:
    """A free block: the one asked for, or with "auto" the first free block of 100 from the default on.

    The claim is a listening socket on a port of the block that nothing else uses: while it is open, a devnet that starts
    at the same moment does not take the block. Raises UsageError naming the taken port and the process that holds it.
    """
    if nodes > MAX_NODES or neurons > MAX_NEURONS:
        raise UsageError(f"at most {MAX_NODES} nodes and {MAX_NEURONS} neurons fit one block of ports")
    if base == "auto":
        for start in range(DEFAULT_BASE, MAX_BASE, PORT_BLOCK):
            ports = Ports(start, nodes, host)
            claim = _claim(ports)
            if claim is None:
                continue
            if _first_taken(ports, neurons) is None:
                return ports, claim
            claim.close()
        raise UsageError("no free block of 100 ports")
    if not base.isdecimal() or not 1024 <= int(base) <= MAX_BASE:
        raise UsageError(f"{base!r} is no port base", hint=f"a number from 1024 to {MAX_BASE}, or auto")
    ports = Ports(int(base), nodes, host)
    claim = _claim(ports)
    taken = ports.claim if claim is None else _first_taken(ports, neurons)
    if claim is not None and taken is None:
        return ports, claim
    if claim is not None:
        claim.close()
    port = ports.claim if taken is None else taken
    raise UsageError(f"port {port} is taken{_holder(port)}", hint="stop that, or use --port auto or another base")


def _claim(ports: Ports) -> socket.socket | None:
    claim = socket.socket()
    try:
        claim.bind((ports.host, ports.claim))
        claim.listen(0)
    except OSError:
        claim.close()
        return None
    return claim


def _first_taken(ports: Ports, neurons: int) -> int | None:
    wanted = [ports.rpc(i) for i in range(ports.nodes)] + [ports.p2p(i) for i in range(ports.nodes)]
    wanted += [ports.explorer, ports.gateway] + [ports.neuron(i) for i in range(neurons)]
    for port in wanted:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((ports.host, port))
            except OSError:
                return port
    return None


def _holder(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN:
                name = psutil.Process(connection.pid).name() if connection.pid else "another user's process"
                return f" by process {connection.pid} ({name})" if connection.pid else f" by {name}"
    except psutil.Error:
        pass
    return ""
