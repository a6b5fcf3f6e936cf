"""Which devnet, and with it which node, gateway and dev keys, a command means.

    node      --rpc, else --devnet, else QUORIX_RPC, else `rpc` of config.toml, else the devnet's, else port 9900
    devnet    --devnet, else QUORIX_DEVNET, else `devnet` of config.toml, else the one of this home that runs

Where several run and nothing says which, that is an error that lists them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.errors import NotFound, UsageError
from tools.devnet.layout import DEFAULT_BASE, Layout, Ports, all_devnets, home_directory, supervisor_pid
from tools.settings import COMMANDS, gather

if TYPE_CHECKING:
    from tools.cli.main import Settings

DEFAULT_NAME = "default"
DEFAULT_RPC = f"http://127.0.0.1:{DEFAULT_BASE}"


def configured(settings: Settings, name: str, flag: str | None) -> str:
    """A setting of commands by its precedence; "" where nobody gave it. Raises UsageError for a wrong file."""
    from tools.node.config import SETTINGS

    values, _ = gather({name: COMMANDS[name]}, home_directory(settings.home), {name: flag}, also=[*COMMANDS, *SETTINGS])
    return str(values[name])


def rpc_url(settings: Settings) -> str:
    """Address of the node that is meant. Raises NotFound for a devnet that does not run, UsageError if several do."""
    given = configured(settings, "rpc", settings.rpc)
    if given and (settings.rpc or not settings.devnet):
        return given
    ports = running_ports(settings)
    return DEFAULT_RPC if ports is None else ports.url(ports.rpc(0))


def running_ports(settings: Settings) -> Ports | None:
    """Ports of the devnet that is meant; None if none is named and none runs. Raises as `rpc_url`."""
    layout = running_devnet(settings)
    return None if layout is None else Ports.load(layout)


def running_devnet(settings: Settings) -> Layout | None:
    """The devnet that is named, running or not, else the only one that runs."""
    home, name = home_directory(settings.home), configured(settings, "devnet", settings.devnet)
    if name:
        layout = Layout(home, name)
        if not layout.exists():
            others = ", ".join(each.name for each in all_devnets(home))
            hint = f"there are {others}" if others else "quorix devnet up"
            raise NotFound(f"there is no devnet {name!r} in {home}", hint=hint)
        return layout
    running = [layout for layout in all_devnets(home) if _is_running(layout)]
    if len(running) > 1:
        names = ", ".join(f"{layout.name} ({_rpc_of(layout)})" for layout in running)
        raise UsageError(f"{len(running)} devnets run here: {names}", hint="say which: --devnet NAME, or QUORIX_DEVNET=NAME")
    return running[0] if running else None


def devnet_of_keys(settings: Settings) -> Layout:
    """The devnet whose keys are meant: of the node that `--rpc` names, else as for nodes, else the default or only one."""
    layouts = list(all_devnets(home_directory(settings.home)))
    if not layouts:
        raise NotFound("there is no devnet whose keys could be derived", hint="quorix devnet up")
    if settings.rpc and not settings.devnet:
        for layout in layouts:
            if _is_running(layout) and settings.rpc.rstrip("/") in _all_rpc_of(layout):
                return layout
    chosen = running_devnet(settings)
    if chosen is not None:
        return chosen
    default = [layout for layout in layouts if layout.name == DEFAULT_NAME] or layouts
    if len(default) > 1:
        names = ", ".join(layout.name for layout in layouts)
        raise UsageError(f"none of the devnets {names} runs", hint="say whose keys are meant: --devnet NAME")
    return default[0]


def devnet_name(settings: Settings) -> str:
    """The devnet that a command about devnets acts on where it names none."""
    return configured(settings, "devnet", settings.devnet) or DEFAULT_NAME


def _is_running(layout: Layout) -> bool:
    return supervisor_pid(layout) is not None and (layout.run / "ports.json").exists()


def _rpc_of(layout: Layout) -> str:
    ports = Ports.load(layout)
    return ports.url(ports.rpc(0))


def _all_rpc_of(layout: Layout) -> list[str]:
    ports = Ports.load(layout)
    return [ports.url(ports.rpc(index)) for index in range(ports.nodes)]
