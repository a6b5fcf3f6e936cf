"""The cast of a devnet: who plays which part, with keys that everybody knows.

    authorities 0..3          make blocks
    validators 0..2           judge the neurons of both subnets, with equal stake and a root seat each
    neurons                   subnet 1 prose: code, english, uniname, log, generalist
                              subnet 2 records: arith, json, csv, dna, generalist (one process, two registrations)
    gateway                   asks on behalf of users; registered in both subnets, so that its receipts go on chain
    owner                     owns both subnets, and is the sudo key

Keys come from the devnet's seed: coldkey //role//name, hotkey //role//name//hot, session key //authority//0//session.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ledger.client.keys import DevKeys
from ledger.crypto import KeyPair

from .spec import AccountSpec, AuthoritySpec, ChainSpec, format_spec, parse_spec, preset_text

PROSE: Final = 1
RECORDS: Final = 2
SUBNET_NAMES: Final = {PROSE: "prose", RECORDS: "records"}

NEURONS: Final[dict[str, tuple[int, ...]]] = {
    "code": (PROSE,), "english": (PROSE,), "uniname": (PROSE,), "log": (PROSE,), "generalist": (PROSE, RECORDS),
    "arith": (RECORDS,), "json": (RECORDS,), "csv": (RECORDS,), "dna": (RECORDS,),
}
VALIDATORS: Final = 3
AUTHORITIES: Final = 4
FREE_RAO: Final = 1_000 * 10**9


@dataclass(frozen=True)
class Member:
    """One account of the cast. `path` leads to its coldkey; `hotkey` at path//hot, `session` at path//session."""

    role: str  # "authority", "validator", "neuron", "gateway" or "owner"
    name: str
    path: str
    coldkey: KeyPair
    hotkey: KeyPair | None
    session: KeyPair | None
    subnets: tuple[int, ...]


def cast(seed: int, authorities: int = AUTHORITIES) -> list[Member]:
    """All members of a devnet's cast, in the order in which they are shown."""
    keys = DevKeys(seed)
    out = [_member(keys, "authority", str(index), session=True) for index in range(authorities)]
    out += [_member(keys, "validator", str(index), subnets=(PROSE, RECORDS)) for index in range(VALIDATORS)]
    out += [_member(keys, "neuron", name, subnets=subnets) for name, subnets in NEURONS.items()]
    out.append(_member(keys, "gateway", "0", subnets=(PROSE, RECORDS)))
    out.append(_member(keys, "owner", ""))
    return out


def _member(
    keys: DevKeys, role: str, name: str, *, subnets: tuple[int, ...] = (), session: bool = False
) -> Member:
    path = f"//{role}//{name}" if name else f"//{role}"
    return Member(
        role, name, path, keys.key(path), None if session else keys.key(f"{path}//hot"),
        keys.key(f"{path}//session") if session else None, subnets,
    )


def key_names(seed: int, authorities: int = AUTHORITIES) -> dict[bytes, str]:
    """Path of every public key of the cast."""
    return dict(_named_keys(cast(seed, authorities)))


def _named_keys(members: list[Member]) -> Iterator[tuple[bytes, str]]:
    for member in members:
        yield member.coldkey.public, member.path
        if member.hotkey is not None:
            yield member.hotkey.public, f"{member.path}//hot"
        if member.session is not None:
            yield member.session.public, f"{member.path}//session"


def devnet_spec(
    seed: int = 1, *, authorities: int = AUTHORITIES, instance: bytes = bytes(16), block_time_ms: int | None = None,
    name: str | None = None, seal: str | None = None, genesis_time_ms: int = 0,
) -> ChainSpec:
    """The devnet preset (with one authority: solo) for a seed, with its keys and the given changes.

    Raises UsageError if the changes do not fit together.
    """
    text = preset_text("solo" if authorities == 1 else "devnet")
    spec = parse_spec(text, name="the devnet preset", seed=seed)
    members = cast(seed, authorities)
    makers = [member for member in members if member.role == "authority"]
    changed = replace(
        spec, instance=instance, genesis_time_ms=genesis_time_ms,
        name=spec.name if name is None else name,
        block_time_ms=spec.block_time_ms if block_time_ms is None else block_time_ms,
        seal=spec.seal if seal is None else seal,  # type: ignore[arg-type]
        authorities=tuple(
            AuthoritySpec(member.session.public, member.coldkey.public) for member in makers if member.session is not None
        ),
        accounts=tuple(AccountSpec(member.coldkey.public, FREE_RAO) for member in members),
    )
    return parse_spec(format_spec(changed))


def neuron_names(spec: ChainSpec) -> dict[bytes, str]:
    """Name of each registered hotkey, as the specification gives it."""
    return {row.hotkey: row.name for row in spec.neurons if row.name}
