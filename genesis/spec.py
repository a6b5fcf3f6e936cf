"""Chain specifications: a TOML file becomes a ChainSpec, or a list of everything that is wrong with it.

All that the nodes of a chain must agree on is in its specification and nowhere else. Keys are addresses, 0x hex, or, on
devnets with a `seed`, paths such as "//validator//0//hot". A file that names no `runtime_version` means the first one, for
ever. Amounts are "1.5 Q", or whole rao as a number or "500 r".
Unknown keys are errors, with the nearest known one. `genesis.check` looks at what this file cannot see: references,
sums, parameters that do not fit together.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, get_args

from ledger.client.keys import DevKeys, decode_address, encode_address
from ledger.errors import NotFound, UsageError
from ledger.spec import Seal
from runtime import params
from runtime.versions import FIRST, NEWEST, RULES, rules

SPEC_VERSION: Final = 1
MAX_SPEC_BYTES: Final = 16 << 20
RAO_PER_Q: Final = 10**9
INSTANCE_BYTES: Final = 16
DEFAULT_PRICE_RAO: Final = RAO_PER_Q
MAX_ERRORS_SHOWN: Final = 50


@dataclass(frozen=True)
class AuthoritySpec:
    session: bytes  # session key
    account: bytes  # gets its tips


@dataclass(frozen=True)
class AccountSpec:
    key: bytes
    free_rao: int


@dataclass(frozen=True)
class SubnetSpec:
    netuid: int
    name: str
    owner: bytes
    owner_hotkey: bytes
    started: bool = True
    price_rao: int = DEFAULT_PRICE_RAO
    params: Mapping[str, params.Value] = field(default_factory=dict)


@dataclass(frozen=True)
class NeuronSpec:
    """A hotkey registered in genesis in some subnets (0 is a root seat), with the same stake and permit in each."""

    name: str  # for people; not in the state
    hotkey: bytes
    coldkey: bytes
    subnets: tuple[int, ...]
    stake_rao: int = 0
    permit: bool = False


@dataclass(frozen=True)
class ChainSpec:
    """A whole specification. `seed`: from it the keys of a devnet are derived; None where keys are secret."""

    name: str
    authorities: tuple[AuthoritySpec, ...]
    accounts: tuple[AccountSpec, ...] = ()
    subnets: tuple[SubnetSpec, ...] = ()
    neurons: tuple[NeuronSpec, ...] = ()
    globals: Mapping[str, params.Value] = field(default_factory=dict)
    root: Mapping[str, params.Value] = field(default_factory=dict)
    sudo: bytes | None = None
    instance: bytes = bytes(INSTANCE_BYTES)
    seed: int | None = None
    initial_height: int = 1
    genesis_time_ms: int = 0
    block_time_ms: int = 1000
    session_blocks: int = 1200
    max_block_bytes: int = 512 * 1024
    max_block_weight: int = 60_000
    seal: Seal = "interval"
    devnet: bool = False
    allow_private: bool = False
    runtime_version: int = NEWEST


def load_spec(path: Path) -> ChainSpec:
    """Read, parse and check a specification file.

    Raises NotFound where there is none, UsageError where it cannot be read, or with all its mistakes at once.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_SPEC_BYTES + 1)
    except FileNotFoundError:
        raise NotFound(f"there is no chain specification {path}") from None
    except PermissionError:
        raise UsageError(
            f"no permission to read the chain specification {path}", hint="give this user the file, or run as its owner"
        ) from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a chain specification", hint="name the TOML file") from None
    except OSError as error:
        raise UsageError(f"the chain specification {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_SPEC_BYTES:
        raise UsageError(f"{path} is larger than {MAX_SPEC_BYTES} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{path} is not UTF-8 text") from None
    return parse_spec(text, name=str(path))


def parse_spec(text: str, *, name: str = "the specification", seed: int | None = None) -> ChainSpec:
    """Parse and check a specification; `seed` replaces its own. Raises UsageError with all mistakes at once."""
    from .check import problems

    try:
        tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise UsageError(f"{name} is not TOML: {error}") from None
    if seed is not None and isinstance(tree.get("chain"), dict):
        tree["chain"]["seed"] = seed
    reader = _Reader()
    spec = _chain(reader, tree)
    if not reader.errors:
        reader.errors = problems(spec)
    if reader.errors:
        raise _mistakes(name, reader.errors)
    return spec


def _mistakes(name: str, errors: list[str]) -> UsageError:
    shown = "\n".join(f"  {error}" for error in errors[:MAX_ERRORS_SHOWN])
    more = f"\n  and {len(errors) - MAX_ERRORS_SHOWN} more" if len(errors) > MAX_ERRORS_SHOWN else ""
    count = "1 mistake" if len(errors) == 1 else f"{len(errors)} mistakes"
    return UsageError(f"{name} has {count}:\n{shown}{more}", errors=errors)


# --- the sections ------------------------------------------------------------------------------------------------


def _chain(reader: _Reader, tree: dict[str, Any]) -> ChainSpec:
    top = reader.table(tree, "", ("version", "chain", "global", "root", "authorities", "accounts", "subnets", "neurons"))
    if reader.take(top, "version", _whole(0, 1 << 16), SPEC_VERSION) != SPEC_VERSION:
        reader.errors.append(f"version: this program reads version {SPEC_VERSION}")
    chain = reader.table(top.get("chain", {}), "chain", _CHAIN_KEYS)
    if "chain" not in top:
        reader.errors.append("chain: this section is missing")
    values: dict[str, Any] = {"name": reader.take(chain, "name", _name, None, "chain"), "runtime_version": FIRST}
    for key, shape in _CHAIN_SHAPES.items():
        if key in chain:
            values[key] = reader.take(chain, key, shape, None, "chain")
    seed = values.get("seed")
    if seed is not None and not values.get("devnet"):
        reader.errors.append("chain.seed: only a devnet (devnet = true) has public keys")
    reader.dev_keys = DevKeys(seed) if seed is not None else None
    version = values["runtime_version"]
    reader.params = rules(version if version in RULES else NEWEST).module("params")
    if "sudo" in chain:
        values["sudo"] = reader.take(chain, "sudo", reader.key, None, "chain")
    values["globals"] = _params(reader, top.get("global", {}), "global", "global")
    values["root"] = _params(reader, top.get("root", {}), "root", "subnet")
    for section, parse in (
        ("authorities", _authority), ("accounts", _account), ("subnets", _subnet), ("neurons", _neuron),
    ):
        rows = reader.rows(top.get(section, []), section)
        values[section] = tuple(parse(reader, row, f"{section}[{index}]") for index, row in enumerate(rows))
    return ChainSpec(**values)


def _authority(reader: _Reader, row: Any, where: str) -> AuthoritySpec:
    table = reader.table(row, where, ("session", "account"))
    session = reader.take(table, "session", reader.key, None, where)
    return AuthoritySpec(session, reader.take(table, "account", reader.key, None, where))


def _account(reader: _Reader, row: Any, where: str) -> AccountSpec:
    table = reader.table(row, where, ("key", "free"))
    return AccountSpec(reader.take(table, "key", reader.key, None, where), reader.take(table, "free", _amount, None, where))


def _subnet(reader: _Reader, row: Any, where: str) -> SubnetSpec:
    table = reader.table(row, where, ("netuid", "name", "owner", "owner_hotkey", "started", "price", "params"))
    return SubnetSpec(
        netuid=reader.take(table, "netuid", _whole(1, (1 << 16) - 1), None, where),
        name=reader.take(table, "name", _name, None, where),
        owner=reader.take(table, "owner", reader.key, None, where),
        owner_hotkey=reader.take(table, "owner_hotkey", reader.key, None, where),
        started=reader.take(table, "started", _flag, True, where),
        price_rao=reader.take(table, "price", _amount, DEFAULT_PRICE_RAO, where),
        params=_params(reader, table.get("params", {}), f"{where}.params", "subnet"),
    )


def _neuron(reader: _Reader, row: Any, where: str) -> NeuronSpec:
    table = reader.table(row, where, ("name", "hotkey", "coldkey", "subnets", "stake", "permit"))
    return NeuronSpec(
        name=reader.take(table, "name", _name, "", where),
        hotkey=reader.take(table, "hotkey", reader.key, None, where),
        coldkey=reader.take(table, "coldkey", reader.key, None, where),
        subnets=reader.take(table, "subnets", _netuids, None, where),
        stake_rao=reader.take(table, "stake", _amount, 0, where),
        permit=reader.take(table, "permit", _flag, False, where),
    )


def _params(reader: _Reader, value: Any, where: str, scope: str) -> dict[str, params.Value]:
    params = reader.params
    known = tuple(name for name, param in params.PARAMS.items() if param.scope == scope)
    table, out = reader.table(value, where, known), {}
    for name, given in table.items():
        given = _maybe_amount(given, params.PARAMS[name].kind)
        problem = params.bounds_problem(params.PARAMS[name], given)
        if problem:
            reader.errors.append(f"{where}.{name}: {problem}")
        else:
            out[name] = given
    return out


def _maybe_amount(value: Any, kind: str) -> Any:
    """Parameters in rao may be written as amounts."""
    if kind == "rao" and isinstance(value, str):
        try:
            return _amount(value)
        except ValueError:
            return value
    return value


# --- reading with all errors at once -----------------------------------------------------------------------------


class _Reader:
    """Collects mistakes instead of stopping at the first; a mistaken value reads as a harmless stand-in."""

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.dev_keys: DevKeys | None = None
        self.params: Any = None  # the table of parameters of the version that the chain starts with

    def table(self, value: Any, where: str, known: tuple[str, ...]) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.errors.append(f"{where}: expected a table")
            return {}
        for key in value:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known[:12])}"
                self.errors.append(f"{where + '.' if where else ''}{key}: unknown key; {hint}")
        return {key: item for key, item in value.items() if key in known}

    def rows(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, list):
            self.errors.append(f"{where}: expected a list of tables, written [[{where}]]")
            return []
        return value

    def take(self, table: dict[str, Any], key: str, shape: Callable[[Any], Any], default: Any, where: str = "") -> Any:
        """The value under `key`; `default` if it is absent, an error if there is no default."""
        place = f"{where}.{key}" if where else key
        if key not in table:
            if default is None:
                self.errors.append(f"{place}: missing")
            return default
        try:
            return shape(table[key])
        except ValueError as error:
            self.errors.append(f"{place}: {error}")
            return default

    def key(self, value: Any) -> bytes:
        """A public key: address, 0x hex, or path of a devnet."""
        if not isinstance(value, str):
            raise ValueError("expected an address")
        if value.startswith("//"):
            keys = self.dev_keys
            if keys is None:
                raise ValueError(f"{value} is a devnet's key: it needs chain.devnet = true and chain.seed")
            return _or_value_error(lambda: keys.key(value).public)
        if re.fullmatch("0x[0-9a-fA-F]{64}", value):
            return bytes.fromhex(value[2:])
        return _or_value_error(lambda: decode_address(value))


def _or_value_error(compute: Callable[[], bytes]) -> bytes:
    try:
        return compute()
    except UsageError as error:
        raise ValueError(error.cause) from None


# --- shapes of values: return the value or raise ValueError with the reason ------------------------------------


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def shape(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"expected a whole number from {low} to {high}, not {value!r}")
        return value

    return shape


def _flag(value: Any) -> bool:
    if type(value) is not bool:
        raise ValueError(f"expected true or false, not {value!r}")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch("[A-Za-z0-9][A-Za-z0-9 ._-]{0,31}", value):
        raise ValueError(f"expected a name of at most 32 letters, digits, dots and dashes, not {value!r}")
    return value


def _seal(value: Any) -> str:
    if value not in get_args(Seal):
        raise ValueError(f"expected one of {', '.join(get_args(Seal))}, not {value!r}")
    return str(value)


def _instance(value: Any) -> bytes:
    if not isinstance(value, str) or not re.fullmatch(f"[0-9a-f]{{{2 * INSTANCE_BYTES}}}", value):
        raise ValueError(f"expected {2 * INSTANCE_BYTES} hex digits")
    return bytes.fromhex(value)


def _netuids(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or not all(type(item) is int and 0 <= item < 1 << 16 for item in value):
        raise ValueError("expected a list of netuids, for example [1, 2]")
    if len(set(value)) != len(value):
        raise ValueError("a netuid is listed twice")
    return tuple(value)


_AMOUNT = re.compile(r"([0-9][0-9_,]*)(?:\.([0-9]{1,9}))? ?(Q|r|rao)")


def _amount(value: Any) -> int:
    """Rao of "1.5 Q", "500 r" or a whole number."""
    if type(value) is int and 0 <= value < 1 << 64:
        return value
    match = _AMOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None or (match[2] and match[3] != "Q"):
        raise ValueError(f"expected an amount such as \"1.5 Q\" or 500, not {value!r}")
    whole = int(match[1].replace("_", "").replace(",", ""))
    rao = whole * RAO_PER_Q + int((match[2] or "").ljust(9, "0")) if match[3] == "Q" else whole
    if rao >= 1 << 64:
        raise ValueError(f"{value!r} is more than there can be")
    return rao


_CHAIN_SHAPES: Final[Mapping[str, Callable[[Any], Any]]] = {
    "initial_height": _whole(1, 1 << 48), "genesis_time_ms": _whole(0, 1 << 48), "block_time_ms": _whole(10, 600_000),
    "session_blocks": _whole(5, 1_000_000), "max_block_bytes": _whole(64 * 1024, 1 << 20),
    "max_block_weight": _whole(1000, 10**9), "seal": _seal, "devnet": _flag, "allow_private": _flag,
    "runtime_version": _whole(1, 1 << 16), "instance": _instance, "seed": _whole(0, (1 << 64) - 1),
}
_CHAIN_KEYS: Final = ("name", "sudo", *_CHAIN_SHAPES)


# --- writing -----------------------------------------------------------------------------------------------------


def format_spec(spec: ChainSpec, names: Mapping[bytes, str] | None = None) -> str:
    """TOML text that parses back to `spec`; keys are written as the path in `names`, else as addresses."""
    import tomli_w

    known = names if names is not None and spec.seed is not None else {}

    def key(public: bytes) -> str:
        return known.get(public) or encode_address(public)

    plain = ChainSpec(spec.name, (), runtime_version=FIRST)
    chain: dict[str, Any] = {"name": spec.name}
    for name in _CHAIN_SHAPES:
        value = getattr(spec, name)
        if value is not None and (value != getattr(plain, name) or name == "instance"):
            chain[name] = value.hex() if isinstance(value, bytes) else value
    if spec.sudo is not None:
        chain["sudo"] = key(spec.sudo)
    tree: dict[str, Any] = {
        "version": SPEC_VERSION, "chain": chain, "global": dict(spec.globals), "root": dict(spec.root),
        "authorities": [{"session": key(row.session), "account": key(row.account)} for row in spec.authorities],
        "accounts": [{"key": key(row.key), "free": row.free_rao} for row in spec.accounts],
        "subnets": [
            {
                "netuid": row.netuid, "name": row.name, "owner": key(row.owner), "owner_hotkey": key(row.owner_hotkey),
                "started": row.started, "price": row.price_rao, "params": dict(row.params),
            }
            for row in spec.subnets
        ],
        "neurons": [
            {
                **({"name": row.name} if row.name else {}), "hotkey": key(row.hotkey), "coldkey": key(row.coldkey),
                "subnets": list(row.subnets), "stake": row.stake_rao, "permit": row.permit,
            }
            for row in spec.neurons
        ],
    }
    return tomli_w.dumps(tree)


def preset_text(name: str) -> str:
    """Text of a shipped specification: devnet, solo or network."""
    path = Path(__file__).with_name("presets") / f"{name}.toml"
    if not re.fullmatch("[a-z]+", name) or not path.exists():
        raise NotFound(f"there is no preset {name!r}", hint="devnet, solo, network")
    return path.read_text()


def with_instance(spec: ChainSpec, instance: bytes) -> ChainSpec:
    """The same chain under another instance: same keys, other genesis hash, no signature of one counts in the other."""
    assert len(instance) == INSTANCE_BYTES
    return replace(spec, instance=instance)
