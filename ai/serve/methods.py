"""The methods of a neuron: `distribution`, `text` and `card`. Subnets' task kinds may add methods by name.

A method is a coroutine over a `Call`: it reads `call.body`, gives answers, and where the caller announced asks it takes
them until there are no more. It returns when the session is complete; the server signs the closing.

    distribution   body = CBOR [prefixes], at most 64 byte strings; ASK = CBOR list with one byte string per window of
                   the session to append (empty: this window is done and stays so); ANSWER = 98 bytes for each window
                   that is not done, in order
    text           body = CBOR [messages, max_units, temperature_milli, top_p_milli, seed, stops], max_asks 0;
                   ANSWER = pieces of text
    card           body empty; ANSWER = the expert descriptor that hashes to the capabilities hash on chain
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from ai.models.model import Card, Sampling
from ledger import codec
from ledger.codec import U32, Bytes, Int, ListOf, Record, Text
from ledger.errors import DecodeError

from .frames import BODY_MAX_BYTES, OpenBody
from .refusals import Refused

MAX_WINDOWS: Final = 64
MAX_TEXT_UNITS: Final = 512
MAX_MESSAGES: Final = 64
MAX_STOPS: Final = 4
STOP_MAX_BYTES: Final = 64
MAX_TEMPERATURE_MILLI: Final = 5_000


class Call(Protocol):
    """A session as a method sees it."""

    body: bytes
    units_in: int
    units_out: int
    upstream: list[tuple[bytes, bytes]]  # (open_id, receipt) of sessions used for this one

    @property
    def opened(self) -> OpenBody:
        """What the caller signed."""
        ...

    @property
    def open_id(self) -> bytes:
        """The session's name."""
        ...

    def card(self) -> Card:
        """The model's card at the start of the session."""
        ...

    def answer(self, payload: bytes) -> None:
        """Send the next answer."""
        ...

    async def next_ask(self) -> bytes | None:
        """The caller's next ask, or None when it finished (at once where it announced none)."""
        ...

    async def predict(self, windows: Sequence[bytes]) -> bytes:
        """98 bytes a window from the model, batched with other sessions'."""
        ...

    async def next_piece(self, pieces: Iterator[bytes]) -> bytes | None:
        """The next item of a model's iterator, computed in its thread; None at the end."""
        ...

    def write(self, prompt: bytes, sampling: Sampling) -> Iterator[bytes]:
        """The model's text after a prompt; nothing is computed before `next_piece`."""
        ...


@dataclass(frozen=True, slots=True)
class Method:
    """How a method runs, and whether a caller may announce asks for it."""

    run: Callable[[Call], Awaitable[None]]
    takes_asks: bool = False


_PREFIXES = Record("distribution", prefixes=ListOf(Bytes(high=BODY_MAX_BYTES), MAX_WINDOWS, 1))
_APPENDED = ListOf(Bytes(high=BODY_MAX_BYTES), MAX_WINDOWS, 1)
_TEXT = Record(
    "text",
    messages=ListOf(Record("message", role=Text(16), content=Bytes(high=BODY_MAX_BYTES)), MAX_MESSAGES, 1),
    max_units=Int(1, MAX_TEXT_UNITS, "units"),
    temperature_milli=Int(0, MAX_TEMPERATURE_MILLI, "temperature"),
    top_p_milli=Int(1, 1000, "top_p"),
    seed=U32,
    stops=ListOf(Bytes(low=1, high=STOP_MAX_BYTES), MAX_STOPS),
)


def encode_prefixes(prefixes: Iterable[bytes]) -> bytes:
    """Body of a `distribution` session."""
    return codec.encode([list(prefixes)])


def encode_appended(parts: Iterable[bytes]) -> bytes:
    """An ASK of a `distribution` session: one byte string for each window of the session."""
    return codec.encode(list(parts))


def read_appended(payload: bytes) -> list[bytes]:
    """Reverse of `encode_appended`. Raises Refused malformed."""
    return _read(payload, _APPENDED)


class Windows:
    """The windows of one `distribution` session, of which only as much is kept as the model looks at."""

    def __init__(self, body: bytes, context_bytes: int) -> None:
        """Raises Refused malformed."""
        self._context = max(1, context_bytes)
        self._texts: list[bytes | None] = [part[-self._context :] for part in _read(body, _PREFIXES)[0]]

    @property
    def running(self) -> list[bytes]:
        """Texts of the windows that are not done, in order."""
        return [text for text in self._texts if text is not None]

    @property
    def numbered(self) -> list[tuple[int, bytes]]:
        """The same with the numbers they have in the session."""
        return [(index, text) for index, text in enumerate(self._texts) if text is not None]

    def append(self, payload: bytes) -> int:
        """Apply an ASK; returns how many bytes it added. Raises Refused malformed."""
        parts = read_appended(payload)
        if len(parts) != len(self._texts):
            raise Refused("malformed", f"{len(parts)} parts for {len(self._texts)} windows")
        for index, (text, part) in enumerate(zip(self._texts, parts, strict=True)):
            if text is None and part:
                raise Refused("malformed", f"window {index} is done")
            self._texts[index] = (text + part)[-self._context :] if text is not None and part else None
        return sum(map(len, parts))


async def distribution(call: Call) -> None:
    """Next-byte distributions, lock-step where asks were announced."""
    windows = Windows(call.body, call.card().context_bytes)
    call.units_in += sum(map(len, windows.running))
    while True:
        running = windows.running
        call.answer(await call.predict(running))
        call.units_out += len(running)
        ask = await call.next_ask()
        if ask is None:
            return
        call.units_in += windows.append(ask)


@dataclass(frozen=True, slots=True)
class TextRequest:
    """Body of a `text` session. `messages`: (role, content) pairs; a completion is one message of role "prompt"."""

    messages: tuple[tuple[str, bytes], ...]
    sampling: Sampling

    def encode(self) -> bytes:
        """Raises DecodeError where a field is over its bound."""
        s = self.sampling
        value = [
            [list(message) for message in self.messages], s.max_units, round(s.temperature * 1000),
            round(s.top_p * 1000), s.seed, list(s.stops),
        ]  # fmt: skip
        _TEXT.check(value)
        return codec.encode(value)

    @classmethod
    def decode(cls, body: bytes) -> TextRequest:
        """Raises Refused malformed."""
        messages, max_units, temperature, top_p, seed, stops = _read(body, _TEXT)
        sampling = Sampling(max_units, temperature / 1000, top_p / 1000, seed, tuple(stops))
        return cls(tuple((role, content) for role, content in messages), sampling)

    def prompt(self) -> bytes:
        """What a model without roles reads: the contents, one below the other."""
        return b"\n".join(content for _, content in self.messages)


async def text(call: Call) -> None:
    """Text in pieces, each sent as soon as it is there."""
    request = TextRequest.decode(call.body)
    prompt = request.prompt()
    call.units_in += len(prompt)
    pieces = call.write(prompt, request.sampling)
    while (piece := await call.next_piece(pieces)) is not None:
        call.answer(piece)
        call.units_out += len(piece)


async def card(call: Call) -> None:
    """The descriptor behind the capabilities hash."""
    if call.body:
        raise Refused("malformed", "card has no body")
    call.answer(call.card().encode())


METHODS: Final[dict[str, Method]] = {
    "distribution": Method(distribution, takes_asks=True),
    "text": Method(text),
    "card": Method(card),
}


def _read(data: bytes, shape: codec.Shape) -> list[Any]:
    try:
        value: list[Any] = codec.decode(data, max_bytes=BODY_MAX_BYTES, where=shape.name)
        if not shape.fits(value):
            shape.check(value, shape.name)
    except DecodeError as error:
        raise Refused("malformed", error.cause) from None
    return value
