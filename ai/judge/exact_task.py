"""Exact answers: questions with one right answer, made anew for each batch from the validator's randomness.

The value of a coalition is the part of the questions that at least one of its members answers rightly. Its Shapley values
need no table of coalitions: a question's worth is shared evenly by those who solved it. Two neurons that give the same wrong
answers to several questions are alike, and where both solve a question they share what one would get. Who is alike is
looked at pair by pair: a third that copies the errors of two makes these two no copies of each other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ai.models.model import Sampling
from ledger.errors import UsageError

from .answers import ask_texts
from .mixture import Floats
from .tasks import Asked, Outcome, TaskSetup

QUESTIONS: Final = 12
MAX_ANSWER_BYTES: Final = 64
SHARED_ERRORS: Final = 3  # equal wrong answers that make two neurons one player
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Question:
    """A prompt and its only right answer."""

    prompt: bytes
    answer: bytes


def sums(random: Random) -> Question:
    """Addition of three numbers, one of them subtracted."""
    a, b, c = (random.randrange(10, 1000) for _ in range(3))
    return Question(b"%d+%d-%d=" % (a, b, c), b"%d" % (a + b - c))


def products(random: Random) -> Question:
    """Multiplication."""
    a, b = random.randrange(2, 100), random.randrange(2, 100)
    return Question(b"%d*%d=" % (a, b), b"%d" % (a * b))


def reversals(random: Random) -> Question:
    """A word backwards."""
    word = "".join(random.choices(LETTERS, k=random.randrange(4, 9)))
    return Question(f"reverse {word}: ".encode(), word[::-1].encode())


def orders(random: Random) -> Question:
    """Numbers in ascending order."""
    numbers = random.sample(range(100), 4)
    return Question(f"sort {' '.join(map(str, numbers))}: ".encode(), " ".join(map(str, sorted(numbers))).encode())


def counts(random: Random) -> Question:
    """How often a letter occurs."""
    letter = random.choice(LETTERS)
    word = "".join(random.choices(LETTERS[:6] + letter, k=random.randrange(6, 14)))
    return Question(f"count {letter} in {word}: ".encode(), str(word.count(letter)).encode())


FAMILIES: Final[dict[str, Callable[[Random], Question]]] = {
    "sums": sums, "products": products, "reversals": reversals, "orders": orders, "counts": counts,
}  # fmt: skip


class ExactAnswers:
    """One subnet's questions. Options: `families` (names), `questions` in a batch."""

    def __init__(self, setup: TaskSetup) -> None:
        names = list(setup.options.get("families", FAMILIES))
        unknown = [name for name in names if name not in FAMILIES]
        if unknown or not names:
            raise UsageError(f"no family of questions {unknown[:1] or names}", hint=f"known: {', '.join(FAMILIES)}")
        self._families = [FAMILIES[name] for name in names]
        self._count = int(setup.options.get("questions", QUESTIONS))
        if not 1 <= self._count <= 64:
            raise UsageError("a batch has 1 to 64 questions")

    async def probe(self, asked: Asked) -> Outcome:
        questions = [self._families[i % len(self._families)](asked.random) for i in range(self._count)]
        sampling = Sampling(max_units=MAX_ANSWER_BYTES, temperature=0.0, stops=(b"\n",))
        texts = await ask_texts(asked, [question.prompt for question in questions], sampling)
        given = [[first_line(text) for text in row] for row in texts]
        scores, copies = score_exact(given, [question.answer for question in questions])
        right = [sum(a == q.answer for a, q in zip(row, questions, strict=True)) for row in given]
        details: dict[str, list[object]] = {"right": list(right), "copies": list(copies)}
        return Outcome(scores, [sum(map(bool, row)) for row in given], len(questions), details)


def first_line(text: bytes) -> bytes:
    """What counts as the answer: the first line, without the space around it."""
    return text.strip().partition(b"\n")[0].strip()


def score_exact(given: list[list[bytes]], answers: list[bytes]) -> tuple[Floats, list[int]]:
    """(scores, how many each is alike to, itself included): a question's worth, 1 / count, goes to those who solved it."""
    alike = _alike(given, answers)
    scores = np.zeros(len(given))
    for place, answer in enumerate(answers):
        solvers = [i for i, row in enumerate(given) if row[place] == answer]
        if solvers:
            parts = 1.0 / alike[np.ix_(solvers, solvers)].sum(axis=1)
            scores[solvers] += parts / parts.sum() / len(answers)
    return scores, [int(count) for count in alike.sum(axis=1)]


def _alike(given: list[list[bytes]], answers: list[bytes]) -> NDArray[np.int64]:
    """(n, n) ones for pairs that are wrong in the same way too often to be of two minds, and for each with itself."""
    wrong = [{(k, a) for k, (a, right) in enumerate(zip(row, answers, strict=True)) if a and a != right} for row in given]
    shared = np.array([[len(one & other) for other in wrong] for one in wrong], dtype=np.int64).reshape(len(given), len(given))
    out: NDArray[np.int64] = (shared >= SHARED_ERRORS).astype(np.int64)
    np.fill_diagonal(out, 1)
    return out
