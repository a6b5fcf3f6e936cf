"""Exact answers: questions with one right answer, made anew for each batch from the validator's randomness.

The value of a coalition is the part of the questions that at least one of its members answers rightly. Its Shapley values
need no table of coalitions: a question's worth is shared evenly by those who solved it. Neurons that give the same wrong
answers to several questions are one player: they share what one would get.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Final

import numpy as np

from ai.models.model import Sampling
from ledger.errors import UsageError

from .answers import ask_texts
from .clusters import clusters
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
        scores, groups = score_exact(given, [question.answer for question in questions])
        player = {member: number for number, group in enumerate(groups) for member in group}
        right = [sum(a == q.answer for a, q in zip(row, questions, strict=True)) for row in given]
        details: dict[str, list[object]] = {"right": list(right), "player": [player[i] for i in range(len(given))]}
        return Outcome(scores, [sum(map(bool, row)) for row in given], len(questions), details)


def first_line(text: bytes) -> bytes:
    """What counts as the answer: the first line, without the space around it."""
    return text.strip().partition(b"\n")[0].strip()


def score_exact(given: list[list[bytes]], answers: list[bytes]) -> tuple[Floats, list[list[int]]]:
    """(scores, players): each question's worth, 1 / count, is shared by the players that have a member who solved it."""
    groups = clusters(len(given), _copies(given, answers))
    scores = np.zeros(len(given))
    for place, answer in enumerate(answers):
        solved = [[i for i in group if given[i][place] == answer] for group in groups]
        solvers = [members for members in solved if members]
        for members in solvers:
            scores[members] += 1.0 / len(solvers) / len(members) / len(answers)
    return scores, groups


def _copies(given: list[list[bytes]], answers: list[bytes]) -> frozenset[tuple[int, int]]:
    """Pairs that are wrong in the same way too often to be of two minds."""
    wrong = [{(k, a) for k, (a, right) in enumerate(zip(row, answers, strict=True)) if a and a != right} for row in given]
    n = len(given)
    return frozenset((i, j) for i in range(n) for j in range(i + 1, n) if len(wrong[i] & wrong[j]) >= SHARED_ERRORS)
