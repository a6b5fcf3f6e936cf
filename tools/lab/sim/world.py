"""A world: nodes, weather, disks, clocks, actors and users, all from one seed; and the checks that must hold in every run.

For `Plan.trouble_ms` everything that the plan allows goes wrong. Then the network heals, crashes end and clocks are right
again: within `HEAL_LIMIT_MS` every honest node must have `HEIGHTS_AFTER` more blocks than anybody had then. All other checks
(`checks`) hold at every moment. `digest` covers all that happened, in order: the same seed gives the same digest.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from hashlib import blake2b
from random import Random

from ledger import effects as fx
from ledger.blocks import Block
from ledger.signer import rewound
from ledger.votes import Certificate, Evidence

from .actors import Actor
from .checks import Checks, Violation
from .clock import EPOCH_MS, Timeline
from .keys import keyed_hashes
from .network import Weather
from .node import Node
from .plan import BLOCK_TIME_MS, TROUBLE_MS, ClockStep, Plan
from .rules import Rules
from .traffic import Traffic

__all__ = ["BLOCK_TIME_MS", "EPOCH_MS", "HEAL_LIMIT_MS", "TROUBLE_MS", "Plan", "Rules", "Violation", "World"]

HEAL_LIMIT_MS = 20_000
HEIGHTS_AFTER = 4
MAX_ACTIONS = 1_000_000
MAX_REWIND = 4  # blocks


class World:
    """`rules` default to what the plan says; `trace` (if given) gets every line that is digested.

    `nodes`: the authorities in the order of the first set, then candidates, followers, and the second copies of twins.
    """

    def __init__(
        self, seed: int, plan: Plan | None = None, *, rules: Rules | None = None, trace: list[str] | None = None
    ) -> None:
        self.seed, self.plan = seed, plan or Plan.random(seed)
        self.rng = Random(f"world {seed}")
        self.timeline = Timeline()
        self.weather = self.plan.weather or Weather.fine()
        self.rules = rules or Rules.of(seed, self.plan)
        self.machine, self.genesis_state, self.params = self.rules.machine, self.rules.genesis_state, self.rules.params
        self.checks = Checks(self)
        self.decided, self.rounds = self.checks.decided, self.checks.rounds
        self.evidence: list[Evidence] = []
        self.crashes = self.rewinds = 0
        self.recovered_ms = 0
        self._digest = blake2b(digest_size=16)
        self._trace = trace
        self.nodes: list[Node] = []
        self._make_nodes()
        self.honest = [node for node in self.nodes if node.honest]
        self.honest_keys = [node.key.public for node in self.honest if node.key is not None]
        self.traffic = Traffic(self)

    def _make_nodes(self) -> None:
        actors, keys = dict(self.plan.actors or {}), [*self.rules.keys, *self.rules.candidates]
        twins = [index for index in sorted(actors) if "twins" in actors[index].split("+")]
        everybody = [*keys, *[None] * self.plan.followers, *(keys[index] for index in twins)]
        kinds = [actors.get(index, "") for index in range(len(everybody) - len(twins))] + [actors[index] for index in twins]
        for index, (key, kind) in enumerate(zip(everybody, kinds, strict=True)):
            node = Node(self, index, key, not kind)
            node.actor = Actor(kind, self.rng) if kind else None
            self.nodes.append(node)

    # --- running -----------------------------------------------------------------------------------------------------

    def run(self) -> World:
        """Until all honest nodes have gone on after the trouble. Raises Violation."""
        with nullcontext() if self.plan.real_signatures else keyed_hashes():
            self.start()
            limit_ms = self.plan.trouble_ms + HEAL_LIMIT_MS
            self.until(lambda: self.timeline.now_ms >= self.plan.trouble_ms, limit_ms)
            self._heal()
            target, healed_ms = max(self.decided, default=0) + HEIGHTS_AFTER, self.timeline.now_ms
            self.until(lambda: self._all_reached(target), limit_ms)
            self.recovered_ms = self.timeline.now_ms - healed_ms
            for node in self.honest:
                self.checks.final(node)
            self.note(-1, f"{self.timeline.actions} actions")
        return self

    def start(self) -> None:
        """Set the clocks and plan everything that happens at a time."""
        plan = self.plan
        for node in self.nodes:
            node.skew_ms = self.rng.randint(-plan.skew_ms, plan.skew_ms)
            late_ms = plan.late_followers_ms if node.key is None else 0
            if node.actor is not None:
                node.actor.enter(node)
            if node.actor is None or node.actor.boots:
                self.timeline.after(late_ms + self.rng.randint(0, 300), node.boot)
        for at_ms in plan.blackouts:
            self.timeline.after(at_ms, self._blackout)
        for step in plan.clock_steps:
            self.timeline.after(step.at_ms, lambda step=step: self._step_clock(step))  # type: ignore[misc]
        for at_ms in plan.rewinds:
            self.timeline.after(at_ms, self.rewind)
        if self.weather.breaks:
            for start, _, side in self.weather.partitions:
                self.timeline.after(start, lambda side=side: self._break_links(side))  # type: ignore[misc]
        self.traffic.begin()

    def until(self, done: Callable[[], bool], deadline_ms: int) -> None:
        """Let time pass. Raises Violation if it is not done by then."""
        step, timeline = self.timeline.step, self.timeline
        while not done():
            if not step() or timeline.now_ms > deadline_ms or timeline.actions > MAX_ACTIONS:
                self.checks.violated(f"no progress, nodes at {[node.where() for node in self.honest]}")

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

    # --- trouble -----------------------------------------------------------------------------------------------------

    def _blackout(self) -> None:
        for node in self.honest:
            node.crash()

    def _step_clock(self, step: ClockStep) -> None:
        for node in self.nodes if step.index is None else [self.nodes[step.index]]:
            node.skew_ms += step.step_ms
            self.note(node.index, f"clock steps by {step.step_ms} ms")

    def _break_links(self, side: frozenset[int]) -> None:
        for one in self.nodes:
            for name in list(one.peering.connected) if one.alive else ():
                if (one.index in side) != (self.named(name).index in side):
                    one.peering.drop(name)

    def _heal(self) -> None:
        """Single clocks are set right; what all of them did stays."""
        for node in self.honest:
            alone_ms = sum(step.step_ms for step in self.plan.clock_steps if step.index == node.index)
            node.skew_ms -= alone_ms
        self.note(-1, "healed")

    def rewind(self) -> None:
        """A devnet is taken back: stop all nodes, cut each chain, append the same domain everywhere, start."""
        for node in self.nodes:
            if node.alive:
                node.halt()
        heads = [node.stored_height() for node in self.honest if node.key is not None]
        height = self.rng.randint(max(self.params.genesis_height, min(heads) - MAX_REWIND), min(heads))
        source = self.honest[0]
        source.open()
        source.chain.rewind(height)
        head, entropy = source.chain.head, self.rng.randbytes(16)
        domains = rewound(source.domains, height, head.hash, head.next_authorities_hash, entropy)
        source.halt()
        for node in self.nodes:
            node.rewind(height, domains)
            if node.actor is None or node.actor.boots:
                self.timeline.after(self.rng.randint(0, 300), node.boot)
        self.checks.rewound(height)
        self.rewinds += 1
        self.note(-1, f"rewound to {height}")

    # --- what nodes ask of the world ---------------------------------------------------------------------------------

    def named(self, name: str) -> Node:
        return self.nodes[int(name[1:])]

    def is_linked(self, one: Node, other: Node) -> bool:
        """A connection is possible at all."""
        return one is not other and (not self.plan.line or abs(one.index - other.index) == 1)

    def crashes_now(self, node: Node) -> bool:
        """Asked before each effect and around each write of a node."""
        node.boundaries += 1
        if (node.index, node.boundaries) in self.plan.crash_points:
            return True
        return (
            self.plan.crash > 0 and node.honest and self.timeline.now_ms < self.plan.trouble_ms
            and self.rng.random() < self.plan.crash
        )

    def disk_delay_ms(self) -> int:
        return self.rng.randint(0, self.plan.slow_disk_ms)

    def work_delay_ms(self) -> int:
        return self.rng.randint(0, 4)

    def latency_ms(self) -> int:
        return 1 + int(self.rng.random() * self.weather.latency_ms)

    def trip(self, sender: Node, receiver: Node) -> int | None:
        """Time of one message; None if it is lost."""
        arrivals = self.weather.arrivals(self.rng, sender.index, receiver.index, self.timeline.now_ms)
        return arrivals[0] if arrivals else None

    def send(self, node: Node, send: fx.Send) -> None:
        if node.actor is None:
            self.checks.sent(node, send.frame)
            for peer in send.peers:
                self.deliver(node, peer, send.frame)
        else:
            for peer, frame in node.actor.frames(node, send):
                self.deliver(node, peer, frame)

    def deliver(self, node: Node, peer: str, frame: bytes) -> None:
        """One frame on the direct channel, if there is one."""
        receiver, life = self.named(peer), node.generation
        event = fx.Frame(node.name, frame)

        def arrive() -> None:
            if receiver.alive and receiver.peering.connected.get(node.name) == life:
                if receiver.actor is not None:
                    receiver.actor.heard(receiver, frame)
                receiver.feed(event)

        for delay_ms in self.weather.arrivals(self.rng, node.index, receiver.index, self.timeline.now_ms):
            self.timeline.after(delay_ms, arrive)

    def gossip(self, node: Node, topic: str, data: bytes) -> None:
        """To all that are connected."""
        if node.actor is not None and not node.actor.gossips():
            return
        for peer in node.peering.connected:
            receiver = self.named(peer)

            def arrive(receiver: Node = receiver, life: int = node.generation) -> None:
                if receiver.alive and receiver.peering.connected.get(node.name) == life:
                    receiver.peering.hear(node.name, topic, data)

            for delay_ms in self.weather.arrivals(self.rng, node.index, receiver.index, self.timeline.now_ms):
                self.timeline.after(delay_ms, arrive)

    def committed(self, node: Node, block: Block, certificate: Certificate) -> None:
        """A block is durable on a node."""
        self.note(node.index, f"commit {block.height} {block.hash[:4].hex()}")
        if node.honest:
            self.checks.committed(node, block, certificate)

    def stopped(self, node: Node, effect: fx.Stop) -> None:
        self.note(node.index, f"stop {effect.code} {effect.reason}")
        self.checks.stopped(node, effect)

    def penalised(self, node: Node, effect: fx.Penalise) -> None:
        self.checks.penalised(node, effect)
