"""`quorix lab bitflips`: one flipped bit, or one lost or old file, in a node's home is noticed or does no harm; never silent.

A real node lives twice under load, so that its home has all that a home can have: tables and logs of both databases, keys,
specification, settings, waiting transactions. Then, on a copy each time, a random bit of a random file is flipped and the
home is opened as the node opens it, its whole database recomputed (`tools/lab/deep.py`), its guard and keys compared, and
the engine booted. Either a named error with its exit code stops that, or everything is what it was. The same for files that
are missing, cut in half, emptied, or from an older copy. For some of them the real command must end with that exit code.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Final

import click

from ledger.errors import Corruption, Error
from ledger.level_files import live_tables
from tools.lab import crash
from tools.lab.frame import Run, experiment

LIFE_S: Final = 1.2
RUN_PATIENCE_S: Final = 30.0
MAX_TROUBLE: Final = 20
SMALL_BYTES: Final = 2_000  # a file counts as at least so large when one is chosen
LEFT_OUT: Final = ("*.sock", "LOCK", "incident")
HARMLESS, DETECTED, DEEPER = "harmless", "detected", "detected by the deep check"
SETTINGS: Final = b'log = "info"\nrpc_port = 9900\nrpc_names = ["node.example"]\n'


@experiment("bitflips", about="flipped bits, lost and old files in a home: noticed or harmless, never silent", seconds=150)
@click.option("--flips", type=click.IntRange(1), default=1_000, show_default=True, help="Number of flipped bits.")
@click.option("--seed", default=0, show_default=True, help="Other bits.")
@click.option("--runs", default=10, show_default=True, help="Damaged homes with which the real command is started.")
def bitflips(run: Run, flips: int, seed: int, runs: int) -> Any:
    """On the home of one authority that has lived under load."""
    return _bitflips(run, flips, seed, runs)


async def _bitflips(run: Run, flips: int, seed: int, runs: int) -> None:
    rng, tally = Random(f"bitflips {seed}"), Tally()
    with tempfile.TemporaryDirectory(prefix="quorix-flips-") as folder:
        place = Path(folder)
        home, older = place / "node", place / "older"
        crash.prepare(home)
        (home / "config.toml").write_bytes(SETTINGS)
        await _live(home)
        _copy(home, older)
        await _live(home)
        whole = look(_copy(home, place / "copy"))
        for damage in run.track([*flipped(home, rng, flips), *spoiled(home, older)], "damaged homes"):
            tally.add(damage, verdict(home, place / "copy", damage, whole))
        for damage in tally.chosen(rng, runs):
            tally.check_run(damage, await _run(home, place / "copy", damage, *tally.codes[damage]))
    _report(run, tally, flips, whole)


def _report(run: Run, tally: Tally, flips: int, whole: Found) -> None:
    run.equals("silent changes", len(tally.silent), 0, "homes")
    run.equals("errors without a name", len(tally.unnamed), 0, "homes")
    run.equals("runs that ended otherwise", len(tally.misled), 0, "runs")
    run.figure("flips", flips)
    run.figure("flips_detected", tally.flips[DETECTED] + tally.flips[DEEPER])
    run.figure("flips_detected_by_the_deep_check_only", tally.flips[DEEPER])
    run.figure("flips_harmless", tally.flips[HARMLESS])
    run.figure("runs", tally.runs)
    run.figure("height", whole.height)
    run.figure("errors", dict(sorted(tally.errors.items())))
    run.figure("trouble", [*tally.silent, *tally.unnamed, *tally.misled][:MAX_TROUBLE])
    run.figure("files", [
        {"file": kind, "flips": sum(row.values()), **{name: row[name] for name in (DETECTED, DEEPER, HARMLESS)}}
        for kind, row in sorted(tally.by_file.items())
    ])
    run.figure("other damage", tally.other)


# --- damage ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Damage:
    """What was done to one file. `data` None removes it; `bit` is set for flips."""

    path: str
    what: str
    data: bytes | None = field(default=None, repr=False)
    bit: int = -1

    @property
    def kind(self) -> str:
        """The file without its number: chain/*.ldb."""
        folder, _, name = self.path.rpartition("/")
        stem, dot, ending = name.partition(".")
        name = f"*.{ending}" if stem.isdecimal() else "MANIFEST" if name.startswith("MANIFEST-") else name
        return f"{folder}/{name}" if folder else name

    def __str__(self) -> str:
        return f"{self.path}, {self.what}"


def files(home: Path) -> list[str]:
    """Every file of a home, by its path in it; without tables that LevelDB will remove because they are superseded."""
    live = {folder / name for folder in (home / "chain", home / "sign") for name in live_tables(folder)}
    found = (path for path in sorted(home.rglob("*")) if path.is_file() and path.name != "LOCK")
    chosen = (path for path in found if "incident" not in path.parts and (path.suffix != ".ldb" or path in live))
    return [str(path.relative_to(home)) for path in chosen]


def flipped(home: Path, rng: Random, count: int) -> Iterator[Damage]:
    """Random bits: small files as likely as if they were larger, so that all are hit."""
    names = [name for name in files(home) if (home / name).stat().st_size]
    weights = [max(SMALL_BYTES, (home / name).stat().st_size) for name in names]
    for _ in range(count):
        (name,) = rng.choices(names, weights)
        data = bytearray((home / name).read_bytes())
        bit = rng.randrange(8 * len(data))
        data[bit >> 3] ^= 1 << (bit & 7)
        yield Damage(name, f"bit {bit} flipped", bytes(data), bit)


def spoiled(home: Path, older: Path) -> Iterator[Damage]:
    """Each file missing, cut in half, empty; and from the older copy, where that has it and it differs."""
    for name in files(home):
        data = (home / name).read_bytes()
        yield Damage(name, "missing")
        if data:
            yield Damage(name, "cut in half", data[: len(data) // 2])
            yield Damage(name, "empty", b"")
        before = older / name
        if before.is_file() and before.read_bytes() != data:
            yield Damage(name, "from an older copy", before.read_bytes())
    for folder in ("chain", "sign"):
        yield Damage(folder, "from an older copy")


def _damaged(home: Path, copy: Path, damage: Damage) -> Path:
    """A copy of the home with the damage."""
    _copy(home, copy)
    path = copy / damage.path
    if path.is_dir():
        shutil.rmtree(path)
        shutil.copytree(home.with_name("older") / damage.path, path)
    elif damage.data is None:
        path.unlink()
    else:
        path.write_bytes(damage.data)
    return copy


def _copy(home: Path, copy: Path) -> Path:
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return copy


# --- looking at it -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Found:
    """What a home says. Two that are equal would act alike."""

    height: int
    chain: bytes  # digest of everything in the chain database
    guard: int  # no height up to this one will be signed again
    keys: tuple[bytes, ...]
    waiting: bytes  # digest of the waiting transactions


def look(home: Path) -> Found:
    """Open a home as the node does, recompute its database, boot the engine. Raises the node's named errors."""
    from ledger.pool import read_dump
    from tools.lab.deep import deep_check
    from tools.node.config import load_config
    from tools.node.home import Specification, open_databases, read_pool

    config = load_config(home, environment={})
    databases = open_databases(config, Specification.load(config.spec))
    try:
        chain = databases.chain
        try:
            deep = deep_check(chain, databases.chain_store)
        except Corruption as error:
            raise Deeper(error.cause) from error
        waiting, trouble = read_dump(read_pool(config.pool_path)) if config.pool_path.exists() else ([], "it is missing")
        if trouble:
            raise Noticed(f"{config.pool_path.name}: {trouble}")
        _boot(databases)
        key = databases.session_key
        keys = (databases.node_key.public, *([key.public] if key is not None else []))
        record = databases.signer.load(deep.height + 1)[0] if databases.signer is not None else None
        guard = max(deep.height, record.height if record is not None else 0)
        return Found(deep.height, deep.digest, guard, keys, blake2b(b"".join(waiting)).digest())
    finally:
        databases.close()


class Deeper(Corruption):
    """Found by the deep check, not at the start."""


class Noticed(Error):
    """Not worth stopping for: the node says it in its log and goes on without."""

    name = "Noticed"
    exit_code = 0


class Stopped(Error):
    """The engine refuses to start."""

    name = "Stopped"

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.exit_code = code  # type: ignore[misc]


def _boot(databases: Any) -> None:
    """What the engine says when it starts on these databases. Raises Stopped."""
    from ledger.effects import Boot, Now, Stop, Tip
    from ledger.engine import Engine

    chain, signer, key = databases.chain, databases.signer, databases.session_key
    head, params = chain.head, chain.params
    header, certificate = None, None
    if head.height > params.genesis_height:
        header, certificate = chain.header(head.height), chain.certificate(head.height)
    signing = (None, None) if key is None else (key.public, key.sign)
    engine = Engine(params, databases.domains, *signing)
    saved, bodies = signer.load(head.height + 1) if signer is not None else (None, ())
    tip = Tip(head.height, head.hash, head.timestamp_ms, chain.authorities(), header, certificate)
    for effect in engine.handle(Boot(tip, saved, bodies), Now(1, head.timestamp_ms + 1000)):
        if isinstance(effect, Stop):
            raise Stopped(effect.code, effect.reason)


def verdict(home: Path, copy: Path, damage: Damage, whole: Found) -> tuple[str, str, int]:
    """(harmless, detected, deeper, silent or unnamed; the error or what differs; exit code)."""
    try:
        found = look(_damaged(home, copy, damage))
    except Deeper as error:
        return DEEPER, f"{error.name}: {error.cause}", error.exit_code
    except Error as error:
        return DETECTED, f"{error.name}: {error.cause}", error.exit_code
    except Exception as error:
        return "unnamed", f"{type(error).__name__}: {error}", 70
    if found == whole:
        return HARMLESS, "", 0
    differs = [name for name in vars(whole) if getattr(found, name) != getattr(whole, name)]
    return "silent", "differs in " + ", ".join(differs), 0


@dataclass
class Tally:
    """Verdicts, counted."""

    flips: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    by_file: dict[str, Counter[str]] = field(default_factory=dict)
    other: list[dict[str, Any]] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)
    misled: list[str] = field(default_factory=list)
    codes: dict[Damage, tuple[str, int]] = field(default_factory=dict)
    runs: int = 0

    def add(self, damage: Damage, judged: tuple[str, str, int]) -> None:
        kind, what, code = judged
        if kind in ("silent", "unnamed"):
            getattr(self, kind).append(f"{damage}: {what}")
        if kind in (DETECTED, DEEPER):
            self.errors[what.partition(":")[0]] += 1
        if damage.bit >= 0:
            self.flips[kind] += 1
            self.by_file.setdefault(damage.kind, Counter())[kind] += 1
        else:
            self.other.append({"file": damage.path, "damage": damage.what, "verdict": kind, "error": what[:60]})
        if kind in (DETECTED, DEEPER, HARMLESS):
            self.codes[damage] = (kind, code)

    def chosen(self, rng: Random, count: int) -> list[Damage]:
        """Damaged homes to start for real: one of each kind and exit code first."""
        some = {verdict: damage for damage, verdict in self.codes.items()}
        others = rng.sample(list(self.codes), min(count, len(self.codes)))
        return [*some.values(), *(damage for damage in others if damage not in some.values())][:count]

    def check_run(self, damage: Damage, ended: tuple[int | None, str]) -> None:
        """`ended`: exit code (None: it ran) and what it said."""
        self.runs += 1
        code, said = ended
        _, wanted = self.codes[damage]
        if (code or 0) != wanted or "Traceback" in said:
            self.misled.append(f"{damage}: exit code {code}, expected {wanted}: {said[-200:]}")


# --- real nodes --------------------------------------------------------------------------------------------------


async def _live(home: Path) -> None:
    """A node under load for a while, stopped in order."""
    from ledger.client.remote import RemoteChain

    tally = crash.Tally()
    async with crash.alive(home) as node, RemoteChain(node.url, timeout_s=crash.PATIENCE_S) as api:
        load = asyncio.ensure_future(crash.load(tally, api, Random(1)))
        await asyncio.sleep(LIFE_S)
        node.process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(node.process.wait, RUN_PATIENCE_S)
        load.cancel()
        await asyncio.gather(load, return_exceptions=True)


async def _run(home: Path, copy: Path, damage: Damage, kind: str, code: int) -> tuple[int | None, str]:
    """The real command with a damaged home: its exit code, None if a node goes on; and what it said.

    `quorix node run`, or `quorix db check --deep` for what only that finds.
    """
    _damaged(home, copy, damage)
    words = ["node", "run", "--home", str(copy), "--rpc-port", "0", "--p2p", "off", "--log", "error", "--follow-stdin"]
    if kind == DEEPER:
        words = ["db", "check", "--deep", "--home", str(copy)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.cli.main", *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    with process.stdin, process.stdout, process.stderr:
        ran = False
        try:
            ran = await asyncio.wait_for(asyncio.to_thread(_started, process.stdout), RUN_PATIENCE_S)
            if not ran or code:  # a fault may come right after the start
                await asyncio.to_thread(process.wait, RUN_PATIENCE_S)
                ran = False
        except (TimeoutError, subprocess.TimeoutExpired):
            ran = True
        finally:
            process.kill()
            said = process.stderr.read().decode(errors="replace")
            ended = process.wait()
    return (None if ran else ended), said


def _started(lines: Any) -> bool:
    """True when the node has started consensus, False when it ended."""
    return any(b'"started"' in line for line in lines)
