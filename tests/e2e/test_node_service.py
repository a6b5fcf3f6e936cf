"""`quorix node run` as a process: it answers, makes blocks, stops cleanly, resumes, and says why when it cannot start."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger.client.calls import Wallet
from ledger.client.keys import write_key_file
from ledger.client.remote import RemoteChain

START_S = 60.0
PAGES = ("/healthz", "/readyz", "/metrics", "/openrpc.json", "/version")


def make_chain(root, **changes):
    spec = devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000, **changes)
    (root / "spec.toml").write_text(format_spec(spec))
    home = root / "0"
    home.mkdir()
    session = next(member.session for member in cast(1, 1) if member.session is not None)
    write_key_file(home / "session.key", session, "session", password=None)
    return home


class Process:
    """A running node. `lines` are its reports."""

    def __init__(self, root, home, *words, python=()):
        command = [
            sys.executable, *python, "-m", "tools.cli.main", "node", "run", "--home", str(home),
            "--spec", str(root / "spec.toml"), "--rpc-port", "0", "--follow-stdin", *words,
        ]
        self.log = os.open(root / "log.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
            env={**os.environ, "QUORIX_HOME": str(root)},
        )
        self.lines = []

    def until(self, event):
        for text in self.process.stdout:
            line = json.loads(text)
            self.lines.append(line)
            if line["event"] == event:
                return line
        raise AssertionError(f"ended with {self.process.wait()} before {event}: {self.lines}")

    def end(self):
        self.process.stdin.close()
        return self.process.wait(START_S)


@contextmanager
def node(root, home, *words):
    running = Process(root, home, *words)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()
        os.close(running.log)


def test_a_node_answers_makes_blocks_stops_and_resumes(tmp_path):
    home = make_chain(tmp_path, block_time_ms=200)
    sender = next(member.coldkey for member in cast(1, 1) if member.name == "0" and member.role == "validator")

    async def visit(url):
        async with RemoteChain(url) as api:
            done = await Wallet(api, sender).submit(
                "accounts.transfer", to=b"\x58" + b"\x66" * 31, amount_rao=10**9, keep_alive=True
            )
            async with httpx.AsyncClient(trust_env=False) as web:
                pages = {path: await web.get(url + path) for path in PAGES}
            heads = api.chain_subscribe_new_heads()
            head = (await anext(heads)).header
            await heads.aclose()
            return done, pages, head

    with node(tmp_path, home) as first:
        (url,) = first.until("rpc")["urls"]
        assert first.until("started")["role"] == "authority"
        done, pages, head = asyncio.run(visit(url))
        assert done.ok and head.height >= done.height and head.finality_ms > 0
        assert {path: page.status_code for path, page in pages.items()} == dict.fromkeys(pages, 200), pages["/readyz"].text
        metrics = pages["/metrics"].text
        assert 'quorix_chain_height{node="0"}' in metrics and 'quorix_rpc_requests_total{code="0"' in metrics
        assert 'quorix_block_txs_total{node="0"} 1.0' in metrics and "quorix_block_build_seconds_bucket" in metrics
        taken = Process(tmp_path, home, "--json")
        assert taken.process.wait(START_S) == 27
        assert json.loads(taken.process.stdout.read())["error"]["name"] == "Locked"
        assert first.end() == 0
    assert (home / "pool.cbor").exists() and not (home / "admin.sock").exists()
    with node(tmp_path, home) as second:
        line = second.until("started")
        assert line["height"] >= head.height
        admin = RemoteChain(f"unix:{home / 'admin.sock'}")
        asyncio.run(admin.admin_shutdown())
        assert second.process.wait(START_S) == 0
    entries = [json.loads(text) for text in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert {"started"} <= {entry["event"] for entry in entries if entry["room"] == "node"}


def test_a_kill_at_any_moment_loses_nothing_final_and_a_signal_ends_it_cleanly(tmp_path):
    home = make_chain(tmp_path, block_time_ms=100)
    height = 0
    for pause_s in (0.05, 0.3):
        with node(tmp_path, home) as running:
            running.until("started")
            (url,) = running.lines[0]["urls"]
            deadline = time.monotonic() + pause_s
            while time.monotonic() < deadline:
                seen = httpx.get(url + "/healthz", trust_env=False).json()["height"]
                assert seen >= height
                height = seen
            running.process.kill()
    with node(tmp_path, home) as running:
        assert running.until("started")["height"] >= height
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(START_S) == 0


def test_a_fault_ends_the_process_with_its_code_and_an_incident(tmp_path):
    home = make_chain(tmp_path, block_time_ms=100)
    with node(tmp_path, home) as running:
        (url,) = running.until("rpc")["urls"]
        running.until("started")
        while httpx.get(url + "/healthz", trust_env=False).json()["height"] < 3:
            time.sleep(0.05)
        assert running.end() == 0
    shutil.rmtree(home / "chain")  # the sign database remembers what the chain has lost
    with node(tmp_path, home) as running:
        fault = running.until("fault")
        assert (fault["code"], running.process.wait(START_S)) == (20, 20)
        incident = json.loads(Path(fault["incident"]).read_text())
        assert incident["exit_code"] == 20 and "chain database" in incident["cause"]


@pytest.mark.parametrize(("words", "python", "code"), [
    (("--rpc-host", "0.0.0.0"), (), 2),
    (("--seal", "manual", "--rpc-port", "70000"), (), 2),
    ((), ("-O",), 1),
])
def test_what_cannot_start_says_why(tmp_path, words, python, code):
    home = make_chain(tmp_path)
    failed = Process(tmp_path, home, "--json", *words, python=python)
    assert failed.process.wait(START_S) == code


def test_a_second_node_joins_over_libp2p_and_follows(tmp_path):
    home = make_chain(tmp_path, block_time_ms=300)
    follower_home = tmp_path / "follower"

    async def height_of(url, least):
        async with RemoteChain(url) as api:
            async with asyncio.timeout(START_S):
                while (await api.system_health()).height < least:
                    await asyncio.sleep(0.05)
            return await api.chain_get_header(least), (await api.system_health())

    with node(tmp_path, home, "--p2p", "on", "--p2p-port", "0") as first:
        started = first.until("started")
        leader, _ = asyncio.run(height_of(started["rpc"], 10))
        with node(tmp_path, follower_home, "--p2p-port", "0", "--peer", started["p2p"][0]) as second:
            joined = second.until("started")
            assert joined["role"] == "full"
            same, _ = asyncio.run(height_of(joined["rpc"], 10))
            assert (same.hash, same.state_root) == (leader.hash, leader.state_root)
            later, _ = asyncio.run(height_of(started["rpc"], asyncio.run(height_of(started["rpc"], 10))[1].height + 3))
            followed, health = asyncio.run(height_of(joined["rpc"], later.height))
            assert followed.hash == later.hash and health.peers == 1 and health.role == "full"
            assert second.end() == 0
        assert first.end() == 0
