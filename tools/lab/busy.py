"""A chain on which much happens, made from a seed and written to a file of blocks; and replaying such a file.

The devnet's market with four authorities: epochs of root and two subnets, weights by commit and reveal and in the open,
registrations of neurons and of a subnet, stake, serving records, parameters by root, batches, evidence, heartbeats, skipped
leaders, an authority set that shrinks and grows again, and calls with random arguments, most of which fail.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Final

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from genesis.spec import format_spec, parse_spec
from ledger.blocks import Block, Extrinsic
from ledger.chain import Chain
from ledger.client.keys import DevKeys
from ledger.codec import decode, encode, pack_u16
from ledger.commitments import weights_commitment
from ledger.crypto import KeyPair, digest
from ledger.framing import FrameWriter, read_frames
from ledger.inherents import EVIDENCE, HEARTBEAT, Heartbeat
from ledger.store import MemoryStore
from ledger.votes import NO_ROUND, PRECOMMIT, PREVOTE, Certificate, Evidence, Vote, vote_body
from runtime.executor import Runtime
from runtime.modules import accounts, authorities, sessions, subnets
from runtime.registry import CALL_NUMBERS, CALLS, EVENTS
from runtime.state import State
from tools.lab.deep import deep_check
from tools.lab.fuzzing.samples import value_of

KIND: Final = b"quorix busy chain 1"
MAX_FRAME_BYTES: Final = 4 << 20
SEED: Final = 1
AUTHORITIES: Final = 4
SESSION_BLOCKS: Final = 10
SHRINK_AT, GROW_AT = 12, 33  # heights of the proposals to change the set
EVIDENCE_AT: Final = (24,)
MAX_PRICE_RAO: Final = 5 * 10**9
BOND_RAO: Final = 100 * 10**9  # what the devnet asks of an authority
VALIDATORS: Final = 3
NEW_NEURONS: Final = 6
# What a recording is not worth anything without.
WANTED: Final = (
    "EpochRan", "EmissionPaid", "NeuronRegistered", "NetworkAdded", "WeightsCommitted", "WeightsRevealed", "WeightsSet",
    "StakeAdded", "AuthorityDisabled", "AuthoritySetProposed", "AuthorityChanged", "Transfer",
)


def record(path: Path, blocks: int, seed: int) -> Counter[str]:
    """Make a chain and write its specification and blocks; returns how often each kind of event happened."""
    market = Market(seed)
    happened: Counter[str] = Counter()
    with open(path, "wb") as file:
        frames = FrameWriter(file, KIND)
        frames.write(market.spec.encode())
        for _ in range(blocks):
            block, certificate = market.grow()
            frames.write(encode([block.encode(), certificate.encode()]))
            happened.update(EVENTS[event[0]].name for event in market.chain.events(block.height))
        frames.close()
    return happened


def replay(path: Path) -> dict[str, Any]:
    """Import a file of blocks into an empty chain: the roots at every height, and the digest of all rows at the end."""
    with open(path, "rb") as file:
        frames = read_frames(file, KIND, MAX_FRAME_BYTES)
        genesis = build_genesis(parse_spec(next(frames).decode()))
        store = MemoryStore()
        chain = Chain.create(store, genesis.params, Runtime(genesis.genesis_hash), genesis.state)
        roots = [chain.head.state_root.hex()]
        for frame in frames:
            block, certificate = decode(frame, max_bytes=MAX_FRAME_BYTES)
            chain.apply(chain.import_block(Block.decode(block), Certificate.decode(certificate)))
            roots.append(chain.head.state_root.hex())
        deep = deep_check(chain, store)
    return {"roots": roots, "head": deep.hash.hex(), "rows": deep.digest.hex()}


def replay_to(path: Path, out: Path) -> None:
    """`replay` for a child process."""
    out.write_text(json.dumps(replay(path)))


def record_to(path: Path, out: Path, blocks: int, seed: int) -> None:
    """`record` for a child process."""
    out.write_text(json.dumps(record(path, blocks, seed)))


# --- the market --------------------------------------------------------------------------------------------------

Wish = tuple[KeyPair, str, list[Any]]  # signer, call, arguments


class Market:
    """The chain and everybody who acts on it. `grow` makes the next block."""

    def __init__(self, seed: int) -> None:
        self._rng = Random(f"busy {seed}")
        spec = replace(devnet_spec(SEED, authorities=AUTHORITIES), session_blocks=SESSION_BLOCKS)
        self.spec = format_spec(spec)
        genesis = build_genesis(parse_spec(self.spec))
        self._store = MemoryStore()
        self.chain = Chain.create(self._store, genesis.params, Runtime(genesis.genesis_hash), genesis.state)
        members, keys = cast(SEED, AUTHORITIES), DevKeys(SEED)
        self._cold = [member.coldkey for member in members]
        self._owner = next(member.coldkey for member in members if member.role == "owner")
        self._hot = [member.hotkey for member in members if member.hotkey is not None]
        self._validators = [keys.key(f"//validator//{index}//hot") for index in range(VALIDATORS)]
        self._sessions = {keys.session(index).public: keys.session(index) for index in range(AUTHORITIES)}
        self._keys, self._joiner = keys, members[-1].coldkey
        self._new = [keys.key(f"//new//{index}") for index in range(NEW_NEURONS)]
        self._committed: dict[tuple[bytes, int], tuple[int, list[int], list[int], bytes]] = {}

    @property
    def height(self) -> int:
        """Of the block that is made next."""
        return self.chain.head.height + 1

    def grow(self) -> tuple[Block, Certificate]:
        """Build, certify and commit the next block."""
        chain = self.chain
        round_ = 1 if self._rng.random() < 0.1 else 0
        executed = chain.build(
            timestamp_ms=chain.head.timestamp_ms + self._rng.choice((1000, 1001, 1500)), round_=round_,
            extrinsics=self._signed(self._wishes()), inherents=list(self._inherents()),
        )
        block, keys = executed.block, chain.authorities().keys
        body = vote_body(block.height, round_, block.hash)
        domain = chain.params.genesis_hash
        votes = {
            index: Vote(PRECOMMIT, block.height, round_, block.hash, index, self._sessions[key].sign("precommit", domain, body))
            for index, key in enumerate(keys)
        }
        certificate = Certificate.build(votes, len(keys))
        chain.commit(executed, certificate)
        return block, certificate

    def _signed(self, wishes: Iterator[Wish]) -> list[Extrinsic]:
        """In the order of the wishes; nonces go on within the block."""
        head, nonces = self.chain.head, dict[bytes, int]()
        state = State(self.chain.view())
        found = []
        for key, name, args in wishes:
            nonce = nonces.setdefault(key.public, accounts.account(state, key.public).nonce)
            found.append(Extrinsic.sign(
                key, self.chain.params.genesis_hash, head.hash, nonce=nonce, birth_height=head.height,
                call_number=CALL_NUMBERS[name], args=args,
            ))
            nonces[key.public] += 1
        return found

    # --- who wants what ----------------------------------------------------------------------------------------------

    def _wishes(self) -> Iterator[Wish]:
        yield from self._payments()
        yield from self._staking()
        yield from self._weights()
        yield from self._joining()
        yield from self._ruling()
        yield from self._nonsense()

    def _payments(self) -> Iterator[Wish]:
        for key in self._rng.sample(self._cold, 2):
            yield key, "accounts.transfer", [self._rng.choice(self._cold).public, self._rng.randint(1, 10**9), True]
        if self.height <= NEW_NEURONS:
            yield self._owner, "accounts.transfer", [self._new[self.height - 1].public, 20 * 10**9, True]

    def _staking(self) -> Iterator[Wish]:
        hot, netuid, amount = self._rng.choice(self._hot).public, self._rng.choice((0, 1, 2)), self._rng.randint(10**6, 10**9)
        name = "stake.add" if self._rng.random() < 0.7 else "stake.remove"
        yield self._rng.choice(self._cold), name, [hot, netuid, amount]

    def _weights(self) -> Iterator[Wish]:
        """Subnet 1 by commit and reveal, subnet 2 in the open once root has allowed it."""
        state = State(self.chain.view())
        epoch = subnets.tempo(state, 1).epoch_index
        for key in self._validators:
            uids = sorted(self._rng.sample(range(VALIDATORS, VALIDATORS + 4), 3))
            values = [self._rng.randint(1, 65535) for _ in uids]
            waiting = self._committed.get((key.public, epoch - 1))
            if waiting is not None:
                commit_epoch, old_uids, old_values, salt = waiting
                del self._committed[key.public, commit_epoch]
                yield key, "weights.reveal", [1, pack_u16(old_uids), pack_u16(old_values), salt, 0]
            elif (key.public, epoch) not in self._committed:
                salt = digest("body", key.public, epoch.to_bytes(4, "big"))
                hashed = weights_commitment(self.chain.params.genesis_hash, key.public, 1, epoch, uids, values, 0, salt)
                self._committed[key.public, epoch] = (epoch, uids, values, salt)
                yield key, "weights.commit", [1, hashed]
            if self._rng.random() < 0.3:
                yield key, "weights.set", [2, pack_u16(uids), pack_u16(values), 0]
            if self._rng.random() < 0.1:
                yield key, "weights.set_root", [pack_u16([1, 2]), pack_u16([self._rng.randint(1, 9), 5])]

    def _joining(self) -> Iterator[Wish]:
        if self.height % 4 == 0 and self.height // 4 < NEW_NEURONS:
            key = self._new[self.height // 4]
            hotkey = self._keys.key(f"//hot//{self.height}").public
            yield key, "neurons.register", [self._rng.choice((1, 2)), hotkey, MAX_PRICE_RAO]
        if self.height == 9:
            yield self._cold[1], "subnets.register_network", [self._keys.key("//third//hot").public, 1 << 62, "third"]
        if self.height % 11 == 0:
            yield self._hot[1], "serving.set_commitment", [1, [b"x" * self.height], False]

    def _ruling(self) -> Iterator[Wish]:
        if self.height == 2:
            yield self._root("governance.set_subnet_param", [2, "commit_reveal_enabled", False])
        if self.height == SHRINK_AT:
            yield self._root("authorities.propose_set", [[self._member(key) for key in self.chain.authorities().keys[:-1]]])
        if self.height == GROW_AT - 2:
            yield self._joiner, "authorities.bond", [BOND_RAO]
        if self.height == GROW_AT:
            members = [self._member(key) for key in self.chain.authorities().keys]
            yield self._root("authorities.propose_set", [[*members, self._new_member()]])
        if self.height % 9 == 0:
            transfer = [CALL_NUMBERS["accounts.transfer"], [self._cold[0].public, 5, True]]
            too_much = [CALL_NUMBERS["accounts.transfer"], [self._cold[0].public, 1 << 63, True]]
            yield self._cold[2], "keyring.batch_each", [[transfer, too_much]]

    def _member(self, key: bytes) -> list[Any]:
        """An authority of now, as a member of the next set."""
        row = authorities.authority(State(self.chain.view()), key)
        assert row is not None
        return [key, row.account, None]

    def _new_member(self) -> list[Any]:
        """One more, with a proof that it has its session key."""
        account, session = self._joiner.public, self._keys.key("//joiner//session")
        self._sessions[session.public] = session
        body = sessions.possession_body(account, session.public)
        return [session.public, account, session.sign("pop", self.chain.params.genesis_hash, body)]

    def _root(self, name: str, args: list[Any]) -> Wish:
        return self._owner, "governance.sudo", [[CALL_NUMBERS[name], args]]

    def _nonsense(self) -> Iterator[Wish]:
        """Calls with arguments that only look right."""
        for number in self._rng.sample(sorted(CALLS), 2):
            args = value_of(CALLS[number].schema, self._rng)
            known = [self._rng.choice(self._hot).public if type(arg) is bytes and len(arg) == 32 else arg for arg in args]
            yield self._rng.choice(self._cold), CALLS[number].name, known

    def _inherents(self) -> Iterator[tuple[int, bytes]]:
        domain, keys = self.chain.params.genesis_hash, self.chain.authorities().keys
        if self.height in EVIDENCE_AT:
            key, height = self._sessions[keys[-1]], self.chain.head.height
            one, other = (digest("header", bytes([number])) for number in (1, 2))
            signatures = [key.sign("prevote", domain, vote_body(height, 0, block_hash)) for block_hash in (one, other)]
            proof = Evidence(
                PREVOTE, key.public, height, 0, one, NO_ROUND, signatures[0], other, NO_ROUND, signatures[1]
            )
            yield EVIDENCE, proof.encode()
        if self.height % SESSION_BLOCKS == 3:
            session = self.chain.params.session(self.height)
            for public in keys:
                yield HEARTBEAT, Heartbeat.sign(
                    self._sessions[public], domain, session, self.chain.head.hash, "0.1.0", (1,)
                ).encode()
