"""Whole nodes in virtual worlds: random ones from seeds, directed ones, and proof that the checks can fail."""

from __future__ import annotations

from random import Random

import pytest

from genesis.build import build_genesis
from genesis.cast import cast, devnet_spec
from ledger.bft import Core
from ledger.effects import Event, Persist
from ledger.signer import Signer
from ledger.votes import Tally, Vote
from runtime.executor import Runtime
from tools.lab.sim.network import Weather
from tools.lab.sim.node import Node
from tools.lab.sim.world import Plan, Rules, Violation, World


def storm(seed: int, n: int, drop: float = 0.3) -> Weather:
    """Loss, duplicates and the partitions of this seed, for four seconds."""
    return Weather(drop, 0.1, 40, Weather.random(Random(seed), n, 4_000).partitions, 4_000)


@pytest.mark.parametrize("first", range(0, 100, 25))
def test_random_worlds(first: int) -> None:
    for seed in range(first, first + 25):
        World(seed).run()


def test_one_seed_is_one_run() -> None:
    for seed in (3, 14, 15):
        lines: list[str] = []
        assert World(seed, trace=lines).run().digest() == World(seed).run().digest() and len(lines) > 50
    assert World(3).run().digest() != World(14).run().digest()


def test_a_quiet_chain_keeps_its_pace_and_needs_one_round() -> None:
    for n in (1, 4):
        world = World(1, Plan(n=n)).run()
        assert set(world.rounds.values()) == {0}
        assert 240 <= world.timeline.now_ms / len(world.decided) <= 280


@pytest.mark.parametrize("kind", ["silent", "selective", "equivocator", "withholder"])
@pytest.mark.parametrize("n", [4, 7])
def test_authorities_that_break_the_rules_stop_nothing(kind: str, n: int) -> None:
    for seed in range(6 if n == 4 else 3):
        actors = {(seed + 3 * index) % n: kind for index in range((n - 1) // 3)}
        world = World(seed, Plan(n=n, actors=actors, weather=storm(seed, n))).run()
        assert {world.named(f"p{index}").honest for index in actors} == {False} and len(world.decided) >= 4


def test_crashes_before_any_effect() -> None:
    crashes = 0
    for seed in range(8):
        crashes += World(seed, Plan(n=4, crash=0.02, weather=storm(seed, 4, 0.1))).run().crashes
    assert crashes > 20


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
    rules = Rules(Runtime(genesis.genesis_hash), genesis.state, genesis.params, keys)
    plan = Plan(n=4, actors={1: "equivocator"}, real_signatures=True, followers=1, trouble_ms=1_500)
    world = World(1, plan, rules=rules).run()
    chain = world.nodes[0].chain
    assert chain.authorities().active == (0, 2, 3) and chain.authorities().keys == genesis.authorities.keys
    assert len({node.chain.header(4).state_root for node in world.nodes}) == 1
