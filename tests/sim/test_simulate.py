"""Whole nodes in virtual worlds: random ones from seeds, directed ones, and proof that the checks can fail."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from random import Random

import pytest

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from ledger.bft import Core
from ledger.effects import Event, Persist
from ledger.signer import Signer
from ledger.votes import Tally, Vote
from runtime.versions import VersionedRuntime
from tools.lab.frame import execute, find
from tools.lab.sim import campaign
from tools.lab.sim.actors import KINDS
from tools.lab.sim.clock import EPOCH_MS
from tools.lab.sim.network import Weather
from tools.lab.sim.node import Node
from tools.lab.sim.plan import FAULTS, HOUR_MS, ClockStep
from tools.lab.sim.world import Plan, Rules, Violation, World

REGRESSIONS = [line for line in (Path(__file__).parent / "regressions.txt").read_text().splitlines() if line[:1].isdigit()]
OPTIONS = {"seed": None, "max_n": 4, "workers": 1, "without": (), "trouble_ms": None, "trace": False}


def storm(seed: int, n: int, drop: float = 0.3) -> Weather:
    """Loss, duplicates and the partitions of this seed, for four seconds."""
    return Weather(drop, 0.1, 40, Weather.random(Random(seed), n, 4_000).partitions, 4_000)


def first_seed() -> int:
    """The same worlds in every run of `make test`; those of the commit in `make test-all`."""
    if not os.environ.get("QUORIX_FRESH_EXAMPLES"):
        return 0
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
    return int(commit.stdout.strip()[:8] or "0", 16)


@pytest.mark.parametrize("block", range(10))
def test_random_worlds(block: int) -> None:
    first = first_seed() + 10 * block
    for seed in range(first, first + 10):
        World(seed).run()


@pytest.mark.parametrize("line", REGRESSIONS)
def test_seeds_that_once_failed(line: str) -> None:
    """Each line of `regressions.txt` is a world: seed, largest n, kinds of trouble to switch off, time of trouble."""
    seed, max_n, without, trouble_ms = line.split("#")[0].split()
    plan = Plan.random(int(seed), int(max_n)).without([] if without == "-" else without.split(","), int(trouble_ms))
    World(int(seed), plan).run()


def test_one_seed_is_one_run() -> None:
    for seed in (3, 14):
        lines: list[str] = []
        assert World(seed, trace=lines).run().digest() == World(seed).run().digest() and len(lines) > 50
    assert World(3).run().digest() != World(14).run().digest()


def test_every_kind_of_trouble_and_of_actor_is_drawn_and_switched_off() -> None:
    plans = [Plan.random(seed, 10) for seed in range(250)]
    for fault in FAULTS:
        having = [plan for plan in plans if fault in plan.faults]
        assert 0 < len(having) < len(plans), fault
        assert all(fault not in plan.without([fault]).faults for plan in having)
    drawn = {kind for plan in plans for kinds in (plan.actors or {}).values() for kind in kinds.split("+")}
    assert drawn == set(KINDS) and {plan.n for plan in plans} == {1, 2, 3, 4, 5, 7, 10}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("silent", "selective", "equivocator", "withholder")])
def test_attackers_stop_nothing(kind: str) -> None:
    for seed in range(2):
        World(seed, Plan(n=4, actors={seed: kind}, weather=storm(seed, 4), runtime=True, users=1, trouble_ms=3_000)).run()


def test_the_set_grows_and_shrinks_under_load() -> None:
    sizes = set()
    for seed in range(3):
        plan = Plan(n=4, candidates=1, set_changes=True, session_blocks=3, runtime=True, users=2, crash=0.002, trouble_ms=5_000)
        world = World(seed, plan).run()
        chain = world.nodes[0].chain
        sizes |= {len(chain.authority_keys(height)) for height in range(1, chain.head.height + 1)}
        assert world.traffic.submitted > 0
    assert {4, 5} <= sizes


def test_a_devnet_that_is_taken_back_goes_on_under_a_new_domain() -> None:
    world = World(1, Plan(n=4, rewinds=(2_000, 3_000), actors={2: "replayer"}, runtime=True, users=2)).run()
    assert world.rewinds == 2 and all(len(node.domains) == 3 for node in world.honest)


def test_clocks_may_step_back_an_hour() -> None:
    """One alone (right again when the trouble ends), or all for good: their blocks are a millisecond apart then."""
    steps = (ClockStep(1_000, 1, -HOUR_MS), ClockStep(2_000, None, -HOUR_MS))
    world = World(1, Plan(n=4, clock_steps=steps)).run()
    header = world.nodes[0].chain.header(max(world.decided))
    assert len(world.decided) >= 12 and EPOCH_MS + 1_500 < header.timestamp_ms < EPOCH_MS + 2_100


def test_a_quiet_chain_keeps_its_pace_and_needs_one_round() -> None:
    for n in (1, 4):
        world = World(1, Plan(n=n)).run()
        assert set(world.rounds.values()) == {0}
        assert 240 <= world.timeline.now_ms / len(world.decided) <= 280


@pytest.mark.parametrize("kind", ["silent", "selective", "equivocator", "withholder"])
@pytest.mark.parametrize("n", [4, 7])
def test_authorities_that_break_the_rules_stop_nothing(kind: str, n: int) -> None:
    for seed in range(4 if n == 4 else 1):
        actors = {(seed + 3 * index) % n: kind for index in range((n - 1) // 3)}
        world = World(seed, Plan(n=n, actors=actors, weather=storm(seed, n))).run()
        assert {world.named(f"p{index}").honest for index in actors} == {False} and len(world.decided) >= 4


def test_crashes_before_any_effect() -> None:
    crashes = 0
    for seed in range(8):
        crashes += World(seed, Plan(n=4, crash=0.02, weather=storm(seed, 4, 0.1))).run().crashes
    assert crashes > 20


def crash_at(number: int, n: int) -> World:
    """Node 0 crashes before one of its effects, or around one of its writes; the others must not notice for long."""
    plan = Plan(n=n, crash_points=((0, number),), runtime=True, users=1, slow_disk_ms=10, trouble_ms=1_500)
    world = World(number, plan).run()
    assert world.crashes == 1
    return world


@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_crash_at_some_boundaries(n: int) -> None:
    for number in range(1, 90 if n == 1 else 150, 13):
        crash_at(number, n)


@pytest.mark.long
@pytest.mark.parametrize("first", range(1, 200, 50))
def test_a_crash_at_every_boundary(first: int) -> None:
    for number in range(first, first + 50):
        crash_at(number, 4)


def test_real_signatures_and_evidence_that_verifies() -> None:
    world = World(2, Plan(n=4, actors={1: "equivocator"}, real_signatures=True)).run()
    assert world.evidence and all(item.verify(world.params.genesis_hash) for item in world.evidence)
    assert {item.key for item in world.evidence} == {world.nodes[1].key.public}


def test_skewed_clocks_cost_little() -> None:
    """Up to 450 ms off: paced on monotonic clocks, and the tolerance grows with the rounds."""
    late, blocks, spent_ms = 0, 0, 0
    for seed in range(6):
        world = World(seed, Plan(n=4, skew_ms=450)).run()
        late += sum(round_ > 0 for round_ in world.rounds.values())
        blocks, spent_ms = blocks + len(world.decided), spent_ms + world.timeline.now_ms
    assert late / blocks < 0.2 and spent_ms / blocks < 320


def test_votes_cross_any_connected_graph() -> None:
    for seed in range(4):
        World(seed, Plan(n=4, line=True)).run()


def test_a_late_follower_catches_up_and_signs_nothing() -> None:
    world = World(5, Plan(n=4, followers=2, late_followers_ms=3_000)).run()
    assert all(node.chain.head.height >= 16 and node.signer is None for node in world.nodes[4:])


def test_a_fast_chain_keeps_the_messages_of_the_next_height() -> None:
    """Dropping them costs up to T_rebroadcast a height to whoever commits last."""
    world = World(1, Plan(n=4, block_time_ms=20, weather=Weather.fine(60))).run()
    assert world.timeline.now_ms / len(world.decided) < 250


# --- mutants: each check must be able to fail -----------------------------------------------------------------------------


def killed(seeds: range, plan: Plan | None = None) -> bool:
    for seed in seeds:
        try:
            World(seed, plan).run()
        except Violation:
            return True
    return False


def test_mutant_without_persist_signs_two_things(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Signer, "persist", lambda self, record, bodies, sync=True: None)
    assert killed(range(20), Plan(n=4, crash=0.02))


def test_mutant_that_sends_before_it_persists_signs_two_things(monkeypatch: pytest.MonkeyPatch) -> None:
    def feed(self: Node, event: Event) -> None:
        if not self.alive or self.stop_code is not None:
            return
        for effect in sorted(self.engine.handle(event, self.now()), key=lambda effect: isinstance(effect, Persist)):
            if self.world.crashes_now(self):
                return self.crash()
            self._effect(effect)
        self._work_lane()

    monkeypatch.setattr(Node, "feed", feed)
    assert killed(range(40), Plan(n=4, crash=0.02))


def test_mutant_that_counts_a_voter_twice_makes_certificates_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Tally.add

    def add(self: Tally, vote: Vote) -> Vote | None:
        if self.votes.get(vote.index) == vote:
            self._counts[vote.block_hash] += 1
        return real(self, vote)

    monkeypatch.setattr(Tally, "add", add)
    assert killed(range(20))


def test_mutant_without_why_gets_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Core._go_on
    monkeypatch.setattr(Core, "_go_on", lambda self, rule, round_, why: real(self, rule, round_, ()))
    assert any(killed(range(60), Plan(n=4, actors={index: "silent"}, weather=storm(index, 4, 0.4))) for index in range(4))


# --- the real rules -------------------------------------------------------------------------------------------------------


def test_the_real_runtime_disables_an_equivocator_and_goes_on_without_it() -> None:
    spec = devnet_spec(1, block_time_ms=250)
    genesis = build_genesis(spec)
    by_key = {member.session.public: member.session for member in cast(1) if member.session is not None}
    keys = tuple(by_key[public] for public in genesis.authorities.keys)
    rules = Rules(VersionedRuntime(genesis.genesis_hash), genesis.state, genesis.params, keys)
    plan = Plan(n=4, actors={1: "equivocator"}, real_signatures=True, followers=1, trouble_ms=1_500)
    world = World(1, plan, rules=rules).run()
    chain = world.nodes[0].chain
    assert chain.authorities().active == (0, 2, 3) and chain.authorities().keys == genesis.authorities.keys
    assert len({node.chain.header(4).state_root for node in world.nodes}) == 1


# --- many worlds ----------------------------------------------------------------------------------------------------------


def hopeless(seed: int, max_n: int) -> Plan:
    """Two silent ones of four, and trouble that has nothing to do with it."""
    return Plan(n=4, actors={0: "silent", 1: "silent"}, weather=Weather(0.2, 0.1, 5, (), 2_000), skew_ms=100, trouble_ms=2_000)


def test_a_failure_is_shrunk_to_what_it_needs_and_to_one_line() -> None:
    without, trouble_ms = campaign.shrink(hopeless, 7, 4)
    assert set(without) >= {"drop", "duplicate", "skew"} and "actors" not in without and trouble_ms == 500
    line = campaign.reproduce("simulate", 7, None, without[:1], trouble_ms)
    assert line == "quorix lab simulate --seed 7 --without drop --trouble-ms 500 --trace"
    outcome = campaign.run_world(hopeless, 7, 4)
    assert "no progress" in outcome.violation and outcome.n == 4


def test_an_error_in_a_world_is_a_failure_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Node, "judge", lambda self, block: 1 // 0)
    assert "ZeroDivisionError" in campaign.run_world(Plan.random, 1, 4).violation


def test_the_experiment_reports_and_goes_on_where_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = execute(find("experiment", "simulate"), OPTIONS | {"seeds": 4, "first_seed": 10})
    assert whole.ok and whole.figures["worlds"] == 4 and whole.figures["blocks"] >= 16
    assert sum(row["worlds"] for row in whole.figures["by_n"].values()) == 4

    def interrupted(*args: object) -> object:
        yield campaign.run_world(Plan.random, 10, 4)
        signal.raise_signal(signal.SIGINT)
        yield campaign.run_world(Plan.random, 11, 4)
        yield campaign.run_world(Plan.random, 12, 4)

    monkeypatch.setattr(campaign, "run_worlds", interrupted)
    part = execute(find("experiment", "simulate"), OPTIONS | {"seeds": 4, "first_seed": 10})
    assert part.figures["ended_early_before_seed"] == 12 and part.figures["worlds"] == 2


def test_one_world_shows_the_rule_of_each_transition() -> None:
    result = execute(find("experiment", "simulate"), OPTIONS | {"seeds": 1, "first_seed": 0, "seed": 3, "trace": True})
    rules = {line.split()[2] for line in result.figures["trace"]}
    assert {"R0", "R1", "R2", "R4a", "R4b", "R7", "R13"} <= rules


@pytest.mark.long
def test_the_number_of_processes_changes_nothing() -> None:
    hashes = set()
    for workers in (1, 2):
        tally = campaign.Tally()
        for outcome in campaign.run_worlds(Plan.random, range(8), 4, workers):
            tally.add(outcome)
        hashes.add(tally.trace_hash)
    assert len(hashes) == 1 and tally.outcomes == 8
