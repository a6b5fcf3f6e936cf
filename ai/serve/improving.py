"""A model that improves while it serves: trained in a thread at a small share of one core, changed between sessions.

Any model may have the two methods below beside the three of `Model`. A better version is taken at a moment without open
sessions: a session's receipt names one model hash, and its answers come from that model. The new card and hash then go on
chain by themselves (`announce`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, runtime_checkable

SLICE_SECONDS: Final = 0.05
SHARE: Final = 0.1  # of one core's time
IDLE_POLL_SECONDS: Final = 0.02

Report = Callable[[dict[str, Any]], None]


@runtime_checkable
class Improving(Protocol):
    """What such a model offers."""

    def improve(self, seconds: float) -> bool:
        """Train for about so long, in a thread; True when a better version is ready."""
        ...

    def adopt(self) -> bool:
        """Answer with the version that is ready from now on; False where there is none."""
        ...


async def keep_improving(model: Improving, sessions: Callable[[], int], report: Report, share: float = SHARE) -> None:
    """Until cancelled. `sessions` tells how many are open."""
    loop = asyncio.get_running_loop()
    while True:
        began = loop.time()
        ready = await asyncio.to_thread(model.improve, SLICE_SECONDS)
        if ready:
            while sessions():
                await asyncio.sleep(IDLE_POLL_SECONDS)
            if model.adopt():  # nothing is awaited between the last look and this
                report({"event": "improved", "bits": getattr(model, "bits", None)})
        await asyncio.sleep((loop.time() - began) * (1.0 - share) / share)
