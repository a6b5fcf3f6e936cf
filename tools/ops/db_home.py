"""A stopped node's databases, opened for the commands of `quorix db`; and what they all need.

The chain database is opened as the node left it: the way it keeps past states is not changed. The sign database is read
for its signing domains and closed again; only a rewind writes to it. While a command has the chain database open, no node
can start there: whoever comes second is told to wait (exit code 27).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from ledger.chain import Chain
from ledger.client.keys import read_key_file
from ledger.errors import Corruption, DiskFailure, Locked, NotFound, UsageError
from ledger.history import RETAINED_BLOCKS, archive_from
from ledger.recovery import Recoveries, members_of, recovered_domains
from ledger.signer import Domains, Signer, domain_at
from ledger.spec import ChainSpecParams
from ledger.store import LevelStore
from runtime.versions import VersionedRuntime
from tools.node.home import Specification
from tools.node.recoveries import recoveries_of
from tools.node.rewinds import rewinds_of

T = TypeVar("T")
SPARE_BYTES: Final = 64 << 20  # left free beside what a command writes
PLAN: Final = "plan.toml"  # in the folder of a devnet
WRITABLE_HINT: Final = "run the command as the folder's owner, or give this user the folder; nothing was changed"
Progress = Callable[[str, int, int], None]  # what, done, of


@dataclass(frozen=True)
class Guard:
    """What the sign database says: signing domains, and the height of the newest signed message (-1: none)."""

    domains: Domains
    signed_height: int


@dataclass
class StoppedNode:
    """A node's home with its chain open."""

    home: Path
    specification: Specification
    params: ChainSpecParams
    guard: Guard | None
    store: LevelStore
    chain: Chain

    @property
    def archive(self) -> bool:
        return archive_from(self.store) is not None

    @property
    def retain_blocks(self) -> int | None:
        return None if self.archive else RETAINED_BLOCKS

    @property
    def rewound(self) -> bool:
        """Some blocks were certified under another domain than the genesis hash."""
        return self.rewinds > 0

    @property
    def rewinds(self) -> int:
        """Those that still count: going further back takes the domains of later ones away."""
        return sum(domain != self.params.genesis_hash for _, domain in own_domains(self.home, self.guard, self.params))


def spec_path(home: Path, given: Path | None) -> Path:
    """The chain's specification: as given, in the home, or that of the devnet to which the home belongs."""
    places = [given] if given is not None else [home / "spec.toml", home.parent.parent / "spec.toml"]
    for place in places:
        if place.exists():
            return place
    raise NotFound(f"no specification at {places[0]}", hint="give the chain's specification with --spec FILE")


def repair_command(home: Path) -> str:
    return f"quorix db repair --home {home}"


@contextmanager
def faults_explained(home: Path) -> Iterator[None]:
    """Errors of the databases, each with the command that comes next."""
    try:
        yield
    except Locked as error:
        raise Locked(error.cause, hint=f"stop the node that runs there{_how(home)}, or wait for the other command") from error
    except Corruption as error:
        raise Corruption(error.cause, hint=repair_command(home)) from error


def _how(home: Path) -> str:
    """The command that stops a devnet's node."""
    root = home.absolute().parent.parent
    return f" (quorix devnet down {root.name})" if (root / PLAN).is_file() and home.parent.name == "nodes" else ""


@contextmanager
def folders_explained(home: Path) -> Iterator[None]:
    """What the system says while folders of a home are made, copied and renamed, as an error with the next step."""
    try:
        yield
    except OSError as error:
        raise DiskFailure(
            f"{error.filename or home}: {error.strerror or error}", hint="the chain database is as it was; see to the folder, "
            "its owner and its free space, then try again"
        ) from error


def need_writable(home: Path) -> None:
    """Raises DiskFailure where this user cannot change the home and its chain: nothing is wrong with the database then."""
    for folder in (home, home / "chain"):
        if folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            if os.statvfs(folder).f_flag & os.ST_RDONLY:
                raise DiskFailure(f"{folder}: the file system is read-only", hint="remount it; nothing was changed")
            raise DiskFailure(f"{folder}: this user may not write there", hint=WRITABLE_HINT)


def no_database(home: Path) -> NotFound:
    """The error for a folder that is no node's home."""
    inside = sorted(path.parent for path in home.glob("nodes/*/chain"))  # the folder of a devnet
    named = "; ".join(f"--home {path}" for path in inside[:4])
    return NotFound(
        f"there is no chain database in {home}", hint=named or "name a node's home with --home; see quorix db --help"
    )


def open_store(home: Path) -> LevelStore:
    """The chain database. Raises NotFound, Locked, Corruption or DiskFailure, with the next step."""
    with faults_explained(home):
        try:
            return LevelStore.open(home / "chain")
        except NotFound:
            raise no_database(home) from None


def read_guard(home: Path, params: ChainSpecParams) -> Guard | None:
    """What the sign database says; None if the home has no key or no sign database."""
    if not (home / "sign").exists() or not (home / "session.key").exists():
        return None
    key = read_key_file(home / "session.key")
    store = LevelStore.open(home / "sign")
    try:
        signer = Signer.open(store, params.genesis_hash, key.public)
        newest = [signer.load(height)[0] for height, _ in signer.domains]
        return Guard(signer.domains, max((record.height for record in newest if record is not None), default=-1))
    finally:
        store.close()


def own_domains(home: Path, guard: Guard | None, params: ChainSpecParams) -> Domains:
    """The signing domains that a home's sign database names; without one those of its file of rewinds."""
    return rewinds_of(home, params.genesis_hash, params.initial_height) if guard is None else guard.domains


def domains_of(home: Path, guard: Guard | None, params: ChainSpecParams, recoveries: Recoveries) -> Domains:
    """The signing domains of a home, with those of recovery files."""
    return recovered_domains(own_domains(home, guard, params), recoveries)


@contextmanager
def stopped_node(home: Path, spec: Path | None = None) -> Iterator[StoppedNode]:
    """Open a stopped node for a command; closed again whatever happens."""
    if not (home / "chain").exists():
        raise no_database(home)
    specification = Specification.load(spec_path(home, spec))
    params = specification.params("")
    store = open_store(home)
    try:
        guard = read_guard(home, params)
        with faults_explained(home):
            yield StoppedNode(home, specification, params, guard, store, open_chain(home, store, params, guard))
    finally:
        store.close()


def open_chain(home: Path, store: LevelStore, params: ChainSpecParams, guard: Guard | None) -> Chain:
    """The chain in an open database, with past states kept as they are and the home's recovery files."""
    recoveries = recoveries_of(home, params.genesis_hash, None)
    domains = domains_of(home, guard, params, recoveries)

    def domain(height: int) -> bytes:
        return domain_at(domains, height)

    retain = None if archive_from(store) is not None else RETAINED_BLOCKS
    machine = VersionedRuntime(params.genesis_hash, domain, members_of(recoveries))
    return Chain.open(store, params, machine, retain_blocks=retain, domain_at=domain, recoveries=recoveries)


def need_space(folder: Path, needed_bytes: int) -> None:
    """Raises DiskFailure before a command begins what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if free < needed_bytes + SPARE_BYTES:
        raise DiskFailure(
            f"{folder} has {free >> 20} MiB free, about {(needed_bytes + SPARE_BYTES) >> 20} MiB are needed",
            hint="free some space, or choose another disk; nothing was changed",
        )


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Where to write a file that appears under its name when it is complete and on the disk, or not at all."""
    if path.exists():
        raise UsageError(f"{path} exists", hint="choose another name, or remove it")
    if not path.absolute().parent.is_dir():
        raise NotFound(f"there is no folder {path.absolute().parent}", hint="make it, or choose another")
    draft = path.with_name(f".{path.name}.new")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.rename(draft, path)
    except OSError as error:
        raise DiskFailure(f"{path} cannot be written: {error.strerror}", hint="nothing is left of it") from error
    finally:
        draft.unlink(missing_ok=True)
