"""The experiments `sybil`, `peek` and `collaborate`: their parts, on answers made for the purpose."""

import numpy as np
import pytest

from ai.models.model import Card, write_bytes
from tools.lab import collaborate, peek, sybil
from tools.lab.frame import Run, find
from tools.lab.sybil import Attack, Market, blend, copies, geometric, straddle


@pytest.fixture(scope="module")
def market():
    """Four experts that hold other bytes possible, twelve each, as a validator has seen them for some batches."""
    rng = np.random.default_rng(0)

    def rows_of_one():
        rows = np.zeros((12, 4, 256))
        places = rng.permuted(np.broadcast_to(np.arange(256), (12, 4, 256)), axis=2)[..., :12]
        np.put_along_axis(rows, places, rng.dirichlet([0.3] * 12, (12, 4)), axis=2)
        return rows

    made = object.__new__(Market)
    made.names, made.seed, made._before, made.batches = ["json", "english", "code", "csv"], 0, [], []
    for _ in range(4):
        rows = {name: rows_of_one() for name in made.names}
        owner = [made.names[i % 4] for i in range(12)]
        truth = np.array([[rng.choice(256, p=p) for p in rows[owner[w]][w]] for w in range(12)])
        made.batches.append((rows, truth))
    return made


def test_clones_gain_nothing_and_blends_keep_nothing(market):
    honest = market.judged(None)
    assert sum(honest.share.values()) == pytest.approx(1) and honest.attacker == 0
    cloned = market.judged(Attack("", copies("json", 3, 0.1)))
    assert (cloned.share["json"] + cloned.attacker) / honest.share["json"] <= 1.02
    plain = market.judged(Attack("", copies("json", 3, 0.0)), rules=False)
    assert plain.attacker > 2 * plain.share["json"] > 0
    mixed = Attack("", blend({"json": 0.5, "csv": 0.5}))
    assert market.judged(mixed).attacker == 0 < market.judged(mixed, rules=False).attacker
    assert market.judged(mixed, from_the_start=True).attacker > 0, "who is known as long as the others is nobody's younger"


def test_a_victim_keeps_its_pay_and_residuals_are_those_of_the_honest(market):
    attack = Attack("", straddle("json", 0.9))
    paid, free = market.judged(attack), market.judged(attack, rules=False)
    assert paid.share["json"] >= 0.95 * free.share["json"]
    assert min(market.residuals().values()) > 1
    (bent,) = geometric({"json": 0.5, "csv": 0.5})(market.batches[0][0], None)
    assert bent.shape == (12, 4, 256)


class Even:
    def __init__(self, name):
        self._card = Card(name, bytes(32), 64)

    def card(self):
        return self._card

    def next_bytes(self, windows):
        return np.ones((len(windows), 256))

    def write(self, prompt, sampling):
        return write_bytes(self, prompt, sampling)


async def test_neurons_that_all_ask_each_other_keep_to_budgets_and_refuse_loops():
    run = Run()
    await collaborate.connected(run, {name: Even(name) for name in "abcd"})
    assert len(run.targets) == 6 and all(target.ok for target in run.targets)


async def test_a_peeker_sees_what_it_was_sent_and_lock_step_sends_nothing_to_see():
    from ai.judge.probes import Window

    text = bytes(range(97, 123)) * 5
    windows = [Window("d", text[i : i + 128], (30, 60, 90, 120)) for i in range(2)]
    experts = {name: Even(name) for name in ("json", "generalist", "code")}
    assert await peek.shares(experts, windows[:1], "all at once", True) > 0.9
    board = []
    peeker = peek.Peeker(Even("x"), board)
    assert peeker.next_bytes([b"ab"])[0][99] == 1 and board == [b"ab"]
    board.append(b"abc")
    assert peeker.next_bytes([b"ab"])[0][99] > 0.9


def test_they_are_listed():
    for name in ("sybil", "peek", "collaborate"):
        assert find("experiment", name).module == f"tools.lab.{name}"
    assert set(sybil.NEIGHBOURS) == {"code", "json"}
