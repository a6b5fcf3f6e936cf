"""An expert that goes on training between queries, so that its operator can earn more.

It answers with one set of weights and trains a copy, a little at a time. A version is finished after some hundred steps;
it is taken if it loses fewer bits than the current one on text that neither trained on. Taking it is the neuron's
decision (`ai.serve.improving`): weights never change during a session, whose receipt names one model hash.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from ai.files import write_atomic

from .expert import ByteExpert, encode_weights
from .model import Card, Sampling
from .train import Recipe, batches, bits_per_byte

VERSION_STEPS: Final = 200
LEARNING_RATE: Final = 1e-3
CHECKED_WINDOWS: Final = 24


class LearningExpert:
    """A `Model` around an expert. `improve` runs in a thread of its own, everything else where models run."""

    def __init__(
        self, expert: ByteExpert, texts: Sequence[bytes], unseen: Sequence[bytes], *, save_to: Path | None = None,
        steps: int = VERSION_STEPS, seed: int = 0,
    ) -> None:  # fmt: skip
        """`texts`: to train on. `unseen`: windows of equal length that decide. `save_to`: where taken versions are kept."""
        self._expert, self._unseen, self._save_to, self._steps = expert, list(unseen)[:CHECKED_WINDOWS], save_to, steps
        recipe = Recipe("learning", steps=1, batch=8, window=expert.network.shape.context)
        self._draws: Iterator[tuple[Any, Any]] = batches(texts, recipe, seed)
        self._lock = threading.Lock()
        self._ready: ByteExpert | None = None
        self._pupil: Any = None
        self._optimiser: Any = None
        self._done = 0
        self.versions = 0
        self.bits = bits_per_byte(expert.network, self._unseen)

    def card(self) -> Card:
        return self._expert.card()

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        return self._expert.next_bytes(windows)

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        return self._expert.write(prompt, sampling)

    def improve(self, seconds: float) -> bool:
        """Train for about so long; True when a better version is ready to be adopted. One caller at a time."""
        if self._ready is not None:
            return True
        until = time.monotonic() + seconds
        if self._pupil is None:
            self._begin()
        while self._done < self._steps:
            self._step()
            if time.monotonic() >= until:
                return False
        return self._finish()

    def adopt(self) -> bool:
        """Answer with the version that is ready; False where there is none."""
        with self._lock:
            if self._ready is None:
                return False
            self._expert, self._ready = self._ready, None
            self.versions += 1
        return True

    def _begin(self) -> None:
        import torch

        self._pupil, self._done = copy.deepcopy(self._expert.network).train(), 0
        self._optimiser = torch.optim.AdamW(self._pupil.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.01)

    def _step(self) -> None:
        import torch
        import torch.nn.functional as F

        before, after = (part.to(self._expert.device) for part in next(self._draws))
        rate = LEARNING_RATE * (1.0 - self._done / self._steps)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        loss = F.cross_entropy(self._pupil(before).flatten(0, 1), after.flatten())
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._pupil.parameters(), 1.0)
        self._optimiser.step()
        self._done += 1

    def _finish(self) -> bool:
        """Judge the version as it would be served: after the rounding that its file brings."""
        from .expert import decode_weights

        data = encode_weights(self._pupil)
        self._pupil = self._optimiser = None
        network = decode_weights(data).eval()
        bits = bits_per_byte(network, self._unseen)
        if bits >= self.bits:
            return False
        if self._save_to is not None:
            write_atomic(self._save_to, data)
        card = replace(self._expert.card(), model_hash=blake2b(data, digest_size=32).digest())
        with self._lock:
            self._ready, self.bits = ByteExpert(network, card, self._expert.device), bits
        return True
