"""The router: which experts answer a prompt, and with what first weight.

    prior of an expert = gate(text) x trust on chain, made to sum to 1
    its score          = a draw from N(mean, 1 / (count + 1)) around prior and past reward (Thompson 1933), minus what its
                         latency and load cost
    chosen             = the generalist with the most trust, which is always on, and the two best beside it; in one
                         request of fifty the second place goes to the candidate that was measured least on such texts

Rewards are the router's own measurements (bits saved per byte), kept by (kind of text, expert) and discounted, so that an
expert that broke is left soon. The kind of a text is the specialist that the gate would take for it. How many receipts,
requests or bytes an expert has to show for enters nowhere. Pure: chance comes in as arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from .gate import Gate

TOP: Final = 2
EXPLORATION_SHARE: Final = 0.02  # of requests
DISCOUNT: Final = 0.98
PRIOR_COUNT: Final = 4.0
NOISE: Final = 0.15
LATENCY_COST_PER_S: Final = 0.2
LOAD_COST: Final = 0.05
MAX_KINDS: Final = 256


@dataclass(frozen=True)
class Candidate:
    """An expert that can be asked. `trust` is its share of the subnet's incentive; `generalist`: claims most domains."""

    hotkey: bytes
    name: str
    trust: float
    generalist: bool = False
    latency_s: float = 0.0
    in_flight: int = 0


@dataclass(frozen=True)
class Reason:
    """Why a candidate was chosen or not: the row that `quorix ai route explain` shows.

    `reward` and `count`: what was measured on texts of this kind. `draw`: what Thompson's noise added. `cost`: what
    latency and load took off.
    """

    hotkey: bytes
    name: str
    gate: float
    trust: float
    prior: float
    reward: float
    count: float
    draw: float
    cost: float
    score: float
    chosen: str  # "top", "explored", "generalist" or ""


@dataclass(frozen=True)
class Decision:
    """`weights`: first weights of the mixture by hotkey, summing to 1. `kind`: the kind of text rewards are kept by."""

    weights: dict[bytes, float]
    kind: bytes
    reasons: list[Reason]


@dataclass
class Arm:
    mean: float = 0.0
    count: float = 0.0


@dataclass
class Router:
    """Keeps what it measured; `gate` may be replaced at any time."""

    gate: Gate = field(default_factory=Gate)
    arms: dict[tuple[bytes, bytes], Arm] = field(default_factory=dict)

    def choose(
        self, text: bytes, candidates: Sequence[Candidate], noise: Sequence[float], *, explore: float = 1.0, top: int = TOP
    ) -> Decision:
        """Pick experts for the text so far. `noise`: standard normal numbers, one a candidate (zeros: no exploring).

        `explore`: a uniform number of [0, 1); below EXPLORATION_SHARE this request explores. `top`: places beside the
        generalist.
        """
        if not candidates:
            return Decision({}, b"", [])
        gate = self.gate.predict(text, [c.hotkey for c in candidates])
        trust = _normalised([max(c.trust, 0.0) for c in candidates])
        priors = _normalised([gate[c.hotkey] * t for c, t in zip(candidates, trust, strict=True)])
        special = [c.hotkey for c in candidates if not c.generalist] or list(gate)
        kind = max(special, key=lambda hotkey: (gate[hotkey], hotkey))
        rows = []
        for c, prior, t, z in zip(candidates, priors, trust, noise, strict=True):
            arm = self.arms.get((kind, c.hotkey), Arm())
            mean = (PRIOR_COUNT * prior + arm.count * arm.mean) / (PRIOR_COUNT + arm.count)
            draw = NOISE * z / (1.0 + arm.count) ** 0.5
            cost = LATENCY_COST_PER_S * c.latency_s + LOAD_COST * c.in_flight
            score = mean + draw - cost
            rows.append(Reason(c.hotkey, c.name, gate[c.hotkey], t, prior, arm.mean, arm.count, draw, cost, score, ""))
        order = sorted(rows, key=lambda row: (-row.score, row.hotkey))
        places = _places(order, {c.hotkey for c in candidates if c.generalist}, top, explores=explore < EXPLORATION_SHARE)
        reasons = [replace(row, chosen=places.get(row.hotkey, "")) for row in order]
        chosen = [row for row in reasons if row.chosen]
        weights = _normalised([max(row.prior, 0.02) for row in chosen])
        return Decision({row.hotkey: w for row, w in zip(chosen, weights, strict=True)}, kind, reasons)

    def reward(self, kind: bytes, hotkey: bytes, value: float) -> None:
        """A measurement in [0, 1] for an expert on a kind of text; older ones of that kind fade."""
        value = min(1.0, max(0.0, value))
        for (other, _), arm in self.arms.items():
            if other == kind:
                arm.count *= DISCOUNT
        if (kind, hotkey) not in self.arms and len(self.arms) >= MAX_KINDS * 16:
            self.arms.pop(next(iter(self.arms)))
        arm = self.arms.setdefault((kind, hotkey), Arm())
        arm.mean = (arm.mean * arm.count + value) / (arm.count + 1.0)
        arm.count += 1.0


def _places(order: Sequence[Reason], generalists: set[bytes], top: int, *, explores: bool) -> dict[bytes, str]:
    """Who is chosen, and as what; `order` is by score, best first."""
    # One generalist and no more: what a card claims is free, and each one chosen costs every request a session.
    always = max((row for row in order if row.hotkey in generalists), key=lambda row: (row.trust, row.hotkey), default=None)
    others = [row for row in order if row is not always]
    places = {row.hotkey: "top" for row in others[:top]}
    if explores and len(others) > top > 0:
        least = min(others[top:], key=lambda row: (row.count, row.hotkey))
        del places[others[top - 1].hotkey]
        places[least.hotkey] = "explored"
    if always is not None:
        places[always.hotkey] = "generalist"
    return places


def _normalised(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [v / total for v in values] if total > 0 else [1.0 / len(values)] * len(values)
