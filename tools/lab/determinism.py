"""`quorix lab determinism`: the same blocks make the same state, whatever Python's hash seed.

A busy chain (`tools/lab/busy.py`) is made and written to a file in a process with hash seed 0, and again with seed 1 and with
random ones: the files must be the same, byte for byte, so that building blocks depends on nothing but its inputs. Then the
file is replayed from genesis in a process for each seed. The state root at every height, and every row of the database at
the end, indexes and the runtime's history among them, must be the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ledger.errors import Error
from tools.lab.frame import Run, experiment

PATIENCE_S = 600.0
SEEDS = ("0", "1", "random")


@experiment("determinism", about="a busy chain, built and replayed under several hash seeds: same rows", seconds=60)
@click.option("--blocks", default=120, show_default=True, help="Length of the chain.")
@click.option("--seed", default=0, show_default=True, help="Another chain.")
@click.option("--hash-seed", "hash_seeds", multiple=True, default=SEEDS, show_default=True, help="PYTHONHASHSEED; repeatable.")
def determinism(run: Run, blocks: int, seed: int, hash_seeds: Sequence[str]) -> None:
    """Every process gets a hash seed of its own."""
    from tools.lab.busy import WANTED

    with tempfile.TemporaryDirectory(prefix="quorix-determinism-") as folder:
        place = Path(folder)
        made = [
            child("record_to", hash_seed, place / f"{number}.blocks", place / "out", blocks, seed)
            for number, hash_seed in enumerate(run.track(hash_seeds, "recordings"))
        ]
        recordings = [(place / f"{number}.blocks").read_bytes() for number in range(len(made))]
        replays = [
            child("replay_to", hash_seed, place / "0.blocks", place / "out") for hash_seed in run.track(hash_seeds, "replays")
        ]
    happened = made[0]
    missing = [name for name in WANTED if not happened.get(name)]
    run.equals("kinds of events that are missing", len(missing), 0, "kinds")
    run.equals("recordings that differ", len(set(recordings)) - 1, 0, "files")
    run.equals("heights with different roots", differing([each["roots"] for each in replays]), 0, "heights")
    run.equals("replays with different rows", len({each["rows"] for each in replays}) - 1, 0, "replays")
    run.equals("blocks replayed", len(replays[0]["roots"]) - 1, blocks, "blocks")
    run.figure("missing", missing)
    run.figure("events", dict(sorted(happened.items())))
    run.figure("file_bytes", len(recordings[0]))
    run.figure("file_sha256", hashlib.sha256(recordings[0]).hexdigest())
    run.figure("head", replays[0]["head"])


def differing(roots: Sequence[Sequence[str]]) -> int:
    """Heights at which not all agree, those included that not all have."""
    longest = max(map(len, roots))
    return sum(len({each[height] if height < len(each) else "" for each in roots}) > 1 for height in range(longest))


def child(function: str, hash_seed: str, *args: Any) -> Any:
    """Run a function of `tools.lab.busy` in a process with this hash seed; the result is what it wrote to `out`."""
    code = (
        "import sys, json; from pathlib import Path; from tools.lab import busy\n"
        "name, *given = json.loads(sys.argv[1]); "
        "getattr(busy, name)(*(Path(each) if isinstance(each, str) else each for each in given))"
    )
    words = json.dumps([function, *(str(each) if isinstance(each, Path) else each for each in args)])
    done = subprocess.run(
        [sys.executable, "-c", code, words], env={**os.environ, "PYTHONHASHSEED": hash_seed}, cwd=Path(__file__).parents[2],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S,
    )
    if done.returncode:
        raise Error(f"the process with hash seed {hash_seed} failed: {done.stdout.decode(errors='replace')[-1500:]}")
    return json.loads(Path(args[1]).read_text())
