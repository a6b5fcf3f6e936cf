"""A world: nodes, weather, disks and actors, all from one seed; and the checks that must hold in every run.

Checked while it runs: no two blocks are decided at a height; no honest authority sends two different messages for one
(height, round, kind); no honest node stops; every certificate is valid. Checked at the end: within `HEAL_LIMIT_MS` of the
moment at which all trouble ends, every honest node has `HEIGHTS_AFTER` more blocks than anybody had then. `digest` covers
all that happened, in order: the same seed gives the same digest.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from random import Random
from typing import Any

from ledger import effects as fx
from ledger.blocks import Block
from ledger.crypto import KeyPair
from ledger.machine import StateMachine
from ledger.messages import decode_bundle
from ledger.spec import ChainSpecParams
from ledger.votes import Certificate, Evidence, Proposal, Vote, max_faulty

from .actors import KINDS, Actor
from .clock import EPOCH_MS, Timeline
from .counter import CounterMachine
from .keys import HashKey, keyed_hashes
from .network import Weather
from .node import Node

BLOCK_TIME_MS = 250
TROUBLE_MS = 4_000
HEAL_LIMIT_MS = 20_000
HEIGHTS_AFTER = 4
MAX_ACTIONS = 400_000


class Violation(Exception):
    """A check failed. The message says which; the seed reproduces it."""


@dataclass(frozen=True)
class Plan:
    """What a world is made of. `actors`: kind by index of the authorities that are not honest."""

    n: int = 4
    actors: Mapping[int, str] | None = None
    weather: Weather | None = None
    crash: float = 0.0  # probability before each effect, until the trouble ends
    skew_ms: int = 0  # clocks are off by up to this
    slow_disk_ms: int = 6
    followers: int = 0
    real_signatures: bool = False
    line: bool = False  # each node is connected with the one before and the one after, no others
    late_followers_ms: int = 0  # followers start only then
    trouble_ms: int = TROUBLE_MS
    block_time_ms: int = BLOCK_TIME_MS

    @classmethod
    def random(cls, seed: int, max_n: int = 5) -> Plan:
        """Each kind of trouble is switched off in some of the worlds."""
        rng = Random(f"plan {seed}")
        n = rng.choice([size for size in (1, 2, 3, 4, 4, 4, 5, 7) if size <= max_n])
        bad = rng.sample(range(n), rng.randint(0, max_faulty(n)))
        return cls(
            n=n, actors={index: rng.choice(KINDS) for index in bad}, weather=Weather.random(rng, n, TROUBLE_MS),
            crash=rng.choice((0.0, 0.0, 0.001, 0.004)), skew_ms=rng.choice((0, 0, 200)),
            slow_disk_ms=rng.choice((1, 6, 30)), followers=rng.choice((0, 0, 1)), real_signatures=rng.random() < 0.05,
        )


@dataclass(frozen=True)
class Rules:
    """What the nodes run: a state machine, its genesis, and the keys of the authorities named there, in order."""

    machine: StateMachine
    genesis_state: Mapping[bytes, bytes]
    params: ChainSpecParams
    keys: tuple[Any, ...]  # KeyPair, or HashKey without real signatures

    @classmethod
    def counter(cls, seed: int, plan: Plan) -> Rules:
        """The default: every seed has a genesis hash of its own."""
        make: Any = KeyPair.from_seed if plan.real_signatures else HashKey.from_seed
        keys = tuple(make(bytes([index]) * 32) for index in range(plan.n))
        params = ChainSpecParams(
            genesis_hash=blake2b(f"genesis {seed}".encode(), digest_size=32).digest(), genesis_time_ms=EPOCH_MS,
            block_time_ms=plan.block_time_ms,
        )
        return cls(CounterMachine(), CounterMachine.genesis([key.public for key in keys]), params, keys)


class World:
    """`rules` default to the counter; `trace` (if given) gets every line that is digested."""

    def __init__(
        self, seed: int, plan: Plan | None = None, *, rules: Rules | None = None, trace: list[str] | None = None
    ) -> None:
        self.seed, self.plan = seed, plan or Plan.random(seed)
        self.rng = Random(f"world {seed}")
        self.timeline = Timeline()
        self.weather = self.plan.weather or Weather.fine()
        rules = rules or Rules.counter(seed, self.plan)
        self.machine, self.genesis_state, self.params = rules.machine, rules.genesis_state, rules.params
        self.decided: dict[int, bytes] = {}
        self.rounds: dict[int, int] = {}  # round of the first certificate of each height
        self.evidence: list[Evidence] = []
        self.crashes = 0
        self._signed: dict[tuple[int, int, int, int], bytes] = {}
        self._digest = blake2b(digest_size=16)
        self._trace = trace
        self._actors = {index: Actor(kind, self.rng) for index, kind in (self.plan.actors or {}).items()}
        self.nodes: list[Node] = []
        everybody = [*rules.keys, *[None] * self.plan.followers]
        self.nodes = [Node(self, index, key, index not in self._actors) for index, key in enumerate(everybody)]
        self.honest = [node for node in self.nodes if node.honest]

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self) -> World:
        """Until all honest nodes have gone on after the trouble. Raises Violation."""
        with nullcontext() if self.plan.real_signatures else keyed_hashes():
            self._start()
            self._until(lambda: self.timeline.now_ms >= self.plan.trouble_ms, self.plan.trouble_ms + HEAL_LIMIT_MS)
            target, healed_ms = max(self.decided, default=0) + HEIGHTS_AFTER, self.timeline.now_ms
            self._until(lambda: self._all_reached(target), self.plan.trouble_ms + HEAL_LIMIT_MS)
            self.recovered_ms = self.timeline.now_ms - healed_ms
        return self

    def _start(self) -> None:
        for node in self.nodes:
            node.skew_ms = self.rng.randint(-self.plan.skew_ms, self.plan.skew_ms)
            if (self.plan.actors or {}).get(node.index) != "silent":
                late_ms = self.plan.late_followers_ms if node.key is None else 0
                self.timeline.after(late_ms + self.rng.randint(0, 300), node.boot)

    def _until(self, done: Any, deadline_ms: int) -> None:
        while not done():
            if not self.timeline.step() or self.timeline.now_ms > deadline_ms or self.timeline.actions > MAX_ACTIONS:
                where = [node.where() for node in self.honest]
                raise Violation(f"seed {self.seed}: no progress at {self.timeline.now_ms} ms, nodes at {where}")

    def _all_reached(self, height: int) -> bool:
        return all(node.alive and node.chain.durable_height >= height for node in self.honest)

    def digest(self) -> str:
        return self._digest.hexdigest()

    def note(self, index: int, what: str) -> None:
        """One line of what happened."""
        line = f"{self.timeline.now_ms} p{index} {what}"
        self._digest.update(line.encode() + b"\n")
        if self._trace is not None:
            self._trace.append(line)

    # --- what nodes ask of the world ---------------------------------------------------------------------------------

    def named(self, name: str) -> Node:
        return self.nodes[int(name[1:])]

    def is_linked(self, one: Node, other: Node) -> bool:
        """A connection exists at all."""
        return one is not other and (not self.plan.line or abs(one.index - other.index) == 1)

    def crashes_now(self, node: Node) -> bool:
        return (
            self.plan.crash > 0 and node.honest and self.timeline.now_ms < self.plan.trouble_ms
            and self.rng.random() < self.plan.crash
        )

    def disk_delay_ms(self) -> int:
        return self.rng.randint(0, self.plan.slow_disk_ms)

    def work_delay_ms(self) -> int:
        return self.rng.randint(0, 4)

    def round_trip_ms(self, one: Node, other: Node) -> int | None:
        """Time for a question and its answer; None if either is lost."""
        now_ms = self.timeline.now_ms
        there = self.weather.arrivals(self.rng, one.index, other.index, now_ms)
        back = self.weather.arrivals(self.rng, other.index, one.index, now_ms)
        return there[0] + back[0] if there and back else None

    def serves_bodies(self, node: Node) -> bool:
        actor = self._actors.get(node.index)
        return actor is None or actor.kind != "withholder"

    def send(self, node: Node, send: fx.Send) -> None:
        actor = self._actors.get(node.index)
        if actor is None:
            self._check_signed(node, send.frame)
        frames = [(peer, send.frame) for peer in send.peers] if actor is None else actor.frames(node, send)
        for peer, frame in frames:
            self._deliver(node, self.named(peer), fx.Frame(node.name, frame))

    def gossip(self, node: Node, data: bytes) -> None:
        """To all that are connected; honest ones pass it on."""
        for other in self.nodes:
            if self.is_linked(node, other) and node.index not in self._actors:
                for delay_ms in self.weather.arrivals(self.rng, node.index, other.index, self.timeline.now_ms):
                    self.timeline.after(delay_ms, lambda other=other: other.hear_gossip(node.name, data))  # type: ignore[misc]

    def _deliver(self, sender: Node, receiver: Node, event: fx.Event) -> None:
        for delay_ms in self.weather.arrivals(self.rng, sender.index, receiver.index, self.timeline.now_ms):
            self.timeline.after(delay_ms, lambda: receiver.feed(event))

    # --- checks ------------------------------------------------------------------------------------------------------

    def _check_signed(self, node: Node, frame: bytes) -> None:
        bundle = decode_bundle(frame)
        values: tuple[Vote | Proposal, ...] = (*bundle.votes, *bundle.proposals)
        for value in values:
            if value.index != node.index:
                continue
            place = (node.index, value.height, value.round, 0 if isinstance(value, Proposal) else value.kind)
            if self._signed.setdefault(place, value.block_hash) != value.block_hash:
                raise Violation(f"seed {self.seed}: p{node.index} signed two things at {place[1:]}")

    def committed(self, node: Node, block: Block, certificate: Certificate) -> None:
        """A block is durable on a node."""
        self.note(node.index, f"commit {block.height} {block.hash[:4].hex()}")
        self.rounds.setdefault(block.height, certificate.round)
        if not node.honest:
            return
        if self.decided.setdefault(block.height, block.hash) != block.hash:
            raise Violation(f"seed {self.seed}: two blocks were decided at {block.height}")
        if not certificate.verify(node.chain.authority_keys(block.height), self.params.genesis_hash):
            raise Violation(f"seed {self.seed}: block {block.height} was committed without a valid certificate")

    def stopped(self, node: Node, effect: fx.Stop) -> None:
        self.note(node.index, f"stop {effect.code} {effect.reason}")
        if node.honest:
            raise Violation(f"seed {self.seed}: p{node.index} stopped with {effect.code}: {effect.reason}")

    def penalised(self, node: Node, effect: fx.Penalise) -> None:
        """An honest peer is never at fault."""
        if effect.peer and self.named(effect.peer).honest:
            raise Violation(f"seed {self.seed}: p{node.index} blames honest {effect.peer}: {effect.reason}")
