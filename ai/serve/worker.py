"""A child of the AI host: runs one entry point, reports in JSON lines, ends when told to or when the host is gone.

An entry point is `module:function`, called as `function(config, report, stop)`:

    config   plain JSON
    report   takes a dict and writes it to the host's stdout as one line
    stop     `await stop()` returns when the process shall end; the function then cleans up and returns
"""

from __future__ import annotations

import asyncio
import importlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
from typing import Any, Final

LINE_MAX_BYTES: Final = 4096  # a write of at most this many bytes to a pipe is never torn
ORPHAN_GRACE_SECONDS: Final = 10.0


def main(name: str, entry: str, config: dict[str, Any]) -> None:
    """First function of the child process."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the supervisor's; it closes the life line
    threading.Thread(target=_end_with_host, name="life line", daemon=True).start()
    module, _, function = entry.partition(":")
    try:
        getattr(importlib.import_module(module), function)(config, lambda line: report({"name": name, **line}), stop)
    except Exception as error:
        cause = "".join(traceback.format_exception_only(error)).strip()
        report({"event": "crashed", "name": name, "cause": cause[:500]})
        raise


def report(line: dict[str, Any]) -> None:
    """Write one JSON line to stdout, whole or not at all. A host that is gone hears nothing."""
    data = json.dumps(line, separators=(",", ":"), default=str).encode() + b"\n"
    if len(data) > LINE_MAX_BYTES:
        kept = {key: line[key] for key in ("event", "name") if key in line}
        data = json.dumps({**kept, "cut": True}, separators=(",", ":")).encode() + b"\n"
    try:
        os.write(1, data)
    except OSError:
        pass


async def stop() -> None:
    """Returns on SIGTERM, or when the host has died."""
    loop, event = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, event.set)
    host = multiprocessing.parent_process()
    if host is not None:
        loop.add_reader(host.sentinel, event.set)
    try:
        await event.wait()
    finally:
        if host is not None:
            loop.remove_reader(host.sentinel)


def _end_with_host() -> None:
    """The host's death ends this process even where it computes and awaits nothing."""
    host = multiprocessing.parent_process()
    if host is not None:
        host.join()
        time.sleep(ORPHAN_GRACE_SECONDS)
        os._exit(1)
