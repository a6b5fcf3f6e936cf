"""JSON-RPC 2.0: what is answered to well-formed, malformed and hostile requests."""

import asyncio
import json

import pytest

from ledger.client.records import At, Page, Reading
from ledger.client.registry import methods
from ledger.errors import NotFound, Rejected
from tools.rpc.jsonrpc import Caller, Dispatcher
from tools.rpc.limits import Limits

HASH = bytes(range(32))
LOCAL = Caller("127.0.0.1")


class Api:
    """A few methods of the chain API, enough to see every kind of parameter and failure."""

    def __init__(self):
        self.calls = []

    async def chain_get_block_hash(self, height):
        self.calls.append(height)
        if height > 100:
            raise NotFound(f"no block {height}")
        return HASH

    async def state_get(self, key, at="head"):
        return Reading(At(7, HASH), key or None)

    async def author_submit_extrinsic(self, extrinsic):
        raise Rejected("NonceTooLow", "the next nonce is 4", hint="ask for the next nonce", expected=4, supply=1 << 60)

    async def author_next_nonce(self, account):
        raise RuntimeError("/secret/path in a traceback")

    async def events_query(self, kind=None, after=None, limit=100):
        return Page(["x" * 1000] * limit)

    async def system_peers(self):
        await asyncio.sleep(60)

    async def dev_seal(self, count=1):
        return count


def dispatcher(**changes):
    return Dispatcher(Api(), Limits(**{"call_s": 0.2, **changes.pop("limits", {})}), **changes)


async def ask(request, caller=LOCAL, target=None):
    text = request if isinstance(request, str | bytes) else json.dumps(request)
    answer = await (target or dispatcher()).answer(text, caller)
    return None if answer is None else json.loads(answer)


def request(method, params=None, id=1):
    return {"jsonrpc": "2.0", "id": id, "method": method, **({} if params is None else {"params": params})}


async def test_named_and_positional_parameters_and_defaults():
    expected = {"jsonrpc": "2.0", "id": 1, "result": {"at": {"height": 7, "hash": "0x" + HASH.hex()}, "value": "0x01"}}
    assert await ask(request("state_get", {"key": "0x01"})) == expected
    assert await ask(request("state_get", ["0x01"])) == expected
    assert await ask(request("state_get", ["0x01", 5])) == expected


@pytest.mark.parametrize("id", [0, -3, 1.5, "a", "", None])
async def test_any_scalar_id_comes_back(id):
    assert (await ask(request("chain_getBlockHash", [1], id)))["id"] == id


@pytest.mark.parametrize(("text", "code"), [
    ("", -32700), ("{", -32700), ("[1,", -32700), (b"\xff\xfe", -32700), ("[" * 100_000, -32700), ('{"a":NaN}', -32700),
    ("1" * 5000, -32700), ("1", -32600), ('"x"', -32600), ("null", -32600), ("[]", -32600), ("{}", -32600),
    ('{"jsonrpc":"1.0","id":1,"method":"x"}', -32600), ('{"jsonrpc":"2.0","id":[1],"method":"x"}', -32600),
    ('{"jsonrpc":"2.0","id":1e999,"method":"x"}', -32600), ('{"jsonrpc":"2.0","id":-1e999,"method":"x"}', -32600),
    ('{"jsonrpc":"2.0","id":true,"method":"x"}', -32600), ('{"jsonrpc":"2.0","id":1,"method":7}', -32600),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":"x"}', -32600),
    ('{"jsonrpc":"2.0","id":1,"method":"nothing"}', -32601),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_get_block_hash"}', -32601),
    ('{"jsonrpc":"2.0","id":1,"method":"__init__"}', -32601),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash"}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":[1,2]}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":{"heigth":1}}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":[true]}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":[1.5]}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"state_get","params":["01"]}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"state_get","params":["0x0"]}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"state_get","params":["0xzz"]}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"state_get","params":[' + "[" * 40 + "]" * 40 + "]}", -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_getBlockHash","params":[101]}', -32001),
    ('{"jsonrpc":"2.0","id":1,"method":"dev_seal"}', -32007),
    ('{"jsonrpc":"2.0","id":1,"method":"admin_shutdown"}', -32007),
    ('{"jsonrpc":"2.0","id":1,"method":"chain_subscribeNewHeads"}', -32602),
    ('{"jsonrpc":"2.0","id":1,"method":"x_subscribe","params":["nothing"]}', -32001),
    ('{"jsonrpc":"2.0","id":1,"method":"system_peers"}', -32002),
])
async def test_errors_have_their_code_and_never_a_result(text, code):
    answer = await ask(text)
    assert answer["error"]["code"] == code
    assert "result" not in answer and answer["jsonrpc"] == "2.0"
    assert answer["error"]["data"]["name"]


async def test_refusal_of_the_chain_carries_name_hint_and_details():
    error = (await ask(request("author_submitExtrinsic", ["0x00"])))["error"]
    assert error["code"] == -32003
    assert error["data"] == {
        "name": "NonceTooLow", "cause": "the next nonce is 4", "hint": "ask for the next nonce",
        "details": {"expected": 4, "supply": str(1 << 60)},
    }


async def test_a_bug_is_reported_without_its_inside(caplog):
    answer = await ask(request("author_nextNonce", ["0x" + "00" * 32]))
    assert answer["error"]["code"] == -32603
    assert "secret" not in json.dumps(answer)
    assert "secret" in caplog.text


async def test_notifications_are_performed_and_not_answered():
    target = dispatcher()
    note = {"jsonrpc": "2.0", "method": "chain_getBlockHash", "params": [3]}
    assert await ask(note, target=target) is None
    assert await ask([note, note], target=target) is None
    assert target.api.calls == [3, 3, 3]


async def test_a_batch_is_answered_in_order_with_bad_entries_in_their_place():
    answers = await ask([request("chain_getBlockHash", [1], "a"), 7, {"jsonrpc": "2.0", "method": "x"},
                         request("chain_getBlockHash", [200], "b")])
    assert [answer["id"] for answer in answers] == ["a", None, "b"]
    assert ["result" in answer for answer in answers] == [True, False, False]


async def test_batches_above_the_bound_are_refused_whole():
    target = dispatcher()
    answer = await ask([request("chain_getBlockHash", [1])] * 101, target=target)
    assert answer["error"]["code"] == -32600 and target.api.calls == []
    assert len(await ask([request("chain_getBlockHash", [1])] * 100, target=target)) == 100


async def test_responses_above_the_bound_are_replaced():
    target = dispatcher(limits={"response_bytes": 5000})
    assert "result" in await ask(request("events_query", {"limit": 2}), target=target)
    assert (await ask(request("events_query", {"limit": 9}), target=target))["error"]["data"]["name"] == "ResponseTooLarge"
    many = await ask([request("events_query", {"limit": 2}, i) for i in range(9)], target=target)
    assert many["error"]["data"]["name"] == "ResponseTooLarge"


async def test_remote_callers_are_rate_limited_and_local_ones_are_not():
    target = dispatcher(limits={"burst": 5, "rate_per_s": 1})
    codes = []
    for _ in range(7):
        answer = await ask(request("chain_getBlockHash", [1]), Caller("203.0.113.9"), target)
        codes.append(answer.get("error", {}).get("code", 0))
    assert codes == [0] * 5 + [-32005] * 2
    for caller in (LOCAL, Caller(""), Caller("::1"), Caller("127.9.9.9")):
        assert "result" in await ask(request("chain_getBlockHash", [1]), caller, target)


async def test_the_admin_socket_serves_unsafe_methods():
    assert (await ask(request("dev_seal", [3]), target=dispatcher(unsafe=True)))["result"] == 3


async def test_discovery_names_every_method():
    names = set(methods())
    document = (await ask(request("rpc.discover")))["result"]
    assert {method["name"] for method in document["methods"]} == names
    assert "NewHead" in document["components"]["schemas"]
    served = set((await ask(request("rpc_methods")))["result"]["methods"])
    assert "dev_seal" not in served and "chain_getBlock" in served
    assert "dev_seal" in (await ask(request("rpc_methods"), target=dispatcher(unsafe=True)))["result"]["methods"]


async def test_calls_are_observed_with_bounded_names():
    seen = []
    target = dispatcher(observe=lambda *entry: seen.append(entry[:2]))
    await ask([request("chain_getBlockHash", [1]), request("invented"), request("chain_getBlockHash", [999])], target=target)
    assert seen == [("chain_getBlockHash", 0), ("other", -32601), ("chain_getBlockHash", -32001)]


def test_every_method_of_the_api_is_known_to_the_openrpc_schema():
    from tools.rpc.openrpc import document

    text = json.dumps(document())
    assert text.count("#/components/schemas/") > 20
    for reference in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert reference in document()["components"]["schemas"], reference
