"""`devnet`: the whole runtime on the devnet's genesis in memory, to which signed blocks are applied one by one."""

import bisect
from functools import cache

import pytest

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from ledger.blocks import Extrinsic
from ledger.crypto import digest
from ledger.machine import BlockContext
from runtime import chain, dispatch, invariants
from runtime.executor import Runtime
from runtime.modules import accounts
from runtime.registry import EVENTS, Context
from runtime.state import State


class MemoryView:
    """A View over a dictionary."""

    def __init__(self, rows):
        self.rows, self.keys = rows, sorted(rows)

    def get(self, key):
        return self.rows.get(key)

    def items(self, prefix, after=b""):
        at = bisect.bisect_left(self.keys, prefix)
        while at < len(self.keys) and self.keys[at].startswith(prefix):
            if self.keys[at] > after:
                yield self.keys[at], self.rows[self.keys[at]]
            at += 1


@cache
def devnet_genesis():
    spec = devnet_spec(1)
    return spec, build_genesis(spec)


class Devnet:
    """The devnet of seed 1, block by block. `people` maps "role name" to members of the cast."""

    def __init__(self):
        self.spec, self.genesis = devnet_genesis()
        self.people = {f"{member.role} {member.name}".strip(): member for member in cast(1)}
        self.runtime = Runtime(self.genesis.genesis_hash)
        self.rows = dict(self.genesis.state)
        self.height = 0
        self.hashes = {0: self.genesis.genesis_hash}

    @property
    def view(self):
        return MemoryView(self.rows)

    @property
    def next_height(self):
        return self.height + 1

    def cold(self, who):
        return self.people[who].coldkey

    def hot(self, who):
        return self.people[who].hotkey

    def session(self, index):
        return self.people[f"authority {index}"].session

    def nonce(self, public):
        return accounts.account(self.view, public).nonce

    def free(self, public):
        return accounts.balance(self.view, public)

    def context(self, height=None, signer=bytes(32)):
        """A scratch context on the head's state; writes go nowhere."""
        return Context(State(self.view), self.block_context(height=height), self.genesis.genesis_hash, signer=signer)

    def block_context(self, *, height=None, proposer=0, round_=0, missed=(), signers=None):
        height = self.next_height if height is None else height
        keys = self.runtime.authorities(self.view).keys
        signed = keys if signers is None else tuple(keys[i] for i in signers)
        session = chain.info(self.view).session(height)
        beacon = digest("beacon", height.to_bytes(8, "big"))
        return BlockContext(
            height, session, 1000 * height, self.hashes.get(height - 1, bytes(32)), keys[proposer % len(keys)], round_,
            tuple(keys[i] for i in missed), signed if height > 1 else (), beacon,
        )

    def sign(self, key, name, *args, nonce=None, tip=0, period=64, birth=None):
        birth = self.height if birth is None else birth
        nonce = self.nonce(key.public) if nonce is None else nonce
        return Extrinsic.sign(
            key, self.genesis.genesis_hash, self.hashes.get(birth, bytes(32)), nonce=nonce, birth_height=birth,
            call_number=dispatch.call_number(name), args=list(args), period=period, tip=tip,
        )

    def execute(self, *extrinsics, inherents=(), **context):
        """Run a block on the head without keeping it."""
        return self.runtime.apply_block(self.view, self.block_context(**context), list(inherents), list(extrinsics))

    def block(self, *extrinsics, inherents=(), **context):
        """Run a block and make it the head."""
        result = self.execute(*extrinsics, inherents=inherents, **context)
        for key, value in result.changes.items():
            if value is None:
                del self.rows[key]
            else:
                self.rows[key] = value
        self.height += 1
        self.hashes[self.height] = digest("header", self.height.to_bytes(8, "big"))
        return result

    def skip(self, blocks):
        """Empty blocks."""
        for _ in range(blocks):
            self.block()

    def call(self, key, name, *args, **options):
        """One block with one call; returns its outcome's error, "" on success."""
        return self.block(self.sign(key, name, *args, **options)).outcomes[0].error

    def inner(self, name, *args):
        """A call as an argument of batch or sudo."""
        return [dispatch.call_number(name), list(args)]

    def root(self, name, *args):
        """One block with a call by the sudo key; returns the error."""
        return self.call(self.cold("owner"), "governance.sudo", self.inner(name, *args))

    def audit(self):
        return invariants.audit(self.view, deep=True)

    def names(self, result):
        """Names of a block's events, in order."""
        return [EVENTS[row[0]].name for row in result.events]


@pytest.fixture
def devnet():
    return Devnet()
