"""What the chain API says of the rules in force: calls, errors, tables, parameters, constants."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class CallRecord:
    number: int
    name: str
    args: list[list[str]]  # [name, type] in order
    origin: str
    work: int
    about: str
    priority: str = "normal"  # class in the pool and in a block: normal, weights or operational
    free: bool = False  # costs nothing within its rate limit


@dataclass(frozen=True)
class ErrorRecord:
    number: int
    name: str
    cause: str
    hint: str


@dataclass(frozen=True)
class TableRecord:
    """A table of the state. `value`: [name, type] of the fields of a record, or ["", type] of a plain value."""

    number: int
    name: str
    key: list[KeyPart]
    value: list[list[str]]
    holding: str  # which holding of money its rows are part of, or ""


@dataclass(frozen=True)
class KeyPart:
    name: str
    width: int  # bytes


@dataclass(frozen=True)
class ParamRecord:
    """A hyperparameter with its bounds, and those of a subnet's owner."""

    number: int
    name: str
    kind: str
    scope: str  # "subnet" or "global"
    who: str  # "owner", "root" or "genesis"
    default: int
    low: int
    high: int
    owner_low: int
    owner_high: int
    freeze: bool  # owners do not change it shortly before an epoch
    about: str


@dataclass(frozen=True)
class Metadata:
    """The rules of one version, described from their registries; `docs/spec/metadata.json` has those of this program."""

    runtime_version: int
    calls: list[CallRecord]
    events: dict[str, list[str]]  # name -> field names
    errors: list[ErrorRecord]
    tables: dict[str, int]  # state tables: name -> number
    table_rows: list[TableRecord] = field(default_factory=list)
    event_numbers: dict[str, int] = field(default_factory=dict)
    params: list[ParamRecord] = field(default_factory=list)
    constants: dict[str, int] = field(default_factory=dict)  # "module.NAME" -> value
    inherents: dict[str, int] = field(default_factory=dict)  # name -> kind
    invariants: list[str] = field(default_factory=list)
    proxies: dict[str, list[str]] = field(default_factory=dict)  # kind -> calls that it allows
