"""One Yuma epoch, at the sizes of a devnet and of large subnets, with the chain's own function and parameters.

An epoch runs inside a block, so its cost is measured against the block time of one second. Weights, stakes and bonds are
pseudo-random from a fixed seed; bonds are those of a previous epoch on the same weights, as on a running chain; rows are
packed as the state keeps them. The digest covers every value of the trace: it has to be the same with other processor
features and numbers of threads, which is tried in child processes.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

import click

from runtime.epochs import run as run_epoch
from runtime.rows import PackedRows, entry_count
from runtime.trace import EpochInputs, EpochParams, EpochTrace
from runtime.yuma import epoch as law
from tools.lab.frame import Run, benchmark, timed

SEED = 20_26
EMISSION_RAO = 15 * 10**9
BLOCK = 200
PREVIOUS_BLOCK = 100
LAW_ENTRIES = 20_000  # the law is timed on subnets with at most so many weights
SETTINGS: tuple[dict[str, str], ...] = (
    {"NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"},
    {"NPY_DISABLE_CPU_FEATURES": "AVX2 FMA3 AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL AVX512_SPR"},
    {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem", "OMP_NUM_THREADS": "1"},
    {"PYTHONHASHSEED": "7"},
)


class Size(NamedTuple):
    """Validators, uids in all, weights in each row; the most milliseconds that the epoch may take."""

    validators: int
    uids: int
    weights: int
    limit_ms: float

    def __str__(self) -> str:
        return f"{self.validators}x{self.uids}, {self.weights} weights a row"


SIZES = (
    Size(3, 8, 5, 1), Size(16, 64, 48, 2), Size(64, 256, 32, 2), Size(64, 4096, 64, 25), Size(64, 4096, 512, 25),
    Size(4096, 4096, 64, 150),
)
DENSE = Size(4096, 4096, 4096, 1500)


@benchmark("epoch", about="one Yuma epoch inside a block, from 3 x 8 to 4096 x 4096 neurons", seconds=40)
@click.option("--repeats", type=click.IntRange(1), default=5, show_default=True, help="Runs a size; the fastest counts.")
@click.option("--classic", is_flag=True, help="Classic bonds instead of Yuma 3.")
@click.option("--liquid", is_flag=True, help="With liquid alpha.")
@click.option("--dense/--no-dense", default=True, show_default=True, help="4096 x 4096 with every weight (2 GiB).")
@click.option("--max-uids", type=int, default=4096, show_default=True, help="Leave out larger subnets.")
@click.option("--settings/--no-settings", default=True, show_default=True, help="Compare digests under other settings.")
@click.option("--digests-only", is_flag=True, hidden=True)
def epoch_benchmark(
    run: Run, repeats: int, classic: bool, liquid: bool, dense: bool, max_uids: int, settings: bool, digests_only: bool
) -> None:
    """Time an epoch (CPU milliseconds) at several sizes."""
    params = EpochParams(yuma3=not classic, liquid_alpha=liquid)
    sizes = [size for size in SIZES if size.uids <= max_uids]
    if digests_only:
        run.figure("digests", [digest(run_epoch(subnet(size, params), size_params(size, params))) for size in sizes])
        return
    rows: list[dict[str, Any]] = []
    for size in run.track([*sizes, *([DENSE] if dense and DENSE.uids <= max_uids else [])], "epochs"):
        rows.append(measured(run, size, params, repeats))
    run.figure("bonds", ("classic" if classic else "Yuma 3") + (", liquid alpha" if liquid else ""))
    run.figure("epochs", rows)
    if not settings:
        return
    expected = [row["digest"] for row in rows[: len(sizes)]]
    flags = ["--max-uids", str(max_uids), *(["--classic"] if classic else []), *(["--liquid"] if liquid else [])]
    found = [child_digests(setting, flags) for setting in run.track(SETTINGS, "other processor features")]
    run.at_most("settings with other digests", sum(digests != expected for digests in found), 0, "of " + str(len(SETTINGS)))


def measured(run: Run, size: Size, params: EpochParams, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    inputs, chosen = subnet(size, params), size_params(size, params)
    trace = run_epoch(inputs, chosen)
    entries = entry_count(inputs.weights)
    milliseconds = 1000 * timed(lambda: run_epoch(inputs, chosen), repeats if entries < 1_000_000 else 1)
    run.at_most(f"epoch {size}", milliseconds, size.limit_ms, "ms")
    row = {
        "size": str(size), "ms": round(milliseconds, 3), "ns_per_weight": round(1e6 * milliseconds / max(1, entries), 1),
        "record_bytes": len(trace.to_bytes()), "digest": digest(trace),
        "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10,  # of the process so far: sizes ascend
    }
    if entries <= LAW_ENTRIES:
        row["law_ms"] = round(1000 * timed(lambda: law(inputs, chosen), 1), 1)
    return row


def size_params(size: Size, params: EpochParams) -> EpochParams:
    return replace(params, max_validators=size.validators)


def digest(trace: EpochTrace) -> str:
    """Of every value, the matrices included."""
    state = blake2b(json.dumps(trace.to_record(rows=False), default=bytes.hex).encode(), digest_size=6)
    for rows in (trace.raw_weights, trace.bonds_before, trace.bonds_after, trace.bonds_u16):
        parts = (rows.lengths, rows.uids, rows.values) if isinstance(rows, PackedRows) else (repr(rows).encode(),)
        for part in parts:
            state.update(part)
    return state.hexdigest()


def child_digests(setting: dict[str, str], flags: list[str]) -> list[str]:
    """The digests that another process finds under other settings of numpy and Python."""
    command = [sys.executable, "-m", "tools.cli.main", "bench", "epoch", "--json", "--digests-only", *flags]
    done = subprocess.run(command, env={**os.environ, **setting}, capture_output=True, text=True, check=True)
    found: list[str] = json.loads(done.stdout)["figures"]["digests"]
    return found


def subnet(size: Size, params: EpochParams) -> EpochInputs:
    """The inputs of a subnet's second epoch: permits and bonds come from a first one."""
    chance = random.Random(SEED)
    n, validators = size.uids, size.validators
    servers = range(validators, n) if validators < n else range(n)
    weights = PackedRows.from_pairs(
        _row(chance, servers, min(size.weights, len(servers))) if uid < validators else b"" for uid in range(n)
    )
    stake = [chance.randint(10**9, 10**12) for _ in range(validators)] + [0] * (n - validators)
    first = EpochInputs(
        block=PREVIOUS_BLOCK, bonds_from=1, emission_rao=EMISSION_RAO, stake=stake,
        permit=[uid < validators for uid in range(n)], registered_at=[0] * n, active_at=[1] * n, weights_at=[1] * n,
        weights=weights, bonds=PackedRows.from_pairs([b""] * n),
    )
    trace = run_epoch(first, size_params(size, params))
    return replace(first, block=BLOCK, bonds_from=PREVIOUS_BLOCK + 1, permit=trace.permit, bonds=trace.bonds_u16)


def _row(chance: random.Random, servers: range, count: int) -> bytes:
    """A validator's row as the state stores it: u16 pairs (uid, weight), the weights at random."""
    values = chance.randbytes(2 * count)
    chosen = sorted(chance.sample(servers, count)) if count < len(servers) else servers
    return b"".join(
        uid.to_bytes(2, "little") + (values[2 * i : 2 * i + 2] if any(values[2 * i : 2 * i + 2]) else b"\1\0")
        for i, uid in enumerate(chosen)
    )
