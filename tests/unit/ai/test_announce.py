"""A neuron on the chain: its record is published and kept true, and callers' standings come from the metagraph."""

import asyncio
from contextlib import asynccontextmanager
from ipaddress import ip_address

import numpy as np
import pytest

from ai.client import Client, address_of
from ai.models.model import Card, write_bytes
from ai.serve.announce import Presence, ServingRecord
from ai.serve.config import NeuronConfig
from ai.serve.neuron import Neuron
from ai.serve.refusals import Refused
from ledger.blocks import Extrinsic
from ledger.client.keys import encode_address
from ledger.client.metadata_records import CallRecord, Metadata
from ledger.client.records import (
    At,
    ExtrinsicRecord,
    HeaderRecord,
    Metagraph,
    NeuronRecord,
    Properties,
    Reading,
    Serving,
)
from ledger.crypto import KeyPair
from ledger.errors import NotFound, Rejected, Unreachable, UsageError

GENESIS, ZERO = b"g" * 32, bytes(32)
KEY, VALIDATOR = KeyPair.from_seed(b"k" * 32), KeyPair.from_seed(b"v" * 32)


class Chain:
    """A chain of one call: serving.serve."""

    def __init__(self, members):
        self.members, self.records, self.final = members, {}, {}
        self.height, self.epoch = 1, 4
        self.refuse = self.down = ""

    async def system_properties(self):
        if self.down:
            raise Unreachable(self.down)
        return Properties("test", GENESIS, "Q", 9, 1, 250, 10, 1, "0", True, True, "interval")

    async def state_get_metadata(self):
        call = CallRecord(80, "serving.serve", [["netuid", "u16"], ["record", "record"]], "signed", 1, "")
        return Metadata(1, [call], {}, [], {})

    async def chain_get_header(self, at="head"):
        self.height += 1
        return HeaderRecord(ZERO, 1, 1, self.height, 0, 0, ZERO, ZERO, 0, 0, *[ZERO] * 6, 0, 0)

    async def author_next_nonce(self, account):
        return len(self.final)

    async def author_submit_extrinsic(self, raw):
        if self.refuse:
            raise Rejected(self.refuse)
        extrinsic = Extrinsic.decode(raw)
        netuid, (ip, port, pin, capabilities) = extrinsic.args
        self.records[netuid, extrinsic.signer] = Serving(str(ip_address(ip)), port, pin, capabilities, self.height)
        self.final[extrinsic.id] = extrinsic
        return extrinsic.id

    async def chain_get_extrinsic(self, id):
        e = self.final[id]
        return ExtrinsicRecord(id, self.height, 0, e.signer, e.nonce, "serving.serve", {}, 0, 0, "", [], e.encode())

    async def subnet_get_metagraph(self, netuid, at="head"):
        if self.down:
            raise Unreachable(self.down)
        neurons = [
            NeuronRecord(
                uid, key, key, f"name{uid}", True, permit, stake, 0, 0, 0, 0, 0, 0, 0, 0, 0, False, 0,
                self.records.get((netuid, key)),
            )
            for uid, (key, permit, stake) in enumerate(self.members)
        ]
        return Reading(At(self.height, ZERO), Metagraph(netuid, self.epoch, 0, neurons))


class LocalPresence(Presence):
    chain: Chain

    def _connect(self):
        @asynccontextmanager
        async def connected():
            yield self.chain

        return connected()


@pytest.fixture
def chain(monkeypatch):
    made = Chain([(VALIDATOR.public, True, 300), (KEY.public, False, 100)])
    monkeypatch.setattr(LocalPresence, "chain", made, raising=False)
    monkeypatch.setattr("ai.serve.neuron.Presence", LocalPresence)
    monkeypatch.setattr("ai.serve.neuron.STATUS_SECONDS", 0.01)
    monkeypatch.setattr("ai.serve.announce.RETRY_SECONDS", 0.01)
    monkeypatch.setattr("ai.serve.announce.REFUSED_RETRY_SECONDS", 0.02)
    monkeypatch.setattr("ai.serve.announce.SHORTEST_POLL_S", 0.01)
    return made


RECORD = ServingRecord("127.0.0.1", 9950, b"", b"c" * 32)


@asynccontextmanager
async def following(presence, wanted=lambda: RECORD):
    task = asyncio.create_task(presence.follow(wanted, 0.01))
    try:
        yield
    finally:
        task.cancel()


async def until(condition):
    async with asyncio.timeout(3):
        while not condition():
            await asyncio.sleep(0.01)


async def test_the_record_is_published_once_and_standings_are_known(chain):
    told = []
    presence = LocalPresence(["x"], KEY, [1, 2], told.append)
    assert not presence.standing(1, VALIDATOR.public).registered
    async with following(presence):
        await until(lambda: told)
    assert told == [{"event": "ready", "ip": "127.0.0.1", "port": 9950, "netuids": [1, 2]}]
    assert len(chain.final) == 2 and RECORD.matches(chain.records[1, KEY.public])
    validator, stranger = presence.standing(1, VALIDATOR.public), presence.standing(2, b"x" * 32)
    assert (validator.permit, validator.stake_share) == (True, 0.75) and not stranger.registered
    assert presence.epoch(1) == 4


async def test_a_record_that_is_there_is_left_alone(chain):
    chain.records[1, KEY.public] = Serving("127.0.0.1", 9950, b"", b"c" * 32, 1)
    told = []
    async with following(LocalPresence(["x"], KEY, [1], told.append)):
        await until(lambda: told)
    assert not chain.final and told[0]["event"] == "ready"


@pytest.mark.parametrize(
    "change", [{"ip": "127.0.0.2"}, {"port": 9}, {"tls_spki_hash": b"t" * 32}, {"capabilities_hash": b"d" * 32}]
)
async def test_a_record_that_differs_is_replaced(chain, change):
    from dataclasses import replace

    wanted = replace(RECORD, **change)
    chain.records[1, KEY.public] = Serving("127.0.0.1", 9950, b"", b"c" * 32, 1)
    async with following(LocalPresence(["x"], KEY, [1], lambda line: None), lambda: wanted):
        await until(lambda: wanted.matches(chain.records[1, KEY.public]))


async def test_a_model_that_changes_is_announced_again(chain):
    from dataclasses import replace

    wanted = [RECORD]
    async with following(LocalPresence(["x"], KEY, [1], lambda line: None), lambda: wanted[0]):
        await until(lambda: RECORD.matches(chain.records.get((1, KEY.public))))
        wanted[0] = replace(RECORD, capabilities_hash=b"n" * 32)
        await until(lambda: wanted[0].matches(chain.records[1, KEY.public]))


async def test_refusals_are_told_and_tried_again(chain):
    chain.refuse = "ServingRateLimitExceeded"
    told = []
    async with following(LocalPresence(["x"], KEY, [1], told.append)):
        await until(lambda: told)
        assert (told[0]["event"], told[0]["error"]) == ("trouble", "ServingRateLimitExceeded")
        chain.refuse = ""
        await until(lambda: told[-1]["event"] == "ready")


async def test_a_lost_node_does_not_end_it(chain):
    told = []
    async with following(LocalPresence(["x", "y"], KEY, [1], told.append)):
        await until(lambda: told)
        chain.down = "gone"
        await until(lambda: told[-1]["event"] == "trouble")
        chain.down, chain.epoch = "", 9
        await until(lambda: len(chain.final) == 1 and told[-1]["event"] == "trouble")


async def test_a_neuron_without_a_uid_waits(chain):
    members, chain.members = chain.members, []
    told = []
    async with following(LocalPresence(["x"], KEY, [1], told.append)):
        await asyncio.sleep(0.05)
        (line,) = told
        assert line["event"] == "unregistered" and encode_address(KEY.public) in line["next"] and not chain.final
        chain.members = members
        await until(lambda: told[-1]["event"] == "ready")
        chain.members = []
        await until(lambda: told[-1]["event"] == "unregistered")
    assert len(told) == 3


async def test_a_node_that_does_not_answer_is_told_once(chain):
    told, chain.down = [], "gone"
    asking = asyncio.create_task(LocalPresence(["x"], KEY, [1], told.append).properties())
    await asyncio.sleep(0.05)
    chain.down = ""
    assert (await asking).devnet and [line["cause"] for line in told] == ["gone"]


# --- a whole neuron, and the client that finds it


class Coin:
    def card(self):
        return Card("coin", bytes(32), 1)

    def next_bytes(self, windows):
        return np.ones((len(windows), 256))

    def write(self, prompt, sampling):
        return write_bytes(self, prompt, sampling)


async def test_a_neuron_serves_and_is_found(chain, tmp_path):
    told, ended = [], asyncio.Event()
    neuron = Neuron(Coin(), KEY, [1], ["x"], name="coin", home=tmp_path, report=told.append, poll_seconds=0.01)
    serving = asyncio.create_task(neuron.serve(ended.wait))
    await until(lambda: told and told[-1]["event"] == "ready")
    assert [line["event"] for line in told[:2]] == ["waits", "serving"] and all(line["name"] == "coin" for line in told)
    assert (told[0]["address"], told[0]["netuids"]) == (encode_address(KEY.public), [1])
    async with Client(chain, await chain.system_properties(), VALIDATOR, tmp_path / "mine") as client:
        own = encode_address(KEY.public)
        for who in (1, "name1", KEY.public, KEY.public.hex(), "0x" + KEY.public.hex(), own, own[:9]):
            assert (await client.find(1, who)).hotkey == KEY.public
        rows, settled = await client.distribution(1, "name1", [b"x"])
        assert rows.shape == (1, 256) and settled.checked.close.epoch == 4
        assert len((await client.text(1, "name1", b"x"))[0]) == 64
        assert (await client.card(1, "name1"))[0].name == "coin"
        await until(lambda: told[-1]["event"] == "status")
        assert [line["event"] for line in told].count("first session") == 1
        for who in ("nobody", 7, 0, b"x" * 32):
            with pytest.raises(NotFound):
                await client.find(1, who)
    assert (tmp_path / "replay.db").exists() and list((tmp_path / "receipts").glob("1/*.receipts"))
    ended.set()
    await asyncio.wait_for(serving, 3)
    with pytest.raises(NotFound):
        address_of(NeuronRecord(0, KEY.public, KEY.public, "", True, False, *[0] * 10, False, 0, None))


class Writer(Coin):
    def card(self):
        return Card("writer", bytes(32), 1, methods=("text", "card"))


async def test_a_neuron_offers_what_its_card_names(chain, tmp_path):
    told, ended = [], asyncio.Event()
    serving = asyncio.create_task(Neuron(Writer(), KEY, [1], ["x"], report=told.append, poll_seconds=0.01).serve(ended.wait))
    await until(lambda: told and told[-1]["event"] == "ready")
    async with Client(chain, await chain.system_properties(), VALIDATOR, tmp_path / "mine") as client:
        assert len((await client.text(1, "name1", b"x"))[0]) == 64
        with pytest.raises(Refused) as caught:
            await client.distribution(1, "name1", [b"x"])
        assert caught.value.error_name == "unknown_method"
    ended.set()
    await asyncio.wait_for(serving, 3)


async def test_a_neuron_stops_while_it_still_waits_for_the_chain(chain):
    chain.down = "not there yet"
    ended = asyncio.Event()
    serving = asyncio.create_task(Neuron(Coin(), KEY, [1], ["x"]).serve(ended.wait))
    await asyncio.sleep(0.03)
    ended.set()
    await asyncio.wait_for(serving, 1)


# --- configuration

GOOD = {"name": "a", "model": "code", "netuids": [1], "rpc": ["http://x"], "home": "/tmp/x", "seed_hex": "11" * 32}


@pytest.mark.parametrize(
    ("change", "named"),
    [({"colour": 1}, "colour"), ({"netuids": []}, "netuids"), ({"netuids": ["1"]}, "netuids"), ({"key_file": "x"}, "either"),
     ({"seed_hex": ""}, "either"), ({"model": None}, "model"), ({"port": "9950"}, "port"), ({"tls": 1}, "tls")],
)
def test_configuration_mistakes_are_named(change, named):
    value = {**GOOD, **change}
    if change.get("model", "x") is None:
        del value["model"]
    with pytest.raises(UsageError, match=named):
        NeuronConfig.from_json(value)


@pytest.mark.parametrize("seed", ["11", "zz" * 32])
def test_a_bad_seed_is_named(seed):
    with pytest.raises(UsageError, match="seed_hex"):
        NeuronConfig.from_json({**GOOD, "seed_hex": seed}).key()


def test_a_bad_recipe_is_named():
    with pytest.raises(UsageError, match="huge"):
        NeuronConfig.from_json({**GOOD, "recipe": "huge"}).weights()


def test_the_key_comes_from_a_file_too(tmp_path):
    from ledger.client.keys import write_key_file

    write_key_file(tmp_path / "key.json", KEY, "hotkey", password=None)
    config = NeuronConfig.from_json({**GOOD, "seed_hex": "", "key_file": str(tmp_path / "key.json")})
    assert config.key() == KEY


def test_a_presence_needs_a_node():
    with pytest.raises(UsageError):
        Presence([], KEY, [1], lambda line: None)
