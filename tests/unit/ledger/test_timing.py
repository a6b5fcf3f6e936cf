"""The timeout formula reproduces its table, and grows linearly up to the cap."""

from __future__ import annotations

import pytest

from ledger.timing import Timing


@pytest.mark.parametrize(
    ("block_time_ms", "row"),
    [
        (250, (300, 150, 150, 200, 500, 5_000)),
        (1_000, (1_000, 500, 300, 500, 1_000, 10_000)),
        (6_000, (3_000, 1_500, 500, 1_000, 2_000, 30_000)),
        (1, (300, 150, 150, 200, 500, 5_000)),
        (600_000, (3_000, 1_500, 500, 1_000, 2_000, 30_000)),
    ],
)
def test_the_table(block_time_ms: int, row: tuple[int, ...]) -> None:
    timing = Timing.of(block_time_ms)
    found = (
        timing.propose_ms, timing.vote_ms, timing.delta_ms, timing.rebroadcast_ms, timing.drift_ms, timing.cap_ms,
    )
    assert found == row and timing.interval_ms == block_time_ms


def test_timeouts_grow_by_delta_up_to_the_cap() -> None:
    timing = Timing.of(1_000)
    assert [timing.propose(round_) for round_ in (0, 1, 2, 30, 10**6)] == [1_000, 1_300, 1_600, 10_000, 10_000]
    assert [timing.vote(round_) for round_ in (0, 1)] == [500, 800]
    assert [timing.tolerance(round_) for round_ in (0, 1, 10**6)] == [1_000, 1_300, 10_000]
