"""The chain API on a real chain: every method answers, its answer survives JSON, and the numbers agree with each other."""


import json

import pytest

from ledger.blocks import Extrinsic
from ledger.client.calls import Wallet
from ledger.client.light import verify_state_proof
from ledger.client.records import from_json, to_json
from ledger.client.registry import methods
from ledger.errors import DecodeError, Error, NotFound, Rejected, UsageError
from runtime.modules import accounts
from tests.harness import Market, run
from tools.rpc.jsonrpc import Caller, Dispatcher
from tools.rpc.limits import Limits
from tools.rpc.methods import NodeApi

HEIGHT = 34  # two epochs of tempo 15 have run


@pytest.fixture(scope="module")
def answers():
    """Everything the tests look at, from one short life of a chain."""
    return run(_life())


async def _life():
    async with Market(authorities=1, block_time_ms=250) as market:
        (node,) = market.nodes
        ended = []
        api = NodeApi(node, market.spec, "9.9", lambda: ended.append(True))
        sender, receiver = market.account("validator", "0"), market.account("owner", "")
        out = {"market": market, "ended": ended, "api": api, "before": await api.chain_get_header()}
        wallet = Wallet(api, sender)
        out["done"] = await wallet.submit("accounts.transfer", to=receiver.public, amount_rao=7, keep_alive=True)
        out["failed"] = await wallet.submit(
            "accounts.transfer", to=receiver.public, amount_rao=10**18, keep_alive=True, check=False
        )
        with pytest.raises(Rejected) as caught:
            await wallet.submit("accounts.transfer", to=receiver.public, amount_rao=10**18, keep_alive=True)
        out["raised"] = caught.value
        await market.reach(HEIGHT)
        out["waiting"] = Extrinsic.sign(
            sender, market.genesis.genesis_hash, node.tip.hash, nonce=await api.author_next_nonce(sender.public),
            birth_height=node.tip.height, call_number=1, args=[receiver.public, 1, True],
        )
        await api.author_submit_extrinsic(out["waiting"].encode())
        out["pending"] = await api.author_pending_extrinsics()
        out["next_nonce"] = await api.author_next_nonce(sender.public)
        samples = {
            "chain_getBlockHash": {"height": 3}, "chain_getExtrinsic": {"id": out["done"].id},
            "state_get": {"key": accounts.ACCOUNT.key(sender.public)}, "state_getKeys": {"prefix": b""},
            "state_getProof": {"key": accounts.ACCOUNT.key(sender.public)}, "subnet_getNeuron": {"netuid": 1, "uid": 0},
            "state_getProofs": {"keys": [accounts.ACCOUNT.key(sender.public), b"absent"]},
            "account_get": {"account": sender.public}, "account_stakes": {"account": sender.public},
            **{f"account_{what}": {"account": sender.public} for what in ("history", "identity", "proxies", "swaps", "bond")},
            "account_relations": {"hotkey": sender.public}, "gov_get": {"number": 0},
            "author_nextNonce": {"account": sender.public},
            "admin_cutPeers": {"peers": []},
            "author_submitExtrinsic": {"extrinsic": b"\1" * 70}, "author_dryRun": {"extrinsic": out["waiting"].encode()},
        }
        out["all"] = {}
        for name, method in methods().items():
            arguments = samples.get(name) or ({"netuid": 1} if any(p.name == "netuid" for p in method.parameters) else {})
            try:
                if method.subscription:
                    out["all"][name] = await anext(getattr(api, method.name)(start=2))
                else:
                    out["all"][name] = await getattr(api, method.name)(**arguments)
            except Error as error:
                out["all"][name] = error
        out["errors"] = await _errors(api)
        like_it = out["done"].id[:-1] + bytes((out["done"].id[-1] ^ 1,))
        with pytest.raises(NotFound):
            await api.chain_get_extrinsic(like_it)  # the index knows only the beginning of an id
        out["pages"] = await _pages(api, sender.public)
        out["past"] = await api.account_get(receiver.public, 1)
        out["batch"] = await _over_the_wire(api)
        return out


async def _errors(api):
    """(method, arguments) -> class of the error."""
    wrong = [
        ("chain_get_header", [HEIGHT * 10]), ("chain_get_header", [-1]), ("chain_get_header", ["0x" + "00" * 32]),
        ("chain_get_header", ["0x12"]), ("chain_get_header", ["0xzz"]), ("chain_get_header", ["latest"]),
        ("chain_get_block", [0]), ("chain_get_proof_of_finality", [0]), ("chain_get_headers", [None, 0]),
        ("chain_get_headers", [None, 1001]), ("chain_get_extrinsic", [b"\1" * 32]), ("chain_get_extrinsic", [b"\1"]),
        ("state_get", [b"k" * 2000]), ("state_get_keys", [b"", b"", 1001]), ("state_get_proof", [b"k" * 2000]),
        ("state_get_proofs", [[b"k" * 2000]]), ("state_get_proofs", [[]]), ("state_get_proofs", [[b"k"], "head", 10**9]),
        ("author_submit_extrinsic", [b""]), ("author_dry_run", [b"\0" * 80]), ("author_next_nonce", [b"short"]),
        ("author_pending_extrinsics", [0]), ("account_get", [b""]), ("account_history", [b"\1" * 32, "x"]),
        ("account_history", [b"\1" * 32, "1:2"]), ("subnet_get", [9]), ("subnet_get", [-1]), ("subnet_get", [1 << 40]),
        ("subnet_get_metagraph", [9]), ("subnet_get_neuron", [1, 999]), ("subnet_get_neuron", [1, -1]),
        ("subnet_get_neuron", [1, 1 << 50]), ("subnet_get_weights", [9]), ("epoch_list", [9]), ("epoch_list", [1, "a"]),
        ("epoch_list", [1, "9" * 15]), ("epoch_explain", [1, 999]), ("epoch_explain", [9]), ("epoch_explain", [1, -1]),
        ("epoch_explain", [1, 1 << 33]), ("events_query", ["Nothing"]), ("events_query", [None, "5"]),
        ("subnet_get_receipt_roots", [1, -1]), ("dev_seal", [1]), ("account_identity", [b"\1"]), ("account_proxies", [b""]),
        ("account_relations", [b"\1" * 33]), ("account_swaps", [b"\1" * 31]), ("account_bond", [b""]),
        ("account_bond", [b"\1" * 32, 10**9]), ("subnet_get_identity", [9]), ("subnet_get_identity", [-1]),
        ("subnet_get_relations", [9]), ("subnet_get_challenge", [1 << 40]), ("gov_get", [0]), ("gov_get", [-1]),
        ("gov_get", [1 << 60]), ("gov_list", ["nowhere"]), ("gov_get_params", [-1]),
    ]
    out = []
    for method, arguments in wrong:
        try:
            out.append((method, arguments, await getattr(api, method)(*arguments)))
        except Error as error:
            out.append((method, arguments, error))
    return out


async def _pages(api, account):
    """Whole lists, read in small pages."""
    out = {}
    for name, first in (
        ("events", lambda after: api.events_query(None, after, 7)),
        ("minted", lambda after: api.events_query("Minted", after, 4)),
        ("history", lambda after: api.account_history(account, after, 1)),
        ("history of a far cursor", lambda after: api.account_history(account, after or "9" * 20, 1)),
        ("epochs", lambda after: api.epoch_list(1, after, 1)),
    ):
        items, after = [], None
        for _ in range(500):
            page = await first(after)
            items += page.items
            after = page.next
            if after is None:
                break
        out[name] = items
    return out


async def _over_the_wire(api):
    requests = [{"jsonrpc": "2.0", "id": n, "method": "chain_getBlock", "params": [n]} for n in range(1, 30)]
    return json.loads(await Dispatcher(api, Limits()).answer(json.dumps(requests), Caller("")))


def test_every_method_answers_and_its_answer_survives_json(answers):
    assert set(answers["all"]) == set(methods())
    for name, answer in answers["all"].items():
        if isinstance(answer, Error):
            assert name in ("author_submitExtrinsic", "dev_seal", "gov_get"), (name, answer)
            continue
        kind = methods()[name].returns
        assert from_json(kind, json.loads(json.dumps(to_json(answer))), name) == answer, name


def test_wrong_arguments_get_a_typed_error_and_never_a_bug(answers):
    for method, arguments, answer in answers["errors"]:
        assert isinstance(answer, NotFound | DecodeError | Rejected | UsageError), (method, arguments, answer)


def test_blocks_headers_and_extrinsics_agree(answers):
    done = answers["done"]
    block = answers["batch"][done.height - 1]["result"]
    assert block["header"]["height"] == done.height
    record = answers["all"]["chain_getExtrinsic"]
    assert (record.height, record.index, record.id) == (done.height, done.index, done.id)
    assert to_json(record) in block["extrinsics"]
    assert record.call == "accounts.transfer" and record.args["amount_rao"] == 7
    assert {event.name for event in record.events} >= {"Transfer"}
    assert block["certificate"]["block_hash"] == block["header"]["hash"]
    headers = answers["all"]["chain_getHeaders"]
    assert [header.height for header in headers] == list(range(headers[0].height, headers[0].height - 20, -1))
    for later, earlier in zip(headers, headers[1:], strict=False):
        assert later.parent_hash == earlier.hash
    assert answers["all"]["chain_subscribeNewHeads"].header.height == 2


def test_the_genesis_has_a_header_record_with_its_hash(answers):
    before = answers["before"]
    assert (before.height, before.hash) == (0, answers["market"].genesis.genesis_hash)


def test_outcomes_of_calls(answers):
    done, failed, raised = answers["done"], answers["failed"], answers["raised"]
    assert done.ok and done.fee_rao > 0
    assert not failed.ok and failed.error == raised.error_name == "InsufficientBalance" and raised.hint
    assert [record.id for record in answers["pending"]] == [answers["waiting"].id]
    assert answers["pending"][0].height is None
    assert answers["next_nonce"] == answers["waiting"].nonce + 1
    dry = answers["all"]["author_dryRun"]
    assert dry.ok and dry.fee_rao > 0 and [event.name for event in dry.events]


def test_the_supply_adds_up_to_the_last_unit(answers):
    supply = answers["all"]["chain_getSupply"].value
    parts = ("free", "reserved", "staked", "pending_stake", "unbonding", "root_due", "pots", "locks")
    assert sum(getattr(supply, f"{part}_rao") for part in parts) == supply.issuance_rao


def test_a_state_proof_is_believed_by_the_light_client(answers):
    market, proof = answers["market"], answers["all"]["state_getProof"]
    header = verify_state_proof(proof, market.genesis.genesis_hash, market.genesis.authorities.keys)
    assert header.height == proof.at.height and proof.value is not None


def test_the_past_is_readable(answers):
    assert answers["past"].at.height == 1
    assert answers["past"].value.free_rao != answers["all"]["account_get"].value.free_rao


def test_epochs_are_listed_and_explained(answers):
    epochs, trace = answers["pages"]["epochs"], answers["all"]["epoch_explain"]
    assert [epoch.epoch for epoch in epochs] == sorted({epoch.epoch for epoch in epochs}, reverse=True) and epochs
    assert trace.epoch == epochs[0].epoch and len(trace.hotkeys) == len(trace.names)
    assert "generalist" in trace.names and trace.trace
    graph = answers["all"]["subnet_getMetagraph"].value
    assert {neuron.name for neuron in graph.neurons} >= {"code", "english", "generalist"}


def test_pages_join_to_whole_lists_without_gap_or_repeat(answers):
    events = answers["pages"]["events"]
    places = [(event.height, event.index) for event in events]
    assert places == sorted(set(places), reverse=True)
    minted = [event for event in events if event.name == "Minted"]
    assert answers["pages"]["minted"] == minted and len(minted) >= HEIGHT
    history = answers["pages"]["history"]
    assert answers["pages"]["history of a far cursor"] == history
    assert [record.nonce for record in history if record.signer == history[0].signer] == [2, 1, 0]


def test_authorities_and_metadata(answers):
    (authority,) = answers["all"]["chain_getAuthorities"].value
    assert authority.active and authority.led > 0
    metadata = answers["all"]["state_getMetadata"]
    assert "accounts.transfer" in {call.name for call in metadata.calls}
    assert metadata.tables["account"] == 1 and "EpochRan" in metadata.events
    rows = {table.name: table for table in metadata.table_rows}
    assert [(part.name, part.width) for part in rows["uid"].key] == [("netuid", 2), ("hotkey", 32)]
    assert metadata.constants["children.MAX_CHILDREN"] == 5 and metadata.inherents["heartbeat"] == 2
    assert {param.name for param in metadata.params} >= {"tempo", "supply_cap"} and metadata.proxies["transfer"]
    assert next(call for call in metadata.calls if call.name == "weights.commit").priority == "weights"
    properties = answers["all"]["system_properties"]
    assert properties.node_version == "9.9" and properties.devnet and properties.allow_private
    assert answers["ended"] == [True]


