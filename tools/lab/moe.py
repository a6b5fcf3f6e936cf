"""A mixture of experts against one model: is the market's answer better than what one model of eight times the budget says?

Eight experts, the generalist, and a generalist trained eight times as long answer text that nobody trained on. The
market's answer is made as the gateway makes it: the gate learns from as many measurements as a gateway takes in its
first minutes, the router picks the generalist and the two best beside it, again every 16 bytes, and the fixed-share
Bayes mixture weighs them. `pure` text is of one domain; `switch` text changes its domain half-way.

The targets in bits, and those against the longer-trained generalist, belong to the recipe of the devnet (`--recipe
full`); experts that trained a quarter of that are only held against their own average.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import click

from tools.lab.frame import Run, experiment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ai.gateway.gate import Gate
    from ai.models.train import Recipe

    Rows = NDArray[np.float64]

QUICK_STEPS = 150  # a quarter of the devnet's budget
LONGER = 8
WINDOW = 128
PROMPT_BYTES = 32
SWITCH_AT = 64
MEASUREMENTS = 1024  # contexts the gate learns from: as many as a gateway keeps, taken in about three minutes
WORKERS = 2
WINDOWS_AT_ONCE = 16
TRUST = 1.0  # even: what the market thinks of an expert is another experiment's matter
PURE_BITS, SWITCH_BITS = 1.95, 2.05
LEAST_GAIN = 0.4  # under the uniform average


@experiment("moe", about="the market's mixture of experts against one model of eight times the budget", seconds=180)
@click.option("--recipe", type=click.Choice(["quick", "full"]), default="quick", show_default=True,
              help="Training budget; full is the devnet's and takes about 220 CPU-seconds the first time.")
@click.option("--windows", type=click.IntRange(8, 1024), default=96, show_default=True, help="Windows of each kind.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of training, windows and measurements.")
def moe(run: Run, recipe: str, windows: int, seed: int) -> None:
    """Bits per byte of the mixture, of its parts, and of the longer-trained generalist."""
    from ai.models.train import RECIPES, with_budget

    budget = RECIPES["full"] if recipe == "full" else with_budget(RECIPES["full"], steps=QUICK_STEPS)
    pool = obtain_pool(run, budget, seed)
    gate = pool.taught_gate(run, Random(seed))
    rows = []
    for kind in ("pure", "switch"):
        texts = draw_windows(kind, windows, Random(f"{kind} {seed}"))
        bits = pool.losses(run, texts, gate, kind)
        rows.append({"text": kind, **{name: round(value, 3) for name, value in bits.items()}})
        gain = 1 - bits["mixture"] / bits["uniform average"]
        run.at_least(f"{kind}: gain over the uniform average", round(gain, 4), LEAST_GAIN, "of its bits")
        if recipe == "full":
            saved = bits[f"generalist {LONGER}x"] - bits["mixture"]
            run.at_least(f"{kind}: bits saved against {LONGER}x the budget", round(saved, 4), 0.0001, "bit/byte")
            limit = PURE_BITS if kind == "pure" else SWITCH_BITS
            run.at_most(f"{kind}: the mixture", round(bits["mixture"], 4), limit, "bit/byte")
    run.figure("bits_per_byte", rows)
    run.figure("recipe", f"{recipe}, {budget.steps} steps")
    run.figure("gate_measurements", MEASUREMENTS)


# --- texts -------------------------------------------------------------------------------------------------------


def draw_windows(kind: str, count: int, random: Random) -> list[bytes]:
    """Windows of held-out text: of one domain each, or with another domain from byte 64 on."""
    from ai.files import cache_dir
    from ai.models.corpus import DOMAINS, load

    texts = {domain: load(domain, cache_dir()).held_out for domain in DOMAINS}

    def piece(domain: str, length: int) -> bytes:
        start = random.randrange(len(texts[domain]) - length)
        return texts[domain][start : start + length]

    out = []
    for index in range(count):
        domain = DOMAINS[index % len(DOMAINS)]
        if kind == "pure":
            out.append(piece(domain, WINDOW))
        else:
            other = random.choice([name for name in DOMAINS if name != domain])
            out.append(piece(domain, SWITCH_AT) + piece(other, WINDOW - SWITCH_AT))
    return out


# --- models ------------------------------------------------------------------------------------------------------


def obtain_pool(run: Run, budget: Recipe, seed: int) -> Pool:
    """The models of this experiment."""
    from ai.models.train import GENERALIST, with_budget

    experts, (longer,) = train_side_by_side(run, budget, seed, [(GENERALIST, with_budget(budget, steps=LONGER * budget.steps))])
    return Pool(experts, longer)


def train_side_by_side(
    run: Run, budget: Recipe, seed: int, more: Sequence[tuple[str, Recipe]] = ()
) -> tuple[dict[str, Any], list[Any]]:
    """(experts by name, those of `more`), trained in two processes where they are not in the cache yet."""
    from ai.models.expert import ByteExpert
    from ai.models.train import MODEL_NAMES, domains_of

    jobs = [*more, *((name, budget) for name in MODEL_NAMES)]  # the longest first
    with ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn")) as workers:
        futures = [workers.submit(obtain_one, name, recipe, seed) for name, recipe in jobs]
        for _ in run.track(as_completed(futures), "models", total=len(jobs)):
            pass
    models = [
        ByteExpert.load(future.result(), name=name, domains=domains_of(name))
        for (name, _), future in zip(jobs, futures, strict=True)
    ]
    return dict(zip(MODEL_NAMES, models[len(more) :], strict=True)), models[: len(more)]


def obtain_one(name: str, recipe: Recipe, seed: int) -> Path:
    """In a process of its own: the path of a trained model."""
    import torch

    from ai.models.train import obtain

    torch.set_num_threads(1)
    return obtain(name, recipe, seed=seed)


@dataclass
class Pool:
    """The experts by name, in a fixed order, and the generalist that trained longer."""

    experts: dict[str, Any]
    longer: Any

    def taught_gate(self, run: Run, random: Random) -> Gate:
        """A gate that has seen what a gateway measures: contexts of text, and each expert's loss on the next byte."""
        import numpy as np

        from ai.files import cache_dir
        from ai.gateway.gate import GateTrainer
        from ai.gateway.market import CALIBRATION_CUTS, CALIBRATION_WINDOWS
        from ai.judge.mixture import floored
        from ai.judge.probes import plan_batch
        from ai.models.corpus import DOMAINS, load

        texts, trainer = {domain: load(domain, cache_dir()).train for domain in DOMAINS}, GateTrainer()
        rounds = -(-MEASUREMENTS // (CALIBRATION_WINDOWS * CALIBRATION_CUTS))
        for _ in run.track(range(rounds), "measuring"):
            asked = plan_batch(texts, CALIBRATION_WINDOWS, CALIBRATION_CUTS, random)
            cuts = [(window.text[:cut], window.text[cut]) for window in asked for cut in window.cuts]
            answers = {name: floored(np.asarray(e.next_bytes([c for c, _ in cuts]))) for name, e in self.experts.items()}
            for i, (context, byte) in enumerate(cuts):
                losses = {key(name): float(-np.log2(answer[i, byte])) for name, answer in answers.items()}
                trainer.add(context, losses)
        return trainer.train()

    def losses(self, run: Run, texts: Sequence[bytes], gate: Gate, label: str) -> dict[str, float]:
        """Mean bits of bytes 32 to 127, by who answers."""
        import numpy as np

        from ai.judge.mixture import floored
        from ai.models.train import GENERALIST

        truth = np.array([list(text[PROMPT_BYTES:]) for text in texts])[:, :, None]
        answers = {name: distributions(expert, texts) for name, expert in self.experts.items()}
        hits = {name: floored(np.take_along_axis(rows[:, PROMPT_BYTES:], truth, 2)) for name, rows in answers.items()}
        special = np.stack([rows for name, rows in hits.items() if name != GENERALIST])
        longer = floored(np.take_along_axis(distributions(self.longer, texts)[:, PROMPT_BYTES:], truth, 2))
        mixed = [
            mixture_bits(text, {name: rows[i] for name, rows in answers.items()}, gate)
            for i, text in enumerate(run.track(texts, f"{label} text"))
        ]
        return {
            "best single expert": min(bits(rows) for rows in special), "uniform average": bits(special.mean(axis=0)),
            GENERALIST: bits(hits[GENERALIST]), f"{GENERALIST} {LONGER}x": bits(longer),
            "mixture": sum(mixed) / len(mixed),
        }


def bits(hits: Rows) -> float:
    """Mean surprise in bits of the true bytes' probabilities."""
    import numpy as np

    return float(-np.log2(hits).mean())


def distributions(expert: Any, texts: Sequence[bytes], places: NDArray[np.intp] | None = None) -> Rows:
    """(windows, places, 256): what the expert says about the bytes at `places` (default: everywhere) from those before
    them, as it travels on the wire. Place 0 has nothing before it and is left even."""
    import numpy as np
    import torch

    from ai.distribution import decode_distributions, encode_distributions

    wanted = places if places is not None else np.array([range(len(text)) for text in texts])
    out = np.full((*wanted.shape, 256), 1.0 / 256)
    for first in range(0, len(texts), WINDOWS_AT_ONCE):
        part = slice(first, first + WINDOWS_AT_ONCE)
        read = np.array([list(text[:-1]) for text in texts[part]])
        with torch.inference_mode():
            said = torch.softmax(expert.network(torch.from_numpy(read)).float(), dim=-1).numpy()
        windows, columns = np.nonzero(wanted[part] > 0)
        rows = said[windows, wanted[part][windows, columns] - 1]
        out[part][windows, columns] = decode_distributions(encode_distributions(rows), len(rows))
    return out


# --- the gateway's way -------------------------------------------------------------------------------------------


def key(name: str) -> bytes:
    """A hotkey for an expert off the chain."""
    return name.encode()


def mixture_bits(text: bytes, answers: dict[str, Rows], gate: Gate) -> float:
    """Mean bits of bytes 32 to 127 under the gateway's rules; `answers[name]` is (positions, 256)."""
    from math import log2

    from ai.gateway.generate import REGATE_BYTES, SCORED_BYTES
    from ai.gateway.router import Candidate, Router
    from ai.judge.mixture import Mixture
    from ai.models.train import GENERALIST

    router = Router(gate)
    candidates = [Candidate(key(name), name, TRUST, name == GENERALIST) for name in answers]
    names = {key(name): name for name in answers}
    mixture: Mixture | None = None
    total = 0.0
    for position in range(PROMPT_BYTES, WINDOW):
        if (position - PROMPT_BYTES) % REGATE_BYTES == 0:
            chosen = router.choose(text[:position], candidates, [0.0] * len(candidates)).weights
            prior = {names[hotkey]: weight for hotkey, weight in chosen.items()}
            if mixture is None:
                mixture = Mixture.start(prior)
                for back in range(SCORED_BYTES, 0, -1):
                    mixture.observe(text[position - back], {name: answers[name][position - back] for name in prior})
            elif set(prior) != set(mixture.weights):
                mixture.rejoin(prior)
        assert mixture is not None
        said = {name: answers[name][position] for name in mixture.weights}
        total -= log2(float(mixture.predict(said)[text[position]]))
        mixture.observe(text[position], said)
    return total / (WINDOW - PROMPT_BYTES)
