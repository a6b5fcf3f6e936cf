"""Children of a devnet: what is left behind when they are killed."""

import asyncio
import gc
import sys

from tools.devnet.processes import Child, Processes

# A child that has a child of its own, which inherits its pipes and outlives it by a moment.
WAITS = ["sh", "-c", "sleep 1 & echo '{\"event\": \"started\"}'; wait"]


def test_a_second_ctrl_c_ends_everything_and_leaves_no_open_pipe(tmp_path, monkeypatch):
    ignored, kept = [], []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)

    async def run():
        processes = Processes(tmp_path)
        kept.append(processes)  # beyond the end of the event loop
        started: asyncio.Queue[dict] = asyncio.Queue()
        children = [Child(name, WAITS, on_line=started.put_nowait) for name in ("ai", "node")]
        for child in children:
            await processes.start(child)
            await started.get()
        processes.kill_all()
        while any(child.process.returncode is None for child in children):  # wait() would wait for the pipes as well
            await asyncio.sleep(0.01)
        await processes.stop(["ai", "node"])
        await processes.close()
        return [child.process.returncode for child in children]

    assert asyncio.run(run()) == [-9, -9]
    kept.clear()
    gc.collect()
    assert ignored == []
