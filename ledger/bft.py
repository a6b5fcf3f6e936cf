"""PoA-BFT v1: the consensus core of one authority. One height at a time, final in one block, no fork choice.

`Core.step(event, now) -> [effect]` is pure: no clock, socket, file, random or thread inside, and every value that comes
in has been verified. The state is in `bft_state`; here are the rules, one function each, in number order:

    R0 enter · R1 make · R2 prevote · R3 no proposal · R4a valid · R4b lock · R5 nil · R6 mixed prevotes · R7 decide
    R8 end of round · R9 round skip · R10 rebroadcast · R11 others' certificates · R12 conflict · R13 want

First acts the rule that an event triggers (R0, R1, R3, R10, R11 and the timers of R6 and R8). Then R12, R7, R2, R4, R5,
R6, R8, R9 are tried in this order; the first that fires starts the trial again, until none does. R13 closes the step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .bft_state import Decide, Forget, Halt, HeightState, Message, Save, Say, Sign, Start, Want, short
from .effects import Build, Built, Checked, Now, Penalise, Seal, SendFinal, SetTimer, Stop, Timer, TimerKind, Work
from .errors import InvariantBroken
from .signer import STEP_PREVOTE, STEP_PROPOSE
from .spec import ChainSpecParams
from .timing import clamp
from .votes import KIND_TAG, NIL, NO_ROUND, PRECOMMIT, PREVOTE, Certificate, Proposal, Status, Vote

MAX_FIRINGS: Final = 256  # of rules after one event; a certificate may hold many conflicts
CLOCKLESS_ROUND: Final = 2  # from here on a fresh proposal's time does not depend on clocks, which may be why rounds failed

Trace = Callable[[str, int, int, str], None]  # (rule, height, round, what it did)
CoreEvent = Start | Message | Timer | Built | Checked | Work | Seal
Rule = Callable[["Core"], bool]


class Core(HeightState):
    """The rules. `idle` between a decision (or a stop) and the next Start: then nothing is heard and nothing is said."""

    def __init__(self, params: ChainSpecParams, sign: Sign, trace: Trace | None = None) -> None:
        super().__init__(params, sign)
        self._trace, self.idle, self.seals = trace, True, 0
        self._decided = (NIL, 0, False)  # hash, t_parent of the next height, whether others' certificate decided

    def step(self, event: CoreEvent, now: Now) -> list[Any]:
        """Perform one event; the effects must happen in this order. Raises InvariantBroken."""
        self.now, self._out = now, list[Any]()
        if isinstance(event, Start) or not self.idle:
            try:
                _EVENTS[type(event)](self, event)
                self._fixpoint(_RULES if self.me is not None else _FOLLOWER_RULES)
            except Halt as halt:
                self.idle = True
                self._out.append(Stop(halt.code, halt.reason, halt.incident))
        return self._out

    def _fixpoint(self, rules: tuple[Rule, ...]) -> None:
        for _ in range(MAX_FIRINGS):
            if self.idle:
                return
            if not any(rule(self) for rule in rules):
                return self._r13_want()  # at rest
        raise InvariantBroken("the rules of consensus do not come to rest")

    def _start(self, start: Start) -> None:
        self.begin(start, self.now)
        self.idle = False
        decided_hash, t_parent, by_certificate = self._decided
        self.t_parent = t_parent if decided_hash == start.parent_hash else self.t_parent
        if self.me is None:
            return
        if start.saved is not None and start.saved.height == self.height:
            self.restore(start.saved)  # after a crash: the same round and stage; what was signed is said again at once
            said = [message for message in self.own if message is not None]
            for message in (*said, *self.why):
                self.note(message, self.now)
            self._out += [Say(message) for message in said]
            self._arm()
        else:
            self._r0_enter(0)
        if decided_hash == start.parent_hash and by_certificate:
            self._out.append(Say(self.status()))  # R11: one block per T_rebroadcast would be slower than the chain

    # --- R0, R1: a round begins --------------------------------------------------------------------------------------

    def _r0_enter(self, round_: int) -> None:
        """Enter a round: move the window, count what is inside now, set the timers. `why` was set by the caller."""
        self.slide(round_)
        for message in self.highest.values():
            self.place(message, self.now)
        self._fired("R0", f"enter, leader {self.leader(round_)}")
        self._arm()

    def _arm(self) -> None:
        """Timers of (round, stage). Pace is measured on the own monotonic clock from the parent's proposal."""
        wait_ms, paced, interval_ms = 0, self.params.seal == "interval", self.timing.interval_ms
        if self.stage == STEP_PROPOSE:
            if self.round == 0 and paced:
                wait_ms = clamp(self.t_parent + interval_ms - self.now.mono_ms, 0, interval_ms)
            if self.leader(self.round) == self.me and (paced or self.seals > 0):
                self._timer("make", wait_ms)
            if self.n > 1:
                self._timer("propose", wait_ms + self.timing.propose(self.round))
        self._rearm(wait_ms)

    def _r1_make(self) -> None:
        """The leader proposes the valid block of an earlier round, or has a new one built."""
        if not self.may_propose() or (self.params.seal == "manual" and self.seals == 0):
            return
        self.done["R1 due"] = None  # a verdict that comes later tries again
        if 0 <= self.valid_round < self.round:
            if self.is_ok(self.valid_hash):
                self._propose(self.valid_hash, self.valid_round, self.valid_polc)
        elif "R1" not in self.done:
            self.done["R1"] = None
            soonest_ms = self.parent_timestamp_ms + 1  # which is timely for every clock
            timestamp_ms = soonest_ms if self.round >= CLOCKLESS_ROUND else max(self.now.wall_ms, soonest_ms)
            self._out.append(Build(self.height, self.round, timestamp_ms, *self.build_limits()))

    def _r1_built(self, event: Built) -> None:
        if (event.height, event.round) != (self.height, self.round) or not self.may_propose():
            return
        if 0 <= self.valid_round < self.round:
            self._r1_make()
        else:
            self._propose(event.block.hash, NO_ROUND, None)

    def _propose(self, block_hash: bytes, valid_round: int, polc: Certificate | None) -> None:
        proposal = self.sign_proposal(block_hash, valid_round, polc)
        self.note(proposal, self.now)
        self._fired("R1", f"propose {short(block_hash)}" + (f" of round {valid_round}" if polc else ""))
        self._out += [Save(self.record()), Say(proposal)]

    # --- R2 to R6: the votes of a round ------------------------------------------------------------------------------

    def _r2_prevote(self) -> bool:
        """Prevote for the accepted proposal once its verdict is known: the block if all is well, else nil."""
        accepted = self.proposals.get(self.round)
        verdict = self.verdict.get(accepted.proposal.block_hash) if accepted else None
        if self.stage != STEP_PROPOSE or accepted is None or verdict is None:
            return False
        proposal = accepted.proposal
        if proposal.valid_round == NO_ROUND:
            good = verdict.proposal_round == self.round and self.is_timely(accepted, verdict) and self.locked_round < 0
        else:
            unlocked = self.locked_round <= proposal.valid_round or self.locked_hash == proposal.block_hash
            good = verdict.proposal_round <= proposal.valid_round and unlocked
        self._cast(PREVOTE, proposal.block_hash if verdict.ok and good else NIL, "R2")
        return True

    def _r3_no_proposal(self) -> None:
        """The time for the proposal is over."""
        if self.stage == STEP_PROPOSE:
            self._cast(PREVOTE, NIL, "R3")

    def _r4a_valid(self) -> bool:
        """A quorum prevoted a good block in a round up to this one, newer than the valid one: it is the valid one."""
        for polc in self.polcs():
            if polc.round <= self.round and self.is_ok(polc.block_hash):
                self.valid_round, self.valid_hash, self.valid_polc = polc.round, polc.block_hash, polc
                self._fired("R4a", f"valid {short(polc.block_hash)} of round {polc.round}")
                self._out.append(Save(self.record()))
                return True
        return False

    def _r4b_lock(self) -> bool:
        """The quorum is of this round (R4a made it the valid one) and we have prevoted: lock and precommit."""
        if self.stage != STEP_PREVOTE or self.valid_round != self.round:
            return False
        self.locked_round, self.locked_hash = self.round, self.valid_hash
        self._cast(PRECOMMIT, self.valid_hash, "R4b")
        return True

    def _r5_nil(self) -> bool:
        """A quorum prevoted nil; the lock stays."""
        if self.stage != STEP_PREVOTE or self.tally(PREVOTE).winner() != NIL:
            return False
        self._cast(PRECOMMIT, NIL, "R5")
        return True

    def _r6_mixed(self) -> bool:
        """A quorum prevoted, but nothing that we can act on (R4b and R5 come first): wait a little for more."""
        if self.stage != STEP_PREVOTE or not self.tally(PREVOTE).is_full() or "R6" in self.done:
            return False
        self.done["R6"] = None
        self._fired("R6", "a quorum prevoted, not for one thing: wait")
        self._timer("prevote", self.timing.vote(self.round))
        return True

    def _r6_timeout(self) -> None:
        if self.stage == STEP_PREVOTE:
            self._cast(PRECOMMIT, NIL, "R6")

    # --- R7 to R9: decision, next round, round skip ------------------------------------------------------------------

    def _r7_decide(self) -> bool:
        """A quorum of precommits of one round, or a commit certificate, for a good block."""
        counted = self.certified(PRECOMMIT)
        for certificate in counted:
            self.hold_commit(certificate)
        verdict = self.verdict.get(self.commit.block_hash) if self.commit else None
        if self.commit is None or verdict is None:
            return False
        if not verdict.ok:
            raise Halt(22, "a quorum certified a block that breaks the rules", certificate=self.commit.encode().hex())
        block_hash = self.commit.block_hash
        self._fired("R7", f"decide {short(block_hash)} by round {self.commit.round}")
        self._decided = (block_hash, self.first_seen.get(block_hash, self.now.mono_ms), not counted)
        self.idle, self.seals = True, max(0, self.seals - 1)
        self._out.append(Decide(self.commit))
        return True

    def _r8_end(self) -> bool:
        """A quorum precommitted without a decision: show the valid block's certificate, wait a little, go on.

        If they agree on one block, only its body is missing: no timer; R13 gets it and R7 decides.
        """
        tally = self.tally(PRECOMMIT)
        if not tally.is_full() or "R8" in self.done:
            return False
        self.done["R8"] = None
        self._fired("R8", "a quorum precommitted without a decision")
        if self.valid_round == self.round and self.valid_polc:
            self._out.append(Say(self.valid_polc))
        if tally.winner() in (None, NIL):
            self._timer("precommit", self.timing.vote(self.round))
        return True

    def _r8_timeout(self) -> None:
        self._go_on("R8", self.round + 1, tuple(self.tally(PRECOMMIT).votes.values()))

    def _r9_skip(self) -> bool:
        """f + 1 authorities are in later rounds, so an honest one is: go there."""
        target = self.skip_target()
        if target <= self.round:
            return False
        return self._go_on("R9", target, tuple(m for _, m in sorted(self.highest.items()) if m.round >= target))

    def _go_on(self, rule: str, round_: int, why: tuple[Proposal | Vote, ...]) -> bool:
        self._fired(rule, f"go to round {round_}")
        self.why = why
        self._r0_enter(round_)
        self._out.append(Save(self.record()))
        return True

    # --- R10 to R13: what others know --------------------------------------------------------------------------------

    def _r10_rebroadcast(self) -> None:
        """Say again all that others may lack: where we are, all votes (own first), the proposal, why, the PoLC."""
        self.wanted = {}  # R13 asks again for what is still missing
        if self.me is None:
            return
        votes = [*self.tally(PREVOTE).votes.values(), *self.tally(PRECOMMIT).votes.values()]
        votes.sort(key=lambda vote: vote.index != self.me)
        proposals = [self.proposals[self.round].proposal] if self.round in self.proposals else []
        polcs = [self.valid_polc] if self.valid_polc else []
        self._out += [Say(value) for value in (self.status(), *votes, *proposals, *self.why, *polcs)]
        self._rearm(0)

    def _message(self, event: Message) -> None:
        value = event.value
        if isinstance(value, Status):
            self._r11_status(event.peer, value)
        elif isinstance(value, Certificate):
            self._r11_certificate(value)
        elif self.me is None:
            return
        elif isinstance(value, Proposal) and value.index != self.leader(value.round):
            self._out.append(Penalise(event.peer, "proposal of an authority that does not lead the round", 20))
        else:
            self.note(value, self.now)
            if isinstance(value, Proposal) and value.polc is not None:
                self._r11_certificate(value.polc)

    def _r11_status(self, peer: str, status: Status) -> None:
        """Help one who is behind to finality."""
        behind = self.params.initial_height <= status.height < self.height
        if behind and self.may_serve(peer, status.height, self.now):
            self._out.append(SendFinal(peer, status.height))

    def _r11_certificate(self, certificate: Certificate) -> None:
        """Its votes count like any others; R7 uses a commit certificate and R4a a PoLC once the body is here."""
        for vote in certificate.votes() if self.me is not None else ():
            self.note(vote, self.now)
        if certificate.kind == PRECOMMIT:
            self.hold_commit(certificate)
        elif self.me is not None:
            self.hold_polc(certificate)

    def _r12_conflict(self) -> bool:
        """Two different messages of one authority in one place: the first counts, the pair is evidence."""
        if not self.conflicts:
            return False
        self._out.append(self.conflicts.pop(0))
        self._fired("R12", f"two messages of authority {self._out[-1].first.index} in one place")
        return True

    def _r13_want(self) -> None:
        """Fetch, once until R10, each block without a verdict that something at hand names."""
        for block_hash, indexes in self.named():
            if block_hash not in self.verdict and block_hash not in self.wanted:
                self.wanted[block_hash] = None
                self._fired("R13", f"want {short(block_hash)}")
                self._out.append(Want(block_hash, indexes))
                if self.me is None:
                    self._rearm(0)

    def _r13_checked(self, event: Checked) -> None:
        if event.block.height == self.height:
            self._out += [Forget(block_hash) for block_hash in self.judge(event.block, event.ok)]
            if "R1 due" in self.done:
                self._r1_make()

    def _cast(self, kind: int, block_hash: bytes, rule: str) -> None:
        """Sign, remember, persist, send."""
        vote = self.sign_vote(kind, block_hash)
        self.note(vote, self.now)
        self._fired(rule, f"{KIND_TAG[kind]} {short(block_hash)}")
        self._out += [Save(self.record()), Say(vote)]
        self._rearm(0)

    def _rearm(self, wait_ms: int) -> None:
        """R10 counts from the last change of (height, round, step); one authority alone has nobody to tell."""
        if self.n > 1 or self.me is None:
            self._timer("rebroadcast", wait_ms + self.timing.rebroadcast_ms)

    def _timer(self, kind: TimerKind, delay_ms: int) -> None:
        self._out.append(SetTimer(kind, self.height, self.round, delay_ms))

    def _fire(self, timer: Timer) -> None:
        current = timer.round == self.round and self.me is not None
        if timer.height == self.height and (current or timer.kind == "rebroadcast"):
            _TIMERS[timer.kind](self)

    def _work(self, event: Work | Seal) -> None:
        if self.params.seal == ("manual" if isinstance(event, Seal) else "instant"):
            self.seals += event.count if isinstance(event, Seal) else 0
            self._r1_make()

    def _fired(self, rule: str, what: str) -> None:
        if self._trace is not None:
            self._trace(rule, self.height, self.round, what)


_FOLLOWER_RULES: Final[tuple[Rule, ...]] = (Core._r7_decide,)
_RULES: Final[tuple[Rule, ...]] = (
    Core._r12_conflict, Core._r7_decide, Core._r2_prevote, Core._r4a_valid, Core._r4b_lock, Core._r5_nil, Core._r6_mixed,
    Core._r8_end, Core._r9_skip,
)
_TIMERS: Final[dict[str, Callable[[Core], None]]] = {
    "make": Core._r1_make, "propose": Core._r3_no_proposal, "prevote": Core._r6_timeout, "precommit": Core._r8_timeout,
    "rebroadcast": Core._r10_rebroadcast,
}
_EVENTS: Final[dict[type, Callable[[Core, Any], None]]] = {
    Start: Core._start, Message: Core._message, Timer: Core._fire, Built: Core._r1_built, Checked: Core._r13_checked,
    Work: Core._work, Seal: Core._work,
}
