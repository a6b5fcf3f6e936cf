"""What an actor may do differently from an honest authority: one method for each place where it can step in.

Every actor runs the real engine. A behaviour sees what goes out, what comes in, what is built and what is served, and may
say things of its own; what it does not change stays as the rules have it.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from ledger import effects as fx
from ledger.blocks import Block, Header
from ledger.messages import Bundle, Said, encode_bundle, pack
from ledger.votes import KIND_TAG, NO_ROUND, Certificate, Proposal, Vote, proposal_body, vote_body

if TYPE_CHECKING:
    from .node import Node


class Behaviour:
    """The defaults are those of an honest authority. One object for one actor, over all its lives."""

    tick_ms = 0  # how often `tick` comes; 0 = never

    def __init__(self, rng: Random) -> None:
        self.rng = rng

    def enter(self, node: Node) -> None:
        """The world begins."""

    def tick(self, node: Node) -> None:
        """Now and then, while the node lives."""

    def outgoing(self, node: Node, peer: str, values: list[Said], headers: dict[bytes, Header]) -> list[Said]:
        """What one peer gets of what was to go to all; headers may be added."""
        return values

    def heard(self, node: Node, frame: bytes) -> None:
        """A frame came in."""

    def delay_ms(self, timer: fx.SetTimer, delay_ms: int) -> int:
        return delay_ms

    def parent_certificate(self, node: Node) -> Certificate | None:
        """The one to put into the next block; None: the stored one."""
        return None

    def built(self, node: Node, block: Block, round_: int) -> None:
        """An own block was made."""

    def answer(self, node: Node, asker: Node, request: bytes, reply: bytes) -> bytes | None:
        """What is served; None: nothing."""
        return reply

    def announced(self, height: int) -> int:
        """The height that hello tells."""
        return height


# --- saying things of one's own ------------------------------------------------------------------------------------------


def sign_vote(node: Node, kind: int, height: int, round_: int, block_hash: bytes, index: int) -> Vote:
    """A vote of this node's key, whatever the rules say."""
    signature = node.key.sign(KIND_TAG[kind], node.domain(height), vote_body(height, round_, block_hash))
    return Vote(kind, height, round_, block_hash, index, signature)


def sign_proposal(node: Node, height: int, round_: int, block_hash: bytes, index: int) -> Proposal:
    """A fresh proposal of this node's key."""
    body = proposal_body(height, round_, NO_ROUND, block_hash)
    return Proposal(height, round_, NO_ROUND, block_hash, index, node.key.sign("proposal", node.domain(height), body))


def say(node: Node, peers: Sequence[str], values: Sequence[Said], headers: dict[bytes, Header] | None = None) -> None:
    """Send values to some peers, outside of consensus."""
    for bundle in pack(values, headers or {}):
        send_bundle(node, peers, bundle)


def send_bundle(node: Node, peers: Sequence[str], bundle: Bundle) -> None:
    frame = encode_bundle(bundle)
    for peer in peers:
        node.world.deliver(node, peer, frame)


def some_peers(node: Node, rng: Random) -> list[str]:
    """A random choice of those that are connected, at least one if there are any."""
    peers = list(node.peering.connected)
    return rng.sample(peers, rng.randint(1, len(peers))) if peers else []
