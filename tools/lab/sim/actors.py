"""Authorities that do not follow the rules. Each runs the real engine; only what leaves it is changed.

    silent        says nothing, for ever
    selective     shows each message to one or two peers, once
    equivocator   votes for something else to each peer, at random
    withholder    says everything but never serves a body
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING

from ledger.effects import Send
from ledger.messages import decode_bundle, encode_bundle, pack
from ledger.votes import KIND_TAG, NIL, Proposal, Vote, vote_body

if TYPE_CHECKING:
    from .node import Node

KINDS = ("silent", "selective", "equivocator", "withholder")


class Actor:
    """Decides what each peer gets of what an honest authority would have said to all."""

    def __init__(self, kind: str, rng: Random) -> None:
        self.kind, self._rng = kind, rng
        self._shown: set[object] = set()
        self._seen: dict[int, list[bytes]] = {}

    def frames(self, node: Node, send: Send) -> Iterable[tuple[str, bytes]]:
        """(peer, frame) of everything that goes out."""
        if self.kind == "silent":
            return []
        if self.kind == "selective":
            return self._selective(send)
        if self.kind == "equivocator":
            return self._equivocal(node, send)
        return [(peer, send.frame) for peer in send.peers]

    def _selective(self, send: Send) -> list[tuple[str, bytes]]:
        bundle = decode_bundle(send.frame)
        values: list[Vote | Proposal] = [*bundle.votes, *bundle.proposals]
        new = [value for value in values if value not in self._shown]
        self._shown.update(new)
        peers = self._rng.sample(send.peers, min(len(send.peers), self._rng.randint(1, 2)))
        return [(peer, encode_bundle(part)) for peer in peers for part in pack(new, bundle.headers or {})]

    def _equivocal(self, node: Node, send: Send) -> list[tuple[str, bytes]]:
        bundle = decode_bundle(send.frame)
        out = []
        for peer in send.peers:
            votes = [self._other(node, vote) for vote in bundle.votes]
            parts = pack([*votes, *bundle.proposals, *bundle.certificates], bundle.headers or {})
            out += [(peer, encode_bundle(part)) for part in parts]
        return out

    def _other(self, node: Node, vote: Vote) -> Vote:
        """The same vote, or one for another block of this height, or for none."""
        seen = self._seen.setdefault(vote.height, [NIL])
        if vote.block_hash not in seen:
            seen.append(vote.block_hash)
        if node.engine.core.me != vote.index:
            return vote
        block_hash = self._rng.choice(seen)
        body = vote_body(vote.height, vote.round, block_hash)
        signature = node.key.sign(KIND_TAG[vote.kind], node.world.params.genesis_hash, body)
        return Vote(vote.kind, vote.height, vote.round, block_hash, vote.index, signature)
