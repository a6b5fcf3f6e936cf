"""Waiting for experts: how many, how long, and when another is asked in somebody's stead."""

import asyncio
import time

import pytest

from ai.gateway import hedge
from ai.gateway.hedge import Hedge, HedgeBudget, gather
from ai.serve.latency import SAMPLES, SAMPLES_NEEDED, Latencies
from ledger.errors import Unreachable


async def after(seconds, error=None):
    await asyncio.sleep(seconds)
    if error is not None:
        raise error


def stands_in(seconds, error=None, asked=None):
    def ask(late):
        if asked is not None:
            asked.append(late)
        return "stand-in", after(seconds, error)

    return ask


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(hedge, "GRACE_S", 0.03)
    monkeypatch.setattr(hedge, "STEP_TIMEOUT_S", 0.3)


async def test_all_that_answer_and_what_fails():
    answers = await gather({"a": after(0), "b": after(0.01), "c": after(0, Unreachable("gone"))})
    assert set(answers.lost) == {"c"} and answers.hedged is None


async def test_k_min_answers_then_a_grace():
    began = time.monotonic()
    answers = await gather({"a": after(0.01), "b": after(0.02), "slow": after(5)})
    assert set(answers.lost) == {"slow"} and isinstance(answers.lost["slow"], TimeoutError)
    assert time.monotonic() - began < 0.25
    began = time.monotonic()  # one answer of three is too few for the grace to begin
    answers = await gather({"a": after(0.01), "slow": after(5), "slower": after(6)})
    assert set(answers.lost) == {"slow", "slower"} and time.monotonic() - began >= 0.29


async def test_the_grace_grows_with_what_the_first_ones_needed():
    answers = await gather({"a": after(0.05), "b": after(0.05), "c": after(0.12)})
    assert not answers.lost


async def test_a_stand_in_takes_the_place_of_who_is_late():
    asked = []
    began = time.monotonic()
    answers = await gather(
        {"a": after(0.2), "late": after(5), "b": after(0.2)}, Hedge({"late": 0.03}, stands_in(0.02, asked=asked))
    )
    assert not answers.lost and asked == ["late"] and time.monotonic() - began < 0.28
    assert (answers.hedged.late, answers.hedged.stand_in, answers.hedged.won) == ("late", "stand-in", True)
    assert 0.03 <= answers.hedged.after_s < 0.15


async def test_the_late_one_may_still_win_and_a_failing_stand_in_harms_nobody():
    answers = await gather({"late": after(0.05)}, Hedge({"late": 0.02}, stands_in(1.0)))
    assert not answers.lost and not answers.hedged.won
    answers = await gather({"late": after(0.06)}, Hedge({"late": 0.02}, stands_in(0.0, Unreachable("no"))))
    assert not answers.lost and not answers.hedged.won


async def test_a_late_one_that_fails_leaves_its_place_to_the_stand_in():
    answers = await gather({"late": after(0.05, Unreachable("no"))}, Hedge({"late": 0.02}, stands_in(0.06)))
    assert set(answers.lost) == {"late"} and answers.hedged.won


async def test_one_hedge_and_only_for_those_with_a_past():
    asked = []
    answers = await gather(
        {"x": after(5), "y": after(5), "new": after(5)}, Hedge({"x": 0.02, "y": 0.03}, stands_in(5, asked=asked))
    )
    assert asked == ["x"] and set(answers.lost) == {"x", "y", "new"} and not answers.hedged.won


async def test_nobody_free_means_no_hedge():
    answers = await gather({"late": after(0.06)}, Hedge({"late": 0.02}, lambda late: None))
    assert not answers.lost and answers.hedged is None


async def test_a_bug_is_raised_and_everything_ends():
    waiting = asyncio.Event()

    async def held():
        try:
            await asyncio.sleep(5)
        finally:
            waiting.set()

    with pytest.raises(ZeroDivisionError):
        await gather({"a": held(), "b": after(0.01, ZeroDivisionError())})
    assert waiting.is_set()


def test_p95_needs_a_past():
    times = Latencies()
    for n in range(SAMPLES_NEEDED - 1):
        times.note(n)
    assert times.p95() is None
    for n in range(200):
        times.note(float(n))
    assert times.p95() == 196.0 and len(times.newest) == SAMPLES


def test_one_hedge_for_ten_requests_and_quiet_times_do_not_add_up():
    budget = HedgeBudget(0.0)
    made = 0
    for _ in range(1000):
        budget.earn()
        made += budget.take()
    assert 98 <= made <= 101
    for _ in range(1000):
        budget.earn()
    assert sum(budget.take() for _ in range(1000)) == hedge.HEDGES_SAVED
