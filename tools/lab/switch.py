"""A network of its own for every node: network namespaces around one switch, which can be parted like a real one.

Linux only, and only for who may make namespaces (root). Each node lives in a namespace with one cable (veth) to the
switch, another namespace, where every side of a partition is a bridge. To part the net is to plug cables into other
bridges: packets vanish without a word, connections hang. Nothing outside these namespaces is touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Final

from ledger.errors import Error

MAX_NODES: Final = 200
NETWORK: Final = "10.213.7"  # exists inside the namespaces only
COMMAND_S: Final = 10.0
WHOLE: Final = "bridge0"  # where every cable is while nothing is parted


class Switch:
    """Cables of `count` nodes. `open` makes them, `close` removes all; a name carries the process, so runs do not meet."""

    def __init__(self, count: int) -> None:
        assert 0 < count <= MAX_NODES
        self.count = count
        self._name = f"quorix-{os.getpid()}"
        self._bridges = 1

    @staticmethod
    def available() -> bool:
        """True if this user on this machine can make such a network."""
        if shutil.which("ip") is None or os.name != "posix" or os.geteuid() != 0:
            return False
        try:
            with Switch(1):
                return True
        except Error:
            return False

    def __enter__(self) -> Switch:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def address(self, index: int) -> str:
        """IP address of a node."""
        return f"{NETWORK}.{index + 1}"

    def prefix(self, index: int) -> tuple[str, ...]:
        """Words before a command that is to run at this node; the process is the command's own."""
        return ("ip", "netns", "exec", self._node(index))

    def open(self) -> None:
        """Raises Error, with nothing left behind, if the machine refuses."""
        try:
            self._ip("netns", "add", self._name)
            self._inside("link", "add", WHOLE, "type", "bridge")
            self._inside("link", "set", WHOLE, "up")
            for index in range(self.count):
                self._connect(index)
        except Error:
            self.close()
            raise

    def _connect(self, index: int) -> None:
        node, cable = self._node(index), f"cable{index}"
        self._ip("netns", "add", node)
        self._inside("link", "add", cable, "type", "veth", "peer", "name", "net0")
        self._inside("link", "set", "net0", "netns", node)
        self._inside("link", "set", cable, "master", WHOLE, "up")
        self._ip("-n", node, "address", "add", f"{self.address(index)}/24", "dev", "net0")
        for device in ("lo", "net0"):
            self._ip("-n", node, "link", "set", device, "up")

    def part(self, groups: Sequence[Sequence[int]]) -> None:
        """One bridge for each group; a node that is in none is alone."""
        alone = [[index] for index in range(self.count) if not any(index in group for group in groups)]
        for number, group in enumerate([*groups, *alone]):
            if number == self._bridges:
                self._inside("link", "add", f"bridge{number}", "type", "bridge")
                self._inside("link", "set", f"bridge{number}", "up")
                self._bridges += 1
            for index in group:
                self._inside("link", "set", f"cable{index}", "master", f"bridge{number}")

    def close(self) -> None:
        """Remove the namespaces; cables and bridges go with them."""
        known = {line.split()[0] for line in self._ip("netns", "list").splitlines() if line}
        for name in (*(self._node(index) for index in range(self.count)), self._name):
            if name in known:
                self._ip("netns", "delete", name)

    def _node(self, index: int) -> str:
        return f"{self._name}-{index}"

    def _inside(self, *words: str) -> str:
        return self._ip("-n", self._name, *words)

    def _ip(self, *words: str) -> str:
        try:
            done = subprocess.run(["ip", *words], capture_output=True, text=True, timeout=COMMAND_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Error(f"ip {' '.join(words)}: {error}") from error
        if done.returncode:
            raise Error(f"ip {' '.join(words)}: {done.stderr.strip()[:300]}")
        return done.stdout
