"""The versions of the rules in this program, and the one that counts for a block or a state.

    RULES             number -> package. The newest rules are `runtime` itself; older ones are frozen copies in
                      `runtime/frozen/vN`, whose bytes never change (`tools/ops/freeze.py`, `FROZEN.json`)
    rules             one version, with its modules, which are imported when they are first asked for
    VersionedRuntime  the `StateMachine` of a chain: each block is executed, and each state read, by the version that is in
                      force there. A block that needs one that this program lacks, or may not run, raises
                      UnknownRuntimeVersion: nothing is guessed

This module is the program's, not the rules': it is not frozen. It reads the two rows that are the same in all versions
(`modules/upgrades.py`).

Rules: UPG-4 unknown versions
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from ledger.blocks import Event, Extrinsic, Outcome
from ledger.errors import Rejected, UnknownRuntimeVersion
from ledger.machine import Admission, AuthoritySet, BlockContext, BlockResult, Objects, Standing, View

from .modules import upgrades
from .tables import ReadState

if TYPE_CHECKING:
    from .executor import Recovered, Runtime

RULES: Final[Mapping[int, str]] = {1: "frozen.v1", 2: ""}  # "": this package; else a package below it
NEWEST: Final = max(RULES)
FIRST: Final = 1  # of chains whose specification names none

assert NEWEST == upgrades.CURRENT and not RULES[NEWEST]


class Rules:
    """One version. All its calls, tables, events and errors are declared."""

    def __init__(self, version: int) -> None:
        if version not in RULES:
            raise unknown(version, sorted(RULES))
        self.version, self._package = version, RULES[version]
        self.module("executor")

    def module(self, name: str) -> Any:
        """A module of this version's package by its path there, for example "modules.accounts"."""
        return import_module(".".join(("", *filter(None, (self._package, name)))), __package__)

    @property
    def calls(self) -> Mapping[int, Any]:
        return self.module("registry").CALLS  # type: ignore[no-any-return]

    @property
    def events(self) -> Mapping[int, Any]:
        return self.module("registry").EVENTS  # type: ignore[no-any-return]

    @property
    def errors(self) -> Mapping[str, Any]:
        return self.module("registry").ERRORS  # type: ignore[no-any-return]

    @property
    def tables(self) -> Mapping[int, Any]:
        return self.module("tables").Table.registry  # type: ignore[no-any-return]


@cache
def rules(version: int = NEWEST) -> Rules:
    """One version of the rules. Raises UnknownRuntimeVersion."""
    return Rules(version)


def rules_of(state: ReadState) -> Rules:
    """The rules whose form a state has."""
    return rules(upgrades.state_version(state))


def unknown(version: int, known: Sequence[int], height: int | None = None) -> UnknownRuntimeVersion:
    """The error of a program that cannot go on because it lacks a version, or is told not to run it."""
    block = "the next block" if height is None else f"block {height}"
    if version in RULES:
        return UnknownRuntimeVersion(
            f"{block} needs runtime version {version}, and this node is held back at version {max(known, default=0)}",
            hint=f"remove max_runtime_version from its settings, or set it to {version}, and start it again", version=version,
        )
    return UnknownRuntimeVersion(
        f"{block} needs runtime version {version}, this program has {', '.join(map(str, known))}",
        hint=f"install a release of Quorix that has runtime version {version}, and start it again on the same home",
        version=version,
    )


class VersionedRuntime:
    """The rules of a chain through all its versions. `newest`: no later version is run, even if this program has it."""

    def __init__(
        self, genesis_hash: bytes, domain_at: Callable[[int], bytes] | None = None, recoveries: Recovered | None = None,
        *, newest: int = NEWEST,
    ) -> None:
        self.genesis_hash, self._domain_at, self._recoveries = genesis_hash, domain_at, recoveries
        self.known = tuple(version for version in sorted(RULES) if version <= newest)
        self._machines: dict[int, Runtime] = {}

    def at(self, version: int) -> Runtime:
        """The executor of one version. Raises UnknownRuntimeVersion."""
        machine = self._machines.get(version)
        if machine is None:
            if version not in self.known:
                raise unknown(version, self.known)
            made: Runtime = rules(version).module("executor").Runtime(self.genesis_hash, self._domain_at, self._recoveries)
            machine = self._machines[version] = made
        return machine

    def of(self, view: View) -> Runtime:
        """The executor of the version whose form a state has."""
        return self.at(upgrades.state_version(view))

    def require_next(self, view: View, height: int) -> None:
        """Raises UnknownRuntimeVersion if this node may not execute block `height`, the one after the state of `view`."""
        if (version := self.version_at(view)) not in self.known:
            raise unknown(version, self.known, height)

    # --- StateMachine, see there --------------------------------------------------------------------------------------

    def version_at(self, view: View) -> int:
        return upgrades.next_version(view)

    def authorities(self, view: View) -> AuthoritySet:
        return self.of(view).authorities(view)

    def admit(self, view: View, extrinsic: Extrinsic, height: int) -> Admission:
        return self.of(view).admit(view, extrinsic, height)

    def standing(self, view: View, account: bytes) -> Standing:
        return self.of(view).standing(view, account)

    def account_key(self, account: bytes) -> bytes:
        """The same in all versions: the chain keeps the ends of its linked lists there."""
        return self.at(self.known[-1]).account_key(account)

    def remembered(self, values: Iterable[tuple[bytes, bytes]]) -> Objects:
        """The newest rules' own; version 1 remembers nothing."""
        newest = self.at(self.known[-1])
        return newest.remembered(values) if hasattr(newest, "remembered") else {}

    def apply_block(
        self, view: View, context: BlockContext, inherents: Sequence[tuple[int, bytes]], extrinsics: Sequence[Extrinsic],
        left_out: dict[int, str] | None = None,
    ) -> BlockResult:
        return self.at(self.version_at(view)).apply_block(view, context, inherents, extrinsics, left_out)

    def block_inherents(
        self, view: View, context: BlockContext, candidates: Sequence[tuple[int, bytes]]
    ) -> list[tuple[int, bytes]]:
        return self.at(self.version_at(view)).block_inherents(view, context, candidates)

    # --- what nodes ask beside ----------------------------------------------------------------------------------------

    def birth_hash(self, view: View, height: int) -> bytes | None:
        return self.of(view).birth_hash(view, height)

    def heartbeat_is_due(self, view: View, key: bytes, height: int) -> bool:
        """True if the authority with this session key should tell block `height` that it is alive and what it can run."""
        return self.of(view).heartbeat_is_due(view, key, height, self.known)

    def dry_run(self, view: View, extrinsic: Extrinsic, height: int) -> tuple[Outcome, list[Event], Rejected | None]:
        outcome, events, *refusal = self.of(view).dry_run(view, extrinsic, height)
        return outcome, events, refusal[0] if refusal else None  # version 1 keeps the refusal to itself

    def audit(self, view: View, *, deep: bool = False) -> list[str]:
        return self.of(view).audit(view, deep=deep)

    def audits_itself(self, view: View) -> bool:
        return self.of(view).audits_itself(view)
