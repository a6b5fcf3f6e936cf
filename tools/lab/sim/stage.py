"""A stage: a world without chance, in which a scenario decides who hears what, who crashes when and what clocks show.

Every message takes 5 ms, every write and every piece of work 1 ms, unless the scenario says otherwise. The players are real
nodes. `puppets` are authorities without a node: the scenario signs in their name, serves their blocks and shows each message
to whom it likes. `lose(rule)` drops what the rule says, until it is taken back.

What happened is kept: `said` (messages that a node signed and sent), `fired` (rules of the core), `stops`, `blamed`. Two
blocks at a height, a double signature, an invalid certificate, blame of an honest node and a stop that the scenario does not
expect end it with a `Breach`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from ledger import effects as fx
from ledger.blocks import Block, Extrinsic
from ledger.chain import Chain
from ledger.machine import AuthoritySet, BlockContext, BlockResult, View
from ledger.messages import Bundle, FinalBlock, decode_bundle, decode_final, encode_bundle, pack
from ledger.spec import ChainSpecParams
from ledger.votes import (
    KIND_TAG,
    NIL,
    NO_ROUND,
    PRECOMMIT,
    PREVOTE,
    Certificate,
    Evidence,
    Proposal,
    Status,
    Vote,
    proposal_body,
    vote_body,
)

from .clock import EPOCH_MS, Timeline
from .counter import COUNT_KEY, CounterMachine
from .keys import HashKey
from .player import Player

LATENCY_MS: Final = 5
MAX_STEPS: Final = 200_000

Value = Vote | Proposal | Certificate | Status | FinalBlock
Loss = Callable[[int, int, Value], bool]  # (sender, receiver, value) -> it is lost
Sets = Mapping[int, tuple[Sequence[int], Sequence[int]]]  # first height -> (positions among all keys, positions that lead)


class Breach(Exception):
    """A check that holds in every scenario failed."""


class SetMachine(CounterMachine):
    """The counter with a script of authority sets."""

    def __init__(self, keys: Sequence[bytes], sets: Sets) -> None:
        super().__init__()
        self._keys, self._sets = tuple(keys), dict(sorted(sets.items()))

    def at(self, height: int) -> AuthoritySet:
        """The set that certifies a height."""
        positions, active = next(entry for first, entry in reversed(self._sets.items()) if first <= height)
        return AuthoritySet(tuple(self._keys[index] for index in positions), tuple(active))

    def authorities(self, view: View) -> AuthoritySet:
        return self.at(int.from_bytes(view.get(COUNT_KEY) or b"", "big") + 1)

    def apply_block(
        self, view: View, context: BlockContext, inherents: Sequence[tuple[int, bytes]], extrinsics: Sequence[Extrinsic],
        *rest: Any,
    ) -> BlockResult:
        result = super().apply_block(view, context, inherents, extrinsics, *rest)
        return replace(result, authorities=self.at(context.height + 1))


@dataclass(frozen=True)
class Fired:
    """A transition: which node, which rule, where, and what it did."""

    node: int
    rule: str
    height: int
    round: int
    what: str


class Stage:
    """`sets`: script of authority sets, by default all `n`, for ever. `absent`: players that a scenario boots itself."""

    def __init__(
        self, n: int = 4, *, puppets: Sequence[int] = (), absent: Sequence[int] = (), followers: int = 0,
        sets: Sets | None = None, salt: str = "stage", line: bool = False, skews_ms: Sequence[int] = (), **params: Any,
    ) -> None:
        keys = tuple(HashKey.from_seed(bytes([index]) * 32) for index in range(n))
        public = [key.public for key in keys]
        self.machine = SetMachine(public, sets or {1: (range(n), range(n))})
        self.genesis_state = CounterMachine.genesis(public)
        self.params = ChainSpecParams(**{
            "genesis_hash": (salt.encode() * 32)[:32], "genesis_time_ms": EPOCH_MS, "block_time_ms": 250, "devnet": True,
            **params,
        })
        self.timeline = Timeline()
        self.puppets = frozenset(puppets)
        self.line = line
        self._arrange()
        self.players = [Player(self, index, key) for index, key in enumerate([*keys, *[None] * followers])]
        for player, skew_ms in zip(self.players, skews_ms, strict=False):
            player.skew_ms = skew_ms
        for player in self.players:
            if player.index not in {*puppets, *absent}:
                player.boot()

    def _arrange(self) -> None:
        # what a scenario may change
        self.losses: list[Loss] = []
        self.cut: frozenset[int] = frozenset()  # these hear only each other
        self.starved: frozenset[int] = frozenset()  # these get no bodies
        self.shelf: dict[tuple[int, bytes], Block] = {}  # bodies that puppets serve
        self.work_ms, self.round_trip_ms = 1, 2 * LATENCY_MS
        self.slow_disks_ms: dict[int, int] = {}
        self.pull_ms: Callable[[Block], int] = lambda block: 0  # extra time to get and execute a block
        self.crash_before: Callable[[Player, fx.Effect | fx.Event], bool] = lambda player, effect: False
        self.expects_stop = False
        # what is kept
        self.decided: dict[int, bytes] = {}
        self.rounds: dict[int, int] = {}  # round of the first certificate of each height
        self.said: dict[int, list[Vote | Proposal]] = {}
        self.fired: list[Fired] = []
        self.stops: list[tuple[int, fx.Stop]] = []
        self.blamed: list[tuple[int, str, str]] = []  # who blames, whom, for what
        self.refusals: list[tuple[int, int]] = []  # of synced blocks: node, height
        self.evidence: list[Evidence] = []
        self.allowances: dict[tuple[int, int], int] = {}  # bytes that R1 allowed, by (height, round)
        self.finals_sent = self.crashes = 0
        self._signed: dict[tuple[int, bytes, int, int, int], bytes] = {}
        self._lines = _RECORDINGS[-1] if _RECORDINGS else None

    # --- time --------------------------------------------------------------------------------------------------------

    @property
    def now_ms(self) -> int:
        return self.timeline.now_ms

    def play(self, until: Callable[[], bool], within_ms: int) -> int:
        """Go on until it is so. Returns the milliseconds that took; AssertionError if it takes longer than allowed."""
        started_ms, late = self.now_ms, [False]
        self.timeline.after(within_ms, lambda: late.__setitem__(0, True))
        for _ in range(MAX_STEPS):
            if until():
                return self.now_ms - started_ms
            if late[0]:
                break
            self.timeline.step()
        raise AssertionError(f"not within {within_ms} ms; nodes are at {self.where()}")

    def pass_ms(self, duration_ms: int) -> None:
        """Let time go by."""
        over = [False]
        self.timeline.after(duration_ms, lambda: over.__setitem__(0, True))
        self.play(lambda: over[0], duration_ms + 1)

    def grow(self, height: int, within_ms: int, *indexes: int) -> int:
        """Until these players (all that run, if none is named) have this height on disk."""
        chosen = indexes or tuple(player.index for player in self.players if player.alive)
        return self.play(lambda: all(
            self.players[index].alive and self.players[index].chain.durable_height >= height for index in chosen
        ), within_ms)

    def reach(self, round_: int, within_ms: int, *indexes: int) -> int:
        """Until these players are in that round, or a later one, of their height."""
        return self.play(lambda: all(self.core(index).round >= round_ for index in indexes), within_ms)

    def vote_all(self, kind: int, round_: int, within_ms: int, *indexes: int, height: int = 1) -> list[bytes | None]:
        """Until these players have voted in that round; returns what for."""
        self.play(lambda: all(self.voted(index, kind, round_, height) is not None for index in indexes), within_ms)
        return [self.voted(index, kind, round_, height) for index in indexes]

    # --- what players ask of the stage -----------------------------------------------------------------------------------

    def named(self, name: str) -> Player:
        return self.players[int(name[1:])]

    def is_linked(self, one: Player, other: Player) -> bool:
        """A connection exists at all."""
        return one is not other and (not self.line or abs(one.index - other.index) == 1)

    def reaches(self, one: Player, other: Player) -> bool:
        """Questions are answered: for bodies and sync."""
        return other.alive and self.is_linked(one, other) and (one.index in self.cut) == (other.index in self.cut)

    def served(self, one: Player, other: Player, block_hash: bytes) -> Block | None:
        """A body, if `other` has it and the two can talk."""
        if one.index in self.starved:
            return None
        if other.index in self.puppets:
            return self.shelf.get((other.index, block_hash))
        return other.serve(block_hash) if self.reaches(one, other) else None

    def disk_ms(self, player: Player) -> int:
        return self.slow_disks_ms.get(player.index, 1)

    def crashes_before(self, player: Player, effect: fx.Effect | fx.Event) -> bool:
        return self.crash_before(player, effect)

    def send(self, player: Player, send: fx.Send) -> None:
        bundle = decode_bundle(send.frame)
        self.finals_sent += bundle.final is not None
        signed: tuple[Vote | Proposal, ...] = (*bundle.votes, *bundle.proposals)
        for value in signed:
            self._keep_said(player, value)
        for peer in send.peers:
            self._pass_on(player.index, int(peer[1:]), bundle)

    def gossip(self, player: Player, data: bytes) -> None:
        final = decode_final(data)
        for other in self.players:
            if self.is_linked(player, other) and not self._is_lost(player.index, other.index, final):
                self.timeline.after(LATENCY_MS, lambda other=other: other.hear_gossip(player.name, data))  # type: ignore[misc]

    def _pass_on(self, sender: int, receiver: int, bundle: Bundle) -> None:
        def kept(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(value for value in values if not self._is_lost(sender, receiver, value))

        status = bundle.status if bundle.status and kept([bundle.status]) else None
        final = bundle.final if bundle.final and kept([bundle.final]) else None
        left = replace(
            bundle, votes=kept(bundle.votes), proposals=kept(bundle.proposals), certificates=kept(bundle.certificates),
            status=status, final=final,
        )
        player = self.players[receiver]
        if left.votes or left.proposals or left.certificates or left.status or left.final:
            self.timeline.after(LATENCY_MS, lambda: player.feed(fx.Frame(f"p{sender}", encode_bundle(left))))

    def _is_lost(self, sender: int, receiver: int, value: Value) -> bool:
        if (sender in self.cut) != (receiver in self.cut):
            return True
        return any(loses(sender, receiver, value) for loses in self.losses)

    @contextmanager
    def lose(self, loss: Loss) -> Iterator[None]:
        """While this is open, what the rule names does not arrive."""
        self.losses.append(loss)
        try:
            yield
        finally:
            self.losses.remove(loss)

    # --- what puppets do -------------------------------------------------------------------------------------------------

    def vote(self, index: int, kind: int, block_hash: bytes, round_: int = 0, height: int = 1) -> Vote:
        """A vote in the name of an authority of the full set."""
        player = self.players[index]
        body = vote_body(height, round_, block_hash)
        signature = player.key.sign(KIND_TAG[kind], player.domain(height), body)
        return Vote(kind, height, round_, block_hash, index, signature)

    def prevote(self, index: int, block_hash: bytes = NIL, round_: int = 0, height: int = 1) -> Vote:
        return self.vote(index, PREVOTE, block_hash, round_, height)

    def precommit(self, index: int, block_hash: bytes = NIL, round_: int = 0, height: int = 1) -> Vote:
        return self.vote(index, PRECOMMIT, block_hash, round_, height)

    def certificate(
        self, kind: int, block_hash: bytes, round_: int = 0, signers: Sequence[int] = (0, 1, 2), height: int = 1, n: int = 4
    ) -> Certificate:
        """Votes of these authorities, put together."""
        return Certificate.build({index: self.vote(index, kind, block_hash, round_, height) for index in signers}, n)

    def proposal(
        self, index: int, block: Block, round_: int = 0, valid_round: int = NO_ROUND, polc: Certificate | None = None
    ) -> Proposal:
        player = self.players[index]
        body = proposal_body(block.height, round_, valid_round, block.hash)
        signature = player.key.sign("proposal", player.domain(block.height), body)
        return Proposal(block.height, round_, valid_round, block.hash, index, signature, polc)

    def block(self, round_: int = 0, *, after_ms: int = 250, holder: int | None = None, on: int | None = None) -> Block:
        """A good block on the head of the player `on` (any by default) for the leader of a round.

        Its time, `after_ms` after genesis, tells it from others; `holder`, a puppet, serves its body.
        """
        lender = next(player for player in self.players if player.alive and on in (None, player.index))
        chain = Chain.open(lender.chain_store, self.params, self.machine)  # so that nobody has executed it
        block = chain.build(timestamp_ms=EPOCH_MS + after_ms, round_=round_).block
        if holder is not None:
            self.shelf[holder, block.hash] = block
        return block

    def show(self, sender: int, to: Sequence[int], *values: Vote | Proposal | Certificate | Status) -> None:
        """A puppet lets some hear something, now."""
        for bundle in pack(values, {}):
            for receiver in to:
                self.players[receiver].feed(fx.Frame(f"p{sender}", encode_bundle(bundle)))

    # --- what is kept ----------------------------------------------------------------------------------------------------

    def note(self, index: int, what: str) -> None:
        if self._lines is not None:
            self._lines.append(f"{self.now_ms:6} ms  p{index}  {what}")

    def rule_fired(self, index: int, rule: str, height: int, round_: int, what: str) -> None:
        self.fired.append(Fired(index, rule, height, round_, what))
        self.note(index, f"{rule:4} {height}/{round_}  {what}")

    def core(self, index: int) -> Any:
        """The core of a player."""
        return self.players[index].engine.core

    def where(self) -> dict[int, str]:
        """Height/round/stage of all that run."""
        cores = {player.index: player.engine.core for player in self.players if player.alive}
        return {index: f"{core.height}/{core.round}/{core.stage}" for index, core in cores.items()}

    def hashes(self, height: int = 1) -> set[bytes]:
        """The blocks at a height, of all that run."""
        return {player.chain.hash_at(height) for player in self.players if player.alive}

    def rules(self, index: int, round_: int | None = None, height: int = 1) -> list[str]:
        """The rules that fired on a node at a height, in order."""
        return [
            fired.rule for fired in self.fired
            if fired.node == index and fired.height == height and round_ in (None, fired.round)
        ]

    def voted(self, index: int, kind: int, round_: int, height: int = 1) -> bytes | None:
        """What a node voted for; None if it did not."""
        for value in self.said.get(index, ()):
            if isinstance(value, Vote) and (value.kind, value.round, value.height) == (kind, round_, height):
                return value.block_hash
        return None

    def proposed(self, index: int, round_: int, height: int = 1) -> Proposal:
        """What a node proposed; AssertionError if it did not."""
        for value in self.said.get(index, ()):
            if isinstance(value, Proposal) and (value.round, value.height) == (round_, height):
                return value
        raise AssertionError(f"p{index} proposed nothing at {height}/{round_}")

    def has_proposed(self, index: int, round_: int, height: int = 1) -> bool:
        return any(
            isinstance(value, Proposal) and (value.round, value.height) == (round_, height)
            for value in self.said.get(index, ())
        )

    def _keep_said(self, player: Player, value: Vote | Proposal) -> None:
        if player.key is None or player.engine.core.keys[value.index] != player.key.public:
            return
        kind = 0 if isinstance(value, Proposal) else value.kind
        place = (player.index, player.domain(value.height), value.height, value.round, kind)
        if self._signed.setdefault(place, value.block_hash) != value.block_hash:
            raise Breach(f"p{player.index} signed two things at (height, round, kind) {place[2:]}")
        self.said.setdefault(player.index, []).append(value)

    def committed(self, player: Player, block: Block, certificate: Certificate) -> None:
        self.note(player.index, f"commit {block.height} {block.hash[:4].hex()}")
        self.rounds.setdefault(block.height, certificate.round)
        if self.decided.setdefault(block.height, block.hash) != block.hash:
            raise Breach(f"two blocks were decided at {block.height}")
        if not certificate.verify(player.chain.authority_keys(block.height), player.domain(block.height)):
            raise Breach(f"block {block.height} was committed without a valid certificate")

    def stopped(self, player: Player, effect: fx.Stop) -> None:
        self.note(player.index, f"stop {effect.code}: {effect.reason}")
        self.stops.append((player.index, effect))
        if not self.expects_stop:
            raise Breach(f"p{player.index} stopped with {effect.code}: {effect.reason}")

    def penalised(self, player: Player, effect: fx.Penalise) -> None:
        self.note(player.index, f"blames {effect.peer}: {effect.reason}")
        self.blamed.append((player.index, effect.peer, effect.reason))
        if effect.peer and int(effect.peer[1:]) not in self.puppets:
            raise Breach(f"p{player.index} blames honest {effect.peer}: {effect.reason}")


_RECORDINGS: list[list[str]] = []


@contextmanager
def recorded() -> Iterator[list[str]]:
    """While this is open, every stage writes each transition with its rule into the list."""
    lines: list[str] = []
    _RECORDINGS.append(lines)
    try:
        yield lines
    finally:
        _RECORDINGS.remove(lines)
