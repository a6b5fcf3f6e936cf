"""Questions that are asked again: how far does an expert move from its own earlier answers?

A few windows of each batch are asked again in the four batches after it, among the new ones and in the same form. Their
bytes are known by then, so they are not scored; what counts is how much the answers differ from those given before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from ai.distribution import decode_distributions

from .probes import BatchResult, Window

KEPT: Final = 4  # windows that are asked again in each batch, the oldest replaced by a new one


@dataclass
class _Kept:
    """A window, and by hotkey what it was answered last: 98 bytes a cut."""

    window: Window
    answers: dict[bytes, list[bytes]] = field(default_factory=dict)


class Repeats:
    """The windows that a validator asks a subnet again. They are forgotten when it ends."""

    def __init__(self) -> None:
        self._kept: list[_Kept] = []

    @property
    def windows(self) -> list[Window]:
        """To be asked again in the next batch, beside the new ones."""
        return [kept.window for kept in self._kept]

    def note(self, hotkeys: Sequence[bytes], windows: Sequence[Window], result: BatchResult) -> dict[bytes, float | None]:
        """Take in a batch in which all of `windows` were asked, some of them again.

        Returns the mean change of who answered (total variation, 0..1), None where it had not answered any of them before.
        """
        place = {window: index for index, window in enumerate(windows)}
        changes: dict[bytes, float | None] = {}
        for neuron, hotkey in enumerate(hotkeys):
            if not result.payloads[neuron]:
                continue
            differences = []
            for kept in (kept for kept in self._kept if kept.window in place):
                said = result.said(neuron, place[kept.window])
                differences += _differences(kept.answers.get(hotkey, []), said)
                kept.answers[hotkey] = said
            changes[hotkey] = float(np.mean(differences)) if differences else None
        self._renew(hotkeys, windows, result)
        return changes

    def _renew(self, hotkeys: Sequence[bytes], windows: Sequence[Window], result: BatchResult) -> None:
        """One new window for the oldest; at first as many as there shall be."""
        again = set(self.windows)
        new = [index for index, window in enumerate(windows) if window not in again]
        for index in new[: max(1, KEPT - len(self._kept))]:
            answers = {h: result.said(n, index) for n, h in enumerate(hotkeys) if result.payloads[n]}
            self._kept.append(_Kept(windows[index], answers))
        self._kept = self._kept[-KEPT:]


def _differences(before: list[bytes], now: list[bytes]) -> list[float]:
    """Total variations of the answers to the same cuts, as far as both were given."""
    count = min(len(before), len(now))
    if not count:
        return []
    a, b = (decode_distributions(b"".join(part[:count]), count) for part in (before, now))
    return [float(value) for value in np.abs(a - b).sum(axis=1) / 2]
