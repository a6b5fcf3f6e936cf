"""Gate and router: content, trust and experience decide who answers."""

import random

from ai.gateway.gate import GateTrainer
from ai.gateway.router import Candidate, Router

A, B, C, G = (bytes([i]) * 32 for i in range(4))
TEXTS = {A: b"def f(x):\n    return x + ", B: b'{"id": 12, "name": "', C: b"12+34="}


def trained() -> GateTrainer:
    trainer = GateTrainer()
    rng = random.Random(1)
    for _ in range(200):
        owner = rng.choice([A, B, C])
        text = TEXTS[owner] + bytes(rng.choice(b"abcdefgh0123456789") for _ in range(6))
        trainer.add(text, {key: (1.0 if key == owner else 6.0) + rng.random() for key in (A, B, C)} | {G: 2.5})
    return trainer


def candidates(**changes: float) -> list[Candidate]:
    rows = [Candidate(A, "code", 0.3), Candidate(B, "json", 0.3), Candidate(C, "arith", 0.3)]
    rows.append(Candidate(G, "generalist", 0.1, True))
    return [Candidate(c.hotkey, c.name, changes.get(c.name, c.trust), c.generalist) for c in rows]


def test_gate_learns_which_expert_fits() -> None:
    gate = trained().train()
    for owner, text in TEXTS.items():
        odds = gate.predict(text + b"x", [A, B, C, G])
        assert max(odds, key=lambda key: odds[key]) == owner
        assert abs(sum(odds.values()) - 1) < 1e-9


def test_an_untrained_gate_is_even_and_unknown_experts_get_the_mean() -> None:
    gate = GateTrainer().train()
    assert gate.predict(b"x", [A, B]) == {A: 0.5, B: 0.5}
    stranger = bytes([9]) * 32
    odds = trained().train().predict(TEXTS[A], [A, B, stranger])
    assert odds[B] < odds[stranger] < odds[A]


def test_router_takes_the_fitting_expert_and_always_the_generalist() -> None:
    router = Router(trained().train())
    decision = router.choose(TEXTS[B], candidates(), [0.0] * 4)
    assert max(decision.weights, key=lambda key: decision.weights[key]) == B
    assert G in decision.weights and len(decision.weights) <= 3
    assert abs(sum(decision.weights.values()) - 1) < 1e-9
    assert [r.name for r in decision.reasons][0] == "json"


def test_no_trust_means_not_chosen_and_experience_overrules_the_prior() -> None:
    router = Router(trained().train())
    assert B not in router.choose(TEXTS[B], candidates(json=0.0), [0.0] * 4).weights
    kind = router.choose(TEXTS[B], candidates(), [0.0] * 4).kind
    for _ in range(60):
        router.reward(kind, B, 0.0)
        router.reward(kind, C, 1.0)
        router.reward(kind, A, 1.0)
    assert B not in router.choose(TEXTS[B], candidates(), [0.0] * 4).weights


def test_nobody_to_ask() -> None:
    assert Router().choose(b"x", [], []).weights == {}


def test_of_many_who_claim_everything_one_is_always_on() -> None:
    claimants = [Candidate(bytes([9, i]) * 16, f"claims {i}", 0.01 * i, True) for i in range(20)]
    decision = Router(trained().train()).choose(TEXTS[B], candidates() + claimants, [0.0] * 24)
    assert len(decision.weights) <= 3 and claimants[-1].hotkey in decision.weights
    assert [r.chosen for r in decision.reasons].count("generalist") == 1


def test_the_kind_of_a_text_is_a_specialist_and_a_trained_gate_goes_on_from_where_it_is() -> None:
    trainer = trained()
    first = trainer.train()
    router = Router(first)
    assert {name: router.choose(text, candidates(), [0.0] * 4).kind for name, text in TEXTS.items()} == {k: k for k in TEXTS}
    for _ in range(50):
        trainer.add(TEXTS[A], {A: 7.0, B: 1.0, C: 7.0})
    again = trainer.train(first)
    assert again.predict(TEXTS[A], [A, B])[B] > first.predict(TEXTS[A], [A, B])[B]
    assert set(again.experts) == {A, B, C, G}


def test_who_was_not_asked_about_a_text_is_not_judged_by_it() -> None:
    trainer = GateTrainer()
    for _ in range(50):
        trainer.add(TEXTS[A], {A: 1.0, G: 2.5})
        trainer.add(TEXTS[B], {B: 1.0, C: 6.0})
        trainer.add(TEXTS[A], {C: 1.0})  # one alone compares nothing
    odds = trainer.train().predict(TEXTS[A], [A, B, G])
    assert odds[A] > odds[G] and odds[B] > odds[G] / 4 and len(trainer) == 100


def test_one_request_of_fifty_tries_who_was_measured_least() -> None:
    router = Router(trained().train())
    plain = router.choose(TEXTS[B], candidates(), [0.0] * 4, explore=0.02)
    assert {r.chosen for r in plain.reasons} == {"top", "generalist", ""}
    left_out = next(r for r in plain.reasons if not r.chosen)
    tried = router.choose(TEXTS[B], candidates(), [0.0] * 4, explore=0.0199)
    assert next(r for r in tried.reasons if r.chosen == "explored").hotkey == left_out.hotkey
    assert len(tried.weights) == len(plain.weights) and plain.reasons[0].hotkey in tried.weights
    for other in (A, B, C):  # known by now: nobody is measured less than another
        router.reward(plain.kind, other, 0.5)
    assert "explored" in {r.chosen for r in router.choose(TEXTS[B], candidates(), [0.0] * 4, explore=0.0).reasons}


def test_fewer_places_and_a_score_that_is_the_sum_of_its_parts() -> None:
    router = Router(trained().train())
    slow = [Candidate(c.hotkey, c.name, c.trust, c.generalist, 1.5, 2) if c.hotkey == B else c for c in candidates()]
    decision = router.choose(TEXTS[B], slow, [1.0, -1.0, 0.5, 0.0], top=1)
    assert [r.chosen for r in decision.reasons].count("top") == 1 and len(decision.weights) == 2
    for r in decision.reasons:
        mean = (4.0 * r.prior + r.count * r.reward) / (4.0 + r.count)
        assert abs(r.score - (mean + r.draw - r.cost)) < 1e-12
    assert next(r for r in decision.reasons if r.hotkey == B).cost == 0.2 * 1.5 + 0.05 * 2
