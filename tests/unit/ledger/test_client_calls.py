"""Wallet: arguments from metadata, nonces in flight, lost and expired extrinsics, outcomes."""

import asyncio
from types import SimpleNamespace

import pytest

from ledger.blocks import Extrinsic
from ledger.client.calls import Wallet
from ledger.client.metadata_records import CallRecord, ErrorRecord, Metadata
from ledger.client.records import ExtrinsicRecord
from ledger.crypto import KeyPair, digest
from ledger.errors import NotFound, Rejected, Timeout, Unreachable, UsageError

KEY = KeyPair.from_seed(b"w" * 32)
GENESIS = digest("genesis", b"calls")


class Node:
    """A chain of numbers with a pool: every look at the head makes a block of what waits."""

    def __init__(self):
        self.height, self.nonce = 5, 0
        self.pool, self.final, self.submissions = {}, {}, []
        self.lose = 0  # extrinsics to forget, as a restarted node does
        self.stuck = False  # nothing is included
        self.stuck_until = 0  # ... before so many different extrinsics came
        self.failing = ""  # rule's name for every outcome
        self.silent = 0  # submissions that arrive although the answer is lost

    async def system_properties(self):
        return SimpleNamespace(genesis_hash=GENESIS)

    async def state_get_metadata(self):
        calls = [CallRecord(3, "accounts.transfer", [["to", "key"], ["amount_rao", "u64"]], "signed", 1, ""),
                 CallRecord(4, "weights.set", [["uids", "[u16]"]], "signed", 1, "")]
        return Metadata(1, calls, {}, [ErrorRecord(1, "InsufficientBalance", "too little", "top up")], {})

    def hash_at(self, height):
        return digest("header", height.to_bytes(8, "big"))

    async def chain_get_header(self, at="head"):
        self.height += 1
        if not self.stuck and len({e.id for e in self.submissions}) >= self.stuck_until:
            for id, extrinsic in sorted(self.pool.items(), key=lambda entry: entry[1].nonce):
                if extrinsic.nonce == self.nonce and self.height <= extrinsic.birth_height + extrinsic.period:
                    self.nonce += 1
                    self.final[id] = (self.height, extrinsic)
        self.pool = {
            id: e for id, e in self.pool.items()
            if id not in self.final and e.nonce >= self.nonce and self.height < e.birth_height + e.period
        }
        return SimpleNamespace(height=self.height, hash=self.hash_at(self.height))

    async def author_next_nonce(self, account):
        return self.nonce + len(self.pool)

    async def author_submit_extrinsic(self, raw):
        extrinsic = Extrinsic.decode(raw)
        self.submissions.append(extrinsic)
        assert extrinsic.verify(GENESIS, self.hash_at(extrinsic.birth_height))
        if extrinsic.id in self.pool or extrinsic.id in self.final:
            raise Rejected("AlreadyKnown")
        if extrinsic.nonce < self.nonce:
            raise Rejected("NonceTooLow")
        if self.lose:
            self.lose -= 1
        else:
            self.pool[extrinsic.id] = extrinsic
        if self.silent:
            self.silent -= 1
            raise Unreachable("connection lost")
        return extrinsic.id

    async def chain_get_extrinsic(self, id):
        if id in self.final:
            height, e = self.final[id]
            return ExtrinsicRecord(id, height, 0, e.signer, e.nonce, "x", {}, 0, 7, self.failing, [], e.encode())
        if id in self.pool:
            e = self.pool[id]
            return ExtrinsicRecord(id, None, None, e.signer, e.nonce, "x", {}, 0, 0, "", [], e.encode())
        raise NotFound("unknown")


def transfer(wallet, **more):
    return wallet.submit("accounts.transfer", amount_rao=5, to=b"\7" * 32, **more)


async def test_a_call_is_final_with_arguments_in_the_chain_s_order():
    node = Node()
    done = await transfer(Wallet(node, KEY))
    assert done.ok and done.height == node.final[done.id][0] and done.fee_rao == 7
    assert node.submissions[0].args == [b"\7" * 32, 5] and node.submissions[0].call_number == 3


async def test_calls_in_flight_take_consecutive_nonces():
    node = Node()
    wallet = Wallet(node, KEY)
    done = await asyncio.gather(*(transfer(wallet) for _ in range(8)))
    assert len({one.id for one in done}) == 8
    assert [e.nonce for e in node.submissions] == list(range(8))


async def test_wait_pool_and_none_return_without_an_outcome():
    for wait in ("pool", "none"):
        node = Node()
        done = await transfer(Wallet(node, KEY), wait=wait)
        assert done.height is None and len(node.submissions) == 1


async def test_a_lost_extrinsic_is_submitted_again_with_the_same_bytes():
    node = Node()
    node.lose = 1
    done = await transfer(Wallet(node, KEY))
    assert done.ok and {e.id for e in node.submissions} == {done.id} and len(node.submissions) >= 2


async def test_an_expired_extrinsic_is_signed_anew_and_only_then(monkeypatch):
    monkeypatch.setattr("ledger.client.calls.POLL_CAP_MS", 5)
    node = Node()
    node.stuck_until = 2  # different extrinsics
    done = await transfer(Wallet(node, KEY, period=8))
    first = node.submissions[0]
    assert done.ok and done.id != first.id and list(node.final) == [done.id]
    assert node.submissions[-1].birth_height >= first.birth_height + first.period


async def test_a_call_that_expires_each_time_is_given_up(monkeypatch):
    monkeypatch.setattr("ledger.client.calls.POLL_CAP_MS", 5)
    node = Node()
    node.stuck = True
    with pytest.raises(Rejected) as caught:
        await transfer(Wallet(node, KEY, period=8))
    assert caught.value.error_name == "Expired" and len({e.id for e in node.submissions}) == 3


async def test_an_unanswered_submission_is_followed():
    node = Node()
    node.silent = 1
    assert (await transfer(Wallet(node, KEY))).ok
    node.silent = 1
    with pytest.raises(Unreachable):
        await transfer(Wallet(node, KEY), wait="pool")


async def test_a_failed_call_is_raised_with_its_hint_or_returned():
    node = Node()
    node.failing = "InsufficientBalance"
    with pytest.raises(Rejected) as caught:
        await transfer(Wallet(node, KEY))
    assert (caught.value.error_name, caught.value.cause, caught.value.hint) == ("InsufficientBalance", "too little", "top up")
    assert caught.value.data["fee_rao"] == 7
    done = await transfer(Wallet(node, KEY), check=False)
    assert not done.ok and done.error == "InsufficientBalance"


async def test_a_nonce_taken_by_another_signer_is_chosen_again():
    node = Node()
    node.nonce = 2

    async def stale_once(account):
        return 1 if not node.submissions else 2

    node.author_next_nonce = stale_once
    done = await transfer(Wallet(node, KEY))
    assert done.ok and [e.nonce for e in node.submissions] == [1, 2]


async def test_an_unknown_outcome_is_a_timeout_that_names_the_extrinsic():
    node = Node()
    node.stuck = True
    with pytest.raises(Timeout) as caught:
        await transfer(Wallet(node, KEY, period=4096), timeout_s=0.1)
    assert caught.value.data["id"] == node.submissions[0].id


@pytest.mark.parametrize(("call", "arguments", "words"), [
    ("accounts.transfr", {}, "did you mean accounts.transfer"),
    ("accounts.transfer", {"to": b"x"}, "needs amount_rao (u64)"),
    ("accounts.transfer", {"to": b"x", "amount_rao": 1, "ammount_rao": 2}, "did you mean amount_rao"),
])
async def test_wrong_calls_and_arguments_are_named(call, arguments, words):
    with pytest.raises(UsageError) as caught:
        await Wallet(Node(), KEY).submit(call, **arguments)
    assert words in caught.value.cause


async def test_sequences_are_sent_as_lists():
    node = Node()
    await Wallet(node, KEY).submit("weights.set", uids=(1, (2, bytearray(b"a"))))
    assert node.submissions[0].args == [[1, [2, b"a"]]]
