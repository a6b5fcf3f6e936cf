"""The mixing head: a neuron that is given others' answers learns whom to believe at each byte.

For every source (the own model, each peer, and the null expert, for whom all bytes are equal) a small network sees how
sure the answer is (entropy, greatest probability), how surprised the source has been by the bytes so far (two moving
averages), and how little the least surprised one was. Its outputs become weights of a mixture of probabilities. The
network is the same for all sources, so that peers may come, go and change places; it knows nobody by name.

Training needs torch, serving numpy alone. `HeadMixer` is what a neuron's collaboration uses (`ai.serve.collaborate`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ai.files import read_bounded, write_atomic
from ai.judge.mixture import ALPHABET, NULL_PROBABILITY, floored
from ledger.errors import DecodeError, NotFound

Floats = NDArray[np.float64]

HIDDEN: Final = 64
MEMORY: Final = (0.5, 0.9)  # of the moving averages of surprise
FIRST_SURPRISE_BITS: Final = 4.0
FEATURES: Final = 6 + len(MEMORY)
HEAD_MAX_BYTES: Final = 64 << 10
WHOLE_BITS: Final = 8.0


@dataclass(frozen=True)
class MixingHead:
    """Two layers, shared by all sources: (features, HIDDEN), (HIDDEN,), (HIDDEN,)."""

    inner: Floats
    bias: Floats
    outer: Floats

    def weights(self, features: Floats) -> Floats:
        """(..., sources) from features (..., sources, FEATURES); they sum to 1."""
        scores = np.maximum(features @ self.inner + self.bias, 0.0) @ self.outer
        scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
        found: Floats = scores / scores.sum(axis=-1, keepdims=True)
        return found

    def save(self, path: Path) -> None:
        """As safetensors."""
        from safetensors.numpy import save

        write_atomic(path, save({"inner": self.inner, "bias": self.bias, "outer": self.outer}))

    @classmethod
    def load(cls, path: Path) -> MixingHead:
        """Raises NotFound or DecodeError."""
        from safetensors.numpy import load

        data = read_bounded(path, max_bytes=HEAD_MAX_BYTES)
        if data is None:
            raise NotFound(f"no mixing head at {path}", hint=f"a file of at most {HEAD_MAX_BYTES >> 10} KiB")
        try:
            parts = load(data)
            head = cls(*(np.asarray(parts[name], dtype=np.float64) for name in ("inner", "bias", "outer")))
        except Exception as error:  # the library raises several kinds for a damaged file
            raise DecodeError(f"not safetensors ({type(error).__name__})", where="mixing head") from None
        shapes = (head.inner.shape, head.bias.shape, head.outer.shape)
        if shapes != ((FEATURES, HIDDEN), (HIDDEN,), (HIDDEN,)) or not all(
            np.isfinite(part).all() for part in (head.inner, head.bias, head.outer)
        ):
            raise DecodeError("other shapes than a mixing head's, or numbers that are not finite", where="mixing head")
        return head


def certainty_of(answers: Floats) -> Floats:
    """(..., sources, 2) bits from answers (..., sources, 256), floored: entropy, and surprise at the likeliest byte."""
    logs = np.log2(answers)
    certainty: Floats = np.stack([-(answers * logs).sum(axis=-1), -logs.max(axis=-1)], axis=-1)
    return certainty


def features_of(certainty: Floats, surprise: Floats) -> Floats:
    """(..., sources, FEATURES) from certainty and surprise (..., sources, 2).

    The first source is the neuron itself, the last the null expert.
    """
    who = np.zeros_like(certainty)
    who[..., 0, 0] = who[..., -1, 1] = WHOLE_BITS
    least = surprise.min(axis=-2, keepdims=True)
    scaled: Floats = np.concatenate([certainty, who, surprise - least, surprise], axis=-1) / WHOLE_BITS
    return scaled


def surprised(surprise: Floats, hits: Floats) -> Floats:
    """The moving averages (..., sources, 2) after bytes to which the sources gave the probabilities `hits` (..., sources)."""
    bits, memory = -np.log2(hits)[..., None], np.array(MEMORY)
    new: Floats = memory * surprise + (1.0 - memory) * bits
    return new


def at_first(*shape: int) -> Floats:
    """Surprise before any byte."""
    return np.full((*shape, len(MEMORY)), FIRST_SURPRISE_BITS)


class HeadMixer:
    """Mixes one session's answers by a head. See `ai.serve.collaborate.Mixer`."""

    def __init__(self, head: MixingHead) -> None:
        self._head = head
        self._surprise: list[dict[bytes, Floats] | None] = []  # by window of the session; None: done
        self._names: list[bytes] = []
        self._answers: Floats = np.empty((0, 0, ALPHABET))
        self._weight: dict[bytes, float] = {}
        self._mixed = 0

    def mix(self, own: Floats, others: dict[bytes, Floats]) -> Floats:
        if not self._surprise:
            self._surprise = [{} for _ in own]
        self._names = [b"", *others, b"null"]
        null = np.full_like(own, NULL_PROBABILITY)
        self._answers = floored(np.stack([own, *others.values(), null], axis=1))  # (windows, sources, 256)
        running = [known for known in self._surprise if known is not None]
        first = at_first()
        surprise = np.array([[known.get(name, first) for name in self._names] for known in running])
        weights = self._head.weights(features_of(certainty_of(self._answers), surprise))
        for name, weight in zip(self._names, weights.mean(axis=0), strict=True):
            self._weight[name] = self._weight.get(name, 0.0) + float(weight)
        self._mixed += 1
        mixed: Floats = (weights[..., None] * self._answers).sum(axis=1)
        return mixed

    def observe(self, parts: Sequence[bytes]) -> None:
        if not self._names:
            return
        at = 0
        for index, known in enumerate(self._surprise):
            if known is None:
                continue
            part = parts[index]
            if not part:
                self._surprise[index] = None
            else:  # what follows the first byte was not predicted by anybody
                before = np.array([known.get(name, at_first()) for name in self._names])
                after = surprised(before, self._answers[at, :, part[0]])
                known.update(zip(self._names, after, strict=True))
            at += 1
        self._names = []

    def merit(self) -> dict[bytes, float]:
        count = max(1, self._mixed)
        return {name: total / count for name, total in self._weight.items() if len(name) == 32}


# --- training ----------------------------------------------------------------------------------------------------

LEARNING_RATE: Final = 5e-3
BATCH_WINDOWS: Final = 16


def histories(hits: Floats) -> Floats:
    """Surprise (windows, positions, sources, 2) before each byte of texts, from the probabilities (windows, positions,
    sources) that were given to the bytes that came."""
    windows, positions, sources = hits.shape
    out = np.empty((windows, positions, sources, len(MEMORY)))
    now = at_first(windows, sources)
    for position in range(positions):
        out[:, position] = now
        now = surprised(now, hits[:, position])
    return out


def train_head(certainty: Floats, hits: Floats, *, steps: int = 300, seed: int = 0) -> MixingHead:
    """The head with the least loss of the mixture, by AdamW. Leaves torch's global generator where it was.

    `certainty` (windows, positions, sources, 2) of the answers to texts, the null expert's last; `hits` (windows, positions,
    sources): the floored probabilities of the bytes that came.
    """
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = nn.Sequential(nn.Linear(FEATURES, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1, bias=False))
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    features = features_of(certainty, histories(hits))
    given, right = (torch.from_numpy(part).float() for part in (features, hits))
    generator = torch.Generator().manual_seed(seed)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1.0 - step / steps)
        chosen = torch.randint(len(given), (min(BATCH_WINDOWS, len(given)),), generator=generator)
        weights = torch.softmax(network(given[chosen])[..., 0], dim=-1)
        loss = -torch.log2((weights * right[chosen]).sum(-1)).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    state: dict[str, Any] = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    return MixingHead(state["0.weight"].T.copy(), state["0.bias"], state["2.weight"][0])
