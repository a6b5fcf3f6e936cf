"""The bridge between asyncio and trio, with a resident that does nothing else."""

import asyncio
import threading

import pytest
import trio

from ledger.errors import Unreachable
from p2p.thread import Bridge, P2PThread, Resident


class House:
    """A thread with one resident whose bridge is open."""

    def __init__(self, *, dies_before=False):
        self.thread, self.deaths, self.dies_before = P2PThread(), [], dies_before
        self.bridge = Bridge(asyncio.get_running_loop())
        self.up, self.gone = asyncio.Event(), asyncio.Event()
        self.resident = Resident("test", self.main, self.died)

    async def main(self):
        if self.dies_before:
            raise OSError("no port")
        async with trio.open_nursery() as self.nursery:
            self.bridge.open(self.nursery)
            self.bridge.tell(self.up.set)
            try:
                await trio.sleep_forever()
            finally:
                self.bridge.close()

    def died(self, error):
        if error is not None and self.dies_before:
            self.resident.leaving = True
        self.bridge.tell(self.deaths.append, error)
        if error is None:
            self.bridge.tell(self.gone.set)

    async def __aenter__(self):
        self.thread.enter(self.resident)
        await asyncio.wait_for((self.gone if self.dies_before else self.up).wait(), 5)
        return self

    async def __aexit__(self, *_):
        self.thread.leave(self.resident)
        await asyncio.wait_for(self.gone.wait(), 5)


async def test_calls_run_in_the_other_thread_and_errors_cross():
    async with House() as house:
        async def name(extra):
            await trio.sleep(0)
            return threading.current_thread().name + extra

        assert await house.bridge.call(name, "!") == "p2p!"

        async def fail():
            raise KeyError("there")

        with pytest.raises(KeyError, match="there"):
            await house.bridge.call(fail)


async def test_cancelling_a_call_cancels_it_there():
    async with House() as house:
        ended = asyncio.Event()

        async def wait():
            try:
                await trio.sleep_forever()
            finally:
                house.bridge.tell(ended.set)

        task = asyncio.create_task(house.bridge.call(wait))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 5)


async def test_asking_runs_on_the_owners_loop_and_errors_cross_back():
    async with House() as house:
        async def answer(value):
            await asyncio.sleep(0)
            if value == 3:
                raise ValueError("three")
            return value + 1

        async def ask(value):
            return await house.bridge.ask(answer, value)

        assert await house.bridge.call(ask, 1) == 2
        with pytest.raises(ValueError, match="three"):
            await house.bridge.call(ask, 3)


async def test_giving_up_a_question_cancels_the_handler():
    async with House() as house:
        cancelled = asyncio.Event()

        async def slow():
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async def ask():
            with trio.move_on_after(0.05):
                await house.bridge.ask(slow)
            return "gave up"

        assert await house.bridge.call(ask) == "gave up"
        await asyncio.wait_for(cancelled.wait(), 5)


async def test_a_handler_that_is_cancelled_is_an_error_for_the_asker():
    async with House() as house:
        async def cancel_itself():
            raise asyncio.CancelledError

        async def ask():
            await house.bridge.ask(cancel_itself)

        with pytest.raises(Unreachable):
            await house.bridge.call(ask)


async def test_a_resident_that_dies_comes_back_and_fails_what_was_under_way():
    async with House() as house:
        waiting = asyncio.create_task(house.bridge.call(trio.sleep_forever))
        await asyncio.sleep(0.05)
        house.up.clear()

        async def crash():
            raise RuntimeError("deliberate")

        house.bridge.post(house.nursery.start_soon, crash)
        with pytest.raises(Unreachable):
            await asyncio.wait_for(waiting, 5)
        await asyncio.wait_for(house.up.wait(), 5)
        assert len(house.deaths) == 1 and house.deaths[0] is not None
        assert await house.bridge.call(trio.sleep, 0) is None


async def test_the_loop_of_all_residents_comes_back():
    async with House() as house:
        house.up.clear()

        async def crash():
            raise RuntimeError("deliberate")

        house.bridge.post(trio.lowlevel.spawn_system_task, crash)
        await asyncio.wait_for(house.up.wait(), 5)
        assert isinstance(house.deaths[0], trio.TrioInternalError)


async def test_one_that_never_comes_up_is_not_started_again():
    async with House(dies_before=True) as house:
        assert isinstance(house.deaths[0], OSError) and house.deaths[1:] == [None]


async def test_nothing_is_served_before_and_after():
    house = House()
    assert not house.bridge.post(print)
    with pytest.raises(Unreachable):
        await house.bridge.call(trio.sleep, 0)
    async with house:
        pass
    with pytest.raises(Unreachable):
        await house.bridge.call(trio.sleep, 0)


async def test_the_thread_ends_with_its_last_resident_and_begins_with_the_next():
    house = House()
    for _ in range(20):
        house.resident, house.up, house.gone = Resident("test", house.main, house.died), asyncio.Event(), asyncio.Event()
        async with house:
            pass
    async with House() as other:
        assert await other.bridge.call(trio.sleep, 0) is None


async def test_posts_and_tells_keep_their_order():
    async with House() as house:
        there, here = [], []
        for k in range(100):
            house.bridge.post(there.append, k)
        await house.bridge.call(trio.sleep, 0)

        async def back():
            for k in range(100):
                house.bridge.tell(here.append, k)

        await house.bridge.call(back)
        assert there == here == list(range(100))
