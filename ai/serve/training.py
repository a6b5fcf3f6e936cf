"""A process that trains one missing model and ends: at low priority, on one thread, telling how far it is."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Final

from .announce import Report
from .neuron import Stop

NICENESS: Final = 10
REPORT_SECONDS: Final = 0.25


def run(config: dict[str, Any], report: Report, stop: Stop) -> None:
    """Entry point: `config` has name, recipe, train_seed and cache. Ends when the model is in the cache."""
    import torch

    from ai.models.train import RECIPES, obtain

    os.nice(NICENESS)
    torch.set_num_threads(1)
    name, told = config["name"], 0.0

    def progress(share: float) -> None:
        nonlocal told
        if share >= 1.0 or time.monotonic() - told >= REPORT_SECONDS:
            told = time.monotonic()
            report({"event": "training", "model": name, "share": round(share, 3)})

    cache = Path(config["cache"]) if config["cache"] else None
    started = time.process_time()
    path = obtain(name, RECIPES[config["recipe"]], seed=config["train_seed"], cache=cache, progress=progress)
    seconds = round(time.process_time() - started, 1)
    report({"event": "trained", "model": name, "cpu_seconds": seconds, "path": str(path)})
