"""A node's home: making it, opening what is in it, and the rules about the sign database.

    chain/  sign/  node.key  session.key  peers.cbor  pool.cbor  spec.toml  config.toml  recovery/  incident/

`make_home` (`node init`) creates keys and databases once. `open_databases` (`node run`) opens them. A session key without
a sign database is refused, unless the home is new on a devnet, or the operator says `new_sign_db`: then the node listens
for another copy of the key before it signs (not with one authority, where the chain's own height is enough).
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from genesis.build import Genesis, build_genesis
from genesis.spec import ChainSpec, load_spec
from ledger.chain import Chain
from ledger.client.keys import read_key_file, write_key_file
from ledger.crypto import KeyPair
from ledger.errors import Corruption, NotFound, UsageError
from ledger.history import RETAINED_BLOCKS
from ledger.recovery import members_of, recovered_domains
from ledger.signer import NOTE_ROW, Domains, Signer, domain_at
from ledger.spec import ChainSpecParams
from ledger.store import LevelStore
from runtime.versions import NEWEST, VersionedRuntime

from .checkpoint import check_start, parse_checkpoint
from .config import NodeConfig
from .folders import make_database
from .recoveries import recoveries_of, unkept
from .rewinds import rewinds_of, unkept_rewinds

_DAMAGED_GUARD: Final = "move sign/ away, keep it, and start with --new-sign-db once no other copy of this key runs"

MAX_POOL_BYTES: Final = 32 << 20


@dataclass(frozen=True)
class Specification:
    """A chain's specification and what follows from it."""

    spec: ChainSpec
    genesis: Genesis

    @classmethod
    def load(cls, path: Path) -> Specification:
        spec = load_spec(path)
        return cls(spec, build_genesis(spec))

    def params(self, seal: str) -> ChainSpecParams:
        """What the ledger must know; `seal` overrides the specification's where one authority is alone."""
        params = self.genesis.params
        if seal and seal != params.seal:
            if len(self.spec.authorities) != 1:
                raise UsageError("another way of sealing than the specification's is possible with one authority only")
            params = replace(params, seal=seal)  # type: ignore[arg-type]
        return params


@dataclass
class Databases:
    """What a node has open. `watch_first`: the sign database is new although the key may not be."""

    chain: Chain
    chain_store: LevelStore
    domains: Domains
    node_key: KeyPair
    session_key: KeyPair | None
    signer: Signer | None
    sign_store: LevelStore | None
    watch_first: bool

    def close(self) -> None:
        """The sign database first."""
        if self.sign_store is not None:
            self.sign_store.close()
        self.chain.close()


def make_home(
    home: Path, specification: Specification, *, session_key: KeyPair | None = None, history: str = "full"
) -> None:
    """Create keys and databases of a new node. Raises UsageError if there is a chain database already."""
    if (home / "chain").exists():
        raise UsageError(f"{home} holds a node already", hint="choose another --home")
    _private(home)
    if not (home / "node.key").exists():
        write_key_file(home / "node.key", KeyPair.from_seed(secrets.token_bytes(32)), "node", password=None)
    if session_key is not None and not (home / "session.key").exists():
        write_key_file(home / "session.key", session_key, "session", password=None)
    _create(home, specification, specification.genesis.params, history)


def open_databases(config: NodeConfig, specification: Specification) -> Databases:
    """Open a node's databases; on a devnet, make them if the home has none. Raises the fault that is in the way."""
    try:
        return _open_databases(config, specification)
    except Corruption as error:
        if error.hint != Corruption.default_hint:
            raise
        in_sign = str(config.sign_path) in error.cause
        hint = _DAMAGED_GUARD if in_sign else f"quorix db repair --home {config.home}"
        raise Corruption(error.cause, hint=hint) from error


def _open_databases(config: NodeConfig, specification: Specification) -> Databases:
    params = specification.params(config.seal)
    fresh = not config.chain_path.exists() and not config.sign_path.exists()
    if fresh and params.devnet:
        _private(config.home)
        if not config.node_key_path.exists():
            write_key_file(config.node_key_path, KeyPair.from_seed(secrets.token_bytes(32)), "node", password=None)
        _create(config.home, specification, params, config.history)
    if not config.chain_path.exists() and not fresh:
        _create_chain(config.chain_path, specification, params, config.history)  # it was moved away: everything is synced again
    node_key = read_key_file(config.node_key_path)
    session_key = read_key_file(config.session_key_path) if config.session_key_path.exists() else None
    signer, sign_store, watch_first = None, None, False
    recoveries = recoveries_of(config.home, params.genesis_hash, config.recovery)
    domains = rewinds_of(config.home, params.genesis_hash, params.initial_height)
    if session_key is not None:
        signer, sign_store, watch_first = _open_signer(config, params, session_key)
        domains = signer.domains
    elif config.sign_path.exists():
        raise NotFound(
            f"{config.home} has a sign database but no session key: an authority would go on as a follower",
            hint=f"restore {config.session_key_path.name}, or move sign/ away if the node is only to follow",
        )
    domains = recovered_domains(domains, recoveries)
    try:
        chain_store = _open_chain_store(config)
    except BaseException:
        if sign_store is not None:
            sign_store.close()
        raise

    def domain_of(height: int) -> bytes:
        return domain_at(domains, height)

    try:
        newest = config.max_runtime_version or NEWEST
        machine = VersionedRuntime(params.genesis_hash, domain_of, members_of(recoveries), newest=newest)
        retain = _retained(config.history)
        chain = Chain.open(chain_store, params, machine, domain_at=domain_of, retain_blocks=retain, recoveries=recoveries)
        machine.require_next(chain.view(), chain.head.height + 1)
        check_start(chain, parse_checkpoint(config.checkpoint), time.time_ns() // 1_000_000)
        for path, data in unkept(config.home, recoveries):
            write_file(path, data)
        if signer is not None and signer.domains != domains:
            signer.rewind(domains)
        for path, data in unkept_rewinds(config.home, params.genesis_hash, domains):
            write_file(path, data)
        if signer is not None:
            signer.check_note(chain.extra_row(NOTE_ROW))
    except BaseException:
        chain_store.close()
        if sign_store is not None:
            sign_store.close()
        raise
    if signer is not None and chain.head.height >= params.initial_height:
        # A guard that has never guarded anything, on a chain that has long begun: it was made anew.
        watch_first = watch_first or not signer.has_guarded
    return Databases(chain, chain_store, domains, node_key, session_key, signer, sign_store, watch_first)


def _open_chain_store(config: NodeConfig) -> LevelStore:
    try:
        return LevelStore.open(config.chain_path, write_buffer_bytes=config.write_buffer_mib << 20)
    except NotFound:
        raise NotFound(
            f"there is no node at {config.home}", hint=f"quorix node init --home {config.home} --spec FILE"
        ) from None


def _open_signer(
    config: NodeConfig, params: ChainSpecParams, key: KeyPair
) -> tuple[Signer, LevelStore, bool]:
    """The guard over the sign database; a new one only where the operator says so."""
    watch = not config.sign_path.exists()
    if watch and not config.new_sign_db:
        raise NotFound(
            f"{config.home} has a session key but no sign database: it may have signed already",
            hint="restore sign/, or start with --new-sign-db once no other copy of this key runs",
        )
    if watch:
        _create_sign(config.sign_path, params, key)
    store = LevelStore.open(config.sign_path)
    try:
        return Signer.open(store, params.genesis_hash, key.public), store, watch
    except BaseException:
        store.close()
        raise


def _create(home: Path, specification: Specification, params: ChainSpecParams, history: str) -> None:
    """The sign database first: whoever finds a chain database finds the guard too."""
    session = home / "session.key"
    if session.exists():
        _create_sign(home / "sign", params, read_key_file(session))
    _create_chain(home / "chain", specification, params, history)


def _create_chain(path: Path, specification: Specification, params: ChainSpecParams, history: str) -> None:
    state, retain, machine = specification.genesis.state, _retained(history), VersionedRuntime(params.genesis_hash)
    make_database(path, lambda store: Chain.create(store, params, machine, state, retain_blocks=retain))


def _retained(history: str) -> int | None:
    """Past states that a node keeps; None: all."""
    return None if history == "archive" else RETAINED_BLOCKS


def _create_sign(path: Path, params: ChainSpecParams, key: KeyPair) -> None:
    make_database(path, lambda store: Signer.create(store, params.genesis_hash, key.public, params.initial_height))


def _private(home: Path) -> None:
    home.mkdir(mode=0o700, parents=True, exist_ok=True)


# --- files -------------------------------------------------------------------------------------------------------


def read_pool(path: Path) -> bytes:
    """The waiting transactions of the last run, empty if there are none; of a file too large the beginning. Raises OSError."""
    try:
        with open(path, "rb") as file:
            return file.read(MAX_POOL_BYTES)
    except FileNotFoundError:
        return b""


def write_file(path: Path, data: bytes, *, sync: Callable[[int], None] = os.fsync) -> None:
    """Replace a file as a whole; readable by this user only."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        sync(file.fileno())
    os.replace(draft, path)
