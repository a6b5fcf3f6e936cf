"""Contradictory answers under one model hash convict; honest change, other texts and forged words do not."""

import asyncio
import json
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from ai import contradiction
from ai.contradiction import Contradiction, Said, answers_of, find
from ai.gateway.audit import audit
from ai.receipts import Receipt
from ai.serve import frames
from ai.serve.methods import encode_appended, encode_prefixes
from ledger import codec
from ledger.errors import DecodeError, NotFound, Rejected, UsageError
from tools.cli.receipts import check_document, read_document

GENESIS = b"g" * 32


class Moody:
    """Echo's answers until `mood` is set: then another byte is the likely one, under the same model hash."""

    def __init__(self, echo):
        self._echo, self.mood = echo, 0

    def next_bytes(self, windows):
        rows = self._next_bytes(windows)
        return np.roll(rows, self.mood, axis=1)

    def install(self):
        self._next_bytes, self._echo.next_bytes = self._echo.next_bytes, self.next_bytes
        return self


@pytest.fixture
def moody(market):
    return Moody(market.server.model).install()


async def ask(market, *parts):
    """A lock-step session over two windows; its open_id."""
    body = encode_prefixes([b"abc", b"xyz"])
    async with market.client.session(market.neuron, "distribution", body, netuid=1, max_asks=5) as session:
        await session.answer()
        for part in parts:
            await session.ask(encode_appended([part, b""]))
        return (await session.finish()).open_id


def said(market, open_id):
    """{(answer, window): Said} of a session, and its receipt."""
    store = market.client.receipts
    receipt = store.prove(open_id).receipt
    rows = answers_of(receipt, dict(store.transcripts(1, 7)), GENESIS)
    return {(one.answer, one.window): one for one, *_ in rows}


async def test_two_answers_to_one_text_convict(market, moody):
    first = await ask(market, b"d", b"e")
    moody.mood = 1
    second = await ask(market, b"d")
    (found, *_), = [find(market.client.receipts, 1, 7, GENESIS)[:1]]
    again = Contradiction.decode(found.encode())
    proven = again.verify(GENESIS)
    assert proven.open_ids == (first, second) and proven.callee == market.neuron.hotkey and proven.distance > 0.9
    assert (proven.netuid, proven.epoch) == (1, 7)
    assert {f.verify(GENESIS).context for f in find(market.client.receipts, 1, 7, GENESIS)} == {b"abc", b"xyz", b"abcd"}
    assert market.client.receipts.flag(proven.open_ids, found.encode())
    assert market.client.receipts.flags(first) == market.client.receipts.flags(second) == [found.encode()]
    # the neuron's own files tell the same
    assert [f.verify(GENESIS).context for f in find(market.server.receipts, 1, 7, GENESIS)] == [b"abc", b"xyz", b"abcd"]


async def test_what_does_not_convict(market, moody):
    first, same = await ask(market, b"d"), await ask(market, b"d")
    assert find(market.client.receipts, 1, 7, GENESIS) == []
    moody.mood = 1
    second = await ask(market, b"d")
    a, b, c = said(market, first), said(market, second), said(market, same)

    def refused(one, other, genesis=GENESIS):
        with pytest.raises(Rejected) as caught:
            Contradiction(one, other).verify(genesis)
        return caught.value.error_name

    assert refused(a[0, 0], a[1, 0]) == "SameSession"
    assert refused(a[0, 0], c[0, 0]) == "SameAnswer"
    assert refused(a[0, 0], b[1, 0]) == refused(a[0, 0], b[0, 1]) == "AnotherContext"
    assert refused(a[0, 0], replace(b[0, 0], answer=9)) == refused(a[0, 0], replace(b[0, 0], window=7)) == "NoSuchAnswer"
    assert refused(a[0, 0], b[0, 0], b"x" * 32) == "ReceiptSignature"
    assert refused(a[0, 0], replace(b[0, 0], receipt=b"no")) == "ProofMalformed"
    assert refused(a[0, 0], replace(b[0, 0], transcript=b"")) == "ProofMalformed"
    body, payloads = codec.decode(b[0, 0].transcript)
    for forged in ([body, payloads[:-1]], [body, [payloads[0][::-1], *payloads[1:]]], [b"other", payloads]):
        assert refused(a[0, 0], replace(b[0, 0], transcript=codec.encode(forged))) == "AnotherTranscript"
    newer = codec.encode([2, [b"", b"", 0, 0], [b"", b"", 0, 0]])
    for data in (b"", b"\x80", newer, Contradiction(a[0, 0], b[0, 0]).encode()[:-1]):
        with pytest.raises(DecodeError):
            Contradiction.decode(data)


async def test_a_model_that_went_on_training_is_not_convicted(market, moody):
    first = await ask(market)
    market.server.model.name, moody.mood = "echo, trained on", 1
    second = await ask(market)
    market.standings.running_epoch = 8
    third = await ask(market)
    for one, other in ((first, second), (second, third)):
        store, pair = market.client.receipts, []
        for open_id in (one, other):
            proof = store.prove(open_id)
            pair.append(Said(proof.receipt, store.transcript(1, proof.epoch, open_id), 0, 0))
        with pytest.raises(Rejected) as caught:
            Contradiction(*pair).verify(GENESIS)
        assert caught.value.error_name == "AnotherModel"
    assert find(market.client.receipts, 1, 7, GENESIS) == []


async def test_text_and_answers_with_help_do_not_convict(market, monkeypatch):
    _, settled = await market.client.text(market.neuron, b"abc", netuid=1)
    store = market.client.receipts
    words = Said(settled.receipt.encode(), store.transcript(1, 7, settled.open_id), 0, 0)
    with pytest.raises(Rejected) as caught:
        Contradiction(words, words).verify(GENESIS)
    assert caught.value.error_name == "AnotherMethod"
    helped = Receipt.verify

    def with_upstream(self, genesis_hash):
        checked = helped(self, genesis_hash)
        return replace(checked, close=replace(checked.close, upstream=b"u" * 32))

    open_id = await ask(market)
    monkeypatch.setattr(Receipt, "verify", with_upstream)
    assert said(market, open_id) == {}


async def test_a_helped_session_that_was_broken_off_frames_nobody(market, moody):
    moody.mood = 1  # stands for the help of others: a closing after CANCEL cannot name them
    body = encode_prefixes([b"abc", b"xyz"])
    async with market.client.session(
        market.neuron, "distribution", body, netuid=1, max_asks=5, hops=1, budget=4
    ) as session:
        await session.answer()
    while session.settled is None:
        await asyncio.sleep(0.01)
    moody.mood = 0
    alone = said(market, await ask(market))
    store, helped = market.client.receipts, session.settled
    assert helped.checked.close.upstream == b"" and helped.status == frames.CANCELLED
    assert find(store, 1, 7, GENESIS) == [] and said(market, helped.open_id) == {}
    one = Said(helped.receipt.encode(), store.transcript(1, 7, helped.open_id), 0, 0)
    for pair in ((one, alone[0, 0]), (alone[0, 0], one)):
        with pytest.raises(Rejected) as caught:
            Contradiction(*pair).verify(GENESIS)
        assert caught.value.error_name == "UsedOthers"


async def test_an_audit_asks_again_and_keeps_the_proof(market, moody):
    store, random = market.client.receipts, Random(1)
    open_id = await ask(market, b"d", b"e")
    assert await audit(market.client, store, market.neuron, open_id, random) is None
    assert store.flags(open_id) == []
    moody.mood = 3
    proven = await audit(market.client, store, market.neuron, open_id, random)
    assert proven.open_ids[0] == open_id and store.flags(open_id)
    contradiction.Contradiction.decode(store.flags(open_id)[0]).verify(GENESIS)
    with pytest.raises(NotFound):
        await audit(market.client, store, market.neuron, b"x" * 32, random)


async def test_flags_are_bounded(market, monkeypatch):
    monkeypatch.setattr("ai.receipts.MAX_FLAGS", 1)
    store = market.client.receipts
    assert store.flag((b"a" * 32, b"b" * 32), b"1") and store.flag((b"b" * 32, b"a" * 32), b"2")
    assert not store.flag((b"a" * 32, b"c" * 32), b"3") and store.flags(b"a" * 32) == [b"2"]
    assert store.netuids() == []


async def test_a_proof_document_is_checked_link_by_link(market, tmp_path):
    for _ in range(3):
        open_id = await ask(market)
    proof = market.client.receipts.prove(open_id)
    document = {
        "kind": "quorix receipt proof 1", "genesis_hash": GENESIS.hex(), "hotkey": market.client.keypair.public.hex(),
        "netuid": 1, "epoch": 7, "index": 2, "count": 3, "root": proof.root.hex(), "receipt": proof.receipt.hex(),
        "path": [step.hex() for step in proof.path], "root_proof": None,
    }
    file = tmp_path / "proof.json"

    there = (proof.root, 3)

    def check(on_chain=there, **changes):
        file.write_text(json.dumps({**document, **changes}))
        return check_document(read_document(file), GENESIS, *on_chain)

    assert check().open_id == open_id and check().both_sides
    other = market.client.receipts.leaves(1, 7)[0]
    for rule, on_chain, changes in (
        ("AnotherRoot", (b"x" * 32, 3), {}), ("AnotherRoot", (proof.root, 4), {}), ("NotUnderTheRoot", there, {"index": 1}),
        ("NotUnderTheRoot", there, {"path": []}), ("NotUnderTheRoot", there, {"receipt": other.hex()}),
        ("AnotherOwner", there, {"hotkey": "00" * 32}), ("AnotherOwner", there, {"netuid": 2}),
        ("ReceiptMalformed", there, {"receipt": "80"}),
    ):
        with pytest.raises(Rejected) as caught:
            check(on_chain, **changes)
        assert caught.value.error_name == rule
    flipped = bytearray(proof.receipt)
    flipped[-1] ^= 1
    with pytest.raises(Rejected) as caught:
        check(receipt=bytes(flipped).hex())
    assert caught.value.error_name == "ReceiptSignature"
    for changes in ({"kind": "another"}, {"root": 1}, {"path": None}, {"index": -1}, {"count": "3"}, {"receipt": "zz"}):
        with pytest.raises(UsageError):
            check(**changes)
