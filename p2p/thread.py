"""The p2p thread: one trio loop a process, home of every libp2p host of that process, and the bridge to asyncio.

libp2p runs on trio only; uvloop owns the main thread. Bytes and values cross between the two, state does not. Each host
is a *resident*: a task of its own that is started again, with a growing wait, when it dies, whatever killed it; if
something ends the whole trio loop, the loop is started again with all residents. This is the only module of the package
that reads a clock.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import outcome
import trio

from ledger.errors import Unreachable

FIRST_WAIT_S: Final = 0.2
LONGEST_WAIT_S: Final = 10.0
STEADY_S: Final = 60.0  # who ran that long starts again without a long wait

log = logging.getLogger("quorix.p2p")


def monotonic_ms() -> int:
    """Milliseconds of a clock that never goes back."""
    return time.monotonic_ns() // 1_000_000


def wall_ms() -> int:
    """Milliseconds since the epoch of Unix."""
    return time.time_ns() // 1_000_000


class Resident:
    """One supervised host. `main` runs in trio and returns only by an exception or cancellation.

    `died` is called in the p2p thread after each death with the error, or None when the resident has left for good.
    """

    def __init__(self, name: str, main: Callable[[], Awaitable[None]], died: Callable[[BaseException | None], None]) -> None:
        self.name, self.main, self.died = name, main, died
        self.leaving = False
        self.scope: trio.CancelScope | None = None


class P2PThread:
    """The process's one p2p thread. It exists while it has residents."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._residents: dict[Resident, bool] = {}  # resident -> its task exists in the present trio loop
        self._running = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None

    # --- any thread

    def enter(self, resident: Resident) -> None:
        """Take in a resident and start it."""
        with self._lock:
            self._residents[resident] = False
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="p2p", daemon=True).start()
            elif self._token is not None:
                self._from_outside(self._admit)

    def leave(self, resident: Resident) -> None:
        """Cancel a resident; `died(None)` follows when it is gone."""
        resident.leaving = True
        with self._lock:
            if self._token is not None:
                self._from_outside(lambda: resident.scope.cancel() if resident.scope else None)

    def _from_outside(self, function: Callable[[], Any]) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            pass  # the loop is being started again and will look at all residents

    # --- p2p thread

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            began = time.monotonic()
            cause: BaseException | None = None
            try:
                trio.run(self._main)
            except BaseException as error:  # a host's system task may end the loop of all hosts
                log.error("p2p loop ended and is started again: %r", error)
                cause = error
            if not self._survivors(cause or Unreachable("p2p loop ended")):
                return
            if cause is None:
                continue
            if time.monotonic() - began > STEADY_S:
                wait_s = FIRST_WAIT_S
            time.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)

    def _survivors(self, cause: BaseException) -> bool:
        """After the loop has ended: tell its residents. True if some want to be started again."""
        with self._lock:
            self._token = self._nursery = None
            lost = [resident for resident, started in self._residents.items() if started]
        for resident in lost:
            resident.scope = None
            resident.died(cause)
        with self._lock:
            gone = [resident for resident in self._residents if resident.leaving]
            self._residents = {resident: False for resident in self._residents if not resident.leaving}
            self._running = bool(self._residents)
        for resident in gone:
            resident.died(None)
        return self._running

    async def _main(self) -> None:
        async with trio.open_nursery() as nursery:
            with self._lock:
                self._token, self._nursery = trio.lowlevel.current_trio_token(), nursery
            self._admit()
            await trio.sleep_forever()

    def _admit(self) -> None:
        with self._lock:
            for resident, started in self._residents.items():
                if not started and self._nursery is not None:
                    self._residents[resident] = True
                    self._nursery.start_soon(self._supervise, resident, name=resident.name)

    async def _supervise(self, resident: Resident) -> None:
        wait_s = FIRST_WAIT_S
        while not resident.leaving:
            began = time.monotonic()
            error: BaseException | None = None
            with trio.CancelScope() as resident.scope:
                try:
                    await resident.main()
                except Exception as caught:  # includes groups of them
                    error = caught
            if resident.leaving:
                break
            resident.died(error or Unreachable("p2p host ended"))
            if resident.leaving:  # it never came up: there is nothing to start again
                break
            if time.monotonic() - began > STEADY_S:
                wait_s = FIRST_WAIT_S
            with trio.CancelScope() as resident.scope:
                await trio.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 2)
        resident.scope = None
        with self._lock:
            del self._residents[resident]
            if not self._residents and self._nursery is not None:
                self._nursery.cancel_scope.cancel()
                self._token = self._nursery = None  # who enters now waits for the next loop
        resident.died(None)


THREAD: Final = P2PThread()


class Bridge:
    """Between one owner's asyncio loop and the p2p thread.

    asyncio -> trio: `call` (awaits the result) and `post`. trio -> asyncio: `ask` (awaits the result) and `tell`.
    `open` and `close` mark, in trio, the time in which calls are served.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._token: trio.lowlevel.TrioToken | None = None
        self._nursery: trio.Nursery | None = None
        self._pending: set[asyncio.Future[Any]] = set()  # asyncio side

    # --- trio side

    def open(self, nursery: trio.Nursery) -> None:
        """From now on calls run as tasks of `nursery`."""
        self._nursery, self._token = nursery, trio.lowlevel.current_trio_token()

    def close(self) -> None:
        """Calls fail from now on, also those under way. Any thread."""
        self._nursery = self._token = None
        self.tell(self._fail_pending)

    def tell(self, function: Callable[..., Any], *args: Any) -> None:
        """Run a plain function on the owner's loop, in order; forgotten if that loop is closed."""
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:
            pass

    async def ask(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Await a coroutine function on the owner's loop; its errors are raised here, cancelling here cancels it."""
        asker, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        task: asyncio.Task[Any] | None = None
        over = False

        def wake(result: outcome.Outcome[Any]) -> None:
            nonlocal over
            if not over:
                over = True
                trio.lowlevel.reschedule(asker, result)

        def finish(done: asyncio.Task[Any]) -> None:
            result: outcome.Outcome[Any]
            if done.cancelled():
                result = outcome.Error(Unreachable("the owner cancelled the handler"))
            else:
                result = outcome.capture(done.result)
            try:
                token.run_sync_soon(wake, result)
            except trio.RunFinishedError:
                pass

        def begin() -> None:
            nonlocal task
            if not over:
                task = self._loop.create_task(_coroutine(function, args))
                task.add_done_callback(finish)

        def abort(_: Any) -> trio.lowlevel.Abort:
            nonlocal over
            over = True
            self.tell(lambda: task.cancel() if task else None)
            return trio.lowlevel.Abort.SUCCEEDED

        try:
            self._loop.call_soon_threadsafe(begin)
        except RuntimeError:
            raise Unreachable("the owner's loop is closed") from None
        return await trio.lowlevel.wait_task_rescheduled(abort)

    # --- asyncio side

    def post(self, function: Callable[..., Any], *args: Any) -> bool:
        """Run a plain function in trio, in order. False if the host is not up."""
        token = self._token
        if token is None:
            return False
        try:
            token.run_sync_soon(function, *args)
        except trio.RunFinishedError:
            return False
        return True

    async def call(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
        """Await an async function in trio; its errors are raised here, cancelling here cancels it there.

        Raises Unreachable if the host is not up or dies meanwhile.
        """
        done: asyncio.Future[Any] = self._loop.create_future()
        scope = trio.CancelScope()

        def settle(result: outcome.Outcome[Any]) -> None:
            if not done.done():
                done.set_result(result)

        async def run() -> None:
            result: outcome.Outcome[Any] = outcome.Error(Unreachable("p2p host went down"))
            try:
                with scope:
                    try:
                        result = outcome.Value(await function(*args))
                    except Exception as error:  # Cancelled is none and goes on
                        result = outcome.Error(error)
            finally:
                self.tell(settle, result)

        def begin() -> None:
            try:
                if self._nursery is None:
                    raise RuntimeError
                self._nursery.start_soon(run)
            except RuntimeError:  # not open, or closing
                self.tell(settle, outcome.Error(Unreachable("p2p host is down")))

        if not self.post(begin):
            raise Unreachable("p2p host is down", hint="it is being started again")
        self._pending.add(done)
        try:
            result: outcome.Outcome[Any] = await done
        except asyncio.CancelledError:
            self.post(scope.cancel)
            raise
        finally:
            self._pending.discard(done)
        return result.unwrap()

    def _fail_pending(self) -> None:
        for done in self._pending:
            if not done.done():
                done.set_result(outcome.Error(Unreachable("p2p host went down")))


async def _coroutine(function: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> Any:
    return await function(*args)
