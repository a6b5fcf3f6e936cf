"""Authorities that do not follow the rules: how each of them speaks. Those that attack in other ways are in `attackers`.

    silent        says nothing, from the start
    mute          says nothing any more, from some moment on
    selective     shows each message to one or two peers, once
    equivocator   votes for something else to each peer, at random
    splitter      makes two blocks where it leads, one for each half of its peers, and votes accordingly
    withholder    says everything but serves bodies to nobody, or to one or two
    early         does not wait: all its timers are short
    clock         its wall clock is far off, and so are its timestamps
    twins         runs twice with one key, each copy by the rules

An actor may have several of these names, joined by "+".
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random
from typing import TYPE_CHECKING, Any

from ledger import effects as fx
from ledger.blocks import Block, Header
from ledger.messages import Said, decode_bundle, encode_bundle, pack
from ledger.votes import NIL, Certificate, Proposal, Vote
from p2p.messages import GetBlock, decode_request

from .attackers import ATTACKERS
from .behaviour import Behaviour, sign_proposal, sign_vote

if TYPE_CHECKING:
    from .node import Node

HOUR_MS = 3_600_000
SHOWN_KEPT = 4096


class Silent(Behaviour):
    pass


class Mute(Behaviour):
    """Stops at a random moment of the trouble and never comes back."""

    def enter(self, node: Node) -> None:
        def stop() -> None:
            if node.actor is not None:
                node.actor.boots = False
            if node.alive:
                node.halt()

        node.world.timeline.after(self.rng.randint(0, node.world.plan.trouble_ms), stop)


class Selective(Behaviour):
    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._shown: dict[Said, set[str]] = {}

    def outgoing(self, node: Node, peer: str, values: list[Said], headers: dict[bytes, Header]) -> list[Said]:
        out = []
        if len(self._shown) > SHOWN_KEPT:
            self._shown.clear()
        for value in values:
            if value not in self._shown:
                peers = list(node.peering.connected)
                self._shown[value] = set(self.rng.sample(peers, min(len(peers), self.rng.randint(1, 2))))
            if peer in self._shown[value]:
                self._shown[value].discard(peer)
                out.append(value)
        return out


class Equivocator(Behaviour):
    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._seen: dict[int, list[bytes]] = {}

    def outgoing(self, node: Node, peer: str, values: list[Said], headers: dict[bytes, Header]) -> list[Said]:
        out: list[Said] = []
        for value in values:
            out += self._others(node, value) if isinstance(value, Vote) else [value]
        return out

    def _others(self, node: Node, vote: Vote) -> list[Said]:
        """The same vote, or one for another block of this height, or for none; sometimes two."""
        seen = self._seen.setdefault(vote.height, [NIL])
        if vote.block_hash not in seen:
            seen.append(vote.block_hash)
        if node.engine.core.me != vote.index:
            return [vote]
        choice = self.rng.sample(seen, min(len(seen), self.rng.choice((1, 1, 1, 2))))
        return [sign_vote(node, vote.kind, vote.height, vote.round, block_hash, vote.index) for block_hash in choice]


class Splitter(Behaviour):
    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._second: dict[bytes, tuple[Block, set[str]]] = {}  # own block -> the other one, who sees that

    def built(self, node: Node, block: Block, round_: int) -> None:
        try:
            other = node.chain.build(timestamp_ms=block.header.timestamp_ms + 1, round_=round_).block
        except Exception:  # a second block is a wish
            return
        peers = list(node.peering.connected)
        node.engine._blocks[other.hash] = other  # so that it is served
        if len(self._second) > 64:
            self._second.clear()
        self._second[block.hash] = (other, set(self.rng.sample(peers, self.rng.randint(0, len(peers)))))

    def outgoing(self, node: Node, peer: str, values: list[Said], headers: dict[bytes, Header]) -> list[Said]:
        return [self._side(node, peer, value, headers) for value in values]

    def _side(self, node: Node, peer: str, value: Said, headers: dict[bytes, Header]) -> Said:
        if not isinstance(value, Vote | Proposal) or value.block_hash not in self._second or value.index != node.engine.core.me:
            return value
        other, side = self._second[value.block_hash]
        if peer not in side:
            return value
        headers[other.hash] = other.header
        if isinstance(value, Vote):
            return sign_vote(node, value.kind, value.height, value.round, other.hash, value.index)
        return sign_proposal(node, value.height, value.round, other.hash, value.index) if value.polc is None else value


class Withholder(Behaviour):
    def __init__(self, rng: Random) -> None:
        super().__init__(rng)
        self._friends = rng.choice((0, 0, 1, 2))
        self._served: dict[bytes, set[str]] = {}

    def answer(self, node: Node, asker: Node, request: bytes, reply: bytes) -> bytes | None:
        asked = decode_request(request)
        if not isinstance(asked, GetBlock):
            return reply
        served = self._served.setdefault(asked.hash, set())
        if asker.name not in served and len(served) >= self._friends:
            return None
        served.add(asker.name)
        return reply


class Early(Behaviour):
    def delay_ms(self, timer: fx.SetTimer, delay_ms: int) -> int:
        return delay_ms if timer.kind == "rebroadcast" else delay_ms // self.rng.choice((2, 4, 1000))


class FalseClock(Behaviour):
    def enter(self, node: Node) -> None:
        node.skew_ms = self.rng.choice((-HOUR_MS, HOUR_MS, -6_000, 6_000, -700, 700))


class Twins(Behaviour):
    """`World` runs the second copy."""


_BEHAVIOURS: dict[str, type[Behaviour]] = {
    "silent": Silent, "mute": Mute, "selective": Selective, "equivocator": Equivocator, "splitter": Splitter,
    "withholder": Withholder, "early": Early, "clock": FalseClock, "twins": Twins, **ATTACKERS,
}
KINDS = tuple(_BEHAVIOURS)


class Actor:
    """One node's behaviours, one after the other. `boots` False: the node does not start (any more)."""

    def __init__(self, kind: str, rng: Random) -> None:
        self.kind = kind
        names = kind.split("+")
        self.boots = "silent" not in names
        self._behaviours = [_BEHAVIOURS[name](rng) for name in names]

    def enter(self, node: Node) -> None:
        for behaviour in self._behaviours:
            behaviour.enter(node)

    def booted(self, node: Node) -> None:
        """A new life of the node: it must not mind what its key says without it."""
        deafen(node.engine.core)
        for behaviour in self._behaviours:
            if behaviour.tick_ms:
                self._tick_later(node, behaviour)

    def _tick_later(self, node: Node, behaviour: Behaviour) -> None:
        def act() -> None:
            behaviour.tick(node)
            self._tick_later(node, behaviour)

        node.later(behaviour.rng.randint(behaviour.tick_ms // 2, 2 * behaviour.tick_ms), act)

    def frames(self, node: Node, send: fx.Send) -> Iterable[tuple[str, bytes]]:
        """(peer, frame) of everything that goes out."""
        bundle = decode_bundle(send.frame)
        status = [] if bundle.status is None else [bundle.status]
        for peer in send.peers:
            headers = dict(bundle.headers or {})
            values: list[Said] = [*bundle.votes, *bundle.proposals, *bundle.certificates, *status]
            if bundle.final is not None:
                yield peer, send.frame
            for behaviour in self._behaviours:
                values = behaviour.outgoing(node, peer, values, headers)
            for part in pack(values, headers):
                yield peer, encode_bundle(part)

    def heard(self, node: Node, frame: bytes) -> None:
        for behaviour in self._behaviours:
            behaviour.heard(node, frame)

    def delay_ms(self, timer: fx.SetTimer) -> int:
        delay_ms = timer.delay_ms
        for behaviour in self._behaviours:
            delay_ms = behaviour.delay_ms(timer, delay_ms)
        return delay_ms

    def parent_certificate(self, node: Node) -> Certificate | None:
        for behaviour in self._behaviours:
            certificate = behaviour.parent_certificate(node)
            if certificate is not None:
                return certificate
        return None

    def built(self, node: Node, block: Block, round_: int) -> None:
        for behaviour in self._behaviours:
            behaviour.built(node, block, round_)

    def answer(self, node: Node, asker: Node, request: bytes, reply: bytes) -> bytes | None:
        served: bytes | None = reply
        for behaviour in self._behaviours:
            if served is not None:
                served = behaviour.answer(node, asker, request, served)
        return served

    def announced(self, node: Node) -> int:
        """The height that hello tells."""
        height = node.chain.durable_height
        for behaviour in self._behaviours:
            height = behaviour.announced(height)
        return height

    def gossips(self) -> bool:
        """Whether it passes on what it hears: half of the actors do not."""
        return not self.kind.startswith(("selective", "withholder", "equivocator"))


def deafen(core: Any) -> None:
    """Let a core ignore messages that bear its own signature and that it did not make: a liar does not stop for them."""
    note, place = core.note, core.place

    def hear(message: Any, now: fx.Now) -> None:
        if message.index != core.me or message in core.own:
            note(message, now)

    def count(message: Any, now: fx.Now) -> None:
        if message.index != core.me or message in core.own:
            place(message, now)

    core.note, core.place = hear, count
