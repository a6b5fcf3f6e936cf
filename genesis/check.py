"""What a specification must also fulfil: references, sums, and parameters that fit together.

`problems` are mistakes; a chain with one of them is refused. `warnings` are choices that an operator should know about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from ledger import votes
from ledger.crypto import is_valid_key
from runtime.params import ROOT_NETUID, Value
from runtime.versions import NEWEST, RULES, Rules, rules

from .build import empty_context
from .spec import ChainSpec

MAX_ACCOUNTS: Final = 1_000_000
ROOT_SEATS: Final = 64


def problems(spec: ChainSpec) -> list[str]:
    """Every mistake of a well-formed specification, as sentences that name the place."""
    return [
        *_authorities(spec), *_chain(spec), *_accounts(spec), *_subnets(spec), *_neurons(spec), *_supply(spec),
        *_parameters(spec),
    ]


def warnings(spec: ChainSpec) -> list[str]:
    """What works but may surprise."""
    count = len(spec.authorities)
    out = []
    if 1 < count < 4:
        out.append(f"{count} authorities tolerate 0 failures: if one stops, the chain stops")
    if not spec.devnet and spec.sudo is not None:
        out.append("a sudo key can change anything on this chain")
    for row in spec.subnets:
        if row.started and not any(row.netuid in n.subnets and n.permit and n.stake_rao for n in spec.neurons):
            out.append(f"subnet {row.netuid} has no validator with stake and permit: its first epochs pay nobody")
    return out


def _authorities(spec: ChainSpec) -> Iterable[str]:
    keys = [row.session for row in spec.authorities]
    if not keys:
        yield "authorities: at least one is needed"
    if len(keys) > votes.MAX_AUTHORITIES:
        yield f"authorities: {len(keys)}, at most {votes.MAX_AUTHORITIES} are allowed"
    for index, row in enumerate(spec.authorities):
        if not is_valid_key(row.session):
            yield f"authorities[{index}].session: not a valid ed25519 key"
    yield from _doubles(keys, "authorities", "session key")


def _chain(spec: ChainSpec) -> Iterable[str]:
    if spec.seal != "interval" and len(spec.authorities) != 1:
        yield f"chain.seal: {spec.seal} works with one authority only"
    if spec.sudo is not None and not is_valid_key(spec.sudo):
        yield "chain.sudo: not a valid ed25519 key"
    if spec.runtime_version not in RULES:
        yield f"chain.runtime_version: this program knows {', '.join(map(str, sorted(RULES)))}"


def _accounts(spec: ChainSpec) -> Iterable[str]:
    deposit = int(spec.globals.get("existential_deposit", _params(spec).PARAMS["existential_deposit"].default))
    if len(spec.accounts) > MAX_ACCOUNTS:
        yield f"accounts: {len(spec.accounts)}, at most {MAX_ACCOUNTS}"
    for index, row in enumerate(spec.accounts):
        if row.free_rao < deposit:
            yield f"accounts[{index}].free: {row.free_rao} rao is below the existential deposit of {deposit}"
    yield from _doubles([row.key for row in spec.accounts], "accounts", "key")


def _subnets(spec: ChainSpec) -> Iterable[str]:
    limit = int(spec.globals.get("subnet_limit", _params(spec).PARAMS["subnet_limit"].default))
    if len(spec.subnets) > limit:
        yield f"subnets: {len(spec.subnets)}, at most {limit} (subnet_limit)"
    for netuid, count in sorted(Counter(row.netuid for row in spec.subnets).items()):
        if count > 1:
            yield f"subnets: netuid {netuid} is used {count} times"
    for index, row in enumerate(spec.subnets):
        if not is_valid_key(row.owner_hotkey):
            yield f"subnets[{index}].owner_hotkey: not a valid ed25519 key"


def _neurons(spec: ChainSpec) -> Iterable[str]:
    known = {ROOT_NETUID, *(row.netuid for row in spec.subnets)}
    owners: dict[bytes, bytes] = {row.owner_hotkey: row.owner for row in spec.subnets}
    registered: set[tuple[int, bytes]] = set()
    for index, row in enumerate(spec.neurons):
        where = f"neurons[{index}]"
        if not is_valid_key(row.hotkey):
            yield f"{where}.hotkey: not a valid ed25519 key"
        if owners.setdefault(row.hotkey, row.coldkey) != row.coldkey:
            yield f"{where}.coldkey: the hotkey has another owner elsewhere in this file"
        for netuid in row.subnets:
            if netuid not in known:
                yield f"{where}.subnets: there is no subnet {netuid}"
            if (netuid, row.hotkey) in registered:
                yield f"{where}.subnets: the hotkey is registered twice in subnet {netuid}"
            registered.add((netuid, row.hotkey))
    yield from _room(spec)


def _room(spec: ChainSpec) -> Iterable[str]:
    rooms = {row.netuid: int(row.params.get("max_allowed_uids", 256)) for row in spec.subnets} | {ROOT_NETUID: ROOT_SEATS}
    counts = Counter(netuid for row in spec.neurons for netuid in row.subnets)
    for netuid, count in sorted(counts.items()):
        if count > rooms.get(netuid, count):
            yield f"neurons: {count} in subnet {netuid}, which has room for {rooms[netuid]}"


def _supply(spec: ChainSpec) -> Iterable[str]:
    cap = int(spec.globals.get("supply_cap", _params(spec).PARAMS["supply_cap"].default))
    total = sum(row.free_rao for row in spec.accounts) + sum(row.stake_rao * len(row.subnets) for row in spec.neurons)
    total += int(spec.globals.get("authority_bond_rao", 0)) * len({row.account for row in spec.authorities})
    if total > cap:
        yield f"accounts, bonds and stakes hold {total} rao, more than the supply cap of {cap}"


def _parameters(spec: ChainSpec) -> Iterable[str]:
    """The rules of `runtime.params.conflicts`, on a scratch state that holds nothing else."""
    for where, netuid, values in [("root", ROOT_NETUID, spec.root)] + [
        (f"subnets[{index}].params", row.netuid, row.params) for index, row in enumerate(spec.subnets)
    ]:
        for text in _conflicts(spec, netuid, values):
            yield f"{where}: {text}"


def _conflicts(spec: ChainSpec, netuid: int, values: Mapping[str, Value]) -> list[str]:
    context, params = empty_context(made=_rules(spec)), _params(spec)
    params.AUTHORITY_SET.put(context.state, value=[bytes([index]) * 32 for index in range(len(spec.authorities))])
    for name, value in values.items():
        params.SUBNET.put(context.state, netuid, params.PARAMS[name].number, value=int(value))
    conflicts: list[str] = params.conflicts(context.state, netuid)
    return conflicts


def _rules(spec: ChainSpec) -> Rules:
    """Of the first blocks; the newest where this program lacks those (`_chain` says so)."""
    return rules(spec.runtime_version if spec.runtime_version in RULES else NEWEST)


def _params(spec: ChainSpec) -> Any:
    return _rules(spec).module("params")


def _doubles(keys: list[bytes], section: str, what: str) -> Iterable[str]:
    first: dict[bytes, int] = {}
    for index, key in enumerate(keys):
        if first.setdefault(key, index) != index:
            yield f"{section}[{index}]: the same {what} as {section}[{first[key]}]"
