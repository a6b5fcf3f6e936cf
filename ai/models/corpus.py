"""Eight domains of text that come with Python: what the experts are trained on and what validators probe with.

Nothing is downloaded. `code` and `english` are the standard library's sources and manual, `uniname` the Unicode tables;
the other five are generated from a seed that is the CRC-32 of the domain's name. The same Python yields the same bytes.
The last tenth of each domain, contiguous, is held out: nobody trains on it.

`identity()` names the corpus without generating it: the version of this file, of Python and of its Unicode tables, and
the names and sizes of the library's sources. Generated text is cached beside the models, with its hash in front.
"""

from __future__ import annotations

import json
import random
import sys
import sysconfig
import unicodedata
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

from ai.files import read_verified, write_atomic
from ledger.errors import NotFound

DOMAINS: Final = ("code", "english", "arith", "json", "csv", "dna", "uniname", "log")
CORPUS_VERSION: Final = 1
DOMAIN_BYTES: Final = 1_200_000
HELD_OUT_SHARE: Final = 10  # one part in ten
CACHE_FILE_MAX_BYTES: Final = DOMAIN_BYTES + 32


@dataclass(frozen=True, slots=True)
class Corpus:
    """One domain: `train` is the first nine tenths of its bytes, `held_out` the rest."""

    domain: str
    train: bytes
    held_out: bytes


def load(domain: str, cache: Path | None = None) -> Corpus:
    """The corpus of one of DOMAINS, from `cache` (a directory) if it is there, else generated and stored there.

    Raises NotFound for an unknown domain, or where this Python came without its manual or sources.
    """
    if domain not in DOMAINS:
        raise NotFound(f"no domain {domain!r}", hint=f"one of {', '.join(DOMAINS)}")
    path = cache / "corpus" / identity() / f"{domain}.bytes" if cache is not None else None
    data = read_verified(path, max_bytes=CACHE_FILE_MAX_BYTES) if path is not None else None
    if data is None:
        data = generate(domain)
        if path is not None:
            write_atomic(path, blake2b(data, digest_size=32).digest() + data)
    cut = len(data) - len(data) // HELD_OUT_SHARE
    return Corpus(domain, data[:cut], data[cut:])


def generate(domain: str, size_bytes: int = DOMAIN_BYTES) -> bytes:
    """The domain's text, at most `size_bytes`; deterministic."""
    rng = random.Random(zlib.crc32(domain.encode()))
    pieces: list[bytes] = []
    total = 0
    for piece in _GENERATORS[domain](rng):
        pieces.append(piece)
        total += len(piece)
        if total >= size_bytes:
            break
    if not total:
        raise NotFound(f"this Python has no text for the domain {domain!r}", hint="install the full standard library")
    return b"".join(pieces)[:size_bytes]


@lru_cache(maxsize=1)
def identity() -> str:
    """16 hex digits that name the corpus of this Python; cheap (file names and sizes, no contents)."""
    inventory = [(str(path.relative_to(_stdlib())), path.stat().st_size) for path in _library_sources()]
    facts = (CORPUS_VERSION, DOMAIN_BYTES, tuple(sys.version_info[:3]), unicodedata.unidata_version, inventory)
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()


# --- what ships with Python --------------------------------------------------------------------------------------

_LEFT_OUT = frozenset(
    ("site-packages", "dist-packages", "test", "tests", "pydoc_data", "encodings", "lib2to3", "__pycache__")
)


def _stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def _library_sources() -> list[Path]:
    """The library's modules and those of its packages one level down, in a fixed order."""
    found = [*_stdlib().glob("*.py"), *_stdlib().glob("[a-z]*/*.py")]
    return sorted(path for path in found if not _LEFT_OUT.intersection(path.relative_to(_stdlib()).parts))


def _code(rng: random.Random) -> Iterable[bytes]:
    sources = _library_sources()
    rng.shuffle(sources)
    for path in sources:
        yield path.read_bytes() + b"\n"


def _english(rng: random.Random) -> Iterable[bytes]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        return
    names = sorted(topics)
    rng.shuffle(names)
    for name in names:
        yield topics[name].encode() + b"\n\n"


_UNNAMED = ("CJK UNIFIED", "HANGUL SYL", "TANGUT", "CUNEIFORM")
_FIRST_CODE_POINT, _END_CODE_POINT = 0x21, 0x2FA20
_NAMES_PER_BLOCK = 20


def _uniname(rng: random.Random) -> Iterable[bytes]:
    lines = []
    for point in range(_FIRST_CODE_POINT, _END_CODE_POINT):
        name = unicodedata.name(chr(point), "")
        if name and not any(part in name for part in _UNNAMED):
            lines.append(f"{point:05X};{name};{unicodedata.category(chr(point))}\n")
    blocks = [lines[at : at + _NAMES_PER_BLOCK] for at in range(0, len(lines), _NAMES_PER_BLOCK)]
    rng.shuffle(blocks)
    for block in blocks:
        yield "".join(block).encode()


# --- what is generated -------------------------------------------------------------------------------------------

_PEOPLE = (
    "alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory", "nina", "oscar",
    "peggy", "quinn", "rupert", "sybil", "trent", "uma", "victor",
)  # fmt: skip
_CITIES = (
    "lisbon", "oslo", "quito", "nairobi", "osaka", "lima", "cairo", "hanoi", "paris", "delhi", "accra", "tunis",
)  # fmt: skip


def _arith(rng: random.Random) -> Iterable[bytes]:
    operations: dict[str, Callable[[int, int], int]] = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    while True:
        left, right, sign = rng.randint(0, 99), rng.randint(0, 99), rng.choice("+-*")
        yield f"{left}{sign}{right}={operations[sign](left, right)}\n".encode()


def _json(rng: random.Random) -> Iterable[bytes]:
    while True:
        record = {
            "id": rng.randint(1, 99999),
            "user": rng.choice(_PEOPLE),
            "city": rng.choice(_CITIES),
            "active": rng.random() < 0.5,
            "tags": rng.sample(_CITIES, rng.randint(0, 3)),
            "score": round(rng.random(), 2),
            "parent": rng.choice([None, rng.randint(1, 999)]),
        }
        yield json.dumps(record).encode() + b"\n"


def _csv(rng: random.Random) -> Iterable[bytes]:
    order = 1000
    while True:
        order += 1
        quantity, price = rng.randint(1, 20), rng.choice([5, 10, 15, 20, 25, 50])
        date = f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d}"
        yield f"{order},{date},{rng.choice(_PEOPLE)},{quantity},{price},{quantity * price}\n".encode()


_CODONS = ("ATG", "GCC", "AAG", "GAT", "CTG", "GGC", "TTC", "ACC", "CAG", "TAA")
_SUCCESSOR_WEIGHTS = (7, 2, 1)


def _dna(rng: random.Random) -> Iterable[bytes]:
    """A Markov chain over ten codons, each with three successors."""
    table = random.Random(7)
    successors = {codon: table.sample(_CODONS, len(_SUCCESSOR_WEIGHTS)) for codon in _CODONS}
    codon = _CODONS[0]
    while True:
        yield codon.encode()
        codon = rng.choices(successors[codon], _SUCCESSOR_WEIGHTS)[0]


def _log(rng: random.Random) -> Iterable[bytes]:
    second = 1_700_000_000
    while True:
        second += rng.randint(0, 9)
        level = rng.choices(["INFO", "WARN", "ERROR"], [8, 2, 1])[0]
        message = rng.choice(
            [
                f"peer connected id={rng.randint(0, 0xFFFF):04x}",
                f"block imported height={second % 100_000} txs={rng.randint(0, 40)}",
                f"GET /v1/models 200 {rng.randint(1, 90)}ms",
                f"timeout after {rng.choice([5, 10, 30])}s peer={rng.randint(0, 0xFFFF):04x}",
            ]
        )
        yield f"{second} {level} {message}\n".encode()


_GENERATORS: Final[dict[str, Callable[[random.Random], Iterable[bytes]]]] = {
    "code": _code,
    "english": _english,
    "arith": _arith,
    "json": _json,
    "csv": _csv,
    "dna": _dna,
    "uniname": _uniname,
    "log": _log,
}
