"""The running market through its users' doors: receipts proven, routes explained, a killed neuron, programs of authors."""

import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager

import httpx
import psutil
import pytest

PATIENCE_S = 60.0
PROMPT = "def fib(n):\n    return "


def until(condition, within_s=PATIENCE_S, pause_s=0.3):
    """What `condition()` gives as soon as it is true."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "not seen in time"
        time.sleep(pause_s)
    return found


def ask(devnet, model="net/moe", **options):
    """(status, body) of a completion."""
    body = {"model": model, "prompt": PROMPT, "max_tokens": 4, "temperature": 0, **options}
    with httpx.Client(trust_env=False, timeout=30) as web:
        reply = web.post(devnet.gateway + "/completions", json=body)
    return reply.status_code, reply.json()


# --- receipts


def test_a_receipt_is_proven_to_whom_has_no_node(devnet, tmp_path):
    status, reply = ask(devnet)
    assert status == 200
    name = reply["quorix"]["receipts"][0]
    listed = {row["id"]: row for row in devnet.cli("ai", "receipts", "list")}
    assert listed[name]["method"] == "distribution" and listed[name]["status"] == "ok" and not listed[name]["contradicted"]

    def proven():
        document = devnet.cli("ai", "receipts", "prove", name)
        return document if document["root_proof"] else None

    document, file = until(proven), tmp_path / "proof.json"
    file.write_text(json.dumps(document))
    offline = ("ai", "receipts", "verify", str(file), "--genesis", str(devnet.layout.spec))
    assert devnet.cli(*offline)["id"].removeprefix("0x") == name
    assert devnet.cli("ai", "receipts", "verify", str(file))["ok"]
    file.write_text(json.dumps({**document, "root": "0x" + "00" * 32}))
    assert devnet.cli(*offline, code=1)["error"]
    with httpx.Client(trust_env=False) as web:
        there = web.get(f"{devnet.gateway}/receipts/{name}").json()
    assert there["holds"] and there["on_chain"] and there["contradictions"] == []
    assert devnet.cli("ai", "receipts", "list", "--of", "validator-0", "--limit", "3")
    assert devnet.cli("ai", "receipts", "conflicts", "--of", "code") == []  # an honest neuron's own sessions


# --- routing


@pytest.mark.long
def test_a_route_is_explained(devnet):
    before = devnet.cli("ai", "route", "explain", PROMPT)
    names = {row["expert"] for row in before["candidates"]}
    assert "code" in names and {row["chosen"] for row in before["candidates"]} >= {"top", "generalist"}
    status, reply = ask(devnet)
    assert status == 200
    after = devnet.cli("ai", "route", "explain", "--request", reply["id"])
    assert sorted(after["experts"]) == sorted(reply["quorix"]["experts"]) and after["receipts"] == reply["quorix"]["receipts"]


# --- a neuron that is killed


def process_of(devnet, name):
    """The process that listens where the chain says the neuron answers, or None."""
    rows = devnet.cli("subnet", "metagraph", "1")["value"]["neurons"]
    port = next(row["serving"]["port"] for row in rows if row["name"] == name)
    for process in devnet.family():
        try:
            if any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in process.net_connections("tcp")):
                return process
        except psutil.Error:  # it has just ended
            continue
    return None


def test_a_killed_neuron_is_noticed_routed_around_and_comes_back(devnet):
    assert ask(devnet, "net/code")[0] == 200
    before = process_of(devnet, "code")
    before.kill()
    for _ in range(3):  # somebody answers at any moment
        status, reply = ask(devnet)
        assert status == 200 and reply["choices"][0]["text"], reply
    after = until(lambda: process_of(devnet, "code"))
    assert after.pid != before.pid
    until(lambda: ask(devnet, "net/code")[0] == 200)


# --- programs of authors


@contextmanager
def program(devnet, folder, kind, *extra):
    """A program that `quorix ai new` wrote, registered on subnet 2 and running; yields its hotkey and its lines so far."""
    written = devnet.cli("ai", "new", kind, "--dir", str(folder))["path"]
    made = devnet.cli("key", "new", kind, "--kind", "hotkey", "--unencrypted")
    devnet.cli("subnet", "register", "2", "--hotkey", kind, "--max-price", "100Q", "--key", "//owner", "--yes")
    key = devnet.home / "keys" / f"{kind}.json"
    out = (folder / "out.jsonl").open("wb")
    paths = os.pathsep.join((os.getcwd(), os.environ.get("PYTHONPATH", "")))
    process = subprocess.Popen(
        [sys.executable, written, str(key), "2", devnet.rpc, *extra], cwd=folder, stdout=out, stderr=out,
        env={**devnet.environment, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )

    def lines():
        assert process.poll() is None, (folder / "out.jsonl").read_text()
        return [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines() if line.startswith("{")]

    try:
        yield made["address"], lines
    finally:
        process.terminate()
        process.wait(20)
        out.close()


@pytest.mark.parametrize("kind", ["miner", pytest.param("validator", marks=pytest.mark.long)])
def test_a_new_program_takes_part(devnet, tmp_path, kind):
    text = tmp_path / "sums.txt"
    text.write_text("12+30=42;" * 40)
    extra = (str(text),) if kind == "validator" else ()
    with program(devnet, tmp_path, kind, *extra) as (address, lines):
        if kind == "miner":
            until(lambda: any(line["event"] == "ready" for line in lines()))
            status, reply = until(lambda: (found := ask(devnet, f"net/{address}"))[0] == 200 and found)
            assert reply["choices"][0]["text"] and len(reply["quorix"]["receipts"]) == 1
        else:
            probed = until(lambda: next((line for line in lines() if line["event"] == "probed"), None))
            assert probed["answered"] > 0 and probed["netuid"] == 2
            assert lines()[0]["event"] == "found"
