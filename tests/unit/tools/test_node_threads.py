"""The threads of a node: order of lanes, bounds, errors, shutdown."""

import asyncio
import threading

import pytest

from ledger.crypto import KeyPair, signing_bytes
from ledger.errors import NotReady
from tools.node.threads import Lane, Threads, Workers


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
