"""Eight experts against a generalist of the same size and the same budget: does it pay to specialise?

Each expert trains on one domain, the generalist on all eight, with the recipe of the devnet and the same number of
steps. All are asked about text that nobody trained on. On its own domain every expert must lose fewer bits per byte
than the generalist; on the others it is far worse, which is why a market needs a gate and scores what a model adds.

Models come from the cache that devnets use, and are trained into it where they are missing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import click

from tools.lab.frame import Run, experiment

WINDOWS = 64  # of 128 bytes, from the held-out tenth of each domain
THREADS = 1


@experiment("experts", about="experts against a generalist of the same budget, on text nobody trained on", seconds=200)
@click.option("--recipe", type=click.Choice(["tiny", "full"]), default="full", show_default=True, help="Training budget.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the training.")
def experts(run: Run, recipe: str, seed: int) -> None:
    """Bits per byte of every model on every domain."""
    from ai.models.corpus import DOMAINS
    from ai.models.train import GENERALIST, MODEL_NAMES

    networks, seconds = trained(run, MODEL_NAMES, recipe, seed)
    table = bits_per_byte_table(networks, DOMAINS)
    for domain in DOMAINS:
        ours, theirs = table[domain][domain], table[GENERALIST][domain]
        run.at_least(f"{domain}: bits saved against the generalist", round(theirs - ours, 4), 0.0001, "bit/byte")
    run.figure("recipe", recipe)
    run.figure("bits_per_byte", [{"model": name, **row} for name, row in table.items()])
    run.figure("training_cpu_s", seconds)
    run.figure("gain_percent", {d: round(100 * (1 - table[d][d] / table[GENERALIST][d]), 1) for d in DOMAINS})


def trained(run: Run, names: Sequence[str], recipe: str, seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """(networks by name, CPU-seconds of those that had to be trained now)."""
    import torch

    from ai.models.expert import decode_weights
    from ai.models.train import RECIPES, obtain, weights_path

    torch.set_num_threads(THREADS)
    networks, seconds = {}, {}
    for name in run.track(names, "models"):
        missing, began = not weights_path(name, RECIPES[recipe], seed=seed).exists(), time.process_time()
        networks[name] = decode_weights(obtain(name, RECIPES[recipe], seed=seed).read_bytes())
        if missing:
            seconds[name] = round(time.process_time() - began, 1)
    return networks, seconds


def bits_per_byte_table(networks: Mapping[str, Any], domains: Sequence[str]) -> dict[str, dict[str, float]]:
    """Mean loss in bits per byte by model and domain, on held-out windows."""
    from ai.files import cache_dir
    from ai.models.train import bits_per_byte, held_out_windows

    windows = {domain: held_out_windows(domain, WINDOWS, cache=cache_dir()) for domain in domains}
    return {
        name: {domain: round(bits_per_byte(network, windows[domain]), 4) for domain in domains}
        for name, network in networks.items()
    }
