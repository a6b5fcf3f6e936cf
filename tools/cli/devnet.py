"""`quorix devnet`: a whole market on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from ledger.errors import Error, Locked, NotFound, Timeout, UsageError
from tools.cli.main import Noun, Settings
from tools.cli.output import Output, format_amount
from tools.cli.target import devnet_name, running_devnet
from tools.devnet.layout import DEFAULT_BASE, Layout, Ports, all_devnets, home_directory, supervisor_pid
from tools.devnet.plan import AI_MODES, CASTS, DevnetPlan, parse_block_time

group = Noun("devnet", help="Run a whole market on this machine.")

DOWN_PATIENCE_S = 45.0
DETACH_PATIENCE_S = 900.0
NAME = click.argument("name", required=False)


def layout_of(settings: Settings, name: str | None) -> Layout:
    """The devnet of that name, else of `--devnet`, else the default one."""
    return Layout(home_directory(settings.home), name or devnet_name(settings))


def meant(settings: Settings, name: str | None) -> Layout:
    """The devnet of that name, else of `--devnet`, else the one that runs, else the default one."""
    return layout_of(settings, name) if name else running_devnet(settings) or layout_of(settings, None)


@group.command("up")
@NAME
@click.option("--nodes", type=int, help="Authorities (default 4).")
@click.option("--processes", is_flag=True, default=None, help="One OS process for each node.")
@click.option("--seed", type=int, help="Everything random follows from it (default 1).")
@click.option("--deterministic", is_flag=True, help="No random instance: the same genesis hash each time.")
@click.option("--block-time", metavar="TIME", help="1s, 250ms, or with one node instant or manual (default 1s).")
@click.option("--cast", type=click.Choice(CASTS), help="Who plays; cabal: a validator votes for its own miner.")
@click.option("--ai", type=click.Choice(AI_MODES), help="Neurons: none, small ones for tests, or all nine (default full).")
@click.option("--port", metavar="BASE",
              help=f"First port, or auto for the next free hundred (default: the last run's, at first {DEFAULT_BASE}).")
@click.option("--host", default="127.0.0.1", help="Address to bind; beyond loopback the public keys are at risk.")
@click.option("--no-explorer", is_flag=True, help="Without the block explorer.")
@click.option("--full", is_flag=True, help="Print whole addresses.")
@click.option("--detach", is_flag=True, help="Go to the background; return when every neuron answers.")
@click.pass_context
def up_command(
    ctx: click.Context, name: str | None, nodes: int | None, processes: bool | None, seed: int | None, deterministic: bool,
    block_time: str | None, cast: str | None, ai: str | None, port: str | None, host: str, no_explorer: bool, full: bool,
    detach: bool,
) -> None:
    """Start a devnet; a second `up` goes on where it stopped. Ctrl-C stops it and keeps its state."""
    layout, out = layout_of(ctx.obj, name), Output(ctx.obj)
    if detach:
        _detach(ctx.obj, layout, out)
        return
    wanted: dict[str, Any] = {"nodes": nodes, "processes": processes, "seed": seed, "cast": cast, "ai": ai}
    if block_time is not None:
        wanted["block_time_ms"], wanted["seal"] = parse_block_time(block_time)
    from tools.devnet.supervisor import up

    up(
        layout, wanted, out, port=port, host=host, deterministic=deterministic, explorer=not no_explorer, full=full,
    )


def _detach(settings: Settings, layout: Layout, out: Output) -> None:
    """Start the same command in the background and wait for its ready file."""
    running = supervisor_pid(layout)
    if running is not None:
        raise Locked(f"devnet {layout.name!r} runs already (process {running})", hint=f"quorix devnet status {layout.name}")
    (layout.run / "ready.json").unlink(missing_ok=True)  # of a run that was killed
    words = [word for word in sys.argv[1:] if word != "--detach"]
    layout.logs.mkdir(parents=True, exist_ok=True)
    log = layout.logs / "supervisor.log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [sys.executable, "-m", "tools.cli.main", *words], stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _await_ready(layout, out, child, log, explorer="--no-explorer" not in words)
    except KeyboardInterrupt:
        out.remark(f"the devnet goes on starting in the background; stop it: quorix devnet down {layout.name}")
        raise


def _await_ready(layout: Layout, out: Output, child: subprocess.Popen[bytes], log: Path, *, explorer: bool) -> None:
    """Until the devnet is ready, which is then reported. Raises Error if it ends before, Timeout."""
    ready, deadline = layout.run / "ready.json", time.monotonic() + DETACH_PATIENCE_S
    while time.monotonic() < deadline:
        if child.poll() is not None:
            tail = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
            steps = [line.removeprefix("next: ") for line in tail if line.startswith("next: ")]
            said = " ".join(line for line in tail if not line.startswith("next: "))
            raise Error(f"the devnet did not start: {said}", hint="; ".join([*steps, f"its log is {log}"]))
        if ready.exists():
            found = json.loads(ready.read_text())
            ports = Ports.load(layout)
            answer = {"devnet": layout.name, "pid": child.pid, **ports.to_json(), **found}
            plan = DevnetPlan.load(layout)
            doors = [f"rpc {ports.url(ports.rpc(0))}"]
            doors += [f"explorer {ports.url(ports.explorer)}"] if explorer else []
            doors += [] if plan.ai == "off" else [f"gateway {ports.url(ports.gateway)}/v1"]
            text = (
                f"devnet {layout.name!r} runs in the background (process {child.pid}), ready after {found['seconds']} s\n"
                f"{' · '.join(doors)}\nstop it: quorix devnet down {layout.name}"
            )
            out.data(answer, text)
            return
        time.sleep(0.2)
    raise Timeout(f"not ready after {DETACH_PATIENCE_S:g} s", hint=f"it goes on; see {log}")


@group.command("down")
@NAME
@click.pass_context
def down_command(ctx: click.Context, name: str | None) -> None:
    """Stop a running devnet and keep its state."""
    layout, out = meant(ctx.obj, name), Output(ctx.obj)
    name, pid = layout.name, supervisor_pid(layout)
    if pid is None:
        raise NotFound(f"devnet {name!r} is not running", hint="quorix devnet status")
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + DOWN_PATIENCE_S
    while supervisor_pid(layout) is not None:
        if time.monotonic() > deadline:
            raise Timeout(f"process {pid} did not stop within {DOWN_PATIENCE_S:g} s", hint=f"kill {pid}")
        time.sleep(0.1)
    out.data({"devnet": name, "stopped": True}, f"devnet {name!r} is stopped; its state is kept")


@group.command("status")
@click.argument("name", required=False)
@click.pass_context
def status_command(ctx: click.Context, name: str | None) -> None:
    """Which devnets there are, which run, and how they are."""
    out, home = Output(ctx.obj), home_directory(ctx.obj.home)
    name = name or ctx.obj.devnet
    layouts = [layout_of(ctx.obj, name)] if name else list(all_devnets(home))
    if name and not layouts[0].exists():
        raise NotFound(f"there is no devnet {name!r}", hint=f"quorix devnet up {name}")
    rows = [_describe(layout) for layout in layouts]

    def show() -> None:
        if not rows:
            out.remark(f"no devnets in {home}; start one with `quorix devnet up`")
            return
        lines = [
            (r["devnet"], "running" if r["running"] else "stopped", r["height"] if r["height"] is not None else "-",
             r["nodes"], r["seed"], r["cast"], r["ai"], r["rpc"] or "-", r["explorer"] or "-")
            for r in rows
        ]
        out.table("", ("devnet", "state", "height", "nodes", "seed", "cast", "ai", "rpc", "explorer"), lines)

    out.data(rows, show)


def _describe(layout: Layout) -> dict[str, Any]:
    import asyncio

    from ledger.client.remote import RemoteChain

    plan, pid = DevnetPlan.load(layout), supervisor_pid(layout)
    row: dict[str, Any] = {
        "devnet": layout.name, "running": pid is not None, "pid": pid, "height": None, "nodes": plan.nodes, "seed": plan.seed,
        "cast": plan.cast, "ai": plan.ai, "rpc": None, "explorer": None, "gateway": None,
    }
    if pid is None:
        return row
    try:
        ports = Ports.load(layout)
    except NotFound:
        return row
    row.update(rpc=ports.url(ports.rpc(0)), explorer=ports.url(ports.explorer), gateway=ports.url(ports.gateway) + "/v1")

    async def height() -> int:
        async with RemoteChain(ports.url(ports.rpc(0)), timeout_s=3) as api:
            return int((await api.system_health()).height)

    try:
        row["height"] = asyncio.run(height())
    except Error:
        pass
    return row


@group.command("accounts")
@NAME
@click.option("--show-keys", is_flag=True, help="With the secret seeds (they are public anyway).")
@click.pass_context
def accounts_command(ctx: click.Context, name: str | None, show_keys: bool) -> None:
    """The named accounts of a devnet with their dev keys."""
    from genesis.cast import FREE_RAO, cast
    from ledger.client.keys import encode_address

    out, plan = Output(ctx.obj), DevnetPlan.load(meant(ctx.obj, name))
    rows = []
    for m in cast(plan.seed, plan.nodes):
        row: dict[str, Any] = {
            "role": m.role, "name": m.name, "address": encode_address(m.coldkey.public), "public": m.coldkey.public,
            "hotkey": encode_address(m.hotkey.public) if m.hotkey else None, "path": m.path, "subnets": list(m.subnets),
            "genesis_rao": FREE_RAO,
        }
        if show_keys:
            row["seed"] = m.coldkey.seed
        rows.append(row)

    def show() -> None:
        lines = [
            (r["role"], r["name"], " ".join(str(netuid) for netuid in r["subnets"]) or "-", r["address"],
             format_amount(FREE_RAO), r["path"], *(["0x" + r["seed"].hex()] if show_keys else []))
            for r in rows
        ]
        columns = ("role", "name", "subnets", "address", "at genesis", "dev key", *(["seed"] if show_keys else []))
        out.table("these keys are public: never use them elsewhere", columns, lines, right=("at genesis",))
        out.remark("a hotkey is its account's key with //hot behind it, such as //validator//0//hot")

    out.data(rows, show)


@group.command("check")
@NAME
@click.option("--blocks", type=click.IntRange(1, 1000), default=20, help="How many of the newest blocks to check.")
@click.pass_context
def check_command(ctx: click.Context, name: str | None, blocks: int) -> None:
    """Check a running devnet from outside; exits 1 and says which check failed."""
    from tools.devnet.check import check_devnet

    out, layout = Output(ctx.obj), meant(ctx.obj, name)
    results = check_devnet(layout, DevnetPlan.load(layout), Ports.load(layout), blocks=blocks)
    ok = all(r.ok for r in results)
    rows = [{"name": r.name, "ok": r.ok, "detail": r.detail} for r in results]

    def show() -> None:
        marks = [("✓" if r.ok else "✗", r.name, r.detail) for r in results]
        out.table(f"devnet {layout.name!r}: {'all checks hold' if ok else 'FAILED'}", ("", "check", "found"), marks)

    out.data({"devnet": layout.name, "ok": ok, "checks": rows}, show)
    ctx.exit(0 if ok else 1)


@group.command("reset")
@NAME
@click.pass_context
def reset_command(ctx: click.Context, name: str | None) -> None:
    """Delete a devnet's chain and keys; trained models stay in the cache."""
    layout, out = layout_of(ctx.obj, name), Output(ctx.obj)
    name = layout.name
    if not layout.root.exists():
        raise NotFound(f"there is no devnet {name!r}")
    if supervisor_pid(layout) is not None:
        raise UsageError(f"devnet {name!r} is running", hint=f"quorix devnet down {name}")
    out.confirm(f"delete {layout.root}")
    shutil.rmtree(layout.root)
    out.data({"devnet": name, "reset": True}, f"devnet {name!r} is deleted; `quorix devnet up {name}` makes a new one")
