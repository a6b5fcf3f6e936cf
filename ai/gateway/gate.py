"""The gate: which expert fits this text? A small linear model on hashed letters and pairs of letters.

It learns from the gateway's own measurements: contexts, and what each expert's surprise was on the byte that followed.
Soft targets softmax(-loss / 0.6 bits) over the experts that answered there; the others of that row are left alone. Only
the last 32 bytes are looked at, so that it follows a text that changes its kind. About 7,000 numbers, trained in a
fraction of a second, the next time from where they are. Pure: the same rows in the same order give the same gate.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FEATURES: Final = 768
CONTEXT_BYTES: Final = 32
TEMPERATURE_BITS: Final = 0.6
MAX_ROWS: Final = 1024
MAX_EXPERTS: Final = 256
STEPS: Final = 150  # of a gate that begins at zero
MORE_STEPS: Final = 40  # of one that goes on
RATE: Final = np.float32(2.0)
DECAY: Final = np.float32(1e-4)


def features(text: bytes) -> Floats:
    """(FEATURES + 1,) of the last 32 bytes: counts of hashed bytes and byte pairs, scaled to length 1, and a constant."""
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
        """One context and the loss, in bits, of each expert that answered. One answer alone compares nothing."""
        if len(loss_bits) > 1:
            self._rows.append((features(text), dict(loss_bits)))

    def __len__(self) -> int:
        return len(self._rows)

    def train(self, before: Gate | None = None) -> Gate:
        """A gate over the experts in the rows; `before` is where it goes on from."""
        rows = list(self._rows)
        experts = tuple(sorted({expert for _, losses in rows for expert in losses}))[:MAX_EXPERTS]
        if not experts:
            return Gate()
        inputs = np.stack([row for row, _ in rows]).astype(np.float32)
        losses = np.array([[losses.get(expert, np.inf) for expert in experts] for _, losses in rows], dtype=np.float32)
        measured = np.isfinite(losses)
        targets = _softmax(np.where(measured, -losses / TEMPERATURE_BITS, -np.inf))
        matrix, steps = _start(experts, before)
        speed = np.zeros_like(matrix)
        for _ in range(steps):
            odds = _softmax(np.where(measured, inputs @ matrix.T, -np.inf))
            slope = (odds - targets).T @ inputs / np.float32(len(inputs)) + DECAY * matrix
            speed *= 0.9
            speed -= RATE * slope
            matrix += speed
        return Gate(experts, matrix.astype(np.float64))


def _start(experts: tuple[bytes, ...], before: Gate | None) -> tuple[NDArray[np.float32], int]:
    """First weights (experts, FEATURES + 1), and how many steps they need."""
    matrix = np.zeros((len(experts), FEATURES + 1), dtype=np.float32)
    known = before.experts if before is not None else ()
    for row, expert in enumerate(experts):
        if before is not None and expert in known:
            matrix[row] = before.matrix[known.index(expert)]
    return matrix, MORE_STEPS if set(experts) <= set(known) else STEPS


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Row by row; minus infinity gets exactly nothing. Each row has a finite number."""
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: NDArray[np.float32] = odds / odds.sum(axis=1, keepdims=True)
    return shares
