"""The gate: which expert fits this text? A small linear model on hashed letters and pairs of letters.

It learns from the gateway's own measurements: contexts, and what each expert's surprise was on the byte that followed.
Soft targets softmax(-loss / 0.15) over the experts; about 6,000 numbers; trained in a fraction of a second. Pure: the
same rows in the same order give the same gate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEATURES: Final = 768
CONTEXT_BYTES: Final = 256
TEMPERATURE_BITS: Final = 0.6
MAX_ROWS: Final = 4096
STEPS: Final = 150
RATE: Final = 2.0
DECAY: Final = 1e-4


def features(text: bytes) -> Floats:
    """(FEATURES + 1,) of the last 256 bytes: counts of hashed bytes and byte pairs, scaled to length 1, and a constant."""
    out = np.zeros(FEATURES + 1)
    tail = np.frombuffer(text[-CONTEXT_BYTES:], dtype=np.uint8).astype(np.int64)
    if len(tail):
        np.add.at(out, tail, 1.0)
    if len(tail) > 1:
        pairs = (tail[:-1] * 256 + tail[1:]) * 2654435761 % 2**32 >> 16
        np.add.at(out, 256 + pairs % (FEATURES - 256), 1.0)
    length = float(np.sqrt((out**2).sum()))
    if length:
        out /= length
    out[FEATURES] = 1.0
    return out


@dataclass
class Gate:
    """Probabilities over experts, by hotkey; even until it has been trained."""

    experts: tuple[bytes, ...] = ()
    matrix: Floats = field(default_factory=lambda: np.zeros((0, FEATURES + 1)))

    def predict(self, text: bytes, among: list[bytes]) -> dict[bytes, float]:
        """Probabilities over `among`, summing to 1; an expert the gate does not know gets the mean of the others."""
        known = [expert for expert in among if expert in self.experts]
        if not known:
            return {expert: 1.0 / len(among) for expert in among}
        scores = self.matrix @ features(text)
        raw = {expert: float(scores[self.experts.index(expert)]) for expert in known}
        mean = sum(raw.values()) / len(raw)
        logits = np.array([raw.get(expert, mean) for expert in among])
        odds = np.exp(logits - logits.max())
        return dict(zip(among, (odds / odds.sum()).tolist(), strict=True))


class GateTrainer:
    """Keeps the newest measurements and makes gates of them."""

    def __init__(self) -> None:
        self._rows: deque[tuple[Floats, dict[bytes, float]]] = deque(maxlen=MAX_ROWS)

    def add(self, text: bytes, loss_bits: dict[bytes, float]) -> None:
        """One context and the loss, in bits, of each expert that answered."""
        if len(loss_bits) > 1:
            self._rows.append((features(text), dict(loss_bits)))

    def __len__(self) -> int:
        return len(self._rows)

    def train(self) -> Gate:
        """A gate over all experts seen in the rows."""
        experts = tuple(sorted({expert for _, losses in self._rows for expert in losses}))
        if not experts or not self._rows:
            return Gate()
        inputs = np.stack([row for row, _ in self._rows])
        losses = np.full((len(self._rows), len(experts)), np.nan)
        for i, (_, row) in enumerate(self._rows):
            for expert, loss in row.items():
                losses[i, experts.index(expert)] = loss
        losses = np.where(np.isnan(losses), 8.0, losses)  # who did not answer is worth a uniform guess
        targets = np.exp(-(losses - losses.min(axis=1, keepdims=True)) / TEMPERATURE_BITS)
        targets /= targets.sum(axis=1, keepdims=True)
        matrix = np.zeros((len(experts), inputs.shape[1]))
        speed = np.zeros_like(matrix)
        for _ in range(STEPS):
            logits = inputs @ matrix.T
            odds = np.exp(logits - logits.max(axis=1, keepdims=True))
            odds /= odds.sum(axis=1, keepdims=True)
            slope = (odds - targets).T @ inputs / len(inputs) + DECAY * matrix
            speed = 0.9 * speed - RATE * slope
            matrix = matrix + speed
        return Gate(experts, matrix)
