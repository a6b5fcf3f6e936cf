"""A broken rule stops the chain with a dump, and the dump reproduces it where there is no database."""

import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger import dumps
from ledger.blocks import Extrinsic
from ledger.chain import Chain
from ledger.client.keys import write_key_file
from ledger.dumps import Dump, domains_until
from ledger.errors import DecodeError, InvariantBroken, NotFound, UsageError
from ledger.store import MemoryStore
from runtime.modules import accounts, fees
from runtime.versions import VersionedRuntime
from tools.cli.main import cli
from tools.node.service import Service
from tools.ops.db_replay import replay


def money_from_nowhere(monkeypatch):
    real = fees.settle

    def settle(context, *rest):
        real(context, *rest)
        row = accounts.account(context.state, bytes(32))
        accounts.ACCOUNT.put(context.state, bytes(32), value=accounts.Account(row.free_rao + 10**9, 0, 0))

    monkeypatch.setattr(fees, "settle", settle)


@pytest.fixture(scope="module")
def chain():
    genesis = build_genesis(devnet_spec(1))
    chain = Chain.create(MemoryStore(), genesis.params, VersionedRuntime(genesis.genesis_hash), genesis.state)
    yield chain
    chain.close()


@pytest.fixture
def broken(chain, devnet, monkeypatch):
    """What building a block with a transfer ends in; the rules are those of this program again."""
    transfer = devnet.sign(devnet.cold("owner"), "accounts.transfer", devnet.cold("neuron json").public, 10**9, True)
    with monkeypatch.context() as patch:
        money_from_nowhere(patch)
        with pytest.raises(InvariantBroken) as caught:
            chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0, extrinsics=[transfer])
    return caught.value


# rule: INV-5
def test_a_dump_reproduces_the_violation_without_a_database(broken, tmp_path, monkeypatch):
    file = tmp_path / "1-22.block"
    file.write_bytes(broken.dump)
    healthy = replay(file)
    assert not healthy["reproduced"] and healthy["now"] == "" and "I1" in healthy["then"]
    money_from_nowhere(monkeypatch)
    found = replay(file)
    assert found["reproduced"] and found["now"] == str(broken) and found["violations"] == broken.data["violations"]
    assert (found["height"], found["extrinsics"]) == (1, 1)
    shown = CliRunner().invoke(cli, ["db", "replay", str(file)])
    assert shown.exit_code == 0 and "rows changed by" in shown.stdout
    assert json.loads(CliRunner().invoke(cli, ["db", "replay", str(file), "--json"]).stdout)["reproduced"]


def test_of_a_large_state_what_was_read_is_enough(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(dumps, "MAX_WHOLE_KEYS", 10)
    money_from_nowhere(monkeypatch)
    with pytest.raises(InvariantBroken) as caught:
        chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0)
    file = tmp_path / "large.block"
    file.write_bytes(caught.value.dump)
    found = replay(file)
    assert not found["whole_state"] and found["now"] == str(caught.value)
    with pytest.raises(NotFound, match="was not read"):
        Dump.decode(caught.value.dump).get(b"something")


def test_an_assertion_in_the_rules_is_as_bad_and_has_its_dump(chain, tmp_path, monkeypatch):
    monkeypatch.setattr(fees, "adjust_multiplier", lambda context, weight: 1 // 0)
    with pytest.raises(InvariantBroken, match="ZeroDivisionError") as caught:
        chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0)
    file = tmp_path / "bug.block"
    file.write_bytes(caught.value.dump)
    assert "ZeroDivisionError" in replay(file)["now"]


def test_a_certified_block_that_is_refused_here_has_a_dump_too(chain, tmp_path, monkeypatch):
    executed = chain.build(timestamp_ms=chain.head.timestamp_ms + 1000, round_=0)
    file = tmp_path / "refused.block"
    file.write_bytes(chain.dump(executed.block, UsageError("state root")))
    found = replay(file)
    assert found["then"].endswith("state root") and not found["building"] and found["rows"] > 100


def test_the_node_writes_it_beside_the_incident_and_says_the_command(broken, tmp_path):
    said = []
    node = SimpleNamespace(tip=SimpleNamespace(height=7), incident={}, parts=SimpleNamespace(name="node 0"))
    each = SimpleNamespace(node=node, config=SimpleNamespace(home=tmp_path))
    assert Service._report(SimpleNamespace(announce=said.append), each, broken) == 22
    file = tmp_path / "incident" / "7-22.block"
    assert file.read_bytes() == broken.dump and said[0]["hint"] == f"quorix db replay {file}"
    assert json.loads((tmp_path / "incident" / "7-22.json").read_text())["reproduce"] == said[0]["hint"]


def test_dumps_are_read_as_they_were_written_and_damage_is_refused(broken, tmp_path):
    found = Dump.decode(broken.dump)
    assert found.encode() == broken.dump and Extrinsic.decode(found.extrinsics[0]).nonce == 0
    assert list(found.items(b"", max(found.rows))) == [] and found.get(b"nothing") is None
    for damaged in (
        b"", broken.dump[:-1], broken.dump + b"\0\0\0\1\0", b"\xff\xff\xff\xff" + broken.dump[4:],
        broken.dump[:200] + broken.dump[201:],
    ):
        with pytest.raises(DecodeError):
            Dump.decode(damaged)
    (tmp_path / "x.block").write_bytes(b"no")
    with pytest.raises(UsageError, match="no dump"):
        replay(tmp_path / "x.block")


def test_domains_are_noted_as_far_as_they_change():
    assert domains_until(9, 0, lambda height: bytes([height // 4]) * 32) == ((0, bytes(32)), (4, b"\1" * 32), (8, b"\2" * 32))
    dump = Dump(bytes(32), None, False, True, "", (), (), {}, ((0, b"a"), (4, b"b")))
    assert [dump.domain_at(height) for height in (0, 3, 4, 9)] == [b"a", b"a", b"b", b"b"]


BROKEN_FROM_BLOCK_4 = """
import sys
from runtime.modules import accounts, fees
real = fees.settle
def settle(context, *rest):
    real(context, *rest)
    if context.height >= 4:
        accounts.ACCOUNT.put(context.state, bytes(32), value=accounts.Account(10**9, 0, 0))
fees.settle = settle
from tools.cli.main import main
sys.argv[0] = "quorix"
main()
"""


# rule: INV-5
def test_a_node_whose_rules_fail_stops_with_22_before_it_votes(tmp_path):
    session = next(member.session for member in cast(1, 1) if member.session is not None)
    write_key_file(tmp_path / "keys" / "session.json", session, "session", password=None, profile="interactive")
    spec = devnet_spec(1, authorities=1, block_time_ms=100, genesis_time_ms=time.time_ns() // 1_000_000)
    (tmp_path / "spec.toml").write_text(format_spec(spec))
    environment = {name: text for name, text in os.environ.items() if not name.startswith("QUORIX_")}
    home, quorix = str(tmp_path / "node"), [sys.executable, "-c", BROKEN_FROM_BLOCK_4, "node"]
    init = ["init", "--home", home, "--spec", str(tmp_path / "spec.toml"), "--session-key", "session"]
    subprocess.run([*quorix, *init], check=True, env={**environment, "QUORIX_HOME": str(tmp_path)}, capture_output=True)
    run = [*quorix, "run", "--home", home, "--rpc-port", "0", "--p2p", "off", "--follow-stdin"]
    with subprocess.Popen(run, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as child:
        said = list(map(json.loads, child.stdout))
    (fault,) = (line for line in said if line["event"] == "fault")
    assert child.returncode == fault["code"] == 22
    file = tmp_path / "node" / "incident" / "3-22.block"
    assert fault["hint"] == f"quorix db replay {file}" and "I1" in fault["cause"]
    found = replay(file)
    assert (found["height"], found["whole_state"], found["reproduced"]) == (4, True, False)
