"""A process that serves ends at a signal, or with what started it."""

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, sys
from ledger.client.ending import on_the_end

async def main():
    stop = asyncio.Event()
    on_the_end(stop.set, follow_stdin=sys.argv[1] == "follow")
    print("ready", flush=True)
    await asyncio.wait_for(stop.wait(), 10)

asyncio.run(main())
"""


def start(mode, stdin=subprocess.PIPE):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, mode], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"
    return process


@pytest.mark.parametrize("mode", ["follow", "alone"])
def test_a_signal_ends_it(mode):
    process = start(mode)
    if mode == "follow":
        process.send_signal(signal.SIGINT)  # of a terminal: the supervisor decides
    process.send_signal(signal.SIGTERM if mode == "follow" else signal.SIGINT)
    assert process.wait(10) == 0
    process.communicate()


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_the_end_of_standard_input_ends_it(kind, tmp_path):
    (tmp_path / "input").write_bytes(b"x" * 10_000)
    with open(tmp_path / "input", "rb") as file:
        process = start("follow", subprocess.PIPE if kind == "pipe" else file)
        if kind == "pipe":
            process.stdin.write(b"anything")
        process.communicate(timeout=10)
        assert process.returncode == 0
