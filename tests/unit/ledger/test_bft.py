"""The rules R0-R13 on one core, directed: each scenario is a sequence of events and what must and must not come out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.bft import Core
from ledger.bft_state import MAX_VERDICTS, Conflict, Decide, Message, Save, Say, Start, Want
from ledger.blocks import Block, Body, Header
from ledger.crypto import digest
from ledger.effects import Build, Built, Checked, Now, Penalise, Seal, SendFinal, SetTimer, Stop, Timer, Work
from ledger.signer import SignRecord
from ledger.spec import ChainSpecParams
from ledger.votes import NIL, NO_ROUND, PRECOMMIT, PREVOTE, Certificate, Proposal, Status, Vote, quorum

PARENT, PARENT_TS = b"p" * 32, 1_000_000
WALL = PARENT_TS + 250


def block(salt: int = 0, *, round_: int = 0, ts: int = WALL, height: int = 1) -> Block:
    header = Header(
        1, 1, height, 0, ts, PARENT, bytes(32), salt, round_, bytes(32), bytes(32), bytes(32), bytes(32), bytes(32)
    )
    return Block(header, Body(b"\x80", b"\x80", ()))


class Bench:
    """One core of `n` authorities at height 1; leaders are 1, 2, 3, 0... in the rounds 0, 1, 2, 3..."""

    def __init__(
        self, me: int | None = 0, n: int = 4, *, saved: SignRecord | None = None, mono: int = 0, wall: int = WALL,
        start: bool = True, **params: Any,
    ) -> None:
        self.spec = ChainSpecParams(**{"genesis_hash": b"g" * 32, "block_time_ms": 250, **params})
        self.lines: list[str] = []
        self.core = Core(
            self.spec, lambda kind, height, body: digest("body", kind.encode(), body) * 2,
            lambda rule, height, round_, what: self.lines.append(f"{rule} {what}"),
        )
        self.me, self.n, self.mono, self.wall = me, n, mono, wall
        self.out: list[Any] = []
        if start:
            self.start(saved=saved)

    def start(self, height: int = 1, parent: bytes = PARENT, saved: SignRecord | None = None) -> list[Any]:
        keys = tuple(bytes([index]) * 32 for index in range(self.n))
        return self.do(Start(height, parent, PARENT_TS, keys, tuple(range(self.n)), self.me, saved))

    def do(self, *events: Any) -> list[Any]:
        """Feed events; returns what came out, `out` has it from the start."""
        made: list[Any] = []
        for event in events:
            made += self.core.step(event, Now(self.mono, self.wall))
        self.out += made
        return made

    def hear(self, *values: Any) -> list[Any]:
        return self.do(*(Message("peer", value) for value in values))

    def timer(self, kind: Any, round_: int | None = None) -> list[Any]:
        return self.do(Timer(kind, self.core.height, self.core.round if round_ is None else round_))

    def good(self, *blocks: Block) -> list[Any]:
        return self.do(*(Checked(each, True) for each in blocks))

    # what came out
    def votes(self, made: list[Any]) -> list[tuple[int, int, bytes]]:
        said = [effect.value for effect in made if isinstance(effect, Say)]
        return [(value.kind, value.round, value.block_hash) for value in said if isinstance(value, Vote)]

    def timers(self, made: list[Any]) -> dict[str, int]:
        return {e.kind: e.delay_ms for e in made if isinstance(e, SetTimer)}


def prevote(index: int, block_hash: bytes, round_: int = 0, kind: int = PREVOTE) -> Vote:
    return Vote(kind, 1, round_, block_hash, index, bytes([index, kind, round_ & 255]) * 21 + block_hash[:1])


def precommit(index: int, block_hash: bytes, round_: int = 0) -> Vote:
    return prevote(index, block_hash, round_, PRECOMMIT)


def propose(
    index: int, block_hash: bytes, round_: int = 0, valid_round: int = NO_ROUND, polc: Certificate | None = None
) -> Proposal:
    return Proposal(1, round_, valid_round, block_hash, index, bytes(64), polc)


def cert(kind: int, block_hash: bytes, round_: int = 0, n: int = 4, signers: tuple[int, ...] = (1, 2, 3)) -> Certificate:
    return Certificate.build({index: prevote(index, block_hash, round_, kind) for index in signers}, n)


def of(made: list[Any], kind: type) -> list[Any]:
    return [effect for effect in made if isinstance(effect, kind)]


def locked(bench: Bench, chosen: Block) -> None:
    """Bring authority 0 to lock `chosen` in round 0."""
    bench.hear(propose(1, chosen.hash))
    bench.good(chosen)
    made = bench.hear(prevote(1, chosen.hash), prevote(2, chosen.hash))
    assert bench.votes(made) == [(PRECOMMIT, 0, chosen.hash)] and bench.core.locked_round == 0


# --- R0, R1 ----------------------------------------------------------------------------------------------------------


def test_round_0_is_paced_from_the_start_and_quiet_until_then() -> None:
    follower, leader = Bench(me=0, wall=PARENT_TS), Bench(me=1, wall=PARENT_TS)
    assert follower.timers(follower.out) == {"propose": 250 + 300, "rebroadcast": 250 + 200}
    assert leader.timers(leader.out) == {"make": 250, "propose": 550, "rebroadcast": 450}


@pytest.mark.parametrize(("age_ms", "wait_ms"), [(-5_000, 250), (0, 250), (100, 150), (250, 0), (3_600_000, 0)])
def test_at_the_start_the_parents_age_counts_towards_the_interval_and_no_more(age_ms: int, wait_ms: int) -> None:
    bench = Bench(me=1, mono=77, wall=PARENT_TS + age_ms)
    assert bench.timers(bench.out)["make"] == wait_ms


def test_the_pace_counts_from_the_parents_proposal_on_the_monotonic_clock() -> None:
    bench = Bench(me=0)
    chosen = block()
    bench.mono = 300
    bench.hear(propose(1, chosen.hash))
    bench.good(chosen)
    bench.mono = 420
    assert of(bench.hear(*(precommit(index, chosen.hash) for index in (1, 2, 3))), Decide)
    bench.mono, bench.wall = 430, bench.wall - 3_600_000  # the wall clock does not matter
    made = bench.start(2, chosen.hash)
    assert bench.timers(made)["propose"] == 300 + 250 - 430 + 300


def test_the_leader_builds_after_the_parents_time_and_proposes_what_was_built() -> None:
    bench = Bench(me=1, wall=PARENT_TS - 3_600_000)
    (build,) = of(bench.timer("make"), Build)
    assert (build.round, build.timestamp_ms) == (0, PARENT_TS + 1)
    assert bench.timer("make") == []  # once
    made = bench.do(Built(1, 0, block()))
    assert [type(effect) for effect in made] == [Save, Say, Want]
    assert made[0].record.own[0] == made[1].value and made[0].record.binding() == (block().hash,)
    assert bench.do(Built(1, 0, block(1))) == []


def test_a_late_or_foreign_block_is_not_proposed() -> None:
    bench = Bench(me=1)
    bench.timer("make")
    bench.timer("propose")
    assert of(bench.do(Built(1, 0, block())), Say) == []
    other = Bench(me=0)
    assert other.timer("make") == [] and of(other.do(Built(1, 0, block())), Say) == []


def test_blocks_shrink_with_the_round_until_only_inherents_are_left() -> None:
    sizes = []
    for round_ in range(8):
        bench = Bench(me=(1 + round_) % 4, max_block_bytes=1 << 20, max_block_weight=1000)
        if round_:
            bench.hear(precommit((2 + round_) % 4, NIL, round_), precommit((3 + round_) % 4, NIL, round_))
        assert bench.core.round == round_
        (build,) = of(bench.timer("make"), Build)
        sizes.append((build.max_bytes, build.max_weight))
    assert sizes == [((1 << 20) >> r, 1000 >> r) for r in range(6)] + [(0, 0), (0, 0)]


def test_a_dead_active_list_cannot_hold_the_lead_for_ever() -> None:
    bench = Bench(me=0, start=False)
    keys = tuple(bytes([index]) * 32 for index in range(4))
    bench.do(Start(1, PARENT, PARENT_TS, keys, (2,), 0))
    assert [bench.core.leader(round_) for round_ in range(5)] == [2, 2, 3, 0, 1]


# --- R2, R3 ----------------------------------------------------------------------------------------------------------


def test_a_good_fresh_proposal_gets_the_prevote_after_its_verdict() -> None:
    bench = Bench()
    made = bench.hear(propose(1, block().hash))
    assert bench.votes(made) == [] and of(made, Want) == [Want(block().hash, (1,))]
    made = bench.good(block())
    assert bench.votes(made) == [(PREVOTE, 0, block().hash)]
    kinds = [type(effect) for effect in made if isinstance(effect, Save | Say)]
    assert kinds == [Save, Say]  # durable first
    assert made[0].record.prevoted_hash == block().hash and bench.timers(made) == {"rebroadcast": 200}


@pytest.mark.parametrize(
    ("ts", "good"),
    [(WALL + 500, True), (WALL + 501, False), (WALL - 500, True), (WALL - 501, False), (PARENT_TS + 1, True)],
)
def test_timeliness_is_judged_at_acceptance_and_the_least_timestamp_always_passes(ts: int, good: bool) -> None:
    chosen = block(ts=ts)
    bench = Bench(wall=WALL if ts != PARENT_TS + 1 else WALL + 3_600_000)
    bench.hear(propose(1, chosen.hash))
    bench.wall += 10_000  # the verdict comes late; that does not matter
    assert bench.votes(bench.good(chosen)) == [(PREVOTE, 0, chosen.hash if good else NIL)]


def test_a_bad_block_gets_nil() -> None:
    bench = Bench()
    bench.hear(propose(1, block().hash))
    assert bench.votes(bench.do(Checked(block(), False))) == [(PREVOTE, 0, NIL)]


def test_a_fresh_proposal_must_carry_the_round_in_its_header() -> None:
    bench = Bench()
    chosen = block(round_=1)
    bench.hear(propose(1, chosen.hash))
    assert bench.votes(bench.good(chosen)) == [(PREVOTE, 0, NIL)]


def test_no_proposal_in_time_gets_nil_once() -> None:
    bench = Bench()
    assert bench.votes(bench.timer("propose")) == [(PREVOTE, 0, NIL)]
    assert bench.timer("propose") == []
    bench.hear(propose(1, block().hash))
    assert bench.votes(bench.good(block())) == []


def test_a_proposal_of_somebody_who_does_not_lead_counts_against_who_sent_it() -> None:
    bench = Bench()
    made = bench.hear(propose(2, block().hash))
    assert of(made, Penalise) and bench.core.proposals == {}


def test_hidden_lock_a_fresh_block_gets_nil_and_the_locked_one_a_prevote() -> None:
    first, second = block(1), block(2, round_=1)
    bench = Bench()
    locked(bench, first)
    bench.hear(precommit(1, NIL), precommit(2, NIL), precommit(3, NIL))
    bench.timer("precommit")
    bench.hear(propose(2, second.hash, 1))
    assert bench.votes(bench.good(second)) == [(PREVOTE, 1, NIL)]  # the lock holds against a fresh block
    bench.hear(*(precommit(index, NIL, 1) for index in (1, 2, 3)))
    bench.timer("precommit")
    made = bench.hear(propose(3, first.hash, 2, 0, cert(PREVOTE, first.hash)))
    assert bench.votes(made) == [(PREVOTE, 2, first.hash)]


def test_hidden_decision_a_lock_yields_only_to_a_certificate_of_its_round_or_later() -> None:
    first, second = block(1), block(2)
    for round_, expected in ((0, NIL), (1, second.hash)):
        bench = Bench()
        second = block(2, round_=round_)
        if round_ == 1:
            locked(bench, first)
            target = 2
        else:
            bench.hear(precommit(1, NIL, 1), precommit(2, NIL, 1))  # locks in round 1 this time
            bench.hear(propose(2, first.hash, 1, 0, cert(PREVOTE, first.hash)))
            bench.good(first)
            bench.hear(prevote(1, first.hash, 1), prevote(2, first.hash, 1))
            assert bench.core.locked_round == 1
            target = 2
        bench.hear(precommit(1, NIL, target), precommit(2, NIL, target))
        bench.good(second)
        made = bench.hear(propose(3, second.hash, 2, round_, cert(PREVOTE, second.hash, round_)))
        expected = second.hash if round_ == 1 else NIL
        assert bench.votes(made) == [(PREVOTE, 2, expected)]


def test_a_re_proposal_with_a_header_younger_than_its_certificate_gets_nil() -> None:
    bench = Bench()
    bench.hear(precommit(1, NIL, 2), precommit(2, NIL, 2))
    chosen = block(round_=2)
    bench.good(chosen)
    made = bench.hear(propose(3, chosen.hash, 2, 1, cert(PREVOTE, chosen.hash, 1)))
    assert bench.votes(made) == [(PREVOTE, 2, NIL)]


# --- R4, R5, R6 ------------------------------------------------------------------------------------------------------


def test_q_prevotes_before_the_proposal_still_lock() -> None:
    """The guard of valid and the guard of the lock are two: else this node never precommits in the round."""
    bench = Bench()
    chosen = block()
    made = bench.hear(*(prevote(index, chosen.hash) for index in (1, 2, 3)))
    assert bench.votes(made) == [] and bench.core.valid_round == -1
    made = bench.good(chosen)  # the body comes before the proposal
    assert bench.votes(made) == [] and bench.core.valid_round == 0  # valid, but nobody precommits without a prevote
    made = bench.hear(propose(1, chosen.hash))
    assert bench.votes(made) == [(PREVOTE, 0, chosen.hash), (PRECOMMIT, 0, chosen.hash)]
    assert (bench.core.locked_round, bench.core.locked_hash) == (0, chosen.hash)


def test_lock_and_precommit_are_in_one_record() -> None:
    bench = Bench()
    locked(bench, block())
    record = of(bench.out, Save)[-1].record
    assert (record.locked_round, record.locked_hash) == (0, block().hash) and record.own[2] is not None


def test_all_nil_round_ends_with_nil_precommits_and_a_new_round() -> None:
    bench = Bench()
    bench.timer("propose")
    made = bench.hear(prevote(1, NIL), prevote(2, NIL))
    assert bench.votes(made) == [(PRECOMMIT, 0, NIL)]
    made = bench.hear(precommit(1, NIL), precommit(2, NIL))
    assert bench.timers(made) == {"precommit": 150}
    made = bench.timer("precommit")
    assert bench.core.round == 1 and {vote.index for vote in bench.core.why} == {0, 1, 2}
    assert bench.timers(made) == {"propose": 300 + 150, "rebroadcast": 200}  # no wait after round 0, and growth
    assert of(made, Save)[-1].record.why == bench.core.why


def test_mixed_prevotes_wait_once_and_end_in_nil() -> None:
    bench = Bench()
    chosen = block()
    bench.hear(propose(1, chosen.hash))
    bench.good(chosen)
    made = bench.hear(prevote(1, NIL), prevote(2, chosen.hash))
    assert bench.timers(made)["prevote"] == 150
    assert "prevote" not in bench.timers(bench.hear(prevote(3, NIL)))
    assert bench.votes(bench.timer("prevote")) == [(PRECOMMIT, 0, NIL)]
    assert bench.timer("prevote") == []


def test_q_prevotes_for_a_body_that_is_missing_start_the_timer_too() -> None:
    """Mixed means "not one thing that this node can act on", not "not all equal"."""
    bench = Bench()
    bench.hear(*(prevote(index, block().hash) for index in (1, 2, 3)))
    made = bench.timer("propose")
    assert bench.votes(made) == [(PREVOTE, 0, NIL)] and bench.core.tally(PREVOTE).winner() == block().hash
    assert bench.timers(made)["prevote"] == 150 and bench.core.valid_round == -1


def test_late_polc_is_adopted_and_proposed_in_the_next_round() -> None:
    bench = Bench(me=2)
    chosen = block()
    bench.hear(propose(1, chosen.hash))
    bench.good(chosen)
    bench.hear(prevote(0, NIL), prevote(3, NIL))
    bench.timer("prevote")
    bench.hear(*(precommit(index, NIL) for index in (0, 1, 3)))
    bench.hear(cert(PREVOTE, chosen.hash, 0, signers=(1, 2, 3)))  # 3 voted twice; the certificate stands
    assert bench.core.valid_round == 0 and bench.core.locked_round == -1
    bench.timer("precommit")
    made = bench.timer("make")
    (said,) = of(made, Say)[:1]
    assert (said.value.valid_round, said.value.block_hash, said.value.polc) == (0, chosen.hash, bench.core.valid_polc)
    assert bench.votes(made) == [(PREVOTE, 1, chosen.hash)]


def test_a_polc_is_never_adopted_without_its_body_and_its_body_is_wanted() -> None:
    """Nobody can be made to re-propose a block that nobody can check."""
    bench = Bench(me=2)
    hidden = block(9)
    made = bench.hear(cert(PREVOTE, hidden.hash, 0, signers=(0, 1, 3)))
    assert bench.core.valid_round == -1 and of(made, Want) == [Want(hidden.hash, (0, 1, 3))]
    bench.hear(*(precommit(index, NIL) for index in (0, 1, 3)))
    bench.timer("precommit")
    assert of(bench.timer("make"), Build)  # a fresh block, not the hidden one
    assert of(bench.timer("rebroadcast"), Want) == [Want(hidden.hash, (0, 1, 3))]  # and it keeps asking
    bench.good(hidden)
    assert (bench.core.valid_round, bench.core.valid_hash) == (0, hidden.hash)
    bench.do(Built(1, 1, block(3, round_=1)))
    assert bench.core.own[0] is not None and bench.core.own[0].block_hash == hidden.hash  # valid since: proposed now


def test_a_polc_of_a_later_round_waits_for_that_round() -> None:
    bench = Bench()
    chosen = block(round_=1)
    bench.good(chosen)
    bench.core.highest.clear()
    bench.core.hold_polc(cert(PREVOTE, chosen.hash, 1))
    bench.hear(Status(1, 0, PARENT))
    assert bench.core.valid_round == -1
    bench.hear(precommit(1, NIL, 1), precommit(2, NIL, 1))
    assert bench.core.round == 1 and bench.core.valid_round == 1


# --- R7, R8, R9 ------------------------------------------------------------------------------------------------------


def test_a_quorum_of_precommits_decides_and_then_nothing_is_heard() -> None:
    bench = Bench()
    locked(bench, block())
    made = bench.hear(precommit(1, block().hash), precommit(2, block().hash))
    (decided,) = of(made, Decide)
    assert decided.certificate.block_hash == block().hash and decided.certificate.indexes == (0, 1, 2)
    assert bench.hear(precommit(3, block().hash)) == [] and bench.timer("rebroadcast") == []


def test_q_precommits_for_a_missing_body_set_no_timer_but_fetch_and_decide() -> None:
    bench = Bench()
    chosen = block()
    made = bench.hear(*(precommit(index, chosen.hash) for index in (1, 2, 3)))
    assert "precommit" not in bench.timers(made) and of(made, Decide) == []
    assert of(made, Want) == [Want(chosen.hash, (1, 2))]  # named by f + 1
    assert of(bench.timer("rebroadcast"), Want)
    assert of(bench.good(chosen), Decide)


def test_precommits_of_an_earlier_round_of_the_window_decide_too() -> None:
    bench = Bench(n=5)
    chosen = block()
    bench.good(chosen)
    bench.hear(*(precommit(index, chosen.hash) for index in (1, 2, 3)), precommit(4, NIL))
    bench.timer("precommit")
    assert bench.core.round == 1
    bench.hear(precommit(1, NIL, 1))  # later votes do not disturb
    assert of(bench.hear(cert(PRECOMMIT, chosen.hash, 0, 5, (1, 2, 3, 4))), Decide)  # 4 voted twice: valid all the same


def test_a_certificate_with_a_vote_of_mine_that_i_never_cast_stops_me() -> None:
    bench = Bench()
    bench.good(block())
    (stop,) = of(bench.hear(cert(PRECOMMIT, block().hash, 0, signers=(0, 1, 3))), Stop)
    assert stop.code == 20 and not of(bench.out, Decide)


def test_certificates_of_one_block_from_two_rounds_are_normal_of_two_blocks_fatal() -> None:
    first, second = block(1), block(2)
    bench = Bench(me=None)
    bench.hear(cert(PRECOMMIT, first.hash, 0))
    assert bench.hear(cert(PRECOMMIT, first.hash, 1)) == []
    (stop,) = of(bench.hear(cert(PRECOMMIT, second.hash, 1)), Stop)
    assert stop.code == 21 and set(stop.incident) == {"first", "second"}
    assert bench.good(first) == []


def test_a_certified_block_that_breaks_the_rules_stops_the_node() -> None:
    bench = Bench()
    bench.hear(cert(PRECOMMIT, block().hash))
    (stop,) = of(bench.do(Checked(block(), False)), Stop)
    assert stop.code == 22


def test_the_end_of_a_round_spreads_the_valid_blocks_certificate() -> None:
    bench = Bench()
    locked(bench, block())
    made = bench.hear(precommit(1, NIL), precommit(2, NIL))
    assert [say.value for say in of(made, Say)] == [bench.core.valid_polc] and bench.timers(made) == {"precommit": 150}


def test_a_stale_timer_does_nothing() -> None:
    bench = Bench()
    bench.timer("propose")
    bench.hear(prevote(1, NIL), prevote(2, NIL), precommit(1, NIL), precommit(2, NIL))
    bench.timer("precommit")
    for kind in ("propose", "prevote", "precommit"):
        assert bench.timer(kind, 0) == []
    assert bench.do(Timer("propose", 0, 1)) == []


def test_round_skip_goes_where_f_plus_one_are() -> None:
    bench = Bench(n=7, me=6)
    bench.hear(prevote(1, NIL, 4), prevote(2, NIL, 9))
    assert bench.core.round == 0  # two may both lie
    made = bench.hear(propose(0, block().hash, 6))
    assert bench.core.round == 4 and len(bench.core.why) == 3  # the third highest of 9, 6, 4
    assert of(made, Save)[-1].record.why == bench.core.why


def test_entering_a_round_counts_what_was_heard_of_it() -> None:
    bench = Bench()
    far = [prevote(index, NIL, 5) for index in (1, 2, 3)]
    bench.hear(*far[:2])
    assert bench.core.round == 5 and len(bench.core.tally(PREVOTE)) == 2
    bench.hear(far[2])
    assert bench.votes(bench.timer("propose")) == [(PREVOTE, 5, NIL), (PRECOMMIT, 5, NIL)]


def test_no_vote_counts_twice_however_often_it_is_heard_and_placed() -> None:
    bench = Bench(n=2, me=0)
    bench.timer("propose")
    vote = prevote(1, block().hash)
    bench.hear(vote, vote, replace(vote))
    bench.hear(prevote(1, NIL, 1))  # a skip re-places the highest messages
    assert bench.core.round == 1
    assert len(bench.core.votes[0, PREVOTE]) == 2 and bench.core.votes[0, PREVOTE].winner() is None


# --- R10, R11 --------------------------------------------------------------------------------------------------------


def test_rebroadcast_says_all_that_the_round_holds_own_votes_first_and_why() -> None:
    bench = Bench()
    bench.hear(*(precommit(index, NIL) for index in (1, 2, 3)))
    bench.timer("precommit")
    bench.hear(propose(2, block(round_=1).hash, 1), prevote(1, NIL, 1))
    bench.timer("propose")
    made = bench.timer("rebroadcast")
    said = [say.value for say in of(made, Say)]
    assert isinstance(said[0], Status) and said[1].index == 0
    assert {(vote.index, vote.round, vote.kind) for vote in said if isinstance(vote, Vote)} == {
        (0, 1, PREVOTE), (1, 1, PREVOTE), (1, 0, PRECOMMIT), (2, 0, PRECOMMIT), (3, 0, PRECOMMIT),
    }
    assert [value for value in said if isinstance(value, Proposal)] == [bench.core.proposals[1].proposal]
    assert bench.timers(made) == {"rebroadcast": 200}


def test_lost_precommits_of_the_round_before_come_back_with_why() -> None:
    """One authority is silent. A node that entered round 1 alone must bring the others after it."""
    ahead, behind = Bench(me=0), Bench(me=1)
    for bench in (ahead, behind):
        bench.timer("propose")
    votes = [precommit(0, NIL), precommit(1, NIL), precommit(2, NIL)]
    ahead.hear(prevote(1, NIL), prevote(2, NIL), *votes[1:])
    ahead.timer("precommit")
    behind.hear(prevote(2, NIL), ahead.core.votes[0, PREVOTE].votes[0])  # precommits with me and 2: two of three
    behind.hear(votes[2])
    assert (ahead.core.round, behind.core.round) == (1, 0)
    made = behind.hear(*(say.value for say in of(ahead.timer("rebroadcast"), Say)))
    assert "precommit" in behind.timers(behind.out) and not of(made, Stop)
    behind.timer("precommit")
    assert behind.core.round == 1


def test_who_is_behind_gets_one_final_in_t_rebroadcast() -> None:
    bench = Bench(start=False)
    bench.start(5, PARENT)
    ask = Message("slow", Status(3, 0, PARENT))
    assert bench.do(ask) == [SendFinal("slow", 3)]
    assert bench.do(ask) == []
    assert bench.do(Message("other", Status(3, 0, PARENT))) == [SendFinal("other", 3)]
    assert bench.do(Message("slow", Status(4, 0, PARENT))) == [SendFinal("slow", 4)]  # it applied one
    bench.mono += 200
    assert bench.do(Message("slow", Status(4, 7, PARENT))) == [SendFinal("slow", 4)]
    assert bench.do(Message("slow", Status(5, 0, PARENT)), Message("slow", Status(0, 0, PARENT))) == []


def test_who_applied_anothers_certificate_says_so_at_once() -> None:
    bench = Bench()
    bench.hear(cert(PRECOMMIT, block().hash))
    bench.good(block())
    # the certificate's own votes were counted, so this decision counts as an own one
    assert not [say for say in of(bench.start(2, block().hash), Say) if isinstance(say.value, Status)]
    bench = Bench()
    old = cert(PRECOMMIT, block().hash, 0)
    bench.hear(prevote(1, NIL, 7), prevote(2, NIL, 7))
    bench.hear(old)  # of a round below the window: only the certificate proves it
    assert of(bench.good(block()), Decide)
    assert [say.value for say in of(bench.start(2, block().hash), Say)] == [Status(2, 0, block().hash)]


# --- R12, R13 --------------------------------------------------------------------------------------------------------


def test_equivocating_proposer_the_first_counts_and_the_pair_is_evidence_once() -> None:
    first, second = propose(1, block(1).hash), propose(1, block(2).hash)
    bench = Bench()
    bench.hear(first)
    assert of(bench.hear(second), Conflict) == [Conflict(first, second)]
    assert of(bench.hear(propose(1, block(3).hash), second), Conflict) == []
    bench.good(block(2))
    assert bench.votes(bench.good(block(1))) == [(PREVOTE, 0, block(1).hash)]


def test_a_second_valid_round_for_the_same_block_is_no_conflict() -> None:
    bench = Bench()
    bench.hear(precommit(1, NIL, 2), precommit(3, NIL, 2))
    chosen = block()
    bench.hear(propose(3, chosen.hash, 2, 0, cert(PREVOTE, chosen.hash, 0)))
    assert of(bench.hear(propose(3, chosen.hash, 2, 1, cert(PREVOTE, chosen.hash, 1))), Conflict) == []


def test_a_vote_in_a_certificate_that_conflicts_with_the_counted_one_is_evidence() -> None:
    bench = Bench()
    bench.hear(prevote(3, NIL))
    made = bench.hear(cert(PREVOTE, block().hash, 0, signers=(1, 2, 3)))
    (conflict,) = of(made, Conflict)
    assert conflict.first.index == 3 and bench.core.held_polc is not None
    assert len(bench.core.tally(PREVOTE)) == 3 and bench.core.tally(PREVOTE).winner() is None
    bench.good(block())
    assert bench.core.valid_round == 0  # the certificate is valid even so


def test_a_stranger_with_my_key_stops_me() -> None:
    for message in (prevote(0, NIL), precommit(0, block().hash), propose(0, block().hash, 3), prevote(0, NIL, 9)):
        bench = Bench()
        (stop,) = of(bench.hear(message), Stop)
        assert stop.code == 20 and bench.timer("propose") == []
    bench = Bench()
    bench.timer("propose")
    assert bench.hear(bench.core.own[1]) == []  # my own vote, relayed
    assert of(bench.hear(prevote(0, block().hash)), Stop)[0].code == 20


def test_a_block_is_wanted_once_until_the_rebroadcast() -> None:
    bench = Bench()
    assert of(bench.hear(prevote(1, block().hash)), Want) == []  # one voter may lie
    assert of(bench.hear(prevote(2, block().hash)), Want) == [Want(block().hash, (1, 2))]
    assert of(bench.hear(prevote(3, block().hash)), Want) == []
    assert len(of(bench.timer("rebroadcast"), Want)) == 1
    bench.good(block())
    assert of(bench.timer("rebroadcast"), Want) == []


def test_what_is_remembered_of_blocks_and_rounds_is_bounded() -> None:
    bench = Bench()
    for salt in range(MAX_VERDICTS * 3):
        bench.good(block(salt))
    assert len(bench.core.verdict) == MAX_VERDICTS
    for round_ in range(3, 2000, 7):
        bench.hear(prevote(1, NIL, round_), propose((1 + round_) % 4 or 2, NIL, round_))
    assert len(bench.core.votes) <= 8 and len(bench.core.proposals) <= 4 and len(bench.core.highest) <= 4


# --- crash, sealing, followers ------------------------------------------------------------------------------------------


def test_a_restarted_node_says_the_same_again_and_keeps_its_lock() -> None:
    before = Bench()
    locked(before, block())
    record = of(before.out, Save)[-1].record
    after = Bench(saved=SignRecord.decode(record.encode()))
    said = [say.value for say in of(after.out, Say)]
    assert said == [before.core.own[1], before.core.own[2]]
    assert set(after.timers(after.out)) == {"rebroadcast"}  # the others re-arm by R6 and R8
    assert (after.core.round, after.core.locked_hash) == (0, block().hash)
    assert after.timer("propose") == []
    after.good(block())
    assert of(after.hear(precommit(1, block().hash), precommit(2, block().hash)), Decide)


def test_a_restarted_proposer_proposes_the_same_and_never_builds_another() -> None:
    before = Bench(me=1)
    before.timer("make")
    before.do(Built(1, 0, block()))
    record = of(before.out, Save)[-1].record
    after = Bench(me=1, saved=record)
    assert [say.value for say in of(after.out, Say)] == [before.core.own[0]]
    assert of(after.timer("make"), Build) == [] and of(after.do(Built(1, 0, block(5))), Say) == []
    assert after.votes(after.good(block())) == [(PREVOTE, 0, block().hash)]


def test_a_proposer_that_crashed_before_persisting_may_build_another() -> None:
    after = Bench(me=1, saved=SignRecord(0, 3, 2, (3, 2, bytes(32))))  # of the height before
    assert of(after.timer("make"), Build)


def test_re_proposal_after_a_restart_waits_for_the_verdict_of_its_body() -> None:
    polc = cert(PREVOTE, block().hash, 0)
    saved = SignRecord(1, 1, 0, (0, PRECOMMIT, bytes(32)), 0, block().hash, 0, block().hash, polc, block().hash)
    bench = Bench(me=2, saved=saved)
    assert bench.timers(bench.out)["make"] == 0
    assert of(bench.timer("make"), Say) == [] and of(bench.out, Build) == []
    made = bench.good(block())
    assert (made[1].value.valid_round, made[1].value.block_hash) == (0, block().hash)


def test_one_authority_needs_no_timers_but_its_pace() -> None:
    bench = Bench(me=0, n=1, wall=PARENT_TS)
    assert bench.timers(bench.out) == {"make": 250}
    bench.timer("make")
    bench.do(Built(1, 0, block()))
    assert of(bench.good(block()), Decide)
    assert bench.timers(bench.out) == {"make": 250}


def test_one_authority_is_not_delayed_by_a_clock_set_back() -> None:
    bench = Bench(me=0, n=1, wall=PARENT_TS - 3_600_000)
    assert bench.timers(bench.out) == {"make": 250}
    (build,) = of(bench.timer("make"), Build)
    chosen = block(ts=build.timestamp_ms)
    bench.do(Built(1, 0, chosen))
    assert of(bench.good(chosen), Decide)


def test_instant_sealing_makes_a_block_only_when_there_is_work() -> None:
    bench = Bench(me=0, n=1, seal="instant")
    assert bench.timers(bench.out) == {} and of(bench.do(Seal(3)), Build) == []
    assert of(bench.do(Work()), Build) and bench.do(Work()) == []


def test_manual_sealing_makes_as_many_blocks_as_asked() -> None:
    bench = Bench(me=0, n=1, seal="manual")
    assert bench.timers(bench.out) == {} and of(bench.do(Work()), Build) == []
    parent = PARENT
    bench.do(Seal(2))
    for height in (1, 2):
        chosen = block(height=height)
        bench.do(Built(height, 0, chosen))
        assert of(bench.good(chosen), Decide)
        parent = chosen.hash
        made = bench.start(height + 1, parent)
        assert bench.timers(made) == ({"make": 0} if height == 1 else {})
        if height == 1:
            assert of(bench.timer("make"), Build)
    assert of(bench.timer("make"), Build) == []


def test_work_does_not_hurry_a_paced_chain() -> None:
    assert Bench(me=1).do(Work(), Seal(1)) == []


def test_a_follower_signs_nothing_and_follows_certificates() -> None:
    bench = Bench(me=None)
    assert bench.out == []
    bench.hear(propose(1, block().hash), *(precommit(index, block().hash) for index in range(4)))
    assert bench.out == []
    made = bench.hear(cert(PRECOMMIT, block().hash))
    assert of(made, Want) == [Want(block().hash, (1, 2, 3))] and bench.timers(made) == {"rebroadcast": 200}
    assert of(bench.timer("rebroadcast"), Want)
    assert of(bench.good(block()), Decide) and not of(bench.out, Say) and not of(bench.out, Save)


def test_every_transition_names_its_rule() -> None:
    bench = Bench()
    locked(bench, block())
    bench.hear(precommit(1, block().hash), precommit(2, block().hash))
    assert [line.split()[0] for line in bench.lines] == ["R0", "R13", "R2", "R4a", "R4b", "R7"]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_the_quorum_is_needed_and_enough(n: int) -> None:
    bench = Bench(me=None, n=n)
    bench.good(block())
    assert of(bench.hear(cert(PRECOMMIT, block().hash, 0, n, tuple(range(quorum(n))))), Decide)
    if n > 1:
        bench = Bench(me=n - 1, n=n)
        bench.good(block())
        votes = [precommit(index, block().hash) for index in range(quorum(n) - 1)]
        assert of(bench.hear(*votes), Decide) == []
