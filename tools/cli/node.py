"""`quorix node`: make, run and ask a node."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from ledger.client.records import UpgradeRecord
from ledger.errors import UsageError
from tools.cli.main import Noun, Settings
from tools.cli.output import Output
from tools.cli.recovery import group as recover_group
from tools.cli.session import run, signing_key

group = Noun("node", help="Make, run and ask a node.")
group.add_command(recover_group)

_FOLDER = click.Path(file_okay=False, path_type=Path)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@group.command("init")
@click.option("--home", "folder", type=_FOLDER, required=True, help="Where the node lives.")
@click.option("--spec", type=_FILE, default=None, help="The chain's specification.")
@click.option("--devnet", metavar="NAME", default=None, help="A devnet of this machine: its specification and its peers.")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR", help="/ip4/1.2.3.4/tcp/9920/p2p/ID; kept in config.toml.")
@click.option("--session-key", metavar="NAME", default=None, help="An authority's session key: key file or //path.")
@click.option("--history", type=click.Choice(["full", "archive"]), default=None, help="Kept in config.toml; see `node run`.")
@click.pass_context
def init_command(
    ctx: click.Context, folder: Path, spec: Path | None, devnet: str | None, peers: tuple[str, ...], session_key: str | None,
    history: str | None,
) -> None:
    """Make a new node: keys, databases, the chain's genesis."""
    import tomli_w

    from p2p.addresses import parse_address
    from tools.node.home import Specification, make_home, write_file

    for peer in peers:
        parse_address(peer)
    if (spec is None) == (devnet is None):
        raise UsageError("name the chain: give either --spec or --devnet")
    if devnet is not None:
        spec, peers = _of_devnet(ctx.obj, devnet, peers)
    assert spec is not None
    specification = Specification.load(spec)
    key = None if session_key is None else signing_key(ctx.obj, session_key)
    make_home(folder, specification, session_key=key, history=history or "full")
    write_file(folder / "spec.toml", spec.read_bytes())
    kept = ({"peers": list(peers)} if peers else {}) | ({"history": history} if history else {})
    if kept:
        write_file(folder / "config.toml", tomli_w.dumps(kept).encode())
    made = {
        "home": str(folder), "chain": specification.spec.name, "genesis_hash": specification.genesis.genesis_hash,
        "role": "authority" if key is not None else "full",
    }
    article = "an" if made["role"] == "authority" else "a"
    text = f"{article} {made['role']} node of {made['chain']} at {folder}\nstart it: quorix node run --home {folder}"
    out = Output(ctx.obj)
    out.data(made, text)
    if devnet is not None and len(peers) == 1:
        _remark_alone(out, spec.parent / "nodes" / "0")


def _remark_alone(out: Output, home: Path) -> None:
    """The node of a devnet of one listens for peers only if it is told to."""
    config = home / "config.toml"
    if not config.is_file() or 'p2p = "on"' not in config.read_text():
        out.remark(f"this devnet has one node, and it takes no peers: write p2p = \"on\" into {config} and start it again")


def _of_devnet(settings: Settings, name: str, peers: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """Specification of a running devnet, and the addresses of its nodes beside those given."""
    from tools.devnet.layout import Layout, Ports, home_directory
    from tools.devnet.prepare import node_address

    layout = Layout(home_directory(settings.home), name)
    ports = Ports.load(layout)
    return layout.spec, (*peers, *(node_address(layout, ports, index) for index in range(ports.nodes)))


@group.command("run")
@click.option("--home", "folders", type=_FOLDER, multiple=True, required=True, help="Home of a node; may be repeated.")
@click.option("--spec", type=_FILE, default=None, help="The chain's specification; default: HOME/spec.toml.")
@click.option("--rpc-host", default=None, help="Address of RPC (127.0.0.1).")
@click.option("--rpc-port", type=int, default=None, help="Port of RPC (9900), of the next node one more; 0: any free one.")
@click.option("--rpc-external", is_flag=True, default=None, help="Allow an RPC address that other machines can reach.")
@click.option("--rpc-name", "rpc_names", multiple=True, help="Further host name under which RPC may be called.")
@click.option("--rpc-origin", "rpc_origins", multiple=True, help="Web origin that may call RPC from a browser.")
@click.option("--admin-socket", type=click.Path(path_type=Path), default=None, help="Unix socket of dev_ and admin_ methods.")
@click.option("--p2p", type=click.Choice(["auto", "on", "off"]), default=None, help="Connect to peers.")
@click.option("--p2p-host", default=None, help="Address on which peers are accepted (127.0.0.1).")
@click.option("--p2p-port", type=int, default=None, help="Port for peers (9920), of the next node one more.")
@click.option("--peer", "peers", multiple=True, metavar="MULTIADDR", help="/ip4/1.2.3.4/tcp/9920/p2p/ID, dialled for ever.")
@click.option("--seal", type=click.Choice(["interval", "instant", "manual"]), default=None, help="With one authority only.")
@click.option("--history", type=click.Choice(["full", "archive"]), default=None, help="States of 256 blocks (full) or of all.")
@click.option("--new-sign-db", is_flag=True, default=None, help="The key has no sign database: make one and listen first.")
@click.option("--sign-from", type=int, default=None, metavar="HEIGHT", help="No other copy of the key signed from here on.")
@click.option("--max-runtime-version", type=int, default=None, metavar="N", help="Run no later rules than N; 0: no limit.")
@click.option("--recovery", type=_FILE, default=None, help="Recovery file: another authority set in the place of a lost one.")
@click.option("--checkpoint", default=None, metavar="HEIGHT:HASH", help="A block known to be final, after a long absence.")
@click.option("--log", default=None, metavar="LEVELS", help="info, or info,p2p=debug.")
@click.option("--follow-stdin", is_flag=True, help="End when standard input closes.")
@click.pass_context
def run_command(ctx: click.Context, /, folders: tuple[Path, ...], follow_stdin: bool, **flags: Any) -> None:
    """Run one or several nodes in this process until Ctrl-C.

    Reports of what happened go to standard output as JSON lines, logs to standard error.
    """
    from tools.node.config import load_config
    from tools.node.service import run_nodes

    flags = {name: str(value) if isinstance(value, Path) else value for name, value in flags.items()}
    configs = []
    for index, folder in enumerate(folders):
        own = dict(flags)
        for port in ("rpc_port", "p2p_port"):
            if own[port]:
                own[port] += index
        if index:
            own["admin_socket"] = None
        configs.append(load_config(folder.absolute(), own))
    if len({config.home for config in configs}) != len(configs):
        raise UsageError("the same --home is given twice")
    output = Output(ctx.obj)
    ctx.exit(run_nodes(configs, announce=lambda line: _announce(output, line), follow_stdin=follow_stdin))


def _announce(output: Output, line: dict[str, Any]) -> None:
    """A JSON line, or words for a person at a terminal."""
    if output.json or not sys.stdout.isatty():
        output.line(line)
        return
    words = {
        "rpc": lambda: "rpc answers at " + ", ".join(line["urls"]),
        "started": lambda: f"node {line['node']} ({line['role']}) runs from block {line['height']} on"
        + (f", peers reach it at {line['p2p'][0]}" if line["p2p"] else ""),
        "fault": lambda: f"node {line['node']} stopped: {line['cause']}\n  next: {line['hint'] or 'see ' + line['incident']}",
    }
    said = words.get(line["event"])
    output.remark(said() if said is not None else json.dumps(line))


@group.command("status")
@click.pass_context
def status_command(ctx: click.Context) -> None:
    """Height, peers, readiness and rules of the node at --rpc."""
    out = Output(ctx.obj)

    async def ask(api: Any) -> dict[str, Any]:
        return {
            "properties": await api.system_properties(), "health": await api.system_health(), "peers": await api.system_peers(),
            "upgrade": (await api.chain_get_upgrades()).value,
        }

    answer = run(ctx.obj, ask)
    health, properties = answer["health"], answer["properties"]

    def show() -> None:
        state = "ready" if health.ready else "not ready: " + "; ".join(health.blocking)
        rows = [
            ("chain", properties.chain), ("genesis", "0x" + properties.genesis_hash.hex()), ("role", health.role),
            ("height", health.height), ("head's age", f"{health.head_age_ms / 1000:.1f} s"), ("peers", health.peers),
            ("state", state), ("version", properties.node_version), *upgrade_rows(answer["upgrade"]),
        ]
        out.table("", ("", "node"), rows)

    out.data(answer, show)


def upgrade_rows(found: UpgradeRecord) -> list[tuple[str, str]]:
    """What a person wants to know of the versions of the rules: in force, in the program, scheduled, ready, to be done."""
    known = ", ".join(map(str, found.known_versions))
    rows = [("rules", f"version {found.runtime_version}; this node can run {known}")]
    if found.version is not None:
        later = f", postponed {found.postponed} times" if found.postponed else ""
        rows += [
            ("next rules", f"version {found.version} from block {found.height} on{later}"),
            ("ready", f"{len(found.ready)} of {found.authorities} authorities, {found.needed} are needed"),
        ]
    if found.warning:
        rows.append(("warning", found.warning))
    return rows
