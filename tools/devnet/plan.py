"""What a devnet is: decided at its first `up`, kept in plan.toml, never changed afterwards but by `reset`.

The seed gives all keys, training seeds and probe seeds. `instance` makes two devnets of one seed different chains: 16
random bytes, zero with `--deterministic`.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ledger.errors import NotFound, UsageError

from .layout import Layout

CASTS = ("honest", "cabal")
AI_MODES = ("off", "tiny", "full")
TINY_NEURONS = ("code", "english", "arith", "json", "generalist")
CABAL_VALIDATOR = "2"
CABAL_FAVOURITES = {1: "uniname", 2: "dna"}
TINY_FAVOURITES = {1: "english", 2: "arith"}


@dataclass(frozen=True)
class DevnetPlan:
    """The choices that a chain cannot change later, and how it was last started."""

    name: str
    seed: int = 1
    nodes: int = 4
    processes: bool = False
    block_time_ms: int = 1000
    seal: str = "interval"
    cast: str = "honest"
    ai: str = "full"
    instance: str = ""
    genesis_time_ms: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.nodes <= 20:
            raise UsageError(f"{self.nodes} nodes: a devnet has 1 to 20")
        if not 0 <= self.seed < 1 << 64:
            raise UsageError(f"a seed is from 0 to 2^64 - 1, not {self.seed}")
        if self.seal != "interval" and self.nodes != 1:
            raise UsageError("instant and manual sealing need --nodes 1", hint="other authorities' timers would fire")
        if self.cast not in CASTS or self.ai not in AI_MODES:
            raise UsageError(f"cast is one of {', '.join(CASTS)}; ai one of {', '.join(AI_MODES)}")
        if not 100 <= self.block_time_ms <= 60_000:
            raise UsageError("the block time is from 100ms to 60s")

    @classmethod
    def load(cls, layout: Layout) -> DevnetPlan:
        try:
            value = tomllib.loads(layout.plan.read_text())
            return cls(**{f.name: value[f.name] for f in fields(cls)})
        except FileNotFoundError:
            raise NotFound(f"there is no devnet {layout.name!r}", hint=f"quorix devnet up {layout.name}") from None
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise UsageError(f"{layout.plan} is damaged: {error}", hint=f"quorix devnet reset {layout.name}") from None

    def save(self, layout: Layout) -> None:
        import tomli_w

        write_atomic(layout.plan, tomli_w.dumps(asdict(self)).encode())

    def changed(self, wanted: dict[str, Any]) -> list[str]:
        """Options given now that differ from what the devnet was made with."""
        return [name for name, value in wanted.items() if value is not None and getattr(self, name) != value]

    @property
    def neurons(self) -> list[str]:
        """Names of the neurons that are started."""
        from genesis.cast import NEURONS

        if self.ai == "off":
            return []
        return [name for name in NEURONS if self.ai == "full" or name in TINY_NEURONS]

    @property
    def favourites(self) -> dict[int, str]:
        """Whom the cabal's validator votes for, by subnet."""
        if self.cast != "cabal":
            return {}
        return CABAL_FAVOURITES if self.ai == "full" else TINY_FAVOURITES


def parse_block_time(text: str) -> tuple[int, str]:
    """`1s`, `250ms`, `instant` or `manual` -> (block_time_ms, seal)."""
    if text in ("instant", "manual"):
        return 1000, text
    for unit, factor in (("ms", 1), ("s", 1000)):
        number = text.removesuffix(unit)
        if number != text and number.replace(".", "", 1).isdecimal():
            return round(float(number) * factor), "interval"
    raise UsageError(f"{text!r} is no block time", hint="1s, 250ms, instant or manual")


def write_atomic(path: Path, data: bytes) -> None:
    """The whole file or nothing, durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
