"""What must hold in every world, looked at while it runs. The first thing that does not raises Violation.

    agreement     no two blocks are decided at a height; and no two could be: the honest precommits of a round, together with
                  those that all others might sign, make a quorum for one block of a height at most
    one word      no honest authority sends two different messages for one (domain, height, round, kind), nor one that its
                  sign database does not hold
    validity      what is decided was executed, its certificate holds under the set and the domain of its height, blocks
                  follow one another, and the state has the root that the header names
    supply        the audit of the rules finds nothing in any state that was decided
    blame         no honest node stops, and none is penalised
    bounds        the state of consensus stays within its limits after every event
    progress      is the world's own check: within HEAL_LIMIT_MS after the trouble everybody has gone on
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from ledger import effects as fx
from ledger.bft_state import MAX_VERDICTS, ROUNDS_AHEAD
from ledger.blocks import Block
from ledger.messages import decode_bundle
from ledger.votes import NIL, PRECOMMIT, Certificate, Proposal, Vote, quorum

if TYPE_CHECKING:
    from .node import Node
    from .world import World

MAX_BLOCKS_HELD: Final = 4 * MAX_VERDICTS  # undecided ones, in the engine
EARLY_PER_AUTHORITY: Final = 6  # messages of the next height: two rounds of three kinds


class Violation(Exception):
    """A check failed. The message says which; the seed reproduces it."""


class Checks:
    """Belongs to one world. `decided` and `rounds` (of the first certificate seen) are by height."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.decided: dict[int, bytes] = {}
        self.rounds: dict[int, int] = {}
        self.audits = 0
        self._signed: dict[tuple[bytes, bytes, int, int, int], bytes] = {}
        self._precommits: dict[tuple[bytes, int], dict[tuple[int, bytes], set[bytes]]] = {}
        self._certifiable: dict[tuple[bytes, int], bytes] = {}

    def violated(self, what: str) -> None:
        raise Violation(f"seed {self._world.seed}, {self._world.timeline.now_ms} ms: {what}")

    def rewound(self, height: int) -> None:
        """What was decided above is undone; its messages stay known, under their domain."""
        for gone in [above for above in self.decided if above > height]:
            del self.decided[gone], self.rounds[gone]

    # --- one word ----------------------------------------------------------------------------------------------------

    def sent(self, node: Node, frame: bytes) -> None:
        """An honest node sends a frame."""
        bundle = decode_bundle(frame)
        core = node.engine.core
        values: tuple[Vote | Proposal, ...] = (*bundle.votes, *bundle.proposals)
        for value in values:
            if value.height == core.height and core.keys[value.index] == node.key.public:
                self._said(node, value)

    def _said(self, node: Node, value: Vote | Proposal) -> None:
        key, domain = node.key.public, node.domain(value.height)
        kind = 0 if isinstance(value, Proposal) else value.kind
        place = (key, domain, value.height, value.round, kind)
        known = self._signed.get(place)
        if known is None:
            self._signed[place] = value.block_hash
            self._is_durable(node, value, kind)
            if kind == PRECOMMIT and value.block_hash != NIL:
                self._precommitted(node, domain, value)
        elif known != value.block_hash:
            self.violated(f"{node.name} signed two things at height {value.height}, round {value.round}, kind {kind}")

    def _is_durable(self, node: Node, value: Vote | Proposal, kind: int) -> None:
        stored = node.durable
        if stored is None or stored.guard < (value.height, value.round, kind):
            self.violated(f"{node.name} sends what it has not made durable: {value.height}/{value.round}, kind {kind}")

    def _precommitted(self, node: Node, domain: bytes, value: Vote | Proposal) -> None:
        """Honest precommits and whatever the others may add: only one block of a height may have a quorum of them."""
        where, keys = (domain, value.height), node.engine.core.keys
        supporters = self._precommits.setdefault(where, {}).setdefault((value.round, value.block_hash), set())
        supporters.add(node.key.public)
        others = sum(1 for key in keys if key not in self._world.honest_keys)
        if len(supporters) + others < quorum(len(keys)):
            return
        if self._certifiable.setdefault(where, value.block_hash) != value.block_hash:
            self.violated(f"two blocks can be certified at height {value.height}")

    # --- agreement, validity, supply ---------------------------------------------------------------------------------

    def committed(self, node: Node, block: Block, certificate: Certificate) -> None:
        """A block is durable on an honest node."""
        height, chain = block.height, node.chain
        first = height not in self.decided
        if self.decided.setdefault(height, block.hash) != block.hash:
            self.violated(f"two blocks were decided at {height}")
        self.rounds.setdefault(height, certificate.round)
        if not certificate.verify(chain.authority_keys(height), node.domain(height)):
            self.violated(f"block {height} was committed without a valid certificate")
        head = chain.head
        if (head.height, head.hash, head.state_root) != (height, block.hash, block.header.state_root):
            self.violated(f"{node.name} committed block {height} but its head is {head.height}")
        if self.decided.get(height - 1, block.header.parent_hash) != block.header.parent_hash:
            self.violated(f"block {height} does not follow the decided block below it")
        if first:
            self._audit(node, height)

    def _audit(self, node: Node, height: int) -> None:
        audit: Any = getattr(self._world.machine, "audit", None)
        if audit is not None:
            self.audits += 1
            for problem in audit(node.chain.view()):
                self.violated(f"the audit of block {height} found: {problem}")

    def final(self, node: Node) -> None:
        """At the end: every value that is stored has its place under the root."""
        node.chain.audit_state()

    # --- blame and bounds --------------------------------------------------------------------------------------------

    def stopped(self, node: Node, effect: fx.Stop) -> None:
        if node.honest:
            self.violated(f"{node.name} stopped with {effect.code}: {effect.reason}")

    def penalised(self, node: Node, effect: fx.Penalise) -> None:
        """An honest peer is never at fault, whoever judges by the rules."""
        if node.honest and effect.peer and self._world.named(effect.peer).honest:
            self.violated(f"{node.name} blames honest {effect.peer}: {effect.reason}")

    def bounded(self, node: Node) -> None:
        """After each event of an honest node."""
        engine, core = node.engine, node.engine.core
        if core.idle and not hasattr(core, "votes"):
            return
        low, high = core.round - 1, core.round + ROUNDS_AHEAD
        for round_, _ in core.votes:
            if not low <= round_ <= high:
                self.violated(f"{node.name} keeps votes of round {round_} in round {core.round}")
        sizes = (
            ("proposals", len(core.proposals), 4), ("highest", len(core.highest), core.n),
            ("verdicts", len(core.verdict), 2 * MAX_VERDICTS), ("blocks", len(engine._blocks), MAX_BLOCKS_HELD),
            ("early", len(engine._inbox._early), EARLY_PER_AUTHORITY * core.n), ("why", len(core.why), core.n),
        )
        for name, size, limit in sizes:
            if size > limit:
                self.violated(f"{node.name} holds {size} {name}, more than {limit}")
