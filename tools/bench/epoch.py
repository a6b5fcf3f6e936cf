"""One Yuma epoch, at the sizes of a devnet and of large subnets, with the chain's own function and parameters.

An epoch runs inside a block, so its cost is measured against the block time of one second: the usual size (256 uids, 64
validators) may take a tenth of it. Weights, stakes and bonds are pseudo-random from a fixed seed; bonds are those of a
previous epoch on the same weights, as on a running chain.
"""

from __future__ import annotations

import random
import tracemalloc
from dataclasses import replace
from hashlib import blake2b
from typing import Any, NamedTuple

import click

from runtime.trace import EpochInputs, EpochParams, EpochTrace, Row
from runtime.yuma import epoch
from tools.lab.frame import Run, benchmark, timed

SEED = 20_26
EMISSION_RAO = 15 * 10**9
BLOCK = 200
PREVIOUS_BLOCK = 100


class Size(NamedTuple):
    """Validators, uids in all, weights in each row; the most milliseconds that the epoch may take (0: only stated)."""

    validators: int
    uids: int
    weights: int
    limit_ms: int

    def __str__(self) -> str:
        return f"{self.validators} x {self.uids}, {self.weights} a row"


SIZES = (
    Size(3, 8, 5, 2), Size(16, 64, 48, 25), Size(64, 256, 32, 100), Size(64, 256, 192, 200), Size(64, 1024, 64, 250),
    Size(64, 4096, 64, 500),
)
LARGE = (Size(512, 4096, 64, 0), Size(256, 4096, 3840, 0))


@benchmark("epoch", about="one Yuma epoch inside a block, from 3 x 8 to 64 x 4096 neurons", seconds=10)
@click.option("--repeats", type=click.IntRange(1), default=3, show_default=True, help="Runs a size; the fastest counts.")
@click.option("--classic", is_flag=True, help="Classic bonds instead of Yuma 3.")
@click.option("--large", is_flag=True, help="Also 512 x 4096 and a dense 256 x 4096 (no target, about a minute).")
@click.option("--max-uids", type=int, default=4096, show_default=True, help="Leave out larger subnets.")
def epoch_benchmark(run: Run, repeats: int, classic: bool, large: bool, max_uids: int) -> None:
    """Time an epoch (CPU milliseconds) at several sizes."""
    params = EpochParams(yuma3=not classic)
    rows: list[dict[str, Any]] = []
    sizes = [size for size in (SIZES + LARGE if large else SIZES) if size.uids <= max_uids]
    for size in run.track(sizes, "epochs"):
        inputs = subnet(size, params)
        trace = epoch(inputs, params)
        milliseconds = 1000 * timed(lambda inputs=inputs: epoch(inputs, params), repeats)  # type: ignore[misc]
        if size.limit_ms:
            run.at_most(f"epoch {size}", milliseconds, size.limit_ms, "ms")
        rows.append({
            "size": str(size), "ms": round(milliseconds, 3), "us_per_weight": _per_weight(milliseconds, trace),
            "record_bytes": len(trace.to_bytes()), "peak_kib": _peak_kib(inputs, params),
            "digest": blake2b(trace.to_bytes(), digest_size=6).hexdigest(),
        })
    run.figure("bonds", "classic" if classic else "Yuma 3")
    run.figure("engine", "whole numbers in Python")
    run.figure("epochs", rows)


def subnet(size: Size, params: EpochParams) -> EpochInputs:
    """The inputs of a subnet's second epoch: permits and bonds come from a first one."""
    chance = random.Random(SEED)
    n, validators = size.uids, size.validators
    servers = range(validators, n)
    weights: list[Row] = [
        [(j, chance.randint(1, 65535)) for j in sorted(chance.sample(servers, min(size.weights, len(servers))))]
        for _ in range(validators)
    ]
    stake = [chance.randint(10**9, 10**14) for _ in range(validators)] + [0] * (n - validators)
    first = EpochInputs(
        block=PREVIOUS_BLOCK, bonds_from=1, emission_rao=EMISSION_RAO, stake=stake,
        permit=[uid < validators for uid in range(n)], registered_at=[0] * n, active_at=[1] * n, weights_at=[1] * n,
        weights=weights + [[]] * (n - validators), bonds=[[]] * n,
    )
    trace = epoch(first, replace(params, max_validators=validators))
    return replace(first, block=BLOCK, bonds_from=PREVIOUS_BLOCK + 1, permit=trace.permit, bonds=trace.bonds_u16)


def _per_weight(milliseconds: float, trace: EpochTrace) -> float:
    return round(1000 * milliseconds / max(1, sum(len(row) for row in trace.raw_weights)), 3)


def _peak_kib(inputs: EpochInputs, params: EpochParams) -> int:
    """Memory that one epoch takes at its highest, beyond its inputs."""
    tracemalloc.start()
    epoch(inputs, params)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak // 1024
