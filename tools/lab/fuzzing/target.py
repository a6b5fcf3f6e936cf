"""What a target of the fuzzer is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ledger.errors import DecodeError

MAX_INPUT_MS: Final = 5.0

Reader = Callable[[bytes], Any]


@dataclass(frozen=True)
class Target:
    """One decoder. `form`: cbor, json, toml or bytes; `lead`: bytes before the encoding of form cbor.

    `read` raises one of `refuses` or returns a value; where `write` is given, an accepted input must come out of it byte
    for byte. `covers` names the functions under test.
    """

    name: str
    form: str
    samples: Callable[[], Sequence[bytes]]
    read: Reader
    write: Callable[[Any], bytes] | None = None
    refuses: tuple[type[Exception], ...] = (DecodeError,)
    covers: tuple[str, ...] = ()
    lead: int = 0
    max_ms: float = MAX_INPUT_MS  # CPU time for one input of at most 1 MiB
    slow: bool = False  # costs many times the others: a run takes fewer of them


def one(sample: bytes) -> Callable[[], Sequence[bytes]]:
    """Samples of a target that has a single one."""
    return lambda: [sample]
