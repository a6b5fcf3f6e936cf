"""Clocks: pace and timeouts follow the monotonic one, timestamps the wall clock, and no wall clock can stop the chain."""

from __future__ import annotations

from ledger.votes import NIL, PREVOTE

from ..stage import Stage
from . import scenario

HOUR_MS = 3_600_000


@scenario(17, "clock back one hour, alone")
def clock_back_alone() -> None:
    """n = 1: the clock goes back an hour, or the node restarts after a warp of one hour: blocks keep their pace."""
    stage = Stage(1)
    stage.grow(3, 1_000)
    player = stage.players[0]
    player.skew_ms = -HOUR_MS
    assert stage.grow(5, 600) >= 400
    header = player.chain.header(5)
    assert header.timestamp_ms == player.chain.header(4).timestamp_ms + 1
    player.skew_ms = HOUR_MS  # warped
    stage.grow(7, 600)
    player.skew_ms = 0
    player.restart()  # and the offset was lost
    stage.grow(9, 700)
    assert player.chain.header(9).timestamp_ms == player.chain.header(8).timestamp_ms + 1


@scenario(18, "skewed clocks")
def skewed_clocks() -> None:
    """Clocks off by up to 450 ms: the pace is that of the interval, neither slower nor faster, and round 0 decides."""
    stage = Stage(skews_ms=(-450, 0, 0, 450))
    heights = 24
    spent_ms = stage.grow(heights, heights * 300)
    assert heights * 240 <= spent_ms <= heights * 290, f"{spent_ms / heights:.0f} ms a block"
    late = sum(round_ > 0 for round_ in stage.rounds.values())
    assert late <= heights // 10


@scenario(19, "all clocks step back")
def all_clocks_step_back() -> None:
    """All wall clocks go back ten minutes at once: time stands still, almost, but heights go on at their pace."""
    stage = Stage()
    stage.grow(3, 1_500)
    for player in stage.players:
        player.skew_ms = -10 * 60_000
    stage.grow(8, 5 * 300)
    times = [stage.players[0].chain.header(height).timestamp_ms for height in range(4, 9)]
    assert [after - before for before, after in zip(times, times[1:], strict=False)] == [1, 1, 1, 1]
    assert all(round_ == 0 for round_ in stage.rounds.values())


@scenario(43, "leader with a false clock")
def leader_with_false_clock() -> None:
    """A leader proposes a block of the far future: nil from all, for the first rounds widen the tolerance but little."""
    stage = Stage(skews_ms=(0, 60_000, 0, 0))
    stage.grow(1, 1_500)
    assert stage.rounds[1] == 1 and [stage.voted(index, PREVOTE, 0) for index in (0, 2, 3)] == [NIL, NIL, NIL]
    assert stage.players[0].chain.header(1).proposer_index == 2


@scenario(54, "clocks farther apart than the tolerance")
def clocks_too_far_apart() -> None:
    """One of four is silent and no two of the others' clocks agree: only a time that needs no clock is timely for all."""
    stage = Stage(puppets=(2,), skews_ms=(0, 4_000, 0, 8_000))
    stage.grow(3, 3 * 5_000, 0, 1, 3)
    assert all(round_ <= 3 for round_ in stage.rounds.values()), stage.rounds
