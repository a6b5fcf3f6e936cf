"""`quorix node`: what its commands make and print, and that help is cheap."""

import json
import socket
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from genesis.cast import devnet_spec
from genesis.spec import format_spec
from ledger.client.keys import read_key_file, write_key_file
from ledger.crypto import KeyPair
from ledger.errors import Error, NotFound
from tools.cli import node
from tools.cli.main import Settings, cli
from tools.cli.output import Output


def invoke(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], standalone_mode=False)


def write_spec(tmp_path):
    spec = devnet_spec(1, authorities=1, genesis_time_ms=time.time_ns() // 1_000_000)
    (tmp_path / "spec.toml").write_text(format_spec(spec))
    return tmp_path / "spec.toml"


def test_init_makes_a_node_once(tmp_path):
    spec, home = write_spec(tmp_path), tmp_path / "n"
    made = invoke("--json", "node", "init", "--home", home, "--spec", spec)
    assert made.exception is None, made.exception
    answer = json.loads(made.stdout)
    assert answer["role"] == "full" and answer["genesis_hash"].startswith("0x")
    assert (home / "spec.toml").read_text() == spec.read_text()
    assert {item.name for item in home.iterdir()} == {"chain", "node.key", "spec.toml"}
    again = invoke("node", "init", "--home", home, "--spec", spec)
    assert isinstance(again.exception, Error) and "holds a node already" in again.exception.cause


def test_init_refuses_a_peer_that_is_no_address_and_makes_nothing(tmp_path):
    home = tmp_path / "node"
    refused = invoke("node", "init", "--home", home, "--spec", write_spec(tmp_path), "--peer", "garbage")
    assert refused.exit_code != 0 and "'garbage' is not like /ip4/" in str(refused.exception) and not home.exists()


def test_init_of_an_authority_copies_its_session_key_and_makes_its_guard(tmp_path, monkeypatch):
    monkeypatch.setenv("QUORIX_HOME", str(tmp_path / "home"))
    key = KeyPair.from_seed(b"s" * 32)
    write_key_file(tmp_path / "home" / "keys" / "mine.json", key, "session", password=None)
    home = tmp_path / "a"
    made = invoke("--json", "node", "init", "--home", home, "--spec", write_spec(tmp_path), "--session-key", "mine")
    assert made.exception is None and json.loads(made.stdout)["role"] == "authority"
    assert read_key_file(home / "session.key").public == key.public and (home / "sign").is_dir()


def test_run_refuses_the_same_home_twice(tmp_path):
    failed = invoke("node", "run", "--home", tmp_path, "--home", tmp_path)
    assert isinstance(failed.exception, Error) and "twice" in failed.exception.cause


def test_status_of_nobody_is_unreachable():
    failed = invoke("node", "status", "--rpc", "http://127.0.0.1:1")
    assert isinstance(failed.exception, Error) and failed.exception.exit_code == 4


def test_help_imports_neither_libp2p_nor_numpy_nor_a_server():
    code = (
        "import sys\nfrom tools.cli.main import cli\n"
        "try:\n    cli.main(['node', 'run', '--help'], standalone_mode=False)\nfinally:\n"
        "    print([m for m in ('libp2p', 'trio', 'numpy', 'torch', 'uvicorn', 'plyvel', 'structlog') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.rstrip().endswith("[]") and "--new-sign-db" in done.stdout


@pytest.mark.parametrize(("there", "words"), [(False, "does not exist"), (True, "holds no node")])
def test_a_home_without_a_node_is_named_before_anything_else(tmp_path, there, words):
    home = tmp_path / "home"
    if there:
        home.mkdir()
    with socket.socket() as taken:  # not even the port is looked at
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        failed = invoke("node", "run", "--home", home, "--rpc-port", taken.getsockname()[1])
    assert isinstance(failed.exception, NotFound) and words in failed.exception.cause
    assert f"quorix node init --home {home}" in failed.exception.hint
    assert not there or not any(home.iterdir())


def test_a_devnet_of_one_that_takes_no_peers_is_told_of(tmp_path, capsys):
    node._remark_alone(Output(Settings()), tmp_path)
    assert f'write p2p = "on" into {tmp_path / "config.toml"}' in capsys.readouterr().err
    (tmp_path / "config.toml").write_text('p2p = "on"\n')
    node._remark_alone(Output(Settings()), tmp_path)
    assert capsys.readouterr().err == ""
