"""A small model, searched: four authorities, one of them Byzantine, two values, over all orders of delivery.

The three honest ones are the real core: a local transition is made once, by `Core.step`, and remembered. A global state is
three local ones. What an honest one has said stays deliverable for ever, to anybody, in any order or never; a timer fires at
any time after it is set; bodies are at hand. The Byzantine one may say anything to anyone at any time: votes for either value
or nil, proposals where it leads, every certificate for which the votes of others exist.

Two reductions keep every outcome. A message that changes nothing yet is delivered together with those with which it makes a
rule fire: the core counts votes, no more. And of what others said nothing is remembered between two firings, since it can be
said again; so the Byzantine one may even change its mind in the eyes of one node, which is more than it can in truth.

In every state must hold: no two decisions differ (agreement), what is decided was proposed and is good (validity), no honest
one signs two things in one place, and none stops.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from random import Random
from typing import Any, Final

from ledger.bft import Core
from ledger.bft_state import Decide, Message, Say, Start, Want
from ledger.blocks import Block, Body, Header
from ledger.effects import Build, Built, Checked, Now, SetTimer, Stop, Timer
from ledger.spec import ChainSpecParams
from ledger.votes import NIL, NO_ROUND, PRECOMMIT, PREVOTE, Certificate, Proposal, Tally, Vote

N: Final = 4
LEADERS: Final = (1, 2, 3, 0)  # of the rounds at height 1
KEYS: Final = tuple(bytes([index]) * 32 for index in range(N))
PARENT: Final = b"p" * 32
NOW: Final = Now(0, 1_000_250)
SIGNATURE: Final = bytes(64)
QUIET: Final = ("R0", "R12", "R13")  # rules that alone are no progress
MAX_ROUNDS: Final = len(LEADERS)
JUMP_EVERY: Final = 200  # states

State = tuple[int, int, int]  # numbers of local states
Said = tuple[int, int, int, bytes, int]  # author, round, kind (0 a proposal), value, valid round of a proposal


class Violation(Exception):
    """Agreement, validity or a guard failed; the message says what everybody signed."""


@dataclass(frozen=True)
class Local:
    """A state of one core at rest. `timers` of its round are pending; `sent`: bits of what it has signed so far.

    `open`: (round, kind) of votes where mixed ones matter, which only R6 and R8 look at.
    """

    snapshot: tuple[Any, ...]
    round: int
    timers: tuple[str, ...]
    sent: int
    decided: bytes | None
    open: tuple[tuple[int, int], ...]


@dataclass
class Figures:
    """What a search has seen. `exhausted`: nothing was left to visit."""

    byzantine: int
    rounds: int
    states: int = 0
    transitions: int = 0
    deepest: int = 0
    decided: int = 0  # states in which somebody has decided
    all_decided: int = 0
    first_decided: int = 0  # the first value, else the second
    second_decided: int = 0
    local_states: int = 0
    core_steps: int = 0
    seconds: float = 0.0
    exhausted: bool = False


class Model:
    """`byzantine`: index of the one that lies (1 leads round 0, 2 round 1, 3 round 2). No honest one leaves `rounds`."""

    def __init__(self, byzantine: int, rounds: int = 2) -> None:
        assert 0 <= byzantine < N and 1 <= rounds <= MAX_ROUNDS
        self.byzantine, self.rounds = byzantine, rounds
        self.honest = tuple(index for index in range(N) if index != byzantine)
        self.first = _block(0, 1)
        self.second = _block(0 if byzantine == LEADERS[0] else 1, 2)
        self.blocks = {block.hash: block for block in (self.first, self.second)}
        self.figures = Figures(byzantine, rounds)
        self._core = Core(ChainSpecParams(b"g" * 32, block_time_ms=250), lambda kind, height, body: SIGNATURE, self._note)
        self._rules: list[str] = []
        self._bits: dict[Said, int] = {}
        self._own: dict[int, int] = {}  # all bits of an author
        self._locals: list[Local] = []
        self._numbers: dict[Any, int] = {}
        self._moves: list[list[tuple[int, int]] | None] = []

    def _note(self, rule: str, height: int, round_: int, what: str) -> None:
        self._rules.append(rule)

    # --- the search --------------------------------------------------------------------------------------------------

    def search(self, max_states: int, seed: int = 0) -> Figures:
        """Depth first in a random order, with jumps to states left aside, so that a bounded search is a wide one.

        Raises Violation. Stops at `max_states` if that is not all.
        """
        started, figures, rng = time.process_time(), self.figures, Random(seed)
        one, two, three = (self._boot(index) for index in self.honest)
        seen: set[State] = {(one, two, three)}
        stack: list[tuple[State, int]] = [((one, two, three), 0)]
        jump = JUMP_EVERY
        while stack and len(seen) < max_states:
            if len(seen) >= jump:  # leave this corner for a while
                at, jump = rng.randrange(len(stack)), len(seen) + JUMP_EVERY
                stack[at], stack[-1] = stack[-1], stack[at]
            state, depth = stack.pop()
            figures.deepest = max(figures.deepest, depth)
            following = [each for each in self._successors(state) if each not in seen]
            rng.shuffle(following)
            for each in following:
                if each not in seen:
                    seen.add(each)
                    self._check(each)
                    stack.append((each, depth + 1))
        figures.states, figures.exhausted = len(seen), not stack
        figures.local_states, figures.seconds = len(self._locals), round(time.process_time() - started, 2)
        return figures

    def _successors(self, state: State) -> list[State]:
        one, two, three = state
        known = self._locals
        missing = ~(known[one].sent | known[two].sent | known[three].sent)
        found = [(number, two, three) for needs, number in self._moves_of(0, one) if not needs & missing]
        found += [(one, number, three) for needs, number in self._moves_of(1, two) if not needs & missing]
        found += [(one, two, number) for needs, number in self._moves_of(2, three) if not needs & missing]
        self.figures.transitions += len(found)
        return found

    def _check(self, state: State) -> None:
        decisions = [found for number in state if (found := self._locals[number].decided) is not None]
        if not decisions:
            return
        if len(dict.fromkeys(decisions)) > 1:
            raise Violation(f"two values are decided; {self._tell(state)}")
        figures = self.figures
        figures.decided += 1
        figures.all_decided += len(decisions) == len(state)
        figures.first_decided += decisions[0] == self.first.hash
        figures.second_decided += decisions[0] == self.second.hash

    def _tell(self, state: State) -> str:
        names = {self.first.hash: "A", self.second.hash: "B", NIL: "nil"}
        signed = sorted(
            (index, round_, ("propose", "prevote", "precommit")[kind], names[value])
            for (index, round_, kind, value, _), bit in self._bits.items()
            if any(self._locals[number].sent & bit for number in state)
        )
        return f"Byzantine is {self.byzantine}, the others signed (who, round, what) {signed}"

    # --- moves of one node ---------------------------------------------------------------------------------------------

    def _moves_of(self, position: int, number: int) -> list[tuple[int, int]]:
        """(what others must have said, local state that it leads to), for each move."""
        found = self._moves[number]
        if found is None:
            local, leads_to = self._locals[number], dict[int, list[int]]()
            for needs, following in self._all_moves(self.honest[position], local) if local.decided is None else ():
                if following is not None and following != number:
                    leads_to.setdefault(following, []).append(needs)
            found = self._moves[number] = [
                (needs, following) for following, ways in leads_to.items() for needs in _least(ways)
            ]
        return found

    def _all_moves(self, me: int, local: Local) -> Iterator[tuple[int, int | None]]:
        """Every timer and every least delivery, with the bits of the messages of others that it needs."""
        for timer in local.timers:
            yield 0, self._step(local, [Timer(timer, 1, local.round)])  # type: ignore[arg-type]
        values: list[tuple[int, Certificate | Proposal]] = [*self._certificates(), *self._proposals()]
        for needs, value in values:
            if not needs & self._own.get(me, 0) & ~local.sent:  # it cannot hold a vote that this one never cast
                yield needs, self._step(local, [Message("p", value)])
        others = [index for index in range(N) if index != me]
        for round_, kind in product(range(local.round + 1), (PREVOTE, PRECOMMIT)):
            every = [*self.blocks, NIL]
            for some in [every] if (round_, kind) in local.open else [[value] for value in every]:
                choices = [[self._vote(index, round_, kind, value) for value in some] for index in others]
                yield from self._deliveries(local, choices, 3)
        later = list(product(range(local.round + 1, self.rounds), (PREVOTE, PRECOMMIT), (*self.blocks, NIL)))
        yield from self._deliveries(local, [[self._vote(index, *place) for place in later] for index in others], 2)  # R9

    def _deliveries(self, local: Local, choices: Sequence[Sequence[Vote]], largest: int) -> Iterator[tuple[int, int | None]]:
        """Sets with at most one of the votes of each author that make a rule fire, and of which no part does."""
        enough: list[frozenset[Vote]] = []
        for size in range(1, largest + 1):
            for authors in combinations(choices, size):
                for chosen in product(*authors):
                    if enough and any(part <= frozenset(chosen) for part in enough):
                        continue
                    following = self._step(local, [Message("p", vote) for vote in chosen])
                    if following is not None:
                        enough.append(frozenset(chosen))
                        yield self._needs(chosen), following

    def _certificates(self, kinds: Sequence[int] = (PREVOTE, PRECOMMIT)) -> Iterator[tuple[int, Certificate]]:
        """Each value in each round, with the Byzantine one and any two others as signers."""
        for kind, round_, value, pair in product(kinds, range(self.rounds), self.blocks, combinations(self.honest, 2)):
            votes = {index: self._vote(index, round_, kind, value) for index in (*pair, self.byzantine)}
            yield self._needs(votes.values()), Certificate.build(votes, N)

    def _proposals(self) -> Iterator[tuple[int, Proposal]]:
        """Of the leader of each round: fresh ones, and old values with a certificate."""
        for round_, leader in enumerate(LEADERS[: self.rounds]):
            for value, block in self.blocks.items():
                if block.header.proposal_round == round_:
                    needs = 0 if leader == self.byzantine else self._bit((leader, round_, 0, value, NO_ROUND))
                    yield needs, Proposal(1, round_, NO_ROUND, value, leader, SIGNATURE)
            for needs, polc in self._certificates((PREVOTE,)):
                if polc.round < round_:
                    if leader != self.byzantine:
                        needs |= self._bit((leader, round_, 0, polc.block_hash, polc.round))
                    yield needs, Proposal(1, round_, polc.round, polc.block_hash, leader, SIGNATURE, polc)

    def _vote(self, index: int, round_: int, kind: int, value: bytes) -> Vote:
        return Vote(kind, 1, round_, value, index, SIGNATURE)

    def _needs(self, votes: Any) -> int:
        """Bits of those that an honest one must have cast."""
        needs = 0
        for vote in votes:
            if vote.index != self.byzantine:
                needs |= self._bit((vote.index, vote.round, vote.kind, vote.block_hash, NO_ROUND))
        return needs

    def _bit(self, said: Said) -> int:
        bit = self._bits.setdefault(said, 1 << len(self._bits))
        self._own[said[0]] = self._own.get(said[0], 0) | bit
        return bit

    # --- the real core -----------------------------------------------------------------------------------------------

    def _boot(self, index: int) -> int:
        self._core.idle = True
        effects = self._run(Start(1, PARENT, 1_000_000, KEYS, tuple(range(N)), index))
        return self._rest(0, (), effects)

    def _step(self, local: Local, events: Sequence[Any]) -> int | None:
        """The local state after these events; None if no rule fires, or if it would leave the rounds of the model."""
        _thaw(self._core, local.snapshot)
        effects: list[Any] = []
        self._rules.clear()
        for event in events:
            effects += self._run(event)
        if self._core.round >= self.rounds or all(rule in QUIET for rule in self._rules):
            return None
        pending = local.timers if local.round == self._core.round else ()
        fired = [event.kind for event in events if isinstance(event, Timer)]
        return self._rest(local.sent, tuple(kind for kind in pending if kind not in fired), effects)

    def _run(self, event: Any) -> list[Any]:
        """One event and what answers its effects at once: bodies are at hand, blocks are built."""
        self.figures.core_steps += 1
        effects = self._core.step(event, NOW)
        for effect in list(effects):
            if isinstance(effect, Want):
                effects += self._run(Checked(self.blocks[effect.hash], True))
            elif isinstance(effect, Build):
                block = self.first if effect.round == 0 else self.second
                if block.header.proposal_round == effect.round:
                    effects += self._run(Built(1, effect.round, block))
            elif isinstance(effect, Stop):
                raise Violation(f"{self._core.me} stops with {effect.code}: {effect.reason}; Byzantine is {self.byzantine}")
        return effects

    def _rest(self, sent: int, timers: tuple[str, ...], effects: Sequence[Any]) -> int:
        """Number of the state in which the core is now."""
        core, decided, pending = self._core, None, dict.fromkeys(timers)
        for effect in effects:
            if isinstance(effect, SetTimer) and effect.kind != "rebroadcast":
                pending[effect.kind] = None
            elif isinstance(effect, Say) and isinstance(effect.value, Vote | Proposal):
                sent = self._signed(sent, effect.value)
            elif isinstance(effect, Decide):
                decided = effect.certificate.block_hash
                if decided not in self.blocks:
                    raise Violation(f"{core.me} decides what nobody proposed")
        self._forget_others()
        key = (core.me, decided, sent, () if decided is not None else (_meaning(core), tuple(pending)))
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._locals)
            mixed = [PREVOTE] * (core.stage == PREVOTE and "R6" not in core.done) + [PRECOMMIT] * ("R8" not in core.done)
            self._locals.append(Local(
                _freeze(core), core.round, tuple(pending), sent, decided, tuple((core.round, kind) for kind in mixed),
            ))
            self._moves.append(None)
        return number

    def _signed(self, sent: int, value: Vote | Proposal) -> int:
        kind, valid_round = (value.kind, NO_ROUND) if isinstance(value, Vote) else (0, value.valid_round)
        place = (value.index, value.round, kind)
        for said, bit in self._bits.items():
            if sent & bit and said[:3] == place and said[3] != value.block_hash:
                raise Violation(f"{value.index} signs two things at (round, kind) {place[1:]}")
        return sent | self._bit((*place, value.block_hash, valid_round))

    def _forget_others(self) -> None:
        core, votes = self._core, dict[tuple[int, int], Tally]()
        for place, tally in core.votes.items():
            if core.me in tally.votes:
                votes.setdefault(place, Tally(N)).add(tally.votes[core.me])
        core.votes, core.held_polc = votes, None
        core.highest = {index: message for index, message in core.highest.items() if index == core.me}


def _block(proposal_round: int, salt: int) -> Block:
    header = Header(
        1, 1, 1, 0, NOW.wall_ms, PARENT, NIL, LEADERS[proposal_round], proposal_round, NIL, bytes([salt]) * 32, NIL, NIL, NIL
    )
    return Block(header, Body(b"\x80", b"\x80", ()))


def _least(ways: Sequence[int]) -> list[int]:
    """Without those that need all that another one needs, and more."""
    least: list[int] = []
    for needs in sorted(dict.fromkeys(ways), key=int.bit_count):
        if not any(other & needs == other for other in least):
            least.append(needs)
    return least


_PLAIN: Final = (
    "idle", "round", "stage", "me", "signed", "locked_round", "locked_hash", "valid_round", "valid_hash", "valid_polc",
    "prevoted_hash", "own", "why", "held_polc", "commit", "seals", "_decided",
)
_DICTS: Final = ("proposals", "highest", "verdict", "wanted", "first_seen", "done", "disputed")


def _freeze(core: Core) -> tuple[Any, ...]:
    """All that `_thaw` needs."""
    dicts = tuple(tuple(getattr(core, name).items()) for name in _DICTS)
    votes = tuple(vote for tally in core.votes.values() for vote in tally.votes.values())
    return (*(getattr(core, name) for name in _PLAIN), dicts, votes)


def _thaw(core: Core, snapshot: tuple[Any, ...]) -> None:
    """Put the core back into that state."""
    for name, value in zip(_PLAIN, snapshot, strict=False):
        setattr(core, name, value)
    for name, items in zip(_DICTS, snapshot[-2], strict=True):
        setattr(core, name, dict(items))
    core.votes, core.conflicts = {}, []
    for vote in snapshot[-1]:
        core.votes.setdefault((vote.round, vote.kind), Tally(N)).add(vote)


def _meaning(core: Core) -> tuple[Any, ...]:
    """What of a state can change what it does later. Evidence, `why`, signers and the times of messages cannot."""
    return (
        core.round, core.stage, core.locked_round, core.locked_hash, core.valid_round, core.valid_hash,
        tuple((r, a.proposal.block_hash, a.proposal.valid_round) for r, a in sorted(core.proposals.items())),
        tuple(name for name in ("R1", "R1 due", "R6", "R8") if name in core.done),
    )
