"""Authorities that attack beside the rules of voting.

    replayer   says again what it heard long ago, raw or with fields rewritten and certificates stripped
    flooder    signs messages of rounds and heights far ahead, and sends bytes that are nothing
    liar       false heights in Status and hello, finality that is none, false answers to sync
    picker     puts another valid certificate of the parent into its blocks than it has stored
    amnesiac   starts again and again with an empty sign database
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from ledger.errors import DecodeError
from ledger.messages import Bundle, FinalBlock, Said, decode_bundle, encode_final
from ledger.signer import Signer
from ledger.votes import (
    MAX_ROUND,
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    Certificate,
    Proposal,
    Status,
    Vote,
    quorum,
)

from .behaviour import Behaviour, say, send_bundle, sign_proposal, sign_vote, some_peers
from .disk import FaultStore

if TYPE_CHECKING:
    from .node import Node

REMEMBERED = 400
FAR_ROUNDS = (1, 1, 2, 3, 4, 7, 1_000, MAX_ROUND)


class Replayer(Behaviour):
    tick_ms = 150

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._values: list[Vote | Proposal | Certificate] = []
        self._frames: list[bytes] = []

    def heard(self, node: Node, frame: bytes) -> None:
        try:
            bundle = decode_bundle(frame)
        except DecodeError:
            return
        values: tuple[Vote | Proposal | Certificate, ...] = (*bundle.votes, *bundle.proposals, *bundle.certificates)
        for value in values:
            if len(self._values) < REMEMBERED:
                self._values.append(value)
            else:
                self._values[self.rng.randrange(REMEMBERED)] = value
        if len(self._frames) < REMEMBERED:
            self._frames.append(frame)

    def tick(self, node: Node) -> None:
        if not self._values:
            return
        peers = some_peers(node, self.rng)
        for peer in peers[:2]:
            node.world.deliver(node, peer, self.rng.choice(self._frames))
        values = self.rng.choices(self._values, k=self.rng.randint(1, 6))
        say(node, peers, [value if self.rng.random() < 0.5 else self._rewritten(value) for value in values])

    def _rewritten(self, value: Vote | Proposal | Certificate) -> Said:
        rng = self.rng
        if isinstance(value, Certificate):
            return replace(value, round=value.round + rng.choice((-1, 1)) if value.round else 1)
        if isinstance(value, Proposal) and value.polc is not None and rng.random() < 0.7:
            return replace(value, valid_round=NO_ROUND, polc=None)
        field = rng.choice(("height", "round", "block_hash", "index"))
        other = rng.choice(self._values)
        if field == "index":
            return replace(value, index=(value.index + 1) % 10)
        if field == "block_hash":
            return replace(value, block_hash=other.block_hash)
        moved = max(0, getattr(value, field) + rng.choice((-1, 1, 2)))
        if isinstance(value, Proposal) and value.polc is not None:
            return replace(value, height=moved)
        return replace(value, **{field: moved})


class Flooder(Behaviour):
    tick_ms = 200

    def tick(self, node: Node) -> None:
        core, rng = node.engine.core, self.rng
        if core.me is None:
            return
        values: list[Said] = []
        for _ in range(rng.randint(1, 30)):
            height = node.chain.head.height + rng.choice((1, 1, 2, 2, 3))
            round_ = min(MAX_ROUND, core.round + rng.choice(FAR_ROUNDS))
            block_hash = rng.choice((NIL, rng.randbytes(32)))
            if rng.random() < 0.2:
                values.append(sign_proposal(node, height, round_, rng.randbytes(32), core.me))
            else:
                values.append(sign_vote(node, rng.choice((PREVOTE, PRECOMMIT)), height, round_, block_hash, core.me))
        peers = some_peers(node, rng)
        say(node, peers, values)
        if rng.random() < 0.2:
            for peer in peers:
                node.world.deliver(node, peer, rng.randbytes(rng.randint(0, 200)))


class Liar(Behaviour):
    tick_ms = 250

    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._replies: list[bytes] = []

    def tick(self, node: Node) -> None:
        rng, height = self.rng, node.chain.head.height
        claimed = max(0, height + rng.choice((-3, -1, 1, 2, 3, 50, 10**9)))
        peers = some_peers(node, rng)
        send_bundle(node, peers, Bundle(status=Status(claimed, rng.randint(0, 3), rng.randbytes(32))))
        if height >= node.world.params.initial_height:
            final = self._false_final(node, rng.randint(max(height - 3, node.world.params.initial_height), height))
            if rng.random() < 0.5:
                send_bundle(node, peers, Bundle(final=final))
            else:
                node.peering.publish("block", encode_final(final.header, final.certificate))

    def _false_final(self, node: Node, height: int) -> FinalBlock:
        """Of a made-up block at the height in work or above, with signatures of other blocks."""
        header, certificate = node.chain.header(height), node.chain.certificate(height)
        if self.rng.random() < 0.3:
            return FinalBlock(header, certificate)
        lie = replace(header, height=height + self.rng.randint(0, 5), state_root=self.rng.randbytes(32))
        return FinalBlock(lie, replace(certificate, height=lie.height, block_hash=lie.hash))

    def answer(self, node: Node, asker: Node, request: bytes, reply: bytes) -> bytes | None:
        self._replies = [*self._replies[-20:], reply]
        choice = self.rng.randrange(5)
        if choice == 0:
            return None
        if choice == 1:
            return self.rng.choice(self._replies)
        if choice == 2 and reply:
            at = self.rng.randrange(len(reply))
            return reply[:at] + bytes([reply[at] ^ 1 << self.rng.randrange(8)]) + reply[at + 1 :]
        return reply[: self.rng.randrange(len(reply) + 1)] if choice == 3 else reply

    def announced(self, height: int) -> int:
        return height + self.rng.choice((0, 3, 10**6))


class Picker(Behaviour):
    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._votes: dict[tuple[int, int, bytes], dict[int, Vote]] = {}

    def heard(self, node: Node, frame: bytes) -> None:
        try:
            votes = decode_bundle(frame).votes
        except DecodeError:
            return
        core = node.engine.core
        for vote in votes:
            if vote.kind == PRECOMMIT and vote.height == core.height and vote.verify(core.keys, node.domain(vote.height)):
                self._votes.setdefault((vote.height, vote.round, vote.block_hash), {})[vote.index] = vote

    def parent_certificate(self, node: Node) -> Certificate | None:
        head = node.chain.head
        if head.height < node.world.params.initial_height:
            return None
        keys = node.chain.authority_keys(head.height)
        needed = quorum(len(keys))
        choice = [
            votes for (height, _, block_hash), votes in self._votes.items()
            if (height, block_hash) == (head.height, head.hash) and len(votes) >= needed
        ]
        self._votes = {place: votes for place, votes in self._votes.items() if place[0] >= head.height}
        if not choice:
            return None
        votes = self.rng.choice(choice)
        signers = self.rng.sample(sorted(votes), self.rng.randint(needed, len(votes)))
        return Certificate.build({index: votes[index] for index in signers}, len(keys))


class Amnesiac(Behaviour):
    tick_ms = 1_000

    def tick(self, node: Node) -> None:
        params = node.world.params
        node.halt()
        node.sign_store = FaultStore(self.rng)
        signer = Signer.create(node.sign_store, params.genesis_hash, node.key.public, params.initial_height)
        signer.rewind(node.domains)
        node.world.timeline.after(self.rng.randint(10, 300), lambda: _boot(node))


def _boot(node: Node) -> None:
    if node.actor is not None and node.actor.boots:
        node.boot()


ATTACKERS: dict[str, type[Behaviour]] = {
    "replayer": Replayer, "flooder": Flooder, "liar": Liar, "picker": Picker, "amnesiac": Amnesiac,
}
