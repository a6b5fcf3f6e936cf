"""Shapley scoring: are its axioms kept in floating point, is it fast enough, and do two validators agree?

Experts answer held-out text. The game is the one that validators play: the fixed-share Bayes mixture of a coalition with
the null expert, whose value is the bits it saves on each byte. Checked are efficiency, symmetry between an expert and
its copy, and that a model which says nothing earns nothing; timed are games of eight and ten. Two validators then probe
disjoint halves of the text, batch after batch, and their weights are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import TYPE_CHECKING, Any

import click

from tools.lab.frame import Run, experiment, timed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ai.models.train import Recipe

    Hits = NDArray[np.float64]

GAME_WINDOWS = 64
GAME_POSITIONS = range(32, 128)
BATCHES = 16
BATCH_WINDOWS = 32
BATCH_CUTS = 16
DUMMY_BITS = 0.01
EFFICIENCY = SYMMETRY = 1e-9
LIMIT_S = {8: 0.15, 10: 0.6}
AGREEMENT_TV = 0.03
TIMING_REPEATS = 3
LISTED_BATCHES = (1, 4, 8, 16)


@experiment("shapley", about="Shapley scores: axioms, speed, and two validators on disjoint data", seconds=120)
@click.option("--recipe", type=click.Choice(["quick", "full"]), default="quick", show_default=True,
              help="Training budget of the experts; full is the devnet's.")
@click.option("--batches", type=click.IntRange(1, 256), default=BATCHES, show_default=True, help="Of each validator.")
@click.option("--cuts", type=click.IntRange(1, 96), default=BATCH_CUTS, show_default=True, help="Of each window.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of training, windows and cuts.")
def shapley(run: Run, recipe: str, batches: int, cuts: int, seed: int) -> None:
    """Axioms, speed and agreement on real experts."""
    import numpy as np

    from ai.judge.mixture import NULL_PROBABILITY, coalition_values
    from ai.judge.shapley import shapley_values

    experts = obtain_experts(run, recipe, seed)
    hits = hits_at(experts, windows_for_game(seed))[:, :, GAME_POSITIONS.start :]
    null = np.full((1, *hits.shape[1:]), NULL_PROBABILITY)
    playing = np.concatenate([hits[:8], null, hits[:1]])  # eight specialists, a dummy, and a copy of the first
    values = coalition_values(playing)
    phi = shapley_values(values, 10)
    run.at_most("efficiency: sum of the values - value of all", abs(float(phi.sum() - values[-1])), EFFICIENCY, "bit")
    run.at_most("symmetry: an expert and its copy", abs(float(phi[0] - phi[9])), SYMMETRY, "bit")
    run.at_most("dummy: a model that says nothing", abs(float(phi[8])), DUMMY_BITS, "bit")
    for players, limit_s in LIMIT_S.items():
        game = playing[:players]
        seconds = timed(lambda game=game: shapley_values(coalition_values(game), len(game)), TIMING_REPEATS)  # type: ignore[misc]
        run.at_most(f"a game of {players} on {GAME_WINDOWS} windows", round(seconds, 4), limit_s, "CPU-s")
    compare_values(run, list(experts), hits)
    agree(run, experts, batches, cuts, seed)


def compare_values(run: Run, names: Sequence[str], hits: Hits) -> None:
    """Figures: what the Shapley value says beside what other scores would say, with a model that does nothing among them."""
    import numpy as np

    from ai.judge.mixture import NULL_PROBABILITY, coalition_values
    from ai.judge.shapley import shapley_values
    from tools.lab.former_scorers import base_plus_synergy, leave_one_out

    n = len(names)
    values = coalition_values(hits)
    without, synergy = leave_one_out(values), base_plus_synergy(hits)
    run.figure("bits_per_byte_earned", [
        {
            "expert": name, "shapley": round(float(phi), 3), "alone": round(float(values[1 << i]), 3),
            "leave_one_out": round(float(without[i]), 3), "base_plus_synergy_share": round(float(synergy[i]), 3),
        }
        for i, (name, phi) in enumerate(zip(names, shapley_values(values, n), strict=True))
    ])  # fmt: skip
    run.figure("value_of_all", round(float(values[-1]), 3))
    idle = np.concatenate([hits, np.full((1, *hits.shape[1:]), NULL_PROBABILITY)])
    run.figure("base_plus_synergy_of_a_model_that_does_nothing", round(float(base_plus_synergy(idle)[-1]), 4))
    doubled = np.concatenate([hits, np.repeat(hits[1:2], 3, axis=0)])
    copies = base_plus_synergy(doubled)[[1, n, n + 1, n + 2]].sum()
    run.figure("base_plus_synergy_gain_of_four_copies", round(float(copies / synergy[1]), 3))


def agree(run: Run, experts: Mapping[str, Any], batches: int, cuts: int, seed: int) -> None:
    """Two validators with a half of the held-out text each; total variation between their weights."""
    from ai.judge.clusters import clusters, similar_pairs
    from ai.judge.probes import plan_batch
    from ai.judge.shapley import ScoreBook, score_batch, to_weights

    hotkeys = [name.encode() for name in experts]
    books, halves = (ScoreBook(), ScoreBook()), halves_of_the_text()
    randoms = [Random(f"validator {index} {seed}") for index in range(2)]
    distances: dict[int, float] = {}
    for batch in run.track(range(1, batches + 1), "batches"):
        shares = []
        for book, texts, random in zip(books, halves, randoms, strict=True):
            windows = plan_batch(texts, BATCH_WINDOWS, cuts, random)
            hits = hits_at(experts, [w.text for w in windows], [w.cuts for w in windows])
            phi = score_batch(hits, clusters(len(hotkeys), similar_pairs(hits)))
            book.add({hotkey: float(value) for hotkey, value in zip(hotkeys, phi, strict=True)})
            weights = to_weights(book.scores(hotkeys))
            shares.append(weights / max(1, weights.sum()))
        distances[batch] = float(abs(shares[0] - shares[1]).sum() / 2)
    run.at_most(f"two validators after {batches} batches", round(distances[batches], 4), AGREEMENT_TV, "total variation")
    listed = [batch for batch in LISTED_BATCHES if batch in distances]
    run.figure("total_variation_after", [{"batches": batch, "tv": round(distances[batch], 4)} for batch in listed])


# --- experts and their answers -----------------------------------------------------------------------------------


def obtain_experts(run: Run, recipe: str, seed: int) -> dict[str, Any]:
    """The eight specialists and the generalist, by name."""
    from tools.lab.moe import train_side_by_side

    return train_side_by_side(run, budget_of(recipe), seed)[0]


def budget_of(recipe: str) -> Recipe:
    """The training budget of that name."""
    from ai.models.train import RECIPES, with_budget
    from tools.lab.moe import QUICK_STEPS

    return RECIPES["full"] if recipe == "full" else with_budget(RECIPES["full"], steps=QUICK_STEPS)


def windows_for_game(seed: int) -> list[bytes]:
    """Held-out windows, half of them changing their domain."""
    from tools.lab.moe import draw_windows

    random = Random(f"game {seed}")
    half = GAME_WINDOWS // 2
    return draw_windows("pure", half, random) + draw_windows("switch", half, random)


def halves_of_the_text() -> list[dict[str, bytes]]:
    """Two disjoint parts of each domain's held-out text."""
    from ai.files import cache_dir
    from ai.models.corpus import DOMAINS, load

    texts = {domain: load(domain, cache_dir()).held_out for domain in DOMAINS}
    return [
        {domain: text[: len(text) // 2] for domain, text in texts.items()},
        {domain: text[len(text) // 2 :] for domain, text in texts.items()},
    ]


def hits_at(experts: Mapping[str, Any], texts: Sequence[bytes], cuts: Sequence[Sequence[int]] | None = None) -> Hits:
    """(experts, windows, positions): floored probability that each gave the true byte at the cuts, or everywhere."""
    import numpy as np

    from ai.judge.mixture import floored
    from tools.lab.moe import distributions

    places = np.array(cuts if cuts is not None else [range(len(text)) for text in texts])
    truth = np.array([list(text) for text in texts])[np.arange(len(texts))[:, None], places][:, :, None]
    return np.stack([
        floored(np.take_along_axis(distributions(expert, texts, places), truth, 2)[:, :, 0]) for expert in experts.values()
    ])
