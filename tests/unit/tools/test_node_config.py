"""Settings of a node: precedence, origins, and what is refused."""

import pytest

from ledger.errors import UsageError
from tools.node.config import SETTINGS, load_config


def config(tmp_path, text="", flags=None, environment=None):
    (tmp_path / "config.toml").write_text(text)
    return load_config(tmp_path, flags or {}, environment or {})


def test_defaults_and_paths(tmp_path):
    found = load_config(tmp_path, {}, {})
    assert (found.rpc_host, found.rpc_port, found.p2p, found.peers) == ("127.0.0.1", 9900, "auto", ())
    assert found.spec == tmp_path / "spec.toml" and found.admin_socket == tmp_path / "admin.sock"
    assert set(found.origin) == set(SETTINGS) and set(found.origin.values()) == {"default"}


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(tmp_path):
    text = 'rpc_port = 1\np2p_port = 2\nhistory = "archive"\npeers = ["/ip4/1.1.1.1/tcp/1/p2p/x"]\n'
    environment = {"QUORIX_RPC_PORT": "3", "QUORIX_P2P_PORT": "4", "QUORIX_PEERS": "a, b,", "OTHER": "x"}
    found = config(tmp_path, text, {"rpc_port": 5, "p2p_port": None, "peers": ()}, environment)
    assert (found.rpc_port, found.p2p_port, found.history, found.peers) == (5, 4, "archive", ("a", "b"))
    origin = found.origin
    assert (origin["rpc_port"], origin["p2p_port"], origin["log"]) == ("flag", "QUORIX_P2P_PORT", "default")
    assert origin["history"] == str(tmp_path / "config.toml")


@pytest.mark.parametrize("text", ["true", "1", "YES"])
def test_flags_of_the_environment(tmp_path, text):
    assert config(tmp_path, environment={"QUORIX_RPC_EXTERNAL": text}).rpc_external is True


@pytest.mark.parametrize(("text", "words"), [
    ("rpc_prot = 1", "did you mean rpc_port"),
    ("zzz = 1", "known are spec"),
    ('rpc_port = "1"', "expected a whole number"),
    ("rpc_port = true", "expected a whole number"),
    ("rpc_port = 65536", "no port"),
    ("p2p_port = -1", "no port"),
    ('p2p = "maybe"', "auto, on, off"),
    ('seal = "now"', "interval, instant, manual"),
    ("peers = [1]", "expected a list of texts"),
    ("rpc_external = 1", "expected true or false"),
    ('history = "some"', "full, archive"),
    ("sign_from = -1", "no height"),
    ("max_runtime_version = -1", "no version"),
    ("spec = ", "not TOML"), ("log = " + "9" * 5000, "not TOML"), ("log = " + "[" * 5000, "not TOML"),
])
def test_a_wrong_file_is_refused_with_the_place(tmp_path, text, words):
    with pytest.raises(UsageError) as caught:
        config(tmp_path, text)
    assert words in caught.value.cause + " " + caught.value.hint


@pytest.mark.parametrize("environment", [
    {"QUORIX_RPC_PORT": "x"}, {"QUORIX_RPC_PORT": "9" * 30}, {"QUORIX_RPC_EXTERNAL": "maybe"}, {"QUORIX_SEAL": "never"},
])
def test_a_wrong_environment_is_refused_with_the_variable(tmp_path, environment):
    with pytest.raises(UsageError) as caught:
        config(tmp_path, environment=environment)
    assert next(iter(environment)) in caught.value.cause


def test_too_much_is_refused(tmp_path):
    with pytest.raises(UsageError):
        config(tmp_path, flags={"peers": ["/x"] * 257})
    with pytest.raises(UsageError):
        config(tmp_path, "#" * (1 << 20) + "x")
