"""What authors use: the names of the package, the metagraph as arrays, and programs to start from."""

import asyncio
import json
import runpy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner

import ai
from ai import Metagraph, Sampling
from ai.distribution import encode_distributions
from ledger.client import keys
from ledger.client.keys import encode_address, write_key_file
from ledger.client.records import Row
from ledger.crypto import KeyPair
from ledger.errors import NotFound, UsageError
from tools.cli.authors import write_example
from tools.cli.main import cli


async def test_the_metagraph_as_arrays(chain, monkeypatch):
    graph = await Metagraph(chain, 2).sync()
    assert len(graph) == len(graph.names) == len(graph.stake_rao) == len(graph.permits) > 5
    assert graph.uids == list(range(len(graph))) and graph.height == chain.devnet.height
    assert graph.stake_rao.dtype == np.int64 and graph.incentive.max() <= 1.0 and graph.dividends.min() >= 0.0
    assert graph.trust.shape == graph.consensus.shape == graph.emission_rao.shape == (len(graph),)
    someone = graph.find("json")
    assert graph.find(someone.uid) == graph.find(someone.hotkey) == graph.find(someone.hotkey.hex()) == someone
    address = encode_address(someone.hotkey)
    assert graph.find(address) == graph.find(address[:9]) == graph.find("0x" + someone.hotkey.hex()[:10]) == someone
    with pytest.raises(NotFound):
        graph.find(address[:5])
    monkeypatch.setattr(keys, "SHORTEST_PREFIX_CHARS", 2)
    with pytest.raises(NotFound, match="several"):
        graph.find("qx")
    graph.neurons[someone.uid] = replace(someone, name="")
    assert graph.names[someone.uid] == address[:9]
    graph.neurons[someone.uid] = someone
    assert graph.hotkeys[someone.uid] == someone.hotkey and graph.serving == []
    weights = await graph.weights()
    assert weights.shape == (len(graph), len(graph)) and set(weights.sum(axis=1).round(6)) <= {0.0, 1.0}
    for who in (999, "nobody", b"x" * 32):
        with pytest.raises(NotFound):
            graph.find(who)
    async with graph:
        assert (await graph.sync()).epoch == graph.epoch


def test_votes_become_rows_that_sum_to_one(monkeypatch):
    graph = Metagraph(None, 1)
    monkeypatch.setattr(Metagraph, "__len__", lambda self: 3)
    matrix = graph._matrix([Row(0, [1, 2], [1, 3]), Row(2, [], []), Row(7, [0], [1])])
    assert matrix.tolist() == [[0, 0.25, 0.75], [0, 0, 0], [0, 0, 0]]


def test_the_package_names_what_it_offers_and_imports_nothing_heavy():
    for name in ai.__all__:
        assert getattr(ai, name).__name__ in (name, "report")
    code = "import sys, ai; dir(ai); print([m for m in ('torch', 'numpy', 'httpx') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"


def test_a_new_miner_is_a_model(tmp_path):
    path = write_example("miner", tmp_path / "mine")
    assert 28 <= len(path.read_text().splitlines()) <= 40
    model = runpy.run_path(str(path))["Bigrams"](b"abababac")
    rows = encode_distributions(model.next_bytes([b"a", b""]))
    assert len(rows) == 196 and np.argmax(model.next_bytes([b"a"])[0]) == ord("b")
    assert b"".join(model.write(b"a", Sampling(max_units=4, temperature=0))) == b"baba"
    assert model.card().model_hash != type(model)(b"other").card().model_hash
    with pytest.raises(UsageError):
        write_example("miner", tmp_path / "mine")


async def test_a_new_validator_tells_how_to_register(tmp_path, chain, monkeypatch):
    path = write_example("validator", tmp_path)
    assert len(path.read_text().splitlines()) <= 40
    program = runpy.run_path(str(path))
    key = tmp_path / "key.json"
    stranger, told = KeyPair.from_seed(b"s" * 32), []
    write_key_file(key, stranger, kind="hotkey", password=None)

    class Node:
        def __init__(self, url):
            self.url = url

        async def __aenter__(self):
            return chain

        async def __aexit__(self, *_):
            return None

    scope = program["main"].__globals__
    monkeypatch.setitem(scope, "RemoteChain", Node)
    monkeypatch.setitem(scope, "report", told.append)
    with pytest.raises(NotFound) as caught:
        await program["main"](str(key), 2, "http://node")
    assert "quorix subnet register" in caught.value.hint and not told
    assert encode_address(stranger.public) in str(caught.value)
    write_key_file(tmp_path / "judge.json", chain.devnet.hot("validator 0"), kind="hotkey", password=None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sums.txt").write_text("12+30=42;" * 40)
    running = asyncio.create_task(program["main"](str(tmp_path / "judge.json"), 2, "http://node", "sums.txt"))
    async with asyncio.timeout(5):
        while not chain.heads:
            await asyncio.sleep(0.01)
            assert not running.done() or running.result()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert told[0]["event"] == "found" and told[0]["permit"]
    assert told[1]["event"] == "waits" and told[1]["next"]
    done = subprocess.run([sys.executable, str(path), str(key), "2", "http://127.0.0.1:1"], capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "next: " in done.stderr


def test_the_command_writes_it_and_says_what_next(tmp_path):
    words = ["--home", str(tmp_path), "ai", "new", "miner", "--dir", str(tmp_path)]
    done = CliRunner().invoke(cli, words, standalone_mode=False)
    assert done.exception is None and "quorix subnet register" in done.stdout and (tmp_path / "miner.py").exists()
    done = CliRunner().invoke(cli, [*words[:4], "validator", *words[5:], "--json"], standalone_mode=False)
    assert json.loads(done.stdout)["path"] == str(tmp_path / "validator.py")


def test_the_steps_name_the_key_file_and_a_validators_stake(tmp_path):
    for kind in ("miner", "validator"):
        words = ["--home", str(tmp_path), "ai", "new", kind, "--dir", str(tmp_path / kind)]
        done = CliRunner().invoke(cli, words, standalone_mode=False)
        assert done.exception is None and f"{tmp_path}/keys/{kind}.json NETUID http" in done.stdout
        assert ("quorix stake add" in done.stdout) == (kind == "validator")


def test_help_cuts_no_sentence():
    for words in (["ai"], ["ai", "new"], ["ai", "receipts"], ["stake"]):
        done = CliRunner().invoke(cli, [*words, "--help"], standalone_mode=False)
        assert done.exception is None and "..." not in done.stdout.split("Options:")[0].split("Commands:")[1]
