"""Which devnet a command means: the one named, the only one that runs, or an error that lists them."""

import fcntl
import json
import os
from contextlib import ExitStack, contextmanager

import pytest
from click.testing import CliRunner

from ledger.client.keys import DevKeys
from ledger.errors import NotFound, Unreachable, UsageError
from tools.cli.ai import gateway_url
from tools.cli.main import Settings, cli
from tools.cli.session import dev_key
from tools.cli.target import rpc_url, running_devnet
from tools.devnet.layout import Layout, Ports
from tools.devnet.plan import DevnetPlan


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in ("QUORIX_RPC", "QUORIX_DEVNET", "QUORIX_GATEWAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("QUORIX_HOME", str(tmp_path))
    return tmp_path


@contextmanager
def devnet(home, name, *, seed=1, base=None):
    """A devnet's files; with `base`, those of one that runs."""
    layout = Layout(home, name)
    layout.run.mkdir(parents=True)
    DevnetPlan(name=name, seed=seed).save(layout)
    if base is None:
        yield layout
        return
    with open(layout.lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(str(os.getpid()))
        file.flush()
        (layout.run / "ports.json").write_text(json.dumps(Ports(base, 4).to_json()))
        yield layout


def test_the_only_one_that_runs_is_meant_whatever_its_name(home):
    assert rpc_url(Settings()) == "http://127.0.0.1:9900" and running_devnet(Settings()) is None
    with devnet(home, "default"), devnet(home, "second", seed=7, base=12300):
        assert rpc_url(Settings()) == "http://127.0.0.1:12300"
        assert gateway_url(Settings(), None) == "http://127.0.0.1:12341"
        assert dev_key(Settings(), "//owner").public == DevKeys(7).key("//owner").public
        with pytest.raises(NotFound, match="not running"):
            rpc_url(Settings(devnet="default"))
        assert rpc_url(Settings(rpc="http://127.0.0.1:5")) == "http://127.0.0.1:5"


def test_where_several_run_one_must_be_named(home, monkeypatch):
    with ExitStack() as stack:
        for name, seed, base in (("default", 1, 12300), ("other", 7, 12400)):
            stack.enter_context(devnet(home, name, seed=seed, base=base))
        with pytest.raises(UsageError) as caught:
            rpc_url(Settings())
        assert "default (http://127.0.0.1:12300)" in caught.value.cause and "other (" in caught.value.cause
        assert "--devnet" in caught.value.hint and caught.value.exit_code == 2
        failed = CliRunner().invoke(cli, ["subnet", "list"], standalone_mode=False)
        assert isinstance(failed.exception, UsageError)
        assert rpc_url(Settings(devnet="other")) == "http://127.0.0.1:12400"
        assert gateway_url(Settings(devnet="other"), None) == "http://127.0.0.1:12441"
        owner = DevKeys(7).key("//owner").public
        assert dev_key(Settings(devnet="other"), "//owner").public == owner
        assert dev_key(Settings(rpc="http://127.0.0.1:12402/"), "//owner").public == owner
        monkeypatch.setenv("QUORIX_DEVNET", "other")
        assert rpc_url(Settings()) == "http://127.0.0.1:12400"
        monkeypatch.setenv("QUORIX_RPC", "http://127.0.0.1:77")
        assert rpc_url(Settings()) == "http://127.0.0.1:77"
        assert rpc_url(Settings(devnet="default")) == "http://127.0.0.1:12300"


def test_a_devnet_of_nobody_is_named_with_those_there_are(home):
    with pytest.raises(NotFound) as caught:
        rpc_url(Settings(devnet="nope"))
    assert caught.value.hint == "quorix devnet up" and caught.value.exit_code == 3
    with devnet(home, "alpha"), pytest.raises(NotFound) as caught:
        rpc_url(Settings(devnet="nope"))
    assert caught.value.hint == "there are alpha"
    with pytest.raises(UsageError, match="no devnet name"):
        rpc_url(Settings(devnet="../x"))


def test_files_of_a_devnet_that_was_killed_mean_nothing(home):
    with devnet(home, "default", base=12300):
        pass
    assert running_devnet(Settings()) is None


def test_stopped_devnets_whose_keys_are_meant_must_be_named(home):
    with devnet(home, "a"), devnet(home, "b", seed=7):
        with pytest.raises(UsageError, match="a, b"):
            dev_key(Settings(), "//owner")
        assert dev_key(Settings(devnet="b"), "//owner").public == DevKeys(7).key("//owner").public


def test_the_default_port_is_said_to_be_a_guess(home, monkeypatch):
    monkeypatch.setattr("tools.cli.session.DEFAULT_RPC", "http://127.0.0.1:1")
    monkeypatch.setattr("tools.cli.target.DEFAULT_RPC", "http://127.0.0.1:1")
    failed = CliRunner().invoke(cli, ["subnet", "list"], standalone_mode=False)
    assert isinstance(failed.exception, Unreachable) and f"no devnet of {home} runs" in failed.exception.hint


def test_commands_about_devnets_take_the_one_that_runs(home):
    with devnet(home, "default"), devnet(home, "second", seed=7, base=12300):
        shown = CliRunner().invoke(cli, ["devnet", "accounts", "--json"], standalone_mode=False)
        owner = next(row for row in json.loads(shown.stdout) if row["role"] == "owner")
        assert owner["public"] == "0x" + DevKeys(7).key("//owner").public.hex()
        named = CliRunner().invoke(cli, ["devnet", "accounts", "--devnet", "default", "--json"], standalone_mode=False)
        assert "0x" + DevKeys(1).key("//owner").public.hex() in named.stdout
