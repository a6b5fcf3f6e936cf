"""The files of a devnet before its processes start: specification, cast, key files, configuration of the AI host."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from genesis.cast import Member, cast, devnet_spec
from genesis.spec import format_spec
from ledger.client.keys import DevKeys, encode_address, read_key_file, write_key_file
from ledger.crypto import KeyPair
from ledger.errors import Error
from p2p.addresses import Address, peer_id_of

from .layout import Layout, Ports
from .plan import CABAL_VALIDATOR, DevnetPlan, write_atomic


def make(layout: Layout, plan: DevnetPlan) -> None:
    """Write everything a new devnet needs. Safe to repeat, also with another seed after a first try was killed."""
    spec = devnet_spec(
        plan.seed, authorities=plan.nodes, instance=bytes.fromhex(plan.instance), block_time_ms=plan.block_time_ms,
        name=f"quorix-dev-{plan.seed}", seal=plan.seal, genesis_time_ms=plan.genesis_time_ms,
    )
    write_atomic(layout.spec, format_spec(spec).encode())
    members = cast(plan.seed, plan.nodes)
    write_atomic(layout.cast, _cast_file(members).encode())
    keys = DevKeys(plan.seed)
    for index in range(plan.nodes):
        _key(layout.node(index) / "session.key", keys.session(index), "session")
        _key(layout.node(index) / "node.key", keys.key(f"//authority//{index}//node"), "node")
    for member in members:
        if member.hotkey is not None and member.role != "owner":
            _key(hotkey_path(layout, member), member.hotkey, "hotkey")
    plan.save(layout)  # last: its presence says that the devnet is whole


def _key(path: Path, key: KeyPair, kind: str) -> None:
    if path.exists() and not _holds(path, key):
        path.unlink()
    if not path.exists():
        write_key_file(path, key, kind, password=None, created=time.strftime("%Y-%m-%d"))


def _holds(path: Path, key: KeyPair) -> bool:
    try:
        return read_key_file(path).public == key.public
    except Error:
        return False


def hotkey_path(layout: Layout, member: Member) -> Path:
    """Where the process that plays a member finds its hotkey."""
    folder = {"validator": "validators", "neuron": "neurons"}.get(member.role)
    base = layout.root / folder / member.name if folder else layout.root / "gateway"
    return base / "hotkey.key"


def _cast_file(members: list[Member]) -> str:
    import tomli_w

    rows = [
        {"role": m.role, "name": m.name, "path": m.path, "address": encode_address(m.coldkey.public),
         "hotkey": encode_address(m.hotkey.public) if m.hotkey else "", "subnets": list(m.subnets)}
        for m in members
    ]
    return "# Everybody in this devnet. These keys are public: never use them elsewhere.\n" + tomli_w.dumps({"member": rows})


def node_address(layout: Layout, ports: Ports, index: int) -> str:
    """Multiaddress of a node of the devnet."""
    seed = read_key_file(layout.node(index) / "node.key").seed
    return str(Address("ip4", ports.host, ports.p2p(index), peer_id_of(seed)))


def ai_config(layout: Layout, plan: DevnetPlan, ports: Ports, cache: Path) -> Path:
    """Write the AI host's configuration; returns its path. It names key files and holds no secret itself."""
    rpcs = [ports.url(ports.rpc(i)) for i in range(plan.nodes)]
    members = {(m.role, m.name): m for m in cast(plan.seed, plan.nodes)}
    neurons = []
    for index, name in enumerate(plan.neurons):
        member = members["neuron", name]
        neurons.append({
            "name": name, "model": name, "netuids": list(member.subnets), "home": str(layout.root / "neurons" / name),
            "key_file": str(hotkey_path(layout, member)), "host": ports.host, "port": ports.neuron(index),
        })
    workers = []
    for (role, name), member in members.items():
        if role == "validator":
            favourites = plan.favourites if name == CABAL_VALIDATOR else {}
            config: dict[str, Any] = {
                "name": name, "rpc": rpcs[int(name) % len(rpcs)], "key": str(hotkey_path(layout, member)),
                "netuids": list(member.subnets), "home": str(layout.root / "validators" / name), "cache": str(cache),
            }
            chosen = {str(n): members["neuron", who].hotkey for n, who in favourites.items()}
            config["favourites"] = {n: key.public.hex() for n, key in chosen.items() if key is not None}
            workers.append({"name": f"validator-{name}", "entry": "ai.judge.validator:run", "config": config})
    shared = {"rpc": rpcs, "cache": str(cache), "recipe": plan.ai, "train_seed": plan.seed}
    value = {**shared, "neurons": neurons, "workers": workers}
    path = layout.run / "ai.json"
    write_atomic(path, json.dumps(value, indent=1).encode())
    return path


def cache_directory() -> Path:
    """QUORIX_CACHE, else the platform's cache directory; shared by all homes."""
    given = os.environ.get("QUORIX_CACHE")
    if given:
        return Path(given).expanduser().absolute()
    from platformdirs import user_cache_path

    return user_cache_path("quorix", appauthor=False)
