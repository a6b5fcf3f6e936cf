"""What a model must offer to become a neuron: a card, next-byte probabilities, and text. Three methods, no base class.

    class Coin:
        def card(self): return Card("coin", model_hash=bytes(32), context_bytes=1)
        def next_bytes(self, windows): return [[1.0] * 256 for _ in windows]
        def write(self, prompt, sampling): return write_bytes(self, prompt, sampling)

The methods are called from one worker thread at a time, never at once. `next_bytes` may return anything that turns into
an array (windows, 256) of finite non-negative numbers; whatever else it returns or raises fails that session alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from ledger import codec, crypto
from ledger.codec import HASH, U32, U64, Bytes, ListOf, Record, Text

CARD_VERSION: Final = 1
CARD_MAX_BYTES: Final = 4096
UNITS_PER_CHUNK: Final = 16  # bytes of text handed out at a time

_CARD = Record(
    "card",
    version=codec.U8,
    name=Text(64),
    summary=Text(400),
    domains=ListOf(Text(32), 16),
    model_hash=HASH,
    context_bytes=U32,
    parameters=U64,
    methods=ListOf(Text(32), 16),
)
_CARD_BYTES = Bytes(low=1, high=CARD_MAX_BYTES)


@dataclass(frozen=True, slots=True)
class Card:
    """The expert descriptor. Its hash is the neuron's `capabilities_hash` on chain, so a new model is a new record.

    `model_hash` is the blake2b-256 of the weights file: one for a whole session, in every receipt.
    `domains` says what the model was made for; it is a claim, the validators find out.
    """

    name: str
    model_hash: bytes
    context_bytes: int
    summary: str = ""
    domains: tuple[str, ...] = ()
    parameters: int = 0
    methods: tuple[str, ...] = ("distribution", "text", "card")

    def encode(self) -> bytes:
        """The bytes that the method `card` answers with. Raises DecodeError where a field is over its bound."""
        value = [
            CARD_VERSION, self.name, self.summary, list(self.domains), self.model_hash, self.context_bytes,
            self.parameters, list(self.methods),
        ]
        _CARD.check(value)
        return codec.encode(value)

    @classmethod
    def decode(cls, data: bytes) -> Card:
        """Reverse of `encode`. Raises DecodeError."""
        _CARD_BYTES.check(data, "card")
        value = codec.decode(data, max_bytes=CARD_MAX_BYTES, where="card")
        _CARD.check(value)
        version, name, summary, domains, model_hash, context_bytes, parameters, methods = value
        if version != CARD_VERSION:
            raise codec.DecodeError(f"version {version} is not known", where="card")
        return cls(name, model_hash, context_bytes, summary, tuple(domains), parameters, tuple(methods))

    @property
    def capabilities_hash(self) -> bytes:
        """32 bytes: what the chain's serving record says."""
        return crypto.digest("card", self.encode())


@dataclass(frozen=True, slots=True)
class Sampling:
    """How text is drawn. `temperature` 0 takes the likeliest byte; a `stop` ends the text and is left out of it."""

    max_units: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    stops: tuple[bytes, ...] = field(default=())


class Model(Protocol):
    """A model behind a neuron."""

    def card(self) -> Card:
        """Who this is. Asked again at each session: a model that goes on training changes its hash."""
        ...

    def next_bytes(self, windows: Sequence[bytes]) -> Any:
        """Probabilities of the next byte after each window, (len(windows), 256), any positive scale."""
        ...

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        """Text after `prompt`, in pieces of a few bytes, so that it streams and can be stopped between them."""
        ...


def write_bytes(model: Model, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
    """`write` of any model that has `next_bytes`: one byte at a time, handed out 16 at a time.

    A stop sequence may straddle two pieces, so as many bytes as the longest stop could still need are held back.
    """
    from ai.distribution import decode_distribution, encode_distributions

    rng = random.Random(sampling.seed)
    hold = max((len(stop) - 1 for stop in sampling.stops), default=0)
    text, sent = bytearray(), 0
    for _ in range(sampling.max_units):
        answer = encode_distributions(model.next_bytes([prompt + bytes(text)]))
        text.append(draw(decode_distribution(answer), sampling, rng))
        ends = [len(text) - len(stop) for stop in sampling.stops if stop and text.endswith(stop)]
        if ends:
            del text[min(ends) :]
            break
        if len(text) - hold - sent >= UNITS_PER_CHUNK:
            yield bytes(text[sent : len(text) - hold])
            sent = len(text) - hold
    if len(text) > sent:
        yield bytes(text[sent:])


def draw(probabilities: Any, sampling: Sampling, rng: random.Random) -> int:
    """One byte 0..255 from probabilities (256,), by temperature and nucleus (`top_p`)."""
    import numpy as np

    values = np.asarray(probabilities, dtype=np.float64)
    if sampling.temperature <= 0:
        return int(values.argmax())
    logs = np.full(256, -np.inf)
    np.log(values, out=logs, where=values > 0)
    values = np.exp((logs - logs.max()) / sampling.temperature)
    order = np.argsort(-values, kind="stable")
    sums = np.cumsum(values[order])
    kept = int(np.searchsorted(sums, sampling.top_p * sums[-1])) + 1
    place = np.searchsorted(sums[:kept], rng.random() * sums[min(kept, 256) - 1], side="right")
    return int(order[min(int(place), kept - 1, 255)])
