"""Byte prediction: lock-step probes with secret cuts, exact Shapley values, elders first, relays discounted."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from random import Random
from typing import Final

from .mixture import Floats
from .probes import MAX_WINDOWS, BatchResult, Window, ask_batch, plan_batch
from .repeats import Repeats
from .shapley import score_batch
from .tasks import Asked, Outcome, TaskSetup

HULL_POSITIONS: Final = 128  # answers of a batch that are compared with mixtures of others


class BytePrediction:
    """One subnet's byte prediction."""

    def __init__(self, setup: TaskSetup) -> None:
        self._setup = setup
        self._repeats = Repeats()

    async def probe(self, asked: Asked) -> Outcome:
        setup, again = self._setup, self._repeats.windows
        count = min(setup.windows, MAX_WINDOWS - len(again))
        windows = plan_batch(self._texts(asked.names), count, setup.cuts, asked.random) + again
        asked.random.shuffle(windows)
        result = await ask_batch(
            asked.client, asked.neurons, asked.netuid, windows, step_timeout_s=setup.step_timeout_s,
            hops=asked.random.randrange(2),
        )
        changes = self._repeats.note(asked.hotkeys, windows, result)
        seed = asked.random.getrandbits(64)
        known = set(again)
        return await asyncio.to_thread(self._score, asked.hotkeys, windows, known, result, changes, Random(seed))

    def _score(
        self, hotkeys: list[bytes], windows: list[Window], known: set[Window], result: BatchResult,
        changes: dict[bytes, float | None], random: Random,
    ) -> Outcome:  # fmt: skip
        new = [index for index, window in enumerate(windows) if window not in known]
        hits: Floats = result.hits[:, new]
        places = [(window, cut) for window in new for cut in range(hits.shape[2])]
        answers = result.distributions(sorted(random.sample(places, min(HULL_POSITIONS, len(places)))))
        conduct = self._setup.conduct
        conduct.moved(changes)
        standing = conduct.judge(hotkeys, hits, answers)
        # Who answered nothing does not play: even a null player would take a little of the others' weight.
        players = [group for group in standing.groups if any(result.answered[member] for member in group)]
        phi = score_batch(hits, players, random)
        player = {member: number for number, group in enumerate(players) for member in group}
        details: dict[str, list[object]] = {
            "shapley": [float(value) for value in phi],
            "residual": [float(bits) for bits in standing.residuals],
            "factor": [float(value) for value in standing.factors],
            "player": [player.get(i, -1) for i in range(len(hotkeys))],
            "motion": [conduct.motion.get(hotkey, 0.0) for hotkey in hotkeys],
        }
        return Outcome(phi * standing.factors, result.answered, hits.shape[2], details)

    def _texts(self, names: Sequence[str]) -> dict[str, bytes]:
        """The domains that matter on a subnet: those of its neurons by name, or all where names say nothing."""
        texts = self._setup.texts
        named = set(names) & set(texts)
        return {domain: texts[domain] for domain in (named or texts)}
