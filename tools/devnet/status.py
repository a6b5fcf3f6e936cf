"""What `devnet up` shows: once, who is who and where; then one line that lives, or one JSON line a block."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genesis.cast import FREE_RAO, Member
from ledger.client.keys import encode_address
from tools.cli.output import Output, format_amount

from .layout import Ports
from .plan import DevnetPlan

if TYPE_CHECKING:
    from rich.live import Live

    from ledger.client.records import NewHead, SubnetRecord

TRAINING_LINE_S = 5.0
KEYS_WARNING = "these keys are public: never use them elsewhere"


def banner(
    out: Output, plan: DevnetPlan, ports: Ports, members: list[Member], chain: str, version: str, full: bool, *,
    explorer: bool = True, fresh: bool = True,
) -> None:
    """The page printed once. Goes to stdout as text, or as one JSON object.

    Free balances are named where they are known without asking a node: when the devnet is `fresh`.
    """
    pace = f"blocks every {plan.block_time_ms / 1000:g} s" if plan.seal == "interval" else f"blocks {plan.seal}"
    addresses = ports.to_json()
    if out.json or not sys.stdout.isatty():
        rows = [
            {"role": m.role, "name": m.name, "address": encode_address(m.coldkey.public), "path": m.path,
             "subnets": list(m.subnets), **({"free_rao": FREE_RAO} if fresh else {})} for m in members
        ]
        out.line({
            "event": "devnet", "version": version, "devnet": plan.name, "chain": chain, "seed": plan.seed,
            "block_time_ms": plan.block_time_ms, "seal": plan.seal, **addresses, "accounts": rows, "warning": KEYS_WARNING,
        })
        return
    console = out.console()
    last = f" (..{ports.rpc(plan.nodes - 1)})" if plan.nodes > 1 else ""
    houses = f"{plan.nodes} {'authority' if plan.nodes == 1 else 'authorities'}"
    console.print(f"[bold]quorix {version}[/] · devnet {plan.name!r} · chain {chain} · seed {plan.seed} · {pace} · tempo 15")
    free = (format_amount(FREE_RAO),) if fresh else ()
    columns = ("role", "name", "subnets", "address", *(["free"] if fresh else []), "dev key")
    rows_text = [(m.role, m.name, " ".join(map(str, m.subnets)) or "-", _address(m, full), *free, m.path) for m in members]
    out.table("", columns, rows_text)
    console.print(f"[yellow]{KEYS_WARNING}[/]{'' if full else ' · whole addresses: --full'}")
    console.print(f"nodes     {houses} ({'a process each' if plan.processes else 'one process'})")
    console.print(f"rpc       {ports.url(ports.rpc(0))}{last}")
    if explorer:
        console.print(f"explorer  {ports.url(ports.explorer)}")
    words = ["subnet metagraph 1", "epoch explain 1 latest", "devnet check"]
    if plan.ai != "off":
        console.print(f"gateway   {ports.url(ports.gateway)}/v1")
        words.insert(0, 'ai query "import "')
    for index, word in enumerate(words):
        console.print(f"{'' if index else 'try':<10}{_program()} {word}")


def _program() -> str:
    """How this `quorix` is called from the present directory."""
    if shutil.which("quorix"):
        return "quorix"
    path = Path(sys.executable).with_name("quorix")
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _address(member: Member, full: bool) -> str:
    text = encode_address(member.coldkey.public)
    return text if full else f"{text[:6]}…{text[-3:]}"


@dataclass
class Tally:
    """What the children reported so far."""

    training: dict[str, float] = field(default_factory=dict)
    ready: set[str] = field(default_factory=set)
    answered: dict[str, int] = field(default_factory=dict)
    gateway_queries: int = 0
    earned_rao: dict[str, int] = field(default_factory=dict)
    trouble: str = ""

    def note(self, line: dict[str, Any]) -> None:
        """Take in one report of the AI host or the gateway."""
        event, name = line.get("event"), str(line.get("name", ""))
        if event == "training":
            self.training[str(line["model"])] = float(line["share"])
        elif event == "trained":
            self.training.pop(str(line["model"]), None)
        elif event == "ready":
            self.ready.add(name)
        elif event == "ended":
            self.ready.discard(name)
        elif event == "status":
            self.answered[name] = int(line.get("sessions", 0))
        elif event == "query":
            self.gateway_queries = int(line.get("served", 0))
        elif event in ("trouble", "crashed", "failed"):
            self.trouble = f"{name or line.get('validator', '')}: {line.get('error', event)} {line.get('cause', '')}".strip()

    @property
    def queries(self) -> int:
        return sum(self.answered.values())


class Status:
    """The live area on a terminal, or JSON lines elsewhere."""

    def __init__(self, out: Output, neurons: list[str], tally: Tally, *, seal: str = "interval") -> None:
        self.out, self.neurons, self.tally, self.seal = out, neurons, tally, seal
        self.tty = sys.stdout.isatty() and not out.json
        self.head: NewHead | None = None
        self.subnets: list[SubnetRecord] = []
        self._live: Live | None = None
        self._told = float("-inf")

    def __enter__(self) -> Status:
        if self.tty:
            from rich.live import Live

            self._live = Live("starting…", console=self.out.console(), refresh_per_second=4, transient=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str, **data: Any) -> None:
        """A remark above the live area; on a pipe, a JSON line."""
        if self._live is not None:
            self._live.console.print(text)
        elif not self.tty:
            self.out.line({"event": "remark", "text": text, **data})

    def block(self, head: NewHead, subnets: list[SubnetRecord]) -> None:
        """A new final block."""
        self.head, self.subnets = head, subnets
        if not self.tty:
            self.out.line({
                "event": "block", "height": head.header.height, "finality_ms": head.finality_ms, "extrinsics": head.extrinsics,
                "epoch_in": {str(s.netuid): s.blocks_left for s in subnets}, "queries": self.tally.queries,
                "gateway_queries": self.tally.gateway_queries,
                "top": [[name, str(rao)] for name, rao in self._top()],
            })
        self.draw()

    def draw(self) -> None:
        """Renew the live area; on a pipe, a line now and then about the training of models."""
        if self._live is None:
            if self.tally.training and not self.tty and time.monotonic() - self._told > TRAINING_LINE_S:
                self._told = time.monotonic()
                self.out.line({"event": "training", "models": dict(sorted(self.tally.training.items()))})
            return
        lines = [self._head_line()]
        missing = [n for n in self.neurons if n not in self.tally.ready]
        for model, share in sorted(self.tally.training.items()):
            filled = round(24 * share)
            lines.append(f"training {model:<11} {'█' * filled}{'░' * (24 - filled)} {share:>4.0%}")
        if missing:
            count = f"{len(self.neurons) - len(missing)} of {len(self.neurons)}"
            lines.append(f"neurons   {count} answer; waiting for {', '.join(missing)}")
        if self.tally.trouble:
            lines.append(f"note      {self.tally.trouble[:150]}")
        self._live.update("\n".join(lines))

    def _head_line(self) -> str:
        if self.head is None:
            wanted = {"instant": "; a transaction makes one", "manual": "; dev_seal makes one"}.get(self.seal, "")
            return f"waiting for the first block{wanted or '…'}"
        left = min((s.blocks_left for s in self.subnets), default=0)
        top = ", ".join(f"{name} {format_amount(rao, digits=2)}" for name, rao in self._top())
        parts = [
            f"#{self.head.header.height}", f"final {self.head.finality_ms} ms", f"{self.head.extrinsics} tx",
            f"epoch in {left} blocks", f"{self.tally.queries + self.tally.gateway_queries} queries",
        ]
        return " · ".join(parts) + (f" · top: {top}" if top else "")

    def _top(self) -> list[tuple[str, int]]:
        best = sorted(self.tally.earned_rao.items(), key=lambda item: (-item[1], item[0]))
        return [(name, rao) for name, rao in best[:3] if rao > 0]
