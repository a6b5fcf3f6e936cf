"""The guard over free disk space: below one limit a node proposes no blocks, below the other it stops before writes fail.

A full disk is no accident that a database should find out about: the node stops in time, with everything written, and
starts again where it was once there is space.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from ledger.errors import DiskFailure

CHECK_EVERY_S: Final = 10.0
LOW_BYTES: Final = 1 << 30  # below: no more blocks of our own
FULL_BYTES: Final = 256 << 20  # below: the node stops

Free = Callable[[Path], int]
Journal = Callable[..., None]


def free_bytes(folder: Path) -> int:
    """Free bytes of the disk on which the folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


class DiskGuard:
    """Watches the homes of a process's nodes. `journals`: one for each home."""

    def __init__(self, homes: Sequence[Path], journals: Sequence[Journal], free: Free = free_bytes) -> None:
        self._homes, self._journals, self._free = homes, journals, free
        self._low = [False] * len(homes)

    def may_build(self, index: int) -> bool:
        """Whether the node has room for blocks of its own."""
        return not self._low[index]

    def check(self) -> None:
        """Look at every disk once. Raises DiskFailure if one is nearly full."""
        for index, home in enumerate(self._homes):
            free = self._free(home)
            if free < FULL_BYTES:
                raise DiskFailure(
                    f"only {free >> 20} MiB are free at {home}; a node stops below {FULL_BYTES >> 20} MiB",
                    hint="free some space, then start again: nothing is lost",
                )
            if (free < LOW_BYTES) != self._low[index]:
                self._low[index] = free < LOW_BYTES
                details: dict[str, Any] = {"free_mib": free >> 20, "proposing": not self._low[index]}
                self._journals[index]("warning", "disk space", **details)

    async def watch(self) -> None:
        """Look now and then, for ever. Raises DiskFailure."""
        while True:
            self.check()
            await asyncio.sleep(CHECK_EVERY_S)
