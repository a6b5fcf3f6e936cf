"""Training the experts, and the cache of trained ones.

A recipe says how large, how long and how fast; with the corpus's identity and the seed it names a directory, so a model
is trained once on a machine and found again by every home:

    CACHE/models/<hash of recipe, seed and corpus>/NAME.safetensors

Recipes count steps, not seconds, so the same machine gives the same weights however busy it is: `tiny` takes about 1.5
CPU-seconds an expert, `full` about 15. A budget of CPU-seconds is there for experiments. An expert is named after its
domain; the generalist has the same shape and the same budget and trains on all eight.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from ai.files import cache_dir, write_atomic
from ledger.errors import UsageError

from . import corpus

GENERALIST: Final = "generalist"
MODEL_NAMES: Final = (*corpus.DOMAINS, GENERALIST)
TRAINING_VERSION: Final = 1

Progress = Callable[[float], None]  # called with the share done, 0..1


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an expert is made. Exactly one of `steps` and `cpu_seconds` is positive."""

    name: str
    steps: int = 0
    cpu_seconds: float = 0.0
    batch: int = 8
    window: int = 128
    learning_rate: float = 5e-3
    warmup_steps: int = 30
    weight_decay: float = 0.01
    width: int = 64
    tables: tuple[int, ...] = (4096, 8192, 8192, 8192)


RECIPES: Final = {
    "tiny": Recipe("tiny", steps=60, warmup_steps=10),
    "full": Recipe("full", steps=600),
}


def domains_of(name: str) -> tuple[str, ...]:
    """What a model of this name is trained on. Raises UsageError for an unknown name."""
    if name == GENERALIST:
        return corpus.DOMAINS
    if name in corpus.DOMAINS:
        return (name,)
    raise UsageError(f"no model {name!r}", hint=f"one of {', '.join(MODEL_NAMES)}")


def weights_path(name: str, recipe: Recipe, *, seed: int = 0, cache: Path | None = None) -> Path:
    """Where the trained model of that name lives, whether or not it is there yet."""
    domains_of(name)
    facts = repr((TRAINING_VERSION, sorted(asdict(recipe).items()), seed, corpus.identity()))
    key = blake2b(facts.encode(), digest_size=8).hexdigest()
    return (cache or cache_dir()) / "models" / key / f"{name}.safetensors"


def obtain(
    name: str, recipe: Recipe, *, seed: int = 0, cache: Path | None = None, progress: Progress | None = None
) -> Path:
    """The path of a trained model, training it first where it is absent."""
    from .expert import encode_weights

    path = weights_path(name, recipe, seed=seed, cache=cache)
    if not path.exists():
        texts = [corpus.load(domain, cache or cache_dir()).train for domain in domains_of(name)]
        write_atomic(path, encode_weights(train(texts, recipe, seed=_seed(name, seed), progress=progress)))
    return path


def _seed(name: str, seed: int) -> int:
    return int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=6).digest(), "big")


def train(texts: Sequence[bytes], recipe: Recipe, *, seed: int = 0, progress: Progress | None = None) -> Any:
    """An `ExpertNetwork` trained on windows drawn evenly from the texts, by AdamW with warm-up and cosine decay.

    Uses the threads torch is set to; leaves torch's global generator where it was.
    """
    import torch
    import torch.nn.functional as F

    from .expert import ExpertNetwork, Shape

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ExpertNetwork(Shape(width=recipe.width, context=recipe.window, tables=recipe.tables)).train()
    draws = batches(texts, recipe, seed)
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.98), weight_decay=recipe.weight_decay, fused=True
    )
    for step, share in enumerate(_schedule(recipe)):
        rate = recipe.learning_rate * min(1.0, (step + 1) / recipe.warmup_steps) * _cosine(share)
        for group in optimiser.param_groups:
            group["lr"] = rate
        before, after = next(draws)
        loss = F.cross_entropy(network(before).flatten(0, 1), after.flatten())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        if progress is not None:
            progress(share)
    if progress is not None:
        progress(1.0)
    return network.eval()


def _schedule(recipe: Recipe) -> Iterator[float]:
    """The share of the budget used before each step."""
    if (recipe.steps > 0) == (recipe.cpu_seconds > 0):
        raise UsageError("a recipe has either steps or cpu_seconds")
    if recipe.steps:
        yield from (step / recipe.steps for step in range(recipe.steps))
        return
    started = time.process_time()
    while (share := (time.process_time() - started) / recipe.cpu_seconds) < 1:
        yield share


_FINAL_RATE: Final = 0.05  # of the peak


def _cosine(share: float) -> float:
    return (1 - _FINAL_RATE) * (1 + math.cos(math.pi * share)) / 2 + _FINAL_RATE


def batches(texts: Sequence[bytes], recipe: Recipe, seed: int) -> Iterator[tuple[Any, Any]]:
    """Endless pairs of int64 tensors (batch, window): bytes, and the bytes one place later."""
    import torch

    sources = [torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in texts]
    span = recipe.window + 1
    if any(len(source) < span for source in sources):
        raise UsageError(f"a training text is shorter than {span} bytes")
    generator = torch.Generator().manual_seed(seed)
    offsets = torch.arange(span)
    while True:
        chosen = torch.randint(len(sources), (recipe.batch,), generator=generator).tolist()
        rows = []
        for index in chosen:
            start = int(torch.randint(len(sources[index]) - span + 1, (1,), generator=generator))
            rows.append(sources[index][start + offsets])
        windows = torch.stack(rows).long()
        yield windows[:, :-1], windows[:, 1:]


def held_out_windows(domain: str, count: int, *, window: int = 128, cache: Path | None = None) -> list[bytes]:
    """`count` windows of `window` + 1 bytes, spread evenly over the domain's held-out tenth."""
    text = corpus.load(domain, cache).held_out
    last = len(text) - window - 1
    return [text[at : at + window + 1] for at in (last * index // max(1, count - 1) for index in range(count))]


def bits_per_byte(network: Any, windows: Sequence[bytes], *, batch: int = 16) -> float:
    """Mean loss in bits of each byte after the first, given those before it, over windows of equal length."""
    import torch
    import torch.nn.functional as F

    total, count = 0.0, 0
    with torch.inference_mode():
        for at in range(0, len(windows), batch):
            rows = [torch.frombuffer(bytearray(window), dtype=torch.uint8) for window in windows[at : at + batch]]
            text = torch.stack(rows).long()
            logits = network(text[:, :-1])
            total += float(F.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten(), reduction="sum"))
            count += text[:, 1:].numel()
    return total / count / math.log(2)


def with_budget(recipe: Recipe, *, steps: int = 0, cpu_seconds: float = 0.0) -> Recipe:
    """The same recipe with another budget."""
    return replace(recipe, steps=steps, cpu_seconds=cpu_seconds)
