"""How a process that serves learns that it should end: a signal, or the end of what started it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable


def on_the_end(stop: Callable[[], None], *, follow_stdin: bool) -> None:
    """Call `stop` on the running loop at SIGTERM, and at SIGINT or, with `follow_stdin`, when standard input ends.

    A process that follows its standard input ignores SIGINT: a terminal's Ctrl-C reaches its supervisor, which tells it.
    """
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop)
    if follow_stdin:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        on_end_of_stdin(stop)
    else:
        loop.add_signal_handler(signal.SIGINT, stop)


def on_end_of_stdin(stop: Callable[[], None]) -> None:
    """Call `stop` on the running loop when standard input ends, be it a pipe, a terminal or a file.

    A thread waits for it: event loops take no files, and a descriptor made non-blocking is so for others too.
    """
    loop = asyncio.get_running_loop()

    def wait() -> None:
        try:
            while os.read(0, 4096):
                pass
        except OSError:
            pass  # closed: it has ended as well
        try:
            loop.call_soon_threadsafe(stop)
        except RuntimeError:
            pass  # the loop has ended already

    threading.Thread(target=wait, name="stdin", daemon=True).start()
