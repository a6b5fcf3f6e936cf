"""What a world is made of: how many authorities, which trouble, which actors. `Plan.random` draws one from a seed.

Swarm testing: every seed switches off each kind of trouble with a probability of its own, so that some worlds know only
crashes, some only a liar, and some everything at once. `without` switches off more, to find what a failure needs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, Final

from ledger.votes import max_faulty

from .actors import KINDS
from .network import Weather

BLOCK_TIME_MS: Final = 250
TROUBLE_MS: Final = 4_000
SIZES: Final = (1, 2, 3, 4, 4, 4, 4, 5, 5, 7, 7, 10)
HOUR_MS: Final = 3_600_000


@dataclass(frozen=True)
class ClockStep:
    """At `at_ms` the wall clock of `index` (None: of everybody) jumps by `step_ms`; when the trouble ends it is right again,
    except where all jumped alike."""

    at_ms: int
    index: int | None
    step_ms: int


@dataclass(frozen=True)
class Plan:
    """The defaults are a quiet world of four. Times are ms since the start; indexes are of the first authority set."""

    n: int = 4
    actors: Mapping[int, str] | None = None  # kinds, joined by "+", of the authorities that are not honest
    weather: Weather | None = None
    crash: float = 0.0  # probability before each effect and around each write, until the trouble ends
    crash_points: tuple[tuple[int, int], ...] = ()  # (index, number): before that one of all effects and writes of a node
    blackouts: tuple[int, ...] = ()  # all power fails at once
    skew_ms: int = 0  # clocks are off by up to this
    clock_steps: tuple[ClockStep, ...] = ()
    slow_disk_ms: int = 6
    followers: int = 0
    real_signatures: bool = False
    line: bool = False  # each node is connected with the one before and the one after, no others
    late_followers_ms: int = 0  # followers start only then
    trouble_ms: int = TROUBLE_MS
    block_time_ms: int = BLOCK_TIME_MS
    runtime: bool = False  # the real rules; else a counter
    users: int = 0  # accounts that send transactions (runtime)
    candidates: int = 0  # keys that may join the set
    set_changes: bool = False  # the set grows and shrinks at the session's ends (runtime)
    session_blocks: int = 100
    rewinds: tuple[int, ...] = ()  # the devnet is taken back by a few blocks

    @classmethod
    def random(cls, seed: int, max_n: int = 5) -> Plan:
        """The world of a seed."""
        rng = Random(f"plan {seed}")
        n = rng.choice([size for size in SIZES if size <= max_n])
        bad = rng.sample(range(n), rng.choice((0, max_faulty(n), max_faulty(n))))
        set_changes = rng.random() < 0.2
        has_candidate = set_changes or rng.random() < 0.1
        return cls(
            n=n, actors={index: _kinds(rng) for index in bad}, weather=Weather.random(rng, n, TROUBLE_MS),
            crash=rng.choice((0.0, 0.0, 0.001, 0.003, 0.01)),
            blackouts=tuple(rng.randint(500, TROUBLE_MS) for _ in range(rng.choice((0, 0, 0, 1, 2)))),
            skew_ms=rng.choice((0, 0, 200, 500)), clock_steps=_clock_steps(rng, n), slow_disk_ms=rng.choice((1, 6, 30, 150)),
            followers=rng.choice((0, 0, 1)), real_signatures=rng.random() < 0.05, runtime=True,
            users=rng.choice((0, 2, 4)), candidates=int(has_candidate), set_changes=set_changes,
            session_blocks=rng.choice((3, 5)) if set_changes else rng.choice((5, 100)),
            rewinds=tuple(rng.randint(1_000, TROUBLE_MS) for _ in range(rng.choice((0,) * 8 + (1, 2)))),
            late_followers_ms=rng.choice((0, 0, TROUBLE_MS - 500)),
        )

    @property
    def faults(self) -> tuple[str, ...]:
        """Names of the kinds of trouble that are switched on; `without` takes them."""
        return tuple(name for name in FAULTS if self.without((name,)) != self)

    def without(self, names: Iterable[str], trouble_ms: int | None = None) -> Plan:
        """The same with these kinds of trouble switched off, and perhaps a shorter time of trouble."""
        plan = self
        for name in names:
            if name in _WEATHER:
                plan = replace(plan, weather=plan.weather and replace(plan.weather, **{name: _WEATHER[name]}))
            else:
                plan = replace(plan, **{field: _DEFAULTS[field] for field in FAULTS[name]})
        if trouble_ms is not None:
            plan = replace(
                plan, trouble_ms=trouble_ms, weather=plan.weather and plan.weather.until(trouble_ms),
                clock_steps=tuple(step for step in plan.clock_steps if step.at_ms < trouble_ms),
                blackouts=tuple(at_ms for at_ms in plan.blackouts if at_ms < trouble_ms),
                rewinds=tuple(at_ms for at_ms in plan.rewinds if at_ms < trouble_ms),
            )
        return plan


_DEFAULTS: Final[dict[str, Any]] = {field.name: field.default for field in fields(Plan)}
_DEFAULTS["actors"] = {}
_WEATHER: Final[dict[str, Any]] = {"drop": 0.0, "duplicate": 0.0, "latency_ms": 5, "partitions": ()}
FAULTS: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(_WEATHER, ()), "actors": ("actors",), "crash": ("crash",), "blackouts": ("blackouts",),
    "skew": ("skew_ms",), "clock_steps": ("clock_steps",), "slow_disk": ("slow_disk_ms",),
    "followers": ("followers", "late_followers_ms"),
    "users": ("users",), "set_changes": ("set_changes", "candidates", "session_blocks"), "rewinds": ("rewinds",),
    "real_signatures": ("real_signatures",),
}


def _kinds(rng: Random) -> str:
    """One way to break the rules, sometimes two at once."""
    return "+".join(rng.sample(KINDS, rng.choice((1, 1, 2))))


def _clock_steps(rng: Random, n: int) -> tuple[ClockStep, ...]:
    steps = []
    for _ in range(rng.choice((0, 0, 0, 1, 2))):
        step_ms = rng.choice((-HOUR_MS, -HOUR_MS, -5_000, -700, 700, 5_000, HOUR_MS))
        steps.append(ClockStep(rng.randint(0, TROUBLE_MS), rng.choice((None, rng.randrange(n))), step_ms))
    return tuple(steps)
