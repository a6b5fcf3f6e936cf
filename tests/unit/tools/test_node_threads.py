"""The threads of a node: order of lanes, bounds, errors, shutdown."""

import asyncio
import random
import threading
import time

import pytest

from ledger.crypto import KeyPair, signing_bytes
from ledger.errors import NotReady
from ledger.verdict import verify_one_by_one
from tools.node import threads as module
from tools.node.threads import TAKEN_AT_ONCE, Lane, Threads, Workers, verify_on


@pytest.fixture
def workers():
    made = Workers("test", 1, 4)
    yield made
    made.close()


class Blocked:
    """Occupies a worker until released."""

    def __init__(self, workers):
        self.started, self.release = threading.Event(), threading.Event()
        self.future = workers.call(self.run)
        self.started.wait(2)

    def run(self):
        self.started.set()
        self.release.wait(5)


async def test_results_and_errors_come_back_to_the_loop(workers):
    assert await workers.call(lambda a, b: (a + b, threading.current_thread().name), 2, 3) == (5, "test")
    with pytest.raises(ZeroDivisionError):
        await workers.call(lambda: 1 // 0)
    assert await workers.call(int, "7") == 7


async def test_lanes_are_served_in_their_order_and_each_first_come_first_served(workers):
    blocked, order = Blocked(workers), []
    lanes = [Lane.TRANSACTIONS, Lane.SYNC, Lane.VOTES, Lane.PROPOSALS, Lane.VOTES]
    jobs = [workers.call(order.append, (lane, i), lane=lane) for i, lane in enumerate(lanes)]
    blocked.release.set()
    await asyncio.gather(*jobs)
    assert order == [(Lane.VOTES, 2), (Lane.VOTES, 4), (Lane.PROPOSALS, 3), (Lane.SYNC, 1), (Lane.TRANSACTIONS, 0)]


async def test_a_full_queue_refuses_transactions_and_sync_but_never_votes(workers):
    blocked = Blocked(workers)
    jobs = [workers.call(int, lane=Lane.TRANSACTIONS) for _ in range(4)]
    for lane in (Lane.TRANSACTIONS, Lane.SYNC):
        with pytest.raises(NotReady):
            workers.call(int, lane=lane)
    jobs += [workers.call(int, lane=lane) for lane in (Lane.VOTES, Lane.PROPOSALS)]
    assert len(workers) == 6
    blocked.release.set()
    assert await asyncio.gather(*jobs) == [0] * 6
    assert len(workers) == 0


async def test_close_finishes_what_waits_and_takes_nothing_more():
    made = Workers("test", 2, 100)
    jobs = [made.call(lambda i=i: i) for i in range(50)]
    await asyncio.to_thread(made.close)
    assert await asyncio.gather(*jobs) == list(range(50))
    with pytest.raises(NotReady):
        made.call(int)


async def test_a_cancelled_caller_does_not_disturb_the_thread(workers):
    blocked = Blocked(workers)
    job = workers.call(int)
    job.cancel()
    blocked.release.set()
    assert await workers.call(int) == 0


def tasks(count, bad=()):
    key = KeyPair.from_seed(b"k" * 32)
    out = []
    for i in range(count):
        message = signing_bytes("extrinsic", bytes(32), b"%d" % i)
        signature = key.sign("extrinsic", bytes(32), b"%d" % (i + (i in bad)))
        out.append((key.public, message, signature))
    return out


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 100])
async def test_signatures_are_checked_in_order_whatever_the_spread(count):
    threads = Threads()
    try:
        bad = {0, count - 1, count // 2}
        expected = [i not in bad for i in range(count)]
        assert list(await threads.chain.call(threads.verify_batch, tasks(count, bad))) == expected
    finally:
        await asyncio.to_thread(threads.close)


async def test_a_failure_while_checking_signatures_is_raised_not_taken_for_a_verdict():
    threads = Threads()
    try:
        with pytest.raises(TypeError):
            await threads.chain.call(threads.verify_batch, [*tasks(29), (None, None, None)])
    finally:
        await asyncio.to_thread(threads.close)


# --- one batch on several threads --------------------------------------------------------------------------------


@pytest.fixture
def verifiers():
    made = Workers("verify", 2, 4)
    yield made
    made.close()


SIGNED = tasks(4 * TAKEN_AT_ONCE + 5)


def ignored(_result, _error):
    pass


def test_a_failure_in_any_chunk_is_raised_after_all_are_done(verifiers):
    for place in (0, TAKEN_AT_ONCE - 1, TAKEN_AT_ONCE, len(SIGNED) - 1):
        with pytest.raises(TypeError):
            verify_on(verifiers, [*SIGNED[:place], (None, None, None), *SIGNED[place + 1 :]])
    assert verify_on(verifiers, SIGNED) == [True] * len(SIGNED)


def test_busy_threads_and_a_full_queue_delay_nobody(verifiers):
    release = threading.Event()
    try:
        for _ in range(2):
            verifiers.post(release.wait, (10,), ignored, Lane.VOTES)
        while len(verifiers):
            time.sleep(0.001)
        for _ in range(4):
            verifiers.post(int, (), ignored, Lane.TRANSACTIONS)
        assert verify_on(verifiers, SIGNED) == [True] * len(SIGNED)
    finally:
        release.set()


def test_all_threads_take_part_and_the_caller_waits_for_the_last(verifiers, monkeypatch):
    together, seen = threading.Barrier(3), set()

    def slow(chunk):
        name = threading.current_thread().name
        if name not in seen:
            seen.add(name)
            together.wait(5)
            time.sleep(0.02 if name.startswith("verify") else 0)
        return verify_one_by_one(chunk)

    monkeypatch.setattr(module, "verify_one_by_one", slow)
    assert verify_on(verifiers, SIGNED) == [True] * len(SIGNED)
    assert len(seen) == 3


def test_many_callers_get_each_its_own_verdicts(verifiers):
    wrong = []

    def call(seed):
        chance = random.Random(seed)
        for _ in range(4):
            count = chance.choice((16, TAKEN_AT_ONCE, TAKEN_AT_ONCE + 1, 2 * TAKEN_AT_ONCE, len(SIGNED)))
            bad = set(chance.sample(range(count), 3))
            some = [(key, message + b"x" * (at in bad), sign) for at, (key, message, sign) in enumerate(SIGNED[:count])]
            if verify_on(verifiers, some) != [at not in bad for at in range(count)]:
                wrong.append((seed, count))

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(20)
    assert wrong == [] and not any(caller.is_alive() for caller in callers)


def test_threads_that_stop_finish_a_batch_or_refuse_it():
    made, found = Workers("verify", 2, 4), []
    caller = threading.Thread(target=lambda: found.append(verify_on(made, SIGNED)))
    caller.start()
    made.close()
    caller.join(10)
    assert not caller.is_alive() and found in ([], [[True] * len(SIGNED)])
    with pytest.raises(NotReady):
        verify_on(made, SIGNED)
    assert verify_on(made, SIGNED[:3]) == [True] * 3
