"""Task kinds: what a validator asks the neurons of a subnet, and how it scores the answers.

The subnet's identity on chain names its kind; without one it is byte prediction. A kind is a plug-in of one method:

    class Riddles:
        async def probe(self, asked: Asked) -> Outcome: ...

    ValidatorConfig(..., tasks={"riddles": "my_package.my_module:make"})      # make(TaskSetup) -> Riddles

Built in are `bytes` (byte prediction: lock-step probes, Shapley values of the mixture), `exact` (questions with one right
answer) and `judged` (texts compared in pairs). Whatever a neuron does or fails to do costs it its score and nothing else.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final, Protocol

from ai.serve.client import NeuronAddress, NeuronClient
from ledger.errors import UsageError

from .conduct import Conduct
from .mixture import Floats

DEFAULT_KIND: Final = "bytes"


@dataclass(frozen=True)
class Asked:
    """One batch: whom to ask, on which subnet. `names` are those that the chain knows, empty where it knows none.

    `random` draws questions, cuts and groups; it is secret until the weights are revealed.
    """

    client: NeuronClient
    neurons: Sequence[NeuronAddress]
    names: Sequence[str]
    netuid: int
    random: Random

    @property
    def hotkeys(self) -> list[bytes]:
        """Of the neurons, in their order."""
        return [neuron.hotkey for neuron in self.neurons]


@dataclass(frozen=True)
class Outcome:
    """Scores of one batch, in the order of the neurons: non-negative and finite, 0 for who did not answer.

    `answered`: how many of the `asked` questions each answered in a way that counts; `details`: what the validator's table
    shows beside it, each a list of numbers or words in the same order.
    """

    scores: Floats
    answered: list[int]
    asked: int
    details: dict[str, list[Any]] = field(default_factory=dict)


class Task(Protocol):
    """A kind of task, for one subnet. It may remember what it saw."""

    async def probe(self, asked: Asked) -> Outcome:
        """Ask and score one batch. Never raises for what a neuron does."""
        ...


@dataclass(frozen=True)
class TaskSetup:
    """What a task kind may use. `texts`: held-out text by domain; `conduct`: what is known of the subnet's neurons."""

    texts: Mapping[str, bytes]
    windows: int
    cuts: int
    step_timeout_s: float
    conduct: Conduct
    options: Mapping[str, Any] = field(default_factory=dict)


MakeTask = Callable[[TaskSetup], Task]

BUILT_IN: Final[dict[str, str]] = {
    "bytes": "ai.judge.byte_task:BytePrediction",
    "exact": "ai.judge.exact_task:ExactAnswers",
    "judged": "ai.judge.judged_task:JudgedText",
}


def make_task(kind: str, setup: TaskSetup, plug_ins: Mapping[str, str] | None = None) -> Task:
    """The task kind of that name. Raises UsageError where nobody knows it."""
    known = {**BUILT_IN, **(plug_ins or {})}
    place = known.get(kind or DEFAULT_KIND)
    if place is None:
        raise UsageError(f"no task kind {kind[:32]!r}", hint=f"known: {', '.join(sorted(known))}; see ai/judge/tasks.py")
    module, _, name = place.partition(":")
    try:
        make: MakeTask = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise UsageError(f"task kind {kind!r} is not at {place}", hint="it is given as module:function") from None
    return make(setup)
