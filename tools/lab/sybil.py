"""Does it pay to be many? Clones, blends of others' answers and rivals surrounded by copies, under the validators' rules.

Eight experts and the generalist have been known to a validator for some batches when the attacker's neurons appear. From
then on batches are judged twice, with them and without them, and what they are paid is compared: by the rules in force
(similar experts as one player, elders first, mixtures of elders discounted), by Shapley values alone, and by two scorers
that Quorix does not use. All answers travel as they do on the wire, 98 bytes each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import click

from tools.lab.frame import Run, experiment

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ai.judge.conduct import Conduct

    Answers = NDArray[np.float64]  # (experts, windows, cuts, 256)

BATCHES = 4
KNOWN_BATCHES = 2  # before the attacker's neurons appear
WINDOWS, CUTS = 32, 4
CLONES = (2, 3, 4, 5, 6)
VICTIM, SUBSTITUTED = "json", "english"  # the second has another that can stand in for it
CLONE_GAIN, BLEND_SHARE, KEPT = 1.02, 0.05, 0.95
ATTACKER = "attacker"
NEIGHBOURS = {"code": "code, other seed", "json": "json, other seed"}  # honest: the same recipe and text, another seed


Make = Callable[[dict[str, Any], Any], list[Any]]


@dataclass(frozen=True)
class Attack:
    """`make(answers by name, random)` gives the answers (windows, cuts, 256) of the neurons that appear, in each batch."""

    name: str
    make: Make


@experiment("sybil", about="does it pay to be many: clones, blends of others, rivals surrounded by copies", seconds=150)
@click.option("--recipe", type=click.Choice(["quick", "full"]), default="full", show_default=True,
              help="Training budget of the experts; full is the devnet's.")
@click.option("--batches", type=click.IntRange(1, 64), default=BATCHES, show_default=True, help="After the attack began.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of training, windows, cuts and noise.")
def sybil(run: Run, recipe: str, batches: int, seed: int) -> None:
    """What clones gain, what blends keep, and what victims and honest neighbours lose."""
    from tools.lab.shapley import obtain_experts

    experts = obtain_experts(run, recipe, seed)
    experts |= neighbours(run, recipe, seed + 1)
    market = Market(experts, batches, seed)
    clones(run, market)
    blends(run, market)
    victims(run, market)
    run.figure("honest_residual_bits", {name: round(bits, 3) for name, bits in market.residuals().items()})


def neighbours(run: Run, recipe: str, seed: int) -> dict[str, Any]:
    """Honest experts of domains that the pool has already."""
    from ai.models.expert import ByteExpert
    from tools.lab.moe import obtain_one
    from tools.lab.shapley import budget_of

    return {
        other: ByteExpert.load(obtain_one(name, budget_of(recipe), seed), name=other)
        for name, other in run.track(list(NEIGHBOURS.items()), "neighbours")
    }


# --- the market --------------------------------------------------------------------------------------------------


class Market:
    """A pool of experts, the batches they answered, and a validator's judgement of them."""

    def __init__(self, experts: dict[str, Any], batches: int, seed: int) -> None:
        from ai.judge.probes import plan_batch
        from tools.lab.shapley import halves_of_the_text

        self.names, self.seed = [name for name in experts if name not in NEIGHBOURS.values()], seed
        texts, random = halves_of_the_text()[0], Random(f"sybil {seed}")
        self.batches = [
            self._answers(experts, plan_batch(texts, WINDOWS, CUTS, random)) for _ in range(KNOWN_BATCHES + batches)
        ]
        self._before: list[object] = []

    @staticmethod
    def _answers(experts: dict[str, Any], windows: Sequence[Any]) -> tuple[dict[str, Any], Any]:
        import numpy as np

        from tools.lab.moe import distributions

        texts, places = [w.text for w in windows], np.array([w.cuts for w in windows])
        truth = np.array([list(text) for text in texts])[np.arange(len(texts))[:, None], places]
        return {name: distributions(expert, texts, places) for name, expert in experts.items()}, truth

    def judged(self, attack: Attack | None, *, from_the_start: bool = False, rules: bool = True) -> Paid:
        """Mean shares of pay over the batches after the attack began, by name; the attacker's neurons under one name.

        `from_the_start`: its neurons are there from the first batch. `rules`: elders and hulls count, not Shapley alone.
        """
        import numpy as np

        from ai.judge.conduct import Conduct

        noise = np.random.default_rng(self.seed)
        first = 0 if from_the_start else KNOWN_BATCHES
        conduct = Conduct() if from_the_start or not rules else self._known()
        paid = []
        for number in range(first, len(self.batches)):
            answers, truth = self.batches[number]
            extra = [travelled(a) for a in attack.make(answers, noise)] if attack is not None else []
            paid.append(self._paid(number, floored_rows([*(answers[n] for n in self.names), *extra]), truth, conduct, rules))
        names = [*self.names, *(f"{ATTACKER} {i}" for i in range(len(extra)))]
        means = np.mean(paid[KNOWN_BATCHES - first :], axis=0)
        return Paid({name: float(share) for name, share in zip(names, means, strict=True)})

    def _known(self) -> Conduct:
        """What the validator knows when the attack begins."""
        from ai.judge.conduct import Conduct

        if not self._before:
            conduct = Conduct()
            for number in range(KNOWN_BATCHES):
                answers, truth = self.batches[number]
                self._paid(number, floored_rows([answers[name] for name in self.names]), truth, conduct, True)
            self._before = conduct.to_value()
        return Conduct.from_value(self._before)

    def _paid(self, number: int, rows: Answers, truth: Any, conduct: Conduct, rules: bool) -> Any:
        """Shares of the pay of one batch, in the order of `rows`."""
        import numpy as np

        from ai.judge.shapley import score_batch

        hits = np.take_along_axis(rows, truth[None, :, :, None], 3)[..., 0]
        if not rules:
            return shares(score_batch(hits, None, Random(number)))
        hotkeys = [name.encode() for name in (*self.names, *(f"{ATTACKER} {i}" for i in range(len(rows) - len(self.names))))]
        # Nobody here changes its way of answering: asked again, it says the same.
        conduct.moved({hotkey: 0.0 if hotkey in conduct.motion else None for hotkey in hotkeys})
        standing = conduct.judge(hotkeys, hits, rows.reshape(len(rows), -1, 256))
        return shares(score_batch(hits, standing.groups, Random(number)) * standing.factors)

    def residuals(self) -> dict[str, float]:
        """Each expert's distance from all mixtures of the others, on the first batch."""
        from ai.judge.hull import residual

        rows = floored_rows([self.batches[0][0][name] for name in self.names]).reshape(len(self.names), -1, 256)
        keep = range(len(rows))
        return {name: residual(rows[i], rows[[j for j in keep if j != i]])[0] for i, name in enumerate(self.names)}


@dataclass(frozen=True)
class Paid:
    """Shares of the whole pay by name; the attacker's neurons are numbered."""

    share: dict[str, float]

    @property
    def attacker(self) -> float:
        """What all neurons that appeared get together."""
        return sum(share for name, share in self.share.items() if name.startswith(ATTACKER))


def shares(values: Any) -> Any:
    """Parts of a whole."""
    return values / values.sum()


def travelled(answers: Any) -> Any:
    """Distributions (windows, cuts, 256) as they arrive on the other side of the wire."""
    from ai.distribution import decode_distributions, encode_distributions

    flat = answers.reshape(-1, 256)
    return decode_distributions(encode_distributions(flat), len(flat)).reshape(answers.shape)


def floored_rows(answers: Sequence[Any]) -> Answers:
    """(experts, windows, cuts, 256) with the validator's floor."""
    import numpy as np

    from ai.judge.mixture import floored

    return floored(np.stack(answers))


# --- clones ------------------------------------------------------------------------------------------------------


def clones(run: Run, market: Market) -> None:
    """One operator runs k neurons with one expert's answers. Its pay is compared with that of the expert alone."""
    honest, plain = market.judged(None), market.judged(None, rules=False)
    rows = []
    for label, noise in (("exact", 0.0), ("10 % noise", 0.1)):
        worst = 0.0
        for of in (VICTIM, SUBSTITUTED):
            for count in CLONES:
                attack = Attack(f"{count} of {of}", copies(of, count - 1, noise))
                later, free = market.judged(attack), market.judged(attack, rules=False)
                together = market.judged(attack, from_the_start=True)
                gains = [(paid.share[of] + paid.attacker) / honest.share[of] for paid in (later, together)]
                worst = max(worst, *gains)
                rows.append({
                    "clones": f"{label}, {of}", "k": count, "gain_later": round(gains[0], 4),
                    "gain_together": round(gains[1], 4),
                    "shapley_alone": round((free.share[of] + free.attacker) / plain.share[of], 3),
                })  # fmt: skip
        run.at_most(f"{label} clones, k = {CLONES[0]}..{CLONES[-1]}: most that one operator gains", worst, CLONE_GAIN, "x")
    run.figure("clones", rows)


def copies(of: str, count: int, noise: float) -> Make:
    """`count` neurons that answer as `of` does, each blended with its own random distributions."""

    def make(answers: dict[str, Any], random: Any) -> list[Any]:
        shape = answers[of].shape
        return [(1 - noise) * answers[of] + noise * random.dirichlet([1.0] * 256, shape[:-1]) for _ in range(count)]

    return make


# --- blends ------------------------------------------------------------------------------------------------------


def blend(weights: dict[str, float]) -> Make:
    """One neuron that answers with a linear blend of others."""
    return lambda answers, random: [sum(weight * answers[name] for name, weight in weights.items())]


def geometric(weights: dict[str, float]) -> Make:
    """One neuron that answers with the weighted geometric mean of others."""
    import numpy as np

    return lambda answers, random: [np.exp(sum(w * np.log(answers[name] + 1e-9) for name, w in weights.items()))]


def blends(run: Run, market: Market) -> None:
    """A neuron with no model of its own answers with what others say. What it keeps of its Shapley value."""
    linear = {
        "half json, half english": {"json": 0.5, "english": 0.5},
        "even blend of code, csv, dna": {"code": 1 / 3, "csv": 1 / 3, "dna": 1 / 3},
        "70 code, 20 log, 10 json": {"code": 0.7, "log": 0.2, "json": 0.1},
        "90 arith, 10 generalist": {"arith": 0.9, "generalist": 0.1},
        "70 json, 30 csv": {"json": 0.7, "csv": 0.3},
        "even blend of all nine": {name: 1 / len(market.names) for name in market.names},
    }
    bent = {
        "geometric mean of code and english": {"code": 0.5, "english": 0.5},
        "geometric mean of json and csv": {"json": 0.5, "csv": 0.5},
    }
    rows, worst = [], 0.0
    for kind, makers in (("linear", linear), ("geometric", bent)):
        for name, weights in makers.items():
            attack = Attack(name, blend(weights) if kind == "linear" else geometric(weights))
            paid, free = market.judged(attack).attacker, market.judged(attack, rules=False).attacker
            kept = paid / free if free > 0 else 0.0
            worst = max(worst, kept) if kind == "linear" else worst
            rows.append({
                "relay": name, "paid": round(paid, 4), "shapley_alone": round(free, 4), "kept": round(kept, 4),
                "known_together": round(market.judged(attack, from_the_start=True).attacker, 4),
            })  # fmt: skip
    run.at_most("linear blends of others, up to all nine, keep", worst, BLEND_SHARE, "of their Shapley pay")
    run.figure("relays", rows)
    run.figure("passes", passing(market))


def passing(market: Market) -> list[dict[str, Any]]:
    """What the operator of an expert gains by neurons that hide behind others: its pay with them, over that without."""
    honest, partners = market.judged(None), ("csv", "code", "log")
    out = []
    for label, make, own in (("70/30 blends", blend, 0.7), ("60/40 geometric means", geometric, 0.6)):
        for count in (2, 3, 4):
            row: dict[str, Any] = {"neurons": f"an expert and {label} of it with others", "k": count}
            for of in (VICTIM, SUBSTITUTED):
                makers = [make({of: own, partner: 1 - own}) for partner in partners[: count - 1]]
                attack = Attack(label, lambda answers, random, makers=makers: [m(answers, random)[0] for m in makers])  # type: ignore[misc]
                for when, start in (("later", False), ("together", True)):
                    paid = market.judged(attack, from_the_start=start)
                    row[f"{of}, {when}"] = round((paid.share[of] + paid.attacker) / honest.share[of], 2)
            out.append(row)
    return out


# --- victims -----------------------------------------------------------------------------------------------------


def straddle(of: str, width: float) -> Make:
    """Two neurons with v(1+g) and v(1-g) around a victim's answers v: it lies on the line between them."""

    def make(answers: dict[str, Any], random: Any) -> list[Any]:
        import numpy as np

        shift = width * np.sign(random.standard_normal(answers[of].shape))
        return [answers[of] * (1 + shift), answers[of] * (1 - shift)]

    return make


def perturbed(of: str, spread: float, count: int) -> Make:
    """Honest experts of one domain: each differs from `of` by errors of its own."""

    def make(answers: dict[str, Any], random: Any) -> list[Any]:
        import numpy as np

        return [answers[of] * np.exp(spread * random.standard_normal(answers[of].shape)) for _ in range(count)]

    return make


def victims(run: Run, market: Market) -> None:
    """What the rules take from a surrounded victim and from honest neighbours, against Shapley values without them."""
    straddled = [(of, f"two around it, g = {g}", straddle(of, g)) for of in ("json", "code") for g in (0.5, 0.9)]
    honest = [(of, "one trained from another seed", blend({other: 1.0})) for of, other in NEIGHBOURS.items()]
    honest += [("code", f"{count} with errors of log-sd {spread}", perturbed("code", spread, count))
               for spread, count in ((0.6, 1), (1.0, 1), (0.6, 3), (1.0, 3))]
    before, rows = market.judged(None), []
    kept: dict[str, list[float]] = {"straddled": [], "straddled from the start": [], "neighbours": []}
    for kind, cases in (("straddled", straddled), ("neighbours", honest)):
        for of, label, make in cases:
            for start in (False, True):
                attack = Attack(label, make)
                paid, free = (market.judged(attack, from_the_start=start, rules=rules) for rules in (True, False))
                theirs = paid.attacker / free.attacker
                ours = paid.share[of] / free.share[of]
                if kind == "straddled":
                    kept["straddled from the start" if start else "straddled"].append(ours)
                else:
                    kept["neighbours"] += [ours, theirs]
                rows.append({
                    "expert": of, "others": label, "come": "together" if start else "later", "keeps": round(ours, 3),
                    "others_keep": round(theirs, 3), "of_pay_before": round(paid.share[of] / before.share[of], 3),
                })  # fmt: skip
    run.at_least("a victim that was there before keeps", min(kept["straddled"]), KEPT, "of its Shapley pay")
    run.at_least("honest neighbours of one domain keep", min(kept["neighbours"]), KEPT, "of their Shapley pay")
    run.figure("straddled_from_the_start_keeps", round(min(kept["straddled from the start"]), 3))
    run.figure("victims", rows)
