"""A small ledger for tests: real chain, store and signatures; the rules are a few calls on accounts.

State: b"a" + key -> nonce and balance (8 bytes each); b"auth" -> joined session keys; b"v..." -> any value. Calls:
1 transfer [to, amount], 2 put [key, value] (an empty value deletes), 3 an operational nothing, 4 never admitted by a block.
Inherent 7 replaces the authority set. A fee of 10 and the tip are burnt.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ledger.blocks import Extrinsic, Outcome
from ledger.chain import Chain
from ledger.crypto import KeyPair, digest
from ledger.errors import Rejected
from ledger.machine import OPERATIONAL_PRIORITY, Admission, AuthoritySet, BlockResult, Standing
from ledger.spec import ChainSpecParams
from ledger.store import MemoryStore
from ledger.votes import KIND_TAG, PRECOMMIT, Certificate, Vote, vote_body

FEE_RAO = 10
CALL_WEIGHT = 100


class AccountMachine:
    def version_at(self, view):
        return 1

    def authorities(self, view):
        joined = view.get(b"auth")
        keys = tuple(joined[i : i + 32] for i in range(0, len(joined), 32))
        return AuthoritySet(keys, tuple(range(len(keys))))

    def admit(self, view, extrinsic, height):
        nonce, balance = self.account(view, extrinsic.signer)
        fee = FEE_RAO + extrinsic.tip
        if extrinsic.call_number not in (1, 2, 3, 4):
            raise Rejected("UnknownCall")
        if extrinsic.nonce < nonce:
            raise Rejected("NonceTooLow")
        if balance < fee:
            raise Rejected("InsufficientBalance")
        priority = OPERATIONAL_PRIORITY if extrinsic.call_number == 3 else 1
        return Admission(extrinsic.signer, extrinsic.nonce, nonce, priority, fee, CALL_WEIGHT)

    def standing(self, view, account):
        return Standing(*self.account(view, account))

    def account_key(self, account):
        return b"a" + account

    def remembered(self, values):
        return {}

    def apply_block(self, view, context, inherents, extrinsics, left_out=None):
        changes, events, outcomes = {}, [[1, context.height]], []
        state = SimpleNamespace(get=lambda key: changes[key] if key in changes else view.get(key))
        for kind, payload in inherents:
            if kind != 7:
                raise Rejected("UnknownInherent")
            changes[b"auth"] = payload
        for index, extrinsic in enumerate(extrinsics):
            nonce, balance = self.account(state, extrinsic.signer)
            fee = FEE_RAO + extrinsic.tip
            unfit = "NonceTooHigh" if extrinsic.nonce > nonce else "NotPayable" if balance < fee else ""
            if extrinsic.call_number == 4 or extrinsic.nonce < nonce:
                unfit = "Poison"
            if unfit and left_out is None:
                raise Rejected(unfit, index=index)
            if unfit:
                left_out[index] = unfit
                continue
            changes[b"a" + extrinsic.signer] = self.row(nonce + 1, balance - fee)
            first = len(events)
            error = self.call(extrinsic, state, changes, events)
            outcomes.append(Outcome(error, fee, first, len(events) - first))
        changes = {key: value for key, value in changes.items() if view.get(key) != value}
        return BlockResult(
            changes, events, outcomes, self.authorities(state), {b"blk" + context.height.to_bytes(8, "big"): b"row"},
            CALL_WEIGHT * len(outcomes),
        )

    def call(self, extrinsic, state, changes, events):
        signer = extrinsic.signer
        if extrinsic.call_number == 1:
            to, amount = extrinsic.args
            nonce, balance = self.account(state, signer)
            if balance < amount:
                return "InsufficientBalance"
            changes[b"a" + signer] = self.row(nonce, balance - amount)
            nonce, balance = self.account(state, to)
            changes[b"a" + to] = self.row(nonce, balance + amount)
            events.append([2, signer, to, amount])
        elif extrinsic.call_number == 2:
            changes[b"v" + extrinsic.args[0]] = extrinsic.args[1] or None
            events.append([3, extrinsic.args[0]])
        return ""

    def block_inherents(self, view, context, candidates):
        return [(kind, payload) for kind, payload in candidates if kind == 7]

    @staticmethod
    def account(view, key):
        row = view.get(b"a" + key)
        return (int.from_bytes(row[:8], "big"), int.from_bytes(row[8:], "big")) if row else (0, 0)

    @staticmethod
    def row(nonce, balance):
        return nonce.to_bytes(8, "big") + balance.to_bytes(8, "big")


class Ledger:
    """A chain with the keys to act on it."""

    def __init__(self, store=None, *, authorities=4, accounts=4, **params):
        self.machine = AccountMachine()
        self.store = MemoryStore() if store is None else store
        self.genesis_hash = digest("genesis", b"test")
        self.params = ChainSpecParams(self.genesis_hash, **{"max_block_weight": 100_000, "devnet": True} | params)
        self.authority_keys = [KeyPair.from_seed(bytes([1, i]) * 16) for i in range(authorities)]
        self.accounts = [KeyPair.from_seed(bytes([2, i]) * 16) for i in range(accounts)]
        self.genesis = {b"auth": b"".join(key.public for key in self.authority_keys)}
        self.genesis |= {b"a" + key.public: AccountMachine.row(0, 1_000_000) for key in self.accounts}

    def create(self, **options):
        self.chain = Chain.create(self.store, self.params, self.machine, self.genesis, **options)
        return self

    def open(self, **options):
        self.chain = Chain.open(self.store, self.params, self.machine, **options)
        return self.chain

    def certificate(self, block, *, round_=0, signers=None, keys=None, kind=PRECOMMIT):
        keys = keys or self.authority_keys
        body = vote_body(block.height, round_, block.hash)
        domain = self.chain.domain_at(block.height)
        votes = {
            index: Vote(
                kind, block.height, round_, block.hash, index, keys[index].sign(KIND_TAG[kind], domain, body)
            )
            for index in (range(len(keys)) if signers is None else signers)
        }
        return Certificate.build(votes, len(keys))

    def extrinsic(self, account=0, nonce=None, call=1, args=None, *, tip=0, birth=None, period=64):
        key = self.accounts[account]
        birth = self.chain.head.height if birth is None else birth
        if nonce is None:
            nonce = self.nonce(account)
        if args is None:
            args = [self.accounts[(account + 1) % len(self.accounts)].public, 5] if call == 1 else []
        return Extrinsic.sign(
            key, self.genesis_hash, self.chain.hash_at(birth), nonce=nonce, birth_height=birth, call_number=call,
            args=args, period=period, tip=tip,
        )

    def nonce(self, account):
        return self.machine.account(self.chain.view(), self.accounts[account].public)[0]

    def build(self, extrinsics=(), inherents=(), *, round_=0):
        return self.chain.build(
            timestamp_ms=self.chain.head.timestamp_ms + 1000, round_=round_, extrinsics=extrinsics, inherents=inherents
        )

    def grow(self, blocks=1, extrinsics=()):
        """Commit blocks; the first one carries the extrinsics. Returns the last executed block."""
        for _ in range(blocks):
            executed = self.build(extrinsics)
            self.chain.commit(executed, self.certificate(executed.block))
            extrinsics = ()
        return executed


@pytest.fixture
def new_ledger():
    """Factory of ledgers that are not created yet: `new_ledger(store, authorities=4, **params)`."""
    return Ledger


@pytest.fixture
def ledger():
    return Ledger().create()
