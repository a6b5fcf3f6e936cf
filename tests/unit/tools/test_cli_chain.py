"""Commands against a real node: one authority in a process of its own, ten blocks a second."""

import asyncio
import json
import os
import re
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec
from ledger.client.keys import encode_address, write_key_file
from ledger.client.remote import RemoteChain
from ledger.crypto import KeyPair
from ledger.errors import Aborted, DecodeError, Error, KeyLocked, NotFound, Rejected, UsageError
from tools.cli.main import cli

PATIENCE_S = 60
BLOCKS = 34  # two epochs of tempo 15


class Bench:
    """The node's address, the people of its cast, and its home."""

    def __init__(self, home, rpc):
        self.home, self.rpc = home, rpc
        self.people = {member.path: member for member in cast(1, 1)}

    def run(self, *words):
        line = [str(word) for word in words]
        return CliRunner().invoke(cli, ["--rpc", self.rpc, "--home", str(self.home), *line], standalone_mode=False)

    def json(self, *words):
        done = self.run(*words, "--json")
        assert done.exception is None, (words, done.exception)
        return json.loads(done.stdout)

    def text(self, *words):
        done = self.run(*words)
        assert done.exception is None, (words, done.exception)
        return done.stdout

    def refused(self, kind, *words):
        done = self.run(*words)
        assert isinstance(done.exception, kind), (words, done.exception, done.stdout)
        return done.exception

    def address(self, path, hot=False):
        member = self.people[path]
        return encode_address((member.hotkey if hot else member.coldkey).public)

    def free_rao(self, path):
        return int(self.json("wallet", "balance", self.address(path))["value"]["free_rao"])


@pytest.fixture(scope="module")
def node(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    home, members = folder / "home", {member.path: member for member in cast(1, 1)}
    for name, key, kind, password in (
        ("session", members["//authority//0"].session, "session", None), ("owner", members["//owner"].coldkey, "coldkey", None),
        ("safe", members["//validator//0"].coldkey, "coldkey", "correct horse"),
    ):  # fmt: skip
        write_key_file(home / "keys" / f"{name}.json", key, kind, password=password, profile="interactive")
    (folder / "right").write_text("correct horse\n")
    (folder / "wrong").write_text("battery staple\n")
    spec = devnet_spec(1, authorities=1, block_time_ms=100, genesis_time_ms=time.time_ns() // 1_000_000)
    (folder / "spec.toml").write_text(format_spec(spec))
    environment = {name: text for name, text in os.environ.items() if not name.startswith("QUORIX_")}
    quorix = [sys.executable, "-m", "tools.cli.main", "--home", str(home)]
    words = ["node", "init", "--home", str(folder / "node"), "--spec", str(folder / "spec.toml"), "--session-key", "session"]
    subprocess.run([*quorix[:3], *words], check=True, env={**environment, "QUORIX_HOME": str(home)}, capture_output=True)
    run = ["node", "run", "--home", str(folder / "node"), "--rpc-port", "0", "--p2p", "off", "--follow-stdin"]
    child = subprocess.Popen([*quorix[:3], *run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    rpc = next(line["urls"][0] for line in map(json.loads, child.stdout) if line["event"] == "rpc")
    bench = Bench(home, rpc)
    bench.folder = folder
    asyncio.run(_blocks(rpc))
    yield bench
    child.stdin.close()
    child.wait(PATIENCE_S)


async def _blocks(rpc):
    async with asyncio.timeout(PATIENCE_S), RemoteChain(rpc) as api:
        async for head in api.chain_subscribe_new_heads():
            if head.header.height >= BLOCKS:
                return


# --- money -------------------------------------------------------------------------------------------------------


def test_sending_asks_first_and_arrives(node):
    before, to = node.free_rao("//neuron//log"), node.address("//neuron//log")
    unasked = node.refused(Aborted, "wallet", "send", to, "1.5Q", "--key", "owner")
    assert unasked.exit_code == 7 and node.free_rao("//neuron//log") == before
    done = node.json("wallet", "send", to, "1.5Q", "--key", "owner", "--yes")
    assert done["error"] == "" and done["height"] > BLOCKS and node.free_rao("//neuron//log") == before + 1_500_000_000
    told = node.text("wallet", "send", to, "1r", "--key", "owner", "--yes")
    assert "accounts.transfer: ok, final in block" in told and f"to={to} amount_rao=0.000000001Q" in told
    told = node.text("wallet", "send", to, "1r", "--key", "owner", "--yes", "--wait", "pool")
    assert "in the pool, in no block yet" in told and " ok" not in told
    assert "reserved" in node.text("wallet", "balance", "owner")


def test_what_the_chain_would_refuse_is_not_sent(node):
    to = node.address("//neuron//log")
    refused = node.refused(Rejected, "wallet", "send", to, "20_000_000Q", "--key", "owner", "--yes")
    assert refused.exit_code == 1 and refused.hint and "needed_rao=20,000,000Q" in refused.cause
    assert int(refused.data["needed_rao"]) == 20_000_000 * 10**9 > int(refused.data["balance_rao"]) > 0
    for amount in ("0Q", "5", "lots"):
        assert node.refused(UsageError, "wallet", "send", to, amount, "--key", "owner", "--yes").exit_code == 2
    node.refused(NotFound, "wallet", "send", to, "1Q", "--key", "nobody", "--yes")
    node.refused(UsageError, "wallet", "send", to[:-1] + "1", "1Q", "--key", "owner", "--yes")


def test_an_encrypted_key_needs_its_password(node):
    words = ("wallet", "send", node.address("//owner"), "1r", "--key", "safe", "--yes")
    assert node.refused(KeyLocked, *words).exit_code == 5
    assert "wrong" in node.refused(KeyLocked, *words, "--password-file", node.folder / "wrong").cause
    assert node.json(*words, "--password-file", node.folder / "right")["error"] == ""


def test_bonds_proofs_and_proposals_of_a_set(node):
    """An account bonds, its key is proposed and waits for a heartbeat; the proposal of the present set ends that."""
    before = node.json("authority", "list")["authorities"]["value"]
    assert int(before[0]["bonded_rao"]) == 100 * 10**9
    node.refused(UsageError, "authority", "bond", "all", "--key", "owner", "--yes")
    node.json("authority", "bond", "100Q", "--key", "owner", "--yes")
    node.refused(Rejected, "authority", "withdraw", "--key", "owner", "--yes")
    write_key_file(node.home / "keys" / "fresh.json", KeyPair.from_seed(b"\x44" * 32), "session", password=None)
    member = node.json("authority", "proof", "fresh", "owner")["member"]
    node.refused(UsageError, "authority", "propose", "--add", member[:-2], "--key", "owner", "--yes")
    node.refused(NotFound, "authority", "propose", "--remove", member.split(",")[0], "--key", "owner", "--yes")
    node.json("authority", "propose", "--add", member, "--key", "owner", "--yes")
    listed = node.json("authority", "list")
    (waiting,) = listed["candidates"]["value"]
    assert not waiting["ready"] and waiting["heartbeat_session"] is None and len(listed["authorities"]["value"]) == 1
    said = node.text("authority", "list")
    assert "1 authority at" in said and "candidates" in said and "waits" in said
    node.refused(Rejected, "authority", "unbond", "1r", "--key", "owner", "--yes")  # a candidate keeps the least bond
    node.refused(UsageError, "authority", "propose", "--key", "owner", "--yes")
    node.json("authority", "propose", "--as-is", "--key", "owner", "--yes")
    assert node.json("authority", "list")["candidates"]["value"] == []
    node.json("authority", "unbond", "100Q", "--key", "owner", "--yes")
    old = before[0]["session_key"]
    node.refused(Rejected, "authority", "rotate-key", old, "fresh", "--key", "owner", "--yes")  # it is another's


def test_a_recovery_file_is_made_from_a_node_and_kept_by_another(node):
    session = node.json("authority", "list")["authorities"]["value"][0]["session_key"]
    fresh = KeyPair.from_seed(b"\x45" * 32)
    member = f"{encode_address(fresh.public)},{node.address('//owner')}"
    target = node.folder / "recovery.json"
    words = ["node", "recover", "make", "--reason", "a drill", "--out", target]
    node.refused(NotFound, *words, "--remove", encode_address(fresh.public))
    node.refused(DecodeError, *words, "--remove", session)  # nobody would be left
    node.refused(UsageError, *words, "--add", encode_address(fresh.public))
    made = node.json(*words, "--remove", session, "--add", member)
    assert made["session_keys"] == ["0x" + fresh.public.hex()] and made["height"] > 0
    node.refused(UsageError, *words, "--add", member)  # one file for all: it is not overwritten
    home = node.folder / "follower"
    assert node.run("node", "init", "--home", home, "--spec", node.folder / "spec.toml").exception is None
    said = node.run("node", "recover", "apply", target, "--home", home)
    assert said.exception is None and "checks the file when it gets there" in said.stderr
    assert [path.name for path in (home / "recovery").iterdir()] == [f"{made['height']:020}.json"]
    target.write_text(target.read_text().replace("a drill", "no drill"))
    node.refused(UsageError, "node", "recover", "apply", target, "--home", home)  # another file for the same height


def test_stake_goes_on_and_comes_back(node):
    hotkey = node.address("//validator//1", hot=True)
    public = "0x" + node.people["//validator//1"].hotkey.public.hex()

    def staked_rao():
        rows = [row for row in node.json("stake", "list", "owner")["value"] if row["hotkey"] == public]
        return sum(int(row["stake_rao"]) + int(row["pending_rao"]) for row in rows)

    node.json("stake", "add", hotkey, "1", "25Q", "--key", "owner", "--yes")
    assert staked_rao() >= 25 * 10**9 and hotkey in node.text("stake", "list", "owner")
    node.json("stake", "remove", hotkey, "1", "all", "--key", "owner", "--yes")
    assert staked_rao() == 0
    node.refused(UsageError, "stake", "add", hotkey, "1", "0r", "--key", "owner", "--yes")
    node.refused(Rejected, "stake", "add", hotkey, "9", "1Q", "--key", "owner", "--yes")


# --- looking -----------------------------------------------------------------------------------------------------


def test_subnets_and_their_neurons(node):
    rows = node.json("subnet", "list")["value"]
    assert [row["name"] for row in rows] == ["prose", "records"] and "prose" in node.text("subnet", "list")
    assert node.json("subnet", "show", "1")["subnet"]["tempo"] == 15 and "tempo" in node.text("subnet", "show", "1")
    neurons = node.json("subnet", "metagraph", "1")["value"]["neurons"]
    assert {n["name"] for n in neurons} >= {"validator-0", "code", "generalist", "gateway"}
    assert "validator-0" in node.text("subnet", "metagraph", "1", "--sort", "stake_rao")
    lines = node.text("subnet", "metagraph", "1", "--csv").splitlines()
    assert lines[0].startswith("uid,hotkey") and len(lines) == len(neurons) + 1
    node.refused(NotFound, "subnet", "show", "77")
    done = node.run("subnet", "metagraph", "1", "--sort", "colour")
    assert done.exception is not None and "is no column" in str(done.exception)


def test_weights_and_epochs(node):
    assert node.json("weights", "show", "1")["rows"] == [] and "weights on subnet 1" in node.text("weights", "show", "1")
    epochs = [row["epoch"] for row in node.json("epoch", "list", "1")["items"]]
    assert epochs == sorted(epochs, reverse=True) and set(epochs) >= {0, 1} and "validators" in node.text("epoch", "list", "1")
    explained = node.json("epoch", "explain", "1", "latest")
    assert explained["epoch"] >= 1 and "validator-0" in explained["names"]
    whole = node.text("epoch", "explain", "1", "0")
    assert "stake -> voting share" in whole and "dividends" in whole
    assert "1. stake" in node.text("epoch", "explain", "1", "0", "--step", "stake", "--uid", "0")
    node.refused(NotFound, "epoch", "explain", "1", "9999")
    for words in (("1", "x"), ("1", "0", "--uid", "999")):
        node.refused(UsageError, "epoch", "explain", *words)


def test_a_vote_by_hand_is_committed_revealed_and_applied(node):
    key = node.people["//validator//2"].hotkey
    write_key_file(node.home / "keys" / "voter.json", key, "hotkey", password=None, profile="interactive")
    words = ("weights", "commit", "1", "3=1", "4=0.5", "--key", "voter")
    assert node.json(*words, "--dry-run")["values"] == [65535, 32767]
    for wrong in ("3", "3=-1", "3=0", "70000=1", "3=1e5"):
        node.refused(UsageError, "weights", "commit", "1", wrong, "--key", "voter", "--yes")
    node.refused(UsageError, "weights", "commit", "1", "3=1", "3=2", "--key", "voter", "--yes")
    assert "nothing to reveal" in node.text("weights", "reveal", "1", "--key", "voter")

    def committed():
        done = node.run(*words, "--by-hand", "--yes")
        return "" if isinstance(done.exception, UsageError) or "committed late" in done.stdout else done.stdout

    told = until(node, committed)
    assert re.search(r"epoch \d+: committed; reveal it in epoch \d+: quorix weights reveal 1 --key voter", told), told
    until(node, lambda: "revealed" in node.run("weights", "reveal", "1", "--key", "voter").stdout)
    (row,) = until(node, lambda: node.json("weights", "show", "1")["rows"])
    assert (row["uid"], row["uids"], row["values"]) == (2, [3, 4], [65535, 32767])


def test_blocks_by_height_hash_and_name(node):
    first = node.json("query", "block", "1")
    assert first["header"]["height"] == 1 and node.json("query", "block", first["header"]["hash"]) == first
    assert node.json("query", "block")["header"]["height"] >= BLOCKS
    assert "state root" in node.text("query", "block", "latest")
    assert node.refused(NotFound, "query", "block", "999999").exit_code == 3
    paid = node.text("query", "events", "EmissionPaid", "--limit", "1")
    assert re.search(r"validators_rao=[0-9.]+Q for 3 of 9 uids", paid), paid
    assert "sink=pot amount_rao=1Q" in node.text("query", "block", "1")
    assert node.refused(NotFound, "query", "events", "EmissionPayed").hint == "did you mean EmissionPaid?"
    assert "no event NetworkRemoved so far" in node.run("query", "events", "NetworkRemoved").stderr


def test_the_version_of_the_rules_is_shown(node):
    found = node.json("query", "upgrade")["value"]
    assert found["version"] is None and found["runtime_version"] in found["known_versions"] and not found["warning"]
    for words in (("query", "upgrade"), ("node", "status")):
        assert f"version {found['runtime_version']}; this node can run" in node.text(*words)


def test_the_rules_are_described(node):
    found = node.json("query", "metadata")
    assert next(call for call in found["calls"] if call["name"] == "stake.transfer")["args"][0] == ["to", "key"]
    assert int(found["constants"]["registration.ROOT_SEATS"]) == 64 and len(found["params"]) > 80
    assert "keyring.swap_coldkey" in node.text("query", "metadata")


def test_state_and_a_proof_that_is_checked_without_a_node(node, tmp_path):
    raw = node.json("query", "state", f"account/{node.address('//owner')}")
    assert raw["value"].startswith("0x")
    proven = node.run("query", "state", f"account/{node.address('//owner')}", "account/0x" + "11" * 32, "--proof")
    proof = tmp_path / "proof.json"
    proof.write_text(proven.stdout)
    words = ("query", "proof", "verify", proof, "--genesis", node.folder / "spec.toml")
    nowhere = CliRunner().invoke(cli, ["--rpc", "http://127.0.0.1:1", "--json", *map(str, words)], standalone_mode=False)
    answer = json.loads(nowhere.stdout)
    assert answer["ok"] and answer["entries"] == json.loads(proven.stdout)["entries"]
    assert [entry["value"] for entry in answer["entries"]] == [raw["value"], None]
    said = node.text(*words)
    assert "valid" in said and "by no change of the authority set" in said
    assert f"account/{node.address('//owner')}  {raw['value']}" in said
    forged = json.loads(proven.stdout)
    forged["entries"][0]["value"] = "0x00"
    proof.write_text(json.dumps(forged))
    assert node.refused(Rejected, *words).error_name == "BadProof"
    proof.write_text("")
    assert "it is not JSON" in node.refused(UsageError, *words).cause
    for text in ("{", "[]", '{"at": 1}'):
        proof.write_text(text)
        node.refused(Error, *words)
    several = node.json("query", "state", f"account/{node.address('//owner')}", "account/0x" + "11" * 32)
    assert [each["value"] for each in several] == [raw["value"], None] and several[0]["at"] == several[1]["at"]
    assert [each["key"] for each in several] == [entry["key"] for entry in answer["entries"]]
    assert several[0] == {"key": raw["key"], "at": several[0]["at"], "value": raw["value"]}
    node.refused(UsageError, "query", "state", "0x00", "--checkpoint", "1")
    node.refused(UsageError, "query", "state", "0x00", "--proof", "--checkpoint", "999999")


@pytest.mark.parametrize("key", ["nothing/1", "account", "account/x", "0xzz", "weights/1", "weights/x/1", "weights/70000/1"])
def test_state_keys_that_make_no_sense(node, key):
    assert node.refused(Error, "query", "state", key).exit_code in (2, 3)


# --- governance, proxies, keys, subnets --------------------------------------------------------------------------


def until(node, what, seconds=PATIENCE_S):
    """What a reading function gives, once it gives something."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.1)
    return found


@pytest.fixture(scope="module")
def people(node):
    """Key files of validators and of some fresh keys, with a little money."""
    for index in range(3):
        member = node.people[f"//validator//{index}"]
        for suffix, key, kind in (("", member.coldkey, "coldkey"), ("-hot", member.hotkey, "hotkey")):
            write_key_file(node.home / "keys" / f"validator{index}{suffix}.json", key, kind, password=None)
    for index, name in enumerate(("delegate", "newhot", "newcold")):
        key = KeyPair.from_seed(bytes([0x60 + index]) * 32)
        write_key_file(node.home / "keys" / f"{name}.json", key, "coldkey", password=None)
    node.json("wallet", "send", "delegate", "5Q", "--key", "owner", "--yes")
    return node


def test_a_proposal_is_made_voted_and_enacted(people):
    node = people
    words = ("governance", "propose", "governance.set_global_param", "name=fee_base_rao", "value=2000")
    node.refused(Aborted, *words, "--key", "validator0")
    shown = node.text(*words, "--key", "validator0", "--dry-run")
    assert "propose governance.set_global_param(name=fee_base_rao, value=2000)" in shown and "nothing was sent" in shown
    assert "Proposed" in shown and "fee " in shown and node.json("governance", "list")["open"]["value"] == []
    node.refused(NotFound, *words, "--key", "owner", "--yes")  # it has no seat
    node.json(*words, "--key", "validator0", "--yes")
    (proposal,) = node.json("governance", "list")["open"]["value"]
    number = proposal["number"]
    assert proposal["proposed"] == {"call": "governance.set_global_param", "args": {"name": "fee_base_rao", "value": 2000}}
    assert "voting" in node.text("governance", "list")
    node.json("governance", "vote", number, "nay", "--key", "validator2", "--yes")
    shown = node.text("governance", "show", number)
    assert "validator-2" in shown and "nay" in shown and "turnout" in shown and "the vote ends" in shown
    for who in ("validator0", "validator1"):
        node.json("governance", "vote", number, "aye", "--key", who, "--yes")
    done = until(node, lambda: node.json("governance", "list")["closed"])
    assert done[0]["name"] == "ProposalExecuted" and done[0]["fields"]["error"] == ""
    assert "executed: governance.set_global_param ok" in node.text("governance", "list")
    assert next(p for p in node.json("governance", "params")["value"] if p["name"] == "fee_base_rao")["value"] == 2000
    gone = node.refused(NotFound, "governance", "show", number)
    assert "closed: executed: governance.set_global_param ok, in block" in gone.cause
    node.refused(NotFound, "governance", "vote", number, "aye", "--key", "validator0", "--yes")
    node.json("governance", "sudo", "governance.set_global_param", "fee_base_rao", "1000", "--key", "owner", "--yes")
    words = ("governance", "sudo", "governance.set_global_param", "fee_base_rao", "1", "--key", "delegate", "--yes")
    node.refused(Rejected, *words)
    node.refused(Rejected, "governance", "propose", "accounts.faucet", "1Q", "--key", "validator0", "--yes")
    misspelt = ("governance.set_global_param", "name=fee_bas_rao", "value=2000")
    refused = node.refused(UsageError, "governance", "propose", *misspelt, "--key", "validator0", "--yes")
    assert "did you mean fee_base_rao" in refused.hint and node.json("governance", "list")["open"]["value"] == []
    outside = {"call": "governance.set_subnet_param", "args": {"netuid": 1, "name": "kappa", "value": 65536}}
    words = ("governance", "propose", "keyring.batch", "--key", "validator0", "--yes")
    assert "allowed are" in node.refused(UsageError, *words, json.dumps([outside])).cause


def test_root_seats_propose_a_set_of_authorities(people):
    node, seat = people, ("--key", "validator0")
    write_key_file(node.home / "keys" / "joins.json", KeyPair.from_seed(b"\x47" * 32), "session", password=None)
    member = node.json("authority", "proof", "joins", "owner")["member"]
    fresh, owner, proof = member.split(",")
    present = node.json("authority", "list")["authorities"]["value"][0]["session_key"]
    words = ("authority", "propose-set", "--add", member)
    shown = node.text(*words, *seat, "--dry-run")
    assert "an authority set of 2" in shown and "1 stay" in shown and f"joins  {fresh} of {owner}" in shown
    assert "Proposed" in shown and "nothing was sent" in shown
    assert f"leaves {address_of(present)}" in node.text(*words, "--remove", present, *seat, "--dry-run")
    assert node.json(*words, *seat, "--dry-run")["ok"]
    node.refused(NotFound, *words, "--key", "owner", "--yes")  # it has no seat
    node.refused(UsageError, "authority", "propose-set", *seat, "--yes")  # nothing is to change
    node.refused(UsageError, "authority", "propose-set", "--remove", present, *seat, "--yes")  # nobody would be left
    for cause, line in (
        ("possession", f"{fresh},{owner},{'00' * 64}"), ("possession", f"{fresh},{node.address('//neuron//log')},{proof}"),
        ("already", f"{address_of(present)},{owner},{proof}"),
    ):  # fmt: skip
        assert cause in node.refused(UsageError, "authority", "propose-set", "--add", line, *seat, "--yes").cause
    assert "already" in node.refused(UsageError, *words, "--add", member, *seat, "--yes").cause  # named twice
    node.json("authority", "propose-set", "--as-is", *seat, "--yes")
    (proposal,) = node.json("governance", "list")["open"]["value"]
    assert proposal["proposed"]["call"] == "authorities.propose_set"
    for who in ("validator0", "validator1", "validator2"):
        if node.json("governance", "list")["open"]["value"]:
            node.run("governance", "cancel", proposal["number"], "--key", who, "--yes")
    assert node.json("governance", "list")["open"]["value"] == []


def address_of(text):
    return encode_address(bytes.fromhex(text.removeprefix("0x")))


@pytest.mark.long
def test_a_proposal_can_be_cancelled(people):
    node = people
    inner = {"call": "governance.set_subnet_param", "args": {"netuid": 1, "name": "kappa", "value": 40000}}
    told = node.text("governance", "propose", "keyring.batch", json.dumps([inner]), "--key", "validator1", "--yes")
    (proposal,) = node.json("governance", "list")["open"]["value"]
    assert f"Proposed number={proposal['number']} " in told
    for shown in (node.text("governance", "list"), node.text("governance", "show", proposal["number"])):
        assert "governance.set_subnet_param(netuid=1, name=kappa, value=40000)" in shown
    for index in range(3):
        if node.json("governance", "list")["open"]["value"]:
            node.json("governance", "cancel", proposal["number"], "--key", f"validator{index}", "--yes")
    assert node.json("governance", "list")["open"]["value"] == []
    assert "cancelled" in node.text("governance", "list")


def test_a_proxy_runs_what_its_kind_allows_and_after_its_delay(people):
    node, hotkey = people, node_hotkey(people)
    add = ("proxy", "add", "delegate", "--kind", "staking", "--key", "validator0", "--yes")
    assert "has no proxies" in node.run("proxy", "list", "validator0").stderr
    call = ("validator0", "stake.add", f"hotkey={hotkey}", "netuid=1", "amount_rao=2Q", "--key", "delegate", "--yes")
    assert "no proxy" in node.refused(NotFound, "proxy", "run", *call).cause
    node.json(*add)
    assert node.json("proxy", "run", *call)["error"] == ""
    send = ("validator0", "accounts.transfer", "owner", "1Q", "yes", "--key", "delegate", "--yes")
    assert node.refused(Rejected, "proxy", "run", *send).error_name == "Unproxyable"
    node.refused(Rejected, *add)  # it has this right
    node.json("proxy", "remove", *add[2:])
    slow = ("delegate", "--kind", "any", "--delay", "90000", "--key", "validator0", "--yes")
    node.json("proxy", "add", *slow)
    assert node.refused(Rejected, "proxy", "run", *send).error_name == "NotAnnounced"
    node.json("proxy", "announce", *send)
    assert "can run in block" in node.refused(UsageError, "proxy", "run", *send).cause
    assert "of that kind" in node.refused(NotFound, "proxy", "remove", "delegate", "--kind", "weights", *slow[5:]).cause
    node.json("proxy", "remove", "delegate", *slow[5:])  # the only one: kind and delay need not be said
    node.json("proxy", "add", "delegate", "--kind", "any", "--delay", "2", "--key", "validator0", "--yes")
    node.json("proxy", "announce", *send)
    listed = node.json("proxy", "list", "validator0")["value"]
    assert [p["kind"] for p in listed["proxies"]] == ["any"]
    hashed = listed["announcements"][0]["call_hash"]
    assert hashed in node.text("proxy", "list", "validator0")
    until(node, lambda: node.run("proxy", "run", *send).exception is None)
    node.json("proxy", "announce", *send)
    node.json("proxy", "withdraw", "validator0", hashed, "--delegate", "delegate", "--key", "validator0", "--yes")
    assert node.json("proxy", "list", "validator0")["value"]["announcements"] == []
    node.refused(UsageError, "proxy", "add", "delegate", "--kind", "king", "--key", "validator0", "--yes")


def node_hotkey(node):
    return node.address("//validator//0", hot=True)


def test_calls_by_name_one_by_one_and_in_batches(people, tmp_path):
    node = people
    names = {entry["name"] for entry in node.json("tx", "calls")}
    assert {"stake.add", "keyring.batch", "governance.propose"} <= names
    assert "amount_rao=<u64?>" in node.text("tx", "calls", "accounts.transfer")
    assert "accounts.transfer" in node.refused(NotFound, "tx", "calls", "accounts.transfr").hint
    node.json("tx", "send", "accounts.transfer", "to=delegate", "amount_rao=1r", "keep_alive=yes", "--key", "owner", "--yes")
    batch = tmp_path / "batch.json"
    good = {"call": "accounts.transfer", "args": ["delegate", "1r", True]}
    bad = {"call": "accounts.transfer", "args": {"to": "delegate", "amount_rao": "20_000_000Q", "keep_alive": True}}
    batch.write_text(json.dumps([good, bad]))
    node.refused(Rejected, "tx", "batch", batch, "--key", "owner", "--yes")
    done = node.json("tx", "batch", batch, "--each", "--key", "owner", "--yes")
    assert [e["name"] for e in done["events"] if e["name"] == "BatchItemFailed"] == ["BatchItemFailed"]
    shown = node.text("query", "extrinsic", done["id"])
    assert "keyring.batch_each" in shown and "BatchItemFailed" in shown and "final in block" in shown
    inner = node.json("query", "extrinsic", done["id"])["args"]["calls"]
    assert [each["call"] for each in inner] == ["accounts.transfer"] * 2 and inner[0]["args"]["amount_rao"] == 1
    node.refused(NotFound, "query", "extrinsic", "0x" + "00" * 32)
    node.refused(UsageError, "query", "extrinsic", "0x00")


@pytest.mark.long
def test_children_takes_and_moved_stake(people):
    node, hotkey, child = people, node_hotkey(people), people.address("//validator//1", hot=True)
    own = ("--key", "validator0", "--yes")
    node.json("stake", "children", "set", hotkey, "1", f"{child}=25%", *own)
    (waiting,) = node.json("stake", "children", "show", hotkey)["value"]["pending"]
    assert waiting["children"][0]["share"] == str((1 << 62) - 1) and "25.00 %" in node.text("stake", "children", "show", hotkey)
    node.refused(UsageError, "stake", "children", "set", hotkey, "1", child, *own)
    node.refused(UsageError, "stake", "children", "set", hotkey, "1", f"{child}=125%", *own)
    node.json("stake", "children", "take", hotkey, "1", "5%", *own)
    assert node.json("stake", "children", "show", hotkey)["value"]["takes"][0]["netuid"] == 1
    node.json("stake", "take", hotkey, "3%", *own)
    node.json("stake", "take", hotkey, "2%", *own)
    node.json("stake", "add", hotkey, "1", "9Q", *own)
    node.json("stake", "move", hotkey, "1", child, "2", "3Q", *own)
    node.json("stake", "transfer", "owner", hotkey, "1", "1", "2Q", *own)
    assert any(row["hotkey"] == "0x" + node.people["//validator//1"].hotkey.public.hex() and row["netuid"] == 2
               for row in node.json("stake", "list", "validator0")["value"])
    node.refused(Rejected, "stake", "move", hotkey, "1", child, "9", "3Q", *own)


@pytest.mark.long
def test_identities_and_what_an_owner_does_with_a_subnet(people):
    node, own = people, ("--key", "owner", "--yes")
    assert "says nothing" in node.run("wallet", "identity", "show", "validator1").stderr
    node.json("wallet", "identity", "set", "--name", "Ada", "--url", "https://ada.example", "--key", "validator1", "--yes")
    assert "https://ada.example" in node.text("wallet", "identity", "show", "validator1")
    assert "Ada" in node.text("query", "account", "validator1")
    node.json("wallet", "identity", "clear", "--key", "validator1", "--yes")
    node.json("subnet", "set-identity", "1", "--name", "Prose", "--task", "next-byte", *own)
    shown = node.json("subnet", "show", "1")
    assert shown["identity"]["task"] == shown["subnet"]["task"] == "next-byte"
    assert "the owner says" in node.text("subnet", "show", "1")
    assert any(p["name"] == "tempo" for p in node.json("subnet", "params", "1")["value"])
    node.refused(Rejected, "subnet", "set-param", "1", "tempo", "20", "--key", "validator1", "--yes")
    created = node.json("subnet", "create", "third", "--hotkey", "delegate", "--max-lock", "3Q", "--key", "delegate", "--yes")
    assert created["error"] == "" and [s["name"] for s in node.json("subnet", "list")["value"]][-1] == "third"
    node.json("subnet", "start", "3", "--key", "delegate", "--yes")
    node.json("subnet", "register", "3", "--hotkey", "validator1-hot", "--max-price", "5Q", "--key", "validator1", "--yes")
    hotkey = node.address("//validator//1", hot=True)
    until(node, lambda: "validator-1" in {n["name"] for n in node.json("subnet", "metagraph", "3")["value"]["neurons"]})
    node.json("subnet", "transfer", "3", "validator1", hotkey, "--key", "delegate", "--yes")
    owner = "0x" + node.people["//validator//1"].coldkey.public.hex()
    assert node.json("subnet", "show", "3")["subnet"]["owner_coldkey"] == owner
    node.refused(Rejected, "subnet", "dissolve", "3", "--key", "validator1", "--yes")  # it is immune
    node.json("governance", "sudo", "subnets.dissolve", "3", *own)
    until(node, lambda: [s["name"] for s in node.json("subnet", "list")["value"]] == ["prose", "records"])
    node.refused(Rejected, "subnet", "keep", "1", *own)
    node.refused(Rejected, "subnet", "challenge", "x", "--hotkey", "delegate", "--max-lock", "1Q", "--key", "delegate", "--yes")


@pytest.mark.long
def test_keys_are_swapped_and_announced(people):
    node = people
    hotkey = node.address("//validator//2", hot=True)
    node.json("key", "swap-hotkey", hotkey, "newhot", "--key", "validator2", "--yes")
    fresh = "0x" + KeyPair.from_seed(bytes([0x61]) * 32).public.hex()
    assert fresh in {n["hotkey"] for n in node.json("subnet", "metagraph", "1")["value"]["neurons"]}
    assert "the next is possible in block" in node.text("wallet", "swap", "show", "validator2")
    proof = node.json("key", "prove", "newcold", "owner")
    assert len(proof["proof"]) == 130
    node.json("key", "associate", "newcold", "--key", "owner", "--yes")
    node.refused(Rejected, "key", "associate", "newcold", "--key", "delegate", "--yes")
    node.json("wallet", "swap", "announce", "0x" + KeyPair.from_seed(b"\x70" * 32).public.hex(), "--key", "validator2", "--yes")
    assert "can be made" in node.text("wallet", "swap", "show", "validator2")
    node.refused(Rejected, "wallet", "swap", "clear", "--key", "validator2", "--yes")
    refused = node.refused(Rejected, "wallet", "send", "owner", "1r", "--key", "validator2", "--yes")
    assert refused.error_name == "ColdkeySwapAnnounced"
    node.refused(Rejected, "wallet", "swap", "run", "newcold", "--key", "validator2", "--yes")


def test_accounts_and_their_history(people):
    node = people
    for _ in range(3):
        node.json("wallet", "send", "delegate", "1Q", "--key", "owner", "--yes")
    page = node.json("query", "account", "owner", "--history", "--limit", "2")
    assert len(page["items"]) == 2 and page["next"]
    older = node.json("query", "account", "owner", "--history", "--limit", "2", "--after", page["next"])
    assert older["items"][0]["nonce"] == page["items"][1]["nonce"] - 1
    assert "accounts.transfer" in node.text("query", "account", "owner", "--history")
    node.json("proxy", "add", "delegate", "--kind", "staking", "--key", "validator1", "--yes")
    shown = node.text("query", "account", "validator1")
    assert "proxy" in shown and "owns hotkey" in shown
    assert "authority's bond" in node.text("query", "account", node.address("//authority//0"))
    assert {e["name"] for e in node.json("query", "events", "ProxyAdded")["items"]} == {"ProxyAdded"}
    node.refused(NotFound, "query", "events", "Nothing")
