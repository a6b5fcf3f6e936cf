"""The queue's order, the batcher's batches, the hooks' rates."""

import asyncio

import numpy as np
import pytest

from ai.distribution import decode_distributions
from ai.serve.batcher import Batcher, ModelFailed
from ai.serve.hooks import (
    BURST_SECONDS,
    FLOOR_UNITS_PER_SECOND,
    MEMBER_UNITS_PER_SECOND,
    PERMIT,
    REGISTERED,
    STAKED,
    STRANGER,
    RateLimiter,
    Standing,
    by_standing,
    only_registered,
)
from ai.serve.queue import Job, WorkQueue
from ai.serve.refusals import Refused

A, B = b"a" * 32, b"b" * 32


async def job(priority=0, deadline_ms=1_000, **more):
    return Job(priority, deadline_ms, asyncio.get_running_loop().create_future(), **more)


async def test_the_best_class_comes_first_then_the_deadline_then_the_order():
    queue = WorkQueue()
    jobs = {
        "late": await job(1, 500), "first": await job(0, 900), "soon": await job(1, 100), "late too": await job(1, 500),
    }
    for each in jobs.values():
        queue.push(each)
    order = [queue.pop(0) for _ in range(4)]
    assert order == [jobs["first"], jobs["soon"], jobs["late"], jobs["late too"]] and queue.pop(0) is None


async def test_the_rest_of_a_job_keeps_its_place():
    queue = WorkQueue()
    first, second = await job(), await job()
    queue.push(first)
    queue.push(second)
    queue.push(queue.pop(0))
    assert queue.pop(0) is first


async def test_ended_and_expired_work_is_dropped():
    queue = WorkQueue()
    ended, expired, good = await job(), await job(deadline_ms=50), await job()
    ended.future.cancel()
    for each in (ended, expired, good):
        queue.push(each)
    assert queue.pop(50) is good


async def test_a_full_queue_is_busy_until_ended_work_is_cleared():
    queue = WorkQueue(limit=2)
    first, second = await job(), await job()
    queue.push(first)
    queue.check_room()
    queue.push(second)
    with pytest.raises(Refused, match="busy") as caught:
        queue.check_room()
    assert caught.value.retry_after_ms > 0
    first.future.cancel()
    queue.check_room()
    assert len(queue) == 1


async def test_who_comes_first_is_not_refused_for_who_waits_behind():
    queue = WorkQueue(limit=2)
    for _ in range(5):
        queue.push(await job(STRANGER))
    queue.push(await job(STAKED))
    for priority in (PERMIT, STAKED):
        queue.check_room(priority, coming=1 if priority == PERMIT else 0)
    for priority, coming in ((STRANGER, 0), (REGISTERED, 1), (PERMIT, 2)):
        with pytest.raises(Refused, match="busy"):
            queue.check_room(priority, coming)


class Model:
    """Predicts each window's length; fails on windows that say so."""

    def __init__(self):
        self.batches = []

    def next_bytes(self, windows):
        self.batches.append(len(windows))
        if any(window == b"raise" for window in windows):
            raise RuntimeError("no")
        rows = np.zeros((len(windows), 256))
        for row, window in enumerate(windows):
            rows[row, len(window)] = np.nan if window == b"nan" else 1
        return rows[: -1 if b"short" in windows else None]


@pytest.fixture
async def batcher():
    made = Batcher(Model(), WorkQueue(), lambda: made.sessions_open, lambda: 0)
    made.sessions_open = 1
    made.start()
    yield made
    await made.stop()


def lengths(answer, windows):
    return decode_distributions(answer, windows).argmax(axis=1).tolist()


async def test_windows_of_many_sessions_go_together(batcher):
    batcher.sessions_open = 20
    answers = await asyncio.gather(*(batcher.distributions([b"x" * n], 0, 1) for n in range(20)))
    assert [lengths(a, 1)[0] for a in answers] == list(range(20))
    assert batcher._model.batches == [16, 4]


async def test_a_large_step_is_cut_and_put_together_again(batcher):
    windows = [b"x" * n for n in range(40)]
    assert lengths(await batcher.distributions(windows, 0, 1), 40) == list(range(40))
    assert batcher._model.batches == [16, 16, 8]


async def test_nobody_waits_where_nobody_could_join(batcher):
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        await batcher.distributions([b"x"], 0, 1)
    alone = loop.time() - began
    batcher.sessions_open = 5
    began = loop.time()
    for _ in range(20):
        await batcher.distributions([b"x"], 0, 1)
    assert loop.time() - began > 20 * 0.004 > alone / 4


async def test_only_the_guilty_fail(batcher):
    batcher.sessions_open = 5
    asked = [[b"ok"], [b"raise"], [b"fine", b"good"], [b"nan"], [b"short"]]
    answers = await asyncio.gather(*(batcher.distributions(w, 0, 1) for w in asked), return_exceptions=True)
    assert lengths(answers[0], 1) == [2] and lengths(answers[2], 2) == [4, 4]
    assert all(isinstance(answers[i], ModelFailed) for i in (1, 3, 4))
    assert lengths(await batcher.distributions([b"on"], 0, 1), 1) == [2]


async def test_calls_run_in_their_turn_and_may_fail(batcher):
    assert await batcher.call(lambda: 41 + 1, 0, 1) == 42
    with pytest.raises(ModelFailed, match="ZeroDivisionError"):
        await batcher.call(lambda: 1 / 0, 0, 1)
    assert await batcher.distributions([], 0, 1) == b""


async def test_a_better_class_overtakes(batcher):
    done = []

    async def one(name, priority):
        await batcher.call(lambda: done.append(name), priority, 1)

    await asyncio.gather(one("blocking", 0), one("stranger", 3), one("validator", 0), one("member", 2))
    assert done == ["blocking", "validator", "member", "stranger"]


# --- hooks


def test_rates_follow_the_stake():
    limiter = RateLimiter(1_000)
    rich, poor = Standing(True, True, 0.5), Standing()
    limiter.charge(A, rich, 10**9, 0)
    limiter.charge(B, poor, FLOOR_UNITS_PER_SECOND * (BURST_SECONDS + 1), 0)
    assert limiter.retry_after_ms(B, poor, 0) == pytest.approx(1_000, abs=2)
    assert limiter.retry_after_ms(B, poor, 1_001) == 0
    assert limiter.retry_after_ms(A, rich, 0) > limiter.retry_after_ms(A, rich, 10_000) > 0
    assert limiter.retry_after_ms(b"c" * 32, poor, 0) == 0


def test_a_member_may_ask_more_than_a_stranger_whatever_its_stake():
    limiter = RateLimiter()
    for caller, standing in ((A, Standing(registered=True)), (B, Standing())):
        limiter.charge(caller, standing, MEMBER_UNITS_PER_SECOND * BURST_SECONDS, 0)
        assert (limiter.retry_after_ms(caller, standing, 0) == 0) == standing.registered


def test_a_clock_that_goes_back_gives_nothing():
    limiter = RateLimiter()
    limiter.charge(A, Standing(), 1_000, 10_000)
    wait = limiter.retry_after_ms(A, Standing(), 10_000)
    assert limiter.retry_after_ms(A, Standing(), 0) == wait


def test_callers_remembered_are_bounded(monkeypatch):
    monkeypatch.setattr("ai.serve.hooks.MAX_CALLERS_REMEMBERED", 10)
    limiter = RateLimiter()
    for number in range(50):
        limiter.charge(number.to_bytes(32, "big"), Standing(), 1, number)
    assert len(limiter._buckets) == 10


def test_classes_follow_the_standing():
    standings = [Standing(True, True, 0.1), Standing(True, False, 0.1), Standing(True), Standing()]
    assert [by_standing(None, standing) for standing in standings] == [PERMIT, STAKED, REGISTERED, STRANGER]
    assert only_registered(None, Standing()) and not only_registered(None, Standing(True))
